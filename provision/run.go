package provision

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Run looks after this host's tenants until ctx is done: it goes on with operations that nobody is at, keeps instances up that are to be, has unused ones fall
// asleep, watches their disks, makes the backups that are due, and forgets removed tenants when their time is over. One process of a host does it at a time,
// and another waits. When the directory can't be reached it begins anew.
func (m *Manager) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.run(ctx); err != nil && ctx.Err() == nil {
			m.o.Log.WarnContext(ctx, "tenants of this host are not looked after", "error", err)
			pause(ctx, min(m.o.Every, time.Second))
		}
	}
	return nil
}

// run does it until something fails.
func (m *Manager) run(ctx context.Context) error {
	unlock, lost, err := m.dir.Lock(ctx, "runner/"+m.o.Host)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.setRunning(true)
	defer m.setRunning(false)
	w := &warden{m: m, wake: make(chan struct{}, 1), clock: newClock(&m.o)}
	w.mu.records = make(map[string]*tenant.Record)
	w.mu.care = make(map[string]*care)
	w.mu.due = make(map[string]bool)
	w.mu.servers = make(map[string]int)
	w.mu.crashes = make(map[string]int64)
	changes, err := m.dir.Watch(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.alive(ctx) })
	for name, d := range m.o.Drivers {
		wg.Go(func() { w.watch(ctx, name, d) })
	}
	wg.Go(func() { w.leaks(ctx) })
	wg.Go(func() { w.prune(ctx) })
	defer w.answers.Wait()
	defer wg.Wait()
	defer cancel(nil)
	tick := time.NewTicker(m.o.Every)
	defer tick.Stop()
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("the directory's watch ended")
			}
			w.learn(c)
		case <-w.wake:
		case <-tick.C:
			w.clockSet(ctx)
			w.all()
		case <-lost:
			return errors.New("the lock of this host's runner was lost")
		case <-ctx.Done():
			return nil
		}
		w.look(ctx)
	}
}

func (m *Manager) setRunning(on bool) {
	m.mu.Lock()
	m.mu.running = on
	m.mu.Unlock()
}

// warden is one Run.
type warden struct {
	m       *Manager
	wake    chan struct{}
	answers sync.WaitGroup // to other hosts' orders
	clock   *clock
	mu      struct {
		sync.Mutex
		records map[string]*tenant.Record // all that this host is to look after
		care    map[string]*care          // what is remembered of them
		due     map[string]bool           // they are to be looked at
		crashes map[string]int64          // by instance: how many its driver has told that are on record
		servers map[string]int            // by instance: the PIDs of the servers that run for them, as far as nobody was to change that
	}
}

// alive says that the runner is there.
func (w *warden) alive(ctx context.Context) {
	host := tenant.Host{Name: w.m.o.Host, Runner: w.m.runner, Since: w.m.o.Now().UTC()}
	for ctx.Err() == nil {
		if err := w.m.dir.Alive(ctx, host); err != nil && ctx.Err() == nil {
			w.m.o.Log.WarnContext(ctx, "runner can't say that it is there", "error", err)
			pause(ctx, time.Second)
		}
	}
}

// watch is told by a driver of instances that ended.
func (w *warden) watch(ctx context.Context, name string, d Driver) {
	for ctx.Err() == nil {
		err := d.Watch(ctx, w.again)
		if ctx.Err() == nil {
			w.m.o.Log.WarnContext(ctx, "instances are not watched", "driver", name, "error", err)
			pause(ctx, time.Second)
		}
	}
}

// again has an instance's tenant looked at soon.
func (w *warden) again(id string) {
	w.mu.Lock()
	if w.mu.records[id] != nil {
		w.mu.due[id] = true
	} else {
		for t, r := range w.mu.records {
			for i := range r.Replicas {
				if r.Replicas[i].ID == id {
					w.mu.due[t] = true
				}
			}
		}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// all has all tenants looked at.
func (w *warden) all() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.mu.records {
		w.mu.due[id] = true
	}
}

// learn takes in what changed in the directory.
func (w *warden) learn(c tenant.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.Err != nil {
		return // what is known stays
	}
	if c.Reset {
		clear(w.mu.records)
	}
	for _, r := range c.Records {
		if !w.mine(r) {
			delete(w.mu.records, r.ID)
			continue
		}
		if r.Operation != nil || r.Phase != tenant.Ready {
			w.startedAll(w.mu.records[r.ID])
			w.startedAll(r)
		}
		w.mu.records[r.ID] = r
		w.mu.due[r.ID] = true
		w.m.overtake(r)
	}
	for _, id := range c.Deleted {
		w.startedAll(w.mu.records[id])
		delete(w.mu.records, id)
	}
	for id := range w.mu.care {
		if w.mu.records[id] == nil {
			delete(w.mu.care, id)
			delete(w.mu.servers, id)
		}
	}
	w.countDown()
}

// mine reports whether a tenant is this host's to look after: its instance, a replica, or, of virtual tenants, everybody's.
func (w *warden) mine(r *tenant.Record) bool {
	if r.Isolation != tenant.Instance {
		return w.m.shares()
	}
	return r.Host == w.m.o.Host
}

// look does what is due, each tenant's in a goroutine of its own.
func (w *warden) look(ctx context.Context) {
	w.mu.Lock()
	var todo []*tenant.Record
	for id := range w.mu.due {
		if r := w.mu.records[id]; r != nil {
			todo = append(todo, r)
		}
	}
	clear(w.mu.due)
	w.mu.Unlock()
	for _, r := range todo {
		if r.Access.Asked != "" {
			w.answer(ctx, r)
		}
		if w.m.flying(r.ID) {
			continue // it is looked at when that is done: the record changes, or the next tick comes
		}
		if op := r.Operation; op != nil {
			if op.Error == "" || op.Undoing && r.Phase != tenant.Failed {
				// Under the tenant's lock: while whoever began it lives, it is waited for.
				if _, err := w.m.drive(r.ID); err != nil { //nolint:contextcheck // it outlives this
					return
				}
			}
			continue
		}
		if w.quiet(r) {
			continue
		}
		id := r.ID
		if _, err := w.m.fly(id, func(fctx context.Context, _ *flight) error { //nolint:contextcheck // it ends with this by itself
			fctx, cancel := context.WithCancelCause(fctx)
			defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
			err := w.tend(fctx, id)
			cancel(nil)
			if err != nil && ctx.Err() == nil {
				w.m.o.Log.WarnContext(ctx, "tenant is not looked after", "tenant", id, "error", err)
			}
			return nil
		}); err != nil {
			return
		}
	}
}

// answer does at the server what another host's order waits for, whatever else is being done to the tenant, and says so.
func (w *warden) answer(ctx context.Context, r *tenant.Record) {
	w.answers.Go(func() {
		err := w.m.settle(ctx, r)
		if err == nil {
			err = w.m.amend(ctx, r, "access is in force at the server", func(now *tenant.Record) bool {
				if now.Access.Asked != r.Access.Asked {
					return false
				}
				now.Access.Asked = ""
				return true
			})
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, tenant.ErrNotFound) {
			w.m.o.Log.WarnContext(ctx, "a change of access is not in force at the server", "tenant", r.ID, "error", err)
			w.soon(r.ID, time.Second)
		}
	})
}

// careOf is what is remembered of a tenant. Only the flight at it reads and writes it.
func (w *warden) careOf(id string) *care {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.mu.care[id]
	if c == nil {
		c = &care{}
		w.mu.care[id] = c
	}
	return c
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// soon has a tenant looked at again after a time.
func (w *warden) soon(id string, d time.Duration) {
	time.AfterFunc(d, func() { w.again(id) })
}

// leaks reports what is on this host that no record knows.
func (w *warden) leaks(ctx context.Context) {
	list, err := w.m.strays(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.m.o.Log.WarnContext(ctx, "instances of this host can't be listed", "error", err)
		}
		return
	}
	for _, s := range list {
		w.m.o.Log.WarnContext(ctx, "something is left of an instance that no record knows; repair says more", "driver", s.driver.Name(), "instance", s.id)
	}
}

// pruneEvery is how often the audit is looked at.
const pruneEvery = time.Hour

// prune takes out of the audit what is older, or more, than is to be kept.
func (w *warden) prune(ctx context.Context) {
	m := w.m
	if m.o.AuditKeep <= 0 && m.o.AuditEntries <= 0 {
		return
	}
	for ctx.Err() == nil {
		var before time.Time
		next := pruneEvery
		if m.o.AuditKeep > 0 {
			if w.clock.settled(m.o.AuditKeep) {
				before = m.o.Now().Add(-m.o.AuditKeep)
			} else {
				next = min(m.o.AuditKeep, forgetAfter)
			}
		}
		if !before.IsZero() || m.o.AuditEntries > 0 {
			n, err := m.dir.Prune(ctx, before, m.o.AuditEntries)
			switch {
			case err != nil && ctx.Err() == nil:
				m.o.Log.WarnContext(ctx, "the audit was not pruned", "error", err)
			case n > 0:
				m.o.Log.InfoContext(ctx, "the audit was pruned", "entries", n)
			}
		}
		pause(ctx, next)
	}
}
