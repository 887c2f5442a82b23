package loop

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// A socket that is closed before everything was read that its peer has sent, or sends yet, makes the system reset the connection: the peer can't say the rest,
// and may never read what it was told before. Who is told why it is closed, and may be in the middle of saying something, has only our sending half closed,
// therefore: what it says still is read, to no purpose, until it closes its own half; but not for long, and not much of it.

// Who says goodbye may wait for the end of its connection to know that its locks are given up, as PostgreSQL has it. So where its backend has something to
// finish then, the socket is closed behind that. A client that is gone already is found out by reading from it, and holds up nothing either way.

// closeTimeout bounds how long a client that is closed may take to read what it was sent before, and to close its end.
const closeTimeout = 5 * time.Second

// drainLimit is how much it may say meanwhile, in bytes.
const drainLimit = 16 << 20

// ending is how a writer that is closing ends its socket.
type ending uint8

const (
	endsWhole ending = iota
	endsHalf
	endsHalved // it has closed its half
)

// closeHalf closes the sending half of nc. It returns false where there are no halves.
func closeHalf(nc net.Conn) bool {
	if over, ok := nc.(*tls.Conn); ok {
		over.CloseWrite() //nolint:errcheck // without it, it is cut off
		nc = over.NetConn()
	}
	c, ok := nc.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// speaks reports whether the client, whose session ends, may be in the middle of saying something, and is to read why nobody listens; c.mu is held.
func (c *Client) speaks(more session.More) bool {
	switch {
	case c.start != nil && c.start.off:
		return true // it reads why in TLS's own words
	case c.over:
		return false
	}
	return more == session.MoreComes || more == session.MaybeMore && peerOf(c.conn()).unheard
}

// holds reports whether the client, whose session ends, is held until the backend that it has just let go of is done; c.mu is held.
func (c *Client) holds() bool {
	if c.over || c.todo == nil || c.sess.Reason() != session.CloseClient {
		return false
	}
	for i := range slices.Backward(*c.todo) {
		if a := &(*c.todo)[i]; a.kind == doPart || a.kind == doDiscard {
			a.holds = true
			return true
		}
	}
	return false
}

// freed closes the socket of a client that was held.
func (c *Client) freed() {
	c.mu.Lock()
	held, polled := c.stays, c.start == nil
	c.stays = false
	if held {
		c.w.closeAfter(false)
		if !polled {
			c.start.nc.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // its goroutine reads, and closes it
		}
	}
	c.mu.Unlock()
	if held && polled {
		c.w.flush(c.g, nil)
	}
}

// endsBy has the client, which is closed, gone after a time, whatever it does; c.mu is held.
func (c *Client) endsBy(d time.Duration) {
	at, nc := time.Now().Add(d), c.conn()
	nc.SetWriteDeadline(at) //nolint:errcheck // the socket is closed in any case
	nc.SetReadDeadline(at)  //nolint:errcheck // that of a poller has one for both
}

// waitsFor has the next read end after a time, if nothing comes. It returns false once the client is closed, which has a deadline of its own.
func (c *Client) waitsFor(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.start.nc.SetReadDeadline(time.Now().Add(d)) //nolint:errcheck // the read tells
	}
	return !c.closing
}

// drains counts what a client that is closed says; c.mu is held.
func (c *Client) drains(n int) {
	if c.drained += int32(n); c.drained > drainLimit { //nolint:gosec // as much as is read at once
		c.conn().Close()
	}
}

// listenOn reads what a client that is closed says.
func (c *Client) listenOn() {
	c.mu.Lock()
	listens, nc := c.lingers || c.stays, bareOf(c.start.nc)
	c.mu.Unlock()
	if listens {
		io.CopyN(io.Discard, nc, drainLimit) //nolint:errcheck // it is the end, however it comes
	}
}

// Dismiss tells a client that nobody serves why, and closes the connection: at once, or when the client has closed its end, but within a time that is bounded.
func Dismiss(nc net.Conn, e *pgwire.Error, atOnce bool) {
	const limit = time.Second
	defer func() { nc.Close() }()
	own, err := known(nc)
	if err != nil {
		return
	}
	nc = own
	nc.SetDeadline(time.Now().Add(limit)) //nolint:errcheck // best effort
	if _, err := nc.Write(pgwire.AppendErrorResponse(nil, e)); err == nil && !atOnce && closeHalf(nc) {
		io.CopyN(io.Discard, nc, drainLimit) //nolint:errcheck // as in listenOn
	}
}
