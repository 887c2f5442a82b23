package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
)

// settings are checked, and take effect by what Configure says that they need.
func settings(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	in := k.Instance()
	in.Settings = map[string]string{"work_mem": "5MB", "app.motto": `it's \n a "value" = # with everything`}
	k.Up(in)
	show := func(name, want string) {
		t.Helper()
		if got := k.SQL(in, "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	show("work_mem", "5MB")
	show("app.motto", in.Settings["app.motto"])
	configure := func(want provision.Need) {
		t.Helper()
		k.Twice("configure", func(ctx context.Context) error {
			got, err := k.Configure(ctx, in)
			if err == nil && got != want {
				t.Errorf("settings %v need %d, want %d", in.Settings, got, want)
			}
			return err
		})
	}
	configure(provision.NeedNothing)
	in.Settings["work_mem"] = "6MB"
	configure(provision.NeedReload)
	show("work_mem", "5MB")
	k.Do("reload", func(ctx context.Context) error { return k.Reload(ctx, in) })
	show("work_mem", "6MB")
	configure(provision.NeedNothing)

	in.Settings["max_wal_senders"] = "7"
	delete(in.Settings, "work_mem")
	configure(provision.NeedRestart)
	k.Do("reload", func(ctx context.Context) error { return k.Reload(ctx, in) })
	configure(provision.NeedRestart) // it still does
	show("work_mem", "4MB")
	k.restart(in)
	show("max_wal_senders", "7")
	configure(provision.NeedNothing)

	for name, value := range map[string]string{
		"port": "1", "listen_addresses": "*", "data_directory": "/tmp", "hba_file": "/tmp/x", "unix_socket_directories": "/tmp", "archive_command": "true",
		"max_connections": "1", "SSL": "on", "ssl_cert_file": "x", "include": "/etc/passwd", "restore_command": "true", "recovery_target_time": "now",
		"wal_level": "minimal", "cluster_name": "x", "superuser_reserved_connections": "0", // pgkennel's own
		"work_mem": "much", "no_such_setting": "1", "a b": "1", "x'; DROP": "1", "": "1", // wrong
		"app.lines": "one\nport = 1", "app.cr": "one\rtwo", "app.zero": "a\x00b",
	} {
		with := *in
		with.Settings = map[string]string{name: value}
		if _, err := k.Configure(t.Context(), &with); Kind(err) != provision.KindInvalid {
			t.Errorf("setting %q = %q: %v, want %s", name, value, err, provision.KindInvalid)
		}
	}
	configure(provision.NeedNothing) // nothing of that was written
	k.restart(in)

	if caps.Elsewhere {
		return // these are somebody else's
	}
	// A superuser's own changes do not take an instance away from pgkennel.
	for _, set := range []string{"port = 1", "listen_addresses = '*'", "unix_socket_directories = '/tmp'", "archive_command = 'true'", "max_connections = 1"} {
		k.SQL(in, "ALTER SYSTEM SET "+set)
	}
	k.restart(in)
	show("listen_addresses", "127.0.0.1")
}

// refusals say what there is, and leave nothing.
func refusals(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	refused := func(what string, want provision.ErrorKind, change func(*provision.Instance)) {
		t.Helper()
		in := k.Instance()
		change(in)
		err := k.Plan(t.Context(), in, nil)
		if Kind(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
		if e := (*provision.Error)(nil); errors.As(err, &e) && want == provision.KindRefused && e.Message == "" {
			t.Errorf("%s: refused without a reason", what)
		}
		if in.Facts != nil {
			t.Errorf("%s: it was refused, and has facts %v", what, in.Facts)
		}
	}
	refused("a version that is not here", provision.KindRefused, func(in *provision.Instance) { in.Version = "9" })
	refused("a version that is none", provision.KindRefused, func(in *provision.Instance) { in.Version = "../15" })
	refused("a limit below zero", provision.KindInvalid, func(in *provision.Instance) { in.Limits.Connections = -1 })
	refused("reading and writing below zero", provision.KindInvalid, func(in *provision.Instance) { in.Limits.IO = -1 })
	refused("all memory and more", provision.KindRefused, func(in *provision.Instance) { in.Limits.Memory = 1 << 50 })
	refused("more disk than there is", provision.KindRefused, func(in *provision.Instance) { in.Limits.Disk = 1 << 60 })
	refused("more cores than there are", provision.KindRefused, func(in *provision.Instance) { in.Limits.CPU = 1000_000 })
	if !caps.Archive {
		refused("an archive", provision.KindRefused, func(in *provision.Instance) { in.Archive = true })
	}
	refused("a setting of pgkennel's own", provision.KindInvalid, func(in *provision.Instance) { in.Settings = map[string]string{"port": "1"} })
	if !caps.Superuser {
		refused("a superuser", provision.KindRefused, func(in *provision.Instance) { in.Superuser = true })
	}
	k.Nothing()
}

// limited brings an instance with limits up, or sees it refused where the host can't limit it.
func limited(t *testing.T, open func(testing.TB) provision.Driver, can bool, change func(*provision.Instance)) (k Kit, in *provision.Instance) {
	t.Helper()
	k = Kit{t, open(t)}
	in = k.Instance()
	change(in)
	if can {
		k.Up(in)
		return k, in
	}
	if err := k.Plan(t.Context(), in, nil); Kind(err) != provision.KindRefused {
		t.Errorf("plan with a limit that can't be had: %v, want %s", err, provision.KindRefused)
	}
	k.Nothing()
	return k, nil
}

func cpu(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k, in := limited(t, open, caps.CPU, func(in *provision.Instance) { in.Limits.CPU = 1000 })
	if in == nil {
		return
	}
	burn := func(seconds float64) float64 {
		t.Helper()
		before, err := k.Usage(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		k.SQL(in, fmt.Sprintf("DO $$ DECLARE t timestamptz := clock_timestamp(); BEGIN WHILE clock_timestamp() < t + '%g s' LOOP END LOOP; END $$", seconds))
		after, err := k.Usage(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return float64(after.CPU-before.CPU) / float64(time.Since(start))
	}
	limit := func(thousandths int) {
		t.Helper()
		in.Limits.CPU = thousandths
		k.Do("configure", func(ctx context.Context) error {
			need, err := k.Configure(ctx, in)
			if err == nil && (need == provision.NeedRestart) != caps.Elsewhere {
				t.Errorf("a limit of the CPU needs %d", need)
			}
			return err
		})
		if caps.Elsewhere {
			k.restart(in)
		}
	}
	limit(50) // a running one is limited at once
	if got := burn(1.2); got > 0.09 {
		t.Errorf("with a limit of a twentieth of a core it had %.2f", got)
	}
	limit(1000)
	k.Eventually("it has more than before", func() bool { return burn(0.4) > 0.09 }) // others may be at work too
}

// memory has a query want more than its instance may have, and then several want it together. Where each process has a limit of its own, the first has an error that nobody
// else notices; else, and of the others, the kernel ends one, and PostgreSQL begins anew in the same server.
func memory(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k, in := limited(t, open, caps.Memory, func(in *provision.Instance) { in.Limits.Memory = 128 << 20 })
	if in == nil {
		return
	}
	before := k.state(in, true, true)
	const hungry = "SELECT length(repeat('x', 100000000))" // 200 MB, of which the planner has half
	session := func() *pgx.Conn {
		config := k.config(in)
		config.User, config.Password, config.Database = provision.Superuser, in.Password, "postgres"
		config.DefaultQueryExecMode, config.Fallbacks = pgx.QueryExecModeSimpleProtocol, nil
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	run := func(conn *pgx.Conn, sql string) error {
		_, err := conn.Exec(t.Context(), sql)
		return err
	}
	greedy, other := session(), session()
	if err := run(other, "BEGIN; CREATE TEMP TABLE mine AS SELECT 1"); err != nil {
		t.Fatal(err)
	}
	err := run(greedy, hungry)
	if err == nil {
		t.Error("a session had more memory than its instance")
	}
	if caps.Data {
		if Code(err) != "53200" {
			t.Errorf("more than there is: %v, want 53200", err)
		}
		if err := errors.Join(run(greedy, "SELECT 1"), run(other, "TABLE mine")); err != nil {
			t.Errorf("after an error of one session: %v", err)
		}
		if after := k.state(in, true, true); after.PID != before.PID || after.OOMKills > 0 || after.Crashes > 0 {
			t.Errorf("after an error of one session: %+v, before %+v", after, before)
		}
		// Of all together, the kernel has the last word.
		var several sync.WaitGroup
		for range 6 {
			conn := session()
			several.Go(func() {
				_ = run(conn, "DO $$ DECLARE x text := repeat('x', 30000000); BEGIN PERFORM pg_sleep(20); END $$")
			})
		}
		several.Wait()
		if err := run(other, "TABLE mine"); err == nil {
			t.Error("six sessions had 180 MB of 128")
		}
	}
	k.Eventually("it goes on", func() bool {
		_, err := k.Try(in, in.Password, "SELECT 1")
		return err == nil
	})
	if after := k.state(in, true, true); after.PID != before.PID {
		t.Errorf("the server itself was killed: it is process %d and was %d", after.PID, before.PID)
	}
	// What needs a restart says so; the limit is in force before, for those too who are there.
	if caps.Data {
		other = session()
	}
	in.Limits.Memory = 512 << 20
	k.Do("configure", func(ctx context.Context) error {
		need, err := k.Configure(ctx, in)
		if err == nil && need != provision.NeedRestart {
			t.Errorf("more memory needs %d, want %d", need, provision.NeedRestart)
		}
		return err
	})
	if caps.Elsewhere {
		k.restart(in)
	}
	k.SQL(in, hungry)
	if !caps.Data {
		return
	}
	if err := run(other, hungry); err != nil {
		t.Errorf("a session from before has not more memory now: %v", err)
	}
	in.Limits.Memory = 0
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	if err := run(other, "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; test $(ulimit -S -d) = unlimited'"); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func disk(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k, in := limited(t, open, caps.Disk, func(in *provision.Instance) { in.Limits.Disk = 128 << 20 })
	if in == nil {
		return
	}
	fill := func() {
		t.Helper()
		_, err := k.Try(in, in.Password, "INSERT INTO filler SELECT repeat(md5(n::text), 50) FROM generate_series(1, 1000000) n")
		if Code(err) != "53100" {
			t.Fatalf("what fills the disk: %v, want 53100", err)
		}
	}
	k.SQL(in, "CREATE UNLOGGED TABLE filler (t text)")
	fill()
	if u, err := k.Usage(t.Context(), in); err != nil || u.DiskSize <= 0 || u.DiskSize > 128<<20 || u.Disk < u.DiskSize/4 || u.Disk > u.DiskSize {
		t.Errorf("usage with a limit of 128 MiB: %+v, %v", u, err)
	}
	k.SQL(in, "TRUNCATE filler")
	k.SQL(in, "INSERT INTO filler VALUES ('small')")
	// It can become larger, at once or by a restart, and not smaller.
	in.Limits.Disk = 192 << 20
	var need provision.Need
	k.Twice("configure", func(ctx context.Context) (err error) { need, err = k.Configure(ctx, in); return err })
	if need == provision.NeedRestart {
		k.restart(in)
	}
	k.SQL(in, "SELECT count(*) FROM filler")
	if u, err := k.Usage(t.Context(), in); err != nil || u.DiskSize < 140<<20 {
		t.Errorf("usage with a limit of 192 MiB: %+v, %v", u, err)
	}
	for _, less := range []int64{0, 128 << 20} {
		with := *in
		with.Limits.Disk = less
		if _, err := k.Configure(t.Context(), &with); Kind(err) != provision.KindRefused {
			t.Errorf("disk limit of %d: %v, want %s", less, err, provision.KindRefused)
		}
	}
	k.Twice("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Twice("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	k.Nothing()
}

// inout is how fast an instance may write: only a lower bound of what it takes can be judged.
func inout(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k, in := limited(t, open, caps.IO, func(in *provision.Instance) {
		in.Limits.IO = 8 << 20
		in.Settings = map[string]string{"fsync": "on"} // or the kernel writes when it likes
		if caps.IO && caps.Disk {
			in.Limits.Disk = 192 << 20
		}
	})
	if in == nil {
		return
	}
	write := func() time.Duration {
		t.Helper()
		k.SQL(in, "DROP TABLE IF EXISTS filler")
		start := time.Now()
		k.SQL(in, "CREATE TABLE filler AS SELECT repeat(md5(n::text), 50) FROM generate_series(1, 7500) n") // 12 MB, and as much WAL
		k.SQL(in, "CHECKPOINT")
		return time.Since(start)
	}
	slow := write()
	if slow < 2*time.Second {
		t.Errorf("24 MB were written in %v, with a limit of 8 MiB a second", slow)
	}
	in.Limits.IO = 1 << 30
	if caps.IODown {
		if _, err := k.Configure(t.Context(), in); Kind(err) != provision.KindRefused {
			t.Errorf("another limit while it runs: %v, want %s", err, provision.KindRefused)
		}
		k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	}
	k.Twice("configure", func(ctx context.Context) error {
		need, err := k.Configure(ctx, in)
		if err == nil && need != provision.NeedNothing {
			t.Errorf("a limit of reading and writing needs %d", need)
		}
		return err
	})
	if caps.IODown {
		k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	}
	k.Eventually("it is quicker than before", func() bool { return write() < slow/2 }) // others may be at work too
}

// connections are the tenant's; pgkennel has some above them.
func connections(t *testing.T, open func(testing.TB) provision.Driver, _ Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	in := k.Instance()
	in.Limits.Connections = 3
	k.Up(in)
	k.SQL(in, "CREATE ROLE somebody LOGIN PASSWORD 'secret'")
	connect := func() error {
		config := k.config(in)
		config.Fallbacks = nil
		config.User, config.Password, config.Database = "somebody", "secret", "postgres"
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err == nil {
			t.Cleanup(func() { conn.Close(context.Background()) })
		}
		return err
	}
	for n := range 3 {
		if err := connect(); err != nil {
			t.Fatalf("connection %d of 3: %v", n+1, err)
		}
	}
	if err := connect(); Code(err) != "53300" {
		t.Errorf("a connection above the limit: %v, want 53300", err)
	}
	k.SQL(in, "SELECT 1")
}

// restart has an instance down and up.
func (k Kit) restart(in *provision.Instance) {
	k.Helper()
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
}

// Eventually waits until something is so.
func (k Kit) Eventually(what string, ok func() bool) {
	k.Helper()
	for deadline := time.Now().Add(timeout); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("it never came to it that %s", what)
		}
	}
}
