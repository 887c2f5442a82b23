package integration

import (
	"fmt"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestListenBehindAFailover: an address leads to another server from one connection to the next, and the one before is still there. A process of the new one that has the
// number of a connection to the old one is not taken for that; and who listens to the old one is told when the new one is found.
func TestListenBehindAFailover(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		mode, pooling string
		connections   int
	}{{"shared", "transaction", 1}, {"strict", "transaction", 1}, {"strict", "session", 3}} {
		t.Run(x.mode+" "+x.pooling, func(t *testing.T) {
			t.Parallel()
			servers := pgtest.SharedSet(t, 2)
			prepare(t, spec{instances: servers[1:]}) // for its logins
			s := prepare(t, spec{users: switching, general: fmt.Sprintf("default_pool_size = %d\npooler_mode = %q\n", x.connections, x.pooling)})
			db := "failover_" + s.shards[0].db
			role := db + "_t2"
			for _, server := range servers[:2] {
				server.Exec(t, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", db, testbed.User))
				server.Exec(t, db, fmt.Sprintf("SET ROLE %s; %s RESET ROLE; CREATE ROLE %s LOGIN PASSWORD '%s'", testbed.User, rowsSchema, role, rolePassword(t, role)))
				t.Cleanup(func() {
					server.Exec(t, "postgres", fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", db))
					server.Exec(t, "postgres", "DROP ROLE "+role)
				})
			}
			s.write("role.secret", "0123456789abcdef0123456789abcdef")
			s.edit("pgdog.toml", fmt.Sprintf("database_name = %q", s.shards[0].db), fmt.Sprintf("database_name = %q", db))
			s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nmode = %q\nrole = \"%s_t{key}\"\nrole_secret_file = %q\n[admin]", x.mode, db, s.path("role.secret")))
			p := s.throughProxy(0)
			foreign := servers[1].Connect(t, pgtest.Login{User: testbed.User, Database: db, Password: testbed.Password})
			p.pid.Store(foreign.PID)
			s.startInside()
			play := protocols[0].play
			old := s.as(t, "app@2", nil)
			play(t, old, "NOTIFY news, 'to nobody'", "NOTIFY; I")
			p.pid.Store(0)
			p.lead(servers[1].Addr())
			ear := s.as(t, "app@2", nil)
			play(t, ear, "LISTEN news", "LISTEN; I")
			play(t, old, "NOTIFY news, 'to the old one'", "NOTIFY; I")
			play(t, foreign, "NOTIFY news, 'of another one'", "NOTIFY; I")
			if x.pooling == "transaction" { // the only connection leads to the old server
				servers[0].Exec(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
				eventually(t, "the new one is found", func() bool { return pgtest.Failure(protocols[0].run(old, "SELECT 1")) == nil })
				play(t, old, "NOTIFY news, 'its own'", "NOTIFY; I")
			} else {
				play(t, s.as(t, "app@2", nil), "NOTIFY news, 'its own'", "NOTIFY; I")
			}
			if got := hears(t, ear); got != "news its own" {
				t.Errorf("the tenant hears %q", got)
			}
			if x.pooling == "session" {
				return
			}
			p.lead(servers[0].Addr())
			servers[1].Exec(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'pgkennel LISTEN'")
			eventually(t, "the old one is found", func() bool { return pgtest.Failure(protocols[0].run(old, "SELECT 1")) == nil })
			if code := ends(t, ear); code != "57P01" {
				t.Errorf("who listens to a server that is not there any more ends with %q", code)
			}
		})
	}
}
