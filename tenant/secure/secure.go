// Package secure makes a database safe for tenants, and proves that it is.
//
// What it knows of the tenants is in Options, one for each database; all else it reads from the catalogs. Plan says which SQL is missing, step by
// step, Apply runs it, and Doctor reports what is missing or doubtful. Nothing is done twice: after Apply, Plan is empty.
//
// It connects as an administrator, never as a client or a tenant, and resolves names in pg_catalog only, so that nothing that a tenant has made is
// run. The package starts no goroutines.
package secure

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// Table is a table, in a schema if one is given, else in any.
type Table struct{ Schema, Name string }

// Options are what the configuration says about one database.
type Options struct {
	// Cluster is whose database it is; passwords of roles are made of its name.
	Cluster string
	// Column is the tenant column, Setting the parameter with the tenant's key.
	Column, Setting string
	// Type is that of keys: bigint, uuid or varchar; empty = whatever the column is of.
	Type string
	// Rows is what holds tenants that share tables; 0 = there are none.
	Rows tenant.Mode
	// Tenants are those that live in the database.
	Tenants []*tenant.Tenant
	// Own are schemas of tenants' own besides those of Tenants, and of tenants that the database knows.
	Own []string
	// Databases are the tenants' own databases on the same server, which have to be there.
	Databases []string
	// Secret makes the passwords of tenants' roles, and the key of their seals; nil = they have none.
	Secret *tenant.Secret
	// Logins are the roles with which pgkennel logs in for users, as opposed to those of tenants.
	Logins []string
	// Common are tables that all tenants may read.
	Common []Table
}

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	// Error: a tenant can reach, or could be shown, what is not its own; or it can't work.
	Error Severity = "error"
	// Warning: it holds, but not by itself.
	Warning Severity = "warning"
	// Info is for the operator to judge.
	Info Severity = "info"
)

// Step is something that is missing, with the SQL that brings it about.
type Step struct {
	Kind     string   // such as role, table, index
	Object   string   // what it is about
	Reason   string   // what is missing
	Severity Severity // of its absence
	SQL      []string // statements; in one transaction
	Alone    bool     // PostgreSQL runs it in no transaction; then it is one statement
	Shared   bool     // it changes a table that tenants share
}

// Planner looks at databases. It remembers the roles that it has planned, for several databases may be on one server.
type Planner struct {
	planned map[string]bool
}

// NewPlanner returns a Planner.
func NewPlanner() *Planner { return &Planner{planned: make(map[string]bool)} }

// plan is the plan of one database while it is made.
type plan struct {
	Options
	planner *Planner
	db      *pgx.Conn
	server  string
	info    info
	owner   string // role that owns what is tenants', and can't log in
	roles   map[string]*role
	known   []string        // roles that the database takes for tenants'
	fenced  map[string]bool // what stands in pgkennel.fenced of theirs
	few     bool            // all but Tenants is there already, and is not looked at
	tables  []*table
	steps   []Step

	oldSeals []Finding
}

// info is what is true of a connection.
type info struct {
	Database, DatabaseOwner, User string
	Version                       int
	Super, ReadsPasswords         bool
	hasHome, hasSeals, hasFence   bool
}

// Plan returns what is missing in the database that db is connected to.
func (pl *Planner) Plan(ctx context.Context, db *pgx.Conn, o Options) ([]Step, error) {
	p, err := pl.make(ctx, db, o)
	if err != nil {
		return nil, err
	}
	return p.steps, nil
}

// ErrUnprepared is what PlanTenants returns in a database that Plan has not been applied to.
var ErrUnprepared = errors.New("the database is not prepared for tenants")

// PlanTenants returns what is missing of o.Tenants, in a database where all else that Plan plans is there. What it costs does not depend on how many
// other tenants there are.
func (pl *Planner) PlanTenants(ctx context.Context, db *pgx.Conn, o Options) ([]Step, error) {
	p, err := pl.begin(ctx, db, o)
	if err != nil {
		return nil, err
	}
	p.few = true
	home, err := one[struct{ Tenants, Fence bool }](ctx, db, "SELECT to_regclass('pgkennel.tenants') IS NOT NULL, to_regclass('pgkennel.fenced') IS NOT NULL")
	if err != nil {
		return nil, err
	}
	if !home.Tenants || !home.Fence {
		return nil, ErrUnprepared
	}
	p.info.hasHome, p.info.hasFence = true, true
	for _, part := range []func(context.Context) error{p.readRoles, p.planTenants, p.planConnect, p.planSchemas} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	return p.steps, nil
}

func (pl *Planner) make(ctx context.Context, db *pgx.Conn, o Options) (*plan, error) {
	p, err := pl.begin(ctx, db, o)
	if err != nil {
		return nil, err
	}
	for _, part := range []func(context.Context) error{
		p.readRoles, p.planRoles, p.planHome, p.planSeals, p.planTenants, p.planDatabase, p.planSchemas, p.planRows, p.planGuard,
	} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// begin looks at who is connected, and where.
func (pl *Planner) begin(ctx context.Context, db *pgx.Conn, o Options) (*plan, error) {
	c := db.Config()
	p := &plan{Options: o, planner: pl, db: db, server: fmt.Sprintf("%s:%d", c.Host, c.Port)}
	if o.Rows == tenant.Sealed && o.Secret == nil {
		return nil, errors.New("sealed tenants need a secret, of which the key of their seals is made")
	}
	if _, err := db.Exec(ctx, "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"); err != nil {
		return nil, err
	}
	var err error
	if p.info, err = one[info](ctx, db, `SELECT current_database()::text, pg_get_userbyid(d.datdba)::text, current_user::text, current_setting('server_version_num')::int,
r.rolsuper, has_table_privilege('pg_catalog.pg_authid', 'SELECT') FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user`); err != nil {
		return nil, err
	}
	p.owner = ownerOf(p.info.Database)
	if slices.Contains(o.Logins, p.info.User) || slices.ContainsFunc(o.Tenants, func(t *tenant.Tenant) bool { return t.Role == p.info.User }) {
		return nil, fmt.Errorf("connected as %q, which is a login of pgkennel: an administrator's is needed", p.info.User)
	}
	return p, nil
}

// add adds a step, unless there is nothing to do.
func (p *plan) add(s Step) {
	if len(s.SQL) == 0 {
		return
	}
	if s.Severity == "" {
		s.Severity = Error
	}
	p.steps = append(p.steps, s)
}

// NoRoles are the logins of o for which the server that db is connected to has no role: nothing can be granted to them yet.
func NoRoles(ctx context.Context, db *pgx.Conn, o Options) ([]string, error) {
	found, err := list[struct{ Name string }](ctx, db, "SELECT l FROM unnest($1::text[]) l WHERE l NOT IN (SELECT rolname FROM pg_catalog.pg_roles) ORDER BY 1", o.Logins)
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Name
	}
	return names, err
}

// ours reports whether a role is one with which pgkennel logs in, for whomever.
func (p *plan) ours(name string) bool {
	r := p.roles[name]
	return slices.Contains(p.Logins, name) || r != nil && r.tenant != nil
}

// Owner names the role that owns what is tenants' in a database. Migrations run as it.
func Owner(database string) string { return ownerOf(database) }

// ownerOf names the role that owns what is tenants' in a database. Those of long names end in a checksum.
func ownerOf(database string) string {
	const prefix = "pgkennel_owner_"
	if len(prefix+database) <= tenant.MaxName {
		return prefix + database
	}
	h := fnv.New32a()
	h.Write([]byte(database))
	return fmt.Sprintf("%s%s_%08x", prefix, strings.ToValidUTF8(database[:tenant.MaxName-len(prefix)-9], ""), h.Sum32())
}

// ErrBusy is what Apply returns where another one is at work in the same database.
var ErrBusy = errors.New("another one is at work in this database")

// Lock takes the lock under which Apply runs, which whoever has it may; false: another one has it. It ends with the connection.
func Lock(ctx context.Context, db *pgx.Conn) (bool, error) {
	free, err := one[struct{ OK bool }](ctx, db, "SELECT pg_catalog.pg_try_advisory_lock($1)", int64(lockKey))
	return free.OK, err
}

const lockKey = 0x70676b656e6e656c // "pgkennel"

// Apply runs steps. Each is announced before it runs; the first that fails ends it. A step waits for each lock no longer than lockTimeout.
func Apply(ctx context.Context, db *pgx.Conn, steps []Step, lockTimeout time.Duration, announce func(int, Step)) error {
	free, err := Lock(ctx, db)
	if err != nil {
		return err
	}
	if !free {
		return ErrBusy
	}
	defer func() {
		_, _ = db.Exec(context.WithoutCancel(ctx), "SELECT pg_catalog.pg_advisory_unlock($1)", int64(lockKey)) // the connection's end does it, too
	}()
	if _, err := db.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
		return err
	}
	for i, s := range steps {
		announce(i, s)
		if err := s.Run(ctx, db); err != nil {
			return fmt.Errorf("step %d, %s %s: %w", i+1, s.Kind, s.Object, err)
		}
	}
	return nil
}

// Run runs one step, without the lock.
func (s Step) Run(ctx context.Context, db *pgx.Conn) error {
	if s.Alone {
		for _, sql := range s.SQL {
			if _, err := db.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, sql := range s.SQL {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}
