package loop

import (
	"sync"
	"time"
)

// What a session needs to work with is for the next one once its client is silent: to lend it for every transaction would cost a tenth of that.
const (
	restAfter = 20 * time.Millisecond
	restEvery = 50 * time.Millisecond
	// A look wakes a thread of Go's. Where nobody falls silent the next one is put off, up to so long: for one client that is always at work it was a hundredth of the CPU.
	restSeldom = 400 * time.Millisecond
)

// restless are the clients that pollers watch and that were at work lately.
type restless struct {
	mu      sync.Mutex
	clients []*Client
	spare   []*Client
	looking bool // a look is due
	every   time.Duration
}

// add notes that c is at work; c's lock is held.
func (r *restless) add(c *Client) {
	r.mu.Lock()
	r.clients = append(r.clients, c)
	if !r.looking {
		r.looking, r.every = true, restEvery
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
	kept, fell := list[:0], false
	for _, c := range list {
		switch silent, gone := c.silent(now); {
		case !silent:
			kept = append(kept, c)
		case !gone:
			fell = true
		}
	}
	clear(list[len(kept):])
	r.mu.Lock()
	if r.every = min(2*r.every, restSeldom); fell {
		r.every = restEvery
	}
	kept = append(kept, r.clients...)
	clear(r.clients)
	r.clients, r.spare = kept, r.clients[:0]
	if len(kept) == 0 {
		r.clients, r.spare = nil, nil // a crowd is gone
	}
	if r.looking = len(r.clients) > 0; r.looking {
		time.AfterFunc(r.every, r.look)
	}
	r.mu.Unlock()
}

// silent reports whether nothing has happened to the client for a while. Then it rests, unless something is under way: what ends that is a step,
// behind which it is looked at again. One that is gone is silent, too.
func (c *Client) silent(now int64) (silent, gone bool) {
	c.mu.Lock()
	gone = c.sess.Closed()
	if silent = gone || now-c.now >= int64(restAfter); silent {
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
	return silent, gone
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
