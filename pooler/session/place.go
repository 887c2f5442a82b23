package session

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

// Place is a tenant as its sessions see it: where its statements run, and what connections carry there.
type Place struct {
	Tenant *tenant.Tenant
	Route  router.Tenant
	// SearchPath is what connections begin with that log in as the tenant, as a list of identifiers; empty = what the server has for the login.
	SearchPath string

	// MaxSchemas is how many tenants' schemas a connection that several of them share may have been used for: then it is closed, for PostgreSQL
	// forgets nothing that it has learnt of their tables. 0 = any number.
	MaxSchemas int

	context []state.Var
	id      uint64 // tells it apart on such a connection
	memo    *memo  // nil = there is no context
}

// memo has the sets with the context and those without it that were asked for last: most clients have few different settings.
type memo struct{ byWithout, byWith [16]atomic.Pointer[carried] }

// carried is a set without and with a context.
type carried struct{ without, with *state.Set }

// at is where a set has its entry.
func at(table *[16]atomic.Pointer[carried], set *state.Set) *atomic.Pointer[carried] {
	return &table[set.Mark()%uint64(len(table))]
}

var placeSeed = maphash.MakeSeed()

// NewPlace returns the place of a tenant. Context is what connections must carry beyond their login; sealer signs it in sealed mode.
func NewPlace(t *tenant.Tenant, route router.Tenant, context []tenant.Setting, sealer state.Sealer) *Place {
	p := &Place{Tenant: t, Route: route, id: maphash.String(placeSeed, t.Name)}
	if len(context) > 0 {
		p.memo = new(memo)
	}
	if t.Mode == tenant.Sealed {
		p.context = append(p.context, state.Var{Name: tenant.SealSetting, Value: t.Key, Sealer: sealer})
	}
	for _, c := range context {
		v := state.Var{Name: c.Name, Value: c.Value, Raw: true}
		if c.Name == tenant.SearchPathSetting { // by SET, not by a function, whose name might mean another one
			v = state.Var{Name: c.Name, Value: string(state.AppendLiteral(nil, t.Schema)) + ", 'public'"}
		}
		p.context = append(p.context, v)
	}
	return p
}

// carry returns the set with the place's context.
func (p *Place) carry(set *state.Set) *state.Set {
	if p == nil || p.memo == nil {
		return set
	}
	last := at(&p.memo.byWithout, set)
	if c := last.Load(); c != nil && c.without == set {
		return c.with
	}
	with := set
	for _, v := range p.context {
		with = with.With(v)
	}
	c := &carried{set, with}
	last.Store(c)
	if p.without(with) == set { // else several have this one
		at(&p.memo.byWith, with).Store(c)
	}
	return with
}

// carried reports whether the set has the place's context, but for what the client may set in its place.
func (p *Place) carried(set *state.Set, role bool) bool {
	if p.memo == nil {
		return true
	}
	if c := at(&p.memo.byWith, set).Load(); c != nil && c.with == set {
		return true
	}
	for _, v := range p.context {
		if have, ok := set.Get(v.Name); v.Name != tenant.SearchPathSetting && (v.Name != tenant.RoleSetting || !role) && (!ok || have != v) {
			return false
		}
	}
	return true
}

// drop returns the set without the place's context, but with what the client has set in its place.
func (p *Place) drop(set *state.Set) *state.Set {
	if p == nil || p.memo == nil {
		return set
	}
	if c := at(&p.memo.byWith, set).Load(); c != nil && c.with == set {
		return c.without
	}
	return p.without(set)
}

// without is drop by hand.
func (p *Place) without(set *state.Set) *state.Set {
	for _, v := range p.context {
		if have, ok := set.Get(v.Name); ok && (have == v || v.Name == tenant.SearchPathSetting) {
			set = set.Without(v.Name)
		}
	}
	return set
}

// carry notes whether the tenant's context had to be sent to the backend at hand, or was there.
func (s *Session) carry(sent bool) {
	p := s.place()
	if p == nil || p.memo == nil {
		return
	}
	if !sent {
		s.count.ContextsReused++
		return
	}
	s.count.ContextsSent++
	if p.MaxSchemas > 0 {
		s.conn.Visit(p.id, p.MaxSchemas)
	}
}
