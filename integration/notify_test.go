package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// hears waits for the next notification.
func hears(t testing.TB, c *pgtest.Client) string {
	t.Helper()
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("no notification: %v", err)
		}
		if n, ok := m.(*pgproto3.NotificationResponse); ok {
			return n.Channel + " " + n.Payload
		}
	}
}

// TestNotifications: a notification reaches sessions of the tenant that sent it, and nobody else's: PostgreSQL itself gives it to all who listen in the
// database, whatever their logins.
func TestNotifications(t *testing.T) {
	t.Parallel()
	users := strings.ReplaceAll(switching, "[[users]]", "[[users]]\npooler_mode = \"session\"") + `[[users]]
name = "quick"
database = "saas"
password = "` + password + `"
server_user = "app"
tenant_switch = true
`
	for _, x := range []struct{ isolation, mode string }{
		{"row", "strict"}, {"row", "shared"}, {"schema", "strict"}, {"schema", "shared"}, {"database", "strict"},
	} {
		t.Run(x.isolation+" "+x.mode, func(t *testing.T) {
			t.Parallel()
			s := prepare(t, spec{schema: rowsSchema, users: users, general: "default_pool_size = 3\n"})
			db := s.shards[0].db
			s.write("role.secret", "0123456789abcdef0123456789abcdef")
			for _, key := range []string{"2", "4"} {
				role := db + "_t" + key
				s.shards[0].Exec(t, db, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'; CREATE SCHEMA t_%s AUTHORIZATION %[1]s; GRANT %[1]s TO app", role, rolePassword(t, role), key))
				if x.isolation == "database" {
					s.shards[0].Exec(t, "postgres", fmt.Sprintf("CREATE DATABASE %s_d%s OWNER %s_t%[2]s", db, key, db))
					t.Cleanup(func() { s.shards[0].Exec(t, "postgres", fmt.Sprintf("DROP DATABASE %s_d%s WITH (FORCE)", db, key)) })
				}
			}
			s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nisolation = %q\nmode = %q\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\ndatabase_name = \"%[3]s_d{key}\"\nrole_secret_file = %[4]q\n[admin]",
				x.isolation, x.mode, db, s.path("role.secret")))
			s.startInside()
			p := protocols[0]
			shared := x.mode == "shared"
			if shared { // in session pooling the connection itself would listen, and hear all
				for _, p := range protocols {
					c := s.as(t, "app@2", nil)
					p.play(t, c, "LISTEN news", "42501 tenant_context; I", "UNLISTEN news", "UNLISTEN; I", "UNLISTEN *", "UNLISTEN; I")
					for _, sql := range []string{"SELECT 1; LISTEN news", `LISTEN U&"ne\0077s"`, "DO $$ BEGIN EXECUTE 'LISTEN news'; END $$"} {
						if e := pgtest.Failure(p.run(c, sql)); e == nil || e.Code != "42501" && e.Code != "42601" { // the latter: several in one Parse
							t.Errorf("%s, by the %s protocol: %+v", sql, p.name, e)
						}
					}
					c.Terminate()
				}
			}
			if shared { // what a function has the connection listen to is not told
				s.shards[0].Exec(t, db, "CREATE FUNCTION hark() RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'LISTEN news'; RETURN ''; END $$")
				c := s.as(t, "app@2", nil)
				p.play(t, c, "SELECT hark()", "; SELECT 1; I")
				p.play(t, s.as(t, "quick@4", nil), "NOTIFY news, 'of 4'", "NOTIFY; I")
				if got := heard(append(p.run(c, "SELECT 1"), p.run(c, "NOTIFY news")...)); got != nil {
					t.Errorf("over its own connection tenant 2 hears %q", got)
				}
				c.Terminate()
			}
			two, four, worker := s.as(t, "app@2", nil), s.as(t, "app@4", nil), s.as(t, "plain", nil)
			// In transaction pooling it is the same.
			two2, four2 := s.as(t, "quick@2", nil), s.as(t, "quick@4", nil)
			p.play(t, two2, "LISTEN news", "LISTEN; I")
			p.play(t, four2, "LISTEN news", "LISTEN; I")
			choosy := s.as(t, "quick", nil)
			p.play(t, choosy, "SET app.current_tenant = '2'", "SET; I", "LISTEN news", "LISTEN; I", "SET app.current_tenant = '4'", "55000 listen_visit; I", "RESET app.current_tenant", "55000 listen_visit; I",
				"SELECT 1", "1; SELECT 1; I", "UNLISTEN news", "UNLISTEN; I", "SET app.current_tenant = '4'", "SET; I", "LISTEN news", "LISTEN; I", "UNLISTEN *", "UNLISTEN; I", "RESET app.current_tenant", "RESET; I",
				"BEGIN", "BEGIN; T", "SET LOCAL app.current_tenant = '2'", "SET; T", "LISTEN news", "0A000 listen_visit; E", "ROLLBACK", "ROLLBACK; I")
			if !shared {
				p.play(t, two, "LISTEN news", "LISTEN; I")
				p.play(t, four, "LISTEN news", "LISTEN; I")
			}
			p.play(t, worker, "LISTEN news", "LISTEN; I")
			// In the order in which they are sent they arrive, so what is heard next tells what was not.
			p.play(t, worker, "NOTIFY news, 'nobody'", "NOTIFY; I")
			if x.isolation != "database" {
				s.shards[0].Exec(t, db, "NOTIFY news, 'by somebody else'")
			}
			p.play(t, s.as(t, "app@4", nil), "NOTIFY news, 'of 4'", "NOTIFY; I", "SELECT 1 FROM pg_notify('news', 'more of 4')", "1; SELECT 1; I")
			p.play(t, s.as(t, "quick@4", nil), "NOTIFY news, 'even more of 4'", "NOTIFY; I")
			p.play(t, s.as(t, "app@2", nil), "NOTIFY news, 'of 2'", "NOTIFY; I")
			if !shared {
				if got := hears(t, two); got != "news of 2" {
					t.Errorf("tenant 2 hears %q", got)
				}
				for _, want := range []string{"of 4", "more of 4", "even more of 4"} {
					if got := hears(t, four); got != "news "+want {
						t.Errorf("tenant 4 hears %q, want %q", got, want)
					}
				}
			}
			// A connection that has said something is closed at once.
			p.play(t, s.as(t, "quick@4", nil), "CREATE TEMP TABLE x AS SELECT 1; NOTIFY news, 'and gone'", "SELECT 1; NOTIFY; I")
			p.play(t, s.as(t, "quick@2", nil), "CREATE TEMP TABLE x AS SELECT 1; NOTIFY news, 'gone too'", "SELECT 1; NOTIFY; I")
			for _, want := range []string{"of 4", "more of 4", "even more of 4", "and gone"} {
				if got := hears(t, four2); got != "news "+want {
					t.Errorf("tenant 4 hears %q in transaction pooling, want %q", got, want)
				}
			}
			for _, want := range []string{"of 2", "gone too"} {
				if got := hears(t, two2); got != "news "+want {
					t.Errorf("tenant 2 hears %q in transaction pooling, want %q", got, want)
				}
			}
			p.play(t, four, "NOTIFY news, 'to myself'", "NOTIFY; I") // of which it is told in the same answer
			// Somebody without a tenant hears all that PostgreSQL sends.
			all := []string{"by somebody else", "of 4", "more of 4", "even more of 4", "of 2", "and gone", "gone too", "to myself"}
			if x.isolation == "database" {
				all = nil
			}
			for _, want := range all {
				if got := hears(t, worker); got != "news "+want {
					t.Errorf("the worker hears %q, want %q", got, want)
				}
			}
		})
	}
}
