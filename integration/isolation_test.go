package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What hostile clients of one tenant try, by the rows of the attack suite. Tenant 2 attacks, tenant 3 has what it is after. Where shared mode promises
// nothing, the documented outcome is in the table.

// isolated is the table of attacks for one mode and isolation.
type isolated struct {
	*stand
	mode, isolation string
	roles           map[int]string // of tenants; in shared/row they have none
}

const mine = "SELECT DISTINCT note FROM orders"

// everywhere runs f against every mode and isolation, on one connection for each pool.
func everywhere(t *testing.T, f func(t *testing.T, s *isolated)) {
	t.Helper()
	for _, mode := range []string{"shared", "strict"} {
		for _, isolation := range []string{"row", "schema"} {
			t.Run(mode+"/"+isolation, func(t *testing.T) {
				t.Parallel()
				f(t, isolate(t, mode, isolation))
			})
		}
	}
}

// isolate makes three tenants.
func isolate(t *testing.T, mode, isolation string) *isolated {
	t.Helper()
	return isolateOn(t, 1, mode, isolation)
}

// isolateOn is isolate with one shard, or two; users are lines of each user's entry. Tenant 3 lives on the second of two, and each shard has rows of all tenants, of which those that are not its
// tenants' say that they are wrong.
func isolateOn(t *testing.T, shards int, mode, isolation string, users ...string) *isolated {
	t.Helper()
	users = append(users, "")
	s := &isolated{
		prepare(t, spec{shards: shards, users: strings.ReplaceAll(switching, "[[users]]", "[[users]]\n"+users[0]), general: "default_pool_size = 1\n"}),
		mode, isolation, make(map[int]string),
	}
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	for i := 1; i <= 3; i++ {
		s.roles[i] = fmt.Sprintf("%s_r%d", db, i)
	}
	for n, sh := range s.shards {
		for _, role := range s.roles {
			sh.Exec(t, sh.db, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT %[1]s TO app", role, rolePassword(t, role)))
		}
		sh.Exec(t, sh.db, "SET ROLE app;"+s.ddl(func(i int) string {
			if shards > 1 && n != i/3 {
				return fmt.Sprintf("wrong %d", i)
			}
			return fmt.Sprintf("of %d", i)
		}))
	}
	rest := fmt.Sprintf("[multi_tenant]\nisolation = %q\nmode = %q\nrole_secret_file = %q\nsni_suffix = \".tenants.test\"\n", isolation, mode, s.path("role.secret"))
	if isolation == "row" {
		rest += "column = \"tenant_id\"\n"
	} else {
		rest += "schema = \"t_{key}\"\n"
	}
	if mode == "strict" || isolation == "schema" {
		rest += fmt.Sprintf("role = \"%s_r{key}\"\n", db)
	}
	rest += "[[tenants]]\nname = \"gone\"\nkey = 1\nstate = \"suspended\"\n"
	if shards > 1 {
		rest += "shard = 0\n[[tenants]]\nname = \"2\"\nkey = 2\nshard = 0\n[[tenants]]\nname = \"3\"\nkey = 3\nshard = 1\n"
		if isolation == "row" {
			rest += "[[sharded_tables]]\ndatabase = \"saas\"\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n"
			for n, values := range []string{"[1, 2]", "[3]"} {
				rest += fmt.Sprintf("[[sharded_mappings]]\ndatabase = \"saas\"\ncolumn = \"tenant_id\"\nkind = \"list\"\nvalues = %s\nshard = %d\n", values, n)
			}
		}
	}
	s.edit("pgdog.toml", "[admin]", rest+"[admin]")
	if mode == "sealed" {
		s.must(t, "secure", "apply")
		for _, sh := range s.shards {
			sh.Exec(t, sh.db, "GRANT TEMPORARY ON DATABASE "+sh.db+" TO PUBLIC; DROP POLICY mine ON orders; DROP POLICY mine ON orders_2; DROP POLICY mine ON orders_x")
		}
	}
	s.startInside()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgkennel's log:\n%s", tail(s.log.String(), 20))
		}
	})
	return s
}

// ddl makes the tables of a shard.
func (s *isolated) ddl(note func(tenant int) string) string {
	key := "nullif(current_setting('app.current_tenant', true), '')::bigint"
	ddl := "CREATE SEQUENCE ids; GRANT USAGE ON SEQUENCE ids TO PUBLIC; CREATE PROCEDURE counts(INOUT n bigint) LANGUAGE plpgsql AS $$ BEGIN COMMIT; SELECT count(*) INTO n FROM orders; END $$;"
	if s.isolation == "schema" {
		for i, role := range s.roles {
			ddl += fmt.Sprintf(`CREATE SCHEMA t_%d; CREATE TABLE t_%[1]d.orders (tenant_id bigint DEFAULT %[1]d, id bigint, note text DEFAULT '%[3]s');
				INSERT INTO t_%[1]d.orders (id) SELECT generate_series(1, 3);
				GRANT USAGE ON SCHEMA t_%[1]d TO %[2]s; GRANT SELECT, INSERT, UPDATE, DELETE ON t_%[1]d.orders TO %[2]s;`, i, role, note(i))
		}
		return ddl
	}
	ddl += `CREATE TABLE orders (tenant_id bigint NOT NULL DEFAULT ` + key + `, id bigint, note text) PARTITION BY LIST (tenant_id);
		CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2); CREATE TABLE orders_x PARTITION OF orders DEFAULT;`
	for i := 1; i <= 3; i++ {
		ddl += fmt.Sprintf("INSERT INTO orders SELECT %d, i, '%s' FROM generate_series(1, 3) i;", i, note(i))
	}
	policy := key
	if s.mode == "strict" {
		policy = "(SELECT tenant_id FROM who WHERE role = session_user)"
		ddl += "CREATE TABLE who (role text PRIMARY KEY, tenant_id bigint); GRANT SELECT ON who TO PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO PUBLIC;"
		for i, role := range s.roles {
			ddl += fmt.Sprintf("INSERT INTO who VALUES ('%s', %d);", role, i)
		}
	}
	for _, table := range []string{"orders", "orders_2", "orders_x"} {
		ddl += "ALTER TABLE " + table + " ENABLE ROW LEVEL SECURITY; ALTER TABLE " + table + " FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON " + table +
			" AS RESTRICTIVE USING (tenant_id = " + policy + "); CREATE POLICY all_rows ON " + table + " USING (true);"
	}
	return ddl
}

// tenant is a client of a tenant, bound by its login.
func (s *isolated) tenant(t testing.TB, n int) *pgtest.Client {
	t.Helper()
	return s.as(t, fmt.Sprintf("app@%d", n), nil)
}

// unharmed checks that each tenant's next checkout shows its own rows, settings and role.
func (s *isolated) unharmed(t *testing.T, after string) {
	t.Helper()
	for _, n := range []int{3, 2, 3, 2} {
		c := s.tenant(t, n)
		user := s.roles[n]
		if s.mode != "strict" && s.isolation == "row" {
			user = "app"
		}
		for sql, want := range map[string]string{
			mine: fmt.Sprintf("of %d; SELECT 1; I", n),
			"SELECT count(*) FROM orders WHERE note <> 'new'":                     "3; SELECT 1; I",
			"SELECT current_user || ' ' || current_setting('app.current_tenant')": fmt.Sprintf("%s %d; SELECT 1; I", user, n),
			"SHOW default_transaction_read_only":                                  "off; SHOW; I",
			"EXECUTE q":                                                           "26000; I",
			"FETCH ALL FROM c":                                                    "34000; I",
			"SELECT lastval()":                                                    "55000; I",
			"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()": "0; SELECT 1; I",
		} {
			got := outcome(c.Query(sql))
			if sql == "EXECUTE q" && strings.HasPrefix(got, "26000") {
				continue
			}
			if got != want {
				t.Errorf("after %s, tenant %d: %s: got %s, want %s", after, n, sql, got, want)
			}
		}
		c.Terminate()
	}
	if rows := s.shards[len(s.shards)-1].rows(t, s.count("3")); len(rows) != 1 || rows[0] != "3" {
		t.Errorf("after %s, tenant 3 has %q rows", after, rows)
	}
}

func (s *isolated) count(tenant string) string {
	if s.isolation == "schema" {
		return "SELECT count(*) FROM t_" + tenant + ".orders WHERE note = 'of " + tenant + "'"
	}
	return "SELECT count(*) FROM orders WHERE note = 'of " + tenant + "' AND tenant_id = " + tenant
}

// step is a statement of an attack and its outcome. But are other outcomes, by mode, isolation or both; an outcome of "-" is any that is an error, "*"
// any that has nothing of tenant 3's.
type step struct {
	sql, want string
	but       map[string]string
}

func (s *isolated) want(x step) string {
	for _, key := range []string{s.mode + "/" + s.isolation, s.mode, s.isolation} {
		if want, ok := x.but[key]; ok {
			return want
		}
	}
	return x.want
}

func (s *isolated) fill(sql string) string {
	return strings.NewReplacer("{own}", s.roles[2], "{other}", s.roles[3]).Replace(sql)
}

func matches(got, want string) bool {
	switch want {
	case "*":
		return !strings.Contains(got, "of 3")
	case "-":
		return !strings.Contains(got, "of 3") && len(got) > 5 && got[5] != ',' && strings.IndexByte("0123456789", got[0]) >= 0 && (got[5] == ';' || got[5] == ' ')
	}
	return got == want
}

const (
	contextRefusal  = "42501 tenant_context; I"
	mismatchRefusal = "42501 tenant_mismatch; I"
	own             = "of 2; SELECT 1; I"
)

type by = map[string]string

var attacks = map[string][]step{
	"A01 RESET ROLE": {{"RESET ROLE", contextRefusal, nil}, {"SET ROLE NONE", contextRefusal, nil}, {mine, own, nil}},
	"A02 SET ROLE": {
		{"SET ROLE {other}", contextRefusal, nil},
		{"SET SESSION ROLE {other}", contextRefusal, nil},
		{`SET "role" = '{other}'`, contextRefusal, nil},
		{`SET U&"r\006fle" TO {other}`, contextRefusal, nil},
		{"BEGIN", "BEGIN; T", nil},
		{"SET LOCAL ROLE {other}", "42501 tenant_context; E", nil},
		{"ROLLBACK", "ROLLBACK; I", nil},
	},
	"A03 SET SESSION AUTHORIZATION": {
		{"SET SESSION AUTHORIZATION DEFAULT", contextRefusal, nil},
		{"SET SESSION AUTHORIZATION {other}", contextRefusal, nil},
		{"RESET SESSION AUTHORIZATION", contextRefusal, nil},
		{"SET session_authorization = '{other}'", contextRefusal, nil},
	},
	"A04 set_config of the role": {
		{"SELECT set_config('role', '{other}', false)", contextRefusal, nil},
		{"SELECT pg_catalog.set_config('ROLE', '{other}', true)", contextRefusal, nil},
		{"SELECT set_config('ro' || 'le', '{other}', false)", contextRefusal, by{"strict": "-"}},
		{"WITH x AS (SELECT set_config('role', '{other}', false)) SELECT * FROM x", contextRefusal, nil},
		{"SELECT set_config(is_local => false, new_value => '{other}', setting_name => 'role')", contextRefusal, nil},
		{"SELECT set_config(n, '{other}', false) FROM (VALUES ('role')) v(n)", contextRefusal, by{"strict": "-"}},
		{"EXPLAIN ANALYZE SELECT set_config('role', '{other}', false)", contextRefusal, nil},
		{"PREPARE q AS SELECT set_config('role', '{other}', false)", contextRefusal, nil},
		{"COPY (SELECT set_config('role', '{other}', false)) TO STDOUT", contextRefusal, nil},
		{"SELECT query_to_xml('SELECT set_config(''role'', ''{other}'', false)', true, false, '')", contextRefusal, by{"strict": "-"}},
		{"SELECT * FROM ts_stat('SELECT to_tsvector(set_config(''role'', ''{other}'', false))')", contextRefusal, by{"strict": "-"}},
		{mine, own, nil},
	},
	"A05 DO": {{"DO $$ BEGIN EXECUTE 'SET ROLE {other}'; END $$", contextRefusal, by{"strict": "-"}}, {mine, own, nil}},
	"A06 functions of one's own": {
		{"BEGIN", "BEGIN; T", nil},
		{"CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE {other}'; RETURN current_user; END $$", "42501 tenant_context; E", by{"strict": "CREATE FUNCTION; T"}},
		{"SELECT pg_temp.f()", "25P02; E", by{"strict": "42501; E"}},
		{"ROLLBACK", "ROLLBACK; I", nil},
		{"CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1'", "42501; I", by{"shared/row": "*"}},
		{"BEGIN", "BEGIN; T", nil},
		{"CREATE TEMP VIEW v AS SELECT set_config('role', '{other}', false)", "42501 tenant_context; E", by{"strict": "*"}},
		{"SELECT * FROM pg_temp.v", "-", nil},
		{"ROLLBACK", "ROLLBACK; I", nil},
		{mine, own, nil},
	},
	"A07 pg_settings": {
		{"UPDATE pg_settings SET setting = 't_3' WHERE name = 'search_path'", contextRefusal, by{"strict": "*"}},
		{"WITH x AS (UPDATE pg_catalog.pg_settings SET setting = '3' WHERE name = 'app.current_tenant') SELECT 1", contextRefusal, by{"strict": "*"}},
		{mine, own, nil},
	},
	"A08 RESET ALL":   {{"RESET ALL", "RESET; I", nil}, {mine, own, nil}, {"BEGIN", "BEGIN; T", nil}, {"RESET ALL", "RESET; T", nil}, {mine, "of 2; SELECT 1; T", nil}, {"COMMIT", "COMMIT; I", nil}, {mine, own, nil}},
	"A09 DISCARD ALL": {{"DISCARD ALL", "DISCARD ALL; I", nil}, {mine, own, nil}},
	"A11 A12 A13 ALTER ROLE": {
		{"ALTER ROLE app SET search_path = 't_3'", contextRefusal, nil},
		{"ALTER ROLE CURRENT_USER SET app.current_tenant = '3'", contextRefusal, nil},
		{"ALTER USER CURRENT_USER PASSWORD 'x'", contextRefusal, nil},
		{"ALTER ROLE {own} SET statement_timeout = 0", contextRefusal, nil},
		{"ALTER ROLE ALL SET app.current_tenant = '3'", contextRefusal, nil},
		{"ALTER ROLE {own} RESET ALL", contextRefusal, nil},
		{mine, own, nil},
	},
	"A14 B01 other spellings": {
		{"SET app.current_tenant = '3'", mismatchRefusal, nil},
		{`SET "APP.Current_Tenant" = '3'`, mismatchRefusal, nil},
		{`SET U&"app.current\005ftenant" = '3'`, mismatchRefusal, nil},
		{"SET SESSION app . current_tenant TO 3", mismatchRefusal, nil},
		{`SET "app"."current_tenant" TO '3'`, mismatchRefusal, nil},
		{"SET SCHEMA 't_3'", "SET; I", nil},
		{mine, "42P01; I", by{"row": "*"}},
		{"SELECT note FROM t_3.orders", "-", nil},
		{"RESET search_path", "RESET; I", nil},
		{mine, own, nil},
		{"SELECT set_config('app.current_tenant', '3', false)", mismatchRefusal, nil},
		{"SELECT set_config('APP.current_tenant', '3', true)", mismatchRefusal, nil},
		{"SELECT set_config('app.current_tenant', '2', false)", "2; SELECT 1; I", nil},
		{"SELECT set_config('app.current_tenant', '2', false), 1", "*", nil},
		{"SELECT set_config('app.current_tenant', '2', false), 1", "2|1; SELECT 1; I", nil},
		{"SELECT set_config('app.current_tenant', '2', false), 1", "2|1; SELECT 1; I", nil},
		{"SELECT set_config('app.current_tenant', '3', false), 1", contextRefusal, nil},
		{"SELECT set_config('app.current_tenant', '02', false), 1", contextRefusal, nil},
		{"SELECT set_config('app.current_tenant', '3', true), 1", contextRefusal, nil},
		{mine, own, nil},
	},
	"B02 B03 ends and chains": {
		{"BEGIN", "BEGIN; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"COMMIT AND CHAIN", "COMMIT; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"ROLLBACK AND CHAIN", "ROLLBACK; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"SELECT 1/0", "22012; E", nil},
		{"ROLLBACK AND CHAIN", "ROLLBACK; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"COMMIT", "COMMIT; I", nil},
	},
	"B04 procedures that commit": {{"CALL counts(0)", "3; CALL; I", nil}, {mine, own, nil}},
	"B05 savepoints": {
		{"BEGIN", "BEGIN; T", nil},
		{"SAVEPOINT s", "SAVEPOINT; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"SELECT 1/0", "22012; E", nil},
		{"ROLLBACK TO s", "ROLLBACK; T", nil},
		{mine, "of 2; SELECT 1; T", nil},
		{"ROLLBACK", "ROLLBACK; I", nil},
		{mine, own, nil},
	},
	"B08 RESET of the setting": {
		{"RESET app.current_tenant", "RESET; I", nil},
		{"SET app.current_tenant TO DEFAULT", "SET; I", nil},
		{"SET app.current_tenant = ''", "SET; I", nil},
		{mine, own, nil},
		{"SET app.current_tenant FROM CURRENT", "*", nil},
		{mine, own, nil},
	},
	"C01 temporary tables": {
		{"CREATE TEMP TABLE orders (tenant_id bigint, id bigint, note text)", "CREATE TABLE; I", nil},
		{mine, own, nil},
		{"CREATE TEMP TABLE orders AS SELECT 'of 3' AS note", "SELECT 1; I", nil},
		{mine, own, nil},
	},
	"C02 PREPARE":        {{"PREPARE q AS SELECT note FROM orders", "PREPARE; I", nil}},
	"C04 WITH HOLD":      {{"DECLARE c CURSOR WITH HOLD FOR SELECT note FROM orders", "DECLARE CURSOR; I", nil}},
	"C05 advisory locks": {{"SELECT 1 FROM (SELECT pg_advisory_lock(1)) x", "1; SELECT 1; I", nil}},
	"C08 settings":       {{"SET default_transaction_read_only = on", "SET; I", nil}, {"SET lock_timeout = 1", "SET; I", nil}, {"SET plan_cache_mode = force_generic_plan", "SET; I", nil}, {"SET row_security = off", "SET; I", nil}, {mine, "of 2; SELECT 1; I", by{"row": "42501; I"}}},
	"C13 sequences":      {{"SELECT nextval('public.ids') > 0", "t; SELECT 1; I", nil}},
	"D06 partitions":     {{"SELECT note FROM orders_x", "42P01; I", by{"shared/row": "SELECT 0; I", "strict/row": "42501; I"}}, {"SELECT note FROM t_3.orders", "-", nil}},
	"D08 rows of others": {
		{"UPDATE orders SET tenant_id = 3", mismatchRefusal, by{"schema": "UPDATE 3; I"}},
		{"UPDATE orders SET tenant_id = 2", "UPDATE 3; I", nil},
		{"INSERT INTO orders VALUES (3, 9, 'new')", mismatchRefusal, by{"schema": "INSERT 0 1; I"}},
		{"INSERT INTO orders SELECT n + 1, 9, 'new' FROM (VALUES (2)) v(n)", "42501; I", by{"schema": "INSERT 0 1; I"}},
		{"MERGE INTO orders o USING (VALUES (1)) v(i) ON o.tenant_id = 3 WHEN MATCHED THEN UPDATE SET note = 'new' WHEN NOT MATCHED THEN DO NOTHING", "*", nil},
		{"DELETE FROM orders WHERE note = 'new'", "DELETE 0; I", by{"schema": "DELETE 2; I"}},
	},
	"D12 TRUNCATE": {{"TRUNCATE orders", "42501 tenant_missing; I", by{"schema": "42501; I"}}, {"TRUNCATE orders_x", "-", nil}},
	"D13 COPY TO":  {{"COPY (SELECT DISTINCT note FROM orders) TO STDOUT", "COPY 1; I", nil}, {"COPY orders TO STDOUT", "COPY 3; I", by{"row": "COPY 0; I"}}},
	"F01 several statements": {
		{"SELECT 1; RESET ROLE; SELECT note FROM t_3.orders", "-", nil},
		{"SELECT 1; SET app.current_tenant = '3'; SELECT note FROM orders", "-", nil},
		{"SET app.current_tenant = '3'; SELECT note FROM orders", "-", nil},
		{"SET app.current_tenant = ''; SELECT note FROM orders", "*", nil},
		{mine, own, nil},
		{"SET app.current_tenant = '02'; SELECT 1", "*", nil},
		{"RESET ALL; SELECT note FROM orders", "*", nil},
		{"RESET app.current_tenant; SELECT note FROM orders", "*", nil},
		{mine, own, nil},
	},
	"F02 comments and quotes": {
		{"/* /* */ */ RESET ROLE", contextRefusal, nil},
		{"-- x\nRESET/**/ROLE", contextRefusal, nil},
		{"\ufeffRESET ROLE", "-", nil},
		{`SELECT U&"\006eote" FROM orders WHERE U&"tenant_id" = 3`, mismatchRefusal, by{"schema": "SELECT 0; I"}},
		{"SELECT $x$; RESET ROLE; $x$", "; RESET ROLE; ; SELECT 1; I", nil},
		{"RESET ROLE;;", contextRefusal, nil},
		{"SELECT " + strings.Repeat("(", 20000) + "1" + strings.Repeat(")", 20000) + "; RESET ROLE", "-", nil},
	},
	"F03 lexing": {
		{"SET standard_conforming_strings = off", "0A000 lexing; I", nil},
		{"SELECT set_config('standard_conforming_strings', 'off', false)", "0A000 lexing; I", nil},
		{`SELECT '\', '; RESET ROLE; SELECT note FROM t_3.orders; --'`, `\|; RESET ROLE; SELECT note FROM t_3.orders; --; SELECT 1; I`, nil},
	},
	"F04 encodings": {{"SET client_encoding = 'SJIS'", "0A000 lexing; I", nil}, {"SET NAMES 'GBK'", "0A000 lexing; I", nil}, {"SELECT '\xff'", "-", nil}},
	"F07 hints": {
		{"/* pgkennel_tenant: 3 */ SELECT note FROM orders", mismatchRefusal, nil},
		{"/* pgkennel_tenant: 2 */ " + mine, own, nil},
		{"/* pgdog_shard: 7 */ SELECT note FROM orders", "-", nil},
		{"SET pgkennel.tenant = '3'", mismatchRefusal, nil},
		{"SET pgdog.shard = '0'", "SET; I", nil},
		{mine, own, nil},
	},
	"F08 keys in other forms": {
		{"SELECT note FROM orders WHERE tenant_id = 03", mismatchRefusal, by{"schema": "SELECT 0; I"}},
		{"SELECT note FROM orders WHERE tenant_id = '3'", mismatchRefusal, by{"schema": "SELECT 0; I"}},
		{"SELECT note FROM orders WHERE tenant_id = 3.0", "*", nil},
		{"SELECT note FROM orders WHERE tenant_id = ' 3 '", "*", nil},
		{"SELECT DISTINCT note FROM orders WHERE tenant_id = 002", own, nil},
		{"SET app.current_tenant = ' 2'", "*", nil},
		{"SET app.current_tenant = '+2'", "*", nil},
		{mine, own, nil},
	},
	"F09 many shapes": {
		{"SELECT note FROM orders WHERE tenant_id = 2 OR tenant_id = 3", mismatchRefusal, by{"schema": "*"}},
		{"SELECT note FROM orders WHERE tenant_id IN (2, 3)", mismatchRefusal, by{"schema": "*"}},
		{"SELECT o.note FROM orders o, orders p WHERE p.tenant_id = 2", "*", nil},
		{"SELECT DISTINCT note FROM orders WHERE tenant_id = 2 UNION SELECT note FROM orders", own, nil},
		{"SELECT DISTINCT note FROM orders WHERE tenant_id = tenant_id", own, nil},
		{"SELECT DISTINCT note FROM orders WHERE tenant_id BETWEEN 1 AND 9", own, nil},
		{"SELECT DISTINCT note FROM orders WHERE tenant_id = ANY ('{2,3}')", "*", nil},
		{"WITH x AS (SELECT * FROM orders) SELECT DISTINCT note FROM x WHERE tenant_id > 0", own, nil},
		{"SELECT note FROM orders WHERE tenant_id IS NULL", "*", nil},
		{"DELETE FROM orders o USING orders p WHERE p.tenant_id = 2 AND o.tenant_id > 2", "*", nil},
	},
	"F11 DDL": {
		{"ALTER TABLE orders SET SCHEMA public", "-", by{"shared/row": "*"}},
		{"DROP SCHEMA t_3 CASCADE", "-", nil},
		{"ALTER TABLE t_3.orders RENAME TO x", "-", nil},
		{"GRANT {other} TO {own}", "-", by{"shared/row": "*"}},
		{"ALTER SYSTEM SET app.current_tenant = '3'", "-", nil},
		{"CREATE EXTENSION dblink", "-", by{"*": "*"}},
	},
}

func TestIsolation(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		for name, steps := range attacks {
			for _, p := range protocols {
				c := s.tenant(t, 2)
				for _, x := range steps {
					if p.name == "extended" && name[:3] == "F01" {
						continue
					}
					sql := s.fill(x.sql)
					if got := outcome(p.run(c, sql)); !matches(got, s.want(x)) {
						t.Errorf("%s, %s: %s\n got %s\nwant %s", name, p.name, sql[:min(len(sql), 200)], got[:min(len(got), 200)], s.want(x))
					}
				}
				c.Terminate()
				s.unharmed(t, name+", "+p.name)
			}
		}
	})
}
