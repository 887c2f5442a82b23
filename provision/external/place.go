package external

import (
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/tenant"
)

// Place implements provision.Virtual.
func (x *External) Place(ctx context.Context, r *tenant.Record) error {
	if !tenant.ValidName(r.Name) {
		return provision.Errorf(provision.KindInvalid, "%q is no name of a tenant", r.Name).
			WithHint("It has lower-case letters, digits, _ and -, and begins with a letter or digit.")
	}
	if r.ID == "" {
		return provision.Errorf(provision.KindInvalid, "tenant %q has no ID", r.Name)
	}
	if err := x.refuse(r); err != nil {
		return err
	}
	c, err := x.chosen(r)
	if err != nil {
		return err
	}
	r.Isolation = cmp.Or(r.Isolation, x.o.Defaults.Isolation, tenant.Schema)
	if err := x.mode(r, c); err != nil {
		return err
	}
	if err := key(r, c); err != nil {
		return err
	}
	if err := x.names(r); err != nil {
		return err
	}
	if err := c.choose(r); err != nil {
		return err
	}
	if err := c.free(r); err != nil {
		return err
	}
	_, s, err := x.shard(r)
	if err != nil {
		return err
	}
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	return failed(ctx, x.look(ctx, db, r, c, s))
}

// chosen is the tenant's database: the one that it names, or the only one.
func (x *External) chosen(r *tenant.Record) (Cluster, error) {
	if r.Cluster == "" && len(x.o.Clusters) == 1 {
		for name := range x.o.Clusters {
			r.Cluster = name
		}
	}
	if r.Cluster == "" {
		return Cluster{}, provision.Errorf(provision.KindInvalid, "a tenant of a database of the configuration needs to know which").
			WithHint("--database, one of %v.", slices.Sorted(maps.Keys(x.o.Clusters)))
	}
	return x.cluster(r)
}

// free refuses a tenant whose name or places one of the configuration has.
func (c *Cluster) free(r *tenant.Record) error {
	if c.Taken == nil {
		return nil
	}
	if err := c.Taken(Tenant(r)); err != nil {
		return provision.Errorf(provision.KindTaken, "tenant %q can't be made: the configuration has one that is in its way", r.Name).WithDetail("%v", err)
	}
	return nil
}

// Attach implements provision.Virtual.
func (x *External) Attach(_ context.Context, r *tenant.Record) error {
	c, err := x.chosen(r)
	if err != nil {
		return err
	}
	if c.Column == "" && r.Key != "" {
		return provision.Errorf(provision.KindRefused, "tenants of database %q have no keys: there is no tenant column", r.Cluster).WithHint("column in [multi_tenant].")
	}
	if err := key(r, c); err != nil {
		return err
	}
	return c.free(r)
}

// refuse refuses what a tenant can't have that shares a server.
func (x *External) refuse(r *tenant.Record) error {
	no := func(what string) error {
		return provision.Errorf(provision.KindRefused, "a tenant that shares a server can't have %s", what).WithHint("--isolation instance gives it a PostgreSQL of its own.")
	}
	l := r.Limits
	switch {
	case r.Isolation == tenant.Instance:
		return provision.Errorf(provision.KindInvalid, "the driver external makes no instances: it has servers that are there already").
			WithHint("--isolation database, schema or row; or another --driver.")
	case r.Driver != "" && r.Driver != "external":
		return provision.Errorf(provision.KindInvalid, "driver %q makes instances, and isolation %s is a part of one that is there", r.Driver, r.Isolation).WithHint("Leave --driver out.")
	case l.CPU != 0 || l.Memory != 0 || l.Disk != 0 || l.IO != 0:
		return no("limits of CPU, memory, disk or I/O")
	case len(r.Settings) > 0:
		return no("settings of postgresql.conf")
	case r.SuspendAfter != 0:
		return no("sleep")
	case r.Backups.Archive:
		return no("its WAL archived")
	case len(r.Replicas) > 0:
		return no("replicas")
	case slices.ContainsFunc(r.Logins, func(l tenant.Login) bool { return l.Superuser }):
		return no("a superuser")
	}
	return nil
}

// mode chooses what holds the tenant, and refuses what does not hold.
func (x *External) mode(r *tenant.Record, c Cluster) error {
	if r.Mode == 0 {
		r.Mode = cmp.Or(x.o.Defaults.Mode, tenant.Strict)
		switch {
		case r.Isolation == tenant.Row && c.Rows != 0:
			r.Mode = c.Rows
		case r.Isolation == tenant.Database, r.Isolation == tenant.Schema && r.Mode == tenant.Sealed:
			r.Mode = tenant.Strict
		}
	}
	switch {
	case r.Mode == tenant.Sealed && r.Isolation != tenant.Row:
		return provision.Errorf(provision.KindInvalid, "sealed mode is for row isolation only").WithHint("--mode strict.")
	case r.Isolation == tenant.Database && r.Mode != tenant.Strict:
		return provision.Errorf(provision.KindInvalid, "database isolation needs strict mode: the shared login has one database for all").WithHint("--mode strict.")
	case r.Isolation == tenant.Row && c.Rows != 0 && c.Rows != r.Mode:
		return provision.Errorf(provision.KindRefused, "tenants of database %q share tables in mode %s; policies need one for all", r.Cluster, c.Rows).WithHint("--mode %s, or --isolation schema.", c.Rows)
	case r.Mode != tenant.Shared && x.o.Secret == nil:
		return provision.Errorf(provision.KindRefused, "mode %s needs a secret, of which passwords of roles and keys of seals are made", r.Mode).WithHint("role_secret_file in [multi_tenant].")
	case r.Isolation == tenant.Row && c.Column == "":
		return provision.Errorf(provision.KindRefused, "tenants of database %q can't share tables: there is no tenant column", r.Cluster).WithHint("column in [multi_tenant].")
	case len(r.Extensions) > 0 && r.Isolation != tenant.Database:
		return provision.Errorf(provision.KindRefused, "extensions are a whole database's, which the tenant shares").WithHint("--isolation database, or CREATE EXTENSION for all.")
	}
	return nil
}

// key checks the key, and gives it the form in which PostgreSQL prints it.
func key(r *tenant.Record, c Cluster) error {
	if r.Key == "" {
		if r.Isolation == tenant.Row {
			return provision.Errorf(provision.KindInvalid, "row isolation needs the tenant's key").WithHint("--key, its value of the column %s.", c.Column)
		}
		return nil
	}
	typ, ok := sharding.ParseKeyType(cmp.Or(c.Type, "bigint"))
	if !ok {
		return provision.Errorf(provision.KindInvalid, "keys of database %q are of type %q, which is none", r.Cluster, c.Type)
	}
	k, ok := sharding.ParseKey(typ, r.Key)
	if !ok {
		return provision.Errorf(provision.KindInvalid, "key %s is no %s", strconv.Quote(r.Key), typ).WithHint("data_type in [multi_tenant] says what keys are.")
	}
	if typ == sharding.Text && !printable(r.Key) {
		return provision.Errorf(provision.KindInvalid, "key %s is no text that PostgreSQL can have", strconv.Quote(r.Key))
	}
	r.Key = k.String()
	return nil
}

// names gives the tenant what is its own in the catalogs.
func (x *External) names(r *tenant.Record) error {
	d := x.o.Defaults
	for _, name := range []struct {
		to     *string
		what   string
		tpl    tenant.Template
		wanted bool
	}{
		{&r.Schema, "schema", d.Schema, r.Isolation == tenant.Schema},
		{&r.Role, "role", d.Role, r.Isolation == tenant.Schema || r.Mode == tenant.Strict},
		{&r.Database, "database", d.Database, r.Isolation == tenant.Database},
	} {
		if !name.wanted {
			*name.to = ""
			continue
		}
		if *name.to == "" {
			s, err := cmp.Or(name.tpl, "t_{id}").Expand(r.Name, r.Key, r.ID)
			if err != nil {
				return provision.Errorf(provision.KindInvalid, "tenant %q has no %s: %v", r.Name, name.what, err).WithHint("--key, or another template in [multi_tenant].")
			}
			*name.to = s
		}
		if bad := tenant.CheckIdent(*name.to); bad != "" {
			return provision.Errorf(provision.KindInvalid, "the %s %q %s", name.what, *name.to, bad)
		}
	}
	return nil
}

// choose finds the tenant's shard. That of rows stays where the mapping has the key, whatever it says in time.
func (c *Cluster) choose(r *tenant.Record) error {
	if r.Shard >= len(c.Shards) {
		return provision.Errorf(provision.KindInvalid, "database %q has no shard %d", r.Cluster, r.Shard).WithHint("It has %d, counted from 0.", len(c.Shards))
	}
	if r.Key == "" {
		if r.Shard < 0 {
			h := fnv.New32a()
			h.Write([]byte(r.ID))
			r.Shard = int(h.Sum32() % uint32(len(c.Shards))) //nolint:gosec // a few shards
		}
		return nil
	}
	n, err := c.keyShard(r.Key)
	switch {
	case r.Isolation == tenant.Row && err != nil:
		return err
	case r.Isolation == tenant.Row && r.Shard >= 0 && r.Shard != n:
		return provision.Errorf(provision.KindRefused, "rows with key %q are on shard %d, as the mapping has it", r.Key, n).WithHint("Leave --shard out.")
	case r.Isolation == tenant.Row:
		r.Shard = -1
	case r.Shard >= 0:
	case err != nil:
		return err
	default:
		r.Shard = n
	}
	return nil
}

// look asks the server whether the tenant can be made there.
func (x *External) look(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, s Shard) error {
	is, err := one[struct {
		Major                         int
		User                          string
		Super, CreateRole, CreateDB   bool
		Role, Owner, Schema, Database bool
		Mark                          string
	}](ctx, db, `SELECT current_setting('server_version_num')::int / 10000, u.rolname::text, u.rolsuper, u.rolcreaterole, u.rolcreatedb,
EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND $3 <> ''), EXISTS (SELECT FROM pg_namespace WHERE nspname = $4),
EXISTS (SELECT FROM pg_database WHERE datname = $3), coalesce((SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1), '')
FROM pg_roles u WHERE u.rolname = current_user`, r.Role, ownerOf(r), r.Database, r.Schema)
	if err != nil {
		return err
	}
	taken := func(what, name string) error {
		return provision.Errorf(provision.KindTaken, "%s %q is there already", what, name).WithHint("It is somebody else's, or was made by hand.")
	}
	ours := is.Mark == mark(r)
	switch {
	case r.Version != "" && r.Version != strconv.Itoa(is.Major):
		return provision.Errorf(provision.KindRefused, "the server of database %q is PostgreSQL %d, not %s", r.Cluster, is.Major, r.Version)
	case slices.Contains(s.Logins, is.User):
		return provision.Errorf(provision.KindRefused, "pgkennel logs in as %q for users as well: an administrator's login is needed", is.User)
	case r.Role != "" && !is.Super && !is.CreateRole:
		return provision.Errorf(provision.KindRefused, "%q may not create roles", is.User).WithHint("ALTER ROLE %s CREATEROLE, or another administrator.", quote(is.User))
	case r.Database != "" && !is.Super && !is.CreateDB:
		return provision.Errorf(provision.KindRefused, "%q may not create databases", is.User).WithHint("ALTER ROLE %s CREATEDB, or another administrator.", quote(is.User))
	case is.Role && !ours:
		return taken("role", r.Role)
	case is.Schema && !ours:
		return taken("schema", r.Schema)
	case is.Database && !ours:
		return taken("database", r.Database)
	case is.Owner && !ours:
		return taken("role", ownerOf(r))
	}
	if r.Isolation != tenant.Row {
		return nil
	}
	if _, err := x.rows(ctx, db, r, c); err != nil {
		return err
	}
	if ours || r.Phase > tenant.Creating {
		return nil
	}
	return x.unused(ctx, db, r, c)
}

// unused refuses a key that has rows already. Whosever they are, a new tenant must not see them, nor they go with it when its creation is undone.
func (x *External) unused(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster) error {
	tables, _, err := x.tables(ctx, db, c)
	if err != nil {
		return err
	}
	left, err := remains(ctx, db, r, c, tables)
	if err == nil && len(left) > 0 {
		err = provision.Errorf(provision.KindTaken, "there are rows with key %q already", r.Key).WithDetail("%s", strings.Join(left, "\n")).
			WithHint("Tenants with rows that are there already are told to pgkennel in [[tenants]].")
	}
	return err
}

// printable reports whether PostgreSQL can have s as a text.
func printable(s string) bool {
	for _, c := range s {
		if c == 0 || c == '\uFFFD' {
			return false
		}
	}
	return true
}
