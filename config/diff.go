package config

import (
	"fmt"
	"reflect"
	"slices"
)

// Change is one thing in which two configurations differ.
type Change struct {
	// What is a key such as general.port, or a thing such as database "prod" or user "app" of database "prod".
	What string
	// Old and New are its values, or "added", "removed" and "changed" in New. Secrets are "***".
	Old, New string
	// Restart says that a running pgkennel keeps the old value until it is started anew.
	Restart bool
}

// String returns the change as a line for people.
func (c Change) String() string {
	s := c.What + ": " + c.New
	if c.Old != "" {
		s = c.What + ": " + c.Old + " -> " + c.New
	}
	if c.Restart {
		s += " (needs a restart)"
	}
	return s
}

// Diff returns what is different between a configuration and its successor, in a fixed order.
func Diff(old, new *Config) []Change {
	var out []Change
	for _, pair := range [][2]*table{{old.general, new.general}, {old.admin, new.admin}, {old.tcp, new.tcp}, {old.directory, new.directory}, {old.provision, new.provision}, {old.kubernetes, new.kubernetes}, {old.tenant, new.tenant}} {
		for _, k := range pair[0].sec.keys {
			a, b := pair[0].value(k.name), pair[1].value(k.name)
			if !k.notYet && !a.same(b) {
				out = append(out, Change{What: pair[0].sec.name + "." + k.name, Old: a.show(), New: b.show(), Restart: k.restart})
			}
		}
	}
	return slices.Concat(out, diffClusters(old, new), diffUsers(old, new), diffTenants(old, new), diffPeers(old, new))
}

// show prints a value for people; what is not set is "not set".
func (v value) show() string {
	if !v.set && v.key.def == "" {
		return "not set"
	}
	return v.toml()
}

func diffClusters(old, new *Config) []Change {
	var out []Change
	for _, a := range old.Clusters {
		what := fmt.Sprintf("database %q", a.Name)
		b := new.Cluster(a.Name)
		if b == nil {
			out = append(out, Change{What: what, New: "removed"})
			continue
		}
		if !slices.EqualFunc(a.Shards, b.Shards, func(s, t []*Endpoint) bool { return slices.EqualFunc(s, t, sameEndpoint) }) {
			out = append(out, Change{What: "endpoints of " + what, New: "changed"})
		}
		if !slices.EqualFunc(a.ShardedTables, b.ShardedTables, sameSharding) || !slices.Equal(a.Omnisharded, b.Omnisharded) ||
			!slices.EqualFunc(a.Schemas, b.Schemas, func(s, t ShardedSchema) bool {
				return s.Name == t.Name && s.All == t.All && (s.All || s.Shard == t.Shard)
			}) {
			out = append(out, Change{What: "sharding of " + what, New: "changed"})
		}
	}
	for _, b := range new.Clusters {
		if old.Cluster(b.Name) == nil {
			out = append(out, Change{What: fmt.Sprintf("database %q", b.Name), New: "added"})
		}
	}
	return out
}

func sameEndpoint(a, b *Endpoint) bool {
	return a.Shard == b.Shard && a.Role == b.Role && a.Host == b.Host && a.Port == b.Port && a.DatabaseName == b.DatabaseName && a.t.same(b.t)
}

func sameSharding(a, b *ShardedTable) bool {
	return a.Schema == b.Schema && a.Name == b.Name && a.Column == b.Column && a.DataType == b.DataType &&
		sameMapping(a.Mapping, b.Mapping)
}

func sameMapping(a, b *Mapping) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.HasDefault == b.HasDefault && a.Default == b.Default && a.DefaultNames == b.DefaultNames && slices.Equal(a.Names, b.Names) &&
		sameRules(a.Ints, b.Ints) && sameRules(a.UUIDs, b.UUIDs) && sameRules(a.Texts, b.Texts)
}

func sameRules[T comparable](a, b *Rules[T]) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.OpenStart == b.OpenStart && a.OpenEnd == b.OpenEnd && slices.Equal(a.Values, b.Values) && slices.Equal(a.ValueShards, b.ValueShards) &&
		slices.Equal(a.Starts, b.Starts) && slices.Equal(a.Ends, b.Ends) && slices.Equal(a.RangeShards, b.RangeShards) &&
		slices.Equal(a.ValueNames, b.ValueNames) && slices.Equal(a.RangeNames, b.RangeNames)
}

func diffUsers(old, new *Config) []Change {
	var out []Change
	for _, a := range old.Users {
		what := fmt.Sprintf("user %q of database %q", a.Name, a.Database)
		switch b := new.User(a.Name, a.Database); {
		case b == nil:
			out = append(out, Change{What: what, New: "removed"})
		case a.PoolerMode != b.PoolerMode || a.Pin != b.Pin || a.PasswordHash != b.PasswordHash || !reflect.DeepEqual(a.Passwords, b.Passwords) || !a.t.same(b.t, "database", "databases", "all_databases"):
			out = append(out, Change{What: what, New: "changed"})
		}
	}
	for _, b := range new.Users {
		if old.User(b.Name, b.Database) == nil {
			out = append(out, Change{What: fmt.Sprintf("user %q of database %q", b.Name, b.Database), New: "added"})
		}
	}
	return out
}

func diffTenants(old, new *Config) []Change {
	named := func(c *Config) map[string]*table {
		m := make(map[string]*table, len(c.tenants))
		for _, t := range c.tenants {
			m[t.text("name")] = t
		}
		return m
	}
	was, is := named(old), named(new)
	var out []Change
	for _, t := range old.tenants {
		name := t.text("name")
		switch now := is[name]; {
		case now == nil:
			out = append(out, Change{What: fmt.Sprintf("tenant %q", name), New: "removed"})
		case !t.same(now):
			out = append(out, Change{What: fmt.Sprintf("tenant %q", name), New: "changed"})
		}
	}
	for _, t := range new.tenants {
		if name := t.text("name"); was[name] == nil {
			out = append(out, Change{What: fmt.Sprintf("tenant %q", name), New: "added"})
		}
	}
	return out
}

// same says whether two sections mean the same, the keys in except left out.
func (t *table) same(o *table, except ...string) bool {
	for _, k := range t.sec.keys {
		a, b := t.value(k.name), o.value(k.name)
		if !slices.Contains(except, k.name) && (!a.same(b) || a.set != b.set && k.def == "") {
			return false
		}
	}
	return true
}
