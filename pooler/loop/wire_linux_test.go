package loop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// wire is a driver with one poller, over sockets of the kernel: the test is the clients and the servers.
type wire struct {
	*bench
	t       *testing.T
	servers chan net.Conn
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{bench: newBench(t, 1), t: t, servers: make(chan net.Conn, 10)}
	ps, err := testPollers(t, pollBuffer)
	if err != nil {
		t.Fatal(err)
	}
	w.g.pollers = ps
	w.bench.wire = func() net.Conn {
		ours, server := pair(t)
		w.servers <- server
		return ours
	}
	t.Cleanup(func() {
		for _, c := range w.g.Clients() {
			c.Inspect(func(_ *session.Session, nc net.Conn) { nc.Close() })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		w.cl.Close(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.g.Wait()
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the driver does not end")
		}
	})
	return w
}

// pair is a connection with small buffers.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		c.(*net.UnixConn).SetReadBuffer(8 << 10)  //nolint:errcheck,forcetypeassert // it is one
		c.(*net.UnixConn).SetWriteBuffer(8 << 10) //nolint:errcheck,forcetypeassert // it is one
		t.Cleanup(func() { c.Close() })
	}
	return a, b
}

// asking is a client whose statement has come to its server.
func (w *wire) asking() (us net.Conn, c *Client, server net.Conn, b *Backend) {
	us, c = w.client()
	us.Write(pgwire.AppendQuery(nil, "SELECT abalance FROM orders WHERE tenant_id = 1")) //nolint:errcheck // what is read tells
	server = <-w.servers
	w.until(server, pgwire.MsgQuery)
	return us, c, server, c.held()
}

// client logs one in that a poller serves.
func (w *wire) client() (net.Conn, *Client) {
	w.t.Helper()
	us, them := pair(w.t)
	before := w.g.Clients()
	go w.g.Serve(them, "wire", nil)
	say := func(b []byte) {
		if _, err := us.Write(b); err != nil {
			w.t.Fatal(err)
		}
		w.ready(us)
	}
	say(pgwire.AppendStartupMessage(nil, 3<<16, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}}))
	var c *Client
	for _, x := range w.g.Clients() {
		if len(before) == 0 || x != before[0] {
			c = x
		}
	}
	for range 500 {
		say(pgwire.AppendSync(nil))
		c.mu.Lock()
		polled := c.w.ev != nil
		c.mu.Unlock()
		if polled {
			return us, c
		}
	}
	w.t.Fatal("no poller serves the client")
	return nil, nil
}

// ready reads up to a ReadyForQuery.
func (w *wire) ready(c net.Conn) {
	w.t.Helper()
	w.until(c, pgwire.MsgReadyForQuery)
}

// until reads up to a message of the given type.
func (w *wire) until(c net.Conn, typ byte) {
	w.t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // it is a test
	var types []byte
	head := make([]byte, pgwire.HeaderBytes)
	for len(types) == 0 || types[len(types)-1] != typ {
		if _, err := io.ReadFull(c, head); err != nil {
			w.t.Fatalf("after %q: %v", types, err)
		}
		_, total, _ := pgwire.Header(head)
		if _, err := io.CopyN(io.Discard, c, int64(total-len(head))); err != nil {
			w.t.Fatal(err)
		}
		types = append(types, head[0])
	}
}

func (w *wire) eventually(what string, f func() bool) {
	w.t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatal(what)
}

// held is the backend that the client's session holds.
func (c *Client) held() (b *Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.sess.Backend(); conn != nil {
		b = conn.Link.(*Backend) //nolint:forcetypeassert // it is one
	}
	return b
}

// TestAnsweredBehindTheEnd: who says no more is answered what was asked before, though its text is parsed elsewhere.
func TestAnsweredBehindTheEnd(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	for i := range 20 {
		us, c := w.client()
		if _, err := us.Write(pgwire.AppendQuery(nil, fmt.Sprintf("-- %d", i))); err != nil {
			t.Fatal(err)
		}
		us.(interface{ CloseWrite() error }).CloseWrite() //nolint:errcheck,forcetypeassert // the answer tells
		w.ready(us)
		w.eventually("the client is there still", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.sess.Closed() && w.g.Len() == 0 })
	}
}

// TestWhoDoesNotReadIsNotRead: a client that sends and does not read is answered so far, and no further, until it reads.
func TestWhoDoesNotReadIsNotRead(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, c := w.client()
	flood := bytes.Repeat(pgwire.AppendSync(nil), 13000)
	us.SetWriteDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // it is a test
	sent := 0
	for {
		n, err := us.Write(flood)
		sent += n
		if err != nil {
			break
		}
		if sent > 32<<20 {
			t.Fatalf("%d bytes were taken from a client that reads nothing; %d wait", sent, c.w.pending())
		}
	}
	if n := c.w.pending(); n > writeLimit+2*pollBuffer { // and the answers to what was read at once
		t.Errorf("%d bytes wait for the client", n)
	}
	// It reads at last, and misses nothing.
	want := int64(sent / 5 * 6)
	us.SetReadDeadline(time.Now().Add(60 * time.Second)) //nolint:errcheck // it is a test
	if n, err := io.CopyN(io.Discard, us, want); err != nil {
		t.Errorf("%d bytes of %d: %v", n, want, err)
	}
}

// TestSlowServerHoldsItsClient: as long as a server reads too little, its client is not read from, whatever the session says in between.
func TestSlowServerHoldsItsClient(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, c := w.client()
	long := "SELECT abalance FROM orders WHERE tenant_id = 1 /*" + strings.Repeat("x", 900<<10) + "*/"
	go us.Write(pgwire.AppendQuery(nil, long)) //nolint:errcheck // what is read tells
	server := <-w.servers
	w.eventually("nothing waits for the server", func() bool { b := c.held(); return b != nil && b.w.pending() > writeLimit })
	w.eventually("the client is read from", c.w.ev.isHeld)
	for range 10 {
		if _, err := server.Write(pgwire.AppendNoticeResponse(nil, pgwire.Errorf("01000", "noise"))); err != nil {
			t.Fatal(err)
		}
		w.until(us, pgwire.MsgNoticeResponse)
		if !c.w.ev.isHeld() {
			t.Fatal("the client is read from after a notice")
		}
	}
	w.until(server, pgwire.MsgQuery)
	w.eventually("the client stays held", func() bool { return c.w.ev.paused.Load() == 0 })
	if _, err := server.Write(pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "SELECT 0"), pgwire.TxIdle)); err != nil {
		t.Fatal(err)
	}
	w.ready(us)
}

// TestSlowClientLetsGo: a backend whose client does not read, and is killed, is read from again.
func TestSlowClientLetsGo(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, c := w.client()
	if _, err := us.Write(append(pgwire.AppendQuery(nil, "BEGIN"), pgwire.AppendQuery(nil, "SELECT abalance FROM orders WHERE tenant_id = 1")...)); err != nil {
		t.Fatal(err)
	}
	server := <-w.servers
	w.until(server, pgwire.MsgQuery)
	b := c.held()
	row := pgwire.AppendDataRow(nil, [][]byte{bytes.Repeat([]byte("x"), 1<<10)})
	begun := pgwire.AppendCommandComplete(pgwire.AppendBindComplete(pgwire.AppendParseComplete(nil)), "BEGIN")
	answer := pgwire.AppendRowDescription(begun, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
	for range 20 { // more than the socket takes, less than has the server wait
		answer = append(answer, row...)
	}
	answer = pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(answer, "SELECT 20"), pgwire.TxActive)
	if _, err := server.Write(answer); err != nil {
		t.Fatal(err)
	}
	w.eventually("the server's answer is not there", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return b.Conn.Pending() == 0 })
	c.w.mu.Lock()
	c.w.holdLocked(b.ev) // as a larger answer does
	c.w.mu.Unlock()
	c.Kill(session.ErrShutdown, session.CloseKilled)
	w.until(server, pgwire.MsgQuery) // ROLLBACK
	if _, err := server.Write(pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "ROLLBACK"), pgwire.TxIdle)); err != nil {
		t.Fatal(err)
	}
	w.eventually("the backend did not come back", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.settler == nil && b.dead == nil
	})
}

// TestLateSettleTimer: a timer that comes when the backend has settled does nothing to who has it next.
func TestLateSettleTimer(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	ours, _ := pair(t)
	b, err := w.g.NewBackend(ours, backend.New(&backend.Login{PID: 1}, 1<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	old := backend.NewSettler(b.Conn, false)
	b.unsettled(old)
	if !b.Alive() || b.ev.closed() {
		t.Error("it was broken")
	}
	b.mu.Lock()
	b.settler = old
	b.mu.Unlock()
	b.unsettled(old)
	if b.Alive() || !b.ev.closed() {
		t.Error("it was not broken")
	}
	b.mu.Lock()
	b.settler = nil
	b.mu.Unlock()
}

// TestWhoWaitsForRoomHearsOfTheEnd: a socket that is closed here is one that takes nothing more.
func TestWhoWaitsForRoomHearsOfTheEnd(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	ours, _ := pair(t)
	b, err := w.g.NewBackend(ours, backend.New(&backend.Login{PID: 1}, 1<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.w.append(make([]byte, 4<<20))
	b.w.stage()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.w.flushAndWait()
	}()
	w.eventually("nobody waits", func() bool { b.w.mu.Lock(); defer b.w.mu.Unlock(); return b.w.more != nil && b.w.more.waiting > 0 })
	held := &socket{}
	held.p.Store(b.ev.p.Load())
	held.paused.Store(pauseInput) // so that it is not posted
	b.w.flush(w.g, held)
	if !held.isHeld() {
		t.Error("a socket is read from whose bytes there is no room for")
	}
	b.Interrupt()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for ever")
	}
	w.eventually("a socket is held by one that was closed", func() bool { return !held.isHeld() })
	if b.w.flush(w.g, held); held.isHeld() {
		t.Error("a socket is held by one that was closed before")
	}
}

// TestTerminateCompletesNothing: a server connection that is closed in the middle of a message gets nothing more.
func TestTerminateCompletesNothing(t *testing.T) {
	t.Parallel()
	for name, half := range map[string]bool{"half a message": true, "idle": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			ours, server := pair(t)
			b, err := w.g.NewBackend(ours, backend.New(&backend.Login{PID: 1}, 1<<20), nil)
			if err != nil {
				t.Fatal(err)
			}
			want := "X\x00\x00\x00\x04"
			if half {
				// The end of a message that the socket did not take before: now there would be room.
				b.w.append([]byte("qq"))
				b.w.stage()
				want = ""
			}
			b.Close()
			rest, _ := io.ReadAll(server)
			if got := strings.TrimLeft(string(rest), "q"); got != want {
				t.Errorf("got %q at the end", got)
			}
		})
	}
}

// TestCloseWithinWaitsForTheServer: a connection is over when the server has closed its end, or takes too long to.
func TestCloseWithinWaitsForTheServer(t *testing.T) {
	t.Parallel()
	for _, prompt := range []bool{true, false} {
		w := newWire(t)
		ours, server := pair(t)
		b, err := w.g.NewBackend(ours, backend.New(&backend.Login{PID: 1}, 1<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		limit := 10 * time.Second
		if !prompt {
			limit = time.Millisecond
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			b.CloseWithin(limit)
		}()
		if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if prompt {
			select {
			case <-closed:
				t.Error("it did not wait")
			default:
			}
			server.Close()
		}
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Fatalf("the end of the server, given at once: %t, is not seen", prompt)
		}
	}
}

// TestCloseWithinWhileWriting: the server is told of the end, too, if whoever wrote what it has answered is not known to have ended.
func TestCloseWithinWhileWriting(t *testing.T) {
	t.Parallel()
	for _, g := range []*Goroutines{newWire(t).g, newBench(t, 1).g} {
		ours, server := pair(t)
		b, err := g.NewBackend(ours, backend.New(&backend.Login{PID: 1}, 1<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.w.mu.Lock()
		b.w.writing = true
		b.w.mu.Unlock()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			b.CloseWithin(time.Minute)
		}()
		server.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the read tells
		if got, err := io.ReadAll(server); err != nil || len(got) > 0 {
			t.Errorf("the server hears %q, %v", got, err)
		}
		server.Close()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatal("the end of the server is not seen")
		}
	}
}

// TestDeadBackendIsDroppedAfterTheStep: a lease that nobody adopts goes back without the client's lock, for its pool may call other clients.
func TestDeadBackendIsDroppedAfterTheStep(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, c := w.client()
	query := pgwire.AppendQuery(nil, "SELECT abalance FROM orders WHERE tenant_id = 1")
	done := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "SELECT 0"), pgwire.TxIdle)
	serve := func() {
		server := <-w.servers
		w.until(server, pgwire.MsgQuery)
		if _, err := server.Write(done); err != nil {
			t.Error(err)
		}
	}
	us.Write(query) //nolint:errcheck // what is read tells
	var b *Backend
	w.eventually("no backend", func() bool { b = c.held(); return b != nil })
	serve()
	w.ready(us)
	locked := make(chan bool, 1)
	closed := func(x *Backend) {
		if x == b {
			free := c.mu.TryLock()
			if free {
				c.mu.Unlock()
			}
			locked <- !free
		}
	}
	w.closed.Store(&closed)
	b.mu.Lock()
	b.dead = errBug
	b.mu.Unlock()
	us.Write(query) //nolint:errcheck // what is read tells
	serve()
	w.ready(us)
	if <-locked {
		t.Error("it was discarded under the client's lock")
	}
}

// TestBugsEndOneConnection: a panic outside of a session's step ends that client, one for an idle backend that backend.
func TestBugsEndOneConnection(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, _, server, b := w.asking()
	b.lease.Release()                                                                                      // twice, therefore
	server.Write(pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "SELECT 0"), pgwire.TxIdle)) //nolint:errcheck // what is read tells
	us.SetReadDeadline(time.Now().Add(10 * time.Second))                                                   //nolint:errcheck // it is a test
	if _, err := io.Copy(io.Discard, us); err != nil {
		t.Error(err)
	}
	us.Close()
	w.eventually("the client stays", func() bool { return w.g.Len() == 0 })

	b.mu.Lock()
	b.Conn.Own(broken{})
	b.mu.Unlock()
	server.Write(pgwire.AppendParameterStatus(nil, "TimeZone", "x")) //nolint:errcheck // what is read tells
	w.eventually("the backend stays", func() bool { return !b.Alive() })

	us, _ = w.client()
	us.Close()
}

// broken is an owner that panics.
type broken struct{ *backend.Settler }

func (broken) Parameter(string, string) { panic("test") }

// TestIdleConnectionsHaveNoBuffers: nor do their machines.
func TestIdleConnectionsHaveNoBuffers(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	us, c, server, b := w.asking()
	row := pgwire.AppendDataRow(nil, [][]byte{bytes.Repeat([]byte("x"), 50<<10)})
	answer := pgwire.AppendRowDescription(nil, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
	answer = append(append(answer, row...), row...)
	go server.Write(pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(answer, "SELECT 2"), pgwire.TxIdle)) //nolint:errcheck // what is read tells
	w.ready(us)
	for _, x := range []*writer{&c.w, &b.w} {
		w.eventually("a buffer stays", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.buf == nil && x.out == nil
		})
	}
}

// TestWhoSaysNothingGetsNoBuffer: many may connect and be silent where TLS is offered, for a goroutine each.
func TestWhoSaysNothingGetsNoBuffer(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	sh := *w.g.shared.Load()
	sh.TLS = true
	w.g.SetShared(&sh)
	var lent atomic.Int32
	w.g.buffers.New = func() any {
		lent.Add(1)
		return new(make([]byte, 100))
	}
	us, them := pair(t)
	go w.g.Serve(them, "silent", nil)
	startup := pgwire.AppendStartupMessage(nil, 3<<16, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}})
	us.Write(startup[:5]) //nolint:errcheck // what was read tells
	w.eventually("nothing was read", func() bool {
		n := uint64(0)
		for _, c := range w.g.Clients() {
			c.Inspect(func(s *session.Session, _ net.Conn) { n = s.Snapshot().BytesIn })
		}
		return n == 5
	})
	if n := lent.Load(); n != 0 {
		t.Errorf("%d buffers", n)
	}
	us.Write(startup[5:]) //nolint:errcheck // what comes tells
	w.ready(us)
}

// TestClosedWhileItMoves: a client that was closed before a poller has it is not waited for without end, either.
func TestClosedWhileItMoves(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	ours, _ := pair(t)
	c := &Client{g: w.g, start: &start{nc: ours}}
	c.w.init(ours)
	c.sess = session.New(w.g.shared.Load(), c, 1, "closed")
	w.g.running.Add(1)
	c.closing = true
	if !c.move() {
		t.Fatal("it was not moved")
	}
	if c.w.ev.closer.Load() == nil {
		t.Error("nothing closes it")
	}
	c.w.ev.Close()
}
