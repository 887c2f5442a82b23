package pooler

import (
	"errors"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// observer counts what sessions do.
type observer struct{ p *Pooler }

var _ session.Observer = observer{}

func unitOf(a *session.Account) *unit {
	if a == nil {
		return nil
	}
	u, _ := a.Metrics.(*unit)
	return u
}

func (u *unit) shard(id topology.ShardID) *metrics.Shard {
	if id < 0 || int(id) >= len(u.shards) {
		return nil
	}
	return u.shards[id]
}

// Login implements session.Observer.
func (o observer) Login(kind string) {
	if kind != "" {
		o.p.metrics.LoginsFailed.Inc(kind)
	}
}

// Statement implements session.Observer.
func (observer) Statement(a *session.Account, shard topology.ShardID, ns int64) {
	if u := unitOf(a); u != nil {
		u.metrics.Queries.Inc()
		if s := u.shard(shard); s != nil {
			s.Statements.Observe(time.Duration(ns))
		}
	}
}

// Transaction implements session.Observer.
func (observer) Transaction(a *session.Account, shard topology.ShardID, ns int64) {
	if u := unitOf(a); u != nil {
		u.metrics.Transactions.Inc()
		if s := u.shard(shard); s != nil {
			s.Transactions.Observe(time.Duration(ns))
		}
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
	switch {
	case u == nil:
	case server:
		u.metrics.ServerErrors.Inc(code)
	default:
		u.metrics.OwnErrors.Inc(code)
	}
}

// Waited implements session.Observer; pools count that themselves.
func (observer) Waited(*session.Account, int64) {}

// poolObserver counts what happens in a pool.
type poolObserver struct{ m *metrics.Pool }

func (u *unit) observePool(info cluster.PoolInfo, stats func() pool.Stats) cluster.PoolObserver {
	m := u.p.metrics.Pool(metrics.PoolLabels{EndpointLabels: labels(info.EndpointInfo), User: info.User})
	m.SetState(func() metrics.PoolState {
		s := stats()
		return metrics.PoolState{Size: s.Total(), Idle: s.Idle, Used: s.Leased, Waiting: s.Waiting, Max: s.Max}
	})
	return poolObserver{m}
}

func labels(i cluster.EndpointInfo) metrics.EndpointLabels {
	return metrics.EndpointLabels{Cluster: i.Cluster, Shard: i.Shard, Role: i.Role, Endpoint: i.Address}
}

// Opened implements pool.Observer.
func (o poolObserver) Opened(took time.Duration) {
	o.m.Opened.Inc()
	o.m.OpenTime.Add(took)
}

// OpenFailed implements pool.Observer.
func (o poolObserver) OpenFailed(took time.Duration, _ pool.Failure, err error) {
	o.m.OpenTime.Add(took)
	o.m.OpenFailures.Inc(openFailure(err))
}

// openFailure is the reason of a failed open as its metric has it.
func openFailure(err error) string {
	switch backend.FailureOf(err) {
	case backend.FailureTLS:
		return "tls"
	case backend.FailureAuth:
		return "auth"
	case backend.FailureServer:
		return "server_error"
	case backend.FailureProtocol:
		return "protocol"
	}
	if errors.Is(err, backend.ErrConnectTimeout) {
		return "timeout"
	}
	return "refused"
}

// Closed implements pool.Observer.
func (o poolObserver) Closed(reason pool.Reason) { o.m.Closed.Inc(string(reason)) }

// Checked implements pool.Observer.
func (poolObserver) Checked(time.Duration, error) {}

// Waited implements pool.Observer.
func (o poolObserver) Waited(took time.Duration) { o.m.CheckoutWait.Observe(took) }

// Close implements cluster.PoolObserver.
func (o poolObserver) Close() { o.m.Close() }

// endpointObserver counts an endpoint's health.
type endpointObserver struct{ m *metrics.Endpoint }

func (u *unit) observeEndpoint(info cluster.EndpointInfo) cluster.EndpointObserver {
	return endpointObserver{u.p.metrics.Endpoint(labels(info))}
}

// State implements cluster.EndpointObserver.
func (o endpointObserver) State(s cluster.State) {
	if s == cluster.Up {
		o.m.Up.Set(1)
	} else {
		o.m.Up.Set(0)
	}
}

// Checked implements cluster.EndpointObserver.
func (o endpointObserver) Checked(took time.Duration, err error) {
	if err != nil {
		o.m.ChecksFailed.Inc()
		return
	}
	o.m.Checks.Observe(took)
}

// Close implements cluster.EndpointObserver.
func (o endpointObserver) Close() { o.m.Close() }
