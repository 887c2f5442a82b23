package router

import (
	"strconv"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// The stable names of refusals, in the routine field of the error.
const (
	// RefusalTenantMissing: a statement on sharded tables does not name its tenant. 42501.
	RefusalTenantMissing = "tenant_missing"
	// RefusalTenantMismatch: a tenant's session names another tenant. 42501.
	RefusalTenantMismatch = "tenant_mismatch"
	// RefusalTenantUnknown: no mapping covers the value. 42704.
	RefusalTenantUnknown = "tenant_unknown"
	// RefusalTenantNull: the key is NULL. 22004.
	RefusalTenantNull = "tenant_null"
	// RefusalCrossShard: keys of different shards. 0A000.
	RefusalCrossShard = "cross_shard"
	// RefusalShardMissing: the statement belongs to no tenant, so a shard has to be addressed. 0A000.
	RefusalShardMissing = "shard_missing"
	// RefusalUnparsable: not SQL that PostgreSQL 16 understands. 42601, or what PostgreSQL says.
	RefusalUnparsable = "unparsable"
	// RefusalNewer: SQL of a PostgreSQL newer than the parser. 0A000.
	RefusalNewer = "newer_sql"
	// RefusalHint: a hint that is not valid. 22023.
	RefusalHint = "hint_invalid"
	// RefusalComplex: too big to be analysed. 54001.
	RefusalComplex = "too_complex"
	// RefusalEncoding: names or values beyond ASCII in another encoding than UTF8. 0A000.
	RefusalEncoding = "encoding"
)

// ErrNeedsParams is returned by Plan for a route that needs parameters and was given none; PostgreSQL says the same of
// a $1 in a simple query.
var ErrNeedsParams = pgwire.Errorf(pgwire.CodeUndefinedParameter, "there is no parameter $1")

const hintShard = "Address a shard by a comment, /* pgdog_shard: 0 */, or by SET pgdog.shard."

// HintKey is the hint of RefusalTenantMissing where the statement could have named its tenant.
const HintKey = "Compare the column by =, IN, or = ANY with constants or parameters, or address a shard by a comment, /* pgdog_shard: 0 */."

func tenantMissing(table, column, detail string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "no tenant for table %q", table).WithRoutine(RefusalTenantMissing).WithHint(HintKey)
	if detail == "" {
		detail = "The statement does not say by " + quote(column) + " whose rows of " + quote(table) + " it means."
	}
	e.Table, e.Column = table, column
	return e.WithDetail("%s", detail)
}

// tenantMismatch does not say which: what others are called is not for a tenant to know.
func tenantMismatch(table, column string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "the statement names another tenant").WithRoutine(RefusalTenantMismatch).
		WithDetail("The session belongs to a tenant, and the statement means rows with another value of %q.", column).
		WithHint("Leave the tenant out, or name the session's own.")
	e.Table, e.Column = table, column
	return e
}

func quote(name string) string { return strconv.Quote(name) }

func shardMissing(what string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "%s needs a shard", what).WithRoutine(RefusalShardMissing).
		WithDetail("The cluster has several shards, and nothing in the statement says for which of them it is.").WithHint(hintShard)
}

func tenantNull(table, column string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeNullValueNotAllowed, "tenant of table %q is NULL", table).WithRoutine(RefusalTenantNull).
		WithDetail("Column %q decides where a row lives; NULL lives nowhere.", column).
		WithHint("Give %q a value.", column)
	e.Table, e.Column = table, column
	return e
}

func tenantUnknown(table, column, value string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeUndefinedObject, "unknown tenant for table %q", table).WithRoutine(RefusalTenantUnknown).
		WithDetail("No mapping covers %s = %s.", column, clip(value)).
		WithHint("Check the value, or add it to the mapping of the sharded table.")
	e.Table, e.Column = table, column
	return e
}

// clip shortens a value for an error's detail.
func clip(value string) string {
	const limit = 64
	for i := range value {
		if i > limit {
			return value[:i] + "..."
		}
	}
	return value
}

func crossShard(table, column string) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeFeatureNotSupported, "statement spans shards").WithRoutine(RefusalCrossShard).
		WithDetail("The values of %q in %q live on another shard than the rest of the statement.", column, table).
		WithHint("Send one statement for each tenant.")
	e.Table, e.Column = table, column
	return e
}

func crossStatement() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "statements for different shards in one message").WithRoutine(RefusalCrossShard).
		WithDetail("Statements of one message are one transaction, which runs on one shard.").WithHint("Send them one by one.")
}

func hintContradicts() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "hint and sharding key name different shards").WithRoutine(RefusalCrossShard).
		WithDetail("The value of the sharding key in the statement lives on another shard than the one that was addressed.").
		WithHint("Leave the hint out, or address the shard where the key lives.")
}

func hintInvalid(message, detail string, args ...any) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInvalidParameterValue, "%s", message).WithRoutine(RefusalHint).WithDetail(detail, args...).WithHint(hintShard)
}

func unreadableKey(table, column, why string) *pgwire.Error {
	return tenantMissing(table, column, "The value compared with "+quote(column)+" can't be read as a sharding key: "+why+".").
		WithHint("Send the value as the column's own type, and declare that of a parameter in binary format.")
}

func unparsable(m *parser.Message) *pgwire.Error {
	e := m.Unparsable
	if m.Newer {
		return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "SQL that is newer than PostgreSQL 16 needs a shard").WithRoutine(RefusalNewer).
			WithDetail("The parser knows PostgreSQL 16's grammar, which says: %s", e.Message).WithHint(hintShard).WithPosition(e.Position)
	}
	return pgwire.Errorf(e.Code, "%s", e.Message).WithPosition(e.Position).WithRoutine(RefusalUnparsable)
}

func tooComplex() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeStatementTooComplex, "statement is too complex to be routed").WithRoutine(RefusalComplex).
		WithDetail("The search for the sharding key was given up.").WithHint(hintShard)
}

func needsUTF8(what string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "%s beyond ASCII needs client_encoding UTF8", what).WithRoutine(RefusalEncoding).
		WithDetail("In another encoding it can't be told which value or table the server will see.").WithHint("SET client_encoding TO UTF8.")
}
