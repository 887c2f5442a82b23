package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// pendingLeaf is an occurrence of a relation and what is known of its rows that matter.
type pendingLeaf struct {
	leaf *leaf
	ctx  *context
}

// pendingChange is a change of a table: new rows of an INSERT, or new values for columns.
type pendingChange struct {
	target *leaf
	// insert gives what is stored in a column, for new rows; nil for changed ones.
	insert func(column string, t sharding.KeyType) (sets []*set, given bool)
	sets   []parser.Assignment
	in     *block // where the assignments' names are looked up
	ctx    *context
}

// constrain carries what is known down to the tables of b. Of the rows that b gives, those matter that ctx says; up are
// the columns by which ctx knows the outputs, without leaf where it does not.
func (c *compiler) constrain(b *block, ctx *context, up []colID) {
	c.work += 50
	if c.tooComplex() {
		return
	}
	for _, cte := range b.apart {
		c.constrain(cte, &context{}, nil)
	}
	if b.rec != nil {
		up = nil // what a row is made of must not be left out
	}
	switch b.q.Kind {
	case parser.SelectBlock:
		f := b.rows(ctx, up)
		for _, n := range b.items {
			c.walk(n, f)
			if b.q.Locking {
				c.locked(n)
			}
		}
		if f.never && b.alone() {
			f = ctx // an aggregate gives a row without any, and its sub-selects are asked
		}
		c.constrainSubs(b, f)
	case parser.ValuesBlock:
		c.constrainSubs(b, ctx)
	case parser.SetBlock:
		if b.q.Limited {
			up = nil
		}
		c.constrain(b.left, ctx, up)
		c.constrain(b.right, ctx, up)
		c.constrainSubs(b, ctx)
	case parser.InsertBlock:
		if b.source != nil {
			c.constrain(b.source, ctx, nil)
		}
		c.constrainSubs(b, ctx)
		c.insertion(b, ctx)
	case parser.UpdateBlock, parser.DeleteBlock:
		c.change(b, ctx)
	case parser.MergeBlock:
		c.constrainMerge(b, ctx)
	}
}

// rows returns the context of the block's own rows.
func (b *block) rows(ctx *context, up []colID) *context {
	f := &context{parent: ctx, facts: slices.Clip(b.facts), never: b.where.never}
	for i, col := range up {
		if col.leaf != nil && i < b.width() && b.transparent(i) {
			f.facts = append(f.facts, fact{kind: factEqual, a: col, b: b.out(i).col})
		}
	}
	return f
}

// alone reports that the block may give a row though its tables give none.
func (b *block) alone() bool {
	q := b.q
	return q.Grouping || (q.Grouped || q.MaybeGrouped) && len(q.GroupBy) == 0
}

func (c *compiler) constrainSubs(b *block, ctx *context) {
	for _, s := range b.subs {
		var up []colID
		if s.pushable {
			up = s.leaf.outputs()
		}
		s.leaf.ctx = ctx
		c.constrain(s.block, ctx, up)
	}
}

// outputs returns the columns of the leaf by place, without a leaf where a name is not the only one.
func (l *leaf) outputs() []colID {
	if !l.mapped {
		return nil
	}
	up := make([]colID, len(l.cols))
	count := make(map[string]int, len(l.cols))
	for i := range l.cols {
		count[l.cols[i].name]++
	}
	for i := range l.cols {
		if name := l.cols[i].name; name != "" && count[name] == 1 {
			up[i] = colID{l, name}
		}
	}
	return up
}

// walk carries ctx down to the leaves of n.
func (c *compiler) walk(n *node, ctx *context) {
	c.work += 10
	if n.leaf != nil {
		c.reach(n.leaf, ctx)
		return
	}
	if n.on.never && n.join == parser.InnerJoin {
		ctx = &context{parent: ctx, never: true}
	}
	switch n.join {
	case parser.InnerJoin:
		c.walk(n.left, ctx)
		c.walk(n.right, ctx)
	case parser.LeftJoin:
		c.walk(n.left, ctx)
		c.walk(n.right, n.madeUp(ctx, n.right))
	case parser.RightJoin:
		c.walk(n.right, ctx)
		c.walk(n.left, n.madeUp(ctx, n.left))
	case parser.FullJoin:
		left, right := &context{parent: ctx, strict: true}, &context{parent: ctx, strict: true}
		for _, m := range n.using {
			if m.full != nil { // is the left column or the right one, whichever there is
				full := colID{m.full, m.name}
				left.facts = append(left.facts, fact{kind: factEqual, a: full, b: m.left})
				right.facts = append(right.facts, fact{kind: factEqual, a: full, b: m.right})
			}
		}
		c.walk(n.left, left)
		c.walk(n.right, right)
	}
}

// madeUp returns the context of the side of an outer join of which rows may be made up.
func (n *node) madeUp(ctx *context, side *node) *context {
	facts := slices.Clip(n.on.facts)
	return &context{parent: ctx, strict: true, facts: side.hoist(facts), never: n.on.never}
}

// reach notes what is known of the rows of a leaf.
func (c *compiler) reach(l *leaf, ctx *context) {
	l.ctx = ctx
	switch {
	case l.block != nil && !l.shared:
		c.constrain(l.block, ctx, l.outputs())
	case l.rel != nil && l.block == nil:
		c.pending = append(c.pending, pendingLeaf{l, ctx})
	}
}

// locked notes that rows of tables that are not sharded are locked, which is a write as far as shards go.
func (c *compiler) locked(n *node) {
	for _, l := range n.leaves {
		if l.rel != nil && (l.rel.class == relPlain || l.rel.class == relOmni) {
			c.st.needsKey(shardMissing("a lock on rows of table " + quote(l.rel.name) + ", which is not sharded,"))
		}
	}
}

// insertion notes the new rows of an INSERT, and what ON CONFLICT changes.
func (c *compiler) insertion(b *block, ctx *context) {
	c.changes = append(c.changes, pendingChange{
		target: b.target, ctx: ctx, in: b,
		insert: func(column string, t sharding.KeyType) ([]*set, bool) {
			e := c.inserted(b, column, t)
			return e.all(), b.gives(column)
		},
	})
	if len(b.q.Sets) > 0 {
		c.changes = append(c.changes, pendingChange{target: b.target, ctx: ctx, in: b, sets: b.q.Sets})
	}
	c.writes(b.target)
}

// gives reports that an INSERT gives the column a value, or may: its columns may not be known.
func (b *block) gives(column string) bool {
	if b.columns == nil && b.source != nil {
		return true
	}
	for i, name := range b.columns {
		if name == column {
			return b.source != nil && (!b.source.complete || i < len(b.source.outs))
		}
	}
	return false
}

func (e *export) all() []*set {
	if e == nil {
		return nil
	}
	return e.sets
}

// change carries the conditions of UPDATE and DELETE down.
func (c *compiler) change(b *block, ctx *context) {
	f := b.rows(ctx, nil)
	c.writes(b.target)
	if b.q.CurrentOf != "" { // the row is where the transaction is, and the table is not searched
		c.current(b)
	} else {
		for _, n := range b.items {
			c.walk(n, f)
		}
	}
	if len(b.q.Sets) > 0 {
		c.changes = append(c.changes, pendingChange{target: b.target, ctx: f, in: b, sets: b.q.Sets})
	}
	subs := f
	if len(b.q.Output) > 0 && len(b.q.Sets) > 0 && len(b.subs) > 0 {
		// In RETURNING a changed column is not what WHERE says.
		subs = &context{parent: ctx, facts: withoutFacts(f.facts, b.assigns), never: f.never}
	}
	c.constrainSubs(b, subs)
}

// current handles WHERE CURRENT OF.
func (c *compiler) current(b *block) {
	for _, n := range b.items[1:] {
		c.walk(n, &context{})
	}
	for _, set := range b.q.Sets {
		for _, e := range b.target.rel.entries {
			if e.column == set.Column {
				c.st.needsHint(crossShard(b.target.rel.name, e.column).WithDetail("The row's own tenant is known by the cursor only."))
			}
		}
	}
}

// writes notes that a table is changed.
func (c *compiler) writes(target *leaf) {
	table, _, ok := c.base(target)
	if t := target.rel.table; t != nil && slices.Contains(t.Reads, topology.QualifiedName{Schema: "pg_catalog", Name: "pg_settings"}) {
		c.st.unjudged = true // UPDATE pg_settings is SET
	}
	if !ok {
		c.st.needsKey(shardMissing("a write through view " + quote(target.rel.name)))
		return
	}
	rel := table.rel
	switch rel.class {
	case relPlain, relCatalog:
		c.st.needsKey(shardMissing("a write to table " + quote(rel.name) + ", which is not sharded,"))
	case relOmni:
		c.st.needsHint(shardMissing("a write to table " + quote(rel.name) + ", which is the same on all shards,"))
	case relTemp, relSharded, relUnknown, relView, relOpaqueView, relHoused:
	}
	if rel.rules {
		c.st.needsKey(tenantMissing(rel.name, "", "What its rules and functions do can't be seen."))
	}
}
