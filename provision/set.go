package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// argBefore is what set changed, as it was.
const argBefore = "before"

// before is of the record what set may change.
type before struct {
	Limits     tenant.Limits     `json:"limits"`
	Settings   map[string]string `json:"settings"`
	Extensions []string          `json:"extensions"`
	Backups    tenant.Backups    `json:"backups"`
	Place      *[2]string        `json:"place,omitempty"` // database and key; nil = as they are
}

// beginSet changes limits, settings and what else can be changed of a tenant. What is refused by its instance is undone.
func beginSet(ctx context.Context, c *change) error {
	o, r := c.o, c.r
	if err := c.refuseIn(tenant.Creating, tenant.Removing, tenant.Removed); err != nil {
		return err
	}
	was, err := json.Marshal(before{r.Limits, r.Settings, r.Extensions, r.Backups, &[2]string{r.Cluster, r.Key}})
	if err != nil {
		return err
	}
	virtual := r.Isolation != tenant.Instance
	if virtual && (len(o.Settings) > 0 || len(o.Extensions) > 0 || o.SuspendAfter != nil || o.Archive != nil ||
		o.Limits != nil && (o.Limits.CPU != 0 || o.Limits.Memory != 0 || o.Limits.Disk != 0 || o.Limits.IO != 0)) {
		return Errorf(KindRefused, "tenant %s shares its server with others: of it, set changes the key, connections and backups only", r.Name)
	}
	server := false // something changes in the instance
	if l := o.limited(r.Limits); l != r.Limits {
		r.Limits, server = l, true
	}
	for k, v := range o.Settings {
		if r.Settings[k] == v {
			continue
		}
		if r.Settings == nil {
			r.Settings = make(map[string]string)
		}
		if server = true; v == "" {
			delete(r.Settings, k)
		} else {
			r.Settings[k] = v
		}
	}
	for _, e := range o.Extensions {
		if !slices.Contains(r.Extensions, e) {
			r.Extensions, server = append(r.Extensions, e), true
		}
	}
	if o.Archive != nil && *o.Archive != r.Backups.Archive {
		r.Backups.Archive, server = *o.Archive, true
	}
	if o.Every != nil {
		r.Backups.Every = *o.Every
	}
	if o.Keep != nil {
		r.Backups.Keep = *o.Keep
	}
	if o.SuspendAfter != nil {
		r.SuspendAfter = *o.SuspendAfter
	}
	switch {
	case virtual && o.Cluster != "" && o.Cluster != r.Cluster:
		return Errorf(KindRefused, "tenant %s is in database %q, and does not move", r.Name, r.Cluster)
	case virtual && o.Key != "" && o.Key != r.Key:
		return Errorf(KindRefused, "the key of a tenant that shares tables can't be changed: its rows have it")
	case !virtual && (o.Cluster != "" || o.Key != ""):
		r.Cluster, r.Key = cmp.Or(o.Cluster, r.Cluster), cmp.Or(o.Key, r.Key)
		if err := c.attach(ctx); err != nil {
			return err
		}
	}
	if (r.Backups.Archive || r.Backups.Every > 0) && c.m.o.Archive == nil {
		return errNoArchive()
	}
	c.detail = changes(o)
	switch {
	case !server && !c.o.Now:
		c.direct = true
		c.nothing = sameRecord(c.old, r)
	case r.Phase == tenant.Ready && r.Host == c.m.o.Host:
		if err := c.m.checkSettings(ctx, r, o.Settings); err != nil {
			return err
		}
	case r.Phase == tenant.Ready:
	case r.Phase == tenant.Failed && c.old.Operation != nil:
		// Another attempt: with it, the instance is started again.
	case len(o.Extensions) > 0:
		return c.refuseIn(r.Phase)
	default:
		c.direct = true
		c.notes = append(c.notes, "the instance is down: what is set counts from its start on")
	}
	c.args = map[string]string{argBefore: string(was)}
	if virtual {
		c.direct = true
	}
	return nil
}

// limited is what the order makes of limits.
func (o *Order) limited(l tenant.Limits) tenant.Limits {
	switch {
	case o.Limits == nil:
		return l
	case len(o.LimitsOnly) == 0:
		return *o.Limits
	}
	for _, name := range o.LimitsOnly {
		switch name {
		case "cpu":
			l.CPU = o.Limits.CPU
		case "memory":
			l.Memory = o.Limits.Memory
		case "disk":
			l.Disk = o.Limits.Disk
		case "io":
			l.IO = o.Limits.IO
		case "connections":
			l.Connections = o.Limits.Connections
		}
	}
	return l
}

// sameRecord reports whether nothing that set changes differs.
func sameRecord(a, b *tenant.Record) bool {
	return a.Key == b.Key && a.Cluster == b.Cluster && a.SuspendAfter == b.SuspendAfter && a.Backups == b.Backups
}

// changes says what is set, without values: there may be secrets among those of settings.
func changes(o Order) string {
	var list []string
	if o.Limits != nil {
		text, _ := json.Marshal(o.Limits)
		list = append(list, "limits "+string(text))
	}
	list = append(list, slices.Sorted(maps.Keys(o.Settings))...)
	for _, e := range o.Extensions {
		list = append(list, "extension "+e)
	}
	return join(list)
}

// checkSettings asks the instance what it makes of settings, as far as it can be told before.
func (m *Manager) checkSettings(ctx context.Context, r *tenant.Record, settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	in, _, err := m.instance(r)
	if err != nil {
		return err
	}
	return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		for k, v := range settings {
			if strings.Contains(k, ".") {
				continue // an extension's
			}
			var kind, context string
			err := c.QueryRow(ctx, "SELECT vartype, context FROM pg_catalog.pg_settings WHERE name = $1", k).Scan(&kind, &context)
			if err != nil {
				return Errorf(KindInvalid, "PostgreSQL %s has no setting %s", r.Version, k)
			}
			if context == "internal" {
				return Errorf(KindInvalid, "the setting %s can't be set", k)
			}
			if v == "" || context == "postmaster" || context == "sighup" || context == "backend" || context == "superuser-backend" {
				continue
			}
			// A session may try these: nothing of it stays.
			if _, err := c.Exec(ctx, "SELECT pg_catalog.set_config($1, $2, false)", k, v); err != nil {
				return Errorf(KindInvalid, "%s can't be %q", k, v).WithDetail("%v", err)
			}
		}
		return nil
	})
}

func setSteps(*job) []step {
	return []step{
		{"configure", reconfigure, takeBack},
		{"reload", reload, nil},
		{"register", ready, nil},
	}
}

// reconfigure writes the configuration and gives it to the running instance.
func reconfigure(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error {
		if err := d.Volume(ctx, in); err != nil { // it may be larger
			return err
		}
		_, err := d.Configure(ctx, in)
		return err
	})
}

// reload makes what is configured count: by a reload, or a restart if that was asked for and is needed. A value that PostgreSQL does not take fails.
func reload(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, d Driver) error {
		need, err := d.Configure(ctx, in)
		if err != nil {
			return err
		}
		s, err := d.State(ctx, in)
		if err != nil {
			return err
		}
		switch {
		case s.Ready && (need != NeedRestart || !j.o.Now):
			if err := d.Reload(ctx, in); err != nil {
				return err
			}
			if need == NeedRestart {
				j.note("a restart is needed for it to count: pgkennel tenant restart " + j.r.Name)
			}
		case s.Running:
			if err := closeSessions(ctx, j); err != nil {
				return err
			}
			if err := d.Stop(ctx, in); err != nil {
				return err
			}
			fallthrough
		default:
			if err := d.Start(ctx, in); err != nil {
				return err
			}
			j.note("the instance was restarted")
		}
		if err := answer(ctx, in); err != nil {
			return err
		}
		if err := refusedSettings(ctx, in, j.r.Settings); err != nil {
			return err
		}
		if len(j.o.Extensions) == 0 {
			return nil
		}
		return as(ctx, in, j.r.Database, func(ctx context.Context, c *pgx.Conn) error { return extend(ctx, c, j.o.Extensions) })
	})
}

// refusedSettings fails if the server did not take a value of its file.
func refusedSettings(ctx context.Context, in *Instance, settings map[string]string) error {
	return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		// The error of what needs a restart is no error: the value is right as far as is known.
		bad, err := column(ctx, c, `SELECT DISTINCT f.name FROM pg_catalog.pg_file_settings AS f LEFT JOIN pg_catalog.pg_settings AS s ON s.name = f.name
			WHERE f.error IS NOT NULL AND f.name IS NOT NULL AND coalesce(s.context, '') <> 'postmaster' AND f.name = ANY($1)`, slices.Collect(maps.Keys(settings)))
		if err != nil || len(bad) == 0 {
			return err
		}
		return Errorf(KindInvalid, "PostgreSQL does not take the value of %s", join(bad)).WithHint("the log says why: pgkennel tenant logs")
	})
}

// note adds a note to the order's result.
func (j *job) note(s string) { j.f.res.Notes = append(j.f.res.Notes, s) }

// takeBack has everything as it was before set.
func takeBack(ctx context.Context, j *job) error {
	var was before
	if err := json.Unmarshal([]byte(j.r.Operation.Args[argBefore]), &was); err != nil {
		return err
	}
	j.change(func(r *tenant.Record) {
		r.Limits, r.Settings, r.Extensions, r.Backups = was.Limits, was.Settings, was.Extensions, was.Backups
		if was.Place != nil {
			r.Cluster, r.Key = was.Place[0], was.Place[1]
		}
	})
	return j.instance(func(in *Instance, d Driver) error {
		if err := d.Volume(ctx, in); err != nil {
			return err
		}
		if _, err := d.Configure(ctx, in); err != nil {
			return err
		}
		s, err := d.State(ctx, in)
		if err != nil {
			return err
		}
		if s.Ready {
			return d.Reload(ctx, in)
		}
		if j.r.Operation.From != tenant.Ready {
			return nil
		}
		return d.Start(ctx, in)
	})
}
