package notify

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/tenant"
)

// Audience is where tenants listen who share a cluster's logins with others. A session that is about to notify looks at it behind noting for whom the connection speaks,
// and once more behind its commit. Who comes to listen later asks behind that: so what is committed from then on is known to be the tenant's, and what was committed
// before is not for it. A tenant of whom nobody listens need not be told from others, and waits for nobody.
type Audience struct {
	listening atomic.Int64 // tenants of whom somebody listens

	mu struct {
		sync.Mutex
		listeners map[name]map[*Set]int
	}
}

// name is a tenant's, and that of who replaces it.
type name struct{ cluster, tenant string }

var _ backend.Audience = (*Audience)(nil)

// come notes that one more of a tenant's listens over s, before anything is asked for it.
func (a *Audience) come(t *tenant.Tenant, s *Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.listeners == nil {
		a.mu.listeners = make(map[name]map[*Set]int)
	}
	who := name{t.Cluster, t.Name}
	if a.mu.listeners[who] == nil {
		a.mu.listeners[who] = make(map[*Set]int)
		a.listening.Add(1)
	}
	a.mu.listeners[who][s]++
}

// leave notes that one of a tenant's who listened over s does not any more.
func (a *Audience) leave(t *tenant.Tenant, s *Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	who := name{t.Cluster, t.Name}
	sets := a.mu.listeners[who]
	if sets[s]--; sets[s] > 0 {
		return
	}
	if delete(sets, s); len(sets) == 0 {
		delete(a.mu.listeners, who)
		a.listening.Add(-1)
	}
}

// HearOut waits, but not for longer than limit, until everything that is committed by now has arrived where sessions of t listen.
func (a *Audience) HearOut(t *tenant.Tenant, limit time.Duration) {
	if ready := a.Arrive(t, math.MaxUint64); ready != nil {
		stop := make(chan struct{})
		timer := time.AfterFunc(limit, func() { close(stop) })
		_ = ready(stop)
		timer.Stop()
	}
}

// Arrive implements backend.Audience.
func (a *Audience) Arrive(t *tenant.Tenant, epoch uint64) func(stop <-chan struct{}) *pgwire.Error {
	if t == nil || a.listening.Load() == 0 {
		return nil
	}
	var hubs []*Hub
	a.mu.Lock()
	for s := range a.mu.listeners[name{t.Cluster, t.Name}] {
		for _, h := range s.hubs {
			if h.up.Load() && h.passed.Load() <= epoch {
				hubs = append(hubs, h)
			}
		}
	}
	a.mu.Unlock()
	if hubs == nil {
		return nil
	}
	asked := make([]*request, len(hubs))
	for i, h := range hubs {
		asked[i] = h.ask()
	}
	return waitFor(asked)
}
