package secure

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// tenantsTable says which role is which tenant. Nobody but its owner may read it: a session learns its own key by pgkennel.tenant_key().
const tenantsTable = `CREATE TABLE pgkennel.tenants (role name PRIMARY KEY, key text, schema name, secret text)`

// fencedTable says who is kept out, whatever else is granted to them: a role, or where tenants share a login a key.
const fencedTable = `CREATE TABLE pgkennel.fenced (what text PRIMARY KEY)`

// What stands in pgkennel.fenced in front of the name of a role, or of a key.
const (
	RoleFence = "role/"
	KeyFence  = "key/"
)

func fences(roles []string) []string {
	out := make([]string, len(roles))
	for i, r := range roles {
		out[i] = RoleFence + r
	}
	return out
}

// tenantKey asks by session_user, which no SQL changes: current_user is the definer's in here, and anybody may set a parameter.
const tenantKey = ` SELECT t.key FROM pgkennel.tenants t WHERE t.role = session_user `

// newTables are tables whose policies are looked at when their transaction commits.
const newTables = `CREATE TABLE pgkennel.new_tables (relid oid)`

const noteTables = `
BEGIN
  INSERT INTO pgkennel.new_tables SELECT DISTINCT c.objid FROM pg_event_trigger_ddl_commands() c
  WHERE c.classid = 'pg_class'::regclass AND c.object_type = 'table';
END `

// refuseTable has the tenant column for an argument.
const refuseTable = `
BEGIN
  DELETE FROM pgkennel.new_tables WHERE relid = NEW.relid;
  IF EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = TG_ARGV[0] AND NOT a.attisdropped
    WHERE c.oid = NEW.relid AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pgkennel'
    AND NOT EXISTS (SELECT FROM pgkennel.tenants t WHERE t.schema = n.nspname)
    AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
      SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}'))
  ) THEN
    RAISE EXCEPTION 'table % has the column % and would show every tenant''s rows to all', NEW.relid::regclass, TG_ARGV[0]
    USING ERRCODE = 'insufficient_privilege',
    HINT = 'In the same transaction: ENABLE and FORCE ROW LEVEL SECURITY, and a restrictive policy for all commands. pgkennel secure plan prints the SQL for tables like it.';
  END IF;
  RETURN NULL;
END `

// function is one of ours.
type function struct {
	name, returns, language, volatility, body string
	everybody                                 bool // may run it
}

func (p *plan) functions() []function {
	var list []function
	switch p.Rows {
	case tenant.Strict:
		list = append(list, function{"tenant_key", "text", "sql", "STABLE PARALLEL SAFE", tenantKey, true})
	case tenant.Sealed: // a parallel worker is another process
		list = append(list,
			function{"backend_start", "bigint", "sql", "STABLE PARALLEL RESTRICTED", backendStart, true},
			function{"tenant_key", "text", "plpgsql", "STABLE PARALLEL RESTRICTED", sealedKey(p.Setting), true})
	case tenant.Shared: // the setting is believed
	}
	if p.guarded() {
		list = append(list,
			function{"note_tables", "event_trigger", "plpgsql", "VOLATILE", noteTables, false},
			function{"refuse_table", "trigger", "plpgsql", "VOLATILE", refuseTable, false})
	}
	return list
}

// guarded reports whether new tables are watched. Only superusers can make the trigger that does it.
func (p *plan) guarded() bool { return p.Rows != 0 && p.info.Super }

// planHome plans the schema pgkennel and what is in it.
func (p *plan) planHome(ctx context.Context) error {
	home, err := list[struct {
		Owner  string
		Grants []string
	}](ctx, p.db, `SELECT pg_get_userbyid(nspowner)::text,
ARRAY(SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END || ' ' || a.privilege_type FROM aclexplode(nspacl) a WHERE a.grantee <> nspowner)
FROM pg_namespace WHERE nspname = 'pgkennel'`)
	if err != nil {
		return err
	}
	s := Step{Kind: "schema", Object: "pgkennel", Reason: "for what the database has to know of tenants"}
	var grants []string
	switch {
	case len(home) == 0:
		s.SQL = append(s.SQL, "CREATE SCHEMA pgkennel AUTHORIZATION "+ident(p.owner))
	default:
		if home[0].Owner != p.owner {
			s.SQL = append(s.SQL, "ALTER SCHEMA pgkennel OWNER TO "+ident(p.owner))
		}
		grants = home[0].Grants
	}
	for _, l := range p.Logins {
		if p.Rows == tenant.Sealed && p.there(l) && !slices.Contains(grants, l+" USAGE") { // each connection asks when it began
			s.SQL = append(s.SQL, "GRANT USAGE ON SCHEMA pgkennel TO "+ident(l))
		}
	}
	for _, g := range splitGrants(grants) {
		if p.Rows != tenant.Sealed || g.Privilege != "USAGE" || !slices.Contains(p.Logins, g.Grantee) {
			s.SQL = append(s.SQL, "REVOKE "+g.Privilege+" ON SCHEMA pgkennel FROM "+grantee(g.Grantee))
		}
	}
	p.add(s)
	for _, t := range []struct{ name, sql, why string }{
		{"tenants", tenantsTable, "says which role is which tenant"},
		{"fenced", fencedTable, "says which tenants are kept out"},
		{"new_tables", newTables, "new tables, until their transaction commits"},
		{"seals", sealsTable, "says what seals are checked with"},
	} {
		if t.name == "new_tables" && !p.guarded() || t.name == "seals" && p.Rows != tenant.Sealed {
			continue
		}
		if err := p.planHomeTable(ctx, t.name, t.sql, t.why); err != nil {
			return err
		}
	}
	return p.planFunctions(ctx)
}

func (p *plan) planHomeTable(ctx context.Context, name, sql, why string) error {
	found, err := list[struct {
		Owner string
		Open  []string
	}](ctx, p.db, `SELECT pg_get_userbyid(c.relowner)::text, ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY 1)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgkennel' AND c.relname = $1 AND c.relkind = 'r'`, name)
	if err != nil {
		return err
	}
	object := "pgkennel." + name
	s := Step{Kind: "table", Object: object, Reason: why + "; nobody but its owner may read it"}
	if len(found) == 0 {
		s.SQL = append(s.SQL, sql, "REVOKE ALL ON "+object+" FROM PUBLIC")
	} else {
		p.info.hasHome = p.info.hasHome || name == "tenants"
		p.info.hasSeals = p.info.hasSeals || name == "seals"
		p.info.hasFence = p.info.hasFence || name == "fenced"
		for _, r := range found[0].Open {
			s.SQL = append(s.SQL, "REVOKE ALL ON "+object+" FROM "+r)
		}
	}
	if len(found) == 0 || found[0].Owner != p.owner {
		s.SQL = append(s.SQL, "ALTER TABLE "+object+" OWNER TO "+ident(p.owner))
	}
	p.add(s)
	return nil
}

// planFunctions compares ours with what is there, body and all.
func (p *plan) planFunctions(ctx context.Context) error {
	type there struct {
		Name, Returns, Language, Volatility, Body, Owner, Config string
		Definer, Everybody                                       bool
	}
	all, err := list[there](ctx, p.db, `SELECT f.proname::text, f.prorettype::regtype::text, l.lanname::text, f.provolatile::text, f.prosrc,
pg_get_userbyid(f.proowner)::text, coalesce(array_to_string(f.proconfig, ';'), ''), f.prosecdef,
EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0)
FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE n.nspname = 'pgkennel' AND f.pronargs = 0`)
	if err != nil {
		return err
	}
	const path = "pg_catalog, pg_temp"
	for _, f := range p.functions() {
		want := there{f.name, f.returns, f.language, strings.ToLower(f.volatility[:1]), f.body, p.owner, "search_path=" + path, true, f.everybody}
		if slices.Contains(all, want) {
			continue
		}
		name := "pgkennel." + f.name + "()"
		s := Step{Kind: "function", Object: name, Reason: "is not there, or not as it should be", SQL: []string{
			fmt.Sprintf("CREATE OR REPLACE FUNCTION %s RETURNS %s LANGUAGE %s %s SECURITY DEFINER SET search_path = %s AS $pgkennel$%s$pgkennel$",
				name, f.returns, f.language, f.volatility, path, f.body),
			"ALTER FUNCTION " + name + " OWNER TO " + ident(p.owner),
		}}
		if f.everybody {
			s.SQL = append(s.SQL, "GRANT EXECUTE ON FUNCTION "+name+" TO PUBLIC")
		} else {
			s.SQL = append(s.SQL, "REVOKE ALL ON FUNCTION "+name+" FROM PUBLIC")
		}
		p.add(s)
	}
	return nil
}

// planGuard plans the triggers that refuse tables with the tenant column that have no policy. They come last: until then there may be some.
func (p *plan) planGuard(ctx context.Context) error {
	if !p.guarded() {
		return nil
	}
	found, err := one[struct {
		Args    []byte
		Watches bool
	}](ctx, p.db, `SELECT coalesce((SELECT t.tgargs FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgkennel' AND c.relname = 'new_tables' AND t.tgname = 'pgkennel_refuse'
AND t.tgenabled = 'O' AND t.tgdeferrable AND t.tginitdeferred), ''::bytea),
EXISTS (SELECT FROM pg_event_trigger e JOIN pg_proc f ON f.oid = e.evtfoid JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE e.evtname = 'pgkennel_new_tables' AND e.evtevent = 'ddl_command_end' AND e.evtenabled = 'O' AND n.nspname = 'pgkennel' AND f.proname = 'note_tables')`)
	if err != nil {
		return err
	}
	s := Step{Kind: "guard", Object: p.info.Database, Reason: "a table with the column " + p.Column + " and without policy can be made", Severity: Warning}
	if string(found.Args) != p.Column+"\x00" {
		s.SQL = append(s.SQL, "DROP TRIGGER IF EXISTS pgkennel_refuse ON pgkennel.new_tables",
			"CREATE CONSTRAINT TRIGGER pgkennel_refuse AFTER INSERT ON pgkennel.new_tables DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgkennel.refuse_table("+literal(p.Column)+")")
	}
	if !found.Watches {
		s.SQL = append(s.SQL, "DROP EVENT TRIGGER IF EXISTS pgkennel_new_tables",
			"CREATE EVENT TRIGGER pgkennel_new_tables ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE') EXECUTE FUNCTION pgkennel.note_tables()")
	}
	p.add(s)
	return nil
}
