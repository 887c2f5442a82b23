package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

// restoreDir is where WAL for a recovery waits in the data directory, with the recovery's settings. The server removes it when it is through.
const (
	restoreDir  = "pgkennel_restore"
	settings    = "settings.conf"
	includeLine = "include_if_exists = '" + restoreDir + "/" + settings + "'"
)

// Unpack implements provision.Archive. The data directory is made beside the one that is there, and takes its place when it is whole; only if the disk has no
// room for both, the old one goes first, when the backup was checked. WAL is decrypted into it: the server itself has no key. Who starts the instance has to wait until pg_is_in_recovery() is
// false: a driver may have it accept connections before.
func (a *Archive) Unpack(ctx context.Context, b *provision.Backup, to provision.Source, until time.Time, report func(provision.Progress)) error {
	m, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return fail(err)
	}
	if m.Content != ofInstance {
		return provision.Errorf(provision.KindInvalid, "backup %s is a logical one: it is loaded into a database", b.ID)
	}
	if to.Driver == nil || to.Instance == nil {
		return provision.Errorf(provision.KindRefused, "a physical backup makes an instance, and the tenant has none")
	}
	dir, uid, gid := to.Driver.DataDir(to.Instance)
	if dir == "" {
		return provision.Errorf(provision.KindRefused, "driver %s has no data directory on this host that a backup could be restored to", to.Driver.Name()).
			WithHint("Restore a logical backup.")
	}
	if v := to.Instance.Version; v != "" && major(v) != m.Backup.Version {
		return provision.Errorf(provision.KindRefused, "backup %s is of PostgreSQL %s, and the instance has %s", b.ID, m.Backup.Version, v).
			WithHint("Restore it into an instance of the same version.")
	}
	state, err := to.Driver.State(ctx, to.Instance)
	if err != nil {
		return fail(err)
	}
	if state.Running {
		return provision.Errorf(provision.KindState, "the instance is running").WithHint("Stop it first.")
	}
	if to.Record.ID == m.Backup.Tenant && to.Driver.Spool(to.Instance) != "" {
		// Timelines that the archive does not know would be begun a second time. What is missing in it is no hindrance here.
		gap, err := a.collect(ctx, to, controlSystem(dir))
		if err != nil {
			return fail(err)
		}
		if gap != nil {
			a.log.Warn("restore from an archive with a gap", "tenant", to.Record.ID, "error", gap)
		}
	}
	c, err := a.chain(m.Backup.Tenant, m.System)
	if err != nil {
		return fail(err)
	}
	if end := c.until(m); !until.IsZero() && (until.Before(m.Backup.From) || until.After(end)) {
		return provision.Errorf(provision.KindRefused, "backup %s can't be restored to %s", b.ID, until.UTC().Format(time.RFC3339Nano)).
			WithDetail("It can be restored to times from %s to %s.", m.Backup.From.UTC().Format(time.RFC3339Nano), end.UTC().Format(time.RFC3339Nano)).
			WithHint("A time before that needs an earlier physical backup; WAL is archived a segment at a time.")
	}
	u := &unpacker{a: a, m: m, dir: filepath.Clean(dir), uid: uid, gid: gid, until: until, history: c.files}
	u.wal, u.timeline = c.needs(m, until)
	return fail(u.run(ctx, newMeter(report, "restore", m.file(baseName).Plain)))
}

// needs are the WAL segments for a recovery until a time, and a little more: the server goes on until it meets a commit behind the time.
func (c *chain) needs(m *manifest, until time.Time) (list []item, timeline uint32) {
	list, timeline = c.follow(m)
	for i, it := range list {
		if !until.IsZero() && it.at.After(until) {
			return list[:min(i+2, len(list))], timeline
		}
	}
	return list, timeline
}

// controlSystem is whose data directory it is; empty if that can't be told.
func controlSystem(dir string) string {
	root, err := os.OpenRoot(dir) // the tenant's user may write to it
	if err != nil {
		return ""
	}
	defer root.Close()
	f, err := root.OpenFile("global/pg_control", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [8]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return ""
	}
	return strconv.FormatUint(binary.NativeEndian.Uint64(b[:]), 10)
}

type unpacker struct {
	a        *Archive
	m        *manifest
	dir      string
	uid, gid int
	until    time.Time
	wal      []item
	timeline uint32
	history  []string
}

func (u *unpacker) run(ctx context.Context, meter *meter) (err error) {
	parent, name := filepath.Split(u.dir)
	// Everything is done below this: the directory may belong to the tenant's user, who could lead us elsewhere.
	top, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer top.Close()
	next, old := name+".restore", name+".old"
	if _, err := top.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if _, err := top.Lstat(old); err == nil { // died between the two renames
			if err := top.Rename(old, name); err != nil {
				return err
			}
		}
	}
	for _, n := range []string{next, old} {
		if err := top.RemoveAll(n); err != nil {
			return err
		}
	}
	if u.tight(top) {
		if err := u.a.check(ctx, u.m); err != nil {
			return err
		}
		u.a.log.Warn("no room for two data directories, the old one goes first", "tenant", u.m.Backup.Tenant)
		if err := top.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := top.Mkdir(next, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, top.RemoveAll(next))
		}
	}()
	root, err := top.OpenRoot(next)
	if err != nil {
		return err
	}
	defer root.Close()
	err = u.a.read(ctx, u.m, baseName, func(r io.Reader) error {
		if _, err := scanBase(meter.reader(r), func(h *tar.Header, body io.Reader) error { return u.entry(root, h, body) }); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		return err
	}
	if err := u.recovery(ctx, root, filepath.Join(parent, next)); err != nil {
		return err
	}
	if err := root.Chown(".", u.uid, u.gid); err != nil {
		return err
	}
	if err := syncAll(root); err != nil {
		return err
	}
	if _, err := top.Lstat(name); err == nil {
		if err := top.Rename(name, old); err != nil {
			return err
		}
	}
	if err := top.Rename(next, name); err != nil {
		return errors.Join(err, top.Rename(old, name))
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	meter.end()
	return top.RemoveAll(old)
}

// tight reports whether the new directory fits in beside the old one only if that goes.
func (u *unpacker) tight(top *os.Root) bool {
	need := u.m.file(baseName).Plain + int64(len(u.wal)+2)*u.m.Segment
	free, err := available(top)
	return err == nil && free < need+need/20
}

// entry makes one entry of the backup.
func (u *unpacker) entry(root *os.Root, h *tar.Header, body io.Reader) error {
	name := filepath.Clean(filepath.FromSlash(h.Name))
	if !filepath.IsLocal(name) {
		return fmt.Errorf("base backup: %q is not a name in a data directory", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "." {
			return nil
		}
		if err := root.MkdirAll(name, 0o700); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("base backup: %s is neither a file nor a directory", h.Name)
	}
	return root.Lchown(name, u.uid, u.gid)
}

// recovery gives the server WAL, and says how far to go. Also without any it begins a new timeline: else it would write other WAL under names that the archive
// has already.
func (u *unpacker) recovery(ctx context.Context, root *os.Root, dir string) error {
	if err := root.Mkdir(restoreDir, 0o700); err != nil {
		return err
	}
	var names []string
	for _, it := range u.wal {
		names = append(names, it.name)
	}
	names = append(names, u.history...)
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := u.a.fetch(root, restoreDir, u.m.Backup.Tenant, u.m.System, n); err != nil {
			return fmt.Errorf("WAL segment %s: %w", n, err)
		}
	}
	conf := []string{
		"restore_command = 'cp \"" + restoreDir + "/%f\" \"%p\"'", "recovery_end_command = 'rm -rf " + restoreDir + "'", "recovery_target_timeline = '" + u.target() + "'",
		"hot_standby = off", // where the driver leaves that open
	}
	if !u.until.IsZero() {
		later, err := u.commitsAfter(ctx, filepath.Join(dir, restoreDir))
		if err != nil {
			return err
		}
		// Without one PostgreSQL would not find the end, and fail; and all that is there is from before the time.
		if later {
			conf = append(conf, "recovery_target_time = '"+u.until.UTC().Format("2006-01-02 15:04:05.999999")+"+00'", "recovery_target_action = 'promote'")
		}
	}
	files := map[string]string{
		filepath.Join(restoreDir, settings): strings.Join(conf, "\n") + "\n",
		"recovery.signal":                   "",
	}
	auto, err := root.ReadFile("postgresql.auto.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Contains(auto, []byte(includeLine)) {
		files["postgresql.auto.conf"] = strings.TrimRight(string(auto), "\n") + "\n" + includeLine + "\n"
	}
	for name, text := range files {
		if err := root.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
		names = append(names, "")
		if err := root.Lchown(name, u.uid, u.gid); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := root.Lchown(filepath.Join(restoreDir, n), u.uid, u.gid); err != nil {
			return err
		}
	}
	return nil
}

// target is the timeline to go on to; the backup's own has no history if it is the first.
func (u *unpacker) target() string {
	if s, err := parseSegment(u.m.Start); err == nil && s.timeline == u.timeline {
		return "current"
	}
	return strconv.FormatUint(uint64(u.timeline), 10)
}

// commitsAfter reports whether any transaction ended after the time, in the last segments that have one at all.
func (u *unpacker) commitsAfter(ctx context.Context, dir string) (bool, error) {
	version := 0
	if _, err := fmt.Sscan(u.m.Backup.Version, &version); err != nil {
		return false, err
	}
	program, err := find(version, "pg_waldump")
	if err != nil {
		u.a.log.Warn("without pg_waldump a restore to a time after the last transaction fails", "error", err)
		return true, nil
	}
	for _, it := range slices.Backward(u.wal) {
		last, err := lastCommit(ctx, program, filepath.Join(dir, it.name))
		if err != nil {
			return false, err
		}
		if last.After(u.until) {
			return true, nil
		}
		if !last.IsZero() && it.at.Before(u.until) {
			break
		}
	}
	return false, nil
}

// lastCommit is the latest time at which a transaction ended in a WAL segment; zero if none did.
func lastCommit(ctx context.Context, program, segment string) (last time.Time, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--rmgr=Transaction", segment) //nolint:gosec // PostgreSQL's own
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/bin:/bin"}
	said := &tail{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return last, err
	}
	if err := cmd.Start(); err != nil {
		return last, err
	}
	lines := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := lines.ReadSlice('\n')
		if t, ok := commitTime(line); ok && t.After(last) {
			last = t
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	// It ends with an error where WAL does, or a record goes on in the next segment.
	_ = cmd.Wait()
	return last, ctx.Err()
}

// commitTime finds the time in a line of pg_waldump's.
func commitTime(line []byte) (time.Time, bool) {
	for _, word := range []string{"desc: COMMIT ", "desc: ABORT ", "desc: COMMIT_PREPARED ", "desc: ABORT_PREPARED "} {
		_, rest, ok := bytes.Cut(line, []byte(word))
		if !ok {
			continue
		}
		_, rest, ok = cutDate(rest)
		if !ok {
			return time.Time{}, false
		}
		t, err := time.Parse("2006-01-02 15:04:05.999999 MST", string(rest))
		return t, err == nil
	}
	return time.Time{}, false
}

// cutDate finds "2026-11-22 21:47:01.123456 UTC".
func cutDate(b []byte) (before, date []byte, ok bool) {
	for i := 0; i+23 <= len(b); i++ {
		if b[i] < '0' || b[i] > '9' || b[i+4] != '-' || b[i+7] != '-' {
			continue
		}
		end := bytes.Index(b[i:], []byte(" UTC"))
		if end < 0 {
			return b, nil, false
		}
		return b[:i], b[i : i+end+4], true
	}
	return b, nil, false
}
