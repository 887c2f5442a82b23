package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Client is one client connection under the goroutine driver: a goroutine that reads, a session, and a lock that makes their steps, those of
// the session's backend and those of time happen one after the other.
type Client struct {
	g *Goroutines
	w writer

	mu    sync.Mutex // guards all below, and the machine of the backend that the session holds
	sess  *session.Session
	start *start // nil once a poller watches the socket
	alarm *alarm // nil = none is set
	now   int64
	// What the step at hand asked for: bytes for a backend that the session holds, the return of one, a place in a queue; and, before these, in
	// their order, all that is rare.
	sending *Backend
	free    *Backend
	todo    *[]action
	wait    *waiter // of the checkout under way, or of the one before

	pid      uint32 // of its cancel key, once it is registered
	drained  int32  // bytes that it has said since it was closed
	waits    bool   // wait is under way
	queues   bool   // and was asked for in the step at hand
	restless bool   // it is among those of the driver
	closing  bool   // the socket is closed when all is written
	over     bool   // the client says no more, and may want the answers to what it has said
	lingers  bool   // it is read from to its end although it is closed: see closing.go
	stays    bool   // it said goodbye, and is closed once its backend has ended what it left: see closing.go
	hears    bool   // it is told of notifications once it reads
}

// start is what a client has that no poller watches.
type start struct {
	nc   net.Conn
	room sync.Cond // signalled when the session wants input again
	tls  bool      // the handshake is due
	off  bool      // it came to nothing, which the client may have been told why

	writes  atomic.Bool // its goroutine does, to a server, and may have to wait for that
	watched atomic.Bool // it asked for a look since the last one, for it writes
}

// alarm is a timer that is set to a deadline of the session's.
type alarm struct {
	timer *time.Timer
	at    int64 // 0 = it has gone off
}

// conn is the client's socket; c.mu is held.
func (c *Client) conn() net.Conn {
	if c.w.ev != nil {
		return c.w.ev
	}
	return c.start.nc
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
	holds  bool // the client is held until that is done

	settler *backend.Settler // of doPart
	acct    *session.Account
	shard   topology.ShardID
	params  []pgwire.Param
	pid     uint32
	secret  []byte
	job     func()
	brief   bool
	done    *sync.WaitGroup
}

// silence is how long a client says nothing until it is tried again to have a poller watch it.
const silence = 20 * time.Millisecond

type actionKind uint8

const (
	doRelease actionKind = iota + 1
	doDiscard
	doDrop // of a lease whose backend nobody has adopted
	doPart
	doCancel
	doCalm
	doCancelRequest
	doParameters
	doDedicate
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
	c.Close(session.MoreComes)
}

// unlock ends a step. own: on the goroutine that reads from the client, which may wait for its peers, in their turn. Everybody else has
// others to serve: the goroutine that reads from a backend must not wait for that server to read, nor, once the client has let go of the
// backend, for the client; while the client holds it, that the client does not read is to hold up its server.
func (c *Client) unlock(reader *Backend, own bool) {
	if c.over && c.sess.AwaitsClient() && !c.sess.Closed() {
		c.guard(c.sess.Gone)
	}
	c.settle()
	c.arm()
	if c.sess.WantsInput() {
		if c.start == nil {
			c.w.ev.resume()
		} else {
			c.start.room.Broadcast()
		}
	}
	s := step{
		reader: reader, ev: c.w.ev, begin: c.start, own: own, waits: own || reader != nil && reader.client.Load() == c,
		// By a poller, which has others to serve.
		polled: own && c.w.ev != nil || reader != nil && reader.ev != nil,
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
	case c.alarm == nil:
		if at != 0 {
			c.alarm = &alarm{}
			c.armAt(at)
		}
	case at == 0 && c.alarm.at == 0:
		c.alarm = nil
	case at != 0 && (c.alarm.at == 0 || c.alarm.at > at):
		c.armAt(at)
	}
}

// disarm drops a timer that is set to a deadline of the past, which would take memory until then.
func (c *Client) disarm() {
	if c.alarm != nil && c.sess.Deadline() == 0 {
		c.alarm.timer.Stop()
		c.alarm = nil
	}
}

func (c *Client) armAt(at int64) {
	c.alarm.at = at
	d := time.Duration(at - nanos())
	if c.alarm.timer == nil {
		c.alarm.timer = time.AfterFunc(d, c.tick)
	} else {
		c.alarm.timer.Reset(d)
	}
}

func (c *Client) tick() {
	c.step(func() {
		if c.alarm != nil {
			c.alarm.at = 0
		}
		c.sess.Tick()
	})
}

// helloBytes is what is read at once from a client that may ask for TLS, or say nothing at all.
const helloBytes = 512

// serve reads from the client until it is gone, or a poller does so: then it returns true.
func (c *Client) serve() (polled bool) {
	buf := make([]byte, helloBytes)
	greeted := false
	begin := c.start
	busy := false // somebody is writing to it, so that no poller can have it
	for {
		n, err := begin.nc.Read(buf)
		if busy && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			if c.move() {
				return true
			}
			if !c.waitsFor(silence) { // somebody is writing to it still
				break
			}
			continue
		}
		c.mu.Lock()
		c.now = nanos()
		if n > 0 && !c.sess.Closed() {
			c.input(buf[:n])
		}
		half := err == io.EOF && c.finishes() //nolint:errorlint // what ends a connection in TLS wraps it
		if err != nil && !half && !c.sess.Closed() {
			c.guard(c.sess.Gone)
		}
		handshake := begin.tls
		begin.tls = false
		c.unlock(nil, true)
		if handshake && err == nil {
			err = c.startTLS()
		}
		if err != nil && !half {
			break
		}
		c.mu.Lock()
		for (half || !c.sess.WantsInput()) && !c.sess.Closed() {
			c.g.present.watch(c)
			begin.room.Wait()
		}
		closed, ready := c.sess.Closed(), !c.sess.MayEncrypt()
		c.mu.Unlock()
		if closed {
			break
		}
		if ready && c.g.pollers != nil && bare(begin.nc) {
			if c.move() {
				return true
			}
			busy = true
			if !c.waitsFor(silence) {
				break
			}
		}
		if ready && !greeted {
			greeted = true
			held := c.g.buffers.Get().(*[]byte) //nolint:forcetypeassert // it holds nothing else
			defer c.g.buffers.Put(held)
			buf = *held
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

// move hands a client over to a poller, for good. It returns false where that can't be.
func (c *Client) move() bool {
	ps := c.g.pollers
	if ps == nil {
		return false
	}
	old := c.start.nc
	s := ps.take(old)
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
	c.start = nil
	c.disarm()
	if c.closing { // meanwhile; what was set ends the other
		s.SetWriteDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // it can't fail
	} else if !c.sess.WantsInput() {
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
	if c.sess.Closed() {
		c.drains(len(b))
		c.mu.Unlock()
		return
	}
	c.input(b)
	if !c.sess.WantsInput() && !c.sess.Closed() {
		c.w.ev.pause()
		c.g.present.watch(c)
	}
	c.unlock(nil, true)
}

// finished implements handler.
func (c *Client) finished() (stays bool) {
	c.mu.Lock()
	if !c.sess.Closed() && c.finishes() {
		c.mu.Unlock()
		return true
	}
	if !c.sess.Closed() {
		c.now = nanos()
		c.guard(c.sess.Gone)
	}
	c.unlock(nil, true)
	c.w.heardAll()
	return true // until it has read what it was sent
}

// finishes notes that the client says no more. It returns true while something that it has said is to be answered; c.mu is held.
func (c *Client) finishes() bool {
	c.over = !c.sess.Closed() && !c.sess.AwaitsClient()
	if c.over {
		c.g.present.watch(c)
	}
	return c.over
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

// offloaded is the end of a job of the session's.
func (c *Client) offloaded() {
	c.step(c.sess.Resume)
}

// left is the end of a client that is gone.
func (c *Client) left() {
	c.mu.Lock()
	if c.alarm != nil {
		c.alarm.timer.Stop()
	}
	pid := c.pid
	c.mu.Unlock()
	if pid != 0 {
		c.g.source.Unregister(c, pid)
	}
	if c.w.ev == nil {
		c.listenOn()
		c.w.closeAfter(false)
		c.w.finish() // who ended the session, or writes what was said before, may not have come to that yet
		c.w.abandon()
	} else {
		c.w.abandon()
		c.w.ev.Close() // it may be already
	}
	g := c.g
	g.mu.Lock()
	delete(g.clients, c)
	g.mu.Unlock()
	g.gone()
	g.running.Done()
}

// startTLS does the handshake.
func (c *Client) startTLS() error {
	c.w.flushAndWait()
	conn := tls.Server(c.start.nc, c.g.TLS())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the session's own deadline closes the socket earlier
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		c.step(func() {
			c.start.off = true
			c.sess.Gone()
		})
		return err
	}
	c.mu.Lock()
	c.start.nc = conn
	c.w.swap(conn)
	c.now = nanos()
	c.guard(func() { c.sess.TLSDone(conn.ConnectionState().ServerName) })
	c.unlock(nil, true)
	return nil
}

// Cancel cancels what the client's session runs: a cancel request with its key came. It returns when the server has handled it.
func (c *Client) Cancel() {
	var done sync.WaitGroup
	c.step(func() {
		c.sess.Cancel()
		if c.todo == nil {
			return
		}
		for i := range *c.todo {
			if a := &(*c.todo)[i]; a.kind == doCancel {
				done.Add(1)
				a.done = &done
			}
		}
	})
	done.Wait()
}

// Kill closes the client with an error.
func (c *Client) Kill(e *pgwire.Error, reason session.CloseReason) {
	c.step(func() { c.sess.Kill(e, reason) })
}

// Retire closes the client with an error once it has nothing under way.
func (c *Client) Retire(e *pgwire.Error, reason session.CloseReason) {
	c.step(func() { c.sess.Retire(e, reason) })
}

// ID names the client in log and console.
func (c *Client) ID() uint64 { return c.sess.ID }

var (
	errClosed = errors.New("the driver is closed")
	errBug    = errors.New("a bug was met")
	errSlow   = errors.New("what was left to finish took too long")
)
