package pool

// TryCheckout lends an idle connection, or returns nil when there is none, when others wait, or when the pool is
// paused or closed; Checkout is the way to wait then.
func (p *Pool[C]) TryCheckout() *Lease[C] { return p.TryCheckoutAt(0, p.now()) }

// TryCheckoutAt is TryCheckout by who knows what time it is, by Now, for who would rather have a connection with the given mark: see Lease.Mark.
func (p *Pool[C]) TryCheckoutAt(mark uint64, now Instant) *Lease[C] {
	for {
		p.mu.Lock()
		l := p.mu.idle.front
		if l == nil || p.mu.waiters.len > 0 || p.mu.paused || p.mu.closed {
			p.mu.Unlock()
			return nil
		}
		if l.mark != mark {
			l = p.mu.idle.fit(mark)
		}
		stale := p.staleLocked(l, now)
		p.lendLocked(l, now)
		p.mu.Unlock()
		if !stale || p.hooks.Alive(l.conn) {
			return l
		}
		// What ended this connection has likely ended the others too.
		p.finish(l, ReasonGone, true)
	}
}

// Checkout lends a connection to w.To, at once or when w's turn has come. Only the owner of w calls it, and not while
// w waits.
func (p *Pool[C]) Checkout(w *Waiter[C]) {
	if !p.CheckoutUnlessClosed(w) {
		w.To.CheckoutFailed(p.closedError())
	}
}

// CheckoutUnlessClosed is Checkout, except that on a closed pool it returns false and w.To hears nothing: for those
// who know another pool to try.
func (p *Pool[C]) CheckoutUnlessClosed(w *Waiter[C]) bool {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if p.mu.idle.front != nil && p.mu.waiters.len == 0 {
		p.mu.Unlock()
		if l := p.TryCheckoutAt(w.Mark, p.now()); l != nil {
			w.To.Granted(l)
			return true
		}
		p.mu.Lock()
	}
	if w.waiting {
		p.mu.Unlock()
		panic("pool: checkout by a waiter that waits already")
	}
	if p.mu.closed {
		p.mu.Unlock()
		return false
	}
	w.pool = p
	w.since, w.deadline = now, 0
	if d := p.mu.set.CheckoutTimeout; d > 0 {
		w.deadline = now.add(d)
		if !p.mu.paused {
			p.wakeByLocked(w.deadline, &e)
		}
	}
	p.mu.waiters.push(w)
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
	return true
}

// Withdraw ends w's wait. False means that w was answered, or is about to be, or does not wait in this pool.
func (p *Pool[C]) Withdraw(w *Waiter[C]) bool {
	var e effects[C]
	p.mu.Lock()
	if w.pool != p || !w.waiting {
		p.mu.Unlock()
		return false
	}
	p.mu.waiters.remove(w)
	if p.share != nil && p.share.queued {
		p.growLocked(p.now(), &e) // it may want less now
	}
	p.mu.Unlock()
	p.perform(&e)
	return true
}

// Release gives a connection back that is in the state its next holder expects. It goes to the first waiter, else it
// becomes idle; it is closed when it is too old, retired or one too many.
func (p *Pool[C]) Release(l *Lease[C]) { p.ReleaseAt(l, p.now()) }

// ReleaseAt is Release by who knows what time it is, by Now.
func (p *Pool[C]) ReleaseAt(l *Lease[C], now Instant) {
	p.mu.Lock()
	if l.state != Leased {
		p.mu.Unlock()
		panic("pool: release of a connection that is " + l.state.String())
	}
	l.verified, l.idleSince = now, now
	reason := p.doomLocked(l, now)
	if reason != "" || l.gen != p.mu.gen {
		p.retireLocked(l, reason, now) // unlocks
		return
	}
	if p.share.pressed() {
		p.releasePressedLocked(l, now) // unlocks
		return
	}
	if w := p.mu.waiters.front; w != nil && !p.mu.paused {
		p.mu.waiters.remove(w)
		waited := max(now.sub(w.since), 0)
		p.mu.count.waited(waited)
		p.lendLocked(l, now)
		p.mu.Unlock()
		p.hooks.Observer.Waited(waited)
		w.To.Granted(l)
		return
	}
	p.setStateLocked(l, Idle, now)
	p.mu.idle.pushFront(l)
	due := p.dueLocked(l)
	wake := p.sleepsBeyondLocked(due)
	if wake {
		p.mu.wakeAt = due
	}
	p.mu.Unlock()
	if wake {
		p.rouse()
	}
}

// retireLocked is the end of Release for a connection that is not lent again, or not before a check. It unlocks.
func (p *Pool[C]) retireLocked(l *Lease[C], reason Reason, now Instant) {
	var e effects[C]
	if reason != "" {
		p.closeLocked(l, reason, now, &e)
	} else {
		p.doubtLocked(l, now)
		p.dispatchLocked(now, &e)
	}
	p.mu.Unlock()
	p.perform(&e)
}

// Discard closes a connection instead of giving it back, and opens another one where it is needed. A holder that
// lost its connection because the server went away calls Suspect too.
func (p *Pool[C]) Discard(l *Lease[C], reason Reason) { p.finish(l, reason, false) }

func (p *Pool[C]) finish(l *Lease[C], reason Reason, suspect bool) {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	if l.state != Leased {
		p.mu.Unlock()
		panic("pool: discard of a connection that is " + l.state.String())
	}
	p.closeLocked(l, reason, now, &e)
	if suspect {
		p.suspectLocked(now)
	}
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
}

// Expire closes a connection that was seen to be no good, as soon as nobody uses it: for those who watch idle
// connections. It may be called at any time, with any connection of the pool.
func (p *Pool[C]) Expire(l *Lease[C], reason Reason) {
	var e effects[C]
	now := p.now()
	p.mu.Lock()
	switch l.state {
	case Idle, Doubtful:
		p.closeLocked(l, reason, now, &e)
		p.dispatchLocked(now, &e)
	case Leased, Checking:
		l.doom = reason
	case Closing:
	}
	p.mu.Unlock()
	p.perform(&e)
}

// lendLocked makes the caller's waiter the holder of l.
func (p *Pool[C]) lendLocked(l *Lease[C], now Instant) {
	p.setStateLocked(l, Leased, now)
	l.uses++
	p.mu.count.Checkouts++
}

// staleLocked tells whether Hooks.Alive must be asked before l is lent.
func (p *Pool[C]) staleLocked(l *Lease[C], now Instant) bool {
	return p.hooks.Alive != nil && now.sub(l.verified) >= p.mu.set.AliveAfter
}

// doomLocked returns why l must not be lent again; empty = it may.
func (p *Pool[C]) doomLocked(l *Lease[C], now Instant) Reason {
	switch {
	case l.doom != "":
		return l.doom
	case p.mu.closed:
		return ReasonPoolClosed
	case l.epoch != p.mu.epoch:
		return ReasonRetired
	case l.expires != 0 && now >= l.expires:
		return ReasonLifetime
	case p.usableLocked()+p.mu.opening > p.mu.set.Max:
		return ReasonResized
	}
	return ""
}
