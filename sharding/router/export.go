package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// exportID names an output of a block for one type of key.
type exportID struct {
	out int
	typ sharding.KeyType
}

// export is what holds for an output in all rows that a block gives.
type export struct {
	sets  []*set
	equal []colID // columns of outer blocks, or of the same leaf, that it is equal to
}

// exportOf returns what the block behind a column's leaf says of the column.
func (c *compiler) exportOf(col colID, t sharding.KeyType) *export {
	l := col.leaf
	b := l.block
	switch {
	case l.inserted != nil:
		return c.inserted(l.inserted, col.name, t)
	case l.rec != nil:
		return c.ownExport(l, col, t)
	case b == nil || !l.mapped:
		return nil
	}
	if i := l.place(col.name); i >= 0 && i < b.width() {
		return c.export(b, i, t)
	}
	return nil
}

// export returns what holds for output i of b.
func (c *compiler) export(b *block, i int, t sharding.KeyType) *export {
	id := exportID{i, t}
	if e, ok := b.exports[id]; ok {
		return e // nil while it is being found
	}
	if b.exports == nil {
		b.exports = make(map[exportID]*export)
	}
	b.exports[id] = nil
	c.work += 20
	var e *export
	switch {
	case b.rec != nil:
		e = c.recursiveExport(b, i, t)
	case b.q.Kind == parser.SetBlock:
		e = c.setExport(b, i, t)
	case b.q.Kind == parser.ValuesBlock:
		e = c.valuesExport(b, i, t, sharding.Compare)
	default:
		e = c.outputExport(b, b.out(i), t, sharding.Compare)
	}
	b.exports[id] = e
	return e
}

// outputExport returns what holds for an output of a block's own rows. A literal is read for the use that is made of it.
func (c *compiler) outputExport(b *block, o *output, t sharding.KeyType, use sharding.Use) *export {
	switch o.kind {
	case outValue:
		return &export{sets: []*set{valueSet(valueOf(o.value, use))}}
	case outSub:
		if e := c.export(o.sub.block, 0, t); e != nil {
			return &export{sets: e.sets}
		}
	case outColumn:
		return c.columnExport(b, o.col, t)
	case outOpaque:
	}
	return nil
}

// columnExport returns what holds for a column of the block's own rows.
func (c *compiler) columnExport(b *block, col colID, t sharding.KeyType) *export {
	if b.own == nil {
		b.own = &context{facts: c.ownFacts(b)}
	}
	s := c.solve(b.own, t)
	if s == nil {
		return nil
	}
	if _, ok := s.index[col]; !ok { // no fact speaks of it; what is behind it may say something
		s = &solution{typ: t, index: make(map[colID]int32)}
		s.number(col)
		c.expand(s, nil, t, 0)
	}
	e := &export{sets: s.of(col)}
	for _, other := range s.class(col) {
		if other.leaf.depth < b.scope.depth {
			e.equal = append(e.equal, other)
		}
	}
	return e
}

// ownFacts returns what holds for the rows that a block gives.
func (c *compiler) ownFacts(b *block) []fact {
	if b.q.Kind != parser.UpdateBlock {
		return b.facts
	}
	// RETURNING sees the row as it has become.
	facts := withoutFacts(b.facts, b.assigns)
	for i := range b.q.Sets {
		set := &b.q.Sets[i]
		if v, ok := c.value(&set.Expr.Value); ok && set.Expr.Kind == parser.ExprValue {
			facts = append(facts, fact{kind: factIn, a: colID{b.target, set.Column}, set: valueSet(valueOf(v, sharding.Assign))})
		}
	}
	return facts
}

// assigns reports that the block changes the column.
func (b *block) assigns(col colID) bool {
	return col.leaf == b.target && slices.ContainsFunc(b.q.Sets, func(a parser.Assignment) bool { return a.Column == col.name })
}

// withoutFacts returns the facts that speak of no column of a kind.
func withoutFacts(facts []fact, of func(colID) bool) (rest []fact) {
	for i := range facts {
		if !facts[i].speaks(of) {
			rest = append(rest, facts[i])
		}
	}
	return rest
}

func (f *fact) speaks(of func(colID) bool) bool {
	switch f.kind {
	case factEqual:
		return of(f.a) || of(f.b)
	case factIn:
		return of(f.a)
	case factOr:
		for i := range f.branches {
			if len(withoutFacts(f.branches[i].facts, of)) < len(f.branches[i].facts) {
				return true
			}
		}
	}
	return false
}

// setExport joins what holds for both sides of a set operation.
func (c *compiler) setExport(b *block, i int, t sharding.KeyType) *export {
	left := c.export(b.left, i, t)
	if b.q.SetOp == parser.Except {
		return left
	}
	right := c.export(b.right, i, t)
	if b.q.SetOp == parser.Intersect {
		switch {
		case left == nil:
			return right
		case right == nil:
			return left
		}
		return &export{sets: append(slices.Clip(left.sets), right.sets...), equal: append(slices.Clip(left.equal), right.equal...)}
	}
	return either(left, right)
}

// either returns what holds for rows that come from one of two.
func either(a, b *export) *export {
	if a == nil || b == nil {
		return nil
	}
	e := &export{}
	if len(a.sets) > 0 && len(b.sets) > 0 {
		e.sets = []*set{{op: setOr, args: []*set{and(a.sets), and(b.sets)}}}
	}
	for _, x := range a.equal {
		for _, y := range b.equal {
			if x == y {
				e.equal = append(e.equal, x)
			}
		}
	}
	return e
}

// valuesExport joins what the rows of VALUES have in a column.
func (c *compiler) valuesExport(b *block, i int, t sharding.KeyType, use sharding.Use) *export {
	var vals []value
	var sets []*set
	mixed := false
	fam := famUnknown
	for j, row := range b.q.Rows {
		if i >= len(row) {
			return nil
		}
		cell := c.output(b, "", &row[i])
		if j == 0 {
			fam = cell.fam
		}
		mixed = mixed || cell.fam != fam
		if cell.kind == outValue {
			vals = append(vals, valueOf(cell.value, use))
			continue
		}
		e := c.outputExport(b, &cell, t, use)
		if e == nil || len(e.sets) == 0 {
			if len(b.q.Rows) == 1 {
				return e
			}
			return nil
		}
		sets = append(sets, and(e.sets))
	}
	if len(vals) > 0 {
		sets = append(sets, valueSet(vals...))
	}
	s := sets[0]
	if len(sets) > 1 {
		s = &set{op: setOr, args: sets}
	}
	if mixed && use == sharding.Compare { // one of them may make float8 of all
		s = s.exactly()
	}
	return &export{sets: []*set{s}}
}
