package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/pooler/auth"
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
			m.letIn(ctx, r)
			f, err := m.drive(r.ID) //nolint:contextcheck // it outlives who asks for it
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
				if p, ok := tenant.ParsePhase(r.Operation.Args[argPhase]); ok { // what is half done is not served
					n.Phase = p
				}
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
		if r.Phase == tenant.Ready && m.shares() {
			return res, m.virtual().Make(ctx, r.Clone())
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
			if err := d.Volume(ctx, in); err != nil {
				return err
			}
			if now, err = m.reached(ctx, now); err != nil {
				return err
			}
			if in, d, err = m.instance(now); err != nil {
				return err
			}
			if err := errors.Join(configured(d.Configure(ctx, in)), d.Start(ctx, in)); err != nil {
				return err
			}
		}
		if err := m.unlock(ctx, in, now); err != nil {
			return err
		}
		if err := answer(ctx, in); err != nil {
			return err
		}
		if err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error { return m.heal(ctx, c, now) }); err != nil {
			return err
		}
		return m.settle(ctx, now)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// unlock gives pgkennel's superuser its password again, where a tenant that is one too has changed it, by the tenant's login.
func (m *Manager) unlock(ctx context.Context, in *Instance, r *tenant.Record) error {
	c, err := admin(ctx, in, "postgres")
	if err == nil {
		end(ctx, c)
		return nil
	}
	if !refusesPassword(err) || !in.Superuser {
		return nil // who asks next says what it is
	}
	l := &r.Logins[0]
	secret, err := m.o.Vault.Open(r.ID, l.Field(), l.Secret)
	if err != nil {
		return err
	}
	if c, err = dial(ctx, in.Endpoint, who{user: l.Role, password: secret, database: "postgres"}); err != nil {
		return unreachable(in, err)
	}
	defer end(ctx, c)
	verifier, _ := auth.MakeVerifier(in.Password, nil, 0).Encode()
	m.o.Log.WarnContext(ctx, "the tenant had changed pgkennel's role", "tenant", r.ID)
	return run(ctx, c, "ALTER ROLE "+ident(Superuser)+" LOGIN SUPERUSER VALID UNTIL 'infinity' PASSWORD "+literal(verifier))
}

// letIn is unlock in front of an operation, which may fail for just that; what else is wrong the operation says.
func (m *Manager) letIn(ctx context.Context, r *tenant.Record) {
	if r.Isolation != tenant.Instance || len(r.Facts) == 0 || !superuser(r) {
		return
	}
	in, d, err := m.instance(r)
	if err == nil {
		var s State
		if s, err = d.State(ctx, in); err == nil && s.Ready {
			err = m.unlock(ctx, in, r)
		}
	}
	if err != nil {
		m.o.Log.WarnContext(ctx, "instance not looked at before it is repaired", "tenant", r.ID, "error", err)
	}
}

// heal gives the roles of a tenant's logins the passwords that the pooler has: a tenant can change them, as its own or as a superuser, and locks itself out.
func (m *Manager) heal(ctx context.Context, c *pgx.Conn, r *tenant.Record) error {
	have, err := column(ctx, c, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname LIKE 't\\_%'")
	if err != nil {
		return err
	}
	var todo []string
	for i := range r.Logins {
		if l := &r.Logins[i]; slices.Contains(have, l.Role) {
			more, err := m.role(r, l, true)
			if err != nil {
				return err
			}
			todo = append(todo, more...)
		}
	}
	return run(ctx, c, todo...)
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
