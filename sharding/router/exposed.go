package router

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// exposing are the system's relations that show values of all tenants' rows, or what other clients of the same login run.
var exposing = map[string]bool{
	"pg_statistic": true, "pg_stats": true,
	"pg_statistic_ext_data": true, "pg_stats_ext": true, "pg_stats_ext_exprs": true,
	"pg_largeobject":         true,
	"pg_stat_activity":       true,
	"pg_prepared_statements": true,
	"pg_cursors":             true,
	statStatements:           true,
}

// statStatements is an extension's view and function, in any schema.
const statStatements = "pg_stat_statements"

// saying are those of them that show what clients say, whatever PostgreSQL's privileges: the connection's statements, which others may have prepared. So
// do the functions behind them.
var saying = map[string]bool{"pg_prepared_statements": true, "pg_cursors": true, "pg_prepared_statement": true, "pg_cursor": true}

// exposes reports that a relation is one that no tenant may read. The schema is empty where it is not known, and the name one of the system's.
func (c *compiler) exposes(schema, name string) bool {
	if c.r.tenant == "" {
		return c.r.private != nil && saying[name] && (schema == "" || schema == "pg_catalog")
	}
	return exposing[name] && (schema == "" || schema == "pg_catalog" || name == statStatements) ||
		schema == "pg_toast" || schema == "" && strings.HasPrefix(name, "pg_toast_")
}

// exposingCall reports that a function gives what no tenant may read, or changes it.
func (c *compiler) exposingCall(f parser.Function) bool {
	switch {
	case c.r.tenant != "" && f.Name == statStatements:
		return true
	case f.Schema != "" && f.Schema != "pg_catalog":
		return false
	case c.r.tenant == "":
		return c.r.private != nil && saying[f.Name]
	}
	switch f.Name {
	case "loread", "lowrite", "pg_cancel_backend", "pg_terminate_backend", "pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_prepared_statement", "pg_cursor",
		"pg_read_file", "pg_read_binary_file":
		return true
	}
	return (strings.HasPrefix(f.Name, "lo_") || strings.HasPrefix(f.Name, "pg_logical_slot_")) && parser.IsBuiltin(f)
}

// exposed refuses a statement for what it reads of the system.
func (c *compiler) exposed(what, name string) {
	e := exposure(what, name)
	if saying[name] {
		first(&c.st.said, e)
	}
	if c.r.tenant != "" {
		c.st.needsLogin(e)
	}
}

// viewed refuses to make a view of what the system shows where nobody looks through that: through one that is not temporary, when its query is known.
func (c *compiler) viewed(name string, temporary bool) {
	switch {
	case temporary:
		c.exposed("system table", name)
	case saying[name]:
		first(&c.st.said, exposure("system table", name))
	}
}

func exposure(what, name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "no tenant for %s %q", what, name).WithRoutine(RefusalTenantMissing).
		WithDetail("It shows what belongs to all tenants, and nothing in it says to which: values of their rows, or other clients' statements.").
		WithHint("Connect to the server itself to read it.")
}
