package secure

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// ident quotes the parts of a name.
func ident(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, s := range parts {
		quoted[i] = tenant.QuoteIdent(s)
	}
	return strings.Join(quoted, ".")
}

// literal quotes a value, whatever standard_conforming_strings says (PostgreSQL manual, 4.1.2.2).
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// orNull is a literal, NULL for nothing.
func orNull(s string) string {
	if s == "" {
		return "NULL"
	}
	return literal(s)
}

// list runs a query; each row becomes a T, column by column.
func list[T any](ctx context.Context, db *pgx.Conn, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// one is list for a query that has one row.
func one[T any](ctx context.Context, db *pgx.Conn, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
}

// alias matches the names that PostgreSQL gives to the columns of sub-selects.
var alias = regexp.MustCompile(` AS ("[^"]*"|\w+)`)

// same reports whether an expression as PostgreSQL prints it is ours. Parentheses, blanks and quotes of names do not count: the
// expressions that we make have a single operator.
func same(printed, ours string) bool {
	strip := func(s string) string {
		return strings.NewReplacer("(", "", ")", "", " ", "", "\n", "", `"`, "").Replace(alias.ReplaceAllString(s, ""))
	}
	return printed != "" && strip(printed) == strip(ours)
}

// source is the SQL of whose session it is, as a value of a type.
func (p *plan) source(typ string) string {
	if p.Rows == tenant.Shared {
		return p.claimed(typ)
	}
	return asType("pgkennel.tenant_key()", typ)
}

// claimed is the SQL of whose session it says to be: for defaults, which are evaluated for each row, and checked by the policy once.
func (p *plan) claimed(typ string) string {
	if p.Rows == tenant.Strict {
		return p.source(typ)
	}
	return asType(fmt.Sprintf("NULLIF(current_setting(%s::text, true), ''::text)", literal(p.Setting)), typ)
}

func asType(key, typ string) string {
	if typ == "text" || typ == "varchar" {
		return key
	}
	return "(" + key + ")::" + typ
}

// types are what a tenant column may be, as SQL names them.
var types = map[string]string{"int2": "smallint", "int4": "integer", "int8": "bigint", "uuid": "uuid", "text": "text", "varchar": "varchar"}

// keyTypes are what keys are of in columns of these types.
var keyTypes = map[string]string{"int2": "bigint", "int4": "bigint", "int8": "bigint", "uuid": "uuid", "text": "varchar", "varchar": "varchar"}

// condition is that a row is the session's tenant's. The source stands in a sub-select, so that it is evaluated once for a statement and not
// for each row.
func (p *plan) condition(t *table) string {
	column := ident(p.Column)
	if t.Type == "varchar" {
		column += "::text"
	}
	return column + " = (SELECT " + p.source(types[t.Type]) + ")"
}
