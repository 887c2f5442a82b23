package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// constraint is the proof that some rows are of some tenants: they must all live on one shard.
type constraint struct {
	table, column string
	pin           *pin
	typ           sharding.KeyType
	mapping       *sharding.Mapping // nil: presence of a value is enough

	// Of a constant pin the outcome is found once.
	constant bool
	outcome
	ascii bool // none of the constants is beyond ASCII
}

// outcome is what a constraint gives.
type outcome struct {
	shard topology.ShardID
	none  bool // no row can have the key: no shard is named
	err   *pgwire.Error
}

// settle turns what is pending into constraints and refusals.
func (c *compiler) settle() {
	for _, p := range c.pending {
		if !p.ctx.none() {
			c.require(p.leaf, p.ctx)
		}
	}
	for i := range c.changes {
		if ch := &c.changes[i]; !ch.ctx.none() {
			c.requireChange(ch)
		}
	}
	c.pending, c.changes = nil, nil
}

// require demands that the rows of a table that matter are of one shard, and of a tenant.
func (c *compiler) require(l *leaf, ctx *context) {
	rel := l.rel
	if rel.class == relOpaqueView {
		c.st.needsHint(tenantMissing(rel.name, "", "It is a view over sharded tables whose query is not known."))
		if rel.tenant {
			c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, ""))
		}
		return
	}
	if rel.heirs {
		c.st.needsHint(tenantMissing(rel.name, "", heirsDetail))
	}
	if rel.heirsTenant {
		c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, heirsDetail))
	}
	if rel.calls {
		c.opaque("view " + quote(rel.name) + " calls functions")
	}
	if rel.hasKey() && c.r.shards > 1 {
		proven := false
		for _, e := range rel.entries {
			proven = c.pinned(l, e.column, e.typ, e.mapping, ctx) || proven
		}
		if !proven {
			c.st.needsHint(c.unpinned(rel, l))
		}
	}
	if rel.tenant && !c.pinned(l, c.r.tenant, c.r.tenantType, nil, ctx) {
		if rel.class == relUnknown {
			c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, "Nothing is known of "+quote(rel.name)+", which may show rows of several tenants."))
			return
		}
		c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, ""))
	}
}

const heirsDetail = "Tables with that column inherit from it, and it shows their rows."

// pinned adds the constraint of one column, if there is any.
func (c *compiler) pinned(l *leaf, column string, t sharding.KeyType, m *sharding.Mapping, ctx *context) bool {
	col, ok := l.keyColumn(column)
	if !ok {
		return false
	}
	s := c.solve(ctx, t)
	if s == nil {
		return false
	}
	if t != presence && col.family() != familyOf(t) {
		return false
	}
	return c.constrainTo(l.rel.name, column, t, m, and(s.of(col)))
}

// constrainTo adds a constraint for the values of a set; it reports false where the set says nothing.
func (c *compiler) constrainTo(table, column string, t sharding.KeyType, m *sharding.Mapping, s *set) bool {
	p := c.pin(s, t)
	if p == nil {
		return false
	}
	k := constraint{table: table, column: column, pin: p, typ: t, mapping: m}
	for i := range c.st.constraints {
		if o := &c.st.constraints[i]; o.mapping == m && o.typ == t && o.pin.same(p) {
			return true
		}
	}
	k.fold()
	c.st.constraints = append(c.st.constraints, k)
	return true
}

// unpinned says why the table's key is not known.
func (c *compiler) unpinned(rel *relation, l *leaf) *pgwire.Error {
	if rel.class == relUnknown {
		return tenantMissing(rel.name, "", "Nothing is known of "+quote(rel.name)+", which may be a view over sharded tables.").
			WithHint("If it was made a moment ago, try again; else address a shard by a comment, /* pgdog_shard: 0 */.")
	}
	e := rel.entries[0]
	if l.complete {
		switch col, ok := l.keyColumn(e.column); {
		case !ok:
			return tenantMissing(rel.name, e.column, "It is configured as sharded, but has no column "+quote(e.column)+".")
		case col.family() != familyOf(e.typ):
			return tenantMissing(rel.name, e.column, "Its column "+quote(e.column)+" has another type than the mapping's, "+e.typ.String()+".")
		}
	}
	return tenantMissing(rel.name, e.column, "")
}

// requireChange demands that new rows, and rows whose key changes, are of one shard.
func (c *compiler) requireChange(ch *pendingChange) {
	table, column, ok := c.base(ch.target)
	if !ok {
		return // needs a key or a hint anyway: see writes
	}
	rel := table.rel
	if rel.class == relOpaqueView {
		c.st.needsHint(tenantMissing(rel.name, "", "It is a view over sharded tables whose query is not known."))
		return
	}
	if rel.hasKey() && c.r.shards > 1 {
		if ch.insert != nil {
			c.requireRows(ch, rel, column)
		} else {
			for _, e := range rel.entries {
				c.requireSet(ch, rel, e, column(e.column))
			}
		}
	}
	if rel.tenant {
		c.requireTenant(ch, rel, column(c.r.tenant))
	}
}

// requireRows demands the keys of new rows. A table that has several needs all of them that the statement gives.
func (c *compiler) requireRows(ch *pendingChange, rel *relation, column func(string) string) {
	proven := false
	for _, e := range rel.entries {
		name := column(e.column)
		sets, given := []*set(nil), false
		if name != "" {
			sets, given = ch.insert(name, e.typ)
		}
		switch {
		case c.rightType(ch.target, name, e) && c.constrainTo(rel.name, e.column, e.typ, e.mapping, c.stored(rel, e, and(sets))):
			proven = true
		case given && rel.class != relUnknown && rel.table == nil && ch.in != nil && ch.in.columns == nil:
			c.st.needsHint(tenantMissing(rel.name, e.column, "The order of the table's columns is not known before they were read from a server.").
				WithHint("Name the columns in the statement, or address a shard by a comment, /* pgdog_shard: 0 */."))
			return
		case given && rel.class != relUnknown:
			c.st.needsHint(tenantMissing(rel.name, e.column, "The value for "+quote(e.column)+" is not known before the statement runs.").
				WithHint("Give the column a constant or a parameter, or address a shard by a comment, /* pgdog_shard: 0 */."))
			return
		}
	}
	if proven {
		return
	}
	if rel.class == relUnknown {
		c.st.needsHint(c.unpinned(rel, ch.target))
		return
	}
	c.st.needsHint(tenantMissing(rel.name, rel.entries[0].column, "The new rows of "+quote(rel.name)+" have no value for "+quote(rel.entries[0].column)+".").
		WithHint("Give the column a constant or a parameter, or address a shard by a comment, /* pgdog_shard: 0 */."))
}

// rightType reports that the column can hold keys of the entry's type.
func (c *compiler) rightType(l *leaf, column string, e *entry) bool {
	if column == "" {
		return false
	}
	fam := colID{l, column}.family()
	return fam == familyOf(e.typ) || fam == famUnknown && !l.complete
}

// stored returns the set as values that are stored: varchar(n) may drop blanks at the end of a text.
func (c *compiler) stored(rel *relation, e *entry, s *set) *set {
	if s == nil || e.typ != sharding.Text {
		return s
	}
	if col := rel.column(e.column); col != nil && col.Type == "text" {
		return s
	}
	return s.withoutBlanks()
}

func (s *set) withoutBlanks() *set {
	out := &set{op: s.op}
	for _, v := range s.vals {
		v.noBlanks = true
		out.vals = append(out.vals, v)
	}
	for _, a := range s.args {
		out.args = append(out.args, a.withoutBlanks())
	}
	return out
}

// requireSet demands that a key that is changed stays on the row's shard.
func (c *compiler) requireSet(ch *pendingChange, rel *relation, e *entry, name string) {
	for i := range ch.sets {
		set := &ch.sets[i]
		if name == "" || set.Column != name || c.keeps(ch, set) {
			continue
		}
		if !c.constrainTo(rel.name, e.column, e.typ, e.mapping, c.stored(rel, e, and(c.exprSets(ch.in, &set.Expr, ch.ctx, e.typ)))) {
			c.st.needsHint(crossShard(rel.name, e.column).
				WithDetail("The statement gives %q in %q a value that is not known before it runs, which may belong on another shard.", e.column, rel.name).
				WithHint("Give the column a constant or a parameter of the same shard, or leave it as it is."))
		}
	}
}

// keeps reports that an assignment leaves the column what it is.
func (c *compiler) keeps(ch *pendingChange, set *parser.Assignment) bool {
	o := c.output(ch.in, "", &set.Expr)
	return o.kind == outColumn && o.col == (colID{ch.target, set.Column})
}

// requireTenant demands that new rows have a tenant, and that changed ones get a known one.
func (c *compiler) requireTenant(ch *pendingChange, rel *relation, name string) {
	missing := func() { c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, "")) }
	if ch.insert != nil {
		var sets []*set
		if name != "" {
			sets, _ = ch.insert(name, c.r.tenantType)
		}
		if !c.constrainTo(rel.name, c.r.tenant, c.r.tenantType, nil, and(sets)) {
			missing()
		}
		return
	}
	for i := range ch.sets {
		if set := &ch.sets[i]; set.Column == name && !c.keeps(ch, set) &&
			!c.constrainTo(rel.name, c.r.tenant, c.r.tenantType, nil, and(c.exprSets(ch.in, &set.Expr, ch.ctx, c.r.tenantType))) {
			missing()
		}
	}
}
