package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Memory drives sessions and backends without sockets, goroutines or a clock: everything that may happen next stands in a
// list, and a seeded generator picks. Equal seeds and actors give equal runs, so that any interleaving of clients, servers, faults and
// time can be replayed. It is for tests, and belongs to one goroutine.
type Memory struct {
	// Faults is the chance, in a thousand, that a step breaks something: a connection, a server, an attempt to connect.
	Faults int
	// Trace, if set, hears of every step.
	Trace func(format string, args ...any)
	// Ready, if set, is the shard that any shard means; else it is drawn.
	Ready func() topology.ShardID
	// Lent, if set, hears of every backend that a session is given, before it uses it.
	Lent func(c *MemoryClient, b *MemoryBackend)

	rnd     *rand.Rand
	now     int64
	sh      *session.Shared
	pools   []*pool.Pool[*MemoryBackend] // by shard
	servers []func() MemoryServer
	clients []*MemoryClient
	backs   []*MemoryBackend
	tasks   []func()
	pid     uint32
	next    uint64
}

// MemoryServer is a model of a PostgreSQL connection after its login: bytes in, bytes out; closed ends it.
type MemoryServer interface {
	Receive(b []byte) (out []byte, closed bool)
	Cancel()
	Login() *backend.Login
}

// MemoryActor is a model of an application: it is given what the pooler sent and says what it sends next; done ends the connection.
type MemoryActor interface {
	Receive(b []byte) (out []byte, done bool)
	// Closed tells that the pooler closed the connection, or that the network did (broken).
	Closed(broken bool)
}

// NewMemory returns a driver over the given shards; each shard's function makes the server side of a new connection.
func NewMemory(seed uint64, sh *session.Shared, settings pool.Settings, servers []func() MemoryServer) *Memory {
	m := &Memory{rnd: rand.New(rand.NewPCG(seed, 1)), sh: sh, servers: servers, now: 1} //nolint:gosec // replayable on purpose
	for i := range servers {
		shard := topology.ShardID(i)
		m.pools = append(m.pools, pool.New(pool.Options{
			Settings: settings, Name: fmt.Sprintf("shard %d", i),
			Now:  m.time,
			Go:   func(f func()) { m.tasks = append(m.tasks, f) },
			Rand: m.rnd.Float64,
		}, pool.Hooks[*MemoryBackend]{
			Open:  func(context.Context) (*MemoryBackend, error) { return m.open(shard) },
			Close: func(b *MemoryBackend, _ pool.Reason) { b.closed = true },
			Check: func(_ context.Context, b *MemoryBackend) error {
				if b.closed || b.broken {
					return backend.ErrServerClosed
				}
				return nil
			},
		}))
	}
	return m
}

func (m *Memory) time() time.Time { return time.Unix(0, m.now) }

var errRefused = errors.New("connection refused")

func (m *Memory) open(shard topology.ShardID) (*MemoryBackend, error) {
	if m.fault() {
		return nil, errRefused
	}
	s := m.servers[shard]()
	b := &MemoryBackend{m: m, server: s, Conn: backend.New(s.Login(), 1<<30)}
	b.Conn.Shard = shard
	b.Conn.Link = b
	m.backs = append(m.backs, b)
	return b, nil
}

func (m *Memory) fault() bool { return m.Faults > 0 && m.rnd.IntN(1000) < m.Faults }

// Connect adds a client.
func (m *Memory) Connect(a MemoryActor) *MemoryClient {
	m.next++
	c := &MemoryClient{m: m, actor: a}
	c.sess = session.New(m.sh, c, m.next, fmt.Sprintf("client-%d", m.next))
	m.clients = append(m.clients, c)
	out, done := a.Receive(nil)
	c.toSession = append(c.toSession, out...)
	c.leaving = done
	return c
}

// Now is the model's time, in nanoseconds.
func (m *Memory) Now() int64 { return m.now }

// Advance moves the time, and tells everybody whose deadline has come.
func (m *Memory) Advance(d time.Duration) {
	m.now += int64(d)
	for _, c := range m.clients {
		if at := c.sess.Deadline(); at != 0 && at <= m.now && !c.ended {
			c.sess.Tick()
		}
	}
	for _, b := range m.backs {
		if b.settler != nil && b.patience <= m.now {
			b.broken, b.toConn = true, nil
		}
	}
	for _, p := range m.pools {
		p.Tick()
	}
}

// settleTimeout is how long a backend that nobody holds may take to finish what was left.
const settleTimeout = 5 * time.Second

// Step does one thing that may happen next. It returns false when nothing is left to happen but the passing of time.
func (m *Memory) Step() bool {
	type event struct {
		name string
		run  func()
	}
	var events []event
	add := func(name string, run func()) { events = append(events, event{name, run}) }
	for i := range m.tasks {
		add("task", func() {
			f := m.tasks[i]
			m.tasks = slices.Delete(m.tasks, i, i+1)
			f()
		})
		break // background work starts in order
	}
	for _, c := range m.clients {
		if len(c.toSession) > 0 && c.sess.WantsInput() && !c.ended {
			add("input", c.deliver)
		}
		if c.sess.Yielded() && len(c.toActor) == 0 {
			add("continue", c.sess.Continue)
		}
		if len(c.toActor) > 0 {
			add("output", c.receive)
		}
		if c.leaving && len(c.toSession) == 0 && !c.ended {
			add("gone", func() { c.end(false) })
		}
		if c.closing && len(c.toActor) == 0 && !c.told {
			add("closed", func() { c.told = true; c.actor.Closed(c.broken) })
		}
		if len(c.jobs) > 0 {
			add("job", func() {
				j := c.jobs[0]
				c.jobs = c.jobs[1:]
				j()
				c.sess.Resume()
			})
		}
	}
	for _, b := range m.backs {
		if len(b.toServer) > 0 && !b.broken {
			add("request", b.request)
		}
		if len(b.toConn) > 0 && !b.closed {
			add("answer", b.answer)
		}
		if b.broken && len(b.toConn) == 0 && !b.noticed {
			add("lost", b.lost)
		}
	}
	if len(events) == 0 {
		return false
	}
	m.now += 1000
	if m.fault() {
		m.breakSomething()
	}
	e := events[m.rnd.IntN(len(events))]
	if m.Trace != nil {
		m.Trace("%s", e.name)
	}
	e.run()
	for _, c := range m.clients {
		c.sess.Rest()
	}
	m.backs = slices.DeleteFunc(m.backs, func(b *MemoryBackend) bool { return b.closed })
	m.clients = slices.DeleteFunc(m.clients, func(c *MemoryClient) bool { return c.ended && c.told })
	return true
}

func (m *Memory) breakSomething() {
	if m.rnd.IntN(2) == 0 && len(m.clients) > 0 {
		c := m.clients[m.rnd.IntN(len(m.clients))]
		if !c.ended {
			c.end(true)
		}
		return
	}
	if len(m.backs) > 0 {
		b := m.backs[m.rnd.IntN(len(m.backs))]
		b.broken = true
		b.toConn = b.toConn[:m.rnd.IntN(len(b.toConn)+1)] // the answer is cut anywhere
	}
}

// Clients and Backends are how many there are.
func (m *Memory) Clients() int { return len(m.clients) }

// Pool is a shard's.
func (m *Memory) Pool(shard topology.ShardID) *pool.Pool[*MemoryBackend] { return m.pools[shard] }

// MemoryClient is a client connection of a Memory.
type MemoryClient struct {
	m     *Memory
	actor MemoryActor
	sess  *session.Session

	toSession, toActor             []byte
	jobs                           []func()
	wait                           *memoryWaiter
	pid                            uint32
	secret                         []byte
	leaving, closing, broken, told bool
	ended                          bool
}

// Session is the client's.
func (c *MemoryClient) Session() *session.Session { return c.sess }

// deliver gives the session some of what the client sent: cut anywhere.
func (c *MemoryClient) deliver() {
	if len(c.toSession) == 0 {
		return // a fault took it
	}
	n := 1 + c.m.rnd.IntN(len(c.toSession))
	b := slices.Clone(c.toSession[:n])
	c.toSession = c.toSession[n:]
	c.sess.Input(b)
	for i := range b {
		b[i] = 0xEE // whoever kept it is found out
	}
}

func (c *MemoryClient) receive() {
	if len(c.toActor) == 0 {
		return // a fault took it
	}
	n := 1 + c.m.rnd.IntN(len(c.toActor))
	b := slices.Clone(c.toActor[:n])
	c.toActor = c.toActor[n:]
	out, done := c.actor.Receive(b)
	if !c.ended {
		c.toSession = append(c.toSession, out...)
		c.leaving = c.leaving || done
	}
}

// end is the client's end of the connection.
func (c *MemoryClient) end(broken bool) {
	c.broken = broken
	c.toSession = nil
	c.sess.Gone()
	c.ended, c.closing = true, true
	if broken {
		c.toActor = nil
	}
}

// Now implements session.Driver.
func (c *MemoryClient) Now() int64 { return c.m.now }

// ToClient implements session.Driver.
func (c *MemoryClient) ToClient(b []byte) { c.toActor = append(c.toActor, b...) }

// ToBackend implements session.Driver.
func (c *MemoryClient) ToBackend(conn *backend.Conn, data []byte) {
	b := c.held(conn)
	b.toServer = append(b.toServer, data...)
}

// Checkout implements session.Driver.
func (c *MemoryClient) Checkout(_ *session.Account, shard topology.ShardID, mark uint64) *backend.Conn {
	switch {
	case shard != session.AnyShard:
	case c.m.Ready != nil:
		shard = c.m.Ready()
	default:
		shard = topology.ShardID(c.m.rnd.IntN(len(c.m.pools))) //nolint:gosec // few shards
	}
	for {
		l := c.m.pools[shard].TryCheckoutAt(mark, pool.NowBy(c.m.time))
		if l == nil {
			break
		}
		if b := l.Conn(); !b.broken {
			c.hold(b, l)
			return b.Conn
		}
		l.Discard(pool.ReasonGone)
	}
	w := &memoryWaiter{c: c, p: c.m.pools[shard]}
	w.w.To, w.w.Mark = w, mark
	c.wait = w
	c.m.tasks = append(c.m.tasks, func() {
		if !w.gone {
			w.p.Checkout(&w.w)
		}
	})
	return nil
}

// hold gives a backend to the client's session.
func (c *MemoryClient) hold(b *MemoryBackend, l *pool.Lease[*MemoryBackend]) {
	if b.client != nil || b.settler != nil || b.discarded {
		panic("a backend is lent that is not free")
	}
	b.client, b.lease = c, l
	if c.m.Lent != nil {
		c.m.Lent(c, b)
	}
}

// held is the backend of conn, which the client's session must hold.
func (c *MemoryClient) held(conn *backend.Conn) *MemoryBackend {
	b := conn.Link.(*MemoryBackend)
	if b.client != c {
		panic("a session uses a backend that it does not hold")
	}
	return b
}

type memoryWaiter struct {
	c    *MemoryClient
	p    *pool.Pool[*MemoryBackend]
	w    pool.Waiter[*MemoryBackend]
	gone bool
}

// Granted implements pool.Granter.
func (w *memoryWaiter) Granted(l *pool.Lease[*MemoryBackend]) {
	c := w.c
	// What the pool hands over inside of somebody else's step is taken up in a step of its own.
	c.m.tasks = append(c.m.tasks, func() {
		b := l.Conn()
		switch {
		case w.gone || c.wait != w:
			l.Release()
		case b.broken:
			l.Discard(pool.ReasonGone)
			w.p.Checkout(&w.w)
		default:
			c.wait = nil
			c.hold(b, l)
			c.sess.Granted(b.Conn)
		}
	})
}

// CheckoutFailed implements pool.Granter.
func (w *memoryWaiter) CheckoutFailed(err error) {
	c := w.c
	c.m.tasks = append(c.m.tasks, func() {
		if w.gone || c.wait != w {
			return
		}
		c.wait = nil
		code, routine := pgwire.CodeConnectionFailure, "shard_unavailable"
		if errors.Is(err, pool.ErrCheckoutTimeout) {
			code, routine = pgwire.CodeTooManyConnections, "pool_exhausted"
		}
		c.sess.CheckoutFailed(pgwire.Errorf(code, "no backend").WithRoutine(routine))
	})
}

// Dedicate implements session.Driver: there is no such thing.
func (c *MemoryClient) Dedicate(*session.Account, topology.ShardID, []pgwire.Param) {
	c.m.tasks = append(c.m.tasks, func() { c.sess.CheckoutFailed(errNoServer) })
}

// Ear implements session.Driver.
func (c *MemoryClient) Ear(*session.Account) session.Ear { return new(memoryEar) }

// Withdraw implements session.Driver.
func (c *MemoryClient) Withdraw() {
	if w := c.wait; w != nil {
		c.wait = nil
		w.gone = true
		w.p.Withdraw(&w.w)
	}
}

// Release implements session.Driver.
func (c *MemoryClient) Release(conn *backend.Conn) {
	b := c.held(conn)
	b.client = nil
	b.lease.Mark(conn.Have.Mark())
	c.m.tasks = append(c.m.tasks, func() { b.lease.Release() })
}

// Discard implements session.Driver.
func (c *MemoryClient) Discard(conn *backend.Conn, reason string) {
	b := c.held(conn)
	b.client, b.discarded = nil, true
	c.unheard(b)
	c.m.tasks = append(c.m.tasks, func() { b.lease.Discard(pool.Reason(reason)) })
}

// unheard has the server of a backend that c has let go say something at this very moment: with threads it is handled beside the session's step.
func (c *MemoryClient) unheard(b *MemoryBackend) {
	n := len(c.toActor)
	if !b.answering {
		b.Conn.Feed(pgwire.AppendNoticeResponse(nil, pgwire.Errorf("00000", "beside"))) //nolint:errcheck // it may come in the middle of a message
	}
	if len(c.toActor) != n {
		panic("a session hears of a backend that it has let go")
	}
}

// Part implements session.Driver.
func (c *MemoryClient) Part(conn *backend.Conn, clean bool) {
	b := c.held(conn)
	b.client = nil
	b.settler = backend.NewSettler(conn, clean)
	b.patience = c.m.now + int64(settleTimeout)
}

// CancelBackend implements session.Driver.
func (c *MemoryClient) CancelBackend(conn *backend.Conn) {
	b := c.held(conn)
	c.m.tasks = append(c.m.tasks, func() {
		if !b.closed && !b.broken {
			b.server.Cancel()
		}
	})
}

// Calm implements session.Driver: tasks are done in order, so that the cancel requests are behind it.
func (c *MemoryClient) Calm(conn *backend.Conn) {
	b := c.held(conn)
	b.client = nil
	c.m.tasks = append(c.m.tasks, func() {
		if b.noticed || b.broken {
			b.discarded = true
			b.lease.Discard(pool.ReasonGone)
			return
		}
		b.settler = backend.NewCalmer(b.Conn)
		b.patience = c.m.now + int64(settleTimeout)
		b.toServer = exec.Internal(b.toServer, b.Conn, exec.RefSettle, ";")
	})
}

// CancelRequest implements session.Driver.
func (c *MemoryClient) CancelRequest(pid uint32, secret []byte) {
	secret = slices.Clone(secret)
	c.m.tasks = append(c.m.tasks, func() {
		for _, o := range c.m.clients {
			if o.pid == pid && bytes.Equal(o.secret, secret) && !o.ended {
				o.sess.Cancel()
			}
		}
		c.m.tasks = append(c.m.tasks, c.sess.CancelDone) // behind the server's being told
	})
}

// Register implements session.Driver.
func (c *MemoryClient) Register(n int) (pid uint32, secret []byte) {
	c.m.pid++
	c.pid, c.secret = c.m.pid, make([]byte, n)
	for i := range c.secret {
		c.secret[i] = byte(c.m.rnd.IntN(256)) //nolint:gosec // fits
	}
	return c.pid, c.secret
}

// StartTLS implements session.Driver: there is nothing to hide from.
func (c *MemoryClient) StartTLS() { c.m.tasks = append(c.m.tasks, func() { c.sess.TLSDone("") }) }

// Offload implements session.Driver.
func (c *MemoryClient) Offload(job func(), kind session.Job) bool {
	if kind != session.Waits && c.m.rnd.IntN(2) == 0 {
		job()
		return true
	}
	c.jobs = append(c.jobs, job)
	return false
}

// Quick implements session.Driver.
func (c *MemoryClient) Quick(job func()) bool {
	if c.m.rnd.IntN(2) == 0 {
		return false
	}
	job()
	return true
}

// Parameters implements session.Driver.
func (c *MemoryClient) Parameters(*session.Account) {
	c.m.tasks = append(c.m.tasks, c.sess.ParametersKnown)
}

// Close implements session.Driver.
func (c *MemoryClient) Close(session.More) { c.closing, c.ended = true, true }

var _ session.Driver = (*MemoryClient)(nil)
