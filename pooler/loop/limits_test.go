package loop

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestStateOfTheServerSession: what lives in a server's session is followed, refused or keeps its backend from others.
func TestStateOfTheServerSession(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 2, 1)
	k := newTalk(t, m)
	k.login("R Z:I", "search_path", `a, "B", 'c'`)
	for _, q := range [][2]string{
		{"SET search_path TO a, public", "C:SET Z:I"},
		{"SELECT 'a' FROM orders WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:I"},
		{"SET ROLE TO x", "C:SET Z:I"},
		{"SELECT 'a' FROM orders WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:I"},
		{"RESET ROLE", "C:RESET Z:I"},
		{"RESET search_path", "C:RESET Z:I"},
		{"BEGIN", "C:BEGIN Z:T"},
		{"SET LOCAL search_path TO a", "C:SET Z:T"},
		{"SET LOCAL ROLE TO x", "C:SET Z:T"},
		{"SET LOCAL timezone TO 'x'", "C:SET Z:T"},
		{"SAVEPOINT a", "C:SAVEPOINT Z:T"},
		{"SET LOCAL timezone TO 'y'", "C:SET Z:T"},
		{"ROLLBACK TO a", "C:ROLLBACK Z:T"},
		{"SELECT 'a' FROM orders WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:T"},
		{"SET LOCAL search_path TO DEFAULT", "C:SET Z:T"},
		{"RELEASE b", "E:3B001 Z:E"},
		{"ROLLBACK TO b", "E:3B001 Z:E"},
		{"COMMIT", "C:ROLLBACK Z:I"},
		{"BEGIN", "C:BEGIN Z:T"},
		{"RELEASE b", "E:3B001 Z:E"},
		{"ROLLBACK TO b", "E:3B001 Z:E"},
		{"ROLLBACK", "C:ROLLBACK Z:I"},
		{"SELECT pg_catalog.set_config('app.v', 'x', false)", "T D:x C:SELECT 1 Z:I"},
		{"SHOW app.v", "T D:x C:SHOW Z:I"},
		{"DISCARD ALL", "C:DISCARD ALL Z:I"},
		{"SHOW app.v", "T D: C:SHOW Z:I"},
		{"SET timezone TO 'bad'", "E:22023 Z:I"},
		{"", "I Z:I"},
	} {
		k.query(q[0], q[1])
	}
	if s := k.c.sess; s.Account() == nil || s.PreparedCount() != 0 || s.ToldParameter("server_version") != "15.18" || s.Minor() != 0 || s.Snapshot().Queries == 0 || s.ServerLogin() != nil {
		t.Errorf("got %+v", s.Snapshot())
	}
	if user, database := k.c.sess.Names(); user != "app" || database != "prod" {
		t.Errorf("got %s, %s", user, database)
	}
	k.leaves()
}

// TestLimits: what is too long, too much or not wanted is refused, and the session goes on.
func TestLimits(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 2, 1)
	m.sh.QuerySize, m.sh.Statements = 2000, 3000
	k := newTalk(t, m)
	k.login("R Z:I")
	k.query("SELECT '"+strings.Repeat("x", 3000)+"'", "E:54000 Z:I")
	long := pgwire.AppendParse(nil, "a", "SELECT '"+strings.Repeat("x", 3000)+"'", nil)
	k.send(pgwire.AppendSync(long), "E:54000 Z:I")
	half := pgwire.AppendParse(nil, "a", "SELECT '"+strings.Repeat("x", 1900)+"'", nil)
	k.send(pgwire.AppendSync(half), "1 Z:I")
	half = pgwire.AppendParse(nil, "b", "SELECT '"+strings.Repeat("y", 1900)+"'", nil)
	k.send(pgwire.AppendSync(half), "E:53400 Z:I")
	many := pgwire.AppendParse(nil, "", "SELECT 1; SELECT 2", nil)
	k.send(pgwire.AppendSync(many), "E:42601 Z:I")
	// A statement without its tenant is described all the same, and refused where it would run.
	blind := pgwire.AppendParse(nil, "", "UPDATE orders SET v = 'a'", nil)
	blind = pgwire.AppendDescribe(blind, pgwire.TargetStatement, "")
	k.send(pgwire.AppendSync(blind), "1 t n Z:I")
	blind = pgwire.AppendBind(nil, "", "", pgwire.FormatText, nil, pgwire.FormatText)
	k.c.toSession = pgwire.AppendSync(pgwire.AppendExecute(blind, "", 0))
	for m.Step() {
	}
	if got := strings.Join(k.s.got, " "); !strings.HasPrefix(got, "E:") || !strings.HasSuffix(got, " Z:I") || len(k.s.got) != 2 {
		t.Errorf("got %s", got)
	}
	k.s.got = nil
	// Messages that can't be read.
	for _, typ := range []byte("PBDECQ") {
		b := []byte{typ, 0, 0, 0, 5, 'x'}
		want := "E:08P01 Z:I"
		if typ != 'Q' {
			b = pgwire.AppendSync(b)
		}
		k.send(b, want)
	}
	k.leaves()
}

// TestLongBatch: names are found in a batch of any length.
func TestLongBatch(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	k := newTalk(t, m)
	k.login("R Z:I")
	var b []byte
	var want []string
	for i := range 100 {
		name := fmt.Sprint("s", i%40)
		if i >= 40 {
			b = pgwire.AppendClose(b, pgwire.TargetStatement, name)
			want = append(want, "3")
		}
		b = pgwire.AppendParse(b, name, fmt.Sprintf("SELECT 'a%d'", i), nil)
		b = pgwire.AppendBind(b, name, name, pgwire.FormatText, nil, pgwire.FormatText)
		b = pgwire.AppendExecute(b, name, 0)
		b = pgwire.AppendClose(b, pgwire.TargetPortal, name)
		want = append(want, "1 2", fmt.Sprintf("D:a%d@0 C:SELECT 1 3", i))
	}
	k.send(pgwire.AppendSync(b), strings.Join(append(want, "Z:I"), " "))
	if n := k.c.sess.PreparedCount(); n != 40 {
		t.Errorf("has %d statements", n)
	}
	k.query("DEALLOCATE ALL", "C:DEALLOCATE ALL Z:I")
	k.leaves()
}

// TestRefusedConnection: one that is good for cancel requests only is told so.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	k := newTalk(t, m)
	k.c.sess.Refuse(pgwire.Fatalf(pgwire.CodeTooManyConnections, "too many"))
	k.login("E:53300")
}

// TestLongAnswersAreRefusedUnread: who is not logged in yet can't have more kept for it than its method takes.
func TestLongAnswersAreRefusedUnread(t *testing.T) {
	t.Parallel()
	for method, most := range map[auth.Method]int{auth.MethodSCRAM: 1 << 10, auth.MethodPlain: 65535} {
		for more, want := range map[int]string{0: "", 1: "E:08P01"} {
			m := newModel(t, 1, 1, 1)
			m.sh.Method = method
			k := newTalk(t, m)
			k.send(pgwire.AppendStartupMessage(nil, 3<<16, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}}), "R")
			k.send(binary.BigEndian.AppendUint32([]byte{pgwire.MsgPassword}, uint32(4+most+more)), want)
		}
	}
}
