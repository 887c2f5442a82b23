package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// conn is a connection of the tests.
type conn struct {
	*pgconn.PgConn
	dial backend.DialOptions
}

// ask runs a query and returns its first value.
func (c *conn) ask(ctx context.Context, sql string) (string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return "", nil
	}
	return string(results[0].Rows[0][0]), nil
}

func pgHooks() Hooks[*conn] {
	return Hooks[*conn]{
		Adopt: func(l *backend.Login, o backend.DialOptions, _ PoolInfo) (*conn, error) {
			pg, err := construct(l)
			if err != nil {
				l.Conn.Close()
				return nil, err
			}
			return &conn{pg, o}, nil
		},
		Close: func(c *conn, _ pool.Reason) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = c.PgConn.Close(ctx)
		},
		Check: func(ctx context.Context, c *conn) error {
			_, err := c.ask(ctx, "select 1")
			return err
		},
		Interrupt: func(c *conn) { c.Conn().Close() },
	}
}

// rig is a cluster at work.
type rig struct {
	*Cluster[*conn]
	t   testing.TB
	log *logBuffer
}

// run makes a cluster and runs it until t ends, when nothing of it may be left.
func run(t testing.TB, o Options, h Hooks[*conn]) *rig {
	t.Helper()
	if o.Name == "" {
		o.Name = "shop"
	}
	r := &rig{t: t, log: &logBuffer{}}
	r.Cluster = New(o, h, Env{Log: slog.New(slog.NewTextHandler(r.log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		closing, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		if err := r.Close(closing); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	return r
}

// client is one who checks out.
type client struct {
	w      Waiter[*conn]
	answer chan any // *pool.Lease or *pgwire.Error
}

func newClient() *client {
	c := &client{answer: make(chan any, 1)}
	c.w.To = c
	return c
}

func (c *client) Granted(l *pool.Lease[*conn])     { c.answer <- l }
func (c *client) CheckoutFailed(err *pgwire.Error) { c.answer <- err }

// outcome waits for the answer.
func (c *client) outcome(t testing.TB) (*pool.Lease[*conn], *pgwire.Error) {
	t.Helper()
	select {
	case a := <-c.answer:
		l, _ := a.(*pool.Lease[*conn])
		err, _ := a.(*pgwire.Error)
		return l, err
	case <-time.After(30 * time.Second):
		t.Fatal("a checkout was not answered in 30 seconds")
		return nil, nil
	}
}

func (r *rig) start(s topology.ShardID, l *Login) *client {
	c := newClient()
	r.Checkout(s, topology.Primary, l, &c.w)
	return c
}

// take checks out and expects a connection.
func (r *rig) take(s topology.ShardID, l *Login) *pool.Lease[*conn] {
	r.t.Helper()
	lease, err := r.start(s, l).outcome(r.t)
	if err != nil {
		r.t.Fatalf("checkout of shard %d: %+v", s, err)
	}
	return lease
}

// refused checks out and expects the client's error to have this code and routine, and to name no host.
func (r *rig) refused(s topology.ShardID, l *Login, code, routine string) {
	r.t.Helper()
	lease, err := r.start(s, l).outcome(r.t)
	if err == nil {
		lease.Release()
		r.t.Fatal("checkout: got a connection")
	}
	isRefusal(r.t, err, code, routine)
}

func isRefusal(t testing.TB, err *pgwire.Error, code, routine string) {
	t.Helper()
	if err == nil || err.Code != code || err.Routine != routine || err.Severity != pgwire.SeverityError {
		t.Fatalf("got %+v, want %s %s", err, code, routine)
	}
	for _, text := range []string{err.Message, err.Detail, err.Hint} {
		if strings.Contains(text, "127.0.0.1") || strings.Contains(text, "app") {
			t.Errorf("the client is told %q", text)
		}
	}
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 seconds: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func settings(limit int) pool.Settings {
	return pool.Settings{
		Max: limit, CheckoutTimeout: 10 * time.Second, HealthTimeout: 2 * time.Second,
		ConnectBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	}
}

func address(t testing.TB, addr string) backend.Address {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return backend.Address{Host: host, Port: n}
}

// at is the endpoint of an instance's database.
func at(t testing.TB, i *pgtest.Instance, db string, s pool.Settings) Endpoint {
	t.Helper()
	return Endpoint{Role: topology.Primary, Address: address(t, i.Addr()), Database: db, Pool: s}
}

func superuser() *Login {
	return NewLogin(LoginOptions{User: pgtest.Superuser, Identity: "trust"})
}

func password(user, pw string) *Login {
	return NewLogin(LoginOptions{User: user, Credential: auth.NewClientCredential(pw), Identity: "password " + pw})
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// fakeServers are servers of tests in synctest bubbles: they accept or fail, by address.
type fakeServers struct {
	mu      sync.Mutex
	fail    map[string]error
	version map[string]string
	dials   map[string]int
	hang    chan struct{} // while not nil, dials wait for it
}

func newFakes() *fakeServers {
	return &fakeServers{fail: map[string]error{}, version: map[string]string{}, dials: map[string]int{}}
}

func (f *fakeServers) set(port int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[fakeAddress(port).String()] = err
}

func (f *fakeServers) dialed(port int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[fakeAddress(port).String()]
}

func fakeAddress(port int) backend.Address { return backend.Address{Host: "10.0.0.1", Port: port} }

func (f *fakeServers) dial(ctx context.Context, o backend.DialOptions) (*backend.Login, error) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	addr := o.Address.String()
	f.dials[addr]++
	if err := f.fail[addr]; err != nil {
		return nil, err
	}
	version := f.version[addr]
	if version == "" {
		version = "15.18"
	}
	return &backend.Login{Conn: nopConn{}, Params: []pgwire.Param{{Name: "server_version", Value: version}, {Name: "address", Value: addr}}}, nil
}

func (f *fakeServers) hooks() Hooks[*conn] {
	return Hooks[*conn]{
		Dial: f.dial,
		Adopt: func(_ *backend.Login, o backend.DialOptions, _ PoolInfo) (*conn, error) {
			return &conn{dial: o}, nil
		},
		Close: func(*conn, pool.Reason) {},
		Check: func(_ context.Context, c *conn) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.fail[c.dial.Address.String()]
		},
	}
}

// fakeAt is the endpoint of a fake server.
func fakeAt(port int) Endpoint {
	return Endpoint{Role: topology.Primary, Address: fakeAddress(port), Database: "db", Pool: settings(2)}
}

type nopConn struct{ net.Conn }

func (nopConn) Write(b []byte) (int, error)      { return len(b), nil }
func (nopConn) Close() error                     { return nil }
func (nopConn) SetDeadline(time.Time) error      { return nil }
func (nopConn) SetReadDeadline(time.Time) error  { return nil }
func (nopConn) SetWriteDeadline(time.Time) error { return nil }

func errRefused(port int) error { return fmt.Errorf("dial %v: connection refused", fakeAddress(port)) }
