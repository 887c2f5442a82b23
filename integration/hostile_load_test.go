package integration

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Bytes may come one at a time.
func TestHostileDrip(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	nc := raw(t, s.addr)
	nc.SetNoDelay(true) //nolint:errcheck // it is the default
	drip := func(b []byte) {
		for i := range b {
			if _, err := nc.Write(b[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	drip(startupPacket(version30, "user", user, "database", cluster))
	if got := untilReady(t, nc); !strings.HasSuffix(got, "ZI") {
		t.Fatalf("login: %s", got)
	}
	for range 3 {
		drip(honest('Q', "SELECT 1\x00"))
		if got := untilReady(t, nc); got != "T, D, C, ZI" {
			t.Errorf("Query: %s", got)
		}
		drip(slices.Concat(honest('P', "\x00SELECT $1::int\x00\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00"), honest('E', "\x00\x00\x00\x00\x00"), honest('S', "")))
		if got := untilReady(t, nc); got != "1, 2, D, C, ZI" {
			t.Errorf("extended: %s", got)
		}
		drip(slices.Concat(honest('Q', "COPY notes FROM STDIN\x00"), honest('d', "1\ta\n"), honest('c', "")))
		if got := untilReady(t, nc); got != "G, C, ZI" {
			t.Errorf("COPY: %s", got)
		}
	}
	if rows := s.shards[0].rows(t, "SELECT count(*) FROM notes"); rows[0] != "3" {
		t.Errorf("%s rows", rows[0])
	}
}

// To announce a gigabyte costs pgkennel nothing, and each byte of it no more than itself.
func TestHostileAnnouncements(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	var clients []*net.TCPConn
	for range 200 {
		clients = append(clients, loggedIn(t, s))
	}
	s.grows(t, 8<<20, func(look func()) {
		for i, nc := range clients {
			typ := "QPBF"[i%4]
			nc.Write(frame(typ, 1<<30-1, "")) //nolint:errcheck // the look tells
		}
		look()
		for i := range 50 {
			for _, nc := range clients {
				if _, err := nc.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		look()
	})
	for _, nc := range clients {
		nc.Close()
	}
	// One that does send a lot of it takes what it sends, with the room that a growing buffer has, and gives it back.
	nc := loggedIn(t, s)
	nc.Write(frame('Q', 1<<30-1, "")) //nolint:errcheck // the writes below tell
	s.grows(t, 160<<20, func(func()) {
		for range 256 {
			if _, err := nc.Write(bytes.Repeat([]byte{'x'}, 128<<10)); err != nil {
				t.Fatal(err)
			}
		}
	})
	nc.Close()
	eventually(t, "nobody is left but the witness", func() bool { return s.metric(t, "session_clients") == 1 })
}

// max_message_size holds for every message, before its bytes are there.
func TestHostileMessageSize(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "max_message_size = 100_000")
	for _, typ := range "QPB" {
		nc := loggedIn(t, s)
		nc.Write(frame(byte(typ), 100_000, "")) //nolint:errcheck // the other side may be faster
		if got := listen(t, nc); got != "FATAL 08P01" {
			t.Errorf("%c: %s", typ, got)
		}
	}
	nc := loggedIn(t, s)
	nc.Write(honest('Q', "SELECT 1 --"+strings.Repeat("x", 90_000)+"\x00")) //nolint:errcheck // the answer tells
	if got := untilReady(t, nc); got != "T, D, C, ZI" {
		t.Errorf("a message within the limit: %s", got)
	}
}

// flood writes b n times without reading, on a goroutine of its own; the channel is closed when all is written.
func flood(t testing.TB, nc net.Conn, b []byte, n int) <-chan struct{} {
	piece := bytes.Repeat(b, max(1, 64<<10/len(b)))
	written := make(chan struct{})
	go func() {
		defer close(written)
		for left := n * len(b); left > 0; {
			k, err := nc.Write(piece[:min(left, len(piece))])
			if left -= k; err != nil {
				t.Logf("flood: %d bytes left: %v", left, err)
				return
			}
		}
	}()
	return written
}

// stalls waits until pgkennel takes no more from the flood, or all was written.
func stalls(t testing.TB, s *stand, written <-chan struct{}) {
	t.Helper()
	last, same := -1.0, 0
	eventually(t, "the flood stalls", func() bool {
		select {
		case <-written:
			return true
		case <-time.After(50 * time.Millisecond):
		}
		now := s.metric(t, "process_cpu_seconds_total")
		if now-last < 0.02 {
			same++
		} else {
			same = 0
		}
		last = now
		return same > 4
	})
}

// A million Syncs at once are answered one by one, as fast as the client reads, and no faster.
func TestHostileSyncs(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	n := 1_000_000
	if raceEnabled {
		n /= 5
	}
	nc := loggedIn(t, s)
	s.grows(t, 16<<20, func(look func()) {
		written := flood(t, nc, honest('S', ""), n)
		stalls(t, s, written)
		look()
		got, err := io.CopyN(io.Discard, nc, int64(6*n))
		if err != nil {
			t.Errorf("%d bytes of answers: %v", got, err)
		}
		<-written
	})
	nc.Write(honest('Q', "SELECT 1\x00")) //nolint:errcheck // the answer tells
	if got := untilReady(t, nc); got != "T, D, C, ZI" {
		t.Errorf("after the flood: %s", got)
	}
}

// Messages without a Sync: what is held of them is bounded, in memory and in the time that it takes to look at them.
func TestHostileBatches(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	var numbered bytes.Buffer
	for i := range 60_000 {
		numbered.Write(honest('P', fmt.Sprintf("s%d\x00SELECT 1\x00\x00\x00", i)))
	}
	sync := honest('S', "")
	less := 1
	if raceEnabled {
		less = 6
	}
	for name, x := range map[string]struct {
		bytes []byte
		n     int
		last  string // what the answer ends with
	}{
		"Parse":           {honest('P', "\x00SELECT 1\x00\x00\x00"), 300_000, "ZI"},
		"Parse, names":    {numbered.Bytes(), 1, "ZI"},
		"Parse, one name": {honest('P', "a\x00SELECT 1\x00\x00\x00"), 100_000, "ERROR 42P05, ZI"},
		"Parse, wrong":    {honest('P', ""), 500_000, "ERROR 08P01, ZI"},
		"Close":           {honest('C', "S\x00"), 600_000, "ZI"},
		"Close, portals":  {honest('C', "Px\x00"), 600_000, "ZI"},
		"Bind":            {honest('B', "\x00nobody\x00\x00\x00\x00\x00\x00\x00"), 300_000, "ERROR 26000, ZI"},
		"Execute":         {honest('E', "nobody\x00\x00\x00\x00\x00"), 300_000, "ERROR 34000, ZI"},
		"Describe":        {honest('D', "Snobody\x00"), 300_000, "ERROR 26000, ZI"},
		"Flush":           {honest('H', ""), 800_000, "ZI"},
		"CopyData":        {honest('d', "x"), 800_000, "ZI"},
		"BEGIN":           {slices.Concat(honest('P', "\x00BEGIN\x00\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), honest('E', "\x00\x00\x00\x00\x00")), 50_000, "ZT"},
	} {
		t.Run(name, func(t *testing.T) {
			nc := loggedIn(t, s)
			defer nc.Close()
			begun := time.Now()
			s.grows(t, 48<<20, func(look func()) {
				written := flood(t, nc, x.bytes, max(1, x.n/less))
				stalls(t, s, written)
				look()
				read := make(chan string)
				go func() { read <- untilReady(t, nc) }()
				<-written
				look()
				nc.Write(sync) //nolint:errcheck // the answer tells
				if got := <-read; !strings.HasSuffix(got, x.last) {
					t.Errorf("heard %.300s … %s", got, got[max(0, len(got)-100):])
				}
			})
			t.Logf("took %v", time.Since(begun))
		})
	}
}

// A client that does not read a result holds up nobody but itself, and no more of the result than a few buffers are in pgkennel's memory.
func TestHostileSlowReader(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	slow := loggedIn(t, s)
	s.grows(t, 24<<20, func(look func()) {
		slow.Write(honest('Q', "SELECT repeat('x', 1000) FROM generate_series(1, 50000)\x00")) //nolint:errcheck // the answer tells
		eventually(t, "the server waits for its client", func() bool {
			look()
			return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND datname = '"+s.shards[0].db+"'")[0] == "1"
		})
		other := s.connect(t)
		for range 100 {
			protocols[0].play(t, other, "SELECT 1", "1; SELECT 1; I")
		}
		look()
	})
	if got := untilReady(t, slow); strings.Count(got, "D") != 50_000 || !strings.HasSuffix(got, "C, ZI") {
		t.Errorf("%d rows, and %s", strings.Count(got, "D"), got[max(0, len(got)-20):])
	}
	// One that never reads is closed with its backend as soon as it hangs up.
	gone := loggedIn(t, s)
	gone.Write(honest('Q', "SELECT repeat('x', 1000) FROM generate_series(1, 50000)\x00")) //nolint:errcheck // the eventually tells
	waits := func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND datname = '"+s.shards[0].db+"'")[0] == "1"
	}
	eventually(t, "the server waits for its client", waits)
	gone.SetLinger(0) //nolint:errcheck // a reset
	gone.Close()
	eventually(t, "the server is free", func() bool { return !waits() })
}

var idlers = flag.Int("idlers", 0, "how many connections do not log in; 0 = as many as a run of all tests can afford")

// Thousands of connections that do nothing cost some memory each, for as long as client_login_timeout says, and nobody's time: others log in meanwhile.
func TestHostileIdlers(t *testing.T) {
	t.Parallel()
	n, timeout := 5000, 4*time.Second
	if raceEnabled {
		n = 1000
	}
	if *idlers > 0 {
		n, timeout = *idlers, time.Duration(*idlers)*time.Millisecond
	}
	s := hostileStand(t, fmt.Sprintf("client_login_timeout = %d", timeout.Milliseconds()))
	s.witness(t)
	protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
	before, threads := s.memory(t), s.metric(t, "go_goroutines")
	conns := make([]net.Conn, 0, n)
	slowest := time.Duration(0)
	s.grows(t, n*(48<<10), func(look func()) {
		for i := range n {
			nc, err := net.DialTimeout("tcp", s.addr, patience)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, nc)
			if i%(n/20) == 0 {
				begun := time.Now()
				c := s.connect(t)
				protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
				slowest = max(slowest, time.Since(begun))
				c.Close()
			}
		}
		look()
	})
	t.Logf("%.0f goroutines, %d before; the slowest login of another took %v", s.metric(t, "go_goroutines"), int(threads), slowest)
	for i, nc := range conns {
		nc.SetReadDeadline(time.Now().Add(timeout + patience)) //nolint:errcheck // ReadAll tells
		if got := listen(t, nc); got != "FATAL 57014" {
			t.Errorf("connection %d: %q", i, got)
			break
		}
	}
	for _, nc := range conns {
		nc.Close()
	}
	eventually(t, "their descriptors are free", func() bool { return len(descriptors(s.process.cmd.Process.Pid)) < 100 })
	eventually(t, "and so are their goroutines", func() bool { return s.metric(t, "go_goroutines") < threads+20 })
	if *idlers > 0 {
		least := s.memory(t)
		eventually(t, "and their memory, but for what Go keeps of goroutines and descriptors", func() bool {
			least = min(least, s.memory(t))
			return least < before+2*n<<10
		})
		t.Logf("%d kB stay", (least-before)>>10)
	}
}
