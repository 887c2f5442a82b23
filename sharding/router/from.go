package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
)

// cteEnv is the chain of CTEs that a block sees.
type cteEnv struct {
	parent *cteEnv
	cte    *parser.CTE
	// outer and env are what the CTE's query sees itself.
	outer *scope
	env   *cteEnv
	// changed is the block of a data-modifying CTE, which runs exactly once.
	changed *block
	refs    int
	// rec is set in the CTE's own query: who names it there reads what it has given so far.
	rec      *recursion
	building bool
}

func (e *cteEnv) find(name string) *cteEnv {
	for ; e != nil; e = e.parent {
		if e.cte.Name == name {
			return e
		}
	}
	return nil
}

func (c *compiler) newLeaf(depth int, name string) *leaf {
	c.leaves++
	c.work += 50
	return &leaf{id: c.leaves, depth: depth, name: name}
}

// items builds the FROM list of b, which sees its own items while it grows: what is LATERAL sees those to the left.
func (c *compiler) items(b *block, list []*parser.From) {
	for _, f := range list {
		n := c.item(b, f)
		b.scope.items = append(b.scope.items, n)
		b.items = append(b.items, n)
	}
}

func (c *compiler) item(b *block, f *parser.From) *node {
	if f.Kind == parser.FromJoin {
		return c.join(b, f)
	}
	var l *leaf
	switch f.Kind {
	case parser.FromTable:
		l = c.tableLeaf(b, f)
	case parser.FromSubquery:
		outer := b.scope.parent
		if f.Lateral {
			outer = b.scope
		}
		l = c.newLeaf(b.scope.depth, f.Alias)
		l.block = c.query(f.Sub, outer, b.ctes)
		l.derive(f.Columns)
	case parser.FromFunction:
		l = c.functionLeaf(b, f)
	case parser.FromOther, parser.FromJoin:
		l = c.newLeaf(b.scope.depth, f.Alias)
		l.rename(f.Columns)
	}
	return &node{leaf: l, leaves: []*leaf{l}}
}

// tableLeaf builds a relation, a view, or a CTE by that name.
func (c *compiler) tableLeaf(b *block, f *parser.From) *leaf {
	t := f.Table
	l := c.newLeaf(b.scope.depth, f.Alias)
	if f.Alias == "" {
		l.name = t.Name
	}
	if t.Schema == "" {
		if env := b.ctes.find(t.Name); env != nil {
			c.cteLeaf(l, env, f.Columns)
			return l
		}
	}
	c.relationLeaf(l, c.relation(t), f)
	return l
}

// relationLeaf makes l an occurrence of rel.
func (c *compiler) relationLeaf(l *leaf, rel *relation, f *parser.From) {
	if f.Alias == "" {
		l.schema = f.Table.Schema
		if l.schema == "" && rel.table != nil {
			l.schema = rel.table.Schema
		}
	}
	if rel.class == relView {
		l.block = c.viewBlock(rel)
		l.rel = rel
		names := make([]string, 0, len(rel.table.Columns))
		for i := range rel.table.Columns {
			names = append(names, rel.table.Columns[i].Name)
		}
		l.derive(append(slices.Clip(f.Columns), names[min(len(f.Columns), len(names)):]...))
		return
	}
	l.rel = rel
	if rel.table != nil && !isCatalog(rel.table.Schema) && len(rel.table.Columns) > 0 {
		l.complete = true
		for i := range rel.table.Columns {
			col := &rel.table.Columns[i]
			l.cols = append(l.cols, column{name: col.Name, base: col.Name, fam: familyOfType(col.Type)})
		}
	}
	l.rename(f.Columns)
}

// viewBlock builds the query of a view. Every name in it is qualified, and no CTE around is seen.
func (c *compiler) viewBlock(rel *relation) *block {
	exec, path := c.exec, c.usesPath
	c.exec = nil
	c.calls(rel.view.Calls)
	b := c.query(rel.view.Query, nil, nil)
	c.exec, c.usesPath = exec, path
	return b
}

// cteLeaf makes l a reference to a CTE.
func (c *compiler) cteLeaf(l *leaf, env *cteEnv, aliases []string) {
	env.refs++
	names := append(slices.Clip(aliases), tail(env.cte.Columns, len(aliases))...)
	switch {
	case env.rec != nil:
		env.rec.used = true
		l.rec = env.rec
		if base := env.rec.base; base != nil { // which gives the columns their types
			l.complete = base.complete
			for i := range base.outs {
				l.cols = append(l.cols, column{name: base.outs[i].name, fam: base.outs[i].fam})
			}
		}
		l.rename(names)
	case env.changed != nil:
		l.block, l.shared = env.changed, true
		l.derive(names)
	case env.building: // CTEs that read each other, which PostgreSQL refuses
		l.rename(names)
	default:
		env.building = true
		l.block = c.cteBlock(env)
		env.building = false
		l.derive(names)
	}
}

func tail(list []string, from int) []string { return list[min(from, len(list)):] }

// cteBlock builds the query of a CTE anew for a reference, as if it stood there.
func (c *compiler) cteBlock(env *cteEnv) *block {
	rec := &recursion{}
	inner := &cteEnv{parent: env.env, cte: env.cte, rec: rec}
	if env.env.find(env.cte.Name) != env { // not WITH RECURSIVE: the name means something else in there
		inner = env.env
	}
	b := c.query(env.cte.Query, env.outer, inner)
	if rec.used {
		b.rec, rec.block = rec, b
	}
	return b
}

// derive takes the columns of the leaf from its block, under other names where given.
func (l *leaf) derive(names []string) {
	l.complete = l.block.complete
	if !l.complete && len(names) > 0 { // whose names these are is not known
		l.rename(names)
		return
	}
	l.mapped = true
	for i := range l.block.width() {
		o := l.block.out(i)
		l.cols = append(l.cols, column{name: o.name, fam: o.fam})
	}
	l.rename(names)
}

// rename gives the first columns other names.
func (l *leaf) rename(names []string) {
	for i, name := range names {
		if i < len(l.cols) {
			l.cols[i].name = name
			continue
		}
		if l.complete {
			break // PostgreSQL refuses more names than columns
		}
		l.cols = append(l.cols, column{name: name})
	}
}

func (c *compiler) functionLeaf(b *block, f *parser.From) *leaf {
	l := c.newLeaf(b.scope.depth, f.Alias)
	if l.name == "" && len(f.Functions) > 0 {
		l.name = f.Functions[0].Name
	}
	l.function = f
	l.rename(f.Columns)
	if len(f.Columns) == 0 && l.name != "" {
		l.cols = append(l.cols, column{name: l.name}) // of a function that returns a scalar
	}
	return l
}

// join builds a join. Its ON sees the two sides, and the outer blocks.
func (c *compiler) join(b *block, f *parser.From) *node {
	n := &node{join: f.Join, alias: f.Alias, renamed: len(f.Columns) > 0}
	n.left = c.item(b, f.Left)
	// What is LATERAL on the right sees the left side.
	b.scope.items = append(b.scope.items, n.left)
	n.right = c.item(b, f.Right)
	b.scope.items = b.scope.items[:len(b.scope.items)-1]
	n.leaves = append(slices.Clip(n.left.leaves), n.right.leaves...)
	using := f.Using
	if f.Natural {
		using = c.common(n)
	}
	for _, name := range using {
		c.merge(b, n, name)
	}
	n.cond = f.On
	return n
}

// conditions takes the facts out of the ON clauses below n.
func (c *compiler) conditions(b *block, n *node) {
	if n.leaf != nil {
		return
	}
	c.conditions(b, n.left)
	c.conditions(b, n.right)
	if n.cond != nil {
		on := c.conj(n.cond, resolver{items: []*node{n.left, n.right}, outer: b.scope.parent}, b)
		n.on.facts = append(n.on.facts, on.facts...)
		n.on.never = on.never
	}
}

// merge makes one column of two.
func (c *compiler) merge(b *block, n *node, name string) {
	m := merge{name: name}
	var okLeft, okRight bool
	m.left, okLeft = c.side(n.left, name)
	m.right, okRight = c.side(n.right, name)
	m.ok = okLeft && okRight
	if m.ok && n.join == parser.FullJoin {
		m.full = c.newLeaf(b.scope.depth, "")
		m.full.merged, m.full.complete = true, true
		fam := m.left.family()
		if fam != m.right.family() {
			fam = famUnknown
		}
		m.full.cols = []column{{name: name, fam: fam}}
	} else if m.ok {
		n.on.facts = append(n.on.facts, fact{kind: factEqual, a: m.left, b: m.right})
	}
	n.using = append(n.using, m)
}

// side finds a column that USING says a side has.
func (c *compiler) side(n *node, name string) (colID, bool) {
	var f found
	c.look(n, name, &f)
	col, ok, _ := f.one()
	return col, ok
}

// common returns the columns that NATURAL JOIN joins by, and notes where they can't be told.
func (c *compiler) common(n *node) (names []string) {
	left, okLeft := c.columnNames(n.left)
	right, okRight := c.columnNames(n.right)
	n.natural = !okLeft || !okRight
	if n.natural {
		return nil
	}
	there := make(map[string]bool, len(right))
	for _, name := range right {
		there[name] = true
	}
	for _, name := range left {
		if there[name] {
			names = append(names, name)
		}
	}
	return names
}

// columnNames returns the names of all columns of an item as * would give them; ok is false if they are not known.
func (c *compiler) columnNames(n *node) (names []string, ok bool) {
	cols, ok := c.star(n)
	for _, o := range cols {
		names = append(names, o.name)
	}
	return names, ok
}

// star expands * over an item.
func (c *compiler) star(n *node) (outs []output, ok bool) {
	c.work++
	if n.leaf != nil {
		for i := range n.leaf.cols {
			col := &n.leaf.cols[i]
			outs = append(outs, output{name: col.name, kind: outColumn, col: colID{n.leaf, col.name}, fam: col.fam})
		}
		return outs, n.leaf.complete
	}
	if n.natural || n.renamed {
		return nil, false
	}
	left, okLeft := c.star(n.left)
	right, okRight := c.star(n.right)
	if !okLeft || !okRight {
		return nil, false
	}
	for _, m := range n.using {
		if !m.ok {
			return nil, false
		}
		col := m.left
		switch {
		case m.full != nil:
			col = colID{m.full, m.name}
		case n.join == parser.RightJoin:
			col = m.right
		}
		outs = append(outs, output{name: m.name, kind: outColumn, col: col, fam: col.family()})
	}
	for _, side := range [2][]output{left, right} {
		for i := range side {
			if !n.merges(side[i].name) {
				outs = append(outs, side[i])
			}
		}
	}
	return outs, true
}

func (n *node) merges(name string) bool {
	for _, m := range n.using {
		if m.name == name {
			return true
		}
	}
	return false
}
