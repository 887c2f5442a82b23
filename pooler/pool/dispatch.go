package pool

import (
	"time"

	"github.com/jackc/puddle/v2"
)

// maxChecks bounds the health checks in flight per pool.
const maxChecks = 8

// effects are what a change of state asks for and what must not happen under the lock.
type effects[C any] struct {
	grants     []grant[C]
	refusals   []refusal[C]
	closes     []closing[C]
	checks     []check[C]
	interrupts []C
	opens      int
	store      *puddle.Pool[*Lease[C]] // of the opens
	attempt    uint64                  // of the opens
	wake       bool
	settle     bool // the budget has to be told
}

type grant[C any] struct {
	w      *Waiter[C]
	l      *Lease[C]
	waited time.Duration
}

type refusal[C any] struct {
	w   *Waiter[C]
	err error
}

type closing[C any] struct {
	l      *Lease[C]
	reason Reason
}

type check[C any] struct {
	l   *Lease[C]
	gen uint64 // the generation that the check will have verified
}

// perform carries the effects out, without the lock. Tasks first: those who are answered may take long.
func (p *Pool[C]) perform(e *effects[C]) {
	if e.wake {
		p.rouse()
	}
	for _, c := range e.closes {
		p.spawn(func() { p.closeTask(c.l, c.reason) })
	}
	store, attempt := e.store, e.attempt
	for range e.opens {
		p.spawn(func() { p.openTask(store, attempt) })
	}
	for _, c := range e.checks {
		p.spawn(func() { p.checkTask(c.l, c.gen) })
	}
	if e.settle {
		p.share.b.settle()
	}
	for _, c := range e.interrupts {
		p.hooks.Interrupt(c)
	}
	for _, g := range e.grants {
		p.hooks.Observer.Waited(g.waited)
		g.w.To.Granted(g.l)
	}
	for _, r := range e.refusals {
		r.w.To.CheckoutFailed(r.err)
	}
}

// rouse has Run look again.
func (p *Pool[C]) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// dispatchLocked brings together who waits and what is there, after any change of either.
func (p *Pool[C]) dispatchLocked(now Instant, e *effects[C]) {
	if p.mu.closed {
		return
	}
	p.pairLocked(now, e)
	p.checkDoubtfulLocked(now, e)
	p.growLocked(now, e)
	p.refuseLocked(now, e)
	p.yieldIdleLocked(now, e)
}

func (p *Pool[C]) pairLocked(now Instant, e *effects[C]) {
	for !p.mu.paused && p.mu.waiters.len > 0 && p.mu.idle.len > 0 {
		w := p.mu.waiters.front
		l := p.mu.idle.fit(w.Mark)
		if p.staleLocked(l, now) {
			p.doubtLocked(l, now)
			continue
		}
		p.mu.waiters.remove(w)
		waited := now.sub(w.since)
		p.mu.count.waited(waited)
		p.lendLocked(l, now)
		e.grants = append(e.grants, grant[C]{w, l, waited})
	}
}

func (p *Pool[C]) checkDoubtfulLocked(now Instant, e *effects[C]) {
	for p.mu.doubtful.len > 0 && p.mu.checking < maxChecks {
		p.checkLocked(p.mu.doubtful.front, now, e)
	}
}

func (p *Pool[C]) checkLocked(l *Lease[C], now Instant, e *effects[C]) {
	p.setStateLocked(l, Checking, now)
	p.mu.tasks++
	e.checks = append(e.checks, check[C]{l, p.mu.gen})
}

// growLocked opens what is needed, as far as the budget allows.
func (p *Pool[C]) growLocked(now Instant, e *effects[C]) {
	need := p.needLocked(now, e)
	if p.share != nil {
		var since Instant
		if w := p.mu.waiters.front; w != nil {
			since = w.since
		}
		var settle bool
		need, settle = p.share.ask(need, since)
		e.settle = e.settle || settle
	}
	if need <= 0 {
		return
	}
	p.mu.opening += need
	p.mu.tasks += need
	e.opens += need
	e.store, e.attempt = p.mu.store, p.mu.trouble.attempt
}

// needLocked is how many connections waiters and Min need, as far as Max and earlier failures allow. Connections in doubt are not
// counted on: a dial may be quicker than the check of a dead one.
func (p *Pool[C]) needLocked(now Instant, e *effects[C]) int {
	if p.mu.paused {
		return 0
	}
	need := max(p.mu.waiters.len, p.mu.set.Min-p.usableLocked()) - p.mu.opening
	need = min(need, p.mu.set.Max-len(p.mu.all)-p.mu.opening)
	if need <= 0 {
		return 0
	}
	t := &p.mu.trouble
	if t.waits(now) {
		p.wakeByLocked(t.notBefore, e)
		return 0
	}
	if t.any() {
		need = 1 - p.mu.opening // one probe at a time until an open succeeds
	}
	return need
}

// refuseLocked fails every waiter when none can be served: nothing can be opened, and nothing is there.
func (p *Pool[C]) refuseLocked(now Instant, e *effects[C]) {
	t := &p.mu.trouble
	if t.down == nil || p.mu.paused || p.mu.opening > 0 || p.usableLocked() > 0 || !t.waits(now) {
		return
	}
	for p.mu.waiters.len > 0 {
		p.refuseOneLocked(t.down, e)
	}
}

// refuseOneLocked fails the first waiter.
func (p *Pool[C]) refuseOneLocked(err error, e *effects[C]) {
	w := p.mu.waiters.front
	p.mu.waiters.remove(w)
	p.mu.count.Refusals++
	e.refusals = append(e.refusals, refusal[C]{w, err})
}

// pushIdleLocked makes l lendable: first in line when it was just used, last when it was only checked.
func (p *Pool[C]) pushIdleLocked(l *Lease[C], front bool, now Instant, e *effects[C]) {
	p.setStateLocked(l, Idle, now)
	if front {
		p.mu.idle.pushFront(l)
	} else {
		p.mu.idle.pushBack(l)
	}
	p.wakeByLocked(p.dueLocked(l), e)
}

// doubtLocked keeps l from being lent before a check.
func (p *Pool[C]) doubtLocked(l *Lease[C], now Instant) {
	p.setStateLocked(l, Doubtful, now)
	p.mu.doubtful.pushBack(l)
}

// suspectLocked begins a new generation: whatever was verified before has to be again.
func (p *Pool[C]) suspectLocked(now Instant) {
	if p.hooks.Check == nil && p.hooks.Alive == nil {
		return
	}
	p.mu.gen++
	for p.mu.idle.len > 0 {
		p.doubtLocked(p.mu.idle.front, now)
	}
}

func (p *Pool[C]) closeLocked(l *Lease[C], reason Reason, now Instant, e *effects[C]) {
	p.setStateLocked(l, Closing, now)
	if p.share != nil {
		p.share.close()
	}
	p.mu.tasks++
	e.closes = append(e.closes, closing[C]{l, reason})
}

// wakeByLocked makes Run look at t at the latest; 0 is never.
func (p *Pool[C]) wakeByLocked(t Instant, e *effects[C]) {
	if p.sleepsBeyondLocked(t) {
		p.mu.wakeAt = t
		e.wake = true
	}
}

// sleepsBeyondLocked reports whether Run would look later than at t.
func (p *Pool[C]) sleepsBeyondLocked(t Instant) bool {
	return t != 0 && (p.mu.wakeAt == 0 || t < p.mu.wakeAt)
}
