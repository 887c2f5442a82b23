package cluster

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func app() *Login { return NewLogin(LoginOptions{User: "app", Identity: "x"}) }

func TestAnyShardPrefersIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}, {fakeAt(3)}}}, f.hooks())
		first := r.take(AnyShard, a)
		port := first.Conn().dial.Address.Port
		first.Release()
		for range 10 {
			l := r.take(AnyShard, a)
			if got := l.Conn().dial.Address.Port; got != port {
				t.Errorf("got port %d, want the idle connection of %d", got, port)
			}
			l.Release()
		}
	})
}

func TestAnyShardTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}, {fakeAt(3)}}}, f.hooks())
		var ports []int
		for range 3 {
			l := r.take(AnyShard, a)
			ports = append(ports, l.Conn().dial.Address.Port)
			defer l.Release()
		}
		slices.Sort(ports)
		if !slices.Equal(ports, []int{1, 2, 3}) {
			t.Errorf("got ports %v, want each once", ports)
		}
	})
}

func TestAnyShardPassesOverThoseDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		f.set(1, errRefused(1))
		f.set(2, errRefused(2))
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}, {fakeAt(3)}}}, f.hooks())
		for range 9 {
			l := r.take(AnyShard, a)
			if got := l.Conn().dial.Address.Port; got != 3 {
				t.Errorf("got port %d, want 3", got)
			}
			l.Release()
		}
		f.set(3, errRefused(3))
		r.Kill()
		r.refused(AnyShard, a, pgwire.CodeConnectionFailure, RoutineUnavailable)
		f.set(1, nil)
		time.Sleep(time.Second)
		eventually(t, "one of those that were down is tried", func() bool {
			l, err := r.start(AnyShard, a).outcome(t)
			if err == nil {
				l.Release()
			}
			return err == nil
		})
	})
}

func TestAnyShardOfNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, Options{}, newFakes().hooks())
		r.refused(AnyShard, app(), pgwire.CodeConnectionFailure, RoutineUnavailable)
		r.refused(0, app(), pgwire.CodeConnectionFailure, RoutineUnavailable)
	})
}

func TestReplicasTakeTurnsAndThePrimaryStandsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		one, two := fakeAt(2), fakeAt(3)
		one.Role, two.Role = topology.Replica, topology.Replica
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1), one, two}}, Service: a, HealthInterval: time.Second}, f.hooks())
		read := func() int {
			t.Helper()
			c := newClient()
			r.Checkout(0, topology.Replica, a, &c.w)
			l, err := c.outcome(t)
			if err != nil {
				t.Fatalf("got %+v", err)
			}
			defer l.Release()
			return l.Conn().dial.Address.Port
		}
		if p, q := read(), read(); p == q || p == 1 || q == 1 {
			t.Errorf("got ports %d and %d, want one replica each", p, q)
		}
		f.set(2, errRefused(2))
		time.Sleep(2 * time.Second)
		if p, q := read(), read(); p != 3 || q != 3 {
			t.Errorf("got ports %d and %d, want the replica that is left", p, q)
		}
		f.set(3, errRefused(3))
		time.Sleep(2 * time.Second)
		if p := read(); p != 1 {
			t.Errorf("got port %d, want the primary", p)
		}
	})
}

func TestPauseHoldsEverybodyUntilResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}}}, f.hooks())
		l := r.take(0, a)
		r.Pause()
		waiting := []*client{r.start(0, a), r.start(1, a), r.start(AnyShard, a)} // shard 1's pool is made during the pause
		idle := make(chan error, 1)
		go func() { idle <- r.WaitIdle(t.Context()) }()
		l.Release()
		if err := <-idle; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if s := r.Stats(); !s.Paused || s.Waiting != 3 || s.Leased != 0 || f.dialed(2) != 0 {
			t.Errorf("got %+v and %d dials", s, f.dialed(2))
		}
		r.Resume()
		for _, c := range waiting {
			l, err := c.outcome(t)
			if err != nil {
				t.Fatalf("got %+v", err)
			}
			l.Release()
		}
	})
}

func TestProbesKeepHealthKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		h := f.hooks()
		seen := &states{}
		h.ObserveEndpoint = func(EndpointInfo, func() pool.BudgetStats) EndpointObserver { return seen }
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}, Service: app(), HealthInterval: 30 * time.Second}, h)
		synctest.Wait()
		if !r.Healthy(0) || f.dialed(1) != 1 {
			t.Fatalf("got %+v after %d probes", r.Health(), f.dialed(1))
		}
		f.set(1, errRefused(1))
		time.Sleep(31 * time.Second)
		if h := r.Health()[0]; h.State != Down || h.Err == nil || r.Healthy(0) {
			t.Errorf("got %+v", h)
		}
		f.set(1, nil)
		time.Sleep(3 * time.Second) // more often while down
		if !r.Healthy(0) {
			t.Errorf("got %+v", r.Health())
		}
		before := f.dialed(1)
		time.Sleep(10 * time.Minute)
		if got := f.dialed(1) - before; got < 19 || got > 21 {
			t.Errorf("got %d probes in ten minutes, want one each 30 s", got)
		}
		if want := []State{Unknown, Up, Down, Up}; !slices.Equal(seen.list, want) {
			t.Errorf("got states %v, want %v", seen.list, want)
		}
	})
}

type states struct{ list []State } // under the endpoint's lock

func (s *states) State(st State)               { s.list = append(s.list, st) }
func (s *states) Checked(time.Duration, error) {}
func (s *states) Close()                       {}

func TestStartingUpIsDownButWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		f.set(1, pgwire.Fatalf(pgwire.CodeCannotConnectNow, "the database system is starting up"))
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}}, f.hooks())
		waiter := r.start(0, a)
		time.Sleep(5 * time.Second)
		if r.Health()[0].State != Down {
			t.Errorf("got %+v", r.Health())
		}
		f.set(1, nil)
		l, err := waiter.outcome(t)
		if err != nil {
			t.Fatalf("got %+v", err)
		}
		r.Kill()
		l.Discard("x")
		f.set(1, pgwire.Fatalf(pgwire.CodeCannotConnectNow, "the database system is starting up"))
		r.refused(0, a, pgwire.CodeConnectionFailure, RoutineUnavailable) // after the whole checkout timeout
	})
}

func TestServerGoneCastsDoubtOnAllPoolsOfTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		b := NewLogin(LoginOptions{User: "other", Identity: "y"})
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}, Service: a}, f.hooks())
		r.take(0, b).Release()
		l := r.take(0, a)
		f.set(1, errRefused(1))
		r.Discard(l, "server_closed", pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command"))
		synctest.Wait()
		if s := r.Stats(); s.Total != 0 {
			t.Errorf("got %+v, want no connection left", s)
		}
		if r.Health()[0].State != Down {
			t.Errorf("got %+v, want a probe at once", r.Health())
		}
	})
}

func TestParametersFollowAnUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}}}, f.hooks())
		f.version[fakeAddress(2).String()] = "14.0"
		r.take(0, a).Release()
		r.take(1, a).Release()
		if got := r.Parameters()[0].Value; got != "15.18" {
			t.Errorf("got version %s, want the first one seen", got)
		}
		f.version[fakeAddress(1).String()] = "18.1"
		r.Kill()
		r.take(0, a).Release()
		if got := r.Parameters()[0].Value; got != "18.1" {
			t.Errorf("got version %s, want the upgraded server's", got)
		}
	})
}

func TestObserversOfPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		h := f.hooks()
		o := &poolEvents{}
		h.ObservePool = func(info PoolInfo, stats func() pool.Stats) PoolObserver {
			o.info, o.stats = info, stats
			return o
		}
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}}, h)
		l := r.take(0, a)
		if s := o.stats(); s.Leased != 1 {
			t.Errorf("got %+v", s)
		}
		l.Release()
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if o.info.User != "app" || o.info.Address != "10.0.0.1:1" || o.info.Cluster != "shop" {
			t.Errorf("got %+v", o.info)
		}
		if want := []string{"opened", "waited", "closed shutdown", "close"}; !slices.Equal(o.seen, want) {
			t.Errorf("got %q, want %q", o.seen, want)
		}
	})
}

type poolEvents struct {
	info  PoolInfo
	stats func() pool.Stats
	seen  []string
}

func (o *poolEvents) Opened(time.Duration) { o.seen = append(o.seen, "opened") }
func (o *poolEvents) OpenFailed(time.Duration, pool.Failure, error) {
	o.seen = append(o.seen, "failed")
}
func (o *poolEvents) Closed(r pool.Reason)         { o.seen = append(o.seen, "closed "+string(r)) }
func (o *poolEvents) Checked(time.Duration, error) { o.seen = append(o.seen, "checked") }
func (o *poolEvents) Waited(time.Duration)         { o.seen = append(o.seen, "waited") }
func (o *poolEvents) Close()                       { o.seen = append(o.seen, "close") }

func TestOnePoolsFailureCastsDoubtOnTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}}}, f.hooks())
		r.take(0, a).Release()
		f.set(1, errRefused(1))
		r.refused(0, NewLogin(LoginOptions{User: "other", Identity: "y"}), pgwire.CodeConnectionFailure, RoutineUnavailable)
		synctest.Wait()
		if s := r.Stats(); s.Total != 0 {
			t.Errorf("got %+v, want no connection left", s)
		}
	})
}

func TestFailedHealthCheckBringsAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		e := fakeAt(1)
		e.Pool.HealthInterval = 5 * time.Second
		r := run(t, Options{Shards: [][]Endpoint{{e}}, Service: a, HealthInterval: time.Hour}, f.hooks())
		r.take(0, a).Release()
		f.set(1, errRefused(1))
		time.Sleep(6 * time.Second)
		if r.Health()[0].State != Down {
			t.Errorf("got %+v", r.Health())
		}
	})
}

// With background tasks under control, a withdrawal can come where it is hardest.
func TestWithdrawBetweenTwoShardsIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		f, a := newFakes(), app()
		f.set(0, errRefused(0))
		var tasks []func()
		h := f.hooks()
		alive := func() bool { return true }
		h.Alive = func(*conn) bool { return alive() }
		one := fakeAt(1)
		one.Pool.Max, one.Pool.AliveAfter = 1, 1
		c := New(Options{Shards: [][]Endpoint{{fakeAt(0)}, {one}}}, h, Env{Go: func(f func()) { tasks = append(tasks, f) }})
		settle := func() {
			for len(tasks) > 0 {
				next := tasks[0]
				tasks = tasks[1:]
				next()
			}
		}
		holder := newClient()
		c.Checkout(1, topology.Primary, a, &holder.w)
		settle()
		lease, _ := holder.outcome(t)

		searcher := newClient()
		first := &chain{}
		first.w.To = first
		c.Checkout(0, topology.Primary, a, &first.w) // is refused before the searcher
		for searcher.w.first = -1; searcher.w.first != 0; {
			c.Checkout(AnyShard, topology.Primary, a, &searcher.w)
			if searcher.w.first != 0 && !searcher.w.Withdraw() {
				t.Fatal("Withdraw: got false for a waiter")
			}
		}
		withdrew := false
		if late {
			// The searcher finds an idle connection at the second shard, which is dead: it has to wait there.
			first.refused = func() { lease.Release() }
			alive = func() bool {
				if searcher.w.Withdraw() {
					t.Error("Withdraw: got true on the way")
				}
				withdrew = true
				return false
			}
		} else {
			first.refused = func() {
				if searcher.w.Withdraw() {
					t.Error("Withdraw: got true on the way")
				}
				withdrew = true
			}
		}
		for len(tasks) > 0 && !withdrew { // the dials of shard 0
			next := tasks[0]
			tasks = tasks[1:]
			next()
		}
		if !withdrew {
			t.Fatal("the searcher was not withdrawn on its way")
		}
		select {
		case got := <-searcher.answer:
			refused, ok := got.(*pgwire.Error)
			if !ok {
				t.Fatalf("got %v", got)
			}
			isRefusal(t, refused, pgwire.CodeConnectionFailure, RoutineUnavailable)
		default:
			t.Errorf("late %v: the searcher waits on", late)
		}
		if !late {
			lease.Release()
		}
		for range 2 {
			c.each((*pool.Pool[*conn]).Drain)
			settle()
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// chain does something when it is refused.
type chain struct {
	w       Waiter[*conn]
	refused func()
}

func (c *chain) Granted(*pool.Lease[*conn])   {}
func (c *chain) CheckoutFailed(*pgwire.Error) { c.refused() }

// A waiter that is handed from shard to shard can still be withdrawn, and is answered otherwise.
func TestWithdrawDuringTheSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a := newFakes(), app()
		var shards [][]Endpoint
		for port := range 5 {
			shards = append(shards, []Endpoint{fakeAt(port)})
			f.set(port, errRefused(port))
		}
		r := run(t, Options{Shards: shards}, f.hooks())
		for i := range 200 {
			if i == 100 {
				f.set(3, nil)
				time.Sleep(time.Minute)
			}
			c := r.start(AnyShard, a)
			if c.w.Withdraw() {
				synctest.Wait()
				select {
				case got := <-c.answer:
					t.Fatalf("got %v after a withdrawal", got)
				default:
				}
				continue
			}
			if l, err := c.outcome(t); err == nil {
				l.Release()
			}
		}
	})
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want pool.Failure
		gone bool
	}{
		{pgwire.Fatalf("53300", "too many"), pool.Transient, false},
		{pgwire.Fatalf("57P03", "starting"), pool.Transient, true},
		{pgwire.Fatalf("28P01", "wrong"), pool.Rejected, false},
		{pgwire.Fatalf("28000", "no entry"), pool.Rejected, false},
		{pgwire.Fatalf("3D000", "no database"), pool.Rejected, false},
		{pgwire.Fatalf("57P01", "shutdown"), pool.Unreachable, true},
		{errors.New("refused"), pool.Unreachable, false},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
		if got := ServerGone(c.err); got != c.gone {
			t.Errorf("%v: got gone %v, want %v", c.err, got, c.gone)
		}
	}
}

func TestCheckoutAllocatesNothing(t *testing.T) {
	f, a := newFakes(), app()
	r := run(t, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}}}, f.hooks())
	g := &grantee{}
	g.w.To = g
	r.take(0, a).Release()
	if n := testing.AllocsPerRun(1000, func() {
		r.Checkout(0, topology.Primary, a, &g.w)
		g.l.Release()
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { r.TryCheckout(0, topology.Primary, a, 0, pool.Now()).Release() }); n != 0 {
		t.Errorf("fast path: got %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { r.TryCheckout(AnyShard, topology.Primary, a, 0, pool.Now()).Release() }); n != 0 {
		t.Errorf("fast path, any shard: got %v allocations, want 0", n)
	}
	if r.TryCheckout(7, topology.Primary, a, 0, pool.Now()) != nil {
		t.Error("got a connection to a shard that does not exist")
	}
	if n := testing.AllocsPerRun(1000, func() {
		r.Checkout(AnyShard, topology.Primary, a, &g.w)
		g.l.Release()
	}); n != 0 {
		t.Errorf("any shard: got %v allocations, want 0", n)
	}
}

type grantee struct {
	w Waiter[*conn]
	l *pool.Lease[*conn]
}

func (g *grantee) Granted(l *pool.Lease[*conn])     { g.l = l }
func (g *grantee) CheckoutFailed(err *pgwire.Error) { panic(err) }

func BenchmarkCheckout(b *testing.B) {
	f, a := newFakes(), app()
	r := run(b, Options{Shards: [][]Endpoint{{fakeAt(1)}, {fakeAt(2)}}}, f.hooks())
	g := &grantee{}
	g.w.To = g
	r.take(0, a).Release()
	b.ReportAllocs()
	for b.Loop() {
		r.Checkout(0, topology.Primary, a, &g.w)
		g.l.Release()
	}
}
