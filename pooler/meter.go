package pooler

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// meter is what the sessions of one user of a cluster count with. It outlives reloads, as its unit does.
type meter struct {
	u       *unit
	user    string
	clients atomic.Int64 // connected now
	// replications are the replication connections to servers.
	replications atomic.Int64
}

// meters are those of a unit by user; nobody is forgotten while the unit lives.
type meters struct {
	mu     sync.Mutex
	byUser map[string]*meter
}

// of returns the meter of a user of u.
func (ms *meters) of(u *unit, user string) *meter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.byUser[user]
	if m == nil {
		m = &meter{u: u, user: user}
		if ms.byUser == nil {
			ms.byUser = make(map[string]*meter)
		}
		ms.byUser[user] = m
	}
	return m
}

// all returns the meters of this moment, in no order.
func (ms *meters) all() []*meter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	list := make([]*meter, 0, len(ms.byUser))
	for _, m := range ms.byUser {
		list = append(list, m)
	}
	return list
}

// meterOf returns what the sessions of an account count with, nil for the admin database.
func meterOf(a *session.Account) *meter {
	if a == nil {
		return nil
	}
	m, _ := a.Metrics.(*meter)
	return m
}

// unitOf returns the cluster of an account, nil for the admin database.
func unitOf(a *session.Account) *unit {
	if m := meterOf(a); m != nil {
		return m.u
	}
	return nil
}

// health is what the console tells of the endpoints of a unit beyond what their cluster does.
type health struct {
	mu         sync.Mutex
	byEndpoint map[cluster.EndpointInfo]*checks
}

// checks are the health checks of an endpoint.
type checks struct {
	last     time.Time
	failures int // in a row
	err      error
	version  string // server_version
}

// note changes what is known of an endpoint.
func (h *health) note(e cluster.EndpointInfo, f func(c *checks)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.byEndpoint[e]
	if c == nil {
		c = &checks{}
		if h.byEndpoint == nil {
			h.byEndpoint = make(map[cluster.EndpointInfo]*checks)
		}
		h.byEndpoint[e] = c
	}
	f(c)
}

func (h *health) forget(e cluster.EndpointInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byEndpoint, e)
}

func (h *health) of(e cluster.EndpointInfo) checks {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.byEndpoint[e]; c != nil {
		return *c
	}
	return checks{}
}

// traffic counts what goes over a backend's connection; the machine of b may be read.
func (l *link) traffic(b *loop.Backend, received, sent int, now int64) {
	if received > 0 {
		l.received.Add(uint64(received))
		l.pool.ReceivedBytes.Add(received)
	}
	if sent == 0 {
		return
	}
	l.sent.Add(uint64(sent)) //nolint:gosec // positive
	l.asked.Store(now)
	l.pool.SentBytes.Add(sent)
	if n := b.Conn.Parses - l.parses; n > 0 {
		l.parses = b.Conn.Parses
		l.pool.Parses.Add(int(n)) //nolint:gosec // few at a time
	}
	if n := b.Conn.Evictions - l.evictions; n > 0 {
		l.evictions = b.Conn.Evictions
		l.pool.ParseEvictions.Add(int(n)) //nolint:gosec // few at a time
	}
}

// clusterState is what a scrape asks a cluster for.
func (u *unit) clusterState() metrics.ClusterState {
	s := u.cl.Stats()
	return metrics.ClusterState{Active: s.Leased, Waiting: s.Waiting}
}
