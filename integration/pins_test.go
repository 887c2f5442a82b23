package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// A client that leaves on its backend what can't follow it keeps that, and finds there what it would find without a pooler.

const pinsSchema = tableSchema + `
CREATE FUNCTION hold() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(8) $$;
CREATE FUNCTION scratch() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE scratched (id int) ON COMMIT DROP; END $$;
CREATE FUNCTION scratches() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS scratched (id int); END $$;
CREATE SEQUENCE seq;
`

// pinned is what the console says of clients that are pinned.
func (s *stand) pinned(t testing.TB) (list []string) {
	t.Helper()
	for _, row := range s.console(t, "SHOW CLIENTS") {
		if row["pinned"] != "" {
			list = append(list, row["pinned"])
		}
	}
	return list
}

func TestPins(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: pinsSchema, general: "default_pool_size = 1\ncheckout_timeout = 30_000"})
	const locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
	for name, x := range map[string]struct {
		pinned string   // in the middle of it
		steps  []string // to there
		rest   []string // from there on
	}{
		"a temporary table": {
			"temp",
			[]string{"CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I", "INSERT INTO pinned VALUES (1)", "INSERT 0 1; I", "BEGIN", "BEGIN; T", "INSERT INTO pinned VALUES (2)", "INSERT 0 1; T", "ROLLBACK", "ROLLBACK; I"},
			[]string{"SELECT count(*) FROM pinned", "1; SELECT 1; I", "BEGIN", "BEGIN; T", "DROP TABLE pinned", "DROP TABLE; T", "ROLLBACK", "ROLLBACK; I", "SELECT id FROM pinned", "1; SELECT 1; I", "DROP TABLE pinned", "DROP TABLE; I"},
		},
		"ON COMMIT DELETE ROWS": {
			"temp",
			[]string{"CREATE TEMP TABLE pinned (id int) ON COMMIT DELETE ROWS", "CREATE TABLE; I", "BEGIN", "BEGIN; T", "INSERT INTO pinned VALUES (1)", "INSERT 0 1; T", "SELECT count(*) FROM pinned", "1; SELECT 1; T", "COMMIT", "COMMIT; I"},
			[]string{"SELECT count(*) FROM pinned", "0; SELECT 1; I", "DISCARD TEMP", "DISCARD TEMP; I", "SELECT 1 FROM pinned", "42P01; I"},
		},
		"ON COMMIT DROP": {
			"",
			[]string{"BEGIN", "BEGIN; T", "CREATE TEMP TABLE pinned (id int) ON COMMIT DROP", "CREATE TABLE; T", "INSERT INTO pinned VALUES (1)", "INSERT 0 1; T", "SELECT count(*) FROM pinned", "1; SELECT 1; T", "COMMIT", "COMMIT; I"},
			[]string{"SELECT 1 FROM pinned", "42P01; I"},
		},
		"a table that is rolled back": {
			"",
			[]string{"BEGIN", "BEGIN; T", "CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; T", "SELECT 1/0", "22012; E", "COMMIT", "ROLLBACK; I"},
			[]string{"SELECT 1 FROM pinned", "42P01; I"},
		},
		"a cursor": {
			"hold_cursor",
			[]string{"BEGIN", "BEGIN; T", "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", "DECLARE CURSOR; T", "FETCH h", "1; FETCH 1; T", "COMMIT", "COMMIT; I"},
			[]string{"FETCH h", "2; FETCH 1; I", "BEGIN", "BEGIN; T", "FETCH h", "3; FETCH 1; T", "ROLLBACK", "ROLLBACK; I", "CLOSE h", "CLOSE CURSOR; I", "FETCH h", "34000; I"},
		},
		"a lock": {
			"advisory_lock",
			[]string{"SELECT pg_advisory_lock(7)", "; SELECT 1; I", "BEGIN", "BEGIN; T", "SELECT pg_advisory_lock_shared(7)", "; SELECT 1; T", "ROLLBACK", "ROLLBACK; I"},
			[]string{locks, "2; SELECT 1; I", "SELECT pg_advisory_unlock(7)", "t; SELECT 1; I", "SELECT pg_advisory_unlock(7)", "f; SELECT 1; I", "SELECT pg_advisory_unlock_shared(7)", "t; SELECT 1; I", locks, "0; SELECT 1; I"},
		},
		"a lock in a function": {
			"advisory_lock",
			[]string{"SELECT hold()", "; SELECT 1; I"},
			[]string{locks, "1; SELECT 1; I", "SELECT pg_advisory_unlock_all()", "; SELECT 1; I", locks, "0; SELECT 1; I"},
		},
		"a lock that is not had": {
			"",
			[]string{"SELECT count(*) FROM orders WHERE pg_try_advisory_lock(tenant_id)", "0; SELECT 1; I"},
			[]string{locks, "0; SELECT 1; I"},
		},
		"a table in a function": {
			"",
			[]string{"SELECT scratch()", "; SELECT 1; I"},
			[]string{"SELECT 1 FROM scratched", "42P01; I"},
		},
		"PREPARE": {
			"",
			[]string{"PREPARE p AS SELECT 2", "PREPARE; I", "EXECUTE p", "2; SELECT 1; I"},
			[]string{"BEGIN", "BEGIN; T", "EXECUTE p", "2; SELECT 1; T", "COMMIT", "COMMIT; I", "DEALLOCATE ALL", "DEALLOCATE ALL; I", "EXECUTE p", "26000; I"},
		},
		"PREPARE of a lock": {
			"advisory_lock",
			[]string{"PREPARE p AS SELECT pg_advisory_lock(8)", "PREPARE; I", "EXECUTE p", "; SELECT 1; I"},
			[]string{locks, "1; SELECT 1; I", "SELECT pg_advisory_unlock(8)", "t; SELECT 1; I", "DEALLOCATE p", "DEALLOCATE; I"},
		},
		"PREPARE by code": {
			"sql_prepare",
			[]string{"DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 2'; END $$", "DO; I", "EXECUTE p", "2; SELECT 1; I"},
			[]string{"BEGIN", "BEGIN; T", "EXECUTE p", "2; SELECT 1; T", "COMMIT", "COMMIT; I", "DEALLOCATE ALL", "DEALLOCATE ALL; I", "EXECUTE p", "26000; I"},
		},
		"several": {
			"temp,advisory_lock",
			[]string{"CREATE TEMP TABLE pinned AS SELECT 1 AS id", "SELECT 1; I", "SELECT pg_advisory_lock(7)", "; SELECT 1; I", "DROP TABLE IF EXISTS nothing", "DROP TABLE; I"},
			[]string{"SELECT id FROM pinned", "1; SELECT 1; I", "DISCARD ALL", "DISCARD ALL; I", "SELECT 1 FROM pinned", "42P01; I", locks, "0; SELECT 1; I"},
		},
		"a sequence": {
			"temp",
			[]string{"CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I"},
			[]string{"SELECT lastval()", "55000; I", "SELECT setval('seq', 5)", "5; SELECT 1; I", "SELECT nextval('seq')", "6; SELECT 1; I", "SELECT lastval(), currval('seq')", "6|6; SELECT 1; I", "DROP TABLE pinned", "DROP TABLE; I"},
		},
		"settings": {
			"temp",
			[]string{"SET work_mem = '1111kB'", "SET; I", "CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I", "SET TimeZone = 'Asia/Tokyo'", "SET; I", "BEGIN", "BEGIN; T", "SET work_mem = '2222kB'", "SET; T", "ROLLBACK", "ROLLBACK; I"},
			[]string{"SHOW work_mem", "1111kB; SHOW; I", "RESET TimeZone", "RESET; I", "SET lock_timeout = 99", "SET; I", "DROP TABLE pinned", "DROP TABLE; I", "SHOW work_mem", "1111kB; SHOW; I", "SHOW lock_timeout", "99ms; SHOW; I"},
		},
	} {
		for _, p := range protocols {
			t.Run(name+"/"+p.name, func(t *testing.T) {
				direct := s.direct(t, nil)
				p.play(t, direct, x.steps...)
				p.play(t, direct, x.rest...)
				direct.Terminate()
				c := s.connect(t)
				p.play(t, c, x.steps...)
				if got := strings.Join(s.pinned(t), " "); got != x.pinned {
					t.Errorf("pinned by %q, want %q", got, x.pinned)
				}
				p.play(t, c, x.rest...)
				if got := s.pinned(t); len(got) > 0 {
					t.Errorf("pinned by %q at the end", got)
				}
				if got := outcome(s.connect(t).Query("SELECT 1")); got != "1; SELECT 1; I" { // there is one backend for all
					t.Errorf("the next client gets %s", got)
				}
			})
		}
	}
	if n := s.metric(t, "session_pins_total", `reason="advisory_lock"`); n != 8 {
		t.Errorf("%v pins by locks", n)
	}
	if n := s.metric(t, "session_clients_pinned"); n != 0 {
		t.Errorf("%v clients are pinned", n)
	}

	// A lock is released when the client leaves, however it does.
	for _, leave := range []func(*pgtest.Client){(*pgtest.Client).Terminate, (*pgtest.Client).Close} {
		c := s.connect(t)
		protocols[0].play(t, c, "SELECT pg_advisory_lock(7)", "; SELECT 1; I")
		direct := s.direct(t, nil)
		protocols[0].play(t, direct, "SELECT pg_try_advisory_lock(7)", "f; SELECT 1; I")
		leave(c)
		protocols[0].play(t, direct, "SELECT pg_advisory_lock(7)", "; SELECT 1; I")
		direct.Terminate()
	}

	// The backend's end is told with the next statement, and the session goes on.
	c := s.connect(t)
	protocols[0].play(t, c, "CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I")
	for _, row := range s.console(t, "SHOW SERVERS") {
		if row["pinned"] != "temp" {
			t.Errorf("got %v", row)
		}
	}
	s.shards[0].rows(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '"+s.shards[0].db+"' AND pid = "+pid(t, c))
	eventually(t, "the session is told", func() bool { return len(s.pinned(t)) == 0 })
	e := pgtest.Failure(c.Query("SELECT 1"))
	if e == nil || e.Code != "08006" || !strings.Contains(e.Detail, "temp") {
		t.Errorf("got %v", e)
	}
	protocols[0].play(t, c, "SELECT count(*) FROM pinned", "42P01; I", "SELECT 1", "1; SELECT 1; I")
}

const pinningUsers = `[[users]]
name = "app"
database = "saas"
password = "` + password + `"

[[users]]
name = "careful"
database = "saas"
password = "` + password + `"
server_user = "app"
pin = "warn"

[[users]]
name = "strict"
database = "saas"
password = "` + password + `"
server_user = "app"
pin = "deny"

[[users]]
name = "staying"
database = "saas"
password = "` + password + `"
server_user = "app"
pooler_mode = "session"
pin = "deny"
`

// TestPinsDenied: what says that it would pin is refused, what turns out to have left something gives it up, and says so.
func TestPinsDenied(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: pinsSchema, users: pinningUsers, general: "default_pool_size = 1"})
	for _, p := range protocols {
		c := s.as(t, "strict", nil)
		for _, sql := range []string{
			"CREATE TEMP TABLE pinned (id int)", "SELECT 1 AS x INTO TEMP pinned", "CREATE TEMP VIEW pinned AS SELECT 1", "CREATE TABLE pg_temp.pinned (id int)", "PREPARE " + strings.Repeat("p", 64) + " AS SELECT 1",
			"SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock_shared(1)", "EXPLAIN ANALYZE SELECT pg_advisory_lock(1)", "DECLARE h CURSOR WITH HOLD FOR SELECT 1",
		} {
			p.play(t, c, sql, "0A000 pin; I", "BEGIN", "BEGIN; T", sql, "0A000 pin; E", "ROLLBACK", "ROLLBACK; I")
		}
		p.play(t, c, // which costs the backend: the schema of temporary tables stays there
			"BEGIN", "BEGIN; T", "CREATE TEMP TABLE pinned (id int) ON COMMIT DROP", "CREATE TABLE; T", "CREATE INDEX ON pg_temp.pinned (id)", "CREATE INDEX; T", "COMMIT", "COMMIT; I",
		)
		before := pid(t, c)
		p.play(t, c,
			"PREPARE p AS SELECT pg_advisory_lock(1)", "PREPARE; I", "EXECUTE p", "0A000 pin; I", "DEALLOCATE p", "DEALLOCATE; I",
			"SELECT pg_advisory_unlock(1)", "f; SELECT 1; I", "DROP TABLE pinned", "42P01; I", "SELECT pg_advisory_xact_lock(1)", "; SELECT 1; I",
		)
		if pid(t, c) != before {
			t.Error("what leaves nothing cost the backend")
		}
		for sql, what := range map[string]string{"SELECT hold()": "advisory_lock", "SELECT scratches()": "temp"} {
			msgs := p.run(c, sql)
			if got := outcome(msgs); got != "; SELECT 1; I" {
				t.Errorf("%s: got %s", sql, got)
			}
			warned := slices.ContainsFunc(msgs, func(m pgproto3.BackendMessage) bool {
				n, ok := m.(*pgproto3.NoticeResponse)
				return ok && n.Code == "01000" && strings.Contains(n.Detail, what) && n.Hint != ""
			})
			if !warned {
				t.Errorf("%s: got no warning: %s", sql, pgtest.Format(msgs...))
			}
		}
		p.play(t, c, "SELECT 1 FROM scratched", "42P01; I")
		if got := s.pinned(t); len(got) > 0 {
			t.Errorf("pinned by %q", got)
		}
		c.Terminate()
	}
	if log := s.log.String(); strings.Count(log, `level=WARN msg="session not pinned"`) != len(protocols) {
		t.Errorf("got log\n%s", tail(log, 20))
	}
	// In session mode there is nothing to deny, and what a sequence gave is known from the first statement on.
	protocols[0].play(t, s.as(t, "staying", nil), "SELECT nextval('seq')", "1; SELECT 1; I", "SELECT lastval()", "1; SELECT 1; I", "CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I", "SELECT count(*) FROM pinned", "0; SELECT 1; I")
	c := s.as(t, "careful", nil)
	protocols[0].play(t, c, "CREATE TEMP TABLE pinned (id int)", "CREATE TABLE; I", "SELECT count(*) FROM pinned", "0; SELECT 1; I")
	if log := s.log.String(); !strings.Contains(log, `level=WARN msg="session pinned"`) || !strings.Contains(log, "reason=temp") {
		t.Errorf("got log\n%s", tail(log, 20))
	}
}

// TestPinsStayOnTheirShard, and with their tenant.
func TestPinsStayOnTheirShard(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, schema: pinsSchema, general: "default_pool_size = 1"})
	each(t, func(t *testing.T, p protocol) {
		c := s.connect(t)
		p.play(t, c,
			"/* pgdog_shard: 1 */ SELECT pg_advisory_lock(7)", "; SELECT 1; I",
			"/* pgdog_shard: 0 */ SELECT 1", "0A000 cross_shard; I",
			"/* pgdog_shard: 1 */ SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", "1; SELECT 1; I",
			"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ SELECT 1", "0A000 cross_shard; E", "ROLLBACK", "ROLLBACK; I",
			"SELECT pg_advisory_unlock(7)", "t; SELECT 1; I",
			"/* pgdog_shard: 0 */ SELECT 1", "1; SELECT 1; I",
		)
		c.Terminate()
	})
}

// TestPinsBelongToTheirTenant: no other tenant, nor who has none, gets to what is left, by the same client or another one.
func TestPinsBelongToTheirTenant(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 1", rest: twoTenants})
	const mine, seen = "SELECT DISTINCT note FROM orders", "SELECT count(to_regclass('pg_temp.pinned'))"
	for _, p := range protocols {
		c := s.as(t, "app", nil)
		p.play(t, c,
			"SET pgkennel.tenant = 'two'", "SET; I", "CREATE TEMP TABLE pinned AS SELECT note FROM orders", "SELECT 3; I", mine, "of 2; SELECT 1; I",
			"SET pgkennel.tenant = 'four'", "25001 tenant_mismatch; I", "RESET pgkennel.tenant", "25001 tenant_mismatch; I", "SET app.current_tenant = '4'", "25001 tenant_mismatch; I",
			"SELECT set_config('app.current_tenant', '4', false)", "25001 tenant_mismatch; I",
			"BEGIN", "BEGIN; T", "SET LOCAL pgkennel.tenant = 'four'", "25001 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
			"SET pgkennel.tenant = 'two'", "SET; I", "SELECT DISTINCT note FROM pinned", "of 2; SELECT 1; I", "DISCARD ALL", "DISCARD ALL; I", seen, "0; SELECT 1; I",
			"SET pgkennel.tenant = 'four'", "SET; I", mine, "of 4; SELECT 1; I", seen, "0; SELECT 1; I",
		)
		c.Terminate()
		// For one transaction with a tenant, the session is nobody's behind it.
		c = s.as(t, "app", nil)
		p.play(t, c,
			"/* pgkennel_tenant: two */ CREATE TEMP TABLE pinned AS SELECT note FROM orders", "SELECT 3; I",
			seen, "25001 tenant_mismatch; I", "SELECT 1", "25001 tenant_mismatch; I", "/* pgkennel_tenant: four */ "+seen, "25001 tenant_mismatch; I", "BEGIN", "25001 tenant_mismatch; I",
			mine+" WHERE tenant_id = 4", "25001 tenant_mismatch; I", mine+" WHERE tenant_id = 2", "of 2; SELECT 1; I",
			"/* pgkennel_tenant: two */ SELECT DISTINCT note FROM pinned", "of 2; SELECT 1; I", "/* pgkennel_tenant: two */ DROP TABLE pg_temp.pinned", "DROP TABLE; I",
			"/* pgkennel_tenant: four */ "+mine, "of 4; SELECT 1; I", "/* pgkennel_tenant: two */ CREATE TEMP TABLE pinned AS SELECT note FROM orders", "SELECT 3; I",
			"DISCARD ALL", "DISCARD ALL; I", seen, "0; SELECT 1; I", "/* pgkennel_tenant: two */ SELECT pg_advisory_lock(7)", "; SELECT 1; I",
		)
		c.Terminate()
		c = s.as(t, "app@four", nil)
		eventually(t, "the lock is gone with the server's process that had it", func() bool {
			return s.shards[0].rows(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")[0] == "0"
		})
		p.play(t, c, mine, "of 4; SELECT 1; I", seen, "0; SELECT 1; I", "SELECT pg_try_advisory_lock(7)", "t; SELECT 1; I", "SELECT pg_advisory_unlock_all()", "; SELECT 1; I")
		c.Terminate()
	}
}

// A table that is gone with the transaction that made it is in no snapshot of the schema: nobody has to wait for another one.
func TestTemporaryTablesAskForNoSchema(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, schema: tableSchema, rest: twoRanges})
	read := func() int { return strings.Count(s.log.String(), `msg="schema read" cluster=saas reason=ddl`) }
	for _, p := range protocols {
		c := s.connect(t)
		before := read()
		p.play(t, c,
			"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1 AS id", "SELECT 1; T",
			"COMMIT", "COMMIT; I", "/* pgdog_shard: 0 */ SELECT 1", "1; SELECT 1; I",
			"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ CREATE TEMP TABLE scratch (id int) ON COMMIT DROP", "CREATE TABLE; T",
			"COMMIT", "COMMIT; I", "/* pgdog_shard: 0 */ SELECT 1", "1; SELECT 1; I",
		)
		if n := read() - before; n > 0 {
			t.Errorf("the schema was read %d times", n)
		}
		p.play(t, c,
			"/* pgdog_shard: 0 */ CREATE TABLE kept (id int)", "CREATE TABLE; I", "/* pgdog_shard: 0 */ DROP TABLE kept", "DROP TABLE; I",
			"/* pgdog_shard: 0 */ SELECT 1", "1; SELECT 1; I",
		)
		if read() == before {
			t.Error("the schema was not read behind other tables")
		}
		c.Terminate()
	}
}
