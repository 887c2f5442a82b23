package loop

import (
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// memoryEar is a session's in Memory, where nobody notifies. What may have to be waited for has to be every second time. A LISTEN that is committed without
// that is a bug.
type memoryEar struct {
	listens          map[string]bool
	knows            bool
	arrived, expects bool
}

func (e *memoryEar) Prepare([]string) notify.Wait { return e.Arrive() }

func (e *memoryEar) Arrive() notify.Wait {
	return func(<-chan struct{}) *pgwire.Error {
		e.arrived = true
		return nil
	}
}

func (e *memoryEar) Expect() {
	if !e.arrived {
		panic("what is expected has not been waited for")
	}
	e.arrived, e.expects = false, true
}
func (*memoryEar) Sweep()       {}
func (*memoryEar) Next() []byte { return nil }
func (*memoryEar) Close()       {}

func (e *memoryEar) Knows(*backend.Conn) bool {
	e.knows = !e.knows
	return !e.knows
}

func (e *memoryEar) Commit(changes []notify.Change) {
	for _, c := range changes {
		switch {
		case c.Listen:
			if !e.listens[c.Channel] && !e.expects {
				panic("a LISTEN was committed that was not expected")
			}
			if e.listens == nil {
				e.listens = make(map[string]bool)
			}
			e.listens[c.Channel] = true
		case c.Channel == "":
			clear(e.listens)
		default:
			delete(e.listens, c.Channel)
		}
	}
}

func (e *memoryEar) Settle() bool {
	e.arrived, e.expects = false, false
	return len(e.listens) > 0
}
