// Package external makes tenants in databases that they share with others, on servers that are there already: their schemas, roles, rows and databases.
//
// What makes a database safe for tenants is tenant/secure's: here it is applied to one tenant at a time. A database that was never made safe is prepared with
// the first tenant, but for tables that tenants share; these are changed by `pgkennel secure apply` only. What was made can be told from what was there: the
// comment on a role has the tenant's ID, and nothing is changed or dropped that does not belong to such a role.
//
// Each method logs in as an administrator for as long as it takes. Changes in one database come one after the other, in this process by a lock that is waited
// for without a connection, among processes by the advisory lock that tenant/secure takes. The package starts no goroutines.
package external

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// Options are what External has to know of the configuration.
type Options struct {
	// Clusters are the databases of the configuration, by name.
	Clusters map[string]Cluster
	// Secret makes the passwords of tenants' roles, and the key of their seals.
	Secret   *tenant.Secret
	Defaults Defaults
	// LockTimeout is how long a statement waits for a lock; 0 = 5 s.
	LockTimeout time.Duration
	// Batch is how many rows, or tables, go in one transaction when a tenant is taken away; 0 = 5000 rows, 100 tables.
	Batch int
	Log   *slog.Logger // nil = none

	// trace is told of what tests count; settling is less of there.
	trace    pgx.QueryTracer
	settling time.Duration
}

// Defaults are what new tenants have that were ordered without it.
type Defaults struct {
	Isolation tenant.Isolation
	Mode      tenant.Mode
	// Schema, Role and Database are templates of names; empty = t_ and the tenant's ID, which says nothing of who it is.
	Schema, Role, Database tenant.Template
	// Setting is the parameter that has the tenant's key; empty = app.current_tenant.
	Setting string
}

// Cluster is a database of the configuration.
type Cluster struct {
	Shards []Shard
	// Column is the tenant column; Type that of keys: bigint, uuid or varchar.
	Column string
	Type   string
	// Rows is what holds tenants that share tables; 0 = whatever the database says.
	Rows tenant.Mode
	// ShardOf is where statements look for a tenant's key; nil = the only shard.
	ShardOf func(key string) (int, error)
	// Taken says what tenants of the configuration have of a new one's names and key; nil = nothing.
	Taken func(*tenant.Tenant) error
	// Common are tables that all tenants may read.
	Common []secure.Table
	// Schemas are tenants' own by the configuration.
	Schemas []string
}

// Shard is the primary of one part of a cluster.
type Shard struct {
	At secure.Place
	// Admin is the administrator's connection, a URL or key=value pairs, in which host, port and database do not count. The environment (PGUSER, PGPASSWORD)
	// fills in what it leaves out.
	Admin string
	// Logins are the roles with which pgkennel logs in there for users.
	Logins []string
}

// External is a provision.Virtual.
type External struct {
	o   Options
	log *slog.Logger
	// creating has room for as many as make databases at a time, which costs connections and a copy of template1 each.
	creating chan struct{}

	mu struct {
		sync.Mutex
		busy     map[secure.Place]chan struct{} // has room for who is at work there
		prepared map[preparation]bool
	}
}

var _ provision.Virtual = (*External)(nil)

// preparation is what a database was prepared for.
type preparation struct {
	at    secure.Place
	kind  tenant.Isolation
	mode  tenant.Mode
	login string // the cluster whose logins it was prepared for
}

// New returns an External, or what is wrong with the options.
func New(o Options) (*External, error) {
	for name, c := range o.Clusters {
		if len(c.Shards) == 0 {
			return nil, fmt.Errorf("database %q has no shards", name)
		}
		if c.ShardOf == nil && len(c.Shards) > 1 {
			return nil, fmt.Errorf("database %q has %d shards, and nothing says where keys are", name, len(c.Shards))
		}
	}
	for _, t := range []tenant.Template{o.Defaults.Schema, o.Defaults.Role, o.Defaults.Database} {
		if err := t.Check(); err != nil {
			return nil, err
		}
	}
	x := &External{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), creating: make(chan struct{}, 4)}
	x.o.Defaults.Setting = cmp.Or(o.Defaults.Setting, "app.current_tenant")
	x.o.LockTimeout, x.o.settling = cmp.Or(o.LockTimeout, 5*time.Second), cmp.Or(o.settling, settling)
	x.mu.busy, x.mu.prepared = make(map[secure.Place]chan struct{}), make(map[preparation]bool)
	return x, nil
}

// Tenant is a record as tenant/secure, and so `pgkennel doctor`, know tenants. Whether it is kept out is for the server to say (Fence).
func Tenant(r *tenant.Record) *tenant.Tenant {
	return &tenant.Tenant{
		Name: r.Name, Key: r.Key, Isolation: r.Isolation, Mode: r.Mode, State: tenant.Active, Cluster: r.Cluster, Shard: r.Shard,
		Schema: r.Schema, Role: r.Role, Database: r.Database, ID: r.ID,
	}
}

// cluster finds a tenant's.
func (x *External) cluster(r *tenant.Record) (Cluster, error) {
	c, ok := x.o.Clusters[r.Cluster]
	if !ok {
		return c, provision.Errorf(provision.KindInvalid, "database %q is not configured", r.Cluster).WithHint("Configured are: %v.", slices.Sorted(maps.Keys(x.o.Clusters)))
	}
	return c, nil
}

// shard finds where a tenant is, by its record or by its key.
func (x *External) shard(r *tenant.Record) (Cluster, Shard, error) {
	c, err := x.cluster(r)
	if err != nil {
		return c, Shard{}, err
	}
	n := r.Shard
	if n < 0 {
		if n, err = c.keyShard(r.Key); err != nil {
			return c, Shard{}, err
		}
	}
	if n >= len(c.Shards) {
		return c, Shard{}, provision.Errorf(provision.KindInvalid, "database %q has no shard %d", r.Cluster, n)
	}
	return c, c.Shards[n], nil
}

func (c *Cluster) keyShard(key string) (int, error) {
	if c.ShardOf == nil {
		return 0, nil
	}
	n, err := c.ShardOf(key)
	if err != nil {
		return 0, provision.Errorf(provision.KindRefused, "nothing says on which shard key %q is", key).WithDetail("%v", err)
	}
	if n < 0 || n >= len(c.Shards) {
		return 0, provision.Errorf(provision.KindInvalid, "key %q is on shard %d, of %d", key, n, len(c.Shards))
	}
	return n, nil
}

// connect logs in as the administrator, with names that mean what is in pg_catalog.
func (x *External) connect(ctx context.Context, s Shard, database string) (*pgx.Conn, error) {
	return x.dial(ctx, s, database, "search_path", "pg_catalog, pg_temp")
}

// dial logs in as the administrator. Policies are no silent filters: who is not above them hears of it.
func (x *External) dial(ctx context.Context, s Shard, database string, settings ...string) (*pgx.Conn, error) {
	s.At.Database = cmp.Or(database, s.At.Database)
	c, err := secure.Config(s.Admin, s.At)
	if err != nil {
		return nil, provision.Errorf(provision.KindInvalid, "the administrator's connection can't be read").WithHint("It is a URL, or key=value pairs.")
	}
	c.Tracer = x.o.trace
	c.RuntimeParams["application_name"] = "pgkennel provision"
	for i := 0; i < len(settings)-1; i += 2 {
		c.RuntimeParams[settings[i]] = settings[i+1]
	}
	c.RuntimeParams["row_security"] = "off"
	c.RuntimeParams["statement_timeout"] = "0"
	c.RuntimeParams["default_transaction_read_only"] = "off"
	c.RuntimeParams["lock_timeout"] = fmt.Sprint(x.o.LockTimeout.Milliseconds())
	db, err := pgx.ConnectConfig(ctx, c)
	if secure.Missing(err) {
		return nil, provision.Errorf(provision.KindNotFound, "database %q is not there", s.At.Database)
	}
	if err != nil {
		return nil, failed(ctx, fmt.Errorf("connect to %s:%d, database %s, as %s: %w", s.At.Host, s.At.Port, s.At.Database, c.User, err))
	}
	return db, nil
}

// change calls f connected to a shard while nobody else changes anything there.
func (x *External) change(ctx context.Context, s Shard, f func(*pgx.Conn) error) error {
	x.mu.Lock()
	busy := x.mu.busy[s.At]
	if busy == nil {
		busy = make(chan struct{}, 1)
		x.mu.busy[s.At] = busy
	}
	x.mu.Unlock()
	select {
	case busy <- struct{}{}:
	case <-ctx.Done():
		return failed(ctx, context.Cause(ctx))
	}
	defer func() { <-busy }()
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	if err := x.lock(ctx, db); err != nil {
		return err
	}
	return f(db)
}

// lock waits for the lock that tenant/secure takes as well. It asks again and again, for who waits in PostgreSQL holds a snapshot, on which CREATE INDEX
// CONCURRENTLY of who has the lock would wait in turn.
func (x *External) lock(ctx context.Context, db *pgx.Conn) error {
	for until := time.Now().Add(30 * time.Second); ; {
		free, err := secure.Lock(ctx, db)
		if err != nil {
			return failed(ctx, err)
		}
		if free {
			return nil
		}
		if time.Now().After(until) {
			return provision.Errorf(provision.KindBusy, "somebody else is changing database %q", db.Config().Database).WithHint("pgkennel secure apply, or another pgkennel.")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return failed(ctx, context.Cause(ctx))
		}
	}
}

// failed makes what went wrong at a server an error for operators. It shows no SQL: that may have passwords in it.
func failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*provision.Error](err); ok {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, secure.ErrBusy) {
		return provision.Errorf(provision.KindBusy, "%v", err).WithHint("pgkennel secure apply, or another pgkennel.")
	}
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return provision.Errorf(provision.KindFailed, "%v", err)
	}
	e := provision.Errorf(provision.KindFailed, "%s (SQLSTATE %s)", pe.Message, pe.Code)
	e.Detail, e.Hint = pe.Detail, pe.Hint
	switch pe.Code {
	case "55P03":
		e.Kind, e.Hint = provision.KindBusy, "Somebody holds a lock. Try again."
	case "55006": // object in use
		e.Kind, e.Hint = provision.KindBusy, "Who is connected to template1 keeps others from copying it."
	case "2BP01": // dependent objects still exist
		e.Kind, e.Hint = provision.KindRefused, "What is named is not the tenant's alone: take it away by hand."
	case "42501":
		e.Kind, e.Hint = provision.KindRefused, cmp.Or(e.Hint, "The administrator has to be a superuser, or own the database, have CREATEROLE, and BYPASSRLS for tenants that share tables.")
	}
	return e
}

// one runs a query that has one row.
func one[T any](ctx context.Context, db *pgx.Conn, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
}

// list runs a query; each row becomes a T.
func list[T any](ctx context.Context, db *pgx.Conn, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// texts runs a query of one column.
func texts(ctx context.Context, db *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func quote(parts ...string) string { return pgx.Identifier(parts).Sanitize() }
