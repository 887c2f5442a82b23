package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// Peers that are slow, or silent, on purpose: each costs what it holds, for as long as a time-out says, and nobody else waits for it.

// entered is a socket whose login is through, over TLS if ca is not nil.
func entered(t testing.TB, s *stand, ca *pgtest.CA) net.Conn {
	t.Helper()
	nc := dialled(t, s, ca)
	if _, err := nc.Write(startupPacket(version30, "user", user, "database", cluster)); err != nil {
		t.Fatal(err)
	}
	if got := untilReady(t, nc); !strings.HasSuffix(got, "ZI") {
		t.Fatalf("login: %s", got)
	}
	return nc
}

func encrypted(t testing.TB, nc net.Conn, ca *pgtest.CA) *tls.Conn {
	t.Helper()
	nc.Write(sslRequest) //nolint:errcheck // the answer tells
	answer := make([]byte, 1)
	if _, err := io.ReadFull(nc, answer); err != nil || answer[0] != 'S' {
		t.Fatalf("SSLRequest: %q, %v", answer, err)
	}
	over := tls.Client(nc, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"})
	if err := over.Handshake(); err != nil {
		t.Fatal(err)
	}
	return over
}

// bare is the socket that TLS goes over.
func bare(nc net.Conn) *net.TCPConn {
	if over, ok := nc.(*tls.Conn); ok {
		nc = over.NetConn()
	}
	return nc.(*net.TCPConn) //nolint:forcetypeassert // it is TCP
}

// used is how many backends are lent.
func (s *stand) used(t testing.TB) float64 { t.Helper(); return s.metric(t, "pool_backends_used") }

// runs is how many server processes are at something that begins so.
func (s *stand) runs(t testing.TB, query string) string {
	t.Helper()
	return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '"+query+"%' AND datname = '"+s.shards[0].db+"'")[0]
}

// blocked is how many server processes wait for their clients to read.
func (s *stand) blocked(t testing.TB) string {
	t.Helper()
	return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND datname = '"+s.shards[0].db+"'")[0]
}

// seldom is eventually for what is dear to ask.
func seldom(t testing.TB, what string, f func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		time.Sleep(100 * time.Millisecond)
		return f()
	})
}

// Results of 50 MB: of rows that no reading from a server ends with, and of rows of 32 bytes, that most do.
const (
	longRows  = "SELECT repeat('x', 100000) FROM generate_series(1, 500)"
	shortRows = "SELECT repeat('x', 21) FROM generate_series(1, 1000) AS a, generate_series(1, 1600) AS b"
)

// What comes a byte at a time, from either side, is as good as what comes at once.
func TestTrickle(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	testbed.EachDriver(t, func(t *testing.T) {
		s := prepare(t, spec{general: offered + "auth_type = \"trust\"", schema: "CREATE TABLE notes (id bigint, note text)"})
		p := s.throughProxy(0)
		s.startInside()
		entered(t, s, nil).Close() // the parameters are known
		p.trickles.Store(true)
		for _, ca := range []*pgtest.CA{nil, ca} {
			t.Run(fmt.Sprintf("TLS is %v", ca != nil), func(t *testing.T) {
				t.Parallel()
				var nc net.Conn = raw(t, s.addr)
				if ca != nil {
					nc = encrypted(t, nc, ca)
				}
				say := func(want string, messages ...[]byte) {
					t.Helper()
					for _, b := range slices.Concat(messages...) {
						if _, err := nc.Write([]byte{b}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Millisecond) // a packet each
					}
					if got := untilReady(t, nc); !strings.HasSuffix(got, want) {
						t.Errorf("heard %s, want %s", got, want)
					}
				}
				say("K, ZI", startupPacket(version30, "user", user, "database", cluster))
				say("T, D, C, ZI", honest('Q', "SELECT 'abc'\x00"))
				say("1, 2, D, C, ZI", honest('P', "\x00SELECT 1\x00\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), honest('E', "\x00\x00\x00\x00\x00"), honest('S', ""))
				say("G, C, ZI", honest('Q', "COPY notes FROM STDIN\x00"), honest('d', "1\ta\n2"), honest('d', "\tb\n"), honest('c', ""))
				say("H, d, d, c, C, ZI", honest('Q', "COPY (SELECT 1 UNION SELECT 2) TO STDOUT\x00"))
			})
		}
	})
}

// Clients that read a byte now and then, bare and over TLS, have what they are sent kept by the server, and nobody waits for them. What runs longer than
// query_timeout because of that is given up: who was in the middle of a message is gone, though it does not even read that, and who was not reads why.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	testbed.EachDriver(t, func(t *testing.T) {
		s := hostileStand(t, offered+"query_timeout = 1_000\nrollback_timeout = 500\ndefault_pool_size = 5")
		s.witness(t)
		slow := map[string]net.Conn{
			longRows: entered(t, s, nil), "COPY (" + longRows + ") TO STDOUT": entered(t, s, ca),
			shortRows: entered(t, s, ca), "COPY (" + shortRows + ") TO STDOUT": entered(t, s, nil),
		}
		began := make(map[string][]byte)       // of each, what was read in time
		s.grows(t, 40<<20, func(look func()) { // of 200 MB
			for query, c := range slow {
				began[query] = make([]byte, 3)
				c.Write(honest('Q', query+"\x00")) //nolint:errcheck // what follows tells
			}
			seldom(t, "all servers wait for their clients", func() bool {
				look()
				return s.blocked(t) == "4"
			})
			for i := range 3 {
				for query, c := range slow {
					if _, err := io.ReadFull(c, began[query][i:i+1]); err != nil {
						t.Fatal(err)
					}
				}
				look()
			}
			seldom(t, "their servers are free", func() bool { look(); return s.used(t) <= 1 })
		})
		for query, c := range slow {
			if strings.Contains(query, shortRows) {
				if got := lastWords(t, io.MultiReader(bytes.NewReader(began[query]), c)); got != "" && got != "ERROR 08006, ZI" {
					t.Errorf("%s: heard %q at the end", query, got)
				}
				c.Close()
			}
		}
		seldom(t, "and they are gone", func() bool { return s.metric(t, "session_clients") == 1 })
	})
}

// lastWords reads rows until something else comes, or the end, which it names: "" is a connection that has ended.
func lastWords(t testing.TB, r io.Reader) string {
	t.Helper()
	in := bufio.NewReader(r)
	var said []byte
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(in, head); err != nil {
			return messages(t, said)
		}
		size := binary.BigEndian.Uint32(head[1:]) - 4
		if strings.ContainsRune("TDHd", rune(head[0])) {
			io.CopyN(io.Discard, in, int64(size)) //nolint:errcheck // the next message tells
			continue
		}
		body := make([]byte, size)
		io.ReadFull(in, body) //nolint:errcheck // what is missing is told
		if said = append(append(said, head...), body...); head[0] == 'Z' {
			return messages(t, said)
		}
	}
}

// A login has client_login_timeout, whatever is said in the meantime, and wherever it stops.
func TestSlowLogins(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{general: offered + "client_login_timeout = 700"})
		hello := startupPacket(version30, "user", user, "database", cluster)
		scram := honest('p', "SCRAM-SHA-256\x00\x00\x00\x00\x20n,,n=,r=abcdefghijklmnopqrstuvwx")
		stall := func(b []byte, answer byte) func(t testing.TB, nc net.Conn) net.Conn {
			return func(t testing.TB, nc net.Conn) net.Conn {
				t.Helper()
				nc.Write(b) //nolint:errcheck // what is read tells
				if answer == 0 {
					return nc
				}
				got := make([]byte, 1)
				if _, err := io.ReadFull(nc, got); err != nil || got[0] != answer {
					t.Errorf("%q: %q, %v", b, got, err)
				}
				if answer == 'R' {
					io.CopyN(io.Discard, nc, 23) //nolint:errcheck // what is read next tells
				}
				return nc
			}
		}
		const late = "FATAL 57014"
		var all sync.WaitGroup
		for name, x := range map[string]struct {
			until func(t testing.TB, nc net.Conn) net.Conn
			want  string // what is heard then
		}{
			"nothing":               {stall(nil, 0), late},
			"half a startup packet": {stall(hello[:9], 0), late},
			"GSSENCRequest":         {stall(gssRequest, 'N'), late},
			"half a cancel request": {stall([]byte{0, 0, 0, 16, 4, 210, 22, 46, 0}, 0), late},
			"SSLRequest":            {stall(sslRequest, 'S'), ""},
			"half a handshake":      {stall(sslRequest, 'S'), ""},
			"handshake":             {func(t testing.TB, nc net.Conn) net.Conn { t.Helper(); return encrypted(t, nc, ca) }, late},
			"handshake, half startup": {func(t testing.TB, nc net.Conn) net.Conn {
				t.Helper()
				return stall(hello[:9], 0)(t, encrypted(t, nc, ca))
			}, late},
			"startup":               {stall(hello, 'R'), late},
			"half of SCRAM":         {stall(append(slices.Clip(hello), scram[:20]...), 'R'), late},
			"SCRAM's first message": {stall(append(slices.Clip(hello), scram...), 'R'), "R, " + late},
		} {
			begun := time.Now() // the server's time begins when it has come
			nc := raw(t, s.addr)
			all.Go(func() {
				nc := x.until(t, nc)
				if name == "half a handshake" {
					nc.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) //nolint:errcheck // what is read tells
				}
				if got := listen(t, nc); got != x.want {
					t.Errorf("%s: heard %q, want %q", name, got, x.want)
				}
				if took := time.Since(begun); took < 600*time.Millisecond || took > 10*time.Second {
					t.Errorf("%s: it took %v", name, took)
				}
			})
		}
		all.Wait()
	})
}

// Clients that stop in the middle of what they say keep a backend for query_timeout, and no longer.
func TestSlowWriters(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{
			general: offered + "auth_type = \"trust\"\ndefault_pool_size = 20\nquery_timeout = 700\nrollback_timeout = 300\nclient_idle_in_transaction_timeout = 700",
			schema:  "CREATE TABLE notes (id bigint, note text)",
		})
		for _, ca := range []*pgtest.CA{nil, ca} {
			for name, b := range map[string][]byte{
				"COPY":         append(honest('Q', "COPY notes FROM STDIN\x00"), honest('d', "1\ta\n")...),
				"half a row":   append(honest('Q', "COPY notes FROM STDIN\x00"), frame('d', 1000, "1\t")...),
				"Flush":        append(append(append(honest('P', "\x00SELECT 1\x00\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x00\x00\x00")...), honest('E', "\x00\x00\x00\x00\x00")...), honest('H', "")...),
				"transaction":  honest('Q', "BEGIN; SELECT 1\x00"),
				"half a Query": append(honest('Q', "BEGIN; SELECT 1\x00"), frame('Q', 1000, "SEL")...),
			} {
				c := entered(t, s, ca)
				c.Write(b) //nolint:errcheck // what follows tells
				one := make([]byte, 1)
				if _, err := io.ReadFull(c, one); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		begun := time.Now()
		seldom(t, "the backends are free", func() bool { return s.used(t) == 0 })
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the backends were kept for %v", took)
		}
	})
}

// A server that reads nothing more holds up its client, of which no more is read than is bounded; when the client goes away, however it does, its backend is
// given up without a word from the server.
func TestSlowServers(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	testbed.EachDriver(t, func(t *testing.T) {
		s := prepare(t, spec{
			general: offered + "auth_type = \"trust\"\ndefault_pool_size = 2\nrollback_timeout = 300\ncheckout_timeout = 30_000\nconnect_timeout = 1_000",
			schema:  "CREATE TABLE notes (id bigint, note text)", program: true,
		})
		p := s.throughProxy(0)
		s.startProgram(nil)
		var clients []net.Conn
		for _, ca := range []*pgtest.CA{nil, ca} {
			nc := entered(t, s, ca)
			nc.Write(honest('Q', "BEGIN; SELECT 1\x00")) //nolint:errcheck // the answer tells
			untilReady(t, nc)
			clients = append(clients, nc)
		}
		p.freeze()
		s.grows(t, 24<<20, func(look func()) {
			for _, nc := range clients {
				copied := honest('d', strings.Repeat("1\tx\n", 50_000))
				b := append(honest('Q', "COPY notes FROM STDIN\x00"), copied...)
				sent := 0
				for {
					nc.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)) //nolint:errcheck // it is a means
					n, err := nc.Write(b)
					if sent += n; errors.Is(err, os.ErrDeadlineExceeded) {
						break
					}
					if err != nil || sent > 256<<20 {
						t.Fatalf("%d bytes were taken: %v", sent, err)
					}
					b = copied
				}
			}
			look()
		})
		for i, nc := range clients {
			if i%2 == 0 {
				bare(nc).SetLinger(0) //nolint:errcheck // a reset
			}
			bare(nc).Close()
		}
		begun := time.Now()
		seldom(t, "the clients are gone", func() bool { return s.metric(t, "session_clients") == 0 })
		seldom(t, "their backends are given up", func() bool { return s.used(t) == 0 })
		t.Logf("%v after the clients had gone", time.Since(begun))
		p.thaw()
		c := entered(t, s, nil)
		c.Write(honest('Q', "SELECT count(*) FROM notes\x00")) //nolint:errcheck // the answer tells
		if got := untilReady(t, c); got != "T, D, C, ZI" {
			t.Errorf("then: %s", got)
		}
	})
}

// A client that has shut down its sending half hears what it has asked for, as from PostgreSQL, and is gone then, or when it leaves that unread; what one asked for
// that has closed its connection is cancelled.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	sleep := func(seconds string) string { return string(honest('Q', "SELECT 1 FROM pg_sleep("+seconds+")\x00")) }
	rows := func(n int) string {
		return string(honest('Q', fmt.Sprintf("SELECT repeat('x', 1000) FROM generate_series(1, %d)\x00", n)))
	}
	half := func(nc net.Conn) { nc.(interface{ CloseWrite() error }).CloseWrite() } //nolint:errcheck,forcetypeassert // what is read tells
	reset := func(nc net.Conn) { bare(nc).SetLinger(0); bare(nc).Close() }          //nolint:errcheck // it is TCP
	hangUp := func(nc net.Conn) { bare(nc).Close() }
	const nothing = "-"
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{
			general: offered + "auth_type = \"trust\"\ndefault_pool_size = 40\nrollback_timeout = 500", rest: "[tcp]\nuser_timeout = 1_500\n",
			schema: "CREATE TABLE notes (id bigint, note text)",
		})
		var all sync.WaitGroup
		for _, ca := range []*pgtest.CA{nil, ca} {
			for name, x := range map[string]struct {
				say  string
				ends func(nc net.Conn)
				want string // what is heard then
			}{
				"idle":             {"", half, ""},
				"in a message":     {"Q\x00\x00\x00\x50SELECT", half, ""},
				"in a transaction": {string(honest('Q', "BEGIN; SELECT 1\x00")), half, "C, T, D, C, ZT"},
				"behind a COPY that failed": {string(slices.Concat(honest('P', "\x00COPY notes FROM STDIN\x00\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x00\x00\x00"),
					honest('E', "\x00\x00\x00\x00\x00"), honest('S', ""), honest('f', "no\x00"))), half, "1, 2, G, ERROR 57014"},
				"in a COPY":              {string(honest('Q', "COPY notes FROM STDIN\x00")), half, "G"},
				"behind a Flush":         {string(append(honest('P', "\x00SELECT 1\x00\x00\x00"), honest('H', "")...)), half, "1"},
				"before the answer":      {sleep("0.2") + sleep("0.2"), half, "T, D, C, ZI, T, D, C, ZI"},
				"long before the answer": {sleep("1.5"), half, "S, T, D, C, ZI"},
				"in a result":            {rows(300), half, "T, " + strings.Repeat("D, ", 300) + "C, ZI"},
				"reads nothing":          {rows(50_000), half, nothing},
				"gone":                   {sleep("100"), hangUp, nothing},
				"gone with more to say":  {sleep("101") + strings.Repeat(string(honest('S', "")), 100_000), hangUp, nothing},
				"reset":                  {sleep("102"), reset, nothing},
			} {
				nc := entered(t, s, ca)
				bare(nc).SetReadBuffer(8 << 10) //nolint:errcheck // what is read tells
				all.Go(func() {
					if len(x.say) > 100_000 {
						go nc.Write([]byte(x.say)) //nolint:errcheck // as far as it is read
					} else {
						nc.Write([]byte(x.say)) //nolint:errcheck // what is read tells
					}
					if strings.Contains(x.say, "(10") {
						seldom(t, "the statement runs", func() bool { return s.runs(t, x.say[5:31]) != "0" })
					}
					x.ends(nc)
					if x.want == nothing {
						return
					}
					if got := listen(t, nc); got != x.want {
						t.Errorf("%s, TLS is %v: heard %.300s, want %.300s", name, ca != nil, got, x.want)
					}
				})
			}
		}
		all.Wait()
		begun := time.Now()
		seldom(t, "all are gone", func() bool { return s.metric(t, "session_clients") == 0 })
		seldom(t, "their backends are free", func() bool { return s.used(t) == 0 })
		seldom(t, "nothing runs any more", func() bool { return s.runs(t, "SELECT") == "1" }) // which is the question
		t.Logf("all were gone %v after the last word", time.Since(begun))
	})
}

// A server that has shut down its side is not used any more, nor is its connection kept.
func TestHalfClosedServers(t *testing.T) {
	t.Parallel()
	testbed.EachDriver(t, func(t *testing.T) {
		s := prepare(t, spec{general: "default_pool_size = 2\nmin_pool_size = 0"})
		p := s.throughProxy(0)
		s.startInside()
		c := s.connect(t)
		for range 5 {
			protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
			var ended []*wire
			p.each(func(w *wire) {
				w.client.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // what follows tells
				ended = append(ended, w)
			})
			if len(ended) == 0 {
				t.Fatal("there is no connection")
			}
			seldom(t, "pgkennel closes its side, too", func() bool {
				open := false
				p.each(func(w *wire) { open = open || slices.Contains(ended, w) })
				return !open
			})
		}
		if n := s.metric(t, "session_errors_total"); n != 0 {
			t.Errorf("%v errors", n)
		}
	})
}

// TestHalfClosedInCopies: a client that says no more in the middle of a message of a COPY that has failed, or behind one to which it owes a Sync, is gone when it
// has heard what there is to hear, and its backend is free.
func TestHalfClosedInCopies(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	offered := secured(ca, "")
	const copies = "COPY notes FROM STDIN\x00"
	query := honest('Q', copies)
	execute := slices.Concat(honest('P', "\x00"+copies+"\x00\x00"), honest('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), honest('E', "\x00\x00\x00\x00\x00"))
	good, done := honest('d', "1\tx\n"), honest('c', "")
	bad, half := honest('d', "no number\tx\n"), frame('d', 1000, "1\tx")
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{
			general: offered + "auth_type = \"trust\"\ndefault_pool_size = 20\nrollback_timeout = 500", schema: "CREATE TABLE notes (id bigint, note text)",
		})
		for _, ca := range []*pgtest.CA{nil, ca} {
			for name, x := range map[string]struct {
				say  []byte
				want string // what is heard; the rest is not always told
			}{
				"Query":              {slices.Concat(query, bad, half), "G, ERROR 22P02, ZI"},
				"Query, of the head": {slices.Concat(query, bad, half[:3]), "G, ERROR 22P02, ZI"},
				"in a transaction":   {slices.Concat(honest('Q', "BEGIN\x00"), query, bad, half), "C, ZT, G, ERROR 22P02, ZE"},
				"Flush":              {slices.Concat(execute, honest('H', ""), bad, half), "1, 2, G, ERROR 22P02"},
				"Sync":               {slices.Concat(execute, honest('S', ""), bad, half), "1, 2, G, ERROR 22P02"},
				// The server answers this at the Sync that is to come; the one that came it has taken for part of the COPY.
				"all of it":             {slices.Concat(execute, honest('H', ""), good, done), "1, 2, G"},
				"all of it behind Sync": {slices.Concat(execute, honest('S', ""), good, done), "1, 2, G"},
			} {
				t.Run(fmt.Sprintf("%s, TLS is %v", name, ca != nil), func(t *testing.T) {
					t.Parallel()
					nc := entered(t, s, ca)
					nc.Write(x.say) //nolint:errcheck // what is read tells
					heard := untilOver(t, nc, x.want)
					nc.(interface{ CloseWrite() error }).CloseWrite() //nolint:errcheck,forcetypeassert // what is read tells
					rest, err := io.ReadAll(nc)
					if got := messages(t, append(heard, rest...)); strings.TrimSuffix(got, ", S") != x.want || err != nil { // it may be asked whether it is there
						t.Errorf("heard %s, %v, want %s", got, err, x.want)
					}
				})
			}
		}
		t.Cleanup(func() { // behind all of them
			eventually(t, "their backends are free", func() bool { return s.used(t) == 0 && s.metric(t, "session_clients") == 0 })
		})
	})
}

// untilOver reads up to an error, where one is wanted, one message after the other, and returns what came.
func untilOver(t testing.TB, nc net.Conn, want string) (all []byte) {
	t.Helper()
	for strings.Contains(want, "ERROR") {
		head := make([]byte, 5)
		if _, err := io.ReadFull(nc, head); err != nil {
			t.Fatalf("%v behind %q", err, all)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(nc, body); err != nil {
			t.Fatalf("%v in %q", err, head)
		}
		all = append(append(all, head...), body...)
		if head[0] == 'E' {
			break
		}
	}
	return all
}
