package pooler

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
)

// Databases implements admin.Topology.
func (i inspector) Databases() []admin.DatabaseInfo {
	s := i.p.state.Load()
	var list []admin.DatabaseInfo
	for _, c := range s.cfg.Clusters {
		u := s.units[c.Name]
		servers, users := serversOf(u), usersOf(s.cfg, c.Name)
		paused, clients := u.cl.Paused(), int(u.metrics.Clients.Load())
		for e := range endpoints(c) {
			info := admin.DatabaseInfo{
				Name: c.Name, Host: e.Host, Port: e.Port, Database: e.DatabaseName, Shard: e.Shard, Role: e.Role,
				Connections: servers[endpointInfo(e)], Clients: clients, Paused: paused, Disabled: s.disabled[c.Name],
			}
			for n, user := range users {
				p := s.cfg.Pool(user, e)
				if n == 0 {
					info.PoolSize, info.MinPool, info.ServerLifetime = p.MaxSize, p.MinSize, p.Lifetime
					info.ForceUser = p.User
				}
				if p.User != info.ForceUser {
					info.ForceUser = ""
				}
			}
			if len(users) == 1 && info.ForceUser == users[0].Name {
				info.ForceUser = "" // nobody was forced
			}
			list = append(list, info)
		}
	}
	for _, u := range i.p.instances() {
		now := u.in.now.Load()
		if now == nil || now.rec == nil {
			continue
		}
		r, at, of, size := now.rec, now.rec.Endpoint, now.rec.Host, 0
		if rd := now.reader(u.replica); rd != nil {
			at, of = rd.Endpoint, rd.Host
		}
		if u.in.f.remote(of, at) {
			at.Host = at.Remote
		}
		for _, n := range serversOf(u) {
			size += n
		}
		limit := cmp.Or(r.Limits.Connections, now.conf.InstancePool().MaxSize)
		list = append(list, admin.DatabaseInfo{
			Name: r.Name, Host: at.Host, Port: at.Port, Database: r.Database, Role: u.role(), PoolSize: limit,
			ServerLifetime: now.conf.InstancePool().Lifetime, Connections: size, Clients: u.clients(), Paused: u.cl.Paused(), Disabled: s.disabled[r.Name],
		})
	}
	return list
}

// endpoints yields the endpoints of a cluster by shard.
func endpoints(c *config.Cluster) func(yield func(*config.Endpoint) bool) {
	return func(yield func(*config.Endpoint) bool) {
		for _, shard := range c.Shards {
			for _, e := range shard {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// endpointInfo is what the endpoint's cluster calls it.
func endpointInfo(e *config.Endpoint) cluster.EndpointInfo {
	return cluster.EndpointInfo{
		Cluster: e.Cluster, Shard: e.Shard, Role: e.Role, Address: backend.Address{Host: e.Host, Port: e.Port}.String(), Database: e.DatabaseName,
	}
}

// usersOf are the users of a database.
func usersOf(conf *config.Config, database string) []*config.User {
	return slices.DeleteFunc(slices.Clone(conf.Users), func(u *config.User) bool { return u.Database != database })
}

// Shards implements admin.Topology.
func (i inspector) Shards() []admin.ShardInfo {
	var list []admin.ShardInfo
	for _, u := range i.units() {
		servers := serversOf(u)
		for _, h := range u.cl.Health() {
			host, port := hostPort(h.Address)
			seen := u.health.of(h.EndpointInfo)
			info := admin.ShardInfo{
				Database: u.name(), Shard: h.Shard, Role: h.Role, Host: host, Port: port, ServerDatabase: h.Database,
				Healthy: usable(u, h), Checked: seen.last, Failures: seen.failures, ServerVersion: seen.version,
				Connections: servers[h.EndpointInfo],
			}
			if h.State == cluster.Down {
				info.DownSince = h.Since
			}
			switch {
			case h.Err != nil:
				info.LastError = h.Err.Error()
			case seen.err != nil:
				info.LastError = seen.err.Error()
			}
			list = append(list, info)
		}
	}
	return list
}

// Functions implements admin.Topology.
func (i inspector) Functions() []admin.FunctionInfo {
	var list []admin.FunctionInfo
	for _, u := range i.units() {
		if u.book == nil {
			continue
		}
		for _, f := range u.book.Findings() {
			info := admin.FunctionInfo{Database: u.name(), Name: f.Name, Runs: "call", Closes: f.Stays, Why: f.Why}
			switch {
			case f.Write:
				info.Runs = "write"
			case f.Read:
				info.Runs = "read"
			default:
				info.Closes = true
			}
			list = append(list, info)
		}
	}
	return list
}

// Users implements admin.Topology.
func (i inspector) Users() []admin.UserInfo {
	s := i.p.state.Load()
	servers, clients := make(counts[string]), make(counts[string])
	for _, u := range i.units() {
		for _, p := range u.cl.Pools() {
			servers[clientOf(p.PoolInfo)] += p.Total()
		}
		for _, m := range u.meters.all() {
			clients[m.user] += int(m.clients.Load())
		}
	}
	at := make(map[string]int)
	var list []admin.UserInfo
	add := func(name string) *admin.UserInfo {
		n, ok := at[name]
		if !ok {
			n = len(list)
			at[name] = n
			list = append(list, admin.UserInfo{Name: name, Connections: servers[name], Clients: clients[name]})
		}
		return &list[n]
	}
	for _, c := range s.cfg.Users {
		u := add(c.Name)
		u.Databases = append(u.Databases, c.Database)
		u.PoolSize = max(u.PoolSize, c.PoolSize())
		u.Mode = string(c.PoolerMode)
	}
	if a := s.cfg.Admin; a.Password != "" {
		u := add(a.User)
		u.Databases = append(u.Databases, a.Name)
		u.Access = admin.AccessAdmin.String()
		u.Clients += int(i.p.operators.Load())
	}
	slices.SortFunc(list, func(a, b admin.UserInfo) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Mappings implements admin.Topology.
func (i inspector) Mappings(limit int) (rows []admin.MappingInfo, total int) {
	for _, c := range i.p.state.Load().cfg.Clusters {
		for _, t := range c.ShardedTables {
			row := admin.MappingInfo{
				Database: c.Name, Schema: t.Schema, Table: t.Name, Column: t.Column, DataType: t.DataType.String(), Shard: admin.NoShard,
			}
			m := &mappingRows{rows: rows, limit: limit, total: total, row: row}
			m.mapping(t.Mapping)
			rows, total = m.rows, m.total
		}
	}
	return rows, total
}

// mappingRows collects the rows of mappings up to a limit, and counts them all.
type mappingRows struct {
	rows         []admin.MappingInfo
	limit, total int
	row          admin.MappingInfo // what all rows of a table have in common
}

func (r *mappingRows) mapping(m *config.Mapping) {
	switch {
	case m == nil:
		r.add(1, func(_ int, row *admin.MappingInfo) { row.Kind = "hash" })
		return
	case m.Ints != nil:
		addMapping(r, m.Ints, func(v int64) string { return strconv.FormatInt(v, 10) })
	case m.UUIDs != nil:
		addMapping(r, m.UUIDs, uuid)
	case m.Texts != nil:
		addMapping(r, m.Texts, func(v string) string { return v })
	}
	if m.HasDefault {
		r.add(1, func(_ int, row *admin.MappingInfo) { row.Kind, row.Shard = "default", m.Default })
	}
}

// add adds n rows, made by f as far as they are wanted.
func (r *mappingRows) add(n int, f func(i int, row *admin.MappingInfo)) {
	for i := range min(n, max(0, r.limit-r.total)) {
		row := r.row
		f(i, &row)
		r.rows = append(r.rows, row)
	}
	r.total += n
}

func addMapping[T any](r *mappingRows, rules *config.Rules[T], show func(T) string) {
	text := func(v T) *string { s := show(v); return &s }
	r.add(len(rules.Values), func(i int, row *admin.MappingInfo) {
		row.Kind, row.Value, row.Shard = "list", text(rules.Values[i]), rules.ValueShards[i]
	})
	r.add(len(rules.RangeShards), func(i int, row *admin.MappingInfo) {
		row.Kind, row.Shard = "range", rules.RangeShards[i]
		if i > 0 || !rules.OpenStart {
			row.RangeStart = text(rules.Starts[i])
		}
		if i < len(rules.RangeShards)-1 || !rules.OpenEnd {
			row.RangeEnd = text(rules.Ends[i])
		}
	})
}

// uuid prints a UUID as PostgreSQL does.
func uuid(v [16]byte) string {
	s := hex.EncodeToString(v[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// mappingBytes is about what the mappings of a configuration weigh: those of the configuration itself, and the routers' own, which are
// of the same size.
func mappingBytes(conf *config.Config) (bytes int64) {
	const shard = 4 // bytes of a topology.ShardID
	seen := make(map[*config.Mapping]bool)
	for _, c := range conf.Clusters {
		for _, t := range c.ShardedTables {
			m := t.Mapping
			if m == nil || seen[m] {
				continue // tables may share one
			}
			seen[m] = true
			if m.Ints != nil {
				bytes += rulesBytes(m.Ints, 8+shard, func(int64) int { return 0 })
			}
			if m.UUIDs != nil {
				bytes += rulesBytes(m.UUIDs, 16+shard, func([16]byte) int { return 0 })
			}
			if m.Texts != nil {
				bytes += rulesBytes(m.Texts, 16+shard, func(s string) int { return len(s) })
			}
		}
	}
	return 2 * bytes
}

// rulesBytes weighs rules: each value has a size, and what it points to.
func rulesBytes[T any](r *config.Rules[T], size int, beyond func(T) int) (bytes int64) {
	for _, list := range [...][]T{r.Values, r.Starts, r.Ends} {
		bytes += int64(len(list) * size)
		for _, v := range list {
			bytes += int64(beyond(v))
		}
	}
	return bytes
}
