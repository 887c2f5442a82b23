package pooler

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// tenants are those of one cluster, under one configuration: what sessions know of them, made when it is first asked for.
type tenants struct {
	u    *unit
	conf *config.Config
	cfg  *config.Cluster
	reg  *tenant.Registry
	typ  sharding.KeyType

	// lender is whose server login tenants use that log in by themselves and have none on the server; nil = there is no such user.
	lender *session.Account

	mu struct {
		sync.RWMutex
		// places, and accounts, are bounded by being thrown away: what is asked for again is made again.
		places   map[string]*tenantPlace
		accounts map[tenantAccount]*session.Account
		// forgot counts how often tenants were forgotten: what was found before is not remembered behind that.
		forgot uint64
		// chosen are those of accounts that their clients chose by key, to be found without making a text of it.
		chosen map[chosenAccount]*session.Account
	}
}

// tenantPlace is a tenant's, and how to log in there.
type tenantPlace struct {
	*session.Place
	role  string
	login *cluster.Login // nil: that of the account
}

type tenantAccount struct {
	of     *session.Account
	tenant string
	bound  bool // by its login
}

type chosenAccount struct {
	of  *session.Account
	key sharding.Key
}

// mostTenants bounds what is remembered of tenants.
const mostTenants = 64 << 10

func newTenants(u *unit, conf *config.Config) *tenants {
	cfg := conf.Cluster(u.name())
	t := &tenants{u: u, conf: conf, cfg: cfg, reg: conf.Tenancy.Registry, typ: keyType(cfg.TenantType)}
	t.mu.places, t.mu.accounts = make(map[string]*tenantPlace), make(map[tenantAccount]*session.Account)
	t.mu.chosen = make(map[chosenAccount]*session.Account)
	return t
}

// sealer makes seals with today's secret. It stays the same when that changes: what was sealed with the old one is good until its connection is replaced, as
// all are whose login changes.
type sealer struct{ today atomic.Pointer[tenant.Sealer] }

var _ state.Sealer = (*sealer)(nil)

// take takes the secret of a configuration.
func (s *sealer) take(conf *config.Config, cluster string) {
	if conf.Tenancy != nil && conf.Tenancy.Secret != nil {
		s.today.Store(conf.Tenancy.Secret.Sealer(cluster))
	}
}

// AppendSeal implements state.Sealer.
func (s *sealer) AppendSeal(dst []byte, key string, pid uint32, start int64) []byte {
	return s.today.Load().AppendSeal(dst, key, pid, start)
}

// todays are a cluster's tenants under whatever configuration is in force: sessions live longer than one.
type todays struct{ u *unit }

var _ session.Tenants = todays{}

// Setting implements session.Tenants.
func (d todays) Setting() string { return d.u.tenants.Load().reg.Setting() }

// KeyType implements session.Tenants.
func (d todays) KeyType() sharding.KeyType { return d.u.tenants.Load().typ }

// ByKey implements session.Tenants.
func (d todays) ByKey(a *session.Account, key sharding.Key) (*session.Account, *pgwire.Error) {
	return d.u.tenants.Load().byKey(a, key)
}

// ByName implements session.Tenants.
func (d todays) ByName(a *session.Account, name string) (*session.Account, *pgwire.Error) {
	return d.u.tenants.Load().byName(a, name)
}

// same reports whether a session's place is still what its tenant has.
func same(t *tenants, p *session.Place) bool {
	if t == nil {
		return false
	}
	x := t.find(p.Tenant.Name)
	if x == nil || x.State != tenant.Active || !x.Equal(p.Tenant) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now, e := t.placeLocked(x)
	return e == nil && now.Route == p.Route
}

func (t *tenants) byKey(a *session.Account, key sharding.Key) (*session.Account, *pgwire.Error) {
	at := chosenAccount{a, key}
	t.mu.RLock()
	to, forgot := t.mu.chosen[at], t.mu.forgot
	t.mu.RUnlock()
	if to != nil {
		return to, nil
	}
	x := t.reg.ByKey(t.u.name(), key.String())
	if x == nil {
		return nil, unknownTenant()
	}
	to, e := t.chosen(a, x)
	if e == nil {
		t.mu.Lock()
		if t.mu.accounts[tenantAccount{a, x.Name, false}] == to && t.mu.forgot == forgot { // else it was thrown away, or may have changed since it was found
			t.mu.chosen[chosenAccount{a, to.Place.Route.Key}] = to // the key at hand may be a view of a message
		}
		t.mu.Unlock()
	}
	return to, e
}

func (t *tenants) byName(a *session.Account, name string) (*session.Account, *pgwire.Error) {
	x := t.find(name)
	if x == nil {
		return nil, unknownTenant()
	}
	return t.chosen(a, x)
}

// forget drops what is remembered of tenants that may have changed with the directory.
func (t *tenants) forget(of *touched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.forgot++
	for at, a := range t.mu.accounts {
		if of.has(a.Place.Tenant) {
			delete(t.mu.accounts, at)
		}
	}
	for at, a := range t.mu.chosen {
		if of.has(a.Place.Tenant) {
			delete(t.mu.chosen, at)
		}
	}
	for name, p := range t.mu.places {
		if of.has(p.Tenant) {
			delete(t.mu.places, name)
		}
	}
}

// find finds a tenant of the cluster by its name, nil if there is none.
func (t *tenants) find(name string) *tenant.Tenant {
	x := t.reg.ByName(name)
	if x == nil {
		if x = t.reg.ByKey(t.u.name(), name); x != nil && x.Name != name {
			return nil
		}
	}
	if x == nil || x.Cluster != t.u.name() {
		return nil
	}
	return x
}

func unknownTenant() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "there is no such tenant").WithRoutine(router.RefusalTenantUnknown).
		WithHint("Tenants are in [[tenants]], or made of their keys by the templates in [multi_tenant].")
}

// chosen is what an account that may choose is for a tenant.
func (t *tenants) chosen(a *session.Account, x *tenant.Tenant) (*session.Account, *pgwire.Error) {
	if x.State != tenant.Active {
		return nil, unknownTenant() // what it is, is the operator's business
	}
	return t.account(a, x, false)
}

// account is what an account is for a tenant; bound: its login named that, for its life.
func (t *tenants) account(a *session.Account, x *tenant.Tenant, bound bool) (*session.Account, *pgwire.Error) {
	at := tenantAccount{a, x.Name, bound}
	t.mu.RLock()
	to := t.mu.accounts[at]
	t.mu.RUnlock()
	if to != nil && to.Place.Tenant == x {
		return to, nil
	}
	var in *instance
	var now *served
	if x.Isolation == tenant.Instance {
		if x.Down {
			return nil, errStopped(x.Name)
		}
		var e *pgwire.Error
		if in, now, e = t.u.p.follower.attach(x); e != nil {
			return nil, e
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if to := t.mu.accounts[at]; to != nil && to.Place.Tenant == x {
		return to, nil
	}
	p, e := t.placeLocked(x)
	if e != nil {
		return nil, e
	}
	made := *a
	to = &made
	if in != nil {
		in.attachedAs(now, to)
	} else {
		to.TenantMetrics = t.u.tenantMeters.of(x)
	}
	if x.ReadOnly() && in == nil {
		to.ReadOnly = new(atomic.Bool)
		to.ReadOnly.Store(true)
	}
	if to.Place = p.Place; !bound {
		to.Free = a
	}
	if p.login != nil {
		to.ServerUser, to.Login = p.role, &login{u: t.u, user: a.User, login: p.login}
	}
	if len(t.mu.accounts) >= mostTenants {
		clear(t.mu.accounts)
		clear(t.mu.chosen)
	}
	t.mu.accounts[at] = to
	return to, nil
}

// lender finds the user whose login sealed and shared tenants use that log in by themselves: it has to be plain which, and that it is made for tenants.
func lender(cfg *config.Config, database string, accounts map[accountKey]*session.Account) *session.Account {
	var found *session.Account
	var of *config.User
	for _, chooses := range []bool{true, false} { // the application's own goes first
		for _, user := range cfg.Users {
			a := accounts[accountKey{user.Name, user.Database}]
			if user.Database != database || a == nil || user.TenantSwitch != chooses || user.Tenant != "" || user.MaySetRole || a.Login.(*login).keyed { //nolint:forcetypeassert // the pooler's own
				continue
			}
			if of == nil {
				found, of = a, user
			}
			for _, endpoints := range cfg.Cluster(database).Shards {
				for _, e := range endpoints {
					if x, y := cfg.Pool(of, e), cfg.Pool(user, e); x.User != y.User {
						return nil
					}
				}
			}
		}
		if found != nil {
			return found
		}
	}
	return nil
}

// itself is the account of a tenant that logs in by itself.
func (t *tenants) itself(x *tenant.Tenant, user string) (*session.Account, *pgwire.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := tenantAccount{nil, x.Name, true}
	if to := t.mu.accounts[at]; to != nil && to.Place.Tenant == x {
		return to, nil
	}
	p, e := t.placeLocked(x)
	if e != nil {
		return nil, e
	}
	inSessions := t.conf.TenantMode(t.cfg) == config.ModeSession
	a := &session.Account{
		User: user, Database: t.u.name(), Cluster: t.u, Tenants: todays{t.u}, Place: p.Place, Itself: true,
		Session: inSessions, Statements: t.conf.Prepared.Enabled && !inSessions,
		QueryTimeout: int64(t.conf.Clients.QueryTimeout), IdleTimeout: int64(t.conf.Clients.IdleTimeout),
		IdleTransactionTimeout: int64(t.conf.Clients.IdleInTransactionTimeout), CancelTimeout: int64(t.conf.Timeouts.Rollback),
		Pin: pinning(t.conf.TenantPin(t.cfg)), PinTimeout: int64(t.conf.Clients.PinTimeout),
		Metrics: t.u.meters.of(t.u, tenantsLabel), TenantMetrics: t.u.tenantMeters.of(x),
	}
	switch {
	case p.login != nil:
		a.ServerUser, a.Login = p.role, &login{u: t.u, user: user, login: p.login}
	case t.lender != nil:
		a.ServerUser, a.Login = t.lender.ServerUser, &login{u: t.u, user: user, login: t.lender.Login.(*login).login} //nolint:forcetypeassert // the pooler's own
	default:
		return nil, errNoLender(x.Name)
	}
	if x.ReadOnly() {
		a.ReadOnly = new(atomic.Bool)
		a.ReadOnly.Store(true)
	}
	if len(t.mu.accounts) >= mostTenants {
		clear(t.mu.accounts)
		clear(t.mu.chosen)
	}
	t.mu.accounts[at] = a
	return a, nil
}

func errNoLender(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "tenant %q can't log in by itself", name).WithRoutine("tenant_unavailable").
		WithDetail("In its mode, it has no login of its own on the server, and its database has not one user of the application whose login it could use.").
		WithHint("Log in as USER@%s.", name)
}

func (t *tenants) placeLocked(x *tenant.Tenant) (*tenantPlace, *pgwire.Error) {
	if p := t.mu.places[x.Name]; p != nil && p.Tenant == x {
		return p, nil
	}
	route, e := tenantRoute(t.typ, t.u.router.Load(), x)
	if e != nil {
		return nil, e
	}
	p := &tenantPlace{role: x.Role}
	if x.Mode == tenant.Strict {
		if x.Isolation != tenant.Instance { // which has a login for it
			p.login = t.login(x)
		}
		p.Place = session.NewPlace(x, route, nil, nil)
		p.SearchPath = x.SearchPath()
	} else {
		p.Place = session.NewPlace(x, route, x.Context(), &t.u.sealer)
		if x.Isolation == tenant.Schema {
			p.MaxSchemas = t.conf.Tenancy.Schemas
		}
	}
	if len(t.mu.places) >= mostTenants {
		clear(t.mu.places)
	}
	t.mu.places[x.Name] = p
	return p, nil
}

// login logs in as a tenant's own role, whose connections have its context from the start: so it is what RESET goes back to.
func (t *tenants) login(x *tenant.Tenant) *cluster.Login {
	name := "tenant " + x.Name + "@" + t.u.name()
	o := cluster.LoginOptions{User: x.Role, Name: name, Database: x.Database, Budgeted: true, Tenant: x.Name}
	if x.Isolation != tenant.Database { // others have connections to the database
		o.Hears, o.Identified = name, true
	}
	secret := "none"
	if s := t.conf.Tenancy.Secret; s != nil {
		o.Credential = auth.NewClientCredential(s.RolePassword(t.u.name(), x.Role))
		secret = s.ID()
	}
	var options []string
	for _, c := range x.Context() {
		options = append(options, "-c "+escapeOption(c.Name+"="+c.Value))
	}
	if len(options) > 0 {
		o.Params = []pgwire.Param{{Name: "options", Value: strings.Join(options, " ")}}
	}
	o.Guard = secure.Login{Isolation: x.Isolation, Mode: x.Mode, Column: t.cfg.TenantColumn}.Guard()
	o.Identity = strings.Join(append([]string{name, x.Role, x.Database, secret}, options...), "\x00")
	return cluster.NewLogin(o)
}

// guard is what servers are asked about logins.
type guard struct {
	conf  *config.Config // of which it was made
	sql   string         // empty = nothing
	warns bool           // what they answer is logged only
}

// sharedGuard is the guard of the logins that the cluster's tenants share.
func (u *unit) sharedGuard(conf *config.Config, cfg *config.Cluster) guard {
	if conf.Tenancy == nil {
		return guard{}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.guard.conf == conf {
		return u.guard
	}
	u.guard = guard{conf: conf}
	share := secure.Login{Column: cfg.TenantColumn}
	for _, k := range conf.Tenancy.Registry.Kinds(cfg.Name) {
		if k.Mode == tenant.Sealed || k.Mode == tenant.Shared && share.Mode != tenant.Sealed {
			share.Isolation, share.Mode = k.Isolation, k.Mode
		}
	}
	if share.Mode != 0 {
		u.guard.sql, u.guard.warns = share.Guard(), share.Mode == tenant.Shared
	}
	return u.guard
}

// shardOf is where a tenant lives: as its entry says, or where its schema is, or the mapping has its key.
func shardOf(r *router.Router, x *tenant.Tenant, key sharding.Key) (topology.ShardID, *pgwire.Error) {
	if x.Shard >= 0 {
		return topology.ShardID(x.Shard), nil //nolint:gosec // it was checked
	}
	if shard, ok := r.SchemaShard(x.Schema); ok {
		return shard, nil
	}
	if x.Key == "" {
		shard, _ := r.RestShard()
		return shard, nil
	}
	return r.TenantShard(key)
}

// tenantRoute is what the router knows of a tenant.
func tenantRoute(typ sharding.KeyType, r *router.Router, x *tenant.Tenant) (router.Tenant, *pgwire.Error) {
	route := router.Tenant{
		Own: x.Isolation != tenant.Row, Sole: x.Isolation == tenant.Instance, Login: x.Mode == tenant.Strict, Schema: x.Schema,
	}
	if x.Key != "" {
		key, ok := sharding.ParseKey(typ, x.Key)
		if !ok || key.String() != x.Key { // by another spelling it would be another tenant, in another state
			return route, unknownTenant()
		}
		route.Key = key
	}
	var e *pgwire.Error
	route.Shard, e = shardOf(r, x, route.Key)
	return route, e
}

// TenantRoute is what a cluster's router knows of a tenant.
func TenantRoute(cfg *config.Cluster, r *router.Router, x *tenant.Tenant) (*router.Tenant, error) {
	route, e := tenantRoute(keyType(cfg.TenantType), r, x)
	if e != nil {
		return nil, fmt.Errorf("tenant %q: %w", x.Name, e)
	}
	return &route, nil
}

// TenantKey is a key in the form in which PostgreSQL prints it; false for what is none.
func TenantKey(cfg *config.Cluster, text string) (string, bool) {
	key, ok := sharding.ParseKey(keyType(cfg.TenantType), text)
	return key.String(), ok
}

// TenantShards returns what finds a tenant's shard, as statements find it.
func TenantShards(cfg *config.Cluster) (func(*tenant.Tenant) (int, error), error) {
	o, err := RouterOptions(cfg)
	if err != nil {
		return nil, err
	}
	r, err := router.New(o)
	if err != nil {
		return nil, err
	}
	return func(x *tenant.Tenant) (int, error) {
		key, ok := sharding.ParseKey(keyType(cfg.TenantType), x.Key)
		if !ok && x.Key != "" {
			return 0, fmt.Errorf("tenant %q: its key is no %s", x.Name, cfg.TenantType)
		}
		shard, e := shardOf(r, x, key)
		if e != nil {
			return 0, fmt.Errorf("tenant %q: %w", x.Name, e)
		}
		return int(shard), nil
	}, nil
}

// escapeOption writes an argument of startup options: backslashes go in front of blanks and of themselves (PostgreSQL manual, 34.1.2, options).
func escapeOption(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch s[i] {
		case ' ', '\t', '\n', '\v', '\f', '\r', '\\':
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
