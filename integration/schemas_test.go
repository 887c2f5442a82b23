package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

const threeSchemas = `[[sharded_schemas]]
database = "saas"
name = "zero"
shard = 0
[[sharded_schemas]]
database = "saas"
name = "one"
shard = 1
[[sharded_schemas]]
database = "saas"
name = "fresh_simple"
shard = 1
[[sharded_schemas]]
database = "saas"
name = "fresh_extended"
shard = 1
`

// TestSchemasDecide: each schema is on the one shard where its rows are; the other shard has one of the same name with other rows, left over.
func TestSchemasDecide(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{shards: 2, general: "default_pool_size = 2\n", rest: threeSchemas, schema: "CREATE TABLE public.plain (id int); INSERT INTO plain VALUES (7)"})
	for i, sh := range s.shards {
		for n, name := range []string{"zero", "one"} {
			note := "right"
			if n != i {
				note = "left over"
			}
			sh.Exec(t, sh.db, fmt.Sprintf(`CREATE SCHEMA %[1]s AUTHORIZATION %[2]s; SET ROLE %[2]s; CREATE TABLE %[1]s.things (id int, note text); INSERT INTO %[1]s.things VALUES (%[3]d, '%[4]s');
				CREATE FUNCTION %[1]s.say() RETURNS text LANGUAGE sql AS $$ SELECT '%[4]s'::text $$`, name, user, i, note))
		}
		if i == 1 {
			sh.Exec(t, sh.db, fmt.Sprintf("SET ROLE %s; CREATE TABLE one.extra (id int, tenant text); INSERT INTO one.extra VALUES (5)", user))
		}
	}
	s.shards[1].Exec(t, s.shards[1].db, "GRANT CREATE ON DATABASE "+s.shards[1].db+" TO "+user)
	s.startInside()
	each(t, func(t *testing.T, p protocol) {
		fresh := "fresh_" + p.name // both run at once
		p.play(t, s.connect(t),
			"SELECT note FROM zero.things", "right; SELECT 1; I",
			"SELECT note FROM one.things", "right; SELECT 1; I",
			"SELECT id FROM one.extra", "5; SELECT 1; I",
			"SELECT z.note FROM zero.things z, one.things", "0A000 cross_shard; I",
			"SELECT id FROM plain, one.extra e", "42702; I",
			"SELECT e.id FROM plain, one.extra e", "5; SELECT 1; I",
			"SELECT one.say()", "right; SELECT 1; I",
			"INSERT INTO plain VALUES (1)", "0A000 shard_missing; I",
			"SET search_path TO one, public", "SET; I",
			"SELECT note FROM things", "right; SELECT 1; I",
			"SELECT say()", "right; SELECT 1; I",
			"SELECT id FROM plain", "7; SELECT 1; I",
			"SELECT note FROM zero.things", "right; SELECT 1; I",
			"SET search_path TO zero", "SET; I",
			"SELECT note FROM things", "right; SELECT 1; I",
			"SELECT say()", "right; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			"SELECT note FROM things", "right; SELECT 1; T",
			"SET LOCAL search_path TO one", "SET; T",
			"SELECT note FROM things", "0A000 cross_shard; E",
			"ROLLBACK", "ROLLBACK; I",
			"BEGIN", "BEGIN; T",
			"SET LOCAL search_path TO one", "SET; T",
			"SELECT id FROM extra", "5; SELECT 1; T",
			"UPDATE things SET note = 'changed'", "UPDATE 1; T",
			"ROLLBACK", "ROLLBACK; I",
			"SELECT note FROM things", "right; SELECT 1; I",
			"CREATE SCHEMA "+fresh, "CREATE SCHEMA; I",
			"CREATE TABLE "+fresh+".a (id int)", "CREATE TABLE; I",
			"SET search_path TO "+fresh, "SET; I",
			"CREATE TABLE b (id int)", "CREATE TABLE; I",
			"INSERT INTO b VALUES (3)", "INSERT 0 1; I",
			"INSERT INTO a SELECT id FROM b", "INSERT 0 1; I",
			"CREATE INDEX ON a (id)", "CREATE INDEX; I",
			"SELECT a.id FROM a, "+fresh+".b", "3; SELECT 1; I",
			"DROP TABLE a, b", "DROP TABLE; I",
			"DROP SCHEMA "+fresh, "DROP SCHEMA; I",
			"CREATE TABLE zero.x (id int REFERENCES one.things)", "0A000 cross_shard; I",
			"CREATE SCHEMA another", "0A000 shard_missing; I",
			"/* pgdog_shard: 0 */ SELECT note FROM one.things", "0A000 cross_shard; I",
		)
	})
	for i, sh := range s.shards {
		if got := sh.rows(t, "SELECT count(*)::text FROM pg_namespace WHERE nspname LIKE 'fresh%' OR nspname = 'another'"); got[0] != "0" {
			t.Errorf("shard %d has schemas that are not its own: %s", i, got)
		}
	}

	c := s.connect(t)
	c.Send(&pgproto3.Query{String: "COPY one.extra (id) FROM STDIN"})
	if _, ok := c.Receive().(*pgproto3.CopyInResponse); !ok {
		t.Fatal("COPY is not answered")
	}
	c.Send(&pgproto3.CopyData{Data: []byte("6\n8\n")}, &pgproto3.CopyDone{})
	if got := outcome(c.UntilReady()); got != "COPY 2; I" {
		t.Errorf("COPY: %s", got)
	}
	if got := s.shards[1].rows(t, "SELECT count(*)::text FROM one.extra"); got[0] != "3" {
		t.Errorf("after COPY there are %s rows", got)
	}
}

// TestSchemasByDefault: what is in no schema of the configuration is on the shard that it says, a reload later on another.
func TestSchemasByDefault(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{shards: 2, rest: threeSchemas + "[[sharded_schemas]]\ndatabase = \"saas\"\nshard = 1 # rest\n", schema: "CREATE TABLE plain (id int); CREATE SCHEMA one; CREATE TABLE one.t (id int)"})
	for i, sh := range s.shards {
		sh.Exec(t, sh.db, fmt.Sprintf("INSERT INTO plain VALUES (%d); INSERT INTO one.t VALUES (%[1]d)", i))
	}
	s.startInside()
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.connect(t),
			"SELECT id FROM plain", "1; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			"INSERT INTO plain VALUES (2)", "INSERT 0 1; T",
			"DELETE FROM plain WHERE id = 2", "DELETE 1; T",
			"ROLLBACK", "ROLLBACK; I",
			"SELECT plain.id FROM plain, one.t", "1; SELECT 1; I",
			"CREATE TABLE made_"+p.name+" (id int)", "CREATE TABLE; I",
			"DROP TABLE made_"+p.name, "DROP TABLE; I",
		)
	})
	s.edit("pgdog.toml", "shard = 1 # rest", "shard = 0 # rest")
	s.console(t, "RELOAD")
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.connect(t),
			"SELECT id FROM plain", "0; SELECT 1; I",
			"SELECT plain.id FROM plain, one.t", "0A000 cross_shard; I",
			"SELECT id FROM one.t", "1; SELECT 1; I",
		)
	})
}

// TestTenantsBySchemas: tenants live where their schemas are.
func TestTenantsBySchemas(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"shared", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := prepare(t, spec{shards: 2, users: switching[:strings.LastIndex(switching, "[[users]]")], general: "default_pool_size = 2\n", schema: "CREATE SCHEMA common; CREATE TABLE common.t (id int)"})
			db := s.shards[0].db
			s.write("role.secret", "0123456789abcdef0123456789abcdef")
			rest := fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nmode = %q\nrole = \"%s_{tenant}\"\nschema = \"t_{tenant}\"\nrole_secret_file = %q\n", mode, db, s.path("role.secret")) +
				"[[sharded_schemas]]\ndatabase = \"saas\"\nname = \"common\"\nshard = 0\n"
			for i, name := range []string{"a", "b", "c"} {
				role, sh := db+"_"+name, s.shards[i%2]
				sh.Exec(t, sh.db, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s'; CREATE SCHEMA t_%[3]s; CREATE TABLE t_%[3]s.orders (note text); INSERT INTO t_%[3]s.orders VALUES ('of %[3]s');
					GRANT USAGE ON SCHEMA t_%[3]s TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA t_%[3]s TO %[1]s; GRANT %[1]s TO app`, role, rolePassword(t, role), name))
				rest += fmt.Sprintf("[[tenants]]\nname = %q\n[[sharded_schemas]]\ndatabase = \"saas\"\nname = \"t_%s\"\nshard = %d\n", name, name, i%2)
			}
			s.edit("pgdog.toml", "[admin]", rest+"[admin]")
			s.startInside()
			each(t, func(t *testing.T, p protocol) {
				for _, name := range []string{"a", "b", "c"} {
					p.play(t, s.as(t, "app@"+name, nil), "SELECT note FROM orders", "of "+name+"; SELECT 1; I", "SELECT current_user::text", db+"_"+name+"; SELECT 1; I")
					p.play(t, s.as(t, "app", nil), "SET pgkennel.tenant = '"+name+"'", "SET; I", "SELECT note FROM orders", "of "+name+"; SELECT 1; I",
						"RESET pgkennel.tenant", "RESET; I", "SELECT note FROM t_"+name+".orders", "42501 tenant_missing; I")
				}
				// Others' schemas are refused alike, be they here or elsewhere; one that is nobody's is not to be looked for where it is not.
				p.play(t, s.as(t, "app@a", nil), "SELECT note FROM t_c.orders", "42501 tenant_mismatch; I", "SELECT note FROM t_b.orders", "42501 tenant_mismatch; I",
					"SELECT id FROM common.t", "42501; I")
				p.play(t, s.as(t, "app@b", nil), "SELECT note FROM t_a.orders", "42501 tenant_mismatch; I", "SELECT id FROM common.t", "0A000 cross_shard; I",
					"SELECT note FROM orders", "of b; SELECT 1; I")
			})
		})
	}
}
