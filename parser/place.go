package parser

import (
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// A parameter without a declared type has the one that PostgreSQL infers where it first meets it, whatever stands beside it elsewhere.

// place is where a parameter stands: its location in the text, and the type that a cast gives it there; empty where it is a column's or anything else's, which
// is taken to be what the key's is.
type place struct {
	at int32
	of string
}

// stands notes a place of a parameter; of what it is told first at a location counts.
func (u *unit) stands(p *pg_query.ParamRef, of string) {
	first, known := u.places[p.Number]
	switch {
	case !known:
		if u.places == nil {
			u.places = make(map[int32]place)
		}
		u.places[p.Number] = place{p.Location, of}
	case first.at == p.Location || u.elsewhere[p.Location]:
	default:
		if of != first.of {
			u.s.Mixed |= mixedBit(int(p.Number))
		}
		if u.elsewhere == nil {
			u.elsewhere = make(map[int32]bool)
		}
		u.elsewhere[p.Location] = true
	}
}

// castTo is what a cast to a type says of a parameter: nothing if it is to integers or texts, or to arrays of them, which say in binary format what they are of.
func castTo(t *pg_query.TypeName) string {
	name, ok := typeName(t)
	if !ok {
		return "a type with a modifier"
	}
	switch strings.TrimSuffix(name, "[]") {
	case "int2", "int4", "int8", "text", "varchar":
		return ""
	default:
		return name
	}
}

func mixedBit(param int) uint64 { return 1 << min(max(param, 1)-1, 63) }

// IsMixed reports whether parameter n, from 1, is one of Mixed.
func (s *Statement) IsMixed(n int) bool { return s.Mixed&mixedBit(n) != 0 }
