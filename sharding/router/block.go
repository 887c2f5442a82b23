package router

import (
	"slices"
	"strconv"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// block is one query block of the statement. A CTE has one for each reference.
type block struct {
	q     *parser.Query
	scope *scope
	ctes  *cteEnv
	items []*node
	// target is the leaf that the block changes, also the first of items, but for INSERT.
	target *leaf
	where  conj
	// facts hold for every row that WHERE lets through: where's, and those of the joins that can't make up rows.
	facts []fact

	outs []output
	// complete: outs are all columns, in their order.
	complete bool
	// open are columns that * gives by name, where not all of them are known.
	open []output
	// grouped are the plain columns of GROUP BY.
	grouped []colID

	left, right *block // SetBlock
	rec         *recursion
	// Of an INSERT: what gives its rows, the columns these go to (nil = not known), and EXCLUDED.
	source   *block
	columns  []string
	excluded *leaf

	subs []*subBlock
	// apart are CTEs that run for themselves: data-modifying ones, and those that nobody reads.
	apart []*block

	// own is the context of the block's own facts alone.
	own     *context
	exports map[exportID]*export
}

// subBlock is a sub-select in an expression.
type subBlock struct {
	block *block
	// leaf stands for its rows in facts such as x IN (SELECT ...).
	leaf *leaf
	// pushable: rows that other conditions exclude can't make a difference; not for scalar sub-selects, which fail if they give two.
	pushable bool
}

// outKind is what an output column is.
type outKind uint8

const (
	outOpaque outKind = iota
	outColumn
	outValue
	outSub
)

// output is a column that a block gives.
type output struct {
	name  string
	kind  outKind
	col   colID        // outColumn
	value parser.Value // outValue
	sub   *subBlock    // outSub: a scalar sub-select
	fam   family
}

// query builds the block of q in the scope outer, with CTEs visible.
func (c *compiler) query(q *parser.Query, outer *scope, ctes *cteEnv) *block {
	c.work += 100
	depth := 1
	if outer != nil {
		depth = outer.depth + 1
	}
	b := &block{q: q, scope: &scope{parent: outer, depth: depth}, ctes: ctes}
	if c.tooComplex() {
		return b
	}
	envs := c.with(b, outer)
	switch q.Kind {
	case parser.SelectBlock:
		c.items(b, q.From)
		c.clauses(b)
		b.outs, b.complete = c.outputs(b, q.Output)
		c.groupBy(b)
	case parser.ValuesBlock:
		c.clauses(b)
		c.values(b)
	case parser.SetBlock:
		b.left = c.query(q.Left, outer, b.ctes)
		for env := b.ctes; env != nil; env = env.parent {
			if env.rec != nil && env.cte.Query == q {
				env.rec.base = b.left
			}
		}
		b.right = c.query(q.Right, outer, b.ctes)
		c.clauses(b)
		b.setOuts()
	case parser.InsertBlock:
		c.insertBlock(b, outer)
	case parser.UpdateBlock, parser.DeleteBlock, parser.MergeBlock:
		b.target = c.targetLeaf(b, q.Target)
		b.target.changed = b
		n := &node{leaf: b.target, leaves: []*leaf{b.target}}
		b.items, b.scope.items = []*node{n}, []*node{n}
		c.items(b, q.From)
		c.clauses(b)
		b.outs, b.complete = c.outputs(b, q.Output)
	}
	for _, env := range slices.Backward(envs) { // who is read by a later one only is looked at there
		if env.changed == nil && env.refs == 0 {
			b.apart = append(b.apart, c.cteBlock(env))
		}
	}
	return b
}

// with opens the scope of the WITH clause.
func (c *compiler) with(b *block, outer *scope) (envs []*cteEnv) {
	for i := range b.q.With {
		cte := &b.q.With[i]
		env := &cteEnv{parent: b.ctes, cte: cte, outer: outer, env: b.ctes}
		b.ctes = env
		envs = append(envs, env)
	}
	for _, env := range envs {
		if b.q.Recursive {
			env.env = b.ctes
		}
	}
	for _, env := range envs {
		if env.cte.Query != nil && changes(env.cte.Query.Kind) {
			env.building = true // of itself it can't read
			changed := c.query(env.cte.Query, outer, env.env)
			env.changed, env.building = changed, false
			b.apart = append(b.apart, changed)
		}
	}
	return envs
}

func changes(k parser.QueryKind) bool {
	return k == parser.InsertBlock || k == parser.UpdateBlock || k == parser.DeleteBlock || k == parser.MergeBlock
}

// targetLeaf builds the relation that a block changes, which is never a CTE.
func (c *compiler) targetLeaf(b *block, f *parser.From) *leaf {
	l := c.newLeaf(b.scope.depth, f.Alias)
	if f.Alias == "" {
		l.name = f.Table.Name
	}
	c.relationLeaf(l, c.relation(f.Table), f)
	return l
}

// clauses builds the sub-selects, then takes the facts out of the conditions.
func (c *compiler) clauses(b *block) {
	for _, q := range b.q.Subqueries {
		if q == nil {
			continue
		}
		s := &subBlock{block: c.query(q, b.scope, b.ctes), leaf: c.newLeaf(b.scope.depth, "")}
		s.leaf.block = s.block
		s.leaf.derive(nil)
		b.subs = append(b.subs, s)
	}
	for _, n := range b.items {
		c.conditions(b, n)
	}
	if b.q.Kind == parser.MergeBlock {
		return // its condition does not filter: see merge.go
	}
	b.where = c.conj(b.q.Where, b.scope.resolver(), b)
	strict := b.where.strict()
	for _, n := range b.items {
		n.strict(strict)
	}
	for _, n := range b.items {
		n.reduce(strict)
		n.optional()
	}
	b.facts = b.where.facts
	for _, n := range b.items {
		b.facts = n.hoist(b.facts)
	}
}

// sub returns the sub-select of the block that q is.
func (b *block) sub(q *parser.Query) *subBlock {
	for _, s := range b.subs {
		if s.block.q == q {
			return s
		}
	}
	return nil
}

// outputs builds a select list or RETURNING.
func (c *compiler) outputs(b *block, list []parser.Output) (outs []output, complete bool) {
	complete = true
	for i := range list {
		o := &list[i]
		if !o.Star {
			outs = append(outs, c.output(b, o.Name, &o.Expr))
			continue
		}
		for _, n := range b.starred(o.Qualifier) {
			cols, ok := c.star(n)
			if complete = complete && ok; ok {
				outs = append(outs, cols...)
				continue
			}
			c.openStar(b, n)
		}
		if o.Qualifier != "" && b.starred(o.Qualifier) == nil {
			complete = false // of an outer block, or a row's fields
		}
	}
	if !complete {
		for _, o := range outs {
			if o.name != "" {
				b.open = append(b.open, o)
			}
		}
		outs = nil
	}
	return outs, complete
}

// openStar adds the sharding keys among the columns that * gives of an item whose columns are not all known.
func (c *compiler) openStar(b *block, n *node) {
	names := make([]string, 0, len(c.r.entries)+1)
	for _, e := range c.r.entries {
		names = append(names, e.column)
	}
	if c.r.tenant != "" {
		names = append(names, c.r.tenant)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		var f found
		c.look(n, name, &f)
		if col, ok, _ := f.one(); ok {
			b.open = append(b.open, output{name: name, kind: outColumn, col: col, fam: col.family()})
		}
	}
}

// starred returns the items that * or name.* stands for.
func (b *block) starred(qualifier string) []*node {
	if qualifier == "" {
		return b.items
	}
	var at func(n *node) *node
	at = func(n *node) *node {
		switch {
		case n.leaf != nil && n.leaf.name == qualifier, n.leaf == nil && n.alias == qualifier:
			return n
		case n.leaf != nil || n.alias != "":
			return nil
		}
		if l := at(n.left); l != nil {
			return l
		}
		return at(n.right)
	}
	for _, n := range b.items {
		if found := at(n); found != nil {
			return []*node{found}
		}
	}
	return nil
}

func (c *compiler) output(b *block, name string, e *parser.Expr) output {
	o := output{name: name}
	switch e.Kind {
	case parser.ExprColumn:
		if col, ok := c.column(b.scope.resolver(), e); ok {
			o.kind, o.col, o.fam = outColumn, col, col.family()
		}
	case parser.ExprValue:
		if v, ok := c.value(&e.Value); ok {
			o.kind, o.value, o.fam = outValue, v, literalFamily(&v)
		}
	case parser.ExprSubquery:
		if s := b.sub(e.Sub); s != nil && len(e.Casts) == 0 && s.block.complete && len(s.block.outs) == 1 {
			o.kind, o.sub, o.fam = outSub, s, s.block.outs[0].fam
		}
	case parser.ExprOpaque, parser.ExprDefault:
	}
	return o
}

// literalFamily is the type that a literal of a select list has; untyped strings become text.
func literalFamily(v *parser.Value) family {
	if n := len(v.Casts); n > 0 {
		return familyOfType(v.Casts[n-1])
	}
	switch v.Kind {
	case parser.ValueInteger:
		return famBigint
	case parser.ValueString:
		return famText
	case parser.ValueNull, parser.ValueNumeric, parser.ValueBool, parser.ValueParam:
	}
	return famUnknown
}

// column resolves a plain column: one without casts, or with such as keep its values what they are.
func (c *compiler) column(r resolver, e *parser.Expr) (colID, bool) {
	if e.Kind != parser.ExprColumn {
		return colID{}, false
	}
	col, ok := c.resolve(r, e.Column)
	if !ok || len(e.Casts) > 0 && !benign(e.Casts, col.family()) {
		return colID{}, false
	}
	return col, true
}

// values builds the columns of VALUES: a set of what the rows have, where every row says it.
func (c *compiler) values(b *block) {
	if len(b.q.Rows) == 0 {
		return
	}
	b.complete = true
	for i := range b.q.Rows[0] {
		o := output{name: valuesName(i), fam: famUnknown}
		for j, row := range b.q.Rows {
			if i >= len(row) {
				break
			}
			cell := c.output(b, "", &row[i])
			if j == 0 {
				o.fam = cell.fam
			} else if o.fam != cell.fam {
				o.fam = famUnknown
			}
			if len(b.q.Rows) == 1 {
				o.kind, o.col, o.value, o.sub = cell.kind, cell.col, cell.value, cell.sub
			}
		}
		b.outs = append(b.outs, o)
	}
}

// valuesName is the name that PostgreSQL gives column i of VALUES.
func valuesName(i int) string {
	const digits = "0123456789"
	i++
	if i < 10 {
		return "column" + digits[i:i+1]
	}
	return valuesName(i/10-1) + digits[i%10:i%10+1]
}

// setOuts takes the columns of a set operation from its sides: the names from the left.
func (b *block) setOuts() {
	b.complete = b.left.complete && b.right.complete && len(b.left.outs) == len(b.right.outs)
	if !b.complete {
		return
	}
	for i := range b.left.outs {
		o := output{name: b.left.outs[i].name, fam: b.left.outs[i].fam}
		if o.fam != b.right.outs[i].fam {
			o.fam = famUnknown
		}
		b.outs = append(b.outs, o)
	}
}

// transparent reports that rows excluded by a condition on output i can be excluded inside the block already without
// any other row of its result changing.
func (b *block) transparent(i int) bool {
	q := b.q
	if q.Kind != parser.SelectBlock || q.Limited || q.Windows || q.DistinctOn || q.Grouping || q.Locking {
		return false
	}
	o := b.out(i)
	if o.kind != outColumn {
		return false
	}
	if len(q.GroupBy) == 0 {
		return true // a plain column beside an aggregate would be an error
	}
	return slices.Contains(b.grouped, o.col)
}

// groupBy finds the plain columns by which the block groups.
func (c *compiler) groupBy(b *block) {
	for i := range b.q.GroupBy {
		e := &b.q.GroupBy[i]
		switch e.Kind {
		case parser.ExprColumn:
			if col, ok := c.column(b.scope.resolver(), e); ok {
				b.grouped = append(b.grouped, col)
				continue
			}
			for i := range b.width() { // not a column of the tables: the name of an output
				if o := b.out(i); e.Column.Table == "" && o.name == e.Column.Name && o.kind == outColumn {
					b.grouped = append(b.grouped, o.col)
				}
			}
		case parser.ExprValue: // an ordinal
			if n, err := strconv.Atoi(e.Value.Text); err == nil && e.Value.Kind == parser.ValueInteger && n > 0 && n <= len(b.outs) {
				if o := &b.outs[n-1]; o.kind == outColumn {
					b.grouped = append(b.grouped, o.col)
				}
			}
		case parser.ExprOpaque, parser.ExprSubquery, parser.ExprDefault:
		}
	}
}

// out returns output i, of outs or behind them of open.
func (b *block) out(i int) *output {
	if i < len(b.outs) {
		return &b.outs[i]
	}
	return &b.open[i-len(b.outs)]
}

// width is the number of outputs.
func (b *block) width() int { return len(b.outs) + len(b.open) }

// valueOf makes a value to compare with, or to assign.
func valueOf(v parser.Value, use sharding.Use) value { return value{Value: v, use: use} }
