package admin

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// FuzzRun holds the grammar to: no panic, nothing ordered by somebody who may only look, an answer whose rows fit its columns,
// and columns that are known before the command runs.
func FuzzRun(f *testing.F) {
	for _, text := range everyCommand {
		f.Add(text)
	}
	for _, text := range []string{
		"", ";;", "-- x", "/* /* */ */", "SHOW POOLS; SHOW STATS", "SELECT 'a''b' AS \"x\", version(), pg_catalog.version()",
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET x.y = -1.5, 'z'", "SHOW MAPPINGS LIMIT 3", "PAUSE \"a\"\"b\"",
		"COMMIT WORK AND NO CHAIN", "RESET ALL", "SHOW TIME ZONE", "KILL_CLIENT 18446744073709551615", "SHUTDOWN IMMEDIATE", "'", "\"", "/*",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := newFake()
		c := p.console()
		columns, describeErr := c.Columns(text)
		for _, u := range []User{stats, {Name: "nobody"}} {
			r, err := c.Run(t.Context(), text, u)
			if calls := p.taken(); len(calls) > 0 {
				t.Fatalf("%v ordered %q", u.Access, calls)
			}
			if u.Access == 0 && len(r.Statements) > 0 {
				t.Fatalf("nobody got an answer")
			}
			if err == nil && len(r.Statements) == 1 && (describeErr != nil || len(columns) != len(r.Statements[0].Columns)) {
				t.Fatalf("described as %v, %v; answered with %v", columns, describeErr, r.Statements[0].Columns)
			}
		}
		r, err := c.Run(t.Context(), text, admin)
		if err != nil && (len(err.Code) != 5 || len(err.Message) > 400) {
			t.Fatalf("error %v", err)
		}
		for _, s := range r.Statements {
			if len(s.Rows.ends) != s.Rows.Len()*len(s.Columns) || s.Tag == "" {
				t.Fatalf("%d cells in %d columns, tag %q", len(s.Rows.ends), len(s.Columns), s.Tag)
			}
		}
		_ = transcript(t, AppendResult(nil, &r, err))
	})
}

// FuzzConn feeds any messages to a conversation: no panic, a well-formed answer, and one ReadyForQuery for every Query that
// was not passed over and every Sync.
func FuzzConn(f *testing.F) {
	seed := pgwire.AppendParse(nil, "s", "SHOW STATS", nil)
	seed = pgwire.AppendBind(seed, "p", "s", pgwire.FormatText, nil, pgwire.FormatBinary)
	seed = pgwire.AppendDescribe(seed, pgwire.TargetPortal, "p")
	seed = pgwire.AppendExecute(seed, "p", 1)
	seed = pgwire.AppendClose(seed, pgwire.TargetStatement, "s")
	seed = pgwire.AppendSync(seed)
	f.Add(seed)
	f.Add(pgwire.AppendQuery(pgwire.AppendQuery(nil, "BEGIN"), "FOO"))
	f.Add(pgwire.AppendQuery(nil, "SELECT 1; SHOW POOLS"))
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := newFake().console().NewConn(admin)
		var out []byte
		for done := false; len(in) > 0 && !done; {
			typ, total, ok := pgwire.Header(in)
			if !ok || total < 0 || total > len(in) {
				break
			}
			want := 0
			if typ == pgwire.MsgSync || !conn.skipping && (typ == pgwire.MsgQuery || typ == pgwire.MsgFunctionCall) {
				want = 1
			}
			start := len(out)
			out, done = conn.Handle(t.Context(), out, typ, in[pgwire.HeaderBytes:total])
			if got := countReady(t, out[start:]); got != want {
				t.Fatalf("%d times ready after %q, want %d", got, typ, want)
			}
			if !conn.Status().Valid() {
				t.Fatalf("status %q", conn.Status())
			}
			in = in[total:]
		}
	})
}

func countReady(t *testing.T, out []byte) (n int) {
	t.Helper()
	for len(out) > 0 {
		typ, total, ok := pgwire.Header(out)
		if !ok || total < 0 || total > len(out) {
			t.Fatalf("malformed answer: % x", out)
		}
		if typ == pgwire.MsgReadyForQuery {
			n++
		}
		out = out[total:]
	}
	return n
}
