package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// TestGuardAsks: what speaks against a login, as it is asked of itself. In the SQL, ME is the login, GROUP and OTHER are roles besides, DB is the database.
func TestGuardAsks(t *testing.T) {
	t.Parallel()
	row := secure.Login{Isolation: tenant.Row, Mode: tenant.Strict, Column: "tenant_id"}
	schema := secure.Login{Isolation: tenant.Schema, Mode: tenant.Strict}
	database := secure.Login{Isolation: tenant.Database, Mode: tenant.Strict}
	sealed := secure.Login{Isolation: tenant.Row, Mode: tenant.Sealed, Column: "tenant_id"}
	shared := secure.Login{Isolation: tenant.Schema, Mode: tenant.Shared}
	all := []secure.Login{row, schema, database, sealed, shared}
	for _, x := range []struct {
		sql, undo string
		want      string // empty = nothing
		voids     []secure.Login
	}{
		{"SELECT 1", "", "", nil},
		{"ALTER ROLE ME SUPERUSER", "ALTER ROLE ME NOSUPERUSER", "is SUPERUSER", all},
		{"ALTER ROLE ME BYPASSRLS CREATEROLE REPLICATION", "ALTER ROLE ME NOBYPASSRLS NOCREATEROLE NOREPLICATION", "is BYPASSRLS; is CREATEROLE; is REPLICATION", all},
		{"GRANT GROUP TO ME", "REVOKE GROUP FROM ME", "", nil}, // a group that only has privileges
		{"ALTER ROLE GROUP BYPASSRLS; GRANT GROUP TO ME", "ALTER ROLE GROUP NOBYPASSRLS; REVOKE GROUP FROM ME", "is a member of GROUP", all},
		{"GRANT pg_read_all_data TO GROUP; GRANT GROUP TO ME", "REVOKE pg_read_all_data FROM GROUP; REVOKE GROUP FROM ME", "is a member of pg_read_all_data", all},
		{"GRANT pg_signal_backend TO ME", "REVOKE pg_signal_backend FROM ME", "is a member of pg_signal_backend", []secure.Login{row, schema, database}},
		{"GRANT OTHER TO GROUP; GRANT GROUP TO ME", "REVOKE OTHER FROM GROUP; REVOKE GROUP FROM ME", "is a member of OTHER", []secure.Login{row, schema, database, sealed}},
		{"ALTER TABLE orders OWNER TO ME", "ALTER TABLE orders OWNER TO CURRENT_USER", "owns the table public.orders", []secure.Login{row, sealed}},
		{"ALTER TABLE orders OWNER TO GROUP; GRANT GROUP TO ME", "ALTER TABLE orders OWNER TO CURRENT_USER; REVOKE GROUP FROM ME", "owns the table public.orders", []secure.Login{row, sealed}},
		{"ALTER TABLE notes OWNER TO ME", "ALTER TABLE notes OWNER TO CURRENT_USER", "", nil},
		{"ALTER SCHEMA held OWNER TO ME", "ALTER SCHEMA held OWNER TO CURRENT_USER", "owns the schema held", []secure.Login{row, sealed}},
		{"ALTER SCHEMA free OWNER TO ME", "ALTER SCHEMA free OWNER TO CURRENT_USER", "", nil},
		{"GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "may CREATE in the schema public", []secure.Login{row, schema, sealed}},
		{"ALTER DATABASE DB OWNER TO ME", "ALTER DATABASE DB OWNER TO CURRENT_USER", "owns the database; may CREATE in the schema public", []secure.Login{row, schema, sealed}},
		// Names of the tenant's own do not lead the question astray.
		{
			"CREATE TABLE free.pg_roles (rolname name, oid oid, rolsuper bool); GRANT SELECT ON free.pg_roles TO ME; ALTER ROLE ME SUPERUSER; ALTER ROLE ME SET search_path = free, pg_catalog",
			"ALTER ROLE ME NOSUPERUSER; ALTER ROLE ME RESET ALL; DROP TABLE free.pg_roles", "is SUPERUSER", all,
		},
	} {
		t.Run(x.sql, func(t *testing.T) {
			t.Parallel()
			shared := pgtest.Shared(t)
			db := shared.CreateDatabase(t)
			me, group, other := db+"_me", db+"_group", db+"_other"
			names := strings.NewReplacer("ME", me, "GROUP", group, "OTHER", other, "DB", db)
			shared.Exec(t, db, fmt.Sprintf(`CREATE ROLE %s LOGIN; CREATE ROLE %s; CREATE ROLE %s LOGIN; CREATE SCHEMA held; CREATE SCHEMA free; GRANT USAGE ON SCHEMA free TO %[1]s;
CREATE TABLE orders (tenant_id bigint, id bigint); CREATE TABLE notes (id bigint); CREATE TABLE held.items (tenant_id bigint)`, me, group, other))
			shared.Exec(t, db, names.Replace(x.sql))
			t.Cleanup(func() {
				shared.Exec(t, db, names.Replace(x.undo))
				shared.Exec(t, db, fmt.Sprintf("DROP OWNED BY %s, %s, %s; DROP ROLE %[1]s, %[2]s, %[3]s", me, group, other))
			})
			for _, l := range all {
				want := ""
				if slices.Contains(x.voids, l) {
					want = names.Replace(x.want)
				}
				got, err := backend.Dial(t.Context(), backend.DialOptions{Address: backend.Address{Host: "127.0.0.1", Port: shared.Port}, User: me, Database: db, Ask: l.Guard()})
				if err != nil {
					t.Fatal(err)
				}
				got.Conn.Close()
				if got := strings.Join(got.Answers, "; "); got != want || len(got) > 0 != slices.Contains(x.voids, l) {
					t.Errorf("%v, %v: got %q, want %q", l.Isolation, l.Mode, got, want)
				}
			}
		})
	}
}

// TestUnsafeLogin: a tenant whose login could get around its isolation is not served, from the start, or from when it is seen; the others are.
func TestUnsafeLogin(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 2\n"})
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	for _, key := range []string{"2", "4"} {
		role := db + "_r" + key
		s.shards[0].Exec(t, db, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT SELECT ON orders TO %[1]s", role, rolePassword(t, role)))
	}
	bad := func(sql string) { s.shards[0].Exec(t, db, strings.ReplaceAll(sql, "ROLE", "ROLE "+db+"_r2")) }
	bad("ALTER ROLE BYPASSRLS")
	s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nrole = \"%s_r{key}\"\nrole_secret_file = %q\n[admin]", db, s.path("role.secret")))
	s.startInside()
	const mine = "SELECT DISTINCT note FROM orders"
	p := protocols[0]
	four, two := s.as(t, "app@4", nil), s.as(t, "app@2", nil) // the first one's login tells what the server's parameters are
	p.play(t, four, mine, "of 4; SELECT 1; I")
	p.play(t, two, mine, "42501 login_unsafe; I")
	if heard := two.Answer(mine); strings.Contains(heard, "BYPASSRLS") || strings.Contains(heard, db) {
		t.Errorf("the client hears %s", heard)
	}
	if log := s.log.String(); !strings.Contains(log, "is BYPASSRLS") || !strings.Contains(log, db+"_r2") {
		t.Errorf("the log has no reason:\n%s", tail(log, 20))
	}
	if s.metric(t, "backend_open_failures_total", `"unsafe"`) == 0 {
		t.Error("it is not counted")
	}

	// Mended, it is served; and not any more when it is bad again, not even who has a connection.
	bad("ALTER ROLE NOBYPASSRLS")
	s.console(t, "RELOAD")
	p.play(t, two, mine, "of 2; SELECT 1; I", "BEGIN", "BEGIN; T", mine, "of 2; SELECT 1; T")
	bad("ALTER ROLE SUPERUSER")
	s.console(t, "RELOAD")
	eventually(t, "the connection is closed", func() bool { return strings.Contains(s.log.String(), "its connections are closed") })
	if got := outcome(two.Query(mine)); strings.Contains(got, "of ") {
		t.Errorf("in the transaction: %s", got)
	}
	p.play(t, s.as(t, "app@2", nil), mine, "42501 login_unsafe; I")
	p.play(t, four, mine, "of 4; SELECT 1; I")
	bad("ALTER ROLE NOSUPERUSER")
}

// TestSharedLoginIsWarnedOf: where tenants share a login the log says what it can get around.
func TestSharedLoginIsWarnedOf(t *testing.T) {
	t.Parallel()
	role := pgtest.Superuser
	s := start(t, spec{schema: rowsSchema, users: strings.ReplaceAll(switching, `tenant_switch = true`, "tenant_switch = true\nserver_user = \""+role+`"`), rest: twoTenants})
	protocols[0].play(t, s.as(t, "app@two", nil), "SELECT 1", "1; SELECT 1; I")
	if log := s.log.String(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "it is SUPERUSER") {
		t.Errorf("got log\n%s", tail(log, 20))
	}
}
