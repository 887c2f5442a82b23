package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// mappingNames places tenants by list and range on two shards, and gives them schemas and roles. %s begins the roles' names.
const mappingNames = `[multi_tenant]
column = "tenant_id"
mode = %[2]q
role_secret_file = %[3]q
[[sharded_tables]]
database = "saas"
column = "tenant_id"
[[sharded_mappings]]
database = "saas"
column = "tenant_id"
kind = "list"
values = [1]
tenant_schema = "acme"
role = "%[1]s_acme"
shard = 1
[[sharded_mappings]]
database = "saas"
column = "tenant_id"
kind = "list"
values = [2, 3]
tenant_schema = "t_{key}"
role = "%[1]s_t{key}"
shard = 0
[[sharded_mappings]]
database = "saas"
column = "tenant_id"
kind = "range"
start = 10
end = 20
tenant_schema = "b_{key}"
role = "%[1]s_b{key}"
shard = 1
[[sharded_mappings]]
database = "saas"
column = "tenant_id"
kind = "default"
shard = 0
[[tenants]]
name = "three"
key = 3
schema = "third"
role = "%[1]s_third"
`

// TestTenantsOfMappings: the mapping that says where a key lives gives its tenant schema and role as well.
func TestTenantsOfMappings(t *testing.T) {
	t.Parallel()
	tenants := []struct {
		login, key, schema, role string
		shard                    int
	}{{"1", "1", "acme", "acme", 1}, {"2", "2", "t_2", "t2", 0}, {"three", "3", "third", "third", 0}, {"12", "12", "b_12", "b12", 1}, {"13", "13", "b_13", "b13", 1}}
	for _, mode := range []string{"shared", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := prepare(t, spec{shards: 2, users: switching[:strings.LastIndex(switching, "[[users]]")], general: "default_pool_size = 2\n", schema: "CREATE TABLE countries (code text)"})
			db := s.shards[0].db
			s.write("role.secret", "0123456789abcdef0123456789abcdef")
			for _, x := range tenants {
				role := db + "_" + x.role
				sh := s.shards[x.shard]
				sh.Exec(t, sh.db, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s'; CREATE SCHEMA %[3]s; CREATE TABLE %[3]s.orders (tenant_id bigint DEFAULT %[4]s, note text);
					INSERT INTO %[3]s.orders (note) VALUES ('of %[4]s'); GRANT USAGE ON SCHEMA %[3]s TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA %[3]s TO %[1]s; GRANT %[1]s TO app`,
					role, rolePassword(t, role), x.schema, x.key))
			}
			s.edit("pgdog.toml", "[admin]", fmt.Sprintf(mappingNames, db, mode, s.path("role.secret"))+"[admin]")
			s.startInside()
			each(t, func(t *testing.T, p protocol) {
				for i, x := range tenants {
					other := tenants[(i+1)%len(tenants)]
					p.play(t, s.as(t, "app@"+x.login, nil),
						"SELECT note FROM orders", "of "+x.key+"; SELECT 1; I",
						"SELECT current_user::text", db+"_"+x.role+"; SELECT 1; I",
						"SET app.current_tenant = '"+other.key+"'", "42501 tenant_mismatch; I",
						"RESET ALL", "RESET; I",
						"SELECT note FROM orders", "of "+x.key+"; SELECT 1; I",
					)
					p.play(t, s.as(t, "app", nil),
						"SET app.current_tenant = '"+x.key+"'", "SET; I",
						"SELECT note FROM orders", "of "+x.key+"; SELECT 1; I",
						"RESET app.current_tenant", "RESET; I",
						"SELECT note FROM "+x.schema+".orders WHERE tenant_id = "+x.key, "of "+x.key+"; SELECT 1; I",
						"SELECT note FROM "+x.schema+".orders", "42501 tenant_missing; I",
						"INSERT INTO "+x.schema+".orders (tenant_id) VALUES ("+other.key+")", map[bool]string{true: "42501; I", false: "42P01; I"}[x.shard == other.shard],
					)
				}
				// The two that live together can't reach each other, whatever they say.
				for _, look := range []string{"SELECT note FROM b_13.orders", "INSERT INTO b_13.orders VALUES (12)", "UPDATE b_13.orders SET note = note"} {
					p.play(t, s.as(t, "app@12", nil), look, "42501; I")
				}
			})
			for _, name := range []string{"app@third", "app@acme", "app@012", "app@b_12"} {
				if err := pgtest.Dial(t, s.addr).Login(pgtest.Login{User: name, Database: cluster, Password: password}); err == nil {
					t.Errorf("%s is let in", name)
				}
			}
			bound, other := s.as(t, "app@12", nil), s.as(t, "app@2", nil)
			protocols[0].play(t, bound, "SELECT note FROM orders", "of 12; SELECT 1; I")
			s.edit("pgdog.toml", `"b_{key}"`, `"b{key}"`)
			s.console(t, "RELOAD")
			bound.Send(&pgproto3.Query{String: "SELECT note FROM orders"})
			for {
				m, err := bound.Next()
				if err != nil {
					break
				}
				if e, ok := m.(*pgproto3.ErrorResponse); !ok || e.Code != "57P01" {
					t.Errorf("a client whose tenant has another schema now got %s", pgtest.Format(m))
				}
			}
			protocols[0].play(t, other, "SELECT note FROM orders", "of 2; SELECT 1; I")
			protocols[0].play(t, s.as(t, "app@12", nil), "SELECT note FROM orders", "42P01; I")
		})
	}
}

// Listed keys are known to those who look after databases; others have to be named.
func TestSecureSeesMappings(t *testing.T) {
	t.Parallel()
	s := guarded(t, "CREATE SCHEMA acme; CREATE TABLE acme.orders (id int)", `column = "tenant_id"
[[sharded_tables]]
database = "saas"
column = "tenant_id"
[[sharded_tables.mapping]]
values = [1]
schema = "acme"
role = "r_acme"
shard = 0
[[sharded_tables.mapping]]
values = [2, 4]
schema = "t_{key}"
role = "r_{key}"
shard = 0
[[sharded_tables.mapping]]
start = 10
end = 20
schema = "b_{key}"
role = "b_{key}"
shard = 0
[[tenants]]
name = "two"
key = 2
`)
	plan := s.must(t, "secure", "plan")
	for _, want := range []string{"r_acme", "r_2", "r_4", `"t_4"`} {
		if !strings.Contains(plan, want) {
			t.Errorf("nothing of %s in the plan:\n%s", want, plan)
		}
	}
	if strings.Contains(plan, "b_12") {
		t.Errorf("the plan is for a tenant that nobody named:\n%s", plan)
	}
	if _, stdout, _ := s.admin(t, "doctor"); !strings.Contains(stdout, "r_acme") {
		t.Errorf("doctor sees no tenant of the mapping:\n%s", stdout)
	}
	s.must(t, "secure", "apply", "--key", "12")
	s.must(t, "doctor", "--key", "12")
	if _, _, stderr := s.admin(t, "doctor", "--key", "30"); !strings.Contains(stderr, "makes no tenant") {
		t.Errorf("a key outside of the mapping: %s", stderr)
	}
	s.shards[0].Exec(t, s.shards[0].db, `INSERT INTO acme.orders VALUES (1)`)
	s.startInside()
	for login, want := range map[string]string{"app@1": "1; SELECT 1; I", "app@12": "42501 tenant_mismatch; I", "app@two": "42501 tenant_mismatch; I", "app@4": "42501 tenant_mismatch; I"} {
		protocols[0].play(t, s.as(t, login, nil), "SELECT id FROM acme.orders", want)
	}
}

func TestProgramRouteOfTenants(t *testing.T) {
	t.Parallel()
	names := filesIn(t, `[[databases]]
name = "saas"
host = "127.0.0.1"
port = 1
[[databases]]
name = "saas"
host = "127.0.0.1"
port = 1
database_name = "other"
shard = 1
`+fmt.Sprintf(strings.ReplaceAll(mappingNames, "role_secret_file = %[3]q\n", "%.0[3]s"), "r", "strict", ""), programUsers)
	for _, x := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{"SELECT * FROM orders WHERE tenant_id = 1"}, 0, "tenant 1: isolation schema, mode strict, key 1, schema acme, role r_acme\nSELECT\n"},
		{[]string{"SELECT * FROM orders WHERE tenant_id = 12"}, 0, "schema b_12, role r_b12\n"},
		{[]string{"SELECT * FROM orders WHERE tenant_id = 12"}, 0, "runs on shard 1: the tenant's place"},
		{[]string{"--tenant", "three", "DELETE FROM orders"}, 0, "tenant three: isolation schema, mode strict, key 3, schema third, role r_third\n"},
		{[]string{"/* pgkennel_tenant: 2 */ DELETE FROM orders"}, 0, "runs on shard 0: the tenant's place"},
		{[]string{"SELECT * FROM t_2.orders"}, 1, "refused: tenant_missing"},
		{[]string{"--tenant", "nobody", "SELECT 1"}, 2, ""},
	} {
		code, stdout, stderr := outcomeOf(t, names, nil, append([]string{"route"}, x.args...)...)
		if code != x.code || !strings.Contains(stdout, x.stdout) {
			t.Errorf("%q: exit code %d\n%s%s", x.args, code, stdout, stderr)
		}
	}
}
