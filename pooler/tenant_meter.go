package pooler

import (
	"cmp"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// tenantMeter is what the statements of one tenant are counted with. It outlives reloads, as its unit does.
type tenantMeter struct {
	tenant                        atomic.Pointer[tenant.Tenant] // as it was used last; nil = several
	transactions, queries, errors atomic.Uint64
	received, sent                atomic.Uint64
}

// unit counts what was said for the tenant.
func (m *tenantMeter) unit(c *session.UnitCounts) {
	if m == nil {
		return
	}
	n := uint64(0)
	for _, r := range c.Routes {
		n += uint64(r)
	}
	m.queries.Add(n)
	m.received.Add(c.Received)
	m.sent.Add(c.Sent)
	if c.Transaction {
		m.transactions.Add(1)
	}
}

func tenantMeterOf(a *session.Account) *tenantMeter {
	if a == nil {
		return nil
	}
	m, _ := a.TenantMetrics.(*tenantMeter)
	return m
}

// tenantMeters are those of a unit by name.
type tenantMeters struct {
	mu     sync.Mutex
	byName map[string]*tenantMeter // of those of the directory by ID
	rest   tenantMeter
}

// mostMeters bounds the tenants that are counted by themselves: clients may name any key.
const mostMeters = 20_000

func (ms *tenantMeters) of(x *tenant.Tenant) *tenantMeter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	key := cmp.Or(x.ID, x.Name)
	m := ms.byName[key]
	if m == nil {
		if len(ms.byName) >= mostMeters {
			return &ms.rest
		}
		m = &tenantMeter{}
		if ms.byName == nil {
			ms.byName = make(map[string]*tenantMeter)
		}
		ms.byName[key] = m
	}
	m.tenant.Store(x)
	return m
}

// all returns the meters of this moment, in no order.
func (ms *tenantMeters) all() []*tenantMeter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	list := make([]*tenantMeter, 0, len(ms.byName))
	for _, m := range ms.byName {
		list = append(list, m)
	}
	return list
}

// tenantClients is how many clients of a tenant there are, and how many of them wait.
type tenantClients struct{ clients, waiting int }

// tenantClients asks every client whose it is, by cluster and tenant.
func (p *Pooler) tenantClients() map[[2]string]tenantClients {
	n := make(map[[2]string]tenantClients)
	for _, c := range p.driver.Clients() {
		c.Inspect(func(s *session.Session, _ net.Conn) {
			if s.Closed() {
				return
			}
			var at [2]string
			if x := s.Tenant(); x != nil && x.Isolation == tenant.Instance { // whichever way it came
				at = [2]string{x.Name, x.Name}
			} else if x != nil {
				at = [2]string{x.Cluster, x.Name}
			} else if name := tenantOf(s); name != "" {
				at = [2]string{name, name}
			} else {
				return
			}
			k := n[at]
			k.clients++
			if s.WaitingSince() != 0 {
				k.waiting++
			}
			n[at] = k
		})
	}
	return n
}

// Tenants implements admin.Topology: those with an entry, those of the directory, and those that were used since the start.
func (i inspector) Tenants(limit int) (rows []admin.TenantInfo, total int) {
	clients := i.p.tenantClients()
	s, f := i.p.state.Load(), i.p.follower
	known := make(map[[2]string]bool)
	add := func(database string, x *tenant.Tenant, m *tenantMeter) {
		at := [2]string{database, x.Name}
		known[at] = true
		n := clients[at]
		if x.Isolation == tenant.Instance {
			n = clients[[2]string{x.Name, x.Name}]
		}
		info := admin.TenantInfo{
			Database: database, Name: x.Name, Key: x.Key, Isolation: x.Isolation.String(), Mode: x.Mode.String(), State: x.State.String(),
			Clients: n.clients, Waiting: n.waiting,
		}
		if x.Isolation == tenant.Instance { // nothing else holds it
			info.Mode = ""
		}
		if m != nil {
			info.Transactions, info.Queries, info.Errors = m.transactions.Load(), m.queries.Load(), m.errors.Load()
			info.Received, info.Sent = m.received.Load(), m.sent.Load()
		}
		if f != nil && x.ID != "" {
			describe(&info, f.dir.ByID(x.ID))
		}
		rows = append(rows, info)
	}
	for _, u := range s.units {
		ts := u.tenants.Load()
		if s.cfg.Tenancy == nil || ts == nil {
			continue
		}
		for _, m := range u.tenantMeters.all() {
			x := m.tenant.Load()
			if now := ts.find(x.Name); now != nil {
				x = now
			}
			add(u.name(), x, m)
		}
		ts.reg.Entries(func(x *tenant.Tenant) bool {
			if x.Cluster == u.name() && !known[[2]string{u.name(), x.Name}] {
				add(u.name(), x, nil)
			}
			return true
		})
	}
	total = len(rows)
	if f != nil {
		total += f.tenants(known, limit, add)
	}
	slices.SortFunc(rows, func(a, b admin.TenantInfo) int {
		return cmp.Or(strings.Compare(a.Database, b.Database), cmp.Compare(b.Transactions, a.Transactions), strings.Compare(a.Name, b.Name))
	})
	return rows[:min(len(rows), limit)], total
}

// tenants adds up to limit of the directory's that are not known yet, those that were used before the others, and returns how many there are.
func (f *follower) tenants(known map[[2]string]bool, limit int, add func(database string, x *tenant.Tenant, m *tenantMeter)) int {
	of := func(r *tenant.Record) (string, *tenant.Tenant) {
		x := &tenant.Tenant{Name: r.Name, Key: r.Key, Isolation: r.Isolation, Mode: r.Mode, ID: r.ID, State: tenant.Active}
		switch {
		case r.Phase == tenant.OnHold:
			x.State = tenant.Suspended
		case !r.Routable():
			x.State = tenant.Disabled
		}
		return cmp.Or(r.Cluster, r.Name), x
	}
	n := 0
	for _, m := range f.meters.all() {
		x := m.tenant.Load()
		if x == nil {
			continue
		}
		if r := f.dir.ByID(x.ID); r != nil {
			database, now := of(r)
			if at := [2]string{database, r.Name}; !known[at] {
				add(database, now, m)
				n++
			}
		}
	}
	f.dir.All(func(r *tenant.Record) bool {
		database, x := of(r)
		if known[[2]string{database, r.Name}] {
			return true
		}
		if n++; n <= limit {
			add(database, x, nil)
		}
		return true
	})
	return n
}

// describe adds what the directory says of a tenant.
func describe(info *admin.TenantInfo, r *tenant.Record) {
	if r == nil {
		return
	}
	info.Phase, info.Host, info.Access = r.Phase.String(), r.Host, "off"
	info.Ended, info.OOMKills, info.LastEnd, info.EndReason = int64(r.Ends.Count), r.Ends.OOMKills, r.Ends.Last, r.Ends.Reason
	if r.Phase == tenant.Ready {
		info.DownSince = r.Ends.Down
	}
	if r.Access.Enabled {
		info.Access = "on"
		if len(r.Access.Networks) > 0 {
			var list []string
			for _, p := range r.Access.Networks {
				list = append(list, p.String())
			}
			info.Access = strings.Join(list, ",")
		}
		switch {
		case r.Access.Full:
			info.Access += ", read only: its disk is full"
		case r.Access.ReadOnly:
			info.Access += ", read only"
		}
	}
}

// Directory implements admin.Topology.
func (i inspector) Directory() *admin.DirectoryInfo {
	f := i.p.follower
	if f == nil {
		return nil
	}
	current, since, err := f.dir.State()
	d := &admin.DirectoryInfo{
		Store: "file", Current: current, Since: since, Tenants: f.dir.Len(), Work: int(f.made.Load()), Waking: int(f.waking.Load()),
	}
	if c := i.p.state.Load().cfg.Directory; c != nil {
		d.Store = c.Store
	}
	if err != nil {
		d.Err = err.Error()
	}
	return d
}

// tenantStates are what a scrape is told: of all tenants together, and of the so many that have most transactions.
func (p *Pooler) tenantStates() []metrics.TenantState {
	s := p.state.Load()
	most := s.cfg.Metrics.Tenants
	if most == 0 || s.cfg.Tenancy == nil && p.follower == nil {
		return nil
	}
	clients := p.tenantClients()
	var list []metrics.TenantState
	of := func(cluster string, meters *tenantMeters, at func(x *tenant.Tenant) [2]string) {
		all := metrics.TenantState{Cluster: cluster, Tenant: metrics.AllTenants}
		add := func(m *tenantMeter) metrics.TenantState {
			t := metrics.TenantState{
				Cluster: cluster, Transactions: m.transactions.Load(), Queries: m.queries.Load(), Errors: m.errors.Load(),
				Received: m.received.Load(), Sent: m.sent.Load(),
			}
			if x := m.tenant.Load(); x != nil {
				t.Tenant = x.Name
				n := clients[at(x)]
				t.Clients, t.Waiting = n.clients, n.waiting
			}
			all.Add(&t)
			return t
		}
		var own []metrics.TenantState
		for _, m := range meters.all() {
			own = append(own, add(m))
		}
		add(&meters.rest)
		slices.SortFunc(own, func(a, b metrics.TenantState) int {
			return cmp.Or(cmp.Compare(b.Transactions, a.Transactions), strings.Compare(a.Tenant, b.Tenant))
		})
		list = append(append(list, all), own[:min(len(own), most)]...)
	}
	if s.cfg.Tenancy != nil {
		for _, u := range s.units {
			of(u.name(), &u.tenantMeters, func(x *tenant.Tenant) [2]string { return [2]string{u.name(), x.Name} })
		}
	}
	if p.follower != nil {
		of(tenantsLabel, &p.follower.meters, func(x *tenant.Tenant) [2]string { return [2]string{x.Name, x.Name} })
	}
	return list
}
