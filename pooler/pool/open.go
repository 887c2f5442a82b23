package pool

import (
	"context"
	"time"

	"github.com/jackc/puddle/v2"
)

// trouble is what the pool remembers of failed opens. The zero value is no trouble.
type trouble struct {
	attempt   uint64     // number of the present attempt; opens begun in an earlier one don't count again
	tries     int        // failed attempts of the present round, see Settings.ConnectAttempts
	rounds    int        // failed rounds in a row
	notBefore Instant    // of the next open
	last      *OpenError // the last failure since an open succeeded
	down      error      // what waiters are refused with until notBefore; nil = they wait
}

// waits reports whether nothing is to be opened yet.
func (t *trouble) waits(now Instant) bool { return t.notBefore != 0 && now < t.notBefore }

func (t *trouble) any() bool { return t.last != nil }

// clear forgets everything: an open succeeded, or the endpoint is another one now.
func (t *trouble) clear() { *t = trouble{attempt: t.attempt + 1} }

func (p *Pool[C]) openFailedLocked(now Instant, attempt uint64, f Failure, err error) {
	p.mu.count.OpenFailures++
	t, s := &p.mu.trouble, &p.mu.set
	if attempt != t.attempt {
		return
	}
	t.attempt++
	t.last = &OpenError{Pool: p.name, Failure: f, Err: err}
	t.down = nil
	switch f {
	case Rejected:
		t.down = t.last
		t.tries = 0
		t.notBefore = now.add(s.RejectedDelay)
	case Transient:
		t.tries = 0
		t.rounds++
		t.notBefore = now.add(p.backoffLocked(t.rounds))
	case Unreachable:
		if t.tries++; t.tries < s.ConnectAttempts {
			t.notBefore = now.add(s.ConnectDelay)
			return
		}
		t.down = t.last
		t.tries = 0
		t.rounds++
		t.notBefore = now.add(p.backoffLocked(t.rounds))
	}
}

// backoffLocked is the pause after so many failed rounds, within a quarter of its nominal length.
func (p *Pool[C]) backoffLocked(rounds int) time.Duration {
	d := p.mu.set.ConnectBackoff
	for ; rounds > 1 && d < p.mu.set.MaxBackoff; rounds-- {
		d *= 2
	}
	d = min(d, p.mu.set.MaxBackoff)
	return time.Duration(float64(d) * (0.75 + p.rand()/2))
}

// construct is puddle's constructor. The epoch is taken before the open, which may use what Reconnect retires.
func (p *Pool[C]) construct(ctx context.Context) (*Lease[C], error) {
	p.mu.Lock()
	l := &Lease[C]{pool: p, epoch: p.mu.epoch}
	timeout := p.mu.set.ConnectTimeout
	p.mu.Unlock()

	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var err error
	l.conn, err = p.hooks.Open(ctx)
	return l, err
}

// openTask opens one connection. Concurrent tasks may take each other's connections out of puddle; they are alike.
func (p *Pool[C]) openTask(store *puddle.Pool[*Lease[C]], attempt uint64) {
	begun := p.now()
	var l *Lease[C]
	err := store.CreateResource(p.ctx)
	if err == nil {
		// Neither call waits: the place was reserved by counting the open in opening.
		if res, errTake := store.TryAcquire(p.ctx); errTake != nil {
			err = errTake
		} else {
			l = res.Value()
			l.res = res
		}
	}
	now := p.now()

	var f Failure
	switch {
	case err == nil:
		p.hooks.Observer.Opened(now.sub(begun))
		if p.share != nil {
			p.share.b.pace(now.sub(begun))
		}
	case p.ctx.Err() == nil:
		f = p.hooks.Classify(err)
		p.hooks.Observer.OpenFailed(now.sub(begun), f, err)
	}

	var e effects[C]
	p.mu.Lock()
	p.mu.opening--
	if err != nil {
		if f != 0 {
			p.openFailedLocked(now, attempt, f, err)
		}
		if p.share != nil {
			e.settle = p.share.failed()
		}
	} else {
		p.openedLocked(l, now, &e)
	}
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
	p.endTask()
}

func (p *Pool[C]) openedLocked(l *Lease[C], now Instant, e *effects[C]) {
	p.mu.count.Opens++
	l.opened, l.idleSince, l.verified = now, now, now
	if s := &p.mu.set; s.Lifetime > 0 {
		jitter := time.Duration((2*p.rand() - 1) * float64(s.LifetimeJitter))
		l.expires = now.add(max(s.Lifetime+jitter, 0))
	}
	p.addLocked(l)
	if l.epoch == p.mu.epoch {
		p.mu.trouble.clear()
	}
	if reason := p.doomLocked(l, now); reason != "" {
		p.closeLocked(l, reason, now, e)
		return
	}
	l.gen = p.mu.gen
	p.pushIdleLocked(l, true, now, e)
}

func (p *Pool[C]) closeTask(l *Lease[C], reason Reason) {
	l.res.Hijack()
	p.hooks.Close(l.conn, reason)
	p.hooks.Observer.Closed(reason)

	var e effects[C]
	now := p.now()
	p.mu.Lock()
	p.mu.count.closed(reason)
	p.removeLocked(l)
	if p.share != nil {
		e.settle = p.share.closed()
	}
	p.dispatchLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
	p.endTask()
}

// checkTask finds out whether l is good, as of generation gen.
func (p *Pool[C]) checkTask(l *Lease[C], gen uint64) {
	begun := p.now()
	err := p.check(l)
	now := p.now()
	if p.ctx.Err() == nil {
		p.hooks.Observer.Checked(now.sub(begun), err)
	}

	var e effects[C]
	p.mu.Lock()
	p.mu.count.Checks++
	if err == nil {
		l.verified, l.gen = now, gen
	}
	reason := p.doomLocked(l, now)
	if err != nil && reason == "" {
		p.mu.count.CheckFailures++
		reason = ReasonUnhealthy
		if gen == p.mu.gen { // the first bad news of this generation
			p.suspectLocked(now)
		}
	}
	switch {
	case reason != "":
		p.closeLocked(l, reason, now, &e)
	case l.gen != p.mu.gen:
		p.doubtLocked(l, now)
	default:
		p.pushIdleLocked(l, false, now, &e)
	}
	p.dispatchLocked(now, &e)
	p.checkDueLocked(now, &e)
	p.mu.Unlock()
	p.perform(&e)
	p.endTask()
}

func (p *Pool[C]) check(l *Lease[C]) error {
	if p.hooks.Alive != nil && !p.hooks.Alive(l.conn) {
		return errNotAlive
	}
	if p.hooks.Check == nil {
		return nil
	}
	p.mu.Lock()
	timeout := p.mu.set.HealthTimeout
	p.mu.Unlock()
	ctx := p.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return p.hooks.Check(ctx, l.conn)
}

// endTask is the last thing a background task does.
func (p *Pool[C]) endTask() {
	p.mu.Lock()
	p.mu.tasks--
	p.drainedLocked()
	if p.mu.ended != nil {
		close(p.mu.ended)
		p.mu.ended = nil
	}
	p.mu.Unlock()
}
