package main

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
	"time"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// environment is the server and what stands in front of it.
type environment struct {
	dir     string
	scratch *pginstance.Scratch
	server  *pginstance.Server
	targets []*target
	rows    int // of pgbench_accounts
}

// target is something that clients connect to.
type target struct {
	name    string
	version string
	port    int
	process *pginstance.Process // nil: the server itself
}

// poolSize is how many server connections each pooler may have.
const poolSize = 20

func newEnvironment(ctx context.Context, o *options) (env *environment, err error) {
	env = &environment{rows: o.scale * 100_000}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.close())
		}
	}()
	if env.scratch, err = pginstance.OpenScratch(fmt.Sprintf("/tmp/pgkennel-bench-%d", os.Geteuid())); err != nil {
		return env, err
	}
	env.dir = filepath.Join(env.scratch.Dir, "bench")
	if err := os.Mkdir(env.dir, 0o755); err != nil { //nolint:gosec // PgBouncer reads it as another user
		return env, err
	}
	env.server, err = env.scratch.NewServer(ctx, pginstance.Options{Name: "bench", Settings: map[string]string{
		"max_connections": "1100", "shared_buffers": "256MB", "autovacuum": "off", "synchronous_commit": "off", "fsync": "off", "full_page_writes": "off",
	}})
	if err != nil {
		return env, err
	}
	// Two databases with the same rows stand for two shards; PgBouncer and direct clients use the first.
	for _, db := range []string{"bench0", "bench1"} {
		if err := env.tool(ctx, "createdb", db); err != nil {
			return env, err
		}
		if err := env.tool(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(o.scale), db); err != nil {
			return env, err
		}
	}
	env.targets = []*target{{name: "direct", version: env.scratch.Install().Version, port: env.server.Port}}
	if err := env.startPgBouncer(ctx, o.log); err != nil {
		return env, err
	}
	if o.base != "" {
		if err := env.startPgkennel(ctx, "base", o.base); err != nil {
			return env, err
		}
	}
	return env, env.startPgkennel(ctx, "pgkennel", o.program)
}

// tool runs one of PostgreSQL's programs against the server.
func (env *environment) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, env.scratch.Install().Path(name), append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(env.server.Port), "-U", "postgres"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// startPgBouncer starts the peer, if it is installed.
func (env *environment) startPgBouncer(ctx context.Context, log io.Writer) error {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		fmt.Fprintln(log, "PgBouncer is not installed: there is nothing to compare with")
		return nil //nolint:nilerr // as just said
	}
	t := &target{name: "pgbouncer"}
	if out, err := exec.CommandContext(ctx, path, "--version").Output(); err == nil {
		line, _, _ := strings.Cut(string(out), "\n")
		t.version = strings.TrimPrefix(line, "PgBouncer ")
	}
	if t.port, _, err = env.scratch.FreePort(); err != nil {
		return err
	}
	users := filepath.Join(env.dir, "users.txt")
	ini := fmt.Sprintf("[databases]\nbench0 = host=127.0.0.1 port=%d dbname=bench0\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
		"auth_type = trust\nauth_file = %s\npool_mode = transaction\ndefault_pool_size = %d\nmax_client_conn = 20000\nunix_socket_dir =\n"+
		"log_connections = 0\nlog_disconnections = 0\n", env.server.Port, t.port, users, poolSize)
	if err := errors.Join(env.write("users.txt", "\"postgres\" \"\"\n"), env.write("pgbouncer.ini", ini)); err != nil {
		return err
	}
	cmd := exec.Command(path, "-q", filepath.Join(env.dir, "pgbouncer.ini")) //nolint:noctx // close stops it
	if cmd.SysProcAttr, err = pginstance.Unprivileged(); err != nil {
		return err
	}
	return env.start(ctx, t, cmd)
}

// startPgkennel starts ours, with tenants routed by range over the two databases.
func (env *environment) startPgkennel(ctx context.Context, name, program string) error {
	t := &target{name: name}
	if out, err := exec.CommandContext(ctx, program, "version").Output(); err == nil {
		t.version, _, _ = strings.Cut(strings.TrimPrefix(string(out), "pgkennel "), "\n")
	}
	var err error
	if t.port, _, err = env.scratch.FreePort(); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[general]\nhost = \"127.0.0.1\"\nport = %d\ndefault_pool_size = %d\nauth_type = \"trust\"\ntls_verify = \"disabled\"\n"+
		"log_connections = false\nlog_disconnections = false\n", t.port, poolSize/2)
	for shard := range 2 {
		fmt.Fprintf(&b, "[[databases]]\nname = \"bench0\"\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = \"bench%d\"\nshard = %[2]d\n", env.server.Port, shard)
	}
	half := env.rows / 2
	fmt.Fprintf(&b, "[[sharded_tables]]\ndatabase = \"bench0\"\nname = \"pgbench_accounts\"\ncolumn = \"aid\"\ndata_type = \"bigint\"\n"+
		"[[sharded_tables.mapping]]\nend = %d\nshard = 0\n[[sharded_tables.mapping]]\nstart = %[1]d\nshard = 1\n", half)
	users := "[[users]]\nname = \"postgres\"\ndatabase = \"bench0\"\npassword = \"unused\"\n"
	if err := errors.Join(env.write(name+".toml", b.String()), env.write("users.toml", users)); err != nil {
		return err
	}
	cmd := exec.Command(program, "--config", filepath.Join(env.dir, name+".toml"), "--users", filepath.Join(env.dir, "users.toml")) //nolint:noctx // close stops it
	return env.start(ctx, t, cmd)
}

func (env *environment) write(name, text string) error {
	return os.WriteFile(filepath.Join(env.dir, name), []byte(text), 0o644) //nolint:gosec // PgBouncer reads them as another user
}

// start starts a pooler and waits until it takes connections.
func (env *environment) start(ctx context.Context, t *target, cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(env.dir, t.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if t.process, err = pginstance.Spawn(cmd); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	env.targets = append(env.targets, t)
	for range 200 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(t.port)); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-t.process.Done():
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s ended: %w\n%s", t.name, t.process.Err(), text)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s takes no connections", t.name)
}

// close stops everything.
func (env *environment) close() error {
	var errs []error
	for _, t := range env.targets {
		if t.process != nil {
			_ = t.process.Signal(syscall.SIGKILL) // it may have ended
			<-t.process.Done()
		}
	}
	if env.server != nil {
		errs = append(errs, env.server.Stop(pginstance.Immediate))
	}
	if env.scratch != nil {
		errs = append(errs, env.scratch.Close())
	}
	return errors.Join(errs...)
}
