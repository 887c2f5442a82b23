package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// The statements that read a schema. They are few and whole: ten thousand tables cost as many round trips as ten.
// Temporary and TOAST relations are left out; those of the system are listed by name only.
const (
	sqlRelations = `SELECT c.oid, n.nspname, c.relname, c.relkind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND n.nspname !~ '^pg_(toast|temp)'`

	// Expects a further condition, or nothing.
	sqlColumns = `SELECT a.attrelid, a.attname, a.atttypid, a.attgenerated <> ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' %s ORDER BY a.attrelid, a.attnum`

	// The types of columns, and domains with what they are based on.
	sqlTypes = `SELECT t.oid, t.typname, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE 0 END FROM pg_type t
WHERE t.typtype = 'd' OR t.oid IN (SELECT typbasetype FROM pg_type WHERE typtype = 'd')
OR t.oid IN (SELECT a.atttypid FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped)`

	// What rules refer to. A view is its rule on SELECT; the other rules are what a write does beside or instead.
	sqlReads = `SELECT DISTINCT r.ev_class, d.refobjid
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.refobjid <> r.ev_class AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

	// Rules that run functions which may read anything: those that are not PostgreSQL's own (directly or as operators;
	// 16384 is FirstNormalObjectId), and PostgreSQL's own that run SQL which they are given, or read a table by name.
	// The latter leave no dependency, only their number in the stored tree.
	sqlCalls = `SELECT DISTINCT r.ev_class
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (
EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384)
OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN (
'query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'cursor_to_xml', 'cursor_to_xmlschema',
'table_to_xml', 'table_to_xmlschema', 'table_to_xml_and_xmlschema', 'schema_to_xml', 'schema_to_xmlschema',
'schema_to_xml_and_xmlschema', 'database_to_xml', 'database_to_xmlschema', 'database_to_xml_and_xmlschema',
'ts_stat', 'ts_rewrite', 'lo_get', 'loread', 'pg_read_file', 'pg_read_binary_file')
AND strpos(r.ev_action::text, ':funcid ' || p.oid || ' ') > 0))`

	sqlFunctions = `SELECT DISTINCT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_temp' AND (n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.oid >= 16384)`

	sqlParents = `SELECT i.inhrelid, i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE c.relkind IN ('r', 'p', 'f')`

	// What search_path sessions begin with, the most general first: the server's configuration (which our own session can't tell if it
	// has one of its own), the database's, the roles', and the roles' in this database.
	sqlSearchPaths = `SELECT '', reset_val FROM pg_settings WHERE name = 'search_path' AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) c
WHERE setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user)) AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND c LIKE 'search\_path=%')
UNION ALL (SELECT coalesce(r.rolname, ''), substr(c, length('search_path=') + 1)
FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE c LIKE 'search\_path=%' AND (s.setrole = 0 OR r.oid IS NOT NULL)
AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY s.setrole <> 0, s.setdatabase <> 0)`
)

var relationKinds = map[string]topology.RelationKind{
	"r": topology.Table, "p": topology.Table, "f": topology.Table,
	"v": topology.View, "m": topology.Materialized, "S": topology.Sequence,
}

// reading is a schema being put together.
type reading struct {
	relations map[uint32]*topology.Relation
	types     map[uint32]catalogType
	reads     map[uint32][]uint32
	calls     map[uint32]bool
	parents   map[uint32][]uint32
	functions map[topology.QualifiedName]bool
	paths     map[string]string
	names     map[string]string // so that names of schemas, columns and types are stored once
}

type catalogType struct {
	name string
	base uint32 // of a domain; 0 = it is none
}

func newReading() *reading {
	return &reading{
		relations: make(map[uint32]*topology.Relation),
		types:     make(map[uint32]catalogType),
		reads:     make(map[uint32][]uint32),
		calls:     make(map[uint32]bool),
		parents:   make(map[uint32][]uint32),
		functions: make(map[topology.QualifiedName]bool),
		paths:     make(map[string]string),
		names:     make(map[string]string),
	}
}

// schema reads everything.
func (c *catalog) schema(ctx context.Context) (*topology.Schema, error) {
	r := newReading()
	err := c.query(ctx, statements{
		{sqlRelations, 4, r.relation},
		{fmt.Sprintf(sqlColumns, ""), 4, r.column},
		{sqlTypes, 3, r.typ},
		{sqlReads, 2, r.edge(r.reads)},
		{sqlCalls, 1, r.call},
		{sqlFunctions, 2, r.function},
		{sqlParents, 2, r.edge(r.parents)},
		{sqlSearchPaths, 2, r.path},
	})
	if err != nil {
		return nil, err
	}
	return r.schema(), nil
}

// keyColumns reads only the relations and those of their columns that have the name of a key.
func (c *catalog) keyColumns(ctx context.Context, keys []KeyColumn) (*topology.Schema, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = "'" + strings.ReplaceAll(k.Column, "'", "''") + "'"
	}
	r := newReading()
	err := c.query(ctx, statements{
		{sqlRelations, 4, r.relation},
		{fmt.Sprintf(sqlColumns, "AND a.attname IN ("+strings.Join(names, ", ")+")"), 4, r.column},
		{sqlTypes, 3, r.typ},
	})
	if err != nil {
		return nil, err
	}
	return r.schema(), nil
}

func (r *reading) relation(f [][]byte) error {
	id, err := oid(f[0])
	if err != nil {
		return err
	}
	r.relations[id] = &topology.Relation{Schema: r.name(f[1]), Name: string(f[2]), Kind: relationKinds[string(f[3])]}
	return nil
}

func (r *reading) column(f [][]byte) error {
	id, err := oid(f[0])
	if err != nil {
		return err
	}
	typ, err := oid(f[2])
	if err != nil {
		return err
	}
	if rel := r.relations[id]; rel != nil {
		rel.Columns = append(rel.Columns, topology.Column{Name: r.name(f[1]), OID: typ, Generated: string(f[3]) == "t"})
	}
	return nil
}

func (r *reading) typ(f [][]byte) error {
	id, err := oid(f[0])
	if err != nil {
		return err
	}
	base, err := oid(f[2])
	if err != nil {
		return err
	}
	r.types[id] = catalogType{name: r.name(f[1]), base: base}
	return nil
}

func (r *reading) edge(m map[uint32][]uint32) func([][]byte) error {
	return func(f [][]byte) error {
		from, err := oid(f[0])
		if err != nil {
			return err
		}
		to, err := oid(f[1])
		if err != nil {
			return err
		}
		m[from] = append(m[from], to)
		return nil
	}
}

func (r *reading) call(f [][]byte) error {
	id, err := oid(f[0])
	if err != nil {
		return err
	}
	r.calls[id] = true
	return nil
}

func (r *reading) function(f [][]byte) error {
	r.functions[topology.QualifiedName{Schema: r.name(f[0]), Name: string(f[1])}] = true
	return nil
}

func (r *reading) path(f [][]byte) error {
	r.paths[string(f[0])] = string(f[1])
	return nil
}

func (r *reading) name(b []byte) string {
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	s := string(b)
	r.names[s] = s
	return s
}

func oid(b []byte) (uint32, error) {
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("object number: %w", err)
	}
	return uint32(n), nil
}

// schema resolves what was read.
func (r *reading) schema() *topology.Schema {
	s := &topology.Schema{
		Relations:     make(map[topology.QualifiedName]*topology.Relation, len(r.relations)),
		Functions:     r.functions,
		FunctionNames: make(map[string]bool, len(r.functions)),
		SearchPaths:   r.paths,
	}
	for f := range r.functions {
		s.FunctionNames[f.Name] = true
	}
	for id, rel := range r.relations {
		for i := range rel.Columns {
			col := &rel.Columns[i]
			col.OID, col.Type = r.baseType(col.OID)
		}
		rel.Parents = r.reach(r.parents, id, func(uint32) bool { return true }, nil)
		if len(r.reads[id]) > 0 || r.calls[id] {
			// Reading a view does what the views in it do. It does not do what the rules of tables in it do; a write
			// to a table with rules may.
			table := rel.Kind == topology.Table
			rel.Reads = r.reach(r.reads, id, func(via uint32) bool { return table || r.isView(via) },
				func(at uint32) { rel.Calls = rel.Calls || (r.calls[at] && (at == id || table || r.isView(at))) })
		}
		s.Relations[topology.QualifiedName{Schema: rel.Schema, Name: rel.Name}] = rel
	}
	return s
}

func (r *reading) isView(id uint32) bool {
	rel := r.relations[id]
	return rel != nil && (rel.Kind == topology.View || rel.Kind == topology.Materialized)
}

// baseType follows domains down to the type that holds the value.
func (r *reading) baseType(id uint32) (uint32, string) {
	t := r.types[id]
	for range 64 { // deeper nesting is nobody's, and a cycle PostgreSQL's bug
		if t.base == 0 {
			break
		}
		id, t = t.base, r.types[t.base]
	}
	return id, t.name
}

// reach returns the relations that can be reached from one over the edges, going on from those that through allows;
// it visits each, the start included.
func (r *reading) reach(edges map[uint32][]uint32, from uint32, through func(uint32) bool, visit func(uint32)) []topology.QualifiedName {
	seen := map[uint32]bool{from: true}
	stack := []uint32{from}
	var found []topology.QualifiedName
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visit != nil {
			visit(at)
		}
		if at != from && !through(at) {
			continue
		}
		for _, to := range edges[at] {
			rel := r.relations[to]
			if seen[to] || rel == nil {
				continue
			}
			seen[to] = true
			stack = append(stack, to)
			found = append(found, topology.QualifiedName{Schema: rel.Schema, Name: rel.Name})
		}
	}
	slices.SortFunc(found, func(a, b topology.QualifiedName) int {
		return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name)
	})
	return found
}

// differences tells where the sharding keys of two shards are not the same.
func differences(one, other *topology.Schema, keys []KeyColumn) []string {
	var all []string
	for name, rel := range one.Relations {
		if rel.Kind != topology.Table {
			continue
		}
		for _, k := range keys {
			col := rel.Column(k.Column)
			if col == nil || !k.covers(name) {
				continue
			}
			switch there := other.Relations[name]; {
			case there == nil:
				all = append(all, fmt.Sprintf("table %s.%s does not exist", name.Schema, name.Name))
			case there.Column(k.Column) == nil:
				all = append(all, fmt.Sprintf("table %s.%s has no column %s", name.Schema, name.Name, k.Column))
			case there.Column(k.Column).Type != col.Type:
				all = append(all, fmt.Sprintf("column %s.%s.%s has type %s instead of %s", name.Schema, name.Name, k.Column,
					there.Column(k.Column).Type, col.Type))
			}
		}
	}
	for name, rel := range other.Relations {
		for _, k := range keys {
			if rel.Kind == topology.Table && k.covers(name) && rel.Column(k.Column) != nil && one.Relations[name] == nil {
				all = append(all, fmt.Sprintf("table %s.%s exists only here", name.Schema, name.Name))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// covers reports whether the key is one of the table's.
func (k *KeyColumn) covers(table topology.QualifiedName) bool {
	return (k.Schema == "" || k.Schema == table.Schema) && (k.Table == "" || k.Table == table.Name)
}
