package loop

import (
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// Ear implements session.Driver.
func (c *Client) Ear(a *session.Account) session.Ear {
	return c.g.source.Ear(a, c.sess.ServerLogin(), c, c.pid)
}

// hearAgain is when one who did not read is told again that there is something for it.
const hearAgain = 100 * time.Millisecond

// Hear tells the client's session that there are notifications for it. While the client does not read they wait where they are.
func (c *Client) Hear() {
	c.mu.Lock()
	if c.sess.Closed() {
		c.mu.Unlock()
		return
	}
	if c.slow() {
		if !c.hears {
			c.hears = true
			time.AfterFunc(hearAgain, c.hearAgain)
		}
		c.mu.Unlock()
		return
	}
	c.now = nanos()
	c.guard(c.sess.Hear)
	c.unlock(nil, false)
}

func (c *Client) hearAgain() {
	c.mu.Lock()
	c.hears = false
	c.mu.Unlock()
	c.Hear()
}

// Lost ends the client: of what it listens to something was missed, or will be. Slow: it does not read, or too late.
func (c *Client) Lost(e *pgwire.Error, slow bool) {
	if slow {
		c.Kill(e, session.CloseListen)
		return
	}
	c.Retire(e, session.CloseListen)
}
