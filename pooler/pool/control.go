package pool

import (
	"context"
	"fmt"
	"slices"
)

// Pause makes everybody wait: nothing is lent or opened until Resume, and the time of those who wait stands still.
// Connections that are lent stay lent; WaitIdle waits for them.
func (p *Pool[C]) Pause() {
	var e effects[C]
	p.mu.Lock()
	p.mu.paused = true
	p.leaveLocked(&e)
	p.mu.Unlock()
	p.perform(&e)
}

// Resume ends Pause. Waiters get the whole checkout timeout again, and idle connections are checked before they are
// lent: a pause is when servers are restarted.
func (p *Pool[C]) Resume() {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if p.mu.paused {
		p.mu.paused = false
		p.mu.trouble.clear()
		p.suspectLocked(now)
		p.setDeadlinesLocked(func(*Waiter[C]) Instant { return now }, &e)
		p.dispatchLocked(now, &e)
		p.lookAgainLocked(&e)
	}
	p.mu.Unlock()
	p.perform(&e)
}

// Lends reports whether any connection is lent.
func (p *Pool[C]) Lends() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.leased > 0
}

// WaitIdle returns when no connection is lent, or with ctx's cause. Without Pause the next one may be lent at once.
func (p *Pool[C]) WaitIdle(ctx context.Context) error {
	p.mu.Lock()
	if p.mu.leased == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.mu.quiet == nil {
		p.mu.quiet = make(chan struct{})
	}
	quiet := p.mu.quiet
	p.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the connections of pool %s: %w", p.name, context.Cause(ctx))
	}
}

// WaitRetired returns when every connection that Reconnect or Kill has retired is closed, or with ctx's cause. While the pool
// is paused it waits for those that are being opened, too.
func (p *Pool[C]) WaitRetired(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for epoch := p.mu.epoch; p.retiredLocked(epoch); {
		if p.mu.ended == nil {
			p.mu.ended = make(chan struct{})
		}
		ended := p.mu.ended
		p.mu.Unlock()
		var err error
		select {
		case <-ended:
		case <-ctx.Done():
			err = fmt.Errorf("wait for the old connections of pool %s: %w", p.name, context.Cause(ctx))
		}
		p.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// retiredLocked reports whether connections from before epoch are left.
func (p *Pool[C]) retiredLocked(epoch uint64) bool {
	return p.mu.paused && p.mu.opening > 0 || slices.ContainsFunc(p.mu.all, func(l *Lease[C]) bool { return l.epoch < epoch })
}

// Resize changes Min and Max. What is over Max is closed when nobody uses it.
func (p *Pool[C]) Resize(minimum, maximum int) {
	p.mu.Lock()
	s := p.mu.set
	p.mu.Unlock()
	s.Min, s.Max = minimum, maximum
	p.Reconfigure(s)
}

// Reconfigure changes the settings. The checkout timeout applies to those who wait already, from their arrival; a
// new lifetime applies to connections opened from now on.
func (p *Pool[C]) Reconfigure(s Settings) {
	s = s.normal()
	var e effects[C]
	now := p.now()
	store := p.newStore(s.Max)
	p.mu.Lock()
	if s.Max != p.mu.set.Max {
		p.mu.store = store
	}
	retimed := s.CheckoutTimeout != p.mu.set.CheckoutTimeout
	p.mu.set = s
	for p.mu.idle.len > 0 && p.usableLocked()+p.mu.opening > s.Max {
		p.closeLocked(p.mu.idle.back, ReasonResized, now, &e)
	}
	if retimed {
		p.setDeadlinesLocked(func(w *Waiter[C]) Instant { return w.since }, &e)
	}
	p.dispatchLocked(now, &e)
	p.lookAgainLocked(&e)
	p.mu.Unlock()
	p.perform(&e)
}

// Settings returns the settings in force, defaults filled in.
func (p *Pool[C]) Settings() Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.set
}

// Reconnect retires every connection: the idle ones are closed now, the others when they are released, and those
// being opened when they arrive. Earlier failures to open are forgotten.
func (p *Pool[C]) Reconnect() { p.retire(ReasonRetired, false) }

// Kill retires every connection and interrupts those who hold one.
func (p *Pool[C]) Kill() { p.retire(ReasonInterrupted, true) }

func (p *Pool[C]) retire(reason Reason, interrupt bool) {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	p.mu.epoch++
	p.mu.trouble.clear()
	p.closeUnusedLocked(reason, now, &e)
	if interrupt {
		p.interruptLocked(reason, &e)
	}
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
}

// Suspect says that connections may have died: idle ones are checked before they are lent again, lent ones when they
// are released.
func (p *Pool[C]) Suspect() {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	p.suspectLocked(now)
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
}

// Close fails all who wait, closes what nobody holds, and waits until every connection has come back and is closed
// and every task is over. When ctx ends first, the holders are interrupted and an error says how many connections
// are still lent; what they give back later is closed still. Close may be called again.
func (p *Pool[C]) Close(ctx context.Context) error {
	p.Drain()
	select {
	case <-p.mu.drained:
	case <-ctx.Done():
		var e effects[C]
		p.mu.Lock()
		p.interruptLocked(ReasonPoolClosed, &e)
		leased, tasks := p.mu.leased, p.mu.tasks
		p.mu.Unlock()
		p.perform(&e)
		return fmt.Errorf("close pool %s: %d connections are lent and %d tasks go on: %w",
			p.name, leased, tasks, context.Cause(ctx))
	}
	return nil
}

// Drain begins to close the pool as Close does, without waiting for the end.
func (p *Pool[C]) Drain() {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if !p.mu.closed {
		p.mu.closed = true
		p.leaveLocked(&e)
		p.closeUnusedLocked(ReasonPoolClosed, now, &e)
		if p.mu.waiters.len > 0 {
			err := p.closedError()
			for p.mu.waiters.len > 0 {
				p.refuseOneLocked(err, &e)
			}
		}
		p.drainedLocked()
	}
	p.mu.Unlock()
	p.cancel(ErrClosed)
	p.perform(&e)
}

// Drained is closed when the pool is closed and nothing of it is left.
func (p *Pool[C]) Drained() <-chan struct{} { return p.mu.drained }

// drainedLocked reports the end of a closed pool.
func (p *Pool[C]) drainedLocked() {
	if !p.mu.closed || p.mu.tasks > 0 || len(p.mu.all) > 0 {
		return
	}
	select {
	case <-p.mu.drained:
	default:
		close(p.mu.drained)
	}
}

func (p *Pool[C]) closeUnusedLocked(reason Reason, now Instant, e *effects[C]) {
	for p.mu.idle.len > 0 {
		p.closeLocked(p.mu.idle.back, reason, now, e)
	}
	for p.mu.doubtful.len > 0 {
		p.closeLocked(p.mu.doubtful.front, reason, now, e)
	}
}

func (p *Pool[C]) interruptLocked(reason Reason, e *effects[C]) {
	if p.hooks.Interrupt == nil {
		return
	}
	for _, l := range p.mu.all {
		if l.state == Leased {
			l.doom = reason
			e.interrupts = append(e.interrupts, l.conn)
		}
	}
}

func (p *Pool[C]) setDeadlinesLocked(from func(*Waiter[C]) Instant, e *effects[C]) {
	d := p.mu.set.CheckoutTimeout
	for w := p.mu.waiters.front; w != nil; w = w.next {
		w.deadline = 0
		if d > 0 {
			w.deadline = from(w).add(d)
		}
	}
	p.lookAgainLocked(e)
}

// lookAgainLocked makes Run compute anew when it is needed.
func (p *Pool[C]) lookAgainLocked(e *effects[C]) {
	p.mu.wakeAt = p.now()
	e.wake = true
}
