package integration

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What functions, triggers and the like leave behind is found out by what they do.

const codeSchema = `
CREATE EXTENSION "uuid-ossp"; CREATE EXTENSION pgcrypto;
CREATE TABLE notes (id int PRIMARY KEY DEFAULT 0, body text, at timestamptz);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF n > 100 THEN RAISE EXCEPTION 'too many'; END IF; RETURN 2 * n; END $$;
CREATE FUNCTION remember(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.local', what, true); RETURN current_setting('app.local'); END $$;
CREATE PROCEDURE add(n int) LANGUAGE plpgsql AS $$ BEGIN UPDATE notes SET body = twice(n)::text; END $$;
CREATE FUNCTION leave(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.left', what, false); END $$;
CREATE FUNCTION leaves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM leave('by a trigger'); RETURN NEW; END $$;
CREATE TABLE leaving (id int); CREATE TRIGGER t AFTER INSERT ON leaving FOR EACH ROW EXECUTE FUNCTION leaves();
CREATE TABLE locking (id int, locked bool DEFAULT pg_try_advisory_lock(7));
CREATE FUNCTION temp() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS left_behind (id int); RETURN 1; END $$;
CREATE VIEW temping AS SELECT temp() AS x;
`

// codeStands are a plain pooler, which has no use for tables otherwise, and two shards. Statements begin with the hint.
func codeStands(t *testing.T, f func(t *testing.T, s *stand, hint string)) {
	for _, x := range []struct {
		name, hint, rest string
		shards           int
	}{{"plain", "", "", 1}, {"sharded", "/* pgdog_shard: 1 */ ", twoRanges, 2}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			f(t, start(t, spec{shards: x.shards, rest: x.rest, schema: codeSchema, general: "default_pool_size = 1"}), x.hint)
		})
	}
}

// pidBehind is pid on the shard of the hint.
func pidBehind(t *testing.T, c *pgtest.Client, hint string) string {
	t.Helper()
	rows := pgtest.Rows(c.Query(hint + "SELECT pg_backend_pid()"))
	if len(rows) != 1 {
		t.Fatalf("pg_backend_pid: %v", rows)
	}
	return rows[0]
}

// keeps reports whether the next client gets the backend on which sql ran, in a transaction that is rolled back.
func (s *stand) keeps(t *testing.T, hint, sql string) bool {
	t.Helper()
	c := s.connect(t)
	defer c.Close()
	before := pidBehind(t, c, hint)
	c.Query("BEGIN")
	if e := pgtest.Failure(c.Query(hint + sql)); e != nil {
		t.Fatalf("%s: %s", sql, e.Message)
	}
	c.Query("ROLLBACK")
	return pidBehind(t, c, hint) == before
}

// Functions and triggers that leave nothing cost what any other statement does: the backend is kept.
func TestHarmlessCodeKeepsItsBackend(t *testing.T) {
	t.Parallel()
	codeStands(t, func(t *testing.T, s *stand, hint string) {
		statements := []string{
			"SELECT twice(21)", "SELECT uuid_generate_v4() <> gen_random_uuid(), crypt('x', gen_salt('md5')) <> ''",
			"INSERT INTO notes VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET body = twice(3)::text", "UPDATE notes SET body = 'y'",
			"CALL add(1)", "SELECT remember('x')", "DELETE FROM notes",
		}
		for _, sql := range statements {
			eventually(t, sql+" keeps its backend", func() bool { return s.keeps(t, hint, sql) })
		}
		c, other := s.connect(t), s.connect(t)
		before := pidBehind(t, other, hint)
		closed := s.metric(t, "backend_closed_total")
		for range 5 {
			for _, p := range protocols {
				for _, sql := range statements {
					if e := pgtest.Failure(p.run(c, hint+sql)); e != nil {
						t.Fatalf("%s: %s", sql, e.Message)
					}
				}
			}
		}
		if after := pidBehind(t, other, hint); after != before {
			t.Errorf("the backend was replaced: %s, not %s", after, before)
		}
		if now := s.metric(t, "backend_closed_total"); now != closed {
			t.Errorf("%v backends were closed", now-closed)
		}
	})
}

// What harmful code leaves is for nobody else, be it a trigger's, a default's or a view's that no statement names. What DISCARD ALL takes away costs no
// connection.
func TestHarmfulCodeIsNoticed(t *testing.T) {
	t.Parallel()
	codeStands(t, func(t *testing.T, s *stand, hint string) {
		left := []string{
			hint + "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", "0; SELECT 1; I",
			hint + "SELECT to_regclass('left_behind')", "∅; SELECT 1; I",
			hint + "SELECT nullif(current_setting('app.left', true), '')", "∅; SELECT 1; I",
		}
		// The very first time nobody knows; then what it has left goes with its connection.
		first := s.connect(t)
		if e := pgtest.Failure(first.Query(hint + "INSERT INTO leaving VALUES (1)")); e != nil {
			t.Fatal(e.Message)
		}
		other := s.connect(t)
		eventually(t, "what was left before it was known is gone", func() bool {
			return pgtest.Rows(other.Query(hint + "SELECT nullif(current_setting('app.left', true), '')"))[0] == "∅"
		})
		for _, x := range []struct {
			sql, known string
			closed     bool
		}{
			{"SELECT leave('behind')", "function=leave", true},
			{"INSERT INTO leaving VALUES (1)", "relation=public.leaving", false},
			{"INSERT INTO locking VALUES (1)", "relation=public.locking", false},
			{"SELECT * FROM temping", "relation=public.temping", true},
			{"COPY (SELECT * FROM temping) TO STDOUT", "relation=public.temping", true},
		} {
			first.Query(hint + x.sql) // asks for it
			eventually(t, x.sql+" is known", func() bool { return strings.Contains(s.log.String(), x.known) })
			first.Query("DISCARD ALL")
			for _, p := range protocols {
				before := pidBehind(t, other, hint)
				c := s.connect(t)
				if e := pgtest.Failure(p.run(c, hint+x.sql)); e != nil {
					t.Fatalf("%s: %s", x.sql, e.Message)
				}
				c.Query("DISCARD ALL") // for what pins it
				protocols[0].play(t, other, left...)
				if after := pidBehind(t, other, hint); (after != before) != x.closed {
					t.Errorf("%s: the backend was replaced: %v, want %v", x.sql, after != before, x.closed)
				}
				c.Terminate()
			}
		}
	})
}

// Who changes tables is never ended for our reading them: it gives way before PostgreSQL looks for a deadlock.
func TestReadingCodeGivesWay(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: "CREATE TABLE seen (id int); CREATE VIEW seeing AS SELECT id FROM seen; CREATE TABLE changed (id int DEFAULT 1)"})
	direct := s.shards[0].Connect(t, pgtest.Login{User: pgtest.Superuser, Database: s.shards[0].db})
	run := func(sql string) {
		t.Helper()
		if e := pgtest.Failure(direct.Query(sql)); e != nil {
			t.Fatalf("%s: %s", sql, e.Message)
		}
	}
	run("SET deadlock_timeout = '700ms'")
	run("BEGIN")
	run("LOCK TABLE changed")
	c := s.connect(t)
	c.Send(&pgproto3.Query{String: "SELECT FROM changed WHERE EXISTS (SELECT FROM seeing)"})
	// The reading has locked the table of the view, and waits for the other.
	eventually(t, "the reading waits", func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'BEGIN ISOLATION LEVEL%'")[0] == "1"
	})
	run("LOCK TABLE seen")
	run("COMMIT")
}

// What is pinned by code stays: the session keeps its temporary table and its lock.
func TestHarmfulCodePins(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: codeSchema})
	for _, sql := range []string{"INSERT INTO locking VALUES (1)", "SELECT * FROM temping"} {
		eventually(t, sql+" pins", func() bool {
			c := s.connect(t)
			defer c.Close()
			if e := pgtest.Failure(c.Query(sql)); e != nil {
				t.Fatal(e.Message)
			}
			for _, r := range s.console(t, "SHOW CLIENTS") {
				if r["database"] == cluster && r["pinned"] != "" {
					return true
				}
			}
			return false
		})
	}
}

// Code that is replaced by way of pgkennel is another at once, in whichever database of its configuration that was.
func TestReplacedCodeIsJudgedAnew(t *testing.T) {
	t.Parallel()
	codeStands(t, func(t *testing.T, s *stand, hint string) {
		c, other := s.connect(t), s.connect(t)
		run := func(c *pgtest.Client, sql string) {
			t.Helper()
			if e := pgtest.Failure(c.Query(hint + sql)); e != nil {
				t.Fatalf("%s: %s", sql, e.Message)
			}
		}
		left := func() string { return pgtest.Rows(other.Query(hint + "SELECT current_setting('app.left', true)"))[0] }
		for _, ddl := range []string{
			"CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM leave('replaced'); RETURN 1; END $$",
			"BEGIN; CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 1 FROM leave($$replaced$$)'; COMMIT",
			"DO $d$ BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION twice(n int) RETURNS int RETURN (SELECT 1 FROM leave($$replaced$$))'; END $d$",
		} {
			run(c, "CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'")
			eventually(t, "twice is harmless", func() bool { return s.keeps(t, hint, "SELECT twice(1)") })
			run(c, ddl)
			run(c, "SELECT twice(1)")
			if got := left(); got != "∅" {
				t.Errorf("%s: the next client finds %s", ddl, got)
			}
		}
		// A trigger on a table that had none.
		eventually(t, "notes are harmless", func() bool { return s.keeps(t, hint, "INSERT INTO notes VALUES (9)") })
		run(c, "CREATE TRIGGER leaves BEFORE UPDATE ON notes FOR EACH STATEMENT EXECUTE FUNCTION leaves()")
		eventually(t, "the trigger is noticed, and nothing of it is left", func() bool {
			run(c, "UPDATE notes SET body = 'x'")
			got := left()
			return got == "∅" || got == ""
		})
	})
}

// TestHarmfulOperators: what no name in a statement tells that it runs, an operator, a cast, a domain's check, or an event trigger, leaves nothing for others.
func TestHarmfulOperators(t *testing.T) {
	t.Parallel()
	const leave = `CREATE FUNCTION leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.left', 'x', false), pg_advisory_lock(7); END $$;`
	for _, x := range []struct{ name, schema, sql, byRoot string }{
		{
			"operator", `CREATE FUNCTION op(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM leave(); RETURN true; END $$;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = op);`,
			"SELECT 1 === 2", "",
		},
		{
			"cast", `CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION paired(int) RETURNS pair LANGUAGE plpgsql AS $$ BEGIN PERFORM leave(); RETURN (1, 2); END $$;
CREATE CAST (int AS pair) WITH FUNCTION paired(int);`,
			"SELECT 1::pair", "",
		},
		{
			"domain", `CREATE FUNCTION fits(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM leave(); RETURN true; END $$;
CREATE DOMAIN odd AS int CHECK (fits(VALUE));`,
			"SELECT 1::odd", "",
		},
		{
			"event", `CREATE TABLE t (); CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM leave(); END $$;`,
			"COMMENT ON TABLE t IS 'x'", "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION told()",
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{schema: leave + x.schema, general: "default_pool_size = 1"})
			if x.byRoot != "" {
				s.shards[0].Exec(t, s.shards[0].db, x.byRoot)
			}
			left := func() string {
				c := s.connect(t)
				c.Query(x.sql)
				c.Close()
				return outcome(s.connect(t).Query("SELECT coalesce(current_setting('app.left', true), '') || count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"))
			}
			eventually(t, x.sql+" leaves nothing", func() bool { return left() == "0; SELECT 1; I" })
			for range 3 {
				if got := left(); got != "0; SELECT 1; I" {
					t.Errorf("left: %s", got)
				}
			}
		})
	}
}
