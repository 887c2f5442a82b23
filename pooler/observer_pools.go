package pooler

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// poolObserver counts what happens in a pool.
type poolObserver struct {
	m      *metrics.Pool
	u      *unit
	labels metrics.PoolLabels
	group  *poolGroup
	stats  func() pool.Stats
	base   pool.Stats // when the observation began
}

// poolGroups are the pools of a unit by what their metrics are called. Users whose connections log in as the same role have a pool each
// that can't be told apart by that.
type poolGroups struct {
	mu       sync.Mutex
	byLabels map[metrics.PoolLabels]*poolGroup
}

type poolGroup struct {
	mu    sync.Mutex
	pools []*poolObserver
	gone  metrics.PoolState // the counts of those before
}

func (u *unit) observePool(info cluster.PoolInfo, stats func() pool.Stats) cluster.PoolObserver {
	l := metrics.PoolLabels{EndpointLabels: u.labels(info.EndpointInfo), User: metricsUser(info)}
	o := &poolObserver{m: u.p.metrics.Pool(l), u: u, labels: l, stats: stats, base: stats()}
	u.pools.mu.Lock()
	defer u.pools.mu.Unlock()
	if o.group = u.pools.byLabels[l]; o.group == nil {
		o.group = &poolGroup{}
		if u.pools.byLabels == nil {
			u.pools.byLabels = make(map[metrics.PoolLabels]*poolGroup)
		}
		u.pools.byLabels[l] = o.group
		o.m.SetState(o.group.state)
	}
	o.group.mu.Lock()
	o.group.pools = append(o.group.pools, o)
	o.group.mu.Unlock()
	return o
}

// metricsUser is what metrics call who logs in to a server: tenants, of whom there are many, have one name together.
func metricsUser(info cluster.PoolInfo) string {
	if info.Tenant != "" {
		return "(tenants)"
	}
	return info.User
}

// state sums up the pools for a scrape.
func (g *poolGroup) state() metrics.PoolState {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := g.gone
	for _, o := range g.pools {
		s := o.stats()
		sum.Size += s.Total()
		sum.Idle += s.Idle
		sum.Used += s.Leased
		sum.Waiting += s.Waiting
		sum.Max += s.Max
		sum.MaxWait = max(sum.MaxWait, s.MaxWait)
		sum.Checkouts += s.Checkouts - o.base.Checkouts
		sum.Timeouts += s.Timeouts - o.base.Timeouts
	}
	return sum
}

func (u *unit) labels(i cluster.EndpointInfo) metrics.EndpointLabels {
	if u.in != nil {
		return metrics.EndpointLabels{Cluster: u.label, Shard: i.Shard, Role: i.Role, Endpoint: tenantsLabel}
	}
	return metrics.EndpointLabels{Cluster: i.Cluster, Shard: i.Shard, Role: i.Role, Endpoint: i.Address}
}

// Opened implements pool.Observer.
func (o *poolObserver) Opened(took time.Duration) {
	o.m.Opened.Inc()
	o.m.OpenTime.Add(took)
}

// OpenFailed implements pool.Observer.
func (o *poolObserver) OpenFailed(took time.Duration, f pool.Failure, err error) {
	o.m.OpenTime.Add(took)
	reason := f.String()
	if _, unsafe := errors.AsType[*cluster.UnsafeError](err); unsafe {
		reason = "unsafe"
	}
	o.m.OpenFailures.Inc(reason)
}

// Closed implements pool.Observer.
func (o *poolObserver) Closed(reason pool.Reason) { o.m.Closed.Inc(string(reason)) }

// Checked implements pool.Observer.
func (*poolObserver) Checked(time.Duration, error) {}

// Waited implements pool.Observer.
func (o *poolObserver) Waited(took time.Duration) { o.m.CheckoutWait.Observe(took) }

// Close implements cluster.PoolObserver.
func (o *poolObserver) Close() {
	groups, g := o.u.pools, o.group
	groups.mu.Lock()
	g.mu.Lock()
	s := o.stats()
	g.gone.Checkouts += s.Checkouts - o.base.Checkouts
	g.gone.Timeouts += s.Timeouts - o.base.Timeouts
	g.pools = slices.DeleteFunc(g.pools, func(other *poolObserver) bool { return other == o })
	if len(g.pools) == 0 {
		delete(groups.byLabels, o.labels)
	}
	g.mu.Unlock()
	groups.mu.Unlock()
	o.m.Close()
}

// endpointObserver counts an endpoint's health, and notes what the console tells of it.
type endpointObserver struct {
	m    *metrics.Endpoint
	u    *unit
	info cluster.EndpointInfo
	was  cluster.State // the last one reported
}

func (u *unit) observeEndpoint(info cluster.EndpointInfo, budget func() pool.BudgetStats) cluster.EndpointObserver {
	if u.in != nil {
		return &endpointObserver{u: u, info: info} // each is one server: see SHOW SHARDS
	}
	m := u.p.metrics.Endpoint(u.labels(info))
	m.SetBudget(func() metrics.BudgetState {
		s := budget()
		return metrics.BudgetState{Max: s.Limit, Used: s.Used, Waiting: s.Queued}
	})
	return &endpointObserver{m: m, u: u, info: info}
}

// State implements cluster.EndpointObserver.
func (o *endpointObserver) State(s cluster.State) {
	if o.m == nil {
		return
	}
	if s == cluster.Up {
		o.m.Up.Set(1)
	} else {
		o.m.Up.Set(0)
	}
	if s == cluster.Down && o.was != cluster.Down {
		o.m.Bans.Inc()
	}
	o.was = s
}

// Checked implements cluster.EndpointObserver.
func (o *endpointObserver) Checked(took time.Duration, err error) {
	o.u.health.note(o.info, func(c *checks) {
		c.last, c.err = time.Now(), err
		if err == nil {
			c.failures = 0
		} else {
			c.failures++
		}
	})
	if o.m == nil {
		return
	}
	if err != nil {
		o.m.ChecksFailed.Inc()
		return
	}
	o.m.Checks.Observe(took)
}

// Close implements cluster.EndpointObserver.
func (o *endpointObserver) Close() {
	o.u.health.forget(o.info)
	if o.m != nil {
		o.m.Close()
	}
}
