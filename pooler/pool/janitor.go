package pool

import (
	"context"
	"time"
)

// Run fills the pool up to Min and does what depends on time, until ctx is done or the pool is closed. It does not
// close the pool. At most one Run may be active.
func (p *Pool[C]) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		next := p.tick()
		if next != 0 {
			timer.Reset(next.sub(p.now()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.ctx.Done():
			return nil
		case <-timer.C:
		case <-p.wake:
			timer.Stop()
		}
	}
}

// Tick does what is due now: it fails waiters whose time is over, closes connections that are too old or idle for
// too long, starts health checks, and opens connections for Min and after a back-off. It returns when it wants to be
// called next, zero for not before something else happens; it may be called at any time.
func (p *Pool[C]) Tick() time.Time { return p.tick().Time() }

func (p *Pool[C]) tick() Instant {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return 0
	}
	p.expireWaitersLocked(now, &e)
	p.expireIdleLocked(now, &e)
	p.checkDueLocked(now, &e)
	p.dispatchLocked(now, &e)
	p.mu.wakeAt = p.nextLocked(now)
	next := p.mu.wakeAt
	e.wake = false
	p.mu.Unlock()
	p.perform(&e)
	return next
}

// expireWaitersLocked relies on deadlines being in the order of the queue: all were made with the same timeout.
func (p *Pool[C]) expireWaitersLocked(now Instant, e *effects[C]) {
	if p.mu.paused {
		return
	}
	var err error // one for all of this moment
	for w := p.mu.waiters.front; w != nil && w.deadline != 0 && now >= w.deadline; w = p.mu.waiters.front {
		if err == nil {
			err = p.timeoutErrorLocked()
		}
		p.mu.count.Timeouts++
		p.refuseOneLocked(err, e)
	}
}

func (p *Pool[C]) expireIdleLocked(now Instant, e *effects[C]) {
	spare := p.usableLocked() - p.mu.set.Min
	for l := p.mu.idle.back; l != nil; {
		prev := l.prev // less recently used first
		switch due := p.idleTimeoutLocked(l); {
		case l.expires != 0 && now >= l.expires:
			p.closeLocked(l, ReasonLifetime, now, e)
			spare--
		case spare > 0 && due != 0 && now >= due:
			p.closeLocked(l, ReasonIdle, now, e)
			spare--
		}
		l = prev
	}
}

// checkDueLocked starts the health checks that are due, sparing half of the idle connections for those who come.
func (p *Pool[C]) checkDueLocked(now Instant, e *effects[C]) {
	if p.mu.closed || p.mu.paused {
		return
	}
	room := min(maxChecks-p.mu.checking, (p.mu.idle.len+p.mu.checking+1)/2-p.mu.checking)
	for l := p.mu.idle.back; l != nil && room > 0; {
		prev := l.prev
		if due := p.healthDueLocked(l); due != 0 && now >= due {
			p.checkLocked(l, now, e)
			room--
		}
		l = prev
	}
}

func (p *Pool[C]) healthDueLocked(l *Lease[C]) Instant {
	if p.mu.set.HealthInterval <= 0 || (p.hooks.Check == nil && p.hooks.Alive == nil) {
		return 0
	}
	return l.verified.add(p.mu.set.HealthInterval)
}

func (p *Pool[C]) idleTimeoutLocked(l *Lease[C]) Instant {
	if p.mu.set.IdleTimeout <= 0 {
		return 0
	}
	return l.idleSince.add(p.mu.set.IdleTimeout)
}

// dueLocked returns when something is to be done about an idle connection; zero = never.
func (p *Pool[C]) dueLocked(l *Lease[C]) Instant {
	due := earlier(l.expires, p.healthDueLocked(l))
	if p.usableLocked() > p.mu.set.Min {
		due = earlier(due, p.idleTimeoutLocked(l))
	}
	return due
}

// nextLocked returns when Tick has something to do. What is due already waits for a task to end, not for time.
func (p *Pool[C]) nextLocked(now Instant) Instant {
	var next Instant
	at := func(t Instant) {
		if t > now {
			next = earlier(next, t)
		}
	}
	if w := p.mu.waiters.front; w != nil && !p.mu.paused {
		at(w.deadline)
	}
	if p.mu.waiters.len > 0 || p.usableLocked()+p.mu.opening < p.mu.set.Min {
		at(p.mu.trouble.notBefore)
	}
	spare := p.usableLocked() > p.mu.set.Min
	for l := p.mu.idle.front; l != nil; l = l.next {
		at(l.expires)
		at(p.healthDueLocked(l))
		if spare {
			at(p.idleTimeoutLocked(l))
		}
	}
	if p.share.pressed() {
		at(p.spareDueLocked())
	}
	return next
}

// earlier returns the earlier of two times, of which zero is never.
func earlier(a, b Instant) Instant {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
