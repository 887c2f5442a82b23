package exec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

func raw(pairs ...string) *state.Set {
	var s *state.Set
	for i := 0; i < len(pairs); i += 2 {
		s = s.With(state.Var{Name: pairs[i], Value: pairs[i+1], Raw: true})
	}
	return s
}

func (g *rig) context(want *state.Set, inTransaction bool) bool {
	var did bool
	g.out, did = Context(g.out, g.conn, want, inTransaction)
	return did
}

func TestContextIsSetAndStays(t *testing.T) {
	t.Parallel()
	g := newRig(t, pgtest.Shared(t).CreateDatabase(t))
	if g.context(nil, false) || g.conn.Pending() != 0 {
		t.Error("something is sent for nothing")
	}
	a := raw("app.v", "it's", "search_path", `a, "B c"`, "work_mem", "1MB")
	g.conn.Unnamed = &state.Prepared{}
	if !g.context(a, false) || outline(g.out) != "PBEQ" || g.conn.Unnamed != nil {
		t.Errorf("sends %s", outline(g.out))
	}
	g.query("VACUUM") // it can't run in a transaction
	want(t, g.run(), "Parse internal", "Bind internal", "Execute internal BEGIN", "Query internal SET", "Query internal SELECT 1", "Query internal SET",
		"Query internal COMMIT", "Query internal ready I", "Query VACUUM", "Query ready I")
	if got := g.value("SELECT concat_ws('|', current_setting('app.v'), current_setting('search_path'), current_setting('work_mem'))"); got != `it's|a, "B c"|1MB` {
		t.Errorf("got %s", got)
	}
	if g.context(a, false) {
		t.Error("something is sent for what the connection has")
	}
	g.context(raw("app.v", "2"), false)
	g.query("BEGIN; SET app.v TO 3; ROLLBACK; BEGIN")
	g.run()
	if got := g.value("SELECT concat_ws('|', current_setting('app.v'), current_setting('work_mem'))"); got != "2|4MB" {
		t.Errorf("got %s", got)
	}
	// In a transaction the settings are part of it.
	g.context(raw("app.v", "3"), true)
	if outline(g.out) != "Q" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.query("SELECT 1")
	want(t, g.run(), "Query internal SET", "Query internal ready T", "Query SELECT 1", "Query ready T")
	if got := g.value("SHOW app.v"); got != "3" {
		t.Errorf("got %s in the transaction", got)
	}
	g.query("ROLLBACK")
	g.run()
	if got := g.value("SHOW app.v"); got != "2" {
		t.Errorf("got %s after it", got)
	}
	if !g.conn.Clean() {
		t.Error("not clean")
	}
}

// TestContextInOtherEncodings: values mean what they mean in the client's encoding, whatever the connection's was.
func TestContextInOtherEncodings(t *testing.T) {
	t.Parallel()
	g := newRig(t, pgtest.Shared(t).CreateDatabase(t))
	latin := raw("app.v", "\xe9", "client_encoding", "LATIN1", "z.z", "\xe4")
	if !g.context(latin, false) || outline(g.out) != "PBEQQ" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.query("SELECT 1")
	g.run()
	if got := g.value("SELECT concat(ascii(current_setting('app.v')), current_setting('z.z'))"); got != "233\xe4" {
		t.Errorf("got %q", got)
	}
	utf := raw("app.v", "é", "client_encoding", "UTF8")
	g.context(utf, false)
	if got := g.value("SELECT concat(ascii(current_setting('app.v')), current_setting('z.z'), current_setting('app.v'))"); got != "233é" {
		t.Errorf("got %q", got)
	}
	g.context(latin, false)
	g.context(raw("app.v", "ascii"), false)
	if got := g.value("SELECT current_setting('app.v') || current_setting('client_encoding')"); got != "asciiUTF8" {
		t.Errorf("got %q", got)
	}
}

// TestContextDoesNotWait: not even where transactions are serializable, read only and deferrable by default.
func TestContextDoesNotWait(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t).CreateDatabase(t, "CREATE TABLE t (v int)")
	other := pgtest.Shared(t).Connect(t, pgtest.Login{User: pgtest.Superuser, Database: db})
	other.Query("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM t; INSERT INTO t VALUES (1)")
	g := newRig(t, db)
	slow := raw("default_transaction_isolation", "serializable", "default_transaction_read_only", "on", "default_transaction_deferrable", "on")
	g.context(slow, false)
	g.context(slow.With(state.Var{Name: "search_path", Value: "a, b", Raw: true}), false)
	g.run()
	if g.closed != nil || g.conn.Tx() != pgwire.TxIdle {
		t.Errorf("%v, %v", g.closed, g.conn.Tx())
	}
}

// followers are a client's messages behind something of ours, each of which inserts a row if it runs.
var followers = map[string]func(g *rig){
	"simple":             func(g *rig) { g.query("INSERT INTO t VALUES (1)") },
	"several statements": func(g *rig) { g.query("SELECT 1; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)") },
	"transaction":        func(g *rig) { g.query("BEGIN; INSERT INTO t VALUES (1); COMMIT") },
	"two queries":        func(g *rig) { g.query("SELECT 1"); g.query("INSERT INTO t VALUES (1)") },
	"extended":           func(g *rig) { g.extended("INSERT INTO t VALUES (1)"); g.sync() },
	"pipeline":           func(g *rig) { g.extended("SELECT 1"); g.extended("INSERT INTO t VALUES (1)"); g.sync() },
	"two pipelines":      func(g *rig) { g.extended("SELECT 1"); g.sync(); g.extended("INSERT INTO t VALUES (1)"); g.sync() },
	"pipeline of commits": func(g *rig) {
		g.extended("SELECT 1")
		g.extended("COMMIT")
		g.extended("INSERT INTO t VALUES (1)")
		g.sync()
	},
	"named": func(g *rig) {
		p := &state.Prepared{ID: 7, Name: "p7", SQL: "INSERT INTO t VALUES (1)"}
		g.out = Prepare(g.out, g.conn, p, false, false, 0)
		g.out, _ = Bind(g.out, g.conn, []byte("portal"), p, false, bindTail(), false, 0, nil)
		g.execute("portal")
		g.sync()
	},
	"copy": func(g *rig) {
		g.query("COPY t FROM STDIN")
		g.out = pgwire.AppendCopyDone(pgwire.AppendCopyData(g.out, "1\n"))
	},
	"outside of transactions only": func(g *rig) { g.query("CREATE DATABASE never_made") },
}

// failures are settings that some server does not take, each refused at another stage.
var failures = map[string]*state.Set{
	"a wrong value":        raw("app.v", "1", "work_mem", "nonsense"),
	"an unknown setting":   raw("app.v", "1", "no_such_setting", "1"),
	"an unknown role":      raw("app.v", "1", "role", "nobody_at_all"),
	"a malformed name":     raw("app.v", "1", "a..b", "1"),
	"no text":              raw("app.v", "\xff"),
	"no text, in a list":   raw("search_path", "\xff"),
	"a syntax error":       (*state.Set)(nil).With(state.Var{Name: "app.v", Value: "("}),
	"another's encoding":   raw("app.v", "\xe9", "client_encoding", "EUC_JP"),
	"no such encoding":     raw("app.v", "é", "client_encoding", "KLINGON"),
	"a zero byte":          raw("app.v", "1\x002"),
	"a command unfinished": (*state.Set)(nil).With(state.Var{Name: "app.v", Value: "app.v TO 'x", Special: true}),
}

// TestNothingRunsWithoutItsContext: when a setting fails, no statement of the client's runs, in any protocol.
func TestNothingRunsWithoutItsContext(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, "CREATE TABLE t (v int)")
	for failure, set := range failures {
		for follower, send := range followers {
			for _, inTransaction := range []bool{false, true} {
				if inTransaction && (follower == "several statements" || follower == "transaction" || follower == "pipeline of commits") {
					continue // a transaction's settings fail with it; what is behind its end is another's
				}
				g := newRig(t, db)
				g.inCopy = func() {}
				if inTransaction {
					g.query("BEGIN")
				}
				g.context(set, inTransaction)
				send(g)
				e := g.run()
				if g.closed != nil || g.conn.Clean() {
					t.Errorf("%s, %s, in transaction %v: %v, clean %v, %q", failure, follower, inTransaction, g.closed, g.conn.Clean(), e)
				}
				if got := errorsOf(g.client); len(got) == 0 || got[0] != pgwire.CodeInFailedTransaction {
					t.Errorf("%s, %s, in transaction %v: the client got %s, errors %v, want 25P02 for us to replace", failure, follower, inTransaction, outline(g.client), got)
				}
				g.c.Terminate()
			}
		}
	}
	if n := pg.Query(t, db, "SELECT count(*) FROM t"); n[0] != "0" {
		t.Errorf("%s rows were stored", n[0])
	}
	if n := pg.Query(t, db, "SELECT count(*) FROM pg_database WHERE datname = 'never_made'"); n[0] != "0" {
		t.Error("a database was made")
	}
}

// TestNothingRunsOutsideOfItsTransaction: when the queued beginning of a transaction fails, no statement of the client's runs, not even
// in a transaction of its own.
func TestNothingRunsOutsideOfItsTransaction(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, "CREATE TABLE t (v int)")
	for name, prologue := range map[string][]string{
		"begin is malformed":       {"BEGIN NOTHING"},
		"begin is no text":         {"BEGIN /* \xff */"},
		"begin, and more":          {"BEGIN; SELECT 1", "SET app.v TO 1"},
		"a wrong value":            {"BEGIN", "SET work_mem TO 'nonsense'"},
		"a wrong value, no text":   {"BEGIN", "SET app.v TO 'é'", "SET app.v TO '\xff'", "SAVEPOINT s"},
		"a syntax error":           {"BEGIN", "SAVEPOINT s", "SAVEPOINT"},
		"an unknown savepoint":     {"BEGIN ISOLATION LEVEL SERIALIZABLE", "RELEASE s"},
		"an error before the last": {"BEGIN", "SET app.v TO 1", "SET no_such_setting TO 1", "SAVEPOINT s"},
	} {
		for follower, send := range followers {
			if follower == "several statements" || follower == "transaction" || follower == "pipeline of commits" {
				continue // the transaction's end is in them
			}
			if strings.HasPrefix(name, "begin") && follower == "two pipelines" {
				continue // one Sync at a time: see lead
			}
			g := newRig(t, db)
			g.inCopy = func() {}
			g.out = Begin(g.out, g.conn, prologue)
			send(g)
			e := g.run()
			if g.closed != nil && !errors.Is(g.closed, backend.ErrLead) || g.conn.Clean() {
				t.Errorf("%s, %s: %v, clean %v, %q", name, follower, g.closed, g.conn.Clean(), e)
			}
			if got := errorsOf(g.client); g.closed == nil && (len(got) == 0 || got[0] != pgwire.CodeInFailedTransaction) {
				t.Errorf("%s, %s: the client got %s, errors %v", name, follower, outline(g.client), got)
			}
			g.c.Terminate()
		}
	}
	// What would have been committed is there once the connections are gone.
	for deadline := time.Now().Add(pgtest.DefaultTimeout); ; {
		if n := pg.Query(t, db, "SELECT count(*) FROM pg_stat_activity WHERE datname = '"+db+"' AND pid <> pg_backend_pid()"); n[0] == "0" || time.Now().After(deadline) {
			break
		}
	}
	if n := pg.Query(t, db, "SELECT count(*) FROM t"); n[0] != "0" {
		t.Errorf("%s rows were stored", n[0])
	}
}

func TestBegin(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t).CreateDatabase(t, "CREATE TABLE t (v int)")
	for name, c := range map[string]struct {
		prologue     []string
		outline      string
		isolation, v string
	}{
		"plain":             {[]string{"BEGIN"}, "PBE", "read committed", ""},
		"nothing":           {nil, "PBE", "read committed", ""},
		"start transaction": {[]string{"START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"}, "PBE", "repeatable read", ""},
		"more":              {[]string{"begin", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET app.v TO 'x'", "SAVEPOINT a"}, "PBEQ", "serializable", "x"},
		"comments":          {[]string{"BEGIN -- the beginning", "SET app.v TO 'x' -- a value", "SAVEPOINT a /* the end */", "RELEASE a --"}, "PBEQ", "read committed", "x"},
		"no ASCII":          {[]string{"BEGIN", "SET client_encoding TO LATIN1", "SET app.v TO '\xe9'"}, "PBEQQ", "read committed", "\xe9"},
	} {
		for _, how := range []string{"simple", "extended", "waits"} {
			g := newRig(t, db)
			g.out = Begin(g.out, g.conn, c.prologue)
			if got := outline(g.out); got != c.outline {
				t.Errorf("%s: sends %s, want %s", name, got, c.outline)
			}
			switch how {
			case "simple":
				g.query("INSERT INTO t VALUES (1)")
			case "extended":
				g.extended("INSERT INTO t VALUES (1)")
				g.sync()
			case "waits":
				synced := g.conn.Synced()
				before := len(g.out)
				g.out = Await(g.out, g.conn)
				if (len(g.out) == before) != synced || len(Await(nil, g.conn)) != 0 {
					t.Errorf("%s: sends %s to wait", name, outline(g.out[before:]))
				}
				g.run()
				g.query("INSERT INTO t VALUES (1)")
			}
			g.run()
			if g.closed != nil || g.conn.Tx() != pgwire.TxActive {
				t.Errorf("%s, %s: %v, %v", name, how, g.closed, g.conn.Tx())
			}
			if got := g.value("SHOW transaction_isolation"); got != c.isolation {
				t.Errorf("%s, %s: got %s", name, how, got)
			}
			if got := g.value("SELECT coalesce(current_setting('app.v', true), '')"); got != c.v {
				t.Errorf("%s, %s: got %q", name, how, got)
			}
			g.query("ROLLBACK")
			g.run()
			if got := g.value("SELECT count(*) FROM t"); got != "0" || !g.conn.Clean() {
				t.Errorf("%s, %s: %s rows after ROLLBACK, clean %v", name, how, got, g.conn.Clean())
			}
			g.c.Terminate()
		}
	}
}

func TestInternalJoinsStatements(t *testing.T) {
	t.Parallel()
	g := newRig(t, pgtest.Shared(t).CreateDatabase(t))
	g.conn.Unnamed = &state.Prepared{}
	g.out = Internal(g.out, g.conn, RefReset, "SET app.v TO 1 -- one", "SET app.w TO 2 /* two */", "DISCARD PLANS")
	if g.conn.Unnamed != nil {
		t.Error("the unnamed statement outlives a Query")
	}
	want(t, g.run(), "Query internal SET", "Query internal SET", "Query internal DISCARD PLANS", "Query internal ready I")
	if g.client != nil || !g.conn.Clean() {
		t.Errorf("the client got %s", outline(g.client))
	}
}

// BenchmarkContext is the difference of one setting.
func BenchmarkContext(b *testing.B) {
	conn := backend.New(&backend.Login{}, 1<<20)
	sets := []*state.Set{raw("application_name", "a", "search_path", "x"), raw("application_name", "b", "search_path", "x")}
	answer := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(pgwire.AppendCommandComplete(
		pgwire.AppendCommandComplete(pgwire.AppendBindComplete(pgwire.AppendParseComplete(nil)), "BEGIN"), "SET"), "COMMIT"), pgwire.TxIdle)
	var out []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out, _ = Context(out[:0], conn, sets[i&1], false)
		if err := conn.Feed(answer); err != nil {
			b.Fatal(strconv.Itoa(i), err)
		}
	}
}

// wax is a sealer whose seals can be read.
type wax struct{}

func (wax) AppendSeal(dst []byte, value string, pid uint32, start int64) []byte {
	return fmt.Appendf(dst, "seal of %s for %d since %d", value, pid, start)
}

// TestSealsAreInNoQuery: a seal is set with the rest of the context, for the connection at hand, and can't be read where the server shows what its
// sessions run.
func TestSealsAreInNoQuery(t *testing.T) {
	t.Parallel()
	g := newRig(t, pgtest.Shared(t).CreateDatabase(t))
	g.conn.PID, g.conn.Start = 7, 11
	sealed := func(key string) *state.Set {
		return raw("app.v", key).With(state.Var{Name: "app.seal", Value: key, Sealer: wax{}})
	}
	both := func() string {
		return g.value("SELECT current_setting('app.v') || ': ' || current_setting('app.seal')")
	}
	for _, inTransaction := range []bool{false, true} {
		if inTransaction {
			g.query("BEGIN")
			g.run()
		}
		for _, key := range []string{"1", "2", "2"} {
			g.context(sealed(key), inTransaction)
			for _, query := range queries(g.out) {
				if strings.Contains(query, "seal of") {
					t.Errorf("in a Query: %s", query)
				}
			}
			g.query("SELECT 1")
			g.run()
			if got, want := both(), key+": seal of "+key+" for 7 since 11"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
	g.context(raw("app.v", "3"), true)
	if got := both(); got != "3: " {
		t.Errorf("without a tenant: %s", got)
	}
	g.query("ROLLBACK")
	g.run()
	if !g.conn.Clean() {
		t.Error("not clean")
	}

	// Who does not know when the process began can't seal.
	g.conn.Start = 0
	g.context(sealed("5"), false)
	g.query("SELECT 2")
	if events := g.run(); !slices.Contains(events, "Query internal failed 55000") || slices.Contains(events, "Query SELECT 1") {
		t.Errorf("%q", events)
	}
}

// queries are the texts of the simple queries in what is sent.
func queries(sent []byte) (list []string) {
	for len(sent) > 0 {
		typ, total, _ := pgwire.Header(sent)
		if typ == pgwire.MsgQuery {
			list = append(list, string(sent[pgwire.HeaderBytes:total]))
		}
		sent = sent[total:]
	}
	return list
}
