package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// ErrClosed means that the cluster is closed.
var ErrClosed = errors.New("cluster is closed")

// each calls f for every pool.
func (c *Cluster[C]) each(f func(*pool.Pool[C])) {
	for e := range c.top.Load().all() {
		for en := range e.entries() {
			f(en.pool)
		}
	}
}

// Pause makes every checkout wait until Resume; see pool.Pool.Pause.
func (c *Cluster[C]) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.paused = true
	c.each((*pool.Pool[C]).Pause)
}

// Resume ends Pause.
func (c *Cluster[C]) Resume() {
	c.mu.Lock()
	c.mu.paused = false
	var pools []*pool.Pool[C]
	c.each(func(p *pool.Pool[C]) { pools = append(pools, p) })
	c.mu.Unlock()
	for _, p := range pools { // they answer those who wait
		p.Resume()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.paused { // again, by somebody else meanwhile
		c.each((*pool.Pool[C]).Pause)
	}
}

// Paused reports whether the cluster is paused.
func (c *Cluster[C]) Paused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.paused
}

// Lends reports whether any connection is lent.
func (c *Cluster[C]) Lends() bool {
	lends := false
	c.each(func(p *pool.Pool[C]) { lends = lends || p.Lends() })
	return lends
}

// WaitIdle returns when no connection is lent, or with ctx's cause. It makes sense after Pause.
func (c *Cluster[C]) WaitIdle(ctx context.Context) error {
	var pools []*pool.Pool[C]
	c.each(func(p *pool.Pool[C]) { pools = append(pools, p) })
	for _, p := range pools {
		if err := p.WaitIdle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Reconnect replaces every connection when it is released; see pool.Pool.Reconnect.
func (c *Cluster[C]) Reconnect() { c.each((*pool.Pool[C]).Reconnect) }

// Kill closes every connection now, interrupting those who hold one.
func (c *Cluster[C]) Kill() { c.each((*pool.Pool[C]).Kill) }

// Introduce gives the cluster a login for its own purposes, where its options have none: one that a client proved to know, or that a tenant has. Probes and the
// schema have waited for it. Should it turn out to be of no use, the next one takes its place.
func (c *Cluster[C]) Introduce(l *Login) {
	if c.opts.Load().Service != nil {
		return
	}
	c.mu.Lock()
	o := *c.opts.Load()
	if o.Service != nil || c.mu.closed {
		c.mu.Unlock()
		return
	}
	o.Service, o.introduced = l, true
	c.opts.Store(&o)
	top := c.top.Load()
	c.mu.Unlock()
	for e := range top.all() {
		e.wake()
	}
	c.RefreshSchema("login")
}

// dismiss has the cluster do without a login that was introduced, until there is another: its role may be gone, or what its owner set for it is in the way.
func (c *Cluster[C]) dismiss(l *Login) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := *c.opts.Load(); o.introduced && o.Service == l {
		o.Service, o.introduced = nil, false
		c.opts.Store(&o)
	}
}

// speaksAgainst reports whether a failure may be the login's own: its server answers, and not to say that it starts.
func (c *Cluster[C]) speaksAgainst(err error) bool {
	return c.hooks.Classify(err) == pool.Rejected || sqlstate(err) != "" && !startingUp(err)
}

// Reload replaces the options. An endpoint that stays keeps its connections. One whose address,
// database or dial options change keeps its pools and those who wait in them, and its connections are replaced as they
// are released; so do the pools of a configured login that has a successor of the same name. Endpoints that are gone
// are drained; who waits there is moved to the shard's other endpoint, or failed.
func (c *Cluster[C]) Reload(o Options) error {
	o = o.normal()
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	old, before := c.top.Load(), c.opts.Load()
	if o.Service == nil && before.introduced && !o.Quiet {
		o.Service, o.introduced = before.Service, true
	}
	next := &shards[C]{}
	kept := make(map[*endpoint[C]]bool)
	var moved, added []*endpoint[C]
	for id, options := range o.Shards {
		s := &shard[C]{id: topology.ShardID(id), endpoints: make([]*endpoint[C], len(options))}
		var candidates []*endpoint[C]
		if was := old.at(s.id); was != nil {
			candidates = slices.Clone(was.endpoints)
		}
		claim := func(i int, fits func(*Endpoint) bool) *endpoint[C] {
			at := slices.IndexFunc(candidates, func(e *endpoint[C]) bool { return fits(e.options()) })
			if at < 0 || s.endpoints[i] != nil {
				return nil
			}
			e := candidates[at]
			candidates = slices.Delete(candidates, at, at+1)
			s.endpoints[i], kept[e] = e, true
			return e
		}
		for i := range options { // the same ones first, wherever they are in the list
			claim(i, options[i].same)
		}
		for i := range options {
			if e := claim(i, func(was *Endpoint) bool { return was.Role == options[i].Role }); e != nil {
				moved = append(moved, e)
			}
			if s.endpoints[i] == nil {
				s.endpoints[i] = c.newEndpoint(s.id, &options[i])
				added = append(added, s.endpoints[i])
			}
			s.endpoints[i].opts.Store(&options[i])
		}
		s.sort()
		next.list = append(next.list, s)
	}
	rotated := c.succeedLocked(before, &o, next)
	c.rename(o.Name)
	c.opts.Store(&o)
	c.top.Store(next)
	if c.mu.running {
		for _, e := range added {
			e.runLocked(c.mu.run)
		}
	}
	c.warmLocked(&o)

	var gone []*entry[C]
	for e := range old.all() {
		if kept[e] {
			continue
		}
		gone = slices.AppendSeq(gone, e.entries())
		if e.cancel != nil {
			e.cancel()
		}
		e.unobserve()
	}
	c.mu.draining = append(c.mu.draining, gone...)
	for _, e := range moved {
		e.moved()
	}
	settings := c.settingsLocked(&o, next)
	c.mu.Unlock()

	// What follows answers those who wait.
	for e := range next.all() {
		e.budget.SetLimit(e.options().Budget)
	}
	for en, s := range settings {
		en.pool.Reconfigure(s)
	}
	for _, e := range moved {
		for en := range e.entries() {
			en.pool.Reconnect()
		}
		e.wake()
	}
	for _, en := range rotated {
		en.pool.Reconnect()
	}
	for _, en := range gone {
		en.pool.Drain()
	}
	for e := range next.all() {
		e.forgetAnswers()
		e.tryAgain()
	}
	c.RefreshSchema("reload")
	return nil
}

// moved forgets what was known of the endpoint: it is another server now.
func (e *endpoint[C]) moved() {
	e.heard.Store(0)
	e.forgetAnswers()
	e.set(Unknown, nil)
	e.unobserve()
	e.observe()
	for en := range e.entries() {
		en.observe().Close()
	}
}

// succeedLocked finds, for configured logins that are gone, the new one of the same name, and hands their pools over.
// It returns those pools.
func (c *Cluster[C]) succeedLocked(before, after *Options, top *shards[C]) []*entry[C] {
	var rotated []*entry[C]
	has := func(o *Options, l *Login) bool {
		return slices.ContainsFunc(o.Logins, func(m *Login) bool { return m.key == l.key })
	}
	for _, was := range before.Logins {
		if has(after, was) {
			continue
		}
		i := slices.IndexFunc(after.Logins, func(l *Login) bool { return l.Name == was.Name && !has(before, l) })
		if i < 0 {
			continue
		}
		heir := after.Logins[i]
		for key, l := range c.mu.forward {
			if l.key == was.key {
				c.mu.forward[key] = heir
			}
		}
		c.mu.forward[was.key] = heir
		delete(c.mu.forward, heir.key)
		for e := range top.all() {
			v, _ := e.pools.Load(was.key)
			en, ok := v.(*entry[C])
			if other, taken := e.pools.Load(heir.key); !ok || (taken && other != v) {
				continue
			}
			en.login.Store(heir)
			e.pools.Store(heir.key, en)
			e.version.Add(1)
			rotated = append(rotated, en)
		}
	}
	return rotated
}

// settingsLocked returns the settings of every pool under the new options. A login that is configured no more keeps
// nothing open.
func (c *Cluster[C]) settingsLocked(o *Options, top *shards[C]) map[*entry[C]]pool.Settings {
	all := make(map[*entry[C]]pool.Settings)
	for e := range top.all() {
		for en := range e.entries() {
			l := en.login.Load()
			if i := slices.IndexFunc(o.Logins, func(m *Login) bool { return m.key == l.key }); i >= 0 {
				l = o.Logins[i]
				en.login.Store(l)
				all[en] = l.settings(e.options())
				continue
			}
			s := l.settings(e.options())
			s.Min = 0
			all[en] = s
		}
	}
	return all
}

// sweepLoop drops what is not used.
func (c *Cluster[C]) sweepLoop(ctx context.Context) {
	for {
		wait := max(c.opts.Load().UnusedTimeout/4, 10*time.Millisecond)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			c.sweep()
		}
	}
}

// sweep drops pools that nobody used for Options.UnusedTimeout, and forgets those that are drained.
func (c *Cluster[C]) sweep() {
	c.mu.Lock()
	o, now := c.opts.Load(), c.now()
	var gone []*entry[C]
	for e := range c.top.Load().all() {
		for en := range e.entries() {
			if c.unusedLocked(en, o, now) {
				en.forgetLocked()
				gone = append(gone, en)
			}
		}
	}
	var drained []*entry[C]
	if !c.mu.closed {
		c.mu.draining = slices.DeleteFunc(c.mu.draining, func(en *entry[C]) bool {
			select {
			case <-en.pool.Drained():
				drained = append(drained, en)
				return true
			default:
				return false
			}
		})
		c.mu.draining = append(c.mu.draining, gone...)
	}
	c.mu.Unlock()
	for _, en := range gone {
		en.pool.Drain()
	}
	for _, en := range drained {
		en.observer().Close()
	}
}

// unusedLocked reports whether a pool can go: for UnusedTimeout and up to two sweeps nobody checked out, and nothing is
// to be kept open.
func (c *Cluster[C]) unusedLocked(en *entry[C], o *Options, now time.Time) bool {
	s := en.pool.Stats()
	configured := slices.ContainsFunc(o.Logins, func(l *Login) bool { return l.key == en.login.Load().key })
	if s.Checkouts != en.checkouts || s.Leased > 0 || s.Waiting > 0 || (configured && s.Min > 0) {
		en.checkouts, en.idleSince = s.Checkouts, time.Time{}
		return false
	}
	if en.idleSince.IsZero() {
		en.idleSince = now
	}
	return now.Sub(en.idleSince) >= o.UnusedTimeout
}

// forgetLocked takes the pool off its endpoint.
func (en *entry[C]) forgetLocked() {
	for key, v := range en.e.pools.Range {
		if v == any(en) {
			en.e.pools.Delete(key)
		}
	}
	en.e.version.Add(1)
	if en.cancel != nil {
		en.cancel()
	}
}
