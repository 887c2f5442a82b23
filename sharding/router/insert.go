package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// insertBlock builds an INSERT. Its source sees nothing of the target; RETURNING and ON CONFLICT do.
func (c *compiler) insertBlock(b *block, outer *scope) {
	q := b.q
	if q.Source != nil {
		b.source = c.query(q.Source, outer, b.ctes)
	}
	b.target = c.targetLeaf(b, q.Target)
	n := &node{leaf: b.target, leaves: []*leaf{b.target}}
	b.items, b.scope.items = []*node{n}, []*node{n}
	if !q.ConflictUpdate {
		b.target.inserted = b // else RETURNING may give a row that was there before
	}
	b.excluded = c.newLeaf(b.scope.depth, "excluded")
	b.excluded.cols, b.excluded.complete, b.excluded.rel = b.target.cols, b.target.complete, b.target.rel
	b.excluded.inserted = b
	b.scope.hidden = []*leaf{b.excluded}
	b.columns = append(b.columns, q.Columns...)
	if q.Columns == nil && b.target.complete {
		for i := range b.target.cols {
			b.columns = append(b.columns, b.target.cols[i].name)
		}
	}
	c.clauses(b)
	b.outs, b.complete = c.outputs(b, q.Output)
}

// inserted returns what holds for a column of the rows that an INSERT makes, nil where that is not known.
func (c *compiler) inserted(b *block, column string, t sharding.KeyType) *export {
	for i, name := range b.columns {
		if name == column && b.source != nil {
			return c.assigned(b.source, i, t)
		}
	}
	return nil
}

// assigned returns what holds for output i of a block that gives the rows of an INSERT: its literals are stored, not
// compared.
func (c *compiler) assigned(b *block, i int, t sharding.KeyType) *export {
	switch {
	case b.rec != nil:
		return c.export(b, i, t)
	case b.q.Kind == parser.ValuesBlock:
		return c.valuesExport(b, i, t, sharding.Assign)
	case !b.complete || i >= len(b.outs):
		return nil
	case b.q.Kind == parser.SetBlock && b.q.SetOp == parser.Union:
		return either(c.assigned(b.left, i, t), c.assigned(b.right, i, t))
	case b.q.Kind == parser.SetBlock:
		return c.assigned(b.left, i, t)
	}
	return c.outputExport(b, &b.outs[i], t, sharding.Assign)
}

// base finds the table that a change of l changes: l itself, or the one table that a simple view shows. column gives
// the name by which a column of that table is known in l, empty if it is not shown. ok is false for other views, which
// change what their triggers say.
func (c *compiler) base(l *leaf) (table *leaf, column func(name string) string, ok bool) {
	if l.rel.class != relView {
		return l, func(name string) string {
			if col, ok := l.keyColumn(name); ok {
				return col.name
			}
			return ""
		}, true
	}
	b := l.block
	q := b.q
	if q.Kind != parser.SelectBlock || len(b.items) != 1 || b.items[0].leaf == nil || b.items[0].leaf.rel == nil || !b.complete ||
		len(q.With) > 0 || q.Grouped || q.MaybeGrouped || q.Distinct || q.Limited || q.Windows || q.SetReturn {
		return nil, nil, false
	}
	inner := b.items[0].leaf
	table, below, ok := c.base(inner)
	if !ok {
		return nil, nil, false
	}
	return table, func(name string) string {
		name = below(name)
		for i := range b.outs {
			if o := &b.outs[i]; o.kind == outColumn && o.col == (colID{inner, name}) && i < len(l.cols) {
				return l.cols[i].name
			}
		}
		return ""
	}, true
}
