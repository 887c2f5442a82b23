package pool

import (
	"maps"
	"time"
)

// Counters only grow while the pool lives.
type Counters struct {
	Checkouts     uint64 // connections lent
	Waits         uint64 // of them, to somebody who had to wait
	WaitTime      time.Duration
	Timeouts      uint64 // waiters whose time was over
	Refusals      uint64 // waiters that were failed, timeouts included
	Opens         uint64
	OpenFailures  uint64
	Checks        uint64
	CheckFailures uint64
	Closes        map[Reason]uint64
}

func (c *Counters) waited(d time.Duration) {
	c.Waits++
	c.WaitTime += d
}

func (c *Counters) closed(r Reason) {
	if c.Closes == nil {
		c.Closes = make(map[Reason]uint64)
	}
	c.Closes[r]++
}

// Stats is a snapshot of a pool.
type Stats struct {
	Name     string
	Min, Max int
	Paused   bool
	Closed   bool

	Idle     int // can be lent
	Leased   int
	Checking int // being checked, or waiting for it
	Opening  int
	Closing  int
	Waiting  int
	MaxWait  time.Duration // how long the first in the queue has waited

	Counters

	// Trouble is the last failure to open since an open succeeded; nil = none. It is for the log and the console.
	Trouble *OpenError
	// NextOpen is when opening is tried again, after Trouble.
	NextOpen time.Time
}

// Total is the number of connections that count towards Max.
func (s *Stats) Total() int { return s.Idle + s.Leased + s.Checking + s.Opening + s.Closing }

// Stats returns a snapshot of the pool.
func (p *Pool[C]) Stats() Stats {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{
		Name: p.name, Min: p.mu.set.Min, Max: p.mu.set.Max, Paused: p.mu.paused, Closed: p.mu.closed,
		Idle: p.mu.idle.len, Leased: p.mu.leased, Checking: p.mu.checking + p.mu.doubtful.len,
		Opening: p.mu.opening, Closing: p.mu.closing, Waiting: p.mu.waiters.len,
		Counters: p.mu.count, Trouble: p.mu.trouble.last,
	}
	s.Closes = maps.Clone(s.Closes)
	if s.Trouble != nil {
		s.NextOpen = p.mu.trouble.notBefore.Time()
	}
	if w := p.mu.waiters.front; w != nil {
		s.MaxWait = now.sub(w.since)
	}
	return s
}

// Info is a snapshot of one connection.
type Info[C any] struct {
	Conn   C // may be in use by its holder, or closed already
	State  State
	Opened time.Time
	Since  time.Time // of the state
	Uses   uint64    // how often it was lent
	Doomed bool      // it is closed when it is released
}

// Connections returns a snapshot of all connections, in no order.
func (p *Pool[C]) Connections() []Info[C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Info[C], 0, len(p.mu.all))
	for _, l := range p.mu.all {
		all = append(all, Info[C]{Conn: l.conn, State: l.state, Opened: l.opened.Time(), Since: l.since.Time(), Uses: l.uses, Doomed: l.doom != "" || l.epoch != p.mu.epoch})
	}
	return all
}
