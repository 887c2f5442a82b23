package pooler

import (
	"net"
	"net/netip"
	"slices"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// attach finds the instance of a tenant that clients of a database of the configuration come to as to its virtual tenants, made if need be; an error says why it serves nobody.
// Where tenants.mu is held it must not be called.
func (f *follower) attach(x *tenant.Tenant) (*instance, *served, *pgwire.Error) {
	in, err := f.keep(x.ID)
	if err != nil {
		f.log().Error("tenant not served", "tenant", x.Name, "error", err)
		return nil, nil, errNotServed(x.Name)
	}
	now := in.now.Load()
	if now.rec == nil || len(now.rec.Logins) == 0 {
		return nil, nil, unknownTenant()
	}
	refusal, e := in.admit(now.rec.Logins[0].Role, now.attached != nil)
	if refusal != tenant.Welcome {
		e = unknownTenant()
	}
	return in, now, e
}

// keep is open for an instance that stays as long as its tenant does.
func (f *follower) keep(id string) (*instance, error) {
	for {
		r := f.dir.ByID(id)
		if r == nil {
			return nil, tenant.ErrNotFound
		}
		in, err := f.open(r)
		if err != nil {
			return nil, err
		}
		// Who drops it either sees this, or is seen.
		if in.attached.Store(true); !in.dropped.Load() {
			return in, nil
		}
	}
}

// attachedAs makes an account that of the instance's tenant, as whose own login its statements run.
func (in *instance) attachedAs(now *served, to *session.Account) {
	to.ServerUser, to.ReadOnly, to.TenantMetrics = now.rec.Logins[0].Role, now.readOnly, in.meter(now.rec)
	to.Login = &login{u: in.u, user: to.User, login: now.attached}
}

// meter is what the statements of the tenant are counted with.
func (in *instance) meter(r *tenant.Record) *tenantMeter {
	return in.f.meters.of(&tenant.Tenant{Name: r.Name, ID: r.ID, Isolation: tenant.Instance, Cluster: tenantsLabel, State: tenant.Active})
}

// visitors is how many sessions of a database of the configuration are the instance's now.
func (in *instance) visitors() int {
	if !in.attached.Load() {
		return 0
	}
	n := 0
	for _, c := range in.f.p.driver.Clients() {
		c.Inspect(func(s *session.Session, _ net.Conn) {
			if slices.Contains(in.f.p.visited(s), in.u) {
				n++
			}
		})
	}
	return n
}

// visited are the instances whose a session of a database of the configuration is.
func (p *Pooler) visited(s *session.Session) (list []*unit) {
	if p.follower == nil || s.Closed() {
		return nil
	}
	for _, at := range s.Places() {
		if v, ok := p.follower.instances.Load(at.Tenant.ID); ok {
			list = append(list, v.(*instance).u) //nolint:forcetypeassert // nothing else is in it
		}
	}
	return list
}

// allowed reports whether a session may be a tenant's by where its client is.
func allowed(s *session.Session, x *tenant.Tenant) bool {
	from, _ := netip.ParseAddrPort(s.Client) // of a unix socket there is none
	return x.Allows(from.Addr())
}
