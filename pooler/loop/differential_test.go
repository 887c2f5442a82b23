package loop

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// twin is an application that has a server of its own beside the pooler's: whatever it sends goes to both, and both have to answer alike.
type twin struct {
	t    *testing.T
	rnd  *rand.Rand
	name string
	acct *session.Account
	left int

	ref    *modelServer
	in     []byte
	params map[string]string
	told   map[string]string // what its own server told it
	expect []string
	units  []*unit // what is not answered yet, and what was lately
	// at holds, for each ReadyForQuery to come, the parameters that are to be known by then.
	at      []map[string]string
	started bool
	done    bool
	seq     int
	routed  bool // there are several shards
	open    bool // no Sync ended what was sent last
	pins    bool // it leaves on its backend what can't follow it, and uses that
}

// unit is what was sent in one go.
type unit struct {
	notes string
	left  int // answers to come
}

func newTwin(t *testing.T, seed uint64, name string, acct *session.Account, units int) *twin {
	a := &twin{t: t, rnd: rand.New(rand.NewPCG(seed, 9)), name: name, acct: acct, left: units, ref: newModelServer(0, 1), params: map[string]string{}, told: map[string]string{}}
	a.ref.base = map[string]string{"application_name": name, "app.base": name + "-base"}
	a.ref.vars = clone(a.ref.base)
	a.ref.reported["application_name"] = name
	return a
}

func (a *twin) Closed(bool) {
	if !a.done {
		a.fail("the connection was closed early")
	}
}

func (a *twin) fail(format string, args ...any) {
	a.t.Helper()
	a.t.Fatalf("%s: %s; then %v; after:\n%s", a.name, fmt.Sprintf(format, args...), a.expect[:min(20, len(a.expect))], a.recently())
}

// recently is what was sent, up to what is being answered.
func (a *twin) recently() string {
	var b strings.Builder
	for _, u := range a.units {
		b.WriteString(u.notes)
		if u.left > 0 {
			fmt.Fprintf(&b, "  (%d answers to come)", u.left)
			break
		}
	}
	return b.String()
}

func (a *twin) Receive(b []byte) (out []byte, done bool) {
	if !a.started {
		a.started = true
		a.expect, a.at = []string{"R", "K", "Z:I"}, []map[string]string{{"application_name": a.name, "TimeZone": ""}}
		return pgwire.AppendStartupMessage(nil, pgwire.Version30, []pgwire.Param{
			{Name: "user", Value: "app"}, {Name: "database", Value: a.acct.Database}, {Name: "application_name", Value: a.name}, {Name: "app.base", Value: a.name + "-base"},
		}), false
	}
	a.in = append(a.in, b...)
	list, rest := frames(a.in)
	for _, f := range list {
		a.check(f)
	}
	a.in = append([]byte(nil), rest...)
	for a.left > 0 && (len(a.expect) == 0 || len(a.expect) < 60 && a.rnd.IntN(3) == 0) {
		a.left--
		a.units = append(a.units, &unit{})
		out = append(out, a.send(a.unit())...)
	}
	if a.left == 0 && len(a.expect) == 0 && !a.done {
		a.done = true
		return append(out, pgwire.AppendTerminate(nil)...), true
	}
	return out, false
}

// send has the twin's own server answer, too.
func (a *twin) send(out []byte) []byte {
	answer, _ := a.ref.Receive(out)
	list, _ := frames(answer)
	for _, f := range list {
		switch f.typ {
		case pgwire.MsgNoticeResponse:
			continue
		case pgwire.MsgParameterStatus:
			name, value, _ := pgwire.DecodeParameterStatus(f.body)
			a.told[string(name)] = string(value)
			continue
		case pgwire.MsgReadyForQuery:
			at := map[string]string{}
			if f.body[0] == 'I' { // what is SET in a transaction that no server knows yet is told later
				at = clone(a.told)
			}
			a.at = append(a.at, at)
		}
		a.expect = append(a.expect, token(f))
		a.units[len(a.units)-1].left++
	}
	return out
}

func (a *twin) check(f frame) {
	got := token(f)
	switch f.typ {
	case pgwire.MsgNoticeResponse:
		return
	case pgwire.MsgParameterStatus:
		name, value, _ := pgwire.DecodeParameterStatus(f.body)
		a.params[string(name)] = string(value)
		return
	}
	if len(a.expect) == 0 {
		a.fail("got %q, expected nothing", got)
	}
	want := a.expect[0]
	if got != want {
		detail := ""
		if f.typ == pgwire.MsgErrorResponse {
			e, _ := pgwire.DecodeError(f.body)
			detail = e.Message + " " + e.Detail
		}
		a.fail("got %q (%s), want %q", got, detail, want)
	}
	a.expect = a.expect[1:]
	for i, u := range a.units {
		if u.left > 0 {
			u.left--
			a.units = a.units[max(0, i-8):]
			break
		}
	}
	if f.typ == pgwire.MsgReadyForQuery {
		for name, want := range a.at[0] {
			if a.params[name] != want {
				a.fail("knows %s as %q, want %q", name, a.params[name], want)
			}
		}
		a.at = a.at[1:]
	}
}

func (a *twin) note(format string, args ...any) {
	a.units[len(a.units)-1].notes += fmt.Sprintf("[%c] ", a.ref.tx) + fmt.Sprintf(format, args...) + "\n"
}

func (a *twin) marker() string {
	a.seq++
	return fmt.Sprintf("%s-%d", a.name, a.seq)
}

// key is a tenant of shard 0, if there are two.
func (a *twin) key() int { return 2 * a.rnd.IntN(15) }

// prepared reports whether named statements work as they do without a pooler.
func (a *twin) prepared() bool { return a.acct.Statements || a.acct.Session }

// statement is any statement; alone: nothing else is in the message.
func (a *twin) statement(alone bool) string {
	pick := func(s ...string) string { return s[a.rnd.IntN(len(s))] }
	v := pick("app.v", "app.w", "app.base", "application_name", "timezone")
	w := v // what is RESET in a pipeline is not set again before its end
	if !alone {
		w = pick("app.v", "app.w", "timezone")
	}
	if a.pins && a.rnd.IntN(4) == 0 {
		if alone && a.ref.tx == pgwire.TxIdle && a.rnd.IntN(6) == 0 {
			return "DISCARD ALL"
		}
		s := pick("CREATE TEMP TABLE tmp (a int)", "DROP TABLE tmp", "SELECT '%s' FROM tmp", "SELECT pg_advisory_lock('%s')", "SELECT pg_advisory_unlock('')", "LISTEN x", "UNLISTEN *",
			"DECLARE h CURSOR WITH HOLD FOR SELECT '%s' FROM orders WHERE tenant_id = 4", "FETCH h", "CLOSE h", "PREPARE x1 AS SELECT '%s'", "EXECUTE x1", "DEALLOCATE x1")
		return strings.ReplaceAll(s, "%s", a.marker())
	}
	if a.rnd.IntN(10) == 0 && !a.routed {
		return pick("LISTEN x", "LISTEN y", "UNLISTEN *", "COMMIT")
	}
	switch n := a.rnd.IntN(100); {
	case n < 12:
		return fmt.Sprintf("SELECT '%s' FROM orders WHERE tenant_id = %d", a.marker(), a.key())
	case n < 17:
		return fmt.Sprintf("SELECT '%s' FROM orders WHERE tenant_id = %d LIMIT %d", a.marker(), a.key(), 1+a.rnd.IntN(4))
	case n < 20:
		return fmt.Sprintf("SELECT '%s'", a.marker())
	case n < 30:
		return "SHOW " + v
	case n < 36:
		return fmt.Sprintf("SET %s TO '%s'", v, a.marker())
	case n < 39:
		return fmt.Sprintf("SET LOCAL %s TO '%s'", v, a.marker())
	case n < 43:
		return "RESET " + w
	case n < 44 && alone:
		return "RESET ALL"
	case n < 52:
		return pick("BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE")
	case n < 58:
		return pick("COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN")
	case n < 66 && a.ref.tx != pgwire.TxIdle:
		return pick("SAVEPOINT", "ROLLBACK TO", "ROLLBACK TO", "RELEASE") + " " + pick("a", "b")
	case n < 68 && a.ref.tx != pgwire.TxIdle:
		return "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
	case n < 70:
		return "SELECT 1/0"
	case n < 71:
		return "SELECT 'x' FROM parse_error WHERE tenant_id = 4"
	case n < 73 && alone && a.ref.tx == pgwire.TxIdle:
		return "SET app.v TO 'bad'"
	case n < 75 && alone && a.ref.tx != pgwire.TxFailed:
		return pick("", " ", "--")
	case n < 77 && !a.routed:
		return pick("LISTEN x", "CREATE TEMP TABLE t (a int)")
	case n < 78 && !a.routed:
		return "CREATE TABLE t (a int)"
	case n < 80 && a.prepared() && alone:
		return pick("DEALLOCATE ALL", "DEALLOCATE q0", "DEALLOCATE q1")
	case n < 81 && a.ref.tx == pgwire.TxIdle && a.prepared() && alone:
		return "DISCARD ALL"
	case n < 85 && a.ref.tx != pgwire.TxIdle:
		return pick(fmt.Sprintf("DECLARE c CURSOR FOR SELECT '%s' FROM orders WHERE tenant_id = 4", a.marker()), "FETCH c", "CLOSE c")
	case n < 88:
		return fmt.Sprintf("COPY (SELECT '%s' FROM orders WHERE tenant_id = %d) TO STDOUT", a.marker(), a.key())
	default:
		return fmt.Sprintf("SELECT '%s' FROM orders WHERE tenant_id = %d", a.marker(), a.key())
	}
}

// unit is a Query, a pipeline, or a COPY. Whatever it is, an answer to the last of it comes without more being sent.
func (a *twin) unit() (out []byte) {
	switch n := a.rnd.IntN(100); {
	case n < 40:
		return a.query(nil)
	case n < 50:
		return a.copyIn()
	}
	if a.pins && !a.open && a.ref.tx == pgwire.TxIdle && a.rnd.IntN(8) == 0 {
		a.note("Parse Bind Execute DISCARD ALL Sync")
		out = pgwire.AppendBind(pgwire.AppendParse(nil, "", "DISCARD ALL", nil), "", "", pgwire.FormatText, nil, pgwire.FormatText)
		return pgwire.AppendSync(pgwire.AppendExecute(out, "", 0))
	}
	for range 1 + a.rnd.IntN(5) {
		out = a.piece(out)
		switch n := a.rnd.IntN(12); {
		case n < 3:
			a.note("Sync")
			out = pgwire.AppendSync(out)
		case n < 5:
			a.note("Flush")
			out = pgwire.AppendFlush(out)
		}
	}
	if a.rnd.IntN(8) > 0 {
		a.note("Sync")
		a.open = false
		return pgwire.AppendSync(out)
	}
	a.note("Flush")
	a.open = true
	return pgwire.AppendFlush(out)
}

func (a *twin) query(out []byte) []byte {
	sql := a.statement(out == nil && !a.open)
	if a.rnd.IntN(8) == 0 && a.ref.tx != pgwire.TxFailed && !strings.Contains(sql, "AND CHAIN") && sql != "DISCARD ALL" && !strings.HasPrefix(sql, "--") {
		if more := a.statement(false); !strings.Contains(more, "AND CHAIN") && !strings.Contains(sql+more, "RESET") && !strings.Contains(sql+more, "DEALLOCATE") && more != "DISCARD ALL" {
			sql += "; " + more
		}
	}
	a.note("Query %s", sql)
	return pgwire.AppendQuery(out, sql)
}

// piece is a part of a pipeline.
func (a *twin) piece(out []byte) []byte {
	name, portal := "", ""
	if a.prepared() && a.rnd.IntN(2) == 0 {
		name = fmt.Sprintf("q%d", a.rnd.IntN(3))
	}
	if a.rnd.IntN(4) == 0 {
		portal = fmt.Sprintf("p%d", a.rnd.IntN(2))
	}
	limit := uint32(max(0, a.rnd.IntN(4)-1))
	switch n := a.rnd.IntN(100); {
	case n < 50: // a whole statement
		sql := a.statement(false)
		if !strings.HasPrefix(sql, "SELECT '") {
			portal = "" // one that is bound here would be unknown there
		}
		if strings.Trim(sql, " -") == "" {
			name = "" // PostgreSQL would not bind it in a failed transaction
		}
		if name != "" && a.rnd.IntN(2) == 0 {
			out = pgwire.AppendClose(out, pgwire.TargetStatement, name)
			a.note("Close %s", name)
		}
		a.note("Parse %q Bind Execute %d: %s", name, limit, sql)
		out = pgwire.AppendParse(out, name, sql, nil)
		if a.rnd.IntN(4) == 0 {
			a.note("  with Describe")
			out = pgwire.AppendDescribe(out, pgwire.TargetStatement, name)
		}
		if a.rnd.IntN(6) == 0 {
			a.note("  cut by a Flush")
			out = pgwire.AppendFlush(out)
		}
		out = pgwire.AppendBind(out, portal, name, pgwire.FormatText, nil, pgwire.FormatText)
		if a.rnd.IntN(4) == 0 {
			a.note("  with Describe of its portal")
			out = pgwire.AppendDescribe(out, pgwire.TargetPortal, portal)
		}
		return pgwire.AppendExecute(out, portal, limit)
	case n < 65: // with parameters
		a.note("Parse %q Bind Execute with parameters", name)
		out = pgwire.AppendParse(out, name, "SELECT $1 FROM orders WHERE tenant_id = $2", nil)
		out = pgwire.AppendBind(out, portal, name, pgwire.FormatText, [][]byte{[]byte(a.marker()), []byte("8")}, pgwire.FormatText)
		return pgwire.AppendExecute(out, portal, 0)
	case n < 75 && name != "": // what was prepared before, or not
		a.note("Bind %q Execute", name)
		out = pgwire.AppendBind(out, portal, name, pgwire.FormatText, [][]byte{[]byte(a.marker()), []byte("8")}, pgwire.FormatText)
		return pgwire.AppendExecute(out, portal, limit)
	case n < 80 && portal != "":
		a.note("Execute %q %d", portal, limit)
		return pgwire.AppendExecute(out, portal, limit)
	case n < 84 && portal != "":
		a.note("Describe portal %q", portal)
		return pgwire.AppendDescribe(out, pgwire.TargetPortal, portal)
	case n < 88:
		sql := a.statement(false)
		if strings.Trim(sql, " -") == "" {
			name = ""
		}
		a.note("Parse, Describe %q: %s", name, sql)
		out = pgwire.AppendParse(out, name, sql, nil)
		return pgwire.AppendDescribe(out, pgwire.TargetStatement, name)
	case n < 92:
		a.note("Close statement %q, portal %q", name, portal)
		out = pgwire.AppendClose(out, pgwire.TargetStatement, name)
		return pgwire.AppendClose(out, pgwire.TargetPortal, portal)
	case n < 94:
		a.note("stray COPY messages")
		return pgwire.AppendCopyFail(pgwire.AppendCopyDone(pgwire.AppendCopyData(out, "x")), "x")
	case n < 96 && !a.open: // then refused for one reason or another
		a.note("FunctionCall")
		return append(out, pgwire.MsgFunctionCall, 0, 0, 0, 4)
	}
	return a.query(out)
}

// copyIn is a COPY FROM STDIN whose rows decide where it goes.
func (a *twin) copyIn() (out []byte) {
	const sql = "COPY orders (tenant_id, v) FROM STDIN"
	a.note("COPY FROM")
	extended := a.rnd.IntN(2) == 0
	if extended {
		out = pgwire.AppendParse(out, "", sql, nil)
		out = pgwire.AppendBind(out, "", "", pgwire.FormatText, nil, pgwire.FormatText)
		out = pgwire.AppendExecute(out, "", 0)
		if a.rnd.IntN(2) == 0 {
			a.note("  with a Sync in front of its rows")
			out = pgwire.AppendSync(out)
		} else {
			out = pgwire.AppendFlush(out)
		}
	} else {
		out = pgwire.AppendQuery(out, sql)
	}
	for range a.rnd.IntN(4) {
		row := fmt.Sprintf("%d\t%s\n", a.key(), a.marker())
		if a.rnd.IntN(10) == 0 {
			a.note("  a bad row")
			row = "4\tbad\n"
		}
		n := a.rnd.IntN(len(row))
		if n > 0 && a.rnd.IntN(3) == 0 && !strings.Contains(row, "bad") {
			out = pgwire.AppendCopyData(out, row[:n])
			row = row[n:]
		}
		out = pgwire.AppendCopyData(out, row)
	}
	if a.rnd.IntN(6) == 0 {
		a.note("  CopyFail")
		out = pgwire.AppendCopyFail(out, "no more")
	} else {
		out = pgwire.AppendCopyDone(out)
	}
	if extended {
		out = pgwire.AppendSync(out)
	}
	return out
}

// runTwins runs clients of one account against a pool of the given size.
func runTwins(t *testing.T, seed uint64, clients, shards, size int, pins bool, change func(*session.Account, *session.Shared)) {
	t.Helper()
	m := newModel(t, seed, shards, size)
	m.Ready = func() topology.ShardID { return 0 }
	acct := account(m.sh)
	if change != nil {
		change(acct, m.sh)
	}
	m.Lent = func(_ *MemoryClient, b *MemoryBackend) { wantFresh(t, b) }
	for i := range clients {
		a := newTwin(t, seed*100+uint64(i), fmt.Sprintf("c%d", i), acct, 40)
		a.routed = shards > 1
		a.pins = pins
		m.Connect(a)
	}
	for i := 0; m.Clients() > 0; i++ {
		if !m.Step() && m.Clients() > 0 {
			for _, c := range m.clients {
				a := c.actor.(*twin)
				a.t.Errorf("%s waits for ever in state %s for %v after\n%s", a.name, c.sess.State(), a.expect, a.recently())
			}
			t.FailNow()
		}
	}
	for m.Step() {
	}
	wantNothingLeft(t, m)
}

// wantNothingLeft: every statement was given back, and every backend is in its pool or closed.
func wantNothingLeft(t *testing.T, m *Memory) {
	t.Helper()
	m.sh.Registry.All(func(p *state.Prepared, refs int) { t.Errorf("%q has %d references left", p.SQL, refs) })
	for _, b := range m.backs {
		if b.client != nil || b.settler != nil || b.discarded {
			t.Errorf("a backend was not given back: %+v", b)
		}
	}
}

// wantFresh: a backend that is handed to a session has nothing of another's.
func wantFresh(t *testing.T, b *MemoryBackend) {
	t.Helper()
	s, ok := b.server.(*modelServer)
	if !ok {
		return
	}
	if s.tx != pgwire.TxIdle || s.implicit || s.failed || s.copying || s.left() != 0 || len(s.portals) > 0 || len(s.local) > 0 || !b.Conn.Clean() {
		t.Fatalf("a backend is handed on as it is: %+v", s)
	}
	have := map[string]string{}
	for _, v := range b.Conn.Have.Vars() {
		have[v.Name] = strings.Trim(v.Value, "'")
	}
	for name, v := range s.vars {
		if have[name] != v {
			t.Fatalf("a backend is handed on with %s = %q, which is thought to be %q", name, v, have[name])
		}
	}
	for name := range have {
		if _, ok := s.vars[name]; !ok {
			t.Fatalf("a backend is handed on without %s, which is thought to be %q", name, have[name])
		}
	}
	for name := range s.stmts {
		if name != "" && !strings.HasPrefix(name, "pgkennel_") {
			t.Fatalf("a backend is handed on with the prepared statement %q", name)
		}
	}
}

func TestTwins(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*session.Account, *session.Shared){
		"transaction": nil,
		"pins":        nil,
		"routed":      nil,
		"session":     func(a *session.Account, _ *session.Shared) { a.Session, a.Statements = true, false },
		"disabled":    func(a *session.Account, _ *session.Shared) { a.Statements = false },
		"forgetful":   func(_ *session.Account, sh *session.Shared) { sh.Descriptions = nil },
		"small":       func(_ *session.Account, sh *session.Shared) { sh.MaxBatch = 64 },
	} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("%s %d", name, seed), func(t *testing.T) {
				t.Parallel()
				size := 1 + int(seed%3)
				shards := 1
				if name == "routed" {
					shards = 2
				}
				runTwins(t, seed, 4, shards, size, name == "pins", change)
			})
		}
	}
}
