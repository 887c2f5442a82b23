package secure

import (
	"slices"
	"strconv"
	"strings"
)

// A policy's expression is kept as a tree of nodes in text, {TYPE :field value ...}, in which a backslash takes the meaning from what follows
// it (PostgreSQL's outfuncs.c). What is wanted of it: which functions it calls, and how often.

// call is a function that an expression calls.
type call struct {
	oid uint32
	// wrapped: it is in a sub-select, so that it can be called once for a statement. varies: it depends on the row.
	wrapped, varies bool
}

// callsIn finds the calls in a tree, or in several one after the other.
func callsIn(tree string) []call {
	var (
		found []call
		kinds []string // of the nodes that are open
		open  []int    // the calls in found that they are; -1 = none
	)
	fields := strings.Fields(spaced(tree))
	for i, f := range fields {
		switch {
		case f == "{" && i+1 < len(fields):
			kind := fields[i+1]
			at := -1
			switch kind {
			case "FUNCEXPR":
				found = append(found, call{wrapped: slices.Contains(kinds, "SUBLINK")})
				at = len(found) - 1
			case "VAR":
				for _, o := range open {
					if o >= 0 {
						found[o].varies = true
					}
				}
			}
			kinds, open = append(kinds, kind), append(open, at)
		case f == "}" && len(kinds) > 0:
			kinds, open = kinds[:len(kinds)-1], open[:len(open)-1]
		case f == ":funcid" && i+1 < len(fields) && len(open) > 0 && open[len(open)-1] >= 0:
			if n, err := strconv.ParseUint(fields[i+1], 10, 32); err == nil {
				found[open[len(open)-1]].oid = uint32(n)
			}
		}
	}
	return found
}

// spaced puts blanks around braces that are no part of a name.
func spaced(tree string) string {
	var b strings.Builder
	for i := 0; i < len(tree); i++ {
		switch c := tree[i]; c {
		case '\\':
			b.WriteByte('_')
			i++
		case '{', '}':
			b.WriteByte(' ')
			b.WriteByte(c)
			b.WriteByte(' ')
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
