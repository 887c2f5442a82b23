// Package docker runs each tenant's instance in a container of its own, through the API of a Docker engine on this host.
//
// The process driver keeps directories, volumes, configuration, limits of disks and backups as they are; the engine has images of PostgreSQL by version, runs the
// server and its tools in them, as the instance's own user, and bounds CPU, memory and processes. Of an image nothing is used but the programs of PostgreSQL in its
// PATH: that of the project does, and so do others. Its entrypoint is not used: passwords never get into an environment, and the configuration is pgkennel's.
//
// A container sees its instance's directories at the same paths as the host, a root file system that it can't write to, and no network: the pooler reaches it by its
// unix socket. So nothing is published, and no other container can try. Options.Network gives one to containers whose tenants need to reach out.
//
// The driver is safe for concurrent use. Its client keeps connections until Close.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
)

// Options are what a Driver is made of. Only Process.DataDir is needed.
type Options struct {
	// Process are those of directories and users.
	Process process.Options
	// Host is the engine's socket; empty = DOCKER_HOST, or unix:///var/run/docker.sock.
	Host string
	// Image names the image of a version: {version} stands for it; empty = postgres:{version}. pgkennel does not pull images: what is not there is refused.
	Image string
	// Network is what containers are attached to; empty = none.
	Network string
}

// Driver runs instances in containers.
type Driver struct {
	*process.Driver
	engine *engine
}

var _ provision.Driver = (*Driver)(nil)

// engine is an engine as process.Enclosed.
type engine struct {
	api                  *client.Client
	host, image, network string
	dataDir              string
	log                  *slog.Logger
	cores                int
	memory               int64 // the host's
	noMemory, noCPU      bool  // it can't limit them

	mu struct {
		sync.Mutex
		pids map[string]int // of servers on this host, by ID: the last known
	}
}

var _ process.Enclosed = (*engine)(nil)

// New makes a Driver. It fails where there is no engine that can do what the driver needs.
func New(o Options) (*Driver, error) {
	e, err := newEngine(o)
	if err != nil {
		return nil, fmt.Errorf("driver docker: %w", err)
	}
	o.Process.Runner = e
	d, err := process.New(o.Process)
	if err != nil {
		return nil, errors.Join(err, e.api.Close())
	}
	return &Driver{d, e}, nil
}

// Close gives the connections to the engine up.
func (d *Driver) Close() error { return d.engine.api.Close() }

// patience bounds calls that nobody waits for with a context.
const patience = 30 * time.Second

func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func newEngine(o Options) (*engine, error) {
	e := &engine{host: o.Host, image: o.Image, network: o.Network, log: o.Process.Log}
	e.mu.pids = map[string]int{}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("pgkennel is not root, and can't give instances users and directories of their own")
	}
	if e.host == "" {
		e.host = os.Getenv("DOCKER_HOST")
	}
	if e.host == "" {
		e.host = "unix:///var/run/docker.sock"
	}
	if !strings.HasPrefix(e.host, "unix://") {
		return nil, fmt.Errorf("the engine at %s may be on another host; instances' directories are on this one, so it has to be a unix socket", e.host)
	}
	if e.image == "" {
		e.image = "postgres:{version}"
	}
	if !strings.Contains(e.image, "{version}") {
		return nil, fmt.Errorf("image %q does not say where the version goes: {version} is not in it", e.image)
	}
	if e.network == "" {
		e.network = "none"
	}
	if e.network == "host" {
		return nil, errors.New("containers may not have the host's network: their superusers could connect to the other instances of it")
	}
	if o.Process.DataDir == "" {
		return nil, errors.New("provision.data_dir is not set")
	}
	dir, err := filepath.Abs(o.Process.DataDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // instances pass through, and see nothing
		return nil, fmt.Errorf("data directory of instances: %w", err)
	}
	if e.dataDir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("data directory of instances: %w", err)
	}
	if e.api, err = client.New(client.WithHost(e.host)); err != nil {
		return nil, err
	}
	if err := e.look(); err != nil {
		return nil, errors.Join(err, e.api.Close())
	}
	return e, nil
}

// look asks the engine what it can.
func (e *engine) look() error {
	ctx, cancel := brief()
	defer cancel()
	result, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return fmt.Errorf("no engine answers at %s: %w", e.host, err)
	}
	info := result.Info
	if info.OSType != "" && info.OSType != "linux" {
		return fmt.Errorf("the engine runs containers of %s, and images of PostgreSQL are Linux's", info.OSType)
	}
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=rootless") || strings.Contains(option, "name=userns") {
			return fmt.Errorf("the engine gives containers' users other numbers than the host's (%s); instances' files would be nobody's", option)
		}
	}
	version, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return fmt.Errorf("version of the engine: %w", err)
	}
	for _, c := range version.Components {
		if strings.Contains(c.Name, "Podman") {
			// Tried with 4.3: it takes limits and changes of them without a word, and has containers run without; and it starts again what it was told to stop.
			return errors.New("the engine is Podman, which does not keep to the limits that Docker's API asks it for; use Docker, or the drivers systemd and process")
		}
	}
	e.cores, e.memory = info.NCPU, info.MemTotal
	e.noMemory, e.noCPU = !info.MemoryLimit, !info.CPUCfsQuota
	return nil
}

// Name implements process.Runner.
func (e *engine) Name() string { return "docker" }

// Can implements process.Enclosed.
func (e *engine) Can(controller string) error {
	if controller == "memory" && e.noMemory || controller == "cpu" && e.noCPU {
		return fmt.Errorf("The engine says that its host has no cgroups of %s", controller) //nolint:staticcheck // it is the detail of an error
	}
	return nil
}

// PostgreSQL's versions that are looked for.
const oldestVersion, newestVersion = 13, 25

func (e *engine) imageOf(version string) string {
	return strings.ReplaceAll(e.image, "{version}", version)
}

// Versions implements process.Enclosed: those of which there are images.
func (e *engine) Versions() ([]int, error) {
	ctx, cancel := brief()
	defer cancel()
	var list []int
	for v := newestVersion; v >= oldestVersion; v-- {
		_, err := e.api.ImageInspect(ctx, e.imageOf(strconv.Itoa(v)))
		if cerrdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
		list = append(list, v)
	}
	return list, nil
}

// Missing implements process.Enclosed.
func (e *engine) Missing(version string) error {
	if version == "" {
		return provision.Errorf(provision.KindRefused, "the engine has no image %s", e.image).WithHint("Pull one, such as with `docker pull %s`.", e.imageOf("17"))
	}
	if n, err := strconv.Atoi(version); err != nil || n < oldestVersion || n > newestVersion {
		return provision.Errorf(provision.KindRefused, "there is no image of PostgreSQL %q", version).
			WithDetail("Versions from %d on can be had.", oldestVersion)
	}
	return provision.Errorf(provision.KindRefused, "the engine has no image %s", e.imageOf(version)).WithHint("Pull it: `docker pull %s`.", e.imageOf(version))
}

// Tool is as the process driver's: a program of this host that connects by the socket. Where this host has none of that version or newer, it is the container's,
// run by the program docker, if that is here.
func (d *Driver) Tool(ctx context.Context, in *provision.Instance, name string, args ...string) (*exec.Cmd, error) {
	cmd, err := d.Driver.Tool(ctx, in, name, args...)
	if e := (*provision.Error)(nil); !errors.As(err, &e) || e.Kind != provision.KindRefused {
		return cmd, err
	}
	docker, err2 := exec.LookPath("docker")
	if err2 != nil {
		return nil, provision.Errorf(provision.KindRefused, "neither %s of PostgreSQL %s nor the program docker is installed on this host", name, in.Version).
			WithHint("Install PostgreSQL's client programs of version %s or newer.", in.Version)
	}
	// The password is in the environment of this program, and not among its arguments.
	run := []string{"-H", d.engine.host, "exec", "-i"}
	env := []string{
		"PGHOST=" + in.Endpoint.Host, "PGPORT=" + strconv.Itoa(in.Endpoint.Port), "PGUSER=" + provision.Superuser, "PGPASSWORD=" + in.Password,
		"PGSSLMODE=disable", "PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=10", "PGREQUIREAUTH=scram-sha-256",
	}
	for _, pair := range env {
		variable, _, _ := strings.Cut(pair, "=")
		run = append(run, "-e", variable)
	}
	run = append(append(run, containerName(in.ID), name), args...)
	tool := exec.CommandContext(ctx, docker, run...) //nolint:gosec // a program of PostgreSQL's
	tool.Env = append(env, "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent")
	tool.WaitDelay = 5 * time.Second
	return tool, nil
}

// sorted returns names in order, each once.
func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
