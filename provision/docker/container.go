package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
)

// What containers are labelled with. A host may have several data directories.
const (
	labelID   = "pgkennel.id"
	labelDir  = "pgkennel.data_dir"
	labelSpec = "pgkennel.spec"
)

func containerName(id string) string { return "pgkennel-" + id }
func runName(id string) string       { return "pgkennel-" + id + "-run" }

// resources are limits as the engine has them. It takes zero for "as before", so no limit is the whole host.
func (e *engine) resources(id string, l tenant.Limits, processes int) (container.Resources, error) {
	pids := int64(processes)
	r := container.Resources{NanoCPUs: int64(e.cores) * 1e9, Memory: e.memory, MemorySwap: e.memory, PidsLimit: &pids}
	if e.noCPU {
		r.NanoCPUs = 0
	}
	if e.noMemory {
		r.Memory, r.MemorySwap = 0, 0
	}
	if l.CPU > 0 {
		r.NanoCPUs = int64(l.CPU) * 1e6
	}
	if l.Memory > 0 {
		r.Memory, r.MemorySwap = l.Memory, l.Memory // both together: no swap
	}
	if l.IO > 0 {
		// The engine is on this host, and knows its disks by the same names.
		disk, err := process.DiskOf(filepath.Join(e.dataDir, id))
		if errors.Is(err, fs.ErrNotExist) {
			return r, nil // there is nothing of it yet: Start has to see to it
		}
		if err == nil {
			_, err = os.Stat(disk.Path)
		}
		if err != nil {
			return r, provision.Errorf(provision.KindRefused, "reading and writing can't be limited on this host").WithDetail("%v.", err)
		}
		at := []*blkiodev.ThrottleDevice{{Path: disk.Path, Rate: uint64(l.IO)}}
		r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps = at, at
	}
	return r, nil
}

// create makes a container. prepare changes what it is made of.
func (e *engine) create(ctx context.Context, name string, s process.Service, prepare func(*container.Config, *container.HostConfig)) (string, error) {
	version, program := filepath.Split(s.Command[0])
	image := e.imageOf(strings.TrimSuffix(version, "/"))
	inspected, err := e.api.ImageInspect(ctx, image)
	if cerrdefs.IsNotFound(err) {
		return "", e.Missing(strings.TrimSuffix(version, "/"))
	}
	if err != nil {
		return "", fmt.Errorf("image %s: %w", image, err)
	}
	config := &container.Config{
		Image: image, Entrypoint: []string{program}, Cmd: s.Command[1:], Env: withoutPath(s.Env), User: fmt.Sprintf("%d:%d", s.UID, s.GID), WorkingDir: s.Dir,
		Labels: map[string]string{labelID: s.ID, labelDir: e.dataDir}, StopSignal: "SIGINT", Hostname: "postgres",
	}
	hc := &container.HostConfig{
		NetworkMode: container.NetworkMode(e.network), CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		Tmpfs: map[string]string{}, ShmSize: shmSize(s.Limits), LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "16m", "max-file": "2"}},
	}
	if inspected.Config != nil {
		for path := range inspected.Config.Volumes { // or the engine would make one that nobody wants
			hc.Tmpfs[path] = "size=1m"
		}
	}
	hc.Ulimits = limits(1024, 1024) // of a tool; a server's are others
	for _, g := range s.Groups {
		hc.GroupAdd = append(hc.GroupAdd, strconv.FormatUint(uint64(g), 10))
	}
	bind := func(path string, readOnly bool) {
		if _, err := os.Stat(path); path != "" && err == nil {
			hc.Mounts = append(hc.Mounts, mount.Mount{Type: mount.TypeBind, Source: path, Target: path, ReadOnly: readOnly})
		}
	}
	bind(s.Dir, false)
	bind(s.Config, true)
	bind(s.Socket, true)
	prepare(config, hc)
	made, err := e.api.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: config, HostConfig: hc})
	if err != nil {
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	return made.ID, nil
}

// limits are those of each process: the engine's own may be more than it may give. No core, which would hold the data of sessions. None of memory (Service.Data),
// below which the engine's own programs do not come as far as the server: the driver sees to that when it runs.
func limits(files, processes int) []*container.Ulimit {
	return []*container.Ulimit{
		{Name: "nofile", Soft: int64(files), Hard: int64(files)}, {Name: "nproc", Soft: int64(processes), Hard: int64(processes)}, {Name: "core", Soft: 0, Hard: 0},
	}
}

// shmSize bounds shared memory of parallel queries; what is used of it counts as memory.
func shmSize(l tenant.Limits) int64 {
	if l.Memory > 0 {
		return l.Memory
	}
	return 1 << 30
}

// remove takes a container away, if it is there, with what runs in it.
func (e *engine) remove(ctx context.Context, name string) error {
	_, err := e.api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	for wait := 5 * time.Millisecond; cerrdefs.IsConflict(err); wait = min(2*wait, 200*time.Millisecond) { // somebody else, or the engine itself, is at it
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("container %s: %w", name, err)
		}
		_, err = e.api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}
	if err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("container %s: %w", name, err)
	}
	return nil
}

// inspect returns what there is of a container; nil = nothing.
func (e *engine) inspect(ctx context.Context, name string) (*container.InspectResponse, error) {
	r, err := e.api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return nil, nil //nolint:nilnil // nothing, and no error
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", name, err)
	}
	return &r.Container, nil
}

const inputPath = "/pgkennel.input"

// Run implements process.Enclosed. The container has a user with a name, which initdb wants; one that was left by who was killed goes first.
func (e *engine) Run(ctx context.Context, s process.Service, input []byte) (string, error) {
	if now, err := e.inspect(ctx, containerName(s.ID)); err == nil && now != nil && now.State != nil && now.State.Running && len(input) == 0 {
		return e.exec(ctx, s) // that is quicker
	}
	name := runName(s.ID)
	clean := context.WithoutCancel(ctx)
	if err := e.remove(ctx, name); err != nil {
		return "", err
	}
	for i, arg := range s.Command {
		s.Command[i] = strings.ReplaceAll(arg, "/dev/stdin", inputPath)
	}
	id, err := e.create(ctx, name, s, func(*container.Config, *container.HostConfig) {})
	if err != nil {
		return "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(clean, patience)
		defer cancel()
		if err := e.remove(ctx, id); err != nil {
			e.log.WarnContext(ctx, "container stays", "instance", s.ID, "error", err)
		}
	}()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	add := func(path string, uid int, mode int64, text []byte) error {
		err := w.WriteHeader(&tar.Header{Name: path, Uid: uid, Gid: s.GID, Mode: mode, Size: int64(len(text)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}
	passwd := fmt.Sprintf("root:x:0:0:root:/:/bin/sh\npostgres:x:%d:%d::%s:/bin/sh\n", s.UID, s.GID, s.Dir)
	if err := errors.Join(add("etc/passwd", 0, 0o644, []byte(passwd)), add(inputPath[1:], s.UID, 0o400, input), w.Close()); err != nil {
		return "", err
	}
	if _, err := e.api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: &files}); err != nil {
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	wait := e.api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	var code int64
	select {
	case r := <-wait.Result:
		code = r.StatusCode
	case err := <-wait.Error:
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	out, err := e.output(ctx, id, "all")
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	return string(out), err
}

// exec runs a program beside a server that runs.
func (e *engine) exec(ctx context.Context, s process.Service) (string, error) {
	name := containerName(s.ID)
	command := append([]string{filepath.Base(s.Command[0])}, s.Command[1:]...)
	x, err := e.api.ExecCreate(ctx, name, client.ExecCreateOptions{
		User: fmt.Sprintf("%d:%d", s.UID, s.GID), Cmd: command, Env: withoutPath(s.Env), WorkingDir: s.Dir, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	a, err := e.api.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", fmt.Errorf("container %s: %w", name, err)
	}
	defer a.Close()
	stop := context.AfterFunc(ctx, a.Close) // or a read would wait for ever
	defer stop()
	out, err := io.ReadAll(io.LimitReader(&plain{ctx: ctx, from: io.NopCloser(a.Reader)}, 8<<20))
	if err != nil || ctx.Err() != nil {
		return string(out), errors.Join(err, context.Cause(ctx))
	}
	end, err := e.api.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
	if err == nil && end.ExitCode != 0 {
		err = fmt.Errorf("exit status %d", end.ExitCode)
	}
	return string(out), err
}

// withoutPath is an environment in which the image says where its programs are.
func withoutPath(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "PATH=") })
}

func (e *engine) output(ctx context.Context, name, lines string) ([]byte, error) {
	r, err := e.api.ContainerLogs(ctx, name, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: lines})
	if err != nil {
		return nil, fmt.Errorf("log of container %s: %w", name, err)
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(&plain{ctx: ctx, from: r}, 8<<20))
}

// Limit implements process.Runner. Of an instance without a container, Start has the limits.
func (e *engine) Limit(id string, l tenant.Limits, processes int) error {
	ctx, cancel := brief()
	defer cancel()
	r, err := e.resources(id, l, processes)
	if err != nil {
		return err
	}
	_, err = e.api.ContainerUpdate(ctx, containerName(id), client.ContainerUpdateOptions{Resources: &r})
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("limits of container %s: %w", containerName(id), err)
	}
	// Some engines say that they did, and did not. Of one that is down, Start sees to it.
	now, err := e.inspect(ctx, containerName(id))
	if err != nil || now == nil || now.State == nil || !now.State.Running || e.has(now, r) {
		return err
	}
	return provision.Errorf(provision.KindRefused, "this engine does not change the limits of a container that runs").WithHint("Stop the tenant, change its limits, and start it.")
}

// has reports whether a container has limits.
func (e *engine) has(c *container.InspectResponse, r container.Resources) bool {
	h := c.HostConfig
	if h == nil {
		return false
	}
	cpu := h.NanoCPUs
	if cpu == 0 && h.CPUPeriod > 0 { // another way to say it
		cpu = h.CPUQuota * 1e9 / h.CPUPeriod
	}
	return sameRate(h.BlkioDeviceReadBps, r.BlkioDeviceReadBps) && sameRate(h.BlkioDeviceWriteBps, r.BlkioDeviceWriteBps) && cpu == r.NanoCPUs && h.Memory == r.Memory && h.PidsLimit != nil && *h.PidsLimit == *r.PidsLimit
}

func sameRate(a, b []*blkiodev.ThrottleDevice) bool {
	return slices.EqualFunc(a, b, func(a, b *blkiodev.ThrottleDevice) bool { return a != nil && *a == *b })
}

// Start implements process.Runner.
func (e *engine) Start(ctx context.Context, s process.Service) (pid int, err error) {
	name := containerName(s.ID)
	r, err := e.resources(s.ID, s.Limits, s.Processes)
	if err != nil {
		return 0, err
	}
	b, err := json.Marshal([]any{1, s.Command, s.Env, s.UID, s.GID, s.Groups, s.Socket, s.Files, e.network, e.image, shmSize(s.Limits)}) // 1: of this program's
	if err != nil {
		return 0, err
	}
	sum := sha256.Sum256(b)
	spec := hex.EncodeToString(sum[:])
	now, err := e.inspect(ctx, name)
	if err != nil {
		return 0, err
	}
	if now != nil && (now.Config == nil || now.Config.Labels[labelSpec] != spec || now.Config.Labels[labelDir] != e.dataDir || !e.has(now, r)) {
		e.keepLog(ctx, s)
		if err := e.remove(ctx, name); err != nil {
			return 0, err
		}
		now = nil
	}
	if now == nil {
		_, err := e.create(ctx, name, s, func(config *container.Config, hc *container.HostConfig) {
			config.Labels[labelSpec] = spec
			hc.ReadonlyRootfs = true
			hc.Tmpfs["/tmp"], hc.Tmpfs["/run"] = "", ""
			hc.Resources = r
			hc.Ulimits = limits(s.Files, s.Processes)
			config.Healthcheck = &container.HealthConfig{
				Test:     []string{"CMD", "pg_isready", "-q", "-h", filepath.Join(s.Dir, "socket"), "-p", portOf(s.Command), "-U", provision.Superuser, "-d", "postgres"},
				Interval: 30 * time.Second, Timeout: 10 * time.Second, Retries: 3,
			}
			hc.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}
		})
		if err != nil {
			return 0, err
		}
	}
	if _, err := e.api.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
		return 0, fmt.Errorf("start of container %s: %w", name, err)
	}
	if now, err = e.inspect(ctx, name); err != nil {
		return 0, err
	}
	if now == nil || now.State == nil || now.State.Pid == 0 {
		return 0, fmt.Errorf("container %s ended at once", name)
	}
	if s.Limits.IO > 0 && !e.has(now, r) { // it leaves out what its kernel does not have
		return 0, provision.Errorf(provision.KindRefused, "this engine does not limit reading and writing")
	}
	e.mu.Lock()
	e.mu.pids[s.ID] = now.State.Pid
	e.mu.Unlock()
	return now.State.Pid, nil
}

// portOf finds the port among a server's arguments.
func portOf(command []string) string {
	for _, arg := range command {
		if port, is := strings.CutPrefix(arg, "port="); is {
			return port
		}
	}
	return "5432"
}

// keepLog saves the end of what a container said that is about to be made anew.
func (e *engine) keepLog(ctx context.Context, s process.Service) {
	out, err := e.output(ctx, containerName(s.ID), "1000")
	if err == nil {
		err = os.WriteFile(s.Log, out, 0o600)
	}
	if err != nil {
		e.log.WarnContext(ctx, "log of a container is lost", "instance", s.ID, "error", err)
	}
}

// Outer implements process.Enclosed. A server is its container's first process.
func (e *engine) Outer(id string, pid int) int {
	if pid != 1 {
		return 0
	}
	e.mu.Lock()
	known := e.mu.pids[id]
	e.mu.Unlock()
	if dir, err := os.Readlink("/proc/" + strconv.Itoa(known) + "/cwd"); known > 0 && err == nil && dir == filepath.Join(e.dataDir, id, "data") {
		return known
	}
	ctx, cancel := brief()
	defer cancel()
	now, err := e.inspect(ctx, containerName(id))
	if err != nil || now == nil || now.State == nil || !now.State.Running {
		return 0
	}
	e.mu.Lock()
	e.mu.pids[id] = now.State.Pid
	e.mu.Unlock()
	return now.State.Pid
}

// Stop implements process.Runner. A container that got its stop signal is not started again, whatever it ends of.
func (e *engine) Stop(ctx context.Context, id string) error {
	ctx = context.WithoutCancel(ctx)
	now, err := e.inspect(ctx, containerName(id))
	if err != nil || now == nil || now.State == nil || !now.State.Running && !now.State.Restarting {
		return err
	}
	_, err = e.api.ContainerKill(ctx, containerName(id), client.ContainerKillOptions{Signal: "SIGINT"})
	if err == nil {
		return nil
	}
	if now, err2 := e.inspect(ctx, containerName(id)); err2 != nil || now != nil && now.State != nil && (now.State.Running || now.State.Restarting) { // else it is down
		return fmt.Errorf("stop of container %s: %w", containerName(id), err)
	}
	return nil
}

// Stopped implements process.Runner.
func (e *engine) Stopped(ctx context.Context, id string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		now, err := e.inspect(ctx, containerName(id))
		if err != nil || now == nil || now.State == nil || !now.State.Running && !now.State.Restarting {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("container %s still runs: %w", containerName(id), context.Cause(ctx))
		}
	}
}

// CPU implements process.Runner.
func (e *engine) CPU(id string) (time.Duration, bool) {
	ctx, cancel := brief()
	defer cancel()
	r, err := e.api.ContainerStats(ctx, containerName(id), client.ContainerStatsOptions{})
	if err != nil {
		return 0, false
	}
	defer r.Body.Close()
	var stats container.StatsResponse
	if err := json.NewDecoder(r.Body).Decode(&stats); err != nil || stats.CPUStats.CPUUsage.TotalUsage == 0 {
		return 0, false
	}
	return time.Duration(stats.CPUStats.CPUUsage.TotalUsage), true //nolint:gosec // centuries
}

// Processes implements process.Runner: they are found by their user.
func (e *engine) Processes(string) []int { return nil }

// Remove implements process.Runner.
func (e *engine) Remove(id string) error {
	ctx, cancel := brief()
	defer cancel()
	e.mu.Lock()
	delete(e.mu.pids, id)
	e.mu.Unlock()
	return errors.Join(e.remove(ctx, runName(id)), e.remove(ctx, containerName(id)))
}

// List implements process.Runner.
func (e *engine) List() []string {
	ctx, cancel := brief()
	defer cancel()
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelDir+"="+e.dataDir)})
	if err != nil {
		e.log.WarnContext(ctx, "containers can't be listed", "error", err)
		return nil
	}
	var ids []string
	for i := range list.Items {
		if id := list.Items[i].Labels[labelID]; id != "" {
			ids = append(ids, id)
		}
	}
	return sorted(ids)
}

// Watch implements process.Runner. Without events the driver looks for itself, only later.
func (e *engine) Watch(ctx context.Context, wake func()) {
	for ctx.Err() == nil {
		events := e.api.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container").Add("label", labelDir+"="+e.dataDir)})
		for lost := false; !lost; {
			select {
			case <-events.Messages:
				wake()
			case err := <-events.Err:
				lost = true
				e.log.DebugContext(ctx, "events of the engine ended", "error", err)
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
