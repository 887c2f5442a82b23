package admin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestConsole runs the scripts in testdata: every command through both protocols. go test -rewrite writes the answers.
//
//	query [user=stats]     the text as a Query
//	extended [user=stats] [binary] [rows=n]   as Parse, Bind, Describe, Execute (rows at a time), Sync
//
// Both print the messages that came back, and what the controller was ordered to do. A conversation goes on to the end of its
// file; "new" starts another.
func TestConsole(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Helper()
		f := newFake()
		console := f.console()
		conns := map[string]*Conn{}
		conn := func(name string) *Conn {
			if conns[name] == nil {
				u := admin
				if name == "stats" {
					u = stats
				}
				conns[name] = console.NewConn(u)
			}
			return conns[name]
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			user, rows := "admin", 0
			d.MaybeScanArgs(t, "user", &user)
			d.MaybeScanArgs(t, "rows", &rows)
			var out []byte
			switch d.Cmd {
			case "new":
				clear(conns)
				return ""
			case "badconfig":
				f.mappings = 0
				return ""
			case "query":
				out, _ = conn(user).Handle(t.Context(), nil, pgwire.MsgQuery, append([]byte(d.Input), 0))
			case "extended":
				out = extended(t, conn(user), d.Input, d.HasArg("binary"), rows)
			default:
				d.Fatalf(t, "no command %q", d.Cmd)
			}
			text := transcript(t, out)
			for _, c := range f.taken() {
				text += "-> " + c + "\n"
			}
			return text
		})
	})
}

// extended sends a statement as pgx does: prepared and described, then bound and executed.
func extended(t *testing.T, conn *Conn, sql string, binary bool, rows int) []byte {
	t.Helper()
	format := pgwire.FormatText
	if binary {
		format = pgwire.FormatBinary
	}
	in := pgwire.AppendParse(nil, "", sql, nil)
	in = pgwire.AppendDescribe(in, pgwire.TargetStatement, "")
	in = pgwire.AppendSync(in)
	in = pgwire.AppendBind(in, "p", "", pgwire.FormatText, nil, format)
	in = pgwire.AppendDescribe(in, pgwire.TargetPortal, "p")
	in = pgwire.AppendExecute(in, "p", uint32(rows))
	if rows > 0 {
		in = pgwire.AppendExecute(in, "p", 0)
	}
	in = pgwire.AppendClose(in, pgwire.TargetPortal, "p")
	in = pgwire.AppendSync(in)
	out, _ := feed(t, conn, in)
	return out
}

// feed hands over whole messages.
func feed(t testing.TB, conn *Conn, in []byte) (out []byte, done bool) {
	t.Helper()
	for len(in) > 0 && !done {
		typ, total, ok := pgwire.Header(in)
		if !ok || total < 0 || total > len(in) {
			t.Fatalf("bad message in the test's own input")
		}
		out, done = conn.Handle(t.Context(), out, typ, in[pgwire.HeaderBytes:total])
		in = in[total:]
	}
	return out, done
}

var typeNames = map[uint32]string{
	pgwire.OIDText: "", pgwire.OIDInt4: ":int4", pgwire.OIDInt8: ":int8", pgwire.OIDNumeric: ":numeric", pgwire.OIDBool: ":bool",
}

// transcript prints a server's messages, one a line.
func transcript(t testing.TB, out []byte) string {
	t.Helper()
	var b strings.Builder
	var columns []pgwire.Column
	for len(out) > 0 {
		typ, total, ok := pgwire.Header(out)
		if !ok || total < 0 || total > len(out) {
			t.Fatalf("malformed answer: % x", out)
		}
		body := out[pgwire.HeaderBytes:total]
		out = out[total:]
		switch typ {
		case pgwire.MsgRowDescription:
			var err error
			if columns, err = pgwire.DecodeRowDescription(nil, body); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range columns {
				name := c.Name + typeNames[c.TypeOID]
				if c.Format == pgwire.FormatBinary {
					name += "!"
				}
				names = append(names, name)
			}
			fmt.Fprintf(&b, "RowDescription %s\n", strings.Join(names, " "))
		case pgwire.MsgDataRow:
			cells, err := pgwire.DecodeDataRow(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			var values []string
			for i, c := range cells {
				switch {
				case c == nil:
					values = append(values, "∅")
				case i < len(columns) && columns[i].Format == pgwire.FormatBinary && columns[i].TypeOID != pgwire.OIDText:
					values = append(values, fmt.Sprintf("%x", c))
				default:
					values = append(values, string(c))
				}
			}
			fmt.Fprintf(&b, "  %s\n", strings.Join(values, " | "))
		case pgwire.MsgCommandComplete:
			tag, err := pgwire.DecodeCommandTag(body)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "CommandComplete %s\n", tag)
		case pgwire.MsgErrorResponse, pgwire.MsgNoticeResponse:
			e, err := pgwire.DecodeError(body)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %s %s", e.Severity, e.Code, e.Message)
			if e.Position > 0 {
				fmt.Fprintf(&b, " @%d", e.Position)
			}
			b.WriteByte('\n')
			for _, line := range []string{e.Detail, e.Hint} {
				if line != "" {
					fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(line, "\n", "\n  "))
				}
			}
		case pgwire.MsgReadyForQuery:
			fmt.Fprintf(&b, "ReadyForQuery %s\n", body)
		case pgwire.MsgParameterDescription:
			types, err := pgwire.DecodeParameterDescription(nil, body)
			if err != nil || len(types) != 0 {
				t.Fatalf("parameters %v, %v", types, err)
			}
			b.WriteString("ParameterDescription\n")
		default:
			fmt.Fprintf(&b, "%s\n", pgwire.ServerMessageName(typ))
		}
	}
	return b.String()
}
