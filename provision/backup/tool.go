package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
)

// lockWait is how long a dump waits for a table that somebody changes, in milliseconds.
const lockWait = 60_000

// connect opens a connection to a source's database, as a role of it if user is not empty.
func connect(ctx context.Context, c provision.Connect) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(c.ConnString() + " application_name=pgkennel connect_timeout=20")
	if err != nil {
		return nil, err
	}
	if c.CA != "" {
		if cfg.TLSConfig, err = provision.ServerTLS(c.Host, c.CA); err != nil {
			return nil, err
		}
		cfg.Fallbacks = nil
	}
	cfg.Password = c.Password
	cfg.RuntimeParams["search_path"] = "pg_catalog"
	cfg.RuntimeParams["default_transaction_read_only"] = "off" // a tenant may be read-only
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the tenant's database: %w", err)
	}
	return conn, nil
}

// quoted writes a value of a connection string.
func quoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// database is the option that names a database to PostgreSQL's programs, which take a name with a = in it for more than that.
func database(c provision.Connect) string { return "--dbname=dbname=" + quoted(c.Database) }

// hangUp closes a connection, also when its context is done.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing of ours is left in it
}

// server is the major version of a server, such as 15.
func server(ctx context.Context, conn *pgx.Conn) (int, error) {
	var s string
	if err := conn.QueryRow(ctx, "SHOW server_version_num").Scan(&s); err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	return n / 10000, err
}

// tool prepares one of PostgreSQL's programs, of the server's version or the next later one, to work on a database. The password is in its environment: a driver
// that runs it elsewhere has to pass that on.
func (a *Archive) tool(ctx context.Context, s provision.Source, c provision.Connect, version int, name string, args ...string) (*exec.Cmd, error) {
	args = append([]string{"--host=" + c.Host, "--port=" + strconv.Itoa(c.Port), "--username=" + c.User, "--no-password"}, args...)
	var cmd *exec.Cmd
	var err error
	if s.Driver != nil && s.Instance != nil {
		cmd, err = s.Driver.Tool(ctx, s.Instance, name, args...)
	} else {
		var path string
		if path, err = find(version, name); err == nil {
			cmd = exec.CommandContext(ctx, path, args...) //nolint:gosec // PostgreSQL's own, by its name
		}
	}
	if err != nil {
		return nil, err
	}
	if cmd.Env == nil { // ours may hold keys
		cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C"}
		for _, e := range os.Environ() {
			if strings.HasPrefix(e, "PGSSL") {
				cmd.Env = append(cmd.Env, e)
			}
		}
	}
	cmd.Env = append(cmd.Env, "PGCONNECT_TIMEOUT=20", "PGAPPNAME=pgkennel")
	cmd.Env = append(cmd.Env, c.Env()...)
	cmd.WaitDelay = 10 * time.Second
	return cmd, nil
}

// find looks for a program of a version, or a later one, on this host.
func find(version int, name string) (string, error) {
	best, found := 0, ""
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	more, _ := filepath.Glob("/usr/pgsql-*/bin")
	for _, dir := range append(dirs, more...) {
		v, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "pgsql-"))
		if err != nil || v < version || best != 0 && v > best {
			continue
		}
		if path := filepath.Join(dir, name); executable(path) {
			best, found = v, path
		}
	}
	if found == "" {
		return "", provision.Errorf(provision.KindRefused, "%s of PostgreSQL %d is not installed on this host", name, version).
			WithHint("Install PostgreSQL's client programs, such as postgresql-client-%d.", version)
	}
	return found, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// tail keeps the end of what a program says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b); n > tailBytes {
		t.b = append(t.b[:0], t.b[n-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?"))
}

// output runs a program and passes on what it writes.
func output(cmd *exec.Cmd, name string, into io.Writer) error {
	said := &tail{}
	w := &sticky{w: into}
	cmd.Stdout, cmd.Stderr = w, said
	err := cmd.Run()
	if w.err != nil {
		return w.err // the program only met a closed pipe
	}
	return ended(name, err, said)
}

// sticky remembers the first error of a writer.
type sticky struct {
	w   io.Writer
	err error
}

func (s *sticky) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// input runs a program on what is read from from. When that fails the program is killed before it sees an end, so that it does not take half for the whole.
func input(cmd *exec.Cmd, name string, from io.Reader) error {
	said := &tail{}
	cmd.Stdout, cmd.Stderr = io.Discard, said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start of %s: %w", name, err)
	}
	_, err = io.Copy(writerOnly{in}, from)
	switch {
	case err == nil:
		err = in.Close()
	case errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed): // it has read what it needs, or ended with an error of its own
		err = nil
	default:
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		return err
	}
	return ended(name, errors.Join(cmd.Wait(), err), said)
}

// writerOnly hides ReadFrom, which would hide who failed.
type writerOnly struct{ io.Writer }

func ended(name string, err error, said *tail) error {
	if err == nil {
		return nil
	}
	e := provision.Errorf(provision.KindFailed, "%s failed: %v", name, err)
	if s := said.String(); s != "" {
		lines := strings.Split(s, "\n")
		e = provision.Errorf(provision.KindFailed, "%s failed: %s", name, pick(lines)).WithDetail("%s", s)
	}
	return e
}

// pick is the line of a program's that says most.
func pick(lines []string) string {
	for _, l := range slices.Backward(lines) {
		if _, said, ok := strings.Cut(l, "error: "); ok {
			return said
		}
	}
	return lines[len(lines)-1]
}

// meter reports progress in bytes, a few times a second.
type meter struct {
	report func(provision.Progress)
	step   string
	total  int64

	mu   sync.Mutex
	done int64
	last time.Time
}

func newMeter(report func(provision.Progress), step string, total int64) *meter {
	return &meter{report: report, step: step, total: total}
}

const reportEvery = 200 * time.Millisecond

func (m *meter) add(n int) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.last) >= reportEvery {
		m.last = now
		m.tellLocked()
	}
}

// tellLocked reports under the lock: what is told never goes backwards.
func (m *meter) tellLocked() {
	m.report(provision.Progress{Step: m.step, Done: m.done, Total: max(m.total, m.done), Bytes: true})
}

// end reports that all is done.
func (m *meter) end() {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total = m.done
	m.tellLocked()
}

func (m *meter) writer(w io.Writer) io.Writer { return metered{w, m} }

func (m *meter) reader(r io.Reader) io.Reader { return meteredReader{r, m} }

type metered struct {
	w io.Writer
	m *meter
}

func (w metered) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.m.add(n)
	return n, err
}

type meteredReader struct {
	r io.Reader
	m *meter
}

func (r meteredReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.m.add(n)
	return n, err
}
