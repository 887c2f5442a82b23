package integration

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Ways that were found to see, or to break, what is another client's. The clients of a stand share one backend for each shard.

// extended runs messages up to a Sync.
func extended(c *pgtest.Client, messages ...pgproto3.FrontendMessage) string {
	c.Send(append(messages, syncs)...)
	return outcome(c.UntilReady())
}

const peek = "/* pgdog_shard: 0 */ SELECT coalesce(current_setting('app.v', true), '')"

// What set_config set is followed also if the client wants no more rows than the one there is.
func TestLeftoversOfASuspendedPortal(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		c := s.connect(t)
		if got := extended(c, parse("", "/* pgdog_shard: 0 */ SELECT set_config('app.v', 'mine', false)"), bind("", ""), run("", 1)); got != "mine; I" {
			t.Errorf("got %s", got)
		}
		if got := outcome(s.connect(t).Query(peek)); got != "; SELECT 1; I" {
			t.Errorf("the next client finds %s", got)
		}
		if got := outcome(c.Query(peek)); got != "mine; SELECT 1; I" {
			t.Errorf("the client itself finds %s", got)
		}
	})
}

// Nobody takes another's statement away, or runs it, by what it is called on the server.
func TestDeallocateOfAnothersStatement(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		const sql = "SELECT note FROM orders WHERE tenant_id = 1"
		a, b := s.connect(t), s.connect(t)
		if got := extended(a, parse("s", sql), bind("", "s"), run("", 0)); got != "SELECT 0; I" {
			t.Fatal(got)
		}
		names := []string{"pgkennel_1"} // as the first statement is called, where nobody may ask
		if outcome := outcome(b.Query("/* pgdog_shard: 0 */ SELECT 1 FROM pg_prepared_statements")); outcome == "1; SELECT 1; I" {
			names = pgtest.Rows(b.Query("SELECT name FROM pg_prepared_statements"))
		} else if outcome != "42501 tenant_missing; I" {
			t.Fatalf("the backend has %s", outcome)
		}
		if got := outcome(b.Query("/* pgdog_shard: 0 */ DEALLOCATE " + names[0] + "; SELECT 1")); got != "26000; I" {
			t.Fatal(got)
		}
		for _, p := range protocols {
			for _, sql := range []string{"EXECUTE ", "EXPLAIN EXECUTE ", "DEALLOCATE ", "DEALLOCATE PREPARE "} {
				p.play(t, b, "/* pgdog_shard: 0 */ "+sql+names[0], "26000; I")
			}
		}
		if got := extended(a, bind("", "s"), run("", 0)); got != "SELECT 0; I" {
			t.Errorf("who prepared it: %s", got)
		}
		if got := extended(s.connect(t), parse("", "SELECT 7"), bind("", ""), run("", 0), parse("s", sql), bind("", "s"), run("", 0)); got != "7; SELECT 1; SELECT 0; I" {
			t.Errorf("another client: %s", got)
		}
	})
}

// A table that is not sharded itself shows the rows of those that inherit from it.
func TestRowsOfHeirs(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, schema: tableSchema + `
CREATE TABLE base (id bigint, note text);
CREATE TABLE kids (tenant_id bigint NOT NULL) INHERITS (base);
CREATE TABLE other (id bigint);
CREATE TABLE others_kids (note text) INHERITS (other);
`})
	s.shards[0].Exec(t, s.shards[0].db, "INSERT INTO kids (id, note, tenant_id) VALUES (1, 'one', 1), (2, 'two', 2)")
	c := s.connect(t)
	for sql, want := range map[string]string{
		"SELECT * FROM base":                                       "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ SELECT * FROM base":                  "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ UPDATE base SET note = ''":           "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ DELETE FROM base":                    "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ TRUNCATE base":                       "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ COPY (SELECT * FROM base) TO STDOUT": "42501 tenant_missing; I",
		"/* pgdog_shard: 0 */ INSERT INTO base VALUES (7, '')":     "INSERT 0 1; I",
		"SELECT b.note FROM kids b WHERE tenant_id = 1":            "one; SELECT 1; I",
		"SELECT * FROM other":                                      "SELECT 0; I",
	} {
		if got := outcome(c.Query(sql)); got != want {
			t.Errorf("%s: got %s, want %s", sql, got, want)
		}
	}
	if rows := s.shards[0].rows(t, "SELECT note FROM kids ORDER BY 1"); len(rows) != 2 || rows[0] != "one" {
		t.Errorf("the shard has %q", rows)
	}
}

// SET FROM CURRENT is no value that a connection could be told to have: two clients would have the same of it.
func TestSetFromCurrent(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		a, b := s.connect(t), s.connect(t)
		for value, c := range map[string]*pgtest.Client{"a": a, "b": b} {
			for _, sql := range []string{"SET app.v = '" + value + "'", "BEGIN", "SET app.v FROM CURRENT", "COMMIT", "SET app.v FROM CURRENT"} {
				if got := outcome(c.Query(sql)); len(got) > len("COMMIT; I") {
					t.Fatalf("%s: %s", sql, got)
				}
			}
		}
		for range 2 {
			for value, c := range map[string]*pgtest.Client{"a": a, "b": b, "": s.connect(t)} {
				if got := outcome(c.Query(peek)); got != value+"; SELECT 1; I" {
					t.Errorf("%q finds %s", value, got)
				}
			}
		}
	})
}

// What set_config would set is not set by statements that do not run it.
func TestSetConfigThatDoesNotRun(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		for _, x := range []struct{ sql, answer, want string }{
			{"EXPLAIN (COSTS off) SELECT set_config('app.v', 'x', false)", "Result; EXPLAIN; I", ""},
			{"PREPARE p AS SELECT set_config('app.v', 'x', false)", "PREPARE; I", ""},
			{"BEGIN; DECLARE p CURSOR FOR SELECT set_config('app.v', 'x', false); END", "BEGIN; DECLARE CURSOR; COMMIT; I", ""},
			{"EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT set_config('app.v', 'x', false)", "Result (actual rows=1 loops=1); EXPLAIN; I", "x"},
		} {
			sql, c := x.sql, s.connect(t)
			protocols[0].play(t, c, "/* pgdog_shard: 0 */ "+sql, x.answer)
			if got := outcome(c.Query(peek)); got != x.want+"; SELECT 1; I" {
				t.Errorf("%s: the client finds %s", sql, got)
			}
			if strings.HasPrefix(sql, "PREPARE") {
				protocols[0].play(t, c, "DEALLOCATE p", "DEALLOCATE; I") // it keeps the only connection until then
			}
			if got := outcome(s.connect(t).Query(peek)); got != "; SELECT 1; I" {
				t.Errorf("%s: the next client finds %s", sql, got)
			}
		}
	})
}

// DISCARD ALL takes the pooler's own settings as well: who is next on the client's connection has not asked for a shard.
func TestDiscardTakesTheHint(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	protocols[0].play(t, c, "SET pgdog.shard = 1", "SET; I", "SHOW pgdog.shard", "1; SHOW; I", "DISCARD ALL", "DISCARD ALL; I")
	if got := outcome(c.Query("SHOW pgdog.shard")); got != "; SHOW; I" {
		t.Errorf("the hint is %s", got)
	}
	if got := outcome(c.Query("INSERT INTO notes VALUES (1, 'x')")); got != "0A000 shard_missing; I" {
		t.Errorf("a write without a shard: %s", got)
	}
}

// A chained transaction has the characteristics of the one before it, also if no server knows of that.
func TestChainsOfQueuedTransactions(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: tableSchema})
	for _, x := range [][]string{
		{"BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", "COMMIT AND CHAIN"},
		{"BEGIN ISOLATION LEVEL SERIALIZABLE", "SET LOCAL work_mem = '1MB'", "SET TRANSACTION READ ONLY", "ROLLBACK AND CHAIN"},
		{"BEGIN", "SET transaction_isolation = 'repeatable read'", "ROLLBACK AND CHAIN"},
		{"BEGIN", "SAVEPOINT a", "SET TRANSACTION READ ONLY", "ROLLBACK TO a", "COMMIT AND CHAIN"},
		{"BEGIN", "SAVEPOINT a", "SET TRANSACTION READ ONLY", "RELEASE a", "COMMIT AND CHAIN", "COMMIT AND CHAIN"},
		{"BEGIN", "SAVEPOINT a", "SET TRANSACTION READ ONLY", "COMMIT AND CHAIN"},
		{"BEGIN", "SAVEPOINT a", "SET TRANSACTION READ ONLY", "ROLLBACK AND CHAIN"},
	} {
		c, twin := s.connect(t), s.direct(t, nil)
		for _, sql := range append(x, "SHOW transaction_isolation", "SHOW transaction_read_only", "ROLLBACK") {
			if got, want := outcome(c.Query(sql)), outcome(twin.Query(sql)); got != want {
				t.Errorf("%v: %s: got %s, want %s", x, sql, got, want)
			}
		}
	}
}

// A chain behind a transaction that was lost, of whose beginning nothing was queued.
func TestChainBehindALostTransaction(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: tableSchema})
	c := s.connect(t)
	pid := pgtest.Rows(c.Query("BEGIN; SELECT pg_backend_pid()"))[0]
	s.shards[0].Exec(t, "postgres", "SELECT pg_terminate_backend("+pid+")")
	eventually(t, "the client hears of it", func() bool { got := outcome(c.Query("SELECT 1")); return got[len(got)-1] == 'E' })
	for _, x := range [][2]string{{"ROLLBACK AND CHAIN", "ROLLBACK; T"}, {"SELECT 1", "1; SELECT 1; T"}, {"COMMIT", "COMMIT; I"}, {"SELECT 2", "2; SELECT 1; I"}} {
		if got := outcome(c.Query(x[0])); got != x[1] {
			t.Errorf("%s: got %s, want %s", x[0], got, x[1])
		}
	}
}

// What is made while search_path begins with pg_temp is temporary, without the word.
func TestLeftoversOfATemporaryPath(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		for i, x := range [][]string{
			{"SET search_path = pg_temp, public", "CREATE TABLE secret (x text)"},
			{"SET search_path = pg_temp, public", "CREATE TABLE secret AS SELECT 1 AS x"},
			{"SET search_path = pg_temp, public", "SELECT 1 AS x INTO secret"},
			{"SET search_path = pg_temp, public", "CREATE VIEW secret AS SELECT 1 AS x"},
			{"SET search_path = pg_temp, public; CREATE TABLE secret (x text)"},
			{"BEGIN; SET LOCAL search_path = pg_temp, public; CREATE TABLE secret (x text); COMMIT"},
			{"SELECT set_config('search_path', 'pg_temp', false); CREATE TABLE secret (x text)"},
		} {
			c := s.connect(t)
			for _, sql := range x {
				if got := outcome(c.Query("/* pgdog_shard: 0 */ " + sql)); got[len(got)-1] != 'I' || got[0] >= '2' && got[0] <= '4' {
					t.Fatalf("%s: %s", sql, got)
				}
			}
			c.Terminate()
			if got := outcome(s.connect(t).Query("/* pgdog_shard: 0 */ SELECT count(to_regclass('pg_temp.secret'))")); got != "0; SELECT 1; I" {
				t.Errorf("%d: the next client finds %s", i, got)
			}
		}
	})
}

// A client's seed decides nobody else's random numbers.
func TestLeftoversOfASeed(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 1, schema: tableSchema, general: "default_pool_size = 1"})
	for sql, want := range map[string]string{
		"SET seed = 0.5": "SET; I", "SELECT set_config('seed', '0.5', false)": "unavailable; SELECT 1; I", "BEGIN; SET LOCAL seed = 0.5; COMMIT": "BEGIN; SET; COMMIT; I",
		"SELECT setseed(0.5)": "; SELECT 1; I",
	} {
		c := s.connect(t)
		before := pid(t, c)
		protocols[0].play(t, c, sql, want)
		if after := pid(t, s.connect(t)); after == before {
			t.Errorf("%s: the next client gets the same backend", sql)
		}
	}
}

// Behind a Parse of the unnamed statement that failed there is none: what came before it is not run in its place.
func TestUnnamedStatementBehindAnError(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		for _, bad := range []string{"SELECT nonsense", "SELEC"} {
			c, twin := s.connect(t), s.direct(t, nil)
			for _, messages := range [][]pgproto3.FrontendMessage{
				{parse("", "SELECT 1"), bind("", ""), run("", 0)},
				{parse("", bad)},
				{bind("", ""), run("", 0)},
				{describe('S', "")},
				{parse("", "SELECT 2"), bind("", ""), run("", 0), parse("", bad)},
				{bind("", ""), run("", 0)},
			} {
				got, want := strings.ReplaceAll(extended(c, messages...), " unparsable", ""), extended(twin, messages...)
				if got != want {
					t.Errorf("%s: got %s, want %s", bad, got, want)
				}
			}
		}
	})
}
