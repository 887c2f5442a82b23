package topology

import "slices"

// RelationKind is the kind of a relation, by pg_class.relkind.
type RelationKind uint8

// The kinds of relations that matter to routing.
const (
	Table        RelationKind = iota + 1 // ordinary, partitioned, foreign table, partition
	View                                 // view
	Materialized                         // materialised view
	Sequence
)

// Column is a column of a relation, in the order of pg_attribute.attnum, dropped ones left out.
type Column struct {
	Name string
	// Type is the name of the base type as pg_type.typname has it: int8, int4, int2, uuid, varchar, text, bpchar ...; domains are resolved to their base type.
	Type string
	// OID is the base type's.
	OID uint32
	// Generated: GENERATED ALWAYS AS (...). COPY without a column list leaves the column out; an INSERT without one
	// counts it, and takes nothing but DEFAULT for it.
	Generated bool
}

// Relation is a table, view or sequence. Those of pg_catalog and information_schema are listed without columns.
type Relation struct {
	Schema, Name string
	Kind         RelationKind
	Columns      []Column
	// Reads are the relations that a view or materialised view reads, directly and through other views, by QualifiedName.
	// A view that calls functions of users' own has Calls set. A table has them too, for what its rules do.
	Reads []QualifiedName
	Calls bool
	// Definition is the query of a view or materialised view as pg_get_viewdef gives it while search_path is pg_catalog: with every
	// name qualified. The router sees through a view by it; without it, what reads sharded tables through the view needs a hint.
	Definition string
	// Parents are the tables that this one is a partition of or inherits from, directly and through others.
	Parents []QualifiedName
}

// Column returns the relation's column by name, nil if it has none.
func (r *Relation) Column(name string) *Column {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return &r.Columns[i]
		}
	}
	return nil
}

// QualifiedName is schema and name.
type QualifiedName struct{ Schema, Name string }

// Schema is what is known of a cluster's relations and functions: an immutable snapshot of the catalogs.
type Schema struct {
	// Epoch grows with every snapshot of the same cluster.
	Epoch     uint64
	Relations map[QualifiedName]*Relation
	// Functions are names of functions in schemas other than pg_catalog and information_schema: QualifiedName -> true.
	Functions map[QualifiedName]bool
	// FunctionNames are the names of Functions without schema.
	FunctionNames map[string]bool
	// SearchPaths are the values of search_path that the server gives its users by ALTER ROLE, as lists of identifiers; "" is for who has none of
	// its own, by ALTER DATABASE or the server's configuration.
	SearchPaths map[string]string
}

// SearchPath is the search_path that a session of user's begins with, as a list of identifiers in which "$user" may stand.
func (s *Schema) SearchPath(user string) string {
	if s != nil {
		if path, ok := s.SearchPaths[user]; ok {
			return path
		}
		if path, ok := s.SearchPaths[""]; ok {
			return path
		}
	}
	return `"$user", public`
}

// Lookup finds a relation as PostgreSQL would: in schema when given, else along searchPath; pg_catalog is searched
// first when searchPath does not name it. Temporary relations are not known. Nil if there is none.
func (s *Schema) Lookup(schema, name string, searchPath []string) *Relation {
	if s == nil {
		return nil
	}
	if schema != "" {
		return s.Relations[QualifiedName{schema, name}]
	}
	if !slices.Contains(searchPath, "pg_catalog") {
		if r := s.Relations[QualifiedName{"pg_catalog", name}]; r != nil {
			return r
		}
	}
	for _, p := range searchPath {
		if r := s.Relations[QualifiedName{p, name}]; r != nil {
			return r
		}
	}
	return nil
}
