package pool

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errDown      = errors.New("connection refused")
	errTransient = errors.New("too many connections")
	errRejected  = errors.New("wrong password")
	errSick      = errors.New("no answer")
)

// fakeConn is a connection of the tests.
type fakeConn struct {
	id          int
	dead        bool // Alive says no
	sick        bool // Check fails
	closed      Reason
	interrupted bool
}

// bench is a pool whose clock and background tasks the test drives, on one goroutine.
type bench struct {
	t     *testing.T
	p     *Pool[*fakeConn]
	clock time.Time
	tasks []func()
	conns []*fakeConn
	open  int // not closed
	opens int // calls of Open
	fail  error
	seen  []string // what the observer heard
}

func newBench(t *testing.T, s Settings) *bench {
	t.Helper()
	return newBudgeted(t, s, nil)
}

func newBudgeted(t *testing.T, s Settings, budget *Budget) *bench {
	t.Helper()
	b := &bench{t: t, clock: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	b.p = New(Options{
		Settings: s,
		Name:     "test",
		Budget:   budget,
		Now:      func() time.Time { return b.clock },
		Go:       func(f func()) { b.tasks = append(b.tasks, f) },
		Rand:     func() float64 { return 0.5 },
	}, Hooks[*fakeConn]{
		Open: func(ctx context.Context) (*fakeConn, error) {
			b.opens++
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if b.fail != nil {
				return nil, b.fail
			}
			c := &fakeConn{id: len(b.conns)}
			b.conns = append(b.conns, c)
			b.open++
			return c, nil
		},
		Close: func(c *fakeConn, r Reason) {
			if c.closed != "" {
				t.Errorf("connection %d closed twice: %s, %s", c.id, c.closed, r)
			}
			c.closed = r
			b.open--
		},
		Check: func(_ context.Context, c *fakeConn) error {
			if c.sick || c.dead {
				return errSick
			}
			return nil
		},
		Alive:     func(c *fakeConn) bool { return !c.dead },
		Interrupt: func(c *fakeConn) { c.interrupted = true },
		Classify: func(err error) Failure {
			switch {
			case errors.Is(err, errTransient):
				return Transient
			case errors.Is(err, errRejected):
				return Rejected
			}
			return Unreachable
		},
		Observer: b,
	})
	return b
}

func (b *bench) Opened(time.Duration) { b.seen = append(b.seen, "opened") }
func (b *bench) OpenFailed(_ time.Duration, f Failure, _ error) {
	b.seen = append(b.seen, "open failed: "+f.String())
}
func (b *bench) Closed(r Reason)        { b.seen = append(b.seen, "closed: "+string(r)) }
func (b *bench) Waited(d time.Duration) { b.seen = append(b.seen, fmt.Sprint("waited ", d)) }
func (b *bench) Checked(_ time.Duration, err error) {
	b.seen = append(b.seen, fmt.Sprint("checked ", err == nil))
}

// step runs the oldest background task.
func (b *bench) step() {
	f := b.tasks[0]
	b.tasks = b.tasks[1:]
	f()
}

// settle runs background tasks until there are none.
func (b *bench) settle() {
	for len(b.tasks) > 0 {
		b.step()
	}
}

// pass lets time pass, ticking when the pool wants it, and runs tasks at each stop.
func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	end := b.clock.Add(d)
	b.settle()
	for range 100_000 {
		next := b.next()
		if next.IsZero() || next.After(end) {
			b.clock = end
			return
		}
		if next.After(b.clock) {
			b.clock = next
		}
		b.p.Tick()
		b.settle()
	}
	b.t.Fatal("the pool wants to be ticked all the time")
}

// client is one who checks out.
type client struct {
	w       Waiter[*fakeConn]
	lease   *Lease[*fakeConn]
	err     error
	answers int
	order   *[]*client // answered ones append themselves
}

func (c *client) Granted(l *Lease[*fakeConn]) { c.lease, c.answers = l, c.answers+1; c.note() }
func (c *client) CheckoutFailed(err error)    { c.err, c.answers = err, c.answers+1; c.note() }
func (c *client) note() {
	if c.order != nil {
		*c.order = append(*c.order, c)
	}
}

func newClient() *client {
	c := &client{}
	c.w.To = c
	return c
}

// ask checks out for a new client.
func (b *bench) ask() *client {
	c := newClient()
	b.p.Checkout(&c.w)
	return c
}

// take checks out and expects a connection once the background tasks have run.
func (b *bench) take() *client {
	b.t.Helper()
	c := b.ask()
	b.settle()
	if c.lease == nil {
		b.t.Fatalf("checkout: got no connection, error %v", c.err)
	}
	return c
}

func (b *bench) want(s Stats) {
	b.t.Helper()
	got := b.p.Stats()
	if got.Idle != s.Idle || got.Leased != s.Leased || got.Checking != s.Checking || got.Opening != s.Opening ||
		got.Closing != s.Closing || got.Waiting != s.Waiting {
		b.t.Fatalf("got idle %d leased %d checking %d opening %d closing %d waiting %d, want %d %d %d %d %d %d",
			got.Idle, got.Leased, got.Checking, got.Opening, got.Closing, got.Waiting,
			s.Idle, s.Leased, s.Checking, s.Opening, s.Closing, s.Waiting)
	}
}

// end closes the pool and holds it to having closed every connection once.
func (b *bench) end(lent ...*client) {
	b.t.Helper()
	for _, c := range lent {
		c.lease.Release()
	}
	b.p.Drain()
	b.settle()
	if err := b.p.Close(b.t.Context()); err != nil {
		b.t.Error(err)
	}
	if b.open != 0 {
		b.t.Errorf("got %d connections open after Close, want 0", b.open)
	}
}

// next returns when the pool wants Tick to be called.
func (b *bench) next() time.Time {
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	return b.p.mu.wakeAt.Time()
}
