package provision

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Counts are what a Manager's runner saw since its process began.
type Counts struct {
	Ended    uint64 // instances that ended by themselves
	Crashes  uint64 // processes of instances that ended by a signal, and not the kernel's
	OOMKills uint64 // processes of instances that the kernel ended, because their memory was used up
	Down     int    // instances that are to be up, and are not
}

type counts struct{ ended, oomKills, crashes, down atomic.Int64 }

// Counts returns them.
func (m *Manager) Counts() Counts {
	n := func(c *atomic.Int64) uint64 { return uint64(c.Load()) } //nolint:gosec // they only grow
	return Counts{Ended: n(&m.counts.ended), OOMKills: n(&m.counts.oomKills), Crashes: n(&m.counts.crashes), Down: int(m.counts.down.Load())}
}

// ends notes that an instance which is to be up, the tenant's or a replica, ended by itself, lost a process for want of memory or by a crash, or is up again.
func (w *warden) ends(ctx context.Context, r *tenant.Record, id string, s *State) error {
	w.mu.Lock()
	before := w.mu.servers[id]
	if s.PID != 0 {
		w.mu.servers[id] = s.PID
	}
	crashed := s.Crashes - w.mu.crashes[id]
	w.mu.Unlock()
	was := r.EndsOf(id)
	// Whoever runs servers in pgkennel's place may have started it again before it was missed.
	replaced := s.Ready && was.Down.IsZero() && before != 0 && before != s.PID
	ended := replaced || !s.Running && was.Down.IsZero()
	up := s.Ready && !was.Down.IsZero()
	killed := int64(0)
	if known := was.Known; s.OOMKills >= 0 && s.OOMKills != known {
		if s.OOMKills < known {
			known = 0 // the kernel counts anew
		}
		killed = s.OOMKills - known
	}
	if !ended && !up && killed == 0 && crashed == 0 {
		return nil
	}
	reason := ""
	switch {
	case ended && killed > 0:
		reason = "the server ended (" + cmp.Or(s.Ended, "how is not known") + "), and its memory was used up"
	case ended:
		reason = "the server ended: " + cmp.Or(s.Ended, "how is not known")
	case crashed > 0:
		reason = "a process of it crashed: " + s.Crashed
	case killed > 0:
		reason = fmt.Sprintf("memory was used up: %d of its processes ended by the kernel", killed)
	}
	now := w.m.o.Now().UTC().Round(0) // as it is read again
	about := ""
	if id != r.ID {
		about = "replica " + id + ": "
	}
	noted := false
	err := w.m.amend(ctx, r, about+cmp.Or(reason, "the instance is up again"), func(n *tenant.Record) bool {
		e := n.EndsOf(id)
		if n.Operation != nil || n.Phase != tenant.Ready || e == nil || *e != *was {
			return false // somebody has it down, or up
		}
		if noted = reason != ""; noted {
			e.Last, e.Reason = now, reason
		}
		if s.OOMKills >= 0 {
			e.Known = s.OOMKills
		}
		e.OOMKills, e.Crashes = e.OOMKills+killed, e.Crashes+crashed
		if ended {
			e.Count++
		}
		switch {
		case up, replaced:
			e.Down = time.Time{}
		case ended:
			e.Down = now
		}
		return true
	})
	if err != nil || !noted {
		return err
	}
	count := was.Count
	if ended {
		count++
		w.m.counts.ended.Add(1)
	}
	w.m.counts.oomKills.Add(killed)
	w.m.counts.crashes.Add(crashed)
	w.mu.Lock()
	w.mu.crashes[id] = s.Crashes
	w.mu.Unlock()
	w.m.o.Log.WarnContext(ctx, "instance ended, or lost a process, by itself", "tenant", r.ID, "instance", id, "reason", reason, "ended", count, "oom_kills", was.OOMKills+killed, "crashes", was.Crashes+crashed)
	return nil
}

// started forgets which server an instance had: the next one is nobody's surprise.
func (w *warden) started(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.mu.servers, id)
}

// startedAll is started for all of a tenant's instances; nil has none. w.mu is held.
func (w *warden) startedAll(r *tenant.Record) {
	if r == nil {
		return
	}
	delete(w.mu.servers, r.ID)
	for i := range r.Replicas {
		delete(w.mu.servers, r.Replicas[i].ID)
	}
}

// countDown counts the instances that are to be up and are not. w.mu is held.
func (w *warden) countDown() {
	n := int64(0)
	for _, r := range w.mu.records {
		if r.Phase != tenant.Ready {
			continue
		}
		if !r.Ends.Down.IsZero() {
			n++
		}
		for i := range r.Replicas {
			if !r.Replicas[i].Ends.Down.IsZero() {
				n++
			}
		}
	}
	w.m.counts.down.Store(n)
}
