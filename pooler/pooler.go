// Package pooler assembles the house: it listens, finds out who may log in where, gives sessions their backends, and
// looks after cancel keys, reloads and the end. It is the only package that knows all others.
//
// Goroutines: Run owns all of them and returns when they have ended. Lock order: Pooler.orders,
// Pooler.mu, a cluster's, a unit's, a pool's.
package pooler

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Options of a Pooler.
type Options struct {
	Config *config.Config
	// Load reads the configuration anew, for reloads; nil = there are none.
	Load func() (*config.Config, config.Warnings, error)
	// Prepare, if set, is told of a configuration before a reload changes anything, and may refuse it; commit is called once it is in force.
	Prepare func(*config.Config) (commit func(), err error)
	Log     *slog.Logger
	// Version is the program's, for console and metrics.
	Version string
	// Level, if set, follows log_level at reloads.
	Level *slog.LevelVar
	// Directory has the tenants that are not in the configuration; nil = there are none. Vault opens what it has of secrets. The pooler neither runs nor closes it.
	Directory Directory
	Vault     *tenant.Vault
	// Orders carries out what the console orders for tenants, and wakes those that are asleep; nil = nobody does.
	Orders provision.Executor
	// Counts are the ends of instances that this process looks after, for metrics; nil = there are none.
	Counts func() provision.Counts
	// API is served at the socket and the port of [admin], to those who may; nil = it is not. Caller tells it who gives an order.
	API http.Handler
	// UnusedAfter is how long what serves a tenant's own instance is kept without clients; 0 = 5 minutes.
	UnusedAfter time.Duration
	// Goroutines has each connection served by a goroutine of its own, as on systems without epoll.
	Goroutines bool
	// Ring has connections served by io_uring instead of epoll, where the kernel offers what is needed.
	Ring bool
}

// Pooler is one running pgkennel.
type Pooler struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	registry *prometheus.Registry
	metrics  *metrics.Metrics
	shared   *session.Shared
	driver   *loop.Goroutines
	keys     *keys
	lanes    lanes // of cancel requests
	senders  senders
	locals   backend.Locals
	ears     *notify.Group
	console  *admin.Console
	state    atomic.Pointer[snapshot]
	clients  atomic.Int64
	// dismissed are those on their way out who were too many.
	dismissed atomic.Int64
	// operators are the clients of the admin database; backends numbers server connections.
	operators atomic.Int64
	backends  atomic.Uint64
	// cancelling are the clients that are here to cancel; they are not among clients.
	cancelling atomic.Int64

	// orders makes commands that change what is paused or configured happen one after the other. It comes before mu.
	orders sync.Mutex
	// ctx is the root context of commands on the console; over when they have to end.
	ctx  context.Context //nolint:containedctx // of what this type runs
	stop context.CancelFunc

	follower *follower // nil = there is no directory
	// closing are units of instances that end.
	closing sync.WaitGroup

	listeners *listeners
	http      net.Listener
	health    net.Listener
	doors     doors

	// Closed one after the other as a shutdown gets more urgent: ending when it begins, evicting when idle clients are closed, limited
	// when transactions have shutdown_timeout left, hurry when it waits for nothing.
	ending, evicting, limited, hurry chan struct{}

	mu struct {
		sync.Mutex
		epoch    uint64
		loaded   time.Time
		units    map[string]*unit
		paused   map[string]bool
		disabled map[string]bool
		run      func(*unit) // starts a unit's goroutines; nil before Run and after its end
		ended    bool
		mode     admin.ShutdownMode // 0: no shutdown was ordered
	}
}

// snapshot is what a configuration amounts to for those who log in. It is immutable.
type snapshot struct {
	cfg      *config.Config
	epoch    uint64
	accounts map[accountKey]*session.Account
	// anywhere is an account of each user who has the same passwords in all databases; nil = they differ.
	anywhere map[string]*session.Account
	units    map[string]*unit
	tenants  map[string]*tenants // by cluster
	// disabled databases take no new clients.
	disabled map[string]bool
}

type accountKey struct{ user, database string }

// Sizes that are nobody's business to configure yet.
const (
	parseCacheBytes   = 64 << 20
	sessionStatements = 64 << 20
	backendStatements = 32 << 20
	maxBatch          = 4 << 20
)

// New makes a pooler and opens its sockets; nothing is served before Run.
func New(ctx context.Context, o Options) (*Pooler, error) {
	p := &Pooler{
		opts: o, log: o.Log, started: time.Now(), registry: prometheus.NewRegistry(), keys: newKeys(o.Config.PeerID),
		ending: make(chan struct{}), evicting: make(chan struct{}), limited: make(chan struct{}), hurry: make(chan struct{}),
	}
	p.ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx)) // ended by drain
	p.mu.units = make(map[string]*unit)
	p.mu.paused = make(map[string]bool)
	p.mu.disabled = make(map[string]bool)
	cfg := o.Config
	p.metrics = metrics.New(p.registry, cfg.Metrics.Namespace)
	p.metrics.SetBuild(metrics.Build{Version: o.Version})

	cache := parser.NewCache(parseCacheBytes)
	p.metrics.SetParseCache(func() metrics.ParseCache { return parseCache(cache) })
	registry := state.NewRegistry()
	p.metrics.SetTenants(p.tenantStates)
	p.metrics.SetPrepared(func() metrics.Prepared {
		n, bytes := registry.Stats()
		return metrics.Prepared{Statements: int64(n), Bytes: int64(bytes)}
	})
	logins := &auth.ServerOptions{}
	if o.Vault != nil {
		logins.MockSecret = o.Vault.Mock()
	}
	p.shared = &session.Shared{
		Log: o.Log, Observer: observer{p}, Cache: cache, Registry: registry, Code: new(judge.Changes), Probes: session.NewProbes(), Descriptions: session.NewDescriptions(),
		Accounts: p.whose, Auth: logins, MaxBatch: maxBatch, Statements: sessionStatements,
		MaxMessage: cfg.MaxMessageBytes,
	}
	p.ears = notify.NewGroup(new(atomic.Uint64))
	p.metrics.SetListening(p.listening)
	p.driver = loop.NewGoroutines(loop.Options{
		Epoch:  p.ears.Epoch,
		Left:   func() { p.clients.Add(-1) },
		Source: source{p}, Shared: p.shared, Log: o.Log, RollbackTimeout: int64(cfg.Timeouts.Rollback), Pollers: pollers(&o, cfg), Ring: o.Ring,
		UnreadTimeout: func() time.Duration { return p.state.Load().cfg.TCP.UserTimeout },
	})
	p.console = admin.New(admin.Options{Inspector: inspector{p: p}, Controller: controller{p: p}, Now: time.Now, Log: o.Log})
	if o.Directory != nil {
		p.follower = newFollower(p, &o)
		if err := p.follower.conflicts(cfg); err != nil {
			p.driver.Wait()
			return nil, err
		}
	}
	if err := p.apply(cfg); err != nil { //nolint:contextcheck // what it closes outlives the start
		p.driver.Wait()
		return nil, err
	}
	if p.follower != nil {
		o.Directory.Subscribe(p.follower.changed)
	}
	if err := p.listen(ctx, cfg); err != nil {
		p.driver.Wait()
		return nil, err
	}
	return p, nil
}

// doorOf is what new clients find, by a configuration: how they prove who they are, over TLS or not, within which limits.
type doorOf struct {
	shared *session.Shared
	tls    *backend.ServerTLS // nil = none
	api    *backend.ServerTLS // likewise
}

// door makes what new clients find. Nothing changes by it.
func (p *Pooler) door(cfg *config.Config) (*doorOf, error) {
	method, err := auth.ParseMethod(string(cfg.Auth))
	if err != nil {
		return nil, err
	}
	sh := *p.shared
	sh.Method, sh.MaxMessage, sh.LoginTimeout = method, cfg.MaxMessageBytes, int64(cfg.Clients.LoginTimeout)
	sh.LogConnections, sh.LogDisconnections = cfg.Log.Connections, cfg.Log.Disconnections
	sh.QuerySize, sh.QuerySizeWarns = cfg.Parser.MaxQueryBytes, !cfg.Parser.RefuseLongerQueries
	sh.TLS, sh.TLSRequired = cfg.TLS.Certificate != "", cfg.TLS.ClientRequired
	d := &doorOf{shared: &sh}
	if sh.TLS {
		if d.tls, err = backend.NewServerTLS(backend.ServerTLSFiles{
			Certificate: cfg.TLS.Certificate, Key: cfg.TLS.PrivateKey, ClientCA: cfg.TLS.ClientCA, RequireClientCertificate: cfg.TLS.ClientCA != "",
		}); err != nil {
			return nil, err
		}
		if d.api, err = apiTLS(cfg); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// open puts a door in force for clients that connect from now on.
func (p *Pooler) open(d *doorOf) {
	if d.tls != nil {
		p.driver.SetTLS(d.tls.Config())
		p.doors.tls.Store(d.api)
	}
	p.driver.SetShared(d.shared)
}

// listen opens the sockets.
func (p *Pooler) listen(ctx context.Context, cfg *config.Config) (err error) {
	defer func() {
		if err != nil {
			p.closeListeners()
		}
	}()
	if p.listeners, err = listen(ctx, ListenOptions{
		Host: cfg.Listen.Host, Port: cfg.Listen.Port, UnixDir: cfg.Listen.UnixSocketDir, UnixMode: cfg.Listen.UnixSocketMode,
	}, p.log); err != nil {
		return err
	}
	var lc net.ListenConfig
	if cfg.Metrics.Port != 0 {
		if p.http, err = lc.Listen(ctx, "tcp", net.JoinHostPort(cfg.Metrics.Host, fmt.Sprint(cfg.Metrics.Port))); err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
	}
	if cfg.Metrics.HealthPort != 0 {
		if p.health, err = lc.Listen(ctx, "tcp", net.JoinHostPort(cfg.Listen.Host, fmt.Sprint(cfg.Metrics.HealthPort))); err != nil {
			return fmt.Errorf("listen for health checks: %w", err)
		}
	}
	if p.opts.API != nil {
		return p.doors.listen(ctx, cfg)
	}
	return nil
}

func (p *Pooler) closeListeners() {
	if p.listeners != nil {
		p.listeners.close()
	}
	for _, l := range []net.Listener{p.http, p.health, p.doors.socket, p.doors.port} {
		if l != nil {
			l.Close()
		}
	}
}

// Addrs are the addresses that clients connect to.
func (p *Pooler) Addrs() []net.Addr { return p.listeners.addrs() }

// MetricsAddr is where metrics are served, nil if nowhere.
func (p *Pooler) MetricsAddr() net.Addr {
	if p.http == nil {
		return nil
	}
	return p.http.Addr()
}

// Run serves until ctx is done, a shutdown is ordered, or something breaks that can't be mended. Then it drains: no new clients, those who
// are idle are closed, transactions in flight finish, for the configured time. Hurry makes that fast.
func (p *Pooler) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what serves sessions goes on while they drain
	defer cancel()
	var wg sync.WaitGroup
	p.mu.Lock()
	p.mu.run = func(u *unit) { wg.Go(func() { u.run(work) }) }
	for _, u := range p.mu.units {
		p.mu.run(u)
	}
	p.mu.Unlock()
	if p.follower != nil {
		p.follower.lives(func(f func(context.Context)) { wg.Go(func() { f(work) }) })
		wg.Go(func() { p.follower.run(work) })
	}
	cfg := p.state.Load().cfg
	wg.Go(func() { p.sample(work, cfg.StatsPeriod) })
	if p.http != nil {
		h := metrics.Handler(metrics.Options{Gatherer: p.registry, Ready: p.ready, Pprof: p.state.Load().cfg.Metrics.Pprof, Log: p.log})
		wg.Go(func() { p.serveHTTP(work, p.http, h) })
	}
	if p.health != nil {
		h := metrics.HealthcheckHandler(func() bool { r := p.ready(); return r.Serving && len(r.Down) == 0 })
		wg.Go(func() { p.serveHTTP(work, p.health, h) })
	}
	p.doors.serve(p, func(l net.Listener, h http.Handler) { wg.Go(func() { p.serveOrders(work, l, h) }) })
	wg.Go(func() { p.tidy(work) })
	p.listeners.serve(p.driver, p.serve)
	attrs := []any{"version", p.opts.Version}
	for _, a := range p.Addrs() {
		attrs = append(attrs, "address", a.String())
	}
	if a := p.MetricsAddr(); a != nil {
		attrs = append(attrs, "metrics", a.String())
	}
	p.log.Info("ready", attrs...)

	select {
	case <-ctx.Done():
		p.shutdown(admin.ShutdownDrain)
	case <-p.ending:
	}
	p.drain() //nolint:contextcheck // it begins when ctx is done
	cancel()
	p.mu.Lock()
	p.mu.run = nil
	p.mu.ended = true
	p.mu.Unlock()
	if p.follower != nil {
		p.follower.lives(nil)
	}
	wg.Wait()
	p.closing.Wait()
	p.driver.Wait()
	p.listeners.wg.Wait()
	p.log.Info("stopped")
	return nil
}

func (p *Pooler) serveHTTP(ctx context.Context, l net.Listener, h http.Handler) {
	if err := metrics.Serve(ctx, l, h, p.log); err != nil {
		p.log.Error("metrics server failed", "error", err)
	}
}

// serve begins with one client connection, and returns what is to be run for it; nil = nothing.
func (p *Pooler) serve(nc net.Conn) (run func()) {
	n := p.clients.Add(1)
	var refusal *pgwire.Error
	if most := int64(p.state.Load().cfg.Clients.Max); most > 0 && n > most {
		refusal = errTooManyClients
		if n > most+visitors {
			return func() {
				p.metrics.LoginsFailed.Inc("too_many_clients")
				p.clients.Add(-1)
				loop.Dismiss(nc, refusal, p.dismissed.Add(1) > visitors) // in a flood nobody is waited for
				p.dismissed.Add(-1)
			}
		}
	}
	name := "unix"
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		name = tcp.String()
		if err := tcpOptions(p.state.Load().cfg.TCP).Apply(nc); err != nil {
			p.log.Debug("tcp options", "client", name, "error", err)
		}
	}
	return p.driver.Take(nc, name, refusal)
}

var errTooManyClients = pgwire.Fatalf(pgwire.CodeTooManyConnections, "sorry, too many clients already")

// visitors are how many connections beyond max_client_connections are let in as far as to say what they want: it may be to cancel.
const visitors = 100

// ready says whether every shard can be served.
func (p *Pooler) ready() metrics.Readiness {
	r := metrics.Readiness{Serving: true}
	select {
	case <-p.ending:
		r.Serving = false
	default:
	}
	for _, u := range p.state.Load().units {
		r.Down = append(r.Down, u.down()...)
	}
	if p.follower != nil {
		d := p.follower.told()
		r.Directory = &d
	}
	return r
}

// sample takes what the console's averages are made of.
func (p *Pooler) sample(ctx context.Context, period time.Duration) {
	if period <= 0 {
		return
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.console.Tick()
		}
	}
}

func parseCache(c *parser.Cache) metrics.ParseCache {
	s := c.Stats()
	return metrics.ParseCache{
		Hits: s.Hits, Misses: s.Misses, Evictions: s.Evictions, Entries: int64(s.Entries), Bytes: s.Bytes, MaxBytes: parseCacheBytes, ParseTime: s.ParseTime,
	}
}

// pollers is the number of threads that wait for sockets, for loop.Options.
func pollers(o *Options, cfg *config.Config) int {
	if o.Goroutines {
		return -1
	}
	return cfg.Workers
}
