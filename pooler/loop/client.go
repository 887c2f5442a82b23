package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// Client is one client connection under the goroutine driver: a goroutine that reads, a session, and a lock that makes their steps, those of
// the session's backend and those of time happen one after the other.
type Client struct {
	g  *Goroutines
	nc net.Conn
	w  writer

	mu   sync.Mutex // guards all below, and the machine of the backend that the session holds
	room *sync.Cond // signalled when the session wants input again; nil once a poller watches nc
	sess *session.Session
	now  int64
	// What the step at hand asked for: bytes for a backend that the session holds, the return of one, a place in a queue; and, before these, in
	// their order, all that is rare.
	sending *Backend
	free    *Backend
	todo    *[]action
	wait    *waiter // of the checkout under way, or of the one before
	waits   bool    // it is under way
	queues  bool    // and was asked for in the step at hand

	tls        bool   // the handshake is due
	restless   bool   // it is among those of the driver
	closing    bool   // the socket is closed when all is written
	pid        uint32 // of its cancel key, once it is registered
	timer      *time.Timer
	armed      int64
	cancelling *sync.WaitGroup // of a cancel request that is being handled
	ev         *socket         // nc, once a poller watches it
}

// later notes what is to be done after the step.
func (c *Client) later(a action) {
	if c.todo == nil {
		c.todo = new([]action)
	}
	*c.todo = append(*c.todo, a)
}

// action is something that a step asked for that is done after it, without the lock.
type action struct {
	kind   actionKind
	b      *Backend
	lease  *pool.Lease[*Backend] // of doDrop
	reason string
	err    error
	acct   *session.Account
	pid    uint32
	secret []byte
	job    func()
	done   *sync.WaitGroup
}

// silence is how long a client says nothing until a poller watches it, which takes less memory than a goroutine. Who logs in for one statement is
// gone before that would be worth it.
const silence = 20 * time.Millisecond

// closeTimeout bounds how long a client that is closed may take to read what it was sent before.
const closeTimeout = 5 * time.Second

type actionKind uint8

const (
	doRelease actionKind = iota + 1
	doDiscard
	doDrop // of a lease whose backend nobody has adopted
	doPart
	doCancel
	doCancelRequest
	doParameters
	doJob
	doFlush
)

// nanos is the time of steps, and of pools.
func nanos() int64 { return int64(pool.Now()) }

// step runs f with the client's lock, then does what it asked for.
func (c *Client) step(f func()) {
	c.mu.Lock()
	c.now = nanos()
	c.guard(f)
	c.unlock(nil, false)
}

// guard runs f; a panic in it ends this client and its backend, and nothing else.
func (c *Client) guard(f func()) {
	defer c.caught()
	f()
}

// input is guard for the way of every message.
func (c *Client) input(b []byte) {
	defer c.caught()
	c.sess.Input(b)
}

// caught is deferred around steps of the session; c.mu is held.
func (c *Client) caught() {
	r := recover()
	if r == nil {
		return
	}
	c.bug(r)
}

// bug ends the session after a panic; c.mu is held.
func (c *Client) bug(r any) {
	c.g.log.Error("bug: a session was ended", "client", c.sess.Client, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	if b := c.sending; b != nil {
		b.w.forget() // it may be half a message
		c.sending = nil
	}
	if conn := c.sess.Abandon(); conn != nil {
		b := conn.Link.(*Backend)
		b.leave(c)
		c.later(action{kind: doDiscard, b: b, reason: string(pool.ReasonGone), err: errBug})
	}
	c.Close()
}

// unlock ends a step. own: on the goroutine that reads from the client, which may wait for its peers, in their turn. Everybody else has
// others to serve: the goroutine that reads from a backend must not wait for that server to read, nor, once the client has let go of the
// backend, for the client; while the client holds it, that the client does not read is to hold up its server.
func (c *Client) unlock(reader *Backend, own bool) {
	c.settle()
	c.arm()
	if c.sess.WantsInput() {
		if c.ev != nil {
			c.ev.resume()
		} else {
			c.room.Broadcast()
		}
	}
	s := step{
		reader: reader, ev: c.ev, own: own, waits: own || reader != nil && reader.client.Load() == c,
		// By a poller, which has others to serve.
		polled: own && c.ev != nil || reader != nil && reader.ev != nil,
		talks:  len(c.w.out) > 0 || c.closing,
		yields: c.sess.Yielded(),
		now:    c.now,
	}
	b, free, todo := c.sending, c.free, c.todo
	var queue *waiter
	if c.queues {
		queue, c.queues = c.wait, false
	}
	if todo == nil && free == nil && queue == nil && !s.yields {
		// No more than bytes, for whom the lock is handed over.
		c.sending = nil
		switch {
		case b != nil:
			c.w.stage()
			b.w.mu.Lock()
			b.w.stageLocked()
			c.mu.Unlock()
			c.feedServer(b, &s)
		case s.talks || own && !s.polled:
			c.w.mu.Lock()
			c.w.stageLocked()
			c.mu.Unlock()
			c.feedClient(&s)
			return
		default:
			c.mu.Unlock()
			return
		}
		if s.talks || own && !s.polled {
			c.w.mu.Lock()
			c.feedClient(&s)
		}
		return
	}
	c.sending, c.free, c.todo = nil, nil, nil
	c.w.stage()
	if b != nil {
		b.w.stage()
	}
	c.mu.Unlock()
	c.after(b, free, queue, todo, &s)
}

// arm sets the timer to the session's deadline. An earlier timer is left alone: it finds nothing due and arms again, or is dropped.
func (c *Client) arm() {
	switch at := c.sess.Deadline(); {
	case at == 0 && c.armed == 0:
		c.timer = nil
	case at != 0 && (c.armed == 0 || c.armed > at):
		c.armAt(at)
	}
}

// disarm drops a timer that is set to a deadline of the past, which would take memory until then.
func (c *Client) disarm() {
	if c.timer != nil && c.sess.Deadline() == 0 {
		c.timer.Stop()
		c.timer, c.armed = nil, 0
	}
}

func (c *Client) armAt(at int64) {
	c.armed = at
	d := time.Duration(at - nanos())
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
	} else {
		c.timer.Reset(d)
	}
}

func (c *Client) tick() {
	c.step(func() {
		c.armed = 0
		c.sess.Tick()
	})
}

// serve reads from the client until it is gone, or a poller does so: then it returns true.
func (c *Client) serve() (polled bool) {
	held := c.g.buffers.Get().(*[]byte) //nolint:forcetypeassert // it holds nothing else
	defer c.g.buffers.Put(held)
	buf := *held
	reads := 0 // since the login
	for {
		n, err := c.nc.Read(buf)
		if reads > 0 && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			if c.move() {
				return true
			}
			c.nc.SetReadDeadline(time.Now().Add(silence)) //nolint:errcheck // somebody is writing to it: later
			continue
		}
		c.mu.Lock()
		c.now = nanos()
		if n > 0 {
			c.input(buf[:n])
		}
		if err != nil && !c.sess.Closed() {
			c.guard(c.sess.Gone)
		}
		handshake := c.tls
		c.tls = false
		c.unlock(nil, true)
		if handshake && err == nil {
			err = c.startTLS()
		}
		if err != nil {
			break
		}
		c.mu.Lock()
		for !c.sess.WantsInput() && !c.sess.Closed() {
			c.room.Wait()
		}
		closed, ready := c.sess.Closed(), c.sess.LoggedIn()
		c.mu.Unlock()
		if closed {
			break
		}
		if ready && c.g.pollers != nil && bare(c.nc) {
			switch reads++; {
			case reads == 1:
				c.nc.SetReadDeadline(time.Now().Add(silence)) //nolint:errcheck // the next read tells
			case reads > 2 && c.move():
				return true
			}
		}
	}
	return false
}

// bare reports whether a poller can watch the connection.
func bare(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// move hands a client that has logged in over to a poller. It returns false where that can't be.
func (c *Client) move() bool {
	ps := c.g.pollers
	if ps == nil {
		return false
	}
	s := ps.take(c.nc)
	if s == nil {
		return false
	}
	s.serve(c, &c.w)
	c.mu.Lock()
	if !c.w.watch(s) { // somebody is writing to the client; it will be tried again
		c.mu.Unlock()
		s.abandon()
		return false
	}
	old := c.nc
	c.nc, c.ev, c.room = s, s, nil
	c.disarm()
	if !c.sess.WantsInput() {
		s.pause()
	}
	c.mu.Unlock()
	old.Close()
	s.start()
	c.w.flush(c.g, s)
	return true
}

// received implements handler.
func (c *Client) received(b []byte) {
	c.mu.Lock()
	c.now = nanos()
	c.input(b)
	if !c.sess.WantsInput() {
		c.ev.pause()
	}
	c.unlock(nil, true)
}

// ended implements handler.
func (c *Client) ended(error) {
	c.mu.Lock()
	c.now = nanos()
	if !c.sess.Closed() {
		c.guard(c.sess.Gone)
	}
	c.unlock(nil, true)
	c.left()
}

// left is the end of a client that is gone.
func (c *Client) left() {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	pid := c.pid
	c.mu.Unlock()
	if pid != 0 {
		c.g.source.Unregister(c, pid)
	}
	c.w.closeAfter()
	if c.ev == nil {
		c.w.flushAndWait() // who ended the session may not have come to that yet
	}
	c.w.abandon()
	g := c.g
	g.mu.Lock()
	delete(g.clients, c)
	g.mu.Unlock()
	if g.leftHook != nil {
		g.leftHook()
	}
	g.running.Done()
}

// startTLS does the handshake.
func (c *Client) startTLS() error {
	c.w.flushAndWait()
	conn := tls.Server(c.nc, c.g.TLS())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the session's own deadline closes the socket earlier
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		c.step(c.sess.Gone)
		return err
	}
	c.mu.Lock()
	c.nc = conn
	c.w.swap(conn)
	c.now = nanos()
	c.guard(c.sess.TLSDone)
	c.unlock(nil, true)
	return nil
}

// Cancel cancels what the client's session runs: a cancel request with its key came. It returns when the server has handled it.
func (c *Client) Cancel() {
	var done sync.WaitGroup
	c.step(func() {
		c.cancelling = &done
		defer func() { c.cancelling = nil }()
		c.sess.Cancel()
	})
	done.Wait()
}

// Kill closes the client with an error.
func (c *Client) Kill(e *pgwire.Error, reason session.CloseReason) {
	c.step(func() { c.sess.Kill(e, reason) })
}

// ID names the client in log and console.
func (c *Client) ID() uint64 { return c.sess.ID }

var (
	errClosed = errors.New("the driver is closed")
	errBug    = errors.New("a bug was met")
	errSlow   = errors.New("what was left to finish took too long")
)
