package pooler

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Directory is what a Pooler knows of tenants that are not in the configuration: a store.Mirror, or what does the same.
type Directory interface {
	tenant.Live
	// Len is how many records there are.
	Len() int
	// Subscribe has f called with each change, in order, when look-ups see it already.
	Subscribe(f func(changed []*tenant.Record, deletedIDs []string))
	// State says whether what is known is what there is; if not, since when that is not certain, and why.
	State() (current bool, since time.Time, err error)
}

// follower is what a pooler does about the tenants of a directory.
type follower struct {
	p     *Pooler
	dir   Directory
	vault *tenant.Vault
	// orders are carried out here; nil = instances that are asleep stay so, and the console gives none.
	orders provision.Executor
	counts func() provision.Counts // of instances' ends; nil = nobody counts them here

	// instances are those at work, by ID: made at the first login, dropped when they were not used for a while.
	instances sync.Map // string -> *instance
	made      atomic.Int64
	mu        sync.Mutex // guards the making and dropping of instances, and what follows
	kinds     map[clusterKind]bool
	ended     bool

	life struct { // a leaf
		sync.Mutex
		begin func(func(context.Context)) // starts a goroutine that Pooler.Run waits for; nil while that is not going on
	}

	// What their metrics have in common.
	metrics *metrics.Cluster
	shard   *metrics.Shard
	pools   poolGroups
	meters  tenantMeters

	// paused: whatever comes to work is paused, as all databases are.
	paused atomic.Bool

	waking            atomic.Int64
	woken, wakeFailed atomic.Uint64

	// idleAfter is how long an instance is kept without clients.
	idleAfter time.Duration
	// host is this machine, as records call it.
	host string
}

// clusterKind is that there are tenants of a kind in a cluster.
type clusterKind struct {
	cluster string
	kind    tenant.Kind
}

// tenantsLabel stands for every instance of a tenant's own in metrics: their number is not bounded.
const tenantsLabel = "(tenants)"

// unusedAfter is how long what serves an instance is kept when its last client is gone.
const unusedAfter = 5 * time.Minute

func newFollower(p *Pooler, o *Options) *follower {
	f := &follower{p: p, dir: o.Directory, vault: o.Vault, orders: o.Orders, counts: o.Counts, kinds: make(map[clusterKind]bool), idleAfter: o.UnusedAfter}
	if f.idleAfter <= 0 {
		f.idleAfter = unusedAfter
	}
	if f.host = o.Config.Provision.Host; f.host == "" {
		f.host, _ = os.Hostname() // who makes instances has complained, if there is none
	}
	f.metrics = p.metrics.Cluster(tenantsLabel)
	f.metrics.SetState(f.clusterState)
	f.shard = p.metrics.Shard(tenantsLabel, 0)
	p.metrics.SetDirectory(f.told)
	return f
}

// conflicts reports the tenants of the directory that the configuration has as well, in whole or in part.
func (f *follower) conflicts(cfg *config.Config) error {
	var first string
	n := 0
	note := func(r *tenant.Record) {
		if r == nil {
			return
		}
		if why := cfg.TenantConflict(r); why != "" {
			if n++; first == "" {
				first = why
			}
		}
	}
	for _, c := range cfg.Clusters {
		note(f.dir.ByName(c.Name))
	}
	note(f.dir.ByName(cfg.Admin.Name))
	if cfg.Tenancy != nil {
		cfg.Tenancy.Registry.Entries(func(t *tenant.Tenant) bool {
			note(f.dir.ByName(t.Name))
			if r := f.dir.ByKey(t.Cluster, t.Key); t.Key != "" && r != nil && r.Name != t.Name {
				note(r)
			}
			return true
		})
	}
	switch n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s; give one of them another name", first)
	}
	return fmt.Errorf("%s, and %d more; give them other names", first, n-1)
}

// follow has the registry of a configuration know the directory's tenants.
func (f *follower) follow(cfg *config.Config) {
	if cfg.Tenancy != nil {
		cfg.Tenancy.Registry.Follow(f.dir)
	}
}

// changed hears of every change of the directory.
func (f *follower) changed(changed []*tenant.Record, deleted []string) {
	cfg := f.p.state.Load().cfg
	kinds := false
	for _, r := range changed {
		if why := cfg.TenantConflict(r); why != "" {
			f.p.log.Error("tenants of the directory and of the configuration are at odds; the configuration counts", "tenant", r.Name, "reason", why)
		}
		if v, ok := f.instances.Load(r.ID); ok {
			v.(*instance).take(cfg) //nolint:forcetypeassert // nothing else is in it
		}
		if r.Virtual() {
			kinds = f.newKind(r) || kinds
		}
	}
	for _, id := range deleted {
		if v, ok := f.instances.Load(id); ok {
			v.(*instance).take(cfg) //nolint:forcetypeassert // nothing else is in it
		}
	}
	f.virtualChanged(changed, deleted)
	if kinds {
		f.p.again()
	}
}

// newKind reports whether there was no tenant of the record's kind in its cluster so far: what is known of logins there may have to change.
func (f *follower) newKind(r *tenant.Record) bool {
	k := clusterKind{r.Cluster, tenant.Kind{Isolation: r.Isolation, Mode: r.Mode}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kinds[k] {
		return false
	}
	f.kinds[k] = true
	return true
}

// again puts the configuration in force once more, because of a new kind of tenants.
func (p *Pooler) again() {
	p.orders.Lock()
	defer p.orders.Unlock()
	cfg := *p.state.Load().cfg // another one: what was made of it is made anew
	if err := p.apply(&cfg); err != nil {
		p.log.Error("tenants of a new kind can't be served", "error", err)
	}
}

// lives says how goroutines are begun; nil = no more are.
func (f *follower) lives(begin func(func(context.Context))) {
	f.life.Lock()
	defer f.life.Unlock()
	f.life.begin = begin
}

// background runs x in a goroutine. It returns false where nobody would wait for that.
func (f *follower) background(x func(context.Context)) bool {
	f.life.Lock()
	defer f.life.Unlock()
	if f.life.begin == nil {
		return false
	}
	f.life.begin(x)
	return true
}

// end returns the units at work. No more are made.
func (f *follower) end() []*unit {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	var list []*unit
	f.instances.Range(func(_, v any) bool {
		list = append(list, v.(*instance).end()...) //nolint:forcetypeassert // nothing else is in it
		return true
	})
	return list
}

// run looks after what is there, until ctx is done.
func (f *follower) run(ctx context.Context) {
	tick := time.NewTicker(max(f.idleAfter/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.sweep()
		}
	}
}

// Clients is how many clients a tenant with an instance of its own has here.
func (p *Pooler) Clients(id string) int {
	if p.follower == nil {
		return 0
	}
	if v, ok := p.follower.instances.Load(id); ok {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		return in.clients() + in.visitors()
	}
	return 0
}

// Taken says why a new tenant of the directory may not be called name, or have a key in a cluster, by the configuration in force; empty = it may.
func (p *Pooler) Taken(name, cluster, key string) string {
	return p.state.Load().cfg.TenantTaken(name, cluster, key)
}

func (f *follower) log() *slog.Logger { return f.p.log }

// configured puts a configuration in force for the instances at work. Pooler.mu is held.
func (f *follower) configured(cfg *config.Config) {
	f.instances.Range(func(_, v any) bool {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		if now := in.now.Load(); now != nil && now.rec != nil {
			in.take(cfg)
		}
		return true
	})
}

// units are those of the instances at work, in no order.
func (f *follower) units() []*unit {
	var list []*unit
	f.instances.Range(func(_, v any) bool {
		list = append(list, v.(*instance).units()...) //nolint:forcetypeassert // nothing else is in it
		return true
	})
	return list
}

// instances are the units of tenants with an instance of their own.
func (p *Pooler) instances() []*unit {
	if p.follower == nil {
		return nil
	}
	return p.follower.units()
}

// told is what metrics tell of the directory.
func (f *follower) told() metrics.Directory {
	current, since, _ := f.dir.State()
	d := metrics.Directory{
		Current: current, Tenants: f.dir.Len(), Instances: int(f.made.Load()), Waking: int(f.waking.Load()), Woken: f.woken.Load(), NotWoken: f.wakeFailed.Load(),
	}
	if f.counts != nil {
		c := f.counts()
		d.Ended, d.OOMKills, d.Crashes, d.Down = c.Ended, c.OOMKills, c.Crashes, c.Down
	}
	if !current {
		d.Age = time.Since(since)
	}
	return d
}

// instanceUnits are the units of a tenant's own instance, by the tenant's name; none if it is not at work.
func (p *Pooler) instanceUnits(name string) []*unit {
	if p.follower == nil {
		return nil
	}
	r := p.follower.dir.ByName(name)
	if r == nil {
		return nil
	}
	if v, ok := p.follower.instances.Load(r.ID); ok {
		return v.(*instance).units() //nolint:forcetypeassert // nothing else is in it
	}
	return nil
}

// clusterState is what a scrape asks for all instances together.
func (f *follower) clusterState() (sum metrics.ClusterState) {
	for _, u := range f.units() {
		s := u.clusterState()
		sum.Active += s.Active
		sum.Waiting += s.Waiting
	}
	return sum
}

// virtualChanged brings what is remembered of tenants in clusters up to date, and ends the sessions of those that may not be used any more, or are not what
// they were: at once where nothing is under way, else behind their transactions.
func (f *follower) virtualChanged(changed []*tenant.Record, deleted []string) {
	s := f.p.state.Load()
	if s.cfg.Tenancy == nil {
		return
	}
	of := touched{ids: make(map[string]bool), names: make(map[string]bool), keys: make(map[[2]string]bool)}
	for _, r := range changed {
		if r.InCluster() {
			of.ids[r.ID], of.names[r.Name] = true, true
			if r.Key != "" {
				of.keys[[2]string{r.Cluster, r.Key}] = true
			}
		}
	}
	for _, id := range deleted {
		of.ids[id] = true
	}
	if len(of.ids) == 0 {
		return
	}
	for _, t := range s.tenants {
		t.forget(&of)
	}
	for _, c := range f.p.driver.Clients() {
		ends := false
		c.Inspect(func(x *session.Session, _ net.Conn) {
			a := x.Account()
			if a == nil {
				return
			}
			for _, p := range x.Places() {
				ends = ends || of.has(p.Tenant) && !(same(s.tenants[a.Database], p) && allowed(x, s.tenants[a.Database].find(p.Tenant.Name)))
			}
		})
		if ends {
			c.Retire(errRetired, session.CloseKilled)
		}
	}
}

// touched are tenants that a change of the directory may be about.
type touched struct {
	ids, names map[string]bool
	keys       map[[2]string]bool // with their clusters
}

// has reports whether a tenant is one of them: by its ID; or by its name or key, if it has no record and one may stand for it now.
func (c *touched) has(x *tenant.Tenant) bool {
	if x.ID != "" {
		return c.ids[x.ID]
	}
	return c.names[x.Name] || c.keys[[2]string{x.Cluster, x.Key}]
}
