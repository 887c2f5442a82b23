package external

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// mark is the comment on a tenant's roles, by which they are known for its own.
func mark(r *tenant.Record) string { return "pgkennel tenant " + r.ID }

// ownerOf names the owner of a tenant's own database; empty if it has none.
func ownerOf(r *tenant.Record) string {
	if r.Database == "" {
		return ""
	}
	return secure.Owner(r.Database)
}

// Make implements provision.Virtual.
func (x *External) Make(ctx context.Context, r *tenant.Record) error {
	c, s, err := x.shard(r)
	if err != nil {
		return err
	}
	if r.Isolation == tenant.Database {
		return x.makeDatabase(ctx, r, s)
	}
	return x.change(ctx, s, func(db *pgx.Conn) error {
		if r.Role != "" {
			if err := x.takeRole(ctx, db, r, r.Role); err != nil {
				return err
			}
		}
		return x.settle(ctx, db, r, c, s)
	})
}

// takeRole makes a role with the tenant's mark, which may do nothing yet; or finds that it is there.
func (x *External) takeRole(ctx context.Context, db *pgx.Conn, r *tenant.Record, role string) error {
	return failed(ctx, pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		is, err := look(ctx, db, r, role)
		if err != nil || is.Ours {
			return err
		}
		if is.There {
			return provision.Errorf(provision.KindTaken, "role %q is there already, and not this tenant's", role).WithHint("What is pgkennel's has the comment %q.", mark(r))
		}
		if role == r.Role && is.Schema {
			return provision.Errorf(provision.KindTaken, "schema %q is there already, and not this tenant's", r.Schema)
		}
		if is.Database {
			return provision.Errorf(provision.KindTaken, "database %q is there already, and not this tenant's", r.Database)
		}
		inherit := "NOINHERIT"
		if role != r.Role { // who owns a database is a member of pg_database_owner
			inherit = "INHERIT"
		}
		for _, sql := range []string{
			"CREATE ROLE " + quote(role) + " NOLOGIN " + inherit,
			"COMMENT ON ROLE " + quote(role) + " IS '" + mark(r) + "'",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	}))
}

// found is what there is of a tenant.
type found struct{ There, Ours, Schema, Database, Super bool }

// look looks for a role, and what goes with it.
func look(ctx context.Context, db *pgx.Conn, r *tenant.Record, role string) (found, error) {
	return one[found](ctx, db, `SELECT r.oid IS NOT NULL, coalesce(shobj_description(r.oid, 'pg_authid') = $2, false), EXISTS (SELECT FROM pg_namespace WHERE nspname = $3),
EXISTS (SELECT FROM pg_database WHERE datname = $4), u.rolsuper FROM pg_roles u LEFT JOIN pg_roles r ON r.rolname = $1 WHERE u.rolname = current_user`,
		role, mark(r), r.Schema, r.Database)
}

// settle brings a shard to the state in which the tenant is safe there: all of it if it was never prepared, else what is the tenant's.
func (x *External) settle(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, s Shard) error {
	at := preparation{s.At, r.Isolation, r.Mode, r.Cluster}
	x.mu.Lock()
	prepared := x.mu.prepared[at]
	x.mu.Unlock()
	o := secure.Options{
		Cluster: r.Cluster, Column: c.Column, Setting: x.o.Defaults.Setting, Type: c.Type, Secret: x.o.Secret, Logins: s.Logins, Common: c.Common, Own: c.Schemas,
	}
	if r.Role != "" {
		o.Tenants = []*tenant.Tenant{Tenant(r)}
	}
	if prepared && r.Role == "" {
		return nil
	}
	if prepared {
		steps, err := secure.NewPlanner().PlanTenants(ctx, db, o)
		if err == nil {
			return x.apply(ctx, db, r, steps)
		}
		if !errors.Is(err, secure.ErrUnprepared) {
			return failed(ctx, err)
		}
	}
	rows, err := x.rows(ctx, db, r, c)
	if err != nil {
		return failed(ctx, err)
	}
	o.Rows = rows
	steps, err := secure.NewPlanner().Plan(ctx, db, o)
	if err != nil {
		return failed(ctx, err)
	}
	var mine []secure.Step
	var open []string
	for _, step := range steps {
		switch {
		case !step.Shared:
			mine = append(mine, step)
		case step.Severity == secure.Error:
			open = append(open, step.Object+": "+step.Reason)
		}
	}
	if r.Isolation == tenant.Row && len(open) > 0 {
		return provision.Errorf(provision.KindRefused, "tables of database %q are not safe for tenants yet", r.Cluster).
			WithDetail("%s", strings.Join(open[:min(len(open), 10)], "\n")).WithHint("pgkennel secure apply --database %s.", r.Cluster)
	}
	if len(open) > 0 { // the guard would refuse changes of these
		mine = withoutGuard(mine)
	}
	if err := x.apply(ctx, db, r, mine); err != nil {
		return err
	}
	x.mu.Lock()
	x.mu.prepared[at] = true
	x.mu.Unlock()
	return nil
}

func withoutGuard(steps []secure.Step) []secure.Step {
	var rest []secure.Step
	for _, s := range steps {
		if s.Kind != "guard" {
			rest = append(rest, s)
		}
	}
	return rest
}

func (x *External) apply(ctx context.Context, db *pgx.Conn, r *tenant.Record, steps []secure.Step) error {
	return failed(ctx, secure.Apply(ctx, db, steps, x.o.LockTimeout, func(_ int, s secure.Step) {
		x.log.InfoContext(ctx, "securing database", "tenant", r.Name, "kind", s.Kind, "object", s.Object)
	}))
}

// rows is what holds tenants that share tables in a database: what the configuration says, else what there is, else what the first of them wants.
func (x *External) rows(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster) (tenant.Mode, error) {
	mode := c.Rows
	if mode == 0 {
		language, err := texts(ctx, db, `SELECT l.lanname::text FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace JOIN pg_language l ON l.oid = f.prolang
WHERE n.nspname = 'pgkennel' AND f.proname = 'tenant_key'`)
		switch {
		case err != nil:
			return 0, err
		case len(language) == 0:
		case language[0] == "sql":
			mode = tenant.Strict
		default:
			mode = tenant.Sealed
		}
	}
	if r.Isolation != tenant.Row {
		return mode, nil
	}
	if mode != 0 && mode != r.Mode {
		return 0, provision.Errorf(provision.KindRefused, "tenants of database %q share tables in mode %s; policies need one for all", r.Cluster, mode).WithHint("--mode %s, or --isolation schema.", mode)
	}
	return r.Mode, nil
}

// makeDatabase makes a database of the tenant's own. It needs no lock but the tenant's: nothing else is changed.
func (x *External) makeDatabase(ctx context.Context, r *tenant.Record, s Shard) error {
	select {
	case x.creating <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-x.creating }()
	if err := x.createDatabase(ctx, r, s); err != nil {
		return err
	}
	own, err := x.connect(ctx, s, r.Database)
	if err != nil {
		return err
	}
	defer own.Close(context.WithoutCancel(ctx))
	if err := x.settleDatabase(ctx, own, r, s); err != nil {
		return err
	}
	if len(r.Extensions) == 0 {
		return nil
	}
	return x.extend(ctx, own, r)
}

func (x *External) createDatabase(ctx context.Context, r *tenant.Record, s Shard) error {
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	for _, role := range []string{r.Role, ownerOf(r)} { // so a database whose owner is not ours is not ours
		if err := x.takeRole(ctx, db, r, role); err != nil {
			return err
		}
	}
	is, err := look(ctx, db, r, ownerOf(r))
	if err != nil {
		return failed(ctx, err)
	}
	if is.Database {
		return failed(ctx, x.owned(ctx, db, r))
	}
	if !is.Super {
		if _, err := db.Exec(ctx, "GRANT "+quote(ownerOf(r))+" TO CURRENT_USER"); err != nil {
			return failed(ctx, err)
		}
	}
	_, err = db.Exec(ctx, "CREATE DATABASE "+quote(r.Database)+" OWNER "+quote(ownerOf(r)))
	return failed(ctx, err)
}

// owned checks that a tenant's database is its own.
func (x *External) owned(ctx context.Context, db *pgx.Conn, r *tenant.Record) error {
	owner, err := one[struct{ Name string }](ctx, db, "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1", r.Database)
	if err == nil && owner.Name != ownerOf(r) {
		err = provision.Errorf(provision.KindTaken, "database %q is there already, and not this tenant's", r.Database).WithDetail("It belongs to %q.", owner.Name)
	}
	return err
}

// extend makes extensions, in the tenant's own database.
func (x *External) extend(ctx context.Context, own *pgx.Conn, r *tenant.Record) error {
	return failed(ctx, pgx.BeginFunc(ctx, own, func(tx pgx.Tx) error {
		for _, e := range r.Extensions { // the tenant has nothing there yet
			if _, err := tx.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS "+quote(e)+" WITH SCHEMA public CASCADE"); err != nil {
				return err
			}
		}
		return nil
	}))
}

// settleDatabase makes a tenant's own database safe.
func (x *External) settleDatabase(ctx context.Context, own *pgx.Conn, r *tenant.Record, s Shard) error {
	steps, err := secure.NewPlanner().Plan(ctx, own, secure.Options{
		Cluster: r.Cluster, Setting: x.o.Defaults.Setting, Secret: x.o.Secret, Logins: s.Logins, Tenants: []*tenant.Tenant{Tenant(r)},
	})
	if err != nil {
		return failed(ctx, err)
	}
	return x.apply(ctx, own, r, steps)
}
