package pooler

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// gate holds the checkouts of an instance that is not up: because it is asleep, and whoever comes has it woken, or because something is done to it that
// ends soon.
type gate struct {
	in   *instance
	shut atomic.Bool

	mu      sync.Mutex // a leaf
	waiting []*held    // in the order in which they came
	timer   *time.Timer
	refuses *pgwire.Error // nobody is let in any more
	asleep  bool
	waking  bool
	failed  time.Time // when a wake failed last
	fails   int       // wakes that failed since one did not
}

// held is a checkout at a gate, or somebody who waits for one to open.
type held struct {
	w        *cluster.Waiter[*loop.Backend]
	u        *unit // of the instance, or of its replica
	login    *cluster.Login
	shard    topology.ShardID
	deadline time.Time
	opened   chan *pgwire.Error // instead of w: capacity 1
}

const (
	// mostHeld bounds who waits at one gate.
	mostHeld = 10_000
	// wakeTimeout is how long an instance may take to wake: one that crashed may have much to recover.
	wakeTimeout = 10 * time.Minute
	// wakePause is how long a failure to wake counts for those who come next: twice as long after each, up to mostPause.
	wakePause = time.Second
	mostPause = 32 * time.Second
	// mirrorLag is how long it may take to hear that an instance is up that was woken.
	mirrorLag = 2 * time.Second
)

// holds reports whether checkouts of a record's instance wait, and whether it has to be woken for them.
func holds(r *tenant.Record) (shut, asleep bool) {
	switch {
	case r == nil:
		return false, false
	case r.Dormant():
		return true, true
	case r.Phase == tenant.Ready && r.Operation != nil:
		switch r.Operation.Verb {
		case provision.VerbSleep:
			return true, true
		case provision.VerbRestart, provision.VerbRestore, provision.VerbStop, provision.VerbSuspend, provision.VerbRemove:
			return true, false
		}
	}
	return false, false
}

// turn opens or shuts the gate as a record says.
func (g *gate) turn(r *tenant.Record) {
	shut, asleep := holds(r)
	g.mu.Lock()
	g.asleep, g.refuses = asleep, nil
	if refusalOf(r) != tenant.Welcome || down(r) {
		list := g.openLocked()
		g.refuses = errNoMore
		g.shut.Store(true)
		g.mu.Unlock()
		g.let(list, errNoMore)
		return
	}
	if shut {
		g.shut.Store(true)
		if asleep && len(g.waiting) > 0 {
			g.wakeLocked()
		}
		g.mu.Unlock()
		return
	}
	if r != nil && r.Phase == tenant.Ready {
		g.failed, g.fails = time.Time{}, 0
	}
	list := g.openLocked()
	g.mu.Unlock()
	g.let(list, nil)
}

// openLocked opens the gate; who waited is to be let in.
func (g *gate) openLocked() []*held {
	g.shut.Store(false)
	list := g.waiting
	g.waiting = nil
	if g.timer != nil {
		g.timer.Stop()
	}
	return list
}

// let has those who waited go on, or fail.
func (g *gate) let(list []*held, e *pgwire.Error) {
	for _, h := range list {
		switch {
		case h.opened != nil:
			h.opened <- e
		case e != nil:
			h.w.To.CheckoutFailed(e)
		default:
			h.u.cl.Checkout(h.shard, h.u.role(), h.login, h.w)
		}
	}
}

// hold takes a checkout if the gate is shut; it is answered later, or at once with an error.
func (g *gate) hold(h *held) bool {
	if !g.shut.Load() {
		return false
	}
	if h.w != nil {
		h.w.Hold()
	}
	conf := g.in.now.Load().conf
	h.deadline = time.Now().Add(conf.Timeouts.Checkout)
	g.mu.Lock()
	if !g.shut.Load() {
		g.mu.Unlock()
		return false
	}
	var e *pgwire.Error
	g.tidyLocked()
	switch {
	case g.refuses != nil:
		e = g.refuses
	case len(g.waiting) >= mostHeld:
		e = errWakes(g.name()).WithDetail("Too many clients wait for it.")
	case g.asleep && g.in.f.orders == nil, g.asleep && !g.waking && time.Since(g.failed) < min(wakePause<<min(max(g.fails-1, 0), 8), mostPause):
		e = errNotWoken(g.name())
	default:
		g.waiting = append(g.waiting, h)
		if len(g.waiting) == 1 {
			g.armLocked()
		}
		if g.asleep {
			g.wakeLocked()
		}
	}
	g.mu.Unlock()
	if e != nil {
		g.let([]*held{h}, e)
	}
	return true
}

// wait returns when the gate is open, or with why it is not.
func (g *gate) wait() *pgwire.Error {
	h := &held{opened: make(chan *pgwire.Error, 1)}
	if !g.hold(h) {
		return nil
	}
	return <-h.opened
}

func (g *gate) name() string {
	if r := g.in.now.Load().rec; r != nil {
		return r.Name
	}
	return ""
}

// held counts who waits for a unit of the instance's, by their logins.
func (g *gate) held(u *unit) counts[string] {
	n := make(counts[string])
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.waiting {
		if h.login != nil && h.u == u {
			user, _, _ := strings.Cut(h.login.Name, "@")
			n[user]++
		}
	}
	return n
}

// tidyLocked forgets who went away.
func (g *gate) tidyLocked() {
	if n := len(g.waiting); n < 64 || n&(n-1) != 0 { // now and then
		return
	}
	kept := g.waiting[:0]
	for _, h := range g.waiting {
		if h.w == nil || !h.w.Withdrawn() {
			kept = append(kept, h)
		}
	}
	clear(g.waiting[len(kept):])
	g.waiting = kept
}

// armLocked sets the timer to the deadline of the first who waits.
func (g *gate) armLocked() {
	if len(g.waiting) == 0 {
		return
	}
	d := time.Until(g.waiting[0].deadline)
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.expire)
	} else {
		g.timer.Reset(d)
	}
}

// expire fails those who waited for too long.
func (g *gate) expire() {
	now := time.Now()
	g.mu.Lock()
	n := 0
	for n < len(g.waiting) && !now.Before(g.waiting[n].deadline) {
		n++
	}
	late := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.armLocked()
	g.mu.Unlock()
	if n > 0 {
		g.let(late, errWakes(g.name()).WithDetail("It did not come up within checkout_timeout."))
	}
}

// wakeLocked has the instance woken, unless that is under way.
func (g *gate) wakeLocked() {
	if g.waking || g.in.f.orders == nil {
		return
	}
	g.waking = true
	g.in.f.waking.Add(1)
	if !g.in.f.background(g.wake) {
		g.waking = false
		g.in.f.waking.Add(-1)
	}
}

// wake orders that the instance be woken, and lets in who waits for that.
func (g *gate) wake(ctx context.Context) {
	f := g.in.f
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	begun := time.Now()
	err := g.order(ctx)
	name := g.name()
	if err == nil {
		g.awaitMirror(ctx)
		f.woken.Add(1)
		f.log().Info("tenant woken", "tenant", name, "took", time.Since(begun))
	} else {
		f.wakeFailed.Add(1)
		f.log().Error("tenant not woken", "tenant", name, "error", err)
	}
	f.waking.Add(-1)
	g.mu.Lock()
	g.waking = false
	var list []*held
	var e *pgwire.Error
	switch shut, _ := holds(g.in.now.Load().rec); {
	case err != nil && g.asleep:
		g.failed, g.fails = time.Now(), g.fails+1
		list, g.waiting = g.waiting, nil
		e = errNotWoken(name)
	case err == nil && shut && !g.asleep, g.refuses != nil: // something else is done to it by now
	case err == nil:
		list = g.openLocked() // also where the mirror lags
	default:
	}
	g.mu.Unlock()
	g.let(list, e)
}

// order orders the wake. Where something else is being done to the tenant, such as that it is put to sleep, it waits for the end of that.
func (g *gate) order(ctx context.Context) error {
	f := g.in.f
	for {
		r := f.dir.ByID(g.in.id)
		if r == nil {
			return tenant.ErrNotFound
		}
		if shut, asleep := holds(r); !shut || !asleep {
			return nil // somebody else did it
		}
		_, err := f.orders.Execute(ctx, provision.Order{Verb: provision.VerbWake, Tenant: r.Name, By: "pooler"}, nil)
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*provision.Error](err); !ok || e.Kind != provision.KindBusy {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitMirror waits until it was heard that the instance is up, for a time: it may be somewhere else now.
func (g *gate) awaitMirror(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, mirrorLag)
	defer cancel()
	for {
		if _, asleep := holds(g.in.now.Load().rec); !asleep {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func errWakes(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q is starting up", name).WithRoutine("tenant_waking").
		WithHint("Nothing of the statement has run: try again in a moment.")
}

var errNoMore = pgwire.Errorf(pgwire.CodeAdminShutdown, "the database is no longer served").WithRoutine("tenant_stopped")

func errNotWoken(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q can't be started", name).WithRoutine("tenant_not_woken").
		WithHint("An operator finds the reason in pgkennel's log.")
}
