// Package metrics holds the pooler's counters, gauges and histograms, and serves them to Prometheus.
//
// What is touched per statement costs an atomic add or two: a caller resolves its handle once (Cluster, Shard, Pool,
// Endpoint) and increments fields of it; nothing is looked up by label on the way. One Collector turns the handles into
// Prometheus' form when somebody scrapes, so a scrape never stops a statement.
//
// Labels are bounded: names from the configuration (cluster, shard, role, endpoint, and user for pools) and words from enums
// (reasons, kinds, routines, SQLSTATE classes). A set of words that grows beyond its bound counts under "other".
//
// Handles are shared and counted: two calls with the same labels get the same handle, and its series disappear when both
// have closed it, so a reload neither resets the counters of what stays nor keeps the series of what goes.
//
// The package starts no goroutine, but for Serve, which waits for its own. Everything is safe for concurrent use.
package metrics

import (
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics is everything that one process counts.
type Metrics struct {
	// LoginsFailed counts clients that were refused before they had a session, by kind: auth.Reason's names, "timeout",
	// "tls_required", "throttled", "shutdown".
	LoginsFailed Words
	// Cancels counts cancel requests by what became of them: "sent", "idle", "unknown_key", "failed", "throttled", "passed_on" to a peer.
	Cancels Words
	// ReloadsOK and ReloadsFailed count reloads of the configuration.
	ReloadsOK, ReloadsFailed Counter

	configEpoch  Gauge
	configLoaded Gauge // Unix time in nanoseconds; 0 = never
	build        atomic.Pointer[Build]
	parseCache   atomic.Pointer[func() ParseCache]
	prepared     atomic.Pointer[func() Prepared]
	listening    atomic.Pointer[func() Listening]
	tenants      atomic.Pointer[func() []TenantState]
	directory    atomic.Pointer[func() Directory]

	clusters  handles[string, Cluster]
	shards    handles[shardKey, Shard]
	endpoints handles[EndpointLabels, Endpoint]
	pools     handles[PoolLabels, Pool]

	retired struct {
		sync.Mutex
		totals map[string]Totals // by cluster: what pools and shards counted that are gone
	}

	descs descs
}

// Build says what program this is.
type Build struct {
	Version, Commit, GoVersion string
}

// ParseCache is what the parser's cache tells at a scrape.
type ParseCache struct {
	Hits, Misses, Evictions  uint64
	Entries, Bytes, MaxBytes int64
	// ParseTime is the time spent in pg_query so far.
	ParseTime time.Duration
}

// Prepared is what the registry of the clients' prepared statements tells at a scrape.
type Prepared struct {
	Statements, Bytes int64
	Evictions         uint64
}

// Listening is what is told at a scrape of the sessions that listen in transaction pooling.
type Listening struct{ Sessions, Channels, Connections int64 }

var namespaceForm = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*$`)

// ValidNamespace reports whether s can be given to New: empty, or letters, digits and underscores, a letter first.
func ValidNamespace(s string) bool { return s == "" || namespaceForm.MatchString(s) }

// New returns metrics registered with reg, and Go's and the process's own. Names get the namespace as a prefix (pgdog.toml's
// openmetrics_namespace, with or without a trailing underscore; empty = none). It panics if the namespace is not valid or the
// names are taken, which are the caller's mistakes.
func New(reg prometheus.Registerer, namespace string) *Metrics {
	if !ValidNamespace(namespace) {
		panic("metrics: invalid namespace " + namespace)
	}
	m := &Metrics{descs: newDescs(namespace)}
	m.LoginsFailed.seed("wrong_password", "empty_password", "unknown_user", "unknown_database", "no_verifier", "protocol", "unsupported", "timeout", "shutdown")
	m.Cancels.seed("sent", "idle", "unknown_key", "failed", "throttled", "passed_on")
	m.retired.totals = make(map[string]Totals)
	reg.MustRegister(m)
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		// The default registry has them already.
		err := reg.Register(c)
		if _, taken := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !taken {
			panic(err)
		}
	}
	return m
}

// SetBuild sets the labels of the build_info metric.
func (m *Metrics) SetBuild(b Build) { m.build.Store(&b) }

// SetConfig says which configuration is in force and since when.
func (m *Metrics) SetConfig(epoch uint64, at time.Time) {
	m.configEpoch.Set(int64(epoch)) //nolint:gosec // counts reloads
	m.configLoaded.Set(at.UnixNano())
}

// SetParseCache sets what a scrape asks for the state of the parse cache. read must be quick and safe for concurrent use.
func (m *Metrics) SetParseCache(read func() ParseCache) { m.parseCache.Store(&read) }

// SetPrepared does the same for the registry of prepared statements.
func (m *Metrics) SetPrepared(read func() Prepared) { m.prepared.Store(&read) }

// SetListening does the same for the sessions that listen.
func (m *Metrics) SetListening(read func() Listening) { m.listening.Store(&read) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { m.descs.describe(ch) }

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	out, d := sink{ch}, &m.descs
	if b := m.build.Load(); b != nil {
		out.gauge(d.buildInfo, 1, clean(b.Version), clean(b.Commit), clean(b.GoVersion))
	}
	out.gauge(d.configEpoch, float64(m.configEpoch.Load()))
	out.gauge(d.configLoaded, time.Duration(m.configLoaded.Load()).Seconds())
	out.counter(d.configReloads, m.ReloadsOK.Load(), "ok")
	out.counter(d.configReloads, m.ReloadsFailed.Load(), "failed")
	out.words(d.loginsFailed, &m.LoginsFailed)
	out.words(d.cancels, &m.Cancels)
	if read := m.parseCache.Load(); read != nil {
		c := (*read)()
		out.counter(d.parseHits, c.Hits)
		out.counter(d.parseMisses, c.Misses)
		out.counter(d.parseEvictions, c.Evictions)
		out.gauge(d.parseEntries, float64(c.Entries))
		out.gauge(d.parseBytes, float64(c.Bytes))
		out.gauge(d.parseMaxBytes, float64(c.MaxBytes))
		out.seconds(d.parseSeconds, c.ParseTime)
	}
	if read := m.prepared.Load(); read != nil {
		p := (*read)()
		out.gauge(d.prepared, float64(p.Statements))
		out.gauge(d.preparedBytes, float64(p.Bytes))
		out.counter(d.preparedEvictions, p.Evictions)
	}
	if read := m.listening.Load(); read != nil {
		l := (*read)()
		out.gauge(d.listenSessions, float64(l.Sessions))
		out.gauge(d.listenChannels, float64(l.Channels))
		out.gauge(d.listenConnections, float64(l.Connections))
	}
	if read := m.tenants.Load(); read != nil {
		collectTenants(out, d, (*read)())
	}
	if read := m.directory.Load(); read != nil {
		x := (*read)()
		x.collect(out, d)
	}
	for _, c := range m.clusters.all() {
		c.collect(out, d)
	}
	for _, s := range m.shards.all() {
		s.collect(out, d)
	}
	for _, e := range m.endpoints.all() {
		e.collect(out, d)
	}
	for _, p := range m.pools.all() {
		p.collect(out, d)
	}
}
