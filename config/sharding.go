package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// ShardedTable is a column whose value decides the shard.
type ShardedTable struct {
	Schema   string // empty = any
	Name     string // empty = every table that has the column
	Column   string
	DataType DataType
	// Mapping says which value lives where; nil = PostgreSQL's hash partitioning over the cluster's shards. Tables of one
	// cluster may share it.
	Mapping *Mapping
	Pos     Pos
}

// DataType is the type of a sharding key, by how PostgreSQL compares it.
type DataType uint8

// The data types.
const (
	Bigint DataType = iota + 1 // also integer and smallint
	UUID
	Text // varchar, text
)

// String returns the type's name as the configuration has it.
func (t DataType) String() string {
	switch t {
	case Bigint:
		return "bigint"
	case UUID:
		return "uuid"
	case Text:
		return "varchar"
	}
	return "unknown"
}

var dataTypes = map[string]DataType{"bigint": Bigint, "integer": Bigint, "smallint": Bigint, "uuid": UUID, "varchar": Text, "text": Text}

// Mapping is which value lives on which shard: first by list, then by range, then the default. The field of the
// column's data type is set, the other two are nil.
type Mapping struct {
	Ints  *Rules[int64]
	UUIDs *Rules[[16]byte]
	Texts *Rules[string] // compared by bytes
	// Default is the shard of whatever no rule covers, if HasDefault; else such a value has no shard.
	Default    topology.ShardID
	HasDefault bool

	// Names are what entries give to their tenants; those of a value, a range or the default have a number in it, from 1.
	Names        []tenant.Names
	DefaultNames int32
}

// Rules are lists and ranges of one data type, in parallel slices ready for searching.
type Rules[T any] struct {
	// Values are sorted and distinct; Values[i] lives on ValueShards[i].
	Values      []T
	ValueShards []topology.ShardID
	// Ranges are sorted and don't overlap: what is >= Starts[i] and < Ends[i] lives on RangeShards[i].
	Starts, Ends []T
	RangeShards  []topology.ShardID
	// OpenStart: Starts[0] means nothing, the first range has no lower bound. OpenEnd likewise for the last of Ends.
	OpenStart, OpenEnd bool

	ValueNames, RangeNames []int32 // of Mapping.Names; nil = none has any
}

// buildSharding reads [[sharded_tables]], their mappings in both forms, and [[omnisharded_tables]].
func (b *builder) buildSharding() {
	tables := b.tables(b.config, shardedTablesSection)
	built := map[*ruleSet]map[DataType]*Mapping{}
	seen := map[ruleKey]place{}
	var links []shardedLink
	for _, t := range tables {
		l := shardedLink{t: t, key: ruleKey{t.text("database"), t.text("column"), t.text("name"), t.text("schema")}}
		l.ok = !t.badKey("database") && !t.badKey("column") && !t.badKey("name") && !t.badKey("schema") &&
			!b.noCluster(l.key.database, t.placeOf("database"), "a sharded table")
		l.inline = inlineRules(t)
		if name := t.text("name"); strings.Contains(name, ".") {
			schema, table, _ := strings.Cut(name, ".")
			b.r.fail(t.placeOf("name"), "write schema = "+strconv.Quote(schema)+" and name = "+strconv.Quote(table), "name %q of a sharded table holds a schema", name)
		}
		if l.ok {
			if prev, ok := seen[l.key]; ok {
				b.r.fail(t.at(), "make one entry of them", "column %q of %s is sharded twice; the first is %s", l.key.column, l.key.what(), prev)
				l.ok = false
			} else {
				seen[l.key] = t.at()
			}
		}
		links = append(links, l)
	}
	for _, l := range links {
		b.buildTable(l, b.rulesFor(l, links), built)
	}
	b.unusedRules()
	b.buildOmnisharded()
}

// shardedLink is an entry of [[sharded_tables]] on its way.
type shardedLink struct {
	t      *table
	key    ruleKey
	inline *ruleSet
	ok     bool // its cluster is known
}

// what names the table for a message.
func (k ruleKey) what() string {
	switch {
	case k.table == "":
		return "every table of database " + strconv.Quote(k.database)
	case k.schema == "":
		return "table " + strconv.Quote(k.table) + " of database " + strconv.Quote(k.database)
	}
	return "table " + strconv.Quote(k.schema+"."+k.table) + " of database " + strconv.Quote(k.database)
}

func inlineRules(t *table) *ruleSet {
	if n := t.node.child("mapping"); n != nil {
		return n.rules
	}
	return nil
}

// rulesFor finds the mapping of a table: its own, or the entries of [[sharded_mappings]] that name it most closely.
// An entry without a table is for every table of its column, like an entry of [[sharded_tables]] without a name.
func (b *builder) rulesFor(l shardedLink, all []shardedLink) *ruleSet {
	var best *ruleSet
	for _, g := range b.config.rules.order {
		if g.key.database != l.key.database || g.key.column != l.key.column ||
			g.key.table != "" && g.key.table != l.key.table || g.key.schema != "" && g.key.schema != l.key.schema {
			continue
		}
		if l.inline != nil {
			// A mapping for all tables does not clash with the own one of this table when another table uses it.
			if g.key.table == l.key.table || !slices.ContainsFunc(all, func(o shardedLink) bool { return o.inline == nil && g.covers(o.key) }) {
				b.r.fail(b.config.at(g.off), "keep one of them", "column %q of %s has a mapping of its own already in %s", l.key.column, l.key.what(), b.config.at(l.inline.off))
				g.used = true
			}
			continue
		}
		if best == nil || g.closeness() > best.closeness() {
			best = g
		}
	}
	if best != nil {
		best.used = true
	}
	return cmp.Or(l.inline, best)
}

func (s *ruleSet) covers(k ruleKey) bool {
	return s.key.database == k.database && s.key.column == k.column && (s.key.table == "" || s.key.table == k.table) && (s.key.schema == "" || s.key.schema == k.schema)
}

func (s *ruleSet) closeness() int {
	n := 0
	if s.key.table != "" {
		n += 2
	}
	if s.key.schema != "" {
		n++
	}
	return n
}

// buildTable makes one ShardedTable and its mapping, unless another table has made that already.
func (b *builder) buildTable(l shardedLink, set *ruleSet, built map[*ruleSet]map[DataType]*Mapping) {
	t := l.t
	if t.badKey("data_type") {
		if set != nil {
			b.resolve(set, 0, l.key.database)
		}
		return
	}
	typeName := t.text("data_type")
	dt, ok := dataTypes[typeName]
	if !ok {
		b.r.warn(t.placeOf("data_type"), "the table counts as not sharded", "data_type %q is PgDog's and not yet supported by pgkennel", typeName)
		if set != nil {
			b.resolve(set, 0, l.key.database)
		}
		return
	}
	st := &ShardedTable{Schema: l.key.schema, Name: l.key.table, Column: l.key.column, DataType: dt, Pos: t.at().pos()}
	switch {
	case set != nil:
		if built[set] == nil {
			built[set] = map[DataType]*Mapping{}
		}
		if built[set][dt] == nil {
			built[set][dt] = b.resolve(set, dt, l.key.database)
		}
		st.Mapping = built[set][dt]
	case t.broken || b.config.broken:
	case t.has("mapping"):
		// It was there and was no mapping; that is reported.
	case t.text("lookup_query") != "":
		b.r.fail(t.placeOf("lookup_query"), "add a mapping", "lookup_query is not supported by pgkennel, and without a mapping rows would be placed by hash")
	case t.text("hasher") == "sha1":
		b.r.fail(t.placeOf("hasher"), `use a mapping, or hasher = "postgres" if no data is there yet`, "hasher sha1 is not supported by pgkennel")
	}
	if cl := b.clusters[l.key.database]; cl != nil && l.ok {
		cl.ShardedTables = append(cl.ShardedTables, st)
	}
}

// unusedRules reports entries of [[sharded_mappings]] that no sharded table has.
func (b *builder) unusedRules() {
	for _, g := range b.config.rules.order {
		if g.used || g.key.database == "" || g.key.column == "" || b.config.broken {
			continue
		}
		at := b.config.at(g.off)
		if b.noCluster(g.key.database, at, "a mapping") {
			continue
		}
		hint := "add [[sharded_tables]] with database = " + strconv.Quote(g.key.database) + " and column = " + strconv.Quote(g.key.column)
		if g.key.table != "" {
			hint += " and name = " + strconv.Quote(g.key.table)
		}
		if g.key.schema != "" {
			hint += "; schema is the table's here, a tenant's own is tenant_schema"
		}
		b.r.fail(at, hint, "a mapping is for column %q of %s, which no [[sharded_tables]] entry has", g.key.column, g.key.what())
	}
}

// buildOmnisharded reads the tables that are the same everywhere.
func (b *builder) buildOmnisharded() {
	seen := map[string]place{}
	for _, t := range b.tables(b.config, omnishardedSection) {
		if t.badKey("database") || t.badKey("tables") {
			continue
		}
		name := t.text("database")
		if b.noCluster(name, t.placeOf("database"), "omnisharded_tables") {
			continue
		}
		cl := b.clusters[name]
		for i, full := range t.value("tables").list {
			at := t.elemPlace("tables", i)
			tn := TableName{Name: full}
			if schema, table, ok := strings.Cut(full, "."); ok {
				tn = TableName{schema, table}
			}
			id := name + "\x00" + full
			prev, twice := seen[id]
			switch {
			case tn.Name == "" || strings.Contains(tn.Name, ".") || tn.Schema == "" && strings.HasPrefix(full, "."):
				b.r.fail(at, `write "table" or "schema.table"`, "%q is not the name of a table", full)
			case twice:
				b.r.fail(at, "remove one of them", "table %q of database %q is listed twice; the first is %s", full, name, prev)
			case cl != nil:
				b.shardedToo(cl, tn, at)
				cl.Omnisharded = append(cl.Omnisharded, tn)
			}
			seen[id] = at
		}
	}
}

// shardedToo reports a table that is said to be sharded and to be the same everywhere.
func (b *builder) shardedToo(cl *Cluster, tn TableName, at place) {
	for _, st := range cl.ShardedTables {
		if st.Name == tn.Name && (st.Schema == tn.Schema || st.Schema == "" || tn.Schema == "") {
			b.r.fail(at, "remove one of them", "table %q of database %q is sharded, in %s:%d, and can't be the same on every shard", tn.Name, cl.Name, st.Pos.File, st.Pos.Line)
			return
		}
	}
}
