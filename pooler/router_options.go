package pooler

import (
	"fmt"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// RouterOptions turns a cluster's configuration into what its router is made of. The schema is left out.
func RouterOptions(cfg *config.Cluster) (router.Options, error) {
	o := router.Options{Cluster: cfg.Name, Shards: len(cfg.Shards), TenantColumn: cfg.TenantColumn, Virtual: cfg.TenantType != 0}
	if o.Virtual {
		o.TenantType, o.TenantSchema = keyType(cfg.TenantType), cfg.TenantSchema()
	}
	for _, t := range cfg.Omnisharded {
		o.Omnisharded = append(o.Omnisharded, topology.QualifiedName{Schema: t.Schema, Name: t.Name})
	}
	for _, s := range cfg.Schemas {
		o.Schemas = append(o.Schemas, router.Schema{Name: s.Name, Shard: s.Shard, Common: s.All})
	}
	built := make(map[*config.Mapping]*sharding.Mapping) // tables may share one
	for _, t := range cfg.ShardedTables {
		typ := keyType(t.DataType)
		table := router.Table{Schema: t.Schema, Name: t.Name, Column: t.Column, Type: typ}
		if t.Mapping != nil {
			m, ok := built[t.Mapping]
			if !ok {
				var err error
				if m, err = mapping(typ, t.Mapping); err != nil {
					return o, fmt.Errorf("%s: sharded table %q: %w", t.Pos, t.Name, err)
				}
				built[t.Mapping] = m
			}
			table.Mapping = m
		}
		o.Tables = append(o.Tables, table)
	}
	return o, nil
}

func keyType(t config.DataType) sharding.KeyType {
	switch t {
	case config.UUID:
		return sharding.UUID
	case config.Text:
		return sharding.Text
	case config.Bigint:
	}
	return sharding.Bigint
}

// mapping makes the mapping that a configuration describes.
func mapping(t sharding.KeyType, m *config.Mapping) (*sharding.Mapping, error) {
	b := sharding.NewBuilder(t)
	var err error
	switch t {
	case sharding.Bigint:
		err = addRules(b, m.Ints, sharding.BigintKey)
	case sharding.UUID:
		err = addRules(b, m.UUIDs, sharding.UUIDKey)
	case sharding.Text:
		err = addRules(b, m.Texts, sharding.TextKey)
	}
	if err != nil {
		return nil, err
	}
	if m.HasDefault {
		if err := b.Default(m.Default); err != nil {
			return nil, err
		}
	}
	return b.Build()
}

func addRules[T any](b *sharding.Builder, r *config.Rules[T], key func(T) sharding.Key) error {
	if r == nil {
		return nil
	}
	for i, v := range r.Values {
		if err := b.Value(key(v), r.ValueShards[i]); err != nil {
			return err
		}
	}
	for i, shard := range r.RangeShards {
		var start, end *sharding.Key
		if i > 0 || !r.OpenStart {
			k := key(r.Starts[i])
			start = &k
		}
		if i < len(r.RangeShards)-1 || !r.OpenEnd {
			k := key(r.Ends[i])
			end = &k
		}
		if err := b.Range(start, end, shard); err != nil {
			return err
		}
	}
	return nil
}
