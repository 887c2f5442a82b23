package router_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// generator writes random statements over the oracle's tables. Most conditions name the tenants of one shard, so that a
// good part of the statements can be routed; the rest is there to be wrong about.
type generator struct {
	*rand.Rand
	home   []int // tenants of one shard
	names  int
	ctes   []genTable
	params testParams
	depth  int
	// open: the query at hand names no tenants, so that they have to come from around it.
	open bool
}

// genTable is something that stands in FROM.
type genTable struct {
	name string // of the table
	cols []string
}

// genRef is a table in a scope: its alias and columns.
type genRef struct {
	alias string
	cols  []string
}

var genTables = []genTable{
	{"orders", []string{"id", "tenant_id", "customer"}},
	{"items", []string{"id", "tenant_id", "order_id"}},
	{"users", []string{"id", "tenant_id", "customer"}},
	{"countries", []string{"id", "code"}},
	{"v_orders", []string{"id", "tenant_id", "customer"}},
	{"v_joined", []string{"id", "tenant_id", "order_id"}},
	{"v_counts", []string{"tenant_id", "id"}},
	{"v_last", []string{"id", "tenant_id", "order_id"}},
}

func newGenerator(seed, n uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, n))}
	g.home = [][]int{{1, 2}, {11, 12}}[g.IntN(2)]
	return g
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g *generator) name(prefix string) string {
	g.names++
	return prefix + strconv.Itoa(g.names)
}

func (g *generator) statement() string {
	switch n := g.IntN(100); {
	case n < 72:
		return g.with() + g.query(nil, 0)
	case n < 80:
		return g.with() + g.update()
	case n < 86:
		return g.with() + g.delete()
	case n < 94:
		return g.with() + g.insert()
	default:
		return g.with() + g.merge()
	}
}

// with writes CTEs in front of a statement.
func (g *generator) with() string {
	if !g.chance(25) {
		return ""
	}
	var list []string
	recursive := ""
	for range 1 + g.IntN(2) {
		name := g.name("c")
		switch n := g.IntN(10); {
		case n < 6:
			cols := 1 + g.IntN(3)
			list = append(list, name+" AS ("+g.query(nil, cols)+")")
			g.ctes = append(g.ctes, genTable{name, outputNames(cols)})
		case n < 8:
			recursive = "RECURSIVE "
			t := genTables[g.IntN(3)]
			step := g.pick("r.c1", "x.tenant_id", "x.tenant_id", "r.c0")
			on := g.pick("x.tenant_id = r.c1", "x.tenant_id = r.c1 AND x.id = r.c0", "x.id = r.c0 + 1", "x.tenant_id = "+g.tenant())
			list = append(list, fmt.Sprintf("%s (c0, c1) AS (SELECT id, tenant_id::bigint FROM %s a WHERE %s UNION %s SELECT r.c0 + 1, %s::bigint FROM %s r JOIN %s x ON %s WHERE r.c0 < 3)",
				name, t.name, g.pick(g.pin("a"), g.pin("a"), "a.id < 2"), g.pick("", "ALL"), step, name, t.name, on))
			g.ctes = append(g.ctes, genTable{name, []string{"c0", "c1"}})
		default:
			t := genTables[g.IntN(3)]
			list = append(list, fmt.Sprintf("%s AS (DELETE FROM %s WHERE %s RETURNING id AS c0, tenant_id AS c1)", name, t.name, g.pin(t.name)))
			g.ctes = append(g.ctes, genTable{name, []string{"c0", "c1"}})
		}
	}
	return "WITH " + recursive + strings.Join(list, ", ") + " "
}

func outputNames(n int) (names []string) {
	for i := range n {
		names = append(names, "c"+strconv.Itoa(i))
	}
	return names
}

// pin writes a condition that names tenants of the home shard for the alias, mostly.
func (g *generator) pin(alias string) string {
	col := alias + ".tenant_id"
	switch n := g.IntN(20); {
	case n < 12:
		return col + " = " + g.tenant()
	case n < 15:
		return fmt.Sprintf("%s IN (%d, %d)", col, g.home[0], g.home[1])
	case n < 16:
		return fmt.Sprintf("(%s = %s AND %s.id < 3 OR %s = %s)", col, g.tenant(), alias, col, g.tenant())
	case n < 17:
		return col + " = ANY (ARRAY[" + g.tenant() + ", " + g.tenant() + "])"
	case n < 18:
		return col + " IS NOT DISTINCT FROM " + g.tenant()
	default:
		return alias + ".id < 3"
	}
}

// tenant writes a tenant, as a literal of some spelling or as a parameter.
func (g *generator) tenant() string {
	t := g.home[g.IntN(2)]
	if g.chance(2) {
		t = []int{1, 2, 11, 12}[g.IntN(4)]
	}
	v := strconv.Itoa(t)
	switch n := g.IntN(12); {
	case n < 6:
		return v
	case n < 7:
		return "'" + v + "'"
	case n < 8:
		return v + "::bigint"
	case n < 9:
		return v + ".0"
	default:
		g.params = append(g.params, testParam{value: []byte(v)})
		return "$" + strconv.Itoa(len(g.params)) + "::bigint"
	}
}

// query writes a query of cols columns, c0 and so on; 0 = as many as it likes.
func (g *generator) query(outer []genRef, cols int) string {
	if cols == 0 {
		cols = 1 + g.IntN(3)
	}
	g.depth++
	defer func() { g.depth-- }()
	if g.depth < 3 && g.chance(12) {
		op := g.pick("UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL")
		q := "(" + g.query(outer, cols) + ") " + op + " (" + g.query(outer, cols) + ")"
		if g.chance(15) {
			q += g.orderLimit(cols)
		}
		return q
	}
	from, scope := g.from(outer)
	all := append(append([]genRef{}, scope...), outer...)
	where := g.where(scope, all)
	outs := make([]string, cols)
	switch n := g.IntN(100); {
	case n < 60: // plain
		for i := range outs {
			outs[i] = g.output(scope, all)
		}
		q := "SELECT " + g.pick("", "", "", "DISTINCT ") + named(outs) + from + where
		if g.chance(10) {
			q += g.orderLimit(cols)
		}
		return q
	case n < 70: // grouped
		var by []string
		for i := range outs {
			outs[i] = g.column(scope)
			by = append(by, g.pick(outs[i], outs[i], strconv.Itoa(i+1)))
		}
		if cols > 1 {
			outs[cols-1] = g.pick("count(*)", "max("+g.column(scope)+")", "min("+g.column(scope)+")")
			by = by[:cols-1]
		}
		q := "SELECT " + named(outs) + from + where + " GROUP BY " + strings.Join(by, ", ")
		if cols == 1 {
			q = "SELECT " + named(outs) + from + where + g.pick(" GROUP BY "+by[0], "")
		} else if g.chance(8) {
			q = "SELECT " + named(outs) + from + where + " GROUP BY ROLLUP (" + strings.Join(by, ", ") + ")"
		}
		if g.chance(20) {
			q += g.pick(" HAVING count(*) > 1", "")
		}
		return q
	case n < 80: // an aggregate
		for i := range outs {
			outs[i] = g.pick("count(*)", "max("+g.column(scope)+")", "min("+g.column(scope)+")", "sum("+g.column(scope)+")", "count(DISTINCT "+g.column(scope)+")")
		}
		return "SELECT " + named(outs) + from + where
	case n < 87: // a window
		for i := range outs {
			outs[i] = g.column(scope)
		}
		outs[0] = g.pick("count(*) OVER ()", "max("+g.column(scope)+") OVER (PARTITION BY "+g.column(scope)+")")
		return "SELECT " + named(outs) + from + where
	case n < 93: // DISTINCT ON
		for i := range outs {
			outs[i] = g.column(scope)
		}
		on := g.pick(scope[0].alias+"."+scope[0].cols[0], g.column(scope))
		return "SELECT DISTINCT ON (" + on + ") " + named(outs) + from + where + " ORDER BY " + on + ", " + strings.Join(outs, ", ")
	default: // everything, as far as it has that many columns
		if len(scope) == 1 && len(scope[0].cols) >= cols {
			rest := make([]string, len(scope[0].cols))
			for i := range rest {
				rest[i] = "d" + strconv.Itoa(i)
				if i < cols {
					rest[i] = "c" + strconv.Itoa(i)
				}
			}
			if len(rest) == cols {
				return "SELECT *" + strings.Replace(from, " "+scope[0].alias, " "+scope[0].alias, 1) + where
			}
		}
		for i := range outs {
			outs[i] = g.output(scope, all)
		}
		return "SELECT " + named(outs) + from + where
	}
}

func named(outs []string) string {
	list := make([]string, len(outs))
	for i := range outs {
		list[i] = outs[i] + " AS c" + strconv.Itoa(i)
	}
	return strings.Join(list, ", ")
}

// orderLimit orders by all columns, so that LIMIT is not a matter of chance.
func (g *generator) orderLimit(cols int) string {
	var by []string
	for i := range cols {
		by = append(by, strconv.Itoa(i+1))
	}
	return " ORDER BY " + strings.Join(by, ", ") + g.pick(" LIMIT 3", " LIMIT 1", " OFFSET 1", "")
}

func (g *generator) output(scope, all []genRef) string {
	switch n := g.IntN(20); {
	case n < 15:
		return g.column(scope)
	case n < 16:
		return g.column(scope) + "::bigint"
	case n < 17:
		return strconv.Itoa(g.home[0])
	case n < 19 && g.depth < 3:
		return "(SELECT max(c0) FROM (" + g.query(all, 1) + ") s)"
	default:
		return g.column(scope) + " + 1"
	}
}

// column writes a column of a table, the tenant's more often than others.
func (g *generator) column(scope []genRef) string {
	r := scope[g.IntN(len(scope))]
	for _, c := range r.cols {
		if (c == "tenant_id" || c == "c1") && g.chance(45) {
			return r.alias + "." + c
		}
	}
	return r.alias + "." + r.cols[g.IntN(len(r.cols))]
}

// from writes a FROM clause.
func (g *generator) from(outer []genRef) (string, []genRef) {
	var items []string
	var scope []genRef
	n := 1
	if g.chance(25) && g.depth < 3 {
		n = 2
	}
	for range n {
		item, refs := g.item(append(append([]genRef{}, scope...), outer...), len(scope) > 0)
		items = append(items, item)
		scope = append(scope, refs...)
	}
	return " FROM " + strings.Join(items, ", "), scope
}

func (g *generator) item(outer []genRef, mayLateral bool) (string, []genRef) {
	if g.depth >= 3 || !g.chance(35) {
		return g.table(outer, mayLateral)
	}
	left, scope := g.item(outer, mayLateral)
	right, more := g.table(append(append([]genRef{}, scope...), outer...), true)
	kind := g.pick("JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")
	if strings.HasPrefix(right, "LATERAL") && kind != "JOIN" {
		kind = "LEFT JOIN"
	}
	both := append(append([]genRef{}, scope...), more...)
	on := g.equal(scope, more)
	switch {
	case g.chance(12) && kind != "FULL JOIN":
		on = g.cond(both, both, 1)
	case g.chance(25):
		on += " AND " + g.pick(g.pin(more[0].alias+""), g.equal(scope, more))
		if !slices.Contains(more[0].cols, "tenant_id") || !slices.Contains(more[0].cols, "id") {
			on = g.equal(scope, more)
		}
	}
	if kind == "FULL JOIN" {
		on = g.equal(scope, more) // others can't be run
	}
	if g.chance(12) && slices.Contains(more[0].cols, "tenant_id") && len(scope) == 1 && slices.Contains(scope[0].cols, "tenant_id") {
		return fmt.Sprintf("%s %s %s USING (tenant_id)", left, kind, right), both
	}
	return fmt.Sprintf("%s %s %s ON %s", left, kind, right, on), both
}

// equal writes an equality between two scopes, by tenant where it can.
func (g *generator) equal(a, b []genRef) string {
	x, y := a[g.IntN(len(a))], b[g.IntN(len(b))]
	key := func(r genRef) string {
		for _, c := range r.cols {
			if c == "tenant_id" || c == "c1" && g.chance(70) {
				return r.alias + "." + c
			}
		}
		return r.alias + "." + r.cols[g.IntN(len(r.cols))]
	}
	if g.chance(80) {
		return key(x) + " = " + key(y)
	}
	return g.column(a) + " = " + g.column(b)
}

// table writes one item: a table, CTE, sub-select or VALUES.
func (g *generator) table(outer []genRef, mayLateral bool) (string, []genRef) {
	alias := g.name("t")
	switch n := g.IntN(100); {
	case n < 25 && g.depth < 3:
		cols := 1 + g.IntN(3)
		lateral, sees := "", []genRef(nil)
		if mayLateral && g.chance(40) {
			lateral, sees = "LATERAL ", outer
		}
		names := outputNames(cols)
		open := g.open
		g.open = g.chance(45)
		sub := g.query(sees, cols)
		g.open = open
		list := ""
		if g.chance(30) {
			for i := range names {
				names[i] = g.pick("id", "tenant_id", "x", "y") + strconv.Itoa(i)
				if cols == 1 {
					names[i] = "tenant_id"
				}
			}
			list = " (" + strings.Join(names, ", ") + ")"
		}
		if list == "" {
			list = " (" + strings.Join(names, ", ") + ")" // of a set operation, or *
		}
		return lateral + "(" + sub + ") " + alias + list, []genRef{{alias, names}}
	case n < 30:
		return fmt.Sprintf("(VALUES (%d, %d), (2, %d)) %s (c0, c1)", g.IntN(3), g.home[0], g.home[1], alias), []genRef{{alias, []string{"c0", "c1"}}}
	case n < 50 && len(g.ctes) > 0:
		t := g.ctes[g.IntN(len(g.ctes))]
		return t.name + " " + alias, []genRef{{alias, t.cols}}
	}
	t := genTables[g.IntN(4)]
	if g.chance(15) {
		t = genTables[g.IntN(len(genTables))]
	}
	return t.name + " " + alias, []genRef{{alias, t.cols}}
}

// where pins most tables of the scope, and adds what it likes.
func (g *generator) where(scope, all []genRef) string {
	var parts []string
	for i, r := range scope {
		if !slices.Contains(r.cols, "tenant_id") {
			continue
		}
		switch {
		case i > 0 && g.chance(40):
			parts = append(parts, g.equal([]genRef{r}, scope[:i]))
		case g.chance(70) && slices.Contains(r.cols, "id"):
			parts = append(parts, g.pin(r.alias))
		case g.chance(50):
			parts = append(parts, r.alias+".tenant_id = "+g.tenant())
		}
	}
	if len(all) > len(scope) && g.chance(60) {
		parts = append(parts, g.equal(scope, all[len(scope):]))
	}
	for g.chance(35) {
		parts = append(parts, g.cond(scope, all, 0))
	}
	if len(parts) == 0 {
		return ""
	}
	g.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return " WHERE " + strings.Join(parts, " AND ")
}

// cond writes any condition.
func (g *generator) cond(scope, all []genRef, depth int) string {
	if depth < 2 && g.chance(35) {
		switch g.IntN(4) {
		case 0:
			return "NOT (" + g.cond(scope, all, depth+1) + ")"
		case 1:
			return "(" + g.cond(scope, all, depth+1) + " AND " + g.cond(scope, all, depth+1) + ")"
		default:
			return "(" + g.cond(scope, all, depth+1) + " OR " + g.cond(scope, all, depth+1) + ")"
		}
	}
	col := g.column(scope)
	switch g.IntN(14) {
	case 0, 1, 2:
		return col + " = " + g.tenant()
	case 3:
		return col + " = " + g.column(all)
	case 4:
		return col + " IS " + g.pick("", "NOT ") + "NULL"
	case 5:
		return col + g.pick(" <> ", " < ", " >= ") + strconv.Itoa(g.IntN(13))
	case 6:
		return fmt.Sprintf("%s %sIN (%s, %d)", col, g.pick("", "", "NOT "), g.tenant(), g.IntN(3))
	case 7:
		return col + " IS " + g.pick("", "NOT ") + "DISTINCT FROM " + g.tenant()
	case 8:
		return "(" + col + ", " + g.column(scope) + ") IN ((" + g.tenant() + ", 1), (" + g.tenant() + ", 2))"
	case 9:
		return g.pick("true", "false", "1 = 0")
	}
	if g.depth >= 3 {
		return col + " = " + g.tenant()
	}
	switch g.IntN(4) {
	case 0:
		return col + " " + g.pick("", "", "NOT ") + "IN (" + g.query(all, 1) + ")"
	case 1:
		return col + " = (SELECT max(c0) FROM (" + g.query(all, 1) + ") s)"
	default:
		return g.pick("", "", "NOT ") + "EXISTS (" + g.query(all, 1) + ")"
	}
}

func (g *generator) target() (genTable, genRef) {
	t := genTables[g.IntN(3)]
	if g.chance(15) {
		t = genTables[4]
	}
	return t, genRef{g.name("t"), t.cols}
}

func (g *generator) update() string {
	t, ref := g.target()
	scope := []genRef{ref}
	from := ""
	if g.chance(35) {
		item, refs := g.item(nil, false)
		from = " FROM " + item
		scope = append(scope, refs...)
	}
	set := g.pick(t.cols[2]+" = "+strconv.Itoa(g.IntN(13)), t.cols[2]+" = "+t.cols[2]+" + 1", t.cols[2]+" = (SELECT max(c0) FROM ("+g.query([]genRef{ref}, 1)+") s)",
		"tenant_id = "+g.tenant()+", id = "+ref.alias+".id + 100 * "+ref.alias+".tenant_id")
	where := g.where(scope, scope)
	q := "UPDATE " + t.name + " " + ref.alias + " SET " + set + from + where
	if g.chance(30) && where != "" {
		q += " AND " + ref.alias + "." + t.cols[2] + " = " + g.tenant()
	}
	if g.chance(40) {
		q += " RETURNING " + g.column(scope[:1]) + ", " + g.pick(
			"(SELECT count(*) FROM ("+g.query(scope[:1], 1)+") s)",
			"(SELECT count(*) FROM items x WHERE x.tenant_id = "+ref.alias+"."+t.cols[2]+")")
	}
	return q
}

func (g *generator) delete() string {
	t, ref := g.target()
	scope := []genRef{ref}
	using := ""
	if g.chance(35) {
		item, refs := g.item(nil, false)
		using = " USING " + item
		scope = append(scope, refs...)
	}
	q := "DELETE FROM " + t.name + " " + ref.alias + using + g.where(scope, scope)
	if g.chance(30) {
		q += " RETURNING " + g.column(scope[:1]) + ", (SELECT count(*) FROM (" + g.query(scope[:1], 1) + ") s)"
	}
	return q
}

func (g *generator) insert() string {
	t, ref := g.target()
	q := "INSERT INTO " + t.name + " AS " + ref.alias + " (tenant_id, id, " + t.cols[2] + ") "
	switch g.IntN(3) {
	case 0:
		var rows []string
		for i := range 1 + g.IntN(3) {
			rows = append(rows, fmt.Sprintf("(%s, %d, %d)", g.tenant(), g.IntN(3)*100+i, g.IntN(3)))
		}
		q += "VALUES " + strings.Join(rows, ", ")
	case 1:
		q += fmt.Sprintf("SELECT %s::bigint, c0 + 100 * row_number() OVER (ORDER BY c0, c1), c1 FROM (%s) s", g.tenant(), g.query(nil, 2))
	default:
		q += fmt.Sprintf("SELECT DISTINCT ON (c0) c0, 7, c1 FROM (%s) s WHERE c0 IS NOT NULL ORDER BY c0, c1", g.query(nil, 2))
	}
	if t.name != "v_orders" && g.chance(40) {
		q += g.pick(" ON CONFLICT DO NOTHING", " ON CONFLICT (tenant_id, id) DO UPDATE SET "+t.cols[2]+" = EXCLUDED."+t.cols[2],
			" ON CONFLICT (tenant_id, id) DO UPDATE SET "+t.cols[2]+" = (SELECT count(*) FROM items x WHERE x.tenant_id = EXCLUDED.tenant_id)",
			" ON CONFLICT (tenant_id, id) DO UPDATE SET tenant_id = "+g.tenant()+", id = EXCLUDED.id + 1000")
	}
	if g.chance(40) {
		q += " RETURNING " + g.column([]genRef{ref}) + ", (SELECT count(*) FROM (" + g.query([]genRef{ref}, 1) + ") s)"
	}
	return q
}

func (g *generator) merge() string {
	t := genTables[g.IntN(3)]
	ref := genRef{g.name("t"), t.cols}
	source, refs := g.table(nil, false)
	all := append([]genRef{ref}, refs...)
	on := g.equal([]genRef{ref}, refs) + " AND " + ref.alias + ".id = " + g.column(refs)
	if g.chance(50) {
		on += " AND " + g.pin(ref.alias)
	}
	if g.chance(30) && slices.Contains(refs[0].cols, "tenant_id") {
		on += " AND " + refs[0].alias + ".tenant_id = " + g.tenant()
	}
	q := "MERGE INTO " + t.name + " " + ref.alias + " USING " + source + " ON " + on
	and := func(scope []genRef) string {
		if g.chance(40) {
			return " AND " + g.cond(scope, scope, 1)
		}
		return ""
	}
	if g.chance(60) {
		q += " WHEN MATCHED" + and(all) + " THEN " + g.pick("DELETE", "UPDATE SET "+t.cols[2]+" = 5", "DO NOTHING")
	}
	if g.chance(60) || !strings.Contains(q, "WHEN") {
		key := g.pick(g.tenant(), g.column(refs))
		q += " WHEN NOT MATCHED" + and(refs) + " THEN " + g.pick("DO NOTHING", "INSERT (tenant_id, id, "+t.cols[2]+") VALUES ("+key+", "+g.column(refs)+" + 500, 1)",
			"INSERT (tenant_id, id) VALUES ("+key+", "+g.column(refs)+" + 500)")
	}
	return q
}
