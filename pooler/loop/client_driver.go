package loop

import (
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

var _ session.Driver = (*Client)(nil)

// Now implements session.Driver.
func (c *Client) Now() int64 { return c.now }

// ToClient implements session.Driver.
func (c *Client) ToClient(b []byte) { c.w.append(b) }

// ToBackend implements session.Driver.
func (c *Client) ToBackend(conn *backend.Conn, data []byte) {
	b := conn.Link.(*Backend)
	b.w.append(data)
	c.g.source.Traffic(b, 0, len(data), c.now)
	if c.sending != b {
		c.staged(c.sending)
		c.sending = b
	}
}

// staged ends the sending to b in this step, by which b is held: it may change hands.
func (c *Client) staged(b *Backend) {
	if b != nil && c.sending == b {
		c.sending = nil
		b.w.stage()
		c.later(action{kind: doFlush, b: b})
	}
}

// Checkout implements session.Driver.
func (c *Client) Checkout(a *session.Account, shard topology.ShardID, mark uint64) *backend.Conn {
	for !c.slow() {
		l := c.g.source.TryCheckout(a, c.sess.ServerLogin(), shard, mark, pool.Instant(c.now))
		if l == nil {
			break
		}
		b := l.Conn()
		if b.adopt(c, l) {
			return b.Conn
		}
		// Its pool may lend another to somebody else thereby, whose session is not to be stepped here.
		c.later(action{kind: doDrop, lease: l, reason: string(pool.ReasonGone)})
	}
	c.wait = c.waiter(a, shard)
	c.wait.place.Mark = mark
	c.waits, c.queues = true, true
	return nil
}

// slow reports whether the client is slow to read.
func (c *Client) slow() bool {
	if c.w.ev != nil {
		return c.w.slow.Load()
	}
	return c.w.busy()
}

// Dedicate implements session.Driver.
func (c *Client) Dedicate(a *session.Account, shard topology.ShardID, params []pgwire.Param) {
	c.later(action{kind: doDedicate, acct: a, shard: shard, params: params})
}

// Withdraw implements session.Driver.
func (c *Client) Withdraw() {
	if w := c.wait; c.waits {
		c.wait, c.waits, c.queues = nil, false, false
		w.leave()
	}
}

// Release implements session.Driver.
func (c *Client) Release(conn *backend.Conn) {
	b := conn.Link.(*Backend)
	c.staged(b)
	b.lease.Mark(conn.Have.Mark())
	echo := conn.Echo()
	b.leave(c)
	if echo != nil {
		c.later(action{kind: doRelease, b: b, job: func() { _ = echo(nil) }})
		return
	}
	if c.free == nil && c.todo == nil {
		c.free = b
		return
	}
	c.later(action{kind: doRelease, b: b})
}

// Discard implements session.Driver.
func (c *Client) Discard(conn *backend.Conn, reason string) {
	b := conn.Link.(*Backend)
	c.staged(b)
	b.leave(c)
	c.later(action{kind: doDiscard, b: b, reason: reason})
}

// Part implements session.Driver.
func (c *Client) Part(conn *backend.Conn, clean bool) {
	b := conn.Link.(*Backend)
	settler := backend.NewSettler(conn, clean)
	c.staged(b)
	b.mu.Lock()
	b.settler = settler
	b.mu.Unlock()
	b.leave(c)
	c.later(action{kind: doPart, b: b, settler: settler})
}

// CancelBackend implements session.Driver.
func (c *Client) CancelBackend(conn *backend.Conn) {
	b := conn.Link.(*Backend)
	b.mu.Lock()
	b.cancels++
	b.mu.Unlock()
	c.later(action{kind: doCancel, b: b})
}

// Calm implements session.Driver.
func (c *Client) Calm(conn *backend.Conn) {
	b := conn.Link.(*Backend)
	c.staged(b)
	b.leave(c)
	c.later(action{kind: doCalm, b: b})
}

// CancelRequest implements session.Driver.
func (c *Client) CancelRequest(pid uint32, secret []byte) {
	c.later(action{kind: doCancelRequest, pid: pid, secret: append([]byte(nil), secret...)})
}

// Register implements session.Driver.
func (c *Client) Register(n int) (pid uint32, secret []byte) {
	c.pid, secret = c.g.source.Register(c, n)
	return c.pid, secret
}

// StartTLS implements session.Driver.
func (c *Client) StartTLS() { c.start.tls = true }

// Offload implements session.Driver: a client's own goroutine may as well do short work itself.
func (c *Client) Offload(job func(), kind session.Job) bool {
	if kind != session.Waits && c.w.ev == nil {
		job()
		return true
	}
	c.later(action{kind: doJob, job: job, brief: kind == session.Brief})
	return false
}

// Quick implements session.Driver: a thread that serves many has little time for one of them. A client's own goroutine has it in Offload.
func (c *Client) Quick(job func()) bool { return c.w.ev != nil && c.g.quick.run(job) }

// Parameters implements session.Driver.
func (c *Client) Parameters(a *session.Account) {
	c.later(action{kind: doParameters, acct: a})
}

// Close implements session.Driver.
func (c *Client) Close(more session.More) {
	c.closing = true
	c.lingers = c.speaks(more)
	c.w.stage() // what was said before goes out
	c.endsBy(closeTimeout)
	c.stays = c.holds()
	if !c.stays {
		c.w.closeAfter(c.lingers)
	}
	if c.start != nil {
		c.start.room.Broadcast()
	} else if c.lingers {
		c.w.ev.resume()
	}
}
