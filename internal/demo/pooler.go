package demo

import (
	"context"
	"errors"
	"fmt"
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

const (
	configName = "pgdog.toml"
	usersName  = "users.toml"

	stopTimeout  = 15 * time.Second // after it, SIGKILL
	portAttempts = 200
)

var (
	errPortTaken = errors.New("port is taken")
	errEnded     = errors.New("it should not have")
)

// pooler is a running pgkennel.
type pooler struct {
	process *pginstance.Process
	port    int
	dir     string
	logFile string
}

func (p *pooler) addr() string { return "127.0.0.1:" + strconv.Itoa(p.port) }

// startPooler has the configuration written and runs pgkennel on the first port that is free from first on.
func startPooler(ctx context.Context, opts Options, first int, dir string, configure func(dir string, port int) error) (*pooler, error) {
	for port := first; port < first+portAttempts; port++ {
		p := &pooler{port: port, dir: dir, logFile: filepath.Join(dir, "pgkennel.log")}
		if !free(p.addr()) {
			continue
		}
		err := p.start(ctx, opts, configure)
		if errors.Is(err, errPortTaken) { // somebody was faster
			continue
		}
		if err != nil {
			return nil, errors.Join(err, p.explain())
		}
		return p, nil
	}
	return nil, fmt.Errorf("no free port from %d on", first)
}

// free tells whether nobody listens on addr just now.
func free(addr string) bool {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	return ln.Close() == nil
}

func (p *pooler) start(ctx context.Context, opts Options, configure func(dir string, port int) error) error {
	if err := configure(p.dir, p.port); err != nil {
		return err
	}
	log, err := os.Create(p.logFile)
	if err != nil {
		return fmt.Errorf("pgkennel's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(opts.Program) // #nosec G204 -- the program is what this is the demo of
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	if p.process, err = pginstance.Spawn(cmd); err != nil {
		return fmt.Errorf("start of pgkennel: %w", err)
	}
	if err := p.waitReady(ctx, opts.readyTimeout); err != nil {
		return errors.Join(err, p.stop())
	}
	return nil
}

// waitReady waits for pgkennel's own word and for its port.
func (p *pooler) waitReady(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		said, _ := os.ReadFile(p.logFile)
		select {
		case <-p.process.Done():
			said, _ = os.ReadFile(p.logFile)
			if strings.Contains(string(said), "address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("pgkennel ended before it was ready: %w", errors.Join(p.process.Err(), errEnded))
		case <-ctx.Done():
			return fmt.Errorf("wait for pgkennel: %w", context.Cause(ctx))
		case <-tick.C:
		}
		if strings.Contains(string(said), "msg=ready") || strings.Contains(string(said), `"msg":"ready"`) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr())
			if err == nil {
				return conn.Close()
			}
		}
	}
}

// stop asks pgkennel to drain, and kills it if it takes too long.
func (p *pooler) stop() error {
	if err := p.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop of pgkennel: %w", err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.process.Done():
		return nil
	case <-timeout.C:
		err := p.process.Signal(syscall.SIGKILL)
		<-p.process.Done()
		return errors.Join(fmt.Errorf("pgkennel did not stop in %v and was killed", stopTimeout), err)
	}
}

// explain returns the end of pgkennel's log as an error, for whoever has to find out what went wrong.
func (p *pooler) explain() error {
	said, err := os.ReadFile(p.logFile)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return errors.New("pgkennel's log ends with:\n" + strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// configure writes both files as a user of pgkennel would.
func (all shards) configure(dir string, port int) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# What the demo runs with. Every key is explained in docs/configuration.md.

[general]
host = "127.0.0.1"
port = %d
default_pool_size = 5

[admin]
password = %q

# A statement must name its tenant by this column.
[multi_tenant]
column = "tenant_id"
`, port, password)
	for number, s := range all {
		fmt.Fprintf(&b, `
[[databases]]
name = %q
host = "127.0.0.1"
port = %d
shard = %d
`, database, s.server.Port, number)
	}
	// All tables with the column are sharded alike: some tenants are placed one by one, the others by range.
	fmt.Fprintf(&b, `
[[sharded_tables]]
database = %q
column = "tenant_id"
data_type = "bigint"
mapping = [
  { values = [1, 4], shard = 0 },
  { values = [2], shard = 1 },
  { values = [3], shard = 2 },
  { start = 100, end = 200, shard = 0 },
  { start = 200, end = 300, shard = 1 },
  { start = 300, shard = 2 },
]
`, database)
	users := fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", user, database, password)
	for name, text := range map[string]string{configName: b.String(), usersName: users} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	return nil
}
