package pool

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// caller is a client of tests with goroutines.
type caller struct {
	w      Waiter[*fakeConn]
	answer chan any // *Lease or error
}

func newCaller() *caller {
	c := &caller{answer: make(chan any, 1)}
	c.w.To = c
	return c
}

func (c *caller) Granted(l *Lease[*fakeConn]) { c.answer <- l }
func (c *caller) CheckoutFailed(err error)    { c.answer <- err }

// got returns what is there now.
func (c *caller) got() (l *Lease[*fakeConn], err error) {
	select {
	case a := <-c.answer:
		l, _ = a.(*Lease[*fakeConn])
		err, _ = a.(error)
	default:
	}
	return l, err
}

func TestCheckoutTimeoutIsExact(t *testing.T) {
	b := newBench(t, Settings{Max: 1, CheckoutTimeout: time.Second})
	holder := b.take()
	first := b.ask()
	b.pass(300 * time.Millisecond)
	second := b.ask()
	b.pass(699 * time.Millisecond)
	if first.answers != 0 {
		t.Fatal("failed too early")
	}
	b.pass(time.Millisecond)
	if !errors.Is(first.err, ErrCheckoutTimeout) || second.answers != 0 {
		t.Fatalf("got %v and %d answers", first.err, second.answers)
	}
	b.pass(300 * time.Millisecond)
	if !errors.Is(second.err, ErrCheckoutTimeout) {
		t.Errorf("got %v", second.err)
	}
	if s := b.p.Stats(); s.Timeouts != 2 || s.Refusals != 2 {
		t.Errorf("got %+v", s.Counters)
	}
	b.end(holder)
}

func TestReconfigureRetimesThoseWhoWait(t *testing.T) {
	b := newBench(t, Settings{Max: 1, CheckoutTimeout: time.Minute})
	holder := b.take()
	c := b.ask()
	b.pass(time.Second)
	s := b.p.Settings()
	s.CheckoutTimeout = 3 * time.Second
	b.p.Reconfigure(s)
	b.pass(2 * time.Second)
	if !errors.Is(c.err, ErrCheckoutTimeout) {
		t.Errorf("got %v, want a timeout 3 s after arrival", c.err)
	}
	b.end(holder)
}

func TestMinIsKept(t *testing.T) {
	b := newBench(t, Settings{Min: 2, Max: 4, IdleTimeout: time.Minute})
	b.p.Tick()
	b.settle()
	b.want(Stats{Idle: 2})
	clients := []*client{b.take(), b.take(), b.take(), b.take()}
	for _, c := range clients {
		c.lease.Release()
	}
	b.pass(59 * time.Second)
	b.want(Stats{Idle: 4})
	b.pass(time.Minute)
	b.want(Stats{Idle: 2})
	if b.opens != 4 {
		t.Errorf("got %d opens, want 4: Min is not closed to be opened again", b.opens)
	}
	b.p.Expire(b.p.mu.idle.front, "fin")
	b.settle()
	b.want(Stats{Idle: 2})
	b.end()
}

func TestIdleTimeoutTakesTheLeastRecentlyUsed(t *testing.T) {
	b := newBench(t, Settings{Max: 2, IdleTimeout: 10 * time.Second})
	x, y := b.take(), b.take()
	x.lease.Release()
	b.pass(6 * time.Second)
	y.lease.Release()
	b.pass(6 * time.Second)
	if b.conns[0].closed != ReasonIdle || b.conns[1].closed != "" {
		t.Errorf("got %+v and %+v", b.conns[0], b.conns[1])
	}
	b.end()
}

func TestLifetime(t *testing.T) {
	b := newBench(t, Settings{Max: 2, Min: 1, Lifetime: time.Minute})
	x, y := b.take(), b.take()
	y.lease.Release()
	b.pass(time.Minute)
	if b.conns[1].closed != ReasonLifetime || b.conns[0].closed != "" {
		t.Errorf("got %+v and %+v", b.conns[0], b.conns[1])
	}
	x.lease.Release()
	b.settle()
	if b.conns[0].closed != ReasonLifetime {
		t.Errorf("released connection: got reason %q", b.conns[0].closed)
	}
	b.want(Stats{Idle: 1}) // the one for Min
	b.end()
}

func TestLifetimeJitterSpreads(t *testing.T) {
	b := newBench(t, Settings{Max: 2, Lifetime: time.Minute, LifetimeJitter: 10 * time.Second})
	b.p.rand = func() float64 { return 0 }
	early := b.take()
	b.p.rand = func() float64 { return 0.75 }
	late := b.take()
	if got := early.lease.expires.sub(b.p.now()); got != 50*time.Second {
		t.Errorf("got %v, want 50s", got)
	}
	if got := late.lease.expires.sub(b.p.now()); got != 65*time.Second {
		t.Errorf("got %v, want 65s", got)
	}
	b.end(early, late)
}

func TestHealthChecksFindTheSick(t *testing.T) {
	b := newBench(t, Settings{Min: 3, Max: 3, HealthInterval: 10 * time.Second})
	b.p.Tick()
	b.settle()
	b.conns[1].sick = true
	b.pass(10 * time.Second)
	if b.conns[1].closed != ReasonUnhealthy {
		t.Errorf("got %+v", b.conns[1])
	}
	b.want(Stats{Idle: 3})
	if s := b.p.Stats(); s.CheckFailures != 1 || s.Checks < 3 {
		t.Errorf("got %+v", s.Counters)
	}
	checks := b.p.Stats().Checks
	c := b.take() // a used connection is a good one
	b.pass(9 * time.Second)
	c.lease.Release()
	b.pass(time.Second)
	if got := b.p.Stats().Checks - checks; got != 2 {
		t.Errorf("got %d checks, want 2: of those not used", got)
	}
	b.end()
}

func TestHealthChecksSpareHalfOfTheIdle(t *testing.T) {
	b := newBench(t, Settings{Min: 4, Max: 4, HealthInterval: 10 * time.Second})
	b.p.Tick()
	b.settle()
	b.clock = b.next()
	b.p.Tick()
	b.want(Stats{Idle: 2, Checking: 2})
	b.settle()
	b.want(Stats{Idle: 4})
	if s := b.p.Stats(); s.Checks != 4 {
		t.Errorf("got %d checks, want 4", s.Checks)
	}
	b.end()
}

func TestOneSickConnectionCastsDoubtOnTheOthers(t *testing.T) {
	b := newBench(t, Settings{Max: 3, HealthInterval: 10 * time.Second})
	x, y, z := b.take(), b.take(), b.take()
	x.lease.Release()
	b.pass(5 * time.Second)
	y.lease.Release()
	z.lease.Release()
	for _, c := range b.conns {
		c.sick = true
	}
	b.pass(5 * time.Second) // only the first is due
	for i, c := range b.conns {
		if c.closed != ReasonUnhealthy {
			t.Errorf("connection %d: got reason %q", i, c.closed)
		}
	}
	b.end()
}

// A server restart is noticed by the first who finds its connection dead, and nobody else gets a dead one.
func TestDeadConnectionsAreNotLent(t *testing.T) {
	b := newBench(t, Settings{Max: 5})
	clients := []*client{b.take(), b.take(), b.take(), b.take(), b.take()}
	busy := clients[4]
	for _, c := range clients[:4] {
		c.lease.Release()
	}
	for _, c := range b.conns {
		c.dead = true
	}
	b.pass(time.Second)
	c := b.ask()
	busy.lease.Release() // not known to be good in this generation
	b.settle()
	if c.lease == nil || c.lease.Conn().dead {
		t.Fatalf("got %+v", c)
	}
	for i, fc := range b.conns[:5] {
		if fc.closed == "" {
			t.Errorf("connection %d is still open", i)
		}
	}
	b.end(c)
}

func TestSuspectChecksBeforeLending(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	x, y := b.take(), b.take()
	x.lease.Release()
	b.p.Suspect()
	b.want(Stats{Leased: 1, Checking: 1})
	y.lease.Release()
	b.want(Stats{Checking: 2})
	c := b.ask()
	if c.answers != 0 {
		t.Fatal("a doubtful connection was lent")
	}
	b.settle()
	if c.lease == nil || b.opens != 2 {
		t.Errorf("got %+v after %d dials", c, b.opens)
	}
	b.end(c)
}

func TestConnectionsAreCheckedAfterAPause(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	b.take().lease.Release()
	b.p.Pause()
	b.conns[0].sick = true
	b.p.Resume()
	c := b.ask()
	b.settle()
	if c.lease == nil || c.lease.Conn().id != 1 {
		t.Errorf("got %+v, want a new connection", c)
	}
	b.end(c)
}

func TestRunKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Settings: Settings{Min: 1, Max: 2, CheckoutTimeout: time.Second, IdleTimeout: time.Minute}},
			Hooks[*fakeConn]{
				Open: func(ctx context.Context) (*fakeConn, error) {
					time.Sleep(10 * time.Millisecond)
					return &fakeConn{}, ctx.Err()
				},
				Close: func(*fakeConn, Reason) {},
			})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		synctest.Wait()
		if s := p.Stats(); s.Opening != 1 {
			t.Errorf("Min: got %d opening, want 1", s.Opening)
		}
		x, y, z := newCaller(), newCaller(), newCaller()
		p.Checkout(&x.w)
		p.Checkout(&y.w)
		p.Checkout(&z.w)
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		lx, errX := x.got()
		ly, errY := y.got()
		if lx == nil || ly == nil {
			t.Fatalf("got %v and %v", errX, errY)
		}
		time.Sleep(990*time.Millisecond - 1)
		synctest.Wait()
		if _, err := z.got(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if _, err := z.got(); !errors.Is(err, ErrCheckoutTimeout) {
			t.Errorf("got %v", err)
		}
		lx.Release()
		ly.Release()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := p.Stats(); s.Idle != 1 {
			t.Errorf("got %d idle, want Min", s.Idle)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseCancelsOpensAndChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		p := New(Options{Settings: Settings{Max: 2, HealthTimeout: time.Hour, ConnectTimeout: time.Hour}},
			Hooks[*fakeConn]{
				Open: func(ctx context.Context) (*fakeConn, error) {
					if slow.Load() {
						<-ctx.Done()
						return nil, context.Cause(ctx)
					}
					return &fakeConn{}, nil
				},
				Close: func(*fakeConn, Reason) {},
				Check: func(ctx context.Context, _ *fakeConn) error { <-ctx.Done(); return context.Cause(ctx) },
			})
		x := newCaller()
		p.Checkout(&x.w)
		synctest.Wait()
		l, _ := x.got()
		l.Release()
		slow.Store(true)
		p.Suspect()
		p.Checkout(&x.w)
		synctest.Wait()
		if s := p.Stats(); s.Checking != 1 || s.Opening != 1 {
			t.Fatalf("got %+v", s)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := x.got(); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTimeoutsOfHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hang atomic.Bool
		hang.Store(true)
		closed := make(chan Reason, 1)
		p := New(Options{Settings: Settings{Max: 1, HealthTimeout: time.Second, ConnectTimeout: 2 * time.Second}},
			Hooks[*fakeConn]{
				Open: func(ctx context.Context) (*fakeConn, error) {
					if hang.Load() {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return &fakeConn{}, nil
				},
				Close: func(_ *fakeConn, r Reason) { closed <- r },
				Check: func(ctx context.Context, _ *fakeConn) error { <-ctx.Done(); return ctx.Err() },
			})
		begun := time.Now()
		x := newCaller()
		p.Checkout(&x.w)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := x.got(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: got %v after %v", err, time.Since(begun))
		}
		hang.Store(false)
		time.Sleep(time.Second)
		p.Checkout(&x.w)
		synctest.Wait()
		l, _ := x.got()
		l.Release()
		p.Suspect()
		time.Sleep(time.Second)
		synctest.Wait()
		if r := <-closed; r != ReasonUnhealthy {
			t.Errorf("check: got close reason %q", r)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
