package loop

import (
	"cmp"
	"crypto/tls"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"
)

// Nothing is read from a client while whoever it talks to has to read first what was sent before, or it itself, or once it has said all; that its connection
// has broken would not be noticed then, and what it holds be kept for as long as a server is silent. Those clients are looked at.

// lookEvery is how often.
const lookEvery = 100 * time.Millisecond

// It is asked whether it is still there when what it asked for takes longer: one that says no more, and one that has more to say and can't.
const (
	halfProbe  = time.Second
	stallProbe = 5 * time.Second
)

// unreadTimeout is how long a client that says no more may leave unread what it was sent, unless Options say otherwise.
const unreadTimeout = time.Minute

// present are the clients that are looked at.
type present struct {
	unread func() time.Duration // see Options.UnreadTimeout

	mu      sync.Mutex
	clients map[*Client]*presence // nil = none, and no look is due
}

// presence is what is known of one.
type presence struct {
	asked bool // since the last look; guarded by present.mu
	seen       // the look's own
}

type seen struct {
	half   bool   // it says no more
	heard  uint64 // bytes that it has said
	since  int64  // when that was found so; 0 = not yet
	taken  int64  // bytes that it has read; not exact
	reads  int64  // when that changed, or there was nothing to read
	probed bool
}

// watch has c looked at for as long as nothing is read from it.
func (p *present) watch(c *Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients == nil {
		p.clients = make(map[*Client]*presence)
		time.AfterFunc(lookEvery, p.look)
	}
	x := p.clients[c]
	if x == nil {
		x = new(presence)
		p.clients[c] = x
	}
	x.asked = true
}

func (p *present) look() {
	p.mu.Lock()
	list := maps.Clone(p.clients)
	for _, x := range list {
		x.asked = false
	}
	p.mu.Unlock()
	unread := unreadTimeout
	if p.unread != nil {
		unread = cmp.Or(p.unread(), unread)
	}
	maps.DeleteFunc(list, func(c *Client, x *presence) bool { return c.present(x, unread) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, x := range list {
		if x.seen = (seen{}); !x.asked { // again, meanwhile
			delete(p.clients, c)
		}
	}
	if len(p.clients) == 0 {
		p.clients = nil // a crowd is gone
		return
	}
	time.AfterFunc(lookEvery, p.look)
}

// present looks at c. It returns false where that is needed no more.
func (c *Client) present(x *presence, unread time.Duration) (again bool) {
	c.step(func() {
		if c.start != nil {
			c.start.watched.Store(false) // before it is looked whether it writes: who does so later asks anew
		}
		if c.sess.Closed() || !c.unheard() {
			return
		}
		again = true
		peer, stats := peerOf(c.conn()), c.sess.Snapshot()
		half := c.over || peer.half // by TLS's own goodbye, or TCP's
		if half != x.half || stats.BytesIn != x.heard || x.since == 0 {
			x.seen = seen{half: half, heard: stats.BytesIn, since: c.now, reads: c.now}
		}
		if taken := int64(stats.BytesOut) - int64(c.w.pending()+peer.unread); taken != x.taken || peer.unread == 0 { //nolint:gosec // it counts bytes
			x.taken, x.reads = taken, c.now
		}
		after := stallProbe
		if half {
			after = halfProbe
		}
		x.probed = x.probed || c.now-x.since > int64(after) && c.sess.Probe()
		pointless := c.over && c.sess.ReadsOn() && c.now-x.since > int64(halfProbe)
		if peer.gone || pointless || half && c.now-x.reads > int64(unread) {
			c.sess.Gone()
			bareOf(c.conn()).Close() // nothing gets to it any more
		}
	})
	return again
}

// unheard reports whether nothing is read from the client; c.mu is held.
func (c *Client) unheard() bool {
	if c.over || !c.sess.WantsInput() {
		return true
	}
	if c.start != nil {
		return c.start.writes.Load()
	}
	return c.w.ev.isHeld()
}

// peer is what the system knows of a connection's other end.
type peer struct {
	half   bool // it has shut down its sending half, or more
	gone   bool // nothing comes from it or gets to it any more
	unread int  // bytes that it was sent and has not read, more or less
	// unheard: it has said what was not read yet.
	unheard bool
}

// bareOf is the socket that TLS goes over.
func bareOf(nc net.Conn) net.Conn {
	if over, ok := nc.(*tls.Conn); ok {
		return over.NetConn()
	}
	return nc
}

func peerOf(nc net.Conn) (p peer) {
	s, ok := bareOf(nc).(syscall.Conn)
	if !ok {
		return p
	}
	raw, err := s.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { p = peerAt(fd) })
	}
	p.gone = p.gone || err != nil
	return p
}
