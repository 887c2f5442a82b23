package provision

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/tenant"
)

// argFrom is the ID of the tenant whose data a new one gets.
const argFrom = "from"

// argAdmin is the password that the superuser of a data directory gets which another tenant's backup was unpacked into, sealed as Record.Admin is.
const argAdmin = "admin"

// beginRestore brings back a removed tenant, or what a backup has of one that is there.
func beginRestore(ctx context.Context, c *change) error {
	if err := c.refuseIn(tenant.Creating, tenant.Removing); err != nil {
		return err
	}
	if c.old.Phase == tenant.Removed && c.o.Backup == "" && c.o.ToTime.IsZero() {
		return nil // it is brought back as it was
	}
	if c.old.Isolation == tenant.Row {
		return Errorf(KindRefused, "tenant %s shares tables with others: its rows can't be replaced in place", c.old.Name).WithHint("restore --as NEW makes a tenant of the backup")
	}
	b, err := c.m.pick(ctx, c.old, c.o)
	if err != nil {
		return err
	}
	if b.Kind == Physical && c.old.Isolation != tenant.Instance {
		return Errorf(KindRefused, "backup %s is a physical one, and tenant %s has no instance", b.ID, c.old.Name)
	}
	if b.Kind == Logical && !c.o.ToTime.IsZero() {
		return Errorf(KindInvalid, "backup %s is a logical one: it has one time only, %s", b.ID, b.Started.UTC().Format(backupTime))
	}
	if last := maxTime(b.From, b.Until); c.o.ToTime.After(last) && !c.old.Backups.Archive { // else the stop has the last of it archived
		return Errorf(KindRefused, "tenant %s has no WAL from after %s, and can't be restored to %s", c.old.Name, last.UTC().Format(backupTime), c.o.ToTime.UTC().Format(backupTime)).
			WithDetail("its WAL is not archived").WithHint("--backup %s restores the latest there is", b.ID)
	}
	c.args = map[string]string{argBackup: b.ID, argKind: b.Kind}
	c.detail = "backup " + b.ID
	if c.old.Operation != nil || c.old.Phase == tenant.Failed {
		c.r.Phase = tenant.Stopped // until it is through: what there is may be half replaced
	} else {
		c.args[argIntact] = "true"
	}
	return nil
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

const (
	argKind = "kind"
	// argIntact is there while a restore has not begun to replace anything: should it fail, the tenant is as it was.
	argIntact = "intact"
)

// checkFirst reads all that is to take the place of what is there, and only then takes the tenant down.
func checkFirst(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	if err := j.m.o.Archive.Check(ctx, b, j.until(b)); err != nil {
		return err
	}
	j.change(func(r *tenant.Record) {
		r.Phase = tenant.Stopped // until it is through
		r.Operation.Args[argPhase] = r.Phase.String()
		delete(r.Operation.Args, argIntact)
		if b.Kind != Physical {
			return // replicas get it from their primary
		}
		for i := range r.Replicas {
			r.Replicas[i].Endpoint = tenant.Endpoint{} // it goes on to have what is replaced: nobody may read that
		}
	})
	for i := range j.r.Replicas {
		if b.Kind == Physical {
			j.note("replica " + j.r.Replicas[i].ID + " does not follow a physical restore, and serves no longer: tenant replica remove, then create")
		}
	}
	return nil
}

func restoreSteps(j *job) []step {
	kind := j.r.Operation.Args[argKind]
	up := []step{{"volume", volume, nil}, {"configure", configure, nil}, {"start", start, nil}, {"answers", answers, nil}}
	switch {
	case kind == "" && j.r.Isolation != tenant.Instance:
		return []step{{"make", makeVirtual, nil}, {"register", ready, nil}}
	case kind == "":
		return append(up, step{"register", ready, nil})
	case j.r.Isolation != tenant.Instance:
		return []step{{"check", checkFirst, nil}, {"close", endSessions, nil}, {"keep", keep, nil}, {"load", loadVirtual, nil}, {"register", ready, nil}}
	case kind == Physical:
		return slices.Concat([]step{{"check", checkFirst, nil}, {"close", endSessions, nil}, {"keep", keep, nil}, {"stop", stop, nil}, {"unpack", unpack, nil}}, up[1:],
			[]step{{"roles", roles, nil}, {"register", ready, nil}})
	}
	return slices.Concat([]step{{"check", checkFirst, nil}, {"close", endSessions, nil}, {"keep", keep, nil}}, up, []step{{"roles", roles, nil}, {"load", load, nil}, {"register", ready, nil}})
}

// endSessions ends all sessions of the tenant's, before what is there is kept: what a client is told to be committed after that would be in no backup.
func endSessions(ctx context.Context, j *job) error {
	if j.r.Isolation != tenant.Instance {
		return j.m.o.Virtual.Fence(ctx, j.r.Clone(), true) // the last step takes it down
	}
	if err := closeSessions(ctx, j); err != nil {
		return err
	}
	return j.instance(func(in *Instance, d Driver) error {
		s, err := d.State(ctx, in)
		if err != nil || !s.Ready {
			return err
		}
		roles := make([]string, len(j.r.Logins))
		for i := range roles {
			roles[i] = j.r.Logins[i].Role
		}
		err = within(ctx, longestEnd+longestLogin, settleWait, in, "postgres", func(ctx context.Context, c *pgx.Conn) error { return expel(ctx, c, roles) })
		if err != nil && ctx.Err() == nil {
			j.m.o.Log.WarnContext(ctx, "sessions that a restore is to end", "tenant", j.r.ID, "error", err)
			return nil // a server that can't be asked is no reason to keep the tenant from its backup
		}
		return err
	})
}

// keep makes a backup of what is there before it is replaced. What can't be read any more can't be kept: that is no reason to keep the tenant from its backup.
func keep(ctx context.Context, j *job) error {
	from, err := j.reachable(ctx)
	if err == nil {
		_, err = j.dump(ctx, from, Logical, "before restore")
	}
	if err != nil && ctx.Err() == nil {
		j.m.o.Log.WarnContext(ctx, "what a restore replaces was not kept", "tenant", j.r.ID, "error", err)
		j.note("what was there could not be kept: " + explain(err, j.r.Name).Message)
		return nil
	}
	return err
}

// unpack puts a physical backup in the place of the instance's data.
func unpack(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.ID)
	if err != nil {
		return err
	}
	return j.instance(func(in *Instance, d Driver) error {
		return j.m.o.Archive.Unpack(ctx, b, source(j.r, in, d), j.until(b), j.progress)
	})
}

// until is how far WAL is replayed on a physical backup. Who names a backup wants what is in it, and not what came later; the zero time is the latest there is.
func (j *job) until(b *Backup) time.Time {
	if j.o.ToTime.IsZero() && j.o.Backup != "" {
		return b.From
	}
	return j.o.ToTime
}

// load makes the tenant's database anew from a logical backup.
func load(ctx context.Context, j *job) error {
	of := j.r.Operation.Args[argFrom]
	if of == "" {
		of = j.r.ID
	}
	b, err := j.picked(ctx, of)
	if err != nil {
		return err
	}
	return j.instance(func(in *Instance, d Driver) error {
		if err := j.m.database(ctx, in, j.r); err != nil {
			return err
		}
		return j.m.o.Archive.Load(ctx, b, source(j.r, in, d), j.progress)
	})
}

// loadVirtual makes what a virtual tenant has anew from a logical backup.
func loadVirtual(ctx context.Context, j *job) error {
	of := j.r.Operation.Args[argFrom]
	if of == "" {
		of = j.r.ID
	}
	b, err := j.picked(ctx, of)
	if err != nil {
		return err
	}
	if err := unmakeVirtual(ctx, j); err != nil {
		return err
	}
	if err := makeVirtual(ctx, j); err != nil {
		return err
	}
	to, err := j.m.virtual().Source(ctx, j.r.Clone())
	if err != nil {
		return err
	}
	return j.m.o.Archive.Load(ctx, b, to, j.progress)
}

// beginClone makes the record of a new tenant with another's data: those that it has now, or, with restore --as, those of a backup.
func beginClone(ctx context.Context, c *change) error {
	o := c.o
	if o.Name == "" {
		return Errorf(KindInvalid, "%s needs a name for the new tenant", o.Verb)
	}
	if c.m.o.Archive == nil {
		return errNoArchive()
	}
	from, err := c.m.find(ctx, o.Tenant)
	if err != nil {
		return err
	}
	if c.old != nil {
		return Errorf(KindTaken, "there is a tenant %s already", o.Name)
	}
	return c.like(ctx, from, o.Name)
}

// like drafts a tenant like another, but for what the order says.
func (c *change) like(ctx context.Context, from *tenant.Record, name string) error {
	o := &c.o
	full := c.o
	if o.Isolation == "" {
		full.Isolation = from.Isolation.String()
	}
	if full.Isolation == from.Isolation.String() {
		if o.Version == "" {
			full.Version = from.Version
		}
		if o.Driver == "" {
			full.Driver = from.Driver
		}
		if o.Limits == nil {
			l := from.Limits
			full.Limits = &l
		}
		if o.Cluster == "" && from.Isolation != tenant.Instance {
			full.Cluster = from.Cluster
		}
		if o.Mode == "" && from.Mode != 0 {
			full.Mode = from.Mode.String()
		}
	}
	if full.Isolation == tenant.Instance.String() {
		full.Settings = make(map[string]string)
		maps.Copy(full.Settings, from.Settings)
		maps.Copy(full.Settings, o.Settings)
		if len(o.Extensions) == 0 {
			full.Extensions = from.Extensions
		}
	}
	drafted := &change{m: c.m, o: full}
	if err := drafted.draft(ctx, name); err != nil {
		return err
	}
	c.r, c.password, c.secrets = drafted.r, drafted.password, drafted.secrets
	c.r.Origin.Template = fromTenant + from.Name
	c.args = map[string]string{argFrom: from.ID}
	c.detail = "from " + from.Name
	if o.Verb == verbRestoreAs {
		b, err := c.m.pick(ctx, from, c.o)
		if err != nil {
			return err
		}
		if b.Kind == Physical && (c.r.Isolation != tenant.Instance || from.Isolation != tenant.Instance) {
			return Errorf(KindRefused, "backup %s is a physical one: it makes an instance only", b.ID)
		}
		if b.Kind == Physical {
			// The data directory has the roles and the database of whom it was made of.
			c.args[argKind] = b.Kind
			password, err := c.m.o.Vault.Open(from.ID, tenant.AdminField, from.Admin)
			if err != nil {
				return err
			}
			// The data directory has it, until the new tenant gets one of its own.
			c.r.Admin = c.m.o.Vault.Seal(c.r.ID, tenant.AdminField, password)
			c.args[argAdmin] = string(c.m.o.Vault.Seal(c.r.ID, tenant.AdminField, tenant.NewPassword()))
		}
		c.args[argBackup] = b.ID
		c.detail = "backup " + b.ID + " of " + from.Name
	} else if _, err := c.m.running(ctx, from); err != nil {
		return err
	} else if from.Host != c.r.Host && from.Isolation == tenant.Instance && c.r.Isolation == tenant.Instance {
		return Errorf(KindRefused, "tenant %s is on host %s: a clone is made there", from.Name, from.Host).WithHint("--host %s", from.Host)
	}
	if o.DryRun {
		return c.dryRun(ctx, cloneSteps(&job{m: c.m, r: c.r, o: c.o}))
	}
	return nil
}

func cloneSteps(j *job) []step {
	first := step{"dump", dumpOther, forgetDump}
	if j.o.Verb == verbRestoreAs {
		first = step{"backup", nothing, nil}
	}
	if j.o.Verb == VerbImport {
		first = step{"import", importFile, forgetDump}
	}
	if j.r.Isolation != tenant.Instance {
		return []step{first, {"make", makeVirtual, unmakeVirtual}, {"load", loadVirtual, nil}, {"register", registerNew, nil}}
	}
	if op := j.r.Operation; op != nil && op.Args[argKind] == Physical {
		return slices.Concat([]step{first}, instanceSteps()[:3], []step{{"unpack", unpackOther, nil}}, instanceSteps()[3:],
			[]step{{"adopt", adopt, nil}, {"roles", roles, nil}, {"register", registerNew, nil}})
	}
	return slices.Concat([]step{first}, instanceSteps(), []step{{"roles", roles, nil}, {"load", load, nil}, {"register", registerNew, nil}})
}

func nothing(context.Context, *job) error { return nil }

// dumpOther makes a backup of the tenant that is cloned. It is kept as the new one's first.
func dumpOther(ctx context.Context, j *job) error {
	from, err := j.m.dir.Get(ctx, j.r.Operation.Args[argFrom])
	if err != nil {
		return err
	}
	s, err := j.m.running(ctx, from)
	if err != nil {
		return err
	}
	s.Record.ID = j.r.ID
	b, err := j.m.o.Archive.Dump(ctx, s, "clone of "+from.Name, j.progress)
	if err != nil {
		return err
	}
	j.change(func(r *tenant.Record) { r.Operation.Args[argBackup], r.Operation.Args[argFrom] = b.ID, r.ID })
	return nil
}

func forgetDump(ctx context.Context, j *job) error { return j.m.o.Archive.Forget(ctx, j.r.ID) }

// unpackOther makes the new instance's data of another's physical backup.
func unpackOther(ctx context.Context, j *job) error {
	b, err := j.picked(ctx, j.r.Operation.Args[argFrom])
	if err != nil {
		return err
	}
	return j.instance(func(in *Instance, d Driver) error {
		return j.m.o.Archive.Unpack(ctx, b, source(j.r, in, d), j.until(b), j.progress)
	})
}

// beginImport makes the record of a new tenant with the data of a file.
func beginImport(ctx context.Context, c *change) error {
	if c.m.o.Archive == nil {
		return errNoArchive()
	}
	if c.old != nil {
		return Errorf(KindTaken, "there is a tenant %s already", c.old.Name)
	}
	if _, ok := c.m.o.Archive.(Transfer); !ok {
		return Errorf(KindRefused, "the archive that is configured can't import")
	}
	if !filepath.IsAbs(c.o.File) {
		return Errorf(KindInvalid, "import needs the absolute path of a file on the host of the tenant")
	}
	name := c.o.Tenant
	if c.o.Name != "" {
		name = c.o.Name
	}
	if err := c.draft(ctx, name); err != nil {
		return err
	}
	if c.r.Host == c.m.o.Host {
		f, err := openFile(c.o.File)
		if err != nil {
			return err
		}
		f.Close()
	}
	if c.o.DryRun {
		return c.dryRun(ctx, cloneSteps(&job{m: c.m, r: c.r, o: c.o}))
	}
	return nil
}

// openFile opens what is imported. Others may write where it is: a pipe of theirs would be waited for without an end.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Errorf(KindInvalid, "the file can't be read: %v", err)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(Errorf(KindInvalid, "%s is not a file that could be read", path), f.Close())
	}
	return f, nil
}

// importFile makes the new tenant's first backup of a file.
func importFile(ctx context.Context, j *job) error {
	if err := j.m.o.Archive.Forget(ctx, j.r.ID); err != nil { // of the time before
		return err
	}
	f, err := openFile(j.o.File)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := j.m.o.Archive.(Transfer).Import(ctx, j.r.ID, j.o.Passphrase, f, j.progress)
	if err != nil {
		return err
	}
	j.change(func(r *tenant.Record) { r.Operation.Args[argBackup] = b.ID })
	return nil
}

// export writes a tenant's data into a file of this host.
func export(ctx context.Context, m *Manager, o Order, report func(Progress)) (_ *Result, err error) {
	r, err := m.find(ctx, o.Tenant)
	if err != nil {
		return nil, err
	}
	t, ok := m.o.Archive.(Transfer)
	switch {
	case m.o.Archive == nil:
		return nil, errNoArchive()
	case !ok:
		return nil, Errorf(KindRefused, "the archive that is configured can't export")
	case !filepath.IsAbs(o.File):
		return nil, Errorf(KindInvalid, "export needs the absolute path of a file on the host of the tenant")
	}
	if _, err := os.Lstat(o.File); err == nil { // before a backup is made for it
		return nil, errThere(o.File)
	}
	var b *Backup
	if o.Backup != "" {
		b, err = m.pick(ctx, r, o)
	} else {
		var from Source
		if from, err = m.running(ctx, r); err == nil {
			b, err = m.o.Archive.Dump(ctx, from, "export", report)
		}
	}
	if err != nil {
		return nil, err
	}
	if b.Kind != Logical {
		return nil, Errorf(KindRefused, "backup %s is a physical one: only logical ones can be exported", b.ID)
	}
	err = whole(o.File, func(w io.Writer) error { return t.Export(ctx, b, o.Passphrase, w, report) })
	if err != nil {
		return nil, err
	}
	return &Result{Changed: true, Tenants: views(r), Backups: []Backup{*b}}, nil
}

func errThere(path string) error { return Errorf(KindTaken, "there is a file %s already", path) }

// whole makes a file that has its name when all is in it: what is left of a process that died can't be taken for it. Nothing that is there is overwritten, a link
// of somebody else's least of all.
func whole(path string, write func(w io.Writer) error) (err error) {
	part := path + ".pgkennel-part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // such a one's
		return Errorf(KindInvalid, "the file can't be made: %v", err)
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Errorf(KindInvalid, "the file can't be made: %v", err)
	}
	mine := func() bool {
		a, err1 := f.Stat()
		b, err2 := os.Lstat(part)
		return err1 == nil && err2 == nil && os.SameFile(a, b)
	}
	defer func() {
		if mine() {
			err = errors.Join(err, os.Remove(part))
		}
		f.Close()
	}()
	if err := errors.Join(write(f), f.Sync()); err != nil {
		return err
	}
	if !mine() {
		return Errorf(KindBusy, "another export writes to %s", path)
	}
	err = os.Link(part, path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return errThere(path)
	case err == nil:
		return nil
	}
	if _, e := os.Lstat(path); e == nil {
		return errThere(path)
	}
	return os.Rename(part, path) // there are file systems without links
}

// adopt gives what a physical backup of another tenant has the new one's names. The other's further logins are no longer there.
func adopt(ctx context.Context, j *job) error {
	from, next := j.r.Operation.Args[argFrom], tenant.Ciphertext(j.r.Operation.Args[argAdmin])
	err := j.instance(func(in *Instance, _ Driver) error {
		var databases, logins []string
		password, err := j.m.o.Vault.Open(j.r.ID, tenant.AdminField, next)
		if err != nil {
			return err
		}
		switch c, err := admin(ctx, in, "postgres"); {
		case err == nil:
			end(ctx, c)
		case refusesPassword(err):
			in.Password = password // a try before this one came as far as that
		}
		err = as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) (err error) {
			databases, err = column(ctx, c, "SELECT datname::text FROM pg_catalog.pg_database WHERE datname = $1", tenant.OwnDatabase(from))
			if err != nil {
				return err
			}
			if len(databases) > 0 {
				if err := run(ctx, c, "ALTER DATABASE "+ident(databases[0])+" RENAME TO "+ident(j.r.Database)); err != nil {
					return err
				}
			}
			have, err := column(ctx, c, "SELECT rolname::text FROM pg_catalog.pg_roles WHERE pg_catalog.starts_with(rolname, $1)", tenant.OwnRole(from, 0))
			if err != nil {
				return err
			}
			for _, role := range have {
				switch role {
				case tenant.OwnerRole(from):
					err = run(ctx, c, "ALTER ROLE "+ident(role)+" RENAME TO "+ident(tenant.OwnerRole(j.r.ID)))
				case tenant.OwnRole(from, 0):
					err = run(ctx, c, "ALTER ROLE "+ident(role)+" RESET ALL", "ALTER ROLE "+ident(role)+" RENAME TO "+ident(tenant.OwnRole(j.r.ID, 0)))
				default:
					logins = append(logins, role)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, role := range logins {
			if err := j.m.drop(ctx, in, j.r, role); err != nil {
				return err
			}
		}
		verifier, _ := auth.MakeVerifier(password, nil, 0).Encode()
		return as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
			return run(ctx, c, "ALTER ROLE "+ident(Superuser)+" PASSWORD "+literal(verifier))
		})
	})
	if err == nil {
		j.change(func(r *tenant.Record) { r.Admin = next })
	}
	return err
}
