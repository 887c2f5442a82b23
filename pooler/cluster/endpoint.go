package cluster

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// State is what is known of an endpoint's health.
type State uint8

// The states. Any may follow any.
const (
	Unknown State = iota + 1 // not heard of yet, or reconfigured since
	Up                       // the last word was from it
	Down                     // the last attempt to reach it failed
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Unknown:
		return "unknown"
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "none"
}

// EndpointInfo names an endpoint.
type EndpointInfo struct {
	Cluster  string
	Shard    topology.ShardID
	Role     topology.Role
	Address  string // host:port, or the socket's path
	Database string // on the server
}

// EndpointObserver hears of one endpoint's health, under a lock of the endpoint's: it must not call the cluster.
type EndpointObserver interface {
	// State reports every change, in order.
	State(s State)
	// Checked reports a health check of a connection, or a probe: how long it took, and nil if it was answered.
	Checked(took time.Duration, err error)
	// Close ends the observation.
	Close()
}

// endpoint is one endpoint at work. It keeps its identity, its pools and who waits in them over reloads.
type endpoint[C any] struct {
	c     *Cluster[C]
	shard topology.ShardID
	opts  atomic.Pointer[Endpoint] // replaced by a reload

	budget  *pool.Budget  // of the pools whose logins are Budgeted
	pools   sync.Map      // login key -> *entry[C]; written under Cluster.mu
	version atomic.Uint64 // of pools, counted after each change
	last    atomic.Pointer[lastEntry[C]]

	kick   chan struct{}   // capacity 1: probe now
	ask    chan struct{}   // capacity 1: ask about logins now
	ctx    context.Context //nolint:containedctx // of the endpoint's goroutines, set by Run under Cluster.mu
	cancel context.CancelFunc

	state atomic.Uint32 // mirrors health.state
	heard atomic.Int64  // when it last answered, a pool.Instant; 0 = never

	health struct { // leaf lock
		sync.Mutex
		state    State
		since    time.Time
		err      error // of Down
		observer EndpointObserver
	}
}

func (c *Cluster[C]) newEndpoint(s topology.ShardID, o *Endpoint) *endpoint[C] {
	e := &endpoint[C]{c: c, shard: s, kick: make(chan struct{}, 1), ask: make(chan struct{}, 1), budget: pool.NewBudget(o.Budget)}
	e.opts.Store(o)
	e.health.state, e.health.since = Unknown, c.now()
	e.state.Store(uint32(Unknown))
	e.observe()
	return e
}

// observe begins to report to a new observer.
func (e *endpoint[C]) observe() {
	var o EndpointObserver = noEndpointObserver{}
	if f := e.c.hooks.ObserveEndpoint; f != nil {
		o = f(e.info(), e.budget.Stats)
	}
	e.health.Lock()
	defer e.health.Unlock()
	e.health.observer = o
	o.State(e.health.state)
}

// unobserve reports to nobody any more.
func (e *endpoint[C]) unobserve() {
	e.health.Lock()
	defer e.health.Unlock()
	e.health.observer.Close()
	e.health.observer = noEndpointObserver{}
}

// checked reports a health check.
func (e *endpoint[C]) checked(took time.Duration, err error) {
	e.health.Lock()
	defer e.health.Unlock()
	e.health.observer.Checked(took, err)
}

func (e *endpoint[C]) options() *Endpoint { return e.opts.Load() }

// State returns the endpoint's health.
func (e *endpoint[C]) State() State { return State(e.state.Load()) } //nolint:gosec // a State was stored

func (e *endpoint[C]) info() EndpointInfo {
	o := e.options()
	return EndpointInfo{Cluster: e.c.Name(), Shard: e.shard, Role: o.Role, Address: o.Address.String(), Database: o.Database}
}

// log names the endpoint in what it logs.
func (e *endpoint[C]) log() *slog.Logger {
	o := e.options()
	return e.c.log().With("shard", e.shard, "role", o.Role.String(), "endpoint", o.Address.String(), "server_database", o.Database)
}

// entries yields the endpoint's pools, each once.
func (e *endpoint[C]) entries() iter.Seq[*entry[C]] {
	return func(yield func(*entry[C]) bool) {
		for key, v := range e.pools.Range {
			if en, ok := v.(*entry[C]); ok && en.key == key && !yield(en) {
				return
			}
		}
	}
}

// answered notes that the endpoint was heard of.
func (e *endpoint[C]) answered() {
	e.heard.Store(int64(pool.NowBy(e.c.now)))
	if e.State() != Up {
		e.set(Up, nil)
	}
}

// failed notes that it could not be reached.
func (e *endpoint[C]) failed(err error) {
	if e.State() == Down {
		return
	}
	e.set(Down, err)
	for en := range e.entries() {
		en.pool.Suspect()
	}
}

func (e *endpoint[C]) set(s State, err error) {
	e.health.Lock()
	was := e.health.state
	if was != s {
		e.health.state, e.health.since, e.health.err = s, e.c.now(), err
		e.state.Store(uint32(s))
		e.health.observer.State(s)
	}
	e.health.Unlock()
	if was == s {
		return
	}
	switch s {
	case Down:
		e.log().Warn("endpoint is down", "error", err)
	case Up:
		e.log().Info("endpoint is up", "was", was.String())
	case Unknown:
	}
}

// wake makes the prober look now.
func (e *endpoint[C]) wake() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// poolFailed is how a pool's failure to open reflects on the endpoint: a server that refuses is one that answers.
func (e *endpoint[C]) poolFailed(f pool.Failure, err error) {
	switch f {
	case pool.Unreachable:
		e.failed(err)
	case pool.Transient:
		if startingUp(err) {
			e.failed(err)
			return
		}
		e.answered()
	case pool.Rejected:
		if sqlstate(err) == pgwire.CodeInvalidCatalogName {
			e.failed(err) // the endpoint is the database
			return
		}
		e.answered()
	}
}

type noEndpointObserver struct{}

func (noEndpointObserver) State(State)                  {}
func (noEndpointObserver) Checked(time.Duration, error) {}
func (noEndpointObserver) Close()                       {}
