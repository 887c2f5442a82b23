package integration

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// SQL's PREPARE, whose statements follow their clients as those of the protocol do.

const namingSchema = "CREATE TABLE things (id int, note text); INSERT INTO things VALUES (1, 'one'), (2, 'two')"

// TestNamesOfManyClients: each has its own, on one backend with room for two.
func TestNamesOfManyClients(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: namingSchema, general: "default_pool_size = 1\nprepared_statements_limit = 2"})
	for _, p := range protocols {
		var clients []*pgtest.Client
		for i := range 4 {
			c := s.connect(t)
			clients = append(clients, c)
			p.play(t, c,
				"PREPARE a AS SELECT 'the same'", "PREPARE; I",
				fmt.Sprintf("PREPARE own (int) AS SELECT note || %d FROM things WHERE id = $1", i), "PREPARE; I",
				fmt.Sprintf("PREPARE name%d AS SELECT 'the same'", i), "PREPARE; I")
		}
		for range 2 {
			for i, c := range clients {
				p.play(t, c, "EXECUTE own(1)", fmt.Sprintf("one%d; SELECT 1; I", i), "EXECUTE a", "the same; SELECT 1; I", fmt.Sprintf("EXECUTE name%d", i), "the same; SELECT 1; I", "EXECUTE name9", "26000; I")
				protocols[0].play(t, c, "EXECUTE own(1); EXECUTE a; EXECUTE own(2)", fmt.Sprintf("one%d; SELECT 1; the same; SELECT 1; two%d; SELECT 1; I", i, i))
			}
		}
		p.play(t, clients[0], "DEALLOCATE ALL", "DEALLOCATE ALL; I", "EXECUTE a", "26000; I")
		protocols[0].play(t, clients[1], "SELECT 1; DEALLOCATE ALL", "1; SELECT 1; DEALLOCATE ALL; I", "EXECUTE a", "26000; I")
		p.play(t, clients[2], "DISCARD ALL", "DISCARD ALL; I", "EXECUTE own(1)", "26000; I")
		p.play(t, clients[3], "EXECUTE own(2)", "two3; SELECT 1; I", "DEALLOCATE own", "DEALLOCATE; I", "PREPARE own AS SELECT 9", "PREPARE; I", "EXECUTE own", "9; SELECT 1; I")
		for _, c := range clients {
			c.Terminate()
		}
	}
	if got := s.pinned(t); len(got) > 0 {
		t.Errorf("pinned by %q", got)
	}
	if n := s.metric(t, "backend_closed_total", `reason="sql_prepare"`); n != 0 {
		t.Errorf("%v backends were closed", n)
	}
}

// TestNamesOnManyBackends: a client finds its statements wherever its transactions run.
func TestNamesOnManyBackends(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: namingSchema, general: "default_pool_size = 2"})
	for _, p := range protocols {
		c, other := s.connect(t), s.connect(t)
		p.play(t, c, "PREPARE a (int) AS SELECT note FROM things WHERE id = $1", "PREPARE; I", "PREPARE gone AS SELECT 1", "PREPARE; I", "BEGIN", "BEGIN; T", "PREPARE b AS SELECT 7", "PREPARE; T", "ROLLBACK", "ROLLBACK; I")
		before := pid(t, c)
		protocols[0].play(t, other, "BEGIN; SELECT 1", "BEGIN; 1; SELECT 1; T")
		for pid(t, other) != before { // which it keeps from the client
			again := s.connect(t)
			protocols[0].play(t, again, "BEGIN; SELECT 1", "BEGIN; 1; SELECT 1; T")
			other.Terminate()
			other = again
		}
		p.play(t, c,
			"EXECUTE a(2)", "two; SELECT 1; I", "BEGIN", "BEGIN; T", "EXECUTE b", "7; SELECT 1; T", "SELECT 1/0", "22012; E", "EXECUTE b", "25P02; E", "ROLLBACK", "ROLLBACK; I",
			"EXPLAIN (COSTS off) EXECUTE b", "Result; EXPLAIN; I", "EXECUTE a(1)", "one; SELECT 1; I", "DEALLOCATE gone", "DEALLOCATE; I", "EXECUTE gone", "26000; I")
		if pid(t, c) == before {
			t.Error("it has the same backend")
		}
		if got := extended(c, bind("", "a", "2"), describe('P', ""), run("", 0)); got != "two; SELECT 1; I" {
			t.Errorf("bound: %s", got)
		}
		protocols[0].play(t, other, "COMMIT", "COMMIT; I")
		c.Terminate()
		other.Terminate()
	}

	// What becomes of a backend is nothing to them.
	c := s.connect(t)
	protocols[0].play(t, c, "PREPARE a AS SELECT 8", "PREPARE; I", "EXECUTE a", "8; SELECT 1; I")
	s.shards[0].rows(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '"+s.shards[0].db+"' AND pid <> pg_backend_pid()")
	eventually(t, "another backend", func() bool { return outcome(c.Query("EXECUTE a")) == "8; SELECT 1; I" })
}

// TestNamesAndTables: tables change under them.
func TestNamesAndTables(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: namingSchema, general: "default_pool_size = 2"})
	for i, p := range protocols {
		table := fmt.Sprint("t", i)
		c := s.connect(t)
		p.play(t, c,
			"CREATE TABLE "+table+" (id int)", "CREATE TABLE; I", "INSERT INTO "+table+" VALUES (1)", "INSERT 0 1; I",
			"PREPARE q AS SELECT * FROM "+table, "PREPARE; I", "EXECUTE q", "1; SELECT 1; I",
			"ALTER TABLE "+table+" ADD more int DEFAULT 2", "ALTER TABLE; I",
			"EXECUTE q", "0A000; I", "EXECUTE q", "1|2; SELECT 1; I", // it is prepared anew
			"DROP TABLE "+table, "DROP TABLE; I", "EXECUTE q", "42P01; I")
		protocols[0].play(t, c,
			"SELECT 1; EXECUTE q", "1; SELECT 1; 42P01; I", "SELECT 1/0; EXECUTE q", "22012; I")
		p.play(t, c,
			"CREATE TABLE "+table+" AS SELECT 'x' AS v", "SELECT 1; I")
		eventually(t, "the new table", func() bool { return outcome(p.run(c, "EXECUTE q")) == "x; SELECT 1; I" })

		// Settings say what a text means when it is prepared.
		p.play(t, c,
			"CREATE SCHEMA other"+table, "CREATE SCHEMA; I", "CREATE TABLE other"+table+"."+table+" AS SELECT 'other' AS v", "SELECT 1; I",
			"SET search_path TO other"+table, "SET; I", "EXECUTE q", "other; SELECT 1; I", "RESET search_path", "RESET; I", "EXECUTE q", "x; SELECT 1; I",
			"BEGIN", "BEGIN; T", "SET LOCAL search_path TO other"+table, "SET; T", "EXECUTE q", "other; SELECT 1; T", "COMMIT", "COMMIT; I", "EXECUTE q", "x; SELECT 1; I")
		c.Terminate()
	}

	// A place in an error is one of the text that the client sent.
	c, twin := s.connect(t), s.direct(t, nil)
	for _, sql := range []string{"/* ü */ PREPARE \"long name of it\" AS SELECT v FROM dropped", "CREATE", "/* ü */ PREPARE \"long name of it\" AS SELECT v FROM dropped", "DROP", "EXECUTE \"long name of it\""} {
		switch sql {
		case "CREATE":
			s.shards[0].rows(t, "CREATE TABLE dropped AS SELECT 1 AS v")
			continue
		case "DROP":
			s.shards[0].rows(t, "DROP TABLE dropped")
			protocols[0].play(t, s.connect(t), "BEGIN; SELECT 1", "BEGIN; 1; SELECT 1; T") // on the backend that has the statement
			continue
		}
		got, want := pgtest.Failure(c.Query(sql)), pgtest.Failure(twin.Query(sql))
		if (got == nil) != (want == nil) || got != nil && (got.Position != want.Position || got.Message != want.Message) {
			t.Errorf("%s: got %v, want %v", sql, got, want)
		}
	}
	protocols[0].play(t, c, "SELECT 1/0; EXECUTE \"long name of it\"", "22012; I", "BEGIN", "BEGIN; T", "SELECT 1; EXECUTE \"long name of it\"", "42P01; E", "ROLLBACK", "ROLLBACK; I")
}

// TestNamesThatAreQuoted: there need be nothing between a name in quotes and the words beside it.
func TestNamesThatAreQuoted(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: namingSchema})
	for _, p := range protocols {
		c, twin := s.connect(t), s.direct(t, nil)
		for _, sql := range []string{
			`PREPARE"a"AS SELECT 1`, `EXECUTE"a"`, `EXECUTE"a"/**/`, `EXPLAIN(COSTS off)EXECUTE"a"`, `CREATE TEMP TABLE x AS EXECUTE"a"WITH NO DATA`, `DROP TABLE x`, `PREPARE"a"AS SELECT 2`, `DEALLOCATE PREPARE"a"`, `EXECUTE"a"`,
			`PREPARE U&"!0061!0022"UESCAPE'!'AS SELECT 3`, `EXECUTE"a"""`, `EXECUTE U&"a!0022"UESCAPE'!'(1)`, `DEALLOCATE"a"""`, `EXECUTE""""`,
			`PREPARE"ü"AS SELECT nothing`, `PREPARE"ü"(int)AS SELECT $1`, `EXECUTE"ü"(nothing)`, `EXECUTE"ü"(4)`, `EXECUTE"ü"('x')`,
		} {
			answer, its := p.run(c, sql), p.run(twin, sql)
			if got, want := outcome(answer), outcome(its); got != want {
				t.Errorf("%s: got %s, want %s", sql, got, want)
			}
			if got, want := pgtest.Failure(answer), pgtest.Failure(its); got != nil && want != nil && (got.Position != want.Position || got.Message != want.Message) {
				t.Errorf("%s: got %v, want %v", sql, got, want)
			}
		}
		c.Terminate()
		twin.Terminate()
	}
}

// TestNamesOnShards: EXECUTE goes by its arguments, wherever PREPARE ran.
func TestNamesOnShards(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, schema: ordersSchema, rest: twoRanges, general: "default_pool_size = 1\n"})
	for _, p := range protocols {
		c := s.connect(t)
		p.play(t, c, "PREPARE ins (bigint, bigint, text) AS INSERT INTO orders (tenant_id, id, note) VALUES ($1, $2, $3)", "PREPARE; I", "PREPARE sel (bigint) AS SELECT note FROM orders WHERE tenant_id = $1", "PREPARE; I")
		for _, tenant := range []string{"1", "1001"} {
			p.play(t, c, "EXECUTE ins("+tenant+", 1, 'of "+tenant+"')", "INSERT 0 1; I", "BEGIN", "BEGIN; T", "EXECUTE sel("+tenant+")", "of "+tenant+"; SELECT 1; T", "COMMIT", "COMMIT; I")
		}
		protocols[0].play(t, c, "PREPARE more (bigint) AS SELECT upper(note) FROM orders WHERE tenant_id = $1; EXECUTE more(1001); DEALLOCATE more", "PREPARE; OF 1001; SELECT 1; DEALLOCATE; I")
		c.Send(parse("parsed", "SELECT note FROM orders WHERE tenant_id = $1"), &pgproto3.Sync{})
		c.UntilReady()
		p.play(t, c, "EXECUTE parsed('1001')", "of 1001; SELECT 1; I", "EXECUTE parsed(1)", "of 1; SELECT 1; I", "EXECUTE parsed(1, 2)", "42601; I")
		for _, tenant := range []string{"1", "1001"} {
			if got := extended(c, bind("", "sel", tenant), run("", 0)); got != "of "+tenant+"; SELECT 1; I" {
				t.Errorf("bound for %s: %s", tenant, got)
			}
			p.play(t, c, "DELETE FROM orders WHERE tenant_id = "+tenant, "DELETE 1; I")
		}
		c.Terminate()
	}
}

// TestNamesInPipelines: what a PREPARE makes is there for what is behind it in the same pipeline.
func TestNamesInPipelines(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, schema: ordersSchema, rest: twoRanges, general: "default_pool_size = 1\n"})
	made := []pgproto3.FrontendMessage{parse("", "/* pgdog_shard: 0 */ PREPARE sel (bigint) AS SELECT 'of ' || $1 FROM (VALUES (1)) v WHERE NOT EXISTS (SELECT FROM orders WHERE tenant_id = $1)"), bind("", ""), run("", 0)}
	executes := func(tenant string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{parse("", "EXECUTE sel("+tenant+")"), bind("", ""), run("", 0)}
	}
	c := s.connect(t)
	for _, x := range []struct {
		msgs []pgproto3.FrontendMessage
		want string
	}{
		{append(made, executes("1")...), "PREPARE; of 1; SELECT 1; I"},
		{append(executes("1"), executes("1")...), "of 1; SELECT 1; of 1; SELECT 1; I"},
		{append(executes("1"), executes("1001")...), "of 1; SELECT 1; 0A000 cross_shard; I"},
		{executes("1001"), "of 1001; SELECT 1; I"},
		{append(made, executes("1")...), "42P05; I"},
		{append(executes("2"), parse("sel", "SELECT 1")), "of 2; SELECT 1; 42P05; I"},
		{[]pgproto3.FrontendMessage{bind("", "sel", "1001"), run("", 0), parse("", "DEALLOCATE sel"), bind("", ""), run("", 0), parse("", "EXECUTE sel(1)"), bind("", ""), run("", 0)}, "of 1001; SELECT 1; DEALLOCATE; 26000; I"},
		{append(made, executes("1001")...), "PREPARE; 0A000 cross_shard; I"},
		{append(executes("1001"), bind("", "sel", "1001"), run("", 0)), "of 1001; SELECT 1; of 1001; SELECT 1; I"}, // PREPARE is not undone
		{append(executes("1"), parse("", "SELECT 1/0"), bind("", ""), run("", 0), parse("", "DEALLOCATE sel"), bind("", ""), run("", 0)), "of 1; SELECT 1; 22012; I"},
		{executes("1"), "of 1; SELECT 1; I"},
	} {
		if got := extended(c, x.msgs...); got != x.want {
			t.Errorf("got %s, want %s", got, x.want)
		}
	}
}

// TestNamesOfTenants: what is prepared is run for whom the session is then, and only as he may.
func TestNamesOfTenants(t *testing.T) {
	t.Parallel()
	s := schemasOnOneBackend(t, "shared")
	for _, p := range protocols {
		one, two, anyone := s.as(t, "app@0", nil), s.as(t, "app@1", nil), s.as(t, "app", nil)
		for range 2 {
			for i, c := range []*pgtest.Client{one, two} {
				p.play(t, c, "PREPARE q AS SELECT note FROM orders", "PREPARE; I", "EXECUTE q", fmt.Sprintf("of %d; SELECT 1; I", i))
			}
			for i, c := range []*pgtest.Client{one, two} {
				p.play(t, c, "EXECUTE q", fmt.Sprintf("of %d; SELECT 1; I", i), "DEALLOCATE q", "DEALLOCATE; I")
			}
		}
		p.play(t, one, "PREPARE q AS SELECT note FROM orders WHERE id = 1", "PREPARE; I")
		for n := range 40 {
			p.play(t, two, fmt.Sprint("EXECUTE pgkennel_", n), "26000; I")
		}
		// One that becomes another's takes its statements along, and not what they may do.
		anyone.Send(parse("role", "SELECT set_config('role', 'none', false)"), parse("path", "SELECT set_config('search_path', 't_1', 'f' = $1)"), &pgproto3.Sync{})
		anyone.UntilReady()
		protocols[0].play(t, anyone, "SET pgkennel.tenant = '1'", "SET; I")
		p.play(t, anyone, "PREPARE q AS SELECT note FROM orders", "PREPARE; I", "EXECUTE q", "of 1; SELECT 1; I")
		protocols[0].play(t, anyone, "SET pgkennel.tenant = '2'", "SET; I")
		p.play(t, anyone, "EXECUTE q", "of 2; SELECT 1; I", "EXECUTE role", "42501 tenant_context; I", "EXPLAIN ANALYZE EXECUTE role", "42501 tenant_context; I", "EXECUTE path('f')", "42501 tenant_context; I",
			"PREPARE more AS SELECT set_config('role', 'none', true)", "42501 tenant_context; I", "PREPARE more AS SELECT note FROM t_1.orders", "42501 tenant_mismatch; I",
			"EXECUTE more", "26000; I", "EXECUTE q", "of 2; SELECT 1; I")
		for _, c := range []*pgtest.Client{one, two, anyone} {
			c.Terminate()
		}
	}
}
