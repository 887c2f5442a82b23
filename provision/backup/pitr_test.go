package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
)

// live is a running instance that archives, made by the process driver.
type live struct {
	testing.TB
	provision.Source
	in *provision.Instance
	d  provision.Driver
}

func startLive(t testing.TB, settings map[string]string) *live {
	t.Helper()
	dir := pgtest.Dir(t)
	d := must[*process.Driver](t)(process.New(process.Options{DataDir: dir, NoSync: true}))
	in := &provision.Instance{ID: tenant.NewID(), Password: tenant.NewPassword(), Archive: true, Settings: settings}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := errors.Join(d.Destroy(ctx, in), os.RemoveAll(dir)); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	l := &live{TB: t, in: in, d: d}
	check(t, d.Plan(t.Context(), in, nil))
	check(t, d.Volume(t.Context(), in))
	check(t, d.Init(t.Context(), in))
	l.start()
	l.Source = provision.Source{
		Record: &tenant.Record{ID: in.ID, Isolation: tenant.Instance}, Instance: in, Driver: d,
		Connect: provision.Connect{Host: in.Endpoint.Host, Port: in.Endpoint.Port, User: provision.Superuser, Password: in.Password, Database: "postgres"},
	}
	return l
}

func (l *live) start() {
	l.Helper()
	_, err := l.d.Configure(l.Context(), l.in)
	check(l, err)
	if err := l.d.Start(l.Context(), l.in); err != nil {
		logs, _ := l.d.Logs(l.Context(), l.in, 50, false)
		text, _ := io.ReadAll(logs)
		l.Fatalf("start: %s\n%s", explain(err), text)
	}
}

func (l *live) stop() {
	l.Helper()
	check(l, l.d.Stop(l.Context(), l.in))
}

// sql runs statements and returns the last one's first value.
func (l *live) sql(statements ...string) string {
	l.Helper()
	conn := must[*pgx.Conn](l)(connect(l.Context(), l.Connect))
	defer hangUp(l.Context(), conn)
	var out string
	for _, s := range append([]string{"SET search_path = public"}, statements...) {
		results, err := conn.PgConn().Exec(l.Context(), s).ReadAll()
		check(l, err)
		for _, r := range results {
			for _, row := range r.Rows {
				out = string(row[0])
			}
		}
	}
	return out
}

// flush has all WAL of now collected.
func (l *live) flush(a *Archive) {
	l.Helper()
	segment := l.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())", "CREATE TABLE IF NOT EXISTS flushed ()", "DROP TABLE flushed", "SELECT pg_walfile_name(pg_switch_wal())")
	l.await(func() bool {
		_, err := os.Stat(filepath.Join(l.d.Spool(l.in), segment))
		return err == nil
	}, segment+" in the spool")
	check(l, a.Collect(l.Context(), l.Source))
}

func (l *live) await(done func() bool, what string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			l.Fatalf("timed out waiting for %s", what)
		case <-tick.C:
		}
	}
}

func (l *live) now() time.Time {
	l.Helper()
	return must[time.Time](l)(time.Parse(time.RFC3339Nano, l.sql(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.USZ')`)))
}

// restore puts the instance back to a time.
func (l *live) restore(a *Archive, b *provision.Backup, until time.Time) {
	l.Helper()
	l.stop()
	check(l, a.Unpack(l.Context(), b, l.Source, until, nil))
	l.start()
	l.await(func() bool { return l.sql("SELECT pg_is_in_recovery()") == "f" }, "the end of the recovery")
}

func TestPITRBringsBackRowsAsOfATime(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	l := startLive(t, nil)
	rows := func() string { return l.sql("SELECT string_agg(x, ',' ORDER BY x) FROM r") }
	l.sql("CREATE TABLE r (x text)", "INSERT INTO r VALUES ('a before')")
	var told provision.Progress
	b := must[*provision.Backup](t)(a.Base(t.Context(), l.Source, "first", func(p provision.Progress) { told = p }))
	if b.Kind != provision.Physical || b.From.IsZero() || told.Done < 10<<20 || !told.Bytes {
		t.Errorf("got %+v, progress %+v", b, told)
	}
	check(t, a.Check(t.Context(), b, time.Time{}))
	l.sql("INSERT INTO r VALUES ('b then')")
	then := l.now()
	l.flush(a)
	l.sql("INSERT INTO r VALUES ('c after')")
	l.flush(a)
	l.sql("INSERT INTO r VALUES ('d lost')")
	second := must[*provision.Backup](t)(a.Base(t.Context(), l.Source, "", nil))

	refused(t, a.Unpack(t.Context(), b, l.Source, then, nil), provision.KindState, "is running")
	list := must[[]provision.Backup](t)(a.List(t.Context(), l.Record.ID))
	if list = list[1:]; !list[0].From.Equal(b.From) || !list[0].Until.After(then) || list[0].Until.After(l.now()) {
		t.Errorf("it can be restored from %v until %v", list[0].From, list[0].Until)
	}
	l.stop()
	for _, at := range []time.Time{b.From.Add(-time.Second), time.Now().Add(time.Hour)} {
		refused(t, a.Unpack(t.Context(), b, l.Source, at, nil), provision.KindRefused, "times from "+b.From.Format(time.RFC3339Nano)+" to 2")
	}
	l.start()
	if got := rows(); got != "a before,b then,c after,d lost" {
		t.Fatalf("a refused restore changed the rows to %s", got)
	}
	check(t, a.Collect(t.Context(), l.Source)) // what the stop left
	if os.Geteuid() == 0 {
		if got := l.sql("SHOW data_directory_mode"); got != "0700" {
			t.Errorf("the data directory has mode %s", got)
		}
	}
	l.restore(a, b, then)
	if got := rows(); got != "a before,b then" {
		t.Errorf("at %v there was %s", then, got)
	}
	dir, _, _ := l.d.DataDir(l.in)
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "data*")); len(left) != 1 {
		t.Errorf("got %v, want the data directory only", left)
	}
	l.await(func() bool { _, err := os.Stat(filepath.Join(dir, restoreDir)); return err != nil }, "the WAL of the recovery to be removed")

	// A backup from the time that was undone comes back on a timeline of its own.
	l.flush(a)
	l.restore(a, second, time.Time{})
	if got := rows(); !strings.HasPrefix(got, "a before,b then,c after,d lost") {
		t.Errorf("what was undone came back as %s", got)
	}
	l.flush(a)

	// The new timeline is archived and restored as the old one was; the end of WAL is what no transaction ended after.
	l.sql("INSERT INTO r VALUES ('e anew')")
	l.flush(a)
	l.restore(a, second, time.Time{})
	if got := rows(); !strings.HasPrefix(got, "a before,b then,c after,d lost") || !strings.Contains(got, "e anew") {
		t.Errorf("at the end of WAL there was %s", got)
	}
}

func TestPITRToATimeWhenNothingHappened(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	l := startLive(t, nil)
	l.sql("CREATE TABLE r (x text)")
	b := must[*provision.Backup](t)(a.Base(t.Context(), l.Source, "", nil))
	l.sql("INSERT INTO r VALUES ('last')")
	idle := l.now()
	name := l.sql("SELECT pg_walfile_name(pg_switch_wal())")
	l.await(func() bool { _, err := os.Stat(filepath.Join(l.d.Spool(l.in), name)); return err == nil }, name)
	check(t, a.Collect(t.Context(), l.Source))
	l.restore(a, b, idle)
	if got := l.sql("SELECT x FROM r"); got != "last" {
		t.Errorf("got %q, want the last row", got)
	}
	// Without WAL behind it, a backup brings back its own time.
	fresh := must[*provision.Backup](t)(a.Base(t.Context(), l.Source, "", nil))
	l.sql("INSERT INTO r VALUES ('later')")
	l.restore(a, fresh, fresh.From)
	if got := l.sql("SELECT string_agg(x, ',') FROM r"); got != "last" {
		t.Errorf("got %q, want the rows of the backup", got)
	}

	// Damage leaves the instance as it is.
	broken := must[*provision.Backup](t)(a.Base(t.Context(), l.Source, "", nil))
	l.sql("INSERT INTO r VALUES ('kept')")
	l.flush(a)
	check(t, a.Check(t.Context(), broken, time.Time{}))
	m := must[*manifest](t)(a.manifest(l.Record.ID, broken.ID))
	wal, _ := must[*chain](t)(a.chain(l.Record.ID, m.System)).follow(m)
	flip := func(path string) func() {
		text := must[[]byte](t)(os.ReadFile(path))
		text[1000] ^= 1
		check(t, os.WriteFile(path, text, 0o600))
		return func() {
			text[1000] ^= 1
			check(t, os.WriteFile(path, text, 0o600))
		}
	}
	l.stop()
	for _, path := range []string{filepath.Join(broken.ID, baseName), filepath.Join(walDir, m.System, wal[0].name)} {
		mend := flip(filepath.Join(dirOf(a), l.Record.ID, path))
		refused(t, a.Check(t.Context(), broken, time.Time{}), provision.KindFailed, path, "damaged or was changed")
		refused(t, a.Unpack(t.Context(), broken, l.Source, time.Time{}, nil), provision.KindFailed, path, "damaged or was changed")
		mend()
	}
	l.start()
	if got := l.sql("SELECT string_agg(x, ',') FROM r"); got != "last,kept" {
		t.Errorf("after restores that failed there was %q", got)
	}
	refused(t, a.Load(t.Context(), broken, l.Source, nil), provision.KindInvalid, "physical")
	refused(t, a.Export(t.Context(), broken, "", io.Discard, nil), provision.KindInvalid, "physical")
	refused(t, a.Unpack(t.Context(), dump(t, a, l.Source), l.Source, time.Time{}, nil), provision.KindInvalid, "logical")
	check(t, a.place.remove(l.Record.ID, broken.ID))
	replacesWithoutRoomForBoth(t, a, fresh)

	// Only WAL that a kept backup needs is kept.
	l.flush(a)
	gone := must[[]provision.Backup](t)(a.Expire(t.Context(), l.Record.ID, 1))
	if len(gone) != 1 || gone[0].ID != b.ID {
		t.Errorf("got %v, want the first gone", gone)
	}
	m = must[*manifest](t)(a.manifest(l.Record.ID, fresh.ID))
	items := must[[]item](t)(a.place.list(false, l.Record.ID, walDir, m.System))
	if len(items) == 0 {
		t.Error("no WAL is left")
	}
	first := must[segment](t)(parseSegment(m.Start))
	for _, it := range items {
		if s, err := parseSegment(it.name); err == nil && s.number(m.Segment) < first.number(m.Segment) {
			t.Errorf("%s is from before %s", it.name, m.Start)
		}
	}
	check(t, a.Check(t.Context(), fresh, time.Time{}))
}

// replacesWithoutRoomForBoth unpacks a backup twice where one data directory fits.
func replacesWithoutRoomForBoth(t *testing.T, a *Archive, b *provision.Backup) {
	t.Helper()
	m := must[*manifest](t)(a.manifest(b.Tenant, b.ID))
	wal, _ := must[*chain](t)(a.chain(b.Tenant, m.System)).follow(m)
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		size := m.file(baseName).Plain*21/20 + int64(len(wal)+3)*m.Segment
		check(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", size)))
		defer func() { check(t, syscall.Unmount(dir, 0)) }()
	}
	d := dataOnly{dir: filepath.Join(dir, "data")}
	to := provision.Source{Record: &tenant.Record{ID: tenant.NewID()}, Instance: &provision.Instance{Version: "15"}, Driver: d}
	for range 2 {
		check(t, a.Unpack(t.Context(), b, to, time.Time{}, nil))
		if got := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(got) != 1 || got[0].Name() != "data" {
			t.Errorf("got %v", got)
		}
	}
	auto := must[[]byte](t)(os.ReadFile(filepath.Join(d.dir, "postgresql.auto.conf")))
	if n := strings.Count(string(auto), includeLine); n != 1 {
		t.Errorf("it is configured %d times:\n%s", n, auto)
	}
	to.Instance.Version = "14"
	refused(t, a.Unpack(t.Context(), b, to, time.Time{}, nil), provision.KindRefused, "PostgreSQL 15", "has 14")
	d.dir = ""
	to.Driver = d
	refused(t, a.Unpack(t.Context(), b, to, time.Time{}, nil), provision.KindRefused, "no data directory on this host")
}

// dataOnly is a driver that only has a data directory.
type dataOnly struct {
	provision.Driver
	dir string
}

func (d dataOnly) Name() string { return "data only" }

func (d dataOnly) DataDir(*provision.Instance) (string, int, int) {
	return d.dir, os.Getuid(), os.Getgid()
}

func (d dataOnly) State(context.Context, *provision.Instance) (provision.State, error) {
	return provision.State{}, nil
}

func TestCollectCanBeRepeatedAndNoticesGaps(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	a := open(t, "")
	s := provision.Source{Record: &tenant.Record{ID: tenant.NewID()}, Instance: &provision.Instance{}, Driver: spoolOnly{dir: spool}}
	write := func(name string, system byte, fill byte) {
		t.Helper()
		b := make([]byte, 1<<20)
		b[2], b[24], b[34] = 2, system, 0x10 // long header, system identifier, 1 MiB
		for i := 100; i < len(b); i++ {
			b[i] = fill
		}
		check(t, os.WriteFile(filepath.Join(spool, name), b, 0o600))
	}
	name := func(tli, n int) string { return fmt.Sprintf("%08X%08X%08X", tli, 0, n) }
	stored := func() string {
		var names []string
		for _, system := range must[[]item](t)(a.place.list(true, s.Record.ID, walDir)) {
			for _, it := range must[[]item](t)(a.place.list(false, s.Record.ID, walDir, system.name)) {
				names = append(names, system.name+":"+strings.TrimLeft(it.name, "0"))
			}
		}
		return strings.Join(names, " ")
	}
	check(t, a.Collect(t.Context(), s))
	write(name(1, 1), 7, 'a')
	write(name(1, 2), 7, 'b')
	check(t, os.WriteFile(filepath.Join(spool, "00000002.history"), []byte("1\t0/200000\tno recovery target specified\n"), 0o600))
	check(t, os.WriteFile(filepath.Join(spool, name(1, 1)+".00000028.backup"), []byte("x"), 0o600))
	check(t, os.WriteFile(filepath.Join(spool, name(1, 9)+".part"), []byte("x"), 0o600))
	check(t, os.WriteFile(filepath.Join(spool, name(1, 3)+".partial"), []byte("x"), 0o600))
	check(t, os.Symlink("/etc/passwd", filepath.Join(spool, name(1, 8))))
	check(t, a.Collect(t.Context(), s))
	if got, want := stored(), "7:10000000000000001 7:10000000000000002 7:2.history"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	left := must[[]os.DirEntry](t)(os.ReadDir(spool))
	if len(left) != 2 {
		t.Errorf("the spool has %v, want the unfinished one and the link", left)
	}
	// Killed between the archive and the spool: the same again is no error, another of that name is.
	write(name(1, 2), 7, 'b')
	check(t, a.Collect(t.Context(), s))
	write(name(1, 2), 7, 'c')
	refused(t, a.Collect(t.Context(), s), provision.KindFailed, "another WAL segment under the name")
	check(t, os.Remove(filepath.Join(spool, name(1, 2))))
	write(name(1, 4), 7, 'd')
	write(name(2, 5), 7, 'e')
	refused(t, a.Collect(t.Context(), s), provision.KindFailed, "gap", name(1, 3))
	write(name(2, 6), 7, 'e')
	check(t, a.Collect(t.Context(), s)) // said once
	// A new system under the same tenant begins anew.
	write(name(1, 1), 9, 'z')
	check(t, a.Collect(t.Context(), s))
	if got := stored(); !strings.HasSuffix(got, " 9:10000000000000001") {
		t.Errorf("got %s", got)
	}
	for text, words := range map[string]string{"short": "not a WAL segment", strings.Repeat("x", 1<<20): "not a WAL segment"} {
		check(t, os.WriteFile(filepath.Join(spool, name(3, 1)), []byte(text), 0o600))
		refused(t, a.Collect(t.Context(), s), provision.KindFailed, words)
	}
	check(t, os.Remove(filepath.Join(spool, name(3, 1))))

	// Without a physical backup none of it is of use.
	_, err := a.Expire(t.Context(), s.Record.ID, 1)
	check(t, err)
	if got := stored(); got != "" {
		t.Errorf("got %s, want nothing", got)
	}
	refused(t, a.Collect(t.Context(), provision.Source{Record: s.Record}), provision.KindRefused)
}

// spoolOnly is a driver that only has a spool.
type spoolOnly struct {
	provision.Driver
	dir string
}

func (s spoolOnly) Spool(*provision.Instance) string { return s.dir }
