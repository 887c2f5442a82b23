package config

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// checkNames checks the names that each entry of a mapping gives to its tenants, by itself.
func (b *builder) checkNames(set *ruleSet) {
	if len(set.names) == 0 {
		return
	}
	single := make([]bool, len(set.names)+1) // the entry is one key's
	for _, l := range set.lists {
		single[set.named[l.shardOff]] = l.n == 1
	}
	c := capped{r: b.r, max: maxListed}
	for i, n := range set.names {
		at := b.config.at(n.off)
		for _, name := range []struct {
			what string
			tpl  tenant.Template
		}{{"schema", n.Schema}, {"role", n.Role}} {
			switch {
			case name.tpl == "":
			case name.tpl.Check() != nil:
				c.fail(at, "", "%s of a mapping: %s", name.what, name.tpl.Check())
			case name.tpl.Distinct() && !name.tpl.ByKey():
				c.fail(at, "it can have {key}", "%s %q of a mapping wants more of a tenant than its key", name.what, name.tpl)
			case !name.tpl.Distinct() && !single[i+1]:
				c.fail(at, "put {key} in it, or give each key an entry of its own", "%s %q of a mapping would be shared by all tenants of its entry", name.what, name.tpl)
			}
		}
	}
	c.end("names in mappings")
}

// numberNames gives numbers to the names that are in use, in the order of what they are for, whatever order they are written in.
func (m *Mapping) numberNames(written []rawNames) (used []rawNames) {
	if len(written) == 0 {
		return nil
	}
	number := make([]int32, len(written)+1)
	see := func(list []int32) {
		for i, n := range list {
			if n > 0 && number[n] == 0 {
				used = append(used, written[n-1])
				m.Names = append(m.Names, written[n-1].Names)
				number[n] = int32(len(used)) //nolint:gosec // smaller than the file
			}
			list[i] = number[n]
		}
	}
	switch {
	case m.Ints != nil:
		see(m.Ints.ValueNames)
		see(m.Ints.RangeNames)
	case m.UUIDs != nil:
		see(m.UUIDs.ValueNames)
		see(m.UUIDs.RangeNames)
	case m.Texts != nil:
		see(m.Texts.ValueNames)
		see(m.Texts.RangeNames)
	}
	rest := []int32{m.DefaultNames}
	see(rest)
	m.DefaultNames = rest[0]
	return used
}

// mappedNames finds the names that mappings give to tenants, by cluster.
func (b *builder) mappedNames() map[string]*tenant.Mapped {
	mt := b.cfg.tenant
	out := make(map[string]*tenant.Mapped)
	for _, cl := range b.cfg.Clusters {
		var first *Mapping
		var seen []*Mapping // tables may share one
		for _, t := range cl.ShardedTables {
			m := t.Mapping
			if m == nil || len(m.Names) == 0 || slices.Contains(seen, m) {
				continue
			}
			seen = append(seen, m)
			at := b.namesAt(m, 0)
			switch {
			case mt.doc == nil:
				b.r.fail(at, "say there how tenants are kept apart", "schema and role of a mapping need a section [multi_tenant]")
			case !mt.has("column") && mt.badKey("column"):
			case t.Column != mt.text("column"):
				b.r.fail(at, "leave them out, or correct the column", "schema and role of a mapping are for tenants, whose column in [multi_tenant] is %q and not %q", mt.text("column"), t.Column)
			case t.DataType != cl.TenantType:
				b.r.fail(at, "data_type of both has to be the same", "schema and role of a mapping are for tenants, whose keys are %s and not %s", cl.TenantType, t.DataType)
			case first != nil:
				b.r.fail(at, "keep them in one, or use [[sharded_mappings]] for all tables", "two mappings of database %q give schemas and roles to tenants; the first is %s", cl.Name, b.namesAt(first, 0))
			default:
				first, b.mapped[cl.Name] = m, m
				out[cl.Name] = m.mapped(t.DataType)
			}
		}
	}
	return out
}

// namesAt is where the names of an entry of a mapping are written.
func (b *builder) namesAt(m *Mapping, entry int) place { return b.config.at(b.written[m][entry].off) }

// givesNames reports whether a mapping gives names to tenants.
func (c *Config) givesNames() bool {
	return slices.ContainsFunc(c.Clusters, func(cl *Cluster) bool {
		return slices.ContainsFunc(cl.ShardedTables, func(t *ShardedTable) bool { return t.Mapping != nil && len(t.Mapping.Names) > 0 })
	})
}

// mapped is the mapping as the directory of tenants has it.
func (m *Mapping) mapped(t DataType) *tenant.Mapped {
	x := &tenant.Mapped{Entries: m.Names, KeyByte: func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' }}
	open := func(names []int32) {
		for _, n := range names {
			if n > 0 && !slices.Contains(x.Open, int(n-1)) {
				x.Open = append(x.Open, int(n-1))
			}
		}
	}
	open([]int32{m.DefaultNames})
	var values, ranges []int32
	switch t {
	case Bigint:
		x.KeyByte = func(c byte) bool { return c >= '0' && c <= '9' || c == '-' }
		values, ranges = m.Ints.ValueNames, m.Ints.RangeNames
		x.Listed = m.Ints.listed(func(v int64) string { return strconv.FormatInt(v, 10) })
	case UUID:
		x.KeyByte = func(c byte) bool { return c >= 'a' && c <= 'f' || c >= '0' && c <= '9' || c == '-' }
		values, ranges = m.UUIDs.ValueNames, m.UUIDs.RangeNames
		x.Listed = m.UUIDs.listed(showUUID)
	case Text:
		values, ranges = m.Texts.ValueNames, m.Texts.RangeNames
		x.Listed = m.Texts.listed(func(v string) string { return v })
	}
	open(ranges)
	x.Find = func(key string) int {
		switch value, span, ok := m.locate(t, key); {
		case !ok:
			return -1
		case value >= 0:
			return int(nameOf(values, value)) - 1
		case span >= 0:
			return int(nameOf(ranges, span)) - 1
		}
		return int(m.DefaultNames) - 1
	}
	return x
}

// listed yields the listed values whose entries have names, and the numbers of these.
func (r *Rules[T]) listed(show func(T) string) func(func(string, int) bool) {
	return func(yield func(string, int) bool) {
		for i, n := range r.ValueNames {
			if n > 0 && !yield(show(r.Values[i]), int(n-1)) {
				return
			}
		}
	}
}

// locate finds the value, or else the range, that places a key; neither is -1. It reports false for what is no key as PostgreSQL prints it.
func (m *Mapping) locate(t DataType, key string) (value, span int, ok bool) {
	k, ok := sharding.ParseKey(keyTypes[t], key)
	if !ok || k.String() != key {
		return -1, -1, false
	}
	switch t {
	case Bigint:
		n, msg := parseInt(key)
		if msg != "" {
			return -1, -1, false
		}
		value, span = locate(m.Ints, n, cmp.Compare[int64])
	case UUID:
		u, msg := decodeUUID(strconv.Quote(key))
		if msg != "" {
			return -1, -1, false
		}
		value, span = locate(m.UUIDs, u, func(a, c [16]byte) int { return bytes.Compare(a[:], c[:]) })
	case Text:
		value, span = locate(m.Texts, key, strings.Compare)
	}
	return value, span, true
}

func locate[T any](r *Rules[T], v T, compare func(a, b T) int) (value, span int) {
	if i, ok := slices.BinarySearchFunc(r.Values, v, compare); ok {
		return i, -1
	}
	first := 0
	if r.OpenStart {
		first = 1
	}
	i, found := slices.BinarySearchFunc(r.Starts[first:], v, compare)
	if i += first; !found {
		i-- // the last range that begins before it
	}
	if i >= 0 && i < len(r.Ends) && (i == len(r.Ends)-1 && r.OpenEnd || compare(v, r.Ends[i]) < 0) {
		return -1, i
	}
	return -1, -1
}

// shardOf is where a key lives.
func (m *Mapping) shardOf(t DataType, key string) (topology.ShardID, bool) {
	value, span, ok := m.locate(t, key)
	if !ok {
		return 0, false
	}
	var values, ranges []topology.ShardID
	switch t {
	case Bigint:
		values, ranges = m.Ints.ValueShards, m.Ints.RangeShards
	case UUID:
		values, ranges = m.UUIDs.ValueShards, m.UUIDs.RangeShards
	case Text:
		values, ranges = m.Texts.ValueShards, m.Texts.RangeShards
	}
	switch {
	case value >= 0:
		return values[value], true
	case span >= 0:
		return ranges[span], true
	}
	return m.Default, m.HasDefault
}

// nameOf is the number of the names of value or range i, 0 = none.
func nameOf(names []int32, i int) int32 {
	if names == nil {
		return 0
	}
	return names[i]
}
