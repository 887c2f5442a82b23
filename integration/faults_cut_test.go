package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// marker stands in a script for what makes a run of it unlike all others; it is as long as what replaces it.
const marker = "MARKER00"

// script is what a client sends in one write, and in how many parts it is answered.
type script struct {
	name  string
	send  []pgproto3.FrontendMessage
	parts int
	// stores is how many rows the script leaves if it is told that it did.
	stores bool
}

func scripts() []script {
	batch := func(sql string, params ...string) []pgproto3.FrontendMessage {
		b := &pgproto3.Bind{}
		for _, p := range params {
			b.Parameters = append(b.Parameters, []byte(p))
		}
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, b, describe('P', ""), &pgproto3.Execute{}}
	}
	join := func(parts ...[]pgproto3.FrontendMessage) []pgproto3.FrontendMessage {
		var all []pgproto3.FrontendMessage
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	const rows = "SELECT '" + marker + "', g FROM generate_series(1, 20) g, (SELECT count(*) FROM orders WHERE tenant_id = 1 AND id < 0) o"
	const insert = "INSERT INTO orders VALUES (1, nextval('ids'), '" + marker + "')"
	return []script{
		{"a result", []pgproto3.FrontendMessage{simple(rows)}, 1, false},
		{"a long row", []pgproto3.FrontendMessage{simple("SELECT repeat('" + marker + "', 20000), count(*) FROM orders WHERE tenant_id = 1 AND id < 0")}, 1, false},
		{"a pipeline", join(batch(rows), batch("SELECT $1, count(*) FROM orders WHERE tenant_id = 1 AND id < 0", marker), batch(insert), []pgproto3.FrontendMessage{syncs}, batch(rows), []pgproto3.FrontendMessage{syncs}), 2, true},
		{"a transaction", []pgproto3.FrontendMessage{simple("BEGIN"), simple(insert), simple(rows), simple("COMMIT")}, 4, true},
		{"statements in one message", []pgproto3.FrontendMessage{simple("BEGIN;" + insert + ";" + rows + ";COMMIT")}, 1, true},
		{"COPY TO", []pgproto3.FrontendMessage{simple("COPY (" + rows + ") TO STDOUT")}, 1, false},
		{"COPY FROM", []pgproto3.FrontendMessage{simple("COPY orders (tenant_id, note) FROM STDIN"), copied("1\t" + marker + "\n"), done}, 1, true},
	}
}

const scriptsSchema = `
CREATE SEQUENCE ids;
CREATE TABLE orders (tenant_id bigint NOT NULL, id bigint NOT NULL DEFAULT nextval('ids'), note text, PRIMARY KEY (tenant_id, id));
`

// marked is the script's bytes with its own marker.
func (x script) marked(t testing.TB, mark string) []byte {
	t.Helper()
	var b []byte
	for _, m := range x.send {
		var err error
		if b, err = m.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	return bytes.ReplaceAll(b, []byte(marker), []byte(mark))
}

// frames are the messages of an answer, and what is left of one that was not whole.
type frames struct {
	whole  [][]byte
	part   []byte
	closed bool
	silent bool // it took too long
}

// hear reads until so many ReadyForQuery came, or the connection ended.
func hear(t testing.TB, c *pgtest.Client, parts int, patience time.Duration) frames {
	t.Helper()
	var f frames
	var in []byte
	buf := make([]byte, 64<<10)
	if err := c.Conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		for len(in) >= 5 {
			n := 1 + int(binary.BigEndian.Uint32(in[1:]))
			if len(in) < n {
				break
			}
			f.whole = append(f.whole, in[:n:n])
			if in[0] == 'Z' {
				parts--
			}
			in = in[n:]
		}
		f.part = in
		if parts == 0 {
			return f
		}
		n, err := c.Conn.Read(buf)
		in = append(in, buf[:n]...)
		if err != nil {
			f.closed, f.silent = true, errors.Is(err, os.ErrDeadlineExceeded)
			f.part = in
			return f
		}
	}
}

// split gives the frames of each part.
func (f frames) split() [][][]byte {
	var parts [][][]byte
	begun := 0
	for i, m := range f.whole {
		if m[0] == 'Z' {
			parts = append(parts, f.whole[begun:i+1])
			begun = i + 1
		}
	}
	return append(parts, f.whole[begun:])
}

func code(m []byte) string {
	var e pgproto3.ErrorResponse
	if m[0] != 'E' || e.Decode(m[5:]) != nil {
		return ""
	}
	return e.Code
}

// faultless compares an answer with what it is without a fault: each part of it is the whole, or the beginning of it and then an error.
// It returns how many errors there were.
func faultless(t testing.TB, name string, got, want frames) (errs int) {
	t.Helper()
	if got.silent {
		t.Errorf("%s: no answer", name)
		return 0
	}
	wanted := want.split()
	for i, part := range got.split() {
		k := 0
		for k < len(part) && k < len(wanted[i]) && bytes.Equal(part[k], wanted[i][k]) {
			k++
		}
		rest := part[k:]
		if len(rest) == 0 {
			if got.closed && i == len(got.split())-1 && len(got.part) > 0 && (k >= len(wanted[i]) || !bytes.HasPrefix(wanted[i][k], got.part)) {
				t.Errorf("%s: part %d ends with %q", name, i, got.part[:min(len(got.part), 100)])
			}
			continue
		}
		switch c := code(rest[0]); {
		case (c == "08006" || c == "25P02") && len(rest) == 2 && rest[1][0] == 'Z':
			errs++
		case c == "08006" && len(rest) == 1 && got.closed:
			errs++
		case len(rest) == 2 && bytes.HasPrefix(rest[0][5:], []byte("ROLLBACK\x00")) && rest[1][0] == 'Z' && errs > 0:
		default:
			t.Errorf("%s: part %d: message %d is %q", name, i, k, rest[0][:min(len(rest[0]), 200)])
			return errs
		}
	}
	return errs
}

// cutStand is a stand whose first shard is behind a proxy, with one connection.
func cutStand(t *testing.T) (*stand, *proxy) {
	t.Helper()
	s := prepare(t, spec{
		shards: 2, schema: scriptsSchema, rest: twoRanges,
		general: faultyGeneral + "default_pool_size = 1\ncheckout_timeout = 30_000\nquery_timeout = 12_000\nrollback_timeout = 500\n",
	})
	p := s.throughProxy(0)
	s.startInside()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgkennel's log:\n%s", tail(s.log.String(), 60))
		}
	})
	return s, p
}

// offsets are where an answer of the frames' length is cut: around the frames' ends, and anywhere.
func offsets(want frames, most int) []int {
	seen := make(map[int]bool)
	length := 0
	for _, m := range want.whole {
		length += len(m)
	}
	var list []int
	add := func(n int) {
		if n >= 0 && n < length && !seen[n] {
			seen[n] = true
			list = append(list, n)
		}
	}
	end := 0
	add(0)
	for _, m := range want.whole {
		end += len(m)
		for _, n := range []int{end - 1, end, end + 1, end + 5} {
			add(n)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:min(len(list), most)]
	for range most / 3 {
		add(rand.IntN(length))
	}
	add(length - 6) // in front of the last ReadyForQuery
	add(length - 1)
	return list
}

// The connection to a server is cut anywhere in an answer: the client gets an error in its place, or the end of its own connection, and
// never a byte that is not its; what it was told is stored is, and the next statement runs.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	for _, x := range scripts() {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s, p := cutStand(t)
			c, neighbour := s.connect(t), s.connect(t)
			run := 0
			play := func(mark string) frames {
				c.Write(x.marked(t, mark))
				return hear(t, c, x.parts, patience)
			}
			want := play(marker)
			if errs := faultless(t, "without a cut", want, want); errs > 0 || want.closed {
				t.Fatalf("the script itself fails: %q", want.whole)
			}
			failures, ends := 0, 0
			for _, n := range offsets(want, 14) {
				run++
				mark := fmt.Sprintf("run%05d", run)
				if p.arm(fault{after: n, reset: run%2 == 0}) == 0 {
					t.Fatal("there is no connection to cut")
				}
				got := play(mark)
				p.disarm()
				name := fmt.Sprintf("cut after %d bytes", n)
				failures += faultless(t, name, got, want.marked(mark))
				if got.closed && len(got.part) == 0 {
					t.Errorf("%s: the client's connection was closed in front of a message", name)
				}
				stored := len(s.shards[0].rows(t, "SELECT 1 FROM orders WHERE note = '"+mark+"'"))
				told := x.stores && !got.closed && told(got.split(), want.split())
				if stored > 1 || !x.stores && stored > 0 || told && stored == 0 {
					t.Errorf("%s: %d rows are stored, told %v", name, stored, told)
				}
				if got.closed {
					ends++
					c = s.connect(t)
				} else {
					c.Query("ROLLBACK")
				}
				for who, c := range map[string]*pgtest.Client{"it": c, "a neighbour": neighbour} {
					mark := fmt.Sprint(who, run)
					if got := outcome(c.Query("SELECT '" + mark + "', count(*) FROM orders WHERE tenant_id = 1 AND id < 0")); got != mark+"|0; SELECT 1; I" {
						t.Errorf("%s: then %s: %s", name, who, got)
					}
				}
				if t.Failed() {
					return
				}
			}
			if failures+ends == 0 {
				t.Error("nothing was cut")
			}
			t.Logf("%d runs, %d errors, %d connections closed", run, failures, ends)
		})
	}
}

// marked are the frames of a run with a marker of its own.
func (f frames) marked(mark string) frames {
	var whole [][]byte
	for _, m := range f.whole {
		whole = append(whole, bytes.ReplaceAll(m, []byte(marker), []byte(mark)))
	}
	return frames{whole: whole}
}

// told reports whether an answer says that all was done.
func told(got, want [][][]byte) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		for _, m := range got[i] {
			if m[0] == 'E' {
				return false
			}
		}
	}
	return true
}

// A server says what it may not: its connection is closed, its client told, and nobody else harmed.
func TestServerTalksNonsense(t *testing.T) {
	t.Parallel()
	nonsense := map[string]string{
		"zeros":                    "\x00\x00\x00\x00\x00\x00\x00\x00",
		"a length below its own":   "C\x00\x00\x00\x03",
		"a negative length":        "C\xff\xff\xff\xff",
		"a huge row":               "D\x7f\xff\xff\xff\x00\x01",
		"a negative row":           "D\xff\xff\xff\xff\x00\x01",
		"a huge tag":               "C\x7f\xff\xff\xffSELECT",
		"a huge description":       "T\x7f\xff\xff\xff\x00\x01",
		"a huge notice":            "N\x7f\xff\xff\xffS",
		"an authentication":        "R\x00\x00\x00\x08\x00\x00\x00\x00",
		"a key":                    "K\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x02",
		"an answer to a parse":     "1\x00\x00\x00\x04",
		"an answer to a bind":      "2\x00\x00\x00\x04",
		"COPY both":                "W\x00\x00\x00\x07\x00\x00\x00",
		"ready for what":           "Z\x00\x00\x00\x05X",
		"ready, and longer":        "Z\x00\x00\x00\x06II",
		"an error without an end":  "E\x00\x00\x00\x06SE",
		"a parameter without ends": "S\x00\x00\x00\x06ab",
		"HTTP":                     "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
		"a frontend's message":     "Q\x00\x00\x00\x0bSELECT\x00",
	}
	s, p := cutStand(t)
	c, neighbour, far := s.connect(t), s.connect(t), s.bystander(t, 1001)
	defer far()
	const question = "SELECT '" + marker + "', g FROM generate_series(1, 3) g, (SELECT count(*) FROM orders WHERE tenant_id = 1 AND id < 0) o"
	x := script{send: []pgproto3.FrontendMessage{simple(question)}, parts: 1}
	play := func(mark string) frames {
		c.Write(x.marked(t, mark))
		return hear(t, c, 1, patience)
	}
	want := play(marker)
	run := 0
	for name, b := range nonsense {
		at := 0
		for i, m := range append([][]byte{{}}, want.whole...) { // in front of each message; behind the last one it is said to nobody
			at += len(m)
			run++
			mark := fmt.Sprintf("run%05d", run)
			name := fmt.Sprintf("%s in front of message %d", name, i)
			if i < len(want.whole) {
				p.arm(fault{after: at, insert: []byte(b)})
			} else {
				p.say([]byte(b)) // it idles
			}
			got := play(mark)
			p.disarm()
			errs := faultless(t, name, got, want.marked(mark))
			if i < len(want.whole) && errs == 0 && !got.closed {
				t.Errorf("%s: the client was not told", name)
			}
			if got.closed {
				c = s.connect(t)
			}
			for who, c := range map[string]*pgtest.Client{"it": c, "a neighbour": neighbour} {
				mark := fmt.Sprint(who, run)
				if got := outcome(c.Query("SELECT '" + mark + "', count(*) FROM orders WHERE tenant_id = 1 AND id < 0")); got != mark+"|0; SELECT 1; I" {
					t.Errorf("%s: then %s: %s", name, who, got)
				}
			}
		}
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something broke")
	}
}
