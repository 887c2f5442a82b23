package loop

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// lateCluster learns what its servers report when it is asked the second time.
type lateCluster struct {
	modelCluster
	asked *int
}

func (c lateCluster) Parameters() []pgwire.Param {
	if *c.asked++; *c.asked == 1 {
		return nil
	}
	return modelParams
}

func TestCorners(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	a := account(m.sh)
	a.Cluster = lateCluster{a.Cluster.(modelCluster), new(int)}
	k := newTalk(t, m)
	k.login("R Z:I", "timezone", "x")
	for _, q := range [][2]string{
		{"SELEC 1", "E:42601 Z:I"},
		{"BEGIN", "C:BEGIN Z:T"},
		{"RESET ALL", "C:RESET Z:T"},
		{"RESET timezone", "C:RESET Z:T"},
		{"PREPARE x AS SELECT 'a'", "C:PREPARE Z:T"},
		{"EXECUTE x", "T D:a@0 C:SELECT 1 Z:T"},
		{"DEALLOCATE x", "C:DEALLOCATE Z:T"},
		{"EXECUTE x", "E:26000 Z:E"},
		{"ROLLBACK", "C:ROLLBACK Z:I"},
		{"SHOW timezone", "T D:x C:SHOW Z:I"},
	} {
		k.query(q[0], q[1])
	}
	if k.c.sess.Shard() != 0 || k.c.sess.WaitingSince() != 0 {
		t.Error("got another shard, or waits")
	}
	// A portal that was bound in a batch before keeps its text.
	k.query("BEGIN", "C:BEGIN Z:T")
	b := pgwire.AppendParse(nil, "q", "SET LOCAL app.v TO 'x'", nil)
	b = pgwire.AppendBind(b, "p", "q", pgwire.FormatText, nil, pgwire.FormatText)
	k.send(pgwire.AppendFlush(b), "1 2")
	k.send(pgwire.AppendSync(pgwire.AppendExecute(nil, "p", 0)), "C:SET Z:T")
	k.query("SHOW app.v", "T D:x C:SHOW Z:T")
	k.query("COMMIT", "C:COMMIT Z:I")
}

// TestSessionPoolingStaysOnItsShard once the client has statements there.
func TestSessionPoolingStaysOnItsShard(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 2, 1)
	m.Ready = func() topology.ShardID { return 0 }
	a := account(m.sh)
	a.Session, a.Statements = true, false
	k := newTalk(t, m)
	k.login("R Z:I")
	k.query("BEGIN", "C:BEGIN Z:T")
	b := pgwire.AppendParse(nil, "q", "SELECT $1 FROM orders WHERE tenant_id = $2", nil)
	k.send(pgwire.AppendSync(pgwire.AppendDescribe(b, pgwire.TargetStatement, "q")), "1 t T Z:T")
	k.query("SELECT 'a' FROM orders WHERE tenant_id = 3", "E:0A000 Z:E")
	k.query("ROLLBACK", "C:ROLLBACK Z:I")
	b = pgwire.AppendBind(nil, "", "q", pgwire.FormatText, [][]byte{[]byte("a"), []byte("2")}, pgwire.FormatText)
	k.send(pgwire.AppendSync(pgwire.AppendExecute(b, "", 0)), "2 D:a@0 C:SELECT 1 Z:I")
	b = pgwire.AppendClose(nil, pgwire.TargetStatement, "q")
	b = pgwire.AppendParse(b, "q", "SELECT 'b' FROM orders WHERE tenant_id = 2", nil)
	k.send(pgwire.AppendSync(b), "3 1 Z:I")
	k.query("DEALLOCATE q", "C:DEALLOCATE Z:I")
	k.send(pgwire.AppendSync(pgwire.AppendParse(nil, "q", "SELECT 'c' FROM orders WHERE tenant_id = 2", nil)), "1 Z:I")
	k.leaves()
}
