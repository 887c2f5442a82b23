package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

// The WAL archive is <tenant>/wal/<system identifier>/<segment or history file>. The identifier is in it because a tenant that was restored from a dump is
// another system, whose segments have the names of the first one's.
const walDir = "wal"

var (
	systemID    = regexp.MustCompile(`^[0-9]{1,20}$`)
	segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)
	historyName = regexp.MustCompile(`^([0-9A-F]{8})\.history$`)
	labelName   = regexp.MustCompile(`^[0-9A-F]{24}\.([0-9A-F]{8}\.backup|partial)$`)
)

// segment is a WAL segment's name: a timeline, and its number as the server counts, in halves.
type segment struct {
	timeline  uint32
	high, low uint32
}

func parseSegment(s string) (segment, error) {
	if !segmentName.MatchString(s) {
		return segment{}, fmt.Errorf("%q is not a WAL segment", s)
	}
	var n [3]uint32
	for i := range n {
		v, err := strconv.ParseUint(s[8*i:8*i+8], 16, 32)
		if err != nil {
			return segment{}, err
		}
		n[i] = uint32(v)
	}
	return segment{n[0], n[1], n[2]}, nil
}

func (s segment) String() string { return fmt.Sprintf("%08X%08X%08X", s.timeline, s.high, s.low) }

// number counts segments of a size from the beginning of WAL.
func (s segment) number(size int64) uint64 {
	return uint64(s.high)*perID(size) + uint64(s.low)
}

func at(timeline uint32, number uint64, size int64) segment {
	return segment{timeline, uint32(number / perID(size)), uint32(number % perID(size))} //nolint:gosec // as PostgreSQL has it
}

func perID(size int64) uint64 { return uint64(1<<32) / uint64(size) } //nolint:gosec // a valid size

func validSegment(size int64) bool { return size >= 1<<20 && size <= 1<<30 && size&(size-1) == 0 }

// head is what the first page of a segment says: whose it is, and how long segments are.
func head(r io.Reader) (system string, size int64, err error) {
	var b [40]byte // XLogLongPageHeaderData
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", 0, err
	}
	const long = 2 // XLP_LONG_HEADER
	if binary.NativeEndian.Uint16(b[2:])&long == 0 {
		return "", 0, errors.New("its first page has no long header")
	}
	size = int64(binary.NativeEndian.Uint32(b[32:]))
	if !validSegment(size) {
		return "", 0, fmt.Errorf("its segment size %d is not valid", size)
	}
	return strconv.FormatUint(binary.NativeEndian.Uint64(b[24:]), 10), size, nil
}

// Collect implements provision.Archive. A segment is deleted from the spool when it is on disk in the archive, so it can be done again at any point. When
// segments are missing between those that are there, all others are taken, and the error says which.
func (a *Archive) Collect(ctx context.Context, from provision.Source) error {
	gap, err := a.collect(ctx, from, "")
	if err == nil {
		err = gap
	}
	return fail(err)
}

// collect tells what is missing apart from what went wrong. system is whose history files are of which nothing else is there; empty = unknown.
func (a *Archive) collect(ctx context.Context, from provision.Source, system string) (gap, err error) {
	id := from.Record.ID
	if !tenantID.MatchString(id) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is not a tenant's ID", id)
	}
	if from.Driver == nil || from.Driver.Spool(from.Instance) == "" {
		return nil, provision.Errorf(provision.KindRefused, "the tenant's driver leaves no WAL to archive").WithHint("Take logical backups of it.")
	}
	spool := from.Driver.Spool(from.Instance)
	entries, err := os.ReadDir(spool)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(spool) // its owner may not lead us out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var size int64
	var taken []segment
	var histories []string
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		name := e.Name()
		switch {
		case !e.Type().IsRegular(): // a link of the tenant's, or something else that is not WAL
		case segmentName.MatchString(name):
			s, err := parseSegment(name)
			if err != nil {
				return nil, err
			}
			of, n, err := a.take(root, id, name, "")
			if errors.Is(err, fs.ErrNotExist) {
				continue // another was quicker
			}
			if err != nil {
				return nil, err
			}
			if of != system && len(taken) > 0 {
				taken = nil // an earlier system's leftovers came first
			}
			system, size, taken = of, n, append(taken, s)
		case historyName.MatchString(name):
			histories = append(histories, name)
		case labelName.MatchString(name): // the backup has it, and the next timeline what is partial
			if err := root.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	if system == "" {
		return nil, nil // whose a history file is says the first segment behind it
	}
	for _, name := range histories {
		if _, _, err := a.take(root, id, name, system); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return a.gaps(id, system, size, taken)
}

// take moves one file out of the spool.
func (a *Archive) take(root *os.Root, id, name, system string) (string, int64, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // should it have become a pipe
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, provision.Errorf(provision.KindFailed, "%s in the spool of WAL is not a file", name)
	}
	size := info.Size()
	if system == "" {
		var n int64
		if system, n, err = head(f); err == nil && n != size {
			err = fmt.Errorf("it has %d bytes, and should have %d", size, n)
		}
		if err != nil {
			return "", 0, provision.Errorf(provision.KindFailed, "%s in the spool is not a WAL segment: %v", name, err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", 0, err
		}
	} else if size > 1<<20 {
		return "", 0, provision.Errorf(provision.KindFailed, "%s in the spool has %d bytes, too many for a history file", name, size)
	}
	path := []string{id, walDir, system, name}
	same, err := a.same(f, path)
	if err != nil {
		return "", 0, err
	}
	if !same {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", 0, err
		}
		err := a.place.put(info.ModTime(), func(w io.Writer) error {
			s, err := a.keys.seal(nopCloser{w}, path...)
			if err != nil {
				return err
			}
			if _, err := io.Copy(s, f); err != nil {
				return err
			}
			return s.Close()
		}, path...)
		if err != nil {
			return "", 0, fmt.Errorf("archive %s: %w", name, err)
		}
	}
	return system, size, root.Remove(name)
}

// same reports whether the archive has a file already; it is an error if it has another under that name.
func (a *Archive) same(f io.Reader, path []string) (bool, error) {
	there, err := a.place.open(path...)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o, err := a.keys.open(there, "", path...)
	if err != nil {
		return false, nil // it is of no use: the spool has the better one
	}
	defer o.Close()
	old, now := sha256.New(), sha256.New()
	if _, err := io.Copy(old, o); err != nil {
		return false, nil
	}
	if _, err := io.Copy(now, f); err != nil {
		return false, err
	}
	if hex.EncodeToString(old.Sum(nil)) != hex.EncodeToString(now.Sum(nil)) {
		return false, provision.Errorf(provision.KindFailed, "the archive has another WAL segment under the name %s already", path[len(path)-1]).
			WithHint("Two instances archive as one tenant; stop the one that should not.")
	}
	return true, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// gaps looks for segments that are missing in front of those just taken.
func (a *Archive) gaps(id, system string, size int64, taken []segment) (gap, err error) {
	c, err := a.chain(id, system)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, s := range taken {
		n := s.number(size)
		if n == 0 {
			continue
		}
		before := at(0, n-1, size)
		if c.any(before) {
			continue
		}
		earlier := slices.ContainsFunc(slices.Collect(keysOf(c.segments)), func(x segment) bool { return x.number(size) < n })
		if earlier { // else it is the archive's first
			missing = append(missing, segment{s.timeline, before.high, before.low}.String())
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return provision.Errorf(provision.KindFailed, "the WAL archive has a gap: %s is missing", strings.Join(missing, ", ")).
		WithDetail("Backups from before it can be restored to a time before it only.").WithHint("Take a physical backup."), nil
}

func keysOf(m map[segment]item) func(func(segment) bool) {
	return func(yield func(segment) bool) {
		for s := range m {
			if !yield(s) {
				return
			}
		}
	}
}

// prune deletes WAL from before the first segment that a kept backup needs. Of a system without one nothing is of use.
func (a *Archive) prune(id string, kept []*manifest) error {
	systems, err := a.place.list(true, id, walDir)
	if err != nil {
		return err
	}
	for _, sys := range systems {
		first, size := uint64(0), int64(0)
		for _, m := range kept {
			if m.Content != ofInstance || m.System != sys.name {
				continue
			}
			s, err := parseSegment(m.Start)
			if err != nil {
				return err
			}
			if n := s.number(m.Segment); size == 0 || n < first {
				first, size = n, m.Segment
			}
		}
		if size == 0 {
			if err := a.place.remove(id, walDir, sys.name); err != nil {
				return err
			}
			continue
		}
		c, err := a.chain(id, sys.name)
		if err != nil {
			return err
		}
		for s, it := range c.segments {
			if s.number(size) < first {
				if err := a.place.remove(id, walDir, sys.name, it.name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkWAL reads what a backup is brought forward with to a time; zero = as far as that goes.
func (a *Archive) checkWAL(ctx context.Context, m *manifest, until time.Time) error {
	if m.Content != ofInstance {
		return nil
	}
	c, err := a.chain(m.Backup.Tenant, m.System)
	if err != nil {
		return err
	}
	list, _ := c.needs(m, until)
	for _, it := range list {
		path := []string{m.Backup.Tenant, walDir, m.System, it.name}
		from, err := a.place.open(path...)
		if err != nil {
			return err
		}
		o, err := a.keys.open(from, "", path...)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, reading{ctx, o})
		if err := errors.Join(err, o.Close()); err != nil {
			return err
		}
		if n != m.Segment {
			return damaged(strings.Join(path, "/"), "it has %d bytes, and should have %d", n, m.Segment)
		}
	}
	return nil
}

// fetch decrypts a file of the WAL archive into a directory.
func (a *Archive) fetch(root *os.Root, dir, id, system, name string) error {
	path := []string{id, walDir, system, name}
	from, err := a.place.open(path...)
	if err != nil {
		return err
	}
	o, err := a.keys.open(from, "", path...)
	if err != nil {
		return err
	}
	defer o.Close()
	f, err := root.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, o)
	return errors.Join(err, f.Close())
}
