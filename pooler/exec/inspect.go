package exec

import (
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// Inspectable is what Inspect can find.
const Inspectable = backend.TaintTemp | backend.TaintAdvisoryLock | backend.TaintHoldCursor | backend.TaintSQLPrepare

// inspections say how each is found. Every name is one of pg_catalog, operators too: search_path is the client's.
var inspections = [...]struct {
	taint backend.Taint
	sql   string
}{
	// Whatever is in the session's own schema depends on that, by which PostgreSQL itself finds it when the session ends. 2615 is pg_namespace.
	{backend.TaintTemp, "SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) '2615' AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"},
	{backend.TaintAdvisoryLock, "SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"},
	{backend.TaintHoldCursor, "SELECT FROM pg_catalog.pg_cursors WHERE is_holdable"},
	{backend.TaintSQLPrepare, "SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql AND name OPERATOR(pg_catalog.!~) '^" + state.NamePrefix + "'"},
}

// Inspect appends a question, outside of a transaction, for what of the given taints is on the connection. It has no columns, and as many rows as the taints
// found make a number: the tag of its answer says it all (see Inspected). In front of it comes one for the values that the settings of the given names
// have, if there are any: the owner is relayed its row.
func Inspect(dst []byte, c *backend.Conn, what backend.Taint, settings []string) []byte {
	var sql []byte
	for i, name := range settings {
		if sql = append(sql, ','); i == 0 {
			sql = append(sql[:0], "SELECT "...)
		}
		sql = append(state.AppendLiteral(append(sql, "pg_catalog.current_setting("...), name), ",true)"...)
	}
	if len(settings) > 0 {
		sql = append(sql, ';') // its tag, SELECT 1, is none that Inspected takes for an answer
	}
	sql = append(sql, "SELECT FROM pg_catalog.generate_series(1, 0"...)
	for i := range inspections {
		if in := &inspections[i]; what&in.taint != 0 {
			sql = append(sql, " OPERATOR(pg_catalog.+) CASE WHEN EXISTS ("...)
			sql = append(append(sql, in.sql...), ") THEN "...)
			sql = append(strconv.AppendUint(sql, uint64(in.taint), 10), " ELSE 0 END"...)
		}
	}
	start := len(dst)
	dst = append(dst, pgwire.MsgQuery, 0, 0, 0, 0)
	dst = finish(append(append(dst, sql...), ")\x00"...), start)
	c.Unnamed = nil // a simple Query drops it
	c.Ask(backend.Step{Kind: backend.StepQuery, Internal: true, Tells: len(settings) > 0, Ref: RefInspect})
	return dst
}

// Inspected reads the tag of an answer to Inspect.
func Inspected(tag []byte) (found backend.Taint, ok bool) {
	const tagged = "SELECT "
	if len(tag) <= len(tagged) || string(tag[:len(tagged)]) != tagged {
		return 0, false
	}
	n, err := strconv.ParseUint(string(tag[len(tagged):]), 10, 32)
	found = backend.Taint(n)
	return found, err == nil && found&^Inspectable == 0
}
