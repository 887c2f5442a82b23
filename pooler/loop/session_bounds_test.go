package loop

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func parseNamed(name, sql string) []byte { return pgwire.AppendParse(nil, name, sql, nil) }

func bindTo(b []byte, portal, name string) []byte {
	return pgwire.AppendBind(b, portal, name, pgwire.FormatText, nil, pgwire.FormatText)
}

// TestPortalsOutliveTheirStatements: what a portal runs is what was bound, whatever became of the statement since, also where it is queued for a
// server that is not there yet.
func TestPortalsOutliveTheirStatements(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]struct {
		send []byte
		want string
	}{
		"closed":       {pgwire.AppendFlush(pgwire.AppendClose(nil, pgwire.TargetStatement, "s")), "3"},
		"parsed anew":  {pgwire.AppendFlush(append(pgwire.AppendClose(nil, pgwire.TargetStatement, "s"), parseNamed("s", "SELECT 'a'")...)), "3 1"},
		"not touched":  {pgwire.AppendFlush(nil), ""},
		"another also": {pgwire.AppendFlush(parseNamed("t", "SELECT 'a'")), "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(t, 1, 2, 1)
			k := newTalk(t, m)
			k.login("R Z:I")
			k.query("BEGIN", "C:BEGIN Z:T")
			k.send(pgwire.AppendFlush(bindTo(parseNamed("s", "SET app.v TO '7'"), "p", "s")), "1 2")
			k.send(forget.send, forget.want)
			k.send(pgwire.AppendSync(pgwire.AppendExecute(nil, "p", 0)), "C:SET Z:T")
			k.query("SHOW app.v", "T D:7 C:SHOW Z:T")
			k.query("COMMIT", "C:COMMIT Z:I")
			k.leaves()
		})
	}
}

// TestQueuedBeginningIsBounded: a transaction that is begun at length takes a backend, where it goes on as if it had had it all along.
func TestQueuedBeginningIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		one func(i int) string
		tag string
	}{
		"savepoints":      {func(int) string { return "SAVEPOINT a" }, "SAVEPOINT"},
		"settings":        {func(i int) string { return fmt.Sprintf("SET LOCAL app.v TO '%d'", i) }, "SET"},
		"long settings":   {func(i int) string { return fmt.Sprintf("SET LOCAL app.v TO '%d%s'", i, strings.Repeat("x", 5000)) }, "SET"},
		"session setting": {func(i int) string { return fmt.Sprintf("SET app.v TO '%d'", i) }, "SET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(t, 1, 2, 1)
			k := newTalk(t, m)
			k.login("R Z:I")
			k.query("BEGIN", "C:BEGIN Z:T")
			for i := 0; k.c.sess.Backend() == nil; i++ {
				if i > 2000 {
					t.Fatal("still without a backend")
				}
				k.query(c.one(i), "C:"+c.tag+" Z:T")
			}
			k.query("SAVEPOINT z", "C:SAVEPOINT Z:T")
			k.query("ROLLBACK TO z", "C:ROLLBACK Z:T")
			k.query("ROLLBACK", "C:ROLLBACK Z:I")
			k.query("BEGIN", "C:BEGIN Z:T")
			if k.c.sess.Backend() != nil {
				t.Error("the next transaction takes a backend at once")
			}
			k.query("ROLLBACK", "C:ROLLBACK Z:I")
		})
	}
	t.Run("in one batch", func(t *testing.T) {
		t.Parallel()
		m := newModel(t, 1, 2, 1)
		k := newTalk(t, m)
		k.login("R Z:I")
		k.query("BEGIN", "C:BEGIN Z:T")
		b := parseNamed("s", "SET LOCAL app.v TO '"+strings.Repeat("x", 10000)+"'")
		want := "1"
		for range 100 {
			b = pgwire.AppendExecute(bindTo(b, "", "s"), "", 0)
			want += " 2 C:SET"
		}
		k.send(pgwire.AppendSync(b), want+" Z:T")
		if k.c.sess.Backend() == nil {
			t.Error("a megabyte is queued")
		}
		k.query("ROLLBACK", "C:ROLLBACK Z:I")
	})
}

// TestNamesAndPortalsAreWeighed: long names count, and what only portals and SQL's PREPARE hold.
func TestNamesAndPortalsAreWeighed(t *testing.T) {
	t.Parallel()
	talk := func(t *testing.T) *talk {
		t.Helper()
		m := newModel(t, 1, 2, 1)
		m.sh.Statements = 20000
		k := newTalk(t, m)
		k.login("R Z:I")
		return k
	}
	t.Run("names", func(t *testing.T) {
		t.Parallel()
		k := talk(t)
		for i := range 3 {
			k.send(pgwire.AppendSync(parseNamed(fmt.Sprint(strings.Repeat("n", 6000), i), "SELECT 'a'")), "1 Z:I")
		}
		k.send(pgwire.AppendSync(parseNamed(strings.Repeat("n", 6000), "SELECT 'a'")), "E:53400 Z:I")
		k.send(pgwire.AppendSync(pgwire.AppendClose(nil, pgwire.TargetStatement, strings.Repeat("n", 6000)+"1")), "3 Z:I")
		k.send(pgwire.AppendSync(parseNamed(strings.Repeat("n", 6000), "SELECT 'a'")), "1 Z:I")
	})
	t.Run("portals", func(t *testing.T) {
		t.Parallel()
		k := talk(t)
		k.query("BEGIN", "C:BEGIN Z:T")
		bind := func(i int) []byte {
			return pgwire.AppendSync(bindTo(parseNamed("", fmt.Sprintf("SET LOCAL app.v TO '%d%s'", i, strings.Repeat("x", 5000))), fmt.Sprint("p", i), ""))
		}
		for i := range 2 {
			k.send(bind(i), "1 2 Z:T")
		}
		k.send(bind(2), "E:53400 Z:E")
		k.query("ROLLBACK", "C:ROLLBACK Z:I")
		k.query("BEGIN", "C:BEGIN Z:T")
		k.send(bind(3), "1 2 Z:T")
		k.query("ROLLBACK", "C:ROLLBACK Z:I")
	})
	t.Run("PREPARE", func(t *testing.T) {
		t.Parallel()
		k := talk(t)
		k.query("BEGIN", "C:BEGIN Z:T")
		refused := false
		for i := 0; i < 40 && !refused; i++ {
			k.c.toSession = pgwire.AppendQuery(nil, fmt.Sprintf("PREPARE q%d AS SELECT 'a'", i))
			for k.m.Step() {
			}
			refused = strings.Join(k.s.got, " ") == "E:53400 Z:E"
			k.s.got = nil
		}
		if !refused {
			t.Error("nothing was refused")
		}
		k.query("ROLLBACK", "C:ROLLBACK Z:I") // takes none of them back
		k.query("PREPARE q AS SELECT 'a'", "E:53400 Z:I")
		k.query("DEALLOCATE ALL", "C:DEALLOCATE ALL Z:I")
		k.query("PREPARE q AS SELECT 'a'", "C:PREPARE Z:I")
	})
}

// TestPipelineWithoutEnd: a pipeline that no Sync ends holds no more than what is under way.
func TestPipelineWithoutEnd(t *testing.T) {
	for name, local := range map[string]bool{"on a server": false, "here": true} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, 1, 2, 1)
			k := newTalk(t, m)
			k.login("R Z:I")
			sql, answer := "SELECT 'a' FROM orders WHERE tenant_id = 2", "D:a@0 C:SELECT 1"
			if local {
				sql, answer = "SET pgdog.shard TO '0'", "C:SET"
			}
			b := parseNamed("", sql)
			b = pgwire.AppendFlush(pgwire.AppendExecute(bindTo(b, "", ""), "", 0))
			sql = strings.Replace(sql, "TO '0'", "TO 0", 1)
			b2 := parseNamed("", strings.Replace(sql, "= 2", "= 4", 1))
			b2 = pgwire.AppendFlush(pgwire.AppendExecute(bindTo(b2, "", ""), "", 0))
			held := func() uint64 {
				var s runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&s)
				return s.HeapAlloc
			}
			var before uint64
			for i := range 20000 {
				if i == 1000 {
					before = held()
				}
				k.send(b, "1 2 "+answer)
				k.send(b2, "1 2 "+answer)
			}
			if after := held(); after > before+500<<10 {
				t.Errorf("holds %d bytes more", after-before)
			}
			k.send(pgwire.AppendSync(nil), "Z:I")
			k.leaves()
		})
	}
}

// TestUnnamedStatementIsKept while the same is parsed again and again, and goes when a Parse of it fails.
func TestUnnamedStatementIsKept(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 2, 1)
	k := newTalk(t, m)
	k.login("R Z:I")
	a, b := parseNamed("", "SELECT 'a' FROM orders WHERE tenant_id = 2"), parseNamed("", "SELECT 'b' FROM orders WHERE tenant_id = 3")
	run := pgwire.AppendSync(pgwire.AppendExecute(bindTo(nil, "", ""), "", 0))
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for range 3 {
		k.send(join(a, run), "1 2 D:a@0 C:SELECT 1 Z:I")
		k.send(join(a, a, run), "1 1 2 D:a@0 C:SELECT 1 Z:I")
		k.send(join(b, a, run), "1 1 2 D:a@0 C:SELECT 1 Z:I")
		k.send(join(a, b, run), "1 1 2 D:b@1 C:SELECT 1 Z:I")
		k.send(run, "2 D:b@1 C:SELECT 1 Z:I")
		k.send(join(a, pgwire.AppendSync(pgwire.AppendClose(nil, pgwire.TargetStatement, ""))), "1 3 Z:I")
		k.send(run, "E:26000 Z:I")
		k.send(join(a, run), "1 2 D:a@0 C:SELECT 1 Z:I")
		k.send(join(parseNamed("", "SELECT 1; SELECT 2"), run), "E:42601 Z:I")
		k.send(run, "E:26000 Z:I")
	}
	if n, _ := m.sh.Registry.Stats(); n > 1 {
		t.Errorf("%d statements are held", n)
	}
	k.leaves()
}

// TestLostTransactionStaysLost: a transaction whose server went away can't be gone on with behind a savepoint: what was written in front of it
// is gone, too.
func TestLostTransactionStaysLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]string{"between": "", "in a statement": "SELECT 'b' FROM orders WHERE tenant_id = 2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(t, 1, 2, 1)
			k := newTalk(t, m)
			k.login("R Z:I")
			k.query("BEGIN", "C:BEGIN Z:T")
			k.query("SAVEPOINT a", "C:SAVEPOINT Z:T")
			k.query("UPDATE orders SET v = 'a' WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:T")
			k.query("SAVEPOINT b", "C:SAVEPOINT Z:T")
			if lose != "" {
				k.c.toSession = pgwire.AppendQuery(nil, lose)
				k.c.sess.Input(k.c.toSession)
				k.c.toSession = nil
			}
			k.c.sess.Lost(errors.New("test"))
			if lose == "" {
				k.query("SELECT 'b' FROM orders WHERE tenant_id = 2", "E:08006 Z:E")
			} else {
				k.expect("E:08006 Z:E")
			}
			k.query("ROLLBACK TO b", "E:25P02 Z:E")
			k.query("ROLLBACK TO a", "E:25P02 Z:E")
			k.query("COMMIT", "C:ROLLBACK Z:I")
		})
	}
}

// TestPrepareOfAFailedTransaction rolls it back, also where no server knows of it.
func TestPrepareOfAFailedTransaction(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 2, 1)
	k := newTalk(t, m)
	k.login("R Z:I")
	for range 2 {
		k.query("BEGIN", "C:BEGIN Z:T")
		k.query("SELECT 'a' FROM orders", "E:42501 Z:E")
		k.query("PREPARE TRANSACTION 'x'", "C:ROLLBACK Z:I")
		k.query("SELECT 'a' FROM orders WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:I")
	}
}
