package testbed

import (
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// Secure does what `pgkennel secure apply --key …` does for tenants that are all alike, with and without entries.
func (s *Stand) Secure(t testing.TB, keys ...string) {
	t.Helper()
	cfg, _, err := s.Load()
	if err != nil {
		t.Fatalf("configuration: %v", err)
	}
	cl := cfg.Cluster(Cluster)
	r := cfg.Tenancy.Registry
	var tenants []*tenant.Tenant
	r.All(func(x *tenant.Tenant) bool { tenants = append(tenants, x); return true })
	for _, key := range keys {
		tenants = append(tenants, r.ByKey(Cluster, key))
	}
	shardOf, err := pooler.TenantShards(cl)
	if err != nil {
		t.Fatal(err)
	}
	pl := secure.NewPlanner()
	for n := range cl.Shards {
		o := secure.Options{Cluster: Cluster, Column: cl.TenantColumn, Setting: r.Setting(), Secret: cfg.Tenancy.Secret, Logins: []string{User}}
		if i, m, _ := r.Defaults(Cluster); i == tenant.Row {
			o.Rows = m
		}
		for _, table := range cl.Omnisharded {
			o.Common = append(o.Common, secure.Table(table))
		}
		var own []*tenant.Tenant
		for _, x := range tenants {
			if at, err := shardOf(x); err != nil {
				t.Fatal(err)
			} else if at != n {
				continue
			}
			if x.Isolation == tenant.Database {
				o.Databases, own = append(o.Databases, x.Database), append(own, x)
			} else {
				o.Tenants = append(o.Tenants, x)
			}
		}
		s.secure(t, pl, cl.Shards[n][0], s.Shards[n].DB, o)
		for _, x := range own {
			its := o
			its.Rows, its.Tenants, its.Databases, its.Common = 0, []*tenant.Tenant{x}, nil, nil
			s.secure(t, pl, cl.Shards[n][0], x.Database, its)
		}
	}
}

func (s *Stand) secure(t testing.TB, pl *secure.Planner, e *config.Endpoint, database string, o secure.Options) {
	t.Helper()
	ctx := t.Context()
	db, err := secure.Connect(ctx, "user="+pgtest.Superuser+" sslmode=disable", secure.Place{Host: e.Host, Port: e.Port, Database: database})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(ctx)
	steps, err := pl.Plan(ctx, db, o)
	if err == nil {
		err = secure.Apply(ctx, db, steps, 5*time.Second, func(int, secure.Step) {})
	}
	if err != nil {
		t.Fatalf("securing %s: %v", database, err)
	}
}
