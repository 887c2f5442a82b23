package secure

import (
	"context"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

func (d *doctor) oids() []uint32 {
	oids := make([]uint32, len(d.tables))
	for i, t := range d.tables {
		oids[i] = t.OID
	}
	return oids
}

// keys checks that unique keys are each tenant's own: else an INSERT tells whether another tenant has a value.
func (d *doctor) keys(ctx context.Context) error {
	found, err := list[struct {
		Table, Index, Columns, Comment string
		Random, Constraint             bool
	}](ctx, d.db, `SELECT format('%s.%s', n.nspname, c.relname), x.relname::text, array_to_string(ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = x.oid ORDER BY a.attnum), ', '),
coalesce(obj_description(x.oid, 'pg_class'), '') || coalesce((SELECT obj_description(o.oid, 'pg_constraint') FROM pg_constraint o WHERE o.conindid = x.oid AND o.contype IN ('p', 'u') LIMIT 1), ''),
EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.oid AND a.atttypid = 'uuid'::regtype), EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = x.oid AND o.conrelid = c.oid AND o.contype <> 'f')
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = ANY($1::oid[]) AND (i.indisunique OR i.indisexclusion) AND NOT x.relispartition
AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND a.attnum = ANY(i.indkey::int2[])) ORDER BY 1, 2`, d.oids(), d.Column)
	for _, f := range found {
		if f.Random {
			continue // who knows another tenant's UUID knows more already
		}
		schema, name, _ := strings.Cut(f.Table, ".")
		drop := "-- and then DROP INDEX " + ident(schema, f.Index)
		if f.Constraint {
			drop = "-- and then ALTER TABLE " + ident(schema, name) + " DROP CONSTRAINT " + ident(f.Index)
		}
		d.find(severity(Warning, f.Comment), "key", f.Table+", index "+f.Index, "it is unique over all tenants: an INSERT tells one what others have",
			"CREATE UNIQUE INDEX CONCURRENTLY ON "+ident(schema, name)+" ("+ident(d.Column)+", "+f.Columns+")", drop)
	}
	return err
}

// foreignKeys checks that rows refer to rows of their own tenant: PostgreSQL looks for the other row without policies.
func (d *doctor) foreignKeys(ctx context.Context) error {
	found, err := list[struct{ Table, Name, To, Columns, ToColumns, Comment string }](ctx, d.db, `SELECT format('%I.%I', n.nspname, c.relname), o.conname::text, format('%I.%I', fn.nspname, f.relname),
array_to_string(ARRAY(SELECT quote_ident(a.attname) FROM unnest(o.conkey) WITH ORDINALITY k(n, i) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY k.i), ', '),
array_to_string(ARRAY(SELECT quote_ident(a.attname) FROM unnest(o.confkey) WITH ORDINALITY k(n, i) JOIN pg_attribute a ON a.attrelid = f.oid AND a.attnum = k.n ORDER BY k.i), ', '),
coalesce(obj_description(o.oid, 'pg_constraint'), '')
FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = o.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE o.contype = 'f' AND o.conparentid = 0 AND o.conrelid = ANY($1::oid[]) AND o.confrelid = ANY($1::oid[]) AND NOT EXISTS (
  SELECT FROM unnest(o.conkey, o.confkey) k(here, there) JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.here
  JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.there WHERE a.attname = $2 AND b.attname = $2) ORDER BY 1, 2`, d.oids(), d.Column)
	for _, f := range found {
		c := ident(d.Column)
		d.find(severity(Warning, f.Comment), "foreign key", f.Table+", "+f.Name, "a row can refer to one of another tenant's in "+f.To,
			"ALTER TABLE "+f.Table+" ADD FOREIGN KEY ("+c+", "+f.Columns+") REFERENCES "+f.To+" ("+c+", "+f.ToColumns+") NOT VALID, DROP CONSTRAINT "+ident(f.Name))
	}
	return err
}

// views checks views and materialised views: the former are run as their owner, the latter have been.
func (d *doctor) views(ctx context.Context) error {
	if d.Rows == 0 {
		return nil
	}
	found, err := list[struct {
		Name, Quoted, Kind, Comment string
		Invoker, Open, Uses         bool
	}](ctx, d.db, `WITH RECURSIVE uses(view) AS (
  SELECT r.ev_class FROM pg_rewrite r JOIN pg_depend x ON x.classid = 'pg_rewrite'::regclass AND x.objid = r.oid AND x.refclassid = 'pg_class'::regclass WHERE x.refobjid = ANY($1::oid[])
  UNION SELECT r.ev_class FROM uses u JOIN pg_depend x ON x.refclassid = 'pg_class'::regclass AND x.refobjid = u.view AND x.classid = 'pg_rewrite'::regclass JOIN pg_rewrite r ON r.oid = x.objid AND r.ev_class <> u.view)
SELECT format('%s.%s', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname), c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
EXISTS (SELECT FROM unnest(c.reloptions) o WHERE o IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes')),
EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM pg_roles WHERE rolname = ANY($2::text[]))),
c.oid IN (SELECT view FROM uses)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND c.oid IN (SELECT view FROM uses) AND n.nspname !~ '^pg_' ORDER BY 1`,
		d.oids(), append(d.tenantRoles(), d.Logins...))
	for _, f := range found {
		level := Warning
		if f.Open {
			level = Error
		}
		switch {
		case f.Kind == "m":
			d.find(severity(level, f.Comment), "view", f.Name, "a materialised view holds the rows of all tenants, and has no policies", "REVOKE ALL ON TABLE "+f.Quoted+" FROM PUBLIC"+d.alsoFrom())
		case !f.Invoker && d.info.Version < 150000:
			d.find(severity(level, f.Comment), "view", f.Name, "a view is run as its owner, here as PostgreSQL knows no other", "REVOKE ALL ON TABLE "+f.Quoted+" FROM PUBLIC"+d.alsoFrom())
		case !f.Invoker:
			d.find(severity(level, f.Comment), "view", f.Name, "it is run as its owner", "ALTER VIEW "+f.Quoted+" SET (security_invoker = true)")
		}
	}
	return err
}

// alsoFrom continues a REVOKE with the logins.
func (d *doctor) alsoFrom() string {
	var b strings.Builder
	for _, l := range d.Logins {
		if d.there(l) {
			b.WriteString(", " + ident(l))
		}
	}
	return b.String()
}

// definers checks functions that run as their owner, and may be run by tenants.
func (d *doctor) definers(ctx context.Context) error {
	found, err := list[struct {
		Name, Kind, Comment string
		Mighty              bool
	}](ctx, d.db, `SELECT format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), f.prokind::text, coalesce(obj_description(f.oid, 'pg_proc'), ''), r.rolsuper OR r.rolbypassrls
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace JOIN pg_roles r ON r.oid = f.proowner
WHERE f.prosecdef AND n.nspname NOT IN ('pgkennel', 'pg_catalog', 'information_schema') AND f.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
AND EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0
  OR a.grantee IN (SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[]))) ORDER BY 1`, append(d.tenantRoles(), d.Logins...))
	for _, f := range found {
		what := "FUNCTION"
		if f.Kind == "p" {
			what = "PROCEDURE"
		}
		reason := "tenants may run it, and it runs as its owner: look at it, and if it is good, COMMENT ON " + what + " " + f.Name + " IS '" + Approval + "'"
		if f.Mighty {
			reason = "tenants may run it, and it runs as a role that no policy holds for"
		}
		d.find(severity(Error, f.Comment), "function", f.Name, reason, "REVOKE EXECUTE ON "+what+" "+f.Name+" FROM PUBLIC"+d.alsoFrom())
	}
	return err
}

// others checks tables without the tenant column: where tenants may write, one can tell the others something; where they may not read, the
// application perhaps wants to.
func (d *doctor) others(ctx context.Context) error {
	if d.Rows == 0 {
		return nil
	}
	var own []string
	for _, t := range d.Tenants {
		if t.Schema != "" {
			own = append(own, t.Schema)
		}
	}
	found, err := list[struct {
		Name, Quoted, Comment string
		Writable, Readable    bool
	}](ctx, d.db, `SELECT format('%s.%s', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname), coalesce(obj_description(c.oid, 'pg_class'), ''),
EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') AND a.grantee IN (SELECT 0::oid UNION ALL SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[]))),
EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.privilege_type = 'SELECT' AND a.grantee = 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('pgkennel', 'information_schema') AND n.nspname <> ALL(coalesce($3::text[], '{}'))
AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped) ORDER BY 1`, append(d.tenantRoles(), d.everybodys()...), d.Column, own)
	for _, f := range found {
		switch {
		case f.Writable:
			d.find(severity(Warning, f.Comment), "table", f.Name, "it has no column "+d.Column+", and every tenant can write what the others read",
				"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON TABLE "+f.Quoted+" FROM PUBLIC"+d.alsoFrom())
		case !f.Readable:
			d.find(Info, "table", f.Name, "it has no column "+d.Column+", and tenants can't read it; if it is the same for all, name it in [[omnisharded_tables]]",
				"GRANT SELECT ON TABLE "+f.Quoted+" TO PUBLIC")
		}
	}
	return err
}

// everybodys are the logins that all tenants' rows are read and written with.
func (d *doctor) everybodys() []string {
	if d.Rows == tenant.Shared || d.Rows == tenant.Sealed {
		return d.Logins
	}
	return nil
}

// owned checks what belongs to a login that all tenants share: whatever gets SQL past pgkennel may change it for all of them, or have it copy what the
// others write.
func (d *doctor) owned(ctx context.Context) error {
	found, err := list[struct{ Name, Quoted, What, Owner, Comment string }](ctx, d.db, `SELECT format('%s.%s', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname),
CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
pg_get_userbyid(c.relowner)::text, coalesce(obj_description(c.oid, 'pg_class'), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND c.relowner IN (SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[]))
AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid AND x.deptype IN ('a', 'i') AND c.relkind = 'S')
UNION ALL SELECT f.name, f.name, 'ROUTINE', pg_get_userbyid(f.owner)::text, f.comment
FROM (SELECT format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)) AS name, f.proowner AS owner, coalesce(obj_description(f.oid, 'pg_proc'), '') AS comment
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE n.nspname !~ '^pg_') f WHERE f.owner IN (SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[])) ORDER BY 1`, d.everybodys())
	for _, f := range found {
		sql := []string{"ALTER " + f.What + " " + f.Quoted + " OWNER TO " + ident(d.owner)}
		if f.What != "ROUTINE" && f.What != "SEQUENCE" {
			sql = append(sql, "GRANT SELECT, INSERT, UPDATE, DELETE ON "+f.Quoted+" TO "+ident(f.Owner))
		}
		if f.What == "SEQUENCE" {
			sql = append(sql, "GRANT USAGE ON SEQUENCE "+f.Quoted+" TO "+ident(f.Owner))
		}
		d.find(severity(Warning, f.Comment), "owner", f.Name, "it belongs to "+f.Owner+", with which all tenants log in: nothing but pgkennel keeps one of them from changing it", sql...)
	}
	return err
}

// strangers checks the roles that the database takes for tenants', and the configuration does not name: nothing else was checked of them.
func (d *doctor) strangers(context.Context) error {
	for _, role := range d.known {
		if r := d.roles[role]; r == nil || r.tenant == nil {
			d.find(Warning, "tenant", role, "pgkennel.tenants has it for a tenant's role, and the configuration does not: name its --key, or remove it",
				"DELETE FROM pgkennel.tenants WHERE role = "+literal(role))
		}
	}
	return nil
}

// elsewhere checks which other databases of the server tenants may log in to.
func (d *doctor) elsewhere(ctx context.Context) error {
	if len(d.tenantRoles()) == 0 {
		return nil
	}
	open, err := list[struct{ Name string }](ctx, d.db, `SELECT d.datname::text FROM pg_database d WHERE d.datallowconn AND d.datname <> current_database()
AND EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT') ORDER BY 1`)
	for _, o := range open {
		d.find(Info, "connect", o.Name, "every role of the server may connect to it, tenants' as well, if they get around pgkennel", "REVOKE CONNECT ON DATABASE "+ident(o.Name)+" FROM PUBLIC")
	}
	return err
}
