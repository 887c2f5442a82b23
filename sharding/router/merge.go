package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// constrainMerge carries the conditions of MERGE down. A row of the source matters if it matches a row of the target
// and a WHEN MATCHED does something, or if a WHEN NOT MATCHED inserts it. A row of the target matters if a row of the
// source that matters matches it, or if a WHEN NOT MATCHED BY SOURCE speaks of it.
func (c *compiler) constrainMerge(b *block, ctx *context) {
	all := b.scope.resolver()
	on := c.conj(b.q.Where, all, b)
	source, target := []conj{on}, []conj{on}
	for i := range b.q.Actions {
		a := &b.q.Actions[i]
		if a.Kind == 0 || a.Matched {
			continue
		}
		cond := c.conj(a.Cond, all, b)
		if a.BySource {
			target = append(target, cond)
		} else {
			source = append(source, cond)
		}
	}
	items := b.items[1:]
	strict := make(map[*leaf]bool)
	for _, n := range items {
		n.strict(strict)
		n.reduce(strict)
		n.optional()
	}
	var hoisted []fact
	for _, n := range items {
		hoisted = n.hoist(hoisted)
	}
	rows := &context{parent: ctx, facts: append(oneOf(source), hoisted...)}
	for _, n := range items {
		c.walk(n, rows)
	}
	matched := &context{parent: rows, strict: true, facts: on.facts, never: on.never}
	if len(target) > 1 {
		matched = &context{parent: ctx, facts: oneOf(target)}
	}
	c.reach(b.target, matched)
	c.writes(b.target)
	for i := range b.q.Actions {
		c.action(b, &b.q.Actions[i], rows, matched)
	}
	c.constrainSubs(b, ctx)
}

// oneOf returns the facts of a choice.
func oneOf(branches []conj) []fact {
	var out conj
	out.or(fact{kind: factOr, branches: slices.DeleteFunc(slices.Clone(branches), func(k conj) bool { return k.never })})
	if len(branches) == 1 {
		return branches[0].facts
	}
	return out.facts
}

// action notes what a WHEN clause changes.
func (c *compiler) action(b *block, a *parser.MergeAction, rows, matched *context) {
	switch a.Kind {
	case parser.InsertBlock:
		columns := a.Columns
		if columns == nil && b.target.complete {
			for i := range b.target.cols {
				columns = append(columns, b.target.cols[i].name)
			}
		}
		c.changes = append(c.changes, pendingChange{
			target: b.target, ctx: rows, in: b,
			insert: func(column string, t sharding.KeyType) ([]*set, bool) {
				i := slices.Index(columns, column)
				if i < 0 || i >= len(a.Values) {
					return nil, columns == nil
				}
				return c.exprSets(b, &a.Values[i], rows, t), true
			},
		})
	case parser.UpdateBlock:
		c.changes = append(c.changes, pendingChange{target: b.target, ctx: matched, in: b, sets: a.Sets})
	case parser.DeleteBlock, parser.SelectBlock, parser.ValuesBlock, parser.SetBlock, parser.MergeBlock:
	}
}

// exprSets returns the sets that the value of an expression is in when it is stored, in context ctx.
func (c *compiler) exprSets(b *block, e *parser.Expr, ctx *context, t sharding.KeyType) []*set {
	o := c.output(b, "", e)
	switch o.kind {
	case outValue:
		return []*set{valueSet(valueOf(o.value, sharding.Assign))}
	case outSub:
		return c.export(o.sub.block, 0, t).all()
	case outColumn:
		s := c.solve(ctx, t)
		if s == nil {
			return nil
		}
		if _, ok := s.index[o.col]; !ok {
			s = &solution{typ: t, index: make(map[colID]int32)}
			s.number(o.col)
			c.expand(s, ctx, t, 0)
		}
		return s.of(o.col)
	case outOpaque:
	}
	return nil
}
