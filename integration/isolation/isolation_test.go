package isolation

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
	"github.com/pgkennel/pgkennel/tenant"
)

// exploit is a row that is tried in a world.
type exploit struct {
	*testing.T
	*world
	gives string
}

// protocols are the ways to say a row's statements, one by one.
var protocols = []struct {
	name string
	run  func(c *pgtest.Client, sql string) []pgproto3.BackendMessage
}{
	{"simple", (*pgtest.Client).Query},
	{"extended", func(c *pgtest.Client, sql string) []pgproto3.BackendMessage { return c.Extended(sql) }},
}

// TestIsolation tries every row in every mode: through pgkennel, by PostgreSQL alone where that is promised, and by pgkennel alone.
func TestIsolation(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := build(t, m)
			w.unharmed(t, "nothing")
			for _, g := range groups {
				for _, r := range g.rows {
					if r.appliesTo(m) {
						t.Run(r.id, func(t *testing.T) { w.try(t, r) })
					}
				}
			}
			t.Run("random", func(t *testing.T) {
				for seed := range uint64(15) {
					w.random(t, &dice{seeded(seed)})
				}
			})
			if m.mode != "strict" {
				t.Run("functions", w.functions)
			}
			t.Run("catalogs", w.catalogs)
			w.untouched(t, "all")
			if m.alone {
				t.Run("PostgreSQL alone", w.serverAlone)
			}
			t.Run("pgkennel alone", w.poolerAlone)
		})
	}
}

func (r *row) appliesTo(m mode) bool { return r.in == "" || m.is(r.in) }

// try tries a row through pgkennel.
func (w *world) try(t *testing.T, r row) {
	for _, p := range protocols {
		if len(r.steps) == 0 {
			break
		}
		c := w.tenant(t, attacker)
		for _, s := range r.steps {
			sql := w.fill(s.sql)
			w.expect(t, p.name+": "+sql, p.run(c, sql), inMode(w.mode, s.want, s.but))
		}
		c.Terminate()
		w.unharmed(t, r.id+", "+p.name)
	}
	if len(r.steps) > 0 {
		c := w.tenant(t, attacker)
		var messages []pgproto3.FrontendMessage
		for _, s := range r.steps {
			messages = append(messages, testbed.Statements(w.fill(s.sql))...)
		}
		c.Send(append(messages, testbed.Sync)...)
		w.expect(t, "a pipeline", c.UntilReady(), nothing)
		c.Terminate()
		w.unharmed(t, r.id+", a pipeline")
	}
	if r.run != nil {
		r.run(&exploit{t, w, inMode(w.mode, r.gives, r.but)})
		w.unharmed(t, r.id)
	}
	w.untouched(t, r.id)
}

// expect checks an answer to the attacker: by a word, or the whole outcome. Nothing of the victim's is in it.
func (w *world) expect(t testing.TB, what string, msgs []pgproto3.BackendMessage, want string) {
	t.Helper()
	got := testbed.Outcome(msgs)
	if len(what) > 200 {
		what = what[:200] + "…"
	}
	if canary := leak(msgs); canary != "" {
		t.Errorf("%s\nshows the victim's %q: %s", what, canary, pgtest.Format(msgs...))
	}
	if !gives(got, pgtest.Format(msgs...), want) {
		t.Errorf("%s\n got %s\nwant %s", what, got[:min(len(got), 200)], want)
	}
}

// gives reports whether an outcome is what is wanted.
func gives(got, text, want string) bool {
	switch v := verdict(got); want {
	case nothing:
		return true
	case refused, denied, runs:
		return v == want
	case stopped:
		return v == refused || v == denied
	}
	if has, ok := strings.CutPrefix(want, open); ok {
		return strings.Contains(got+text, has[1:])
	}
	return got == want
}

// verdict is what an outcome means.
func verdict(outcome string) string {
	for part := range strings.SplitSeq(outcome, "; ") {
		code, name, named := strings.Cut(part, " ")
		if len(code) != 5 || strings.ContainsFunc(code, func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') }) || !strings.ContainsAny(code, "0123456789") {
			continue
		}
		if named && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
			return refused
		}
		if !named {
			return denied
		}
	}
	return runs
}

// leak finds what is the victim's in messages.
func leak(msgs []pgproto3.BackendMessage) string {
	var all []byte
	for _, m := range msgs {
		all, _ = m.Encode(all) // what was decoded can be encoded
	}
	for _, canary := range []string{fmt.Sprintf("of %d", victim), fmt.Sprintf("slug-%d-2", victim)} {
		if bytes.Contains(all, []byte(canary)) {
			return canary
		}
	}
	return ""
}

// serverAlone tries the rows' statements on a connection to PostgreSQL that is as pgkennel's are.
func (w *world) serverAlone(t *testing.T) {
	for _, g := range groups {
		for _, r := range g.rows {
			if len(r.steps) == 0 || !r.appliesTo(w.mode) {
				continue
			}
			c := w.asServer(t, attacker)
			for _, s := range append(slices.Clone(r.steps), then(mine, nothing), then("SELECT note FROM {theirs}", nothing), then("RESET ROLE; SELECT note FROM {theirs}", nothing)) {
				sql := w.fill(s.sql)
				msgs := c.Query(sql)
				if canary := leak(msgs); canary != "" {
					t.Errorf("%s, %s: PostgreSQL shows %q", r.id, sql[:min(len(sql), 200)], canary)
				}
			}
			c.Terminate()
			w.Shards[0].Exec(t, "postgres", fmt.Sprintf("ALTER ROLE %s RESET ALL; ALTER ROLE %[1]s IN DATABASE %s RESET ALL", w.login(attacker), w.db))
			if r.id == "D18" {
				w.Secure(t, "2", "3", "4") // it gave its own privileges away
			}
			w.untouched(t, r.id+" without pgkennel")
		}
	}
	w.unharmed(t, "attacks on PostgreSQL")
}

// login is the role with which server connections of a tenant log in.
func (w *world) login(n int) string {
	if w.mode.mode == "strict" {
		return w.roles[n]
	}
	return testbed.User
}

// asServer logs in to a tenant's database as pgkennel does.
func (w *world) asServer(t testing.TB, n int) *pgtest.Client {
	t.Helper()
	db, options := w.db, fmt.Sprintf("-c app.current_tenant=%d", n)
	switch w.isolation {
	case "schema":
		options += fmt.Sprintf(` -c search_path=t_%d,\ public`, n)
	case "database":
		db = fmt.Sprintf("%s_d%d", w.db, n)
	}
	c := w.Shards[0].Connect(t, pgtest.Login{User: w.login(n), Database: db, Params: map[string]string{"options": options}})
	if w.mode.mode == "sealed" {
		secret, err := tenant.NewSecret([]byte(roleSecret))
		if err != nil {
			t.Fatal(err)
		}
		var pid uint32
		var start int64
		if _, err := fmt.Sscanf(pgtest.Rows(c.Query("SELECT pg_backend_pid() || ' ' || pgkennel.backend_start()"))[0], "%d %d", &pid, &start); err != nil {
			t.Fatal(err)
		}
		c.Query(fmt.Sprintf("SET pgkennel.seal = '%s'", secret.Sealer(testbed.Cluster).AppendSeal(nil, fmt.Sprint(n), pid, start)))
	}
	return c
}

// poolerAlone opens everything in the database, and tries what pgkennel is to refuse.
func (w *world) poolerAlone(t *testing.T) {
	w.loosen(t)
	for _, g := range groups {
		for _, r := range g.rows {
			if !r.appliesTo(w.mode) {
				continue
			}
			for _, p := range protocols {
				c := w.tenant(t, attacker)
				for _, s := range r.steps {
					if want := inMode(w.mode, s.want, s.but); want == refused && s.part {
						sql := w.fill(s.sql)
						w.expect(t, r.id+", "+p.name+": "+sql, p.run(c, sql), want)
					}
				}
				c.Terminate()
			}
		}
	}
	w.untouched(t, "attacks on pgkennel alone")
}

// loosen lets whom tenants run as do everything: a role of their own is a superuser, the login that all share has all there is in the database.
func (w *world) loosen(t testing.TB) {
	t.Helper()
	sql := "GRANT ALL ON DATABASE " + w.db + " TO app; GRANT ALL ON SCHEMA public TO app; GRANT ALL ON ALL TABLES IN SCHEMA public, pg_catalog TO app; GRANT ALL ON ALL FUNCTIONS IN SCHEMA pg_catalog TO app"
	if w.ownRole() { // by its login, or by SET ROLE
		sql = "ALTER ROLE " + w.roles[attacker] + " SUPERUSER"
	}
	w.Shards[0].Exec(t, w.db, sql)
	if w.isolation == "row" {
		for _, table := range []string{"orders", "orders_2", "orders_x", "items", "slugs"} {
			w.Shards[0].Exec(t, w.db, "SET session_replication_role = replica; ALTER TABLE "+table+" DISABLE ROW LEVEL SECURITY")
		}
	}
	c := w.tenant(t, attacker)
	if msgs := c.Query("SELECT note FROM orders WHERE id > 30"); w.isolation == "row" && leak(msgs) == "" {
		t.Errorf("it is not open: %s", testbed.Outcome(msgs))
	}
	c.Terminate()
}
