package pooler

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// whose finds whose password is asked for, and why that is of no use.
func (p *Pooler) whose(asked tenant.Asked) (*session.Account, tenant.Refusal) {
	a, refusal := p.account(asked)
	if a != nil && (refusal == tenant.Welcome || refusal == tenant.UnknownDatabase) {
		return a, refusal
	}
	var n tenant.Naming
	if tenancy := p.state.Load().cfg.Tenancy; tenancy != nil {
		n = tenancy.Naming
	}
	user, names := n.Said(asked, p.configured)
	a = &session.Account{User: asked.User, Database: asked.Database, Said: inOne(user, names)}
	if p.follower != nil {
		a.Credential = p.follower.credential(n, &asked, user, names)
	}
	return a, max(refusal, tenant.UnknownUser)
}

// configured tells whether a database is the configuration's.
func (p *Pooler) configured(database string) bool { return p.state.Load().cfg.Cluster(database) != nil }

// inOne is what tenant.Naming.Said says, in one text.
func inOne(user string, names []string) string {
	return user + "\x00" + strings.Join(names, "\x00")
}

// account finds who a client is that says who it is.
func (p *Pooler) account(asked tenant.Asked) (*session.Account, tenant.Refusal) {
	s := p.state.Load()
	if asked.Physical && s.cfg.Cluster(asked.Database) == nil {
		asked.Database = s.replicated(asked.User, asked.Database)
	}
	find := func(user, database string) *session.Account {
		if s.disabled[database] {
			return nil
		}
		return s.accounts[accountKey{user, database}]
	}
	tenancy := s.cfg.Tenancy
	if tenancy == nil {
		if a := find(asked.User, asked.Database); a != nil {
			return a, tenant.Welcome
		}
		if p.follower != nil {
			a, refusal, _ := p.follower.account(tenant.Naming{}, &asked)
			return a, refusal
		}
		if a := s.anywhere[asked.User]; a != nil && s.accounts[accountKey{asked.User, asked.Database}] == nil {
			return a, tenant.UnknownDatabase
		}
		return nil, tenant.UnknownUser
	}
	if a := s.accounts[accountKey{asked.User, asked.Database}]; a != nil && a.Console != nil {
		return a, tenant.Welcome
	}
	id, refusal := tenancy.Registry.Identify(tenancy.Naming, asked, func(user, database string) (string, bool) {
		u := s.cfg.User(user, database)
		if u == nil || find(user, database) == nil {
			return "", false
		}
		return u.Tenant, true
	})
	if refusal != tenant.Welcome {
		if p.follower != nil {
			if a, why, found := p.follower.account(tenancy.Naming, &asked); found && (why != tenant.Conflict || refusal == tenant.UnknownUser) {
				return a, why
			}
			if a, why, found := p.follower.itself(s, &asked); found {
				return a, why
			}
			if a := p.follower.stopped(&id, refusal, asked.From, find(id.User, id.Database)); a != nil {
				return a, tenant.Welcome
			}
		}
		return nil, refusal
	}
	a := find(id.User, id.Database)
	if id.Tenant == nil || a == nil {
		return a, tenant.Welcome
	}
	ts := s.tenants[id.Database]
	if id.Tenant.Isolation == tenant.Instance {
		if asked.Database != id.Database { // the tenant's own logins come first where the database is its own, or none
			if own, why, found := p.follower.account(tenancy.Naming, &asked); found && why == tenant.Welcome {
				return own, why
			}
		}
		if s.disabled[id.Tenant.Name] { // by the console
			return nil, tenant.DisabledTenant
		}
	}
	if _, e := tenantRoute(ts.typ, ts.u.router.Load(), id.Tenant); e != nil { // to be told before the proof, as of all that are unknown
		return nil, tenant.UnknownTenant
	}
	made := *a // nothing is made for the tenant yet
	made.Said, made.Admit = inOne(tenancy.Naming.Said(asked, p.configured)), ts.admission(a, id.Tenant, asked.From)
	return &made, tenant.Welcome
}

// admission is Admit for a tenant, which may have changed while its client logged in.
func (t *tenants) admission(a *session.Account, as *tenant.Tenant, from netip.Addr) func() (*session.Account, tenant.Refusal, *pgwire.Error) {
	return func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		a, refusal, _ := a.Admit()
		if refusal != tenant.Welcome || a.Cluster != t.u {
			return nil, tenant.UnknownTenant, nil
		}
		now := t.u.tenants.Load()
		x := now.find(as.Name)
		switch {
		case x == nil || x.ID != as.ID || x.State != tenant.Active:
			return nil, tenant.UnknownTenant, nil
		case !x.Allows(from):
			return nil, tenant.ForeignNetwork, nil
		}
		to, e := now.account(a, x, true)
		if e != nil && (x.Isolation != tenant.Instance || e.Code == pgwire.CodeInsufficientPrivilege) {
			return nil, tenant.UnknownTenant, nil
		}
		return to, tenant.Welcome, e
	}
}

// replicated is the database whose server a user replicates, if there is just one; else name. PostgreSQL does without a name there, and its programs before
// PostgreSQL 17 give one of their own.
func (s *snapshot) replicated(user, name string) string {
	only := ""
	for k, a := range s.accounts {
		if k.user == user && a.Replicates {
			if only != "" {
				return name
			}
			only = k.database
		}
	}
	return cmp.Or(only, name)
}
