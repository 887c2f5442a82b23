package provision

import (
	"context"

	"github.com/pgkennel/pgkennel/tenant"
)

// reach has those of a tenant's instances that are here and down listen, from their start on, where this host is configured to for pgkennels of others. What it
// returns changes the record so; nil = it is so.
func (m *Manager) reach(ctx context.Context, r *tenant.Record) (change func(r *tenant.Record), err error) {
	to := m.o.Listen
	if to == "" && r.Authority == (tenant.Authority{}) {
		return nil, nil //nolint:nilnil // nobody ever reached it
	}
	in, d, err := m.instance(r)
	if err != nil {
		return nil, err
	}
	if s, err := d.State(ctx, in); err != nil || s.Running {
		return nil, err
	}
	a, err := m.authority(r)
	if err != nil {
		return nil, err
	}
	same := a == r.Authority && r.Endpoint.Remote == to
	var moved []string
	for i := range r.Replicas {
		x := &r.Replicas[i]
		if x.Host != m.o.Host || x.Endpoint.Port == 0 || x.Endpoint.Remote == to {
			continue // it does not serve, or not from here
		}
		in, d, err := m.replica(r, x)
		if err != nil {
			return nil, err
		}
		if s, err := d.State(ctx, in); err != nil {
			return nil, err
		} else if !s.Running {
			moved = append(moved, x.ID)
		}
	}
	if same && len(moved) == 0 {
		return nil, nil //nolint:nilnil // nothing to change
	}
	return func(r *tenant.Record) {
		r.Endpoint.Remote, r.Authority = to, a
		for _, id := range moved {
			if i := replicaAt(r, id); i >= 0 {
				r.Replicas[i].Endpoint.Remote = to
			}
		}
	}, nil
}

// authority is what a tenant has to have for instances that start now: its own, as it is to be by now, or a new one.
func (m *Manager) authority(r *tenant.Record) (tenant.Authority, error) {
	if m.o.Listen == "" {
		return tenant.Authority{}, nil
	}
	if r.Authority.Cert != "" {
		return r.Authority.Renew(m.o.Vault, r.ID, m.o.Now())
	}
	return tenant.NewAuthority(m.o.Vault, r.ID, m.o.Now())
}

// reached is reach for a tenant that nothing is being done to, and returns its record.
func (m *Manager) reached(ctx context.Context, r *tenant.Record) (*tenant.Record, error) {
	change, err := m.reach(ctx, r)
	if err != nil || change == nil {
		return r, err
	}
	if err := m.amend(ctx, r, "other hosts reach it at another address, or by another authority", func(r *tenant.Record) bool { change(r); return true }); err != nil {
		return nil, err
	}
	return m.dir.Get(ctx, r.ID)
}

// renewAuthority takes the authority of a tenant whose instance runs a step further, if it is time, and returns its record. Its servers get certificates by it as
// by any that are made anew.
func (w *warden) renewAuthority(ctx context.Context, r *tenant.Record) (*tenant.Record, error) {
	if r.Authority.Cert == "" {
		return r, nil
	}
	next, err := r.Authority.Renew(w.m.o.Vault, r.ID, w.m.o.Now())
	if err != nil || next == r.Authority {
		return r, err
	}
	err = w.under(ctx, r, func(ctx context.Context, now *tenant.Record) error {
		return w.m.amend(ctx, now, "the next authority, in time", func(now *tenant.Record) bool {
			if now.Authority != r.Authority {
				return false
			}
			now.Authority = next
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	return w.m.dir.Get(ctx, r.ID)
}

// renew gives a running server its next certificate.
func renew(ctx context.Context, in *Instance, d Driver) error {
	if _, err := d.Configure(ctx, in); err != nil {
		return err
	}
	return d.Reload(ctx, in) // what of its configuration needs a restart waits for that
}
