package admin

import (
	"cmp"
	"maps"
	"slices"
)

func poolViews() []*view {
	return []*view{
		{
			name: "pools", help: "pools summed up by database and user, as PgBouncer has them",
			columns: columns("database user cl_active/4 cl_waiting/4 cl_active_cancel_req/4 cl_waiting_cancel_req/4 " +
				"sv_active/4 sv_active_cancel/4 sv_being_canceled/4 sv_idle/4 sv_used/4 sv_tested/4 sv_login/4 " +
				"maxwait/4 maxwait_us/4 pool_mode load_balance_hosts " +
				"pools/4 pool_size/4 paused/4 healthy/4 tenant"),
			fill: plain(fillPools),
		},
		{
			name: "shard_pools", help: "pools, one a row: endpoint and login",
			columns: columns("database user shard/4 role host port/4 login cl_waiting/4 " +
				"sv_active/4 sv_active_cancel/4 sv_being_canceled/4 sv_idle/4 sv_used/4 sv_tested/4 sv_login/4 " +
				"maxwait/4 maxwait_us/4 pool_mode pool_size/4 min_pool_size/4 paused/4 healthy/4 tenant"),
			fill: plain(fillShardPools),
		},
	}
}

// poolKey is what PgBouncer calls a pool. Its tools count on one row for each, so SHOW POOLS has the pools of all shards in one.
type poolKey struct{ database, user string }

type poolSum struct {
	clients ClientCount
	servers PoolInfo
	pools   int
	healthy int
}

func fillPools(c *Console, w *writer) {
	sums := make(map[poolKey]*poolSum)
	sum := func(database, user string) *poolSum {
		k := poolKey{database, user}
		s := sums[k]
		if s == nil {
			s = &poolSum{}
			sums[k] = s
		}
		return s
	}
	for _, n := range c.Inspector.ClientCounts() {
		s := &sum(n.Database, n.User).clients
		s.Active += n.Active
		s.Waiting += n.Waiting
		s.ActiveCancel += n.ActiveCancel
		s.WaitingCancel += n.WaitingCancel
	}
	for _, p := range c.Inspector.Pools() {
		s := sum(p.Database, p.User)
		if p.Tenant != "" { // nobody else counts who waits there
			s.clients.Waiting += p.Waiting
			s.servers.Tenant = p.Tenant
		}
		s.add(p)
	}
	keys := slices.SortedFunc(maps.Keys(sums), func(a, b poolKey) int {
		return cmp.Or(cmp.Compare(a.database, b.database), cmp.Compare(a.user, b.user))
	})
	for _, k := range keys {
		s := sums[k]
		w.text(k.database)
		w.text(k.user)
		w.int(s.clients.Active)
		w.int(s.clients.Waiting)
		w.int(s.clients.ActiveCancel)
		w.int(s.clients.WaitingCancel)
		w.backends(&s.servers)
		w.split(s.servers.MaxWait)
		w.orNull(s.servers.Mode)
		w.null()

		w.int(s.pools)
		w.int(s.servers.Size)
		w.flag(s.servers.Paused)
		w.flag(s.pools == s.healthy)
		w.orNull(s.servers.Tenant)
	}
}

func (s *poolSum) add(p PoolInfo) {
	t := &s.servers
	t.Active += p.Active
	t.ActiveCancel += p.ActiveCancel
	t.BeingCanceled += p.BeingCanceled
	t.Idle += p.Idle
	t.Used += p.Used
	t.Tested += p.Tested
	t.New += p.New
	t.Size += p.Size
	t.MaxWait = max(t.MaxWait, p.MaxWait)
	t.Mode = p.Mode
	t.Paused = t.Paused || p.Paused
	s.pools++
	if p.Healthy {
		s.healthy++
	}
}

func (w *writer) backends(p *PoolInfo) {
	for _, n := range [...]int{p.Active, p.ActiveCancel, p.BeingCanceled, p.Idle, p.Used, p.Tested, p.New} {
		w.int(n)
	}
}

func fillShardPools(c *Console, w *writer) {
	for _, p := range c.Inspector.Pools() {
		w.text(p.Database)
		w.text(p.User)
		w.int(int(p.Shard))
		w.text(p.Role.String())
		w.text(p.Host)
		w.int(p.Port)
		w.text(p.Login)
		w.int(p.Waiting)
		w.backends(&p)
		w.split(p.MaxWait)
		w.text(p.Mode)
		w.int(p.Size)
		w.int(p.MinSize)
		w.flag(p.Paused)
		w.flag(p.Healthy)
		w.orNull(p.Tenant)
	}
}
