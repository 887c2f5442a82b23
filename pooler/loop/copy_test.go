package loop

import (
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// TestCopyOddities: what a client may send around and during a COPY, whether its rows decide the shard (two) or not.
func TestCopyOddities(t *testing.T) {
	t.Parallel()
	const sql = "COPY orders (tenant_id, v) FROM STDIN"
	begin := func(b []byte) []byte {
		b = pgwire.AppendParse(b, "", sql, nil)
		b = pgwire.AppendBind(b, "", "", pgwire.FormatText, nil, pgwire.FormatText)
		return pgwire.AppendExecute(b, "", 0)
	}
	for name, c := range map[string]struct {
		send []byte
		want string
		ends bool
	}{
		"a Query":        {pgwire.AppendQuery(pgwire.AppendQuery(nil, sql), "SELECT 'a'"), "G E:08P01 E:08P01", true},
		"a goodbye":      {pgwire.AppendTerminate(pgwire.AppendQuery(nil, sql)), "G", true},
		"a bad length":   {append(pgwire.AppendQuery(nil, sql), 'd', 0, 0, 0, 1), "G E:08P01", true},
		"Sync and Flush": {pgwire.AppendCopyDone(pgwire.AppendCopyData(pgwire.AppendFlush(pgwire.AppendSync(pgwire.AppendQuery(nil, sql))), "2\tx\n")), "G C:COPY 1 Z:I", false},
		"no rows":        {pgwire.AppendCopyDone(pgwire.AppendQuery(nil, sql)), "G C:COPY 0 Z:I", false},
		"no end of line": {pgwire.AppendCopyDone(pgwire.AppendCopyData(pgwire.AppendQuery(nil, sql), "2\tx")), "G C:COPY 0 Z:I", false},
		"ahead":          {pgwire.AppendSync(pgwire.AppendCopyDone(pgwire.AppendCopyData(pgwire.AppendFlush(begin(nil)), "2\tx\n"))), "1 2 G C:COPY 1 Z:I", false},
		"failed, ahead":  {pgwire.AppendSync(pgwire.AppendCopyDone(pgwire.AppendCopyData(pgwire.AppendFlush(begin(nil)), "2\tbad\n"))), "1 2 G E:22P02 Z:I", false},
	} {
		for shards := 1; shards <= 2; shards++ {
			for _, busy := range []bool{false, true} {
				m := newModel(t, 1, shards, 1)
				m.Ready = func() topology.ShardID { return 0 }
				k := newTalk(t, m)
				k.login("R Z:I")
				other := newTalk(t, m)
				other.login("R Z:I")
				if busy {
					other.query("BEGIN; SELECT 'o'", "C:BEGIN T D:o@0 C:SELECT 1 Z:T")
					k.c.toSession = append(k.c.toSession, c.send...)
					for m.Step() {
					}
					other.query("COMMIT", "C:COMMIT Z:I")
					k.expect(c.want)
				} else {
					k.send(c.send, c.want)
				}
				if k.c.sess.Closed() != c.ends {
					t.Errorf("%s, %d shards: ended is %v", name, shards, !c.ends)
				}
				other.query("SELECT 'o'", "T D:o@0 C:SELECT 1 Z:I")
				k.c.sess.Gone()
				other.c.sess.Gone()
				for m.Step() {
				}
				wantNothingLeft(t, m)
			}
		}
	}
	k := newTalk(t, newModel(t, 1, 2, 1))
	k.login("R Z:I")
	mixed := pgwire.AppendParse(begin(nil), "", "SELECT 'a'", nil)
	mixed = pgwire.AppendBind(mixed, "", "", pgwire.FormatText, nil, pgwire.FormatText)
	k.send(pgwire.AppendSync(pgwire.AppendExecute(mixed, "", 0)), "E:0A000 Z:I")
	bound := pgwire.AppendBind(pgwire.AppendParse(nil, "", sql, nil), "", "", pgwire.FormatText, nil, pgwire.FormatText)
	k.send(pgwire.AppendSync(bound), "E:0A000 Z:I")
	described := pgwire.AppendDescribe(pgwire.AppendParse(nil, "", sql, nil), pgwire.TargetStatement, "")
	described = pgwire.AppendBind(described, "", "", pgwire.FormatText, nil, pgwire.FormatText)
	described = pgwire.AppendExecute(pgwire.AppendDescribe(described, pgwire.TargetPortal, ""), "", 0)
	k.send(pgwire.AppendFlush(described), "1 t n 2 n G")
	k.send(pgwire.AppendSync(pgwire.AppendCopyDone(nil)), "C:COPY 0 Z:I")
}

// TestSequences: lastval is a state of the server's session, that nobody is to see of others.
func TestSequences(t *testing.T) {
	t.Parallel()
	k := newTalk(t, newModel(t, 1, 1, 1))
	k.login("R Z:I")
	k.query("BEGIN", "C:BEGIN Z:T")
	k.query("SELECT 'a'", "T D:a@0 C:SELECT 1 Z:T")
	k.query("SELECT 'a', lastval()", "E:55000 Z:E")
	k.query("ROLLBACK", "C:ROLLBACK Z:I")
	k.query("SELECT 'a', lastval()", "T D:a@0 C:SELECT 1 Z:I")
}

// TestTimeouts of a login, and of a statement that waits.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	m.sh.LoginTimeout = int64(time.Minute)
	account(m.sh).QueryTimeout = int64(time.Minute)
	first, second, third := newTalk(t, m), newTalk(t, m), newTalk(t, m)
	first.login("R Z:I")
	second.login("R Z:I")
	first.query("BEGIN; SELECT 'a'", "C:BEGIN T D:a@0 C:SELECT 1 Z:T")
	second.query("SELECT 'b'", "")
	m.Advance(2 * time.Minute)
	second.expect("E:57014 Z:I")
	third.expect("E:57014")
	if got := third.c.sess.Reason(); got != session.CloseLogin {
		t.Errorf("got %v", got)
	}
	m.sh.TLS = true
	k := newTalk(t, m)
	k.send(append(pgwire.AppendSSLRequest(nil), "SELECT"...), "E:08P01")
}
