package provision

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// care is what the runner remembers of a tenant.
type care struct {
	pace
	replicas map[string]*pace // by ID
	// settled is the record's access as the server has it.
	settled string
	// used is when somebody used it last, as far as is known, and ended how many sessions there had been by then (before
	// PostgreSQL 14, transactions; autovacuum's are among those).
	used   time.Time
	ended  int64
	did    float64 // what its server's clock said when a connection did something last; below zero = there was none
	looked time.Time
	disk   time.Time // when the disk is to be looked at again
	due    time.Time // of the next look at backups
	wal    time.Time // when WAL was collected
}

// pace is that of an instance's starts: how many failed in a row, how many ends came soon behind one, and when the next may be.
type pace struct {
	fails, soon  int
	next, raised time.Time
}

// failed is a start that failed; the next may be after the time that it returns.
func (p *pace) failed(now time.Time) time.Duration {
	p.fails++
	wait := min(firstWait<<min(p.fails-1, 20), lastWait)
	p.next = now.Add(wait)
	return wait
}

// up is a start that did not. If the server ends again at once, it is not started again at once.
func (p *pace) up(now time.Time) {
	p.raised = now
	p.next = now.Add(min(firstWait<<min(p.fails+p.soon, 20), lastWait))
	p.soon++
}

// seen is a server that is up.
func (p *pace) seen() {
	if p.soon > 0 && time.Since(p.raised) > steady {
		p.soon = 0
	}
}

const (
	firstWait = 100 * time.Millisecond
	lastWait  = 30 * time.Second
	// steady is how long an instance has to be up for its next end to be none of those that follow each other.
	steady = 2 * lastWait
	// failsTold is how many failed starts make it a matter for the record, and so for list and show. The tenant stays ready, and is tried again and again:
	// what keeps it down may end by itself.
	failsTold = 5
)

// quiet reports whether there is nothing to be looked after at a tenant. It is asked often.
func (w *warden) quiet(r *tenant.Record) bool {
	switch r.Phase {
	case tenant.Ready, tenant.Asleep, tenant.Stopped, tenant.OnHold:
		return r.Isolation != tenant.Instance && r.Backups.Every == 0
	case tenant.Removed:
		return w.m.o.Now().Before(r.Forget)
	case tenant.Creating, tenant.Removing, tenant.Failed:
	}
	return true
}

// tend looks after one tenant that nothing is being done to.
func (w *warden) tend(ctx context.Context, id string) error {
	c := w.careOf(id)
	r, err := w.m.dir.Get(ctx, id)
	if errors.Is(err, tenant.ErrNotFound) {
		return nil
	}
	if err != nil || r.Operation != nil || w.quiet(r) {
		return err
	}
	if r.Phase == tenant.Removed {
		if !w.clock.settled(w.m.o.Grace) {
			return nil
		}
		return w.order(ctx, r, Order{Verb: VerbRemove, Now: true})
	}
	if r.Isolation != tenant.Instance {
		return w.backup(ctx, c, r)
	}
	if r.Phase == tenant.Ready {
		if r, err = w.renewAuthority(ctx, r); err != nil {
			return err
		}
	}
	in, d, err := w.m.instance(r)
	if err != nil {
		return err
	}
	s, err := d.State(ctx, in)
	if err != nil {
		return err
	}
	switch {
	case r.Phase != tenant.Ready && s.Running:
		// It is to be down; something else started it, such as the machine.
		return w.under(ctx, r, func(ctx context.Context, r *tenant.Record) error { return w.m.down(ctx, r) })
	case r.Phase != tenant.Ready:
		return nil
	}
	if err := w.ends(ctx, r, r.ID, &s); err != nil {
		return err
	}
	if !s.Ready {
		return w.raise(ctx, c, r)
	}
	if s.Renew {
		w.renew(ctx, r, in, d)
	}
	if c.fails > 0 {
		c.fails, c.next = 0, time.Time{}
		if err := w.reason(ctx, r, ""); err != nil {
			return err
		}
	}
	c.seen()
	for _, look := range []func(context.Context, *care, *tenant.Record, *Instance, Driver) error{w.settle, w.replicas, w.disk, w.collect, w.doze} {
		if err := look(ctx, c, r, in, d); err != nil {
			return err
		}
	}
	return w.backup(ctx, c, r)
}

// under does something to a tenant that nobody else may be at, if its record is still as it was seen.
func (w *warden) under(ctx context.Context, r *tenant.Record, do func(ctx context.Context, r *tenant.Record) error) error {
	return w.m.locked(ctx, r.ID, func(ctx context.Context) error {
		now, err := w.m.dir.Get(ctx, r.ID)
		if err != nil || now.Operation != nil || now.Phase != r.Phase {
			return err
		}
		return do(ctx, now)
	})
}

// order has a tenant's verb carried out by this runner: its operation is put on record, and run behind this flight.
func (w *warden) order(ctx context.Context, r *tenant.Record, o Order) error {
	o.Tenant, o.By = r.Name, "runner"
	c := &change{m: w.m, o: o}
	err := w.m.begin(ctx, w.m.verbs[o.Verb], c)
	if errors.Is(err, tenant.ErrConflict) {
		return nil // the next look is at what it became
	}
	return err
}

// raise starts an instance that is to be up and is not, after a time that grows with each failure.
func (w *warden) raise(ctx context.Context, c *care, r *tenant.Record) error {
	now := time.Now()
	if now.Before(c.next) {
		w.soon(r.ID, c.next.Sub(now))
		return nil
	}
	err := w.under(ctx, r, func(ctx context.Context, r *tenant.Record) error {
		in, d, err := w.m.instance(r)
		if err != nil {
			return err
		}
		select { // after the machine was started anew, there are many
		case w.m.creates <- struct{}{}:
			defer func() { <-w.m.creates }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := d.Volume(ctx, in); err != nil { // the machine may have been started anew
			return err
		}
		if r, err = w.m.reached(ctx, r); err != nil {
			return err
		}
		if in, d, err = w.m.instance(r); err != nil {
			return err
		}
		if _, err := d.Configure(ctx, in); err != nil {
			return err
		}
		return d.Start(ctx, in)
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the runner ends
	}
	c.settled = ""
	if err == nil {
		w.m.o.Log.InfoContext(ctx, "instance was down, and started again", "tenant", r.ID)
		c.up(now)
		w.started(r.ID)
		w.soon(r.ID, 0)
		return nil
	}
	w.soon(r.ID, c.failed(now))
	w.m.o.Log.WarnContext(ctx, "instance does not start", "tenant", r.ID, "failures", c.fails, "error", err)
	if c.fails == failsTold {
		return w.reason(ctx, r, "its instance does not start: "+explain(err, r.Name).Message)
	}
	return nil
}

// reason notes what is wrong with a tenant that is ready, or that nothing is any more.
func (w *warden) reason(ctx context.Context, r *tenant.Record, text string) error {
	return w.m.amend(ctx, r, text, func(r *tenant.Record) bool {
		if r.Phase != tenant.Ready || r.Reason == text {
			return false
		}
		r.Reason = text
		return true
	})
}

// amend changes a record as the runner.
func (m *Manager) amend(ctx context.Context, r *tenant.Record, detail string, f func(r *tenant.Record) bool) error {
	for {
		now, err := m.dir.Get(ctx, r.ID)
		if err != nil {
			return err
		}
		next := now.Clone()
		if !f(next) {
			return nil
		}
		next.Updated = m.o.Now().UTC()
		_, err = m.dir.Put(ctx, next, tenant.Entry{Time: next.Updated, Who: "runner", What: VerbMaintain, ID: r.ID, Name: r.Name, Detail: detail})
		if !errors.Is(err, tenant.ErrConflict) {
			return err
		}
	}
}

// settle sees to it that the server keeps out whom the record keeps out. What a dead process did not get to is done here.
func (w *warden) settle(ctx context.Context, c *care, r *tenant.Record, _ *Instance, _ Driver) error {
	want := accessOf(r)
	if c.settled == want {
		return nil
	}
	if err := w.m.settle(ctx, r); err != nil {
		return err
	}
	c.settled = want
	return nil
}

// accessOf is what settle makes of a record, in short.
func accessOf(r *tenant.Record) string {
	var b strings.Builder
	if r.Access.ReadOnly || r.Access.Full {
		b.WriteString("read-only ")
	}
	for i := range r.Logins {
		b.WriteString(r.Logins[i].Role + " " + may(r, &r.Logins[i]) + " ")
	}
	return b.String()
}

// replicas keeps replicas of this host up.
func (w *warden) replicas(ctx context.Context, c *care, r *tenant.Record, _ *Instance, _ Driver) error {
	for i := range r.Replicas {
		x := &r.Replicas[i]
		if x.Host != w.m.o.Host || x.Endpoint.Port == 0 {
			continue // another's, or still being made
		}
		in, d, err := w.m.replica(r, x)
		if err != nil {
			return err
		}
		s, err := d.State(ctx, in)
		if err != nil {
			return err
		}
		if err := w.ends(ctx, r, x.ID, &s); err != nil {
			return err
		}
		if s.Renew {
			w.renew(ctx, r, in, d)
		}
		w.raiseReplica(ctx, c, r, in, d, &s)
	}
	return nil
}

// raiseReplica is raise for a replica. One that does not start is in the way of nothing else of its tenant's.
func (w *warden) raiseReplica(ctx context.Context, c *care, r *tenant.Record, in *Instance, d Driver, s *State) {
	p := c.replicas[in.ID]
	if p == nil {
		p = &pace{}
		if c.replicas == nil {
			c.replicas = make(map[string]*pace)
		}
		c.replicas[in.ID] = p
	}
	now := time.Now()
	switch {
	case s.Ready:
		p.fails = 0
		p.seen()
		return
	case s.Running:
		return
	case now.Before(p.next):
		w.soon(r.ID, p.next.Sub(now))
		return
	}
	err := w.under(ctx, r, func(ctx context.Context, _ *tenant.Record) error { return raiseReplica(ctx, in, d) })
	switch {
	case ctx.Err() != nil:
	case err != nil:
		wait := p.failed(now)
		w.soon(r.ID, wait)
		w.m.o.Log.WarnContext(ctx, "replica does not start", "tenant", r.ID, "replica", in.ID, "failures", p.fails, "error", err)
	default:
		w.m.o.Log.InfoContext(ctx, "replica was down, and started again", "tenant", r.ID, "replica", in.ID)
		p.up(now)
		w.started(in.ID)
		w.soon(r.ID, 0)
		c.settled = "" // who was kept out meanwhile, it hears of only now
	}
}

// raiseReplica starts a replica with what its record says by now.
func raiseReplica(ctx context.Context, in *Instance, d Driver) error {
	if err := d.Volume(ctx, in); err != nil {
		return err
	}
	if _, err := d.Configure(ctx, in); err != nil {
		return err
	}
	return d.Start(ctx, in)
}

// renew gives a server of the tenant's its next certificate. The one that it has is good for months, so a failure is in the way of nothing.
func (w *warden) renew(ctx context.Context, r *tenant.Record, in *Instance, d Driver) {
	err := w.under(ctx, r, func(ctx context.Context, _ *tenant.Record) error { return renew(ctx, in, d) })
	if err != nil && ctx.Err() == nil {
		w.m.o.Log.WarnContext(ctx, "certificate of an instance not renewed", "tenant", r.ID, "instance", in.ID, "error", err)
	}
}

// margin is how much of a disk has to be free for a tenant to write: a tenth; of a small one more, for WAL grows by whole segments, and reading writes WAL too.
// To write again, it takes half as much more.
func margin(size int64) int64 {
	const segments = 2 * 16 << 20
	return max(size/10, min(segments, size/5))
}

// fastest is how many bytes a second a tenant is expected to write at most: by it, disks are looked at in time.
const fastest = 100 << 20

// disk has a tenant read only when its disk is nearly full.
func (w *warden) disk(ctx context.Context, c *care, r *tenant.Record, in *Instance, d Driver) error {
	if r.Limits.Disk == 0 && !r.Access.Full || time.Now().Before(c.disk) {
		return nil
	}
	u, err := d.Usage(ctx, in)
	if err != nil {
		return err
	}
	size := u.DiskSize
	if size == 0 {
		size = r.Limits.Disk
	}
	room := float64(max(size-margin(size)-u.Disk, 0)) / fastest
	wait := max(min(time.Duration(room*float64(time.Second)), w.m.o.Every), min(200*time.Millisecond, w.m.o.Every))
	c.disk = time.Now().Add(wait)
	if wait < w.m.o.Every {
		w.soon(r.ID, wait)
	}
	full := r.Access.Full
	switch {
	case size == 0:
		full = false
	case size-u.Disk <= margin(size):
		full = true
	case size-u.Disk >= margin(size)*3/2:
		full = false
	}
	if full == r.Access.Full {
		return nil
	}
	detail := "the disk is nearly full: the tenant may only read"
	if !full {
		detail = "the disk has room again: the tenant may write"
	}
	w.m.o.Log.WarnContext(ctx, "disk of a tenant", "tenant", r.ID, "full", full, "bytes", u.Disk, "size", size)
	return w.m.amend(ctx, r, detail, func(r *tenant.Record) bool {
		changed := r.Access.Full != full
		r.Access.Full = full
		return changed
	})
}

// doze has an instance fall asleep that nobody used for long enough.
func (w *warden) doze(ctx context.Context, c *care, r *tenant.Record, in *Instance, _ Driver) error {
	if r.SuspendAfter <= 0 {
		return nil
	}
	now := time.Now()
	every := min(max(r.SuspendAfter/4, 100*time.Millisecond), 30*time.Second)
	if c.used.IsZero() {
		c.used = now
	}
	if now.Sub(c.looked) < every {
		w.soon(r.ID, every-now.Sub(c.looked))
		return nil
	}
	c.looked = now
	if w.m.o.Clients != nil && w.m.o.Clients(r.ID) > 0 {
		c.used = now
	} else if err := w.use(ctx, c, r, in, now); err != nil {
		return err
	}
	idle := now.Sub(c.used)
	if idle < r.SuspendAfter {
		w.soon(r.ID, min(every, r.SuspendAfter-idle))
		return nil
	}
	c.used = time.Time{}
	w.m.o.Log.InfoContext(ctx, "tenant falls asleep", "tenant", r.ID, "idle", idle)
	return w.order(ctx, r, Order{Verb: VerbSleep})
}

// use finds out when an instance was used last. A pooler's idle connections are no use of it.
func (w *warden) use(ctx context.Context, c *care, r *tenant.Record, in *Instance, now time.Time) error {
	return as(ctx, in, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		var busy bool
		var did float64
		var ended int64
		err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(state <> 'idle'), false),
				coalesce(extract(epoch FROM max(state_change)), -1)::float8,
				(SELECT coalesce((pg_catalog.to_jsonb(d) ->> 'sessions')::int8, xact_commit + xact_rollback)
					FROM pg_catalog.pg_stat_database AS d WHERE datname = $1)`+sessions, r.Database).Scan(&busy, &did, &ended)
		if err != nil {
			return err
		}
		switch {
		case busy:
			c.used = now
		case did != c.did && did >= 0 && c.did != 0: // how long ago does not count: clocks are set
			c.used = now
		case ended != c.ended && c.ended != 0:
			c.used = now // somebody came and went
		}
		c.ended, c.did = ended, did
		return nil
	})
}

// collect takes an instance's finished WAL segments into the archive.
func (w *warden) collect(ctx context.Context, c *care, r *tenant.Record, in *Instance, d Driver) error {
	if w.m.o.Archive == nil || !r.Backups.Archive || time.Since(c.wal) < w.m.o.Every/2 {
		return nil
	}
	c.wal = time.Now()
	return w.m.o.Archive.Collect(ctx, source(r, in, d))
}

// retryBackup is when a backup that failed is tried again.
const retryBackup = 10 * time.Minute

// backup orders the backup that is due.
func (w *warden) backup(ctx context.Context, c *care, r *tenant.Record) error {
	if w.m.o.Archive == nil || r.Backups.Every <= 0 || r.Phase != tenant.Ready {
		return nil
	}
	now := w.m.o.Now()
	if now.Before(c.due) {
		return nil
	}
	var last time.Time
	list, err := w.m.o.Archive.List(ctx, r.ID)
	if err != nil {
		return err
	}
	for _, at := range append([]time.Time{r.Created}, startsOf(list)...) {
		if at.After(last) && !at.After(now) { // one of a time to come was made while the clock was wrong
			last = at
		}
	}
	if due := last.Add(r.Backups.Every); due.After(now) {
		c.due = now.Add(min(due.Sub(now), w.m.o.Every*12)) // Every may change meanwhile
		return nil
	}
	c.due = now.Add(retryBackup) // unless it succeeds
	kind := Logical
	if r.Backups.Archive && r.Isolation == tenant.Instance {
		kind = Physical
	}
	return w.order(ctx, r, Order{Verb: VerbBackup, Kind: kind})
}

func startsOf(list []Backup) (at []time.Time) {
	for i := range list {
		at = append(at, list[i].Started)
	}
	return at
}
