package pooler

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// sleeper wakes tenants when it is told to.
type sleeper struct {
	k      *kennel
	orders atomic.Int64
	let    chan error // each wake takes one
	stays  bool       // in the directory it goes on to be asleep
}

func (s *sleeper) execute(ctx context.Context, o provision.Order) (*provision.Result, error) {
	s.orders.Add(1)
	if o.Verb != provision.VerbWake || o.By != "pooler" {
		return nil, fmt.Errorf("an order %+v", o)
	}
	select {
	case err := <-s.let:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !s.stays {
		s.k.phase(o.Tenant, tenant.Ready)
	}
	return &provision.Result{Changed: true}, nil
}

func (k *kennel) phase(name string, p tenant.Phase) {
	k.dir.change(k.dir.ByName(name).ID, func(r *tenant.Record) { r.Phase = p })
}

func newSleeper(t *testing.T) *sleeper {
	s := &sleeper{let: make(chan error, 100)}
	s.k = newKennel(t, kennelOptions{orders: s.execute})
	s.k.tenant("acme")
	return s
}

func TestWakeWithManyClients(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	k := s.k
	idle := k.owner("acme")
	run(t, idle, "select 1")
	k.phase("acme", tenant.Asleep)
	_, err := k.try("acme", "acme", "wrong")
	wantCode(t, "a wrong password", "28P01", err)
	if n := s.orders.Load(); n != 0 {
		t.Fatalf("a wrong password has led to %d orders", n)
	}
	const clients = 50
	done := make(chan error, clients+1)
	for range clients {
		go func() {
			c, err := k.try("acme", "acme", password("acme"))
			if err == nil {
				_, err = c.Exec(context.Background(), "select 1")
				c.Close(context.Background())
			}
			done <- err
		}()
	}
	go func() {
		_, err := idle.Exec(context.Background(), "select 1")
		done <- err
	}()
	in, _ := k.follower.open(k.dir.ByName("acme"))
	eventually(t, "the queue", func() bool { in.gate.mu.Lock(); defer in.gate.mu.Unlock(); return len(in.gate.waiting) == clients+1 })
	k.console().one("SHOW POOLS", "database", "acme", "user", "acme", "cl_waiting", "1")
	s.let <- nil
	for range clients + 1 {
		if err := wait(t, "a client", done); err != nil {
			t.Error(err)
		}
	}
	if n := s.orders.Load(); n != 1 {
		t.Errorf("%d orders to wake, want 1", n)
	}
}

func TestWakeFails(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	k := s.k
	k.phase("acme", tenant.Asleep)
	s.let <- provision.Errorf(provision.KindFailed, "no room on host 10.1.2.3")
	_, err := k.try("acme", "acme", password("acme"))
	e := wantCode(t, "a login", "57P03", err)
	if strings.Contains(e.Message+e.Detail+e.Hint, "10.1.2.3") || e.Hint == "" {
		t.Errorf("got %+v", e)
	}
	_, err = k.try("acme", "acme", password("acme")) // nobody is asked again so soon
	wantCode(t, "a login right behind it", "57P03", err)
	if n := s.orders.Load(); n != 1 {
		t.Errorf("%d orders to wake, want 1", n)
	}
	in, _ := k.follower.open(k.dir.ByName("acme"))
	in.gate.mu.Lock()
	in.gate.failed = time.Now().Add(-time.Minute)
	in.gate.mu.Unlock()
	// What kept it down may be over: on record it is failed, and whoever comes has it tried again.
	k.dir.change(k.dir.ByName("acme").ID, func(r *tenant.Record) {
		r.Phase, r.Operation = tenant.Failed, &tenant.Operation{ID: "o", Verb: provision.VerbWake, Error: "no room"}
	})
	// Something else is done to it: that is waited for.
	s.let <- provision.Errorf(provision.KindBusy, "it is being put to sleep")
	s.let <- nil
	run(t, k.owner("acme"), "select 1")
}

func TestWakeTakesTooLong(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	k := s.k
	conf := *k.state.Load().cfg
	conf.Timeouts.Checkout = 300 * time.Millisecond
	k.orders.Lock()
	err := k.apply(&conf)
	k.orders.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c := k.owner("acme")
	run(t, c, "select 1")
	k.phase("acme", tenant.Asleep)
	_, err = c.Exec(t.Context(), "select 1")
	e := wantCode(t, "a statement", "57P03", err)
	if !strings.Contains(e.Message, "is starting up") {
		t.Errorf("got %+v", e)
	}
	_, err = k.try("acme", "acme", password("acme"))
	wantCode(t, "a login", "57P03", err)
	s.let <- nil // it comes up at last
	eventually(t, "the end of the wake", func() bool { return k.follower.waking.Load() == 0 })
	run(t, c, "select 1") // the session is as it was
}

func TestWakeIsOverBeforeTheDirectorySaysSo(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	s.stays = true
	s.k.phase("acme", tenant.Asleep)
	s.let <- nil
	c := s.k.owner("acme")
	run(t, c, "select 1")
	if n := s.orders.Load(); n != 1 {
		t.Errorf("%d orders to wake, want 1", n)
	}
}

func TestRestartIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	k := s.k
	c := k.owner("acme")
	run(t, c, "select 1")
	id := k.dir.ByName("acme").ID
	k.dir.change(id, func(r *tenant.Record) { r.Operation = &tenant.Operation{Verb: provision.VerbRestart} })
	done := later(func() error { _, err := c.Exec(context.Background(), "select 1"); return err })
	in, _ := k.follower.open(k.dir.ByName("acme"))
	eventually(t, "the queue", func() bool { return in.gate.held(in.u)["acme"] == 1 })
	pending(t, "a statement during the restart", done)
	k.dir.change(id, func(r *tenant.Record) { r.Operation = nil })
	if err := wait(t, "a statement", done); err != nil {
		t.Error(err)
	}
	// It falls asleep in the middle of a wait: then it is woken.
	k.dir.change(id, func(r *tenant.Record) { r.Operation = &tenant.Operation{Verb: provision.VerbRestart} })
	done = later(func() error { _, err := c.Exec(context.Background(), "select 1"); return err })
	eventually(t, "the queue", func() bool { return in.gate.held(in.u)["acme"] == 1 })
	s.let <- nil
	k.dir.change(id, func(r *tenant.Record) { r.Operation, r.Phase = nil, tenant.Asleep })
	if err := wait(t, "a statement", done); err != nil {
		t.Error(err)
	}
	// And if it is stopped instead, who waits is told.
	k.dir.change(id, func(r *tenant.Record) { r.Operation = &tenant.Operation{Verb: provision.VerbStop} })
	done = later(func() error { _, err := c.Exec(context.Background(), "select 1"); return err })
	eventually(t, "the queue", func() bool { return in.gate.held(in.u)["acme"] == 1 })
	k.dir.change(id, func(r *tenant.Record) { r.Operation, r.Phase = nil, tenant.Stopped })
	if err := wait(t, "a statement", done); err == nil {
		t.Error("a statement of a stopped tenant ran")
	}
}

// TestClientsLeaveTheGate cancels, and hangs up, while the instance is asleep.
func TestClientsLeaveTheGate(t *testing.T) {
	t.Parallel()
	s := newSleeper(t)
	k := s.k
	var clients []*pgx.Conn
	for range 3 {
		clients = append(clients, k.owner("acme"))
	}
	k.phase("acme", tenant.Asleep)
	in, _ := k.follower.open(k.dir.ByName("acme"))
	ctx, cancel := context.WithCancel(t.Context())
	gone := later(func() error { _, err := clients[0].Exec(ctx, "select 1"); return err })
	cancelled := later(func() error { _, err := clients[1].Exec(context.Background(), "select 1"); return err })
	stays := later(func() error { _, err := clients[2].Exec(context.Background(), "select 1"); return err })
	eventually(t, "the queue", func() bool { return in.gate.held(in.u)["acme"] == 3 })
	cancel()
	if wait(t, "who hangs up", gone) == nil {
		t.Error("a statement ran")
	}
	if err := clients[1].PgConn().CancelRequest(t.Context()); err != nil {
		t.Error(err)
	}
	wantCode(t, "a cancelled wait", "57014", wait(t, "a cancelled wait", cancelled))
	s.let <- nil
	if err := wait(t, "who stays", stays); err != nil {
		t.Error(err)
	}
	run(t, clients[1], "select 1")
}
