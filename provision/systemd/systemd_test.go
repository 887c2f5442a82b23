package systemd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/provision/systemd"
	"github.com/pgkennel/pgkennel/tenant"
)

// inside is the environment variable of this program when it runs where systemd is.
const inside = "PGKENNEL_TEST_SYSTEMD"

// unitDir is where pgkennel writes units in these tests.
const unitDir = "/run/systemd/system"

// TestRefused holds on hosts without systemd, and for users that are not root; where there is one, New works.
func TestRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) != "" {
		return // TestDriver tests that it is not
	}
	_, booted := os.Stat("/run/systemd/system")
	d, err := systemd.New(systemd.Options{Process: process.Options{DataDir: t.TempDir()}})
	want := "services have no access to /tmp" // where t.TempDir is
	switch {
	case os.Geteuid() != 0:
		want = "pgkennel is not root"
	case booted != nil:
		want = "this host was not started by systemd"
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("New: %v, %v; want an error with %q", d, err, want)
	}
}

// TestDriver runs this program again below a systemd of its own, and the tests of all drivers there.
func TestDriver(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) != "" {
		drivertest.Run(t, open, drivertest.Caps{CPU: true, Memory: true, Data: true, Disk: true, IO: true, Superuser: true, Replicas: true, Kill: true, Archive: true})
		return
	}
	if why := unable(t); why != "" {
		t.Logf("no systemd can be started here: %s; TestRefused tests what there is to be tested", why)
		return
	}
	pid := boot(t)
	cmd := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(pid), "-m", "-p", "-u", "-i", "-n", "-C", "/opt/program",
		"-test.v", "-test.timeout=5m", "-test.parallel=4", // they wait more than they work
		"-test.run=^(TestDriver|TestUnit|TestRestart|TestWatch|TestListen)")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("below systemd: %v\n%s", err, out)
	}
	t.Logf("below systemd:\n%s", out)
}

// busSocket is the unit of the system's bus. Where it is not installed, systemd's own socket has to do.
const busSocket = "/usr/lib/systemd/system/dbus.socket"

// unable says why no systemd can be started on this host.
func unable(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return "this is not root"
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		return err.Error()
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "true").CombinedOutput(); err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return ""
}

// boot starts systemd in namespaces and returns the process that is it.
func boot(t *testing.T) int {
	t.Helper()
	name := "pgkennel-test-" + strconv.Itoa(os.Getpid())
	dir := t.TempDir()
	script, err := filepath.Abs("testdata/boot.sh")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", script, dir, name, program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() { ended <- fmt.Sprint(cmd.Wait()) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it, all that is in its namespaces
		<-ended
		removeGroups(t, name)
	})
	me := strconv.Itoa(cmd.Process.Pid)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		children, err := os.ReadFile("/proc/" + me + "/task/" + me + "/children")
		pid, err2 := strconv.Atoi(strings.TrimSpace(string(children)))
		if errors.Join(err, err2) != nil {
			select {
			case how := <-ended:
				ended <- how
				t.Fatalf("systemd did not start: %s: %s", how, out.String())
			default:
			}
			continue
		}
		root := "/proc/" + strconv.Itoa(pid) + "/root"
		if _, err := os.Stat(root + "/run/systemd/private"); err != nil {
			continue
		}
		_, err = os.Stat(root + "/run/dbus/system_bus_socket")
		if _, none := os.Stat(busSocket); none != nil || err == nil {
			return pid
		}
	}
	t.Fatalf("systemd did not start in time: %s", out.String())
	return 0
}

// removeGroups removes the cgroups that systemd leaves.
func removeGroups(t *testing.T, name string) {
	t.Helper()
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		tops, _ := filepath.Glob(pattern) // the pattern is good
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, e os.DirEntry, err error) error { // what goes meanwhile is gone
				if err == nil && e.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		for _, dir := range slices.Backward(dirs) { // the lower ones come later
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d cgroups below %s are left", left, name)
			return
		}
	}
}

func open(t testing.TB) provision.Driver {
	t.Helper()
	d, err := systemd.New(systemd.Options{Process: process.Options{DataDir: drivertest.Dir(t, "/var/lib"), NoSync: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// systemctl asks systemd about a unit.
func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemctl", args...).CombinedOutput()
	if err != nil && args[0] != "is-active" {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestUnit looks at what systemd makes of a unit: no setting of it is unknown, limits are systemd's, and a superuser's programs are locked in.
func TestUnit(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) == "" {
		return // TestDriver runs it there
	}
	k := drivertest.Kit{TB: t, Driver: open(t)}
	in := k.Instance()
	in.Superuser = true
	in.Limits.CPU, in.Limits.Memory, in.Limits.Disk, in.Limits.IO = 500, 256<<20, 128<<20, 64<<20
	k.Up(in)
	unit := "pgkennel-" + in.ID + ".service"
	show := func(name, want string) {
		t.Helper()
		if got := systemctl(t, "show", "-P", name, unit); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	show("ActiveState", "active")
	show("Type", "notify")
	show("CPUQuotaPerSecUSec", "500ms")
	show("MemoryMax", strconv.Itoa(256<<20))
	dir := filepath.Dir(k.Spool(in))
	show("IOReadBandwidthMax", dir+" "+strconv.Itoa(64<<20))
	show("IOWriteBandwidthMax", dir+" "+strconv.Itoa(64<<20))
	show("NeedDaemonReload", "no")
	show("LimitNOFILE", "4096")
	in.Limits.CPU, in.Limits.Memory, in.Limits.IO = 250, 0, 32<<20
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	show("CPUQuotaPerSecUSec", "250ms")
	show("MemoryMax", "infinity")
	show("IOWriteBandwidthMax", dir+" "+strconv.Itoa(32<<20))
	in.Limits.IO = 0
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	show("IOReadBandwidthMax", "")
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	show("ActiveState", "inactive")
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	show("CPUQuotaPerSecUSec", "250ms")
	show("IOWriteBandwidthMax", "")
	show("NeedDaemonReload", "no")
	// Of other units it may say what it likes.
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", unitDir+"/"+unit).CombinedOutput(); err != nil || strings.Contains(string(out), unit+":") {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}

	k.SQL(in, "CREATE TABLE out (line text)")
	shell := func(script string) error {
		_, err := k.Try(in, in.Password, "COPY out FROM PROGRAM '"+strings.ReplaceAll(script, "'", "''")+"'")
		return err
	}
	own := "/var/lib/" + filepath.Base(filepath.Dir(k.Spool(in)))
	for _, script := range []string{
		"echo > /var/tmp/../lib/x", "echo > /dev/shm/../x", "ls /home/.", "ls /root", "test -e /proc/1/status", "test -e /dev/loop-control",
		"cat " + own + ".conf/../*.log", "unshare -U true", "grep 'NoNewPrivs:.0' /proc/self/status", "grep 'CapBnd:.*[1-9a-f]' /proc/self/status",
	} {
		if err := shell(script); drivertest.Code(err) != "38000" {
			t.Errorf("%s: %v, want 38000 (the program failed)", script, err)
		}
	}
	// It has a /tmp of its own, which goes with the server.
	if err := shell("echo > /tmp/litter-" + in.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/tmp/litter-" + in.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a program wrote to /tmp: %v, want that nobody else sees it", err)
	}
	k.Do("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	if left, _ := filepath.Glob("/run/systemd/*/" + unit + "*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	show("LoadState", "not-found")
}

// TestRestart has systemd itself start a server again that was killed, and no one that an operator stopped or that does not come up.
func TestRestart(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) == "" {
		return // TestDriver runs it there
	}
	k := drivertest.Kit{TB: t, Driver: open(t)}
	in := k.Instance()
	k.Up(in)
	before, err := k.State(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	k.Eventually("it runs again", func() bool {
		st, err := k.State(t.Context(), in)
		return err == nil && st.Ready && st.PID != before.PID
	})
	k.SQL(in, "SELECT 1")
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })

	data, _, _ := k.DataDir(in)
	if err := os.Rename(data+"/global/pg_control", data+"/global/gone"); err != nil {
		t.Fatal(err)
	}
	err = k.Start(t.Context(), in)
	if e := (*provision.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Detail, "pg_control") {
		t.Errorf("start of one that is broken: %v, want an error with the end of its log", err)
	}
	k.Eventually("it is given up", func() bool {
		state := systemctl(t, "is-active", "pgkennel-"+in.ID+".service")
		return state == "inactive" || state == "failed"
	})
	if err := os.Rename(data+"/global/gone", data+"/global/pg_control"); err != nil {
		t.Fatal(err)
	}
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
}

// TestListen has a unit serve other hosts: its server reads its certificate from within what locks it in, takes the next one when that is there, and lets in who
// shows one of the tenant's authority.
func TestListen(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) == "" {
		return // TestDriver runs it there
	}
	k := drivertest.Kit{TB: t, Driver: open(t)}
	in := k.Instance()
	key, err := tenant.NewSecret([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	v := tenant.NewVault(key)
	authority := func(more string) *tenant.Signer {
		t.Helper()
		a, err := tenant.NewAuthority(v, in.ID, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		a.Former = more
		s, err := a.Open(v, in.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := authority("")
	in.Authority = first
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	in.Endpoint.Remote = "127.0.0.2"
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	k.SQL(in, "CREATE ROLE app LOGIN PASSWORD 'secret'")
	// far is a pgkennel of another host that knows one authority, and has a certificate of another one, or none.
	far := func(knows, shows *tenant.Signer) error {
		t.Helper()
		c, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=app password=secret dbname=postgres sslmode=disable connect_timeout=30", in.Endpoint.Remote, in.Endpoint.Port))
		if err != nil {
			t.Fatal(err)
		}
		c.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: tenant.ServerName(in.ID), MinVersion: tls.VersionTLS12}
		c.TLSConfig.RootCAs.AppendCertsFromPEM([]byte(knows.Trusted))
		if shows != nil {
			made, err := shows.Client(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			c.TLSConfig.Certificates = []tls.Certificate{*made}
		}
		conn, err := pgx.ConnectConfig(t.Context(), c)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	if err := far(first, first); err != nil {
		t.Errorf("a pgkennel of another host: %v", err)
	}
	for what, shows := range map[string]*tenant.Signer{"none": nil, "another authority's": authority("")} {
		if err := far(first, shows); err == nil {
			t.Errorf("who shows a certificate of %s was let in", what)
		}
	}
	pid := func() int {
		t.Helper()
		st, err := k.State(t.Context(), in)
		if err != nil || st.Renew != (in.Authority != first) {
			t.Errorf("state: %+v, %v", st, err)
		}
		return st.PID
	}
	before := pid()
	in.Authority = authority(first.Trusted)
	if now := pid(); now != before {
		t.Errorf("the server is %d, and was %d", now, before)
	}
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Do("reload", func(ctx context.Context) error { return k.Reload(ctx, in) })
	k.Eventually("it shows the next one's, and takes the former's", func() bool { return far(in.Authority, first) == nil && far(first, in.Authority) != nil })
	if st, err := k.State(t.Context(), in); err != nil || st.Renew || st.PID != before {
		t.Errorf("behind a reload: %+v, %v; want the same server", st, err)
	}
}
