package loop

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// pollBuffer is what a poller reads at once, in bytes.
const pollBuffer = 64 << 10

// Goroutines is the driver of net.Conn: two goroutines for a client at work, one for its input and one for its backend's answers.
type Goroutines struct {
	source          Source
	leftHook        func()
	log             *slog.Logger
	shared          atomic.Pointer[session.Shared]
	buffers         sync.Pool // of *[]byte, to read into
	rollbackTimeout time.Duration
	epoch           *atomic.Uint64 // see backend.Voice
	tls             atomic.Pointer[tls.Config]
	next            atomic.Uint64
	pollers         *pollers // nil = there are none
	labor           *labor   // nil, where there are none = goroutines do its work
	quick           quick
	restless        restless
	present         present

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	clients map[*Client]struct{}
}

// NewGoroutines returns a driver. Nothing runs until clients come.
func NewGoroutines(o Options) *Goroutines {
	g := &Goroutines{
		source: o.Source, leftHook: o.Left, log: o.Log, rollbackTimeout: time.Duration(o.RollbackTimeout),
		clients: make(map[*Client]struct{}), epoch: cmp.Or(o.Epoch, new(atomic.Uint64)),
	}
	g.present.unread = o.UnreadTimeout
	g.shared.Store(o.Shared)
	size := cmp.Or(o.ReadBuffer, 16<<10)
	g.buffers.New = func() any { b := make([]byte, size); return &b }
	if g.rollbackTimeout == 0 {
		g.rollbackTimeout = 5 * time.Second
	}
	if n := o.Pollers; n >= 0 {
		if n == 0 {
			n = defaultPollers()
		}
		ps, err := startPollers(n, o.Ring, g.log)
		if err == nil && n > 0 {
			if g.labor, err = newLabor(); err != nil {
				ps.close()
				ps = nil
			}
		}
		if err != nil && n > 0 {
			g.log.Warn("sockets are waited for by a goroutine each", "error", err)
		} else {
			g.pollers = ps
		}
	}
	return g
}

// startPollers starts n threads, with rings if that is wanted and can be had.
func startPollers(n int, ring bool, log *slog.Logger) (*pollers, error) {
	if ring && n > 0 {
		ps, err := newRingPollers(n, pollBuffer)
		if err == nil {
			return ps, nil
		}
		log.Info("sockets are waited for without io_uring", "error", err)
	}
	return newPollers(n, pollBuffer)
}

// SetTLS changes the configuration of handshakes with clients from now on.
func (g *Goroutines) SetTLS(c *tls.Config) { g.tls.Store(c) }

// SetShared changes what new clients find.
func (g *Goroutines) SetShared(sh *session.Shared) { g.shared.Store(sh) }

// TLS is today's configuration of handshakes with clients.
func (g *Goroutines) TLS() *tls.Config { return g.tls.Load() }

// start runs f in a goroutine that Wait waits for. It returns false once the driver is closed.
func (g *Goroutines) start(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running.Go(f)
	return true
}

// enter counts a connection that Wait waits for. It returns false once the driver is closed.
func (g *Goroutines) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running.Add(1)
	return true
}

// spawn runs f in a goroutine of short life; when the driver is closed already, f runs here.
func (g *Goroutines) spawn(f func()) {
	if !g.start(f) {
		f()
	}
}

// work has a brief job done, by this goroutine when the driver is closed already.
func (g *Goroutines) work(job func()) {
	if g.labor == nil {
		g.spawn(job)
		return
	}
	if !g.enter() {
		job()
		return
	}
	g.labor.do(func() {
		defer g.running.Done()
		job()
	})
}

// Serve runs a client connection, until its end or until a poller has it.
func (g *Goroutines) Serve(nc net.Conn, name string, refusal *pgwire.Error) {
	if run := g.Take(nc, name, refusal); run != nil {
		run()
	}
}

// Take begins with a client connection, which it owns from now on. With a refusal, which is FATAL, nobody logs in. It returns what runs the
// connection until its end, nil if nothing has to.
func (g *Goroutines) Take(nc net.Conn, name string, refusal *pgwire.Error) (run func()) {
	shared := g.shared.Load()
	if shared.TLS { // a handshake needs more than a descriptor
		known, err := known(nc)
		if err != nil {
			g.log.Error("client not served", "client", name, "error", err)
			g.gone()
			return nil
		}
		nc = known
	}
	c := &Client{g: g, start: &start{nc: nc}}
	c.w.init(nc)
	c.start.room.L = &c.mu
	c.now = nanos()
	c.sess = session.New(shared, c, g.next.Add(1), name)
	if refusal != nil {
		c.sess.Refuse(refusal)
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		nc.Close()
		g.gone()
		return nil
	}
	g.clients[c] = struct{}{}
	g.running.Add(1)
	g.mu.Unlock()
	c.step(func() {})
	c.mu.Lock()
	bare := !c.sess.MayEncrypt()
	c.mu.Unlock()
	if bare && c.move() {
		return nil
	}
	return func() {
		if !c.serve() { // else a poller goes on
			c.left()
		}
	}
}

// gone tells that a client has left.
func (g *Goroutines) gone() {
	if g.leftHook != nil {
		g.leftHook()
	}
}

// Clients returns the clients of this moment.
func (g *Goroutines) Clients() []*Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*Client, 0, len(g.clients))
	for c := range g.clients {
		list = append(list, c)
	}
	return list
}

// Len is the number of clients.
func (g *Goroutines) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.clients)
}

// Drain closes clients as they become idle, until none is left or ctx is done; then it closes the rest.
func (g *Goroutines) Drain(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		left, force := 0, ctx.Err() != nil // asked once: who was spared is looked at again
		for _, c := range g.Clients() {
			if !c.drain(force) {
				left++
			}
		}
		if left == 0 || force {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// drain closes the client if it is idle, or by force.
func (c *Client) drain(force bool) bool {
	done := false
	c.step(func() {
		if force || c.sess.Idle() {
			c.sess.Kill(session.ErrShutdown, session.CloseShutdown)
			done = true
		}
	})
	if force {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endsBy(time.Second)
	}
	return done
}

// Wait waits until every goroutine of the driver has ended; the backends must be closed. Nothing can be started afterwards. Clients that
// came while the others were drained are closed.
func (g *Goroutines) Wait() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	for _, c := range g.Clients() {
		c.drain(true)
	}
	g.running.Wait()
	if g.labor != nil {
		g.labor.close()
	}
	if g.pollers != nil {
		g.pollers.close()
	}
}
