package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// MirrorOptions are what a Mirror needs besides its directory.
type MirrorOptions struct {
	// Cache is a file that the last known good is saved in; empty = it is not.
	Cache string
	// Source says which directory it is, such as its path or its endpoints and prefix: a cache of another is not used.
	Source string
	Log    *slog.Logger // nil = none
}

// Mirror is a copy of a directory in memory. Its look-ups are safe for concurrent use, take no lock, and see each tenant either as it was before a change or
// as it is after it: under its old name or its new one, but never under both or as somebody else. What they return must not be changed.
type Mirror struct {
	d   tenant.Directory
	o   MirrorOptions
	log *slog.Logger

	ids, names, keys, schemas index
	cells                     cells
	changes                   atomic.Uint64 // the indexes'
	count                     atomic.Int64

	ready     chan struct{} // closed when there are contents
	readyOnce sync.Once
	state     atomic.Pointer[mirrorState]
	subs      struct {
		sync.Mutex
		list []func([]*tenant.Record, []string)
	}
	// Run's own:
	saved cacheState
	tried bool // the cache was looked at
}

type mirrorState struct {
	current bool
	since   time.Time
	err     error
}

// errNotYet is the state of a Mirror before it has heard of its directory.
var errNotYet = errors.New("the directory was not read yet")

// NewMirror returns a Mirror that is empty until Run has read the directory.
func NewMirror(d tenant.Directory, o MirrorOptions) *Mirror {
	m := &Mirror{d: d, o: o, log: o.Log, ready: make(chan struct{})}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	for _, x := range []*index{&m.ids, &m.names, &m.keys, &m.schemas} {
		x.cells, x.changes = &m.cells, &m.changes
		x.table.Store(newTable(nil, 0))
	}
	m.state.Store(&mirrorState{since: time.Now(), err: errNotYet})
	return m
}

// Run follows the directory until ctx is done, or the directory was closed. It is called once. While the directory can't be reached, what is known stays; if
// it could not be reached from the beginning, what is known is the cache.
func (m *Mirror) Run(ctx context.Context) error {
	defer m.save(true)
	wait := 50 * time.Millisecond
	for {
		changes, err := m.d.Watch(ctx)
		if err == nil {
			wait = 50 * time.Millisecond
			if err = m.follow(ctx, changes); err == nil {
				err = errors.New("the directory has ended its watch")
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed):
			m.stale(err)
			return err
		}
		m.stale(err)
		if !m.tried && !m.Ready() {
			m.tried = true
			m.load()
		}
		if !m.idle(ctx, wait) {
			return ctx.Err()
		}
		wait = backoff(wait, 2*time.Second)
	}
}

// follow applies changes until there are no more.
func (m *Mirror) follow(ctx context.Context, changes <-chan tenant.Change) error {
	for {
		select {
		case c, ok := <-changes:
			switch {
			case !ok:
				return nil
			case c.Err != nil:
				m.stale(c.Err)
			default:
				m.apply(c)
				m.current()
			}
		case <-m.saved.due:
			m.save(false)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// idle waits, and saves what is to be saved meanwhile.
func (m *Mirror) idle(ctx context.Context, d time.Duration) bool {
	for deadline := time.Now().Add(d); ; {
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-m.saved.due:
			m.save(false)
			timer.Stop()
		case <-timer.C:
			return true
		}
	}
}

func (m *Mirror) current() {
	if s := m.state.Load(); !s.current {
		m.state.Store(&mirrorState{current: true, since: time.Now()})
		m.log.Info("the directory is followed", "tenants", m.Len())
	}
	m.readyOnce.Do(func() { close(m.ready) })
}

func (m *Mirror) stale(err error) {
	if s := m.state.Load(); s.current || s.err == nil || s.err.Error() != err.Error() {
		since := s.since
		if s.current {
			since = time.Now()
		}
		m.state.Store(&mirrorState{since: since, err: err})
		m.log.Warn("the directory can't be followed; what is known of it stays", "error", err)
	}
}

// State says whether the Mirror has what the directory has, or since when it may not have, and why.
func (m *Mirror) State() (current bool, since time.Time, err error) {
	s := m.state.Load()
	return s.current, s.since, s.err
}

// Ready reports whether it has contents: the directory's or the cache's.
func (m *Mirror) Ready() bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// Wait waits until it is Ready.
func (m *Mirror) Wait(ctx context.Context) error {
	select {
	case <-m.ready:
		return nil
	case <-ctx.Done():
		_, _, err := m.State()
		return fmt.Errorf("the directory: %w: %w", context.Cause(ctx), err)
	}
}

// ByID finds a tenant by its ID; nil = there is none. So do the others by what else is a tenant's own.
func (m *Mirror) ByID(id string) *tenant.Record {
	return m.ids.find(keyOf(id), func(r *tenant.Record) bool { return r.ID == id })
}

// ByName finds a tenant by its name.
func (m *Mirror) ByName(name string) *tenant.Record {
	return m.names.find(keyOf(name), func(r *tenant.Record) bool { return r.Name == name })
}

// ByKey finds a tenant by its value of the tenant column in a cluster.
func (m *Mirror) ByKey(cluster, key string) *tenant.Record {
	return m.keys.find(keyOfPair(cluster, key), func(r *tenant.Record) bool { return r.Key == key && r.Cluster == cluster && hasKey(r) })
}

// BySchema finds a tenant by its schema in a database that it shares. Where two have schemas of that name, on two shards, it finds neither.
func (m *Mirror) BySchema(cluster, schema string) *tenant.Record {
	k := keyOfPair(cluster, schema)
	match := func(r *tenant.Record) bool { return r.Schema == schema && r.Cluster == cluster && hasSchema(r) }
	first := m.schemas.find(k, match)
	if first == nil || m.schemas.find(k, func(r *tenant.Record) bool { return r.ID != first.ID && match(r) }) != nil {
		return nil
	}
	return first
}

func hasKey(r *tenant.Record) bool { return r.Cluster != "" && r.Key != "" }

func hasSchema(r *tenant.Record) bool { return r.Cluster != "" && r.Schema != "" && r.Database == "" }

// All calls f with each tenant, in no order, until that returns false. What changes meanwhile may be seen or not.
func (m *Mirror) All(f func(*tenant.Record) bool) { m.cells.all(f) }

// Len is how many tenants there are.
func (m *Mirror) Len() int { return int(m.count.Load()) }

// Subscribe has f called with each change, when look-ups see it already: records that are new or different, and the IDs of tenants that are gone. The calls
// come in order from the goroutine of Run, which waits for them. Who subscribes before Run hears of everything.
func (m *Mirror) Subscribe(f func(changed []*tenant.Record, deletedIDs []string)) {
	m.subs.Lock()
	defer m.subs.Unlock()
	m.subs.list = append(m.subs.list, f)
}

// apply brings the indexes up to date.
func (m *Mirror) apply(c tenant.Change) {
	changed, deleted := m.differences(c)
	if len(changed) == 0 && len(deleted) == 0 {
		return
	}
	m.changes.Add(1)
	m.replace(changed, deleted)
	m.changes.Add(1)
	m.saved.touch()
	m.subs.Lock()
	subs := m.subs.list
	m.subs.Unlock()
	for _, f := range subs {
		f(changed, deleted)
	}
}

// replace brings records and indexes up to date: who asks meanwhile goes by the records alone.
func (m *Mirror) replace(changed []*tenant.Record, deleted []string) {
	var now, later edits
	// Who is gone lets go of its names first, so that whoever has them now is the only one.
	left := make([]uint32, 0, len(deleted))
	for _, id := range deleted {
		n, had := m.cell(id)
		m.cells.at(n).record.Store(nil)
		later.note(n, had, nil, true)
		left = append(left, n)
	}
	// Then the others get their new names while they do not answer to them, change at once, and lose the old ones, to which they do not answer any more. New
	// ones come last.
	numbers := make([]uint32, len(changed))
	fresh := 0
	for i, r := range changed {
		n, had := m.cell(r.ID)
		if had != nil {
			later.note(n, had, r, true)
		} else {
			n = m.cells.take()
		}
		now.note(n, r, nil, false)
		numbers[i] = n
	}
	now.run(m)
	for i, r := range changed {
		if x := m.cells.at(numbers[i]); x.record.Load() != nil {
			x.record.Store(r)
			numbers[i] = 0
		}
	}
	for i, r := range changed {
		if n := numbers[i]; n != 0 {
			m.cells.at(n).record.Store(r)
			fresh++
		}
	}
	later.run(m)
	m.cells.free = append(m.cells.free, left...)
	m.count.Add(int64(fresh - len(deleted)))
}

// differences returns what a change makes different from what is known.
func (m *Mirror) differences(c tenant.Change) (changed []*tenant.Record, deleted []string) {
	for _, r := range c.Records {
		// A directory that was restored from a backup may have other contents under the same revision.
		if had := m.ByID(r.ID); had != nil && had.Revision == r.Revision && (!c.Reset || reflect.DeepEqual(had, r)) {
			continue
		}
		changed = append(changed, r)
	}
	if !c.Reset {
		for _, id := range c.Deleted {
			if m.ByID(id) != nil {
				deleted = append(deleted, id)
			}
		}
		return changed, deleted
	}
	there := make(map[string]struct{}, len(c.Records))
	for _, r := range c.Records {
		there[r.ID] = struct{}{}
	}
	for r := range m.All {
		if _, ok := there[r.ID]; !ok {
			deleted = append(deleted, r.ID)
		}
	}
	return changed, deleted
}

// cell finds the number of a tenant's cell, and its record.
func (m *Mirror) cell(id string) (uint32, *tenant.Record) {
	return m.ids.search(keyOf(id).hash, func(r *tenant.Record) bool { return r.ID == id })
}

// edits are changes of the indexes.
type edits struct{ ids, names, keys, schemas []entry }

// note notes that a cell is put into the indexes, or taken out, under the keys of one record that another, which may be nil, has not.
func (e *edits) note(number uint32, r, but *tenant.Record, remove bool) {
	edit := func(list *[]entry, keyOf func(*tenant.Record) (key, bool)) {
		k, has := keyOf(r)
		if has && but != nil {
			other, too := keyOf(but)
			has = !too || other.hash != k.hash
		}
		switch {
		case !has:
		case remove:
			*list = append(*list, entry{k, number, nil})
		default:
			*list = append(*list, entry{k, number, r})
		}
	}
	edit(&e.ids, func(r *tenant.Record) (key, bool) { return keyOf(r.ID), true })
	edit(&e.names, func(r *tenant.Record) (key, bool) { return keyOf(r.Name), true })
	edit(&e.keys, func(r *tenant.Record) (key, bool) { return keyOfPair(r.Cluster, r.Key), hasKey(r) })
	edit(&e.schemas, func(r *tenant.Record) (key, bool) { return keyOfPair(r.Cluster, r.Schema), hasSchema(r) })
}

func (e *edits) run(m *Mirror) {
	m.ids.apply(e.ids)
	m.names.apply(e.names)
	m.keys.apply(e.keys)
	m.schemas.apply(e.schemas)
}
