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

	"github.com/pgkennel/pgkennel/bench/load"
	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// environment is the server and what stands in front of it.
type environment struct {
	dir     string
	scratch *pginstance.Scratch
	server  *pginstance.Server
	secret  string    // what PostgreSQL keeps of the account's password
	peers   []*peer   // those that this machine has
	targets []*target // those that run
}

// target is something that clients connect to.
type target struct {
	name     string
	port     int
	setup    *setup
	process  *pginstance.Process // nil: the server itself
	log      string              // its file
	metrics  int                 // port of its metrics; 0 = not asked
	traced   bool                // it writes the collector's times into its log
	starting time.Duration       // how long it took to take connections
}

func (t *target) addr() string { return "127.0.0.1:" + strconv.Itoa(t.port) }

func (t *target) logText() []byte {
	if t.log == "" {
		return nil
	}
	text, _ := os.ReadFile(t.log)
	return text
}

const (
	// poolSize is how many server connections each pooler may have.
	poolSize = 20
	// database is what clients ask for, and the first of the two databases that stand for shards.
	database = "bench0"
	second   = "bench1"
	// account and password are of the user who has to log in with SCRAM; all others are trusted.
	account  = "bench"
	password = "kennel"
)

// tables are what both databases have beside pgbench's: rows of 1 KB that one tenant owns, and a table to be filled.
const tables = `
CREATE UNLOGGED TABLE bulk (tenant bigint, line text);
INSERT INTO bulk SELECT 1, repeat('0123456789abcdef', 63) FROM generate_series(1, %d);
CREATE UNLOGGED TABLE sink (tenant bigint, line text);
ANALYZE bulk;
`

func newEnvironment(ctx context.Context, o *options) (env *environment, err error) {
	env = &environment{}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.close())
		}
	}()
	if env.scratch, err = pginstance.OpenScratch(fmt.Sprintf("/tmp/pgkennel-bench-%d", os.Geteuid())); err != nil {
		return env, err
	}
	env.dir = filepath.Join(env.scratch.Dir, "bench")
	if err := os.Mkdir(env.dir, 0o755); err != nil { //nolint:gosec // poolers read it as another user
		return env, err
	}
	hba := []string{"host all " + account + " 127.0.0.1/32 scram-sha-256"}
	env.server, err = env.scratch.NewServer(ctx, pginstance.Options{Name: "bench", HBA: hba, Settings: map[string]string{ //nolint:gosec // no credentials
		"max_connections": "1100", "shared_buffers": "512MB", "autovacuum": "off", "synchronous_commit": "off", "fsync": "off", "full_page_writes": "off",
		"max_wal_size": "4GB", "password_encryption": "scram-sha-256",
	}})
	if err != nil {
		return env, err
	}
	// Two databases with the same rows stand for two shards; poolers that don't route and direct clients use the first.
	if err := env.query(ctx, pginstance.Superuser, "CREATE ROLE "+account+" SUPERUSER LOGIN PASSWORD '"+password+"'"); err != nil {
		return env, err
	}
	for _, db := range []string{database, second} {
		if err := errors.Join(
			env.tool(ctx, "createdb", db), env.tool(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(o.scale), db), env.query(ctx, db, fmt.Sprintf(tables, o.bulk*1000)),
		); err != nil {
			return env, err
		}
	}
	if err := env.query(ctx, database, tenantTables()); err != nil {
		return env, err
	}
	if err := env.seal(ctx); err != nil {
		return env, err
	}
	psql := exec.CommandContext(ctx, env.scratch.Install().Path("psql"), "-XAtq", "-h", "127.0.0.1", "-p", strconv.Itoa(env.server.Port), "-U", pginstance.Superuser,
		"-c", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+account+"'")
	secret, err := psql.Output()
	if err != nil {
		return env, fmt.Errorf("psql: %w", err)
	}
	env.secret = strings.TrimSpace(string(secret))
	env.peers = installed(ctx, o)
	return env, nil
}

// tool runs one of PostgreSQL's programs against the server.
func (env *environment) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, env.scratch.Install().Path(name), append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(env.server.Port), "-U", pginstance.Superuser}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// query runs statements at the server itself.
func (env *environment) query(ctx context.Context, db, sql string) error {
	c, err := load.Connect(ctx, "127.0.0.1:"+strconv.Itoa(env.server.Port), pginstance.Superuser, db)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Query(ctx, sql)
	return err
}

// start starts all that a scenario compares, and stops what ran before. warm is the first to use each of them.
func (env *environment) start(ctx context.Context, s *scenario, warm func(t *target) error, log io.Writer) error {
	env.stop()
	if !s.indirect {
		t := &target{name: direct, port: env.server.Port, setup: &s.setup}
		env.targets = append(env.targets, t)
		if err := warm(t); err != nil {
			return err
		}
	}
	for _, p := range env.peers {
		if p.lacks(s) {
			continue
		}
		t, err := env.startPeer(ctx, p, &s.setup)
		if err == nil {
			if err = warm(t); err == nil {
				env.targets = append(env.targets, t)
				continue
			}
			t.stop()
		}
		if ctx.Err() != nil || p.needed {
			return err
		}
		fmt.Fprintf(log, "%s: without %s: %v\n", s.about, p.name, err)
	}
	return nil
}

// startPeer starts a pooler and waits until it takes connections.
func (env *environment) startPeer(ctx context.Context, p *peer, s *setup) (*target, error) {
	t := &target{name: p.name, setup: s, log: filepath.Join(env.dir, p.name+".log"), traced: p.traced}
	port, release, err := env.scratch.FreePort()
	if err != nil {
		return nil, err
	}
	defer release() // by then it listens
	t.port = port
	if p.traced && s.tenancy != noTenancy {
		metrics, releaseMetrics, err := env.scratch.FreePort()
		if err != nil {
			return nil, err
		}
		defer releaseMetrics()
		t.metrics, s.metrics = metrics, metrics
	}
	args, err := p.configure(env, s, p.name, t.port)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(t.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// As many files as the machine allows: a client needs one.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"`, p.path}, args...)...) //nolint:noctx // stop ends it
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, env.dir
	cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1")
	if s.procs > 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(s.procs))
	}
	if p.unprivileged {
		if cmd.SysProcAttr, err = pginstance.Unprivileged(); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if t.process, err = pginstance.Spawn(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	if err := t.wait(ctx); err != nil {
		t.stop()
		return nil, err
	}
	t.starting = time.Since(begin)
	return t, nil
}

// wait waits until the target takes connections.
func (t *target) wait(ctx context.Context) error {
	for range 3000 {
		if c, err := net.Dial("tcp", t.addr()); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-t.process.Done():
			return fmt.Errorf("%s ended: %w\n%s", t.name, t.process.Err(), t.logText())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s takes no connections\n%s", t.name, t.logText())
}

// stop ends all poolers.
func (env *environment) stop() {
	for _, t := range env.targets {
		t.stop()
	}
	env.targets = nil
}

// stop ends a pooler.
func (t *target) stop() {
	if t.process != nil {
		_ = t.process.Signal(syscall.SIGKILL) // it may have ended
		<-t.process.Done()
	}
}

func (env *environment) write(name, text string) error {
	return os.WriteFile(filepath.Join(env.dir, name), []byte(text), 0o644) //nolint:gosec // poolers read them as another user
}

// close stops everything.
func (env *environment) close() error {
	env.stop()
	var errs []error
	if env.server != nil {
		errs = append(errs, env.server.Stop(pginstance.Immediate))
	}
	if env.scratch != nil {
		errs = append(errs, env.scratch.Close())
	}
	return errors.Join(errs...)
}
