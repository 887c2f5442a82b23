package loop

import (
	"sync"
	"time"
)

// What a session needs to work with is for the next one once its client is silent: to lend it for every transaction would cost a tenth of that.
const (
	restAfter = 20 * time.Millisecond
	restEvery = 50 * time.Millisecond
)

// restless are the clients that pollers watch and that were at work lately.
type restless struct {
	mu      sync.Mutex
	clients []*Client
	spare   []*Client
	looking bool // a look is due
}

// add notes that c is at work; c's lock is held.
func (r *restless) add(c *Client) {
	r.mu.Lock()
	r.clients = append(r.clients, c)
	if !r.looking {
		r.looking = true
		time.AfterFunc(restEvery, r.look)
	}
	r.mu.Unlock()
}

// look has those rest who have been silent, and comes again as long as there are others.
func (r *restless) look() {
	r.mu.Lock()
	list := r.clients
	r.clients, r.spare = r.spare[:0], nil
	r.mu.Unlock()
	now := nanos()
	kept := list[:0]
	for _, c := range list {
		if !c.silent(now) {
			kept = append(kept, c)
		}
	}
	clear(list[len(kept):])
	r.mu.Lock()
	kept = append(kept, r.clients...)
	clear(r.clients)
	r.clients, r.spare = kept, r.clients[:0]
	if len(kept) == 0 {
		r.clients, r.spare = nil, nil // a crowd is gone
	}
	if r.looking = len(r.clients) > 0; r.looking {
		time.AfterFunc(restEvery, r.look)
	}
	r.mu.Unlock()
}

// silent reports whether nothing has happened to the client for a while. Then it rests, unless something is under way: what ends that is a step,
// behind which it is looked at again.
func (c *Client) silent(now int64) bool {
	c.mu.Lock()
	silent := c.sess.Closed() || now-c.now >= int64(restAfter)
	if silent {
		c.restless = false
		c.rest()
		c.disarm()
		if !c.waits {
			c.wait = nil
		}
	}
	if c.closing {
		c.unlock(nil, false) // it may have come to a bad end just now
	} else {
		c.mu.Unlock()
	}
	return silent
}

// rest has the session rest, if it can; c.mu is held.
func (c *Client) rest() {
	defer c.caught()
	c.sess.Rest()
}

// settle is the end of a step for what the session works with; c.mu is held.
func (c *Client) settle() {
	switch {
	case c.start != nil:
		c.rest()
	case !c.restless && !c.sess.Closed():
		c.restless = true
		c.g.restless.add(c)
	}
}
