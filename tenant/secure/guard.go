package secure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// mighty are PostgreSQL's own roles that get around what keeps tenants apart (manual, 22.5 Predefined Roles); nosy are those that see or end what
// others run.
var (
	mighty = []string{
		"pg_read_all_data", "pg_write_all_data", "pg_execute_server_program", "pg_read_server_files", "pg_write_server_files",
		"pg_maintain", "pg_create_subscription",
	}
	nosy = []string{"pg_signal_backend", "pg_monitor", "pg_read_all_stats"}
)

// mineCTE begins a query about the roles that fit who, such as = session_user: mine are the roles that each of them is, or can become. It costs a look
// at an index for each, however many roles there are.
const mineCTE = `WITH RECURSIVE mine (login, oid) AS (SELECT r.rolname, r.oid FROM pg_roles r WHERE r.rolname %s
  UNION SELECT m.login, a.roleid FROM mine m JOIN pg_auth_members a ON a.member = m.oid)`

// membersSQL finds the roles that are bound to no tenant, and that a login is a member of: those that have attributes, those that fit names, and
// where the flag is set those that log in themselves. Columns: login, role.
func membersSQL(names string, canLogin bool) string {
	also := ""
	if canLogin {
		also = " OR r.rolcanlogin"
	}
	return `SELECT m.login::text AS login, r.rolname::text AS role FROM mine m JOIN pg_roles r ON r.oid = m.oid
WHERE r.rolname <> m.login AND NOT (SELECT l.rolsuper FROM pg_roles l WHERE l.rolname = m.login)
AND (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication OR r.rolname ` + names + also + `)`
}

// Login is what a login is for.
type Login struct {
	Isolation tenant.Isolation
	Mode      tenant.Mode
	// Column is the tenant column, for row isolation.
	Column string
}

// Guard returns the SQL that asks, in a session of the login's, what speaks against it: rows of one column, what the login is, is a member of, owns or
// may do by which tenants are not kept apart. No rows: nothing does. Names in it are the catalogs', whoever asks needs no privileges, and it is cheap.
func (l Login) Guard() string {
	names := mighty
	if l.Mode == tenant.Strict {
		names = append(slices.Clip(names), nosy...)
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = literal(n)
	}
	parts := []string{
		`SELECT 'is ' || x.word FROM pg_roles r, LATERAL (VALUES (r.rolsuper, 'SUPERUSER'), (r.rolbypassrls, 'BYPASSRLS'), (r.rolcreaterole, 'CREATEROLE'), (r.rolreplication, 'REPLICATION')) x (has, word)
WHERE r.rolname = session_user AND x.has`,
		`SELECT 'is a member of ' || x.role FROM (` + membersSQL("IN ("+strings.Join(quoted, ", ")+")", l.Mode != tenant.Shared) + `) x`,
	}
	if l.Mode != tenant.Shared && l.Isolation != tenant.Database {
		parts = append(parts, ownsSQL(`x.classid = 'pg_database'::regclass AND x.objid = b.oid`, `'owns the database'`),
			`SELECT 'may CREATE in the schema public' FROM pg_roles r WHERE r.rolname = session_user AND NOT r.rolsuper AND has_schema_privilege(session_user, to_regnamespace('public')::oid, 'CREATE')`)
	}
	if l.Mode != tenant.Shared && l.Isolation == tenant.Row {
		has := `FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attname = ` + literal(l.Column) + ` AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'`
		parts = append(parts,
			ownsSQL(`x.classid = 'pg_class'::regclass AND x.dbid = b.oid AND EXISTS (SELECT `+has+` AND c.oid = x.objid)`, `'owns the table ' || x.objid::regclass`),
			ownsSQL(`x.classid = 'pg_namespace'::regclass AND x.dbid = b.oid AND EXISTS (SELECT `+has+` AND c.relnamespace = x.objid)`, `'owns the schema ' || x.objid::regnamespace`))
	}
	return fmt.Sprintf(mineCTE, "= session_user") + "\n" + strings.Join(parts, "\nUNION ALL ") + "\nLIMIT 10"
}

// ownsSQL finds what one of mine owns, as text.
func ownsSQL(which, text string) string {
	return `SELECT ` + text + ` FROM mine m JOIN pg_database b ON b.datname = current_database()
JOIN pg_shdepend x ON x.refclassid = 'pg_authid'::regclass AND x.refobjid = m.oid AND x.deptype = 'o' WHERE ` + which
}

// Floor is the first version of PostgreSQL whose fixes isolation relies on, for a version as server_version has it, such as 15.4 (Debian 15.4-1);
// empty where that has them, or is not known.
func Floor(version string) string {
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n != 2 {
		return ""
	}
	if floor, known := fixed[major]; known && minor < floor {
		return fmt.Sprintf("%d.%d", major, floor)
	}
	return ""
}
