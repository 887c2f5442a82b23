package provision

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/tenant"
)

// roles makes the roles of a tenant's instance, and keeps everybody else out of its databases.
func roles(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, _ Driver) error {
		return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error { return j.m.makeRoles(ctx, c, j.r) })
	})
}

// shut are the databases that nobody but superusers has business in.
var shut = []string{"postgres", "template1"}

// makeRoles makes the roles that the record has, and changes those that are there: passwords, who they are, and who may log in not at all.
// A tenant's roles log in while the tenant is made: its schema is made by them.
func (m *Manager) makeRoles(ctx context.Context, c *pgx.Conn, r *tenant.Record) error {
	have, err := column(ctx, c, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname LIKE 't\\_%'")
	if err != nil {
		return err
	}
	owner := tenant.OwnerRole(r.ID)
	var todo []string
	if !slices.Contains(have, owner) {
		todo = append(todo, "CREATE ROLE "+ident(owner)+" NOLOGIN")
	}
	for i := range r.Logins {
		l := &r.Logins[i]
		more, err := m.role(r, l, slices.Contains(have, l.Role))
		if err != nil {
			return err
		}
		todo = append(todo, more...)
	}
	// A backup may bring back logins that were removed since.
	for _, role := range have {
		if role != owner && !slices.ContainsFunc(r.Logins, func(l tenant.Login) bool { return l.Role == role }) {
			todo = append(todo, "ALTER ROLE "+ident(role)+" NOLOGIN")
		}
	}
	for _, db := range shut {
		todo = append(todo, "REVOKE ALL ON DATABASE "+ident(db)+" FROM PUBLIC")
	}
	there, err := column(ctx, c, "SELECT datname::text FROM pg_catalog.pg_database WHERE datname = $1", r.Database)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		todo = append(todo, access(r)...)
	}
	return run(ctx, c, todo...)
}

// access are the statements that let a tenant's roles into its database.
func access(r *tenant.Record) []string {
	var todo []string
	for i := range r.Logins {
		todo = append(todo, "GRANT CONNECT, TEMPORARY ON DATABASE "+ident(r.Database)+" TO "+ident(r.Logins[i].Role))
	}
	return todo
}

// role are the statements that make one login's role, or change it.
func (m *Manager) role(r *tenant.Record, l *tenant.Login, there bool) ([]string, error) {
	secret, err := m.o.Vault.Open(r.ID, l.Field(), l.Secret)
	if err != nil {
		return nil, err
	}
	// The verifier, so that the password is in no log of the server.
	verifier, _ := auth.MakeVerifier(secret, nil, 0).Encode()
	role, owner := ident(l.Role), ident(tenant.OwnerRole(r.ID))
	var todo []string
	if !there {
		todo = append(todo, "CREATE ROLE "+role+" NOLOGIN")
	}
	todo = append(todo, "ALTER ROLE "+role+" "+may(r, l)+" PASSWORD "+literal(verifier))
	switch {
	case l.ReadOnly:
		todo = append(todo,
			"GRANT pg_read_all_data TO "+role,
			"ALTER ROLE "+role+" SET default_transaction_read_only = on")
	case l.Superuser:
		todo = append(todo, "GRANT "+owner+" TO "+role)
	default:
		todo = append(todo, "GRANT "+owner+" TO "+role, "ALTER ROLE "+role+" SET role = "+literal(tenant.OwnerRole(r.ID)))
	}
	return todo, nil
}

// may says whether a login's role may log in at the server, and how often.
func may(r *tenant.Record, l *tenant.Login) string {
	s := "NOLOGIN"
	if !l.Disabled && (r.Phase == tenant.Creating || !r.Access.Fenced) {
		s = "LOGIN"
	}
	if l.Superuser {
		s += " SUPERUSER"
	} else {
		s += " NOSUPERUSER"
	}
	if l.Connections > 0 {
		return s + " CONNECTION LIMIT " + strconv.Itoa(l.Connections)
	}
	return s + " CONNECTION LIMIT -1"
}

const (
	longestSettle = time.Minute
	// settleWait is short: who is to be kept out may be just who holds it up.
	settleWait = 500 * time.Millisecond
)

// settling is the advisory lock, in the database postgres, of who settles.
const settling = 0x736574746c65

// settle brings what a tenant's server says about access in line with its record: who may log in, and whether transactions only read. It does nothing
// to an instance that is down: it is done when that starts.
func (m *Manager) settle(ctx context.Context, r *tenant.Record) error { return m.settleBut(ctx, r, "") }

// settleBut takes one role as r has it, where another's change has to be heeded for all else: the directory is told of it afterwards.
func (m *Manager) settleBut(ctx context.Context, r *tenant.Record, role string) error {
	if r.Isolation != tenant.Instance {
		return m.virtual().Fence(ctx, r.Clone(), r.Access.Fenced || r.Phase == tenant.OnHold)
	}
	in, d, err := m.instance(r)
	if err != nil {
		return err
	}
	if up, err := serving(ctx, d, in, r); err != nil || !up {
		return err
	}
	var out []string
	err = within(ctx, longestSettle, settleWait, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		// An order and the runner may be at it together. One goes after the other, and who comes last has what the record says by then: else a fence that
		// was reported as up could be torn down by somebody slow.
		if _, err := c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock($1)", settling); err != nil {
			return err
		}
		switch now, err := m.dir.Get(ctx, r.ID); {
		case err == nil && now.Revision > r.Revision:
			r = r.Clone()
			r.Access = now.Access
			for i := range r.Logins {
				if l := loginOf(now, r.Logins[i].Role); l != nil && l.Role != role {
					r.Logins[i].Disabled = l.Disabled
				}
			}
		case err != nil && !errors.Is(err, tenant.ErrNotFound):
			return err
		}
		out = nil
		todo := make([]string, 0, len(r.Logins)+1)
		for i := range r.Logins {
			l := &r.Logins[i]
			todo = append(todo, "ALTER ROLE "+ident(l.Role)+" "+may(r, l))
			if l.Disabled || r.Access.Fenced {
				out = append(out, l.Role)
			}
		}
		db := "ALTER DATABASE " + ident(r.Database)
		todo = append(append(todo, db+" CONNECTION LIMIT -1"), access(r)...) // its owner can lock itself out
		if r.Access.ReadOnly || r.Access.Full {
			todo = append(todo, db+" SET default_transaction_read_only = on")
			if r.Access.Full {
				todo = append(todo, "CHECKPOINT") // which lets go of WAL
			}
		} else {
			todo = append(todo, db+" RESET default_transaction_read_only")
		}
		if err := run(ctx, c, todo...); err != nil {
			return err
		}
		if len(out) == 0 {
			return nil
		}
		return expel(ctx, c, out)
	})
	if err != nil || len(out) == 0 {
		return err
	}
	return m.expelReplicas(ctx, r, out)
}

// expelReplicas does the same at the tenant's replicas, to which it comes later who may log in.
func (m *Manager) expelReplicas(ctx context.Context, r *tenant.Record, roles []string) error {
	for i := range r.Replicas {
		x := &r.Replicas[i]
		if x.Endpoint.Port == 0 {
			continue // nobody reads there
		}
		in, d, err := m.replica(r, x)
		if err != nil {
			return err
		}
		if s, err := d.State(ctx, in); err != nil || !s.Running {
			if err != nil {
				return err
			}
			continue // it is done when that starts
		}
		err = within(ctx, longestSettle, settleWait, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
			for begun := time.Now(); ; pause(ctx, 10*time.Millisecond) {
				var may, left int // who is in keeps it, perhaps, from hearing
				err := c.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = ANY($1) AND rolcanlogin),
					(SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity WHERE usename = ANY($1))`, roles).Scan(&may, &left)
				switch {
				case err != nil:
					return err
				case may == 0:
					return expel(ctx, c, roles)
				case time.Since(begun) > longestEnd:
					return errors.New("replica " + x.ID + " does not hear from its primary who may not log in any more")
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// How long a login may take from the check whether its role may to where its session can be seen, and a session to its end.
const (
	longestLogin = 3 * time.Second
	longestEnd   = 30 * time.Second
)

// expel ends the sessions of roles that may not log in any more. A login that was let in just before that is no session yet that can be seen, but it has begun a
// transaction: those who come are waited for.
func expel(ctx context.Context, c *pgx.Conn, roles []string) error {
	for begun := time.Now(); ; pause(ctx, 10*time.Millisecond) {
		took := time.Since(begun)
		var come, left int
		err := c.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_locks l WHERE l.locktype = 'virtualxid' AND NOT EXISTS (
				SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid AND (a.usesysid IS NOT NULL OR a.backend_type <> 'client backend'))`).Scan(&come)
		if err == nil {
			err = c.QueryRow(ctx, "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity WHERE usename = ANY($1)", roles).Scan(&left)
		}
		switch {
		case err != nil:
			return err
		case left == 0 && (come == 0 || took > longestLogin):
			return nil
		case took > longestEnd:
			return errors.New("a session of the tenant's does not end")
		}
	}
}

// serving reports whether an instance can be told something. One that is to be up, and is just being started again, is waited for: what it has now is what it
// comes up with.
func serving(ctx context.Context, d Driver, in *Instance, r *tenant.Record) (bool, error) {
	for until := time.Now().Add(patience); ; {
		s, err := d.State(ctx, in)
		if err != nil || s.Ready {
			return s.Ready, err
		}
		if r.Phase != tenant.Ready || r.Operation != nil {
			return false, nil // it is done when that starts
		}
		if time.Now().After(until) {
			return false, errors.New("its instance is not up")
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
}

func loginOf(r *tenant.Record, role string) *tenant.Login {
	for i := range r.Logins {
		if r.Logins[i].Role == role {
			return &r.Logins[i]
		}
	}
	return nil
}

// settle is the same as a verb's last act.
func settle(ctx context.Context, m *Manager, r *tenant.Record) error { return m.settle(ctx, r) }
