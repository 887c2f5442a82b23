package pooler

import (
	"net/netip"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// itself finds the account of a client that asks for a virtual tenant by the tenant's own login; found is false if it asks for none.
func (f *follower) itself(s *snapshot, asked *tenant.Asked) (a *session.Account, refusal tenant.Refusal, found bool) {
	n := s.cfg.Tenancy.Naming
	r, user := f.dir.ByName(asked.User), asked.User
	if r == nil || !r.Virtual() {
		login, name, ok := n.Split(asked.User)
		if !ok {
			return nil, tenant.UnknownUser, false
		}
		r, user = f.dir.ByName(name), login
	}
	// Who is a user of the configuration is no tenant.
	if r == nil || !r.Virtual() || r.Login(user) == nil || s.cfg.User(user, r.Cluster) != nil || s.cfg.TenantConflict(r) != "" {
		return nil, tenant.UnknownUser, false
	}
	x := s.cfg.Tenancy.Registry.ByName(r.Name)
	ts := s.tenants[r.Cluster]
	if x == nil || x.ID != r.ID || ts == nil || s.disabled[r.Cluster] {
		return nil, tenant.UnknownTenant, true
	}
	label, named := strings.CutSuffix(strings.ToLower(asked.ServerName), n.Suffix)
	switch {
	case asked.Database != r.Cluster && asked.Database != r.Name && asked.Database != asked.User,
		asked.Option != "" && asked.Option != r.Name,
		n.Suffix != "" && named && label != r.Name:
		return nil, tenant.Conflict, true
	}
	if refusal = refusalOf(r); refusal == tenant.Welcome && !r.Access.Allows(asked.From) {
		refusal = tenant.ForeignNetwork
	}
	l := r.Login(user)
	if refusal == tenant.Welcome && l.Disabled {
		refusal = tenant.DisabledLogin
	}
	v, err := auth.ParseVerifier(l.Verifier)
	if refusal == tenant.Welcome && err != nil {
		f.log().Error("a tenant's login has no verifier", "tenant", r.Name, "login", l.Name, "error", err)
		refusal = tenant.UnknownUser
	}
	if refusal != tenant.Welcome {
		return nil, refusal, true
	}
	from, proved := asked.From, l.Verifier
	a = &session.Account{User: user, Database: r.Cluster, Credential: auth.NewCredential(v)}
	a.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		now := f.dir.ByID(r.ID)
		if refusal := refusalOf(now); refusal != tenant.Welcome {
			return nil, refusal, nil
		}
		if l := now.Login(user); l == nil || l.Disabled || l.Verifier != proved || !now.Access.Allows(from) {
			return nil, tenant.DisabledLogin, nil
		}
		if down(now) {
			return nil, tenant.Welcome, errStopped(now.Name)
		}
		ts := ts.u.tenants.Load()
		x := ts.find(now.Name)
		if x == nil || x.ID != now.ID || x.State != tenant.Active {
			return nil, tenant.UnknownTenant, nil
		}
		to, e := ts.itself(x, user)
		if e == nil && x.Database == "" { // where no user is configured, the schema and the servers' health are known by tenants' logins
			ts.u.cl.Introduce(to.Login.(*login).login) //nolint:forcetypeassert // the pooler's own
		}
		return to, tenant.Welcome, e
	}
	return a, tenant.Welcome, true
}

// stopped is the account of a user that asks for a virtual tenant which is down: who proves its password is told so. Nil if it is not that.
func (f *follower) stopped(id *tenant.Identity, refusal tenant.Refusal, from netip.Addr, user *session.Account) *session.Account {
	if refusal != tenant.DisabledTenant || id.Tenant == nil || id.Tenant.ID == "" || user == nil {
		return nil
	}
	r := f.dir.ByID(id.Tenant.ID)
	if refusalOf(r) != tenant.Welcome || !down(r) || !r.Access.Allows(from) {
		return nil
	}
	made := *user
	made.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		now := f.dir.ByID(r.ID)
		if refusal := refusalOf(now); refusal != tenant.Welcome {
			return nil, refusal, nil
		}
		return nil, tenant.Welcome, errStopped(now.Name)
	}
	return &made
}
