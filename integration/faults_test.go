package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What clients see when servers die, freeze, or lose their connections: clean errors, soon; the other shards go on, and so do these
// clients once their server is back.

// unavailable are the outcomes of a statement whose server is gone.
const (
	unavailable       = "08006 shard_unavailable; I"
	unavailableInside = "08006 shard_unavailable; E"
)

// recovery is how long a server may be back before statements run on it again: the health check interval of these tests.
const recovery = 3 * time.Second

// faultyGeneral is the configuration of these tests.
const faultyGeneral = "idle_healthcheck_interval = 3_000\nlog_connections = false\nlog_disconnections = false\n"

// bystander runs statements of a tenant until the function it returns is called; none of them may fail, or take long.
func (s *stand) bystander(t *testing.T, tenant int) (stop func()) {
	t.Helper()
	c := s.connect(t)
	end := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		for i := 0; ; i++ {
			begun := time.Now()
			c.Send(simple(fmt.Sprintf("SELECT %d, count(*) FROM orders WHERE tenant_id = %d AND id < 0", i, tenant)))
			var answer []pgproto3.BackendMessage
			for ready := false; !ready; {
				msg, err := c.Next()
				if err != nil {
					t.Errorf("a client of another shard: %v", err)
					return
				}
				answer = append(answer, msg)
				_, ready = msg.(*pgproto3.ReadyForQuery)
			}
			if got, want := outcome(answer), fmt.Sprintf("%d|0; SELECT 1; I", i); got != want {
				t.Errorf("a client of another shard: got %s, want %s", got, want)
				return
			}
			if took := time.Since(begun); took > 2*time.Second {
				t.Errorf("a client of another shard waited for %v", took)
			}
			select {
			case <-end:
				return
			case <-time.After(2 * time.Millisecond): // so that the machine is not busy with this alone
			}
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { close(end); ended.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// recovered waits until the tenant's statements run again, for all of the clients, and complains if that took longer than the health check interval.
func recovered(t *testing.T, table string, tenant int, clients ...*pgtest.Client) {
	t.Helper()
	begun := time.Now()
	for _, c := range clients {
		eventually(t, "statements run again", func() bool {
			got := outcome(c.Query(fmt.Sprintf("SELECT count(*) FROM %s WHERE tenant_id = %d AND random() < 0", table, tenant)))
			if got != "0; SELECT 1; I" && got != unavailable {
				t.Fatalf("while the server comes back: %s", got)
			}
			return got != unavailable
		})
	}
	if took := time.Since(begun); took > recovery+time.Second { // a second for a machine that is busy
		t.Errorf("recovery took %v", took)
	}
}

// settled waits until the shard's pool and its server agree on how many connections there are, none of which anybody has.
func (s *stand) settled(t *testing.T, shard, limit int) {
	t.Helper()
	label := fmt.Sprintf(`shard="%d"`, shard)
	count := "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = '" + s.shards[shard].db + "'"
	last := ""
	defer func() {
		if t.Failed() {
			t.Log("the last count was ", last)
		}
	}()
	eventually(t, "pool and server agree", func() bool {
		size, used, waiting := s.metric(t, "pool_backends", label), s.metric(t, "pool_backends_used", label), s.metric(t, "pool_clients_waiting", label)
		there := s.shards[shard].rows(t, count)[0]
		last = fmt.Sprintf("size %v, used %v, waiting %v, on the server %s", size, used, waiting, there)
		return used == 0 && waiting == 0 && there == fmt.Sprint(size) && size >= 1 && size <= float64(limit)
	})
}

// A server dies while its clients are in every state that a session can be in.
func TestServerDies(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name string
		down bool // it stays away until it is started again
		die  func(t *testing.T, sh shard)
	}{
		{"killed", true, func(t *testing.T, sh shard) { sh.Kill(t) }},
		{"stopped at once", true, func(t *testing.T, sh shard) { sh.Stop(t, pgtest.Immediate) }},
		{"stopped", true, func(t *testing.T, sh shard) { sh.Stop(t, pgtest.Fast) }},
		{"backends terminated", false, func(t *testing.T, sh shard) {
			sh.Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+sh.db+"'")
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			serverDies(t, way.down, way.die)
		})
	}
}

func serverDies(t *testing.T, down bool, die func(t *testing.T, sh shard)) {
	t.Helper()
	s := start(t, spec{
		instances: []*pgtest.Instance{pgtest.Start(t, pgtest.Config("synchronous_commit", "on")), pgtest.Shared(t)}, schema: tableSchema, rest: twoRanges,
		general: faultyGeneral + "default_pool_size = 8\ncheckout_timeout = 3_000\n",
	})
	const rowsOfOne = "SELECT g, repeat('x', 500) FROM generate_series(1, 1000000) g, (SELECT count(*) FROM orders WHERE tenant_id = 1) o"
	client := func(sql ...string) *pgtest.Client {
		c := s.connect(t)
		for _, q := range sql {
			c.Query(q)
		}
		return c
	}
	// Those that have no backend.
	idle := client("SELECT count(*) FROM orders WHERE tenant_id = 1")
	queued := client("BEGIN", "SET LOCAL work_mem = '1MB'")
	bound := client("SELECT count(*) FROM orders WHERE tenant_id = 1")
	bound.Send(&pgproto3.Parse{Name: "p", Query: "SELECT count(*) FROM orders WHERE tenant_id = $1"}, &pgproto3.Sync{})
	bound.UntilReady()
	// Eight that have one.
	inside := client("BEGIN", "INSERT INTO orders VALUES (1, 1, 'lost')")
	failed := client("BEGIN", "INSERT INTO orders VALUES (1, 2, 'lost')", "SELECT 1/0")
	asleep, asleepInside := client(), client("BEGIN", "INSERT INTO orders VALUES (1, 3, 'lost')")
	for _, c := range []*pgtest.Client{asleep, asleepInside} {
		c.Send(simple("SELECT pg_sleep(60), count(*) FROM orders WHERE tenant_id = 1"))
	}
	reader, copier := client(), client()
	reader.Send(simple(rowsOfOne))
	copier.Send(simple("COPY (" + rowsOfOne + ") TO STDOUT"))
	for _, c := range []*pgtest.Client{reader, copier} {
		c.Receive()
	}
	storer := client()
	storer.Send(simple("COPY orders FROM STDIN"))
	storer.Receive()
	storer.Send(copied("1\t4\tlost\n"))
	pipeline := client()
	pipeline.Send(&pgproto3.Parse{Query: "INSERT INTO orders VALUES (1, 5, 'lost')"}, &pgproto3.Bind{}, &pgproto3.Execute{}, flush)
	for range 3 {
		pipeline.Receive()
	}
	s.shards[0].asleep(t, 2)
	eventually(t, "all backends are in use", func() bool { return s.metric(t, "pool_backends_used", `shard="0"`) == 8 })
	// And three that wait for one.
	var waiting []*pgtest.Client
	for range 3 {
		c := client()
		c.Send(simple("SELECT count(*) FROM orders WHERE tenant_id = 1"))
		waiting = append(waiting, c)
	}
	eventually(t, "three clients wait", func() bool { return s.metric(t, "pool_clients_waiting", `shard="0"`) == 3 })
	stop := s.bystander(t, 1001)

	die(t, s.shards[0])

	expect := func(who string, c *pgtest.Client, wants ...string) {
		t.Helper()
		got := outcome(c.UntilReady())
		if !slices.Contains(wants, got) {
			t.Errorf("%s: got %s, want %s", who, got, strings.Join(wants, " or "))
		}
	}
	ask := func(who string, c *pgtest.Client, sql string, wants ...string) {
		t.Helper()
		c.Send(simple(sql))
		expect(who+", "+sql, c, wants...)
	}
	readers := interrupted(t, "in a result", reader)
	copiers := interrupted(t, "in a COPY TO", copier)
	expect("asleep", asleep, unavailable)
	expect("asleep in a transaction", asleepInside, unavailableInside)
	answers := []string{unavailable}
	if !down {
		answers = append(answers, "0; SELECT 1; I")
	}
	for _, c := range waiting {
		expect("waiting", c, answers...)
	}
	const one, other = "SELECT count(*) FROM orders WHERE tenant_id = 1", "SELECT count(*) FROM orders WHERE tenant_id = 1001"
	ask("in a transaction", inside, one, unavailableInside)
	ask("in a failed transaction", failed, one, unavailableInside, "25P02; E")
	for _, c := range []*pgtest.Client{asleepInside, inside, failed} {
		ask("in a transaction", c, one, "25P02; E")
	}
	ask("in a transaction", asleepInside, "ROLLBACK", "ROLLBACK; I")
	ask("in a transaction", inside, "COMMIT", "ROLLBACK; I")
	ask("in a failed transaction", failed, "ROLLBACK", "ROLLBACK; I")
	pipeline.Send(syncs)
	expect("in a pipeline", pipeline, unavailable)
	storer.Send(copied("1\t6\tlost\n"), done)
	expect("in a COPY FROM", storer, unavailable)
	ask("idle", idle, one, answers...)
	inQueued := []string{unavailableInside}
	if !down {
		inQueued = append(inQueued, "0; SELECT 1; T")
	}
	ask("queued", queued, one, inQueued...)
	ask("queued", queued, "ROLLBACK", "ROLLBACK; I")
	bound.Send(&pgproto3.Bind{PreparedStatement: "p", Parameters: [][]byte{[]byte("1")}}, &pgproto3.Execute{}, syncs)
	expect("prepared", bound, answers...)
	stayed := append(append(append([]*pgtest.Client{idle, queued, bound, inside, failed, asleep, asleepInside, storer, pipeline}, waiting...), readers...), copiers...)
	for _, c := range stayed {
		ask("the other shard", c, other, "0; SELECT 1; I")
	}
	if down {
		late := s.connect(t) // who comes now may log in, and use what is there
		ask("who came late", late, other, "0; SELECT 1; I")
		ask("who came late", late, one, unavailable)
		stayed = append(stayed, late)
		s.shards[0].Restart(t)
	}
	recovered(t, "orders", 1, stayed...)
	for _, c := range stayed {
		ask("when the server is back", c, "SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; I")
	}
	bound.Send(&pgproto3.Bind{PreparedStatement: "p", Parameters: [][]byte{[]byte("1")}}, &pgproto3.Execute{}, syncs)
	expect("prepared before", bound, "0; SELECT 1; I")
	stop()
	s.settled(t, 0, 8)
	s.settled(t, 1, 8)
}

// interrupted reads a long result whose server died: its rows are in order, and then comes an error, or the end of the connection. It returns
// the client if it is still there.
func interrupted(t *testing.T, who string, c *pgtest.Client) []*pgtest.Client {
	t.Helper()
	for row := 1; ; {
		msg, err := c.Next()
		if err != nil {
			t.Logf("%s: the connection ended after %d rows", who, row-1)
			return nil
		}
		var line string
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			line = string(m.Values[0])
		case *pgproto3.CopyData:
			line, _, _ = strings.Cut(string(m.Data), "\t")
		case *pgproto3.ErrorResponse:
			if got := outcome(append([]pgproto3.BackendMessage{m}, c.UntilReady()...)); got != unavailable {
				t.Errorf("%s: %s", who, got)
			}
			return []*pgtest.Client{c}
		case *pgproto3.CommandComplete:
			t.Fatalf("%s: the server should have been gone by the end", who)
		default:
			continue
		}
		if line != fmt.Sprint(row) {
			t.Fatalf("%s: row %s in the place of row %d", who, line, row)
		}
		row++
	}
}

// A server's error ends a COPY while its client is in the middle of a message: what comes of that message is data, whatever it looks like.
func TestCopyFailsInAMessage(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, x := range []struct{ extended, inside bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		c, other := s.connect(t), s.connect(t)
		const copyOrders = "COPY orders FROM STDIN"
		status := "I"
		if x.inside {
			c.Query("BEGIN")
			c.Query("SAVEPOINT a")
			status = "E"
		}
		if x.extended {
			c.Send(&pgproto3.Parse{Query: copyOrders}, &pgproto3.Bind{}, &pgproto3.Execute{}, flush)
			c.Receive()
			c.Receive()
		} else {
			c.Send(simple(copyOrders))
		}
		c.Receive()
		smuggled, err := (&pgproto3.Query{String: "INSERT INTO orders VALUES (1, 666, 'smuggled')"}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		begun, rest := []byte("1\t2\tbegun, and never finished"), append(smuggled, smuggled...)
		length := 4 + len(begun) + len(rest)
		c.Write(append([]byte("d\x00\x00\x00\x15"+"1\tnot a number\tx\n"+"d"), byte(length>>24), byte(length>>16), byte(length>>8), byte(length)))
		c.Write(begun)
		if got := outcome([]pgproto3.BackendMessage{c.Receive()}); got != "22P02" {
			t.Errorf("%+v: %s", x, got)
		}
		if !x.extended {
			if got := outcome(c.UntilReady()); got != status {
				t.Errorf("%+v: what follows the error: %s", x, got)
			}
		}
		protocols[0].play(t, other, "SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; I")
		c.Write(rest)
		c.Send(done)
		if x.extended {
			c.Send(syncs)
			if got := outcome(c.UntilReady()); got != status {
				t.Errorf("%+v: what follows the error: %s", x, got)
			}
		}
		if x.inside {
			protocols[0].play(t, c, "ROLLBACK TO a", "ROLLBACK; T", "SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; T", "COMMIT", "COMMIT; I")
		}
		for _, c := range []*pgtest.Client{c, other} {
			protocols[0].play(t, c, "SELECT count(*) FROM orders WHERE tenant_id = 1", "0; SELECT 1; I")
		}
	}
}

// A server freezes, or everything on the way to it: time-outs do what they are for, and nobody else notices.
func TestServerFreezes(t *testing.T) {
	t.Parallel()
	t.Run("the server", func(t *testing.T) {
		t.Parallel()
		instance := pgtest.Start(t, pgtest.Config("synchronous_commit", "on"))
		s := prepare(t, freezing(t, instance))
		s.startInside()
		serverFreezes(t, s, func() { instance.Freeze(t) }, instance.Thaw)
	})
	t.Run("the network", func(t *testing.T) {
		t.Parallel()
		s := prepare(t, freezing(t, pgtest.SharedSet(t, 2)[1]))
		p := s.throughProxy(0)
		s.startInside()
		serverFreezes(t, s, p.freeze, p.thaw)
	})
}

func freezing(t *testing.T, i *pgtest.Instance) spec {
	t.Helper()
	return spec{
		instances: []*pgtest.Instance{i, pgtest.Shared(t)}, schema: tableSchema, rest: twoRanges,
		general: faultyGeneral + "default_pool_size = 3\ncheckout_timeout = 1_000\nconnect_timeout = 600\nquery_timeout = 2_000\n" +
			"rollback_timeout = 500\nhealthcheck_timeout = 1_000\n",
	}
}

func serverFreezes(t *testing.T, s *stand, freeze, thaw func()) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgkennel's log:\n%s", tail(s.log.String(), 60))
		}
	})
	const one, other = "SELECT count(*) FROM orders WHERE tenant_id = 1", "SELECT count(*) FROM orders WHERE tenant_id = 1001"
	asleep, inside, third, waiting := s.connect(t), s.connect(t), s.connect(t), s.connect(t)
	third.Query("BEGIN")
	third.Query(one)
	inside.Query("BEGIN")
	inside.Query("INSERT INTO orders VALUES (1, 1, 'lost')")
	stop := s.bystander(t, 1001)
	asleep.Send(simple("SELECT pg_sleep(60), count(*) FROM orders WHERE tenant_id = 1"))
	s.shards[0].asleep(t, 1)
	third.Query("COMMIT") // its backend idles

	freeze()
	begun := time.Now()
	within := func(who string, least, most time.Duration) {
		t.Helper()
		if took := time.Since(begun); took < least || took > most+2*time.Second { // two for a machine that is busy
			t.Errorf("%s: answered after %v, and not between %v and %v", who, took, least, most)
		}
	}
	third.Send(simple(one))
	eventually(t, "all three are in use", func() bool { return s.metric(t, "pool_backends_used", `shard="0"`) == 3 })
	waiting.Send(simple(one))
	if got := outcome(waiting.UntilReady()); got != "53300 pool_exhausted; I" {
		t.Errorf("waiting: %s", got)
	}
	within("waiting", 900*time.Millisecond, 1500*time.Millisecond)
	for who, c := range map[string]*pgtest.Client{"asleep": asleep, "on an idle backend": third} {
		if got := outcome(c.UntilReady()); got != unavailable {
			t.Errorf("%s: %s", who, got)
		}
	}
	within("query_timeout", 1500*time.Millisecond, 3*time.Second)
	begun = time.Now()
	waiting.Send(simple(one)) // there is room for a new connection, but nobody who accepts it
	inside.Send(simple(one))
	if got := outcome(waiting.UntilReady()); got != unavailable {
		t.Errorf("with a new connection: %s", got)
	}
	within("connect_timeout", 0, 1500*time.Millisecond)
	if got := outcome(inside.UntilReady()); got != unavailableInside {
		t.Errorf("in a transaction: %s", got)
	}
	within("query_timeout in a transaction", 2*time.Second, 3*time.Second)
	protocols[0].play(t, inside, "ROLLBACK", "ROLLBACK; I")
	clients := []*pgtest.Client{asleep, inside, third, waiting, s.connect(t)}
	for _, c := range clients {
		protocols[0].play(t, c, other, "0; SELECT 1; I")
	}
	thaw()
	recovered(t, "orders", 1, clients...)
	for _, c := range clients {
		protocols[0].play(t, c, one, "0; SELECT 1; I")
	}
	stop()
	s.settled(t, 0, 3)
}

// Clients log in before any server could be asked for its parameters: they are told soon, and let in as soon as a server is there.
func TestLoginWithoutServers(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		shards int
	}{{"one shard", 1}, {"two shards", 2}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			sp := spec{
				shards: x.shards, schema: tableSchema,
				general: faultyGeneral + "checkout_timeout = 1_000\nconnect_timeout = 600\nhealthcheck_timeout = 600\n",
			}
			if x.shards > 1 {
				sp.rest = twoRanges
			}
			s := prepare(t, sp)
			var proxies []*proxy
			for n := range s.shards {
				proxies = append(proxies, s.throughProxy(n))
				proxies[n].freeze()
			}
			s.startInside()
			var all sync.WaitGroup
			for range 5 {
				c := pgtest.Dial(t, s.addr)
				all.Go(func() {
					begun := time.Now()
					err := c.Login(s.login())
					e, ok := errors.AsType[*pgtest.ServerError](err)
					if !ok || e.Code != "08006" || e.Severity != "FATAL" || e.Routine != "shard_unavailable" {
						t.Errorf("login: %v", err)
					}
					if took := time.Since(begun); took > 5*time.Second {
						t.Errorf("it was told after %v", took)
					}
				})
			}
			all.Wait()
			for _, p := range proxies {
				p.thaw()
			}
			begun := time.Now()
			eventually(t, "clients may log in", func() bool {
				c := pgtest.Dial(t, s.addr)
				return c.Login(s.login()) == nil
			})
			if took := time.Since(begun); took > recovery+time.Second {
				t.Errorf("the first login took %v", took)
			}
			recovered(t, "orders", 1, s.connect(t))
		})
	}
}
