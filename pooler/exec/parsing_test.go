package exec

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// meaning is a statement whose meaning depends on the settings that it is prepared under.
const meaning = `SELECT '01/02/2020'::date::text || ' ' || extract(epoch from '2020-01-01 00:00'::timestamptz) || ' ' || v FROM t`

// said is a command, and how a session notes it.
type said struct {
	sql  string
	note func(c *backend.Conn, t *state.Track)
}

func setting(local bool, name, value string) said {
	v := state.Var{Name: name, Value: "'" + value + "'"}
	if local {
		return said{"SET LOCAL " + v.SQL()[4:], func(c *backend.Conn, _ *state.Track) { c.DoubtLocal(name, v.Value) }}
	}
	return said{v.SQL(), func(c *backend.Conn, t *state.Track) {
		c.Doubt(false)
		t.Have, t.Expected = t.Have.With(v), t.Expected.With(v)
	}}
}

// TestStatementsMeanWhatTheSettingsSay: one statement, shared by all clients of a connection, in transactions that change and take back
// settings in every way. What it gives is what a Query gives that is parsed at the same moment.
func TestStatementsMeanWhatTheSettingsSay(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t).CreateDatabase(t, "CREATE SCHEMA s1; CREATE TABLE s1.t AS SELECT 'one' AS v; CREATE SCHEMA s2; CREATE TABLE s2.t AS SELECT 'two' AS v")
	path := state.Var{Name: "search_path", Value: "s1", Raw: true}
	clients := []*state.Set{
		state.NewSet([]state.Var{path}),
		state.NewSet([]state.Var{path, {Name: "datestyle", Value: "ISO, DMY", Raw: true}}),
		state.NewSet([]state.Var{path, {Name: "timezone", Value: "'America/New_York'"}, {Name: "work_mem", Value: "'1MB'"}}),
		state.NewSet([]state.Var{{Name: "search_path", Value: "'s2', 's1'"}}),
	}
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 6))
		g := newRig(t, db)
		g.conn.Statements.MaxCount = 20
		p := prepared(1, meaning)
		var tr state.Track
		var history []string
		do := func(s said, pipelined bool) {
			history = append(history, fmt.Sprintf("%s, pipelined %v", s.sql, pipelined))
			s.note(g.conn, &tr)
			if pipelined {
				g.extended(s.sql)
			} else {
				g.query(s.sql)
				g.run()
			}
		}
		// use binds the statement behind what is in the pipeline, and compares.
		use := func(unnamed bool) {
			g.out, _ = Bind(g.out, g.conn, nil, p, unnamed, bindTail(), false, 0, nil)
			g.execute("")
			g.sync()
			g.client = nil
			e := g.run()
			got := lastRow(g.client)
			g.conn.Have = tr.Have // as a session does before anything else
			g.conn.Sure()
			if want := g.value(meaning); got != want {
				t.Fatalf("seed %d: got %q, want %q, unnamed %v, after\n%s\n%v", seed, got, want, unnamed, strings.Join(history, "\n"), e)
			}
		}
		for range 25 {
			tr = state.Track{Expected: clients[r.IntN(len(clients))]}
			g.context(tr.Expected, false)
			tr.Synced()
			history = append(history, fmt.Sprintf("client %v", tr.Expected.Vars()))
			begin := said{"BEGIN", func(_ *backend.Conn, t *state.Track) { t.Begin() }}
			do(begin, false)
			for range 2 + r.IntN(6) {
				name, value := "timezone", []string{"UTC", "Asia/Tokyo"}[r.IntN(2)]
				switch r.IntN(4) {
				case 0:
					name, value = "datestyle", []string{"ISO, DMY", "ISO, MDY"}[r.IntN(2)]
				case 1:
					name, value = "search_path", []string{"s1", "s2"}[r.IntN(2)]
				}
				var s said
				switch k := r.IntN(9); {
				case k < 2:
					s = setting(false, name, value)
				case k < 4:
					s = setting(true, name, value)
				case k == 4:
					s = said{"SAVEPOINT a", func(_ *backend.Conn, t *state.Track) { t.Savepoint("a") }}
				case k == 5 && tr.HasSavepoint("a"):
					s = said{"ROLLBACK TO a", func(c *backend.Conn, t *state.Track) { c.Doubt(false); t.RollbackTo("a") }}
				case k == 6:
					s = said{"RESET " + name, func(c *backend.Conn, t *state.Track) {
						c.Doubt(false)
						t.Have, t.Expected = t.Have.Without(name), t.Expected.Without(name)
					}}
					if name == "search_path" {
						continue // the statement would have no table
					}
				case k == 7 && r.IntN(2) == 0:
					s = said{"COMMIT AND CHAIN", func(c *backend.Conn, t *state.Track) {
						if c.InDoubt() {
							c.Doubt(false)
						}
						t.Commit()
						t.Begin()
					}}
				case k == 7:
					s = said{"ROLLBACK AND CHAIN", func(c *backend.Conn, t *state.Track) { c.Doubt(false); t.Rollback(); t.Begin() }}
				default:
					s = said{"SELECT 1", func(*backend.Conn, *state.Track) {}}
				}
				do(s, r.IntN(3) == 0)
				if r.IntN(2) == 0 {
					use(r.IntN(3) == 0)
				} else if !g.conn.Synced() {
					g.sync()
					g.run()
				}
				if r.IntN(2) == 0 { // the next message is a unit of its own
					g.conn.Have = tr.Have
					g.conn.Sure()
				}
			}
			if !g.conn.Synced() {
				g.sync()
				g.run()
			}
			do(said{"ROLLBACK", func(c *backend.Conn, t *state.Track) { c.Doubt(false); t.Rollback() }}, false)
			g.conn.Have = tr.Have
			use(false)
			if g.closed != nil || g.conn.Tx() != pgwire.TxIdle {
				t.Fatalf("seed %d: %v, %v", seed, g.closed, g.conn.Tx())
			}
		}
		// Without what is for one moment only, the same few are used again.
		if n := g.conn.Statements.Len(); n > 20 || n < len(clients) {
			t.Errorf("seed %d: %d statements", seed, n)
		}
		g.c.Terminate()
	}
}

// lastRow is the only column of the last DataRow.
func lastRow(b []byte) (value string) {
	for len(b) > 0 {
		typ, total, _ := pgwire.Header(b)
		if typ == pgwire.MsgDataRow {
			if row, err := pgwire.DecodeDataRow(nil, b[pgwire.HeaderBytes:total]); err == nil {
				value = string(row[0])
			}
		}
		b = b[total:]
	}
	return value
}

func TestStatementsAreSharedUnderEqualSettings(t *testing.T) {
	t.Parallel()
	g := newRig(t, "postgres")
	p := prepared(1, "SELECT 1")
	utc, tokyo := raw("timezone", "UTC", "app.v", "1"), raw("timezone", "Asia/Tokyo")
	prepare := func() string {
		g.out = Prepare(nil, g.conn, p, false, true, 0)
		o := outline(g.out)
		g.sync()
		g.run()
		return o
	}
	for i, c := range []struct {
		do    func()
		sends string
	}{
		{func() {}, "P"},
		{func() { g.conn.Have = raw("app.v", "1") }, ""},
		{func() { g.conn.Have = utc }, "P"},
		{func() { g.conn.Have = utc.Without("app.v") }, ""},
		{func() { g.conn.Have = tokyo }, "P"},
		{func() { g.conn.Have = nil }, ""},
		{func() { g.query("BEGIN"); g.run(); g.conn.DoubtLocal("timezone", "'CET'") }, "P"},
		{func() {}, ""},
		{func() { g.conn.Sure() }, ""}, // SET LOCAL lasts
		{func() { g.conn.Doubt(false) }, "P"},
		{func() { g.conn.Sure() }, ""}, // and after it nothing is sure
		{func() { g.query("COMMIT"); g.run() }, ""},
		{func() { g.query("BEGIN"); g.run(); g.conn.DoubtLocal("timezone", "'CET'") }, ""}, // the same again
		{func() { g.query("COMMIT"); g.run(); g.conn.Doubt(false) }, "P"},
		{func() { g.conn.Sure() }, ""},
	} {
		c.do()
		if got := prepare(); got != c.sends {
			t.Errorf("%d: sends %q, want %q", i, got, c.sends)
		}
	}
	names := g.names()
	if len(names) != 6 || names[0] != "pgkennel_1" {
		t.Errorf("the server has %v", names)
	}
	for _, n := range names {
		if len(n) > 63 {
			t.Errorf("name %s is longer than PostgreSQL keeps", n)
		}
	}
}
