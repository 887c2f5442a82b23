package provision

import (
	"context"
	"slices"

	"github.com/pgkennel/pgkennel/tenant"
)

// NewView returns what operators see of a tenant.
func NewView(r *tenant.Record) *View {
	r = r.Clone()
	v := &View{
		ID: r.ID, Name: r.Name, Key: r.Key, Isolation: r.Isolation.String(), Phase: r.Phase.String(), Reason: r.Reason, Access: r.Access,
		Cluster: r.Cluster, Schema: r.Schema, Role: r.Role, Database: r.Database, Driver: r.Driver, Host: r.Host, Endpoint: r.Endpoint,
		Version: r.Version, Limits: r.Limits, Settings: r.Settings, Extensions: r.Extensions, Origin: r.Origin, SuspendAfter: r.SuspendAfter,
		Replicas: r.Replicas, Backups: r.Backups, Created: r.Created, Updated: r.Updated, Forget: r.Forget,
		Ends: r.Ends,
	}
	if r.Phase != tenant.Ready {
		r.NotDown()
	}
	v.Ends.Known, v.Ends.Down = 0, r.Ends.Down
	for i := range v.Replicas {
		v.Replicas[i].Ends.Known = 0
	}
	if r.Mode != 0 {
		v.Mode = r.Mode.String()
	}
	if r.Cluster != "" && r.Shard >= 0 {
		v.Shard = &r.Shard
	}
	for _, l := range r.Logins {
		v.Logins = append(v.Logins, LoginView{Name: l.Name, ReadOnly: l.ReadOnly, Superuser: l.Superuser, Disabled: l.Disabled, Connections: l.Connections})
	}
	if op := r.Operation; op != nil {
		v.Operation = &OperationView{Verb: op.Verb, By: op.By, Step: op.Now, Undoing: op.Undoing, Error: op.Error, Started: op.Started}
	}
	return v
}

func views(list ...*tenant.Record) []*View {
	var all []*View
	for _, r := range list {
		if r != nil {
			all = append(all, NewView(r))
		}
	}
	return all
}

func list(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	if o.Tenant != "" {
		r, err := m.find(ctx, o.Tenant)
		if err != nil {
			return nil, err
		}
		return &Result{Tenants: views(r)}, nil
	}
	all, err := m.dir.List(ctx)
	if err != nil {
		return nil, err
	}
	if !o.Removed {
		all = slices.DeleteFunc(slices.Clone(all), func(r *tenant.Record) bool { return r.Phase == tenant.Removed })
	}
	return &Result{Tenants: views(all...)}, nil
}

func show(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	r, err := m.find(ctx, o.Tenant)
	if err != nil {
		return nil, err
	}
	v := NewView(r)
	if u := m.usage(ctx, r); u != nil {
		v.Usage = u
	}
	return &Result{Tenants: []*View{v}}, nil
}

// usage is what a tenant's instance uses now, as far as that can be found out here.
func (m *Manager) usage(ctx context.Context, r *tenant.Record) *Usage {
	if r.Isolation != tenant.Instance {
		if !m.shares() || r.Phase == tenant.Creating {
			return nil
		}
		size, err := m.virtual().Size(ctx, r.Clone())
		if err != nil {
			return nil
		}
		return &Usage{Disk: size}
	}
	if r.Host != m.o.Host || len(r.Facts) == 0 {
		return nil
	}
	in, d, err := m.instance(r)
	if err != nil {
		return nil
	}
	u, err := d.Usage(ctx, in)
	if err != nil {
		return nil
	}
	return &u
}

// auditLimit is how many entries are shown when the order does not say.
const auditLimit = 100

func audit(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	id := ""
	if o.Tenant != "" {
		r, err := m.find(ctx, o.Tenant)
		if err != nil {
			return nil, err
		}
		id = r.ID
	}
	limit := o.Limit
	if limit <= 0 {
		limit = auditLimit
	}
	entries, err := m.dir.Audit(ctx, id, limit)
	if err != nil {
		return nil, err
	}
	return &Result{Audit: entries}, nil
}
