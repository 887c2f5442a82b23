package pooler

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// unit is one cluster at work: its connections, its router, its counters. It lives as long as the configuration names it.
type unit struct {
	p     *Pooler
	title atomic.Pointer[string]
	cl    *cluster.Cluster[*loop.Backend]
	in    *instance // whose it is; nil = the configuration's
	// replica is the ID of the instance's replica that it is for; empty = the instance itself.
	replica string
	leaving atomic.Bool               // its sessions are being ended, for the replica was promoted
	left    atomic.Pointer[time.Time] // when that was noticed last

	label   string // of its metrics
	metrics *metrics.Cluster
	shards  atomic.Pointer[[]*metrics.Shard]
	meters  meters
	pools   *poolGroups
	// tenantMeters are what tenants' statements are counted with.
	tenantMeters tenantMeters
	health       health
	router       atomic.Pointer[router.Router]
	// schemaDue is closed when the first snapshot of the schema is in the router, or was waited for long enough.
	schemaDue  chan struct{}
	schemaOnce sync.Once

	mu sync.Mutex // guards below, and the making of routers
	// cfg, conf: the configuration in force.
	cfg    *config.Cluster
	conf   *config.Config
	base   *router.Options // of cfg, without a schema
	schema *topology.Schema
	// overrides are logins that [[databases]] gives for an endpoint.
	overrides map[overrideKey]override
	cancel    context.CancelFunc

	tenants atomic.Pointer[tenants] // under virtual tenancy
	book    *judge.Book             // nil = nothing is to be known of code
	ears    ears
	// audience is who listens of the tenants that share logins.
	audience notify.Audience
	sealer   sealer
	guard    guard // guarded by mu
}

type overrideKey struct {
	login    string // the login's name
	address  backend.Address
	database string
}

type override struct {
	user       string
	credential *auth.ClientCredential
}

var _ session.Cluster = (*unit)(nil)

// link is what a backend is remembered by: how to reach its server for a cancel request.
type link struct {
	id   uint64 // unique in this process
	u    *unit
	dial backend.DialOptions
	info cluster.PoolInfo
	pool *metrics.Pool
	from sender

	received, sent atomic.Uint64 // bytes
	cancels        flights
	ended          atomic.Bool  // of a dedicated one
	dedicated      *meter       // of whose replication connection it is; nil = it is a pool's
	asked          atomic.Int64 // when something was sent to it last, in nanoseconds of the driver; 0 = never
	// What pool counted of the machine's counters; guarded as the machine.
	parses, evictions uint64
}

// newUnit makes a cluster of the configuration. It connects to nothing yet.
func (p *Pooler) newUnit(conf *config.Config, cfg *config.Cluster) (*unit, error) {
	u := &unit{p: p, conf: conf, label: cfg.Name, metrics: p.metrics.Cluster(cfg.Name), pools: new(poolGroups), schemaDue: make(chan struct{})}
	u.rename(cfg.Name)
	u.countShards(len(cfg.Shards))
	options, overrides, err := u.options(conf, cfg)
	if err != nil {
		return nil, err
	}
	u.overrides = overrides
	if conf.LoadSchema != config.LoadSchemaOff {
		u.book = judge.NewBook(p.shared.Code)
	}
	u.sealer.take(conf, u.name())
	if err := u.route(cfg, nil); err != nil {
		return nil, err
	}
	u.start(options)
	u.metrics.SetState(u.clusterState)
	return u, nil
}

// newInstanceUnit makes the unit of a tenant with an instance of its own, or of a replica of that. It connects to nothing yet.
func (p *Pooler) newInstanceUnit(conf *config.Config, r *tenant.Record, in *instance, x *tenant.Replica) (*unit, error) {
	u := &unit{
		p: p, in: in, conf: conf, label: tenantsLabel, metrics: p.metrics.Cluster(tenantsLabel), pools: &in.f.pools, schemaDue: make(chan struct{}),
	}
	if x != nil {
		u.replica = x.ID
	}
	u.rename(r.Name)
	u.countShards(1)
	options, _ := in.options(conf, r, x)
	if err := u.route(instanceCluster(r.Name), nil); err != nil {
		return nil, err
	}
	u.start(options)
	return u, nil
}

// instanceCluster is the configuration of a cluster that has none.
func instanceCluster(name string) *config.Cluster {
	return &config.Cluster{Name: name, Shards: [][]*config.Endpoint{{{Cluster: name}}}}
}

// become changes the unit of an instance.
func (u *unit) become(conf *config.Config, name string, o cluster.Options) error {
	if u.name() != name {
		u.rename(name)
		if err := u.route(instanceCluster(name), nil); err != nil {
			return err
		}
	}
	u.setConfig(conf, nil)
	err := u.cl.Reload(o)
	u.ears.moved(u.cl)
	return err
}

// name is what the database of the unit is called.
func (u *unit) name() string { return *u.title.Load() }

func (u *unit) rename(name string) { u.title.Store(&name) }

// start makes the unit's cluster.
func (u *unit) start(options cluster.Options) {
	if !options.LoadSchema {
		u.schemaSettled()
	}
	u.cl = cluster.New(options, cluster.Hooks[*loop.Backend]{
		Dial: u.dial, Adopt: u.adopt,
		Close: func(b *loop.Backend, reason pool.Reason) {
			k := b.Owner.(*link)
			u.ears.hearOut(k.info.Hears)
			if t := b.Conn.Voice.Speaker(); t != nil {
				u.audience.HearOut(t, hearOutTimeout)
			}
			u.p.senders.remove(k.from, said{k.info.Hears, &b.Conn.Voice})
			if k.info.Budgeted && reason != pool.ReasonPoolClosed {
				b.CloseWithin(serverCloses) // another takes its place next, of those that the server has
			} else {
				b.Close()
			}
			k.pool.Close()
		},
		Check:           func(ctx context.Context, b *loop.Backend) error { return b.Check(ctx) },
		Alive:           (*loop.Backend).Alive,
		Interrupt:       (*loop.Backend).Interrupt,
		SchemaChanged:   u.schemaChanged,
		Book:            u.book,
		ObservePool:     u.observePool,
		ObserveEndpoint: u.observeEndpoint,
	}, cluster.Env{Log: u.p.log})
}

// serverCloses bounds the wait for a server to end a connection.
const serverCloses = 5 * time.Second

// run keeps the cluster up until ctx is done.
func (u *unit) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	u.mu.Lock()
	u.cancel = cancel
	u.mu.Unlock()
	if err := u.cl.Run(ctx); err != nil {
		u.p.log.Error("cluster stopped", "cluster", u.name(), "error", err)
	}
}

// options are the cluster's, and the logins that some of its endpoints have of their own.
func (u *unit) options(conf *config.Config, cfg *config.Cluster) (cluster.Options, map[overrideKey]override, error) {
	mode, err := backend.ParseTLSMode(string(conf.TLS.Verify))
	if err != nil {
		return cluster.Options{}, nil, err
	}
	tls, err := backend.ClientTLS(mode, conf.TLS.ServerCA, conf.TLS.ServerCertificate, conf.TLS.ServerPrivateKey)
	if err != nil {
		return cluster.Options{}, nil, err
	}
	o := cluster.Options{
		Name: cfg.Name, HealthInterval: conf.Health.IdleInterval, HealthTimeout: conf.Health.Timeout,
		LoadSchema: conf.LoadSchema != config.LoadSchemaOff && !isPlain(cfg), SchemaInterval: schemaInterval,
	}
	for _, t := range cfg.ShardedTables {
		o.KeyColumns = append(o.KeyColumns, cluster.KeyColumn{Schema: t.Schema, Table: t.Name, Column: t.Column})
	}
	for _, s := range cfg.Schemas {
		switch {
		case s.All:
		case s.Name == "":
			o.RestShard = &s.Shard
		default:
			if o.SchemaShards == nil {
				o.SchemaShards = make(map[string]topology.ShardID)
			}
			o.SchemaShards[s.Name] = s.Shard
		}
	}
	if cfg.TenantColumn != "" {
		o.KeyColumns = append(o.KeyColumns, cluster.KeyColumn{Column: cfg.TenantColumn})
	}
	var params []pgwire.Param
	if !isPlain(cfg) {
		// Statements are routed by their text, which has to mean the same to both.
		params = []pgwire.Param{{Name: "standard_conforming_strings", Value: "on"}, {Name: "client_encoding", Value: "UTF8"}}
	}
	budget := 0
	if conf.Tenancy != nil {
		budget = conf.Tenancy.Connections
	}
	endpoints := make(map[endpointKey]*config.Endpoint)
	for _, list := range cfg.Shards {
		shard := make([]cluster.Endpoint, 0, len(list))
		for _, e := range list {
			address := backend.Address{Host: e.Host, Port: e.Port}
			endpoints[endpointKey{address, e.DatabaseName}] = e
			shard = append(shard, cluster.Endpoint{
				Role: e.Role, Address: address, Database: e.DatabaseName, TLS: tls, TLSKey: tlsKey(conf), TCP: tcpOptions(conf.TCP),
				ConnectTimeout: conf.Connect.Timeout, Params: params, Budget: budget, Pool: tenantPool(conf, e),
			})
		}
		o.Shards = append(o.Shards, shard)
	}
	overrides := make(map[overrideKey]override)
	ask := u.sharedGuard(conf, cfg)
	for _, user := range conf.Users {
		if user.Database != cfg.Name {
			continue
		}
		login := newLogin(conf, cfg, user, endpoints, overrides, ask)
		if login.Credential != nil || user.PasswordHash == "" {
			o.Logins = append(o.Logins, login)
		}
	}
	return o, overrides, nil
}

// schemaInterval is how often tables and columns are read again without a reason; what passes through pgkennel is noticed at once.
const schemaInterval = 5 * time.Minute

type endpointKey struct {
	address  backend.Address
	database string
}

// isPlain reports whether a cluster is one shard without tenants to tell apart.
func isPlain(cfg *config.Cluster) bool {
	return len(cfg.Shards) == 1 && cfg.TenantColumn == "" && cfg.TenantType == 0
}

// newLogin is how pgkennel logs in to the servers of cfg for user.
func newLogin(conf *config.Config, cfg *config.Cluster, user *config.User, endpoints map[endpointKey]*config.Endpoint, overrides map[overrideKey]override, ask guard) *cluster.Login {
	name := user.Name + "@" + user.Database
	o := cluster.LoginOptions{Name: name, Guard: ask.sql, GuardWarns: ask.warns, Identified: conf.Tenancy != nil}
	first := true
	for _, list := range cfg.Shards {
		for _, e := range list {
			settings := conf.Pool(user, e)
			credential := credentialOf(settings.Password)
			if first {
				first = false
				o.User, o.Credential = settings.User, credential
				o.Params = timeouts(settings)
				o.Identity = fmt.Sprint(name, "/", settings.User, "/", settings.Password != "", settings.StatementTimeout != nil, settings.LockTimeout != nil)
				o.Identity += "/" + fingerprint(settings.Password.Reveal()) + fmt.Sprint(o.Params)
				continue
			}
			if settings.User != o.User || fingerprint(settings.Password.Reveal()) != fingerprint(conf.Pool(user, cfg.Shards[0][0]).Password.Reveal()) {
				overrides[overrideKey{o.User, backend.Address{Host: e.Host, Port: e.Port}, e.DatabaseName}] = override{settings.User, credential}
			}
		}
	}
	if conf.Tenancy != nil && conf.Tenancy.Registry.Sealed(cfg.Name) {
		o.Sealed = true
		o.Identity += "/sealed " + conf.Tenancy.Secret.ID()
	}
	o.Settings = func(e *cluster.Endpoint) pool.Settings {
		ce := endpoints[endpointKey{e.Address, e.Database}]
		if ce == nil {
			return e.Pool
		}
		return poolSettings(conf, conf.Pool(user, ce), user)
	}
	return cluster.NewLogin(o)
}

// timeouts are startup parameters for the time-outs that the configuration sets on connections.
func timeouts(s config.Pool) []pgwire.Param {
	var params []pgwire.Param
	if s.StatementTimeout != nil {
		params = append(params, pgwire.Param{Name: "statement_timeout", Value: fmt.Sprint(s.StatementTimeout.Milliseconds())})
	}
	if s.LockTimeout != nil {
		params = append(params, pgwire.Param{Name: "lock_timeout", Value: fmt.Sprint(s.LockTimeout.Milliseconds())})
	}
	return params
}

// tenantPool is how the pools of tenants' own logins are set up at an endpoint.
func tenantPool(conf *config.Config, e *config.Endpoint) pool.Settings {
	s := poolSettings(conf, conf.TenantPool(e), nil)
	s.Min = 0
	return s
}

func poolSettings(conf *config.Config, s config.Pool, _ *config.User) pool.Settings {
	return pool.Settings{
		Min: s.MinSize, Max: max(1, s.MaxSize), CheckoutTimeout: conf.Timeouts.Checkout,
		IdleTimeout: s.IdleTimeout, Lifetime: s.Lifetime, LifetimeJitter: s.LifetimeJitter,
		HealthInterval: conf.Health.IdleInterval, HealthTimeout: conf.Health.Timeout,
		ConnectAttempts: conf.Connect.Attempts, ConnectDelay: conf.Connect.AttemptDelay,
	}
}

func credentialOf(s config.Secret) *auth.ClientCredential {
	if s == "" {
		return nil
	}
	return auth.NewClientCredential(s.Reveal())
}

// dial connects to a server, as the endpoint's own login where it has one.
func (u *unit) dial(ctx context.Context, o backend.DialOptions) (*backend.Login, error) {
	u.mu.Lock()
	ov, ok := u.overrides[overrideKey{o.User, o.Address, o.Database}]
	dial := backend.Dial
	if u.conf.Connect.LocalSockets {
		dial = u.p.locals.Dial
	}
	u.mu.Unlock()
	if ok {
		o.User, o.Credential = ov.user, ov.credential
	}
	l, err := dial(ctx, o)
	if err == nil && u.replica != "" && !standby(l.Params) {
		l.Conn.Close()
		u.promoted()
		return nil, errPromoted
	}
	return l, err
}

// adopt makes a backend of a login.
func (u *unit) adopt(l *backend.Login, o backend.DialOptions, info cluster.PoolInfo) (*loop.Backend, error) {
	u.mu.Lock()
	limit := u.conf.Prepared.Limit
	u.mu.Unlock()
	conn := backend.New(l, u.p.shared.MaxMessage)
	conn.Shard, conn.Opened = info.Shard, int64(pool.Now())
	from, by := sender{o.Address, l.Server, l.PID}, said{info.Hears, &conn.Voice}
	u.p.senders.add(from, by)
	u.ears.served(from.at, from.server)
	all, hears := &u.p.senders, info.Hears
	conn.Voice.Epoch, conn.Audience = u.p.ears.Epoch, &u.audience
	conn.Hears = func(pid uint32) (uint32, bool) { return all.teller(sender{from.at, from.server, pid}, hears) }
	conn.Statements.MaxCount, conn.Statements.MaxBytes = limit, backendStatements
	if u.replica != "" {
		conn.Promoted = u.promoted
	}
	if len(l.Leftover) > 0 {
		if err := conn.Feed(l.Leftover); err != nil {
			u.p.senders.remove(from, by)
			l.Conn.Close()
			return nil, err
		}
	}
	for _, p := range l.Params {
		if p.Name == "server_version" {
			u.versionSeen(info.EndpointInfo, p.Value)
		}
	}
	k := &link{
		id: u.p.backends.Add(1), u: u, dial: o, info: info, from: from,
		pool: u.p.metrics.Pool(metrics.PoolLabels{EndpointLabels: u.labels(info.EndpointInfo), User: metricsUser(info)}),
	}
	b, err := u.p.driver.NewBackend(l.Conn, conn, k)
	if err != nil {
		u.p.senders.remove(from, by)
		k.pool.Close()
	}
	return b, err
}

// versionSeen notes the version of a server, and warns once if tenants need a later one.
func (u *unit) versionSeen(e cluster.EndpointInfo, version string) {
	known := false
	u.health.note(e, func(c *checks) { known, c.version = c.version == version, version })
	u.mu.Lock()
	tenants := u.conf.Tenancy != nil
	u.mu.Unlock()
	if known || !tenants {
		return
	}
	if floor := secure.Floor(version); floor != "" {
		u.p.log.Warn("policies and roles of this PostgreSQL can be got around in ways that a later one has closed: update it", "cluster", e.Cluster,
			"shard", e.Shard, "endpoint", e.Address, "version", version, "wanted", floor)
	}
}

// route makes the router for a configuration and a schema.
func (u *unit) route(cfg *config.Cluster, schema *topology.Schema) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.base == nil || u.cfg != cfg {
		options, err := RouterOptions(cfg)
		if err != nil {
			return err
		}
		u.base = &options
	}
	options := *u.base
	options.Schema = schema
	r, err := router.New(options)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", cfg.Name, err)
	}
	u.router.Store(r)
	u.cfg, u.schema = cfg, schema
	return nil
}

// schemaChanged takes a new snapshot of the schema into the routes.
func (u *unit) schemaChanged(s *topology.Schema) {
	u.mu.Lock()
	cfg := u.cfg
	u.mu.Unlock()
	if err := u.route(cfg, s); err != nil {
		u.p.log.Error("schema not usable", "cluster", u.name(), "error", err)
		return
	}
	u.p.shared.Descriptions.Forget()
	u.schemaSettled()
	u.p.log.Debug("schema loaded", "cluster", u.name(), "relations", len(s.Relations), "epoch", s.Epoch)
}

// schemaSettled lets logins go on that wait for the schema.
func (u *unit) schemaSettled() { u.schemaOnce.Do(func() { close(u.schemaDue) }) }

// awaitSchema waits for the first snapshot of the schema, for a time: without it statements are refused that need to know a table's columns,
// which the first clients after a start should not be. Should it not come, that is better than not to serve at all.
func (u *unit) awaitSchema(ctx context.Context) {
	if !u.cl.ReadsSchema() {
		u.schemaSettled()
		return
	}
	u.mu.Lock()
	limit := u.conf.Timeouts.Checkout
	u.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-u.schemaDue:
	case <-ctx.Done():
	case <-timer.C:
		u.schemaSettled()
	}
}

// Router implements session.Cluster.
func (u *unit) Router() *router.Router { return u.router.Load() }

// Code implements session.Cluster.
func (u *unit) Code() *judge.Book { return u.book }

// Shards implements session.Cluster.
func (u *unit) Shards() int { return u.cl.Shards() }

// Parameters implements session.Cluster: nil while logins have to wait, be it for the parameters or for the schema.
func (u *unit) Parameters() []pgwire.Param {
	if u.in != nil && u.in.gate.shut.Load() {
		return nil
	}
	select {
	case <-u.schemaDue:
		return u.cl.Parameters()
	default:
		return nil
	}
}

// SchemaChanged implements session.Cluster.
func (u *unit) SchemaChanged() (wait func()) {
	done := u.cl.RefreshSchema("ddl")
	u.mu.Lock()
	limit := u.conf.Timeouts.Checkout
	u.mu.Unlock()
	return func() {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-done:
		case <-u.p.ctx.Done():
		case <-timer.C:
		}
	}
}

// down lists the shards that no endpoint answers for.
func (u *unit) down() []metrics.DownShard {
	var list []metrics.DownShard
	for i := range u.cl.Shards() {
		id := topology.ShardID(i)
		if !u.cl.Healthy(id) {
			list = append(list, metrics.DownShard{Cluster: u.name(), Shard: id, Reason: "no endpoint answers"})
		}
	}
	return list
}
