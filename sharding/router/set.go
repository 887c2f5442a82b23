package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
)

// setOp is how a set is made.
type setOp uint8

const (
	setValues setOp = iota // vals
	setAnd                 // what all args have
	setOr                  // what any of args has
	// setExact is its one argument, integers of 2^53 and more being uncertain: a column of unknown type stood between
	// them and the key, and it may be a float8.
	setExact
)

// set is a set of values that a column can have, as the statement writes them: not yet read as keys of a type.
type set struct {
	op   setOp
	vals []value
	args []*set
	// exact is the setExact of this set, once it was asked for; a message is compiled by one goroutine.
	exact *set
}

// exactly returns the set as what stands behind a column of unknown type.
func (s *set) exactly() *set {
	if s.exact == nil {
		s.exact = &set{op: setExact, args: []*set{s}}
	}
	return s.exact
}

// value is one member of a set, or for an array parameter any number of them.
type value struct {
	parser.Value
	use   sharding.Use
	array bool // of = ANY (value)
	// distinct: of IS NOT DISTINCT FROM, so that NULL is a member as well.
	distinct bool
	// isNull: of IS NULL.
	isNull bool
	// noBlanks: a text with blanks at its end may be stored without them.
	noBlanks bool
}

// storesNull reports that NULL is a member like others: it is stored, or found by IS NOT DISTINCT FROM.
func (v *value) storesNull() bool { return v.distinct || v.use == sharding.Assign }

func valueSet(vals ...value) *set { return &set{vals: vals} }

// loose reports that the set may hold the NULL of a row that an outer join made up.
func (s *set) loose() bool {
	for i := range s.vals {
		v := &s.vals[i]
		if v.isNull || v.distinct && (v.Kind == parser.ValueParam || v.Kind == parser.ValueNull) {
			return true
		}
	}
	for _, a := range s.args {
		if a.loose() {
			return true
		}
	}
	return false
}

// and returns the set of what all sets have; nil stands for everything.
func and(sets []*set) *set {
	switch len(sets) {
	case 0:
		return nil
	case 1:
		return sets[0]
	}
	return &set{op: setAnd, args: sets}
}
