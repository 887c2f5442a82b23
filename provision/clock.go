package provision

import (
	"context"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// clock watches over the time of day, by which tenants and entries of the audit are forgotten for ever: a machine may begin with a wrong one, and it may be set.
type clock struct {
	now     func() time.Time
	elapsed func() time.Duration

	mu     sync.Mutex
	at     time.Time     // the time of day at the last look
	mark   time.Duration // what had elapsed by then
	steady time.Duration // what had elapsed at the first look, or when the clock was set last
}

const (
	// forgetAfter is how long the time of day has to have gone on without a step before anything is forgotten by it. By then a clock that was wrong when the machine
	// began has been set.
	forgetAfter = time.Hour
	// stepped is by how much it has to differ from the time that elapsed to have been set. Less is drift, or an answer that came late.
	stepped = time.Minute
)

func newClock(o *Options) *clock {
	c := &clock{now: o.Now, elapsed: o.Elapsed}
	c.at, c.mark = c.now().Round(0), c.elapsed()
	c.steady = c.mark
	return c
}

// look returns by how much the clock was set since the last look, and what it said then and says now.
func (c *clock) look() (step time.Duration, was, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mark, at := c.elapsed(), c.now().Round(0)
	was = c.at.Add(mark - c.mark)
	if step = at.Sub(was); step.Abs() < stepped {
		step = 0
	} else {
		c.steady = mark
	}
	c.at, c.mark = at, mark
	return step, was, at
}

// settled reports whether the time of day may be believed by those who forget after so long.
func (c *clock) settled(after time.Duration) bool {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mark-c.steady >= min(after, forgetAfter)
}

// clockSet gives tenants the whole of their grace period again that a step of the clock would have ended, and says that there was one.
func (w *warden) clockSet(ctx context.Context) {
	step, was, now := w.clock.look()
	if step == 0 {
		return
	}
	w.m.o.Log.WarnContext(ctx, "the clock of this host was set: for some time nothing is forgotten", "by", step, "time", now)
	w.mu.Lock()
	var ended []*tenant.Record
	for _, r := range w.mu.records {
		if r.Phase == tenant.Removed && was.Before(r.Forget) && !now.Before(r.Forget) {
			ended = append(ended, r)
		}
	}
	w.mu.Unlock()
	for _, r := range ended {
		err := w.m.amend(ctx, r, "the clock was set: the grace period begins anew", func(n *tenant.Record) bool {
			if n.Phase != tenant.Removed || n.Operation != nil || !n.Forget.Equal(r.Forget) {
				return false
			}
			n.Forget = now.UTC().Add(w.m.o.Grace)
			return true
		})
		if err != nil && ctx.Err() == nil {
			w.m.o.Log.WarnContext(ctx, "a grace period ends early, for the clock was set", "tenant", r.ID, "error", err)
		}
	}
}
