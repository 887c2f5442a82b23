package loop

import (
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// waiter is a checkout that has to wait.
type waiter struct {
	c     *Client
	acct  *session.Account
	shard topology.ShardID
	place cluster.Waiter[*Backend]

	mu     sync.Mutex
	gone   bool // the session does not wait any more
	queued bool
	busy   bool   // enqueue is under way
	join   func() // enqueue
}

// enqueue puts the waiter into its pool's queue.
func (w *waiter) enqueue() {
	defer w.c.caughtAfter()
	w.mu.Lock()
	if w.gone {
		w.mu.Unlock()
		return
	}
	w.place.To = w
	w.queued, w.busy = true, true
	w.mu.Unlock()
	w.c.g.source.Checkout(w.acct, w.c.sess.ServerLogin(), w.shard, &w.place)
	w.mu.Lock()
	gone := w.gone
	w.busy = false
	w.mu.Unlock()
	if gone {
		w.place.Withdraw()
	}
}

// leave takes the waiter back.
func (w *waiter) leave() {
	w.mu.Lock()
	w.gone = true
	queued := w.queued
	w.mu.Unlock()
	if queued {
		w.place.Withdraw() // whatever it says, nobody listens to the answer
	}
}

// Granted implements cluster.Granter.
func (w *waiter) Granted(l *pool.Lease[*Backend]) {
	c := w.c
	b := l.Conn()
	c.mu.Lock()
	c.now = nanos()
	if c.wait != w || !c.waits || c.sess.Closed() {
		c.mu.Unlock()
		l.Release()
		return
	}
	if !b.adopt(c, l) {
		c.mu.Unlock()
		l.Discard(pool.ReasonGone)
		w.enqueue()
		return
	}
	c.waits = false
	c.granted(b.Conn)
	c.unlock(nil, false)
}

// granted is guard for a checkout that waited.
func (c *Client) granted(conn *backend.Conn) {
	defer c.caught()
	c.sess.Granted(conn)
}

// CheckoutFailed implements cluster.Granter.
func (w *waiter) CheckoutFailed(e *pgwire.Error) {
	w.c.step(func() {
		if w.c.wait == w && w.c.waits {
			w.c.wait, w.c.waits = nil, false
			w.c.sess.CheckoutFailed(e)
		}
	})
}

// waiter returns a waiter for the client's checkout: that of the one before, if everybody has done with it.
func (c *Client) waiter(a *session.Account, shard topology.ShardID) *waiter {
	if w := c.wait; w != nil {
		c.wait = nil
		w.mu.Lock()
		free := !w.busy && !w.gone
		w.queued = false
		w.mu.Unlock()
		if free {
			w.acct, w.shard = a, shard
			return w
		}
	}
	w := &waiter{c: c, acct: a, shard: shard}
	w.join = w.enqueue
	return w
}
