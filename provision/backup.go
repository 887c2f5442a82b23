package provision

import (
	"context"
	"fmt"

	"github.com/pgkennel/pgkennel/tenant"
)

func errNoArchive() error {
	return Errorf(KindRefused, "no backups are configured: there is nowhere to keep them").WithHint("[backup]")
}

// argBackup is the backup that an operation works with; argUntil the time to which.
const argBackup = "backup"

// beginBackup orders a backup of a tenant that is there.
func beginBackup(_ context.Context, c *change) error {
	if c.m.o.Archive == nil {
		return errNoArchive()
	}
	switch c.o.Kind {
	case "", Logical:
	case Physical:
		if c.old.Isolation != tenant.Instance {
			return Errorf(KindRefused, "tenant %s shares its server with others: there are only logical backups of it", c.old.Name)
		}
	default:
		return Errorf(KindInvalid, "%q is no kind of backup", c.o.Kind).WithHint("logical or physical")
	}
	return c.refuseIn(tenant.Creating, tenant.Stopped, tenant.Asleep, tenant.OnHold, tenant.Removing, tenant.Removed, tenant.Failed)
}

func backupSteps(*job) []step {
	return []step{{"backup", makeBackup, nil}, {"expire", expire, nil}}
}

// makeBackup makes one. If it is repeated there may be one more.
func makeBackup(ctx context.Context, j *job) error {
	from, err := j.m.running(ctx, j.r)
	if err != nil {
		return err
	}
	b, err := j.dump(ctx, from, j.o.Kind, "")
	if err != nil {
		return err
	}
	j.f.res.Backups = append(j.f.res.Backups, *b)
	return nil
}

func (j *job) dump(ctx context.Context, from Source, kind, note string) (*Backup, error) {
	if kind == Physical {
		return j.m.o.Archive.Base(ctx, from, note, j.progress)
	}
	return j.m.o.Archive.Dump(ctx, from, note, j.progress)
}

// progress reports what an archive does, as of the tenant's.
func (j *job) progress(p Progress) {
	p.Tenant = j.r.Name
	j.f.report(p)
}

// expire deletes the tenant's backups that are more than it keeps.
func expire(ctx context.Context, j *job) error {
	if j.r.Backups.Keep <= 0 {
		return nil
	}
	gone, err := j.m.o.Archive.Expire(ctx, j.r.ID, j.r.Backups.Keep)
	if len(gone) > 0 {
		j.note(fmt.Sprintf("%d older backups are deleted", len(gone)))
	}
	return err
}

// finalBackup keeps what a tenant had that is removed. Its instance is started for that if it is down.
func finalBackup(ctx context.Context, j *job) error {
	from, err := j.reachable(ctx)
	if err != nil {
		return fmt.Errorf("final backup: %w", err)
	}
	if _, err := j.dump(ctx, from, Logical, "final"); err != nil {
		return fmt.Errorf("final backup: %w", err)
	}
	return nil
}

// reachable has the tenant's instance up, and returns how it is reached.
func (j *job) reachable(ctx context.Context) (Source, error) {
	from, err := j.m.running(ctx, j.r)
	if err == nil || j.r.Isolation != tenant.Instance {
		return from, err
	}
	for _, do := range []func(context.Context, *job) error{volume, configure, start, answers} {
		if err := do(ctx, j); err != nil {
			return Source{}, err
		}
	}
	return j.m.running(ctx, j.r)
}

func forgetBackups(ctx context.Context, j *job) error {
	if j.o.Keep != nil {
		return nil
	}
	return j.m.o.Archive.Forget(ctx, j.r.ID)
}

// backups lists a tenant's.
func backups(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	if m.o.Archive == nil {
		return nil, errNoArchive()
	}
	r, err := m.find(ctx, o.Tenant)
	if err != nil {
		return nil, err
	}
	list, err := m.o.Archive.List(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &Result{Tenants: views(r), Backups: list}, nil
}

// backupTime is how times of backups are told.
const backupTime = "2006-01-02 15:04:05 MST"

// pick finds a tenant's backup: of an ID, or the latest that can be had for a time.
func (m *Manager) pick(ctx context.Context, r *tenant.Record, o Order) (*Backup, error) {
	if m.o.Archive == nil {
		return nil, errNoArchive()
	}
	if now := m.o.Now(); o.ToTime.After(now) {
		return nil, Errorf(KindInvalid, "the time %s has not come yet", o.ToTime.UTC().Format(backupTime)).WithDetail("It is %s.", now.UTC().Format(backupTime))
	}
	list, err := m.o.Archive.List(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	for i := range list { // the newest first
		b := &list[i]
		switch {
		case o.Backup != "":
			if b.ID == o.Backup {
				return b, nil
			}
		case o.ToTime.IsZero(), b.Kind == Physical && !b.From.After(o.ToTime):
			return b, nil
		}
	}
	switch {
	case o.Backup != "":
		return nil, Errorf(KindNotFound, "tenant %s has no backup %s", r.Name, o.Backup).WithHint("pgkennel tenant backups %s", r.Name)
	case len(list) == 0:
		return nil, Errorf(KindNotFound, "tenant %s has no backup", r.Name)
	}
	return nil, Errorf(KindNotFound, "tenant %s has no physical backup from before %s", r.Name, o.ToTime.UTC().Format(backupTime)).
		WithHint("a point in time needs one, and archived WAL: pgkennel tenant backups %s", r.Name)
}

// picked is the backup that an operation has on record.
func (j *job) picked(ctx context.Context, of string) (*Backup, error) {
	list, err := j.m.o.Archive.List(ctx, of)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].ID == j.r.Operation.Args[argBackup] {
			return &list[i], nil
		}
	}
	return nil, Errorf(KindNotFound, "the backup %s is not there any more", j.r.Operation.Args[argBackup])
}
