package loop

import (
	"net"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// Time is the time of day of a driver's time in nanoseconds, zero for 0.
func Time(ns int64) time.Time {
	return pool.Instant(ns).Time()
}

// Inspect calls f with the client's session and socket, which it may read. Nothing of the client goes on meanwhile: f
// takes copies, and no lock.
func (c *Client) Inspect(f func(s *session.Session, nc net.Conn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.sess, c.conn())
}

// Inspect calls f with the session that holds the backend, nil if none does, and its socket. The backend's machine may be
// read too. Nothing of the backend goes on meanwhile: f takes copies, and no lock.
func (b *Backend) Inspect(f func(holder *session.Session, nc net.Conn)) {
	for {
		c := b.client.Load()
		if c == nil {
			b.mu.Lock()
			if b.client.Load() == nil {
				f(nil, b.nc)
				b.mu.Unlock()
				return
			}
			b.mu.Unlock()
			continue
		}
		c.mu.Lock()
		if b.client.Load() == c {
			f(c.sess, b.nc)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}
