package loop

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// TestKilledAtEachStep: whenever a session ends by force, what is thought of its backend is what that is like: who has it next is not given the settings
// of another.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		"NOTIFY news", "SELECT 'a' FROM orders WHERE tenant_id = 1", "DECLARE h CURSOR WITH HOLD FOR SELECT 'a'", "PREPARE p AS SELECT 'a'", "CREATE TEMP TABLE tmp (a int)",
		"BEGIN; SET app.v TO 'c'; COMMIT",
	} {
		lent, seed := 0, uint64(0)
		for seed = range 12 {
			for steps := range 40 {
				m := newModel(t, seed, 1, 1)
				m.Lent = func(_ *MemoryClient, b *MemoryBackend) { wantFresh(t, b) }
				one, two, three := newTalk(t, m), newTalk(t, m), newTalk(t, m)
				for _, k := range []*talk{one, two, three} {
					k.login("R Z:I")
				}
				two.query("SET app.v TO 'two'", "C:SET Z:I")
				two.query("LISTEN news", "C:LISTEN Z:I")
				one.query("SET app.v TO 'one'", "C:SET Z:I")
				two.c.toSession = pgwire.AppendQuery(nil, sql)
				for range steps {
					m.Step()
				}
				if two.c.sess.Backend() != nil {
					lent++
				}
				two.c.sess.Kill(session.ErrShutdown, session.CloseKilled)
				three.query("SHOW app.v", "T D: C:SHOW Z:I")
				three.leaves()
			}
		}
		if lent == 0 {
			t.Errorf("%s: no session was ended that had a backend", sql)
		}
	}
}
