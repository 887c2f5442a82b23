package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// sqlDefinitions reads the queries of views, with every name qualified, since search_path is pg_catalog. It takes a lock
// on each table that they read, and so is asked for a few views at a time.
const sqlDefinitions = `SELECT n.nspname, c.relname, pg_get_viewdef(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND (n.nspname, c.relname) IN (%s)`

// definitionsAtOnce bounds the locks of one reading: PostgreSQL has room for 64 a connection, unless told otherwise.
const definitionsAtOnce = 50

// definitions adds to a schema what the views over tables with one of the keys are made of. Without it such a view can't be
// seen through, which costs its readers a hint, and nothing else: so what fails here is left out, and the first failure returned.
func (c *catalog) definitions(ctx context.Context, s *topology.Schema, keys []KeyColumn) error {
	var first error
	for names := range slices.Chunk(viewsOver(s, keys), definitionsAtOnce) {
		list := make([]string, len(names))
		for i, n := range names {
			list[i] = "(" + literal(n.Schema) + ", " + literal(n.Name) + ")"
		}
		err := c.query(ctx, statements{{fmt.Sprintf(sqlDefinitions, strings.Join(list, ", ")), 3, func(f [][]byte) error {
			if rel := s.Relations[topology.QualifiedName{Schema: string(f[0]), Name: string(f[1])}]; rel != nil {
				rel.Definition = string(f[2])
			}
			return nil
		}}})
		if err != nil && first == nil {
			first = err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			_ = c.pg.Exec(ctx, "ROLLBACK").Close() // of the transaction that failed
		}
	}
	return first
}

// viewsOver returns the views that read a table with one of the keys, and the views that those are made of.
func viewsOver(s *topology.Schema, keys []KeyColumn) []topology.QualifiedName {
	needed := make(map[topology.QualifiedName]bool)
	isView := func(rel *topology.Relation) bool {
		return rel != nil && (rel.Kind == topology.View || rel.Kind == topology.Materialized)
	}
	keyed := func(q topology.QualifiedName) bool {
		rel := s.Relations[q]
		return rel != nil && slices.ContainsFunc(keys, func(k KeyColumn) bool { return rel.Column(k.Column) != nil })
	}
	for q, rel := range s.Relations {
		if !isView(rel) || !slices.ContainsFunc(rel.Reads, keyed) {
			continue
		}
		needed[q] = true
		for _, r := range rel.Reads {
			if isView(s.Relations[r]) {
				needed[r] = true
			}
		}
	}
	names := make([]topology.QualifiedName, 0, len(needed))
	for q := range needed {
		names = append(names, q)
	}
	slices.SortFunc(names, func(a, b topology.QualifiedName) int {
		return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name)
	})
	return names
}

// literal quotes a string; standard_conforming_strings is on.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
