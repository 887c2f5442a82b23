package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Names of refusals, in the routine field of the errors that clients see.
const (
	RoutineUnavailable = "shard_unavailable"
	RoutineExhausted   = "pool_exhausted"
)

// Classify tells what an error of a dial or login means for those who wait. It knows the errors of package backend
// and of pgx.
func Classify(err error) pool.Failure {
	switch code := sqlstate(err); {
	case isUnsafe(err): // whatever the server said: it is there
		return pool.Rejected
	case code == pgwire.CodeTooManyConnections || code == pgwire.CodeCannotConnectNow:
		return pool.Transient
	case code == pgwire.CodeInvalidCatalogName || (len(code) == 5 && code[:2] == "28"):
		return pool.Rejected
	}
	if backend.FailureOf(err) == backend.FailureAuth {
		return pool.Rejected
	}
	return pool.Unreachable
}

// sqlstate returns the code of the server's error in err, empty if it is none.
func sqlstate(err error) string {
	if e, ok := errors.AsType[*pgwire.Error](err); ok {
		return e.Code
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// ServerGone reports whether err says that a server shut down or cut a connection, so that its other connections are
// to be doubted too.
func ServerGone(err error) bool {
	switch sqlstate(err) {
	case pgwire.CodeAdminShutdown, pgwire.CodeCrashShutdown, pgwire.CodeCannotConnectNow, pgwire.CodeDatabaseDropped:
		return true
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// refusal is what the client sees of a failed checkout. It names no host and no login.
func (c *Cluster[C]) refusal(s topology.ShardID, err error) *pgwire.Error {
	open, failing := errors.AsType[*pool.OpenError](err)
	switch {
	case isUnsafe(err):
		return c.unsafe()
	case errors.Is(err, pool.ErrCheckoutTimeout) && (!failing || open.Failure == pool.Transient && sqlstate(open.Err) != pgwire.CodeCannotConnectNow):
		of := fmt.Sprintf("shard %d", s)
		if s == AnyShard {
			of = "any shard"
		}
		return pgwire.Errorf(pgwire.CodeTooManyConnections, "no connection to %s of database %q became free in time", of, c.Name()).
			WithDetail("All connections of the pool were in use until checkout_timeout was over.").
			WithHint("Too many clients want one at the same time, or transactions take too long.").WithRoutine(RoutineExhausted)
	case errors.Is(err, pool.ErrClosed) && c.isClosed():
		return pgwire.Errorf(pgwire.CodeAdminShutdown, "database %q is being shut down", c.Name()).WithRoutine(RoutineUnavailable)
	}
	return c.unavailable(s)
}

func (c *Cluster[C]) unavailable(s topology.ShardID) *pgwire.Error {
	e := pgwire.Errorf(pgwire.CodeConnectionFailure, "shard %d of database %q is unavailable", s, c.Name())
	if s == AnyShard {
		e = pgwire.Errorf(pgwire.CodeConnectionFailure, "no shard of database %q is available", c.Name())
	}
	return e.WithDetail("No connection to a server could be made; pgkennel's log says why.").
		WithHint("Nothing of the statement has run: it may be tried again.").WithRoutine(RoutineUnavailable)
}

func (c *Cluster[C]) isClosed() bool { return c.ctx.Err() != nil }
