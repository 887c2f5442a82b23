package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/tenant"
)

// A superuser runs programs on the host, as a user that can't do anything with what is not its instance's. Without root there is none.
func TestSuperuserStaysInside(t *testing.T) {
	t.Parallel()
	k := kit(t)
	mine, theirs := k.Instance(), k.Instance()
	mine.Superuser, mine.Limits.Disk = true, 256<<20
	if !root {
		if err := k.Plan(t.Context(), mine, nil); drivertest.Kind(err) != provision.KindRefused {
			t.Errorf("plan of a superuser's instance: %v, want %s", err, provision.KindRefused)
		}
		return
	}
	secret := filepath.Join(options(t).DataDir, "key")
	if err := os.WriteFile(secret, []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(secret)
	k.Up(mine)
	k.Up(theirs, mine)
	k.SQL(mine, "CREATE TABLE out (line text)")
	shell := func(script string) (string, error) {
		return k.Try(mine, mine.Password, "COPY out FROM PROGRAM '"+strings.ReplaceAll(script, "'", "''")+"'")
	}
	dir := options(t).DataDir
	their := filepath.Join(dir, theirs.ID)
	pm, err := k.State(t.Context(), theirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{
		"cat " + their + "/data/PG_VERSION", "ls " + their, "ls " + their + "/data", "ls " + their + "/socket", "ls " + their + "/spool",
		"echo > " + their + "/socket/x", "cat " + their + ".conf/postgresql.conf", "ls " + their + ".conf", "cat " + their + ".log",
		"cat " + secret, "ls " + dir, "echo > " + dir + "/x", "kill -0 " + strconv.Itoa(pm.PID), "cat /proc/" + strconv.Itoa(pm.PID) + "/environ",
		"ls /proc/" + strconv.Itoa(pm.PID) + "/fd/", "cat /proc/" + strconv.Itoa(os.Getpid()) + "/environ", "cat /etc/shadow",
		"test $(ulimit -Hn) -gt 4096", "test $(ulimit -Hc) != 0", "test $(ulimit -Hp || ulimit -Hu) -gt 1000", "test $(ulimit -Hf) = unlimited",
		// Of its own: what pgkennel reads and writes.
		"echo x >> " + dir + "/" + mine.ID + ".conf/pg_hba.conf", "echo x > " + dir + "/" + mine.ID + "/x", "cat " + dir + "/" + mine.ID + ".log",
		"mv " + dir + "/" + mine.ID + "/data " + dir + "/" + mine.ID + "/gone", "mv " + dir + "/" + mine.ID + "/socket " + dir + "/" + mine.ID + "/gone",
		`test -n "$(cat /sys/fs/cgroup/memory/*/` + mine.ID + `/tasks)" && echo 1 > /sys/fs/cgroup/memory/tasks`,
	} {
		if _, err := shell(script); drivertest.Code(err) != "38000" {
			t.Errorf("%s: %v, want 38000 (the program failed)", script, err)
		}
	}
	if _, err := shell("psql -w -h " + their + "/socket -p " + strconv.Itoa(theirs.Endpoint.Port) + " -U pgkennel -c 'SELECT 1'"); drivertest.Code(err) != "38000" {
		t.Errorf("the other's socket: %v, want 38000", err)
	}
	k.SQL(mine, "TRUNCATE out")
	if _, err := shell("id -u; id -G"); err != nil {
		t.Fatal(err)
	}
	if got, want := k.SQL(mine, "SELECT string_agg(line, '/') FROM out"), mine.Facts[tenant.UIDFact]; got != want+"/"+want {
		t.Errorf("a program runs as user and groups %s, want %s and nothing else", got, want)
	}
	// What of its environment could be of use?
	k.SQL(mine, "TRUNCATE out")
	if _, err := shell("env"); err != nil {
		t.Fatal(err)
	}
	if got := k.SQL(mine, "SELECT count(*) FROM out WHERE line ~ 'PGKENNEL|PGPASS|SECRET'"); got != "0" {
		t.Errorf("%s secrets are in its environment", got)
	}

	// A postmaster.pid that names another's server neither hides nor endangers it.
	if _, err := shell("sed 1s/.*/" + strconv.Itoa(pm.PID) + "/ postmaster.pid > x && cat x > postmaster.pid"); err != nil {
		t.Fatal(err)
	}
	k.Twice("stop of one that lies about its number", func(ctx context.Context) error { return k.Stop(ctx, mine) })
	if after, err := k.State(t.Context(), theirs); err != nil || after.PID != pm.PID || !after.Ready {
		t.Errorf("the other after that: %+v, %v; want process %d as before", after, err, pm.PID)
	}
}

// What a superuser's programs leave behind ends with the instance, and goes with it.
func TestNothingStaysBehind(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in := k.Instance()
	k.Up(in)
	litter := filepath.Join("/dev/shm", "litter-"+in.ID)
	k.SQL(in, "COPY (SELECT 1) TO PROGRAM 'echo > "+litter+"; setsid sleep 1000 >/dev/null 2>&1 </dev/null & cat >/dev/null'")
	if root {
		// One that is never there for long, but always again.
		k.SQL(in, "COPY (SELECT 1) TO PROGRAM 'echo \"setsid sh ./hop & exit\" > hop; setsid sh ./hop >/dev/null 2>&1 </dev/null & cat >/dev/null'")
	}
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	if uid := in.Facts[tenant.UIDFact]; uid != "" {
		if left, err := exec.Command("pgrep", "-r", "D,R,S,T", "-u", uid).Output(); err == nil {
			t.Errorf("processes of its user after it was stopped: %q", left)
		}
	}
	if left, err := exec.Command("pgrep", "-f", "^sleep 1000$").Output(); err == nil {
		for pid := range strings.FieldsSeq(string(left)) {
			if dir, err := os.Readlink("/proc/" + pid + "/cwd"); err == nil && strings.Contains(dir, in.ID) {
				t.Errorf("process %s runs after its instance was stopped", pid)
			}
		}
	}
	k.Do("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	if root {
		if _, err := os.Stat(litter); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what it wrote to shared memory: %v, want that it went with it", err)
		}
	} else if err := os.Remove(litter); err != nil { // it is this user's, who may have others
		t.Error(err)
	}
	k.Nothing()
}

// An operator who looks around in an instance's directory is not its process.
func TestSparesTerminals(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in := k.Instance()
	k.Up(in)
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err = errors.Join(err, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	shell := exec.Command("cat")
	shell.Dir, shell.Stdin = filepath.Join(options(t).DataDir, in.ID), other
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	if err := shell.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = shell.Wait()
	if s, ok := shell.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGTERM {
		t.Errorf("whoever is in the directory ended by %v, want this test's signal", s.Signal())
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in := k.Instance()
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	l, err := net.Listen("tcp", "127.0.0.1:"+in.Facts[tenant.PortFact])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	if err := k.Start(t.Context(), in); err == nil || !strings.Contains(err.Error(), "another program listens on its port "+in.Facts[tenant.PortFact]) {
		t.Errorf("start with its port taken: %v", err)
	}
	// At its socket alone it has nothing to do with that.
	o := options(t)
	o.NoTCP = true
	alone := drivertest.Kit{TB: t, Driver: openWith(t, o)}
	alone.Do("configure", func(ctx context.Context) error { _, err := alone.Configure(ctx, in); return err })
	alone.Do("start", func(ctx context.Context) error { return alone.Start(ctx, in) })
	if got := alone.SQL(in, "SHOW listen_addresses"); got != "" {
		t.Errorf("it listens at %q", got)
	}
	l.Close()
	k.Do("configure", func(ctx context.Context) error {
		need, err := k.Configure(ctx, in)
		if err == nil && need != provision.NeedRestart {
			t.Errorf("to listen at its port it needs %d, want %d", need, provision.NeedRestart)
		}
		return err
	})
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	if got := k.SQL(in, "SHOW listen_addresses"); got != "127.0.0.1" {
		t.Errorf("it listens at %q, want 127.0.0.1", got)
	}
}

// Numbers of processes are used again: what postmaster.pid names may be anybody.
func TestStalePID(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in := k.Instance()
	k.Up(in)
	data, uid, gid := k.DataDir(in)
	path := filepath.Join(data, "postmaster.pid")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	other := exec.Command("sleep", "1000")
	if root {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(before), "\n")
	if err := os.WriteFile(path, []byte(fmt.Sprintf("%d\n%s", other.Process.Pid, rest)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if st, err := k.State(t.Context(), in); err != nil || st.Running {
		t.Errorf("state with another's number: %+v, %v", st, err)
	}
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	if err := other.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the other was killed: %v", err)
	}
	_ = other.Wait()
	k.SQL(in, "SELECT 1")

	// A link or a pipe in its place is no reason to wait, or to read what it points to.
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	for _, make1 := range []func() error{
		func() error { return syscall.Mkfifo(path, 0o600) },
		func() error { return os.Symlink("/proc/self/status", path) },
	} {
		if err := make1(); err != nil {
			t.Fatal(err)
		}
		if st, err := k.State(t.Context(), in); err != nil || st.Running {
			t.Errorf("state: %+v, %v", st, err)
		}
		k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
		k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	}
}

// A volume that is full to the brim, WAL's room included, keeps its tenant down and nobody else; with what it had in reserve it starts, and goes on when there
// is room.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in, neighbour := k.Instance(), k.Instance()
	in.Limits.Disk = 128 << 20
	if !root {
		if err := k.Plan(t.Context(), in, nil); drivertest.Kind(err) != provision.KindRefused {
			t.Errorf("plan with a disk limit: %v, want %s", err, provision.KindRefused)
		}
		return
	}
	k.Up(in)
	k.Up(neighbour, in)
	k.SQL(neighbour, "CREATE TABLE n (t text)")
	k.SQL(in, "CREATE TABLE filler (t text)")
	var err error
	for range 100 { // until WAL has no room, which PostgreSQL does not survive
		if _, err = k.Try(in, in.Password, "INSERT INTO filler SELECT repeat(md5(n::text), 60) FROM generate_series(1, 4000) n"); err != nil {
			break
		}
		k.SQL(neighbour, "INSERT INTO n SELECT md5(n::text) FROM generate_series(1, 1000) n")
	}
	if err == nil {
		t.Fatal("700 MB went into a volume of 128 MiB")
	}
	// The last blocks, as a superuser's own file would take them.
	data, _, _ := k.DataDir(in)
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+data+"/filler", "bs=4k").CombinedOutput(); err == nil {
		t.Fatalf("the volume is not full: %s", out)
	}
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	if err := os.Remove(data + "/filler"); err != nil {
		t.Fatal(err)
	}
	k.SQL(in, "TRUNCATE filler")
	k.SQL(in, "INSERT INTO filler VALUES ('more')")
	k.SQL(neighbour, "INSERT INTO n VALUES ('after')")

	// As after the host was started anew, when nothing is mounted; and as if somebody else had it mounted where we don't see that. Then there must not be two
	// devices of one file.
	k.SQL(in, "CHECKPOINT")
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	for _, elsewhere := range []bool{false, true} {
		other := exec.Command("unshare", "--mount", "sh", "-c", "echo there; exec sleep 1000")
		if elsewhere {
			out, err := other.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Unmount(filepath.Dir(data), 0); err != nil {
			t.Fatal(err)
		}
		if !elsewhere {
			if st, err := k.State(t.Context(), in); err != nil || st.Running || !st.Data {
				t.Errorf("state: %+v, %v", st, err)
			}
		}
		k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
		if got := k.SQL(in, "SELECT t FROM filler"); got != "more" {
			t.Errorf("after the host's start: %q, want more", got)
		}
		k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
		devices, err := exec.Command("losetup", "-n", "-O", "NAME", "-j", filepath.Dir(data)+".img").Output()
		if n := strings.Count(string(devices), "\n"); err != nil || n != 1 {
			t.Errorf("the volume has %d devices, want 1: %v", n, err)
		}
		if elsewhere {
			if err := other.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = other.Wait()
		}
	}
	k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
}

// Logs do not grow for ever, and who follows one goes on after it was cut.
func TestLogsAreCut(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.LogSize = 64 << 10
	k := drivertest.Kit{TB: t, Driver: openWith(t, o)}
	in := k.Instance()
	k.Watching(in)
	k.Up(in)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow, err := k.Logs(ctx, in, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Close()
	log := filepath.Join(o.DataDir, in.ID+".log")
	k.SQL(in, "DO $$ BEGIN FOR i IN 1..100 LOOP RAISE LOG 'noise %', repeat('x', 1000); END LOOP; END $$")
	k.Eventually("the log is short", func() bool {
		st, err := os.Stat(log)
		old, err2 := os.Stat(log + ".1")
		return err == nil && err2 == nil && st.Size() < 64<<10 && old.Size() > 0 && old.Size() <= 128<<10
	})
	f, err := os.OpenFile(log, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	k.Eventually("what was reserved in the log is given back", func() bool {
		var st unix.Stat_t
		return unix.Stat(log, &st) == nil && st.Blocks*512 < 32<<20
	})
	k.SQL(in, "DO $$ BEGIN RAISE LOG 'after the cut'; END $$")
	var got strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(got.String(), "after the cut") {
		n, err := follow.Read(buffer)
		if err != nil {
			t.Fatalf("the log ended: %v", err)
		}
		got.Write(buffer[:n])
	}
	r, err := k.Logs(t.Context(), in, 50, false)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil || strings.Count(string(all), "\n") != 50 || !strings.Contains(string(all), "noise") || !strings.HasSuffix(string(all), "after the cut\n") && !strings.Contains(string(all), "after the cut") {
		t.Errorf("50 lines across the cut: %v, %d lines", err, strings.Count(string(all), "\n"))
	}
}
