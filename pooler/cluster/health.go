package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// downInterval is how often an endpoint that is down is probed, if that is more often than Options.HealthInterval.
const downInterval = 2 * time.Second

// EndpointHealth is a snapshot of an endpoint's health.
type EndpointHealth struct {
	EndpointInfo
	State State
	Since time.Time
	Err   error // why it is down; it names hosts and is for the log and the console
}

// Health returns the health of every endpoint, by shard and in the order of the configuration.
func (c *Cluster[C]) Health() []EndpointHealth {
	var all []EndpointHealth
	for e := range c.top.Load().all() {
		h := EndpointHealth{EndpointInfo: e.info()}
		e.health.Lock()
		h.State, h.Since, h.Err = e.health.state, e.health.since, e.health.err
		e.health.Unlock()
		all = append(all, h)
	}
	return all
}

// Healthy reports whether the shard can take statements as far as is known: its primary answers, or, without a login
// to probe with, is not known to be down. A shard of replicas only needs one of them.
func (c *Cluster[C]) Healthy(id topology.ShardID) bool {
	s := c.top.Load().at(id)
	if s == nil {
		return false
	}
	ok := func(e *endpoint[C]) bool {
		o := c.opts.Load()
		return e.State() == Up || o.Quiet || (e.State() == Unknown && o.Service == nil)
	}
	if s.primary != nil {
		return ok(s.primary)
	}
	return slices.ContainsFunc(s.replicas, ok)
}

// runLocked starts the endpoint's goroutines; they end with parent, or with the endpoint.
func (e *endpoint[C]) runLocked(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	e.ctx, e.cancel = ctx, cancel
	e.c.goLocked(ctx, func(ctx context.Context) {
		defer cancel()
		e.probeLoop(ctx)
	})
	e.c.goLocked(ctx, e.guardLoop)
	for en := range e.entries() {
		en.runLocked(ctx)
	}
}

// probeLoop keeps the endpoint's health known where its pools' own traffic doesn't.
func (e *endpoint[C]) probeLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if e.quiet() {
				e.probe(ctx)
			}
		case <-e.kick:
			e.probe(ctx)
		}
		wait := e.c.opts.Load().HealthInterval
		if e.State() != Up {
			wait = min(wait, downInterval)
		}
		timer.Reset(wait)
	}
}

// quiet reports whether nothing was heard of the endpoint for a health interval.
func (e *endpoint[C]) quiet() bool {
	since := time.Duration(int64(pool.NowBy(e.c.now)) - e.heard.Load())
	return e.State() != Up || since >= e.c.opts.Load().HealthInterval
}

// probe opens and closes a connection. A failure casts doubt on the pools' connections.
func (e *endpoint[C]) probe(ctx context.Context) {
	o := e.c.opts.Load()
	if o.Service == nil {
		return
	}
	dial := e.options().dial(o.Service)
	dial.ConnectTimeout = o.HealthTimeout
	begun := e.c.now()
	login, err := e.c.hooks.Dial(ctx, dial)
	took := e.c.now().Sub(begun)
	if err == nil {
		goodbye(login)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f := e.c.hooks.Classify(err)
		if e.c.speaksAgainst(err) {
			e.c.dismiss(o.Service)
		}
		if f == pool.Unreachable {
			e.checked(took, err)
		}
		e.poolFailed(f, err)
		return
	}
	e.c.learn(e, login.Params)
	e.checked(took, nil)
	e.answered()
}

// goodbye ends a connection as PostgreSQL likes it.
func goodbye(l *backend.Login) {
	_ = l.Conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = l.Conn.Write(pgwire.AppendTerminate(nil)) // it is over either way
	_ = l.Conn.Close()
}

// startingUp reports whether the server answers only to say that it can't serve (yet, or any more).
func startingUp(err error) bool { return sqlstate(err) == pgwire.CodeCannotConnectNow }
