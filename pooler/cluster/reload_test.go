package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func topologyID(i int) topology.ShardID { return topology.ShardID(i) }

func TestReloadKeepsWhatStays(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	su := superuser()
	o := Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(1))}}, Logins: []*Login{su}}
	r := run(t, o, pgHooks())
	l := r.take(0, su)
	pid := l.Conn().PID()
	waiter := r.start(0, su)
	o.Shards = [][]Endpoint{{at(t, shared, "postgres", settings(2))}, {at(t, shared, "postgres", settings(1))}}
	o.Logins = []*Login{superuser()} // made anew from the same configuration
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	second, err := waiter.outcome(t) // by the bigger pool
	if err != nil {
		t.Fatalf("got %+v", err)
	}
	l.Release()
	if again := r.take(0, su); again.Conn().PID() != pid {
		t.Error("the connection was replaced although nothing changed")
	} else {
		again.Release()
	}
	second.Release()
	r.take(1, su).Release()
}

func TestReloadMovesWaitersToTheNewAddress(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	old, other := shared.CreateDatabase(t), shared.CreateDatabase(t)
	su := superuser()
	o := Options{Shards: [][]Endpoint{{at(t, shared, old, settings(1))}}, Logins: []*Login{su}}
	r := run(t, o, pgHooks())
	l := r.take(0, su)
	waiter := r.start(0, su)
	o.Shards = [][]Endpoint{{at(t, shared, other, settings(1))}}
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Conn().ask(t.Context(), "select current_database()"); err != nil || got != old {
		t.Errorf("the holder: got %q, %v, want to finish in %q", got, err, old)
	}
	l.Release() // closed: it is the old address's
	next, err := waiter.outcome(t)
	if err != nil {
		t.Fatalf("the waiter: got %+v", err)
	}
	if got, err := next.Conn().ask(t.Context(), "select current_database()"); err != nil || got != other {
		t.Errorf("the waiter: got %q, %v, want %q", got, err, other)
	}
	next.Release()
	if h := r.Health(); h[0].Database != other {
		t.Errorf("got %+v", h)
	}
}

func TestReloadDrainsWhatIsGone(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	su := superuser()
	o := Options{
		Shards: [][]Endpoint{{at(t, shared, "postgres", settings(1))}, {at(t, shared, "postgres", settings(1))}},
		Logins: []*Login{su}, UnusedTimeout: 40 * time.Millisecond,
	}
	r := run(t, o, pgHooks())
	l := r.take(1, su)
	waiter := r.start(1, su)
	o.Shards = o.Shards[:1]
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	_, err := waiter.outcome(t)
	isRefusal(t, err, pgwire.CodeConnectionFailure, RoutineUnavailable)
	if _, err := l.Conn().ask(t.Context(), "select 1"); err != nil {
		t.Errorf("the holder: %v", err)
	}
	l.Release()
	eventually(t, "nothing drains", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.mu.draining) == 0
	})
}

func TestPasswordRotation(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	app := shared.CreateUser(t, "first", "scram-sha-256")
	first := password(app, "first")
	o := Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(1))}}, Logins: []*Login{first}}
	r := run(t, o, pgHooks())
	l := r.take(0, first)
	waiter := r.start(0, first)

	shared.Exec(t, "postgres", "ALTER ROLE "+app+" PASSWORD 'second'")
	second := password(app, "second")
	o.Logins = []*Login{second}
	o.Shards = append(o.Shards, []Endpoint{at(t, shared, "postgres", settings(1))}) // where nobody has a pool yet
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	pid := l.Conn().PID()
	l.Release()
	next, err := waiter.outcome(t)
	if err != nil {
		t.Fatalf("the waiter: got %+v", err)
	}
	if next.Conn().PID() == pid {
		t.Error("a connection of the old password was kept")
	}
	next.Release()
	r.take(0, first).Release() // a session that logged in before
	r.take(0, second).Release()
	r.take(1, first).Release()
	if got := len(r.Pools()); got != 2 {
		t.Errorf("got %d pools, want one for both logins at each endpoint", got)
	}

	shared.Exec(t, "postgres", "ALTER ROLE "+app+" PASSWORD 'first'")
	o.Logins = []*Login{password(app, "first")} // and back
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	for _, login := range []*Login{first, second, o.Logins[0]} {
		r.take(0, login).Release()
		r.take(1, login).Release()
	}
	if got := len(r.Pools()); got != 2 {
		t.Errorf("got %d pools, want one for all logins at each endpoint", got)
	}
}

func TestReloadedLoginResizesItsPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		size := func(n int) *Login {
			return NewLogin(LoginOptions{User: "app", Identity: "x", Settings: func(e *Endpoint) pool.Settings {
				s := e.Pool
				s.Min, s.Max, s.IdleTimeout = n, n, time.Minute
				return s
			}})
		}
		o := Options{Shards: [][]Endpoint{{fakeAt(1)}}, Logins: []*Login{size(1)}}
		r := run(t, o, f.hooks())
		synctest.Wait()
		if s := r.Stats(); s.Idle != 1 {
			t.Fatalf("got %+v", s)
		}
		o.Logins = []*Login{size(3)}
		if err := r.Reload(o); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := r.Stats(); s.Idle != 3 || s.Pools != 1 {
			t.Errorf("got %+v, want 3 idle in one pool", s)
		}
		o.Logins = nil // keeps nothing open, and goes
		if err := r.Reload(o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if s := r.Stats(); s.Pools != 1 || s.Total != 0 {
			t.Errorf("got %+v, want no connections", s)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := r.Stats(); s.Pools != 0 || s.Total != 0 {
			t.Errorf("got %+v, want no pools", s)
		}
	})
}

func TestWaitRetiredWaitsForHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		o := Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}}, Logins: []*Login{a}}
		r := run(t, o, f.hooks())
		stays, goes := r.take(0, a), r.take(1, a)
		if err := r.WaitRetired(t.Context()); err != nil {
			t.Errorf("nothing is retired: got %v", err)
		}
		o.Shards = [][]Endpoint{{fakeAt(3)}}
		if err := r.Reload(o); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.WaitRetired(t.Context()) }()
		for _, l := range []*pool.Lease[*conn]{stays, goes} {
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("while a connection is lent: got %v", err)
			default:
			}
			l.Release()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnusedPoolsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		e := fakeAt(1)
		e.Pool.Min, e.Pool.Max = 1, 1
		warm := NewLogin(LoginOptions{User: "app", Identity: "x"})
		r := run(t, Options{Shards: [][]Endpoint{{e}}, Logins: []*Login{warm}, UnusedTimeout: 10 * time.Minute}, f.hooks())
		stranger := NewLogin(LoginOptions{User: "stranger", Identity: "y"})
		for range 3 {
			l := r.take(0, stranger)
			time.Sleep(8 * time.Minute) // used, though seldom
			l.Release()
			time.Sleep(8 * time.Minute)
			if s := r.Stats(); s.Pools != 2 {
				t.Fatalf("got %+v, want 2 pools", s)
			}
		}
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if s := r.Stats(); s.Pools != 1 || s.Total != 1 {
			t.Errorf("got %+v, want the configured pool only", s)
		}
		r.take(0, stranger).Release() // is made again
	})
}

func TestCloseAnswersEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		app := NewLogin(LoginOptions{User: "app", Identity: "x"})
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}}, f.hooks())
		a, b := r.take(0, app), r.take(0, app)
		waiter := r.start(0, app)
		closed := make(chan error)
		go func() { closed <- r.Close(t.Context()) }()
		_, err := waiter.outcome(t)
		isRefusal(t, err, pgwire.CodeAdminShutdown, RoutineUnavailable)
		r.refused(0, app, pgwire.CodeAdminShutdown, RoutineUnavailable)
		a.Release()
		b.Release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := r.Reload(Options{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Reload: got %v", err)
		}
	})
}
