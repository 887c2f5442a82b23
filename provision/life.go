package provision

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// refuseIn refuses a verb in phases in which it has no meaning.
func (c *change) refuseIn(phases ...tenant.Phase) error {
	for _, p := range phases {
		if c.old.Phase != p {
			continue
		}
		e := Errorf(KindState, "tenant %s is %s", c.old.Name, p)
		switch p {
		case tenant.Removed, tenant.Removing:
			e = e.WithHint("pgkennel tenant restore %s brings it back", c.old.Name)
		case tenant.OnHold:
			e = e.WithHint("pgkennel tenant resume %s", c.old.Name)
		case tenant.Creating:
			e = e.WithHint("pgkennel tenant repair %s", c.old.Name)
		case tenant.Failed:
			e = e.WithDetail("%s", c.old.Reason).WithHint("pgkennel tenant repair %s", c.old.Name)
		case tenant.Stopped, tenant.Asleep:
			e = e.WithHint("pgkennel tenant start %s", c.old.Name)
		case tenant.Ready:
		}
		return e
	}
	return nil
}

func beginStart(_ context.Context, c *change) error {
	c.nothing = c.old.Phase == tenant.Ready
	return c.refuseIn(tenant.Creating, tenant.OnHold, tenant.Removing, tenant.Removed)
}

func beginResume(_ context.Context, c *change) error {
	c.nothing = c.old.Phase == tenant.Ready
	return c.refuseIn(tenant.Creating, tenant.Stopped, tenant.Asleep, tenant.Removing, tenant.Removed)
}

func beginWake(_ context.Context, c *change) error {
	c.nothing = c.old.Phase == tenant.Ready
	if c.old.Dormant() { // also if the wake before failed
		c.r.Phase, c.r.Reason = tenant.Asleep, ""
		return nil
	}
	return c.refuseIn(tenant.Creating, tenant.Stopped, tenant.OnHold, tenant.Removing, tenant.Removed, tenant.Failed)
}

func beginStop(_ context.Context, c *change) error    { return c.down(tenant.Stopped, tenant.OnHold) }
func beginSuspend(_ context.Context, c *change) error { return c.down(tenant.OnHold) }

func beginSleep(_ context.Context, c *change) error {
	if err := c.refuseIn(tenant.Stopped, tenant.Failed); err != nil {
		return err
	}
	return c.down(tenant.Asleep, tenant.OnHold)
}

// down takes the tenant into a phase in which it is not served, from the beginning on.
func (c *change) down(to tenant.Phase, not ...tenant.Phase) error {
	c.nothing = c.old.Phase == to
	c.r.Phase, c.r.Reason = to, ""
	c.r.NotDown()
	return c.refuseIn(append(not, tenant.Creating, tenant.Removing, tenant.Removed)...)
}

// beginRestart: clients that come meanwhile wait, as for one that is asleep.
func beginRestart(_ context.Context, c *change) error {
	if c.old.Phase == tenant.Ready {
		c.r.Phase = tenant.Asleep
	}
	return c.refuseIn(tenant.Creating, tenant.Stopped, tenant.OnHold, tenant.Removing, tenant.Removed)
}

func startSteps(*job) []step {
	return []step{{"configure", configure, nil}, {"start", start, nil}, {"answers", answers, nil}, {"register", ready, nil}}
}

func stopSteps(*job) []step {
	return []step{{"close", closeSessions, nil}, {"stop", stop, nil}, {"register", registered, nil}}
}

func restartSteps(j *job) []step { return append(stopSteps(j)[:2], startSteps(j)...) }

func suspendSteps(j *job) []step {
	if j.r.Isolation != tenant.Instance {
		return []step{{"fence", fence, nil}}
	}
	return stopSteps(j)
}

func resumeSteps(j *job) []step {
	if j.r.Isolation != tenant.Instance {
		return []step{{"unfence", ready, nil}}
	}
	return startSteps(j)
}

// fence keeps a virtual tenant's roles out, according to its phase.
func fence(ctx context.Context, j *job) error { return j.m.settle(ctx, j.r) }

// ready is the last step of what makes a tenant serve.
func ready(ctx context.Context, j *job) error {
	r := j.r.Clone()
	r.Phase = tenant.Ready
	if err := j.m.settle(ctx, r); err != nil {
		return err
	}
	j.change(func(r *tenant.Record) {
		r.Phase, r.Forget = tenant.Ready, time.Time{}
		r.NotDown()
	})
	return nil
}

// registered is the last step of what has its phase already.
func registered(context.Context, *job) error { return nil }

// patience is how long transactions may go on when a tenant is taken down.
const patience = 10 * time.Second

// closeSessions ends the tenant's connections: those in a transaction when it is over, or with Now, or when patience is.
func closeSessions(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error {
		s, err := d.State(ctx, in)
		if err != nil || !s.Ready || j.o.Now {
			return err // who is left is ended by the stop
		}
		if j.o.Verb == VerbSleep {
			return within(ctx, patience, patience, in, "postgres", j.abandoned)
		}
		err = within(ctx, patience+5*time.Second, patience, in, "postgres", drain)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil // who can't be asked is stopped all the same, and that ends all there are
	})
}

// sessions are those of a tenant's server that use it: clients', of other poolers too, and an operator's in its database, which is $1.
const sessions = ` FROM pg_catalog.pg_stat_activity
	WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_catalog.pg_backend_pid() AND (usename <> '` + Superuser + `' OR datname = $1)`

// abandoned fails if somebody came just before the tenant was to fall asleep: that is no reason to end what is under way.
func (j *job) abandoned(ctx context.Context, c *pgx.Conn) error {
	var busy int
	if err := c.QueryRow(ctx, "SELECT count(*)"+sessions+" AND state <> 'idle'", j.r.Database).Scan(&busy); err != nil {
		return err
	}
	if busy > 0 {
		return Errorf(KindState, "tenant %s is in use", j.r.Name)
	}
	return nil
}

// drain ends all clients' connections, the busy ones when they are done or patience is over.
func drain(ctx context.Context, c *pgx.Conn) error {
	const clients = ` FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND usename <> '` + Superuser + `'`
	deadline := time.Now().Add(patience)
	for {
		if _, err := c.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend(pid)"+clients+" AND state = 'idle'"); err != nil {
			return err
		}
		var busy int
		if err := c.QueryRow(ctx, "SELECT count(*)"+clients).Scan(&busy); err != nil {
			return err
		}
		if busy == 0 || time.Now().After(deadline) {
			return nil
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

const stopTimeout = 2 * time.Minute

func stop(ctx context.Context, j *job) error {
	return j.m.down(ctx, j.r)
}

// down stops a tenant's instance, and its replicas that are here.
func (m *Manager) down(ctx context.Context, r *tenant.Record) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for i := range r.Replicas {
		if x := &r.Replicas[i]; x.Host == m.o.Host && len(x.Facts) > 0 {
			in, d, err := m.replica(r, x)
			if err != nil {
				return err
			}
			if err := d.Stop(ctx, in); err != nil {
				return err
			}
		}
	}
	in, d, err := m.instance(r)
	if err != nil {
		return err
	}
	return d.Stop(ctx, in)
}
