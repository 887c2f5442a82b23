package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// TestTenantsMixed: tenants by rows, by schemas on a shared login, and by schemas with a login each, on few connections. Many clients choose them in
// every way, and fail, roll back and go in the middle: nobody ever sees a row of another tenant's.
func TestTenantsMixed(t *testing.T) {
	t.Parallel()
	const tenants, clients = 30, 24
	s := prepare(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 3\n"})
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	rest := fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\nrole_secret_file = %q\n", db, s.path("role.secret"))
	ddl := "INSERT INTO orders SELECT t, i, 'of ' || t FROM generate_series(6, 30) t, generate_series(1, 3) i;"
	for i := 1; i <= tenants; i++ {
		isolation, mode := "row", "shared"
		if i%3 != 0 {
			role := fmt.Sprintf("%s_t%d", db, i)
			isolation = "schema"
			ddl += fmt.Sprintf(`CREATE ROLE %[2]s LOGIN PASSWORD '%[3]s' CONNECTION LIMIT 4; CREATE SCHEMA t_%[1]d; CREATE TABLE t_%[1]d.orders (tenant_id bigint DEFAULT %[1]d, id bigint, note text);
				INSERT INTO t_%[1]d.orders (id, note) SELECT i, 'of %[1]d' FROM generate_series(1, 3) i;
				GRANT USAGE ON SCHEMA t_%[1]d TO %[2]s; GRANT ALL ON ALL TABLES IN SCHEMA t_%[1]d TO %[2]s; GRANT %[2]s TO app;`, i, role, rolePassword(t, role))
		}
		if i%3 == 1 {
			mode = "strict"
		}
		rest += fmt.Sprintf("[[tenants]]\nname = \"n%d\"\nkey = %[1]d\nisolation = %q\nmode = %q\n", i, isolation, mode)
	}
	s.shards[0].Exec(t, db, ddl)
	s.edit("pgdog.toml", "[admin]", rest+"[admin]")
	s.startInside()
	const mine = "SELECT DISTINCT note FROM orders"
	end := time.Now().Add(4 * time.Second)
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			var c *pgtest.Client
			bound := 0
			for time.Now().Before(end) && !t.Failed() {
				if c == nil {
					name := "app"
					if bound = 0; rnd.IntN(3) == 0 {
						bound = 1 + rnd.IntN(tenants)
						name = fmt.Sprintf("app@n%d", bound)
					}
					c = s.as(t, name, nil)
				}
				who := bound
				if who == 0 {
					who = 1 + rnd.IntN(tenants)
				}
				p := protocols[rnd.IntN(len(protocols))]
				expect := func(sql, want string) {
					t.Helper()
					if got := outcome(p.run(c, sql)); got != want {
						t.Errorf("tenant %d, %s: %s: got %s, want %s", who, p.name, sql, got, want)
					}
				}
				choose := func() {
					if bound == 0 {
						expect(fmt.Sprintf("SET app.current_tenant = '%d'", who), "SET; I")
					}
				}
				note := fmt.Sprintf("of %d; SELECT 1; ", who)
				switch rnd.IntN(9) {
				case 0:
					choose()
					expect(mine, note+"I")
				case 1:
					choose()
					expect(fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = 2", who), note+"I")
				case 2:
					if bound == 0 {
						expect("RESET app.current_tenant", "RESET; I")
						expect(fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = 2", who), note+"I")
						expect(fmt.Sprintf("/* pgkennel_tenant: n%d */ %s", who, mine), note+"I")
					}
				case 3:
					choose()
					expect("BEGIN", "BEGIN; T")
					expect(mine, note+"T")
					expect("SELECT 1/0", "22012; E")
					expect("ROLLBACK AND CHAIN", "ROLLBACK; T")
					expect(mine, note+"T")
					expect("COMMIT", "COMMIT; I")
				case 4:
					choose()
					expect("SET search_path TO nowhere", "SET; I")
					expect("RESET ALL", "RESET; I")
					expect(mine, note+"I")
				case 5:
					choose()
					expect("SELECT count(*) FROM no_such_table", "42P01; I")
					expect("DISCARD ALL", "DISCARD ALL; I")
					expect(mine, note+"I")
				case 6:
					if bound == 0 {
						expect("RESET app.current_tenant", "RESET; I")
						expect("BEGIN", "BEGIN; T")
						expect("SELECT 1", "1; SELECT 1; T")
						expect(fmt.Sprintf("SELECT set_config('app.current_tenant', '%d', true)", who), fmt.Sprintf("%d; SELECT 1; T", who))
						expect(mine, note+"T")
						expect("ROLLBACK", "ROLLBACK; I")
					}
				case 7: // several tenants in one pipeline, each in a transaction of its own
					if bound == 0 {
						expect("RESET app.current_tenant", "RESET; I")
						var names []int
						for range 5 {
							names = append(names, 1+rnd.IntN(tenants))
						}
						for _, who := range names {
							sql := fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = 1", who)
							c.Send(&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
						}
						for _, who := range names {
							if got, want := outcome(c.UntilReady()), fmt.Sprintf("of %d; SELECT 1; I", who); got != want {
								t.Errorf("in a pipeline: got %s, want %s", got, want)
							}
						}
					}
				case 8: // gone in the middle of it
					if bound == 0 {
						c.Send(&pgproto3.Query{String: fmt.Sprintf("SET app.current_tenant = '%d'", who)})
					}
					c.Send(&pgproto3.Query{String: "BEGIN"}, &pgproto3.Query{String: mine + ", pg_sleep(0.01)"})
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	all.Wait()
}

// TestTenantsMixedTables: tables of one name have other columns in tenants' own schemas than where tenants share them, as nobody needs the tenant column there.
func TestTenantsMixedTables(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: rowsSchema, users: switching})
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	rest := fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\nrole_secret_file = %q\n", s.path("role.secret"))
	for i, mode := range []string{"shared", "strict"} {
		role := db + "_" + mode
		s.shards[0].Exec(t, db, fmt.Sprintf(`CREATE ROLE %[2]s LOGIN PASSWORD '%[3]s'; CREATE SCHEMA own_%[1]s; CREATE TABLE own_%[1]s.orders (note text);
			INSERT INTO own_%[1]s.orders VALUES ('%[1]s'); GRANT USAGE ON SCHEMA own_%[1]s TO %[2]s; GRANT ALL ON own_%[1]s.orders TO %[2]s; GRANT %[2]s TO app`, mode, role, rolePassword(t, role)))
		rest += fmt.Sprintf("[[tenants]]\nname = %q\nkey = 9%d\nisolation = \"schema\"\nmode = %[1]q\nschema = \"own_%[1]s\"\nrole = %[3]q\n", mode, i, role)
	}
	s.edit("pgdog.toml", "[admin]", rest+"[admin]")
	s.startInside()
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.as(t, "app@2", nil),
			"SELECT DISTINCT note FROM orders", "of 2; SELECT 1; I",
			"SELECT note FROM own_strict.orders", "42501 tenant_missing; I")
		for _, mode := range []string{"shared", "strict"} {
			p.play(t, s.as(t, "app@"+mode, nil),
				"SELECT note FROM orders", mode+"; SELECT 1; I",
				"BEGIN", "BEGIN; T",
				"INSERT INTO orders VALUES ('more')", "INSERT 0 1; T",
				"DELETE FROM orders WHERE note = 'more'", "DELETE 1; T",
				"ROLLBACK", "ROLLBACK; I")
			p.play(t, s.as(t, "app", nil),
				"/* pgkennel_tenant: "+mode+" */ SELECT note FROM orders", mode+"; SELECT 1; I",
				"SET pgkennel.tenant = '"+mode+"'", "SET; I",
				"SELECT note FROM orders", mode+"; SELECT 1; I")
		}
	})
}

// TestTenantlessAreToldHow: who is nobody's on tenants' tables hears how its own session gets a tenant.
func TestTenantlessAreToldHow(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: rowsSchema, users: switching, rest: twoTenants})
	for _, x := range []struct{ user, sql, hint string }{
		{"app", "TABLE orders", "Choose one by SET app.current_tenant = '...', log in as user@tenant"},
		{"plain", "TABLE orders", "Log in as user@tenant, or let the user choose"},
		{"app@two", "TRUNCATE orders", "DELETE removes those of one."},
	} {
		c := s.as(t, x.user, nil)
		for _, p := range protocols {
			if e := pgtest.Failure(p.run(c, x.sql)); e == nil || !strings.HasPrefix(e.Hint, x.hint) {
				t.Errorf("%s, %s, %s: got %+v", x.user, p.name, x.sql, e)
			}
		}
	}
}
