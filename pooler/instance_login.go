package pooler

import (
	"os"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// admit has the last word on a login that proved its password.
func (in *instance) admit(role string, usable bool) (tenant.Refusal, *pgwire.Error) {
	now := in.now.Load()
	if refusal := refusalOf(now.rec); refusal != tenant.Welcome {
		return refusal, nil
	}
	if l := loginByRole(now.rec, role); l == nil || l.Disabled {
		return tenant.DisabledLogin, nil
	}
	if !usable {
		return tenant.Welcome, errNotServed(now.rec.Name)
	}
	if down(now.rec) {
		return tenant.Welcome, errStopped(now.rec.Name)
	}
	if in.f.elsewhere(now.rec.Host, now.rec.Endpoint) {
		in.f.log().Warn("login to a tenant whose server only another host reaches", "tenant", now.rec.Name, "host", now.rec.Host)
		return tenant.Welcome, errElsewhere(now.rec.Name)
	}
	return tenant.Welcome, nil
}

// elsewhere reports whether an instance can't be reached from here, for it listens on another host and to that one only. A port of the loopback address may be
// another tenant's here; a socket has its instance's ID in its path, and hosts may share the file system.
func (f *follower) elsewhere(host string, at tenant.Endpoint) bool {
	if host == "" || host == f.host || !local(at.Host) || f.remote(host, at) {
		return false
	}
	if !strings.HasPrefix(at.Host, "/") {
		return true
	}
	_, err := os.Stat(at.Host)
	return err != nil
}

// remote reports whether an instance is reached where it listens for other hosts.
func (f *follower) remote(host string, at tenant.Endpoint) bool {
	return host != "" && host != f.host && at.Remote != ""
}

func loginByRole(r *tenant.Record, role string) *tenant.Login {
	for i := range r.Logins {
		if r.Logins[i].Role == role {
			return &r.Logins[i]
		}
	}
	return nil
}

// down reports whether an operator has to start the instance.
func down(r *tenant.Record) bool {
	return r.Phase == tenant.Stopped || r.Phase == tenant.Failed && !r.Dormant()
}

// shut reports whether nobody is served under a record.
func shut(r *tenant.Record) bool { return refusalOf(r) != tenant.Welcome || down(r) }

// refusalOf is why nobody may log in to a tenant, as a client that does not know the password; Welcome = somebody may.
func refusalOf(r *tenant.Record) tenant.Refusal {
	if r == nil {
		return tenant.UnknownTenant
	}
	switch r.Phase {
	case tenant.Creating, tenant.Removing, tenant.Removed:
		return tenant.UnknownTenant
	case tenant.OnHold:
		return tenant.SuspendedTenant
	case tenant.Ready, tenant.Asleep, tenant.Stopped, tenant.Failed:
	}
	if !r.Access.Enabled {
		return tenant.DisabledTenant
	}
	return tenant.Welcome
}

func errStopped(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q is stopped", name).WithRoutine("tenant_stopped").
		WithHint("An operator starts it.")
}

func errElsewhere(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q can't be reached from here", name).WithRoutine("tenant_elsewhere").
		WithDetail("Its server is on another host, and listens to that one only.").
		WithHint("Connect to pgkennel on that host; or have its instances listen for others, by listen in [provision] there.")
}

func errNotServed(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q is not available", name).WithRoutine("tenant_unavailable").
		WithDetail("pgkennel can't log in to its server; its log says why.")
}

// named finds the tenant with an instance of its own that a client asks for, and the login; the record is nil where it asks for none.
func (f *follower) named(n tenant.Naming, asked *tenant.Asked) (*tenant.Record, string, tenant.Refusal) {
	var rec *tenant.Record
	conflict := false
	say := func(r *tenant.Record) {
		if rec == nil {
			rec = r
		}
		conflict = conflict || rec.ID != r.ID
	}
	login := asked.User
	own := func(name string) *tenant.Record {
		if name == "" {
			return nil
		}
		if r := f.dir.ByName(name); r != nil && !r.Virtual() {
			return r
		}
		return nil
	}
	if r := own(asked.Database); r != nil {
		say(r)
	}
	if user, name, ok := n.Split(asked.User); ok {
		if r := own(name); r != nil {
			say(r)
			login = user
		}
	}
	if name, ok := strings.CutSuffix(strings.ToLower(asked.ServerName), n.Suffix); n.Suffix != "" && ok {
		if r := own(name); r != nil {
			say(r)
		} else if rec != nil {
			conflict = true
		}
	}
	if asked.Option != "" {
		if r := own(asked.Option); r != nil {
			say(r)
		} else if rec != nil {
			conflict = true
		}
	}
	switch {
	case rec == nil:
		return nil, "", tenant.UnknownUser
	case conflict, asked.Database != rec.Name && asked.Database != asked.User:
		return rec, login, tenant.Conflict
	}
	return rec, login, tenant.Welcome
}

// account finds who a client is that asks for a tenant with an instance of its own; found is false if it asks for none.
func (f *follower) account(n tenant.Naming, asked *tenant.Asked) (a *session.Account, refusal tenant.Refusal, found bool) {
	r, login, refusal := f.named(n, asked)
	if r == nil {
		return nil, refusal, false
	}
	if refusal == tenant.Welcome {
		refusal = refusalOf(r)
	}
	if refusal == tenant.Welcome && f.p.state.Load().disabled[r.Name] { // by the console
		refusal = tenant.DisabledTenant
	}
	if refusal == tenant.Welcome && !r.Access.Allows(asked.From) {
		refusal = tenant.ForeignNetwork
	}
	if refusal == tenant.Welcome {
		switch l := r.Login(login); {
		case l == nil:
			refusal = tenant.UnknownUser
		case l.Disabled:
			refusal = tenant.DisabledLogin
		}
	}
	if refusal != tenant.Welcome {
		return nil, refusal, true
	}
	if v, ok := f.instances.Load(r.ID); ok {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		in.used.Store(int64(pool.Now()))
		if now := in.now.Load(); now != nil && now.rec == r && !in.dropped.Load() {
			if a = now.accounts[login]; a == nil {
				return nil, tenant.UnknownUser, true
			}
		}
	}
	if a == nil {
		a = f.stranger(r, r.Login(login))
	}
	if asked.Replica {
		a = atReplica(a)
	}
	return a, tenant.Welcome, true
}

// credential is that of a login that is refused for now: its salt may not change with that.
func (f *follower) credential(n tenant.Naming, asked *tenant.Asked, user string, names []string) *auth.Credential {
	r, login, refusal := f.named(n, asked)
	if r == nil || refusal != tenant.Welcome {
		if r, login = f.dir.ByName(names[0]), user; r == nil || len(names) > 1 {
			return nil
		}
	}
	l := r.Login(login)
	if l == nil {
		return nil
	}
	v, err := auth.ParseVerifier(l.Verifier)
	if err != nil {
		return nil
	}
	return auth.NewCredential(v)
}

// stranger is the account of a login until its client has proved who it is: nobody else has something made for a tenant.
func (f *follower) stranger(r *tenant.Record, l *tenant.Login) *session.Account {
	a := &session.Account{User: l.Name, Database: r.Name}
	if v, err := auth.ParseVerifier(l.Verifier); err == nil {
		a.Credential = auth.NewCredential(v)
	} else {
		f.log().Error("a tenant's login has no verifier", "tenant", r.Name, "login", l.Name, "error", err)
	}
	id, role := r.ID, l.Role
	a.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		now := f.dir.ByID(id)
		if refusal := refusalOf(now); refusal != tenant.Welcome {
			return nil, refusal, nil
		}
		in, err := f.open(now)
		if err != nil {
			f.log().Error("tenant not served", "tenant", now.Name, "error", err)
			return nil, tenant.Welcome, errNotServed(now.Name)
		}
		if rec := in.now.Load().rec; rec != nil {
			now = rec
		}
		l := loginByRole(now, role)
		if l == nil || in.now.Load().accounts[l.Name] == nil {
			return nil, tenant.DisabledLogin, nil
		}
		return in.now.Load().accounts[l.Name].Admit()
	}
	return a
}
