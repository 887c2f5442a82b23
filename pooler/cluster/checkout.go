package cluster

import (
	"errors"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Granter hears the outcome of a checkout, under the rules of pool.Granter.
type Granter[C any] interface {
	// Granted hands over the connection; its Release or Cluster.Discard gives it back.
	Granted(l *pool.Lease[C])
	// CheckoutFailed says what the client is to see. The cause is in the log.
	CheckoutFailed(err *pgwire.Error)
}

// Waiter is one place in the queue of one pool. It is meant to be embedded in its owner, so that a checkout allocates
// nothing; it can be used again once answered or withdrawn. It must not be copied.
type Waiter[C any] struct {
	To   Granter[C] // set by the owner, before Checkout
	Mark uint64     // likewise: see pool.Waiter

	w pool.Waiter[C]

	// What was asked, for another try; written by Checkout before it waits.
	c     *Cluster[C]
	shard topology.ShardID
	role  topology.Role
	login *Login
	first int // AnyShard: where the search began

	mu        sync.Mutex
	cur       *pool.Pool[C] // where w waits; nil = nowhere
	asked     uint64        // number of the checkout
	tries     int           // endpoints tried
	withdrawn bool          // the owner does not wait any more
}

// answer is a Waiter as its pool sees it.
type answer[C any] Waiter[C]

// Checkout lends a connection to the shard in the given role to w.To, at once or when w's turn in the pool of the
// endpoint and login has come. AnyShard asks for whichever shard is readiest. Only the owner of w calls it, and not
// while w waits.
func (c *Cluster[C]) Checkout(id topology.ShardID, role topology.Role, l *Login, w *Waiter[C]) {
	w.w.To, w.w.Mark = (*answer[C])(w), w.Mark
	w.c, w.shard, w.role, w.login = c, id, role, l
	w.mu.Lock()
	w.asked++
	w.tries, w.withdrawn = 0, false
	w.mu.Unlock()
	if id == AnyShard {
		var lease *pool.Lease[C]
		if lease, w.first = c.tryAny(role, l, w.Mark, c.poolNow()); lease != nil {
			w.To.Granted(lease)
			return
		}
	}
	w.wait(nil)
}

// Hold begins a wait for something else, before Checkout is called: whether w is withdrawn meanwhile is known by Withdrawn.
func (w *Waiter[C]) Hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	w.cur, w.withdrawn = nil, false
}

// Withdrawn reports whether the owner does not wait any more.
func (w *Waiter[C]) Withdrawn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.withdrawn
}

// TryCheckout lends an idle connection, rather one with the given mark, or returns nil when there is none or others wait for one. It is now by the
// clock of the pools.
func (c *Cluster[C]) TryCheckout(id topology.ShardID, role topology.Role, l *Login, mark uint64, now pool.Instant) *pool.Lease[C] {
	if id == AnyShard {
		lease, _ := c.tryAny(role, l, mark, now)
		return lease
	}
	if s := c.top.Load().at(id); s != nil {
		return s.pick(role).try(l, mark, now)
	}
	return nil
}

// tryAny looks for an idle connection on every shard, beginning at a different one each time: at the index returned.
func (c *Cluster[C]) tryAny(role topology.Role, l *Login, mark uint64, now pool.Instant) (*pool.Lease[C], int) {
	top := c.top.Load()
	if len(top.list) == 0 {
		return nil, 0
	}
	first := 0
	if len(top.list) > 1 {
		first = int((top.turn.Add(1) - 1) % int64(len(top.list)))
	}
	for i := range top.list {
		e := top.list[(first+i)%len(top.list)].pick(role)
		if e == nil || e.State() == Down {
			continue
		}
		if lease := e.try(l, mark, now); lease != nil {
			return lease, first
		}
	}
	return nil, first
}

// poolNow is the time by the clock of the pools.
func (c *Cluster[C]) poolNow() pool.Instant { return pool.NowBy(c.clock) }

// try lends an idle connection of the endpoint, which may be nil.
func (e *endpoint[C]) try(l *Login, mark uint64, now pool.Instant) *pool.Lease[C] {
	if e == nil {
		return nil
	}
	if en := e.lookup(l); en != nil {
		return en.pool.TryCheckoutAt(mark, now)
	}
	return nil
}

// maxTries bounds the attempts of one checkout at one shard: pools may be closed under it by reloads.
const maxTries = 5

// wait joins the queue of the next endpoint to try, or fails with cause when there is none.
func (w *Waiter[C]) wait(cause error) {
	for {
		w.mu.Lock()
		asked := w.asked
		var en *entry[C]
		if !w.withdrawn { // else Withdraw returned false and promised an answer
			if e := w.next(); e != nil {
				en = e.lookup(w.login)
			}
		}
		if en == nil {
			w.cur = nil
			w.mu.Unlock()
			w.fail(cause)
			return
		}
		w.cur = en.pool
		w.mu.Unlock()
		if !en.pool.CheckoutUnlessClosed(&w.w) {
			continue
		}
		// The same for a Withdraw that came just before.
		w.mu.Lock()
		late := w.withdrawn && w.asked == asked && w.cur == en.pool && en.pool.Withdraw(&w.w)
		if late {
			w.cur = nil
		}
		w.mu.Unlock()
		if late {
			w.fail(cause)
		}
		return
	}
}

// next chooses the endpoint to try, nil if there is none left.
func (w *Waiter[C]) next() *endpoint[C] {
	top := w.c.top.Load()
	defer func() { w.tries++ }()
	if w.shard != AnyShard {
		if s := top.at(w.shard); s != nil && w.tries < maxTries {
			return s.pick(w.role)
		}
		return nil
	}
	// Those that are not known to be down come first, then one of the others: it may have recovered.
	n := len(top.list)
	for ; w.tries < 2*n; w.tries++ {
		e := top.list[(w.first+w.tries)%n].pick(w.role)
		if e != nil && (e.State() == Down) == (w.tries >= n) {
			if w.tries >= n {
				w.tries = 2 * n
			}
			return e
		}
	}
	return nil
}

func (w *Waiter[C]) fail(cause error) {
	if cause == nil {
		cause = pool.ErrClosed
	}
	w.To.CheckoutFailed(w.c.refusal(w.shard, cause))
}

// Withdraw ends the wait: the owner went away. False means that the waiter was answered, or will be without further
// waiting.
func (w *Waiter[C]) Withdraw() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cur != nil && w.cur.Withdraw(&w.w) {
		w.cur = nil
		return true
	}
	w.withdrawn = true
	return false
}

// Granted implements pool.Granter.
func (a *answer[C]) Granted(l *pool.Lease[C]) {
	w := (*Waiter[C])(a)
	w.mu.Lock()
	w.cur = nil
	w.mu.Unlock()
	w.To.Granted(l)
}

// CheckoutFailed implements pool.Granter.
func (a *answer[C]) CheckoutFailed(err error) {
	w := (*Waiter[C])(a)
	if _, unreachable := errors.AsType[*pool.OpenError](err); errors.Is(err, pool.ErrClosed) ||
		(unreachable && w.shard == AnyShard && !errors.Is(err, pool.ErrCheckoutTimeout)) {
		w.wait(err)
		return
	}
	w.mu.Lock()
	w.cur = nil
	w.mu.Unlock()
	w.fail(err)
}

// Discard closes a lent connection. Cause is what broke it, nil if nothing did: when it says that the server went
// away, the endpoint's other connections are checked before they are used again, and the endpoint is probed.
func (c *Cluster[C]) Discard(l *pool.Lease[C], reason pool.Reason, cause error) {
	l.Discard(reason)
	if cause != nil && ServerGone(cause) {
		c.Doubt(l)
	}
}

// Doubt says that the server behind a connection may be gone: see Discard. It is for those who saw it in other ways.
func (c *Cluster[C]) Doubt(l *pool.Lease[C]) {
	en, ok := l.Pool().Owner().(*entry[C])
	if !ok {
		return
	}
	for other := range en.e.entries() {
		other.pool.Suspect()
	}
	en.e.wake()
}
