package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/tenant/secure"
)

// TestDoctorFindsWaysAround: what application and administrators make beside what `secure` does, and by which one tenant reaches another.
func TestDoctorFindsWaysAround(t *testing.T) {
	t.Parallel()
	s := guarded(t, "", `isolation = "schema"
mode = "shared"
schema = "t_{key}"
role = "r_{key}"
[[tenants]]
name = "one"
key = 1
[[tenants]]
name = "two"
key = 2
`)
	s.must(t, "secure", "apply")
	db := s.shards[0].db
	s.shards[0].Exec(t, db, "SET ROLE pgkennel_owner_"+db+"; CREATE TABLE t_1.orders (id int, note text); CREATE TABLE t_2.orders (id int)")
	calm := make(map[string]bool)
	for _, f := range s.diagnose(t) {
		if f.Severity == secure.Error {
			t.Errorf("at first: %+v", f)
		}
		calm[f.Check+" "+f.Object] = f.Severity == secure.Warning
	}
	if !calm["large objects "+db] || calm["prepared transactions max_prepared_transactions"] {
		t.Errorf("at first warnings are %v", calm)
	}
	type made struct {
		sql, approve string // approve is what its comment is on; empty = it can't be approved
		level        secure.Severity
		check        string
		object       string
		reason       string
	}
	all := []made{
		{"CREATE FUNCTION public.becomes() RETURNS int LANGUAGE sql SET role = 'r_2' AS 'SELECT 1'", "FUNCTION public.becomes()", secure.Error, "function", "public.becomes()", "it sets role while"},
		{"CREATE PROCEDURE public.proceeds() LANGUAGE sql SET app.current_tenant = '2' AS 'SELECT 1'", "PROCEDURE public.proceeds()", secure.Error, "function", "public.proceeds()", "it sets app.current_tenant"},
		{"CREATE FUNCTION public.whole(int) RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t_1.orders WHERE id > $1; END", "FUNCTION public.whole(int)", secure.Warning, "function", "public.whole(integer)", "tables or types of schema t_1"},
		{"CREATE FUNCTION public.typed(t_1.orders) RETURNS int LANGUAGE sql AS 'SELECT 1'", "FUNCTION public.typed(t_1.orders)", secure.Warning, "function", "public.typed(t_1.orders)", "tables or types of schema t_1"},
		{"SET search_path = t_2, public; CREATE FUNCTION public.here() RETURNS int LANGUAGE sql SET search_path FROM CURRENT AS 'SELECT 1'", "FUNCTION public.here()", secure.Warning, "function", "public.here()", "is that of schema t_2"},
		{"SET search_path = t_1, public; CREATE FUNCTION public.rows() RETURNS int LANGUAGE plpgsql AS 'DECLARE o orders%ROWTYPE; BEGIN RETURN 1; END'", "FUNCTION public.rows()", secure.Warning, "function", "public.rows()", "orders%TYPE or %ROWTYPE"},
		{"CREATE VIEW public.leak AS SELECT * FROM t_1.orders; GRANT SELECT ON public.leak TO r_2", "VIEW public.leak", secure.Error, "view", "public.leak", "what is in schema t_1"},
		{"CREATE MATERIALIZED VIEW public.copy AS SELECT * FROM t_1.orders; GRANT SELECT ON public.copy TO PUBLIC", "MATERIALIZED VIEW public.copy", secure.Error, "view", "public.copy", "what is in schema t_1"},
		{`CREATE FUNCTION public.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; GRANT CREATE ON SCHEMA public TO app; ALTER FUNCTION public.fires() OWNER TO app; REVOKE CREATE ON SCHEMA public FROM app;
CREATE TRIGGER fire BEFORE INSERT ON t_1.orders FOR EACH ROW EXECUTE FUNCTION public.fires()`, "TRIGGER fire ON t_1.orders", secure.Warning, "trigger", "t_1.orders, fire", "belongs to app"},
		{"CREATE ROLE makers; GRANT makers TO app; CREATE SCHEMA tools; GRANT CREATE ON SCHEMA tools TO makers", "", secure.Error, "create", "tools", "a member of makers"},
		{"CREATE SCHEMA lib AUTHORIZATION app", "", secure.Error, "create", "lib", "it belongs to app"},
		{"ALTER SYSTEM SET lo_compat_privileges = on", "", secure.Error, "large objects", "lo_compat_privileges", "it is on"},
		{"CREATE EXTENSION pg_trgm; UPDATE pg_extension SET extname = 'unheard' WHERE extname = 'pg_trgm'", "EXTENSION unheard", secure.Warning, "extension", "unheard", "does not know whether it runs SQL"},
	}
	for _, m := range all {
		s.shards[0].Exec(t, db, m.sql)
	}
	// What may stay: run with the invoker's privileges, or by nobody but its owner.
	s.shards[0].Exec(t, db, `CREATE VIEW public.fine WITH (security_invoker = true) AS SELECT * FROM t_1.orders; GRANT SELECT ON public.fine TO r_2;
CREATE VIEW public.closed AS SELECT * FROM t_1.orders; SET ROLE pgkennel_owner_`+db+`; CREATE VIEW t_1.own AS SELECT * FROM t_1.orders; RESET ROLE;
CREATE EXTENSION tablefunc; CREATE FUNCTION public.unseen() RETURNS int LANGUAGE sql SET role = 'r_2' AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION public.unseen() FROM PUBLIC`)
	hba := s.shards[0].rows(t, "SHOW hba_file")[0]
	lines, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	n := strings.Count(string(lines), "\n") + 1
	if err := os.WriteFile(hba, append(lines, "host all r_1 192.0.2.0/24 trust\nhost all somebody 192.0.2.0/24 trust\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	all = append(all, made{level: secure.Error, check: "trust", object: fmt.Sprintf("pg_hba.conf, line %d", n), reason: "from 192.0.2.0"})
	s.shards[0].Exec(t, db, "SELECT pg_reload_conf()")
	eventually(t, "the setting is in force", func() bool {
		return fmt.Sprint(s.shards[0].rows(t, "SHOW lo_compat_privileges")) == "[on]"
	})

	errors, warnings := make(map[string]secure.Finding), make(map[string]secure.Finding)
	found := s.diagnose(t)
	for _, f := range found {
		switch f.Severity {
		case secure.Error:
			errors[f.Check+" "+f.Object] = f
		case secure.Warning:
			warnings[f.Check+" "+f.Object] = f
		case secure.Info:
		}
	}
	for _, m := range all {
		f, ok := errors[m.check+" "+m.object]
		if m.level == secure.Warning {
			f, ok = warnings[m.check+" "+m.object]
		}
		if !ok || !strings.Contains(f.Reason, m.reason) {
			t.Errorf("%s: got %+v, want %v for %s %s: %s", m.sql, f, m.level, m.check, m.object, m.reason)
		}
		delete(errors, m.check+" "+m.object)
	}
	for _, f := range errors {
		t.Errorf("it is good: %+v", f)
	}
	for name := range warnings {
		if strings.Contains(name, "fine") || strings.Contains(name, "closed") || strings.Contains(name, "t_1.own") || strings.Contains(name, "unseen") || strings.Contains(name, "tablefunc") {
			t.Errorf("it is good: %+v", warnings[name])
		}
	}

	// What was looked at is not found again; the SQL mends the rest.
	for i, m := range all {
		if m.approve != "" && i%2 == 0 {
			s.shards[0].Exec(t, db, "COMMENT ON "+m.approve+" IS '"+secure.Approval+"'")
		}
	}
	for _, f := range found {
		for i, m := range all {
			if f.Check == m.check && f.Object == m.object && (m.approve == "" || i%2 == 1) {
				for _, sql := range f.SQL {
					s.shards[0].Exec(t, db, sql)
				}
			}
		}
	}
	s.shards[0].Exec(t, db, "DROP FUNCTION public.typed(t_1.orders), public.rows()") // the SQL for them is for a human
	if err := os.WriteFile(hba, lines, 0o600); err != nil {
		t.Fatal(err)
	}
	s.shards[0].Exec(t, db, "SELECT pg_reload_conf()")
	eventually(t, "the setting is in force", func() bool {
		return fmt.Sprint(s.shards[0].rows(t, "SHOW lo_compat_privileges")) == "[off]"
	})
	for _, f := range s.diagnose(t) {
		if f.Severity != secure.Info && !calm[f.Check+" "+f.Object] {
			t.Errorf("mended or approved: %+v", f)
		}
	}
}

// TestDoctorFindsWhatCantWork: a login that is not there yet, and keys of another type than the column's.
func TestDoctorFindsWhatCantWork(t *testing.T) {
	t.Parallel()
	s := guarded(t, "CREATE TABLE orders (tenant_id text NOT NULL, id bigint, note text, PRIMARY KEY (id)); CREATE UNIQUE INDEX once ON orders (note)", "column = \"tenant_id\"\nmode = \"sealed\"\n")
	s.edit("users.toml", `name = "plain"`, "name = \"late\"\ndatabase = \"saas\"\npassword = \"x\"\n[[users]]\nname = \"plain\"")
	if out := s.must(t, "secure", "apply"); !strings.Contains(out, `there is no role "late"`) {
		t.Errorf("apply says nothing of the login that is not there:\n%s", out)
	}
	found := make(map[string]secure.Finding)
	for _, f := range s.diagnose(t) {
		found[f.Check+" "+f.Object] = f
	}
	if f := found["login late"]; f.Severity != secure.Error || !strings.Contains(f.Reason, "there is no such role") {
		t.Errorf("a login that is not there: %+v", f)
	}
	if f := found["column public.orders"]; f.Severity != secure.Error || !strings.Contains(f.Reason, `data_type in [multi_tenant] should be "varchar"`) {
		t.Errorf("keys of another type: %+v", f)
	}
	for _, x := range []struct{ index, drop string }{
		{"orders_pkey", `-- and then ALTER TABLE "public"."orders" DROP CONSTRAINT "orders_pkey"`}, {"once", `-- and then DROP INDEX "public"."once"`},
	} {
		f := found["key public.orders, index "+x.index]
		if len(f.SQL) != 2 || f.SQL[1] != x.drop {
			t.Fatalf("%s: %+v", x.index, f)
		}
		s.shards[0].Exec(t, s.shards[0].db, f.SQL[0])
		s.shards[0].Exec(t, s.shards[0].db, strings.TrimPrefix(f.SQL[1], "-- and then "))
	}
	s.edit("pgdog.toml", `column = "tenant_id"`, "column = \"tenant_id\"\ndata_type = \"text\"")
	for _, f := range s.diagnose(t) {
		if f.Check == "column" || f.Check == "key" {
			t.Errorf("after it was mended: %+v", f)
		}
	}
}
