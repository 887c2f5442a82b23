package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// place is where backups are kept. Paths are words below it; the first is a tenant's ID. What is written is there as a whole or not at all, also after the
// power went.
type place interface {
	// draft begins a folder that nobody sees before it is committed.
	draft(path ...string) (draft, error)
	// drafting reports whether a draft in a folder is being written, by any process.
	drafting(path ...string) bool
	// put writes one file; at is when what is in it was made.
	put(at time.Time, write func(io.Writer) error, path ...string) error
	open(path ...string) (io.ReadCloser, error)
	// list are the files or folders in a folder, in the order of their names; none if it isn't there.
	list(folders bool, path ...string) ([]item, error)
	// remove takes a file or a folder away. It is no error if there is none.
	remove(path ...string) error
	// sweep takes away what died while it was written.
	sweep() error
}

// draft is a folder in the making. Either commit or abort ends it; abort may follow commit.
type draft interface {
	name() string                               // its folder's
	create(name string) (io.WriteCloser, error) // closing it is what says that it is written
	commit() error
	abort()
}

type item struct {
	name string
	size int64
	at   time.Time
}

// What is being written has the first in front of its name, what is being removed the second. Both begin with a dot, as nothing else does.
const (
	newMark = ".new-"
	oldMark = ".old-"
)

// local keeps backups in a directory of this machine.
type local struct{ dir string }

func (l local) path(path []string) string { return filepath.Join(l.dir, filepath.Join(path...)) }

// localDraft holds a lock on its folder, which ends with the process: so a sweep can tell the living from the dead.
type localDraft struct {
	temp, final string
	lock        *os.File
}

func (l local) draft(path ...string) (draft, error) {
	final := l.path(path)
	parent := filepath.Dir(final)
	if err := mkdirs(l.dir, parent); err != nil {
		return nil, err
	}
	d := &localDraft{temp: filepath.Join(parent, newMark+filepath.Base(final)), final: final}
	for range 3 { // a sweep may take it for dead before it is locked
		err := os.Mkdir(d.temp, 0o700)
		if err == nil {
			d.lock, err = lockPath(d.temp)
		}
		if err == nil {
			return d, nil
		}
		if err := errors.Join(err, os.RemoveAll(d.temp)); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s is swept away by another process", d.temp)
}

func (d *localDraft) name() string { return filepath.Base(d.final) }

func (d *localDraft) create(name string) (io.WriteCloser, error) {
	f, err := os.OpenFile(filepath.Join(d.temp, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return syncing{f}, nil
}

func (d *localDraft) commit() error {
	if err := syncDir(d.temp); err != nil {
		return err
	}
	if err := os.Rename(d.temp, d.final); err != nil {
		return err
	}
	d.temp = ""
	return errors.Join(syncDir(filepath.Dir(d.final)), d.lock.Close())
}

func (d *localDraft) abort() {
	if d.temp == "" {
		return
	}
	_ = os.RemoveAll(d.temp) // what stays is the next sweep's
	_ = d.lock.Close()
	d.temp = ""
}

// syncing is a file that is on the disk when it is closed.
type syncing struct{ *os.File }

func (f syncing) Close() error {
	err := f.Sync()
	return errors.Join(err, f.File.Close())
}

func (l local) drafting(path ...string) bool {
	list, _ := filepath.Glob(filepath.Join(l.path(path), newMark+"*"))
	for _, p := range list {
		if f, err := lockPath(p); err != nil {
			return true
		} else {
			f.Close()
		}
	}
	return false
}

func (l local) put(at time.Time, write func(io.Writer) error, path ...string) (err error) {
	final := l.path(path)
	parent := filepath.Dir(final)
	if err := mkdirs(l.dir, parent); err != nil {
		return err
	}
	var unique [6]byte
	rand.Read(unique[:]) // it does not fail
	temp := filepath.Join(parent, newMark+hex.EncodeToString(unique[:])+"-"+filepath.Base(final))
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(temp))
		}
	}()
	if err := flock(f); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Chtimes(temp, at, at); err != nil {
		return err
	}
	if err := os.Rename(temp, final); err != nil {
		return err
	}
	return errors.Join(syncDir(parent), f.Close())
}

func (l local) open(path ...string) (io.ReadCloser, error) {
	return os.Open(l.path(path))
}

func (l local) list(folders bool, path ...string) ([]item, error) {
	entries, err := os.ReadDir(l.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []item
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() != folders {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		list = append(list, item{name: e.Name(), size: info.Size(), at: info.ModTime()})
	}
	slices.SortFunc(list, func(a, b item) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

func (l local) remove(path ...string) error {
	p := l.path(path)
	info, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(p)
	}
	// In one move, so that nobody sees half of it.
	old := filepath.Join(filepath.Dir(p), oldMark+filepath.Base(p))
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(p, old); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

func (l local) sweep() error {
	var errs []error
	for _, pattern := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} { // tenant, backup or wal, system, segment
		for _, mark := range []string{newMark, oldMark} {
			list, _ := filepath.Glob(filepath.Join(l.dir, filepath.Dir(pattern), mark+"*"))
			for _, p := range list {
				f, err := lockPath(p)
				if err != nil {
					continue // somebody is at it, or was quicker
				}
				errs = append(errs, os.RemoveAll(p), f.Close())
			}
		}
	}
	return errors.Join(errs...)
}

// mkdirs makes dir below base, and has each new entry on the disk.
func mkdirs(base, dir string) error {
	rel, err := filepath.Rel(base, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("%s is not below %s", dir, base)
	}
	for word := range strings.SplitSeq(rel, string(filepath.Separator)) {
		if word == "." {
			continue
		}
		parent := base
		base = filepath.Join(base, word)
		err := os.Mkdir(base, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := syncDir(parent); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockPath takes the lock of a file or folder, or fails if another has it.
func lockPath(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// reading ends a read when ctx does.
type reading struct {
	ctx context.Context //nolint:containedctx // of one stream
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
