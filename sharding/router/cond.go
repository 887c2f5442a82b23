package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// factKind is what a fact says.
type factKind uint8

const (
	factEqual factKind = iota // a = b, both not NULL
	factIn                    // a is in set
	factOr                    // one of branches holds
)

// fact is something that holds for all rows that matter.
type fact struct {
	kind     factKind
	a, b     colID
	set      *set
	branches []conj
	// loose: it may hold for a row whose column is NULL, such as an outer join makes up.
	loose bool
}

// conj is facts that hold together. never: no row has them.
type conj struct {
	facts []fact
	never bool
}

// conj takes the facts out of a condition that b's rows must meet.
func (c *compiler) conj(cond *parser.Cond, r resolver, b *block) (out conj) {
	if cond != nil {
		c.addCond(&out, cond, r, b)
	}
	return out
}

func (c *compiler) addCond(out *conj, cond *parser.Cond, r resolver, b *block) {
	c.work += 5
	if c.tooComplex() {
		return
	}
	switch cond.Op {
	case parser.CondAnd:
		for _, arg := range cond.Args {
			c.addCond(out, arg, r, b)
		}
	case parser.CondOr:
		c.addOr(out, cond, r, b)
	case parser.CondEqual:
		c.addEqual(out, &cond.Left, &cond.Right[0], r, b)
	case parser.CondNotDistinct:
		if col, ok := c.column(r, &cond.Left); ok && cond.Right[0].Kind == parser.ExprValue {
			if v, ok := c.value(&cond.Right[0].Value); ok {
				out.in(col, value{Value: v, distinct: true})
			}
		}
	case parser.CondIn:
		c.addIn(out, cond, r, b)
	case parser.CondAnyArray:
		if col, ok := c.column(r, &cond.Left); ok && cond.Right[0].Kind == parser.ExprValue {
			if v, ok := c.value(&cond.Right[0].Value); ok {
				out.in(col, value{Value: v, array: true})
			}
		}
	case parser.CondIsNull:
		if col, ok := c.column(r, &cond.Left); ok {
			out.in(col, value{isNull: true})
		}
	case parser.CondFalse:
		out.never = true
	case parser.CondTrue, parser.CondOpaque:
	}
}

func (out *conj) in(col colID, vals ...value) {
	s := valueSet(vals...)
	out.facts = append(out.facts, fact{kind: factIn, a: col, set: s, loose: s.loose()})
}

// addEqual takes the facts out of left = right.
func (c *compiler) addEqual(out *conj, left, right *parser.Expr, r resolver, b *block) {
	if left.Kind == parser.ExprValue && right.Kind == parser.ExprValue {
		out.never = out.never || differ(&left.Value, &right.Value) // 1 = 0, as tools write it that want columns only
		return
	}
	col, ok := c.column(r, left)
	if !ok {
		return
	}
	switch right.Kind {
	case parser.ExprColumn:
		if other, ok := c.column(r, right); ok {
			out.facts = append(out.facts, fact{kind: factEqual, a: col, b: other})
		}
	case parser.ExprValue:
		if v, ok := c.value(&right.Value); ok {
			out.in(col, valueOf(v, sharding.Compare))
		}
	case parser.ExprSubquery:
		if s := b.sub(right.Sub); s != nil && len(right.Casts) == 0 {
			out.equalSub(col, s)
		}
	case parser.ExprOpaque, parser.ExprDefault:
	}
}

// differ reports that two literals are plain integers that are not the same.
func differ(x, y *parser.Value) bool {
	plain := func(v *parser.Value) bool { return v.Kind == parser.ValueInteger && len(v.Casts) == 0 }
	return plain(x) && plain(y) && x.Text != y.Text
}

// equalSub says that col is equal to the first column of a row of the sub-select.
func (out *conj) equalSub(col colID, s *subBlock) bool {
	if !s.block.complete || len(s.block.outs) != 1 {
		return false
	}
	out.facts = append(out.facts, fact{kind: factEqual, a: col, b: colID{s.leaf, s.leaf.cols[0].name}})
	return true
}

// addIn takes the facts out of left IN (...).
func (c *compiler) addIn(out *conj, cond *parser.Cond, r resolver, b *block) {
	col, ok := c.column(r, &cond.Left)
	if !ok {
		return
	}
	if len(cond.Right) == 1 && cond.Right[0].Kind == parser.ExprSubquery {
		if s := b.sub(cond.Right[0].Sub); s != nil {
			s.pushable = out.equalSub(col, s) || s.pushable
		}
		return
	}
	vals := make([]value, 0, len(cond.Right))
	plain := true
	for i := range cond.Right {
		e := &cond.Right[i]
		v, ok := c.value(&e.Value)
		if plain = plain && e.Kind == parser.ExprValue && ok; !plain {
			break
		}
		vals = append(vals, valueOf(v, sharding.Compare))
	}
	if plain {
		out.in(col, vals...)
		return
	}
	// Something else among the values: a choice of equalities.
	or := fact{kind: factOr}
	for i := range cond.Right {
		var branch conj
		c.addEqual(&branch, &cond.Left, &cond.Right[i], r, b)
		or.branches = append(or.branches, branch)
	}
	out.or(or)
}

// addOr takes the facts out of a choice.
func (c *compiler) addOr(out *conj, cond *parser.Cond, r resolver, b *block) {
	or := fact{kind: factOr}
	for _, arg := range cond.Args {
		var branch conj
		c.addCond(&branch, arg, r, b)
		if !branch.never {
			or.branches = append(or.branches, branch)
		}
	}
	out.or(or)
}

// or adds a choice. Choices between values of one column become one set.
func (out *conj) or(or fact) {
	if len(or.branches) == 0 {
		out.never = true
		return
	}
	simple := true
	for i := range or.branches {
		br := &or.branches[i]
		if len(br.facts) == 0 {
			return // a branch without facts: anything may hold
		}
		for j := range br.facts {
			or.loose = or.loose || br.facts[j].loose
		}
		f := &br.facts[0]
		simple = simple && len(br.facts) == 1 && f.kind == factIn && f.a == or.branches[0].facts[0].a && f.set.op == setValues
	}
	if !simple {
		out.facts = append(out.facts, or)
		return
	}
	var vals []value
	for i := range or.branches {
		vals = append(vals, or.branches[i].facts[0].set.vals...)
	}
	out.in(or.branches[0].facts[0].a, vals...)
}

// strict returns the leaves of which some column can't be NULL where the facts hold.
func (out *conj) strict() map[*leaf]bool {
	leaves := make(map[*leaf]bool)
	strictOf(out.facts, leaves)
	return leaves
}

func strictOf(facts []fact, leaves map[*leaf]bool) {
	for i := range facts {
		f := &facts[i]
		switch f.kind {
		case factEqual:
			leaves[f.a.leaf], leaves[f.b.leaf] = true, true
		case factIn:
			if !f.loose {
				leaves[f.a.leaf] = true
			}
		case factOr:
			var all map[*leaf]bool
			for j := range f.branches {
				here := make(map[*leaf]bool)
				strictOf(f.branches[j].facts, here)
				if all == nil {
					all = here
					continue
				}
				for l := range all {
					if !here[l] {
						delete(all, l)
					}
				}
			}
			for l := range all {
				leaves[l] = true
			}
		}
	}
}

// strict adds what the conditions of joins that can't make up rows say.
func (n *node) strict(leaves map[*leaf]bool) {
	if n.leaf == nil && n.join == parser.InnerJoin {
		strictOf(n.on.facts, leaves)
		n.left.strict(leaves)
		n.right.strict(leaves)
	}
}

// reduce turns outer joins whose made-up rows are thrown away by what must hold into joins that make up fewer.
func (n *node) reduce(strict map[*leaf]bool) {
	if n.leaf != nil {
		return
	}
	rejects := func(side *node) bool {
		for _, l := range side.leaves {
			if strict[l] {
				return true
			}
		}
		return false
	}
	left, right := rejects(n.left), rejects(n.right)
	if n.join == parser.FullJoin && (left || right) {
		for _, m := range n.using { // no longer a column of its own
			if m.full != nil {
				n.on.facts = append(n.on.facts, fact{kind: factEqual, a: m.left, b: m.right})
			}
		}
	}
	switch {
	case n.join == parser.LeftJoin && right, n.join == parser.RightJoin && left, n.join == parser.FullJoin && left && right:
		n.join = parser.InnerJoin
		strictOf(n.on.facts, strict)
	case n.join == parser.FullJoin && left:
		n.join = parser.LeftJoin
	case n.join == parser.FullJoin && right:
		n.join = parser.RightJoin
	}
	inner := func() map[*leaf]bool {
		leaves := make(map[*leaf]bool, len(strict))
		for l := range strict {
			leaves[l] = true
		}
		strictOf(n.on.facts, leaves)
		return leaves
	}
	switch n.join {
	case parser.InnerJoin:
		n.left.strict(strict)
		n.right.strict(strict)
		n.left.reduce(strict)
		n.right.reduce(strict)
	case parser.LeftJoin:
		n.left.reduce(strict)
		n.right.reduce(inner())
	case parser.RightJoin:
		n.left.reduce(inner())
		n.right.reduce(strict)
	case parser.FullJoin:
	}
}

// optional marks the leaves below n whose rows an outer join may make up.
func (n *node) optional() {
	if n.leaf != nil {
		return
	}
	mark := func(side *node) {
		for _, l := range side.leaves {
			l.optional = true
		}
	}
	if n.join == parser.LeftJoin || n.join == parser.FullJoin {
		mark(n.right)
	}
	if n.join == parser.RightJoin || n.join == parser.FullJoin {
		mark(n.left)
	}
	n.left.optional()
	n.right.optional()
}

// hoist adds the facts of n that hold for all rows of the block: of joins that make up no rows, and of the sides of
// others that they keep whole.
func (n *node) hoist(facts []fact) []fact {
	if n.leaf != nil {
		return facts
	}
	switch n.join {
	case parser.InnerJoin:
		facts = append(facts, n.on.facts...)
		return n.right.hoist(n.left.hoist(facts))
	case parser.LeftJoin:
		return n.left.hoist(facts)
	case parser.RightJoin:
		return n.right.hoist(facts)
	case parser.FullJoin:
	}
	return facts
}
