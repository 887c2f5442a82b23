package drivertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

// life goes from the plan to the end, and asks for all that can be asked on the way.
func life(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	in := k.Instance()
	k.state(in, false, false)
	k.Up(in)
	if in.Version == "" || in.Endpoint.Port == 0 || in.Endpoint.Host == "" {
		t.Fatalf("plan left version %q and endpoint %v", in.Version, in.Endpoint)
	}
	up := k.state(in, true, true)
	if up.PID == 0 && !caps.Elsewhere {
		t.Error("it runs without a process")
	}
	if d := time.Since(up.Since); d < -2*time.Second || d > timeout {
		t.Errorf("it runs since %v, want now", up.Since)
	}
	if got := k.SQL(in, "SHOW server_version"); !strings.HasPrefix(got, in.Version) {
		t.Errorf("server is of version %s, want %s", got, in.Version)
	}
	for setting, want := range map[string]string{ //nolint:gosec // there is no password in it
		"data_checksums": "on", "server_encoding": "UTF8", "password_encryption": "scram-sha-256", "cluster_name": "t_" + in.ID,
	} {
		if got := k.SQL(in, "SHOW "+setting); got != want && (setting != "cluster_name" || !caps.Elsewhere) {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	for _, password := range []string{"", "wrong"} {
		if _, err := k.Try(in, password, "SELECT 1"); Code(err) != "28P01" && password != "" || err == nil {
			t.Errorf("password %q: %v, want 28P01", password, err)
		}
	}
	k.SQL(in, "CREATE TABLE life AS SELECT 42 AS n")
	k.logs(in)
	k.usage(in)
	k.tool(in)

	// As after pgkennel was started anew: it is still the same server, and the new driver's.
	k.Driver = open(t)
	k.Do("start of one that runs", func(ctx context.Context) error { return k.Start(ctx, in) })
	if again := k.state(in, true, true); again.PID != up.PID || !again.Since.Equal(up.Since) {
		t.Errorf("a new driver found process %d of %v, want %d of %v", again.PID, again.Since, up.PID, up.Since)
	}
	k.Twice("reload", func(ctx context.Context) error { return k.Reload(ctx, in) })
	k.Twice("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.state(in, true, false)
	if _, err := k.Try(in, in.Password, "SELECT 1"); err == nil {
		t.Error("it answers after it was stopped")
	}
	if err := k.Reload(t.Context(), in); Kind(err) != provision.KindState {
		t.Errorf("reload of one that is down: %v, want %s", err, provision.KindState)
	}
	k.Twice("init of one that is there", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Twice("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	if got := k.SQL(in, "SELECT n FROM life"); got != "42" {
		t.Errorf("after a restart: %s, want 42", got)
	}
	k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	k.state(in, false, false)
	k.Nothing()
}

// state fails if there is not what there should be.
func (k Kit) state(in *provision.Instance, data, running bool) provision.State {
	k.Helper()
	st, err := k.State(k.Context(), in)
	if err != nil || st.Data != data || st.Running != running || st.Ready != running || st.PID > 0 && !running {
		k.Fatalf("state: %+v, %v; want data %t, running and ready %t", st, err, data, running)
	}
	return st
}

func (k Kit) logs(in *provision.Instance) {
	k.Helper()
	const marker = "said by the test of drivers"
	k.SQL(in, "DO $$ BEGIN RAISE LOG '"+marker+"'; END $$")
	r, err := k.Logs(k.Context(), in, 20, false)
	if err != nil {
		k.Fatalf("logs: %v", err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(all), marker) {
		k.Errorf("logs: %v; the line that was logged is not in %q", err, all)
	}
	if n := strings.Count(string(all), "\n"); n > 20 {
		k.Errorf("logs are %d lines, want 20 at most", n)
	}
	ctx, cancel := context.WithTimeout(k.Context(), timeout)
	defer cancel()
	follow, err := k.Logs(ctx, in, 0, true)
	if err != nil {
		k.Fatalf("logs to be followed: %v", err)
	}
	defer follow.Close()
	k.SQL(in, "DO $$ BEGIN RAISE LOG 'later'; END $$")
	for lines := bufio.NewScanner(follow); ; {
		if !lines.Scan() {
			k.Fatalf("the log ended before the line that was logged later: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), marker) {
			k.Errorf("a log followed from its end begins with %q", lines.Text())
		}
		if strings.Contains(lines.Text(), "later") {
			break
		}
	}
	cancel()
	if _, err := io.Copy(io.Discard, follow); err != nil && !errors.Is(err, context.Canceled) {
		k.Errorf("the log's end: %v", err)
	}
}

func (k Kit) usage(in *provision.Instance) {
	k.Helper()
	k.SQL(in, "SELECT count(*) FROM generate_series(1, 300000)")
	u, err := k.Usage(k.Context(), in)
	if err != nil {
		k.Fatalf("usage: %v", err)
	}
	if u.Memory < 1<<20 || u.Memory > 1<<30 || u.CPU <= 0 || u.CPU > timeout || u.Disk < 20<<20 || u.Disk > 1<<30 || u.Processes < 3 || u.Processes > 50 {
		k.Errorf("usage of an idle instance: %+v", u)
	}
}

func (k Kit) tool(in *provision.Instance) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), timeout)
	defer cancel()
	cmd, err := k.Tool(ctx, in, "pg_dump", "--no-password", "-d", "postgres")
	if err != nil {
		k.Fatalf("tool: %v", err)
	}
	for _, arg := range cmd.Args {
		if strings.Contains(arg, in.Password) {
			k.Error("the password is among the arguments")
		}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "CREATE TABLE public.life") {
		k.Errorf("pg_dump: %v, %s: %.200s", err, stderr.String(), out)
	}
	if _, err := k.Tool(ctx, in, "../../../bin/sh"); Kind(err) != provision.KindInvalid {
		k.Errorf("a program that is not PostgreSQL's: %v, want %s", err, provision.KindInvalid)
	}
}

// crash has the server killed, once as this driver's and once as another's, and its end seen.
func crash(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	in := k.Instance()
	seen := k.Watching(in)
	k.Up(in)
	seen("start")
	k.SQL(in, "CREATE TABLE crash AS SELECT 1 AS n")
	for _, who := range []string{"own", "adopted"} {
		if who == "adopted" {
			k.Driver = open(t)
			seen = k.Watching(in)
		}
		k.SQL(in, "UPDATE crash SET n = n + 1")
		k.kill(in, caps)
		seen("end of its " + who + " server")
		k.Twice("start after a crash", func(ctx context.Context) error { return k.Start(ctx, in) })
		seen("next start")
		k.state(in, true, true)
	}
	if got := k.SQL(in, "SELECT n FROM crash"); got != "3" {
		t.Errorf("after two crashes: %s, want 3", got)
	}
	// One who does not let go is made to: here, by somebody who says that there is no time.
	k.kill(in, caps)
	k.Twice("stop after a crash", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.state(in, true, false)
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if err := k.Stop(late, in); err != nil {
		t.Errorf("stop without time: %v", err)
	}
	k.state(in, true, false)
	k.Do("start after it was made to stop", func(ctx context.Context) error { return k.Start(ctx, in) })
	if got := k.SQL(in, "SELECT n FROM crash"); got != "3" {
		t.Errorf("after it was made to stop: %s, want 3", got)
	}
}

// kill ends the server as the kernel does when memory is short.
func (k Kit) kill(in *provision.Instance, caps Caps) {
	k.Helper()
	st := k.state(in, true, true)
	if !caps.Kill {
		_, _ = k.Try(in, in.Password, "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; kill -9 $(head -1 postmaster.pid)'") // it may end before it answers
		return
	}
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		k.Fatal(err)
	}
}

// Watching returns a function that waits until Watch has told of the instance since it did so last.
func (k Kit) Watching(in *provision.Instance) func(of string) {
	k.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told, ended := make(chan struct{}, 1), make(chan error, 1)
	driver := k.Driver
	go func() {
		ended <- driver.Watch(ctx, func(id string) {
			if id == in.ID {
				select {
				case told <- struct{}{}:
				default:
				}
			}
		})
	}()
	k.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			k.Errorf("watch ended with %v", err)
		}
	})
	return func(of string) {
		k.Helper()
		select {
		case <-told:
		case <-time.After(timeout):
			k.Fatalf("watch does not tell of the %s", of)
		}
	}
}

// half has an instance destroyed after each of its first steps.
func half(t *testing.T, open func(testing.TB) provision.Driver, _ Caps) {
	t.Helper()
	for n := range 5 {
		t.Run(fmt.Sprint("after ", n, " steps"), func(t *testing.T) {
			t.Parallel()
			k := Kit{t, open(t)}
			in := k.Instance()
			steps := []func(ctx context.Context) error{
				func(ctx context.Context) error { return k.Plan(ctx, in, nil) },
				func(ctx context.Context) error { return k.Volume(ctx, in) },
				func(ctx context.Context) error { return k.Init(ctx, in) },
				func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err },
			}
			for i, step := range steps[:n] {
				k.Do(fmt.Sprint("step ", i+1), step)
			}
			found, err := k.Found(t.Context())
			if err != nil || slices.Contains(found, in.ID) != (n > 1) {
				t.Errorf("found %v, %v", found, err)
			}
			if n < 4 {
				if err := k.Start(t.Context(), in); err == nil {
					t.Error("one that is not whole was started")
				}
			}
			k.Twice("stop", func(ctx context.Context) error {
				if n == 0 {
					return nil // nobody stops what has no plan
				}
				return k.Stop(ctx, in)
			})
			k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
			k.Nothing()
		})
	}
}

// replica follows its primary, and leaves no slot with it.
func replica(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	k := Kit{t, open(t)}
	primary := k.Instance()
	copied := k.Instance()
	copied.Primary, copied.Password = primary, primary.Password
	if !caps.Replicas {
		k.Do("plan of the primary", func(ctx context.Context) error { return k.Plan(ctx, primary, nil) })
		if err := k.Plan(t.Context(), copied, []*provision.Instance{primary}); Kind(err) != provision.KindRefused {
			t.Errorf("plan of a replica: %v, want %s", err, provision.KindRefused)
		}
		return
	}
	primary.Settings = map[string]string{"max_prepared_transactions": "7", "max_locks_per_transaction": "100"} // a replica with less does not start
	k.Up(primary)
	k.SQL(primary, "CREATE TABLE r AS SELECT 1 AS n")
	k.Up(copied, primary)
	if got := k.SQL(copied, "SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("pg_is_in_recovery of the replica: %s", got)
	}
	k.follows(primary, copied, "2")
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, copied) })
	k.SQL(primary, "UPDATE r SET n = 3")
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, copied) })
	k.follows(primary, copied, "4")
	k.Twice("destroy of the replica", func(ctx context.Context) error { return k.Destroy(ctx, copied) })
	if got := k.SQL(primary, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots are left on the primary", got)
	}
}

func (k Kit) follows(primary, copied *provision.Instance, n string) {
	k.Helper()
	k.SQL(primary, "UPDATE r SET n = "+n)
	got := ""
	for deadline := time.Now().Add(timeout); got != n; got = k.SQL(copied, "SELECT n FROM r") {
		if time.Now().After(deadline) {
			k.Fatalf("the replica has %s, want %s", got, n)
		}
	}
}

// archive finds a finished segment in the spool.
func archive(t *testing.T, open func(testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	if !caps.Archive {
		return // it is refused, which is tested with the rest of that
	}
	k := Kit{t, open(t)}
	in := k.Instance()
	in.Archive = true
	k.Up(in)
	spool := k.Spool(in)
	want := k.SQL(in, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	k.SQL(in, "CREATE TABLE archived (n int)")
	k.SQL(in, "SELECT pg_switch_wal()")
	for deadline := time.Now().Add(timeout); ; {
		if st, err := os.Stat(filepath.Join(spool, want)); err == nil && st.Size() > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("segment %s did not come into the spool: %s", want, k.SQL(in, "SELECT last_failed_wal || ' failed' FROM pg_stat_archiver"))
		}
		k.SQL(in, "SELECT pg_sleep(0.01)")
	}
}
