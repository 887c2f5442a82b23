package external

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// Fence implements provision.Virtual. What the server can do depends on what it knows a tenant's sessions by:
//
//   - strict: the role may not log in, and its sessions have ended;
//   - sealed: the server refuses each statement that begins after, but for those of transactions that are REPEATABLE READ or SERIALIZABLE and had begun;
//   - shared, a schema: the pool's login is no member of the role any more, and the role may not use the schema, which holds for sessions that have it already;
//   - shared, rows: nothing, for the server believes whoever says to be the tenant. It is poolers that keep it out.
//
// What is fenced stands in pgkennel.fenced, so that `pgkennel secure` leaves it so.
func (x *External) Fence(ctx context.Context, r *tenant.Record, closed bool) error {
	c, s, err := x.shard(r)
	if err != nil {
		return err
	}
	switch {
	case r.Isolation == tenant.Row && r.Mode == tenant.Shared:
		x.log.InfoContext(ctx, "no fence at the server", "tenant", r.Name, "reason", "it believes shared logins")
		return nil
	case r.Isolation == tenant.Database:
		return x.fenceDatabase(ctx, r, s, closed)
	}
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	if closed {
		_, err := x.close(ctx, db, r, c, s)
		return err
	}
	return x.fence(ctx, db, r, c, s, false)
}

// fence is Fence in the database where the tenant is. It waits for nobody: what it changes is the tenant's alone.
func (x *External) fence(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, s Shard, closed bool) error {
	if r.Role == "" {
		return x.fenceKey(ctx, db, r, closed)
	}
	is, err := look(ctx, db, r, r.Role)
	if err != nil {
		return failed(ctx, err)
	}
	if !is.Ours {
		return provision.Errorf(provision.KindNotFound, "role %q is not there, or not this tenant's", r.Role).WithHint("What is pgkennel's has the comment %q; pgkennel tenant repair makes it.", mark(r))
	}
	if err := note(ctx, db, secure.RoleFence+r.Role, closed); err != nil {
		return err
	}
	steps, err := secure.NewPlanner().PlanTenants(ctx, db, secure.Options{
		Cluster: r.Cluster, Column: c.Column, Secret: x.o.Secret, Logins: s.Logins, Tenants: []*tenant.Tenant{Tenant(r)},
	})
	if err != nil {
		return failed(ctx, err)
	}
	for _, step := range steps {
		if err := step.Run(ctx, db); err != nil {
			return failed(ctx, err)
		}
	}
	if !closed || r.Mode != tenant.Strict {
		return nil
	}
	return x.end(ctx, db, r.Role)
}

func (x *External) fenceDatabase(ctx context.Context, r *tenant.Record, s Shard, closed bool) error {
	own, err := x.connect(ctx, s, r.Database)
	if e, ok := errors.AsType[*provision.Error](err); ok && closed && e.Kind == provision.KindNotFound {
		return nil // there is nothing to log in to
	}
	if err != nil {
		return err
	}
	defer own.Close(context.WithoutCancel(ctx))
	if closed {
		_, err := x.close(ctx, own, r, Cluster{}, s)
		return err
	}
	return x.fence(ctx, own, r, Cluster{}, s, false)
}

// note notes a fence in the database.
func note(ctx context.Context, db *pgx.Conn, what string, closed bool) error {
	sql := "DELETE FROM pgkennel.fenced WHERE what = $1"
	if closed {
		sql = "INSERT INTO pgkennel.fenced (what) VALUES ($1) ON CONFLICT DO NOTHING"
	}
	_, err := db.Exec(ctx, sql, what)
	return failed(ctx, err)
}

// fenceKey closes a tenant that shares its login: the function by which policies ask whose a session is refuses its key.
func (x *External) fenceKey(ctx context.Context, db *pgx.Conn, r *tenant.Record, closed bool) error {
	is, err := one[struct{ Asks bool }](ctx, db, `SELECT EXISTS (SELECT FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE n.nspname = 'pgkennel' AND f.proname = 'tenant_key' AND f.prosrc LIKE '%pgkennel.fenced%') AND to_regclass('pgkennel.fenced') IS NOT NULL`)
	if err != nil {
		return failed(ctx, err)
	}
	if !is.Asks {
		if !closed {
			return nil
		}
		return provision.Errorf(provision.KindRefused, "database %q does not know of fences", r.Cluster).WithHint("pgkennel secure apply --database %s.", r.Cluster)
	}
	return note(ctx, db, secure.KeyFence+r.Key, closed)
}

// settling is how long a login can take from the check whether it may to where it can be seen.
const settling = 250 * time.Millisecond

var errLives = errors.New("a session of the tenant's does not end")

// end ends a role's sessions. The role may not log in any more, but a login that was let in before that may not be seen yet.
func (x *External) end(ctx context.Context, db *pgx.Conn, role string) error {
	is, err := one[struct{ May bool }](ctx, db, "SELECT u.rolsuper OR pg_has_role('pg_signal_backend', 'USAGE') OR pg_has_role($1::name, 'USAGE') FROM pg_roles u WHERE u.rolname = current_user", role)
	if err != nil {
		return failed(ctx, err)
	}
	if !is.May {
		if _, err := db.Exec(ctx, "GRANT "+quote(role)+" TO CURRENT_USER"); err != nil {
			return failed(ctx, err)
		}
		defer func() {
			_, _ = db.Exec(context.WithoutCancel(ctx), "REVOKE "+quote(role)+" FROM CURRENT_USER") // what stays gives the administrator nothing that he could not give himself
		}()
	}
	begun := time.Now()
	for {
		seen := time.Since(begun)
		left, err := one[struct{ N int }](ctx, db, "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))::int FROM pg_stat_activity WHERE usename = $1", role)
		switch {
		case err != nil:
			return failed(ctx, err)
		case left.N == 0 && seen > x.o.settling:
			return nil
		case seen > 30*time.Second:
			return failed(ctx, errLives)
		}
		select {
		case <-time.After(40 * time.Millisecond):
		case <-ctx.Done():
			return failed(ctx, context.Cause(ctx))
		}
	}
}
