package router

import (
	"slices"

	"github.com/pgkennel/pgkennel/sharding"
)

// context is what holds for the rows of some leaves that matter: its own facts and those of the contexts around it.
type context struct {
	parent *context
	facts  []fact
	// strict: the rows may be matched by an outer join, whose made-up rows loose facts of the parents speak of.
	strict bool
	// never: no rows matter.
	never bool

	solutions map[sharding.KeyType]*solution
	busy      map[sharding.KeyType]bool
}

func (x *context) none() bool {
	for ; x != nil; x = x.parent {
		if x.never {
			return true
		}
	}
	return false
}

// within reports that x is y or one of the contexts inside it.
func (x *context) within(y *context) bool {
	for ; x != nil; x = x.parent {
		if x == y {
			return true
		}
	}
	return false
}

// all returns the facts that hold in x.
func (x *context) all() (facts []fact) {
	strict := false
	for ; x != nil; x = x.parent {
		for i := range x.facts {
			if !strict || !x.facts[i].loose {
				facts = append(facts, x.facts[i])
			}
		}
		strict = strict || x.strict
	}
	return facts
}

// solution is what follows from the facts of a context for keys of one type: classes of columns that are equal, and the
// sets that their common value is in.
type solution struct {
	typ     sharding.KeyType
	index   map[colID]int32
	cols    []colID
	parent  []int32 // of the class, by number of column
	sets    [][]from
	untyped []bool // by class: a column of unknown type is in it
}

// from is a set and the column that the statement says it of.
type from struct {
	set *set
	col colID
}

func (s *solution) number(col colID) int32 {
	if n, ok := s.index[col]; ok {
		return n
	}
	n := int32(len(s.cols))
	s.index[col] = n
	s.cols = append(s.cols, col)
	s.parent = append(s.parent, n)
	s.sets = append(s.sets, nil)
	s.untyped = append(s.untyped, col.family() == famUnknown)
	return n
}

func (s *solution) root(n int32) int32 {
	for s.parent[n] != n {
		s.parent[n] = s.parent[s.parent[n]]
		n = s.parent[n]
	}
	return n
}

func (s *solution) equal(a, b colID) {
	if !carries(a.family(), s.typ) || !carries(b.family(), s.typ) {
		return
	}
	x, y := s.root(s.number(a)), s.root(s.number(b))
	if x == y {
		return
	}
	if len(s.sets[x]) < len(s.sets[y]) {
		x, y = y, x
	}
	s.parent[y] = x
	s.sets[x] = append(s.sets[x], s.sets[y]...)
	s.untyped[x] = s.untyped[x] || s.untyped[y]
	s.sets[y] = nil
}

// carries reports that an equality with a column of family f keeps keys of type t what they are. Of a column of unknown
// type that is true of uuids, and of integers below 2^53 (see setExact); a text may be compared by other rules.
func carries(f family, t sharding.KeyType) bool {
	switch t {
	case presence:
		return true
	case sharding.Text:
		return f == famText
	case sharding.Bigint, sharding.UUID:
	}
	return f == famUnknown || f == familyOf(t)
}

func (s *solution) in(col colID, set *set) {
	r := s.root(s.number(col))
	s.sets[r] = append(s.sets[r], from{set, col})
}

// of returns the sets that the column's value is in, each once.
func (s *solution) of(col colID) (sets []*set) {
	n, ok := s.index[col]
	if !ok || s.typ != presence && !carries(col.family(), s.typ) {
		return nil
	}
	r := s.root(n)
	for _, f := range s.sets[r] {
		out := f.set
		if f.col != col && s.untyped[r] && s.typ == sharding.Bigint {
			out = out.exactly()
		}
		if !slices.Contains(sets, out) {
			sets = append(sets, out)
		}
	}
	return sets
}

// class returns the columns that are equal to col, itself included.
func (s *solution) class(col colID) (cols []colID) {
	n, ok := s.index[col]
	if !ok {
		return []colID{col}
	}
	r := s.root(n)
	for i := range s.cols {
		if s.root(int32(i)) == r {
			cols = append(cols, s.cols[i])
		}
	}
	return cols
}

// solve draws the conclusions for keys of type t, nil where it is at it already.
func (c *compiler) solve(x *context, t sharding.KeyType) *solution {
	if s := x.solutions[t]; s != nil {
		return s
	}
	if x.busy[t] {
		return nil
	}
	if x.busy == nil {
		x.busy, x.solutions = make(map[sharding.KeyType]bool), make(map[sharding.KeyType]*solution)
	}
	x.busy[t] = true
	s := c.conclude(x.all(), x, t)
	x.busy[t] = false
	x.solutions[t] = s
	return s
}

// conclude solves a list of facts, in context x.
func (c *compiler) conclude(facts []fact, x *context, t sharding.KeyType) *solution {
	s := &solution{typ: t, index: make(map[colID]int32)}
	c.work += 10 * (len(facts) + 1)
	var choices []*fact
	for i := range facts {
		switch f := &facts[i]; f.kind {
		case factEqual:
			s.equal(f.a, f.b)
		case factIn:
			s.in(f.a, f.set)
		case factOr:
			choices = append(choices, f)
		}
	}
	done := c.expand(s, x, t, 0)
	if len(choices) == 0 || c.tooComplex() {
		return s
	}
	var plain []fact
	for i := range facts {
		if facts[i].kind != factOr {
			plain = append(plain, facts[i])
		}
	}
	for _, or := range choices {
		c.choose(s, or, plain, x, t)
	}
	c.expand(s, x, t, done)
	return s
}

// choose adds what all branches of a choice have in common.
func (c *compiler) choose(s *solution, or *fact, plain []fact, x *context, t sharding.KeyType) {
	var branches []*solution
	for i := range or.branches {
		facts := append(slices.Clip(plain), or.branches[i].facts...)
		branches = append(branches, c.conclude(facts, x, t))
		if c.tooComplex() {
			return
		}
	}
	groups := make(map[string][]colID)
	for _, col := range branches[0].cols {
		c.work += 10 * len(branches)
		var args []*set
		known := s.of(col)
		key := make([]byte, 0, 4*len(branches))
		everywhere := true
		for _, br := range branches {
			n, ok := br.index[col]
			if !ok {
				everywhere = false
				break
			}
			r := br.root(n)
			key = append(key, byte(r>>24), byte(r>>16), byte(r>>8), byte(r))
			// What holds without the choice is not said again.
			more := slices.DeleteFunc(br.of(col), func(x *set) bool { return slices.Contains(known, x) })
			c.work += len(more) * (len(known) + 1)
			if len(more) > 0 {
				args = append(args, and(more))
			}
		}
		if !everywhere {
			continue
		}
		groups[string(key)] = append(groups[string(key)], col)
		if len(args) == len(branches) {
			s.in(col, &set{op: setOr, args: args})
		}
	}
	for _, cols := range groups {
		for _, col := range cols[1:] {
			s.equal(cols[0], col)
		}
	}
}

// expand adds what is known of the columns themselves, from number n on: what the block of a derived table says of its
// rows, and what was concluded for leaves on the other side of outer joins. It returns the number of columns done.
func (c *compiler) expand(s *solution, x *context, t sharding.KeyType, n int) int {
	for ; n < len(s.cols) && !c.tooComplex(); n++ {
		col := s.cols[n]
		l := col.leaf
		c.work += 10
		if e := c.exportOf(col, t); e != nil {
			for _, set := range e.sets {
				s.in(col, set)
			}
			if !l.optional || l.ctx != nil && x != nil && x.within(l.ctx) { // else of a row that was made up they are not equal
				for _, other := range e.equal {
					s.equal(col, other)
				}
			}
		}
		if l.ctx == nil || x == nil || x.within(l.ctx) || l.changed != nil && l.changed.assigns(col) {
			continue
		}
		if other := c.solve(l.ctx, t); other != nil { // rows of the leaf that matter are in these sets, or made up and NULL
			for _, set := range other.of(col) {
				s.in(col, set)
			}
		}
	}
	return n
}
