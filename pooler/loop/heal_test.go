package loop

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// striking is a server under whose statements the tables change, once each.
type striking struct {
	*modelServer
	cancelled bool
	after     int // what it was asked to execute since it was to cancel
}

func (s *striking) Cancel() {
	s.cancelled = true
	s.modelServer.Cancel()
}

func (s *striking) Receive(b []byte) (out []byte, closed bool) {
	if list, _ := frames(b); s.cancelled {
		for _, f := range list {
			if f.typ == pgwire.MsgExecute {
				s.after++
			}
		}
	}
	return s.modelServer.Receive(b)
}

// TestCancelWhileItIsHealed: whenever it comes, what was cancelled is not sent again, and is answered.
func TestCancelWhileItIsHealed(t *testing.T) {
	t.Parallel()
	answers := make(map[string]int)
	for steps := range 60 {
		m := newModel(t, 1, 1, 1)
		var server *striking
		m.servers[0] = func() MemoryServer {
			s := newModelServer(0, 1)
			s.changes, s.changed = rand.New(rand.NewPCG(1, 1)), new(int)
			server = &striking{modelServer: s}
			return server
		}
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
		k.c.sess.Cancel()
		for m.Step() {
		}
		if server.after > 0 {
			t.Errorf("cancelled after %d steps: executed %d times", steps, server.after)
		}
		answers[strings.Join(k.s.got, " ")]++
	}
	for got := range answers {
		if !slices.Contains([]string{"2 D:a@0 C:SELECT 1 Z:I", "E:0A000 Z:I", "E:57014 Z:I", "2 E:57014 Z:I"}, got) {
			t.Errorf("got %s", got)
		}
	}
	if len(answers) != 4 {
		t.Errorf("got %v", answers)
	}
}
