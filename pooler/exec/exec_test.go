package exec

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

func prepared(id uint64, sql string) *state.Prepared {
	return &state.Prepared{ID: id, Name: fmt.Sprintf("pgkennel_%d", id), SQL: sql}
}

// names of the statements that the server has on the connection.
func (g *rig) names() []string {
	g.t.Helper()
	if n := g.value("SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM pg_prepared_statements"); n != "" {
		return strings.Fields(n)
	}
	return nil
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	g := newRig(t, "postgres")
	p := prepared(1, "SELECT $1")
	p.Types = "\x00\x00\x00\x17"

	// The first client's Parse goes to the server, the second's is answered here.
	g.out = Prepare(g.out, g.conn, p, false, false, 0)
	if outline(g.out) != "P" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.sync()
	want(t, g.run(), "Parse", "Sync ready I")
	g.out = Prepare(g.out, g.conn, p, false, false, 0)
	if len(g.out) != 0 {
		t.Errorf("sends %s for what the connection has", outline(g.out))
	}
	g.sync()
	g.client = nil
	want(t, g.run(), "local", "Sync ready I")
	if outline(g.client) != "1" {
		t.Errorf("the client got %s", outline(g.client))
	}

	// A Bind brings its statement along, where the connection lacks it.
	q := prepared(2, "SELECT 2")
	for i, wanted := range []string{"PB", "B"} {
		g.out, _ = Bind(g.out, g.conn, []byte("portal"), q, false, bindTail(), false, 0, nil)
		if outline(g.out) != wanted {
			t.Errorf("sends %s, want %s", outline(g.out), wanted)
		}
		g.execute("portal")
		g.sync()
		g.client = nil
		g.run()
		if outline(g.client) != "2DC" {
			t.Errorf("time %d: the client got %s", i, outline(g.client))
		}
	}
	g.out = DescribeStatement(g.out, g.conn, prepared(3, "SELECT 3"), false, false, 0, nil)
	if outline(g.out) != "PD" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.sync()
	g.client = nil
	g.run()
	if outline(g.client) != "tT" {
		t.Errorf("the client got %s", outline(g.client))
	}

	// A client's Close is answered here; others may have the statement.
	Local(g.conn, pgwire.AppendCloseComplete(nil), 0)
	g.sync()
	g.client = nil
	want(t, g.run(), "local", "Sync ready I")
	if outline(g.client) != "3" {
		t.Errorf("the client got %s", outline(g.client))
	}
	if got := g.names(); !slices.Equal(got, []string{"pgkennel_1", "pgkennel_2", "pgkennel_3"}) {
		t.Errorf("the server has %v", got)
	}
	if got := g.value("SELECT parameter_types FROM pg_prepared_statements WHERE name = 'pgkennel_1'"); got != "{integer}" {
		t.Errorf("got types %s", got)
	}
}

func TestPrepareUnnamed(t *testing.T) {
	t.Parallel()
	g := newRig(t, "postgres")
	p, q := prepared(1, "SELECT 1"), prepared(2, "SELECT 2")
	for i, c := range []struct {
		p        *state.Prepared
		internal bool
		sends    string
	}{
		{p, true, "P"},
		{p, true, ""},
		{p, false, "P"}, // a client's own Parse always goes: it may fail today
		{q, true, "P"},
		{p, true, "P"},
		{q, false, "P"},
		{q, true, ""},
	} {
		g.out = Prepare(g.out, g.conn, c.p, true, c.internal, 0)
		if outline(g.out) != c.sends {
			t.Errorf("%d: sends %s, want %s", i, outline(g.out), c.sends)
		}
		g.out, _ = Bind(g.out, g.conn, nil, c.p, true, bindTail(), false, 0, nil)
		g.execute("")
		g.sync()
		g.client = nil
		g.run()
		if !strings.Contains(string(g.client), fmt.Sprintf("\x00\x01%d", c.p.ID)) {
			t.Errorf("%d: the client got %q", i, g.client)
		}
	}
	g.conn.Have = raw("timezone", "UTC") // under which it means something else
	for _, wanted := range []string{"P", ""} {
		g.out = Prepare(g.out, g.conn, q, true, true, 0)
		if outline(g.out) != wanted {
			t.Errorf("sends %s under another setting, want %s", outline(g.out), wanted)
		}
		g.sync()
		g.run()
	}
	g.query("SELECT 1") // drops it
	g.run()
	g.out, _ = Bind(g.out, g.conn, nil, q, true, bindTail(), false, 0, nil)
	if outline(g.out) != "PB" {
		t.Errorf("sends %s", outline(g.out))
	}
	if g.conn.Statements.Len() != 0 {
		t.Error("an unnamed statement has a name")
	}
}

func TestPrepareEvicts(t *testing.T) {
	t.Parallel()
	g := newRig(t, "postgres")
	g.conn.Statements.MaxCount = 2
	a, b, c := prepared(1, "SELECT 1"), prepared(2, "SELECT 2"), prepared(3, "SELECT 3")
	g.out = Prepare(g.out, g.conn, a, false, false, 0)
	g.out = Prepare(g.out, g.conn, b, false, false, 0)
	g.sync()
	g.run()
	// The portal of a goes on when its statement has to go for another, in the same pipeline.
	g.out, _ = Bind(g.out, g.conn, []byte("portal"), a, false, bindTail(), false, 0, nil)
	g.out, _ = Bind(g.out, g.conn, []byte("other"), b, false, bindTail(), false, 0, nil)
	g.out, _ = Bind(g.out, g.conn, []byte("third"), c, false, bindTail(), false, 0, nil)
	if outline(g.out) != "BBCPB" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.execute("portal")
	g.execute("third")
	g.sync()
	want(t, g.run(), "Bind", "Bind", "Close internal", "Parse internal", "Bind", "Execute SELECT 1", "Execute SELECT 1", "Sync ready I")
	if got := g.names(); !slices.Equal(got, []string{"pgkennel_2", "pgkennel_3"}) {
		t.Errorf("the server has %v", got)
	}
	// Skipped with everything else behind an error, it has not happened.
	g.extended("SELECT 1/0")
	g.out = Prepare(g.out, g.conn, a, false, false, 0)
	g.out = Prepare(g.out, g.conn, b, false, false, 0)
	g.sync()
	g.run()
	if got := g.names(); !slices.Equal(got, []string{"pgkennel_2", "pgkennel_3"}) {
		t.Errorf("the server has %v", got)
	}
	if s := &g.conn.Statements; s.Has(a) || !s.Has(b) || !s.Has(c) {
		t.Errorf("assumed of the server: %v %v %v", s.Has(a), s.Has(b), s.Has(c))
	}
}

// TestStatementsAreWhatTheServerHas runs random pipelines, many of which fail somewhere, and asks the server after each what it has.
func TestStatementsAreWhatTheServerHas(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t).CreateDatabase(t)
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		g := newRig(t, db)
		g.conn.Statements.MaxCount = 3
		var all []*state.Prepared
		for i := range uint64(7) {
			sql := fmt.Sprintf("SELECT %d", i)
			if i == 5 {
				sql = "SELECT 1/0 FROM generate_series(1, 1)" // fails when it is executed
			}
			if i == 6 {
				sql = "SELEKT" // when it is parsed
			}
			all = append(all, prepared(i+1, sql))
		}
		var history []string
		for range 60 {
			for range 1 + r.IntN(6) {
				p, unnamed, internal := all[r.IntN(len(all))], r.IntN(4) == 0, r.IntN(2) == 0
				before := len(g.out)
				switch r.IntN(5) {
				case 0, 1:
					g.out = Prepare(g.out, g.conn, p, unnamed, internal, 0)
				case 2, 3:
					g.out, _ = Bind(g.out, g.conn, nil, p, unnamed, bindTail(), internal, 0, nil)
					g.execute("")
				case 4:
					g.out = DescribeStatement(g.out, g.conn, p, unnamed, internal, 0, nil)
				}
				history = append(history, fmt.Sprintf("%s unnamed %v: %s", p.Name, unnamed, outline(g.out[before:])))
			}
			switch r.IntN(8) {
			case 0:
				g.query("BEGIN")
			case 1:
				g.query("ROLLBACK")
			case 2:
				g.out = Abort(g.out, g.conn, pgwire.Errorf("42501", "no"), 0)
			}
			g.sync()
			e := g.run()
			history = append(history, strings.Join(e, ", "))
			if g.closed != nil {
				t.Fatalf("seed %d: %v after\n%s", seed, g.closed, strings.Join(history, "\n"))
			}
			for _, code := range errorsOf(g.client) {
				if code == "26000" || code == "42P05" { // unknown statement, duplicate statement
					t.Fatalf("seed %d: the client got %s after\n%s", seed, code, strings.Join(history, "\n"))
				}
			}
			for _, event := range e {
				if strings.HasSuffix(event, "26000") || strings.HasSuffix(event, "42P05") {
					t.Fatalf("seed %d: %s after\n%s", seed, event, strings.Join(history, "\n"))
				}
			}
			if g.conn.Tx() == pgwire.TxFailed {
				g.query("ROLLBACK")
				g.run()
			}
			var assumed []string
			for _, p := range all {
				if g.conn.Statements.Has(p) {
					assumed = append(assumed, p.Name)
				}
			}
			slices.Sort(assumed)
			if got := g.names(); !slices.Equal(got, assumed) {
				t.Fatalf("seed %d: the server has %v, assumed %v, after\n%s", seed, got, assumed, strings.Join(history, "\n"))
			}
		}
		g.c.Terminate()
	}
}

func TestAbortFailsTheTransaction(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, "CREATE TABLE t (v int)")
	refusal := pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "no tenant").WithRoutine("tenant_missing")
	count := func() string { return pg.Query(t, db, "SELECT count(*) FROM t")[0] }

	t.Run("implicit", func(t *testing.T) {
		g := newRig(t, db)
		g.extended("INSERT INTO t VALUES (1)")
		g.out = Abort(g.out, g.conn, refusal, 0)
		g.extended("INSERT INTO t VALUES (2)")
		g.sync()
		want(t, g.run(), "Parse", "Bind", "Execute INSERT 0 1", "Execute refused, server said 34000", "Parse skipped", "Bind skipped", "Execute skipped", "Sync ready I")
		if outline(g.client) != "12CE" || !slices.Equal(errorsOf(g.client), []string{pgwire.CodeInsufficientPrivilege}) {
			t.Errorf("the client got %s, %v", outline(g.client), errorsOf(g.client))
		}
		if n := count(); n != "0" || !g.conn.Clean() {
			t.Errorf("%s rows, clean %v", n, g.conn.Clean())
		}
	})
	t.Run("explicit", func(t *testing.T) {
		g := newRig(t, db)
		g.query("BEGIN; INSERT INTO t VALUES (1)")
		g.run()
		g.out = Sync(Abort(g.out, g.conn, refusal, 0), g.conn, false, 0)
		want(t, g.run(), "Execute refused, server said 34000", "Sync ready E")
		g.client = nil
		g.query("INSERT INTO t VALUES (2)")
		g.run()
		if !slices.Equal(errorsOf(g.client), []string{pgwire.CodeInFailedTransaction}) {
			t.Errorf("the client got %v", errorsOf(g.client))
		}
		g.query("COMMIT")
		want(t, g.run(), "Query ROLLBACK", "Query ready I")
		if n := count(); n != "0" {
			t.Errorf("%s rows", n)
		}
	})
	t.Run("savepoint", func(t *testing.T) {
		g := newRig(t, db)
		g.query("BEGIN; SAVEPOINT s")
		g.run()
		g.out = Sync(Abort(g.out, g.conn, refusal, 0), g.conn, false, 0)
		g.run()
		g.query("ROLLBACK TO s; SELECT 1; ROLLBACK")
		want(t, g.run(), "Query ROLLBACK", "Query SELECT 1", "Query ROLLBACK", "Query ready I")
	})
	t.Run("behind an error", func(t *testing.T) {
		g := newRig(t, db)
		g.extended("SELECT 1/0")
		g.out = Sync(Abort(g.out, g.conn, refusal, 0), g.conn, false, 0)
		g.run()
		if !slices.Equal(errorsOf(g.client), []string{"22012"}) {
			t.Errorf("the client got %v", errorsOf(g.client))
		}
	})
	t.Run("in a failed transaction", func(t *testing.T) {
		g := newRig(t, db)
		g.query("BEGIN; SELECT 1/0")
		g.run()
		g.client = nil
		g.out = Sync(Abort(g.out, g.conn, refusal, 0), g.conn, false, 0)
		g.run()
		if !slices.Equal(errorsOf(g.client), []string{pgwire.CodeInsufficientPrivilege}) {
			t.Errorf("the client got %v", errorsOf(g.client))
		}
	})
	t.Run("a portal of that name", func(t *testing.T) { // which a client may well make
		g := newRig(t, db)
		p := prepared(1, "INSERT INTO t VALUES (1) RETURNING 'hers'")
		g.query("BEGIN")
		g.out, _ = Bind(g.out, g.conn, []byte(abortPortal), p, false, bindTail(), false, 0, nil)
		g.out = Sync(Abort(g.out, g.conn, refusal, 0), g.conn, false, 0)
		g.run()
		if !errors.Is(g.closed, backend.ErrProtocol) || strings.Contains(string(g.client), "hers") {
			t.Errorf("got %v; the client got %s", g.closed, outline(g.client))
		}
	})
}

func TestSyncAndLocal(t *testing.T) {
	t.Parallel()
	g := newRig(t, "postgres")
	Local(g.conn, pgwire.AppendBindComplete(nil), 0)
	want(t, g.run(), "local")
	g.out = Sync(g.out, g.conn, true, RefSync)
	Local(g.conn, pgwire.AppendNoData(nil), 0)
	want(t, g.run(), "Sync internal ready I", "local")
	if outline(g.client) != "2n" {
		t.Errorf("the client got %s", outline(g.client))
	}
}

// TestSteadyStateAllocatesNothing: binding what the connection has.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	conn := backend.New(&backend.Login{}, 1<<20)
	p := prepared(1, "SELECT $1")
	conn.Statements.Add(p)
	var out []byte
	tail := bindTail()
	answer := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(pgwire.AppendBindComplete(nil), "SELECT 0"), pgwire.TxIdle)
	unit := func() {
		out = Prepare(out[:0], conn, p, false, false, 1)
		out, _ = Bind(out, conn, nil, p, false, tail, false, 0, nil)
		conn.Ask(backend.Step{Kind: backend.StepExecute})
		out = pgwire.AppendExecute(out, "", 0)
		out = Sync(out, conn, false, 0)
		conn.Flush()
		if err := conn.Feed(answer); err != nil {
			t.Fatal(err)
		}
	}
	unit()
	if n := testing.AllocsPerRun(100, unit); n != 0 {
		t.Errorf("got %v allocations a unit, want 0", n)
	}
	begin := []string{"BEGIN"}
	answer = pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(pgwire.AppendBindComplete(pgwire.AppendParseComplete(nil)), "BEGIN"), pgwire.TxActive)
	transaction := func() {
		out = Begin(out[:0], conn, begin)
		out = Await(out, conn)
		if err := conn.Feed(answer); err != nil {
			t.Fatal(err)
		}
	}
	transaction()
	if n := testing.AllocsPerRun(100, transaction); n != 0 {
		t.Errorf("got %v allocations a transaction's beginning, want 0", n)
	}
}

// TestChangedStatementsArePreparedAnew on a real server: each is closed in front of its next Parse, and stays to be where that was skipped.
func TestChangedStatementsArePreparedAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t).CreateDatabase(t, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
	g := newRig(t, db)
	p := prepared(1, "SELECT * FROM t")
	bind := func(wanted string) {
		t.Helper()
		g.out, _ = Bind(g.out, g.conn, nil, p, false, bindTail(), false, 0, nil)
		if outline(g.out) != wanted {
			t.Errorf("sends %s, want %s", outline(g.out), wanted)
		}
		g.execute("")
		g.sync()
		g.client = nil
	}
	bind("PB")
	g.run()
	g.value("ALTER TABLE t ADD b int; SELECT 1")
	bind("B")
	want(t, g.run(), "Bind failed 0A000", "Execute skipped", "Sync ready I")
	g.conn.Changed()
	evictions := g.conn.Evictions

	// Behind an error nothing happens to it.
	g.extended("SELECT 1/0")
	g.out, _ = Bind(g.out, g.conn, nil, p, false, bindTail(), false, 0, nil)
	if outline(g.out) != "PBECPB" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.sync()
	g.run()
	bind("CPB")
	g.run()
	if outline(g.client) != "2DC" {
		t.Errorf("the client got %s", outline(g.client))
	}
	bind("B")
	g.run()
	if outline(g.client) != "2DC" || g.conn.Evictions != evictions {
		t.Errorf("the client got %s; %d were closed for want of room", outline(g.client), g.conn.Evictions-evictions)
	}

	// A client's own Parse of it goes to the server then, which answers.
	g.conn.Changed()
	g.out = Prepare(g.out, g.conn, p, false, false, 0)
	if outline(g.out) != "CP" {
		t.Errorf("sends %s", outline(g.out))
	}
	g.sync()
	g.client = nil
	want(t, g.run(), "Close internal", "Parse", "Sync ready I")
	if outline(g.client) != "1" {
		t.Errorf("the client got %s", outline(g.client))
	}

	// What it returns is found out on the side.
	var unnamed state.Shape
	g.out = Look(g.out, g.conn, p, false, RefRenew, nil)
	g.out = Look(g.out, g.conn, prepared(2, "SELECT * FROM t"), true, RefRenew, &unnamed)
	g.sync()
	g.client = nil
	g.run()
	if _, shape, _ := g.conn.Statements.Instance(p, 0); *shape != unnamed || shape.Columns != 2 || shape.Params == 0 || len(g.client) > 0 {
		t.Errorf("got %v and %v, the client %s", *shape, unnamed, outline(g.client))
	}
}
