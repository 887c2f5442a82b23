package pool

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestCheckoutWaitsInOrder(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	holder := b.take()
	var order []*client
	clients := make([]*client, 5)
	for i := range clients {
		clients[i] = newClient()
		clients[i].order = &order
		b.p.Checkout(&clients[i].w)
	}
	b.want(Stats{Leased: 1, Waiting: 5})
	for range clients {
		last := holder
		if len(order) > 0 {
			last = order[len(order)-1]
		}
		last.lease.Release()
	}
	if !slices.Equal(order, clients) {
		t.Errorf("waiters were served out of order")
	}
	b.end(order[4])
}

func TestNobodyOvertakesTheQueue(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	b.p.Pause()
	first := b.ask()
	b.p.Resume()
	b.want(Stats{Opening: 1, Waiting: 1})
	if l := b.p.TryCheckout(); l != nil {
		t.Fatal("TryCheckout: got a connection while somebody waits")
	}
	second := b.ask()
	b.settle()
	if first.lease == nil || second.answers != 0 {
		t.Errorf("got first %v second %v, want the first served and the second waiting", first.answers, second.answers)
	}
	first.lease.Release()
	if l := b.p.TryCheckout(); l != nil {
		t.Error("TryCheckout: got the connection that was the second's")
	}
	b.end(second)
}

func TestIdleConnectionsAreLentLastInFirstOut(t *testing.T) {
	b := newBench(t, Settings{Max: 3})
	x, y, z := b.take(), b.take(), b.take()
	y.lease.Release()
	x.lease.Release()
	z.lease.Release()
	for _, want := range []*client{z, x, y} {
		if got := b.p.TryCheckout(); got != want.lease {
			t.Errorf("got connection %d, want %d", got.Conn().id, want.lease.Conn().id)
		}
	}
	if l := b.p.TryCheckout(); l != nil {
		t.Error("got a fourth connection from a pool of three")
	}
	b.end(x, y, z)
}

func TestOpensAreBoundedByWaitersAndMax(t *testing.T) {
	b := newBench(t, Settings{Max: 4})
	clients := []*client{b.ask(), b.ask()}
	b.want(Stats{Opening: 2, Waiting: 2})
	for range 8 {
		clients = append(clients, b.ask())
	}
	b.want(Stats{Opening: 4, Waiting: 10})
	b.settle()
	b.want(Stats{Leased: 4, Waiting: 6})
	for _, c := range clients {
		c.lease.Release()
	}
	b.want(Stats{Idle: 4})
	b.end()
}

func TestWithdrawnWaiterHearsNothing(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	holder := b.take()
	gone, next := b.ask(), b.ask()
	if !gone.w.Withdraw() {
		t.Fatal("Withdraw: got false for a waiter in the queue")
	}
	if gone.w.Withdraw() {
		t.Error("second Withdraw: got true")
	}
	holder.lease.Release()
	if gone.answers != 0 || next.lease == nil {
		t.Errorf("got %d answers for the withdrawn one, next %v", gone.answers, next.lease)
	}
	if next.w.Withdraw() {
		t.Error("Withdraw after the grant: got true")
	}
	b.p.Checkout(&gone.w) // a waiter can be used again
	next.lease.Release()
	if gone.answers != 1 {
		t.Errorf("got %d answers for the waiter used again, want 1", gone.answers)
	}
	b.end(gone)
}

func TestDiscardOpensAReplacementForThoseWhoWait(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	holder := b.take()
	waiter := b.ask()
	holder.lease.Discard("protocol")
	b.want(Stats{Closing: 1, Waiting: 1}) // the place is free when the old one is closed
	b.settle()
	if waiter.lease == nil || waiter.lease.Conn().id != 1 {
		t.Fatalf("got %+v, want the second connection", waiter)
	}
	if got := b.conns[0].closed; got != "protocol" {
		t.Errorf("got reason %q", got)
	}
	if s := b.p.Stats(); s.Closes["protocol"] != 1 || s.Opens != 2 || s.Waits != 2 || s.Checkouts != 2 {
		t.Errorf("got %+v", s.Counters)
	}
	b.end(waiter)
}

func TestMisuseOfALeasePanics(t *testing.T) {
	for name, f := range map[string]func(*Lease[*fakeConn]){
		"release twice":         func(l *Lease[*fakeConn]) { l.Release(); l.Release() },
		"discard after release": func(l *Lease[*fakeConn]) { l.Release(); l.Discard("x") },
		"release after discard": func(l *Lease[*fakeConn]) { l.Discard("x"); l.Release() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Settings{Max: 1})
			c := b.take()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
				b.end()
			}()
			f(c.lease)
		})
	}
}

func TestPauseHoldsEverybody(t *testing.T) {
	b := newBench(t, Settings{Max: 2, CheckoutTimeout: time.Second})
	holder := b.take()
	b.p.Pause()
	waiter := b.ask()
	holder.lease.Release()
	b.want(Stats{Idle: 1, Waiting: 1})
	b.pass(time.Minute) // the time of those who wait stands still
	if waiter.answers != 0 || b.p.TryCheckout() != nil {
		t.Fatal("somebody was answered during the pause")
	}
	b.p.Resume()
	b.settle()
	if waiter.lease == nil {
		t.Fatalf("after Resume: got no connection, error %v", waiter.err)
	}
	b.end(waiter)
}

func TestResumeGivesWaitersTheWholeTimeAgain(t *testing.T) {
	b := newBench(t, Settings{Max: 1, CheckoutTimeout: time.Second})
	holder := b.take()
	waiter := b.ask()
	b.pass(900 * time.Millisecond)
	b.p.Pause()
	b.pass(time.Hour)
	b.p.Resume()
	b.pass(999 * time.Millisecond)
	if waiter.answers != 0 {
		t.Fatalf("got %v before the time was over", waiter.err)
	}
	b.pass(time.Millisecond)
	if !errors.Is(waiter.err, ErrCheckoutTimeout) {
		t.Errorf("got %v, want a timeout", waiter.err)
	}
	b.end(holder)
}

func TestResizeClosesWhatIsTooMany(t *testing.T) {
	b := newBench(t, Settings{Max: 4})
	x, y, z := b.take(), b.take(), b.take()
	z.lease.Release()
	b.p.Resize(0, 1)
	b.settle()
	b.want(Stats{Leased: 2})
	waiter := b.ask()
	x.lease.Release()
	b.settle()
	b.want(Stats{Leased: 1, Waiting: 1})
	y.lease.Release()
	if waiter.lease != y.lease {
		t.Fatal("the last connection was not handed over")
	}
	more := b.ask()
	b.p.Resize(0, 3)
	b.settle()
	if more.lease == nil {
		t.Error("a bigger pool: the waiter was not served")
	}
	b.end(waiter, more)
}

func TestReconnectRetiresConnections(t *testing.T) {
	b := newBench(t, Settings{Max: 3})
	x, y := b.take(), b.take()
	y.lease.Release()
	b.p.Reconnect()
	b.settle()
	if b.conns[1].closed != ReasonRetired {
		t.Errorf("idle connection: got reason %q", b.conns[1].closed)
	}
	x.lease.Release()
	b.settle()
	if b.conns[0].closed != ReasonRetired {
		t.Errorf("released connection: got reason %q", b.conns[0].closed)
	}
	b.want(Stats{})
	b.end()
}

func TestReconnectRetiresWhatIsBeingOpened(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	var late *fakeConn
	open := b.p.hooks.Open
	b.p.hooks.Open = func(ctx context.Context) (*fakeConn, error) {
		c, err := open(ctx)
		if late == nil {
			late = c
			b.p.Reconnect() // after the dial began
		}
		return c, err
	}
	waiter := b.ask()
	b.settle()
	if late.closed != ReasonRetired || waiter.lease == nil || waiter.lease.Conn() == late {
		t.Errorf("got %+v and %+v, want the waiter served by a connection of the new epoch", late, waiter)
	}
	b.end(waiter)
}

func TestKillInterruptsHolders(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	x, y := b.take(), b.take()
	y.lease.Release()
	b.p.Kill()
	b.settle()
	if !b.conns[0].interrupted || b.conns[1].interrupted || b.conns[1].closed != ReasonInterrupted {
		t.Errorf("got %+v and %+v", b.conns[0], b.conns[1])
	}
	x.lease.Release() // a holder that was done just then
	b.settle()
	if b.conns[0].closed != ReasonInterrupted {
		t.Errorf("got reason %q", b.conns[0].closed)
	}
	b.end()
}

func TestExpireClosesWhatNobodyUses(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	x, y := b.take(), b.take()
	y.lease.Release()
	b.p.Expire(y.lease, "fin")
	b.p.Expire(x.lease, "fin")
	b.settle()
	if b.conns[1].closed != "fin" || b.conns[0].closed != "" {
		t.Errorf("got %+v and %+v", b.conns[0], b.conns[1])
	}
	x.lease.Release()
	b.settle()
	if b.conns[0].closed != "fin" {
		t.Errorf("got %+v", b.conns[0])
	}
	b.end()
}

func TestCloseFailsWaitersAndWaitsForHolders(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	holder := b.take()
	waiter := b.ask()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := b.p.Close(ctx); !errors.Is(err, cause) {
		t.Errorf("Close: got %v, want the context's cause", err)
	}
	if !errors.Is(waiter.err, ErrClosed) {
		t.Errorf("waiter: got %v", waiter.err)
	}
	if !b.conns[0].interrupted {
		t.Error("the holder was not interrupted")
	}
	if late := b.ask(); !errors.Is(late.err, ErrClosed) {
		t.Errorf("late checkout: got %v", late.err)
	}
	b.end(holder)
}

func TestWaitIdle(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	if err := b.p.WaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, y := b.take(), b.take()
	done := make(chan error)
	go func() { done <- b.p.WaitIdle(t.Context()) }()
	x.lease.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.p.WaitIdle(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	y.lease.Discard("x")
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.end()
}

func TestWaitRetired(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	x, y := b.take(), b.take()
	y.lease.Release()
	if err := b.p.WaitRetired(over); err != nil {
		t.Errorf("nothing is retired: got %v", err)
	}
	b.p.Reconnect()
	if got := b.p.Connections(); !got[0].Doomed || !got[1].Doomed {
		t.Errorf("got %+v, want both doomed", got)
	}
	done := make(chan error)
	go func() { done <- b.p.WaitRetired(t.Context()) }()
	b.settle()
	if err := b.p.WaitRetired(over); !errors.Is(err, context.Canceled) {
		t.Errorf("one is lent: got %v", err)
	}
	x.lease.Release()
	if err := b.p.WaitRetired(over); !errors.Is(err, context.Canceled) {
		t.Errorf("one is being closed: got %v", err)
	}
	b.settle()
	if err := <-done; err != nil {
		t.Error(err)
	}

	z := b.ask()
	b.p.Pause()
	if err := b.p.WaitRetired(over); !errors.Is(err, context.Canceled) {
		t.Errorf("paused, and one is being opened: got %v", err)
	}
	b.settle()
	if err := b.p.WaitRetired(over); err != nil {
		t.Errorf("it is open: got %v", err)
	}
	b.p.Resume()
	b.settle()
	b.end(z)
}

func TestConnectionsShowsStates(t *testing.T) {
	b := newBench(t, Settings{Max: 2})
	x, y := b.take(), b.take()
	y.lease.Release()
	got := map[int]State{}
	for _, c := range b.p.Connections() {
		got[c.Conn.id] = c.State
	}
	if len(got) != 2 || got[0] != Leased || got[1] != Idle {
		t.Errorf("got %v", got)
	}
	if x.lease.Pool() != b.p || b.p.Name() != "test" {
		t.Error("a lease does not know its pool")
	}
	b.end(x)
}
