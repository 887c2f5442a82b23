package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What a client leaves behind on its backend never reaches the next one.

const leftoversSchema = tableSchema + `
CREATE FUNCTION leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.left', 'behind', false); END $$;
CREATE PROCEDURE proceed() LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(99); END $$;
CREATE SEQUENCE seq;
`

// pid is the server's process that serves the client at the moment.
func pid(t *testing.T, c *pgtest.Client) string {
	t.Helper()
	rows := pgtest.Rows(c.Query("SELECT pg_backend_pid()"))
	if len(rows) != 1 {
		t.Fatalf("pg_backend_pid: %v", rows)
	}
	return rows[0]
}

// Whatever can't follow a client costs its backend, at the latest when the client leaves, and the metric says why. What pins the client to it is kept until then.
func TestLeftoversCloseTheBackend(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: leftoversSchema, general: "default_pool_size = 1"})

	for _, x := range []struct{ sql, reason string }{
		{"CREATE TEMP TABLE left_behind (id int)", "temp"},
		{"CREATE TABLE pg_temp.left_behind (id int)", "temp"},
		{"CREATE TEMP VIEW left_behind AS SELECT 1", "temp"},
		{"SELECT 1 AS x INTO TEMP left_behind", "temp"},
		{"CREATE TEMPORARY SEQUENCE left_behind", "temp"},
		{"CREATE FUNCTION pg_temp.left_behind() RETURNS int RETURN 1", "temp"},
		{"SELECT pg_advisory_lock(1)", "advisory_lock"},
		{"SELECT pg_try_advisory_lock_shared(1, 2)", "advisory_lock"},
		{"CALL proceed()", "advisory_lock"},
		{"DO $$ BEGIN EXECUTE 'PREPARE left_behind AS SELECT 1'; END $$", "sql_prepare"},
		{"PREPARE " + strings.Repeat("left_behind", 6) + " AS SELECT 1", "sql_prepare"},
		{"DO $$ BEGIN PERFORM set_config('app.left', 'behind', false); END $$", "unjudged"},
		{"DO $$ BEGIN CREATE TEMP TABLE left_behind (id int); END $$", "temp"},
		{"SELECT leave()", "unjudged"},
		{"DO $$ BEGIN EXECUTE 'LISTEN news'; END $$", "unjudged"},
		{"SELECT set_config(n, 'x', false) FROM (VALUES ('app.a'), ('app.b')) v(n)", "unjudged"},
		{"SELECT set_config('app.' || 'left', 'behind', false)", "unjudged"},
		{"UPDATE pg_settings SET setting = '1234' WHERE name = 'work_mem'", "unjudged"},
	} {
		for _, p := range protocols {
			t.Run(x.sql+"/"+p.name, func(t *testing.T) {
				c, other := s.connect(t), s.connect(t)
				before := pid(t, other)
				closed := s.metric(t, "backend_closed_total", `reason="`+x.reason+`"`)
				if e := pgtest.Failure(p.run(c, x.sql)); e != nil {
					t.Fatalf("%s: %s", x.sql, e.Message)
				}
				if x.reason != "unjudged" && pid(t, c) != before {
					t.Error("it does not keep its backend")
				}
				c.Terminate()
				if after := pid(t, other); after == before {
					t.Errorf("the next client got the same backend")
				}
				if now := s.metric(t, "backend_closed_total", `reason="`+x.reason+`"`); now != closed+1 {
					t.Errorf("the metric counted %v for %s, not 1", now-closed, x.reason)
				}
				protocols[0].play(t, other,
					"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", "0; SELECT 1; I",
					"SELECT to_regclass('left_behind')", "∅; SELECT 1; I",
					"SELECT count(*) FROM pg_listening_channels()", "0; SELECT 1; I",
					"SELECT current_setting('app.left', true)", "∅; SELECT 1; I",
					"SHOW work_mem", "4MB; SHOW; I",
				)
				// A server's process that is left ends in its own time, and its locks with it.
				eventually(t, "nobody holds a lock", func() bool {
					return s.shards[0].rows(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")[0] == "0"
				})
			})
		}
	}
}

// What leaves nothing does not cost a backend.
func TestLeftoversOfOrdinaryStatements(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: leftoversSchema, general: "default_pool_size = 1"})
	c, other := s.connect(t), s.connect(t)
	before := pid(t, other)
	for _, p := range protocols {
		p.play(t, c,
			"SELECT 1", "1; SELECT 1; I", "SELECT 1/0", "22012; I", "SELEC", "42601; I", "INSERT INTO notes VALUES (1, 'x')", "INSERT 0 1; I",
			"DELETE FROM notes", "DELETE 1; I", "SELECT pg_advisory_xact_lock(1)", "; SELECT 1; I",
			"SET LOCAL work_mem = '1MB'", "SET; I", "SET work_mem = '1234kB'", "SET; I", "SELECT set_config('app.x', 'y', false)", "y; SELECT 1; I",
			"PREPARE k AS SELECT 8", "PREPARE; I", "EXECUTE k", "8; SELECT 1; I",
			"BEGIN", "BEGIN; T", "DECLARE k CURSOR FOR SELECT 1", "DECLARE CURSOR; T", "FETCH k", "1; FETCH 1; T", "COMMIT", "COMMIT; I",
			"BEGIN", "BEGIN; T", "SELECT 1/0", "22012; E", "ROLLBACK", "ROLLBACK; I", "SELECT nextval('seq') > 0", "t; SELECT 1; I",
			"NOTIFY news", "NOTIFY; I", "UNLISTEN *", "UNLISTEN; I", "DEALLOCATE ALL", "DEALLOCATE ALL; I", "DISCARD ALL", "DISCARD ALL; I",
			"EXPLAIN (COSTS off) SELECT 1", "Result; EXPLAIN; I", "SELECT upper('x'), now() IS NULL, lower('Y')", "X|f|y; SELECT 1; I",
		)
		if got := copyIn(c, p.name == "extended", "COPY notes FROM STDIN", "5\tx\n"); got != "COPY 1; I" {
			t.Errorf("COPY: %s", got)
		}
		p.play(t, c, "DELETE FROM notes", "DELETE 1; I")
	}
	if after := pid(t, other); after != before {
		t.Errorf("the backend was replaced: %s", s.scrape(t, "/metrics"))
	}
}

// lastval and currval never tell of another client's sequence.
func TestLeftoversOfSequences(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: leftoversSchema, general: "default_pool_size = 1"})
	for _, p := range protocols {
		c, other := s.connect(t), s.connect(t)
		p.play(t, c, "SELECT nextval('seq') > 0", "t; SELECT 1; I")
		p.play(t, other, "SELECT lastval()", "55000; I", "SELECT currval('seq')", "55000; I",
			"BEGIN", "BEGIN; T", "SELECT nextval('seq') > 0", "t; SELECT 1; T", "SELECT lastval() > 0", "t; SELECT 1; T", "COMMIT", "COMMIT; I")
		// A transaction that a setting begins, which is sent at once: nothing of others is there, and nothing is lost.
		for _, begun := range [][2]string{{"SELECT lastval()", "55000; E"}, {"SELECT nextval('seq') > 0, lastval() > 0", "t|t; SELECT 1; T"}, {"SELECT 1", "1; SELECT 1; T"}} {
			p.play(t, c, "SELECT nextval('seq') > 0", "t; SELECT 1; I")
			p.play(t, s.connect(t), "BEGIN", "BEGIN; T", "SET LOCAL application_name = 'x'", "SET; T", "SET work_mem = '1MB'", "SET; T", begun[0], begun[1], "ROLLBACK", "ROLLBACK; I")
		}
		p.play(t, c, "SELECT nextval('seq') > 0", "t; SELECT 1; I")
		p.play(t, s.connect(t), "BEGIN", "BEGIN; T", "SET LOCAL application_name = 'x'", "SET; T", "SELECT 1", "1; SELECT 1; T", "SELECT lastval()", "55000 sequence_state; E", "ROLLBACK", "ROLLBACK; I",
			"BEGIN", "BEGIN; T", "SET LOCAL application_name = 'x'", "SET; T", "SET pgdog.shard = '0'", "SET; T", "SELECT 1", "1; SELECT 1; T", "COMMIT", "COMMIT; I")
	}
	s.shards[0].Exec(t, s.shards[0].db, "CREATE VIEW last AS SELECT lastval() AS v; GRANT SELECT ON last TO PUBLIC")
	protocols[0].play(t, s.connect(t), "SELECT nextval('seq') > 0", "t; SELECT 1; I")
	protocols[0].play(t, s.connect(t), "SELECT v > 0 FROM last", "t; SELECT 1; I")
	t.Run("session mode", func(t *testing.T) { // of the same pool as transaction mode, which leaves its values there
		s := start(t, spec{schema: leftoversSchema, general: "default_pool_size = 1", users: fmt.Sprintf(
			"[[users]]\nname = %q\ndatabase = %[3]q\npassword = %[2]q\n[[users]]\nname = \"keeper\"\ndatabase = %[3]q\npassword = %[2]q\nserver_user = %[1]q\nserver_password = %[2]q\npooler_mode = \"session\"\n",
			user, password, cluster)})
		login := s.login()
		login.User = "keeper"
		for _, p := range protocols {
			other := s.connect(t)
			p.play(t, other, "SELECT nextval('seq') > 0", "t; SELECT 1; I")
			for _, script := range [][]string{
				{"SELECT 1", "1; SELECT 1; I", "SELECT lastval()", "55000; I"},
				{"SELECT nextval('seq') > 0", "t; SELECT 1; I", "SELECT lastval() > 0", "t; SELECT 1; I", "SELECT currval('seq') > 0", "t; SELECT 1; I"},
			} {
				c := pgtest.Connect(t, s.addr, login)
				p.play(t, c, script...)
				c.Close()
			}
		}
	})
}

// A client that dies, in the middle of whatever, leaves neither its transaction nor its locks nor its answers to the next one.
func TestLeftoversOfTheDead(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		survivor := s.connect(t)
		const key = "1001"
		insert, play := "INSERT INTO orders VALUES ("+key+", 1, 'dead')", protocols[0].play
		hears := func(c *pgtest.Client, want pgproto3.BackendMessage) {
			t.Helper()
			if got := c.Receive(); fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) {
				t.Errorf("got %s, want %T", pgtest.Format(got), want)
			}
		}
		for name, die := range map[string]func(c *pgtest.Client){
			"in a queued transaction": func(c *pgtest.Client) { play(t, c, "BEGIN", "BEGIN; T") },
			"in a transaction": func(c *pgtest.Client) {
				play(t, c, "BEGIN", "BEGIN; T", insert, "INSERT 0 1; T")
			},
			"in a failed transaction": func(c *pgtest.Client) {
				play(t, c, "BEGIN", "BEGIN; T", insert, "INSERT 0 1; T", "SELECT 1/0", "22012; E")
			},
			"in a statement": func(c *pgtest.Client) {
				c.Send(&pgproto3.Query{String: "INSERT INTO orders SELECT " + key + ", 1, 'dead' FROM pg_sleep(20)"})
				sh := s.shards[len(s.shards)-1]
				eventually(t, "the statement runs", func() bool {
					return sh.rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+sh.db+"'")[0] == "1"
				})
			},
			"in a result": func(c *pgtest.Client) {
				c.Send(&pgproto3.Query{String: "SELECT repeat('x', 1000), tenant_id FROM generate_series(1, 100000), (SELECT max(tenant_id) AS tenant_id FROM orders WHERE tenant_id = " + key + ") o"})
				hears(c, &pgproto3.RowDescription{})
			},
			"in a pipeline": func(c *pgtest.Client) {
				c.Send(&pgproto3.Parse{Query: insert}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
				hears(c, &pgproto3.ParseComplete{})
			},
			"in a COPY": func(c *pgtest.Client) {
				c.Send(&pgproto3.Query{String: "COPY orders FROM STDIN"})
				hears(c, &pgproto3.CopyInResponse{})
				c.Send(&pgproto3.CopyData{Data: []byte(key + "\t1\tdead\n")})
			},
			"in a COPY out": func(c *pgtest.Client) {
				c.Send(&pgproto3.Query{String: "COPY (SELECT repeat('x', 1000), tenant_id FROM generate_series(1, 100000), (SELECT max(tenant_id) AS tenant_id FROM orders WHERE tenant_id = " + key + ") o) TO STDOUT"})
				hears(c, &pgproto3.CopyOutResponse{})
			},
			"in a message": func(c *pgtest.Client) { c.Write([]byte{'Q', 0, 0, 1}) },
			"with settings": func(c *pgtest.Client) {
				play(t, c, "BEGIN; SET LOCAL work_mem = '1234kB'; SET app.rest = 'behind'", "BEGIN; SET; SET; T")
			},
		} {
			for _, politely := range []bool{false, true} {
				c := s.connect(t)
				die(c)
				if politely {
					c.Send(&pgproto3.Terminate{})
				}
				c.Close()
				protocols[0].play(t, survivor,
					"SELECT count(*) FROM orders WHERE tenant_id = "+key, "0; SELECT 1; I",
					"SHOW work_mem", "4MB; SHOW; I",
				)
				if got := show(survivor, "app.rest"); got != "" {
					t.Errorf("%s: app.rest is %s", name, got)
				}
				if t.Failed() {
					t.Fatalf("after a client that died %s (politely %v)", name, politely)
				}
			}
		}
		for n, sh := range s.shards {
			eventually(t, "the dead's statements end", func() bool {
				rows := sh.rows(t, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE datname = '%s' AND state <> 'idle' AND pid <> pg_backend_pid()", sh.db))
				return rows[0] == "0"
			})
			if rows := sh.rows(t, "SELECT * FROM orders"); len(rows) > 0 {
				t.Errorf("shard %d holds %v", n, rows)
			}
		}
	})
}

// UPDATE of pg_settings is SET, also through a view.
func TestLeftoversOfSettingsByAView(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, general: "default_pool_size = 1", schema: "CREATE VIEW knobs AS SELECT name, setting FROM pg_settings"})
	each(t, func(t *testing.T, p protocol) {
		want := map[string]string{"simple": "left; UPDATE 0; I", "extended": "UPDATE 0; I"}[p.name] // what the rule's set_config returned is shown to the former
		p.play(t, s.connect(t), "/* pgdog_shard: 0 */ UPDATE knobs SET setting = 'left' WHERE name = 'application_name'", want)
		p.play(t, s.connect(t), "/* pgdog_shard: 0 */ SELECT current_setting('application_name') = 'left'", "f; SELECT 1; I")
	})
}
