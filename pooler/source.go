package pooler

import (
	"context"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// login is how an account's sessions get at their pools.
type login struct {
	u     *unit
	user  string
	login *cluster.Login
	// keyed: there is no password; the client's own proof logs in where the server holds the same verifier.
	keyed bool
	learn atomic.Pointer[cluster.Login]
	// replications is how many replication connections there may be.
	replications int
}

// of returns the login to use for a session whose client proved to know proof.
func (l *login) of(proof *auth.ClientCredential) *cluster.Login {
	if !l.keyed {
		return l.login
	}
	if known := l.learn.Load(); known != nil {
		l.u.cl.Introduce(known) // again, if it was dismissed
		return known
	}
	if proof == nil {
		return l.login
	}
	o := l.login.LoginOptions
	o.Credential = proof
	o.Identity += "/keyed"
	if l.learn.CompareAndSwap(nil, cluster.NewLogin(o)) {
		l.u.cl.Introduce(l.learn.Load())
	}
	return l.learn.Load()
}

// source gives sessions their backends.
type source struct{ p *Pooler }

var _ loop.Source = source{}

// TryCheckout implements loop.Source.
func (source) TryCheckout(a *session.Account, proof *auth.ClientCredential, shard topology.ShardID, mark uint64, now pool.Instant) *pool.Lease[*loop.Backend] {
	l := a.Login.(*login)
	if in := l.u.in; in != nil && in.gate.shut.Load() {
		return nil
	}
	return l.u.cl.TryCheckout(shard, l.u.role(), l.of(proof), mark, now)
}

// Checkout implements loop.Source.
func (source) Checkout(a *session.Account, proof *auth.ClientCredential, shard topology.ShardID, w *cluster.Waiter[*loop.Backend]) {
	l := a.Login.(*login)
	if in := l.u.in; in != nil && in.gate.shut.Load() && in.gate.hold(&held{w: w, u: l.u, login: l.login, shard: shard}) {
		return
	}
	l.u.cl.Checkout(shard, l.u.role(), l.of(proof), w)
}

// Discard implements loop.Source.
func (source) Discard(b *loop.Backend, reason pool.Reason, err error) {
	if k := b.Owner.(*link); k.dedicated != nil {
		k.undedicate(b)
		return
	}
	b.Owner.(*link).u.cl.Discard(b.Lease(), reason, err)
}

// Parameters implements loop.Source. It is bounded by the cluster's connect and checkout time-outs.
func (s source) Parameters(a *session.Account, proof *auth.ClientCredential) *pgwire.Error {
	l := a.Login.(*login)
	if in := l.u.in; in != nil {
		if e := in.gate.wait(); e != nil {
			return e
		}
	}
	_, err := l.u.cl.WaitParameters(context.Background(), l.u.role(), l.of(proof)) // the client may be gone
	if err == nil {
		l.u.awaitSchema(s.p.ctx)
	}
	return refusal(err)
}

func refusal(err error) *pgwire.Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*pgwire.Error); ok { //nolint:errorlint // the cluster makes them bare
		return e
	}
	return pgwire.Errorf(pgwire.CodeConnectionFailure, "no server of the database can be reached").WithRoutine("shard_unavailable")
}

// Register implements loop.Source.
func (s source) Register(c *loop.Client, n int) (pid uint32, secret []byte) {
	return s.p.keys.register(c, n)
}

// Traffic implements loop.Source.
func (source) Traffic(b *loop.Backend, received, sent int, now int64) {
	b.Owner.(*link).traffic(b, received, sent, now)
}

// Unregister implements loop.Source.
func (s source) Unregister(c *loop.Client, pid uint32) { s.p.keys.unregister(c, pid) }
