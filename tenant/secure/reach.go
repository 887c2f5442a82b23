package secure

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// ours are the roles with which tenants' statements run, or can.
func (d *doctor) ourRoles() []string { return append(d.tenantRoles(), d.Logins...) }

// own are the schemas that are tenants' own.
func (d *doctor) own() []string {
	own := []string{}
	for _, t := range d.Tenants {
		if t.Schema != "" {
			own = append(own, t.Schema)
		}
	}
	return own
}

// mayRun is the condition that a function f may be run by PUBLIC, or by the roles in the parameter.
const mayRun = `EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0
  OR a.grantee IN (SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[])))`

// routine is a function or procedure.
type routine struct{ Name, Kind, Comment string }

// what is its kind in SQL.
func (r routine) what() string {
	if r.Kind == "p" {
		return "PROCEDURE"
	}
	return "FUNCTION"
}

const routineColumns = `format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), f.prokind::text, coalesce(obj_description(f.oid, 'pg_proc'), '')`

// becoming checks functions with a SET clause by which they become somebody else, or somebody else's, while they run.
func (d *doctor) becoming(ctx context.Context) error {
	found, err := list[struct {
		routine
		Setting string
	}](ctx, d.db, `SELECT `+routineColumns+`, split_part(c, '=', 1) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace, unnest(f.proconfig) c
WHERE n.nspname NOT IN ('pgkennel', 'pg_catalog', 'information_schema') AND `+mayRun+`
AND (split_part(c, '=', 1) IN ('role', 'session_authorization', 'session_replication_role') OR split_part(c, '=', 1) = $2) ORDER BY 1, 4`, d.ourRoles(), d.Setting)
	for _, f := range found {
		reason := "tenants may run it, and it sets " + f.Setting + " while it runs"
		if f.Setting == d.Setting && d.Rows == tenant.Strict {
			continue // policies do not ask for it
		}
		name := f.Setting
		if strings.Contains(name, ".") {
			name = ident(strings.Split(name, ".")...)
		}
		d.find(severity(Error, f.Comment), "function", f.Name, reason, "ALTER "+f.what()+" "+f.Name+" RESET "+name)
	}
	return err
}

// untrusted checks functions in languages that may do what the server's operating system user may.
func (d *doctor) untrusted(ctx context.Context) error {
	found, err := list[struct {
		routine
		Language string
	}](ctx, d.db, `SELECT `+routineColumns+`, l.lanname::text FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace JOIN pg_language l ON l.oid = f.prolang
WHERE NOT l.lanpltrusted AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND `+mayRun+`
AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = f.oid AND x.deptype = 'e') ORDER BY 1`, d.ourRoles())
	for _, f := range found {
		d.find(severity(Error, f.Comment), "function", f.Name, "tenants may run it, and in the language "+f.Language+" it can do what the server can: look at it, and if it is good, COMMENT ON "+f.what()+" "+f.Name+" IS '"+Approval+"'",
			"REVOKE EXECUTE ON "+f.what()+" "+f.Name+" FROM PUBLIC"+d.alsoFrom())
	}
	return err
}

// heardOf are extensions whose functions are known to leave alone the texts that they are given, or that pgkennel refuses by their names where a login is shared.
const heardOf = "address_standardizer adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw fuzzystrmatch hll hstore insert_username intagg " +
	"intarray isn lo ltree moddatetime old_snapshot orafce pageinspect pg_background pg_buffercache pg_cron pg_dirtyread pg_freespacemap pg_ivm pg_logicalinspect pg_overexplain pg_prewarm pg_stat_statements " +
	"pg_surgery pg_trgm pg_uuidv7 pg_visibility pg_walinspect pgcrypto pgroonga pgrowlocks pgstattuple plpgsql postgis postgis_raster postgis_topology postgres_fdw refint seg set_user sslinfo tablefunc tcn " +
	"tsm_system_rows tsm_system_time unaccent uuid-ossp vector xml2"

// unheard checks, where a login is shared, extensions of which nobody knows whether a function of theirs runs SQL that it is given as text.
func (d *doctor) unheard(ctx context.Context) error {
	if !d.shared() {
		return nil
	}
	found, err := list[struct{ Name, Function, Comment string }](ctx, d.db, `SELECT x.extname::text, min(f.proname::text), coalesce(obj_description(x.oid, 'pg_extension'), '')
FROM pg_extension x JOIN pg_depend e ON e.refclassid = 'pg_extension'::regclass AND e.refobjid = x.oid AND e.classid = 'pg_proc'::regclass AND e.deptype = 'e'
JOIN pg_proc f ON f.oid = e.objid JOIN pg_language l ON l.oid = f.prolang AND NOT l.lanpltrusted
WHERE x.extname <> ALL($2::text[]) AND f.proargtypes::oid[] && ARRAY['text', 'name', 'regclass', 'regproc', 'regprocedure']::regtype[]::oid[] AND `+mayRun+`
GROUP BY x.oid, x.extname ORDER BY 1`, d.ourRoles(), strings.Fields(heardOf))
	for _, f := range found {
		d.find(severity(Warning, f.Comment), "extension", f.Name, "tenants may run its function "+f.Function+", and pgkennel does not know whether it runs SQL that it is given: look at it, and if its functions do not",
			"COMMENT ON EXTENSION "+ident(f.Name)+" IS '"+Approval+"'")
	}
	return err
}

// bound checks functions that all tenants may run, and that mean one tenant's tables whoever does, or those of who did first.
func (d *doctor) bound(ctx context.Context) error {
	own := d.own()
	if len(own) == 0 {
		return nil
	}
	found, err := list[struct {
		routine
		Path, Uses, Typed string
	}](ctx, d.db, `SELECT `+routineColumns+`,
coalesce((SELECT s FROM unnest(f.proconfig) c, unnest($2::text[]) s WHERE c LIKE 'search_path=%' AND quote_ident(s) = ANY(string_to_array(substr(c, 13), ', ')) LIMIT 1), ''),
coalesce((SELECT s.nspname::text FROM pg_depend x LEFT JOIN pg_class r ON x.refclassid = 'pg_class'::regclass AND r.oid = x.refobjid
  LEFT JOIN pg_type t ON x.refclassid = 'pg_type'::regclass AND t.oid = x.refobjid JOIN pg_namespace s ON s.oid = coalesce(r.relnamespace, t.typnamespace)
  WHERE x.classid = 'pg_proc'::regclass AND x.objid = f.oid AND s.nspname = ANY($2::text[]) LIMIT 1), ''),
coalesce((SELECT m[1] FROM regexp_matches(CASE l.lanname WHEN 'plpgsql' THEN f.prosrc ELSE '' END, '(?<![.\w"])(\w+)(?:\.\w+)?%(?:row)?type', 'gi') m
  JOIN pg_class r ON r.relname = lower(m[1]) JOIN pg_namespace s ON s.oid = r.relnamespace WHERE s.nspname = ANY($2::text[]) LIMIT 1), '')
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace JOIN pg_language l ON l.oid = f.prolang
WHERE n.nspname NOT IN ('pgkennel', 'pg_catalog', 'information_schema') AND n.nspname <> ALL($2::text[]) AND `+mayRun+` ORDER BY 1`, d.ourRoles(), own)
	for _, f := range found {
		switch {
		case f.Uses != "":
			d.find(severity(Warning, f.Comment), "function", f.Name, "tenants may run it, and it means the tables or types of schema "+f.Uses+", whoever does: what BEGIN ATOMIC or a signature names stays what it was",
				"-- drop it, and make it with its body AS text")
		case f.Path != "":
			d.find(severity(Warning, f.Comment), "function", f.Name, "tenants may run it, and its search_path is that of schema "+f.Path+", whoever does", "ALTER "+f.what()+" "+f.Name+" RESET search_path")
		case f.Typed != "" && d.shared():
			d.find(severity(Warning, f.Comment), "function", f.Name, "of "+f.Typed+"%TYPE or %ROWTYPE a session remembers whose table it was first, and tenants share sessions",
				"-- use RECORD, or a type of the schema that all share")
		}
	}
	return err
}

// crossing checks views elsewhere over tables in tenants' own schemas: they are run as their owner, or have been.
func (d *doctor) crossing(ctx context.Context) error {
	own := d.own()
	if len(own) == 0 {
		return nil
	}
	found, err := list[struct {
		Name, Quoted, Kind, Comment, Of string
		Invoker                         bool
	}](ctx, d.db, `WITH RECURSIVE uses(view, of) AS (
  SELECT r.ev_class, n.nspname::text FROM pg_rewrite r JOIN pg_depend x ON x.classid = 'pg_rewrite'::regclass AND x.objid = r.oid AND x.refclassid = 'pg_class'::regclass
  JOIN pg_class c ON c.oid = x.refobjid AND c.oid <> r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY($2::text[])
  UNION SELECT r.ev_class, u.of FROM uses u JOIN pg_depend x ON x.refclassid = 'pg_class'::regclass AND x.refobjid = u.view AND x.classid = 'pg_rewrite'::regclass JOIN pg_rewrite r ON r.oid = x.objid AND r.ev_class <> u.view)
SELECT format('%s.%s', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname), c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), min(u.of),
EXISTS (SELECT FROM unnest(c.reloptions) o WHERE o IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'))
FROM uses u JOIN pg_class c ON c.oid = u.view AND c.relkind IN ('v', 'm') JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> u.of
WHERE EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM pg_roles WHERE rolname = ANY($1::text[])))
GROUP BY c.oid, n.nspname ORDER BY 1`, d.ourRoles(), own)
	for _, f := range found {
		if f.Kind == "v" && f.Invoker {
			continue
		}
		d.find(severity(Error, f.Comment), "view", f.Name, "others than its tenant may read in it what is in schema "+f.Of, "REVOKE ALL ON TABLE "+f.Quoted+" FROM PUBLIC"+d.alsoFrom())
	}
	return err
}

// triggers checks whose code runs when somebody writes: whoever that is, an administrator as well, runs it as himself.
func (d *doctor) triggers(ctx context.Context) error {
	found, err := list[struct{ Table, Name, Function, Owner, Comment string }](ctx, d.db, `SELECT format('%s.%s', n.nspname, c.relname), t.tgname::text,
format('%I.%I(%s)', fn.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), r.rolname::text, coalesce(obj_description(t.oid, 'pg_trigger'), '')
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc f ON f.oid = t.tgfoid
JOIN pg_namespace fn ON fn.oid = f.pronamespace JOIN pg_roles r ON r.oid = f.proowner
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND r.rolname = ANY($1::text[]) ORDER BY 1, 2`, d.ourRoles())
	for _, f := range found {
		level := Warning
		if r := d.roles[f.Owner]; r != nil && r.tenant != nil {
			level = Error
		}
		d.find(severity(level, f.Comment), "trigger", f.Table+", "+f.Name, "its function belongs to "+f.Owner+": what that makes of it runs as whoever writes to the table, an administrator as well",
			"ALTER FUNCTION "+f.Function+" OWNER TO "+ident(d.owner))
	}
	return err
}

// planting checks who may make objects in schemas that all use, by a group or as the owner.
func (d *doctor) planting(ctx context.Context) error {
	found, err := list[struct {
		Schema, Login, Role string
		Owner               bool
	}](ctx, d.db, fmt.Sprintf(mineCTE, "= ANY($1::text[]) AND NOT r.rolsuper")+`
SELECT DISTINCT n.nspname::text, m.login::text, r.rolname::text, n.nspowner = m.oid FROM mine m JOIN pg_roles r ON r.oid = m.oid
JOIN pg_namespace n ON n.nspowner = m.oid OR r.rolname <> m.login AND EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = m.oid AND a.privilege_type = 'CREATE')
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('pgkennel', 'information_schema') AND n.nspname <> ALL($2::text[]) AND r.rolname <> $3 ORDER BY 1, 2, 3`, d.ourRoles(), d.own(), d.owner)
	for _, f := range found {
		r := d.roles[f.Login]
		level := Warning
		if d.shared() || r != nil && r.tenant != nil {
			level = Error
		}
		if f.Owner {
			d.find(level, "create", f.Schema, "it belongs to "+f.Role+", and "+f.Login+" can make in it what the others would run", "ALTER SCHEMA "+ident(f.Schema)+" OWNER TO "+ident(d.owner))
			continue
		}
		d.find(level, "create", f.Schema, f.Login+", a member of "+f.Role+", can make in it what the others would run", "REVOKE CREATE ON SCHEMA "+ident(f.Schema)+" FROM "+ident(f.Role))
	}
	return err
}

// common checks what is common to all tenants of a database, or of a login: large objects and prepared transactions.
func (d *doctor) common(ctx context.Context) error {
	is, err := one[struct {
		Compat   bool
		Prepared int
		Open     []string
	}](ctx, d.db, `SELECT current_setting('lo_compat_privileges')::bool, current_setting('max_prepared_transactions')::int,
ARRAY(SELECT format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace,
  aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE n.nspname = 'pg_catalog' AND f.proname ~ '^(lo_|loread$|lowrite$)' AND a.grantee = 0 ORDER BY 1)`)
	if err != nil {
		return err
	}
	if is.Compat && len(d.Tenants) > 0 {
		d.find(Error, "large objects", "lo_compat_privileges", "it is on: every login reads and writes the large objects of all", "ALTER SYSTEM RESET lo_compat_privileges", "SELECT pg_reload_conf()")
	}
	if !d.shared() {
		return nil
	}
	if len(is.Open) > 0 {
		sql := make([]string, len(is.Open))
		for i, f := range is.Open {
			sql[i] = "REVOKE EXECUTE ON FUNCTION " + f + " FROM PUBLIC"
		}
		d.find(Warning, "large objects", d.info.Database, "large objects belong to the login that made them, which tenants share: each can read, change and remove the others'", sql...)
	}
	if is.Prepared > 0 {
		d.find(Warning, "prepared transactions", "max_prepared_transactions", "prepared transactions belong to the login, which tenants share; pgkennel refuses them, others do not",
			"ALTER SYSTEM SET max_prepared_transactions = 0", "-- and restart PostgreSQL")
	}
	return nil
}

// trust checks that roles prove who they are, as far as an administrator can read pg_hba.conf.
func (d *doctor) trust(ctx context.Context) error {
	may, err := one[struct{ OK bool }](ctx, d.db, "SELECT has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')")
	if err != nil || !may.OK || len(d.ourRoles()) == 0 {
		return err
	}
	lines, err := list[struct {
		Line          int
		Type, Address string
		Users, For    []string
	}](ctx, d.db, `SELECT line_number, type, coalesce(address, ''), user_name, database FROM pg_hba_file_rules WHERE auth_method = 'trust' AND error IS NULL ORDER BY line_number`)
	for _, l := range lines {
		fits := func(names []string, name string) bool {
			return slices.Contains(names, "all") || slices.Contains(names, name) ||
				slices.ContainsFunc(names, func(n string) bool {
					return strings.HasPrefix(n, "+") || strings.HasPrefix(n, "/") || n == "sameuser" || n == "samerole"
				})
		}
		if !fits(l.For, d.info.Database) || !slices.ContainsFunc(append(d.ourRoles(), d.owner), func(r string) bool { return fits(l.Users, r) }) {
			continue
		}
		level, from := Error, " from "+l.Address
		if l.Type == "local" {
			level, from = Warning, " from the server's own machine"
		}
		d.find(level, "trust", fmt.Sprintf("pg_hba.conf, line %d", l.Line), "who comes"+from+" is whoever he says: tenants' roles, and pgkennel's logins, are everybody's there",
			fmt.Sprintf("-- line %d: scram-sha-256 in the place of trust; then SELECT pg_reload_conf()", l.Line))
	}
	return err
}
