package provision

import (
	"context"

	"github.com/pgkennel/pgkennel/tenant"
)

// beginRemove takes a tenant down, for good with Now.
func beginRemove(_ context.Context, c *change) error {
	if c.old.Phase == tenant.Removed && !c.o.Now {
		c.nothing = true
		return nil
	}
	if op := c.old.Operation; op != nil && c.m.verbs[op.Verb] != nil && c.m.verbs[op.Verb].makes && !c.o.Now {
		return Errorf(KindState, "tenant %s was never made: there is nothing to keep", c.old.Name).WithHint("pgkennel tenant repair %s, or remove --now", c.old.Name)
	}
	if c.o.Keep != nil && !c.o.Now {
		return Errorf(KindInvalid, "remove has a use for backup_keep with now only: without, backups are kept until the tenant is forgotten")
	}
	c.r.Phase = tenant.Removing
	return nil
}

func removeSteps(j *job) []step {
	virtual := j.r.Isolation != tenant.Instance
	var list []step
	switch {
	case virtual:
		list = []step{{"fence", fenceAll, nil}}
	case !j.o.Now:
		list = []step{{"close", closeSessions, nil}}
	}
	if !j.o.Now {
		if j.m.o.Archive != nil {
			list = append(list, step{"backup", finalBackup, nil})
		}
		if !virtual {
			list = append(list, step{"stop", stop, nil})
		}
		return append(list, step{"register", forgetLater, nil})
	}
	if virtual {
		list = append(list, step{"destroy", unmakeVirtual, nil})
	} else {
		list = append(list, step{"destroy", destroyAll, nil})
	}
	if j.m.o.Archive != nil {
		list = append(list, step{"forget", forgetBackups, nil})
	}
	return append(list, step{"delete", func(ctx context.Context, j *job) error { return j.delete(ctx, "done", "") }, nil})
}

// fenceAll keeps a virtual tenant's roles out, whatever its access is.
func fenceAll(ctx context.Context, j *job) error {
	return j.m.virtual().Fence(ctx, j.r.Clone(), true)
}

// forgetLater begins the grace period.
func forgetLater(_ context.Context, j *job) error {
	forget := j.m.o.Now().UTC().Add(j.m.o.Grace)
	j.change(func(r *tenant.Record) { r.Phase, r.Forget = tenant.Removed, forget })
	return nil
}

// destroyAll takes the instance away, and its replicas of this host.
func destroyAll(ctx context.Context, j *job) error {
	for i := range j.r.Replicas {
		if x := &j.r.Replicas[i]; x.Host == j.m.o.Host && len(x.Facts) > 0 {
			in, d, err := j.m.replica(j.r, x)
			if err != nil {
				return err
			}
			if err := d.Destroy(ctx, in); err != nil {
				return err
			}
		}
	}
	return destroy(ctx, j)
}
