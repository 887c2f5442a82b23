// Package backup keeps copies of tenants: logical ones by pg_dump and COPY, physical ones by pg_basebackup with the WAL behind them. It implements
// provision.Archive.
//
// Everything is compressed and encrypted on its way to where it is kept, and authenticated when it is read: what was cut off, changed, or put in another's
// place is noticed before it does anything. Nothing is held in memory or written in clear text meanwhile. A backup is seen when it is complete, and on disk;
// what died in the making is swept away by the next.
//
// An Archive starts no goroutine that outlives a call. Its only lock is a tenant's (Archive.mu), which keeps WAL from being deleted under a base backup.
package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Options say where backups are kept, and with what key.
type Options struct {
	// Dir is made if it isn't there. Everything in it belongs to the Archive.
	Dir string
	// Key seals; Before are those that did earlier, with which backups can still be read.
	Key    *tenant.Secret
	Before []*tenant.Secret
	Log    *slog.Logger
	Now    func() time.Time // nil = time.Now
	// Jobs is how many connections one dump or restore may use; 0 = 4.
	Jobs int
}

// Archive keeps backups. It is safe for concurrent use, also of several processes.
type Archive struct {
	place place
	keys  keys
	log   *slog.Logger
	now   func() time.Time
	jobs  int
	big   int64 // bytes from which a table is dumped beside the others
	// factor is how slow passphrases of exports are to try, as scrypt counts.
	factor int

	mu struct {
		sync.Mutex
		busy map[string]*sync.RWMutex // by tenant: held for reading by a base backup, for writing while WAL is deleted
	}
}

var (
	_ provision.Archive  = (*Archive)(nil)
	_ provision.Transfer = (*Archive)(nil)
)

// defaultJobs is as many as help where tables are big, and few enough for a small tenant's max_connections.
const (
	defaultJobs = 4
	bigTable    = 64 << 20
)

// New opens a directory of backups, and sweeps away what died in the making.
func New(o Options) (*Archive, error) {
	if o.Key == nil {
		return nil, errors.New("backups need a key")
	}
	if o.Dir == "" {
		return nil, errors.New("backups need a directory")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of backups: %w", err)
	}
	a := &Archive{
		place: local{o.Dir}, keys: append(keys{o.Key}, o.Before...), log: o.Log, now: o.Now,
		jobs: cmp.Or(max(o.Jobs, 0), defaultJobs), big: bigTable, factor: exportFactor,
	}
	a.mu.busy = make(map[string]*sync.RWMutex)
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	if err := a.place.sweep(); err != nil {
		return nil, fmt.Errorf("directory of backups: %w", err)
	}
	return a, nil
}

func (a *Archive) busy(id string) *sync.RWMutex {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.mu.busy[id]
	if l == nil {
		l = new(sync.RWMutex)
		a.mu.busy[id] = l
	}
	return l
}

// newID is a name that no backup ever had, in the order of time.
func (a *Archive) newID() string {
	var b [5]byte
	rand.Read(b[:]) // it does not fail
	return strings.Replace(a.now().UTC().Format("20060102T150405.000Z-"), ".", "", 1) + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// making is a backup in the making.
type making struct {
	a     *Archive
	draft draft
	m     *manifest
	mu    sync.Mutex // over m.Files
}

func (a *Archive) begin(s provision.Source, kind, content, note string) (*making, error) {
	id := s.Record.ID
	if !tenantID.MatchString(id) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is not a tenant's ID", id)
	}
	m := &manifest{Format: format, Content: content, Backup: provision.Backup{ID: a.newID(), Tenant: id, Kind: kind, Started: a.now().UTC(), Note: note}}
	d, err := a.place.draft(id, m.Backup.ID)
	if err != nil {
		return nil, fmt.Errorf("begin a backup: %w", err)
	}
	return &making{a: a, draft: d, m: m}, nil
}

// write stores one file, of what fill writes.
func (k *making) write(name string, fill func(io.Writer) error) error {
	into, err := k.draft.create(name)
	if err != nil {
		return err
	}
	s, err := k.a.keys.seal(into, k.m.Backup.Tenant, k.m.Backup.ID, name)
	if err != nil {
		return errors.Join(err, into.Close())
	}
	if err := fill(s); err != nil {
		into.Close() // what is in it goes with the draft
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m.Files = append(k.m.Files, file{Name: name, Bytes: s.stored.n, Packed: s.packed, Plain: s.plain, SHA256: s.sum()})
	return nil
}

// finish writes the manifest, after which the backup is there.
func (k *making) finish() (*provision.Backup, error) {
	slices.SortFunc(k.m.Files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	k.m.sum()
	k.m.Backup.Finished = k.a.now().UTC()
	text, err := k.a.keys.encode(k.m)
	if err != nil {
		return nil, err
	}
	f, err := k.draft.create(manifestName)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(text); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := k.draft.commit(); err != nil {
		return nil, err
	}
	k.a.log.Info("backup made", "tenant", k.m.Backup.Tenant, "backup", k.m.Backup.ID, "kind", k.m.Backup.Kind, "bytes", k.m.Backup.Bytes)
	b := k.m.Backup
	return &b, nil
}

// make makes a backup by a function that writes its files. What failed leaves nothing.
func (a *Archive) make(s provision.Source, kind, content, note string, fill func(*making) error) (*provision.Backup, error) {
	k, err := a.begin(s, kind, content, note)
	if err != nil {
		return nil, fail(err)
	}
	defer k.draft.abort()
	if err := fill(k); err != nil {
		return nil, fail(err)
	}
	b, err := k.finish()
	return b, fail(err)
}

// fail makes an error one of provision's.
func fail(err error) error {
	if err == nil {
		return nil
	}
	if e := (*provision.Error)(nil); errors.As(err, &e) {
		return err
	}
	return provision.Errorf(provision.KindFailed, "%v", err)
}

// manifest reads one.
func (a *Archive) manifest(tenant, id string) (*manifest, error) {
	if !backupID.MatchString(id) || !tenantID.MatchString(tenant) {
		return nil, provision.Errorf(provision.KindNotFound, "there is no backup %q", id)
	}
	f, err := a.place.open(tenant, id, manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, provision.Errorf(provision.KindNotFound, "there is no backup %q", id)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxManifest {
		return nil, damaged("the manifest of backup "+id, "it is too long")
	}
	return a.keys.decode(text, tenant, id)
}

// List implements provision.Archive. A backup whose manifest can't be read is in it, without a kind and with a note that says why.
func (a *Archive) List(_ context.Context, id string) ([]provision.Backup, error) {
	all, err := a.manifests(id)
	if err != nil {
		return nil, fail(err)
	}
	list := make([]provision.Backup, 0, len(all))
	for _, m := range all {
		list = append(list, m.Backup)
	}
	return list, nil
}

// manifests are those of a tenant, the newest first, with the times to which they can be restored.
func (a *Archive) manifests(id string) ([]*manifest, error) {
	if !tenantID.MatchString(id) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is not a tenant's ID", id)
	}
	items, err := a.place.list(true, id)
	if err != nil {
		return nil, err
	}
	archives := make(map[string]*chain)
	var all []*manifest
	for _, it := range items {
		if !backupID.MatchString(it.name) {
			continue
		}
		m, err := a.manifest(id, it.name)
		if e := (*provision.Error)(nil); errors.As(err, &e) && e.Kind == provision.KindNotFound {
			continue // removed just now
		} else if err != nil {
			a.log.Warn("backup can't be read", "tenant", id, "backup", it.name, "error", err)
			started, _ := time.Parse("20060102T150405", it.name[:15])
			m = &manifest{Backup: provision.Backup{ID: it.name, Tenant: id, Started: started, Note: err.Error()}}
		}
		if m.Content == ofInstance {
			if archives[m.System] == nil {
				if archives[m.System], err = a.chain(id, m.System); err != nil {
					return nil, err
				}
			}
			m.Backup.Until = archives[m.System].until(m)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(x, y *manifest) int { return strings.Compare(y.Backup.ID, x.Backup.ID) })
	return all, nil
}

// Check implements provision.Archive: everything is read, decrypted and decompressed, and of a physical backup each file compared with what the server said
// that it sent, and the WAL behind it decrypted too.
func (a *Archive) Check(ctx context.Context, b *provision.Backup, until time.Time) error {
	m, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return fail(err)
	}
	if err := a.check(ctx, m); err != nil {
		return fail(err)
	}
	return fail(a.checkWAL(ctx, m, until))
}

func (a *Archive) check(ctx context.Context, m *manifest) error {
	for _, f := range m.Files {
		err := a.read(ctx, m, f.Name, func(r io.Reader) error {
			if m.Content == ofInstance {
				return checkBase(r)
			}
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// read gives a file's contents to use, which has to read them to their end.
func (a *Archive) read(ctx context.Context, m *manifest, name string, use func(io.Reader) error) error {
	f := m.file(name)
	from, err := a.place.open(m.Backup.Tenant, m.Backup.ID, name)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("backup "+m.Backup.ID, "its file %s is missing", name)
	}
	if err != nil {
		return err
	}
	o, err := a.keys.open(from, f.SHA256, m.Backup.Tenant, m.Backup.ID, name)
	if err != nil {
		return err
	}
	defer o.Close()
	return use(reading{ctx, o})
}

// Verified implements provision.Archive.
func (a *Archive) Verified(_ context.Context, b *provision.Backup, at time.Time) error {
	m, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return fail(err)
	}
	m.Backup.Verified = at.UTC()
	text, err := a.keys.encode(m)
	if err != nil {
		return fail(err)
	}
	return fail(a.place.put(a.now(), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	}, b.Tenant, b.ID, manifestName))
}

// Expire implements provision.Archive. It keeps as many of either kind, so that many dumps do not push the last physical backup out; zero keeps all. What it
// can't read it leaves alone.
func (a *Archive) Expire(_ context.Context, id string, keep int) ([]provision.Backup, error) {
	if keep < 0 {
		return nil, provision.Errorf(provision.KindInvalid, "%d backups can't be kept", keep)
	}
	if err := a.place.sweep(); err != nil {
		return nil, fail(err)
	}
	l := a.busy(id)
	l.Lock()
	defer l.Unlock()
	// A backup that another process makes may be there only after the look at those that are.
	making := a.place.drafting(id)
	all, err := a.manifests(id)
	if err != nil {
		return nil, fail(err)
	}
	// What seems to come from times to come was made while a clock was wrong, and must not push out what is made now.
	now := a.now()
	slices.SortStableFunc(all, func(x, y *manifest) int {
		return cmp.Compare(one(x.Backup.Started.After(now)), one(y.Backup.Started.After(now)))
	})
	var gone []provision.Backup
	var kept []*manifest
	unread := false
	seen := map[string]int{}
	for _, m := range all {
		seen[m.Backup.Kind]++
		if m.Backup.Kind == "" || keep == 0 || seen[m.Backup.Kind] <= keep {
			kept, unread = append(kept, m), unread || m.Backup.Kind == ""
			continue
		}
		if err := a.place.remove(id, m.Backup.ID); err != nil {
			return gone, fail(err)
		}
		a.log.Info("backup expired", "tenant", id, "backup", m.Backup.ID)
		gone = append(gone, m.Backup)
	}
	// A backup that can't be read may need any of the WAL, and so may one in the making.
	if unread || making || a.place.drafting(id) {
		return gone, nil
	}
	return gone, fail(a.prune(id, kept))
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

// Forget implements provision.Archive.
func (a *Archive) Forget(_ context.Context, id string) error {
	if !tenantID.MatchString(id) {
		return provision.Errorf(provision.KindInvalid, "%q is not a tenant's ID", id)
	}
	l := a.busy(id)
	l.Lock()
	defer l.Unlock()
	return fail(a.place.remove(id))
}
