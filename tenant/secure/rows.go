package secure

import (
	"context"
	"slices"
)

// The names of our policies.
const (
	basePolicy = "pgkennel_base" // restrictive: whatever other policies allow, it is the tenant's own rows
	rowsPolicy = "pgkennel_rows" // permissive: without one nothing is allowed
)

// table is a table with the tenant column.
type table struct {
	OID                        uint32
	Schema, Name, Kind         string
	Partition, Enabled, Forced bool
	Owner                      string
	Attnum                     int16
	NotNull, Computed          bool
	Type                       string // of the column, empty if PostgreSQL has it not built in
	TypeName                   string
	Deterministic              bool
	Default                    string
	Indexed                    bool
	Invalid                    []string // indexes that begin with the column and were not finished
	Grants                     []string
	Closed                     []string // sequences that its defaults use, quoted, which tenants may not
}

func (t *table) String() string { return t.Schema + "." + t.Name }

// policy is a policy of a table.
type policy struct {
	Table             uint32
	Name, Cmd         string
	Permissive, Every bool // Every: it holds for PUBLIC
	Using, Check      string
	Trees             string // of both, as PostgreSQL keeps them
}

// readTables reads the tables with the tenant column, without those in tenants' own schemas.
func (p *plan) readTables(ctx context.Context) error {
	if p.Rows == 0 {
		return nil
	}
	own := append([]string{"pgkennel", "information_schema"}, p.Own...)
	for _, t := range p.Tenants {
		if t.Schema != "" {
			own = append(own, t.Schema)
		}
	}
	if p.info.hasHome { // of tenants that are not among ours
		others, err := list[struct{ Schema string }](ctx, p.db, "SELECT DISTINCT schema::text FROM pgkennel.tenants WHERE schema IS NOT NULL")
		if err != nil {
			return err
		}
		for _, o := range others {
			own = append(own, o.Schema)
		}
	}
	found, err := list[table](ctx, p.db, `SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition, c.relrowsecurity, c.relforcerowsecurity,
pg_get_userbyid(c.relowner)::text, a.attnum, a.attnotnull, a.attidentity <> '' OR a.attgenerated <> '',
CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname::text ELSE '' END, format_type(a.atttypid, a.atttypmod), coalesce(l.collisdeterministic, true),
coalesce(pg_get_expr(d.adbin, c.oid), ''),
EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL),
ARRAY(SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
  WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND NOT i.indisvalid AND x.relkind = 'i' AND NOT i.indisunique),
ARRAY(SELECT CASE g.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(g.grantee)::text END || ' ' || g.privilege_type FROM aclexplode(c.relacl) g WHERE g.grantee <> c.relowner),
ARRAY(SELECT DISTINCT format('%I.%I', sn.nspname, s.relname) FROM pg_attrdef e
  JOIN pg_depend x ON x.classid = 'pg_attrdef'::regclass AND x.objid = e.oid AND x.refclassid = 'pg_class'::regclass
  JOIN pg_class s ON s.oid = x.refobjid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
  WHERE e.adrelid = c.oid AND NOT EXISTS (SELECT FROM aclexplode(s.relacl) g WHERE g.privilege_type = 'USAGE' AND g.grantee = 0))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attname = $1 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> ALL($2::text[])
ORDER BY NOT c.relispartition, c.relkind = 'p', 2, 3`, p.Column, own)
	for i := range found {
		p.tables = append(p.tables, &found[i])
	}
	return err
}

// planRows plans the policies of tables that tenants share, and what goes with them.
func (p *plan) planRows(ctx context.Context) error {
	if p.Rows == 0 {
		return nil
	}
	if err := p.readTables(ctx); err != nil {
		return err
	}
	policies, err := p.policies(ctx)
	if err != nil {
		return err
	}
	first := len(p.steps)
	defer func() {
		for i := range p.steps[first:] {
			p.steps[first+i].Shared = true
		}
	}()
	if err := p.planUsage(ctx); err != nil {
		return err
	}
	for _, t := range p.tables {
		if t.Kind != "f" && types[t.Type] != "" {
			p.planTable(t, policies[t.OID])
			p.planGrants(t)
		}
	}
	for _, t := range p.tables {
		if t.Kind != "f" {
			p.planIndex(t)
		}
	}
	return p.planCommon(ctx)
}

func (p *plan) policies(ctx context.Context) (map[uint32][]policy, error) {
	oids := make([]uint32, len(p.tables))
	for i, t := range p.tables {
		oids[i] = t.OID
	}
	all, err := list[policy](ctx, p.db, `SELECT polrelid, polname::text, polcmd::text, polpermissive, polroles = '{0}',
coalesce(pg_get_expr(polqual, polrelid), ''), coalesce(pg_get_expr(polwithcheck, polrelid), ''), coalesce(polqual::text, '') || coalesce(polwithcheck::text, '')
FROM pg_policy WHERE polrelid = ANY($1::oid[]) ORDER BY polrelid, polname`, oids)
	by := make(map[uint32][]policy)
	for _, x := range all {
		by[x.Table] = append(by[x.Table], x)
	}
	return by, err
}

// planUsage plans who may use the schemas of the tables.
func (p *plan) planUsage(ctx context.Context) error {
	var schemas []string
	for _, t := range p.tables {
		if !slices.Contains(schemas, t.Schema) {
			schemas = append(schemas, t.Schema)
		}
	}
	found, err := list[struct {
		Name, Owner string
		Grants      []string
	}](ctx, p.db, `SELECT nspname::text, pg_get_userbyid(nspowner)::text,
ARRAY(SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END || ' ' || a.privilege_type FROM aclexplode(nspacl) a)
FROM pg_namespace WHERE nspname = ANY($1::text[]) ORDER BY 1`, schemas)
	if err != nil {
		return err
	}
	for _, f := range found {
		s := Step{Kind: "schema", Object: f.Name, Reason: "with tables that tenants share"}
		owner := f.Owner
		if p.ours(owner) {
			s.SQL, owner = append(s.SQL, "ALTER SCHEMA "+ident(f.Name)+" OWNER TO "+ident(p.owner)), p.owner
		}
		if !slices.Contains(f.Grants, " USAGE") {
			s.SQL = append(s.SQL, "GRANT USAGE ON SCHEMA "+ident(f.Name)+" TO PUBLIC")
		}
		if owner != p.owner && (!slices.Contains(f.Grants, p.owner+" USAGE") || !slices.Contains(f.Grants, p.owner+" CREATE")) {
			s.SQL = append(s.SQL, "GRANT USAGE, CREATE ON SCHEMA "+ident(f.Name)+" TO "+ident(p.owner))
		}
		p.add(s)
	}
	return nil
}

// planTable plans a table's policies, its default and its owner, in one transaction: it is never half done.
func (p *plan) planTable(t *table, policies []policy) {
	name := ident(t.Schema, t.Name)
	alter := "ALTER TABLE ONLY " + name + " "
	s := Step{Kind: "table", Object: t.String(), Reason: "every tenant sees its own rows only, whoever asks"}
	if p.ours(t.Owner) {
		s.Reason = "its owner " + t.Owner + " can log in, and could change who sees what"
		s.SQL = append(s.SQL, alter+"OWNER TO "+ident(p.owner))
	}
	if !t.Enabled {
		s.Reason = "it has no row security"
		s.SQL = append(s.SQL, alter+"ENABLE ROW LEVEL SECURITY")
	}
	if !t.Forced {
		if t.Enabled {
			s.Reason = "row security does not hold for its owner"
		}
		s.SQL = append(s.SQL, alter+"FORCE ROW LEVEL SECURITY")
	}
	condition := p.condition(t)
	for _, kind := range []struct {
		name, as   string
		permissive bool
	}{{basePolicy, "RESTRICTIVE", false}, {rowsPolicy, "PERMISSIVE", true}} {
		i := slices.IndexFunc(policies, func(x policy) bool { return x.Name == kind.name })
		if i >= 0 {
			x := policies[i]
			if x.Permissive == kind.permissive && x.Every && x.Cmd == "*" && same(x.Using, condition) && same(x.Check, condition) {
				continue
			}
			s.SQL = append(s.SQL, "DROP POLICY "+ident(kind.name)+" ON "+name)
		}
		if t.Enabled && t.Forced {
			s.Reason = "its policy " + kind.name + " is not there, or not as it should be"
		}
		s.SQL = append(s.SQL, "CREATE POLICY "+ident(kind.name)+" ON "+name+" AS "+kind.as+" FOR ALL TO PUBLIC USING ("+condition+") WITH CHECK ("+condition+")")
	}
	if source := p.claimed(types[t.Type]); !t.Computed && !same(t.Default, source) {
		if len(s.SQL) == 0 {
			s.Severity, s.Reason = Warning, "INSERT has to name the tenant: the column's default is not the session's tenant"
		}
		s.SQL = append(s.SQL, alter+"ALTER COLUMN "+ident(p.Column)+" SET DEFAULT "+source)
	}
	p.add(s)
}

// planGrants plans what tenants may do with a table. Partitions are reached by their table. PUBLIC gets it: the list of who may do what with a table
// has to fit into a row of pg_class, which some thousand tenants would not; and only tenants and pgkennel may connect.
func (p *plan) planGrants(t *table) {
	name := ident(t.Schema, t.Name)
	s := Step{Kind: "grant", Object: t.String(), Reason: "tenants may read and write it, row by row"}
	if missing := lacking(t.Grants, "", dml); missing != "" && !t.Partition {
		s.SQL = append(s.SQL, "GRANT "+missing+" ON TABLE "+name+" TO PUBLIC")
	}
	for _, q := range t.Closed {
		s.SQL = append(s.SQL, "GRANT USAGE ON SEQUENCE "+q+" TO PUBLIC")
	}
	for _, g := range splitGrants(t.Grants) {
		if !slices.Contains(dml, g.Privilege) && (g.Grantee == "" || p.ours(g.Grantee)) {
			s.Reason = "policies do not hold for " + g.Privilege
			s.SQL = append(s.SQL, "REVOKE "+g.Privilege+" ON TABLE "+name+" FROM "+grantee(g.Grantee))
		}
	}
	p.add(s)
}

// planIndex plans an index that begins with the column. Where it can, it lets others write while it is built; what is left of one that was
// not finished goes first.
func (p *plan) planIndex(t *table) {
	for _, i := range t.Invalid {
		p.add(Step{
			Kind: "index", Object: t.String(), Reason: "what is left of an index that was not finished", Severity: Warning, Alone: true,
			SQL: []string{"DROP INDEX CONCURRENTLY " + ident(t.Schema, i)},
		})
	}
	if t.Indexed {
		return
	}
	how := "CREATE INDEX CONCURRENTLY ON "
	if t.Kind == "p" {
		how = "CREATE INDEX ON " // its partitions have theirs by now, which it takes
	}
	p.add(Step{
		Kind: "index", Object: t.String(), Reason: "every statement looks for the tenant's rows, and no index begins with " + p.Column, Severity: Warning,
		SQL: []string{how + ident(t.Schema, t.Name) + " (" + ident(p.Column) + ")"}, Alone: t.Kind != "p",
	})
}

// planCommon plans that tenants may read what the configuration says is for all.
func (p *plan) planCommon(ctx context.Context) error {
	for _, c := range p.Common {
		found, err := list[struct {
			Schema, Name string
			Open, Used   bool
		}](ctx, p.db, `SELECT n.nspname::text, c.relname::text,
EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.privilege_type = 'SELECT' AND a.grantee = 0),
EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.privilege_type = 'USAGE' AND a.grantee = 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $1 AND ($2 = '' AND n.nspname !~ '^pg_' OR n.nspname = $2) AND n.nspname NOT IN ('information_schema', 'pgkennel') AND c.relkind IN ('r', 'p', 'v', 'm')
AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $3 AND NOT a.attisdropped) ORDER BY 1`, c.Name, c.Schema, p.Column)
		if err != nil {
			return err
		}
		for _, f := range found {
			s := Step{Kind: "grant", Object: f.Schema + "." + f.Name, Reason: "tenants may read it: the configuration has it for a table of all", Severity: Warning}
			if !f.Used {
				s.SQL = append(s.SQL, "GRANT USAGE ON SCHEMA "+ident(f.Schema)+" TO PUBLIC")
			}
			if !f.Open {
				s.SQL = append(s.SQL, "GRANT SELECT ON TABLE "+ident(f.Schema, f.Name)+" TO PUBLIC")
			}
			p.add(s)
		}
	}
	return nil
}
