package provision

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgkennel/pgkennel/tenant"
)

// repair goes on with what was left in the middle, or undoes it: of one tenant, or of all. Of all, it also takes away what is left of instances that
// are gone.
func repair(ctx context.Context, m *Manager, o Order, report func(Progress)) (*Result, error) {
	if o.Tenant != "" {
		r, err := m.find(ctx, o.Tenant)
		if err != nil {
			return nil, err
		}
		return m.mend(ctx, r, o, report)
	}
	all, err := m.dir.List(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{}
	var failures []error
	for _, r := range all {
		if r.Isolation == tenant.Instance && r.Host != m.o.Host && r.Operation == nil {
			continue
		}
		one, err := m.mend(ctx, r, o, report)
		if err != nil {
			failures = append(failures, fmt.Errorf("tenant %s: %w", r.Name, err))
			continue
		}
		if one.Changed {
			res.Changed = true
			res.Tenants = append(res.Tenants, one.Tenants...)
			res.Notes = append(res.Notes, one.Notes...)
		}
	}
	strays, err := m.strays(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range strays {
		what := "what is left of instance " + s.id + " (driver " + s.driver.Name() + ")"
		if !s.known && !o.Force {
			res.Notes = append(res.Notes, what+" belongs to no tenant that this directory ever had: it stays; repair with force destroys it, data and all")
			continue
		}
		if err := s.driver.Destroy(ctx, &Instance{ID: s.id}); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", what, err))
			continue
		}
		res.Changed = true
		res.Notes = append(res.Notes, what+" is destroyed")
		m.o.Log.InfoContext(ctx, "what was left of an instance is destroyed", "driver", s.driver.Name(), "instance", s.id, "by", o.By)
	}
	if len(failures) > 0 {
		return nil, Errorf(KindFailed, "not everything could be repaired").WithDetail("%v", errors.Join(failures...))
	}
	return res, nil
}

// mend repairs one tenant.
func (m *Manager) mend(ctx context.Context, r *tenant.Record, o Order, report func(Progress)) (*Result, error) {
	for range maxTries {
		if r.Operation == nil {
			return m.mendIdle(ctx, r)
		}
		op := r.Operation.ID
		local, err := m.local(ctx, r.Host)
		if err != nil {
			return nil, err
		}
		if local {
			f, err := m.drive(r.ID)
			if err != nil {
				return nil, err
			}
			forget := f.tell(report)
			select {
			case <-f.done:
				forget()
			case <-ctx.Done():
				forget()
				return nil, context.Cause(ctx)
			}
			if f.op == op && f.err != nil && f.r != nil && f.r.Operation != nil {
				return nil, f.err
			}
		} else {
			if r.Phase == tenant.Failed { // the runner there leaves it until it is told
				n := r.Clone()
				n.Phase, n.Operation.Error, n.Updated = r.Operation.From, "", m.o.Now().UTC()
				_, err := m.dir.Put(ctx, n, tenant.Entry{Time: n.Updated, Who: o.By, What: VerbRepair, ID: r.ID, Name: r.Name})
				if err != nil && !errors.Is(err, tenant.ErrConflict) {
					return nil, err
				}
			}
			if _, err := m.watchFor(ctx, r, op, report); err != nil && !errors.Is(err, errAlone) {
				return nil, err
			}
		}
		now, err := m.dir.Get(ctx, r.ID)
		if errors.Is(err, tenant.ErrNotFound) {
			return &Result{Changed: true, Notes: []string{"tenant " + r.Name + ": what was left of " + r.Operation.Verb + " is gone"}}, nil
		}
		if err != nil {
			return nil, err
		}
		if now.Operation == nil {
			res, err := m.mendIdle(ctx, now)
			if res != nil {
				res.Changed = true
			}
			return res, err
		}
		r = now
	}
	return nil, tenant.ErrConflict
}

// mendIdle brings a tenant that nothing is being done to in line with its record.
func (m *Manager) mendIdle(ctx context.Context, r *tenant.Record) (*Result, error) {
	res := &Result{Tenants: views(r)}
	if r.Isolation != tenant.Instance {
		if r.Phase == tenant.Ready && m.o.Virtual != nil {
			return res, m.o.Virtual.Make(ctx, r.Clone())
		}
		return res, nil
	}
	if r.Host != m.o.Host || r.Phase == tenant.Removed {
		return res, nil
	}
	err := m.locked(ctx, r.ID, func(ctx context.Context) error {
		now, err := m.dir.Get(ctx, r.ID)
		if err != nil || now.Operation != nil {
			return err
		}
		in, d, err := m.instance(now)
		if err != nil {
			return err
		}
		s, err := d.State(ctx, in)
		if err != nil {
			return err
		}
		if now.Phase != tenant.Ready {
			if s.Running {
				res.Changed = true
				return m.down(ctx, now)
			}
			return nil
		}
		if !s.Ready {
			res.Changed = true
			if err := errors.Join(d.Volume(ctx, in), configured(d.Configure(ctx, in)), d.Start(ctx, in)); err != nil {
				return err
			}
		}
		if err := answer(ctx, in); err != nil {
			return err
		}
		return m.settle(ctx, now)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func configured(_ Need, err error) error { return err }

// stray is what is on this host of an instance that no record has.
type stray struct {
	id     string
	driver Driver
	known  bool // this directory had it once: it was undone, or removed
}

// strays finds them.
func (m *Manager) strays(ctx context.Context) ([]stray, error) {
	var list []stray
	// What is found was recorded before it was made: the records are read after.
	for _, d := range m.o.Drivers {
		found, err := d.Found(ctx)
		if err != nil {
			return nil, err
		}
		for _, id := range found {
			list = append(list, stray{id: id, driver: d})
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	all, err := m.dir.List(ctx)
	if err != nil {
		return nil, err
	}
	has := make(map[string]bool)
	for _, r := range all {
		has[r.ID] = true
		for i := range r.Replicas {
			has[r.Replicas[i].ID] = true
		}
	}
	var out []stray
	for _, s := range list {
		if has[s.id] {
			continue
		}
		entries, err := m.dir.Audit(ctx, s.id, 1)
		if err != nil {
			return nil, err
		}
		s.known = len(entries) > 0
		out = append(out, s)
	}
	return out, nil
}
