package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// FileOptions say where a directory is kept.
type FileOptions struct {
	// Path is a folder, made if it is not there; the directory is directory.db in it.
	Path string
	// Wait is how long to wait for another process to let go of it; 0 = not at all.
	Wait time.Duration
}

// The buckets. Records are by ID: eight bytes of revision, and an envelope. Claims have the IDs of who has them. The audit is by sequence; trails are its
// sequences by tenant: ID, a zero byte, sequence.
var (
	recordsBucket = []byte("records")
	claimsBucket  = []byte("claims")
	auditBucket   = []byte("audit")
	trailsBucket  = []byte("trails")
	metaBucket    = []byte("meta")
	formatKey     = []byte("format")
)

// fileStore is a directory in a file.
type fileStore struct {
	db *bbolt.DB
	// ctx ends with Close: watches and locks go with the store, and not with who asked for them.
	ctx    context.Context //nolint:containedctx // the root context of what the store runs
	cancel context.CancelFunc
	runs   sync.WaitGroup

	// writer has room for one: who changes something. What is committed under it is told to the feeds under it, too.
	writer chan struct{}
	locks  locks
	mu     struct {
		sync.Mutex
		closed bool
		feeds  map[*feed]struct{}
		hosts  map[string]*tenant.Host
	}
}

var _ tenant.Directory = (*fileStore)(nil)

// OpenFile opens a directory in a file, and makes it if it is not there. One process can have it open; for others it is tenant.ErrInUse.
func OpenFile(ctx context.Context, o FileOptions) (tenant.Directory, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Path == "" {
		return nil, errors.New("the directory has no path")
	}
	if err := makeFolder(o.Path); err != nil {
		return nil, err
	}
	path := filepath.Join(o.Path, "directory.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: max(o.Wait, 1), FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, tenant.ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &fileStore{db: db, writer: make(chan struct{}, 1)}
	s.mu.feeds, s.mu.hosts = make(map[*feed]struct{}), make(map[string]*tenant.Host)
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := errors.Join(os.Chmod(path, 0o600), db.Update(prepare), syncFolder(o.Path)); err != nil {
		s.cancel()
		db.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// makeFolder makes the folder of the directory. One that is there must not be everybody's to change.
func makeFolder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("directory %s: everybody may write to it (mode %04o): it has to be a folder of its own, with mode 0700", path, info.Mode().Perm())
	}
	return nil
}

// prepare makes the buckets, or finds out whether this version can use those that are there.
func prepare(tx *bbolt.Tx) error {
	for _, name := range [][]byte{recordsBucket, claimsBucket, auditBucket, trailsBucket, metaBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(metaBucket)
	if have := meta.Get(formatKey); have != nil {
		return checkFormat(have)
	}
	return meta.Put(formatKey, []byte(strconv.Itoa(envelope.Format)))
}

// checkFormat reads the format of a directory.
func checkFormat(have []byte) error {
	format, err := strconv.Atoi(string(have))
	switch {
	case err != nil || format < 1:
		return fmt.Errorf("its format %q is none", have)
	case format > envelope.Format:
		return fmt.Errorf("%w: its format is %d, and this one knows %d", ErrNewer, format, envelope.Format)
	}
	return nil
}

// Get implements tenant.Directory.
func (s *fileStore) Get(ctx context.Context, id string) (r *tenant.Record, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		r, err = load(tx, id)
		return err
	})
	return r, err
}

// Find implements tenant.Directory.
func (s *fileStore) Find(ctx context.Context, claim string) (r *tenant.Record, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		id := tx.Bucket(claimsBucket).Get([]byte(claim))
		if id == nil {
			return tenant.ErrNotFound
		}
		r, err = load(tx, string(id))
		return err
	})
	return r, err
}

// List implements tenant.Directory.
func (s *fileStore) List(ctx context.Context) ([]*tenant.Record, error) {
	var list []*tenant.Record
	var damaged []error
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
			r, err := readFile(string(k), v)
			if err != nil {
				damaged = append(damaged, err)
			} else {
				list = append(list, r)
			}
			return ctx.Err()
		})
	})
	if err != nil {
		return nil, err
	}
	byName(list)
	return list, errors.Join(damaged...)
}

// load reads a record.
func load(tx *bbolt.Tx, id string) (*tenant.Record, error) {
	v := tx.Bucket(recordsBucket).Get([]byte(id))
	if v == nil {
		return nil, tenant.ErrNotFound
	}
	return readFile(id, v)
}

// readFile reads the value of a record.
func readFile(id string, v []byte) (*tenant.Record, error) {
	if len(v) < 8 {
		return nil, &DamagedError{ID: id, Err: errors.New("it is no record")}
	}
	r, _, err := envelope.Read(id, v[8:])
	if err != nil {
		return nil, err
	}
	r.Revision = int64(binary.BigEndian.Uint64(v)) //nolint:gosec // a revision
	return r, nil
}

// Put implements tenant.Directory.
func (s *fileStore) Put(ctx context.Context, r *tenant.Record, e tenant.Entry) (*tenant.Record, error) {
	var written *tenant.Record
	err := s.change(ctx, func(tx *bbolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		before, raw, err := current(records, r)
		if err != nil {
			return err
		}
		var value []byte
		if value, written, err = envelope.Write(r, 0, raw); err != nil {
			return err
		}
		if err := moveClaims(tx.Bucket(claimsBucket), r.ID, plan(before, written)); err != nil {
			return err
		}
		revision, err := records.NextSequence()
		if err != nil {
			return err
		}
		written.Revision = int64(revision) //nolint:gosec // it begins with 1
		if err := records.Put([]byte(r.ID), append(binary.BigEndian.AppendUint64(nil, revision), value...)); err != nil {
			return err
		}
		return note(tx, complete(e, written))
	}, func(f *feed) { f.put(written.ID, state{written, written.Revision}) })
	if err != nil {
		return nil, err
	}
	return written, nil
}

// Delete implements tenant.Directory.
func (s *fileStore) Delete(ctx context.Context, r *tenant.Record, e tenant.Entry) error {
	var revision uint64
	return s.change(ctx, func(tx *bbolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		if records.Get([]byte(r.ID)) == nil {
			return tenant.ErrNotFound
		}
		before, _, err := current(records, r)
		if err != nil {
			return err
		}
		if err := moveClaims(tx.Bucket(claimsBucket), r.ID, plan(before, nil)); err != nil {
			return err
		}
		if revision, err = records.NextSequence(); err != nil {
			return err
		}
		if err := records.Delete([]byte(r.ID)); err != nil {
			return err
		}
		return note(tx, complete(e, before))
	}, func(f *feed) { f.put(r.ID, state{nil, int64(revision)}) }) //nolint:gosec // a revision
}

// current returns the record that r is about to replace, nil if there is none, and its envelope; ErrConflict if r is of another revision.
func current(records *bbolt.Bucket, r *tenant.Record) (*tenant.Record, []byte, error) {
	v := records.Get([]byte(r.ID))
	if v == nil {
		if r.Revision != 0 {
			return nil, nil, tenant.ErrConflict
		}
		return nil, nil, nil
	}
	before, err := readFile(r.ID, v)
	if err != nil {
		return nil, nil, err
	}
	if before.Revision != r.Revision {
		return nil, nil, tenant.ErrConflict
	}
	return before, slices.Clone(v[8:]), nil
}

// moveClaims gives claims to a tenant, and takes from it those that it has no more.
func moveClaims(bucket *bbolt.Bucket, id string, m moves) error {
	for _, c := range slices.Concat(m.keep, m.take) {
		if has := bucket.Get([]byte(c)); has != nil && string(has) != id {
			return &tenant.TakenError{Claim: c, ID: string(has)}
		}
		if err := bucket.Put([]byte(c), []byte(id)); err != nil {
			return fmt.Errorf("claim %s: %w", c, err)
		}
	}
	for _, c := range m.release {
		if has := bucket.Get([]byte(c)); string(has) != id {
			continue
		}
		if err := bucket.Delete([]byte(c)); err != nil {
			return err
		}
	}
	return nil
}

// note adds an entry to the audit.
func note(tx *bbolt.Tx, e tenant.Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	audit := tx.Bucket(auditBucket)
	n, err := audit.NextSequence()
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(nil, n)
	if err := audit.Put(key, b); err != nil {
		return err
	}
	return tx.Bucket(trailsBucket).Put(slices.Concat([]byte(e.ID), []byte{0}, key), []byte{})
}

// Audit implements tenant.Directory. Without a limit it returns all.
func (s *fileStore) Audit(ctx context.Context, id string, limit int) ([]tenant.Entry, error) {
	if limit <= 0 {
		limit = math.MaxInt
	}
	var list []tenant.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		audit := tx.Bucket(auditBucket)
		add := func(v []byte) error {
			var e tenant.Entry
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("an entry of the audit: %w", err)
			}
			list = append(list, e)
			return ctx.Err()
		}
		if id == "" {
			c := audit.Cursor()
			for k, v := c.Last(); k != nil && len(list) < limit; k, v = c.Prev() {
				if err := add(v); err != nil {
					return err
				}
			}
			return nil
		}
		c := tx.Bucket(trailsBucket).Cursor()
		// The tenant's last is the one before the first with a byte of one instead of its zero.
		k, _ := c.Seek([]byte(id + "\x01"))
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		for ; k != nil && strings.HasPrefix(string(k), id+"\x00") && len(list) < limit; k, _ = c.Prev() {
			if err := add(audit.Get(k[len(id)+1:])); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// pruned is how many entries go in one transaction.
const pruned = 1000

// Prune implements tenant.Directory.
func (s *fileStore) Prune(ctx context.Context, before time.Time, most int) (int, error) {
	n := 0
	for more := true; more; {
		err := s.change(ctx, func(tx *bbolt.Tx) error {
			audit, trails := tx.Bucket(auditBucket), tx.Bucket(trailsBucket)
			c := audit.Cursor()
			more = false
			var gone [][2][]byte
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if len(gone) == pruned {
					more = true
					break
				}
				var e tenant.Entry
				if err := json.Unmarshal(v, &e); err != nil {
					return fmt.Errorf("an entry of the audit: %w", err)
				}
				// Sequences have no gaps: the oldest go first.
				if (most <= 0 || audit.Sequence()-binary.BigEndian.Uint64(k) < uint64(most)) && !e.Time.Before(before) {
					break
				}
				gone = append(gone, [2][]byte{slices.Clone(k), slices.Concat([]byte(e.ID), []byte{0}, k)})
			}
			for _, keys := range gone {
				if err := errors.Join(audit.Delete(keys[0]), trails.Delete(keys[1])); err != nil {
					return err
				}
			}
			n += len(gone)
			return nil
		}, func(*feed) {})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Drop implements tenant.Directory.
func (s *fileStore) Drop(ctx context.Context, id string, e tenant.Entry) error {
	var revision uint64
	return s.change(ctx, func(tx *bbolt.Tx) error {
		records, claims := tx.Bucket(recordsBucket), tx.Bucket(claimsBucket)
		v := records.Get([]byte(id))
		if v == nil {
			return tenant.ErrNotFound
		}
		if _, err := readFile(id, v); !droppable(err) {
			return errors.Join(tenant.ErrReadable, err)
		}
		var has [][]byte
		err := claims.ForEach(func(k, v []byte) error {
			if string(v) == id {
				has = append(has, slices.Clone(k))
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		for _, c := range has {
			if err := claims.Delete(c); err != nil {
				return err
			}
		}
		if revision, err = records.NextSequence(); err != nil {
			return err
		}
		if err := records.Delete([]byte(id)); err != nil {
			return err
		}
		return note(tx, complete(e, &tenant.Record{ID: id}))
	}, func(f *feed) { f.put(id, state{nil, int64(revision)}) }) //nolint:gosec // a revision
}

// view reads.
func (s *fileStore) view(ctx context.Context, f func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return fileError(s.db.View(f))
}

// change writes in a transaction, and tells the feeds if it was committed.
func (s *fileStore) change(ctx context.Context, f func(*bbolt.Tx) error, tell func(*feed)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.writer <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.writer }()
	if err := s.db.Update(f); err != nil {
		return fileError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for feed := range s.mu.feeds {
		tell(feed)
	}
	return nil
}

func fileError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Watch implements tenant.Directory.
func (s *fileStore) Watch(ctx context.Context) (<-chan tenant.Change, error) {
	feed := newFeed()
	ctx, end, err := s.begin(ctx, func() { s.mu.feeds[feed] = struct{}{} }, func() { delete(s.mu.feeds, feed) })
	if err != nil {
		return nil, err
	}
	// The feed gets what changes from now on, and what is read is not older than now. So nothing is missed, and what was put is kept if it is later.
	list, err := s.List(ctx)
	if err != nil && !isDamaged(err) {
		end()
		return nil, err
	}
	feed.reset(list)
	out := make(chan tenant.Change)
	go func() {
		defer end()
		feed.run(ctx, out)
	}()
	return out, nil
}

// begin registers something that runs until ctx is done or the store is closed: its context ends with either, and Close waits for end. first and last are
// called under the lock.
func (s *fileStore) begin(ctx context.Context, first, last func()) (run context.Context, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, nil, ErrClosed
	}
	s.runs.Add(1)
	first()
	run, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return run, func() {
		stop()
		cancel()
		s.mu.Lock()
		last()
		s.mu.Unlock()
		s.runs.Done()
	}, nil
}

// Lock implements tenant.Directory. The file is this process's alone, and so are its locks.
func (s *fileStore) Lock(ctx context.Context, name string) (unlock func(), lost <-chan struct{}, err error) {
	if s.ctx.Err() != nil {
		return nil, nil, ErrClosed
	}
	unlock, err = s.locks.lock(ctx, s.ctx, name)
	if err != nil {
		return nil, nil, err
	}
	return unlock, s.ctx.Done(), nil
}

// Alive implements tenant.Directory. It returns when ctx is done.
func (s *fileStore) Alive(ctx context.Context, h tenant.Host) error {
	run, end, err := s.begin(ctx, func() { s.mu.hosts[h.Name] = &h }, func() {
		if s.mu.hosts[h.Name] == &h {
			delete(s.mu.hosts, h.Name)
		}
	})
	if err != nil {
		return err
	}
	defer end()
	<-run.Done()
	if ctx.Err() == nil {
		return ErrClosed
	}
	return nil
}

// Hosts implements tenant.Directory.
func (s *fileStore) Hosts(ctx context.Context) ([]tenant.Host, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, ErrClosed
	}
	list := make([]tenant.Host, 0, len(s.mu.hosts))
	for _, h := range s.mu.hosts {
		list = append(list, *h)
	}
	slices.SortFunc(list, func(a, b tenant.Host) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Close implements tenant.Directory.
func (s *fileStore) Close() error {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.cancel()
	s.runs.Wait()
	return s.db.Close()
}

// isDamaged reports whether all that is wrong are records that can't be read.
func isDamaged(err error) bool {
	var d *DamagedError
	return errors.As(err, &d)
}
