package provision

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// beginRename gives a tenant another name. What it has on servers and disks is not named by it.
func beginRename(_ context.Context, c *change) error {
	if err := checkName(c.o.Name); err != nil {
		return err
	}
	if c.o.Name == c.old.Name {
		c.nothing = true
		return nil
	}
	c.detail = c.old.Name + " is " + c.o.Name + " now"
	c.r.Name = c.o.Name
	if len(c.r.Logins) > 0 {
		if c.r.Login(c.o.Name) != nil {
			return Errorf(KindTaken, "tenant %s has a login %s already", c.old.Name, c.o.Name)
		}
		c.r.Logins[0].Name = c.o.Name
	}
	return c.refuseIn(tenant.Creating, tenant.Removing)
}

// beginReadOnly has a tenant only read, or write again.
func beginReadOnly(_ context.Context, c *change) error {
	on := c.o.On == nil || *c.o.On
	c.nothing = c.r.Access.ReadOnly == on
	c.r.Access.ReadOnly = on
	c.detail = map[bool]string{true: "on", false: "off"}[on]
	return c.refuseIn(tenant.Creating, tenant.Removing, tenant.Removed)
}

// beginPassword gives a login another password. Nothing changes at the server: there it has one that only the pooler knows.
func beginPassword(_ context.Context, c *change) error {
	if err := c.refuseIn(tenant.Removing, tenant.Removed); err != nil {
		return err
	}
	l, err := c.login(c.o.Login)
	if err != nil {
		return err
	}
	c.detail = "login " + l.Name
	l.Verifier, err = c.verifier(l.Name, c.o.Password)
	return err
}

// login finds one of the tenant's logins; without a name its own.
func (c *change) login(name string) (*tenant.Login, error) {
	if name == "" && len(c.r.Logins) > 0 {
		return &c.r.Logins[0], nil
	}
	if l := c.r.Login(name); l != nil {
		return l, nil
	}
	var have []string
	for _, l := range c.r.Logins {
		have = append(have, l.Name)
	}
	return nil, Errorf(KindNotFound, "tenant %s has no login %s", c.old.Name, name).WithHint("it has: %s", join(have))
}

// The actions of user and replica.
const (
	actionCreate   = "create"
	actionRemove   = "remove"
	actionSet      = "set"
	actionPassword = "password"
	actionList     = "list"
)

// beginUser makes, changes and removes further logins of a tenant.
func beginUser(ctx context.Context, c *change) error {
	if c.o.Action == actionList {
		c.nothing = true
		return nil
	}
	if err := c.refuseIn(tenant.Creating, tenant.Removing, tenant.Removed, tenant.Failed); err != nil {
		return err
	}
	if c.o.Login == "" {
		return Errorf(KindInvalid, "user %s needs a login", c.o.Action)
	}
	c.detail = c.o.Action + " " + c.o.Login
	if c.o.Action == actionPassword {
		c.direct = true
		l, err := c.login(c.o.Login)
		if err != nil {
			return err
		}
		l.Verifier, err = c.verifier(l.Name, c.o.Password)
		return err
	}
	if c.old.Isolation != tenant.Instance {
		return Errorf(KindRefused, "tenant %s shares its database with others: it has one login", c.old.Name).WithHint("users of the application log in as user@%s", c.old.Name)
	}
	switch c.o.Action {
	case actionCreate:
		return c.newLogin(ctx)
	case actionSet:
		return c.setLogin()
	case actionRemove:
		if len(c.r.Logins) > 0 && c.r.Logins[0].Name == c.o.Login {
			return Errorf(KindInvalid, "%s is the tenant's own login", c.o.Login).WithHint("disable-access keeps it out")
		}
		if c.r.Login(c.o.Login) == nil {
			c.nothing = true
			return nil
		}
		if err := c.refuseIn(tenant.Stopped, tenant.Asleep, tenant.OnHold); err != nil {
			return err
		}
		l := c.r.Login(c.o.Login)
		c.args = map[string]string{argDisabled: strconv.FormatBool(l.Disabled)}
		l.Disabled = true // from the beginning
		return nil
	}
	return Errorf(KindInvalid, "user has no action %q", c.o.Action).WithHint("create, remove, set, password or list")
}

// newLogin notes a login that is to be; it counts when its role is there.
func (c *change) newLogin(context.Context) error {
	name := c.o.Login
	if !loginName.MatchString(name) {
		return Errorf(KindInvalid, "%q can't be a login's name", name).WithHint("lower-case letters, digits, _, . and -; 63 at most")
	}
	if c.r.Login(name) != nil {
		return Errorf(KindTaken, "tenant %s has a login %s already", c.old.Name, name)
	}
	if err := c.refuseIn(tenant.Stopped, tenant.Asleep, tenant.OnHold); err != nil {
		return err
	}
	n := 1
	for _, l := range c.r.Logins { // a number is not used again while there is a higher one
		if i := strings.LastIndexByte(l.Role, '_'); i > 1 {
			if k, err := strconv.Atoi(l.Role[i+1:]); err == nil && k >= n {
				n = k + 1
			}
		}
	}
	l := tenant.Login{Name: name, Role: tenant.OwnRole(c.r.ID, n), ReadOnly: c.o.ReadOnly != nil && *c.o.ReadOnly, Disabled: true}
	if c.o.Limits != nil {
		l.Connections = c.o.Limits.Connections
	}
	var err error
	if l.Verifier, err = c.verifier(name, c.o.Password); err != nil {
		return err
	}
	l.Secret = c.m.o.Vault.Seal(c.r.ID, l.Field(), tenant.NewPassword())
	c.r.Logins = append(c.r.Logins, l) // disabled, until its role is there
	c.args = map[string]string{argLogin: name}
	return nil
}

func (c *change) setLogin() error {
	l, err := c.login(c.o.Login)
	if err != nil {
		return err
	}
	was := *l
	if c.o.Limits != nil {
		l.Connections = c.o.Limits.Connections
	}
	if c.o.On != nil {
		l.Disabled = !*c.o.On
	}
	if c.o.ReadOnly != nil && *c.o.ReadOnly != l.ReadOnly {
		return Errorf(KindInvalid, "whether a login only reads is decided when it is made").WithHint("remove it, and make another")
	}
	c.nothing = *l == was
	c.direct = true
	return nil
}

// argDisabled is whether a login that is being removed was disabled before.
const argDisabled = "disabled"

func userSteps(j *job) []step {
	if j.o.Action == actionRemove {
		return []step{{"roles", dropLogin, keepLogin}, {"register", unregisterLogin, nil}}
	}
	return []step{{"roles", addLogin, forgetLogin}, {"register", registerLogin, nil}}
}

// addLogin makes the role of a new login.
func addLogin(ctx context.Context, j *job) error { return j.makeLogin(ctx, j.r) }

// makeLogin makes the role of the order's login as r has it, or changes it to that.
func (j *job) makeLogin(ctx context.Context, r *tenant.Record) error {
	return j.instance(func(in *Instance, _ Driver) error {
		return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
			l := r.Login(j.o.Login)
			if l == nil {
				return Errorf(KindFailed, "the login %s is not on record any more", j.o.Login)
			}
			have, err := column(ctx, c, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = $1", l.Role)
			if err != nil {
				return err
			}
			todo, err := j.m.role(r, l, len(have) > 0)
			if err != nil {
				return err
			}
			return run(ctx, c, append(todo, "GRANT CONNECT, TEMPORARY ON DATABASE "+ident(r.Database)+" TO "+ident(l.Role))...)
		})
	})
}

// registerLogin lets the new login in.
func registerLogin(ctx context.Context, j *job) error {
	enable := func(r *tenant.Record) {
		if l := r.Login(j.o.Login); l != nil {
			l.Disabled = false
		}
	}
	r := j.r.Clone()
	enable(r)
	role := ""
	if l := r.Login(j.o.Login); l != nil {
		role = l.Role
	}
	if err := j.m.settleBut(ctx, r, role); err != nil {
		return err
	}
	j.change(enable)
	return nil
}

// dropLogin takes a login's role away. What it has made stays, as the owner's.
func dropLogin(ctx context.Context, j *job) error {
	l := j.r.Login(j.o.Login)
	if l == nil {
		return nil
	}
	return j.instance(func(in *Instance, _ Driver) error { return j.m.drop(ctx, in, j.r, l.Role) })
}

// keepLogin has a login that could not be removed be as it was. Where its role can't be had back, it stays on record, disabled, to be removed again.
func keepLogin(ctx context.Context, j *job) error {
	disabled := j.r.Operation.Args[argDisabled] == "true"
	back := func(r *tenant.Record) {
		if l := r.Login(j.o.Login); l != nil {
			l.Disabled = disabled
		}
	}
	r := j.r.Clone()
	if back(r); r.Login(j.o.Login) == nil {
		return nil
	}
	if err := j.makeLogin(ctx, r); err != nil {
		if left(ctx, err) {
			return err
		}
		j.m.o.Log.WarnContext(ctx, "login stays disabled", "tenant", j.r.ID, "login", j.o.Login, "error", err)
		return nil
	}
	j.change(back)
	return nil
}

// forgetLogin takes a login away that was not to be: a record that has it without its role can't be brought in line with the server.
func forgetLogin(ctx context.Context, j *job) error {
	if err := dropLogin(ctx, j); err != nil {
		return err
	}
	return unregisterLogin(ctx, j)
}

// drop takes a role away.
func (m *Manager) drop(ctx context.Context, in *Instance, r *tenant.Record, role string) error {
	there := false
	err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		have, err := column(ctx, c, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = $1", role)
		if there = len(have) > 0; err != nil || !there {
			return err
		}
		if err := run(ctx, c, "ALTER ROLE "+ident(role)+" NOLOGIN"); err != nil {
			return err
		}
		return expel(ctx, c, []string{role})
	})
	if err != nil || !there {
		return err
	}
	if err := m.expelReplicas(ctx, r, []string{role}); err != nil { // whose sessions can't be told by it later
		return err
	}
	err = as(ctx, in, r.Database, func(ctx context.Context, c *pgx.Conn) error {
		return run(ctx, c, "REASSIGN OWNED BY "+ident(role)+" TO "+ident(tenant.OwnerRole(r.ID)), "DROP OWNED BY "+ident(role))
	})
	if err != nil {
		return err
	}
	return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error { return run(ctx, c, "DROP ROLE "+ident(role)) })
}

func unregisterLogin(_ context.Context, j *job) error {
	j.change(func(r *tenant.Record) {
		r.Logins = slices.DeleteFunc(r.Logins, func(l tenant.Login) bool { return l.Name == j.o.Login })
	})
	return nil
}

// beginMaintain notes that a tenant's disk is nearly full, or is not any more.
func beginMaintain(_ context.Context, c *change) error {
	if c.o.On == nil {
		return Errorf(KindInvalid, "maintain needs on")
	}
	c.nothing = c.r.Access.Full == *c.o.On
	c.r.Access.Full = *c.o.On
	return nil
}
