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
	byName map[string]*tenantMeter
	rest   tenantMeter
}

// mostMeters bounds the tenants that are counted by themselves: clients may name any key.
const mostMeters = 20_000

func (ms *tenantMeters) of(x *tenant.Tenant) *tenantMeter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.byName[x.Name]
	if m == nil {
		if len(ms.byName) >= mostMeters {
			return &ms.rest
		}
		m = &tenantMeter{}
		if ms.byName == nil {
			ms.byName = make(map[string]*tenantMeter)
		}
		ms.byName[x.Name] = m
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
			x := s.Tenant()
			if x == nil || s.Closed() {
				return
			}
			at := [2]string{x.Cluster, x.Name}
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

// Tenants implements admin.Topology: those with an entry, and those that were used since the start.
func (i inspector) Tenants(limit int) (rows []admin.TenantInfo, total int) {
	clients := i.p.tenantClients()
	for _, u := range i.units() {
		ts := u.tenants.Load()
		if i.p.state.Load().cfg.Tenancy == nil || ts == nil {
			continue
		}
		known := make(map[string]bool)
		add := func(x *tenant.Tenant, m *tenantMeter) {
			known[x.Name] = true
			n := clients[[2]string{u.name(), x.Name}]
			info := admin.TenantInfo{
				Database: u.name(), Name: x.Name, Key: x.Key, Isolation: x.Isolation.String(), Mode: x.Mode.String(), State: x.State.String(),
				Clients: n.clients, Waiting: n.waiting,
			}
			if m != nil {
				info.Transactions, info.Queries, info.Errors = m.transactions.Load(), m.queries.Load(), m.errors.Load()
				info.Received, info.Sent = m.received.Load(), m.sent.Load()
			}
			rows = append(rows, info)
		}
		for _, m := range u.tenantMeters.all() {
			x := m.tenant.Load()
			if now := ts.find(x.Name); now != nil {
				x = now
			}
			add(x, m)
		}
		ts.reg.All(func(x *tenant.Tenant) bool {
			if x.Cluster == u.name() && !known[x.Name] {
				add(x, nil)
			}
			return true
		})
	}
	slices.SortFunc(rows, func(a, b admin.TenantInfo) int {
		return cmp.Or(strings.Compare(a.Database, b.Database), cmp.Compare(b.Transactions, a.Transactions), strings.Compare(a.Name, b.Name))
	})
	total = len(rows)
	return rows[:min(total, limit)], total
}

// tenantStates are what a scrape is told: of all tenants together, and of the so many that have most transactions.
func (p *Pooler) tenantStates() []metrics.TenantState {
	s := p.state.Load()
	most := s.cfg.Metrics.Tenants
	if most == 0 || s.cfg.Tenancy == nil {
		return nil
	}
	clients := p.tenantClients()
	var list []metrics.TenantState
	for _, u := range s.units {
		all := metrics.TenantState{Cluster: u.name(), Tenant: metrics.AllTenants}
		add := func(m *tenantMeter) metrics.TenantState {
			t := metrics.TenantState{
				Cluster: u.name(), Transactions: m.transactions.Load(), Queries: m.queries.Load(), Errors: m.errors.Load(),
				Received: m.received.Load(), Sent: m.sent.Load(),
			}
			if x := m.tenant.Load(); x != nil {
				t.Tenant = x.Name
				n := clients[[2]string{u.name(), x.Name}]
				t.Clients, t.Waiting = n.clients, n.waiting
			}
			all.Add(&t)
			return t
		}
		var own []metrics.TenantState
		for _, m := range u.tenantMeters.all() {
			own = append(own, add(m))
		}
		add(&u.tenantMeters.rest)
		slices.SortFunc(own, func(a, b metrics.TenantState) int {
			return cmp.Or(cmp.Compare(b.Transactions, a.Transactions), strings.Compare(a.Tenant, b.Tenant))
		})
		list = append(append(list, all), own[:min(len(own), most)]...)
	}
	return list
}
