package admin

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func TestConnRules(t *testing.T) {
	t.Parallel()
	parse := func(name, sql string) []byte { return pgwire.AppendParse(nil, name, sql, nil) }
	bind := func(portal, statement string) []byte {
		return pgwire.AppendBind(nil, portal, statement, pgwire.FormatText, nil, pgwire.FormatText)
	}
	for _, c := range []struct {
		name string
		in   [][]byte
		want string
		done bool
	}{
		{
			"errors pass over everything up to Sync",
			[][]byte{parse("", "FOO"), bind("", ""), pgwire.AppendExecute(nil, "", 0), pgwire.AppendQuery(nil, "RELOAD"), pgwire.AppendFlush(nil), pgwire.AppendSync(nil), pgwire.AppendQuery(nil, "")},
			"ERROR 42601|ReadyForQuery I|EmptyQueryResponse|ReadyForQuery I", false,
		},
		{
			"a prepared statement runs again and again",
			[][]byte{parse("s", "SHOW STATE"), bind("", "s"), pgwire.AppendExecute(nil, "", 1), pgwire.AppendSync(nil), bind("", "s"), pgwire.AppendExecute(nil, "", 1), pgwire.AppendSync(nil)},
			"ParseComplete|BindComplete|  active | yes|PortalSuspended|ReadyForQuery I|BindComplete|  active | yes|PortalSuspended|ReadyForQuery I", false,
		},
		{"a name is taken", [][]byte{parse("s", "SHOW LISTS"), parse("s", "SHOW LISTS")}, "ParseComplete|ERROR 42P05", false},
		{"the unnamed one is not", [][]byte{parse("", "RELOAD"), parse("", "RELOAD")}, "ParseComplete|ParseComplete", false},
		{"the unnamed one goes with a failed Parse", [][]byte{parse("", "RELOAD"), parse("", "FOO"), pgwire.AppendSync(nil), bind("", "")}, "ParseComplete|ERROR 42601|ReadyForQuery I|ERROR 26000", false},
		{"a Query takes the unnamed one", [][]byte{parse("", "RELOAD"), pgwire.AppendQuery(nil, ""), bind("", "")}, "ParseComplete|EmptyQueryResponse|ReadyForQuery I|ERROR 26000", false},
		{"a portal's name is taken", [][]byte{parse("", "RELOAD"), bind("p", ""), bind("p", "")}, "ParseComplete|BindComplete|ERROR 42P03", false},
		{"portals end with Sync", [][]byte{parse("", "RELOAD"), bind("p", ""), pgwire.AppendSync(nil), pgwire.AppendExecute(nil, "p", 0)}, "ParseComplete|BindComplete|ReadyForQuery I|ERROR 34000", false},
		{
			"but not in a transaction block",
			[][]byte{pgwire.AppendQuery(nil, "BEGIN"), parse("", "SHOW VERSION"), bind("p", ""), pgwire.AppendSync(nil), pgwire.AppendDescribe(nil, pgwire.TargetPortal, "p")},
			"CommandComplete BEGIN|ReadyForQuery T|ParseComplete|BindComplete|ReadyForQuery T|RowDescription version", false,
		},
		{"no such statement", [][]byte{pgwire.AppendDescribe(nil, pgwire.TargetStatement, "x")}, "ERROR 26000", false},
		{"no such portal", [][]byte{pgwire.AppendDescribe(nil, pgwire.TargetPortal, "x")}, "ERROR 34000", false},
		{"closing what is not there", [][]byte{pgwire.AppendClose(nil, pgwire.TargetPortal, "x"), pgwire.AppendClose(nil, pgwire.TargetStatement, "x")}, "CloseComplete|CloseComplete", false},
		{"close and parse anew", [][]byte{parse("s", "RELOAD"), pgwire.AppendClose(nil, pgwire.TargetStatement, "s"), parse("s", "RELOAD")}, "ParseComplete|CloseComplete|ParseComplete", false},
		{"DISCARD ALL drops them", [][]byte{parse("s", "RELOAD"), pgwire.AppendQuery(nil, "DISCARD ALL"), parse("s", "RELOAD")}, "ParseComplete|CommandComplete DISCARD ALL|ReadyForQuery I|ParseComplete", false},
		{
			"parameters that nobody asked for",
			[][]byte{parse("", "RELOAD"), pgwire.AppendBind(nil, "", "", pgwire.FormatText, [][]byte{[]byte("1")}, pgwire.FormatText)},
			"ParseComplete|ERROR 08P01", false,
		},
		{"a format that is none", [][]byte{parse("", "SHOW VERSION"), pgwire.AppendBind(nil, "", "", pgwire.FormatText, nil, 7)}, "ParseComplete|ERROR 22023", false},
		{"parameters are not in the grammar", [][]byte{parse("", "PAUSE $1")}, "ERROR 42601", false},
		{"function calls", [][]byte{{pgwire.MsgFunctionCall, 0, 0, 0, 4}}, "ERROR 0A000|ReadyForQuery I", false},
		{"copy messages out of place", [][]byte{pgwire.AppendCopyDone(nil), pgwire.AppendCopyFail(nil, "x"), pgwire.AppendCopyData(nil, "x")}, "", false},
		{"terminate", [][]byte{pgwire.AppendTerminate(nil)}, "", true},
		{"terminate while passing over", [][]byte{parse("", "FOO"), pgwire.AppendTerminate(nil)}, "ERROR 42601", true},
		{"a message that is none", [][]byte{{'?', 0, 0, 0, 4}}, "FATAL 08P01", true},
		{"a password out of place", [][]byte{pgwire.AppendPassword(nil, "x")}, "FATAL 08P01", true},
		{"a Query without its end", [][]byte{{pgwire.MsgQuery, 0, 0, 0, 5, 'x'}}, "ERROR 08P01|ReadyForQuery I", false},
		{"a Parse cut short", [][]byte{{pgwire.MsgParse, 0, 0, 0, 5, 'x'}}, "ERROR 08P01", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var in []byte
			for _, m := range c.in {
				in = append(in, m...)
			}
			out, done := feed(t, newFake().console().NewConn(admin), in)
			var got []string
			for line := range strings.Lines(transcript(t, out)) {
				line = strings.TrimSuffix(line, "\n")
				for _, severity := range []string{"ERROR ", "FATAL "} {
					if strings.HasPrefix(line, severity) {
						line = line[:len(severity)+5]
					}
				}
				if !strings.HasPrefix(line, "  ") || strings.Contains(line, " | ") {
					got = append(got, line)
				}
			}
			if text := strings.Join(got, "|"); text != c.want || done != c.done {
				t.Errorf("got  %s, %v\nwant %s, %v", text, done, c.want, c.done)
			}
		})
	}
}

func TestNamesAreLimited(t *testing.T) {
	t.Parallel()
	conn := newFake().console().NewConn(admin)
	var in []byte
	for i := range maxNamed + 1 {
		in = pgwire.AppendParse(in, fmt.Sprint("s", i), "SHOW VERSION", nil)
	}
	out, _ := feed(t, conn, pgwire.AppendSync(in))
	if text := transcript(t, out); strings.Count(text, "ParseComplete") != maxNamed || !strings.Contains(text, "ERROR 54000") {
		t.Errorf("statements: got %d", strings.Count(text, "ParseComplete"))
	}
	in = nil
	for i := range maxNamed + 1 {
		in = pgwire.AppendBind(in, fmt.Sprint("p", i), "s0", pgwire.FormatText, nil, pgwire.FormatText)
	}
	out, _ = feed(t, conn, pgwire.AppendSync(in))
	if text := transcript(t, out); strings.Count(text, "BindComplete") != maxNamed || !strings.Contains(text, "ERROR 54000") {
		t.Errorf("portals: got %d", strings.Count(text, "BindComplete"))
	}
}

// TestCancelEndsTheCommand cancels a PAUSE that waits, both ways.
func TestCancelEndsTheCommand(t *testing.T) {
	t.Parallel()
	for name, cancel := range map[string]func(*Conn, context.CancelFunc){
		"by the cancel key": func(n *Conn, _ context.CancelFunc) { n.Cancel() },
		"by the end of all": func(_ *Conn, end context.CancelFunc) { end() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			f.block = make(chan struct{})
			conn := f.console().NewConn(admin)
			conn.Cancel() // nothing runs: nothing happens
			ctx, end := context.WithCancel(t.Context())
			defer end()
			answer := make(chan []byte)
			go func() {
				out, _ := conn.Handle(ctx, nil, pgwire.MsgQuery, []byte("PAUSE app\x00"))
				answer <- out
			}()
			<-f.block
			cancel(conn, end)
			if text := transcript(t, <-answer); !strings.HasPrefix(text, "ERROR 57014") {
				t.Errorf("got %s", text)
			}
		})
	}
}

// TestManyClientsAreCheap: an answer costs a few large pieces of memory, not one for every cell.
func TestManyClientsAreCheap(t *testing.T) {
	f := manyClients(20_000)
	conn := f.console().NewConn(stats)
	query := []byte("SHOW CLIENTS\x00")
	var out []byte
	allocs := testing.AllocsPerRun(3, func() { out, _ = conn.Handle(t.Context(), out[:0], pgwire.MsgQuery, query) })
	if allocs > 200 {
		t.Errorf("%v allocations, want a handful", allocs)
	}
	if len(out) < 20_000*100 {
		t.Errorf("only %d bytes", len(out))
	}
}

func manyClients(n int) *fake {
	f := newFake()
	one := f.clients[0]
	f.clients = nil
	for i := range n {
		one.ID = uint64(i)
		f.clients = append(f.clients, one)
	}
	return f
}

func BenchmarkShowClients20000(b *testing.B) {
	conn := manyClients(20_000).console().NewConn(admin)
	query := []byte("SHOW CLIENTS\x00")
	b.ReportAllocs()
	var out []byte
	for b.Loop() {
		out, _ = conn.Handle(b.Context(), out[:0], pgwire.MsgQuery, query)
	}
	b.SetBytes(int64(len(out)))
}
