package pginstance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Superuser is the bootstrap user of every instance. On the unix socket it is always trusted.
const Superuser = "postgres"

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second // after it, SIGKILL
	pollInterval = 2 * time.Millisecond
)

// StopMode is how PostgreSQL is asked to shut down.
type StopMode int

const (
	// Fast disconnects the clients, rolls back, and writes a shutdown checkpoint (SIGINT).
	Fast StopMode = iota + 1
	// Smart waits for the clients to leave (SIGTERM).
	Smart
	// Immediate ends without a checkpoint; the next start recovers (SIGQUIT).
	Immediate
)

func (m StopMode) String() string {
	switch m {
	case Fast:
		return "fast"
	case Smart:
		return "smart"
	case Immediate:
		return "immediate"
	}
	return "StopMode(" + strconv.Itoa(int(m)) + ")"
}

func (m StopMode) signal() syscall.Signal {
	switch m {
	case Smart:
		return syscall.SIGTERM
	case Immediate:
		return syscall.SIGQUIT
	case Fast:
	}
	return syscall.SIGINT
}

// Options say how an instance differs from the usual one. The zero value is a trusting instance.
type Options struct {
	Name     string            // cluster_name: what the instance calls itself
	Settings map[string]string // postgresql.conf entries; they win over the defaults
	HBA      []string          // pg_hba.conf lines before the default ones (the superuser's own line stays first)
	Auth     string            // method of the default pg_hba lines; empty means trust
	Files    map[string][]byte // files in the data folder, mode 0600, such as server.crt
}

// Server is one instance. Its port and folders stay the same over restarts. Safe for concurrent use, except that
// Start, Stop, Kill and Remove must not overlap.
type Server struct {
	SocketDir string
	Port      int
	DataDir   string
	LogFile   string

	scratch *Scratch
	dir     string
	lease   *portLease

	mu   sync.Mutex
	proc *Process // nil when not running
}

// NewServer creates an instance and starts it. When it fails nothing is left behind.
func (s *Scratch) NewServer(ctx context.Context, opts Options) (*Server, error) {
	template, err := s.template()
	if err != nil {
		return nil, err
	}
	dir, err := s.instanceDir()
	if err != nil {
		return nil, fmt.Errorf("instance folder: %w", err)
	}
	srv := &Server{
		SocketDir: filepath.Join(dir, "s"),
		DataDir:   filepath.Join(dir, "data"),
		LogFile:   filepath.Join(dir, "log"),
		scratch:   s,
		dir:       dir,
	}
	if err := srv.create(ctx, template, opts); err != nil {
		return nil, errors.Join(err, srv.Remove())
	}
	return srv, nil
}

// Standby has the server, which is down, come up as a hot standby: with what it has, of nobody.
func (srv *Server) Standby() error {
	path := filepath.Join(srv.DataDir, "standby.signal")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("instance file: %w", err)
	}
	return srv.scratch.account.own(path)
}

func (srv *Server) create(ctx context.Context, template string, opts Options) error {
	acct := srv.scratch.account
	if out, err := outputOf(acct.command(srv.dir, "cp", "-a", "--", template, srv.DataDir)); err != nil {
		return fmt.Errorf("copy of the template: %w\n%s", err, out)
	}
	if err := acct.mkdir(srv.SocketDir, 0o755); err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	files := map[string][]byte{
		"postgresql.conf": configFile(opts),
		"pg_hba.conf":     hbaFile(opts),
	}
	maps.Copy(files, opts.Files)
	for name, data := range files {
		path := filepath.Join(srv.DataDir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("instance file: %w", err)
		}
		if err := acct.own(path); err != nil {
			return fmt.Errorf("instance file: %w", err)
		}
	}
	// PostgreSQL itself tries the ports: only its bind can say that one is free.
	for {
		lease, err := srv.scratch.leasePorts(1)
		if err != nil {
			return err
		}
		srv.lease, srv.Port = lease, lease.port
		err = srv.Start(ctx)
		if !errors.Is(err, errPortTaken) {
			return err
		}
		lease.release()
		srv.lease = nil
	}
}

func configFile(opts Options) []byte {
	settings := map[string]string{
		"listen_addresses":           "127.0.0.1",
		"cluster_name":               opts.Name,
		"fsync":                      "off",
		"full_page_writes":           "off",
		"synchronous_commit":         "off",
		"shared_buffers":             "16MB",
		"max_connections":            "100",
		"min_wal_size":               "8MB",
		"max_wal_size":               "256MB",
		"autovacuum":                 "off",
		"jit":                        "off",
		"lc_messages":                "C",
		"timezone":                   "UTC",
		"log_timezone":               "UTC",
		"log_line_prefix":            "%m [%p] %q%u@%d ",
		"dynamic_shared_memory_type": "mmap", // /dev/shm is tiny in containers
	}
	maps.Copy(settings, opts.Settings)
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", key, strings.ReplaceAll(settings[key], "'", "''"))
	}
	return b.Bytes()
}

func hbaFile(opts Options) []byte {
	method := opts.Auth
	if method == "" {
		method = "trust"
	}
	lines := append([]string{"local all " + Superuser + " trust"}, opts.HBA...)
	lines = append(lines,
		"local all all "+method,
		"host all all 127.0.0.1/32 "+method,
		"local replication all "+method,
		"host replication all 127.0.0.1/32 "+method,
	)
	return []byte(strings.Join(lines, "\n") + "\n")
}

var errPortTaken = errors.New("port is taken")

// Start runs the instance and returns when it accepts connections. It is for a stopped instance.
func (srv *Server) Start(ctx context.Context) error {
	if srv.running() != nil {
		return errors.New("instance is running already")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	log, err := os.OpenFile(srv.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("instance log: %w", err)
	}
	defer log.Close()
	before, err := log.Stat()
	if err != nil {
		return fmt.Errorf("instance log: %w", err)
	}
	cmd := srv.scratch.account.command(srv.dir, srv.scratch.install.Path("postgres"),
		"-D", srv.DataDir, "-k", srv.SocketDir, "-p", strconv.Itoa(srv.Port))
	cmd.Stdout, cmd.Stderr = log, log
	p, err := Spawn(cmd)
	if err != nil {
		return fmt.Errorf("start of postgres: %w", err)
	}
	srv.mu.Lock()
	srv.proc = p
	srv.mu.Unlock()

	err = srv.waitReady(ctx, p)
	if err == nil {
		return nil
	}
	srv.Kill()
	said := srv.logFrom(before.Size())
	if strings.Contains(said, "could not create any TCP/IP sockets") || strings.Contains(said, "Address already in use") {
		return errPortTaken
	}
	return fmt.Errorf("start of postgres: %w\n%s", err, said)
}

// waitReady polls postmaster.pid, whose eighth line tells the state and whose first line tells whose it is.
func (srv *Server) waitReady(ctx context.Context, p *Process) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if data, err := os.ReadFile(filepath.Join(srv.DataDir, "postmaster.pid")); err == nil {
			lines := strings.Split(string(data), "\n")
			if len(lines) >= 8 && strings.TrimSpace(lines[0]) == strconv.Itoa(p.PID()) && strings.TrimSpace(lines[7]) == "ready" {
				return nil
			}
		}
		select {
		case <-p.Done():
			ended := p.Err()
			if ended == nil {
				ended = errors.New("exit status 0")
			}
			return fmt.Errorf("ended before it was ready: %w", ended)
		case <-ctx.Done():
			return fmt.Errorf("wait for readiness: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (srv *Server) running() *Process {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.proc == nil {
		return nil
	}
	select {
	case <-srv.proc.Done():
		return nil
	default:
		return srv.proc
	}
}

// Running tells whether the postmaster lives.
func (srv *Server) Running() bool { return srv.running() != nil }

// PID is the postmaster's process id, 0 when it does not run.
func (srv *Server) PID() int {
	if p := srv.running(); p != nil {
		return p.PID()
	}
	return 0
}

// Stop shuts the instance down and waits for its end. One that does not stop in 30 seconds is killed, and that is an
// error. Stopping a stopped instance does nothing.
func (srv *Server) Stop(mode StopMode) error {
	p := srv.running()
	if p == nil {
		return nil
	}
	if err := p.Signal(mode.signal()); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v stop: %w", mode, err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.Done():
		return nil
	case <-timeout.C:
		srv.Kill()
		return fmt.Errorf("%v stop: no end after %v, killed", mode, stopTimeout)
	}
}

// Kill ends the postmaster and all its processes with SIGKILL, as a crash of the machine would, and reaps it.
func (srv *Server) Kill() {
	p := srv.running()
	if p == nil {
		return
	}
	// Children are in sessions of their own, so no signal to a group reaches them. The stopped postmaster can neither
	// start new ones nor reap: the listed ids stay theirs until it is killed.
	if p.Signal(syscall.SIGSTOP) == nil {
		killChildren(p.PID())
		_ = p.Signal(syscall.SIGKILL) // it may be gone by itself
	}
	<-p.Done()
}

// Freeze stops every process of the instance (SIGSTOP): connections stay open and nothing answers.
func (srv *Server) Freeze() { srv.signalTree(syscall.SIGSTOP) }

// Thaw lets a frozen instance go on.
func (srv *Server) Thaw() { srv.signalTree(syscall.SIGCONT) }

func (srv *Server) signalTree(sig syscall.Signal) {
	p := srv.running()
	if p == nil {
		return
	}
	// The postmaster first, so that it starts no process that the list misses.
	if p.Signal(sig) != nil {
		return
	}
	for _, child := range childrenOf(p.PID()) {
		_ = syscall.Kill(child, sig)
	}
}

// Remove kills the instance if it runs, and removes its folder.
func (srv *Server) Remove() error {
	srv.Kill()
	if srv.lease != nil {
		srv.lease.release()
		srv.lease = nil
	}
	if err := os.RemoveAll(srv.dir); err != nil {
		return fmt.Errorf("instance folder: %w", err)
	}
	return nil
}

// Logs returns what the instance wrote to its log since it was created.
func (srv *Server) Logs() string { return srv.logFrom(0) }

func (srv *Server) logFrom(offset int64) string {
	data, err := os.ReadFile(srv.LogFile)
	if err != nil || offset > int64(len(data)) {
		return ""
	}
	return string(data[offset:])
}
