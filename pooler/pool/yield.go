package pool

import "time"

// grow implements member.
func (p *Pool[C]) grow() {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if !p.mu.closed {
		p.growLocked(now, &e)
	}
	p.mu.Unlock()
	p.perform(&e)
}

// spare implements member.
func (p *Pool[C]) spare() Instant {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	l := p.spareLocked(now, &e)
	var since Instant
	if l != nil {
		since = l.idleSince
	}
	p.mu.Unlock()
	p.perform(&e)
	return since
}

// yield implements member.
func (p *Pool[C]) yield() {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if l := p.spareLocked(now, &e); l != nil && p.share.lacks() {
		p.closeLocked(l, ReasonBudget, now, &e)
	}
	p.mu.Unlock()
	p.perform(&e)
}

// spareLocked returns the idle connection that other pools may have now. When it is too early for that, Tick looks again.
func (p *Pool[C]) spareLocked(now Instant, e *effects[C]) *Lease[C] {
	due := p.spareDueLocked()
	if due == 0 {
		return nil
	}
	if now < due {
		p.wakeByLocked(due, e)
		return nil
	}
	return p.mu.idle.back
}

// spareDueLocked returns from when on other pools may have the idle connection that was used least recently; 0 = there is none, or somebody
// waits who is about to get it.
func (p *Pool[C]) spareDueLocked() Instant {
	l := p.mu.idle.back
	if l == nil || p.mu.closed || p.mu.waiters.len > 0 && !p.mu.paused {
		return 0
	}
	quantum := time.Duration(p.share.b.quantum.Load())
	return earlier(l.opened.add(quantum), l.idleSince.add(quantum/graceQuanta))
}

// yieldIdleLocked closes idle connections that other pools want.
func (p *Pool[C]) yieldIdleLocked(now Instant, e *effects[C]) {
	if !p.share.pressed() {
		return
	}
	for l := p.spareLocked(now, e); l != nil && p.share.lacks(); l = p.spareLocked(now, e) {
		p.closeLocked(l, ReasonBudget, now, e)
	}
}

// releasePressedLocked is the end of Release while other pools want more than the budget has. It unlocks.
func (p *Pool[C]) releasePressedLocked(l *Lease[C], now Instant) {
	var e effects[C]
	if w := p.mu.waiters.front; w != nil && !p.mu.paused && p.share.yields(now.sub(l.opened), w.since) {
		p.closeLocked(l, ReasonBudget, now, &e)
	} else {
		p.pushIdleLocked(l, true, now, &e)
	}
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
}

// leaveLocked takes the pool out of the queue of its budget.
func (p *Pool[C]) leaveLocked(e *effects[C]) {
	if p.share != nil && p.share.leave() {
		e.settle = true
	}
}
