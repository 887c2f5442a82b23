package secure

import (
	"context"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// grant is a privilege that somebody has; Grantee is empty for PUBLIC.
type grant struct{ Grantee, Privilege string }

// mostGrantees bounds the roles in one GRANT. All of them are in one row of pg_database, unlike pg_class a table whose rows may be long.
const mostGrantees = 1000

// planDatabase plans who may connect, and what everybody may do that nobody should.
func (p *plan) planDatabase(ctx context.Context) error {
	grants, err := list[grant](ctx, p.db, `SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database() AND a.grantee <> d.datdba`)
	if err != nil {
		return err
	}
	db := ident(p.info.Database)
	if p.ours(p.info.DatabaseOwner) {
		p.add(Step{
			Kind: "owner", Object: p.info.Database, Reason: "the database belongs to " + p.info.DatabaseOwner + ", with which pgkennel logs in, and with it the schema public",
			SQL: []string{"ALTER DATABASE " + db + " OWNER TO " + ident(p.owner)},
		})
	}
	s := Step{Kind: "connect", Object: p.info.Database, Reason: "only tenants and pgkennel's logins may connect"}
	may := make(map[string]bool, len(grants))
	for _, g := range grants {
		may[g.Grantee] = may[g.Grantee] || g.Privilege == "CONNECT"
	}
	var who []string
	for _, l := range p.Logins {
		if p.there(l) && !may[l] {
			who = append(who, ident(l))
		}
	}
	for _, t := range p.Tenants {
		if t.Mode == tenant.Strict && !may[t.Role] {
			who = append(who, ident(t.Role))
		}
	}
	for some := range slices.Chunk(who, mostGrantees) {
		s.SQL = append(s.SQL, "GRANT CONNECT ON DATABASE "+db+" TO "+strings.Join(some, ", "))
	}
	for _, privilege := range []string{"CONNECT", "CREATE", "TEMPORARY"} {
		if slices.Contains(grants, grant{"", privilege}) && (privilege != "TEMPORARY" || p.shared()) {
			s.SQL = append(s.SQL, "REVOKE "+privilege+" ON DATABASE "+db+" FROM PUBLIC")
		}
	}
	for _, g := range grants {
		if g.Privilege == "CREATE" && p.ours(g.Grantee) {
			s.SQL = append(s.SQL, "REVOKE CREATE ON DATABASE "+db+" FROM "+ident(g.Grantee))
		}
	}
	p.add(s)
	if err := p.planSchemaPublic(ctx); err != nil {
		return err
	}
	if p.shared() && p.info.Super {
		if err := p.planShared(ctx); err != nil {
			return err
		}
	}
	return p.planDatabases(ctx)
}

// planConnect plans that tenants may connect.
func (p *plan) planConnect(ctx context.Context) error {
	may, err := list[struct{ Role string }](ctx, p.db, `SELECT r.rolname::text FROM pg_database d, aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' AND r.rolname = ANY($1::text[])`, p.tenantRoles())
	if err != nil {
		return err
	}
	for _, t := range p.Tenants {
		if t.Mode == tenant.Strict && !slices.Contains(may, struct{ Role string }{t.Role}) {
			p.add(Step{
				Kind: "connect", Object: p.info.Database, Reason: "tenant " + t.Name + " may connect",
				SQL: []string{"GRANT CONNECT ON DATABASE " + ident(p.info.Database) + " TO " + ident(t.Role)},
			})
		}
	}
	return nil
}

// shared reports whether tenants share a login here.
func (p *plan) shared() bool {
	return p.Rows == tenant.Shared || p.Rows == tenant.Sealed || p.takesRoles()
}

// takesRoles reports whether there are tenants whose role a shared login takes on.
func (p *plan) takesRoles() bool {
	return slices.ContainsFunc(p.Tenants, func(t *tenant.Tenant) bool { return t.Mode == tenant.Shared })
}

// planSchemaPublic plans that nobody can plant objects on the others' search_path, in any schema.
func (p *plan) planSchemaPublic(ctx context.Context) error {
	open, err := list[struct{ Schema, Grantee string }](ctx, p.db, `SELECT n.nspname::text, CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END
FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND n.nspname !~ '^pg_' ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	for _, o := range open {
		from := "PUBLIC"
		if o.Grantee != "" {
			if !p.ours(o.Grantee) {
				continue
			}
			from = ident(o.Grantee)
		}
		p.add(Step{
			Kind: "create", Object: o.Schema, Reason: "what one makes in the schema, the others would run",
			SQL: []string{"REVOKE CREATE ON SCHEMA " + ident(o.Schema) + " FROM " + from},
		})
	}
	return nil
}

// planShared takes from everybody what leads out of a tenant's context on a login that tenants share, or from one tenant to another.
func (p *plan) planShared(ctx context.Context) error {
	closed := []string{"pg_terminate_backend", "pg_cancel_backend", "pg_stat_get_activity", "pg_stat_get_backend_activity"}
	if p.Rows != tenant.Sealed { // seals are set by it, and hold whatever else it sets
		closed = append(closed, "set_config")
	}
	open, err := list[struct{ Function string }](ctx, p.db, `SELECT format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid))
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a
WHERE n.nspname = 'pg_catalog' AND (f.proname = ANY($1::text[]) OR f.proname ~ '^pg_(try_)?advisory_') AND a.grantee = 0 ORDER BY 1`, closed)
	if err != nil {
		return err
	}
	s := Step{Kind: "functions", Object: p.info.Database, Reason: "functions that change the context, or reach other tenants, on a login that tenants share"}
	for _, o := range open {
		if strings.Contains(o.Function, ".pg_stat_") {
			s.SQL = append(s.SQL, "GRANT EXECUTE ON FUNCTION "+o.Function+" TO "+statsReader)
		}
		s.SQL = append(s.SQL, "REVOKE EXECUTE ON FUNCTION "+o.Function+" FROM PUBLIC")
	}
	views, err := one[struct{ Settings, Activity bool }](ctx, p.db, `SELECT
EXISTS (SELECT FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'pg_catalog.pg_settings'::regclass AND a.grantee = 0 AND a.privilege_type = 'UPDATE'),
EXISTS (SELECT FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'pg_catalog.pg_stat_activity'::regclass AND a.grantee = 0 AND a.privilege_type = 'SELECT')`)
	if err != nil {
		return err
	}
	if views.Settings {
		s.SQL = append(s.SQL, "REVOKE UPDATE ON pg_catalog.pg_settings FROM PUBLIC")
	}
	if views.Activity {
		s.SQL = append(s.SQL, "GRANT SELECT ON pg_catalog.pg_stat_activity TO "+statsReader, "REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC")
	}
	p.add(s)
	return nil
}

// planDatabases plans the databases that are tenants' own.
func (p *plan) planDatabases(ctx context.Context) error {
	there, err := list[struct{ Name string }](ctx, p.db, "SELECT datname::text FROM pg_database WHERE datname = ANY($1::text[])", p.Databases)
	if err != nil {
		return err
	}
	for _, name := range p.Databases {
		if !slices.Contains(there, struct{ Name string }{name}) && !p.planned("database "+name) {
			p.add(Step{Kind: "database", Object: name, Reason: "of a tenant", SQL: []string{"CREATE DATABASE " + ident(name)}, Alone: true})
		}
	}
	return nil
}

// dml is what a tenant may do with its rows. TRUNCATE knows no policies, REFERENCES and TRIGGER are for owners.
var dml = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}

// planSchemas plans the schemas of tenants that have one, or a database: it belongs to the owner, and the tenant works in it.
func (p *plan) planSchemas(ctx context.Context) error {
	for _, t := range p.Tenants {
		schema := t.Schema
		if t.Isolation == tenant.Database {
			schema = "public"
		}
		if schema == "" || t.Role == "" {
			continue
		}
		if err := p.planSchema(ctx, t, schema); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) planSchema(ctx context.Context, t *tenant.Tenant, schema string) error {
	found, err := list[struct{ Owner string }](ctx, p.db, "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1", schema)
	if err != nil {
		return err
	}
	name, role := ident(schema), ident(t.Role)
	s := Step{Kind: "schema", Object: schema, Reason: "of tenant " + t.Name}
	var grants []grant
	switch {
	case len(found) == 0:
		s.SQL = append(s.SQL, "CREATE SCHEMA "+name+" AUTHORIZATION "+ident(p.owner))
	case found[0].Owner != p.owner && (t.Schema != "" && p.ours(found[0].Owner)):
		s.SQL = append(s.SQL, "ALTER SCHEMA "+name+" OWNER TO "+ident(p.owner))
	}
	if grants, err = list[grant](ctx, p.db, `SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type
FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = $1 AND a.grantee <> n.nspowner`, schema); err != nil {
		return err
	}
	// A session that has taken on the role keeps it, though its login is no member any more.
	switch out, has := t.Mode == tenant.Shared && p.fenced[RoleFence+t.Role], slices.Contains(grants, grant{t.Role, "USAGE"}); {
	case out && has:
		s.SQL = append(s.SQL, "REVOKE USAGE ON SCHEMA "+name+" FROM "+role)
	case !out && !has:
		s.SQL = append(s.SQL, "GRANT USAGE ON SCHEMA "+name+" TO "+role)
	}
	if t.Schema == "" && !(slices.Contains(grants, grant{p.owner, "USAGE"}) && slices.Contains(grants, grant{p.owner, "CREATE"})) {
		s.SQL = append(s.SQL, "GRANT USAGE, CREATE ON SCHEMA "+name+" TO "+ident(p.owner))
	}
	for _, g := range grants {
		if t.Schema != "" && g.Grantee != t.Role && (g.Grantee == "" || p.ours(g.Grantee)) && g.Grantee != p.owner {
			s.SQL = append(s.SQL, "REVOKE ALL ON SCHEMA "+name+" FROM "+grantee(g.Grantee))
		}
	}
	relations, err := p.relations(ctx, schema)
	if err != nil {
		return err
	}
	for _, r := range relations {
		s.SQL = append(s.SQL, p.relationSQL(t, r)...)
	}
	defaults, err := list[struct{ Kind, Privilege string }](ctx, p.db, `SELECT d.defaclobjtype::text, a.privilege_type FROM pg_default_acl d
JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
WHERE n.nspname = $1 AND pg_get_userbyid(d.defaclrole) = $2 AND a.grantee = (SELECT oid FROM pg_roles WHERE rolname = $3)`, schema, p.owner, t.Role)
	if err != nil {
		return err
	}
	lacks := func(kind string, privileges ...string) bool {
		return slices.ContainsFunc(privileges, func(x string) bool {
			return !slices.Contains(defaults, struct{ Kind, Privilege string }{kind, x})
		})
	}
	by := "ALTER DEFAULT PRIVILEGES FOR ROLE " + ident(p.owner) + " IN SCHEMA " + name
	if lacks("r", dml...) {
		s.SQL = append(s.SQL, by+" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "+role)
	}
	if lacks("S", "USAGE", "SELECT") {
		s.SQL = append(s.SQL, by+" GRANT USAGE, SELECT ON SEQUENCES TO "+role)
	}
	p.add(s)
	return nil
}

func grantee(name string) string {
	if name == "" {
		return "PUBLIC"
	}
	return ident(name)
}

// relation is something that rows come from in a tenant's schema.
type relation struct {
	Schema, Name, Kind, Owner string
	Grants                    []string // "grantee privilege", without the owner's
}

func (p *plan) relations(ctx context.Context, schema string) ([]relation, error) {
	return list[relation](ctx, p.db, `SELECT n.nspname::text, c.relname::text, c.relkind::text, pg_get_userbyid(c.relowner)::text,
ARRAY(SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END || ' ' || a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY c.relkind = 'S', c.relname`, schema)
}

// relationSQL gives a table or sequence to the tenant whose schema it is in, and takes it from all others.
func (p *plan) relationSQL(t *tenant.Tenant, r relation) []string {
	var sql []string
	name := ident(r.Schema, r.Name)
	kind, wanted := "TABLE", dml
	if r.Kind == "S" {
		kind, wanted = "SEQUENCE", []string{"USAGE", "SELECT"}
	}
	if p.ours(r.Owner) && r.Kind != "S" { // a sequence of a column goes with its table
		what := map[string]string{"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}[r.Kind]
		sql = append(sql, "ALTER "+what+" "+name+" OWNER TO "+ident(p.owner))
	}
	if missing := lacking(r.Grants, t.Role, wanted); missing != "" {
		sql = append(sql, "GRANT "+missing+" ON "+kind+" "+name+" TO "+ident(t.Role))
	}
	for _, g := range splitGrants(r.Grants) {
		switch mine := g.Grantee == t.Role; {
		case mine && !slices.Contains(wanted, g.Privilege) && (kind == "TABLE" || g.Privilege != "UPDATE"),
			!mine && t.Schema != "" && (g.Grantee == "" || p.ours(g.Grantee)):
			sql = append(sql, "REVOKE "+g.Privilege+" ON "+kind+" "+name+" FROM "+grantee(g.Grantee))
		}
	}
	return sql
}

// lacking lists the privileges that somebody does not have, for GRANT.
func lacking(grants []string, who string, wanted []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(wanted), func(w string) bool { return slices.Contains(grants, who+" "+w) }), ", ")
}

// splitGrants reads what relations has of grants.
func splitGrants(all []string) []grant {
	list := make([]grant, 0, len(all))
	for _, g := range all {
		i := strings.LastIndexByte(g, ' ')
		list = append(list, grant{g[:i], g[i+1:]})
	}
	return list
}
