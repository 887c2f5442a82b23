package notify

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Audience is where tenants listen who share a cluster's logins with others. A session that is about to notify looks at it behind noting for whom the connection speaks,
// and once more behind its commit. Who comes to listen later asks behind that: so what is committed from then on is known to be the tenant's, and what was committed
// before is not for it.
type Audience struct {
	sets atomic.Pointer[[]*Set] // nil = nobody listens

	mu struct {
		sync.Mutex
		listeners map[*Set]int
	}
}

var _ backend.Audience = (*Audience)(nil)

// come notes that one more listens over s, before anything is asked for it.
func (a *Audience) come(s *Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.listeners == nil {
		a.mu.listeners = make(map[*Set]int)
	}
	if a.mu.listeners[s]++; a.mu.listeners[s] == 1 {
		a.publishLocked()
	}
}

// leave notes that one who listened over s does not any more.
func (a *Audience) leave(s *Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.listeners[s]--; a.mu.listeners[s] == 0 {
		delete(a.mu.listeners, s)
		a.publishLocked()
	}
}

func (a *Audience) publishLocked() {
	if len(a.mu.listeners) == 0 {
		a.sets.Store(nil)
		return
	}
	list := slices.Collect(maps.Keys(a.mu.listeners))
	a.sets.Store(&list)
}

// HearOut waits, but not for longer than limit, until everything that is committed by now has arrived.
func (a *Audience) HearOut(limit time.Duration) {
	if ready := a.Arrive(math.MaxUint64); ready != nil {
		stop := make(chan struct{})
		timer := time.AfterFunc(limit, func() { close(stop) })
		_ = ready(stop)
		timer.Stop()
	}
}

// Arrive implements backend.Audience.
func (a *Audience) Arrive(epoch uint64) func(stop <-chan struct{}) *pgwire.Error {
	sets := a.sets.Load()
	if sets == nil {
		return nil
	}
	var asked []*request
	for _, s := range *sets {
		for _, h := range s.hubs {
			if h.up.Load() && h.passed.Load() <= epoch {
				asked = append(asked, h.ask())
			}
		}
	}
	if asked == nil {
		return nil
	}
	return waitFor(asked)
}
