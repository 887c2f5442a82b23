package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Settings in transaction mode: they follow the client that made them and reach nobody else.

// sharing is a stand whose clients share one backend for each shard.
func sharing(t *testing.T, rest string) *stand {
	t.Helper()
	shards := 1
	if rest != "" {
		shards = 2
	}
	return start(t, spec{shards: shards, schema: tableSchema, rest: rest, general: "default_pool_size = 1"})
}

// bothWays runs f before one plain shard and before two with tenants.
func bothWays(t *testing.T, f func(t *testing.T, s *stand)) {
	t.Helper()
	for name, rest := range map[string]string{"plain": "", "sharded": twoRanges} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, sharing(t, rest))
		})
	}
}

// direct is a client of the first shard's server.
func (s *stand) direct(t testing.TB, params map[string]string) *pgtest.Client {
	t.Helper()
	return s.shards[0].Connect(t, pgtest.Login{User: user, Database: s.shards[0].db, Password: password, Params: params})
}

// setting is a way to change something, and how it is seen.
type setting struct{ set, name, value string }

var settings = []setting{
	{"SET work_mem = '1111kB'", "work_mem", "1111kB"},
	{"SET SESSION work_mem TO 2222", "work_mem", "2222kB"},
	{"SET search_path = public, pg_catalog", "search_path", "public, pg_catalog"},
	{`SET search_path TO "Odd, name", '$user'`, "search_path", `"Odd, name", "$user"`},
	{"SET TimeZone = 'Europe/Berlin'", "TimeZone", "Europe/Berlin"},
	{"SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"},
	{"SET TIME ZONE -3", "TimeZone", "<-03>+03"},
	{"SET DateStyle = 'German'", "DateStyle", "German, DMY"},
	{"SET DateStyle = SQL, DMY", "DateStyle", "SQL, DMY"},
	{"SET IntervalStyle = iso_8601", "IntervalStyle", "iso_8601"},
	{"SET application_name = 'it''s me'", "application_name", "it's me"},
	{`SET application_name = E'back\\slash'`, "application_name", `back\slash`},
	{"SET statement_timeout = '31s'", "statement_timeout", "31s"},
	{"SET client_min_messages TO warning", "client_min_messages", "warning"},
	{"SET NAMES 'LATIN1'", "client_encoding", "LATIN1"},
	{"SET extra_float_digits = -3", "extra_float_digits", "-3"},
	{"SET enable_seqscan = off", "enable_seqscan", "off"},
	{"SET app.tenant = 'seven'", "app.tenant", "seven"},
	{`SET "app"."Odd" = 'x'`, "app.odd", "x"},
	{"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "default_transaction_read_only", "on"},
	{"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, DEFERRABLE", "default_transaction_isolation", "serializable"},
	{"SELECT set_config('work_mem', '3333kB', false)", "work_mem", "3333kB"},
	{"SELECT set_config('app.tenant', 'eight', false)", "app.tenant", "eight"},
	{"SELECT pg_catalog.set_config('search_path', 'pg_catalog, public', false)", "search_path", "pg_catalog, public"},
	{"SELECT set_config('work_mem', 4 || '444kB', false)", "work_mem", "4444kB"},
	{"SELECT set_config('app.tenant', 'ni''' || upper('ne'), false)", "app.tenant", "ni'NE"},
	{"SELECT set_config('app.tenant', 'ten', now() IS NULL), 1", "app.tenant", "ten"},
	{"SELECT set_config('DateStyle', 'German' || ', DMY', false)", "DateStyle", "German, DMY"},
	{`SELECT set_config('search_path', '"Odd, name", ' || 'public', false)`, "search_path", `"Odd, name", public`},
	{"SELECT set_config('app.tenant', v, false) FROM (VALUES ('a'), ('eleven')) t(v)", "app.tenant", "eleven"},
	{"SELECT set_config('app.tenant', 'twelve', false) WHERE length('x') > 1", "app.tenant", ""},
	{"SELECT length(set_config('app.tenant', 'thirteen', false)), set_config('work_mem', '5' || '555kB', false)", "app.tenant", "thirteen"},
}

// show asks for a setting's value. A custom one that was set once on a server is empty there, not unknown, ever after.
func show(c *pgtest.Client, name string) string {
	rows := pgtest.Rows(c.Query("SELECT current_setting('" + name + "', true)"))
	if len(rows) != 1 {
		return fmt.Sprint(rows)
	}
	return strings.TrimPrefix(rows[0], "∅")
}

func TestSettingsFollowTheirClient(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		others := []*pgtest.Client{s.connect(t), s.with(t, map[string]string{"work_mem": "5555kB", "application_name": "other"})}
		before := func(name string) (values []string) {
			for _, o := range others {
				values = append(values, show(o, name))
			}
			return values
		}
		for _, p := range protocols {
			for _, x := range settings {
				was := before(x.name)
				c := s.connect(t)
				if e := pgtest.Failure(p.run(c, x.set)); e != nil {
					t.Errorf("%s: %s", x.set, e.Message)
					continue
				}
				for range 2 {
					if now := before(x.name); !slices.Equal(now, was) {
						t.Errorf("%s: other clients had %v and have %v", x.set, was, now)
					}
					if got := show(c, x.name); got != x.value {
						t.Errorf("%s: %s is %q, not %q", x.set, x.name, got, x.value)
					}
				}
				c.Terminate()
				if now := before(x.name); !slices.Equal(now, was) {
					t.Errorf("%s: after its client left, others had %v and have %v", x.set, was, now)
				}
			}
		}
		if n := s.metric(t, "backend_closed_total"); n > 0 {
			t.Errorf("%v backends were closed; settings need not that", n)
		}
	})
}

// TestIdleSessions: idle_session_timeout is its client's, and has no server close a connection that is nobody's, or has just become another's.
func TestIdleSessions(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	other := s.connect(t)
	const show = "SHOW idle_session_timeout"
	for _, way := range []string{"SET idle_session_timeout = %s", "SELECT set_config('idle_session_timeout', '%s', false)"} {
		c := s.connect(t)
		c.Query(fmt.Sprintf(way, "200"))
		for _, p := range protocols {
			p.play(t, other, show, "0; SHOW; I")
			p.play(t, c, show, "200ms; SHOW; I")
		}
		was := pgtest.Format(c.Query("SELECT pg_backend_pid()")...)
		s.shards[0].rows(t, "SELECT 1 FROM pg_sleep(0.4)")
		if now := pgtest.Format(other.Query("SELECT pg_backend_pid()")...); now != was {
			t.Errorf("%s: the connection was closed: backend %s, then %s", way, was, now)
		}
		c.Close()
	}
}

// What only the server knows of a set_config follows the client all the same, as far as its transaction, or savepoint, was not rolled back.
func TestSettingsThatOnlyTheServerKnows(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	c, other := s.connect(t), s.connect(t)
	const set, look = "SELECT set_config('app.v', $1, false)", "SELECT current_setting('app.v', true)"
	if got := extended(c, parse("", set), bind("", "", "one"), run("", 0)); got != "one; SELECT 1; I" {
		t.Errorf("set_config: %s", got)
	}
	for _, p := range protocols {
		p.play(t, other, look, "; SELECT 1; I", "SET app.v = 'not mine'", "SET; I")
		p.play(t, c, look, "one; SELECT 1; I",
			"BEGIN", "BEGIN; T", "SELECT set_config('app.v', 't' || 'wo', false)", "two; SELECT 1; T", "ROLLBACK", "ROLLBACK; I", look, "one; SELECT 1; I",
			"BEGIN", "BEGIN; T", "SAVEPOINT s", "SAVEPOINT; T", "SELECT set_config('app.v', 't' || 'wo', false)", "two; SELECT 1; T",
			"ROLLBACK TO s", "ROLLBACK; T", "COMMIT", "COMMIT; I", look, "one; SELECT 1; I",
			"BEGIN", "BEGIN; T", "SELECT set_config('app.v', 't' || 'wo', 1 = 1)", "two; SELECT 1; T", look, "two; SELECT 1; T", "COMMIT", "COMMIT; I", look, "one; SELECT 1; I",
			"SELECT set_config('no such', 'x' || 'y', false)", "42704; I", look, "one; SELECT 1; I",
		)
		p.play(t, other, look, "not mine; SELECT 1; I", "RESET app.v", "RESET; I")
	}
	protocols[0].play(t, c,
		"PREPARE p AS "+set, "PREPARE; I", "EXECUTE p('three')", "three; SELECT 1; I", look, "three; SELECT 1; I",
		"SELECT set_config('app.v', 'fo' || 'ur', false); SELECT 1", "four; SELECT 1; 1; SELECT 1; I", look, "four; SELECT 1; I",
		"SELECT set_config('app.v', 'fi' || 've', false); SELECT 1/0", "five; SELECT 1; 22012; I", look, "four; SELECT 1; I",
		"CREATE TEMP TABLE pins (id int); SELECT set_config('app.v', 's' || 'ix', false)", "CREATE TABLE; six; SELECT 1; I", look, "six; SELECT 1; I",
		"SELECT set_config('app.v', 'se' || 'ven', false)", "seven; SELECT 1; I", "DROP TABLE pins", "DROP TABLE; I", look, "seven; SELECT 1; I",
	)
	protocols[0].play(t, other, look, "; SELECT 1; I")
	// A parameter names the setting.
	const pid, named = "SELECT pg_backend_pid()", "SELECT set_config($1, $2, false)"
	was := pgtest.Format(c.Query(pid)...)
	if got := extended(c, parse("", named), bind("", "", "App.v", "by name"), run("", 0)); got != "by name; SELECT 1; I" {
		t.Errorf("set_config of a named setting: %s", got)
	}
	protocols[0].play(t, other, look, "; SELECT 1; I", "SET app.v = 'not mine'", "SET; I", "SET app.w = 'not mine'", "SET; I")
	protocols[0].play(t, c, look, "by name; SELECT 1; I", "BEGIN", "BEGIN; T")
	if got := extended(c, parse("s", named), bind("p", "s", "app.w", "of a portal"), bind("q", "s", "app.v", "undone")); got != "T" {
		t.Errorf("bind: %s", got)
	}
	if got := extended(c, run("p", 0)); got != "of a portal; SELECT 1; T" {
		t.Errorf("set_config by a portal: %s", got)
	}
	protocols[0].play(t, c, "SAVEPOINT s", "SAVEPOINT; T")
	if got := extended(c, run("q", 0)); got != "undone; SELECT 1; T" {
		t.Errorf("set_config by another portal: %s", got)
	}
	protocols[0].play(t, c, "ROLLBACK TO s", "ROLLBACK; T", "COMMIT", "COMMIT; I")
	protocols[0].play(t, other, "SELECT current_setting('app.w', true)", "not mine; SELECT 1; I", "RESET app.w", "RESET; I", "RESET app.v", "RESET; I")
	protocols[0].play(t, c, "SELECT current_setting('app.w', true)", "of a portal; SELECT 1; I", look, "by name; SELECT 1; I")
	if got := extended(c, parse("", "SELECT set_config($1, $2, true), current_setting('app.v')"), bind("", "", "app.v", "local"), run("", 0)); got != "local|local; SELECT 1; I" {
		t.Errorf("set_config for the transaction: %s", got)
	}
	protocols[0].play(t, c, look, "by name; SELECT 1; I")
	if got := pgtest.Format(c.Query(pid)...); got != was {
		t.Errorf("the backend was closed: %s, then %s", was, got)
	}
	if got := extended(c, parse("", named), bind("", "", "role", "nobody"), run("", 0)); !strings.HasPrefix(got, "22023") {
		t.Errorf("set_config of the role: %s", got)
	}
	if got := extended(c, parse("", named), bind("", "", "seed", "0.5"), run("", 0)); got != "unavailable; SELECT 1; I" {
		t.Errorf("set_config of the seed: %s", got)
	}
	if got := pgtest.Format(c.Query(pid)...); got == was {
		t.Error("the seed is the next client's")
	}
	// More than can be kept is not, and the client is told.
	const long = "SELECT length(set_config('app.v', repeat('x', 2000000), false))"
	for _, p := range protocols {
		p.play(t, c, "SELECT set_config('app.v', 'eig' || 'ht', false)", "eight; SELECT 1; I",
			"BEGIN", "BEGIN; T", long, "2000000; SELECT 1; T", "ROLLBACK", "ROLLBACK; I", look, "eight; SELECT 1; I",
			long, "2000000; SELECT 1; I", look, "eight; SELECT 1; I", "SELECT set_config('app.v', 'ni' || 'ne', false)", "nine; SELECT 1; I", look, "nine; SELECT 1; I")
		if got := pgtest.Format(p.run(c, long)...); !strings.Contains(got, "NoticeResponse(WARNING, 01000") {
			t.Errorf("%s: of a value that is lost the client hears %s", p.name, got)
		}
		p.play(t, other, look, "; SELECT 1; I")
	}
}

// A value of DateStyle may be half of one, and leaves the other half as the client had it, whatever the next backend has.
func TestSettingsInHalves(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		other := s.with(t, map[string]string{"DateStyle": "SQL, DMY"})
		for _, p := range protocols {
			c, chosen := s.connect(t), s.with(t, map[string]string{"DateStyle": "Postgres, MDY"})
			for _, step := range []struct {
				c        *pgtest.Client
				sql, tag string
				value    string
			}{
				{c, "SET DateStyle TO german", "SET; I", "German, DMY"},
				{c, "SET DateStyle TO ymd", "SET; I", "German, YMD"},
				{c, "SELECT set_config('datestyle', 'iso', false)", "ISO, YMD; SELECT 1; I", "ISO, YMD"},
				{c, "RESET DateStyle", "RESET; I", "ISO, MDY"},
				{c, "SET DateStyle TO european", "SET; I", "ISO, DMY"},
				{chosen, "SET DateStyle TO 'dmy'", "SET; I", "Postgres, DMY"},
				{chosen, "SET DateStyle TO SQL", "SET; I", "SQL, DMY"},
				{chosen, "RESET DateStyle", "RESET; I", "Postgres, MDY"},
			} {
				p.play(t, step.c, step.sql, step.tag)
				for range 2 {
					if got := show(other, "DateStyle"); got != "SQL, DMY" {
						t.Errorf("%s: the other client's DateStyle is %q", step.sql, got)
					}
					if got := show(step.c, "DateStyle"); got != step.value || step.c.Params["DateStyle"] != got {
						t.Errorf("%s: DateStyle is %q, told as %q, not %q", step.sql, got, step.c.Params["DateStyle"], step.value)
					}
				}
			}
		}
	})
}

// What a client set on one shard holds on the others.
func TestSettingsFollowToOtherShards(t *testing.T) {
	t.Parallel()
	s := sharing(t, twoRanges)
	c := s.connect(t)
	on := func(tenant int) string {
		return fmt.Sprintf("SELECT current_setting('work_mem'), current_setting('app.x', true) WHERE (SELECT count(*) FROM orders WHERE tenant_id = %d) = 0", tenant)
	}
	protocols[0].play(t, c,
		"SET work_mem = '1234kB'", "SET; I", on(1), "1234kB|∅; SELECT 1; I", on(1001), "1234kB|∅; SELECT 1; I",
		"BEGIN", "BEGIN; T", on(1), "1234kB|∅; SELECT 1; T", "SET app.x = 'y'", "SET; T", "COMMIT", "COMMIT; I",
		on(1001), "1234kB|y; SELECT 1; I", "RESET work_mem", "RESET; I", on(1), "4MB|y; SELECT 1; I", on(1001), "4MB|y; SELECT 1; I",
	)
}

// RESET, RESET ALL and DISCARD ALL restore what the client chose at its start, not what the backend has.
func TestSettingsResetToTheClientsStart(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		other := s.connect(t)
		protocols[0].play(t, other, "SET work_mem = '9999kB'", "SET; I")
		chosen := map[string]string{
			"work_mem": "1111kB", "application_name": "mine", "TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY", "search_path": "public",
		}
		for name, params := range map[string]map[string]string{
			"parameters": chosen,
			"options":    {"options": `-c work_mem=1111kB --application-name=mine -cTimeZone=Asia/Tokyo -c datestyle=German,\ DMY -c search_path=public`},
		} {
			for _, p := range protocols {
				c := s.with(t, params)
				check := func(what string) {
					t.Helper()
					show(other, "work_mem")
					for name, value := range chosen {
						if got := show(c, name); got != value {
							t.Errorf("%s, %s: %s is %q, not %q", name, what, name, got, value)
						}
					}
					for name, value := range chosen {
						if told, ok := c.Params[name]; ok && told != value {
							t.Errorf("%s, %s: the client was told %s = %q, not %q", name, what, name, told, value)
						}
					}
				}
				change := func() {
					t.Helper()
					for _, sql := range []string{
						"SET work_mem = '2222kB'", "SET application_name = 'theirs'", "SET TimeZone = 'UTC'", "SET DateStyle = 'ISO'", "SET search_path = x", "SET app.y = 'z'",
					} {
						p.play(t, c, sql, "SET; I")
					}
				}
				check(name)
				change()
				for name := range chosen {
					p.play(t, c, "RESET "+name, "RESET; I")
				}
				check("RESET")
				change()
				p.play(t, c, "RESET ALL", "RESET; I")
				check("RESET ALL")
				change()
				p.play(t, c, "DISCARD ALL", "DISCARD ALL; I")
				check("DISCARD ALL")
				if got := show(c, "app.y"); got != "" {
					t.Errorf("app.y is %q", got)
				}
				change()
				p.play(t, c, "BEGIN", "BEGIN; T", "RESET ALL", "RESET; T", "SHOW work_mem", "1111kB; SHOW; T", "ROLLBACK", "ROLLBACK; I", "SHOW work_mem", "2222kB; SHOW; I")
				p.play(t, c, "BEGIN", "BEGIN; T", "SET work_mem TO DEFAULT", "SET; T", "SHOW work_mem", "1111kB; SHOW; T", "COMMIT", "COMMIT; I", "SHOW work_mem", "1111kB; SHOW; I")
			}
		}
	})
}

// Startup parameters that PostgreSQL refuses are refused, in its words.
func TestSettingsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		for _, params := range []map[string]string{
			{"work_mem": "much"},
			{"no_such_setting": "1"},
			{"TimeZone": "Nowhere/Land"},
			{"options": "-c"},
			{"options": "-c fsync=off"},
			{"options": "-x 3"},
			{"client_encoding": "KLINGON"},
			{"DateStyle": "Stardate"},
		} {
			l := s.login()
			l.Params = params
			theirs := l
			theirs.Database = s.shards[0].db
			got, want := fmt.Sprint(pgtest.Dial(t, s.addr).Login(l)), fmt.Sprint(pgtest.Dial(t, s.shards[0].Addr()).Login(theirs))
			if got != want && !strings.Contains(params["options"], "-x") && params["client_encoding"] == "" {
				t.Errorf("%v:\n got %s\nwant %s", params, got, want)
			}
			if got == "<nil>" {
				t.Errorf("%v was accepted", params)
			}
		}
		protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
	})
}

// SET ROLE follows its client and reaches nobody else.
func TestSettingsOfRoles(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		role := "guest_" + s.shards[0].db
		for i, sh := range s.shards {
			name := role
			if i > 0 && sh.Instance == s.shards[0].Instance {
				continue
			}
			sh.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s; GRANT %s TO %s", name, name, user))
			t.Cleanup(func() { sh.Exec(t, "postgres", "DROP ROLE "+name) })
		}
		const who = "SELECT current_user, session_user"
		is := func(name string) string { return name + "|" + user + "; SELECT 1; I" }
		c, other := s.connect(t), s.connect(t)
		// A backend may not have heard of the GRANT yet, with others under way.
		eventually(t, "the role may be taken", func() bool {
			return outcome(c.Query("SET ROLE "+role)) == "SET; I" && outcome(c.Query(who)) == is(role) && outcome(c.Query("RESET ROLE")) == "RESET; I"
		})
		for _, p := range protocols {
			p.play(t, c, "SET ROLE "+role, "SET; I", who, is(role))
			p.play(t, other, who, is(user), "SET ROLE none", "SET; I", who, is(user))
			p.play(t, c, who, is(role), "RESET ROLE", "RESET; I", who, is(user), "SELECT set_config('role', '"+role+"', false)", role+"; SELECT 1; I", who, is(role))
			p.play(t, other, who, is(user))
			p.play(t, c, "BEGIN", "BEGIN; T", "SET LOCAL ROLE none", "SET; T", "SELECT current_user", user+"; SELECT 1; T", "COMMIT", "COMMIT; I", who, is(role),
				"DISCARD ALL", "DISCARD ALL; I", who, is(user), "SET SESSION ROLE "+role, "SET; I", who, is(role), "RESET ALL", "RESET; I")
			if got := outcome(p.run(c, who)); got != is(role) { // RESET ALL does not touch the role
				t.Errorf("after RESET ALL: %s", got)
			}
			p.play(t, c, "SET SESSION AUTHORIZATION DEFAULT", "SET; I", who, is(user))
			p.play(t, other, who, is(user))
		}
	})
}

// Clients do at random what PostgreSQL's settings and transactions allow, each beside a twin that has a server of its own.
// Whatever they are answered has to be the same.
func TestSettingsAsPostgreSQL(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		var clients sync.WaitGroup
		for n := range 4 {
			c, twin := s.connect(t), s.direct(t, nil)
			clients.Go(func() { randomSettings(t, c, twin, uint64(n)) })
		}
		clients.Wait()
	})
}

func randomSettings(t *testing.T, c, twin *pgtest.Client, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	names := []string{"work_mem", "TimeZone", "app.tenant", "application_name", "search_path"}
	values := map[string][]string{
		"work_mem": {"'1000kB'", "'2000kB'"}, "TimeZone": {"'UTC'", "'Asia/Tokyo'"}, "app.tenant": {"'a'", "'b'"},
		"application_name": {"'one'", "'two'"}, "search_path": {"public", "pg_catalog, public"},
	}
	var script []string
	for range 200 {
		name := names[rnd.IntN(len(names))]
		value := values[name][rnd.IntN(2)]
		sql := [...]string{
			"SET " + name + " = " + value, "SET " + name + " = " + value, "SET LOCAL " + name + " = " + value,
			"RESET " + name, "SET " + name + " TO DEFAULT", "SET LOCAL " + name + " TO DEFAULT", "RESET ALL",
			"SELECT set_config('work_mem', '3000kB', false)", "SELECT set_config('work_mem', '4000kB', true)",
			"BEGIN", "BEGIN", "COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
			"SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "ROLLBACK TO b", "RELEASE a", "RELEASE b",
			"SELECT 1", "SELECT 1/0", "SELECT 1/0; SELECT 2", "SET work_mem = '5000kB'; SELECT 1", "SET work_mem = '6000kB'; SELECT 1/0",
			"BEGIN; SET app.tenant = 'c'; COMMIT", "BEGIN; SET app.tenant = 'd'; ROLLBACK", "DISCARD ALL",
			"SHOW " + name, "SHOW " + name, "SHOW " + name, "SHOW " + name,
		}[rnd.IntN(34)]
		script = append(script, sql)
		p := protocols[rnd.IntN(2)]
		if strings.Contains(sql, ";") {
			p = protocols[0]
		}
		if got, want := outcome(p.run(c, sql)), outcome(p.run(twin, sql)); got != want {
			t.Errorf("seed %d: %s\n got %s\nwant %s\nafter %s", seed, sql, got, want, strings.Join(script[max(0, len(script)-15):], "; "))
			return
		}
	}
	for _, c := range []*pgtest.Client{c, twin} {
		c.Query("ROLLBACK")
	}
	for _, name := range names {
		if got, want := show(c, name), show(twin, name); got != want {
			t.Errorf("seed %d: %s is %q, not %q", seed, name, got, want)
		}
	}
}

// What ParameterStatus told of is what PostgreSQL would have told of.
func TestSettingsAreReported(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		params := map[string]string{"TimeZone": "Europe/Berlin", "application_name": "me", "options": "-c DateStyle=German"}
		c, twin, other := s.with(t, params), s.direct(t, params), s.connect(t)
		same := func(after string) {
			t.Helper()
			if !maps.Equal(c.Params, twin.Params) {
				t.Errorf("after %s:\n told %v\n want %v", after, c.Params, twin.Params)
			}
		}
		same("login")
		steps := []string{
			"SET TimeZone = 'Asia/Tokyo'", "SELECT 1", "SET application_name = 'x'", "BEGIN; SET TimeZone = 'UTC'; SET application_name = 'y'",
			"SELECT 1", "ROLLBACK", "SELECT 1", "BEGIN; SET LOCAL DateStyle = 'ISO'", "SELECT 1", "COMMIT", "SET client_encoding = 'LATIN1'", "SELECT 1",
			"SET IntervalStyle = sql_standard", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SELECT set_config('TimeZone', 'Asia/Seoul', false)",
			"BEGIN; SELECT 1", "SAVEPOINT a", "SET TimeZone = 'UTC'", "ROLLBACK TO a", "COMMIT", "RESET TimeZone", "SELECT 1", "RESET ALL", "SELECT 1",
			"SET DateStyle = 'SQL'", "DISCARD ALL", "SELECT 1",
		}
		if len(s.shards) == 1 { // else what begins a transaction waits for the shard that has it
			steps = append(steps,
				"BEGIN", "SET application_name = 'mé'", "SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", "ROLLBACK",
				"BEGIN", "SET work_mem = '1MB'", "SAVEPOINT a", "SET DateStyle = 'SQL'", "RESET TimeZone", "ROLLBACK TO a", "SET NAMES 'UTF8'", "COMMIT",
				"BEGIN", "SET TimeZone = 'Nowhere'", "ROLLBACK", "SET application_name = 'z'", "BEGIN", "RESET ALL", "COMMIT",
			)
		}
		for _, sql := range steps {
			got := outcome(c.Query(sql))
			if want := outcome(twin.Query(sql)); got != want {
				t.Errorf("%s: got %s, want %s", sql, got, want)
			}
			if sql == "DISCARD ALL" {
				c.Query("SELECT 1") // it is answered at once; what it changes is reported with the next statement
			}
			same(sql)
			if strings.HasSuffix(got, "I") { // else the only backend may be taken
				protocols[0].play(t, other, "SELECT 1", "1; SELECT 1; I")
				same(sql + ", and another client's turn")
			}
		}
		// A notice comes to the client that caused it.
		c.Send(&pgproto3.Query{String: "ROLLBACK"})
		if got := pgtest.Format(c.UntilReady()...); !strings.Contains(got, "NoticeResponse(WARNING, 25P01") {
			t.Errorf("ROLLBACK outside a transaction: %s", got)
		}
	})
}
