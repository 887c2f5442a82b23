package cluster

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func TestCheckoutRunsOnItsShard(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	one, two := shared.CreateDatabase(t), shared.CreateDatabase(t)
	su := superuser()
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, one, settings(2))}, {at(t, shared, two, settings(2))}},
		Logins: []*Login{su},
	}, pgHooks())
	for shard, want := range []string{one, two} {
		l := r.take(topologyID(shard), su)
		if got, err := l.Conn().ask(t.Context(), "select current_database()"); err != nil || got != want {
			t.Errorf("shard %d: got %q, %v, want %q", shard, got, err, want)
		}
		l.Release()
	}
	r.refused(2, su, pgwire.CodeConnectionFailure, RoutineUnavailable)
	if r.Shards() != 2 || r.Name() != "shop" {
		t.Errorf("got %d shards of %q", r.Shards(), r.Name())
	}
	eventually(t, "both endpoints up", func() bool { return r.Healthy(0) && r.Healthy(1) })
	if r.Healthy(2) {
		t.Error("a shard that does not exist is healthy")
	}
}

func TestPoolExhausted(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	s := settings(1)
	s.CheckoutTimeout = time.Second // which has to do for a login on a busy machine
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", s)}}}, pgHooks())
	l := r.take(0, su)
	r.refused(0, su, pgwire.CodeTooManyConnections, RoutineExhausted)
	waiter := r.start(0, su)
	if !waiter.w.Withdraw() {
		t.Error("Withdraw: got false")
	}
	l.Release()
	r.take(0, su).Release()
}

func TestWrongPasswordOfOursIsNotTheClientsFault(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	app := shared.CreateUser(t, "right", "scram-sha-256")
	wrong, right := password(app, "wrong"), password(app, "right")
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(2))}}, Service: superuser()}, pgHooks())
	r.refused(0, wrong, pgwire.CodeConnectionFailure, RoutineUnavailable)
	if log := r.log.String(); !strings.Contains(log, "server connection not opened") || !strings.Contains(log, "reason=rejected") ||
		!strings.Contains(log, "password authentication failed") || !strings.Contains(log, shared.Addr()) || strings.Contains(log, "wrong") {
		t.Errorf("got log %s", log)
	}
	begun := time.Now()
	for range 100 { // remembered
		r.refused(0, wrong, pgwire.CodeConnectionFailure, RoutineUnavailable)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("got 100 refusals in %v", took)
	}
	r.take(0, right).Release()
	eventually(t, "the endpoint is up", func() bool { return r.Healthy(0) })
}

func TestMissingDatabaseIsDown(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "no_such_database", settings(2))}}, Logins: []*Login{su}}, pgHooks())
	r.refused(0, su, pgwire.CodeConnectionFailure, RoutineUnavailable)
	eventually(t, "down", func() bool { return r.Health()[0].State == Down })
	if r.Healthy(0) {
		t.Error("the shard is healthy")
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	dead := at(t, shared, "postgres", settings(1))
	dead.Address.Port = closedPort(t)
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{dead}, {at(t, shared, "postgres", settings(1))}}}, pgHooks())
	if p := r.Parameters(); p != nil {
		t.Errorf("got %v before any connection", p)
	}
	params, err := r.WaitParameters(t.Context(), topology.Primary, su)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range params {
		got[p.Name] = p.Value
	}
	if got["server_encoding"] != "UTF8" || !strings.HasPrefix(got["server_version"], strconv.Itoa(shared.Major)) {
		t.Errorf("got %v", got)
	}
	if again, err := r.WaitParameters(t.Context(), topology.Primary, nil); err != nil || len(again) != len(params) {
		t.Errorf("got %v, %v", again, err)
	}
}

func TestParametersOfNobody(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	dead := at(t, shared, "postgres", settings(1))
	dead.Address.Port = closedPort(t)
	r := run(t, Options{Shards: [][]Endpoint{{dead}}}, pgHooks())
	_, err := r.WaitParameters(t.Context(), topology.Primary, superuser())
	if e, ok := errors.AsType[*pgwire.Error](err); !ok || e.Code != pgwire.CodeConnectionFailure {
		t.Errorf("got %v", err)
	}
}

func TestServerDownFailsFastAndRecovers(t *testing.T) {
	t.Parallel()
	inst := pgtest.Start(t)
	s := settings(20)
	s.CheckoutTimeout = time.Minute
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, inst, "postgres", s)}}, Logins: []*Login{su}, HealthInterval: 100 * time.Millisecond}, pgHooks())
	lease := r.take(0, su)
	lease.Release()
	eventually(t, "up", func() bool { return r.Healthy(0) })

	inst.Kill(t)
	begun := time.Now()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			l, err := r.start(0, su).outcome(t)
			if err != nil {
				isRefusal(t, err, pgwire.CodeConnectionFailure, RoutineUnavailable)
				return
			}
			_, broke := l.Conn().ask(t.Context(), "select 1") // the one that was idle
			if broke == nil {
				t.Error("a dead server answered")
			}
			r.Discard(l, "server_closed", broke)
		})
	}
	wg.Wait()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("1000 checkouts took %v", took)
	}
	eventually(t, "down", func() bool { return !r.Healthy(0) && r.Health()[0].State == Down })
	if r.Health()[0].Err == nil {
		t.Error("down without a cause")
	}

	inst.Restart(t)
	eventually(t, "up again", func() bool { return r.Healthy(0) })
	l := r.take(0, su)
	if _, err := l.Conn().ask(t.Context(), "select 1"); err != nil {
		t.Error(err)
	}
	l.Release()
}

func TestRestartReplacesIdleConnections(t *testing.T) {
	t.Parallel()
	inst := pgtest.Start(t)
	s := settings(10)
	s.Min, s.HealthInterval = 5, 50*time.Millisecond
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, inst, "postgres", s)}}, Logins: []*Login{su}, HealthInterval: 50 * time.Millisecond}, pgHooks())
	eventually(t, "Min connections", func() bool { return r.Stats().Idle == 5 })
	before := map[uint32]bool{}
	for _, s := range r.Servers() {
		before[s.Conn.PID()] = true
	}
	inst.Restart(t)
	eventually(t, "five new ones", func() bool {
		fresh := 0
		for _, s := range r.Servers() {
			if s.State == pool.Idle && !before[s.Conn.PID()] {
				fresh++
			}
		}
		return fresh == 5
	})
	for range 5 {
		l := r.take(0, su)
		if _, err := l.Conn().ask(t.Context(), "select 1"); err != nil {
			t.Error(err)
		}
		l.Release()
	}
}

// A frozen server answers nothing and closes nothing: only time tells.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	inst := pgtest.Start(t)
	s := settings(2)
	s.HealthInterval, s.HealthTimeout = 50*time.Millisecond, 100*time.Millisecond
	e := at(t, inst, "postgres", s)
	e.ConnectTimeout = 200 * time.Millisecond
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{e}}, Logins: []*Login{su}, HealthInterval: 50 * time.Millisecond, HealthTimeout: 200 * time.Millisecond}, pgHooks())
	r.take(0, su).Release()
	inst.Freeze(t)
	eventually(t, "down", func() bool { return r.Health()[0].State == Down })
	r.refused(0, su, pgwire.CodeConnectionFailure, RoutineUnavailable)
	inst.Thaw()
	eventually(t, "up", func() bool { return r.Health()[0].State == Up })
	eventually(t, "a checkout works", func() bool {
		l, err := r.start(0, su).outcome(t)
		if err != nil {
			return false
		}
		defer l.Release()
		_, broke := l.Conn().ask(t.Context(), "select 1")
		return broke == nil
	})
}

// The server has no more room: who waits goes on waiting, and the endpoint is not down.
func TestTooManyConnectionsIsWaitedOut(t *testing.T) {
	t.Parallel()
	inst := pgtest.Start(t, pgtest.MaxConnections(5), pgtest.Config("superuser_reserved_connections", "0"))
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, inst, "postgres", settings(10))}}, Service: su}, pgHooks())
	var taken []*pool.Lease[*conn]
	for range 4 {
		taken = append(taken, r.take(0, su))
	}
	other := inst.Connect(t, pgtest.Login{User: pgtest.Superuser, Database: "postgres"}) // the fifth
	waiter := r.start(0, su)
	eventually(t, "a refused dial", func() bool { return r.Pools()[0].OpenFailures > 0 })
	if r.Health()[0].State == Down {
		t.Error("a full server counts as down")
	}
	other.Terminate()
	lease, err := waiter.outcome(t)
	if err != nil {
		t.Fatalf("got %+v", err)
	}
	lease.Release()
	for _, l := range taken {
		l.Release()
	}
}

func TestKillAndReconnect(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(2))}}}, pgHooks())
	idle, busy := r.take(0, su), r.take(0, su)
	first := idle.Conn().PID()
	idle.Release()
	r.Reconnect()
	again := r.take(0, su)
	if again.Conn().PID() == first {
		t.Error("Reconnect: got the old connection")
	}
	broke := make(chan error, 1)
	go func() {
		_, err := busy.Conn().ask(context.Background(), "select pg_sleep(60)")
		broke <- err
	}()
	r.Kill()
	if err := <-broke; err == nil {
		t.Error("Kill: the holder's query went on")
	}
	busy.Discard("killed")
	again.Release()
	r.take(0, su).Release()
	eventually(t, "one connection", func() bool { return r.Stats().Total == 1 })
}

// closedPort is a port that nobody listens on, for as long as nobody else takes it.
func closedPort(t *testing.T) int {
	t.Helper()
	s := pgtest.NewFakeServer(t, func(*pgtest.FakeConn) error { return nil })
	a := address(t, s.Addr)
	s.Close()
	return a.Port
}

func TestDialOptionsOfEndpointAndLogin(t *testing.T) {
	t.Parallel()
	e := Endpoint{Address: backend.Address{Host: "h", Port: 1}, Database: "d", Params: []pgwire.Param{{Name: "a", Value: "1"}}}
	l := NewLogin(LoginOptions{User: "u", Params: []pgwire.Param{{Name: "b", Value: "2"}}})
	o := e.dial(l)
	if o.User != "u" || o.Database != "d" || len(o.Params) != 2 || o.ConnectTimeout != 5*time.Second || l.Name != "u" {
		t.Errorf("got %+v", o)
	}
	if l.key == NewLogin(LoginOptions{User: "u"}).key {
		t.Error("logins without identity share pools")
	}
	if superuser().key != superuser().key {
		t.Error("logins of one identity don't share pools")
	}
}
