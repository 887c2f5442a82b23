package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// hostilePatience bounds how long pgkennel may take to answer or close.
const hostilePatience = 15 * time.Second

// hostileStand is a program in a process of its own, whose clients need no password: logins are many here.
func hostileStand(t *testing.T, general string) *stand {
	t.Helper()
	if !strings.Contains(general, "default_pool_size") {
		general += "\ndefault_pool_size = 3"
	}
	s := start(t, spec{
		program: true, general: "auth_type = \"trust\"\nlog_connections = false\nlog_disconnections = false\n" + general,
		schema: "CREATE TABLE notes (id bigint, note text)",
	})
	t.Cleanup(func() {
		if strings.Contains(s.log.String(), "bug: ") {
			t.Errorf("a bug was met:\n%s", s.log.String())
		}
	})
	return s
}

// witness is a client that behaves, and looks at every answer, until the test's hostilities are over.
func (s *stand) witness(t *testing.T) {
	t.Helper()
	c := s.pgx(t, pgx.QueryExecModeCacheStatement)
	end, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for n := 0; ; n++ {
			select {
			case <-end:
				if n == 0 {
					t.Error("the witness saw nothing")
				}
				return
			default:
			}
			begun := time.Now()
			var got int
			if err := c.QueryRow(context.Background(), "SELECT $1::int + 1", n).Scan(&got); err != nil || got != n+1 {
				t.Errorf("witness: %d, %v", got, err)
				return
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("the witness waited %v", took)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		close(end)
		<-over
	})
}

// memory is the resident memory of the program, in bytes.
func (s *stand) memory(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Fatalf("no VmRSS in %s", status)
	}
	kb, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// grows runs f and fails if the program's memory grew by more than limit bytes meanwhile; f calls its argument where it wants it looked at.
func (s *stand) grows(t testing.TB, limit int, f func(look func())) {
	t.Helper()
	if raceEnabled {
		limit *= 4
	}
	before := s.memory(t)
	most := 0
	look := func() {
		t.Helper()
		grown := s.memory(t) - before
		if grown > limit && grown > most {
			t.Errorf("the program grew by %d MB, more than %d", grown>>20, limit>>20)
		}
		most = max(most, grown)
	}
	f(look)
	look()
	t.Logf("the program grew by %d kB", most>>10)
}

// raw is a socket without anything.
func raw(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(hostilePatience)) //nolint:errcheck // reads and writes tell
	return nc.(*net.TCPConn)                        //nolint:forcetypeassert // it is
}

// frame makes a message that may lie about its length.
func frame(typ byte, length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{typ}, length), body...)
}

// honest makes a message that does not.
func honest(typ byte, body string) []byte { return frame(typ, uint32(len(body)+4), body) }

// listen reads until the other side closes, and names what came: the codes of errors, the types of all other messages. A connection that is
// still open at its deadline fails the test, and so does an answer that is no whole messages.
func listen(t testing.TB, nc net.Conn) string {
	t.Helper()
	all, err := io.ReadAll(nc)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("still open after %q", all)
	}
	return messages(t, all)
}

func messages(t testing.TB, all []byte) string {
	t.Helper()
	var parts []string
	for len(all) > 0 {
		if all[0] == 'N' && (len(all) == 1 || all[1] != 0) { // no to encryption
			parts = append(parts, "no")
			all = all[1:]
			continue
		}
		if len(all) < 5 || int(binary.BigEndian.Uint32(all[1:])) > len(all)-1 || binary.BigEndian.Uint32(all[1:]) < 4 {
			t.Errorf("not a message: %.100q", all)
			break
		}
		n := int(binary.BigEndian.Uint32(all[1:])) + 1
		part := string(all[0])
		if all[0] == 'E' {
			var e pgproto3.ErrorResponse
			if err := e.Decode(all[5:n]); err != nil {
				t.Errorf("not an error: %q", all[:n])
			}
			part = e.Severity + " " + e.Code
		}
		if all[0] == 'Z' {
			part += string(all[5])
		}
		parts = append(parts, part)
		all = all[n:]
	}
	return strings.Join(parts, ", ")
}

// startupFrame makes a packet that opens a connection and may lie about its length.
func startupFrame(length uint32, words ...any) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	for _, w := range words {
		switch w := w.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(w))
		case string:
			b = append(b, w...)
		case []byte:
			b = append(b, w...)
		}
	}
	return b
}

const (
	cancelCode = 1234<<16 | 5678
	sslCode    = 1234<<16 | 5679
	gssCode    = 1234<<16 | 5680
	version30  = 3 << 16
)

// Packets that open a connection and cannot be meant well are answered with an error, or nothing, and the connection is closed without waiting
// for more.
func TestHostileStartup(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "") // client_login_timeout is a minute: it closes none of these
	s.witness(t)
	const nothing, protocol = "", "FATAL 08P01"
	type packet struct {
		name  string
		bytes []byte
		want  string
	}
	var corpus []packet
	add := func(name string, b []byte, want string) { corpus = append(corpus, packet{name, b, want}) }
	for n := range uint32(8) {
		add(fmt.Sprint("length ", n), startupFrame(n, version30, "user\x00app\x00\x00"), nothing)
		add(fmt.Sprint("length word ", n, " alone"), startupFrame(n), nothing)
	}
	names := "user\x00app\x00database\x00saas\x00"
	for _, n := range []uint32{1 << 31, 1<<31 - 1, 1<<32 - 1, 1 << 30, 10_005, 65_536} {
		add(fmt.Sprint("length ", n), startupFrame(n, version30, names), nothing)
	}
	add("length 10,001 and its bytes", startupFrame(10_005, version30, strings.Repeat("x", 10_001)), nothing)
	add("no terminator", startupFrame(uint32(8+len(names)), version30, names), protocol)
	add("odd number of strings", startupFrame(uint32(8+len(names)+5), version30, names, "odd\x00\x00"), protocol)
	add("a name without its terminator", startupFrame(12, version30, "user"), protocol)
	add("no parameters at all", startupFrame(8, version30), protocol)
	add("bytes behind the terminator", startupFrame(uint32(8+len(names)+3), version30, names, "\x00xy"), protocol)
	add("ten thousand bytes of no user", startupFrame(10_004, version30, strings.Repeat("a\x00b\x00", 2498), "abc\x00"), protocol)
	add("thousands of parameters", startupFrame(uint32(9+len(names)+2400*4), version30, names, strings.Repeat("a\x00b\x00", 2400), "\x00"), "R, FATAL 42704")
	add("ten thousand zeros", startupFrame(10_004, version30, make([]byte, 9996)), protocol)
	for _, n := range []int{0, 1, 4, 7, 261, 1000, 9996} {
		add(fmt.Sprint("cancel request of ", n), startupFrame(uint32(8+n), cancelCode, make([]byte, n)), protocol)
	}
	for _, n := range []int{8, 12, 36, 260} {
		add(fmt.Sprint("cancel request of nobody, ", n), startupFrame(uint32(8+n), cancelCode, make([]byte, n)), nothing)
	}
	add("SSLRequest of 9", startupFrame(9, sslCode, "x"), protocol)
	add("GSSENCRequest of 9", startupFrame(9, gssCode, "x"), protocol)
	add("HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), nothing)
	add("TLS without asking", append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 500)...), nothing)
	add("SSH", []byte("SSH-2.0-OpenSSH_9.2\r\n"), nothing)
	add("a Query in place of a startup", honest('Q', "SELECT 1\x00"), nothing)
	add("a console's line", []byte("\r\n\r\n"), nothing)
	// Whatever comes in one piece with a request for encryption was not sent by who asked for it, or not for us.
	for _, behind := range []string{"x", string(startupPacket(version30, "user", user, "database", cluster)), string(sslRequest), string(gssRequest)} {
		add(fmt.Sprintf("SSLRequest and %.9q", behind), append(slices.Clone(sslRequest), behind...), "no, "+protocol)
		add(fmt.Sprintf("GSSENCRequest and %.9q", behind), append(slices.Clone(gssRequest), behind...), "no, "+protocol)
	}
	random := rand.New(rand.NewPCG(7, 7))
	for i := range 50 {
		b := make([]byte, 4+random.IntN(2000))
		for k := range b {
			b[k] = byte(random.Uint32())
		}
		b[0] |= 1 // a length that can't be
		add(fmt.Sprint("random ", i), b, nothing)
	}
	for i := range 100 {
		n := random.IntN(300)
		body := make([]byte, n)
		for k := range body {
			body[k] = byte(random.Uint32() & random.Uint32() & random.Uint32()) // many zeros, and what is close to them
		}
		add(fmt.Sprint("random parameters ", i), startupFrame(uint32(8+n), version30, body), "?")
	}
	for _, p := range corpus {
		nc := raw(t, s.addr)
		nc.Write(p.bytes) //nolint:errcheck // the other side may be faster
		got := listen(t, nc)
		nc.Close()
		if p.want == "?" {
			if got != protocol && got != "FATAL 28000" && got != "FATAL 0A000" && !strings.HasSuffix(got, "FATAL 28P01") {
				t.Errorf("%s: %s", p.name, got)
			}
			continue
		}
		if got != p.want {
			t.Errorf("%s: %q, not %q", p.name, got, p.want)
		}
	}
	// Half a packet, and gone.
	for n := range 33 {
		nc := raw(t, s.addr)
		whole := startupPacket(version30, "user", user, "database", cluster)
		nc.Write(whole[:min(n, len(whole)-1)]) //nolint:errcheck // Close follows
		if n%2 == 0 {
			nc.SetLinger(0) //nolint:errcheck // a reset in the place of a goodbye
		}
		nc.Close()
	}
	eventually(t, "nobody is left but the witness", func() bool { return s.metric(t, "session_clients") == 1 && len(s.console(t, "SHOW CLIENTS")) == 2 })
}

// loggedIn is a socket whose login is through.
func loggedIn(t testing.TB, s *stand) *net.TCPConn {
	t.Helper()
	nc := raw(t, s.addr)
	if _, err := nc.Write(startupPacket(version30, "user", user, "database", cluster)); err != nil {
		t.Fatal(err)
	}
	untilReady(t, nc)
	return nc
}

// untilReady reads up to ReadyForQuery or the end, one message after the other, and returns what came.
func untilReady(t testing.TB, nc net.Conn) string {
	t.Helper()
	var all []byte
	for {
		var head [5]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("no answer after %q", all)
			}
			return messages(t, all) + ", closed"
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(nc, body); err != nil {
			t.Errorf("half a message: %q", head)
			return "cut"
		}
		all = append(append(all, head[:]...), body...)
		if head[0] == 'Z' {
			return messages(t, all)
		}
	}
}

// Every type of message, with every length that can't be, before and after the login: answered, or closed, and what is not a message of the
// protocol is never waited for.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	known := "BCDEFHPQSXcdf"
	small := "CDEHSXcf" // a few names at most: PostgreSQL takes no more than 10,000 bytes of them
	var wg sync.WaitGroup
	lanes := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	for typ := range 256 {
		wg.Go(func() {
			lanes <- struct{}{}
			defer func() { <-lanes }()
			name := string(rune(typ))
			for i, length := range []uint32{0, 1, 2, 3, 1 << 31, 1<<31 - 1, 1<<32 - 1, 1<<30 + 1} {
				if raceEnabled && i%4 != typ%4 {
					continue // the detector makes logins dear
				}
				nc := loggedIn(t, s)
				nc.Write(frame(byte(typ), length, "xx")) //nolint:errcheck // the other side may be faster
				if got := listen(t, nc); got != "FATAL 08P01" {
					t.Errorf("type %d, length %d: %q", typ, length, got)
				}
				nc.Close()
			}
			if !strings.Contains(known, name) {
				if raceEnabled && typ%4 != 0 {
					return
				}
				for _, length := range []uint32{4, 8, 1000, 1 << 29} {
					nc := loggedIn(t, s)
					nc.Write(frame(byte(typ), length, "")) //nolint:errcheck // the other side may be faster
					if got := listen(t, nc); got != "FATAL 08P01" {
						t.Errorf("type %d, length %d: %q", typ, length, got)
					}
					nc.Close()
				}
				return
			}
			if strings.Contains(small, name) {
				nc := loggedIn(t, s)
				nc.Write(frame(byte(typ), 10_001, "x")) //nolint:errcheck // the other side may be faster
				if got := listen(t, nc); got != "FATAL 08P01" && typ != 'X' {
					t.Errorf("type %c, length 10,001: %q", typ, got)
				}
				nc.Close()
			}
			for n := range 5 { // a length that can be
				nc := loggedIn(t, s)
				nc.Write(append(honest(byte(typ), "\x00\x00\x00\x00"[:n]), honest('S', "")...)) //nolint:errcheck // the other side may be faster
				nc.CloseWrite()                                                                 //nolint:errcheck // as above
				if got := listen(t, nc); !strings.HasSuffix(got, "FATAL 08P01") && !strings.HasSuffix(got, "ZI") && typ != 'X' {
					t.Errorf("type %c, %d bytes: %q", typ, n, got)
				}
				nc.Close()
			}
		})
	}
	// Before the login there is nothing to say but a startup packet, and then a password.
	passwords := start(t, spec{program: true, general: "log_connections = false"})
	for typ := range 256 {
		for _, length := range []uint32{0, 3, 4, 1 << 31, 1 << 30, 70_000} {
			if typ == 'p' && length == 4 {
				continue
			}
			nc := raw(t, passwords.addr)
			nc.Write(append(startupPacket(version30, "user", user, "database", cluster), frame(byte(typ), length, "")...)) //nolint:errcheck // the other side may be faster
			want := "R, FATAL 08P01"
			if typ == 'X' {
				want = "R"
			}
			if got := listen(t, nc); got != want {
				t.Errorf("before the login, type %d, length %d: %q", typ, length, got)
			}
			nc.Close()
		}
	}
	wg.Wait()
}

// Conversations with bytes changed, left out and put in: whatever it becomes, it ends with the client, and harms nobody else.
func TestHostileMutations(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var streams [][]byte
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range conversations {
			if !yield(name) {
				return
			}
		}
	}) {
		b := startupPacket(version30, "user", user, "database", cluster)
		for _, m := range conversations[name] {
			var err error
			if b, err = m.Encode(b); err != nil {
				t.Fatal(err)
			}
		}
		streams = append(streams, b)
	}
	startup := len(startupPacket(version30, "user", user, "database", cluster))
	end := time.Now().Add(*soak / 3)
	var wg sync.WaitGroup
	lanes := make(chan struct{}, 8)
	n := 0
	for ; time.Now().Before(end); n++ {
		b := slices.Clone(streams[random.IntN(len(streams))])
		for range 1 + random.IntN(3) {
			at := random.IntN(len(b))
			if random.IntN(8) > 0 {
				at = startup + random.IntN(len(b)-startup)
			}
			switch random.IntN(5) {
			case 0:
				b[at] = byte(random.Uint32())
			case 1:
				b[at] ^= 1 << random.IntN(8)
			case 2:
				b = slices.Delete(b, at, min(len(b), at+1+random.IntN(4)))
			case 3:
				b = slices.Insert(b, at, b[max(0, at-random.IntN(30)):at]...)
			case 4:
				other := streams[random.IntN(len(streams))]
				b = append(b[:at], other[startup+random.IntN(len(other)-startup):]...)
			}
			if len(b) <= startup {
				break
			}
		}
		lanes <- struct{}{}
		wg.Go(func() {
			defer func() { <-lanes }()
			nc := raw(t, s.addr)
			defer nc.Close()
			nc.Write(b)     //nolint:errcheck // the other side may be faster
			nc.CloseWrite() //nolint:errcheck // as above
			all, err := io.ReadAll(nc)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q is still served; heard %q", b, all)
			}
		})
	}
	wg.Wait()
	t.Logf("%d conversations", n)
	eventually(t, "nobody is left but the witness", func() bool { return s.metric(t, "session_clients") == 1 })
}

// fuzzed says how the inputs of pgwire's fuzz targets go over the wire: as they come before the login, or as messages behind it.
var fuzzed = map[string]struct {
	before func(in string) []byte
	behind []byte // types of messages whose body the input is; 0 = the input has a header of its own
}{
	"FuzzHeader":        {before: func(in string) []byte { return []byte(in) }, behind: []byte{0}},
	"FuzzDecodeStartup": {before: func(in string) []byte { return []byte(in) }},
	"FuzzParseOptions": {before: func(in string) []byte {
		return startupPacket(version30, "user", user, "database", cluster, "options", in)
	}},
	"FuzzDecodeParse": {behind: []byte("P")},
	"FuzzDecodeBind":  {behind: []byte("B")},
	"FuzzDecodeSmall": {behind: []byte("QDECfpFXSH")},
}

// The corpora of pgwire's fuzz targets: each input ends with the client that sent it, and harms nobody else.
func TestHostileCorpora(t *testing.T) {
	t.Parallel()
	s := hostileStand(t, "")
	s.witness(t)
	ends := func(file string, nc *net.TCPConn, b []byte) {
		t.Helper()
		defer nc.Close()
		nc.Write(b)     //nolint:errcheck // the other side may be faster
		nc.CloseWrite() //nolint:errcheck // as above
		if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %q is still served", file, b)
		}
	}
	for target, how := range fuzzed {
		files, err := filepath.Glob("../pooler/pgwire/testdata/fuzz/" + target + "/*")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no corpus: %v", target, err)
		}
		for _, file := range files {
			in := fuzzInput(t, file)
			if how.before != nil {
				ends(file, raw(t, s.addr), how.before(in))
			}
			for _, typ := range how.behind {
				b := []byte(in)
				if typ != 0 {
					b = honest(typ, in)
				}
				ends(file, loggedIn(t, s), b)
			}
		}
	}
	eventually(t, "nobody is left but the witness", func() bool { return s.metric(t, "session_clients") == 1 })
}

// fuzzInput reads a file of a corpus with one input, as the go command writes it: go test fuzz v1, and a line such as []byte("...").
func fuzzInput(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "\n")
	_, quoted, _ := strings.Cut(strings.TrimSpace(line), "(")
	in, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return in
}
