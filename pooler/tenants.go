package pooler

import (
	"fmt"
	"strings"
	"sync"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// tenants are those of one cluster, under one configuration: what sessions know of them, made when it is first asked for.
type tenants struct {
	u    *unit
	conf *config.Config
	cfg  *config.Cluster
	reg  *tenant.Registry
	typ  sharding.KeyType

	mu struct {
		sync.Mutex
		// places, and accounts, are bounded by being thrown away: what is asked for again is made again.
		places   map[string]*tenantPlace
		accounts map[tenantAccount]*session.Account
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

// mostTenants bounds what is remembered of tenants.
const mostTenants = 64 << 10

func newTenants(u *unit, conf *config.Config) *tenants {
	cfg := conf.Cluster(u.name)
	t := &tenants{u: u, conf: conf, cfg: cfg, reg: conf.Tenancy.Registry, typ: keyType(cfg.TenantType)}
	t.mu.places, t.mu.accounts = make(map[string]*tenantPlace), make(map[tenantAccount]*session.Account)
	return t
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
	x := t.reg.ByKey(t.u.name, key.String())
	if x == nil {
		return nil, unknownTenant()
	}
	return t.chosen(a, x)
}

func (t *tenants) byName(a *session.Account, name string) (*session.Account, *pgwire.Error) {
	x := t.find(name)
	if x == nil {
		return nil, unknownTenant()
	}
	return t.chosen(a, x)
}

// find finds a tenant of the cluster by its name, nil if there is none.
func (t *tenants) find(name string) *tenant.Tenant {
	x := t.reg.ByName(name)
	if x == nil {
		if x = t.reg.ByKey(t.u.name, name); x != nil && x.Name != name {
			return nil
		}
	}
	if x == nil || x.Cluster != t.u.name {
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if to := t.mu.accounts[at]; to != nil {
		return to, nil
	}
	p, e := t.placeLocked(x)
	if e != nil {
		return nil, e
	}
	to := *a
	if to.Place = p.Place; !bound {
		to.Free = a
	}
	if p.login != nil {
		to.ServerUser, to.Login = p.role, &login{u: t.u, user: a.User, login: p.login}
	}
	if len(t.mu.accounts) >= mostTenants {
		clear(t.mu.accounts)
	}
	t.mu.accounts[at] = &to
	return &to, nil
}

func (t *tenants) placeLocked(x *tenant.Tenant) (*tenantPlace, *pgwire.Error) {
	if p := t.mu.places[x.Name]; p != nil {
		return p, nil
	}
	route := router.Tenant{Own: x.Isolation != tenant.Row, Login: x.Mode == tenant.Strict, Schema: x.Schema}
	if x.Key != "" {
		key, ok := sharding.ParseKey(t.typ, x.Key)
		if !ok || key.String() != x.Key { // by another spelling it would be another tenant, in another state
			return nil, unknownTenant()
		}
		route.Key = key
	}
	var e *pgwire.Error
	if route.Shard, e = shardOf(t.u.router.Load(), x, route.Key); e != nil {
		return nil, e
	}
	p := &tenantPlace{role: x.Role}
	if x.Mode == tenant.Strict {
		p.login = t.login(x)
		p.Place = session.NewPlace(x, route, nil)
		p.SearchPath = x.SearchPath()
	} else {
		p.Place = session.NewPlace(x, route, x.Context())
	}
	if len(t.mu.places) >= mostTenants {
		clear(t.mu.places)
	}
	t.mu.places[x.Name] = p
	return p, nil
}

// login logs in as a tenant's own role, whose connections have its context from the start: so it is what RESET goes back to.
func (t *tenants) login(x *tenant.Tenant) *cluster.Login {
	name := "tenant " + x.Name + "@" + t.u.name
	o := cluster.LoginOptions{User: x.Role, Name: name, Database: x.Database, Budgeted: true}
	secret := "none"
	if s := t.conf.Tenancy.Secret; s != nil {
		o.Credential = auth.NewClientCredential(s.RolePassword(t.u.name, x.Role))
		secret = s.ID()
	}
	var options []string
	for _, c := range x.Context() {
		options = append(options, "-c "+escapeOption(c.Name+"="+c.Value))
	}
	if len(options) > 0 {
		o.Params = []pgwire.Param{{Name: "options", Value: strings.Join(options, " ")}}
	}
	o.Identity = strings.Join(append([]string{name, x.Role, x.Database, secret}, options...), "\x00")
	first := t.cfg.Shards[0][0]
	o.Settings = func(*cluster.Endpoint) pool.Settings {
		s := poolSettings(t.conf, t.conf.TenantPool(first), nil)
		s.Min = 0
		return s
	}
	return cluster.NewLogin(o)
}

// shardOf is where a tenant lives: as its entry says, or where the mapping has its key.
func shardOf(r *router.Router, x *tenant.Tenant, key sharding.Key) (topology.ShardID, *pgwire.Error) {
	if x.Shard >= 0 || x.Key == "" {
		return topology.ShardID(max(x.Shard, 0)), nil //nolint:gosec // it was checked
	}
	return r.TenantShard(key)
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

// account finds who a client is that says who it is.
func (p *Pooler) account(asked tenant.Asked) (*session.Account, tenant.Refusal) {
	s := p.state.Load()
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
		return nil, refusal
	}
	a := find(id.User, id.Database)
	if id.Tenant == nil || a == nil {
		return a, tenant.Welcome
	}
	to, e := s.tenants[id.Database].account(a, id.Tenant, true)
	if e != nil {
		return nil, tenant.UnknownTenant
	}
	return to, tenant.Welcome
}
