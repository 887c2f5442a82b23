package pooler

import (
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// observer counts what sessions do.
type observer struct{ p *Pooler }

var _ session.Observer = observer{}

// shard is what is counted of a shard; nil for none.
func (u *unit) shard(id topology.ShardID) *metrics.Shard {
	shards := *u.shards.Load()
	if id < 0 || int(id) >= len(shards) {
		return nil
	}
	return shards[id]
}

// countShards sees to it that the first n shards are counted. One of a larger configuration before stays, so that what it counted does.
func (u *unit) countShards(n int) {
	var shards []*metrics.Shard
	if old := u.shards.Load(); old != nil {
		shards = slices.Clone(*old)
	}
	for i := len(shards); i < n; i++ {
		shards = append(shards, u.p.metrics.Shard(u.label, topology.ShardID(i))) //nolint:gosec // few shards
	}
	u.shards.Store(&shards)
}

// Login implements session.Observer.
func (o observer) Login(kind string) { o.p.metrics.LoginsFailed.Inc(kind) }

// Connected implements session.Observer.
func (o observer) Connected(a *session.Account) {
	m := meterOf(a)
	if m == nil {
		o.p.operators.Add(1)
		return
	}
	m.clients.Add(1)
	m.u.metrics.Clients.Inc()
	m.u.metrics.Connects.Inc()
}

// Closed implements session.Observer.
func (o observer) Closed(a *session.Account, reason session.CloseReason) {
	m := meterOf(a)
	if m == nil {
		o.p.operators.Add(-1)
		return
	}
	m.clients.Add(-1)
	m.u.metrics.Clients.Dec()
	m.u.metrics.Closes.Inc(reason.String())
}

// Unit implements session.Observer.
func (observer) Unit(a *session.Account, c *session.UnitCounts) {
	u := unitOf(a)
	if u == nil {
		return
	}
	m := u.metrics
	m.ReceivedBytes.Add(int(c.Received)) //nolint:gosec // what one connection carries
	m.SentBytes.Add(int(c.Sent))         //nolint:gosec // likewise
	for r, n := range c.Routes {
		if n > 0 {
			m.Queries.Add(int(n))
			m.Routed(metrics.Plan(r), int(n)) // both have the same order
		}
	}
	if c.Parses+c.Binds > 0 {
		m.Parses.Add(int(c.Parses))
		m.Binds.Add(int(c.Binds))
	}
	if c.Healed > 0 {
		m.Healed.Add(int(c.Healed))
	}
	if c.ContextsSent+c.ContextsReused > 0 {
		m.ContextsSent.Add(int(c.ContextsSent))
		m.ContextsReused.Add(int(c.ContextsReused))
	}
	switch {
	case c.Of != nil:
		tenantMeterOf(c.Of).unit(c)
	case u.in != nil:
		tenantMeterOf(a).unit(c)
	}
	if c.Answered {
		if s := u.shard(c.Shard); s != nil {
			s.Statements.Observe(time.Duration(c.Nanos))
		}
	}
	if c.Transaction {
		m.Transactions.Inc()
		if s := u.shard(c.TxShard); s != nil {
			s.Transactions.Observe(time.Duration(c.TxNanos))
		}
	}
}

// Pinned implements session.Observer.
func (observer) Pinned(a *session.Account, why backend.Taint, first bool) {
	u := unitOf(a)
	if u == nil {
		return
	}
	if first {
		u.metrics.Pinned.Inc()
	}
	for ; why != 0; why &= why - 1 {
		u.metrics.Pins.Inc(why.First())
	}
}

// Unpinned implements session.Observer.
func (observer) Unpinned(a *session.Account) {
	if u := unitOf(a); u != nil {
		u.metrics.Pinned.Dec()
	}
}

// Refused implements session.Observer.
func (observer) Refused(a *session.Account, name string) {
	if u := unitOf(a); u != nil {
		u.metrics.Refusals.Inc(name)
	}
}

// Error implements session.Observer.
func (observer) Error(a *session.Account, code string, server bool) {
	u := unitOf(a)
	if m := tenantMeterOf(a); m != nil {
		m.errors.Add(1)
	}
	switch {
	case u == nil:
	case server:
		u.metrics.ServerErrors.Inc(code)
	default:
		u.metrics.OwnErrors.Inc(code)
	}
}
