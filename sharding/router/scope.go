package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
)

// leaf is one occurrence of a relation, sub-select, CTE or function in FROM: something that gives rows.
type leaf struct {
	id    int
	depth int    // of the scope that it stands in
	name  string // by which columns are qualified; empty = none
	// schema qualifies name as well, where the relation has no alias.
	schema string
	cols   []column
	// complete: cols are all there are. Else there may be others, under their own name in the relation.
	complete bool

	rel *relation // a table
	// block gives the rows of a sub-select, view or CTE.
	block *block
	// mapped: cols are the outputs of block, by place.
	mapped bool
	// shared: the block is a data-modifying CTE's, which runs once, whoever reads from it.
	shared bool
	rec    *recursion // what a recursive CTE reads of itself
	merged bool       // the column of a FULL JOIN USING
	// inserted is the INSERT whose new rows these are, changed the UPDATE, DELETE or MERGE that changes the leaf.
	inserted, changed *block
	function          *parser.From

	// optional: an outer join may make up its rows, in which all columns are NULL.
	optional bool
	// ctx is what is known of the rows of the leaf that matter, once it has been carried down to it.
	ctx *context
}

// column is a column of a leaf.
type column struct {
	name string
	base string // its name in the table, where that is known
	fam  family
}

// colID is a column of a leaf by the name that it has there.
type colID struct {
	leaf *leaf
	name string
}

// node is an item of FROM: a leaf, or a join of two nodes.
type node struct {
	leaf        *leaf
	join        parser.JoinType
	left, right *node
	alias       string
	renamed     bool // the alias renames columns
	using       []merge
	natural     bool // by columns that are not known
	cond        *parser.Cond
	on          conj
	leaves      []*leaf
}

// merge is a column that USING makes one of two.
type merge struct {
	name        string
	left, right colID
	ok          bool  // both are found
	full        *leaf // of a FULL JOIN: its merged leaf
}

// scope is where names are looked up: the FROM items of a block, and around it those of the outer blocks.
type scope struct {
	parent *scope
	depth  int
	items  []*node
	// hidden leaves are seen by their name only: EXCLUDED.
	hidden []*leaf
}

// answer is whether a leaf has a column.
type answer uint8

const (
	no answer = iota
	maybe
	yes
	// twice: two columns have that name, which PostgreSQL calls ambiguous.
	twice
)

// has tells whether the leaf has a column of that name.
func (l *leaf) has(name string, keys []*entry) answer {
	n := no
	for i := range l.cols {
		if l.cols[i].name == name {
			if n == yes {
				return twice
			}
			n = yes
		}
	}
	if l.complete || n == yes {
		return n
	}
	if l.function != nil {
		return l.functionHas(name, keys)
	}
	if l.rel != nil {
		for _, e := range l.rel.entries {
			if e.column == name && e.name != "" && l.rel.class == relSharded {
				return yes
			}
		}
	}
	return maybe
}

// functionHas: PostgreSQL's own functions return columns of their own names, which nobody calls a sharding key.
func (l *leaf) functionHas(name string, keys []*entry) answer {
	if slices.ContainsFunc(l.function.Functions, func(f parser.Function) bool { return !parser.IsBuiltin(f) }) {
		return maybe
	}
	if slices.ContainsFunc(keys, func(e *entry) bool { return e.column == name }) {
		return no
	}
	return maybe
}

// found is the outcome of looking up an unqualified name among some items.
type found struct {
	sure  []colID
	maybe []colID
	// blocked: a NATURAL JOIN of unknown columns may have merged the name.
	blocked bool
}

func (c *compiler) look(n *node, name string, f *found) {
	c.work++
	if n.leaf != nil {
		switch n.leaf.has(name, c.r.entries) {
		case yes:
			f.sure = append(f.sure, colID{n.leaf, name})
		case maybe:
			f.maybe = append(f.maybe, colID{n.leaf, name})
		case twice:
			f.blocked = true
		case no:
		}
		return
	}
	if n.renamed {
		f.blocked = true
		return
	}
	for _, m := range n.using {
		if m.name == name {
			if !m.ok {
				f.blocked = true
				return
			}
			switch {
			case m.full != nil:
				f.sure = append(f.sure, colID{m.full, name})
			case n.join == parser.RightJoin:
				f.sure = append(f.sure, m.right)
			default:
				f.sure = append(f.sure, m.left)
			}
			return
		}
	}
	before := len(f.maybe)
	c.look(n.left, name, f)
	c.look(n.right, name, f)
	if n.natural && len(f.maybe) > before {
		f.blocked = true
	}
}

// one returns what the name means. known is false where it can't be told; then nothing may be concluded from it. Neither
// is set where no item has the name.
func (f *found) one() (col colID, ok, known bool) {
	switch {
	case f.blocked || len(f.sure) > 1:
		return colID{}, false, false
	case len(f.sure) == 1:
		return f.sure[0], true, true // if another may have it too, PostgreSQL calls it ambiguous
	case len(f.maybe) == 1:
		// If it has no such column, the name means one of an outer block, and the leaf is not sharded by it.
		return f.maybe[0], true, true
	case len(f.maybe) > 1:
		return colID{}, false, false
	}
	return colID{}, false, true
}

// resolver looks names up: among some items first, then in the scopes around.
type resolver struct {
	items  []*node
	hidden []*leaf
	outer  *scope
}

func (s *scope) resolver() resolver {
	if s == nil {
		return resolver{}
	}
	return resolver{s.items, s.hidden, s.parent}
}

// resolve finds the column that a reference means; ok is false where that can't be told.
func (c *compiler) resolve(r resolver, ref parser.Column) (col colID, ok bool) {
	for {
		if ref.Table == "" {
			var f found
			for _, n := range r.items {
				c.look(n, ref.Name, &f)
			}
			col, ok, known := f.one()
			if ok || !known {
				return col, ok
			}
		} else if l, seen := c.named(r, ref); seen {
			if l == nil {
				return colID{}, false
			}
			has := l.has(ref.Name, c.r.entries)
			return colID{l, ref.Name}, has == yes || has == maybe
		}
		if r.outer == nil {
			return colID{}, false
		}
		r = r.outer.resolver()
	}
}

// named finds the leaf that a qualified reference names. seen is true if the name is taken here; the leaf may be nil then.
func (c *compiler) named(r resolver, ref parser.Column) (l *leaf, seen bool) {
	for _, n := range r.items {
		if l, seen := c.namedIn(n, ref); seen {
			return l, true
		}
	}
	for _, h := range r.hidden {
		if h.name == ref.Table && ref.Schema == "" {
			return h, true
		}
	}
	return nil, false
}

func (c *compiler) namedIn(n *node, ref parser.Column) (l *leaf, seen bool) {
	c.work++
	if n.leaf != nil {
		if n.leaf.name == ref.Table && (ref.Schema == "" || ref.Schema == n.leaf.schema) {
			return n.leaf, true
		}
		return nil, false
	}
	if n.alias != "" { // hides the names below
		if n.alias != ref.Table || ref.Schema != "" {
			return nil, false
		}
		if n.renamed {
			return nil, true
		}
		var f found
		c.look(n, ref.Name, &f)
		if col, ok, _ := f.one(); ok && col.name == ref.Name {
			return col.leaf, true
		}
		return nil, true
	}
	if l, seen := c.namedIn(n.left, ref); seen {
		return l, true
	}
	return c.namedIn(n.right, ref)
}

// family returns the family of a column.
func (col colID) family() family {
	l := col.leaf
	for i := range l.cols {
		if l.cols[i].name == col.name {
			return l.cols[i].fam
		}
	}
	if l.rel != nil && !l.complete {
		for _, e := range l.rel.entries {
			if e.column == col.name {
				return familyOf(e.typ)
			}
		}
	}
	return famUnknown
}

// keyColumn returns the leaf's column that holds the column of that name of its table; ok is false where it can't be
// referred to.
func (l *leaf) keyColumn(base string) (colID, bool) {
	for i := range l.cols {
		if l.cols[i].base == base {
			return colID{l, l.cols[i].name}, true
		}
	}
	if l.complete {
		return colID{}, false
	}
	for i := range l.cols {
		if l.cols[i].name == base { // another column was given that name
			return colID{}, false
		}
	}
	return colID{l, base}, true
}
