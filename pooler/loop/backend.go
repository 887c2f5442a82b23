package loop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// Backend is one server connection under the goroutine driver: a goroutine that reads and steps its machine, with the lock of the
// client whose session holds it, or its own when nobody does.
type Backend struct {
	// Conn is the machine.
	Conn *backend.Conn
	// Owner of the pool it came from: the source's.
	Owner any

	g  *Goroutines
	nc net.Conn
	ev *socket // nc, if a poller watches it
	w  writer

	client atomic.Pointer[Client] // who holds it; nil = nobody
	lease  *pool.Lease[*Backend]  // its holder's; guarded as Conn

	mu      sync.Mutex // guards below, and Conn while nobody holds it
	dead    error
	settler *backend.Settler
	settled chan struct{} // closed when settler is done
	gone    chan struct{} // closed when nothing is read any more; nil = nobody asks
	parter  *Client       // said goodbye to it, and is held until it is done or closed; nil = nobody
	timer   *time.Timer
	cancels int  // cancel requests to its server that are under way
	astray  bool // what became of one is not known
	calms   bool // it is to be calmed behind them

	impatience *time.Timer // until they have taken too long, while calms
}

// NewBackend takes over a connection that has logged in. Its socket is read from now on, by a goroutine that ends with the socket.
func (g *Goroutines) NewBackend(nc net.Conn, conn *backend.Conn, owner any) (*Backend, error) {
	b := &Backend{Conn: conn, Owner: owner, g: g, nc: nc}
	conn.Link = b
	b.w.init(nc)
	b.w.more.keeps = true
	if g.pollers != nil {
		if s := g.pollers.take(nc); s != nil {
			nc.Close()
			if !g.enter() {
				s.abandon()
				return nil, errClosed
			}
			b.nc, b.ev = s, s
			s.serve(b, &b.w)
			b.w.watch(s) // nobody writes yet
			s.start()
			return b, nil
		}
	}
	if !g.start(b.read) {
		nc.Close()
		return nil, errClosed
	}
	return b, nil
}

// received implements handler.
func (b *Backend) received(data []byte) {
	if b.fed(data, nil) {
		b.ev.pause() // it is broken, and will be closed
	}
}

// finished implements handler: a server that says no more is of no use.
func (b *Backend) finished() bool { return false }

// ended implements handler.
func (b *Backend) ended(err error) {
	b.w.abandon() // before its end is known: who waits for room may hold what is needed for that
	b.fed(nil, errors.Join(backend.ErrServerClosed, err))
	b.g.running.Done()
}

// adopt gives the backend to c, whose lock is held. It returns false if its server is gone.
func (b *Backend) adopt(c *Client, l *pool.Lease[*Backend]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead != nil {
		return false
	}
	b.lease = l
	b.client.Store(c)
	b.Conn.Voice.Lend(c.pid, c.g.epoch)
	return true
}

// leave takes the backend from c, whose lock is held. All that was sent is staged. That either of them is slow to read is nothing to the other
// any more.
func (b *Backend) leave(c *Client) {
	b.mu.Lock()
	b.client.Store(nil)
	b.mu.Unlock()
	if b.ev != nil && b.ev.isHeld() {
		c.w.letGo(b.ev)
	}
	if c.w.ev != nil && c.w.ev.isHeld() {
		b.w.letGo(c.w.ev)
	}
}

// Lease is the backend's place in its pool, as its last holder had it.
func (b *Backend) Lease() *pool.Lease[*Backend] { return b.lease }

// read steps the machine with what the server sends, until the socket ends.
func (b *Backend) read() {
	held := b.g.buffers.Get().(*[]byte) //nolint:forcetypeassert // it holds nothing else
	defer b.g.buffers.Put(held)
	defer b.w.abandon()
	buf := *held
	for {
		n, err := b.nc.Read(buf)
		if err != nil && n == 0 {
			err = errors.Join(backend.ErrServerClosed, err)
		}
		if b.fed(buf[:n], err) {
			return
		}
	}
}

// fed steps the machine once, with the right lock. It returns true at the end.
func (b *Backend) fed(data []byte, err error) bool {
	for {
		c := b.client.Load()
		if c == nil {
			b.mu.Lock()
			if b.client.Load() != nil { // it was lent meanwhile
				b.mu.Unlock()
				continue
			}
			return b.fedAlone(data, err)
		}
		c.mu.Lock()
		if b.client.Load() != c {
			c.mu.Unlock()
			continue
		}
		c.now = nanos()
		err = b.feed(c, data, err)
		c.unlock(b, false)
		return err != nil
	}
}

// feed steps the machine, and the session of c with it; c's lock is held.
func (b *Backend) feed(c *Client, data []byte, err error) error {
	defer c.caught()
	if len(data) > 0 {
		b.g.source.Traffic(b, len(data), 0, c.now)
		if e := b.Conn.Feed(data); e != nil {
			err = e
		}
	}
	if err != nil {
		b.lost(c, err)
	}
	return err
}

// lost ends a backend that broke while c held it; c's lock is held.
func (b *Backend) lost(c *Client, err error) {
	b.mu.Lock()
	b.dead = err
	b.mu.Unlock()
	if b.client.Load() != c { // it was let go in the very step that broke it
		if b.unsettle() {
			c.later(action{kind: doDiscard, b: b, reason: string(pool.ReasonGone), err: err})
		}
		return
	}
	if c.sending == b {
		b.w.forget()
		c.sending = nil
	}
	b.leave(c)
	c.later(action{kind: doDiscard, b: b, reason: string(pool.ReasonGone), err: err})
	c.sess.Lost(err)
}

// unsettle gives up what was to be finished, which nobody will hear the end of. It reports whether there was something.
func (b *Backend) unsettle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settler == nil {
		return false
	}
	b.settler = nil
	return true
}

// fedAlone steps a machine that nobody holds; b.mu is held, and released.
func (b *Backend) fedAlone(data []byte, err error) bool {
	err = b.feedAlone(data, err)
	settler := b.settler
	if err != nil {
		b.dead = err
		if b.gone != nil {
			close(b.gone)
			b.gone = nil
		}
	}
	done := settler != nil && (err != nil || settler.Settled())
	var wake chan struct{}
	if done {
		b.settler = nil
		wake, b.settled = b.settled, nil
		b.Conn.Own(nil)
		if b.timer != nil {
			b.timer.Stop()
			b.timer = nil
		}
	}
	lease, mark, late := b.lease, b.Conn.Have.Mark(), b.dead != nil && err == nil // it was given up before this
	var echo func(<-chan struct{}) *pgwire.Error
	if done && wake == nil {
		echo = b.Conn.Echo()
	}
	reusable := done && err == nil && settler.Reusable() && !late
	var parter *Client
	if reusable { // else it is closed first
		parter, b.parter = b.parter, nil
	}
	b.mu.Unlock()
	defer b.caught()
	if parter != nil {
		defer parter.freed()
	}
	switch {
	case done && wake != nil: // a health check: who asked goes on
		close(wake)
	case reusable:
		lease.Mark(mark)
		if echo == nil {
			lease.Release()
			break
		}
		b.g.spawn(func() {
			_ = echo(nil) // whatever became of those who listen
			lease.Release()
		})
	case done:
		lease.Discard(reasonOf(err, b.Conn))
	case err != nil && lease != nil:
		lease.Pool().Expire(lease, pool.ReasonGone)
	}
	return err != nil
}

// feedAlone feeds the machine; a panic in it ends this backend, and nothing else.
func (b *Backend) feedAlone(data []byte, err error) (end error) {
	defer func() {
		if r := recover(); r != nil {
			b.bug(r)
			end = errBug
		}
	}()
	if len(data) > 0 {
		b.g.source.Traffic(b, len(data), 0, nanos())
		if e := b.Conn.Feed(data); e != nil {
			err = e
		}
	}
	return err
}

// caught is deferred around what is done for a backend that nobody holds.
func (b *Backend) caught() {
	if r := recover(); r != nil {
		b.bug(r)
		b.Interrupt()
	}
}

func (b *Backend) bug(r any) {
	b.g.log.Error("bug: a server connection was ended", "backend_pid", b.Conn.PID, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
}

func reasonOf(err error, c *backend.Conn) pool.Reason {
	if err != nil {
		return pool.ReasonGone
	}
	if t := c.Tainted(); t != 0 {
		return pool.Reason(t.First())
	}
	return pool.Reason(backend.TaintProtocol.First())
}

// settle lets a parted backend finish by itself, for a time.
func (b *Backend) settle(limit time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settler == nil {
		return // done already
	}
	if b.timer != nil { // of the one that let go of it before
		b.timer.Stop()
	}
	settler := b.settler
	b.timer = time.AfterFunc(limit, func() { b.unsettled(settler) })
}

// unsettled breaks a backend that has not finished in time what settler is for. Once it has, it may be somebody else's.
func (b *Backend) unsettled(settler *backend.Settler) {
	b.mu.Lock()
	same := b.settler == settler
	if same && b.dead == nil {
		b.dead = errSlow
	}
	b.mu.Unlock()
	if same {
		b.Interrupt()
	}
}

// parts has c held until the backend, which it has let go of, has done what settler is for, or with none is closed.
func (b *Backend) parts(c *Client, settler *backend.Settler) {
	b.mu.Lock()
	held := b.dead == nil && b.settler == settler
	if held {
		b.parter = c
	}
	b.mu.Unlock()
	if !held {
		c.freed()
	}
}

// Interrupt breaks the connection: its reader notices, and whoever holds it is told.
func (b *Backend) Interrupt() { b.nc.Close() }

// Close closes the socket, with a Terminate if the server can be expected to read it as such: it has got everything else, and awaits something. A client
// that is held is closed when the server has closed its end, for which Close does not wait.
func (b *Backend) Close() { b.CloseWithin(0) }

// CloseWithin is Close, and waits, but not for longer than limit, until the server has closed its end: then its process counts no more.
func (b *Backend) CloseWithin(limit time.Duration) {
	b.mu.Lock()
	parter := b.parter
	b.parter = nil
	awaits := b.dead == nil && b.Conn.Pending() == 0 && !b.Conn.Piped()
	var gone chan struct{}
	if awaits && limit > 0 || b.dead == nil && parter != nil {
		gone = make(chan struct{})
		b.gone = gone
	}
	b.mu.Unlock()
	switch {
	case awaits:
		if b.ev == nil {
			b.nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) //nolint:errcheck // the write fails then
		}
		b.w.terminate([]byte{'X', 0, 0, 0, 4})
	case gone != nil:
		closeHalf(bareOf(b.nc)) // the server ends when it has read that
	}
	end := func(limit time.Duration) {
		if gone != nil {
			timer := time.NewTimer(limit)
			select {
			case <-gone:
			case <-timer.C:
			}
			timer.Stop()
		}
		b.nc.Close()
		if parter != nil {
			parter.freed()
		}
	}
	if gone != nil && limit == 0 {
		b.g.spawn(func() { end(closeTimeout) })
		return
	}
	end(limit)
}

// Alive reports whether an idle backend's server has not closed it.
func (b *Backend) Alive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead == nil
}

// Check asks an idle backend for an answer.
func (b *Backend) Check(ctx context.Context) error {
	b.mu.Lock()
	if b.dead != nil {
		defer b.mu.Unlock()
		return b.dead
	}
	out := exec.Internal(nil, b.Conn, exec.RefSettle, ";")
	settler := backend.NewSettler(b.Conn, false)
	b.settler = settler
	done := make(chan struct{})
	b.settled = done
	b.g.source.Traffic(b, 0, len(out), nanos())
	b.w.append(out)
	b.w.stage()
	b.mu.Unlock()
	stop := context.AfterFunc(ctx, b.Interrupt)
	defer stop()
	b.w.flushAndWait()
	<-done
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead != nil {
		return errors.Join(context.Cause(ctx), b.dead)
	}
	if !settler.Reusable() {
		return backend.ErrProtocol
	}
	return nil
}
