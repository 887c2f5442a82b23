package provision

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/tenant"
)

// beginCreate makes the record of a new tenant.
func beginCreate(ctx context.Context, c *change) error {
	if c.old != nil {
		return c.exists()
	}
	if err := c.draft(ctx, c.o.Tenant); err != nil {
		return err
	}
	if err := c.m.checkTemplate(ctx, c.o.Template); err != nil {
		return err
	}
	if c.o.DryRun {
		return c.dryRun(ctx, createSteps(&job{m: c.m, r: c.r, o: c.o}))
	}
	return nil
}

// exists is create of a tenant that is there: as it is asked for, or another.
func (c *change) exists() error {
	r, o := c.old, c.o
	var differ []string
	is := func(what string, same bool) {
		if !same {
			differ = append(differ, what)
		}
	}
	is("isolation", o.Isolation == "" || o.Isolation == r.Isolation.String())
	is("key", o.Key == "" || o.Key == r.Key)
	is("database", o.Cluster == "" || o.Cluster == r.Cluster)
	is("driver", o.Driver == "" || o.Driver == r.Driver)
	is("host", o.Host == "" || o.Host == r.Host)
	is("version", o.Version == "" || o.Version == r.Version)
	is("template", o.Template == "" || o.Template == r.Origin.Template)
	is("limits", o.Limits == nil || *o.Limits == r.Limits)
	is("settings", len(o.Settings) == 0 || maps.Equal(o.Settings, r.Settings))
	is("extensions", len(o.Extensions) == 0 || slices.Equal(o.Extensions, r.Extensions))
	is("superuser", !o.Superuser || superuser(r))
	is("access", !o.Enable || r.Access.Enabled)
	if o.Password != "" && len(r.Logins) > 0 {
		v, err := auth.ParseVerifier(r.Logins[0].Verifier)
		is("password", err == nil && v.Matches(r.Name, o.Password))
	}
	switch {
	case r.Phase == tenant.Removed || r.Phase == tenant.Removing:
		return nameTaken(r)
	case len(differ) > 0:
		return nameTaken(r).WithDetail("it differs in: %s", join(differ))
	}
	c.nothing = true
	c.notes = []string{"the tenant is there already, with the password that it had"}
	return nil
}

// nameTaken says who has a name, and how to get at it.
func nameTaken(r *tenant.Record) *Error {
	e := Errorf(KindTaken, "there is a tenant %s already", r.Name)
	if r.Phase != tenant.Removed && r.Phase != tenant.Removing {
		return e
	}
	until := "for now"
	if !r.Forget.IsZero() {
		until = "until " + r.Forget.UTC().Format("2006-01-02 15:04 MST")
	}
	return e.WithDetail("it was removed, and is kept %s, with its name", until).
		WithHint("pgkennel tenant restore %s brings it back, pgkennel tenant remove --now %s takes it away for good", r.Name, r.Name)
}

// draft makes the record of a new tenant as the order has it.
func (c *change) draft(ctx context.Context, name string) error {
	o, m := c.o, c.m
	isolation := tenant.Instance
	if o.Isolation != "" {
		ok := false
		if isolation, ok = tenant.ParseIsolation(o.Isolation); !ok {
			return Errorf(KindInvalid, "%q is no isolation", o.Isolation).WithHint("instance, database, schema or row")
		}
	}
	r := &tenant.Record{
		ID: tenant.NewID(), Name: name, Key: o.Key, Isolation: isolation, Phase: tenant.Creating, Shard: -1, Version: o.Version,
		Extensions: slices.Clone(o.Extensions), Access: tenant.Access{Enabled: o.Enable, Networks: slices.Clone(o.Networks)},
	}
	if o.Limits != nil {
		r.Limits = *o.Limits
	}
	if o.SuspendAfter != nil {
		r.SuspendAfter = *o.SuspendAfter
	}
	if o.Archive != nil {
		r.Backups.Archive = *o.Archive
	}
	if o.Every != nil {
		r.Backups.Every = *o.Every
	}
	if o.Keep != nil {
		r.Backups.Keep = *o.Keep
	}
	for k, v := range o.Settings {
		if v != "" {
			if r.Settings == nil {
				r.Settings = make(map[string]string)
			}
			r.Settings[k] = v
		}
	}
	r.Origin.Template = o.Template
	c.r = r
	if (r.Backups.Archive || r.Backups.Every > 0) && m.o.Archive == nil {
		return errNoArchive()
	}
	var err error
	if isolation == tenant.Instance {
		err = c.draftInstance(ctx)
	} else {
		err = c.draftVirtual(ctx)
	}
	if err != nil {
		return err
	}
	login := tenant.Login{Name: name, Role: tenant.OwnRole(r.ID, 0), Superuser: o.Superuser}
	if isolation != tenant.Instance {
		login.Role = r.Role
	}
	login.Verifier, err = c.verifier(name, o.Password)
	if err != nil {
		return err
	}
	login.Secret = m.o.Vault.Seal(r.ID, login.Field(), tenant.NewPassword())
	r.Logins = []tenant.Login{login}
	return nil
}

func (c *change) draftInstance(ctx context.Context) error {
	o, m, r := c.o, c.m, c.r
	if o.Shard != nil || o.Mode != "" {
		return Errorf(KindInvalid, "an instance is a tenant's own: shard and mode are for tenants that share one")
	}
	if o.Cluster != "" || o.Key != "" {
		r.Cluster = o.Cluster
		if err := c.attach(ctx); err != nil {
			return err
		}
	}
	r.Driver, r.Host = o.Driver, o.Host
	if r.Driver == "" {
		r.Driver = m.o.Default
	}
	if r.Host == "" {
		r.Host = m.o.Host
	}
	if r.Host == m.o.Host {
		if _, err := m.driver(r.Driver); err != nil {
			return err
		}
	} else if _, err := m.local(ctx, r.Host); err != nil {
		return err
	}
	r.Database = tenant.OwnDatabase(r.ID)
	r.Admin = m.o.Vault.Seal(r.ID, tenant.AdminField, tenant.NewPassword())
	return nil
}

// attach has clients of a database of the configuration come to the instance.
func (c *change) attach(ctx context.Context) error {
	if !c.m.shares() {
		return Errorf(KindRefused, "no database is configured whose clients could come to the tenant").WithHint("[[databases]] and [multi_tenant]; or leave the database and the key out")
	}
	return c.m.virtual().Attach(ctx, c.r)
}

func (c *change) draftVirtual(ctx context.Context) error {
	o, m, r := c.o, c.m, c.r
	if !m.shares() {
		return Errorf(KindRefused, "no database is configured that tenants could share").WithHint("[[databases]] and [multi_tenant]; or --isolation instance")
	}
	for what, has := range map[string]bool{
		"driver": o.Driver != "", "host": o.Host != "", "version": o.Version != "", "settings": len(o.Settings) > 0, "superuser": o.Superuser,
		"cpu, memory, disk and io limits": r.Limits.CPU != 0 || r.Limits.Memory != 0 || r.Limits.Disk != 0 || r.Limits.IO != 0, "suspend_after": r.SuspendAfter > 0,
		"archive": r.Backups.Archive,
	} {
		if has {
			return Errorf(KindInvalid, "%s: only a tenant with an instance of its own can have that", what).WithHint("--isolation instance")
		}
	}
	if o.Template != "" || o.Init != "" {
		switch {
		case r.Isolation == tenant.Row:
			return Errorf(KindInvalid, "template, init: the tables of tenants that share them are there already").WithHint("--isolation schema, database or instance")
		case strings.HasPrefix(o.Template, fromTenant): // who wrote that may be the tenant, and the session could become the administrator's
			return Errorf(KindInvalid, "only a tenant with an instance of its own can have another's schema").WithHint("--isolation instance, a file in the template directory, or clone")
		}
	}
	if o.Mode != "" {
		mode, ok := tenant.ParseMode(o.Mode)
		if !ok {
			return Errorf(KindInvalid, "%q is no mode", o.Mode).WithHint("strict, sealed or shared")
		}
		r.Mode = mode
	}
	r.Cluster = o.Cluster
	if o.Shard != nil {
		r.Shard = *o.Shard
	}
	return m.virtual().Place(ctx, r)
}

// verifier makes what the directory keeps of a login's password, and the password where none was given.
func (c *change) verifier(login, password string) (string, error) {
	if password == "" {
		password = tenant.NewPassword()
		c.password = password
		c.secrets = append(c.secrets, Secret{Login: login, Password: password})
	}
	if _, err := auth.ParseVerifier(password); err == nil {
		return "", Errorf(KindInvalid, "the password looks like a password's hash")
	}
	s, _ := auth.MakeVerifier(password, nil, 0).Encode()
	return s, nil
}

// dryRun finds out whether it would go, and lists the steps.
func (c *change) dryRun(ctx context.Context, steps []step) error {
	for _, s := range steps {
		c.plan = append(c.plan, s.name)
	}
	if c.r.Isolation != tenant.Instance || c.r.Host != c.m.o.Host {
		return nil
	}
	in, d, err := c.m.instance(c.r)
	if err != nil {
		return err
	}
	others, err := c.m.others(ctx, in.ID)
	if err != nil {
		return err
	}
	if err := d.Plan(ctx, in, others); err != nil {
		return err
	}
	c.r.Version, c.r.Facts, c.r.Endpoint = in.Version, in.Facts, in.Endpoint
	c.secrets = nil
	return nil
}

// createSteps are those of a new tenant.
func createSteps(j *job) []step {
	if j.r.Isolation != tenant.Instance {
		return []step{{"make", fillVirtual, unmakeVirtual}, {"register", registerNew, nil}}
	}
	return append(instanceSteps(), step{"roles", roles, nil}, step{"template", fill, nil}, step{"register", registerNew, nil})
}

// instanceSteps are those that make an instance, up to where it answers.
func instanceSteps() []step {
	return []step{
		{"plan", plan, nil},
		{"volume", volume, destroy},
		{"init", initialize, nil},
		{"configure", configure, nil},
		{"start", start, nil},
		{"answers", answers, nil},
	}
}

// maxPlans is how often a plan is made again because another host's pgkennel had the same port at the same time.
const maxPlans = 20

// plan chooses what the instance needs, and notes it before there is anything of it.
func plan(ctx context.Context, j *job) error {
	return j.m.planning(ctx, func(ctx context.Context) error {
		for range maxPlans {
			in, d, err := j.m.instance(j.r)
			if err != nil {
				return err
			}
			others, err := j.m.others(ctx, in.ID)
			if err != nil {
				return err
			}
			if err := d.Plan(ctx, in, others); err != nil {
				return err
			}
			j.change(func(r *tenant.Record) {
				r.Version, r.Facts, r.Endpoint = in.Version, maps.Clone(in.Facts), in.Endpoint
			})
			err = j.write(ctx, "planned", "")
			if _, ok := errors.AsType[*tenant.TakenError](err); ok {
				j.pending = nil
				j.r.Facts, j.r.Endpoint = nil, tenant.Endpoint{}
				continue
			}
			return err
		}
		return Errorf(KindRefused, "no port was free in %d attempts", maxPlans)
	})
}

// planning lets one instance of this host be planned at a time: each has to know of all others.
func (m *Manager) planning(ctx context.Context, do func(ctx context.Context) error) error {
	unlock, _, err := m.dir.Lock(ctx, "host/"+m.o.Host)
	if err != nil {
		return err
	}
	defer unlock()
	return do(ctx)
}

func volume(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error { return d.Volume(ctx, in) })
}

func initialize(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error {
		select { // initdb is heavy
		case j.m.creates <- struct{}{}:
			defer func() { <-j.m.creates }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return d.Init(ctx, in)
	})
}

func configure(ctx context.Context, j *job) error {
	if err := volume(ctx, j); err != nil { // the machine may have been started anew
		return err
	}
	change, err := j.m.reach(ctx, j.r)
	if err != nil {
		return err
	}
	if change != nil {
		j.change(change)
	}
	return j.instance(func(in *Instance, d Driver) error { return configured(d.Configure(ctx, in)) })
}

func start(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error {
		if err := d.Start(ctx, in); err != nil {
			return err
		}
		for i := range j.r.Replicas {
			x, xd, err := j.m.replica(j.r, &j.r.Replicas[i])
			if err != nil || j.r.Replicas[i].Host != j.m.o.Host || j.r.Replicas[i].Endpoint.Port == 0 {
				continue
			}
			if err := raiseReplica(ctx, x, xd); err != nil { // it is no reason to be without the primary; the runner tries again
				j.m.o.Log.WarnContext(ctx, "replica does not start", "tenant", j.r.ID, "replica", x.ID, "error", err)
			}
		}
		return nil
	})
}

// destroy takes the instance away.
func destroy(ctx context.Context, j *job) error {
	if len(j.r.Facts) == 0 {
		return nil // there was never anything of it
	}
	return j.instance(func(in *Instance, d Driver) error { return d.Destroy(ctx, in) })
}

func makeVirtual(ctx context.Context, j *job) error { return j.m.virtual().Make(ctx, j.r.Clone()) }

// fillVirtual makes what a new tenant has, with what is in it at the beginning. When it is repeated, it begins anew.
func fillVirtual(ctx context.Context, j *job) error {
	text, hash, err := j.m.template(ctx, j.r.Origin.Template)
	if err != nil {
		return err
	}
	if text == "" && j.o.Init == "" {
		return makeVirtual(ctx, j)
	}
	if err := unmakeVirtual(ctx, j); err != nil {
		return err
	}
	if err := makeVirtual(ctx, j); err != nil {
		return err
	}
	s, err := j.m.virtual().Source(ctx, j.r.Clone())
	if err != nil {
		return err
	}
	c, err := dialSource(ctx, s.Connect)
	if err != nil {
		return err
	}
	defer end(ctx, c)
	if err := runText(ctx, c, "template "+j.r.Origin.Template, text); err != nil {
		return err
	}
	if err := runText(ctx, c, "init SQL", j.o.Init); err != nil {
		return err
	}
	j.change(func(r *tenant.Record) { r.Origin.Hash = hash })
	return nil
}

func unmakeVirtual(ctx context.Context, j *job) error { return j.m.virtual().Unmake(ctx, j.r.Clone()) }

// registerNew has a new tenant ready. Whether clients may come in is on its record from the beginning.
func registerNew(ctx context.Context, j *job) error {
	r := j.r.Clone()
	r.Phase = tenant.Ready
	if err := j.m.settle(ctx, r); err != nil {
		return err
	}
	j.change(func(r *tenant.Record) { r.Phase = tenant.Ready })
	return nil
}

// instance calls do with the tenant's instance.
func (j *job) instance(do func(in *Instance, d Driver) error) error {
	in, d, err := j.m.instance(j.r)
	if err != nil {
		return err
	}
	return do(in, d)
}
