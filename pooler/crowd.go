package pooler

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// crowd looks for the end of a coming or going of many clients: the collector, which starts when as much is garbage as is in use, may leave
// what their logins took for minutes, which is more than what silent clients need.
type crowd struct {
	clients int64     // at the last look
	settled int64     // when memory was given back last
	at      time.Time // that was
}

// When a number of clients is another: by so many, and by such a part; and how often memory is given back at most.
const (
	crowdClients = 1000
	crowdPart    = 4
	crowdPause   = 10 * time.Second
)

// look takes the number of clients and reports whether it has become another, and stays.
func (c *crowd) look(now time.Time, clients int64) bool {
	moved := abs(clients - c.clients)
	c.clients = clients
	change := abs(clients - c.settled)
	if moved > clients/100 || change < crowdClients || change < c.settled/crowdPart || now.Sub(c.at) < crowdPause {
		return false
	}
	c.settled, c.at = clients, now
	return true
}

func abs(n int64) int64 { return max(n, -n) }

// tidy gives memory back to the system behind crowds, until ctx is done.
func (p *Pooler) tidy(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var c crowd
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if c.look(now, p.clients.Load()) {
				runtime.GC() // what pools hold is let go in two rounds
				debug.FreeOSMemory()
			}
		}
	}
}
