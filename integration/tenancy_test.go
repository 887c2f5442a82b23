package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant"
)

// rowsSchema is an application that relies on row-level security, as the manual of many a framework has it: no statement of it names a tenant.
const rowsSchema = `
CREATE TABLE orders (
  tenant_id bigint NOT NULL DEFAULT nullif(current_setting('app.current_tenant', true), '')::bigint,
  id bigint NOT NULL, note text, PRIMARY KEY (tenant_id, id));
INSERT INTO orders SELECT t, i, 'of ' || t FROM generate_series(1, 5) t, generate_series(1, 3) i;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON orders USING (tenant_id = nullif(current_setting('app.current_tenant', true), '')::bigint);
CREATE TABLE countries (code text);
INSERT INTO countries VALUES ('de'), ('fr');
`

const switching = `[[users]]
name = "app"
database = "saas"
password = "` + password + `"
tenant_switch = true

[[users]]
name = "plain"
database = "saas"
password = "` + password + `"
server_user = "app"

[[users]]
name = "fixed"
database = "saas"
password = "` + password + `"
server_user = "app"
tenant = "two"
`

// twoTenants are known by name as well, on a login that all share.
const twoTenants = `[multi_tenant]
column = "tenant_id"
mode = "shared"
[[tenants]]
name = "two"
key = 2
[[tenants]]
name = "four"
key = 4
`

func (s *stand) as(t testing.TB, user string, params map[string]string) *pgtest.Client {
	t.Helper()
	return s.As(t, user, params)
}

// TestTenantByRows: row-level security on the setting, chosen by the login, by SET, by name, and by the statement.
func TestTenantByRows(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		schema: rowsSchema, users: switching,
		general: "default_pool_size = 2\n",
		rest:    twoTenants,
	})
	const mine = "SELECT DISTINCT note FROM orders"
	each(t, func(t *testing.T, p protocol) {
		c := s.as(t, "app", nil)
		p.play(t, c,
			"SELECT count(*) FROM countries", "2; SELECT 1; I",
			mine, "42501 tenant_missing; I",
			"SELECT DISTINCT note FROM orders WHERE tenant_id = 3", "of 3; SELECT 1; I",
			mine, "42501 tenant_missing; I",
			"SET app.current_tenant = '2'", "SET; I",
			mine, "of 2; SELECT 1; I",
			"SHOW app.current_tenant", "2; SHOW; I",
			"SHOW pgkennel.tenant", "two; SHOW; I",
			"SELECT note FROM orders WHERE tenant_id = 3 AND id = 1", "42501 tenant_mismatch; I",
			"BEGIN", "BEGIN; T",
			mine, "of 2; SELECT 1; T",
			"SET app.current_tenant = '3'", "25001 tenant_mismatch; E",
			"ROLLBACK", "ROLLBACK; I",
			mine, "of 2; SELECT 1; I",
			"SET pgkennel.tenant = 'four'", "SET; I",
			mine, "of 4; SELECT 1; I",
			"RESET ALL", "RESET; I",
			mine, "of 4; SELECT 1; I",
			"DISCARD ALL", "DISCARD ALL; I",
			mine, "of 4; SELECT 1; I",
			"RESET app.current_tenant", "RESET; I",
			mine, "42501 tenant_missing; I",
			"BEGIN", "BEGIN; T",
			"SET LOCAL app.current_tenant = '5'", "SET; T",
			mine, "of 5; SELECT 1; T",
			"COMMIT AND CHAIN", "COMMIT; T",
			mine, "of 5; SELECT 1; T",
			"COMMIT", "COMMIT; I",
			mine, "42501 tenant_missing; I",
			"BEGIN", "BEGIN; T",
			"SELECT count(*) FROM countries", "2; SELECT 1; T",
			"SELECT DISTINCT note FROM orders WHERE tenant_id = 3", "of 3; SELECT 1; T",
			mine, "of 3; SELECT 1; T",
			"SELECT DISTINCT note FROM orders WHERE tenant_id = 2", "42501 tenant_mismatch; E",
			"ROLLBACK", "ROLLBACK; I",
			"SELECT set_config('app.current_tenant', '2', false)", "2; SELECT 1; I",
			mine, "of 2; SELECT 1; I",
			"SELECT set_config('app.current_tenant', '', false)", "; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			"SELECT set_config('app.current_tenant', '3', true) AS t", "3; SELECT 1; T",
			mine, "of 3; SELECT 1; T",
			"INSERT INTO orders (id, note) VALUES (100, 'of 3')", "INSERT 0 1; T",
			"ROLLBACK", "ROLLBACK; I",
			"/* pgkennel_tenant: four */ "+mine, "of 4; SELECT 1; I",
			"/* pgkennel_tenant: four */ SELECT 1 FROM orders WHERE tenant_id = 2", "42501 tenant_mismatch; I",
			mine, "42501 tenant_missing; I",
			"SET pgkennel.tenant = 'nobody'", "42501 tenant_unknown; I",
		)
		if p.name == "simple" {
			p.play(t, c,
				"SET app.current_tenant = '2'; "+mine, "SET; of 2; SELECT 1; I",
				mine, "of 2; SELECT 1; I",
				"SET app.current_tenant = '3'; SELECT nonsense", "SET; 42703; I",
				mine, "of 2; SELECT 1; I",
				"SET LOCAL app.current_tenant = '3'; "+mine, "SET; of 3; SELECT 1; I",
				mine, "of 2; SELECT 1; I",
				"RESET app.current_tenant", "RESET; I",
				"BEGIN; SET LOCAL app.current_tenant = '4'; "+mine, "BEGIN; SET; of 4; SELECT 1; T",
				mine, "of 4; SELECT 1; T",
				"COMMIT", "COMMIT; I",
				mine, "42501 tenant_missing; I",
				mine+"; SET app.current_tenant = '4'", "0A000 mixed_message; I",
			)
		}
		p.play(t, c,
			"SET ROLE postgres", "42501 tenant_context; I",
		)
		for name, want := range map[string]string{"app@two": "of 2", "app@four": "of 4", "app@3": "of 3", "fixed": "of 2"} {
			c := s.as(t, name, nil)
			p.play(t, c,
				mine, want+"; SELECT 1; I",
				"SET app.current_tenant = '1'", "42501 tenant_mismatch; I",
				"SET pgkennel.tenant = 'one'", "42501 tenant_mismatch; I",
				"SELECT 1 FROM orders WHERE tenant_id = 1", "42501 tenant_mismatch; I",
				"RESET app.current_tenant", "RESET; I",
				"RESET ALL", "RESET; I",
				mine, want+"; SELECT 1; I",
				"SELECT set_config('app.current_tenant', '1', false)", "42501 tenant_mismatch; I",
				"SELECT set_config('app.current_tenant', '1', false), 1", "42501 tenant_context; I",
				"DO $$ BEGIN PERFORM set_config('app.current_tenant', '3', false); END $$", "42501 tenant_context; I",
				"SELECT set_config('app.current_' || 'tenant', '1', false)", "42501 tenant_context; I",
				"UPDATE pg_settings SET setting = '1' WHERE name = 'app.current_tenant'", "42501 tenant_context; I",
				mine, want+"; SELECT 1; I",
			)
		}
		p.play(t, s.as(t, "plain", nil),
			"SELECT count(*) FROM countries", "2; SELECT 1; I",
			mine, "42501 tenant_missing; I",
			"SELECT note FROM orders WHERE tenant_id = 2", "42501 tenant_missing; I",
			"SET app.current_tenant = '2'", "42501 tenant_missing; I",
		)
		p.play(t, s.as(t, "plain", map[string]string{"options": "-c pgkennel.tenant=two"}), mine, "of 2; SELECT 1; I")
		p.play(t, s.as(t, "app", map[string]string{"app.current_tenant": "3"}), mine, "of 3; SELECT 1; I")
	})
}

// TestTenantByParameter: set_config with a parameter, as drivers send it that know no SET with parameters, and statements whose key is one.
func TestTenantByParameter(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 2\n", rest: "[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n"})
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			c := s.pgx(t, mode)
			ctx := t.Context()
			notes := func(q interface {
				QueryRow(context.Context, string, ...any) pgx.Row
			}, sql string, args ...any,
			) string {
				var note string
				if err := q.QueryRow(ctx, sql, args...).Scan(&note); err != nil {
					return err.Error()
				}
				return note
			}
			for i := range 20 {
				key := fmt.Sprint(i%5 + 1)
				tx, err := c.Begin(ctx)
				if err != nil {
					t.Fatal(err)
				}
				var set string
				if err := tx.QueryRow(ctx, "SELECT set_config('app.current_tenant', $1, true)", key).Scan(&set); err != nil || set != key {
					t.Fatalf("set_config: %q, %v", set, err)
				}
				if got := notes(tx, "SELECT DISTINCT note FROM orders"); got != "of "+key {
					t.Errorf("tenant %s: %s", key, got)
				}
				if err := tx.Commit(ctx); err != nil {
					t.Fatal(err)
				}
				if got := notes(c, "SELECT DISTINCT note FROM orders WHERE tenant_id = $1", i%5+1); got != "of "+key {
					t.Errorf("by parameter, tenant %s: %s", key, got)
				}
			}
			if got := notes(c, "SELECT DISTINCT note FROM orders"); !strings.Contains(got, "42501") {
				t.Errorf("no tenant: %s", got)
			}
		})
	}
}

// schemasSchema are schemas with a role each.
func schemasSchema(n int) string {
	sql := ""
	for i := range n {
		sql += fmt.Sprintf(`CREATE SCHEMA t_%d; CREATE TABLE t_%[1]d.orders (id bigint, note text); INSERT INTO t_%[1]d.orders VALUES (1, 'of %[1]d');`, i)
	}
	return sql
}

// TestTenantBySchema: a schema and a role for each tenant, on a login that may be any of them, and each with its own login.
func TestTenantBySchema(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"shared", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := prepare(t, spec{
				schema: schemasSchema(4), users: switching, general: "default_pool_size = 2\n",
			})
			db := s.shards[0].db
			s.write("role.secret", "0123456789abcdef0123456789abcdef")
			var roles []string
			for i := range 4 {
				role := fmt.Sprintf("%s_t%d", db, i)
				roles = append(roles, role)
				s.shards[0].Exec(t, db, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT USAGE ON SCHEMA t_%d TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA t_%[3]d TO %[1]s; GRANT %[1]s TO app`,
					role, rolePassword(t, role), i))
			}
			s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nmode = %q\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\nrole_secret_file = %q\n[admin]", mode, db, s.path("role.secret")))
			s.startInside()
			each(t, func(t *testing.T, p protocol) {
				for i := range 4 {
					c := s.as(t, fmt.Sprintf("app@%d", i), nil)
					other := (i + 1) % 4
					p.play(t, c,
						"SELECT note FROM orders", fmt.Sprintf("of %d; SELECT 1; I", i),
						"SELECT current_user::text", roles[i]+"; SELECT 1; I",
						fmt.Sprintf("SELECT note FROM t_%d.orders", other), "42501 tenant_mismatch; I",
						"RESET ROLE", "42501 tenant_context; I",
						"SET ROLE "+roles[other], "42501 tenant_context; I",
						"SET search_path TO t_"+fmt.Sprint(other), "SET; I",
						"SELECT note FROM orders", "42P01; I",
						"RESET search_path", "RESET; I",
						"SELECT note FROM orders", fmt.Sprintf("of %d; SELECT 1; I", i),
						"BEGIN", "BEGIN; T",
						"SELECT note FROM orders", fmt.Sprintf("of %d; SELECT 1; T", i),
						"ROLLBACK AND CHAIN", "ROLLBACK; T",
						"SELECT note FROM orders", fmt.Sprintf("of %d; SELECT 1; T", i),
						"COMMIT", "COMMIT; I",
					)
				}
				c := s.as(t, "app", nil)
				p.play(t, c,
					"SET app.current_tenant = '2'", "SET; I",
					"SELECT note FROM orders", "of 2; SELECT 1; I",
					"SET app.current_tenant = '1'", "SET; I",
					"SELECT note FROM orders", "of 1; SELECT 1; I",
					"RESET app.current_tenant", "RESET; I",
					"SELECT current_user::text", "app; SELECT 1; I",
					"SELECT note FROM t_1.orders", "42501 tenant_missing; I",
					"INSERT INTO t_2.orders VALUES (2, 'x')", "42501 tenant_missing; I",
				)
				p.play(t, s.as(t, "plain", nil), "SELECT note FROM t_1.orders", "42501 tenant_missing; I", "TABLE t_3.orders", "42501 tenant_missing; I")
			})
		})
	}
}

// TestTenantLogins: what is wrong with a tenant looks like a wrong password.
func TestTenantLogins(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		schema: rowsSchema, users: switching,
		rest: `[multi_tenant]
column = "tenant_id"
mode = "shared"
[[tenants]]
name = "two"
key = 2
[[tenants]]
name = "off"
key = 3
state = "disabled"
[[tenants]]
name = "late"
key = 4
state = "suspended"
`,
	})
	wrong := func(user string) string {
		_, err := pgx.Connect(context.Background(), fmt.Sprintf("postgres://%s:nonsense@%s/%s?sslmode=disable", user, s.addr, cluster))
		if err == nil {
			t.Fatalf("%s: a wrong password is good", user)
		}
		return fmt.Sprint(err)
	}
	for _, user := range []string{"app%40off", "app%40late", "app%40nobody", "fixed%40off", "nobody%40two"} {
		_, err := pgx.Connect(context.Background(), fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, url.PathEscape(password), s.addr, cluster))
		if got, want := fmt.Sprint(err), wrong(user); got != want {
			t.Errorf("%s: %s\nwant %s", user, got, want)
		}
	}
	for _, reason := range []string{"disabled_tenant", "suspended_tenant", "unknown_tenant", "tenant_conflict", "unknown_user"} {
		if s.metric(t, "session_logins_failed_total", `"`+reason+`"`) == 0 {
			t.Errorf("no login was refused for %s", reason)
		}
	}
}

func rolePassword(t testing.TB, role string) string {
	t.Helper()
	secret, err := tenant.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	return secret.RolePassword(cluster, role)
}

// TestTenantByOtherNames: by the server's name in TLS, by the name of a database or a user, and by a dot.
func TestTenantByOtherNames(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	cert, key := ca.Issue("localhost", "*.db.example.com", "localhost")
	s := start(t, spec{
		schema: rowsSchema,
		users: switching + `[[users]]
name = "four"
database = "saas"
password = "` + password + `"
server_user = "app"
`,
		general: fmt.Sprintf("tls_certificate = %q\ntls_private_key = %q\n", cert, key),
		rest: `[multi_tenant]
column = "tenant_id"
mode = "shared"
dotted_logins = true
route_by = ["user", "database"]
sni_suffix = ".db.example.com"
[[tenants]]
name = "two"
key = 2
[[tenants]]
name = "four"
key = 4
`,
	})
	const mine = "SELECT DISTINCT note FROM orders"
	for _, x := range []struct {
		user, database, server string
		want                   string
	}{
		{"app", cluster, "two.db.example.com", "of 2"},
		{"app", cluster, "localhost", "42501"},
		{"app.four", cluster, "", "of 4"},
		{"four", cluster, "", "of 4"},
		{"app", "two", "", "of 2"},
		{"app@two", "two", "two.db.example.com", "of 2"},
		{"app@two", "four", "", "28P01"},
		{"app@four", cluster, "two.db.example.com", "28P01"},
		{"fixed", "four", "", "28P01"},
		{"four", "two", "", "28P01"},
	} {
		login := pgtest.Login{User: x.user, Database: x.database, Password: password}
		if x.server != "" {
			login.TLS = &tls.Config{RootCAs: ca.Pool, ServerName: x.server}
		}
		c := pgtest.Dial(t, s.addr)
		got := ""
		if err := c.Login(login); err != nil {
			got = fmt.Sprint(err)
		} else {
			got = outcome(c.Query(mine))
		}
		if !strings.Contains(got, x.want) {
			t.Errorf("%+v: %s", x, got)
		}
	}
}

// TestTenantsReloaded: what a reload says of tenants is in force at once, for those who are connected, too.
func TestTenantsReloaded(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		schema: rowsSchema, users: switching,
		rest: twoTenants,
	})
	const mine = "SELECT DISTINCT note FROM orders"
	p := protocols[0]
	bound, other, free := s.as(t, "app@two", nil), s.as(t, "app@four", nil), s.as(t, "app", nil)
	p.play(t, bound, mine, "of 2; SELECT 1; I")
	p.play(t, free, "SET pgkennel.tenant = 'two'", "SET; I", mine, "of 2; SELECT 1; I")
	s.edit("pgdog.toml", `name = "two"`, "name = \"two\"\nstate = \"disabled\"")
	s.console(t, "RELOAD")
	for _, c := range []*pgtest.Client{bound, free} {
		c.Send(&pgproto3.Query{String: mine})
		for {
			m, err := c.Next()
			if err != nil {
				break
			}
			if e, ok := m.(*pgproto3.ErrorResponse); !ok || e.Code != "57P01" {
				t.Errorf("a client of a disabled tenant got %s", pgtest.Format(m))
			}
		}
	}
	p.play(t, other, mine, "of 4; SELECT 1; I")
	again := s.as(t, "app", nil)
	p.play(t, again,
		"SET pgkennel.tenant = 'two'", "42501 tenant_unknown; I",
		"SELECT note FROM orders WHERE tenant_id = 2", "42501 tenant_unknown; I",
		"SET app.current_tenant = '4'", "SET; I",
		mine, "of 4; SELECT 1; I",
	)
	if err := pgtest.Dial(t, s.addr).Login(pgtest.Login{User: "app@two", Database: cluster, Password: password}); err == nil {
		t.Error("a disabled tenant is let in")
	}
}
