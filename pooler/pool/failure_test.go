package pool

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestUnreachableFailsAllWaitersAfterOneRound(t *testing.T) {
	b := newBench(t, Settings{Max: 10, CheckoutTimeout: time.Minute, ConnectBackoff: time.Second})
	b.fail = errDown
	clients := make([]*client, 1000)
	for i := range clients {
		clients[i] = b.ask()
	}
	b.settle()
	for i, c := range clients {
		oe, ok := errors.AsType[*OpenError](c.err)
		if !ok || oe.Failure != Unreachable || !errors.Is(c.err, errDown) || errors.Is(c.err, ErrCheckoutTimeout) {
			t.Fatalf("client %d: got %v", i, c.err)
		}
	}
	if b.opens > 10 {
		t.Errorf("got %d dials for 1000 waiters, want 10 at most", b.opens)
	}
	before := b.opens
	for range 1000 {
		if c := b.ask(); c.err == nil {
			t.Fatal("during the back-off: got no error at once")
		}
	}
	if b.opens != before || len(b.tasks) != 0 {
		t.Errorf("got %d dials during the back-off", b.opens-before)
	}

	b.pass(time.Second)
	b.fail = nil
	waiting := []*client{b.ask(), b.ask(), b.ask()}
	b.want(Stats{Opening: 1, Waiting: 3}) // one probe
	b.settle()
	b.want(Stats{Leased: 3})
	if b.p.Stats().Trouble != nil {
		t.Error("trouble is remembered after a success")
	}
	b.end(waiting...)
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	b := newBench(t, Settings{Min: 1, Max: 1, ConnectBackoff: time.Second, MaxBackoff: 4 * time.Second})
	b.fail = errDown
	b.p.Tick()
	var pauses []time.Duration
	for range 5 {
		b.settle()
		next := b.next()
		pauses = append(pauses, next.Sub(b.clock))
		b.clock = next
		b.p.Tick()
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second}
	if !slices.Equal(pauses, want) {
		t.Errorf("got pauses %v, want %v", pauses, want)
	}
	b.fail = nil
	b.pass(4 * time.Second)
	b.want(Stats{Idle: 1})
	b.end()
}

func TestConnectAttemptsBeforeWaitersFail(t *testing.T) {
	b := newBench(t, Settings{Max: 5, ConnectAttempts: 3, ConnectDelay: time.Second, CheckoutTimeout: time.Minute})
	b.fail = errDown
	c := b.ask()
	b.pass(1999 * time.Millisecond)
	if c.answers != 0 || b.opens != 2 {
		t.Fatalf("got %d answers after %d attempts, want none after 2", c.answers, b.opens)
	}
	b.pass(time.Millisecond)
	if !errors.Is(c.err, errDown) || b.opens != 3 {
		t.Errorf("got %v after %d attempts, want a failure after 3", c.err, b.opens)
	}
	b.end()
}

func TestParallelOpensAreOneAttempt(t *testing.T) {
	b := newBench(t, Settings{Max: 5, ConnectAttempts: 2, CheckoutTimeout: time.Minute})
	b.fail = errDown
	clients := []*client{b.ask(), b.ask(), b.ask()}
	b.want(Stats{Opening: 3, Waiting: 3})
	b.step()
	b.step()
	if clients[0].answers != 0 {
		t.Fatal("two opens of one attempt counted as two")
	}
	b.fail = nil
	b.step()
	b.settle()
	b.want(Stats{Leased: 3})
	b.end(clients...)
}

func TestWaitersStayWhileAConnectionIsUsable(t *testing.T) {
	b := newBench(t, Settings{Max: 2, CheckoutTimeout: time.Minute})
	holder := b.take()
	b.fail = errDown
	waiter := b.ask()
	b.pass(time.Second)
	if waiter.answers != 0 {
		t.Fatalf("got %v although a connection is lent and may come back", waiter.err)
	}
	second := b.ask()
	holder.lease.Release()
	if waiter.lease == nil {
		t.Fatal("the connection that came back was not handed over")
	}
	waiter.lease.Discard("server_closed")
	b.pass(3 * time.Second) // up to the next attempt
	if !errors.Is(second.err, errDown) {
		t.Errorf("got %v, want the failure once nothing is left", second.err)
	}
	b.end()
}

func TestTransientFailureIsWaitedOut(t *testing.T) {
	b := newBench(t, Settings{Max: 2, CheckoutTimeout: 10 * time.Second})
	b.fail = errTransient
	c, late := b.ask(), b.ask()
	b.pass(5 * time.Second)
	if c.answers != 0 {
		t.Fatalf("got %v", c.err)
	}
	late.w.Withdraw()
	b.fail = nil
	b.pass(3 * time.Second)
	if c.lease == nil {
		t.Fatalf("got %v, want a connection after recovery", c.err)
	}
	b.fail = errTransient
	second := b.ask()
	b.pass(11 * time.Second)
	if !errors.Is(second.err, ErrCheckoutTimeout) || !errors.Is(second.err, errTransient) {
		t.Errorf("got %v, want a timeout that says why", second.err)
	}
	b.end(c)
}

func TestRejectedLoginFailsFastAndIsRemembered(t *testing.T) {
	b := newBench(t, Settings{Max: 5, ConnectAttempts: 5, CheckoutTimeout: time.Minute, RejectedDelay: 3 * time.Second})
	b.fail = errRejected
	c := b.ask()
	b.settle()
	if oe, ok := errors.AsType[*OpenError](c.err); !ok || oe.Failure != Rejected {
		t.Fatalf("got %v", c.err)
	}
	b.pass(2900 * time.Millisecond)
	if c := b.ask(); c.err == nil || b.opens != 1 {
		t.Errorf("got %v after %d dials, want the remembered failure", c.err, b.opens)
	}
	b.fail = nil
	b.p.Reconnect() // a new password was configured
	again := b.take()
	b.end(again)
}

func TestFailuresOfAnEarlierEpochDontCount(t *testing.T) {
	b := newBench(t, Settings{Max: 1, CheckoutTimeout: time.Minute})
	c := b.ask()
	b.fail = errRejected
	b.p.Reconnect()
	b.step()
	b.fail = nil
	b.settle()
	if c.lease == nil {
		t.Errorf("got %v, want a connection by the new configuration", c.err)
	}
	b.end(c)
}

func TestObserverHearsBeforeTheWaiters(t *testing.T) {
	b := newBench(t, Settings{Max: 1})
	b.fail = errDown
	b.ask()
	b.settle()
	b.fail = nil
	b.pass(time.Second)
	b.take().lease.Discard("x")
	b.settle()
	want := []string{"open failed: unreachable", "opened", "waited 0s", "closed: x"}
	if !slices.Equal(b.seen, want) {
		t.Errorf("got %q, want %q", b.seen, want)
	}
	b.end()
}
