package pooler

import (
	"errors"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Dedicate implements loop.Source. Replication connections are counted by themselves: a user has as many, beside its pools, as one of those may have.
func (s source) Dedicate(a *session.Account, proof *auth.ClientCredential, shard topology.ShardID, params []pgwire.Param) (*loop.Backend, *pgwire.Error) {
	l, m := a.Login.(*login), meterOf(a)
	if m == nil || l.u.in != nil { // the session refuses tenants
		return nil, pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "permission denied to begin a replication connection").WithRoutine(session.RefusalReplication)
	}
	if m.replications.Add(1) > int64(l.replications) {
		m.replications.Add(-1)
		return nil, pgwire.Errorf(pgwire.CodeTooManyConnections, "too many replication connections of the user").WithRoutine(session.RefusalReplication).
			WithDetail("There are %d, which is its pool_size.", l.replications)
	}
	b, e := l.dedicate(s.p, m, l.u, proof, shard, params)
	if e != nil {
		m.replications.Add(-1)
	}
	return b, e
}

func (l *login) dedicate(p *Pooler, m *meter, u *unit, proof *auth.ClientCredential, shard topology.ShardID, params []pgwire.Param) (*loop.Backend, *pgwire.Error) {
	o, info, ok := u.cl.Endpoint(shard, topology.Primary, l.of(proof))
	if !ok {
		return nil, errUnreached
	}
	o.Params, o.Sealed = params, false
	login, err := u.dial(p.ctx, o)
	if err != nil {
		p.log.Warn("replication connection not opened", "cluster", u.name(), "shard", shard, "endpoint", info.Address, "error", err)
		return nil, saidByServer(err)
	}
	conn := backend.New(login, p.shared.MaxMessage)
	conn.Shard = shard
	if len(login.Leftover) > 0 {
		if err := conn.Feed(login.Leftover); err != nil {
			login.Conn.Close()
			return nil, errUnreached
		}
	}
	conn.Pipe()
	k := &link{
		id: p.backends.Add(1), u: u, dial: o, dedicated: m,
		pool: p.metrics.Pool(metrics.PoolLabels{EndpointLabels: u.labels(info), User: m.user}),
	}
	k.info.EndpointInfo = info
	b, err := p.driver.NewBackend(login.Conn, conn, k)
	if err != nil {
		k.pool.Close()
		return nil, errUnreached
	}
	return b, nil
}

// undedicate ends such a connection.
func (l *link) undedicate(b *loop.Backend) {
	if l.ended.Swap(true) {
		return
	}
	b.Close()
	l.pool.Close()
	l.dedicated.replications.Add(-1)
}

// moved reports whether the shard of a replication connection is on another server than it.
func moved(c *backend.Conn) bool {
	k := c.Link.(*loop.Backend).Owner.(*link)
	o, _, ok := k.u.cl.Endpoint(c.Shard, topology.Primary, cluster.NewLogin(cluster.LoginOptions{}))
	return !ok || o.Address != k.dial.Address || o.Database != k.dial.Database
}

var errUnreached = pgwire.Errorf(pgwire.CodeConnectionFailure, "no server of the database can be reached").WithRoutine("shard_unavailable")

// saidByServer is what a client hears of a login that failed: what it has asked for itself, but not what tells of the server and of how pgkennel gets there.
func saidByServer(err error) *pgwire.Error {
	if e, ok := errors.AsType[*pgwire.Error](err); ok {
		switch e.Code {
		case pgwire.CodeInsufficientPrivilege, pgwire.CodeTooManyConnections, pgwire.CodeInvalidParameterValue, pgwire.CodeUndefinedObject,
			pgwire.CodeCannotConnectNow:
			return pgwire.Errorf(e.Code, "%s", e.Message).WithRoutine(session.RefusalReplication)
		}
	}
	return errUnreached
}
