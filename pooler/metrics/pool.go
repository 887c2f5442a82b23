package metrics

import (
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// EndpointLabels name an endpoint of a cluster.
type EndpointLabels struct {
	Cluster  string
	Shard    topology.ShardID
	Role     topology.Role
	Endpoint string // host:port, or the path of a Unix socket
}

func (l EndpointLabels) values() []string {
	return []string{clean(l.Cluster), shardLabel(l.Shard), l.Role.String(), clean(l.Endpoint)}
}

// Endpoint counts the health of one endpoint.
type Endpoint struct {
	// Checks takes the time of health checks, of connections and probes, that were answered; ChecksFailed counts the others.
	Checks       Histogram
	ChecksFailed Counter
	// Up is 1 while the endpoint answers, else 0. Bans counts how often it was found not to.
	Up   Gauge
	Bans Counter

	budget atomic.Pointer[func() BudgetState]
	m      *Metrics
	key    EndpointLabels
	labels []string
}

// BudgetState is what an endpoint tells at a scrape of the connections that tenants' logins share.
type BudgetState struct {
	Max     int // 0 = no limit: nothing is told
	Used    int // connections open, being opened or being closed
	Waiting int // pools that want more
}

// SetBudget sets what a scrape asks for the gauges of the budget. read must be quick and safe for concurrent use.
func (e *Endpoint) SetBudget(read func() BudgetState) { e.budget.Store(&read) }

// Endpoint returns the handle of an endpoint. Close it when the endpoint is gone.
func (m *Metrics) Endpoint(l EndpointLabels) *Endpoint {
	return m.endpoints.acquire(l, func() *Endpoint { return &Endpoint{m: m, key: l, labels: l.values()} })
}

// Close gives the handle back, once per call of Metrics.Endpoint.
func (e *Endpoint) Close() { e.m.endpoints.release(e.key) }

func (e *Endpoint) collect(out sink, d *descs) {
	out.histogram(d.checkSeconds, &e.Checks, e.labels...)
	out.counter(d.checksFailed, e.ChecksFailed.Load(), e.labels...)
	out.gauge(d.up, float64(e.Up.Load()), e.labels...)
	out.counter(d.bans, e.Bans.Load(), e.labels...)
	if read := e.budget.Load(); read != nil {
		if s := (*read)(); s.Max > 0 {
			out.gauge(d.budgetMax, float64(s.Max), e.labels...)
			out.gauge(d.budgetUsed, float64(s.Used), e.labels...)
			out.gauge(d.budgetWaiting, float64(s.Waiting), e.labels...)
		}
	}
}

// PoolLabels name a pool: an endpoint and the user it logs in as.
type PoolLabels struct {
	EndpointLabels
	User string
}

// PoolState is what a pool tells at a scrape.
type PoolState struct {
	Size    int // backends open or being opened
	Idle    int
	Used    int // checked out
	Waiting int // clients in the queue
	MaxWait time.Duration
	Max     int

	// These two only grow while the pool lives.
	Checkouts uint64 // backends lent
	Timeouts  uint64 // checkouts that gave up waiting
}

// poolSource is where the state of a pool comes from. A handle outlives the pools that it counts: before is what those before
// this one had counted.
type poolSource struct {
	read   func() PoolState
	before PoolState
}

func (s *poolSource) state() PoolState {
	if s == nil {
		return PoolState{}
	}
	now := s.read()
	now.Checkouts += s.before.Checkouts
	now.Timeouts += s.before.Timeouts
	return now
}

// Pool counts one pool.
type Pool struct {
	// CheckoutWait takes how long each checkout waited that had to wait and was granted.
	CheckoutWait Histogram
	// Opened counts backends that logged in, OpenFailures those that didn't, by pool.Failure's names, or "unsafe" (cluster.UnsafeError). OpenTime is the time that dials and logins took, those that failed included.
	Opened       Counter
	OpenFailures Words
	OpenTime     Seconds
	// Closed counts backends that were closed, by close reason.
	Closed Words
	// ReceivedBytes and SentBytes count the servers' side of the traffic: received from a server, sent to it.
	ReceivedBytes, SentBytes Counter
	// Parses counts statements prepared on backends, ParseEvictions those closed there to make room.
	Parses, ParseEvictions Counter

	source atomic.Pointer[poolSource]
	m      *Metrics
	key    PoolLabels
	labels []string
}

// Pool returns the handle of a pool. Close it when the pool is gone.
func (m *Metrics) Pool(l PoolLabels) *Pool {
	return m.pools.acquire(l, func() *Pool {
		p := &Pool{m: m, key: l, labels: append(l.values(), clean(l.User))}
		p.OpenFailures.seed("unreachable", "transient", "rejected", "unsafe")
		p.Closed.seed("idle", "lifetime", "health", "server_closed", "reconnect", "resized", "shutdown", "killed", "budget",
			"protocol", "cancelled", "listen", "temp", "advisory_lock", "hold_cursor", "sql_prepare", "unjudged", "code")
		return p
	})
}

// SetState sets what a scrape asks for the pool's gauges. read must be quick and safe for concurrent use. Where an old and a
// new pool share the handle during a reload, the last one set is asked, and what the other had counted stays.
func (p *Pool) SetState(read func() PoolState) {
	for {
		old := p.source.Load()
		s := old.state()
		if p.source.CompareAndSwap(old, &poolSource{read: read, before: PoolState{Checkouts: s.Checkouts, Timeouts: s.Timeouts}}) {
			return
		}
	}
}

// Close gives the handle back, once per call of Metrics.Pool.
func (p *Pool) Close() {
	if p.m.pools.release(p.key) {
		p.m.retire(p.key.Cluster, p.totals())
	}
}

func (p *Pool) collect(out sink, d *descs) {
	if source := p.source.Load(); source != nil {
		s := source.state()
		out.gauge(d.poolSize, float64(s.Size), p.labels...)
		out.gauge(d.poolIdle, float64(s.Idle), p.labels...)
		out.gauge(d.poolUsed, float64(s.Used), p.labels...)
		out.gauge(d.poolWaiting, float64(s.Waiting), p.labels...)
		out.gauge(d.poolMaxWait, s.MaxWait.Seconds(), p.labels...)
		out.gauge(d.poolMax, float64(s.Max), p.labels...)
		out.counter(d.checkouts, s.Checkouts, p.labels...)
		out.counter(d.checkoutTimeouts, s.Timeouts, p.labels...)
	}
	out.histogram(d.checkoutSeconds, &p.CheckoutWait, p.labels...)
	out.counter(d.opened, p.Opened.Load(), p.labels...)
	out.words(d.openFailures, &p.OpenFailures, p.labels...)
	out.seconds(d.openSeconds, p.OpenTime.Load(), p.labels...)
	out.words(d.closed, &p.Closed, p.labels...)
	out.counter(d.backendReceived, p.ReceivedBytes.Load(), p.labels...)
	out.counter(d.backendSent, p.SentBytes.Load(), p.labels...)
	out.counter(d.backendParses, p.Parses.Load(), p.labels...)
	out.counter(d.backendParseEvictions, p.ParseEvictions.Load(), p.labels...)
}
