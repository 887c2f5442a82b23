package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// recursion is the state of a recursive CTE: what it reads of itself.
type recursion struct {
	// base is the part of the CTE that does not read itself, and block the whole, once they are built.
	base, block *block
	used        bool // it reads itself
	busy        bool // it is being proven that a column is carried on
}

// recursiveExport returns what holds for an output of a recursive CTE: by induction, what holds for the rows it starts with
// and is handed on unchanged; or what holds for both of its parts anyway.
func (c *compiler) recursiveExport(b *block, i int, t sharding.KeyType) *export {
	if b.q.Kind != parser.SetBlock || b.q.SetOp != parser.Union || !b.complete {
		return nil
	}
	base := c.export(b.left, i, t)
	if base == nil {
		return nil
	}
	if c.carriesOn(b, i, t) {
		return &export{sets: base.sets, equal: base.equal}
	}
	return either(base, c.export(b.right, i, t))
}

// carriesOn reports that output i of a recursive CTE is in each row what it was in the row that this one was made of.
func (c *compiler) carriesOn(b *block, i int, t sharding.KeyType) bool {
	o := &b.right.outs[i]
	if b.right.q.Kind != parser.SelectBlock || o.kind != outColumn {
		return false
	}
	// Solved without a memory: nothing may be concluded here from what is about to be proven.
	busy := b.rec.busy
	b.rec.busy = true
	s := c.conclude(c.ownFacts(b.right), nil, t)
	b.rec.busy = busy
	s.number(o.col)
	for _, col := range s.class(o.col) {
		if col.leaf.rec == b.rec && col.leaf.place(col.name) == i {
			return true
		}
	}
	return false
}

// place returns the number of a column, -1 if it is not known.
func (l *leaf) place(name string) int {
	for i := range l.cols {
		if l.cols[i].name == name {
			return i
		}
	}
	return -1
}

// ownExport returns what holds for a column of the rows that a recursive CTE reads of itself.
func (c *compiler) ownExport(l *leaf, col colID, t sharding.KeyType) *export {
	rec := l.rec
	b := rec.block
	i := l.place(col.name)
	if rec.busy || b == nil || i < 0 || !b.left.complete || i >= len(b.left.outs) || len(b.right.outs) <= i {
		return nil
	}
	if b.q.Kind != parser.SetBlock || b.q.SetOp != parser.Union || !c.carriesOn(b, i, t) {
		return nil
	}
	if base := c.export(b.left, i, t); base != nil {
		return &export{sets: base.sets, equal: base.equal}
	}
	return nil
}
