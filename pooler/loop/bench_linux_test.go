package loop

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/topology"

	"github.com/pgkennel/pgkennel/tenant"
)

// bench is clients and backends whose sockets are /dev/null: what is measured is everything but the kernel's share.
type bench struct {
	b     testing.TB
	g     *Goroutines
	acct  *session.Account
	cl    *cluster.Cluster[*Backend]
	login *cluster.Login
	null  int
	// bound, if set, are the accounts of clients in turn, instead of acct.
	bound []*session.Account
	// sent counts the contexts that were sent.
	sent atomic.Int64
	// wire, if set, makes the sockets of backends, which are real then.
	wire func() net.Conn
	// closed, if set, hears of each backend that its pool closes.
	closed atomic.Pointer[func(b *Backend)]
}

func (s *bench) TryCheckout(_ *session.Account, _ *auth.ClientCredential, shard topology.ShardID, mark uint64, now pool.Instant) *pool.Lease[*Backend] {
	return s.cl.TryCheckout(shard, topology.Primary, s.login, mark, now)
}

func (s *bench) Checkout(_ *session.Account, _ *auth.ClientCredential, shard topology.ShardID, w *cluster.Waiter[*Backend]) {
	s.cl.Checkout(shard, topology.Primary, s.login, w)
}

func (s *bench) Discard(b *Backend, reason pool.Reason, err error) {
	if s.wire != nil {
		s.cl.Discard(b.Lease(), reason, err)
		return
	}
	s.b.Fatal("discard: ", reason, " ", err)
}

func (*bench) Parameters(*session.Account, *auth.ClientCredential) *pgwire.Error { return nil }
func (*bench) Dedicate(*session.Account, *auth.ClientCredential, topology.ShardID, []pgwire.Param) (*Backend, *pgwire.Error) {
	return nil, errNoServer
}
func (*bench) Cancel(*Backend) bool                         { return true }
func (*bench) CancelRequest(uint32, []byte)                 {}
func (*bench) Register(*Client, int) (pid uint32, _ []byte) { return 1, make([]byte, 4) }

func (*bench) Ear(*session.Account, *auth.ClientCredential, *Client, uint32) session.Ear { return nil }

func (*bench) Unregister(*Client, uint32)        {}
func (*bench) Traffic(*Backend, int, int, int64) {}

// newBench returns a driver for two shards with n backends each.
func newBench(b testing.TB, n int) *bench {
	b.Helper()
	null, err := syscall.Open("/dev/null", syscall.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { syscall.Close(null) })
	s := &bench{b: b, null: null}
	s.acct = &session.Account{
		User: "app", Database: "prod", ServerUser: "app", Credential: auth.NewCredential(auth.PlainPassword("x")),
		Cluster: modelCluster{modelRouter(b, 2), 2, judge.NewBook(new(judge.Changes))}, Statements: true,
	}
	sh := &session.Shared{
		Log: slog.New(slog.DiscardHandler), Observer: nobody{}, Cache: parser.NewCache(1 << 20),
		Registry: state.NewRegistry(), Code: new(judge.Changes), Probes: session.NewProbes(), Descriptions: session.NewDescriptions(), Method: auth.MethodTrust, Auth: &auth.ServerOptions{},
		MaxMessage: 1 << 20, MaxBatch: 1 << 20, Statements: 1 << 20,
		Accounts: func(tenant.Asked) (*session.Account, tenant.Refusal) {
			if n := len(s.bound); n > 0 {
				return s.bound[int(s.g.next.Load())%n], tenant.Welcome
			}
			return s.acct, tenant.Welcome
		},
	}
	s.g = NewGoroutines(Options{Source: s, Shared: sh, Log: sh.Log, Pollers: -1})
	at := func(port int) []cluster.Endpoint {
		return []cluster.Endpoint{{
			Role: topology.Primary, Address: backend.Address{Host: "127.0.0.1", Port: port}, Database: "db", Pool: pool.Settings{Max: n},
		}}
	}
	s.login = cluster.NewLogin(cluster.LoginOptions{User: "app", Identity: "app"})
	s.cl = cluster.New(cluster.Options{Shards: [][]cluster.Endpoint{at(1), at(2)}}, cluster.Hooks[*Backend]{
		Dial: func(context.Context, backend.DialOptions) (*backend.Login, error) {
			return &backend.Login{PID: 1, Params: modelParams}, nil
		},
		Adopt: func(l *backend.Login, _ backend.DialOptions, info cluster.PoolInfo) (*Backend, error) {
			if s.wire != nil {
				conn := backend.New(l, 1<<20)
				conn.Shard = info.Shard
				conn.Statements.MaxCount, conn.Statements.MaxBytes = 100, 1<<20
				return s.g.NewBackend(s.wire(), conn, nil)
			}
			x := &Backend{Conn: backend.New(l, 1<<20), g: s.g, ev: s.socket()}
			x.Conn.Shard, x.Conn.Audience, x.Conn.Voice.Epoch = info.Shard, new(notify.Audience), new(atomic.Uint64)
			x.Conn.Statements.MaxCount, x.Conn.Statements.MaxBytes = 100, 1<<20
			x.Conn.Link = x
			x.nc = x.ev
			x.w.init(x.ev)
			x.w.watch(x.ev)
			return x, nil
		},
		Close: func(b *Backend, _ pool.Reason) {
			if f := s.closed.Load(); f != nil {
				(*f)(b)
			}
			if s.wire != nil {
				b.Close()
			}
		},
	}, cluster.Env{Go: func(f func()) { f() }})
	return s
}

func (s *bench) socket() *socket {
	ev := &socket{fd: s.null}
	ev.state.Store(stateUser)
	return ev
}

// client logs one in.
func (s *bench) client() *Client {
	ev := s.socket()
	c := &Client{g: s.g}
	c.w.init(ev)
	c.w.watch(ev)
	c.now = nanos()
	c.sess = session.New(s.g.shared.Load(), c, s.g.next.Add(1), "bench")
	c.received(pgwire.AppendStartupMessage(nil, 3<<16, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}}))
	if !c.sess.LoggedIn() {
		s.b.Fatal("not logged in")
	}
	return c
}

// traffic is clients that send requests again and again, and servers that answer them.
type traffic struct {
	clients  []*Client
	requests [][]byte
	answer   []byte
	waiting  []*Client // have sent, in that order
	n        int

	bench *bench
	// steps is how many answers are owed to a request, without what the backend lacks.
	steps int
	out   []byte
}

// contextSet is what a server says to a context.
var contextSet = func() []byte {
	b := pgwire.AppendBindComplete(pgwire.AppendParseComplete(nil))
	b = pgwire.AppendCommandComplete(b, "BEGIN")
	b = pgwire.AppendCommandComplete(pgwire.AppendCommandComplete(b, "SET"), "COMMIT")
	return pgwire.AppendReadyForQuery(b, pgwire.TxIdle)
}()

// contextSteps is the number of answers that those are.
const contextSteps = 4

// step has one client answered that is at a backend, and sends its next request.
func (t *traffic) step() {
	for len(t.waiting) < len(t.clients) {
		t.send(t.clients[len(t.waiting)])
	}
	at := 0
	x, lacks := t.held(t.waiting[at])
	for x == nil { // in the other shard's queue, or its statement is being parsed
		if at++; at == len(t.waiting) {
			at = 0
			runtime.Gosched()
		}
		x, lacks = t.held(t.waiting[at])
	}
	c := t.waiting[at]
	copy(t.waiting[at:], t.waiting[at+1:])
	t.waiting = t.waiting[:len(t.waiting)-1]
	t.out = t.out[:0]
	if lacks >= contextSteps {
		t.out = append(t.out, contextSet...)
		t.bench.sent.Add(1)
	}
	if lacks%contextSteps == 1 {
		t.out = pgwire.AppendParseComplete(t.out)
	}
	t.out = append(t.out, t.answer...)
	x.received(t.out)
	t.send(c)
}

// held is the backend that has a client's request, and how many answers it owes to what it lacked: a context, the statement.
func (t *traffic) held(c *Client) (b *Backend, lacks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.sess.Backend(); conn != nil && conn.Pending() > 0 {
		return conn.Link.(*Backend), conn.Pending() - t.steps //nolint:forcetypeassert // it is one
	}
	return nil, 0
}

func (t *traffic) send(c *Client) {
	t.n++
	n := t.n
	if len(t.bench.bound) > 0 {
		n = int(c.sess.ID) % len(t.bench.bound) // its own tenant
	}
	c.received(t.requests[n%len(t.requests)])
	t.waiting = append(t.waiting, c)
}

// newTraffic makes requests as pgbench's modes do, for both shards.
func newTraffic(s *bench, clients int, mode string) *traffic {
	const sql = "SELECT abalance FROM orders WHERE tenant_id = $1;"
	t := &traffic{waiting: make([]*Client, 0, clients), bench: s, steps: map[string]int{"simple": 1, "extended": 5, "prepared": 4}[mode]}
	parses := make(map[*backend.Conn]uint64)
	for range clients {
		c := s.client()
		t.clients = append(t.clients, c)
		if mode != "prepared" {
			continue
		}
		c.received(pgwire.AppendSync(pgwire.AppendParse(nil, "q", sql, nil)))
		for prepared := false; !prepared; runtime.Gosched() { // its text may be being parsed
			var at *Backend
			var answer []byte
			c.Inspect(func(sess *session.Session, _ net.Conn) {
				if conn := sess.Backend(); conn != nil {
					at = conn.Link.(*Backend) //nolint:forcetypeassert // it is one
					parsed := conn.Parses - parses[conn]
					parses[conn] = conn.Parses
					if conn.Pending() > contextSteps {
						answer = append(answer, contextSet...)
						parsed-- // its BEGIN
					}
					if parsed > 0 { // else the server has it
						answer = pgwire.AppendParseComplete(answer)
					}
				}
				prepared = sess.PreparedCount() > 0
			})
			if at != nil {
				at.received(pgwire.AppendReadyForQuery(answer, pgwire.TxIdle))
			}
		}
	}
	row := pgwire.AppendDataRow(nil, [][]byte{[]byte("12345")})
	done := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(row, "SELECT 1"), pgwire.TxIdle)
	columns := pgwire.AppendRowDescription(nil, []pgwire.Column{pgwire.TextColumn("abalance", 23)})
	for i := range 30 {
		name := "q"
		var r []byte
		switch mode {
		case "simple":
			t.requests = append(t.requests, pgwire.AppendQuery(nil, fmt.Sprintf("SELECT abalance FROM orders WHERE tenant_id = %d;", i)))
			continue
		case "extended":
			name = ""
			r = pgwire.AppendParse(nil, "", sql, nil)
		}
		r = pgwire.AppendBind(r, "", name, pgwire.FormatText, [][]byte{fmt.Append(nil, i)}, pgwire.FormatText)
		t.requests = append(t.requests, pgwire.AppendSync(pgwire.AppendExecute(pgwire.AppendDescribe(r, pgwire.TargetPortal, ""), "", 0)))
	}
	t.answer = append(columns, done...)
	switch mode {
	case "extended":
		t.answer = append(pgwire.AppendBindComplete(pgwire.AppendParseComplete(nil)), t.answer...)
	case "prepared":
		t.answer = append(pgwire.AppendBindComplete(nil), t.answer...)
	}
	return t
}

// BenchmarkTransaction is one statement's way from the client's bytes to the client's bytes: framing, routing, checkout, both machines and
// the writers, with two calls of the kernel that do nothing. Its queue is that of a pool of 20.
func BenchmarkTransaction(b *testing.B) {
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 64, 1000} {
			b.Run(fmt.Sprint(mode, "/", clients), func(b *testing.B) {
				t := newTraffic(newBench(b, 10), clients, mode)
				for range 5000 {
					t.step()
				}
				b.ReportAllocs()
				for b.Loop() {
					t.step()
				}
			})
		}
	}
}

// TestTransactionsAllocateNothing: in the steady state a statement costs no memory.
func TestTransactionsAllocateNothing(t *testing.T) {
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 64} {
			x := newTraffic(newBench(t, 10), clients, mode)
			for i := range 3000 {
				x.step()
				if i == 1000 { // what its tables run is asked for by now
					book := x.bench.acct.Cluster.Code()
					p := book.Begin(1)
					if len(p.Relations) != 1 {
						t.Fatalf("%v is asked for", p.Relations)
					}
					book.Store(p, judge.Join(p, nil))
					book.End()
				}
			}
			if n := testing.AllocsPerRun(2000, x.step); n >= 1 && !underRace {
				t.Errorf("%s, %d clients: %v allocations for each transaction", mode, clients, n)
			}
		}
	}
}
