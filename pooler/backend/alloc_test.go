package backend

import (
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// counter is an owner that asks for the next unit when one is done, and allocates nothing.
type counter struct {
	conn         *Conn
	bytes, ready int
	unit         []Step
}

func (o *counter) Relay(b []byte)           { o.bytes += len(b) }
func (o *counter) Complete(*Step, []byte)   {}
func (o *counter) Failed(*Step, []byte)     {}
func (o *counter) Skipped(*Step)            {}
func (o *counter) CopyIn(*Step, []byte)     {}
func (o *counter) Parameter(string, string) {}
func (o *counter) Ready(*Step, pgwire.TxStatus) {
	if o.conn.Pending() == 0 {
		o.ready++
		o.ask()
	}
}

func (o *counter) ask() {
	for _, s := range o.unit {
		o.conn.Ask(s)
	}
}

// steady are answers of which each leaves the machine as it found it.
var steady = map[string]struct{ steps, stream string }{
	"simple":      {"Q", "T D:1 D:2 C:SELECT_2 Z"},
	"prepared":    {"B E S", "2 D:1 C:SELECT_1 Z"},
	"extended":    {"P L B d E S", "1 2 T D:1 C:SELECT_1 Z"},
	"transaction": {"Pi Bi Ei Qi Q", "1 2 C:BEGIN C:SET Z:T T D:1 C:SELECT_1 Z:T"},
	"parameter":   {"Q", "C:SET S:TimeZone=UTC Z"},
	"notice":      {"Q", "N:x C:SET N:y Z"},
	"error":       {"P B E S", "1 E Z"},
}

func TestFeedAllocatesNothing(t *testing.T) {
	for name, c := range steady {
		conn, _ := newConn(nil)
		o := &counter{conn: conn, unit: steps(c.steps)}
		conn.Own(o)
		o.ask()
		b := stream(c.stream)
		whole := func() {
			if err := conn.Feed(b); err != nil {
				t.Fatal(err)
			}
		}
		whole()
		if n := testing.AllocsPerRun(100, whole); n != 0 {
			t.Errorf("%s: got %v allocations an answer, want 0", name, n)
		}
		cut := func() {
			for i := 0; i < len(b); i += 7 {
				if err := conn.Feed(b[i:min(i+7, len(b))]); err != nil {
					t.Fatal(err)
				}
			}
		}
		cut()
		if n := testing.AllocsPerRun(100, cut); n != 0 && !underRace { // the race detector has pools forget
			t.Errorf("%s: got %v allocations an answer in pieces, want 0", name, n)
		}
		if want := 204; o.ready != want {
			t.Errorf("%s: %d answers, want %d", name, o.ready, want)
		}
	}
}

func TestRowsAllocateNothing(t *testing.T) {
	conn, _ := newConn(steps("Q"))
	o := &counter{conn: conn}
	conn.Own(o)
	row := stream("D:" + strings.Repeat("x", 1000))
	var b []byte
	for range 100 {
		b = append(b, row...)
	}
	feed := func() {
		for i := 0; i < len(b); i += 16 << 10 { // as a socket is read
			if err := conn.Feed(b[i:min(i+16<<10, len(b))]); err != nil {
				t.Fatal(err)
			}
		}
	}
	feed()
	if n := testing.AllocsPerRun(20, feed); n != 0 {
		t.Errorf("got %v allocations for 100 rows, want 0", n)
	}
	if want := 22 * len(b); o.bytes != want {
		t.Errorf("relayed %d bytes, want %d", o.bytes, want)
	}
}

func BenchmarkFeed(b *testing.B) {
	for name, c := range steady {
		b.Run(name, func(b *testing.B) {
			conn, _ := newConn(nil)
			o := &counter{conn: conn, unit: steps(c.steps)}
			conn.Own(o)
			o.ask()
			answer := stream(c.stream)
			b.ReportAllocs()
			b.SetBytes(int64(len(answer)))
			for b.Loop() {
				if err := conn.Feed(answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("rows", func(b *testing.B) {
		conn, _ := newConn(steps("Q"))
		conn.Own(&counter{conn: conn})
		var rows []byte
		for range 160 {
			rows = append(rows, stream("D:"+strings.Repeat("x", 90))...)
		}
		b.ReportAllocs()
		b.SetBytes(int64(len(rows)))
		for b.Loop() {
			if err := conn.Feed(rows); err != nil {
				b.Fatal(err)
			}
		}
	})
}
