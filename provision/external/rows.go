package external

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// table is a table in which tenants have rows.
type table struct {
	OID           uint32
	Name          string // quoted, with its schema
	Kind          string // r, p or f
	Partition     bool
	Type          string // of the tenant column, as SQL has it
	Deterministic bool
}

// reference is a foreign key. Own: rows refer to rows of their own tenant, for the column is part of it.
type reference struct {
	From, To        uint32
	FromName, Match string // Match joins f, who refers, and t
	Own, Shared     bool   // Shared: both are tables in which tenants have rows
	Schema          string // of a tenant, whose own the referring table is
}

// tables are those that tenants share in a database, and the foreign keys that refer to them.
func (x *External) tables(ctx context.Context, db *pgx.Conn, c Cluster) ([]table, []reference, error) {
	home, err := one[struct{ OK bool }](ctx, db, "SELECT to_regclass('pgkennel.tenants') IS NOT NULL")
	if err != nil {
		return nil, nil, err
	}
	own := append([]string{"pgkennel", "information_schema"}, c.Schemas...)
	if home.OK {
		schemas, err := texts(ctx, db, "SELECT DISTINCT schema::text FROM pgkennel.tenants WHERE schema IS NOT NULL")
		if err != nil {
			return nil, nil, err
		}
		own = append(own, schemas...)
	}
	tables, err := list[table](ctx, db, `SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relispartition, format_type(a.atttypid, NULL),
coalesce(l.collisdeterministic, true)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attname = $1 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> ALL($2::text[]) ORDER BY 2`, c.Column, own)
	if err != nil {
		return nil, nil, err
	}
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = t.OID
	}
	references, err := list[reference](ctx, db, `SELECT o.conrelid, o.confrelid, format('%I.%I', n.nspname, f.relname),
(SELECT string_agg(format('f.%I = t.%I', a.attname, b.attname), ' AND ' ORDER BY k.i) FROM unnest(o.conkey, o.confkey) WITH ORDINALITY k(here, there, i)
  JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.here JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.there),
EXISTS (SELECT FROM unnest(o.conkey, o.confkey) k(here, there) JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.here
  JOIN pg_attribute b ON b.attrelid = o.confrelid AND b.attnum = k.there WHERE a.attname = $2 AND b.attname = $2),
o.conrelid = ANY($1::oid[]), CASE WHEN n.nspname = ANY($3::text[]) THEN n.nspname::text ELSE '' END
FROM pg_constraint o JOIN pg_class f ON f.oid = o.conrelid JOIN pg_namespace n ON n.oid = f.relnamespace
WHERE o.contype = 'f' AND o.confrelid = ANY($1::oid[]) ORDER BY 1, 2, o.oid`, oids, c.Column, own)
	return tables, references, err
}

// groups orders tables so that who refers comes before what it refers to. Those that refer to each other, or to themselves, are one group.
func groups(tables []table, references []reference) [][]table {
	at := make(map[uint32]int, len(tables))
	for i, t := range tables {
		at[t.OID] = i
	}
	to := make([][]int, len(tables))
	for _, r := range references {
		if f, ok := at[r.From]; ok {
			to[f] = append(to[f], at[r.To])
		}
	}
	// Tarjan: a component is complete when all that it refers to is, so that the last one refers to nothing that was not before it.
	var (
		out    [][]table
		stack  []int
		number = make([]int, len(tables))
		low    = make([]int, len(tables))
		on     = make([]bool, len(tables))
		next   int
		visit  func(int)
	)
	visit = func(v int) {
		next++
		number[v], low[v], on[v] = next, next, true
		stack = append(stack, v)
		for _, w := range to[v] {
			if number[w] == 0 {
				visit(w)
				low[v] = min(low[v], low[w])
			} else if on[w] {
				low[v] = min(low[v], number[w])
			}
		}
		if low[v] != number[v] {
			return
		}
		var group []table
		for {
			w := stack[len(stack)-1]
			stack, on[w] = stack[:len(stack)-1], false
			group = append(group, tables[w])
			if w == v {
				break
			}
		}
		out = append(out, group)
	}
	for v := range tables {
		if number[v] == 0 {
			visit(v)
		}
	}
	slices.Reverse(out)
	return out
}

// of is the condition that a row of a table is a tenant's, under an alias; empty: the column can't have such a key.
func (t *table) of(c Cluster, key, alias string) string {
	column := quote(c.Column)
	if alias != "" {
		column = alias + "." + column
	}
	literal := "'" + strings.ReplaceAll(key, "'", "''") + "'"
	if strings.Contains(key, `\`) {
		literal = "E" + strings.ReplaceAll(literal, `\`, `\\`)
	}
	switch t.Type {
	case "smallint", "integer", "bigint":
		bits := map[string]int{"smallint": 16, "integer": 32, "bigint": 64}[t.Type]
		if _, err := strconv.ParseInt(key, 10, bits); err != nil {
			return ""
		}
	case "uuid":
	case "text", "character varying":
		if !t.Deterministic {
			column += ` COLLATE "C"`
		}
	default:
		return ""
	}
	return column + " = " + literal + "::" + t.Type
}

// emptyRows deletes a tenant's rows from all tables that tenants share. Others' are left alone: if one refers to any of them, nothing is deleted.
func (x *External) emptyRows(ctx context.Context, r *tenant.Record, c Cluster, s Shard) error {
	db, err := x.dial(ctx, s, "") // names in triggers mean what they mean in the database; only owners can make some in schemas of all
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	tables, references, err := x.tables(ctx, db, c)
	if err != nil {
		return failed(ctx, err)
	}
	if r.Key == "" || c.Column == "" {
		return provision.Errorf(provision.KindInvalid, "tenant %q has no key by which its rows are known", r.Name)
	}
	if err := entangled(ctx, db, r, c, tables, references); err != nil {
		return failed(ctx, err)
	}
	const tries = 3
	for try := 1; ; try++ {
		for _, g := range groups(tables, references) {
			if err := x.emptyGroup(ctx, db, r, c, g, references); err != nil {
				return failed(ctx, err)
			}
		}
		left, err := remains(ctx, db, r, c, tables)
		if err != nil {
			return failed(ctx, err)
		}
		if len(left) == 0 {
			return nil
		}
		if try == tries {
			return provision.Errorf(provision.KindBusy, "rows of tenant %q appear as fast as they are deleted", r.Name).WithDetail("%s", strings.Join(left, "\n")).
				WithHint("Somebody still writes for it: pgkennel tenant disable-access --now.")
		}
	}
}

// entangled refuses where rows of others refer to the tenant's: they would be changed, or deleted, with them.
func entangled(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, tables []table, references []reference) error {
	by := make(map[uint32]*table, len(tables))
	for i := range tables {
		by[tables[i].OID] = &tables[i]
	}
	var bad []string
	for _, f := range references {
		to, from := by[f.To], by[f.From]
		if f.Own || !f.Shared && f.Schema == "" || to.Kind == "p" {
			continue
		}
		where := to.of(c, r.Key, "t")
		if where == "" {
			continue
		}
		if from != nil {
			where += " AND f." + quote(c.Column) + "::text IS DISTINCT FROM '" + strings.ReplaceAll(r.Key, "'", "''") + "'"
		}
		n, err := one[struct{ N int64 }](ctx, db, "SELECT count(*) FROM "+f.FromName+" f JOIN "+to.Name+" t ON "+f.Match+" WHERE "+where)
		if err != nil {
			return err
		}
		if n.N > 0 {
			bad = append(bad, fmt.Sprintf("%d of %s, to %s", n.N, f.FromName, to.Name))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return provision.Errorf(provision.KindRefused, "rows of others refer to rows of tenant %q", r.Name).WithDetail("%s", strings.Join(bad, "\n")).
		WithHint("The foreign keys lack the column %s: pgkennel doctor names them. Mend these rows first.", c.Column)
}

// emptyGroup deletes a tenant's rows from tables of one group. Where they refer to each other it is one statement, at whose end PostgreSQL looks at foreign keys;
// else so many rows a transaction.
func (x *External) emptyGroup(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, g []table, references []reference) error {
	round := len(g) > 1 || slices.ContainsFunc(references, func(f reference) bool { return f.From == g[0].OID && f.To == g[0].OID })
	var parts []string
	for _, t := range g {
		where := t.of(c, r.Key, "")
		if t.Kind == "p" || where == "" {
			continue
		}
		if !round && t.Kind == "r" {
			sql := fmt.Sprintf("DELETE FROM ONLY %s WHERE ctid = ANY(ARRAY(SELECT ctid FROM ONLY %s WHERE %s LIMIT %d))", t.Name, t.Name, where, cmp.Or(x.o.Batch, 5000))
			for {
				tag, err := db.Exec(ctx, sql)
				if err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
				if tag.RowsAffected() == 0 {
					break
				}
			}
			continue
		}
		parts = append(parts, fmt.Sprintf("d%d AS (DELETE FROM ONLY %s WHERE %s)", len(parts), t.Name, where))
	}
	if len(parts) == 0 {
		return nil
	}
	_, err := db.Exec(ctx, "WITH "+strings.Join(parts, ", ")+" SELECT")
	return err
}

// remains lists the tables in which a tenant has rows.
func remains(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, tables []table) ([]string, error) {
	var left []string
	for _, t := range tables {
		where := t.of(c, r.Key, "")
		if where == "" {
			continue
		}
		is, err := one[struct{ OK bool }](ctx, db, "SELECT EXISTS (SELECT FROM "+t.Name+" WHERE "+where+")")
		if err != nil {
			return nil, err
		}
		if is.OK {
			left = append(left, t.Name)
		}
	}
	return left, nil
}
