package loop

import (
	"runtime"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestSilentClientsTakeLittle: a client that is between transactions holds what it needs to know of itself, and nothing to work with.
func TestSilentClientsTakeLittle(t *testing.T) {
	if underRace {
		t.Skip("memory is another's under the race detector")
	}
	for mode, most := range map[string]int{"simple": 800, "extended": 800, "prepared": 1080} { // bytes
		s := newBench(t, 10)
		talk := func(clients int) *traffic {
			x := newTraffic(s, clients, mode)
			for i, c := range x.clients {
				c.received(x.requests[i%len(x.requests)])
				b, prepares := x.held(c)
				for ; b == nil; b, prepares = x.held(c) { // its statement is being parsed
					runtime.Gosched()
				}
				answer := x.answer
				if prepares {
					answer = append(pgwire.AppendParseComplete(nil), answer...)
				}
				b.received(answer)
			}
			pgtest.Eventually(t, "all rest", func() bool {
				s.g.restless.mu.Lock()
				defer s.g.restless.mu.Unlock()
				return len(s.g.restless.clients) == 0 && !s.g.restless.looking
			})
			return x
		}
		first := talk(100)
		before := heapInUse()
		x := talk(2000)
		if each := (heapInUse() - before) / len(x.clients); each > most {
			t.Errorf("%s: a silent client takes %d bytes, more than %d", mode, each, most)
		}
		runtime.KeepAlive(first)
		runtime.KeepAlive(x)
	}
}

// heapInUse is what is reachable, in bytes.
func heapInUse() int {
	for range 3 { // what pools hold is let go in two rounds
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
