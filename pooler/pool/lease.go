package pool

import (
	"time"

	"github.com/jackc/puddle/v2"
)

// State is where a connection is in its life.
type State uint8

// The states, with their exits.
const (
	Idle     State = iota + 1 // can be lent: Leased, Doubtful, Checking, Closing
	Leased                    // lent to a holder: Leased (handed to a waiter), Idle, Doubtful, Closing
	Doubtful                  // must be checked before it is lent: Checking, Closing
	Checking                  // a check is in flight: Idle, Doubtful, Closing
	Closing                   // the end
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Idle:
		return "idle"
	case Leased:
		return "leased"
	case Doubtful:
		return "doubtful"
	case Checking:
		return "checking"
	case Closing:
		return "closing"
	}
	return "new"
}

var legal = [...][Closing + 1]bool{
	0:        {Idle: true, Closing: true},
	Idle:     {Leased: true, Doubtful: true, Checking: true, Closing: true},
	Leased:   {Leased: true, Idle: true, Doubtful: true, Closing: true},
	Doubtful: {Checking: true, Closing: true},
	Checking: {Idle: true, Doubtful: true, Closing: true},
	Closing:  {},
}

// Lease is one connection of a pool. Its holder, from the grant to Release or Discard, is the only one to use it.
type Lease[C any] struct {
	conn C
	pool *Pool[C]
	res  *puddle.Resource[*Lease[C]]

	opened  Instant
	expires Instant // 0 = never
	epoch   uint64  // of the pool when its open began
	mark    uint64  // the holder's; read by the pool while it is idle

	// The rest is guarded by pool.mu.
	state      State
	prev, next *Lease[C] // in the list of its state
	index      int       // in pool.mu.all
	gen        uint64    // generation in which it was verified
	since      Instant   // of the state
	idleSince  Instant   // when it was last released
	verified   Instant   // when it was last known to be good; read by the holder too
	uses       uint64
	doom       Reason // close it with this reason as soon as nobody uses it; empty = don't
}

// Conn returns the connection.
func (l *Lease[C]) Conn() C { return l.conn }

// Pool returns the pool that the connection belongs to.
func (l *Lease[C]) Pool() *Pool[C] { return l.pool }

// Mark notes what the connection carries, for those who would rather have one that carries the same. Its holder calls it before it gives the
// connection back; the mark stays until the next.
func (l *Lease[C]) Mark(mark uint64) { l.mark = mark }

// Opened returns when the connection was opened.
func (l *Lease[C]) Opened() time.Time { return l.opened.Time() }

// Release is Pool.Release.
func (l *Lease[C]) Release() { l.pool.Release(l) }

// ReleaseAt is Pool.ReleaseAt.
func (l *Lease[C]) ReleaseAt(now Instant) { l.pool.ReleaseAt(l, now) }

// Discard is Pool.Discard.
func (l *Lease[C]) Discard(reason Reason) { l.pool.Discard(l, reason) }

// setStateLocked makes every move of a connection, keeps the lists and the counts, and panics on an illegal one.
// To Idle and Doubtful a connection goes by pushIdleLocked and doubtLocked.
func (p *Pool[C]) setStateLocked(l *Lease[C], to State, now Instant) {
	from := l.state
	if !legal[from][to] {
		panic("pool: a connection goes from " + from.String() + " to " + to.String())
	}
	switch from {
	case Idle:
		p.mu.idle.remove(l)
	case Leased:
		p.mu.leased--
	case Doubtful:
		p.mu.doubtful.remove(l)
	case Checking:
		p.mu.checking--
	case Closing:
	}
	switch to {
	case Leased:
		p.mu.leased++
	case Checking:
		p.mu.checking++
	case Closing:
		p.mu.closing++
	case Idle, Doubtful: // the caller puts it into the list
	}
	l.state, l.since = to, now
	if p.mu.leased == 0 && p.mu.quiet != nil {
		close(p.mu.quiet)
		p.mu.quiet = nil
	}
}

func (p *Pool[C]) addLocked(l *Lease[C]) {
	l.index = len(p.mu.all)
	p.mu.all = append(p.mu.all, l)
}

func (p *Pool[C]) removeLocked(l *Lease[C]) {
	last := len(p.mu.all) - 1
	p.mu.all[l.index] = p.mu.all[last]
	p.mu.all[l.index].index = l.index
	p.mu.all[last] = nil
	p.mu.all = p.mu.all[:last]
	p.mu.closing--
}

// usableLocked counts the connections that serve somebody, or will.
func (p *Pool[C]) usableLocked() int { return len(p.mu.all) - p.mu.closing }

// leaseList is a doubly linked list through Lease.prev and next.
type leaseList[C any] struct {
	front, back *Lease[C]
	len         int
}

func (q *leaseList[C]) pushFront(l *Lease[C]) {
	l.prev, l.next = nil, q.front
	if q.front != nil {
		q.front.prev = l
	} else {
		q.back = l
	}
	q.front = l
	q.len++
}

func (q *leaseList[C]) pushBack(l *Lease[C]) {
	l.prev, l.next = q.back, nil
	if q.back != nil {
		q.back.next = l
	} else {
		q.front = l
	}
	q.back = l
	q.len++
}

func (q *leaseList[C]) remove(l *Lease[C]) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		q.front = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		q.back = l.prev
	}
	l.prev, l.next = nil, nil
	q.len--
}

// fitDepth bounds the look for a connection with a mark.
const fitDepth = 16

// fit returns the most recently used connection with the mark. Where none of the first few has it, it is the last of those: their marks are
// more likely to be asked for again than its own, and behind them connections may still become old unused. The list is not empty.
func (q *leaseList[C]) fit(mark uint64) *Lease[C] {
	l := q.front
	for range fitDepth - 1 {
		if l.mark == mark || l.next == nil {
			break
		}
		l = l.next
	}
	return l
}
