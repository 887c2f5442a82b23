// Package cluster is one cluster: its shards, their endpoints, and a pool of connections for each endpoint and login.
// It knows which endpoints answer, what parameters their servers report, and what tables they hold.
//
// The connection type and what is done with it come in as Hooks, so that any driver can use the package. pgx only
// reads catalogs, over short connections of their own.
//
// Goroutines: New starts none. Run owns one per pool, one per endpoint (probes), and one each for the schema, for what code does
// and for dropping unused pools; it waits for them. Background tasks of pools (opens, checks, closes) are goroutines too, which
// Close waits for. A deterministic driver calls Tick instead of Run, and passes Options.Go.
//
// Locks: Waiter.mu -> Cluster.mu -> pool.Pool.mu -> pool.Budget.mu; an endpoint's health has a leaf lock of its own. No hook and no granter is called under any of them, except the observers of health under its leaf lock, and
// ObservePool and ObserveEndpoint, which make observers, under Cluster.mu. A checkout from a pool that exists takes the
// waiter's and the pool's locks only.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// AnyShard is asked for by those to whom all shards are alike.
const AnyShard topology.ShardID = -1

// Endpoint is how one endpoint of a cluster is configured: one (instance, database) that serves a shard in a role.
type Endpoint struct {
	Role     topology.Role
	Address  backend.Address
	Database string // on the server
	TLS      backend.TLSOptions
	// TLSKey says what TLS was made of, files' contents included: a reload that changes it replaces the connections.
	TLSKey         string
	TCP            backend.TCPOptions
	ConnectTimeout time.Duration       // up to the end of the login; 5 s
	Auth           *auth.ClientOptions // what a server may ask for; nil = the defaults
	Params         []pgwire.Param      // startup parameters; those of the login come behind them
	// Pool is how its pools are set up, unless a login says otherwise. ConnectTimeout in it is not used.
	Pool pool.Settings
	// Budget bounds the connections of all Budgeted logins together; 0 = no limit.
	Budget int
}

// same reports whether connections to e are connections to o.
func (e *Endpoint) same(o *Endpoint) bool {
	return e.Role == o.Role && e.Address == o.Address && e.Database == o.Database && e.TLSKey == o.TLSKey &&
		slices.Equal(e.Params, o.Params)
}

// dial returns how to log in at the endpoint.
func (e *Endpoint) dial(l *Login) backend.DialOptions {
	timeout := e.ConnectTimeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	return backend.DialOptions{
		Address: e.Address, Database: cmp.Or(l.Database, e.Database), TLS: e.TLS, TCP: e.TCP, ConnectTimeout: timeout, Auth: e.Auth,
		User: l.User, Credential: l.Credential, Params: slices.Concat(e.Params, l.Params), Sealed: l.Sealed, Identified: l.Identified,
	}
}

// KeyColumn is a sharding key whose type the shards should agree on.
type KeyColumn struct {
	Schema string // empty = any
	Table  string // empty = any with the column
	Column string
}

// Options of a cluster. Zero durations have the defaults given.
type Options struct {
	Name string
	// Quiet: endpoints are not probed. What pools meet tells whether they answer; nobody is woken for that.
	Quiet bool
	// Shards are the endpoints of each shard, by its number.
	Shards [][]Endpoint
	// Logins are the configured ones: their pools exist from the start, so that Min is kept, and their successors
	// replace them at a reload.
	Logins []*Login
	// Service is the login for probes and for reading the schema; nil = the first of Logins.
	Service *Login
	// introduced: Service is not of the configuration (Introduce).
	introduced bool

	HealthInterval time.Duration // an endpoint not heard of for so long is probed; 30 s
	HealthTimeout  time.Duration // of a probe; 5 s
	UnusedTimeout  time.Duration // a pool without use for so long is dropped unless Min wants it; 10 min

	GuardInterval time.Duration // the servers are asked about logins that have a Guard so often; 5 min

	LoadSchema     bool
	SchemaInterval time.Duration // the schema is read again so often; 0 = only when asked
	SchemaGap      time.Duration // at least so long from one reading to the next, or three times what one took if that is shorter; 200 ms
	SchemaTimeout  time.Duration // of one reading; 30 s
	// KeyColumns are compared between shards each time the schema is read; what differs is logged.
	KeyColumns []KeyColumn
	// SchemaShards are the schemas whose relations are known from a shard of their own; those of all others are of RestShard, or, without one, of any.
	SchemaShards map[string]topology.ShardID
	RestShard    *topology.ShardID
}

// normal returns the options with defaults filled in.
func (o Options) normal() Options {
	def := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	def(&o.HealthInterval, 30*time.Second)
	def(&o.HealthTimeout, 5*time.Second)
	def(&o.UnusedTimeout, 10*time.Minute)
	def(&o.GuardInterval, 5*time.Minute)
	def(&o.SchemaGap, 200*time.Millisecond)
	def(&o.SchemaTimeout, 30*time.Second)
	if o.Service == nil && len(o.Logins) > 0 && !o.Quiet {
		o.Service = o.Logins[0]
	}
	return o
}

// Hooks are what a cluster does with connections; see pool.Hooks for the rules. Adopt and Close are required.
type Hooks[C any] struct {
	// Dial connects and logs in; nil = backend.Dial.
	Dial func(ctx context.Context, o backend.DialOptions) (*backend.Login, error)
	// Adopt makes a pool's connection of a login that was made with o. It owns the login, also when it fails.
	Adopt     func(l *backend.Login, o backend.DialOptions, info PoolInfo) (C, error)
	Close     func(c C, reason pool.Reason)
	Check     func(ctx context.Context, c C) error
	Alive     func(c C) bool
	Interrupt func(c C)
	// Classify tells what an error of Dial means. Nil = Classify.
	Classify func(error) pool.Failure
	// SchemaChanged hears of a new snapshot, in the order of epochs. It must be quick.
	SchemaChanged func(*topology.Schema)
	// Book is what is to be known of the databases' functions and triggers; nil = nothing is read.
	Book *judge.Book
	// ObservePool and ObserveEndpoint give the observers of a pool and of an endpoint's health; nil = nobody.
	ObservePool     func(info PoolInfo, stats func() pool.Stats) PoolObserver
	ObserveEndpoint func(info EndpointInfo, budget func() pool.BudgetStats) EndpointObserver
}

// Env is what a cluster takes from its surroundings. The zero value is real time, goroutines and no log.
type Env struct {
	Log *slog.Logger
	Now func() time.Time
	Go  func(func()) // starts a background task of a pool; see pool.Options
}

// Cluster is one cluster. Safe for concurrent use.
type Cluster[C any] struct {
	label atomic.Pointer[label]
	hooks Hooks[C]
	plain *slog.Logger // of Env
	now   func() time.Time
	clock func() time.Time // of Env; nil = the real one
	start func(func())

	// ctx is the root context of probes and schema loads, which outlive their callers; Close cancels it.
	ctx    context.Context //nolint:containedctx // root context of the goroutines this type runs
	cancel context.CancelCauseFunc

	top    atomic.Pointer[shards[C]]
	opts   atomic.Pointer[Options]
	params atomic.Pointer[parameters]
	schema schemaState

	mu struct {
		sync.Mutex
		running  bool            // Run is active
		run      context.Context //nolint:containedctx // of Run's goroutines, while running
		closed   bool
		paused   bool
		tasks    sync.WaitGroup // goroutines of Run; added to only while running
		forward  map[any]*Login // configured logins that a reload replaced, by key
		draining []*entry[C]    // pools that are closed and not yet drained
	}
}

// New makes a cluster. It connects to nothing; Run does.
func New[C any](o Options, h Hooks[C], env Env) *Cluster[C] {
	c := &Cluster[C]{hooks: h, plain: env.Log, now: env.Now, clock: env.Now, start: env.Go}
	if c.plain == nil {
		c.plain = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.hooks.Dial == nil {
		c.hooks.Dial = backend.Dial
	}
	if c.hooks.Classify == nil {
		c.hooks.Classify = Classify
	}
	c.rename(o.Name)
	c.ctx, c.cancel = context.WithCancelCause(context.Background()) // ended by Close
	c.mu.forward = make(map[any]*Login)
	c.schema.init()
	o = o.normal()
	c.opts.Store(&o)

	top := &shards[C]{}
	for id, options := range o.Shards {
		s := &shard[C]{id: topology.ShardID(id)}
		for i := range options {
			s.endpoints = append(s.endpoints, c.newEndpoint(s.id, &options[i]))
		}
		s.sort()
		top.list = append(top.list, s)
	}
	c.top.Store(top)
	c.mu.Lock()
	c.warmLocked(&o)
	c.mu.Unlock()
	return c
}

// label is what a cluster is called, and its log.
type label struct {
	name string
	log  *slog.Logger
}

func (c *Cluster[C]) rename(name string) {
	if l := c.label.Load(); l == nil || l.name != name {
		c.label.Store(&label{name, c.plain.With("cluster", name)})
	}
}

// Name returns the cluster's name.
func (c *Cluster[C]) Name() string { return c.label.Load().name }

func (c *Cluster[C]) log() *slog.Logger { return c.label.Load().log }

// Shards returns the number of shards.
func (c *Cluster[C]) Shards() int { return len(c.top.Load().list) }

// Run keeps pools, health and schema up until ctx is done or the cluster is closed. It closes nothing.
func (c *Cluster[C]) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	c.mu.Lock()
	if c.mu.running {
		c.mu.Unlock()
		return errors.New("cluster is running already")
	}
	c.mu.running, c.mu.run = true, ctx
	for e := range c.top.Load().all() {
		e.runLocked(ctx)
	}
	c.goLocked(ctx, c.schemaLoop)
	c.goLocked(ctx, c.codeLoop)
	c.goLocked(ctx, c.sweepLoop)
	c.mu.Unlock()

	select {
	case <-ctx.Done():
	case <-c.ctx.Done():
		cancel(ErrClosed)
	}
	c.mu.Lock()
	c.mu.running, c.mu.run = false, nil
	c.mu.Unlock()
	c.mu.tasks.Wait()
	return nil
}

// goLocked starts a goroutine that Run waits for.
func (c *Cluster[C]) goLocked(ctx context.Context, f func(context.Context)) {
	c.mu.tasks.Go(func() { f(ctx) })
}

// Close fails all who wait, closes every connection that nobody holds, and waits for the others until ctx ends, when
// their holders are interrupted; see pool.Pool.Close.
func (c *Cluster[C]) Close(ctx context.Context) error {
	c.mu.Lock()
	first := !c.mu.closed
	c.mu.closed = true
	if first {
		for e := range c.top.Load().all() {
			c.mu.draining = slices.AppendSeq(c.mu.draining, e.entries())
		}
	}
	entries := slices.Clone(c.mu.draining)
	c.mu.Unlock()
	c.cancel(ErrClosed)
	for _, en := range entries {
		en.pool.Drain()
	}
	var errs []error
	for _, en := range entries {
		if err := en.pool.Close(ctx); err != nil {
			errs = append(errs, err)
		}
		if first {
			en.observer().Close()
		}
	}
	if first {
		for e := range c.top.Load().all() {
			e.unobserve()
		}
	}
	return errors.Join(errs...)
}

// Tick does what is due in the pools and returns when it wants to be called next, zero for never: for drivers that
// don't use Run.
func (c *Cluster[C]) Tick() time.Time {
	var next time.Time
	for e := range c.top.Load().all() {
		for en := range e.entries() {
			if t := en.pool.Tick(); !t.IsZero() && (next.IsZero() || t.Before(next)) {
				next = t
			}
		}
	}
	return next
}
