// Package loop drives sessions and backends: it owns their sockets, timers and wake-ups, and steps their machines. All drivers
// keep one contract: a session and the backend that it holds are stepped by one at a time, what a step asks for is done in order, and
// nothing a peer does or fails to do blocks anybody else.
//
// Here are the driver of goroutines over net.Conn (Goroutines), for TLS and every system, and Memory, a deterministic one without
// sockets, for tests.
package loop

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Source gives backends to sessions. Its methods are safe for concurrent use, and return at once but for those that say that they may block.
type Source interface {
	// TryCheckout takes an idle backend, rather one with the given mark, nil if there is none for now.
	TryCheckout(a *session.Account, login *auth.ClientCredential, shard topology.ShardID, mark uint64, now pool.Instant) *pool.Lease[*Backend]
	// Checkout lends a backend to w, now or later.
	Checkout(a *session.Account, login *auth.ClientCredential, shard topology.ShardID, w *cluster.Waiter[*Backend])
	// Dedicate opens a connection that is no pool's, for one session; it may block. Discard ends it.
	Dedicate(a *session.Account, login *auth.ClientCredential, shard topology.ShardID, params []pgwire.Param) (*Backend, *pgwire.Error)
	// Discard closes a backend that nobody holds any more; err is what broke it, nil if it is merely unfit.
	Discard(b *Backend, reason pool.Reason, err error)
	// Parameters waits until some server of the account's cluster has told its parameters, or says why there are none. It may block.
	Parameters(a *session.Account, login *auth.ClientCredential) *pgwire.Error
	// Cancel sends a cancel request to the server of b. It may block, and returns when the server has handled it; false = that is not known.
	Cancel(b *Backend) bool
	// CancelRequest handles a client's cancel request.
	CancelRequest(pid uint32, secret []byte)
	// Register gives a session its cancel key; Unregister takes it back.
	Register(c *Client, n int) (pid uint32, secret []byte)
	Unregister(c *Client, pid uint32)
	// Traffic counts bytes that came from the server of b, and bytes sent to it, at a time of the driver's. The machine of b may be read, as in Inspect.
	Traffic(b *Backend, received, sent int, now int64)
	// Ear lets a session listen.
	Ear(a *session.Account, login *auth.ClientCredential, c *Client, pid uint32) session.Ear
}

// Options of a driver.
type Options struct {
	Source Source
	Shared *session.Shared
	Log    *slog.Logger
	// Left is called when a client that Serve took is gone; nil = nobody wants to know.
	Left func()
	// ReadBuffer of each connection, in bytes; 0 = 16 KiB.
	ReadBuffer int
	// Pollers is the number of threads that wait for bare sockets, on Linux; 0 = as fits the machine, negative = none: each connection has a
	// goroutine of its own, as those over TLS.
	Pollers int
	// Ring has them wait, read and write by io_uring instead of epoll, where the kernel offers what is needed.
	Ring bool
	// RollbackTimeout bounds what an abandoned backend may take to settle, in nanoseconds; 0 = 5 s.
	RollbackTimeout int64
	// UnreadTimeout bounds how long a client that says no more may read nothing of what it was sent; nil or 0 = a minute.
	UnreadTimeout func() time.Duration
	// Epoch is what the voices of backends go by; nil = nobody listens.
	Epoch *atomic.Uint64
}
