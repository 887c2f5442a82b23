package docker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/docker"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/process"
)

// Tests wait more than they work: more of them at once than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("4"); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// TestRefused holds on all hosts: without an engine that will do, there is no driver.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*docker.Options)
		want   string
	}{
		"no engine":         {func(o *docker.Options) { o.Host = "unix:///nonexistent.sock" }, "no engine answers at unix:///nonexistent.sock"},
		"one elsewhere":     {func(o *docker.Options) { o.Host = "tcp://192.0.2.1:2375" }, "may be on another host"},
		"image":             {func(o *docker.Options) { o.Image = "postgres:17" }, "{version} is not in it"},
		"the host's net":    {func(o *docker.Options) { o.Network = "host" }, "may not have the host's network"},
		"no data directory": {func(o *docker.Options) { o.Process.DataDir = "" }, "data_dir is not set"},
	} {
		o := docker.Options{Process: process.Options{DataDir: t.TempDir()}, Host: "unix:///nonexistent.sock"}
		c.change(&o)
		if os.Geteuid() != 0 {
			c.want = "pgkennel is not root"
		}
		if d, err := docker.New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want an error with %q", name, d, err, c.want)
		}
	}
}

// TestDriver runs the tests of all drivers with an engine of its own, or with the one that DOCKER_HOST names. A host with neither has TestRefused only;
// `make provisioners` installs one.
func TestDriver(t *testing.T) {
	t.Parallel()
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		dockerd, err := exec.LookPath("dockerd")
		if err != nil || os.Geteuid() != 0 {
			d, err := docker.New(docker.Options{Process: process.Options{DataDir: t.TempDir()}, Host: "unix://" + t.TempDir() + "/none"})
			if err == nil {
				t.Errorf("without an engine there is a driver: %v", d)
			}
			return
		}
		host = startEngine(t, dockerd)
	}
	const repository = "pgkennel-test"
	makeImage(t, host, repository)
	open := func(t testing.TB) provision.Driver {
		t.Helper()
		d, err := docker.New(docker.Options{
			Process: process.Options{DataDir: drivertest.Dir(t, "/tmp"), NoSync: true}, Host: host, Image: repository + ":{version}",
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	t.Run("all", func(t *testing.T) { // so that the engine ends after them
		drivertest.Run(t, open, drivertest.Caps{CPU: true, Memory: true, Data: true, Disk: true, IO: true, IODown: true, Superuser: true, Replicas: true, Kill: true, Archive: true})
		t.Run("Leftover", func(t *testing.T) { t.Parallel(); leftover(t, open, host) })
		t.Run("Container", func(t *testing.T) { t.Parallel(); inContainer(t, open, host) })
	})
}

// startEngine starts a Docker engine that has nothing to do with the host's, if that has one: no bridge, no packet filter, in a network of its own.
func startEngine(t *testing.T, dockerd string) (host string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgk-engine-")
	if err != nil {
		t.Fatal(err)
	}
	group := "pgkennel-test-" + strconv.Itoa(os.Getpid())
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.CommandContext(context.Background(), dockerd, "-H", "unix://"+socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--cgroup-parent=/"+group,
		"--shutdown-timeout=5")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() { ended <- fmt.Sprint(cmd.Wait()) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			out, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the engine said:\n%s", out)
		}
		mounts, _ := exec.CommandContext(context.Background(), "findmnt", "-rno", "TARGET").Output() // there may be none
		for target := range strings.FieldsSeq(string(mounts)) {
			if strings.HasPrefix(target, dir+"/") {
				_ = syscall.Unmount(target, syscall.MNT_DETACH)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the engine's directory: %v", err)
		}
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + group)
		for _, g := range append(groups, "/sys/fs/cgroup/"+group) {
			_ = syscall.Rmdir(g)
		}
	})
	api, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := api.Ping(t.Context(), client.PingOptions{}); err == nil {
			return "unix://" + socket
		}
		select {
		case how := <-ended:
			ended <- how
			t.Fatalf("dockerd ended: %s", how)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not answer")
		}
	}
}

// leftover has what makes an instance killed, while the container that it had made goes on: the next one finds it, and is not in its way.
func leftover(t *testing.T, open func(testing.TB) provision.Driver, host string) {
	t.Helper()
	k := drivertest.Kit{TB: t, Driver: open(t)}
	in := k.Instance()
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	name := "pgkennel-" + in.ID + "-run"
	leave := func() {
		t.Helper()
		_, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: name, Image: "pgkennel-test:" + in.Version, Config: &container.Config{
			Entrypoint: []string{"sleep", "1000"}, Labels: map[string]string{"pgkennel.id": in.ID, "pgkennel.data_dir": drivertest.Dir(t, "/tmp")},
		}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
		if err == nil {
			_, err = api.ContainerStart(t.Context(), name, client.ContainerStartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	leave()
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	if _, err := api.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{}); !cerrdefs.IsNotFound(err) {
		t.Errorf("what was left over: %v, want that it has gone", err)
	}
	k.Do("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	leave()
	if found, err := k.Found(t.Context()); err != nil || !slices.Contains(found, in.ID) {
		t.Errorf("found %v, %v; want what was left over", found, err)
	}
	k.Twice("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	k.Nothing()
}

// inContainer looks at what a container is for its tenant's superuser, and what the engine does by itself.
func inContainer(t *testing.T, open func(testing.TB) provision.Driver, host string) {
	t.Helper()
	k := drivertest.Kit{TB: t, Driver: open(t)}
	in := k.Instance()
	in.Superuser = true
	in.Limits.CPU, in.Limits.Memory = 500, 256<<20
	k.Up(in)
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	c, err := api.ContainerInspect(t.Context(), "pgkennel-"+in.ID, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hc := c.Container.HostConfig
	if hc.NanoCPUs != 5e8 || hc.Memory != 256<<20 || hc.MemorySwap != 256<<20 || hc.PidsLimit == nil || *hc.PidsLimit < 100 || hc.RestartPolicy.Name != "unless-stopped" ||
		hc.NetworkMode != "none" || len(hc.PortBindings) > 0 || c.Container.Config.Labels["pgkennel.id"] != in.ID || c.Container.Config.Healthcheck == nil {
		t.Errorf("container is %+v, labels %v", hc, c.Container.Config.Labels)
	}
	for _, e := range c.Container.Config.Env {
		if strings.Contains(e, in.Password) {
			t.Error("the password is in the container's environment")
		}
	}
	k.SQL(in, "CREATE TABLE out (line text)")
	shell := func(script string) error {
		_, err := k.Try(in, in.Password, "COPY out FROM PROGRAM '"+strings.ReplaceAll(script, "'", "''")+"'")
		return err
	}
	dir := drivertest.Dir(t, "/tmp")
	for _, script := range []string{
		"ls " + dir + "/../..//root", "ls /var/run/docker.sock", "echo > /x", "echo > " + dir + "/x", "echo x >> " + dir + "/" + in.ID + ".conf/pg_hba.conf",
		"cat /proc/" + strconv.Itoa(os.Getpid()) + "/status", "grep 'CapBnd:.*[1-9a-f]' /proc/self/status", "grep 'NoNewPrivs:.0' /proc/self/status",
		"grep : /proc/net/dev | grep -v lo:", "cat " + dir + "/" + in.ID + ".log",
	} {
		if err := shell(script); drivertest.Code(err) != "38000" {
			t.Errorf("%s: %v, want 38000 (the program failed)", script, err)
		}
	}

	// The check of its health works; to wait for the engine's own would take half a minute.
	x, err := api.ExecCreate(t.Context(), "pgkennel-"+in.ID, client.ExecCreateOptions{Cmd: c.Container.Config.Healthcheck.Test[1:], AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.ExecAttach(t.Context(), x.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(a.Reader) // how it ended tells
	a.Close()
	if end, err := api.ExecInspect(t.Context(), x.ID, client.ExecInspectOptions{}); err != nil || end.ExitCode != 0 {
		t.Errorf("check of health: %+v, %v: %q", end, err, said)
	}

	// Where the host has no tool of the version, the container's own is used, by the program docker.
	other := *in
	other.Version = "25"
	tool, err := k.Tool(t.Context(), &other, "pg_dump", "-d", "postgres")
	if _, none := exec.LookPath("docker"); none != nil {
		if drivertest.Kind(err) != provision.KindRefused || !strings.Contains(err.Error(), "nor the program docker") {
			t.Errorf("a tool that is not here: %v, want %s", err, provision.KindRefused)
		}
	} else if err != nil {
		t.Errorf("a tool of the container's: %v", err)
	} else if out, err := tool.Output(); err != nil || !strings.Contains(string(out), `CREATE TABLE public."out"`) || strings.Contains(strings.Join(tool.Args, " "), in.Password) {
		t.Errorf("pg_dump of the container's: %v: %.300s", err, out)
	}

	// Limits can be taken back, and given again.
	for _, memory := range []int64{0, 300 << 20} {
		in.Limits.Memory = memory
		k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
		now, err := api.ContainerInspect(t.Context(), "pgkennel-"+in.ID, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := now.Container.HostConfig.Memory; memory > 0 && got != memory || memory == 0 && got < 1<<30 {
			t.Errorf("with a limit of %d it may use %d bytes", memory, got)
		}
	}

	// The engine starts it again by itself.
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

	// A start makes a new container of what was changed, and none of what is as it was.
	containers := []string{c.Container.ID}
	for range 2 {
		k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
		k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
		now, err := api.ContainerInspect(t.Context(), "pgkennel-"+in.ID, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		containers = append(containers, now.Container.ID)
	}
	if containers[1] == containers[0] || containers[2] != containers[1] {
		t.Errorf("after a change, and two restarts, the containers are %v; want a new one, and then the same", containers)
	}

	// What keeps it from starting is told, also after it was made anew.
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	data, _, _ := k.DataDir(in)
	if err := os.Rename(data+"/global/pg_control", data+"/global/gone"); err != nil {
		t.Fatal(err)
	}
	err = k.Start(t.Context(), in)
	if e := (*provision.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Detail, "pg_control") {
		t.Errorf("start of one that is broken: %v, want an error with the end of its log", err)
	}
	if err := os.Rename(data+"/global/gone", data+"/global/pg_control"); err != nil {
		t.Fatal(err)
	}
	in.Limits.Connections = 7 // it is on the server's command line
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	r, err := k.Logs(t.Context(), in, 500, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := r.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			break
		}
	}
	if !strings.Contains(all.String(), "pg_control") || !strings.HasSuffix(strings.TrimSpace(all.String()), "ready to accept connections") {
		t.Errorf("log across two containers: %q", all.String())
	}
}
