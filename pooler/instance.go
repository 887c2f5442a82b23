package pooler

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// instance is a tenant with a PostgreSQL of its own at work: its unit, and who may log in to it.
type instance struct {
	f  *follower
	id string
	u  *unit

	madeOf  *tenant.Record // of which its unit was made
	now     atomic.Pointer[served]
	used    atomic.Int64 // when a login asked for it last, a pool.Instant
	dropped atomic.Bool  // it is at work no more
	// attached: sessions of a database of the configuration come to it, which it does not count. It stays, then, as long as its tenant does.
	attached atomic.Bool
	gate     gate

	mu sync.Mutex // makes changes happen one after the other
	// ended: nothing more is made for it.
	ended bool
	// readOnly are what sessions look at, by the login's role: they outlive changes.
	readOnly map[string]*atomic.Bool
}

// served is an instance under one record and one configuration. It is immutable.
type served struct {
	conf     *config.Config
	rec      *tenant.Record // nil: the tenant is gone
	accounts map[string]*session.Account
	// attached is how sessions of a database of the configuration log in, as the tenant's own login; nil = they can't. readOnly is what they look at.
	attached *cluster.Login
	readOnly *atomic.Bool
	// replicas that serve, by ID.
	replicas map[string]*reader
}

// open is the instance's unit and accounts, made if need be.
func (f *follower) open(r *tenant.Record) (*instance, error) {
	if v, ok := f.instances.Load(r.ID); ok {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		if in.used.Store(int64(pool.Now())); !in.dropped.Load() {
			return in, nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, ok := f.instances.Load(r.ID); ok {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		in.used.Store(int64(pool.Now()))
		return in, nil
	}
	if f.ended {
		return nil, errEnding
	}
	in := &instance{f: f, id: r.ID, madeOf: r, readOnly: make(map[string]*atomic.Bool)}
	in.used.Store(int64(pool.Now()))
	in.gate.in = in
	conf := f.p.state.Load().cfg
	u, err := f.p.newInstanceUnit(conf, r, in, nil)
	if err != nil {
		return nil, err
	}
	in.u = u
	if f.paused.Load() {
		u.cl.Pause()
	}
	in.turn(conf)
	f.instances.Store(r.ID, in)
	f.made.Add(1)
	f.background(u.run)
	// Whatever changed before it could be found, the directory says now. The caller may hold a session, as who ends others must not.
	f.background(func(context.Context) { in.take(f.p.state.Load().cfg) })
	return in, nil
}

var errEnding = errors.New("the pooler is ending")

// sweep drops the instances that have no clients, and had no login for a while.
func (f *follower) sweep() {
	conf := f.p.state.Load().cfg
	// A client that has not finished its login may have seen the instance as long ago as that.
	oldest := int64(pool.Now()) - int64(max(f.idleAfter, conf.Clients.LoginTimeout+time.Second))
	f.instances.Range(func(_, v any) bool {
		in := v.(*instance) //nolint:forcetypeassert // nothing else is in it
		if in.used.Load() < oldest && in.unused() {
			f.drop(in, oldest)
		}
		return true
	})
}

func (f *follower) drop(in *instance, oldest int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A login that comes now either sees this, or is seen.
	in.dropped.Store(true)
	if in.used.Load() >= oldest || !in.unused() {
		in.dropped.Store(false)
		return
	}
	f.instances.Delete(in.id)
	f.made.Add(-1)
	for _, u := range in.end() {
		f.p.closing.Go(u.close)
	}
}

// unused reports whether nobody would miss the instance.
func (in *instance) unused() bool {
	return in.clients() == 0 && (!in.attached.Load() || in.now.Load().rec == nil)
}

// clients is how many have logged in to the unit's databases.
func (u *unit) clients() int {
	n := 0
	for _, m := range u.meters.all() {
		n += int(m.clients.Load())
	}
	return n
}

// take puts a configuration, and what the directory has by now, in force.
func (in *instance) take(conf *config.Config) {
	if was, now := in.turn(conf); now != nil {
		in.retire(was, now)
		in.closeGone(was, now)
	}
}

// turn is take without the end of sessions. It returns what was in force, and what is now; nil if that is the same.
func (in *instance) turn(conf *config.Config) (was, now *served) {
	if was, now = in.replace(conf); now != nil {
		in.gate.turn(now.rec)
	}
	return was, now
}

func (in *instance) replace(conf *config.Config) (was, now *served) {
	in.mu.Lock()
	defer in.mu.Unlock()
	was = in.now.Load()
	// Who comes late must not bring an old record back. Revisions don't tell: those of a directory that was restored begin anew.
	r := in.f.dir.ByID(in.id)
	if r == nil {
		now = &served{conf: conf}
		in.now.Store(now)
		return was, now
	}
	if was != nil && was.rec == r && was.conf == conf {
		return was, nil
	}
	o, logins := in.options(conf, r, nil)
	if was != nil && (was.conf != conf || !sameServer(was.rec, r)) || was == nil && in.madeOf != r {
		if err := in.u.become(conf, r.Name, o); err != nil && !errors.Is(err, cluster.ErrClosed) {
			in.f.log().Error("tenant not reloaded", "tenant", r.Name, "error", err)
		}
	}
	if was != nil && shut(was.rec) && !shut(r) {
		in.u.cl.Reconnect() // that the server refused its roles does not count any more
	}
	now = &served{conf: conf, rec: r, attached: logins[attachedRole]}
	for i := range r.Logins {
		ro := in.reads(r, &r.Logins[i])
		if i == 0 {
			now.readOnly = ro
		}
	}
	now.accounts = in.accounts(conf, r, in.u, logins)
	now.replicas = in.readers(conf, was, r)
	in.now.Store(now)
	return was, now
}

// retire ends the sessions of those who may not be there any more: at once where nothing is under way, else behind their transactions.
func (in *instance) retire(was, now *served) {
	if was == nil || was.rec == nil || was.rec == now.rec || !restricts(was.rec, now.rec) && len(gone(was, now)) == 0 {
		return
	}
	all := shut(now.rec)
	ended := func(a *session.Account, from netip.Addr) bool {
		if all || !now.rec.Access.Allows(from) || !now.serves(unitOf(a)) {
			return true
		}
		l := loginByRole(now.rec, a.ServerUser)
		return l == nil || l.Disabled
	}
	for _, c := range in.f.p.driver.Clients() {
		ends := false
		c.Inspect(func(s *session.Session, _ net.Conn) {
			if a := s.Account(); a != nil && unitOf(a) != nil && unitOf(a).in == in {
				from, _ := netip.ParseAddrPort(s.Client)
				ends = ended(a, from.Addr())
			}
		})
		if ends {
			c.Retire(errRetired, session.CloseKilled)
		}
	}
}

// restricts reports whether somebody may have been served under the one record, and is not under the other.
func restricts(was, now *tenant.Record) bool {
	if shut(was) {
		return false // nobody was
	}
	if shut(now) || len(now.Access.Networks) > 0 {
		return true
	}
	for i := range was.Logins {
		if l := loginByRole(now, was.Logins[i].Role); l == nil || l.Disabled {
			return true
		}
	}
	return false
}

var errRetired = pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command").WithRoutine("killed").
	WithDetail("The tenant, or its login, is no longer served.")

// sameServer reports whether connections for the one record are good for the other.
func sameServer(a, b *tenant.Record) bool {
	if a == nil || a.Name != b.Name || a.Cluster != b.Cluster || a.Key != b.Key || a.Endpoint != b.Endpoint || a.Authority.Trusted() != b.Authority.Trusted() || a.Database != b.Database || a.Limits.Connections != b.Limits.Connections ||
		a.Access.ReadOnly != b.Access.ReadOnly || a.Access.Full != b.Access.Full || len(a.Logins) != len(b.Logins) {
		return false
	}
	for i := range a.Logins {
		x, y := a.Logins[i], b.Logins[i]
		x.Verifier, y.Verifier = "", ""
		if x != y {
			return false
		}
	}
	return true
}

// options are those of the cluster of the instance, or of a replica of it, and how each role logs in.
func (in *instance) options(conf *config.Config, r *tenant.Record, x *tenant.Replica) (cluster.Options, map[string]*cluster.Login) {
	at, id, host, role := r.Endpoint, r.ID, r.Host, topology.Primary
	if x != nil {
		at, id, host, role = x.Endpoint, x.ID, x.Host, topology.Replica
	}
	address := backend.Address{Host: at.Host, Port: at.Port}
	base := poolSettings(conf, conf.InstancePool(), nil)
	base.Min = 0
	if n := r.Limits.Connections; n > 0 {
		base.Max = n
	}
	e := cluster.Endpoint{
		Role: role, Address: address, Database: r.Database, TCP: tcpOptions(conf.TCP), ConnectTimeout: conf.Connect.Timeout,
		Budget: r.Limits.Connections, Pool: base, Auth: ownServer,
	}
	if in.f.remote(host, at) {
		secure, err := in.f.peerTLS(r, id)
		if err != nil { // no connection gets through then
			in.f.log().Error("TLS to a tenant's server on another host", "tenant", r.Name, "error", err)
		}
		e.Address.Host, e.TLS, e.TLSKey = at.Remote, secure, "authority/"+id+"/"+fingerprint(r.Authority.Trusted())
	} else if ca := at.CA; ca != "" {
		secure, err := backend.AuthorityTLS(ca)
		if err != nil { // likewise
			in.f.log().Error("TLS to a tenant's server", "tenant", r.Name, "error", err)
		}
		e.TLS, e.TLSKey = secure, "ca/"+fingerprint(ca)
	} else if !local(address.Host) {
		e.TLSKey = tlsKey(conf)
		mode, err := backend.ParseTLSMode(string(conf.TLS.Verify))
		if err == nil {
			e.TLS, err = backend.ClientTLS(mode, conf.TLS.ServerCA, conf.TLS.ServerCertificate, conf.TLS.ServerPrivateKey)
		}
		if err != nil { // the configuration was checked
			in.f.log().Error("TLS to a tenant's server", "tenant", r.Name, "error", err)
		}
	}
	o := cluster.Options{
		Name: r.Name, Quiet: true, HealthInterval: conf.Health.IdleInterval, HealthTimeout: conf.Health.Timeout, Shards: [][]cluster.Endpoint{{e}},
	}
	logins := make(map[string]*cluster.Login, len(r.Logins))
	for i := range r.Logins {
		l := &r.Logins[i]
		if l.Disabled {
			continue
		}
		password, err := in.f.vault.Open(r.ID, l.Field(), l.Secret)
		if err != nil {
			in.f.log().Error("a tenant's login can't be used", "tenant", r.Name, "login", l.Name, "error", err)
			continue
		}
		lo := cluster.LoginOptions{
			User: l.Role, Name: l.Name + "@" + r.Name, Credential: auth.NewClientCredential(password), Tenant: r.Name, Budgeted: r.Limits.Connections > 0,
			Identity: l.Role + "/" + fingerprint(password),
		}
		if readsOnly(r, l) || x != nil { // a replica that is made a primary does not take writes before its sessions have ended
			lo.Params = []pgwire.Param{{Name: "default_transaction_read_only", Value: "on"}}
			lo.Identity += "/read only"
		}
		settings := base
		if l.Connections > 0 {
			settings.Max = min(cmp.Or(r.Limits.Connections, l.Connections), l.Connections)
		}
		lo.Settings = func(*cluster.Endpoint) pool.Settings { return settings }
		if i == 0 && x == nil && r.InCluster() && conf.Tenancy != nil {
			attached := attachedLogin(conf, r, lo)
			logins[attachedRole] = attached
			o.Logins = append(o.Logins, attached)
		}
		login := cluster.NewLogin(lo)
		logins[l.Role] = login
		o.Logins = append(o.Logins, login)
	}
	return o, logins
}

// peerTLS is for an instance of a tenant's on another host. Without an error or with one, nobody is believed that has no certificate of the tenant's authority, be it the next one or the former.
func (f *follower) peerTLS(r *tenant.Record, id string) (backend.TLSOptions, error) {
	o, err := backend.AuthorityTLS(r.Authority.Trusted())
	if err != nil {
		return o, err
	}
	signer, err := r.Authority.Open(f.vault, r.ID)
	if err != nil {
		return o, err
	}
	badge := &tenant.Badge{By: signer}
	return o.Peer(tenant.ServerName(id), func() (*tls.Certificate, error) { return badge.Show(time.Now()) }), nil
}

// ownServer is what a server may ask for that pgkennel made: all of its roles have SCRAM verifiers, and what else listens in its place knows none of them.
var ownServer = &auth.ClientOptions{SCRAMOnly: true}

// attachedRole is no role: among an instance's logins it stands for its own one, as sessions of a database of the configuration have it.
const attachedRole = ""

// attachedLogin is the tenant's own login with what tells a server whose connection it is, as virtual tenants' have it.
func attachedLogin(conf *config.Config, r *tenant.Record, own cluster.LoginOptions) *cluster.Login {
	own.Name = "(" + r.Cluster + ")@" + r.Name // no login of a tenant's can be called so
	own.Identity += "/attached"
	if setting := conf.Tenancy.Registry.Setting(); r.Key != "" && setting != "" {
		option := "-c " + escapeOption(setting+"="+r.Key)
		own.Params = append(slices.Clone(own.Params), pgwire.Param{Name: "options", Value: option})
		own.Identity += " " + option
	}
	return cluster.NewLogin(own)
}

// readsOnly reports whether sessions of a login may only read.
func readsOnly(r *tenant.Record, l *tenant.Login) bool {
	return l.ReadOnly || r.Access.ReadOnly || r.Access.Full
}

// local reports whether a server is on this machine, so that nobody listens on the way to it.
func local(host string) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// reads is what the sessions of a login look at, to see whether they may only read. in.mu is held.
func (in *instance) reads(r *tenant.Record, l *tenant.Login) *atomic.Bool {
	ro := in.readOnly[l.Role]
	if ro == nil {
		ro = new(atomic.Bool)
		in.readOnly[l.Role] = ro
	}
	ro.Store(readsOnly(r, l))
	return ro
}

// accounts are those of the record's logins at a unit of the instance's, by name. in.mu is held.
func (in *instance) accounts(conf *config.Config, r *tenant.Record, u *unit, logins map[string]*cluster.Login) map[string]*session.Account {
	list := make(map[string]*session.Account, len(r.Logins))
	for i := range r.Logins {
		l := &r.Logins[i]
		if a := in.account(conf, r, u, l, logins[l.Role]); a != nil {
			list[l.Name] = a
		}
	}
	return list
}

// account is what a login is checked against, and what its sessions may do; nil = there is no such login. in.mu is held.
func (in *instance) account(conf *config.Config, r *tenant.Record, u *unit, l *tenant.Login, how *cluster.Login) *session.Account {
	if l.Disabled {
		return nil
	}
	v, err := auth.ParseVerifier(l.Verifier)
	if err != nil {
		in.f.log().Error("a tenant's login has no verifier", "tenant", r.Name, "login", l.Name, "error", err)
		return nil
	}
	inSessions := conf.InstanceMode() == config.ModeSession
	a := &session.Account{
		User: l.Name, Database: r.Name, Credential: auth.NewCredential(v), Cluster: u, ServerUser: l.Role,
		Session: inSessions, Statements: conf.Prepared.Enabled && !inSessions,
		QueryTimeout: int64(conf.Clients.QueryTimeout), IdleTimeout: int64(conf.Clients.IdleTimeout),
		IdleTransactionTimeout: int64(conf.Clients.IdleInTransactionTimeout), CancelTimeout: int64(conf.Timeouts.Rollback),
		Pin: pinning(conf.InstancePin()), PinTimeout: int64(conf.Clients.PinTimeout),
		Login: &login{u: u, user: l.Name, login: how}, Metrics: u.meters.of(u, l.Name),
		TenantMetrics: in.meter(r),
		ReadOnly:      in.readOnly[l.Role], Own: true, Replica: u.replica != "",
	}
	usable := how != nil
	role := l.Role
	a.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		refusal, e := in.admit(role, usable)
		return a, refusal, e
	}
	return a
}
