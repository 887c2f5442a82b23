package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// child is a server that this process started.
type child struct {
	pid  int
	done chan struct{} // closed when it has ended
}

// Start implements provision.Driver.
func (d *Driver) Start(ctx context.Context, in *provision.Instance) error {
	p, err := d.place(in)
	if err != nil {
		return err
	}
	defer d.lock(in.ID)()
	for {
		pm, running := findPostmaster(p)
		if !running {
			break
		}
		// It may be about to end, because whoever stopped it was killed: then it is started anew.
		if err := d.await(ctx, p, pm.pid, nil); !errors.Is(err, errEnded) {
			return err
		}
	}
	inst, err := d.install(in.Version)
	if err != nil {
		return err
	}
	if !exists(p.dir) {
		return provision.Errorf(provision.KindState, "instance %s has no data", in.ID)
	}
	if err := d.volume(ctx, p, in.Limits.Disk); err != nil {
		return err
	}
	if !exists(filepath.Join(p.data, "PG_VERSION")) {
		return provision.Errorf(provision.KindState, "instance %s has no data", in.ID)
	}
	text, err := os.ReadFile(p.config)
	if errors.Is(err, fs.ErrNotExist) {
		return provision.Errorf(provision.KindState, "instance %s is not configured", in.ID)
	}
	if err != nil {
		return err
	}
	if r := d.o.Runner; r != nil { // it may be about to start it again by itself
		if err := errors.Join(r.Stop(ctx, p.id), r.Stopped(ctx, p.id)); err != nil {
			return err
		}
	}
	if err := d.clear(ctx, p, in); err != nil {
		return err
	}
	if exists(p.image) {
		if err := d.remount(ctx, p); err != nil {
			return err
		}
	}
	listening, err := listeners()
	if err != nil {
		return err
	}
	conf := parse(string(text))
	switch why := d.unreachable(in, listening); {
	case why == "":
	case in.Endpoint.Remote == "":
		return provision.Errorf(provision.KindFailed, "instance %s can't start: %s", in.ID, why)
	default: // clients of this host are served all the same
		d.log.WarnContext(ctx, "other hosts do not reach an instance until it is started anew", "instance", in.ID, "reason", why)
		conf["listen_addresses"] = ""
	}
	if freeReserve(p) {
		d.log.WarnContext(ctx, "volume is full: its reserve was given back", "instance", in.ID)
	}
	if err := d.groups.setup(p.id, in.Limits, maxProcesses(in)); err != nil {
		return err
	}
	if err := errors.Join(d.put(p, p.started, string(text)), d.put(p, p.loaded, string(text))); err != nil {
		return err
	}
	if d.o.Runner != nil {
		return d.runnerStart(ctx, p, in, inst, conf)
	}
	c, err := d.spawn(p, in, inst, conf)
	if err != nil {
		return err
	}
	return d.await(ctx, p, c.pid, c)
}

// clear takes away what a server left that did not end in order: its processes, and then the files that would keep the next one from starting. PostgreSQL can't
// do the latter as long as nobody has waited for the dead one.
func (d *Driver) clear(ctx context.Context, p *place, in *provision.Instance) error {
	if err := d.killMembers(ctx, p); err != nil {
		return err
	}
	socket := filepath.Join(p.socket, ".s.PGSQL."+strconv.Itoa(in.Endpoint.Port))
	for _, path := range []string{filepath.Join(p.data, "postmaster.pid"), socket, socket + ".lock"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// spawn starts the server, in its cgroups from the first instruction on.
func (d *Driver) spawn(p *place, in *provision.Instance, inst install, conf map[string]string) (*child, error) {
	log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{inst.path("postgres")}, arguments(p, conf)...)
	if p.ownUID {
		args = append([]string{"/bin/sh", "-c", limited(in, dataLimit(in.Limits.Memory, conf)), "sh"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // PostgreSQL
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = p.dir, log, log, p.become()
	cmd.Env = serverEnv(p)
	d.befriend(cmd.SysProcAttr, in)
	started := make(chan error, 1)
	go onThread(func() {
		done, err := d.groups.join(p.id, cmd.SysProcAttr)
		defer done()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	})
	if err := <-started; err != nil {
		return nil, err
	}
	bound(cmd.Process.Pid, in)
	if !p.ownUID { // else the script has done it
		_ = setData([]int{cmd.Process.Pid}, dataLimit(in.Limits.Memory, conf), p.uid, p.gid) // the cgroup is there all the same
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("-900"), 0) // only some may
	c := &child{pid: cmd.Process.Pid, done: make(chan struct{})}
	d.mu.Lock()
	d.mu.children[p.id] = c
	delete(d.mu.ends, p.id)
	d.mu.Unlock()
	go func() {
		_ = cmd.Wait() // its state says more
		how := d.howEnded(p, cmd.ProcessState)
		d.mu.Lock()
		if d.mu.children[p.id] == c {
			delete(d.mu.children, p.id)
			d.mu.ends[p.id] = how
		}
		d.mu.Unlock()
		close(c.done)
	}()
	d.wake()
	return c, nil
}

// serverEnv is a server's environment. When the kernel has to end a process of it, let it be a backend and not the server itself.
func serverEnv(p *place) []string {
	return append(environment(p.dir), "PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE=200")
}

// runnerStart has the runner start the server. One that does not come up is not tried again.
func (d *Driver) runnerStart(ctx context.Context, p *place, in *provision.Instance, inst install, conf map[string]string) error {
	attr := p.become()
	d.befriend(attr, in)
	s := Service{
		ID: p.id, Command: append([]string{inst.path("postgres")}, arguments(p, conf)...), Env: serverEnv(p), Dir: p.dir, Log: p.log,
		UID: p.uid, GID: p.gid, Files: maxFiles, Processes: maxProcesses(in), Data: dataLimit(in.Limits.Memory, conf), Limits: in.Limits, Config: p.conf,
	}
	if in.Primary != nil && below(d.o.DataDir, in.Primary.Endpoint.Host) {
		s.Socket = in.Primary.Endpoint.Host
	}
	if attr.Credential != nil {
		s.Groups = attr.Credential.Groups
	}
	pid, err := d.o.Runner.Start(ctx, s)
	if err == nil {
		d.wake()
		if err = d.await(ctx, p, pid, nil); !errors.Is(err, errEnded) {
			if err == nil {
				d.bindData(ctx, p, pid, s.Data)
			}
			return err
		}
	}
	if context.Cause(ctx) == nil {
		err = errors.Join(err, d.o.Runner.Stop(ctx, p.id))
	}
	failed := provision.Errorf(provision.KindFailed, "PostgreSQL of instance %s did not start: %v", p.id, err)
	if tail := d.tail(p, 5); tail != "" {
		failed = failed.WithDetail("The end of its log:\n%s", tail)
	}
	return failed
}

// onThread runs f on a thread that ends with its goroutine: it goes to an instance's groups, and may not stay there. The process's first thread never ends.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

// maxProcesses bounds how many processes an instance may have, a superuser's programs and tools of pgkennel's among them.
func maxProcesses(in *provision.Instance) int { return 2*processesOf(in) + 64 }

// limited is a script that begins a program with less than it could have. Only who has CAP_SYS_RESOURCE could say that from outside: the user is another.
// No file in a volume can be larger than that; a superuser's programs have the log, too, which is outside of it.
func limited(in *provision.Instance, data int64) string {
	script := fmt.Sprintf("ulimit -c 0; ulimit -n %d; ulimit -p %[2]d || ulimit -u %[2]d; ", maxFiles, maxProcesses(in))
	if data > 0 {
		script += fmt.Sprintf("ulimit -S -d %d; ", data>>10)
	}
	if in.Limits.Disk > 0 {
		script += fmt.Sprintf("ulimit -f %d; ", max(in.Limits.Disk, 1<<30)/512) // PostgreSQL's own files have 1 GiB
	}
	return "{ " + script + "} 2>/dev/null; exec \"$@\""
}

// maxFiles is how many descriptors each process of an instance may have.
const maxFiles = 4096

// bound sets limits that a process hands down to its children. Where it may not, those of this process are in force.
func bound(pid int, in *provision.Instance) {
	set := func(resource int, n uint64) {
		var now unix.Rlimit
		if unix.Prlimit(pid, resource, nil, &now) == nil {
			n = min(n, now.Max)
			_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil) // only some may
		}
	}
	set(unix.RLIMIT_NOFILE, maxFiles)
	set(unix.RLIMIT_CORE, 0) // it would hold the data of sessions
	if in.Facts[tenant.UIDFact] != "" {
		set(unix.RLIMIT_NPROC, uint64(maxProcesses(in))) //nolint:gosec // it is above zero
	}
}

// errEnded is the end of a server that was there before Start.
var errEnded = errors.New("the server ended")

// await waits until a server accepts connections. c is nil for one that another process, or an earlier Start, started.
func (d *Driver) await(ctx context.Context, p *place, pid int, c *child) error {
	failed := func() error {
		err := provision.Errorf(provision.KindFailed, "PostgreSQL of instance %s did not start", p.id)
		if tail := d.tail(p, 5); tail != "" {
			err = err.WithDetail("The end of its log:\n%s", tail)
		}
		return err
	}
	var done chan struct{} // nil: nobody closes it
	if c != nil {
		done = c.done
	}
	for wait := 2 * time.Millisecond; ; wait = min(wait*3/2, 50*time.Millisecond) {
		if pm, err := readPostmaster(p); err == nil && pm.pid == pid && pm.ready && isServer(p, pid) {
			return nil
		}
		select {
		case <-done:
			return failed()
		case <-ctx.Done():
			return provision.Errorf(provision.KindFailed, "instance %s was started, and does not accept connections yet: %v", p.id, context.Cause(ctx)).
				WithDetail("The end of its log:\n%s", d.tail(p, 3))
		case <-time.After(wait):
		}
		if c == nil && !alive(pid) {
			return errEnded
		}
	}
}

// tail is the end of an instance's log, for the detail of an error.
func (d *Driver) tail(p *place, lines int) string {
	if d.enclosed != nil {
		return strings.TrimSpace(d.enclosed.Tail(p.id, lines))
	}
	b, _, err := readTail(p.log, lines)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
