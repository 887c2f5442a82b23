package session

import (
	"strings"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// Probes remembers what servers report for the parameters that clients choose at their start, so that only the first
// client with a certain choice costs a round trip. It is bounded, and safe for concurrent use.
type Probes struct {
	mu     sync.Mutex
	values map[string][]pgwire.Param
}

// maxProbes bounds the number of remembered choices; beyond it all are forgotten.
const maxProbes = 1024

// NewProbes returns an empty memory.
func NewProbes() *Probes { return &Probes{values: make(map[string][]pgwire.Param)} }

func probeKey(a *Account, base *state.Set) string {
	parts := []string{a.Database, a.User}
	if a.Place != nil {
		parts = append(parts, a.Place.Tenant.Name, a.Place.Tenant.ID) // whose login may have settings of its own
	}
	parts = append(parts, "")
	for _, v := range base.Vars() {
		if v.Name != "application_name" {
			parts = append(parts, v.Name, v.Value)
		}
	}
	return strings.Join(parts, "\x00")
}

// get returns what servers report, not nil if it is known.
func (p *Probes) get(a *Account, base *state.Set) []pgwire.Param {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values[probeKey(a, base)]
}

func (p *Probes) put(a *Account, base *state.Set, values []pgwire.Param) {
	if values == nil {
		values = []pgwire.Param{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.values) >= maxProbes {
		clear(p.values)
	}
	p.values[probeKey(a, base)] = values
}

// Forget drops everything: the configuration or a server has changed.
func (p *Probes) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.values)
}
