package store

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/pgkennel/pgkennel/tenant"
)

// A feed is what one watcher has not been told yet. Of each record it holds the latest state only, so it is never larger than the directory, and who adds
// to it never waits.
type feed struct {
	wake chan struct{} // has one element if there is something to tell
	mu   struct {
		sync.Mutex
		news
	}
}

// news are changes that can be told as one.
type news struct {
	reset   bool
	records map[string]state
	// err and heard say whether the directory can be reached, if that changed.
	err   error
	heard bool
}

// state is a record as of a revision; nil = it was deleted.
type state struct {
	record   *tenant.Record
	revision int64
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1)} }

// put notes the state of a record.
func (f *feed) put(id string, s state) {
	f.mu.Lock()
	f.mu.add(id, s)
	f.mu.Unlock()
	f.ring()
}

// reset notes the whole directory, as it was read; what was put meanwhile, and is later, stays.
func (f *feed) reset(list []*tenant.Record) {
	f.mu.Lock()
	had := f.mu.records
	f.mu.records = make(map[string]state, len(list))
	for _, r := range list {
		f.mu.records[r.ID] = state{r, r.Revision}
	}
	for id, s := range had {
		f.mu.add(id, s)
	}
	f.mu.news.reset = true
	f.mu.Unlock()
	f.ring()
}

// renew notes the whole directory; what was there before does not count.
func (f *feed) renew(list []*tenant.Record) {
	f.mu.Lock()
	f.mu.records = nil
	f.mu.Unlock()
	f.reset(list)
}

// reach notes whether the directory can be reached.
func (f *feed) reach(err error) {
	f.mu.Lock()
	f.mu.err, f.mu.heard = err, true
	f.mu.Unlock()
	f.ring()
}

func (f *feed) ring() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (n *news) add(id string, s state) {
	if n.records == nil {
		n.records = make(map[string]state)
	}
	if had, ok := n.records[id]; !ok || had.revision <= s.revision {
		n.records[id] = s
	}
}

// take takes what there is to tell.
func (f *feed) take() news {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.mu.news
	f.mu.news = news{}
	return n
}

// change makes a Change of it.
func (n *news) change() tenant.Change {
	c := tenant.Change{Reset: n.reset}
	for _, id := range slices.Sorted(maps.Keys(n.records)) {
		if r := n.records[id].record; r != nil {
			c.Records = append(c.Records, r)
		} else if !n.reset {
			c.Deleted = append(c.Deleted, id)
		}
	}
	return c
}

// run tells the watcher until ctx is done. Changes come before the word that the directory can't be reached: they were made while it could.
func (f *feed) run(ctx context.Context, out chan<- tenant.Change) {
	defer close(out)
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		n := f.take()
		var list []tenant.Change
		if n.reset || len(n.records) > 0 {
			list = append(list, n.change())
		}
		if n.heard && (n.err != nil || len(list) == 0) {
			list = append(list, tenant.Change{Err: n.err})
		}
		for _, c := range list {
			select {
			case <-ctx.Done():
				return
			case out <- c:
			}
		}
	}
}
