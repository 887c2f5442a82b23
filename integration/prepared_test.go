package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Named prepared statements of many clients on few backends.

// execute binds a statement to text parameters and runs it.
func execute(c *pgtest.Client, name string, params ...string) string {
	bind := &pgproto3.Bind{PreparedStatement: name}
	for _, p := range params {
		bind.Parameters = append(bind.Parameters, []byte(p))
	}
	c.Send(bind, &pgproto3.Execute{}, &pgproto3.Sync{})
	return outcome(c.UntilReady())
}

// prepareAs parses a statement and returns the outcome.
func prepareAs(c *pgtest.Client, name, sql string, types ...uint32) string {
	c.Send(&pgproto3.Parse{Name: name, Query: sql, ParameterOIDs: types}, &pgproto3.Sync{})
	return outcome(c.UntilReady())
}

// 50 clients have 200 statements each on 2 backends that keep 10. Half of the statements are the same for all clients, the
// others have the same name and another text in each.
func TestPreparedStatementsOfManyClients(t *testing.T) {
	t.Parallel()
	const clients, statements, limit = 50, 200, 10
	s := start(t, spec{general: fmt.Sprintf("default_pool_size = 2\nprepared_statements_limit = %d\nlog_connections = false\nlog_disconnections = false", limit)})
	var all sync.WaitGroup
	for n := range clients {
		c := s.connect(t)
		all.Go(func() {
			text := func(i int) (sql string, plus int) {
				plus = i
				if i%2 == 1 {
					plus += 1000 * n
				}
				return fmt.Sprintf("SELECT $1::int + %d", plus), plus
			}
			var batch []pgproto3.FrontendMessage
			for i := range statements {
				sql, _ := text(i)
				batch = append(batch, &pgproto3.Parse{Name: fmt.Sprint("s", i), Query: sql})
			}
			c.Send(append(batch, &pgproto3.Sync{})...)
			if got, want := pgtest.Format(c.UntilReady()...), strings.Repeat("ParseComplete ", statements)+"ReadyForQuery(I)"; got != want {
				t.Errorf("client %d: Parse: %.300s", n, got)
				return
			}
			rnd := rand.New(rand.NewPCG(uint64(n), 2))
			for range statements / 10 {
				batch = batch[:0]
				var want string
				for range 5 {
					i := rnd.IntN(statements)
					_, plus := text(i)
					batch = append(batch, &pgproto3.Bind{PreparedStatement: fmt.Sprint("s", i), Parameters: [][]byte{[]byte("1000000")}}, &pgproto3.Execute{})
					want += strconv.Itoa(1000000+plus) + "; SELECT 1; "
				}
				c.Send(append(batch, &pgproto3.Sync{})...)
				if got := outcome(c.UntilReady()); got != want+"I" {
					t.Errorf("client %d: got %s, want %s", n, got, want)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	c := s.connect(t)
	for range 10 {
		rows := pgtest.Rows(c.Query("SELECT count(*) FROM pg_prepared_statements"))
		if kept, _ := strconv.Atoi(rows[0]); kept > limit {
			t.Errorf("a backend keeps %d statements, more than %d", kept, limit)
		}
	}
	if n := s.metric(t, "backend_parse_evictions_total"); n == 0 {
		t.Error("nothing was evicted, or nobody counted")
	}
	if n := s.metric(t, "backend_closed_total"); n > 0 {
		t.Errorf("%v backends were closed", n)
	}
}

// A statement's life, as on a connection of one's own.
func TestPreparedStatementsLive(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		c, other := s.connect(t), s.connect(t)
		is := func(got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		is(prepareAs(c, "a", "SELECT 1"), "I")
		is(prepareAs(other, "a", "SELECT 2"), "I")
		is(execute(c, "a"), "1; SELECT 1; I")
		is(execute(other, "a"), "2; SELECT 1; I")
		is(prepareAs(c, "a", "SELECT 3"), "42P05; I")
		is(execute(c, "a"), "1; SELECT 1; I")

		// Close: it is gone, closing it again is no error, and the name is free.
		for range 2 {
			c.Send(&pgproto3.Close{ObjectType: 'S', Name: "a"}, &pgproto3.Sync{})
			is(pgtest.Format(c.UntilReady()...), "CloseComplete ReadyForQuery(I)")
		}
		is(execute(c, "a"), "26000; I")
		is(execute(other, "a"), "2; SELECT 1; I")
		is(prepareAs(c, "a", "SELECT 4"), "I")
		is(execute(c, "a"), "4; SELECT 1; I")

		// DEALLOCATE, by both protocols.
		for _, p := range protocols {
			prepareAs(c, "b", "SELECT 5")
			p.play(t, c, "DEALLOCATE b", "DEALLOCATE; I", "DEALLOCATE b", "26000; I")
			is(execute(c, "b"), "26000; I")
			prepareAs(c, "b", "SELECT 5")
			p.play(t, c, "DEALLOCATE PREPARE ALL", "DEALLOCATE ALL; I")
			is(execute(c, "a"), "26000; I")
			is(execute(c, "b"), "26000; I")
			prepareAs(c, "a", "SELECT 4")
			p.play(t, c, "DISCARD ALL", "DISCARD ALL; I")
			is(execute(c, "a"), "26000; I")
			prepareAs(c, "a", "SELECT 4")
		}
		is(execute(other, "a"), "2; SELECT 1; I")

		// What fails to parse does not exist, neither alone nor behind an error.
		is(prepareAs(c, "bad", "SELEC"), map[bool]string{true: "42601 unparsable; I", false: "42601; I"}[len(s.shards) > 1])
		is(execute(c, "bad"), "26000; I")
		is(prepareAs(c, "bad", "SELECT nonsense"), "42703; I")
		is(execute(c, "bad"), "26000; I")
		c.Send(&pgproto3.Parse{Name: "x", Query: "SELECT nonsense"}, &pgproto3.Parse{Name: "y", Query: "SELECT 6"}, &pgproto3.Sync{})
		is(outcome(c.UntilReady()), "42703; I")
		is(execute(c, "y"), "26000; I")
		c.Send(&pgproto3.Parse{Name: "z", Query: "SELECT 7"}, &pgproto3.Parse{Name: "x", Query: "SELECT nonsense"}, &pgproto3.Sync{})
		is(outcome(c.UntilReady()), "42703; I")
		is(execute(c, "z"), "7; SELECT 1; I") // prepared statements are not undone

		// The same text with other types is another statement.
		is(prepareAs(c, "int", "SELECT $1", 23), "I")
		is(prepareAs(c, "text", "SELECT $1", 25), "I")
		is(execute(c, "int", "abc"), "22P02; I")
		is(execute(c, "text", "abc"), "abc; SELECT 1; I")

		// They outlive transactions, whatever becomes of those.
		c.Query("BEGIN")
		is(prepareAs(c, "t", "SELECT 8"), "T")
		is(execute(c, "t"), "8; SELECT 1; T")
		c.Query("ROLLBACK")
		is(execute(c, "t"), "8; SELECT 1; I")
		c.Query("BEGIN")
		c.Query("SELECT 1/0")
		is(execute(c, "t"), "25P02; E")
		c.Query("ROLLBACK")
		is(execute(c, "t"), "8; SELECT 1; I")

		// The unnamed one too, until the next Parse or Query.
		is(prepareAs(c, "", "SELECT $1::text || 'x'"), "I")
		for range 3 {
			other.Extended("SELECT 'another unnamed one'")
			is(execute(c, "", "y"), "yx; SELECT 1; I")
		}
		c.Query("SELECT 1")
		is(execute(c, "", "y"), "26000; I")
	})
}

// Text that resolves by search_path is prepared for each.
func TestPreparedStatementsAndSearchPath(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		schema:  "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (x int); CREATE TABLE b.t (y text, z int); INSERT INTO a.t VALUES (1); INSERT INTO b.t VALUES ('two', 2)",
		general: "default_pool_size = 1",
	})
	a, b := s.with(t, map[string]string{"search_path": "a"}), s.with(t, map[string]string{"search_path": "b"})
	for range 3 {
		for c, want := range map[*pgtest.Client]string{a: "1; SELECT 1; I", b: "two|2; SELECT 1; I"} {
			if _, ok := c.Params["prepared"]; !ok {
				prepareAs(c, "t", "SELECT * FROM t")
				c.Params["prepared"] = ""
			}
			if got := execute(c, "t"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// Statements of one text are one on a server connection, and have one plan: that of whichever was run first.
func TestPreparedTextsShareAPlan(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: "CREATE TABLE plans (id int PRIMARY KEY)"})
	for name, x := range map[string]struct {
		c      *pgtest.Client
		second string
	}{
		"pgkennel": {s.connect(t), "Index Only Scan using plans_pkey on plans;   Index Cond: (id = 34); EXPLAIN; T"}, "PostgreSQL": {s.direct(t, nil), "Seq Scan on plans;   Filter: (id = 34); EXPLAIN; T"},
	} {
		t.Run(name, func(t *testing.T) {
			protocols[0].play(t, x.c,
				"PREPARE one AS SELECT id FROM plans WHERE id = 34", "PREPARE; I", "PREPARE two AS SELECT id FROM plans WHERE id = 34", "PREPARE; I", "BEGIN", "BEGIN; T",
				"SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off", "SET; SET; T",
				"EXPLAIN (COSTS off) EXECUTE one", "Index Only Scan using plans_pkey on plans;   Index Cond: (id = 34); EXPLAIN; T",
				"SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off", "SET; SET; SET; T",
				"EXPLAIN (COSTS off) EXECUTE two", x.second, "ROLLBACK", "ROLLBACK; I")
		})
	}
}
