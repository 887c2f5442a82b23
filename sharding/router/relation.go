package router

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// relationClass is what a relation is to routing.
type relationClass uint8

const (
	// relCatalog: a system catalog, sequence or the like, which every shard has.
	relCatalog relationClass = iota
	// relTemp: a temporary table, which lives where the session's transaction is.
	relTemp
	// relPlain: an ordinary table that is not sharded: read on any shard.
	relPlain
	// relOmni: has the same rows on every shard.
	relOmni
	// relSharded: its rows live where their key says.
	relSharded
	// relUnknown: the schema does not know it; it may be anything, such as a view made a moment ago.
	relUnknown
	// relView: a view whose query is known and looked through.
	relView
	// relOpaqueView: a view over sharded tables whose query is not known.
	relOpaqueView
	// relHoused: a table that is on one shard, with all of its schema.
	relHoused
)

// relation is a relation that a statement names.
type relation struct {
	name  string             // for errors
	table *topology.Relation // nil = not known
	class relationClass
	// entries are the keys of a sharded table. One that is pinned says where the rows are; all that are must agree.
	// Of an unknown relation they are all it might have.
	entries []*entry
	// tenant: the tenant column must be pinned.
	tenant bool
	// rules: a write may do what the table's rules say: change or read other tables, call functions.
	rules bool
	// calls: a view calls functions of users' own.
	calls bool
	view  *parser.Statement // relView
	// heirs: it is not sharded, and shows the rows of sharded tables that inherit from it; heirsTenant: and of some that have the tenant column,
	// which it has not.
	heirs, heirsTenant bool
}

// hasKey reports that rows of the relation must be proven to be of one shard.
func (rel *relation) hasKey() bool { return rel.class == relSharded || rel.class == relUnknown }

func (rel *relation) column(name string) *topology.Column {
	if rel.table == nil {
		return nil
	}
	return rel.table.Column(name)
}

func isCatalog(schema string) bool {
	return schema == "pg_catalog" || schema == "information_schema" || schema == "pg_toast"
}

func isTemp(schema string) bool { return schema == "pg_temp" || strings.HasPrefix(schema, "pg_temp_") }

// relation finds out what t is.
func (c *compiler) relation(t *parser.Table) *relation {
	rel := c.findRelation(t)
	if rel.class != relTemp && !(rel.class == relCatalog && rel.table == nil && !c.r.placed(t.Schema)) {
		c.atHome(rel, t)
	}
	if !ascii(t.Schema) || !ascii(t.Name) || t.Schema == "" && slices.ContainsFunc(c.path, func(schema string) bool { return !ascii(schema) }) {
		c.beyondASCII = true
	}
	if c.notes != nil {
		*c.notes = append(*c.notes, rel.note())
	}
	return rel
}

func (c *compiler) findRelation(t *parser.Table) *relation {
	rel := &relation{name: t.Name}
	switch {
	case isTemp(t.Schema) || t.Temp:
		rel.class = relTemp
		return rel
	case isCatalog(t.Schema):
		if c.exposes(t.Schema, t.Name) {
			c.exposed("system table", t.Name)
		}
		return rel
	}
	c.foreign(t)
	if t.Schema == "" {
		c.usesPath = true
		if c.pathLost && !c.alike(t.Name) {
			refuse := c.st.needsHint
			if c.r.tenant != "" {
				refuse = c.st.needsOwn // tenants whose tables are their own go to their place, whatever is meant
			}
			refuse(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "table %q can't be found while search_path is not known", t.Name).
				WithRoutine(RefusalShardMissing).WithDetail("Several schemas may have a table of that name, and a statement in front of this one changes search_path to what is not known here.").
				WithHint("Name the table's schema."))
		}
	}
	if c.r.schema == nil {
		c.guess(rel, t)
		return rel
	}
	table := c.r.schema.Lookup(t.Schema, t.Name, c.path)
	if all := c.r.homonyms[t.Name]; table == nil && t.Schema == "" && c.pathLost && len(all) > 0 {
		table = all[0] // they are alike
	}
	switch {
	case table != nil:
		c.known(rel, table)
	case t.Schema == "" && c.systems(t.Name):
	default:
		rel.class, rel.entries, rel.tenant = relUnknown, c.possible(t.Name), c.r.tenant != ""
		if len(rel.entries) == 0 {
			rel.class = relPlain
		}
	}
	return rel
}

// systems reports that a name which the schema does not tell the meaning of is the system's. Where the schema lists the system's tables, it is none of
// them; else it is, if it is spelt like one and no schema comes before the system's.
func (c *compiler) systems(name string) bool {
	if c.r.schema != nil && c.r.schema.Relations[topology.QualifiedName{Schema: "pg_catalog", Name: "pg_class"}] != nil {
		return false
	}
	toast := strings.HasPrefix(name, "pg_toast_")
	if !toast && !isSystemName(name) && name != statStatements || slices.Index(c.path, "pg_catalog") > 0 {
		return false
	}
	if c.exposes("", name) {
		c.exposed("system table", name)
	}
	return true
}

// alike reports whether it makes no difference which of the relations called name is meant.
func (c *compiler) alike(name string) bool {
	if c.r.schema == nil {
		return false
	}
	all := c.r.homonyms[name]
	if len(all) > 0 && c.r.schema.Relations[topology.QualifiedName{Schema: "pg_catalog", Name: name}] != nil {
		return false
	}
	for i := 1; i < len(all); i++ {
		one, other := all[0], all[i]
		if one.Kind != topology.Table || other.Kind != topology.Table || !slices.Equal(one.Columns, other.Columns) ||
			!slices.Equal(c.r.keysOf(one), c.r.keysOf(other)) || c.r.isOmni(one.Schema, one.Name) != c.r.isOmni(other.Schema, other.Name) ||
			len(one.Reads)+len(other.Reads) > 0 || one.Calls || other.Calls || !c.r.together(one.Schema, other.Schema) {
			return false
		}
	}
	return true
}

// known classifies a relation of the schema.
func (c *compiler) known(rel *relation, table *topology.Relation) {
	if c.exposes(table.Schema, table.Name) {
		c.exposed("system table", table.Name)
	}
	if isCatalog(table.Schema) || table.Kind == topology.Sequence {
		c.needsSchema(table.Schema)
		return
	}
	rel.table = table
	rel.entries = c.r.keysOf(table)
	switch {
	case table.Kind == topology.View || table.Kind == topology.Materialized:
		c.view(rel)
		return
	case len(rel.entries) > 0:
		rel.class = relSharded
	case c.r.isOmni(table.Schema, table.Name):
		rel.class = relOmni
	default:
		rel.class = relPlain
	}
	rel.tenant = c.r.tenant != "" && table.Column(c.r.tenant) != nil
	rel.rules = len(table.Reads) > 0 || table.Calls
	for _, heir := range c.r.heirs[topology.QualifiedName{Schema: table.Schema, Name: table.Name}] {
		rel.heirs = rel.heirs || rel.class != relSharded && len(c.r.keysOf(heir)) > 0
		rel.heirsTenant = rel.heirsTenant || c.r.tenant != "" && !rel.tenant && heir.Column(c.r.tenant) != nil
	}
}

// view classifies a view.
func (c *compiler) view(rel *relation) {
	rel.entries = nil
	if parse := c.r.views[topology.QualifiedName{Schema: rel.table.Schema, Name: rel.table.Name}]; parse != nil {
		if rel.view = parse(); rel.view != nil && rel.view.Query != nil {
			rel.class = relView
			return
		}
	}
	rel.class = relPlain
	for _, q := range rel.table.Reads {
		if c.exposes(q.Schema, q.Name) {
			c.exposed("system table", q.Name)
		}
		read := c.r.schema.Relations[q]
		if read == nil || isCatalog(q.Schema) || read.Kind == topology.Sequence || read.Kind == topology.View {
			continue // what a view in the view reads is in Reads as well
		}
		if len(c.r.keysOf(read)) > 0 {
			rel.class = relOpaqueView
		}
		rel.tenant = rel.tenant || c.r.tenant != "" && read.Column(c.r.tenant) != nil
	}
	rel.calls = rel.table.Calls
}

// keysOf returns the entries that make a table sharded: those that name it or a table it is a part of, else those
// without a name whose column it has.
func (r *Router) keysOf(table *topology.Relation) (keys []*entry) {
	if r.placed(table.Schema) {
		return nil
	}
	keys = r.namedKeys(table.Schema, table.Name)
	for _, p := range table.Parents {
		for _, e := range r.namedKeys(p.Schema, p.Name) {
			if !slices.Contains(keys, e) {
				keys = append(keys, e)
			}
		}
	}
	if len(keys) > 0 || r.isOmni(table.Schema, table.Name) {
		return keys
	}
	for _, e := range r.nameless {
		if (e.schema == "" || e.schema == table.Schema) && table.Column(e.column) != nil {
			keys = append(keys, e)
		}
	}
	return keys
}

func (r *Router) namedKeys(schema, name string) (keys []*entry) {
	for _, e := range r.named[name] {
		if e.schema == "" || e.schema == schema {
			keys = append(keys, e)
		}
	}
	return keys
}

func (r *Router) isOmni(schema, name string) bool {
	if r.placed(schema) {
		return r.common[schema]
	}
	return r.omni[topology.QualifiedName{Schema: schema, Name: name}] || r.omni[topology.QualifiedName{Name: name}]
}

// guess classifies a relation while no schema is known.
func (c *compiler) guess(rel *relation, t *parser.Table) {
	for _, e := range c.r.named[t.Name] {
		if e.schema == "" || e.schema == t.Schema || t.Schema == "" && c.inPath(e.schema) {
			rel.entries = append(rel.entries, e)
		}
	}
	omni := c.r.isOmni(t.Schema, t.Name)
	if t.Schema == "" {
		for _, s := range c.path {
			omni = omni || c.r.isOmni(s, t.Name)
		}
	}
	switch {
	case t.Schema != "" && c.r.placed(t.Schema):
		rel.class = relPlain // until its home is found
		rel.tenant = c.r.tenant != ""
		return
	case len(rel.entries) > 0:
		rel.class = relSharded
	case omni:
		rel.class = relOmni
		return
	case t.Schema == "" && c.systems(t.Name):
		return
	default:
		for _, e := range c.r.nameless {
			if e.schema == "" || e.schema == t.Schema || t.Schema == "" && c.inPath(e.schema) {
				rel.entries = append(rel.entries, e)
			}
		}
		rel.class = relPlain
		if len(rel.entries) > 0 {
			rel.class = relSharded
		}
	}
	rel.tenant = c.r.tenant != ""
}

// possible returns the keys that a relation may have of which nothing is known but its name.
func (c *compiler) possible(name string) []*entry {
	if len(c.r.named[name]) > 0 {
		return c.r.named[name]
	}
	var keys []*entry
	for _, e := range c.r.entries {
		same := func(o *entry) bool { return o.column == e.column && o.mapping == e.mapping }
		if !slices.ContainsFunc(keys, same) {
			keys = append(keys, e)
		}
	}
	return keys
}

// family is the domain in which a column's values are compared.
type family uint8

const (
	famUnknown family = iota
	famBigint
	famUUID
	famText
	famOther
)

func familyOf(t sharding.KeyType) family {
	switch t {
	case sharding.Bigint:
		return famBigint
	case sharding.UUID:
		return famUUID
	case sharding.Text:
		return famText
	}
	return famUnknown
}

// familyOfType returns the family of a type by its internal name.
func familyOfType(name string) family {
	switch name {
	case "int8", "int4", "int2":
		return famBigint
	case "uuid":
		return famUUID
	case "text", "varchar":
		return famText
	}
	return famOther
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
