package metrics

import (
	"strconv"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Plan is how a statement was routed. The first three are sharding.PlanKind's, in its order.
type Plan uint8

// The plans.
const (
	PlanAny    Plan = iota + 1 // any one shard would do
	PlanShard                  // the shard that a key or a hint names
	PlanCopy                   // COPY FROM: the first row decides
	PlanDirect                 // nothing to decide: one shard without tenants, or text that can't be parsed for a shard that is certain
	PlanLocal                  // answered without a server
	numPlans
)

var planNames = [numPlans]string{"other", "any", "shard", "copy", "direct", "local"}

// String names the plan as its label does.
func (p Plan) String() string {
	if p >= numPlans {
		p = 0
	}
	return planNames[p]
}

// ClusterState is what a cluster tells at a scrape.
type ClusterState struct {
	Active  int // clients that have a backend
	Waiting int // clients that wait for one
}

// Cluster counts what the clients of one cluster do. Fields may be used directly.
type Cluster struct {
	// Clients are connected now.
	Clients Gauge
	// Connects counts clients that logged in.
	Connects Counter
	// Closes counts clients that left, by close reason.
	Closes Words
	// Queries counts statements (a Query message or an Execute), Transactions those that ended.
	Queries, Transactions Counter
	// ReceivedBytes and SentBytes count the clients' side of the traffic.
	ReceivedBytes, SentBytes Counter
	// ContextsSent and ContextsReused count the times that a tenant's context was sent to a shared backend, and that the backend had it.
	ContextsSent, ContextsReused Counter
	// Parses and Binds count prepared statements that clients made and used.
	Parses, Binds Counter
	// Healed counts units that were run anew because tables had changed under their statements.
	Healed Counter
	// Pinned are the clients that are pinned to their backends now; Pins counts how often one was, by what pins.
	Pinned Gauge
	Pins   Words
	// Refusals counts statements we refused, by the stable name in the error's routine field. Errors of servers don't belong here.
	Refusals Words
	// ServerErrors and OwnErrors count ErrorResponses that clients got, by SQLSTATE class: relayed ones, and those we made.
	ServerErrors, OwnErrors Errors

	plans [numPlans]Counter
	state atomic.Pointer[func() ClusterState]

	m    *Metrics
	name string // as configured
	text string // as label
}

// Cluster returns the handle of a cluster. Close it when the cluster is gone.
func (m *Metrics) Cluster(name string) *Cluster {
	return m.clusters.acquire(name, func() *Cluster {
		c := &Cluster{m: m, name: name, text: clean(name)}
		c.Closes.seed("client", "gone", "protocol", "idle_timeout", "idle_in_transaction_timeout", "server_lost", "shutdown", "killed")
		c.Pins.seed("listen", "temp", "advisory_lock", "hold_cursor", "sql_prepare")
		c.Refusals.seed("tenant_missing", "tenant_unknown", "tenant_null", "cross_shard", "shard_unavailable", "pool_exhausted")
		return c
	})
}

// SetState sets what a scrape asks for the cluster's gauges. read must be quick and safe for concurrent use.
func (c *Cluster) SetState(read func() ClusterState) { c.state.Store(&read) }

// Close gives the handle back, once per call of Metrics.Cluster.
func (c *Cluster) Close() {
	if c.m.clusters.release(c.name) {
		c.m.retire(c.name, c.totals())
	}
}

// Routed counts n statements by their plan.
func (c *Cluster) Routed(p Plan, n int) {
	if p >= numPlans {
		p = 0
	}
	c.plans[p].Add(n)
}

func (c *Cluster) collect(out sink, d *descs) {
	l := c.text
	out.gauge(d.clients, float64(c.Clients.Load()), l)
	if read := c.state.Load(); read != nil {
		s := (*read)()
		out.gauge(d.clientsActive, float64(s.Active), l)
		out.gauge(d.clientsWaiting, float64(s.Waiting), l)
	}
	out.counter(d.connects, c.Connects.Load(), l)
	out.words(d.closes, &c.Closes, l)
	out.counter(d.queries, c.Queries.Load(), l)
	out.counter(d.transactions, c.Transactions.Load(), l)
	out.counter(d.received, c.ReceivedBytes.Load(), l)
	out.counter(d.sent, c.SentBytes.Load(), l)
	out.counter(d.parses, c.Parses.Load(), l)
	out.counter(d.binds, c.Binds.Load(), l)
	out.counter(d.healed, c.Healed.Load(), l)
	out.counter(d.contexts, c.ContextsSent.Load(), l, "sent")
	out.counter(d.contexts, c.ContextsReused.Load(), l, "reused")
	out.gauge(d.pinned, float64(c.Pinned.Load()), l)
	out.words(d.pins, &c.Pins, l)
	out.words(d.refusals, &c.Refusals, l)
	for p := range c.plans {
		if n := c.plans[p].Load(); p != 0 || n > 0 {
			out.counter(d.plans, n, l, planNames[p])
		}
	}
	c.ServerErrors.each(func(class string, n uint64) { out.counter(d.errors, n, l, "server", class) })
	c.OwnErrors.each(func(class string, n uint64) { out.counter(d.errors, n, l, "pooler", class) })
}

type shardKey struct {
	cluster string
	shard   topology.ShardID
}

// Shard counts what runs on one shard.
type Shard struct {
	// Statements takes the time from a statement's first byte to the server until its answer ended, Transactions the time
	// that a transaction had its backend.
	Statements, Transactions Histogram

	m     *Metrics
	key   shardKey
	label [2]string
}

// Shard returns the handle of a shard. Close it when the shard is gone.
func (m *Metrics) Shard(cluster string, shard topology.ShardID) *Shard {
	k := shardKey{cluster, shard}
	return m.shards.acquire(k, func() *Shard {
		return &Shard{m: m, key: k, label: [2]string{clean(cluster), shardLabel(shard)}}
	})
}

// Close gives the handle back, once per call of Metrics.Shard.
func (s *Shard) Close() {
	if s.m.shards.release(s.key) {
		s.m.retire(s.key.cluster, s.totals())
	}
}

func (s *Shard) collect(out sink, d *descs) {
	out.histogram(d.statementSeconds, &s.Statements, s.label[:]...)
	out.histogram(d.transactionSeconds, &s.Transactions, s.label[:]...)
}

func shardLabel(s topology.ShardID) string { return strconv.Itoa(int(s)) }
