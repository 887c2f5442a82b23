package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// ShardedSchema is a schema that lives on one shard.
type ShardedSchema struct {
	Name  string // empty = all that have no entry
	Shard topology.ShardID
	All   bool // it is the same on every shard
	Pos   Pos
}

// buildSchemas reads [[sharded_schemas]].
func (b *builder) buildSchemas() {
	type id struct{ database, name string }
	seen := map[id]place{}
	for _, t := range b.tables(b.config, shardedSchemasSection) {
		if t.badKey("database") || t.badKey("name") || t.badKey("shard") || b.noCluster(t.text("database"), t.placeOf("database"), "a sharded schema") {
			continue
		}
		s := ShardedSchema{Name: t.text("name"), All: t.bool("all"), Pos: t.at().pos()}
		if !s.All {
			s.Shard = t.shard()
		}
		database, what := t.text("database"), "schema "+strconv.Quote(s.Name)
		cl := b.clusters[database]
		switch prev, twice := seen[id{database, s.Name}]; {
		case t.has("name") && s.Name == "":
			b.r.fail(t.placeOf("name"), "leave it out for all schemas without an entry", "name of a sharded schema is empty")
			continue
		case twice && s.Name == "":
			b.r.fail(t.at(), "give one of them a name", "database %q has two entries for schemas without one; the first is %s", database, prev)
			continue
		case twice:
			b.r.fail(t.at(), "keep one of them", "%s of database %q is there twice; the first is %s", what, database, prev)
			continue
		case strings.HasPrefix(s.Name, "pg_") || s.Name == "information_schema":
			b.r.fail(t.placeOf("name"), "remove the entry", "%s is PostgreSQL's own, on every shard", what)
			continue
		case len(s.Name) > tenant.MaxName:
			b.r.fail(t.placeOf("name"), "", "%s has more than %d bytes, which PostgreSQL would cut off", what, tenant.MaxName)
			continue
		}
		seen[id{database, s.Name}] = t.at()
		if cl == nil {
			continue
		}
		if !s.All && !b.hasShard(database, s.Shard) {
			at := t.at()
			if t.has("shard") {
				at = t.placeOf("shard")
			}
			b.r.fail(at, "add an endpoint with shard = "+strconv.Itoa(int(s.Shard))+", or correct the number", "database %q has no shard %d", database, s.Shard)
			continue
		}
		if s.Name != "" {
			b.schemaContradicts(cl, s, t.at())
		}
		cl.Schemas = append(cl.Schemas, s)
		b.schemaAt[cl.Name] = append(b.schemaAt[cl.Name], t.at())
	}
}

// schemaContradicts reports tables that are said to be elsewhere than their schema.
func (b *builder) schemaContradicts(cl *Cluster, s ShardedSchema, at place) {
	for _, st := range cl.ShardedTables {
		if st.Schema == s.Name {
			b.r.fail(at, "remove one of them", "schema %q of database %q lives in one piece, but a table in it is sharded by %q, in %s:%d", s.Name, cl.Name, st.Column, st.Pos.File, st.Pos.Line)
			return
		}
	}
	for _, o := range cl.Omnisharded {
		if o.Schema == s.Name && !s.All {
			b.r.fail(at, "remove one of them", "schema %q of database %q lives on shard %d, but table %q is said to be the same on every shard", s.Name, cl.Name, s.Shard, o.String())
			return
		}
	}
}

// schema finds the entry of a schema; by its own name only.
func (c *Cluster) schema(name string) *ShardedSchema {
	for i := range c.Schemas {
		if c.Schemas[i].Name == name && name != "" {
			return &c.Schemas[i]
		}
	}
	return nil
}

// hasRest reports whether schemas without an entry live on one shard.
func (c *Cluster) hasRest() bool {
	return slices.ContainsFunc(c.Schemas, func(s ShardedSchema) bool { return s.Name == "" && !s.All })
}

// tenantShard is where sharded tables have the key of a tenant.
func (c *Cluster) tenantShard(column, key string) (topology.ShardID, bool) {
	for _, t := range c.ShardedTables {
		if t.Column != column || t.DataType != c.TenantType || key == "" {
			continue
		}
		if t.Mapping != nil {
			return t.Mapping.shardOf(t.DataType, key)
		}
		k, ok := sharding.ParseKey(keyTypes[t.DataType], key)
		if !ok {
			return 0, false
		}
		return sharding.NewHash(k.Type(), len(c.Shards)).Lookup(k)
	}
	return 0, false
}

// tenantsAtHome reports tenants that live elsewhere than their schema is said to be.
func (b *builder) tenantsAtHome(r *tenant.Registry) {
	for _, cl := range b.cfg.Clusters {
		for i := range cl.Schemas {
			s := &cl.Schemas[i]
			x := r.BySchema(cl.Name, s.Name)
			if s.Name == "" || x == nil {
				continue
			}
			if s.All {
				b.r.fail(b.schemaAt[cl.Name][i], "remove the entry", "schema %q is that of tenant %q, and can't be the same on every shard", s.Name, x.Name)
				continue
			}
			shard, ok := topology.ShardID(x.Shard), true //nolint:gosec // its maximum is smaller
			from := "its entry in [[tenants]]"
			if x.Shard < 0 {
				from = "the mapping of its key"
				shard, ok = cl.tenantShard(b.cfg.tenant.text("column"), x.Key)
			}
			if ok && shard != s.Shard {
				b.r.fail(b.schemaAt[cl.Name][i], "make them the same", "schema %q is on shard %d, but its tenant %q lives on shard %d by %s", s.Name, s.Shard, x.Name, shard, from)
			}
		}
	}
}
