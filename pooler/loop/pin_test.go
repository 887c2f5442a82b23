package loop

import (
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// TestPinIsLost: what was left is gone with its backend, which the client hears once, with its next statement, and goes on.
func TestPinIsLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, then [][2]string }{
		"between transactions": {
			[][2]string{{"CREATE TEMP TABLE tmp (a int)", "C:CREATE TABLE Z:I"}},
			[][2]string{{"BEGIN", "E:08006 Z:I"}, {"SELECT 'a' FROM tmp", "E:42P01 Z:I"}},
		},
		"in a transaction": {
			[][2]string{{"CREATE TEMP TABLE tmp (a int)", "C:CREATE TABLE Z:I"}, {"BEGIN", "C:BEGIN Z:T"}},
			[][2]string{{"SELECT 'a'", "E:08006 Z:E"}, {"SELECT 'a'", "E:25P02 Z:E"}, {"ROLLBACK", "C:ROLLBACK Z:I"}},
		},
		"with SQL's PREPARE": {
			[][2]string{{"PREPARE x1 AS SELECT 'a'", "C:PREPARE Z:I"}, {"CREATE TEMP TABLE tmp (a int)", "C:CREATE TABLE Z:I"}},
			[][2]string{{"EXECUTE x1", "E:08006 Z:I"}, {"EXECUTE x1", "T D:a@0 C:SELECT 1 Z:I"}, {"DEALLOCATE ALL", "C:DEALLOCATE ALL Z:I"}, {"EXECUTE x1", "E:26000 Z:I"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newTalk(t, newModel(t, 1, 1, 1))
			k.login("R Z:I")
			for _, q := range c.before {
				k.query(q[0], q[1])
			}
			if k.c.sess.Pinned() == "" {
				t.Fatal("it is not pinned")
			}
			k.c.sess.Backend().Link.(*MemoryBackend).broken = true
			k.expect("")
			if k.c.sess.Pinned() != "" || k.c.sess.Backend() != nil {
				t.Error("it is pinned to what is gone")
			}
			k.send(pgwire.AppendSync(nil), map[bool]string{true: "Z:E", false: "Z:I"}[name == "in a transaction"]) // it is nobody's statement
			for _, q := range c.then {
				k.query(q[0], q[1])
			}
			k.query("SELECT 'b'", "T D:b@0 C:SELECT 1 Z:I")
			k.leaves()
		})
	}
}

// TestPinTimeout: a pinned client that says nothing is closed; others may be silent.
func TestPinTimeout(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	a := account(m.sh)
	a.PinTimeout = int64(time.Minute)
	k := newTalk(t, m)
	k.login("R Z:I")
	m.Advance(time.Hour)
	k.query("SELECT pg_advisory_lock('a')", "T D: C:SELECT 1 Z:I")
	m.Advance(50 * time.Second)
	k.query("BEGIN", "C:BEGIN Z:T")
	m.Advance(time.Hour)
	k.query("COMMIT", "C:COMMIT Z:I")
	m.Advance(50 * time.Second)
	k.expect("")
	m.Advance(20 * time.Second)
	k.expect("E:57P05")
	if k.c.sess.Reason() != session.ClosePinned {
		t.Errorf("closed for %v", k.c.sess.Reason())
	}
	k.leaves()
}

// TestPinIsInspectedOnceMore where a cancel request for the statement may have hit the question.
func TestPinIsInspectedOnceMore(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]string{1: "", 2: "advisory_lock"} {
		m := newModel(t, 1, 1, 1)
		k := newTalk(t, m)
		k.login("R Z:I")
		m.Lent = func(_ *MemoryClient, b *MemoryBackend) { b.server.(*modelServer).blind = failures }
		k.query("BEGIN; SELECT pg_advisory_lock('a'); SELECT pg_advisory_unlock('a'); COMMIT", "C:BEGIN T D: C:SELECT 1 T D:a C:SELECT 1 C:COMMIT Z:I")
		if got := k.c.sess.Pinned(); got != want {
			t.Errorf("%d failures: pinned by %q", failures, got)
		}
		k.query("SELECT pg_advisory_unlock('a')", "T D: C:SELECT 1 Z:I")
		if got := k.c.sess.Pinned(); got != "" {
			t.Errorf("%d failures: pinned by %q", failures, got)
		}
		k.leaves()
	}
}
