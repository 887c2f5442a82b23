package exec

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// rig is a machine on a connection to a real PostgreSQL, and the owner of it, which writes down what it hears.
type rig struct {
	t    testing.TB
	c    *pgtest.Client
	conn *backend.Conn

	out    []byte
	events []string
	client []byte // what the client gets
	inCopy func()
	closed error
}

func newRig(t testing.TB, db string) *rig {
	t.Helper()
	c := pgtest.Shared(t).Connect(t, pgtest.Login{User: pgtest.Superuser, Database: db})
	return attach(t, c)
}

func attach(t testing.TB, c *pgtest.Client) *rig {
	t.Helper()
	g := &rig{t: t, c: c, conn: backend.New(&backend.Login{}, 1<<20)}
	g.conn.Own(g)
	return g
}

func (g *rig) Relay(b []byte) { g.client = append(g.client, b...) }

func (g *rig) event(format string, args ...any) {
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

func label(s *backend.Step) string {
	l := s.Kind.String()
	if s.Internal {
		l += " internal"
	}
	return l
}

func (g *rig) Complete(s *backend.Step, tag []byte) {
	g.event("%s", strings.TrimSpace(label(s)+" "+string(tag)))
}

func (g *rig) Failed(s *backend.Step, msg []byte) {
	e, err := pgwire.DecodeError(msg[pgwire.HeaderBytes:])
	if err != nil {
		g.t.Fatal(err)
	}
	if s.Refusal != nil {
		g.event("%s refused, server said %s", label(s), e.Code)
		g.client = pgwire.AppendErrorResponse(g.client, s.Refusal)
		return
	}
	g.event("%s failed %s", label(s), e.Code)
	if !s.Internal {
		g.client = append(g.client, msg...)
	}
}

func (g *rig) Skipped(s *backend.Step)                   { g.event("%s skipped", label(s)) }
func (g *rig) CopyIn(*backend.Step, []byte)              { g.inCopy() }
func (g *rig) Parameter(string, string)                  {}
func (g *rig) Ready(s *backend.Step, tx pgwire.TxStatus) { g.event("%s ready %c", label(s), tx) }

// run sends what is in out, and steps the machine until it is owed nothing or broken. It returns what happened.
func (g *rig) run() []string {
	g.t.Helper()
	g.c.Write(g.out)
	g.out = nil
	g.conn.Flush()
	buf := make([]byte, 4096)
	for g.conn.Pending() > 0 && g.closed == nil {
		if err := g.c.Conn.SetReadDeadline(time.Now().Add(pgtest.DefaultTimeout)); err != nil {
			g.t.Fatal(err)
		}
		n, err := g.c.Conn.Read(buf)
		if n > 0 {
			g.closed = g.conn.Feed(buf[:n])
		} else if err != nil {
			if errors.Is(err, io.EOF) {
				g.closed = err
				break
			}
			g.t.Fatalf("%v, with %d answers owed after %q", err, g.conn.Pending(), g.events)
		}
	}
	e := g.events
	g.events = nil
	return e
}

// query appends a client's Query.
func (g *rig) query(sql string) {
	Query(g.conn, 0)
	g.out = pgwire.AppendQuery(g.out, sql)
}

// extended appends a client's Parse, Bind, Execute of the unnamed statement.
func (g *rig) extended(sql string) {
	p := &state.Prepared{SQL: sql}
	g.out = Prepare(g.out, g.conn, p, true, false, 0)
	g.out, _ = Bind(g.out, g.conn, nil, p, true, bindTail(), false, 0, nil)
	g.execute("")
}

func (g *rig) execute(portal string) {
	g.conn.Ask(backend.Step{Kind: backend.StepExecute})
	g.out = pgwire.AppendExecute(g.out, portal, 0)
}

func (g *rig) sync() { g.out = Sync(g.out, g.conn, false, 0) }

// bindTail is what follows the names in a Bind without parameters.
func bindTail() []byte { return []byte{0, 0, 0, 0, 0, 0} }

// value runs a query of one value past the machine's owner.
func (g *rig) value(sql string) string {
	g.t.Helper()
	g.client = nil
	g.query(sql)
	e := g.run()
	var rows [][]byte
	for b := g.client; len(b) > 0; {
		typ, total, _ := pgwire.Header(b)
		if typ == pgwire.MsgDataRow {
			rows, _ = pgwire.DecodeDataRow(rows, b[pgwire.HeaderBytes:total])
		}
		b = b[total:]
	}
	g.client = nil
	if len(rows) != 1 || g.closed != nil {
		g.t.Fatalf("%s: %d values, %q, %v", sql, len(rows), e, g.closed)
	}
	return string(rows[0])
}

// outline is the types of the messages in b.
func outline(b []byte) string {
	var o strings.Builder
	for len(b) > 0 {
		typ, total, ok := pgwire.Header(b)
		if !ok || total > len(b) {
			return o.String() + "…"
		}
		o.WriteByte(typ)
		b = b[total:]
	}
	return o.String()
}

// errorsOf returns the SQLSTATEs that a client got.
func errorsOf(b []byte) (codes []string) {
	for len(b) > 0 {
		typ, total, _ := pgwire.Header(b)
		if typ == pgwire.MsgErrorResponse {
			e, _ := pgwire.DecodeError(b[pgwire.HeaderBytes:total])
			codes = append(codes, e.Code)
		}
		b = b[total:]
	}
	return codes
}

func want(t *testing.T, got []string, wanted ...string) {
	t.Helper()
	if !slices.Equal(got, wanted) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(wanted, "\n\t"))
	}
}
