package integration

import (
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// listeners is how many sessions listen to one channel in TestListenMany.
var listeners = flag.Int("listeners", 30, "how many sessions listen to one channel")

// notification waits for the next one.
func notification(t testing.TB, c *pgtest.Client) *pgproto3.NotificationResponse {
	t.Helper()
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("no notification: %v", err)
		}
		if n, ok := m.(*pgproto3.NotificationResponse); ok {
			return n
		}
	}
}

// ends reads up to the end of the connection and returns the code of the error it ended with.
func ends(t testing.TB, c *pgtest.Client) (code string) {
	t.Helper()
	for _, m := range c.ExpectClosed() {
		if e, ok := m.(*pgproto3.ErrorResponse); ok {
			code = e.Code
		}
	}
	return code
}

// TestListenEnds: who listens and has missed something, or will, is told so by the end of the connection; others go on.
func TestListenEnds(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 2"})
	p := protocols[0]
	idle, busy, other := s.connect(t), s.connect(t), s.connect(t)
	p.play(t, idle, "LISTEN news", "LISTEN; I")
	p.play(t, busy, "LISTEN news", "LISTEN; I", "BEGIN", "BEGIN; T", "INSERT INTO told VALUES (1)", "INSERT 0 1; T")
	p.play(t, other, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgkennel LISTEN' AND datname = current_database()", "1; SELECT 1; I")
	if code := ends(t, idle); code != "57P01" {
		t.Errorf("the idle client's connection ends with %q", code)
	}
	p.play(t, busy, "COMMIT", "COMMIT; I") // what it does is done
	if code := ends(t, busy); code != "57P01" {
		t.Errorf("the other's ends with %q", code)
	}
	again := s.connect(t)
	p.play(t, again, "SELECT x FROM told", "1; SELECT 1; I", "LISTEN news", "LISTEN; I")
	p.play(t, other, "NOTIFY news, 'again'", "NOTIFY; I")
	if n := notification(t, again); n.Payload != "again" || n.PID != other.PID {
		t.Errorf("heard %q by %d, not by %d", n.Payload, n.PID, other.PID)
	}
	// Where the servers' connections are replaced the one that listens is, too.
	s.console(t, "RECONNECT")
	if code := ends(t, again); code != "57P01" {
		t.Errorf("at RECONNECT the connection ends with %q", code)
	}
	again = s.connect(t)
	p.play(t, again, "LISTEN news", "LISTEN; I")

	// One keeps them waiting for too long, the other only for a while.
	const many = 500 // of 7.9 kB each are nearly what may wait
	p.play(t, again, "BEGIN", "BEGIN; T")
	late := s.connect(t)
	p.play(t, late, "LISTEN news", "LISTEN; I")
	flood := fmt.Sprintf("SELECT count(pg_notify('news', repeat('x', 7890) || i)) FROM generate_series(1, %d) i", many)
	p.play(t, other, flood, fmt.Sprintf("%d; SELECT 1; I", many))
	for i := range many {
		if n := notification(t, late); !strings.HasSuffix(n.Payload, fmt.Sprint("x", i+1)) {
			t.Fatalf("notification %d is ...%s", i+1, n.Payload[len(n.Payload)-8:])
		}
	}
	p.play(t, other, "SELECT count(pg_notify('news', repeat('x', 7890) || i)) FROM generate_series(501, 600) i", "100; SELECT 1; I")
	if code := ends(t, again); code != "53400" {
		t.Errorf("the connection of who did not hear ends with %q", code)
	}
	for range 100 {
		notification(t, late)
	}

	// What can't be told is not left out.
	latin := s.with(t, map[string]string{"client_encoding": "LATIN1"})
	p.play(t, latin, "LISTEN news", "LISTEN; I")
	p.play(t, other, "NOTIFY news, 'plain'", "NOTIFY; I")
	if n := notification(t, latin); n.Payload != "plain" {
		t.Errorf("heard %q", n.Payload)
	}
	p.play(t, other, "NOTIFY news, 'weiß'", "NOTIFY; I")
	if code := ends(t, latin); code != "22P05" {
		t.Errorf("the connection of who reads Latin-1 ends with %q", code)
	}
	if n := s.metric(t, "listen_sessions"); n != 1 {
		t.Errorf("%v sessions listen", n)
	}
}

// TestListenEndsWithAPause: a transaction that is under way when a pause begins ends, also if it has to ask those who listen, or listens itself. What it
// needed for that is closed when the pause is there.
func TestListenEndsWithAPause(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for _, p := range protocols {
		said, listens := s.connect(t), s.connect(t)
		p.play(t, said, "LISTEN news", "LISTEN; I", "BEGIN", "BEGIN; T", "SELECT 1", "1; SELECT 1; T")
		p.play(t, listens, "BEGIN", "BEGIN; T", "SELECT 1", "1; SELECT 1; T")
		paused := make(chan error, 1)
		go func() {
			_, err := s.tryConsole("PAUSE " + cluster)
			paused <- err
		}()
		eventually(t, "the pause begins", func() bool { return s.metric(t, "listen_connections") == 0 })
		p.play(t, said, "NOTIFY news", "NOTIFY; T", "COMMIT", "COMMIT; I")
		if code := ends(t, said); code != "57P01" {
			t.Errorf("who listened before the pause ends with %q", code)
		}
		p.play(t, listens, "LISTEN news", "LISTEN; T", "COMMIT", "COMMIT; I")
		if err := <-paused; err != nil {
			t.Errorf("PAUSE: %v", err)
		}
		if code := ends(t, listens); code != "57P01" {
			t.Errorf("who listens in it ends with %q", code)
		}
		eventually(t, "no connection is left", func() bool { // a server process ends a moment after its connection
			n := s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			return n[0] == "0"
		})
		s.console(t, "RESUME "+cluster)
	}
}

// TestListenOnShards: who listens hears what is notified on any shard.
func TestListenOnShards(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, schema: listenSchema})
	p := protocols[0]
	a, b := s.connect(t), s.connect(t)
	p.play(t, a, "LISTEN news", "LISTEN; I")
	for i, shard := range []int{0, 1, 1, 0} {
		p.play(t, b, fmt.Sprintf("/* pgdog_shard: %d */ NOTIFY news, '%d'", shard, i), "NOTIFY; I")
		if n := notification(t, a); n.Payload != fmt.Sprint(i) {
			t.Errorf("heard %q, want %d", n.Payload, i)
		}
	}
	p.play(t, b, "NOTIFY news, 'anywhere'", "NOTIFY; I")
	if n := notification(t, a); n.Payload != "anywhere" {
		t.Errorf("heard %q", n.Payload)
	}
	p.play(t, a, "UNLISTEN news", "UNLISTEN; I", "/* pgdog_shard: 0 */ NOTIFY news, 'no'", "NOTIFY; I", "LISTEN news; NOTIFY news, 'yes'", "LISTEN; NOTIFY; I")
}

// TestListenInSessionMode: a notification names the client that has the sender's connection by the pid that it was told at its login.
func TestListenInSessionMode(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "pooler_mode = \"session\""})
	p := protocols[0]
	gone := s.connect(t)
	p.play(t, gone, "LISTEN news", "LISTEN; I")
	gone.Terminate() // the next one has its backend
	a, b, behind := s.connect(t), s.connect(t), s.direct(t, nil)
	for _, c := range []*pgtest.Client{a, b} {
		p.play(t, c, "LISTEN news", "LISTEN; I")
	}
	for _, by := range []*pgtest.Client{a, b, behind} {
		by.Send(&pgproto3.Query{String: "NOTIFY news"})
		for _, c := range []*pgtest.Client{a, b} {
			if n := notification(t, c); n.PID != by.PID {
				t.Errorf("got pid %d, want %d", n.PID, by.PID)
			}
		}
	}
}

// TestListenToOneself: who tells by the pid what it said itself is never told so of what others said, over the same connection at the same time, and
// always of what it said. Nothing is lost, doubled, or out of order.
func TestListenToOneself(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 1"})
	const rounds = 60
	clients := make([]*pgtest.Client, 4) // the last only talks
	for i := range clients {
		clients[i] = s.connect(t)
		if i < len(clients)-1 {
			protocols[0].play(t, clients[i], "LISTEN news", "LISTEN; I")
		}
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			next := make([]int, len(clients))
			hear := func(m pgproto3.BackendMessage) (ready bool) {
				switch m := m.(type) {
				case *pgproto3.ReadyForQuery:
					return true
				case *pgproto3.NotificationResponse:
					var by, n int
					if _, err := fmt.Sscan(m.Payload, &by, &n); err != nil {
						t.Error(err)
					}
					if n != next[by] {
						t.Errorf("client %d hears %d of client %d, not %d", i, n, by, next[by])
					}
					next[by] = n + 1
					if (by == i) != (m.PID == c.PID) {
						t.Errorf("client %d, pid %d, hears client %d by pid %d", i, c.PID, by, m.PID)
					}
				}
				return false
			}
			for n := range rounds {
				c.Send(&pgproto3.Query{String: fmt.Sprintf("NOTIFY news, '%d %d'", i, n)})
				for {
					m, err := c.Next()
					if err != nil {
						t.Error(err)
						return
					}
					if hear(m) {
						break
					}
				}
				if i < len(clients)-1 && next[i] != n+1 {
					t.Errorf("client %d was answered before it heard itself", i)
				}
			}
			for i < len(clients)-1 {
				left := 0
				for _, n := range next {
					left += rounds - n
				}
				if left == 0 {
					break
				}
				m, err := c.Next()
				if err != nil {
					t.Errorf("client %d misses %d: %v", i, left, err)
					break
				}
				hear(m)
			}
		})
	}
	wg.Wait()
}

// TestListenMany: all who listen to one channel hear all, and nobody waits for them, not even where one does not read: that one is closed when too much
// waits for it. With -listeners=10000 it says what they cost.
func TestListenMany(t *testing.T) {
	t.Parallel()
	measured := *listeners >= 1000
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 2\nauth_type = \"trust\"\nlog_connections = false\nlog_disconnections = false", program: measured})
	list := make([]*pgtest.Client, *listeners)
	each := func(f func(c **pgtest.Client)) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		const workers = 16
		for w := range workers {
			wg.Go(func() {
				for i := w; i < len(list); i += workers {
					f(&list[i])
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	memory := func() int {
		if !measured {
			return 0
		}
		return s.memory(t)
	}
	empty := memory()
	each(func(c **pgtest.Client) {
		*c = s.connect(t)
		protocols[0].play(t, *c, "SELECT 1", "1; SELECT 1; I")
	})
	idle := memory()
	took := each(func(c **pgtest.Client) { protocols[0].play(t, *c, "LISTEN news", "LISTEN; I") })
	hearing := memory()
	n := len(list)
	t.Logf("%d clients: %d bytes each, idle; %d more when they listen, which took %v", n, (idle-empty)/n, (hearing-idle)/n, took)
	sender := s.connect(t)
	for round := range 2 {
		began := time.Now()
		for i := range 5 {
			protocols[0].play(t, sender, fmt.Sprintf("NOTIFY news, '%d'", 5*round+i), "NOTIFY; I")
		}
		said := time.Since(began)
		each(func(c **pgtest.Client) {
			for i := range 5 {
				if got := notification(t, *c).Payload; got != fmt.Sprint(5*round+i) {
					t.Errorf("heard %s, not %d", got, 5*round+i)
				}
			}
		})
		t.Logf("5 notifications, said in %v, were with all after %v; %d bytes a client", said, time.Since(began), (memory()-empty)/n)
	}
	if n := s.metric(t, "listen_connections"); n != 1 {
		t.Errorf("%v connections listen", n)
	}

	// Some don't read.
	stuck := make([]*pgtest.Client, 3)
	for i := range stuck {
		stuck[i] = s.connect(t)
		if err := stuck[i].Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		protocols[i%2].play(t, stuck[i], "LISTEN flood", "LISTEN; I", "LISTEN news", "LISTEN; I")
	}
	reads := s.connect(t)
	protocols[0].play(t, reads, "LISTEN flood", "LISTEN; I")
	const batch, batches = 500, 6 // of 7.9 kB: more than may wait, and sockets take
	for i := range batches {
		protocols[0].play(t, sender, fmt.Sprintf("SELECT count(pg_notify('flood', repeat('x', 7900) || i)) FROM generate_series(1, %d) i", batch), fmt.Sprint(batch, "; SELECT 1; I"))
		for range batch {
			notification(t, reads)
		}
		began := time.Now()
		protocols[0].play(t, sender, fmt.Sprintf("NOTIFY news, 'beside %d'", i), "NOTIFY; I")
		each(func(c **pgtest.Client) {
			if got := notification(t, *c).Payload; got != fmt.Sprint("beside ", i) {
				t.Errorf("heard %s", got)
			}
		})
		t.Logf("beside those who don't read all hear within %v; %d bytes a client", time.Since(began), (memory()-empty)/n)
	}
	eventually(t, "who does not read is closed", func() bool { return s.metric(t, "listen_sessions") == float64(len(list)+1) })
	if closed := s.metric(t, "session_closes_total", `reason="listen"`); closed != float64(len(stuck)) {
		t.Errorf("%v were closed", closed)
	}
}

// TestListenComesAndGoes: who was answered that it listens hears what is notified from then on, while others come and go on the same channel.
func TestListenComesAndGoes(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 2"})
	var wg sync.WaitGroup
	for i := range 4 {
		c, sender := s.connect(t), s.connect(t)
		wg.Go(func() {
			for n := range 25 {
				protocols[n%2].play(t, c, "LISTEN news", "LISTEN; I")
				payload := fmt.Sprint(i, " ", n)
				protocols[0].play(t, sender, "NOTIFY news, '"+payload+"'", "NOTIFY; I")
				for {
					m, err := c.Next()
					if err != nil {
						t.Errorf("%s was not heard: %v", payload, err)
						return
					}
					if x, ok := m.(*pgproto3.NotificationResponse); ok && x.Payload == payload {
						break
					}
				}
				protocols[0].play(t, c, "UNLISTEN news", "UNLISTEN; I")
			}
		})
	}
	wg.Wait()
}
