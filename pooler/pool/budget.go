package pool

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Budget bounds the connections of several pools together, which must have one clock: those being opened and being closed count.
//
// A pool that wants more than is free queues, once, and is served one connection at a time: first come first served, those that have
// less than their fair share (the limit divided by the pools that want something) before the others. Room is made for it:
//
//   - by idle connections, the one first that was used least recently. One that has just come is left to its pool for a while.
//   - by released ones, although somebody waits for them in their own pool, see share.yields.
//
// What bounds the wait of a pool is thus the number of pools in front of it, not that of the clients who wait there.
//
// Locks: Budget.mu is taken under Pool.mu, and nothing under it. What a change asks of other pools is done by settle, under no lock at all.
type Budget struct {
	pressed atomic.Bool  // somebody queues, or more is open than may be: releases look closer
	quantum atomic.Int64 // see pace

	scan []*share // of the one who settles

	mu struct {
		sync.Mutex
		limit    int
		used     int        // connections that are open, being opened or being closed
		closing  int        // of used: being closed
		active   int        // shares that have something or queue
		holders  []*share   // those of used connections; share.index is its place
		queue    shareQueue // who wants more than there is, in order of arrival
		opens    time.Duration
		settling bool
		again    bool // something changed meanwhile
	}
}

// How long a connection stays with its pool, at least, while others queue.
const (
	// minQuantum is for a pool with more than its share, and for one whose clients came later than the others'. It is longer where it takes
	// long to open connections: changing hands should not be what most of the time goes into.
	minQuantum = 20 * time.Millisecond
	maxQuantum = 250 * time.Millisecond
	// sliceQuanta is for those whose turn it would be still, in quanta.
	sliceQuanta = 5
	// graceQuanta is the part of a quantum for which a connection may be idle in it.
	graceQuanta = 4
)

// NewBudget makes a budget of so many connections; below 1 = no limit.
func NewBudget(limit int) *Budget {
	b := &Budget{}
	b.quantum.Store(int64(minQuantum))
	b.mu.limit = normalLimit(limit)
	return b
}

func normalLimit(limit int) int {
	if limit < 1 {
		return math.MaxInt32
	}
	return limit
}

// SetLimit changes the limit. What is over it is closed when nobody uses it.
func (b *Budget) SetLimit(limit int) {
	b.mu.Lock()
	b.mu.limit = normalLimit(limit)
	b.pressLocked()
	holders := slices.Clone(b.mu.holders)
	b.mu.Unlock()
	b.settle()
	for _, s := range holders { // who had all that there was did not queue
		s.of.grow()
	}
}

// BudgetStats is a snapshot of a budget.
type BudgetStats struct {
	Limit  int // 0 = none
	Used   int // connections open, being opened and being closed
	Queued int // pools that want more than is free
}

// Stats returns a snapshot.
func (b *Budget) Stats() BudgetStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BudgetStats{Limit: b.mu.limit, Used: b.mu.used, Queued: b.mu.queue.len}
	if s.Limit == math.MaxInt32 {
		s.Limit = 0
	}
	return s
}

// pace follows how long opens take.
func (b *Budget) pace(took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.opens += (took - b.mu.opens) / 8
	b.quantum.Store(int64(min(max(2*b.mu.opens, minQuantum), maxQuantum)))
}

// pressLocked keeps pressed right.
func (b *Budget) pressLocked() {
	if on := b.mu.queue.len > 0 || b.mu.used-b.mu.closing > b.mu.limit; on != b.pressed.Load() {
		b.pressed.Store(on)
	}
}

// lackLocked is how many connections ought to be closed.
func (b *Budget) lackLocked() int { return b.mu.queue.len + b.mu.used - b.mu.closing - b.mu.limit }

// fairLocked is the share of one that wants something.
func (b *Budget) fairLocked() int { return max(b.mu.limit/max(b.mu.active, 1), 1) }

// nextLocked is whose turn it is; nil = nobody's.
func (b *Budget) nextLocked() *share {
	fair := b.fairLocked()
	for s := b.mu.queue.front; s != nil; s = s.next {
		if s.has() < fair {
			return s
		}
	}
	return b.mu.queue.front
}

// claimantLocked is the first in the queue with less than its fair share for whom nothing is free or being closed yet; nil = nobody.
func (b *Budget) claimantLocked() *share {
	fair, coming := b.fairLocked(), b.mu.limit-b.mu.used+b.mu.closing
	for s := b.mu.queue.front; s != nil; s = s.next {
		if s.has() >= fair {
			continue
		}
		if coming--; coming < 0 {
			return s
		}
	}
	return nil
}

// settle does what a change of the budget asks of its pools: it gives what is free to those whose turn it is, and has idle connections closed
// that others want. One goroutine does so at a time; the others leave it to that.
func (b *Budget) settle() {
	b.mu.Lock()
	if b.mu.settling {
		b.mu.again = true
		b.mu.Unlock()
		return
	}
	b.mu.settling = true
	for went := true; went || b.mu.again; {
		b.mu.again, went = false, false
		var next *share
		if b.mu.used < b.mu.limit {
			next = b.nextLocked()
		}
		if next == nil && b.lackLocked() > 0 {
			b.scan = append(b.scan, b.mu.holders...)
		}
		b.mu.Unlock()
		if next != nil {
			next.of.grow() // it takes what is free, or leaves the queue
			went = true
		} else if len(b.scan) > 0 {
			went = b.evict()
		}
		b.mu.Lock()
	}
	b.mu.settling = false
	b.mu.Unlock()
}

// evict has the least recently used of the idle connections closed. False means that there is none.
func (b *Budget) evict() bool {
	var victim *share
	var oldest Instant
	for _, s := range b.scan {
		if since := s.of.spare(); since != 0 && (victim == nil || since < oldest) {
			victim, oldest = s, since
		}
	}
	clear(b.scan)
	b.scan = b.scan[:0]
	if victim == nil {
		return false
	}
	victim.of.yield()
	return true
}

// member is a pool to its budget. Its methods are called under no lock.
type member interface {
	// grow opens what the pool wants and may.
	grow()
	// spare returns since when the connection is idle that can be closed; 0 = there is none.
	spare() Instant
	// yield closes that connection, should it still be idle and wanted by others.
	yield()
}

// share is a pool's part of a budget. Its pool calls its methods under Pool.mu; those that return settle want Budget.settle called afterwards.
type share struct {
	b  *Budget
	of member

	// The rest is guarded by Budget.mu, queued by either that or Pool.mu: it changes under both.
	used       int // as in Budget
	closing    int
	index      int // in Budget.mu.holders
	queued     bool
	prev, next *share
	since      Instant // when the first came of those who wait
}

// has counts the connections that serve the pool, or will.
func (s *share) has() int { return s.used - s.closing }

// pressed reports whether others may want what is released. It is all that a budget costs as long as nobody queues.
func (s *share) pressed() bool { return s != nil && s.b.pressed.Load() }

// changeLocked makes every change of the counts.
func (s *share) changeLocked(used, closing int) {
	b := s.b
	had, was := s.used, s.active()
	s.used += used
	s.closing += closing
	b.mu.used += used
	b.mu.closing += closing
	switch {
	case had == 0 && s.used > 0:
		s.index = len(b.mu.holders)
		b.mu.holders = append(b.mu.holders, s)
	case had > 0 && s.used == 0:
		last := len(b.mu.holders) - 1
		b.mu.holders[s.index] = b.mu.holders[last]
		b.mu.holders[s.index].index = s.index
		b.mu.holders[last] = nil
		b.mu.holders = b.mu.holders[:last]
	}
	s.activeLocked(was)
}

func (s *share) active() bool { return s.queued || s.has() > 0 }

func (s *share) activeLocked(was bool) {
	switch is := s.active(); {
	case is && !was:
		s.b.mu.active++
	case was && !is:
		s.b.mu.active--
	}
	s.b.pressLocked()
}

func (s *share) queueLocked(in bool) {
	if s.queued == in {
		return
	}
	was := s.active()
	s.queued = in
	if in {
		s.b.mu.queue.push(s)
	} else {
		s.b.mu.queue.remove(s)
	}
	s.activeLocked(was)
}

// ask asks for so many connections and returns how many may be opened. Where that is fewer and somebody waits, since then, the pool queues.
func (s *share) ask(want int, since Instant) (granted int, settle bool) {
	if want <= 0 && !s.queued {
		return 0, false
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	was := s.queued
	s.since = since
	want = min(want, b.mu.limit-s.has())
	if free := b.mu.limit - b.mu.used; want > 0 && free > 0 {
		switch others := b.mu.queue.len > 1 || b.mu.queue.len == 1 && !s.queued; {
		case !others:
			granted = min(want, free)
		case s.queued && b.nextLocked() == s:
			granted = 1
		}
		s.changeLocked(granted, 0)
	}
	if granted > 0 {
		s.queueLocked(false) // to the end, if there is more to want
	}
	s.queueLocked(want > granted && since != 0)
	return granted, b.mu.queue.len > 0 && (granted > 0 || s.queued != was) || was && !s.queued
}

// leave takes the pool out of the queue.
func (s *share) leave() (settle bool) {
	if !s.queued {
		return false
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.queueLocked(false)
	return s.b.mu.queue.len > 0
}

// close says that a connection is being closed.
func (s *share) close() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.changeLocked(0, 1)
}

// closed gives the place of a closed connection back.
func (s *share) closed() (settle bool) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.changeLocked(-1, -1)
	return s.b.mu.queue.len > 0
}

// failed gives the place of a connection back that could not be opened.
func (s *share) failed() (settle bool) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.changeLocked(-1, 0)
	return s.b.mu.queue.len > 0
}

// lacks reports whether an idle connection should be closed.
func (s *share) lacks() bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.lackLocked() > 0
}

// yields reports whether a released connection that was there for so long is closed in favour of another pool, although others wait for it in
// its own, the first since then: when a pool that has less than its share gets none otherwise, and this one has more than its share, or its
// clients came later, or it had its slice of time.
func (s *share) yields(held time.Duration, since Instant) bool {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.used-b.mu.closing > b.mu.limit {
		return true
	}
	quantum := time.Duration(b.quantum.Load())
	if held < quantum {
		return false
	}
	c := b.claimantLocked()
	return c != nil && c != s && (s.has() > b.fairLocked() || since > c.since || held >= sliceQuanta*quantum)
}

// shareQueue is a doubly linked list through share.prev and next.
type shareQueue struct {
	front, back *share
	len         int
}

func (q *shareQueue) push(s *share) {
	s.prev, s.next = q.back, nil
	if q.back != nil {
		q.back.next = s
	} else {
		q.front = s
	}
	q.back = s
	q.len++
}

func (q *shareQueue) remove(s *share) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		q.front = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		q.back = s.prev
	}
	s.prev, s.next = nil, nil
	q.len--
}
