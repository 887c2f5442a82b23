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
	for mode, most := range map[string]int{"simple": 550, "extended": 550, "prepared": 840} { // bytes
		s := newBench(t, 10)
		talk := func(clients int) *traffic {
			x := newTraffic(s, clients, mode)
			for i, c := range x.clients {
				c.received(x.requests[i%len(x.requests)])
				b, lacks := x.held(c)
				for ; b == nil; b, lacks = x.held(c) { // its statement is being parsed
					runtime.Gosched()
				}
				answer := x.answer
				if lacks > 0 {
					answer = append(pgwire.AppendParseComplete(nil), answer...)
				}
				b.received(answer)
			}
			s.g.restless.settled(t)
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

// settled waits until nobody is looked at.
func (r *restless) settled(t *testing.T) {
	t.Helper()
	pgtest.Eventually(t, "nobody is looked at", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.clients) == 0 && !r.looking
	})
}

// A client that is silent in a transaction keeps what it works with, is not looked at in vain, and rests when the transaction is over.
func TestSilentInATransaction(t *testing.T) {
	s := newBench(t, 1)
	c := s.client()
	for _, x := range []struct {
		sql   string
		rests bool
	}{{"BEGIN", false}, {"SAVEPOINT a", false}, {"ROLLBACK", true}} {
		c.received(pgwire.AppendQuery(nil, x.sql))
		s.g.restless.settled(t)
		c.mu.Lock()
		if c.restless || c.sess.Rests() != x.rests {
			t.Errorf("behind %s: rests is %v", x.sql, c.sess.Rests())
		}
		c.mu.Unlock()
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
