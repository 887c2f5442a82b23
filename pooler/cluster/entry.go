package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pool"
)

// logEvery is how often a pool's failures to open are logged while they go on.
const logEvery = 10 * time.Second

// PoolInfo names a pool.
type PoolInfo struct {
	EndpointInfo
	User  string // who logs in to the server
	Login string // the name of the login
	// Tenant is whose own login it is; empty = nobody's.
	Tenant string
	// Budgeted is whether it shares the endpoint's budget.
	Budgeted bool
	Hears    string // as in LoginOptions
}

// PoolObserver hears what happens in one pool.
type PoolObserver interface {
	pool.Observer
	// Close ends the observation.
	Close()
}

// entry is a pool of one endpoint and login. It listens to its pool for the endpoint's health and for the log, and
// passes on what it hears.
type entry[C any] struct {
	e     *endpoint[C]
	key   any                   // of the login that it was made for; replaced logins lead here too
	login atomic.Pointer[Login] // who logs in now
	pool  *pool.Pool[C]

	hears     atomic.Pointer[PoolObserver]
	vetted    atomic.Int64           // when the login was asked about last, and was good, a pool.Instant; 0 = it has to be
	forgotten atomic.Int64           // counts the times that answers were forgotten
	warned    atomic.Pointer[string] // what was logged against the login
	refused   atomic.Bool            // it must not be used
	logged    atomic.Int64           // when a failure to open was last logged, a pool.Instant; 0 = none since a success

	// Guarded by Cluster.mu.
	cancel    context.CancelFunc // ends the pool's Run
	checkouts uint64             // at the last sweep
	idleSince time.Time          // when a sweep first saw it unused; zero = in use
}

// lookup returns the pool of a login, making it if need be. Nil when the cluster is closed.
func (e *endpoint[C]) lookup(l *Login) *entry[C] {
	version := e.version.Load()
	last := e.last.Load()
	if last != nil && last.login == l && last.version == version {
		return last.entry
	}
	if v, ok := e.pools.Load(l.key); ok {
		if en, ok := v.(*entry[C]); ok {
			if last == nil || last.version != version { // most endpoints have one login
				e.last.Store(&lastEntry[C]{l, en, version})
			}
			return en
		}
	}
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	return e.entryLocked(l)
}

// lastEntry is where a login leads, by a version of endpoint.pools.
type lastEntry[C any] struct {
	login   *Login
	entry   *entry[C]
	version uint64
}

func (e *endpoint[C]) entryLocked(l *Login) *entry[C] {
	if e.c.mu.closed {
		return nil
	}
	asked := l.key
	if next, ok := e.c.mu.forward[l.key]; ok {
		l = next
	}
	if v, ok := e.pools.Load(l.key); ok {
		if en, ok := v.(*entry[C]); ok {
			e.pools.Store(asked, en)
			e.version.Add(1)
			return en
		}
	}
	en := &entry[C]{e: e, key: l.key}
	en.login.Store(l)
	o := e.options()
	var budget *pool.Budget
	if l.Budgeted {
		budget = e.budget
	}
	en.pool = pool.New(pool.Options{
		Budget:   budget,
		Settings: l.settings(o),
		Name:     poolName(e.c.Name(), o, l),
		Owner:    en,
		Now:      e.c.clock,
		Go:       e.c.start,
	}, pool.Hooks[C]{
		Open:      en.open,
		Close:     e.c.hooks.Close,
		Check:     e.c.hooks.Check,
		Alive:     e.c.hooks.Alive,
		Interrupt: e.c.hooks.Interrupt,
		Classify:  e.c.hooks.Classify,
		Observer:  en,
	})
	en.observe()
	if e.c.mu.paused {
		en.pool.Pause()
	}
	e.pools.Store(en.key, en)
	e.pools.Store(asked, en)
	e.version.Add(1)
	if e.c.mu.running {
		en.runLocked(e.ctx)
	}
	return en
}

// observe begins to report to a new observer, and returns the one before.
func (en *entry[C]) observe() PoolObserver {
	var o PoolObserver = noPoolObserver{}
	if f := en.e.c.hooks.ObservePool; f != nil {
		o = f(en.info(), en.pool.Stats)
	}
	if old := en.hears.Swap(&o); old != nil {
		return *old
	}
	return noPoolObserver{}
}

func (en *entry[C]) info() PoolInfo {
	l := en.login.Load()
	return PoolInfo{EndpointInfo: en.e.info(), User: l.User, Login: l.Name, Tenant: l.Tenant, Budgeted: l.Budgeted, Hears: l.Hears}
}

func (en *entry[C]) observer() PoolObserver { return *en.hears.Load() }

func poolName(cluster string, o *Endpoint, l *Login) string {
	return cluster + " " + l.User + "@" + o.Address.String() + "/" + o.Database
}

// runLocked starts the pool's goroutine; it ends with the endpoint's, or with the entry.
func (en *entry[C]) runLocked(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	en.cancel = cancel
	en.e.c.goLocked(ctx, func(ctx context.Context) {
		defer cancel()
		_ = en.pool.Run(ctx) // it has no error to tell
	})
}

// warmLocked makes the pools of the configured logins.
func (c *Cluster[C]) warmLocked(o *Options) {
	for e := range c.top.Load().all() {
		for _, l := range o.Logins {
			e.entryLocked(l)
		}
	}
}

// Opened implements pool.Observer.
func (en *entry[C]) Opened(took time.Duration) {
	en.logged.Store(0)
	en.e.answered()
	en.observer().Opened(took)
}

// OpenFailed implements pool.Observer.
func (en *entry[C]) OpenFailed(took time.Duration, f pool.Failure, err error) {
	now := int64(pool.NowBy(en.e.c.now))
	if last := en.logged.Load(); (last == 0 || now-last >= int64(logEvery)) && en.logged.CompareAndSwap(last, now) {
		log := en.e.log().Warn
		if isUnsafe(err) {
			log = en.e.log().Error
		}
		log("server connection not opened", "server_user", en.login.Load().User, "reason", f.String(), "error", err)
	}
	en.observer().OpenFailed(took, f, err)
	en.e.poolFailed(f, err)
}

// Closed implements pool.Observer.
func (en *entry[C]) Closed(reason pool.Reason) { en.observer().Closed(reason) }

// Checked implements pool.Observer.
func (en *entry[C]) Checked(took time.Duration, err error) {
	en.observer().Checked(took, err)
	en.e.checked(took, err)
	if err == nil {
		en.e.answered()
		return
	}
	en.e.wake() // the server may be gone
}

// Waited implements pool.Observer.
func (en *entry[C]) Waited(took time.Duration) { en.observer().Waited(took) }

type noPoolObserver struct{}

func (noPoolObserver) Opened(time.Duration)                          {}
func (noPoolObserver) OpenFailed(time.Duration, pool.Failure, error) {}
func (noPoolObserver) Closed(pool.Reason)                            {}
func (noPoolObserver) Checked(time.Duration, error)                  {}
func (noPoolObserver) Waited(time.Duration)                          {}
func (noPoolObserver) Close()                                        {}
