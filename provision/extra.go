package provision

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// argExtra is an instance that an operation makes beside the tenant's: a replica, or one to try a backup in. It is among the record's replicas from the
// beginning, so that it has its port and is never left behind; without an endpoint there, until it is a replica that serves.
const argExtra = "extra"

// extra is that instance.
type extra struct {
	ID       string            `json:"id"`
	Version  string            `json:"version"`
	Facts    map[string]string `json:"facts,omitempty"`
	Endpoint tenant.Endpoint   `json:"endpoint"`
}

// newExtra notes one that is to be.
func (c *change) newExtra(driver string) {
	x := extra{ID: tenant.NewID(), Version: c.r.Version}
	c.r.Replicas = append(c.r.Replicas, tenant.Replica{ID: x.ID, Driver: driver, Host: c.r.Host})
	c.args[argExtra] = x.String()
}

// String returns the extra as an operation has it.
func (x extra) String() string {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err) // strings only
	}
	return string(text)
}

// extra returns the operation's extra instance.
func (j *job) extra() (x extra, in *Instance, d Driver, err error) {
	if err := json.Unmarshal([]byte(j.r.Operation.Args[argExtra]), &x); err != nil {
		return x, nil, nil, err
	}
	i := replicaAt(j.r, x.ID)
	if i < 0 {
		return x, nil, nil, nil // it is gone
	}
	in, d, err = j.m.replica(j.r, &j.r.Replicas[i])
	if err != nil {
		return x, nil, nil, err
	}
	in.Version, in.Endpoint = x.Version, x.Endpoint
	if j.o.Verb == VerbVerify {
		in.Primary, in.Limits = nil, tenant.Limits{Connections: j.r.Limits.Connections}
	}
	return x, in, d, nil
}

func replicaAt(r *tenant.Record, id string) int {
	return slices.IndexFunc(r.Replicas, func(x tenant.Replica) bool { return x.ID == id })
}

// onExtra makes a step of what is done to it.
func onExtra(do func(ctx context.Context, j *job, in *Instance, d Driver) error) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		_, in, d, err := j.extra()
		if err != nil || in == nil {
			return err
		}
		return do(ctx, j, in, d)
	}
}

func planExtra(ctx context.Context, j *job) error {
	return j.m.planning(ctx, func(ctx context.Context) error {
		for range maxPlans {
			x, in, d, err := j.extra()
			if err != nil {
				return err
			}
			others, err := j.m.others(ctx, x.ID)
			if err != nil {
				return err
			}
			if err := d.Plan(ctx, in, others); err != nil {
				return err
			}
			x.Version, x.Facts, x.Endpoint = in.Version, in.Facts, in.Endpoint
			authority := j.r.Authority
			if j.o.Verb == VerbReplica { // no other is for clients
				x.Endpoint.Remote = j.m.o.Listen
				if authority.Cert == "" {
					if authority, err = j.m.authority(j.r); err != nil {
						return err
					}
				}
			}
			j.change(func(r *tenant.Record) {
				r.Authority = authority
				r.Operation.Args[argExtra] = x.String()
				if i := replicaAt(r, x.ID); i >= 0 {
					r.Replicas[i].Facts = maps.Clone(x.Facts)
				}
			})
			err = j.write(ctx, "planned", "")
			if _, ok := errors.AsType[*tenant.TakenError](err); ok {
				j.pending = nil
				if i := replicaAt(j.r, x.ID); i >= 0 {
					j.r.Replicas[i].Facts = nil
				}
				continue
			}
			return err
		}
		return Errorf(KindRefused, "no port was free in %d attempts", maxPlans)
	})
}

// destroyExtra takes it away, and off the record.
func destroyExtra(ctx context.Context, j *job) error {
	x, in, d, err := j.extra()
	if err != nil || in == nil {
		return err
	}
	if len(in.Facts) > 0 {
		if err := d.Destroy(ctx, in); err != nil {
			return err
		}
	}
	j.change(func(r *tenant.Record) {
		r.Replicas = slices.DeleteFunc(r.Replicas, func(y tenant.Replica) bool { return y.ID == x.ID })
	})
	return nil
}

// extraSteps make it, up to where it answers.
func extraSteps() []step {
	return []step{
		{"plan", planExtra, destroyExtra},
		{"volume", onExtra(func(ctx context.Context, _ *job, in *Instance, d Driver) error { return d.Volume(ctx, in) }), nil},
		{"init", onExtra(func(ctx context.Context, _ *job, in *Instance, d Driver) error { return d.Init(ctx, in) }), nil},
		{"configure", onExtra(func(ctx context.Context, _ *job, in *Instance, d Driver) error {
			return configured(d.Configure(ctx, in))
		}), nil},
		{"start", onExtra(func(ctx context.Context, _ *job, in *Instance, d Driver) error { return d.Start(ctx, in) }), nil},
		{"answers", onExtra(func(ctx context.Context, _ *job, in *Instance, _ Driver) error { return answer(ctx, in) }), nil},
	}
}

// beginReplica makes, removes or lists read replicas.
func beginReplica(_ context.Context, c *change) error {
	switch c.o.Action {
	case actionList:
		c.nothing = true
		return nil
	case actionCreate:
		if err := c.refuseIn(tenant.Creating, tenant.Stopped, tenant.Asleep, tenant.OnHold, tenant.Removing, tenant.Removed, tenant.Failed); err != nil {
			return err
		}
		host := c.o.Host
		if host != "" && host != c.old.Host {
			return Errorf(KindRefused, "a replica can't be on host %s", host).
				WithDetail("the instance of tenant %s listens on its own host, %s, only", c.old.Name, c.old.Host)
		}
		if !c.o.Force {
			return Errorf(KindRefused, "the replica would be beside its primary, on host %s: what takes the one takes the other", c.old.Host).
				WithHint("--force, if it is for reading only")
		}
		driver := c.o.Driver
		if driver == "" {
			driver = c.old.Driver
		}
		if c.old.Host == c.m.o.Host {
			if _, err := c.m.driver(driver); err != nil {
				return err
			}
		}
		c.args = map[string]string{}
		c.newExtra(driver)
		return nil
	case actionRemove:
		i := replicaAt(c.r, c.o.Replica)
		if i < 0 {
			return Errorf(KindNotFound, "tenant %s has no replica %q", c.old.Name, c.o.Replica).WithHint("pgkennel tenant replica list %s", c.old.Name)
		}
		x := &c.r.Replicas[i]
		c.args = map[string]string{argExtra: extra{ID: x.ID, Version: c.r.Version, Facts: x.Facts, Endpoint: x.Endpoint}.String()}
		x.Endpoint = tenant.Endpoint{} // nobody reads from it from now on
		return c.refuseIn(tenant.Creating, tenant.Removing)
	}
	return Errorf(KindInvalid, "replica has no action %q", c.o.Action).WithHint("create, remove or list")
}

func replicaSteps(j *job) []step {
	if j.o.Action == actionRemove {
		return []step{{"destroy", destroyExtra, nil}, {"register", registered, nil}}
	}
	return append(extraSteps(), step{"register", registerReplica, nil})
}

// registerReplica lets poolers read from it.
func registerReplica(_ context.Context, j *job) error {
	x, _, _, err := j.extra()
	if err != nil {
		return err
	}
	j.change(func(r *tenant.Record) {
		if i := replicaAt(r, x.ID); i >= 0 {
			r.Replicas[i].Endpoint = x.Endpoint
		}
	})
	return nil
}

// beginVerify orders a backup to be restored on trial.
func beginVerify(ctx context.Context, c *change) error {
	b, err := c.m.pick(ctx, c.old, c.o)
	if err != nil {
		return err
	}
	c.args = map[string]string{argBackup: b.ID, argKind: b.Kind}
	c.detail = "backup " + b.ID
	if c.old.Isolation == tenant.Instance {
		c.newExtra(c.old.Driver)
	} else {
		c.notes = append(c.notes, "the backup is read and compared with its checksums; those of tenants that share a server are not restored on trial")
	}
	return c.refuseIn(tenant.Creating, tenant.Removing)
}

func verifySteps(j *job) []step {
	check := step{"check", checkBackup, nil}
	last := step{"register", verified, nil}
	if j.r.Operation.Args[argExtra] == "" {
		return []step{check, last}
	}
	steps := extraSteps()
	if j.r.Operation.Args[argKind] == Physical {
		steps = slices.Insert(steps, 3, step{"unpack", tryUnpack, nil})
	}
	return slices.Concat([]step{check}, steps, []step{{"load", try, nil}, {"destroy", destroyExtra, nil}, last})
}

func checkBackup(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	return j.m.o.Archive.Check(ctx, b, time.Time{})
}

func tryUnpack(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	return onExtra(func(ctx context.Context, j *job, in *Instance, d Driver) error {
		return j.m.o.Archive.Unpack(ctx, b, source(j.r, in, d), j.o.ToTime, j.progress)
	})(ctx, j)
}

// try loads the backup into the extra instance; of a physical one, it reads all that there is.
func try(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	return onExtra(func(ctx context.Context, j *job, in *Instance, d Driver) error {
		to := source(j.r, in, d)
		if b.Kind == Physical {
			return j.m.tool(ctx, to, nil, io.Discard, "pg_dump")
		}
		err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error { return j.m.makeRoles(ctx, c, j.r) })
		if err != nil {
			return err
		}
		if err := j.m.database(ctx, in, j.r); err != nil {
			return err
		}
		return j.m.o.Archive.Load(ctx, b, to, j.progress)
	})(ctx, j)
}

// verified notes that the backup can be restored.
func verified(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	if j.r.Operation.Args[argExtra] != "" {
		if err := j.m.o.Archive.Verified(ctx, b, j.m.o.Now().UTC()); err != nil {
			return err
		}
		b.Verified = j.m.o.Now().UTC()
	}
	j.f.res.Backups = append(j.f.res.Backups, *b)
	return nil
}
