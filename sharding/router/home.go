package router

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Schema is a schema that lives on one shard. With an empty name it stands for all that have no entry.
type Schema struct {
	Name  string
	Shard topology.ShardID
	// Common: it is the same on every shard.
	Common bool
}

// home is a schema with a shard of its own that a statement needs; an empty name is the rest.
type home struct {
	schema string
	shard  topology.ShardID
}

func (r *Router) addSchemas(list []Schema) error {
	r.homes, r.common = make(map[string]topology.ShardID), make(map[string]bool)
	for i := range list {
		s := &list[i]
		switch {
		case s.Shard < 0 || int(s.Shard) >= r.shards:
			return fmt.Errorf("schema %q is on shard %d, but there are %d shards", s.Name, s.Shard, r.shards)
		case s.Common && s.Name != "":
			r.common[s.Name] = true
		case s.Common:
		case s.Name == "":
			r.rest = &s.Shard
		default:
			r.homes[s.Name] = s.Shard
		}
	}
	return nil
}

// SchemaShard is the shard of a schema that has one of its own.
func (r *Router) SchemaShard(schema string) (topology.ShardID, bool) {
	shard, ok := r.homes[schema]
	return shard, ok
}

// placed reports that schemas say where something is that is in schema, whatever its keys are.
func (r *Router) placed(schema string) bool {
	_, ok := r.homes[schema]
	return ok || r.common[schema]
}

// together reports whether two schemas are on the same shards.
func (r *Router) together(a, b string) bool {
	one, ok := r.homes[a]
	other, too := r.homes[b]
	return ok == too && one == other && r.common[a] == r.common[b]
}

// needsSchema notes that the statement has to run where a schema lives. It reports false for one that lives nowhere in particular.
func (c *compiler) needsSchema(schema string) bool {
	if shard, ok := c.r.homes[schema]; ok {
		c.st.live(home{schema, shard})
		return true
	}
	return false
}

// needsRest is needsSchema for a schema without an entry.
func (c *compiler) needsRest() bool {
	if c.r.rest == nil {
		return false
	}
	c.st.live(home{"", *c.r.rest})
	return true
}

func (st *statement) live(h home) {
	if slices.Contains(st.homes, h) {
		return
	}
	for _, other := range st.homes {
		if other.shard != h.shard && st.split == nil {
			st.split = crossSchemas(other, h)
		}
	}
	st.homes = append(st.homes, h)
}

// String names the schema for messages.
func (h home) String() string {
	if h.schema == "" {
		return "what is in no schema of [[sharded_schemas]]"
	}
	return "schema " + quote(h.schema)
}

func crossSchemas(a, b home) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "statement spans shards").WithRoutine(RefusalCrossShard).
		WithDetail("It needs %s and %s, which live on different shards.", a, b).WithHint("Send one statement for each of them.")
}

func schemaContradicts(h home) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "statement spans shards").WithRoutine(RefusalCrossShard).
		WithDetail("It needs %s, and rows whose sharding key lives on another shard.", h).WithHint("Send one statement for each of them.")
}

func hintAgainstSchema(h home) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "hint and schema name different shards").WithRoutine(RefusalCrossShard).
		WithDetail("The statement needs %s, which lives on another shard than the one that was addressed.", h).WithHint("Leave the hint out, or address the shard where the schema lives.")
}

func schemaElsewhere(h home) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "schema %q lives on another shard", h.schema).WithRoutine(RefusalCrossShard).
		WithDetail("The session belongs to a tenant, and its statements run where the tenant lives.").WithHint("Leave the schema out.")
}

// bySchemas reports whether the path, or names of schemas, can say where statements run.
func (r *Router) bySchemas() bool { return r.shards > 1 && (len(r.homes) > 0 || r.rest != nil) }

// atHome finds the home of a relation that was classified, and takes its keys from it where its schema says it all.
func (c *compiler) atHome(rel *relation, t *parser.Table) {
	if !c.r.bySchemas() && len(c.r.common) == 0 {
		return
	}
	schema := t.Schema
	if rel.table != nil {
		schema = rel.table.Schema
	}
	if schema == "" { // nobody knows it: it was made a moment ago, or the tables have not been read
		if c.pathLost {
			return
		}
		switch h, one := c.pathHome(); {
		case !one:
			c.st.needsPlace(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "table %q could be in schemas of different shards", t.Name).
				WithRoutine(RefusalShardMissing).WithDetail("It is not known yet, and search_path names schemas that live on different shards.").WithHint("Name the table's schema."))
			return
		case h != "":
			schema = h
		}
	}
	switch {
	case c.r.common[schema]:
		if rel.hasKey() || rel.class == relPlain {
			rel.class, rel.entries = relOmni, nil
		}
	case c.needsSchema(schema):
		if rel.hasKey() || rel.class == relPlain || rel.class == relOmni {
			rel.class, rel.entries = relHoused, nil
		}
	case rel.class == relPlain && c.needsRest():
		rel.class = relHoused
	}
	if rel.table != nil && rel.class != relView {
		for _, q := range rel.table.Reads { // by a view whose query is not known, or by rules
			c.needsSchema(q.Schema)
		}
	}
}

// pathHome is the first schema along the path that has a shard of its own, empty if none has. It reports false where the path has several on different shards.
func (c *compiler) pathHome() (schema string, one bool) {
	c.usesPath = true
	for _, s := range c.path {
		shard, ok := c.r.homes[s]
		switch {
		case !ok:
		case schema == "":
			schema = s
		case shard != c.r.homes[schema]:
			return "", false
		}
	}
	return schema, true
}

// places finds the shard of a utility statement by the schemas that it names, or makes things in.
func (c *compiler) places(s *parser.Statement) {
	if !c.r.bySchemas() {
		return
	}
	for _, schema := range s.Schemas {
		if !c.needsSchema(schema) && !c.r.common[schema] && !isCatalog(schema) && !isTemp(schema) {
			c.needsRest()
		}
	}
	for i := range s.Tables {
		c.placesTable(&s.Tables[i])
	}
	if len(s.Schemas) > 0 || len(s.Tables) > 0 || c.pathLost || !pathMatters(s) {
		return
	}
	if h, one := c.pathHome(); one && h != "" {
		c.needsSchema(h)
	} else if one {
		c.needsRest()
	}
}

// placesTable finds the home of a relation that a utility statement names, or makes.
func (c *compiler) placesTable(t *parser.Table) {
	if t.Temp || isTemp(t.Schema) || isCatalog(t.Schema) || c.r.common[t.Schema] {
		return
	}
	if t.Schema != "" {
		if !c.needsSchema(t.Schema) {
			c.needsRest()
		}
		return
	}
	if c.pathLost {
		return
	}
	h, one := c.pathHome()
	if !one && len(c.path) > 0 && c.r.placed(c.path[0]) { // where new things go
		h, one = c.path[0], true
	}
	if table := c.r.schema.Lookup("", t.Name, c.path); table != nil && !isCatalog(table.Schema) && table.Schema != h {
		if c.r.homes[table.Schema] == c.r.homes[h] && c.r.placed(table.Schema) && c.r.placed(h) {
			h, one = table.Schema, true
		} else if c.r.placed(table.Schema) || h != "" {
			return // one of that name is elsewhere: which is meant, only the server knows
		}
	}
	switch {
	case !one:
	case h != "":
		c.needsSchema(h)
	default:
		c.needsRest()
	}
}

// pathMatters reports whether what a statement makes, or calls, without naming a schema is looked up along the path: not roles, databases and the like.
func pathMatters(s *parser.Statement) bool {
	switch s.Kind {
	case parser.Call, parser.Do:
		return true
	case parser.DDL:
	default:
		return false
	}
	_, what, _ := strings.Cut(s.Tag, " ")
	switch what {
	case "TYPE", "DOMAIN", "FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "COLLATION", "CONVERSION", "STATISTICS",
		"TEXT SEARCH PARSER", "TEXT SEARCH DICTIONARY", "TEXT SEARCH TEMPLATE", "TEXT SEARCH CONFIGURATION":
		return true
	}
	return false
}

// callsAtHome finds the shard of functions that are users' own.
func (c *compiler) callsAtHome(list []parser.Function) {
	if !c.r.bySchemas() {
		return
	}
	for _, f := range list {
		switch {
		case f.Schema != "":
			c.needsSchema(f.Schema)
		case c.builtin(f) || c.pathLost:
		default:
			h, one := c.pathHome()
			if !one {
				c.st.needsPlace(shardMissing("function " + quote(f.Name)))
			} else if h != "" {
				c.st.leans = &home{h, c.r.homes[h]}
			} else if c.r.rest != nil && c.st.leans == nil {
				c.st.leans = &home{"", *c.r.rest}
			}
		}
	}
}
