package kennel

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/external"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// virtual makes tenants in the configuration's databases; nil, if it says nothing of tenants in them. Their administrators are whom the configuration names, else PGUSER and PGPASSWORD.
func virtual(cfg *config.Config, log *slog.Logger) (provision.Virtual, error) {
	if cfg.Tenancy == nil || len(cfg.Clusters) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	r := cfg.Tenancy.Registry
	o := external.Options{Clusters: make(map[string]external.Cluster), Secret: cfg.Tenancy.Secret, Log: log}
	o.Defaults.Setting = r.Setting()
	for _, c := range cfg.Clusters {
		var entries []*tenant.Tenant
		note := func(t *tenant.Tenant) bool {
			if t.Cluster == c.Name {
				entries = append(entries, t)
			}
			return true
		}
		r.All(note) // it follows no directory yet
		r.Listed(c.Name, note)
		o.Defaults.Isolation, o.Defaults.Mode, _ = r.Defaults(c.Name)
		x, err := shared(cfg, c, entries)
		if err != nil {
			return nil, err
		}
		o.Clusters[c.Name] = x
	}
	return external.New(o)
}

// Prepare finds out what another configuration, which nobody follows a directory with yet, says of virtual tenants; commit puts it in force.
func (k *Kennel) Prepare(cfg *config.Config) (commit func(), err error) {
	v, err := virtual(cfg, k.log)
	return func() { k.Manager.SetVirtual(v) }, err
}

// shared is a database that tenants share.
func shared(cfg *config.Config, c *config.Cluster, entries []*tenant.Tenant) (x external.Cluster, err error) {
	x.Column, x.Type = c.TenantColumn, c.TenantType.String()
	if x.Rows, err = RowMode(cfg, c, entries); err != nil {
		return x, err
	}
	for _, endpoints := range c.Shards {
		e := Primary(endpoints)
		x.Shards = append(x.Shards, external.Shard{At: secure.Place{Host: e.Host, Port: e.Port, Database: e.DatabaseName}, Admin: e.Administrator(), Logins: Logins(cfg, e)})
	}
	shardOf, err := pooler.TenantShards(c)
	if err != nil {
		return x, err
	}
	x.ShardOf = func(key string) (int, error) {
		return shardOf(&tenant.Tenant{Name: key, Key: key, Cluster: c.Name, Shard: -1})
	}
	x.Taken = func(t *tenant.Tenant) error {
		if why := cfg.TenantTaken(t.Name, t.Cluster, t.Key); why != "" {
			return errors.New(why)
		}
		for _, e := range entries {
			if t.Role != "" && t.Role == e.Role || t.Schema != "" && t.Schema == e.Schema && t.Database == e.Database || t.Database != "" && t.Database == e.Database {
				return errors.New("its role, schema or database is that of a tenant of the configuration")
			}
		}
		return nil
	}
	for _, t := range c.Omnisharded {
		x.Common = append(x.Common, secure.Table(t))
	}
	for _, t := range entries {
		if t.Schema != "" && t.Database == "" {
			x.Schemas = append(x.Schemas, t.Schema)
		}
	}
	return x, nil
}

// Primary is who takes a shard's writes.
func Primary(endpoints []*config.Endpoint) *config.Endpoint {
	for _, e := range endpoints {
		if e.Role == topology.Primary {
			return e
		}
	}
	return endpoints[0]
}

// RowMode is what holds tenants that share tables. All have to be held alike, for the tables have one policy.
func RowMode(cfg *config.Config, cluster *config.Cluster, tenants []*tenant.Tenant) (mode tenant.Mode, err error) {
	add := func(m tenant.Mode) {
		if mode != 0 && mode != m {
			err = fmt.Errorf("tenants of database %q share tables in the modes %s and %s; policies need one for all", cluster.Name, mode, m)
		}
		mode = m
	}
	for _, t := range tenants {
		if t.Isolation == tenant.Row {
			add(t.Mode)
		}
	}
	if i, m, byKey := cfg.Tenancy.Registry.Defaults(cluster.Name); i == tenant.Row && (byKey || mode == 0) {
		add(m)
	}
	return mode, err
}

// Logins are the roles with which pgkennel logs in to an endpoint for users.
func Logins(cfg *config.Config, e *config.Endpoint) []string {
	var names []string
	for _, u := range cfg.Users {
		if u.Database != e.Cluster {
			continue
		}
		if name := cfg.Pool(u, e).User; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
