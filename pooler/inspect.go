package pooler

import (
	"cmp"
	"maps"
	gometrics "runtime/metrics"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// inspector shows the console what there is. It takes the locks of what it looks at one at a time, and briefly.
type inspector struct{ p *Pooler }

var _ admin.Inspector = inspector{}

func byName(a, b *unit) int { return strings.Compare(a.name(), b.name()) }

// units are the clusters of this moment, by name: those of the configuration, and tenants' own instances at work.
func (i inspector) units() []*unit {
	list := append(slices.Collect(maps.Values(i.p.state.Load().units)), i.p.instances()...)
	slices.SortFunc(list, byName)
	return list
}

// Stats implements admin.Traffic.
func (i inspector) Stats() []admin.DatabaseStats {
	var names []string
	for name := range i.p.state.Load().units {
		names = append(names, name)
	}
	if i.p.follower != nil {
		names = append(names, tenantsLabel)
	}
	slices.Sort(names)
	list := make([]admin.DatabaseStats, 0, len(names))
	for _, name := range names {
		t := i.p.metrics.Totals(name)
		list = append(list, admin.DatabaseStats{Database: name, Stats: admin.Stats{
			Assignments: t.Assignments, Transactions: t.Transactions, Queries: t.Queries, Received: t.Received, Sent: t.Sent,
			TransactionTime: t.TransactionTime, QueryTime: t.QueryTime, WaitTime: t.WaitTime,
			ClientParses: t.ClientParses, ServerParses: t.ServerParses, Binds: t.Binds, Errors: t.Errors, Refusals: t.Refusals,
		}})
	}
	return list
}

// Prepared implements admin.Traffic.
func (i inspector) Prepared() []admin.PreparedInfo {
	type held struct {
		p    *state.Prepared
		refs int
	}
	var all []held
	i.p.shared.Registry.All(func(p *state.Prepared, refs int) { all = append(all, held{p, refs}) })
	slices.SortFunc(all, func(a, b held) int { return cmp.Compare(a.p.ID, b.p.ID) })
	list := make([]admin.PreparedInfo, 0, len(all))
	for _, h := range all {
		list = append(list, admin.PreparedInfo{Name: h.p.Name, Statement: h.p.Text(), UsedBy: h.refs, Bytes: h.p.Bytes()})
	}
	return list
}

// QueryCache implements admin.Traffic.
func (i inspector) QueryCache() admin.QueryCacheInfo {
	c := parseCache(i.p.shared.Cache)
	return admin.QueryCacheInfo{
		Hits: c.Hits, Misses: c.Misses, Evictions: c.Evictions, Entries: c.Entries, Bytes: c.Bytes, MaxBytes: c.MaxBytes, ParseTime: c.ParseTime,
	}
}

// Go's own count of the process's memory.
const (
	heapUsed  = "/memory/classes/heap/objects:bytes"
	heapFree  = "/memory/classes/heap/free:bytes"
	heapIdle  = "/memory/classes/heap/unused:bytes"
	stackUsed = "/memory/classes/heap/stacks:bytes"
	goTotal   = "/memory/classes/total:bytes"
)

// Memory implements admin.Traffic.
func (i inspector) Memory() []admin.MemInfo {
	cache := i.QueryCache()
	_, prepared := i.p.shared.Registry.Stats()
	mappings := mappingBytes(i.p.state.Load().cfg)
	samples := []gometrics.Sample{{Name: heapUsed}, {Name: heapFree}, {Name: heapIdle}, {Name: stackUsed}, {Name: goTotal}}
	gometrics.Read(samples)
	value := func(n int) int64 {
		if samples[n].Value.Kind() != gometrics.KindUint64 {
			return 0 // a later Go does not know it
		}
		return int64(samples[n].Value.Uint64()) //nolint:gosec // bytes of memory
	}
	used, free, stacks, total := value(0), value(1)+value(2), value(3), value(4)
	return []admin.MemInfo{
		{Name: "parse_cache", Used: cache.Bytes, Free: max(0, cache.MaxBytes-cache.Bytes), Total: cache.MaxBytes},
		{Name: "prepared_statements", Used: int64(prepared), Total: int64(prepared)},
		{Name: "mappings", Used: mappings, Total: mappings},
		{Name: "heap", Used: used, Free: free, Total: used + free},
		{Name: "stacks", Used: stacks, Total: stacks},
		{Name: "process", Used: total - free, Free: free, Total: total},
	}
}

// Config implements admin.Process.
func (i inspector) Config() []admin.ConfigItem {
	items := i.p.state.Load().cfg.Items()
	list := make([]admin.ConfigItem, 0, len(items))
	for _, item := range items {
		list = append(list, admin.ConfigItem{Key: item.Key, Value: item.Value, Default: item.Default, Changeable: !item.Restart})
	}
	return list
}

// Version implements admin.Process.
func (i inspector) Version() admin.VersionInfo {
	return admin.VersionInfo{
		Program: "pgkennel", Version: i.p.opts.Version, Server: session.ConsoleVersion, ServerNum: session.ConsoleVersionNum,
	}
}

// State implements admin.Process.
func (i inspector) State() admin.StateInfo {
	p := i.p
	p.mu.Lock()
	defer p.mu.Unlock()
	return admin.StateInfo{
		Paused: p.mu.paused[allDatabases], ShuttingDown: p.mu.mode != 0, Started: p.started, Epoch: p.mu.epoch, Loaded: p.mu.loaded,
	}
}

// Lists implements admin.Process.
func (i inspector) Lists() admin.Lists {
	s := i.p.state.Load()
	l := admin.Lists{Databases: len(s.cfg.Clusters) + len(i.p.instances()), Users: len(i.Users()), Clients: i.p.driver.Len()}
	known := int(i.p.operators.Load())
	for _, u := range i.units() {
		stats := u.cl.Stats()
		l.Pools += stats.Pools
		l.Servers += stats.Total
		l.IdleServers += stats.Idle
		l.WaitingClients += stats.Waiting
		l.Shards += stats.Shards
		l.Endpoints += stats.Endpoints
		for _, m := range u.meters.all() {
			known += int(m.clients.Load())
		}
	}
	l.LoginClients = max(0, l.Clients-known)
	l.Prepared, _ = i.p.shared.Registry.Stats()
	_, l.Mappings = i.Mappings(0)
	return l
}

// counts are numbers of connections by endpoint or user.
type counts[K comparable] map[K]int

// serversOf counts the backends of a cluster by endpoint.
func serversOf(u *unit) counts[cluster.EndpointInfo] {
	n := make(counts[cluster.EndpointInfo])
	for _, p := range u.cl.Pools() {
		n[p.EndpointInfo] += p.Total()
	}
	return n
}
