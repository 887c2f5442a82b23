package loop

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestCancelWhileItIsHealed: whenever it comes, what was cancelled is not sent again, and is answered.
func TestCancelWhileItIsHealed(t *testing.T) {
	t.Parallel()
	answers := make(map[string]int)
	for steps := range 60 {
		m := newModel(t, 1, 1, 1)
		server := newModelServer(0, 1)
		server.changes, server.changed = rand.New(rand.NewPCG(1, 1)), new(int)
		m.servers[0] = func() MemoryServer { return server }
		k := newTalk(t, m)
		k.login("R Z:I")
		use := pgwire.AppendBind(nil, "", "q", pgwire.FormatText, [][]byte{[]byte("a"), []byte("2")}, pgwire.FormatText)
		use = pgwire.AppendSync(pgwire.AppendExecute(use, "", 0))
		k.send(append(pgwire.AppendParse(nil, "q", "SELECT $1 FROM orders WHERE tenant_id = $2", nil), use...), "1 2 D:a@0 C:SELECT 1 Z:I")
		for name := range server.stmts {
			server.old[name] = true
		}
		k.c.toSession = append(k.c.toSession, use...)
		for range steps {
			m.Step()
		}
		sent, ran := len(server.in) > 0 || k.c.sess.State() == "idle", server.ran
		for _, b := range m.backs {
			sent = sent || len(b.toServer) > 0
		}
		k.c.sess.Cancel()
		for m.Step() {
		}
		if server.ran > ran && !sent {
			t.Errorf("cancelled after %d steps, and run", steps)
		}
		answers[strings.Join(k.s.got, " ")]++
	}
	for got := range answers {
		if !slices.Contains([]string{"2 D:a@0 C:SELECT 1 Z:I", "E:0A000 Z:I", "E:57014 Z:I", "2 E:57014 Z:I"}, got) {
			t.Errorf("got %s", got)
		}
	}
	if len(answers) < 3 {
		t.Errorf("got %v", answers)
	}
}
