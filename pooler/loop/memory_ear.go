package loop

import (
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// memoryEar is a session's in Memory, where nobody notifies. What may have to be waited for has to be every second time.
type memoryEar struct {
	listens map[string]bool
	knows   bool
}

func (*memoryEar) Prepare([]string) notify.Wait { return arrived }
func (*memoryEar) Arrive() notify.Wait          { return arrived }
func (*memoryEar) Expect()                      {}
func (*memoryEar) Sweep()                       {}
func (*memoryEar) Next() []byte                 { return nil }
func (*memoryEar) Close()                       {}

func arrived(<-chan struct{}) *pgwire.Error { return nil }

func (e *memoryEar) Knows(*backend.Conn) bool {
	e.knows = !e.knows
	return !e.knows
}

func (e *memoryEar) Commit(changes []notify.Change) {
	for _, c := range changes {
		switch {
		case c.Listen:
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

func (e *memoryEar) Settle() bool { return len(e.listens) > 0 }
