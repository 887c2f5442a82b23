package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// What every suite logs in with: a superuser, as many suites make roles and extensions.
const (
	user     = "app"
	password = "secret"
	database = "app"
	other    = "other" // a second one, for suites that want two
	// replicator may have replication connections, with user's password.
	replicator = "replicator"
)

// stands makes what suites are run against.
type stands struct {
	pgkennel string
	scratch  *pginstance.Scratch
	tls      *certificates
}

func openStands(pgkennel string) (*stands, error) {
	scratch, err := pginstance.OpenScratch(filepath.Join(os.TempDir(), "pgkennel-drivers"))
	if err != nil {
		return nil, err
	}
	tls, err := newCertificates(scratch.Dir)
	if err != nil {
		return nil, errors.Join(err, scratch.Close())
	}
	return &stands{pgkennel, scratch, tls}, nil
}

func (s *stands) close() {
	if err := s.scratch.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "drivers:", err)
	}
}

// stand is one PostgreSQL instance, and a pgkennel before it unless it is direct.
type stand struct {
	server  *pginstance.Server
	program *pginstance.Process
	release func()
	socket  string // the folder of PostgreSQL's own
	bin     string
	tls     *certificates
	host    string
	port    int
	// databases are those of the instance that can be logged in to.
	databases []string
}

// start makes an instance with the database, what setup says in it, and pgkennel in the given mode.
func (s *stands) start(ctx context.Context, mode, setup, log string) (*stand, error) {
	server, err := s.scratch.NewServer(ctx, pginstance.Options{
		Name: "drivers", Auth: "scram-sha-256",
		Settings: map[string]string{
			"max_connections": "200", "max_prepared_transactions": "20", "wal_level": "logical", "shared_buffers": "64MB",
			"autovacuum": "off", // what it finds to do is another thing each time
			"ssl":        "on",
		},
		Files: map[string][]byte{"server.crt": s.tls.cert, "server.key": s.tls.key},
	})
	if err != nil {
		return nil, err
	}
	st := &stand{server: server, bin: s.scratch.Install().Dir, tls: s.tls, socket: server.SocketDir, host: "127.0.0.1", port: server.Port, release: func() {}}
	if err := s.fill(ctx, st, setup); err != nil {
		st.stop()
		return nil, err
	}
	if mode == direct {
		return st, nil
	}
	if err := s.before(ctx, st, mode, log); err != nil {
		st.stop()
		return nil, err
	}
	return st, nil
}

// fill makes the login and the database, and what setup says.
func (s *stands) fill(ctx context.Context, st *stand, setup string) error {
	run := func(db string, args ...string) (string, error) {
		args = append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", st.socket, "-p", strconv.Itoa(st.port), "-U", pginstance.Superuser, "-d", db}, args...)
		out, err := command(ctx, filepath.Join(st.bin, "psql"), args...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("psql: %w\n%s", err, out)
		}
		return string(out), nil
	}
	_, err := run("postgres", "-c", "CREATE ROLE "+user+" LOGIN SUPERUSER PASSWORD '"+password+"'", "-c", "CREATE DATABASE "+database+" OWNER "+user, "-c", "CREATE DATABASE "+other+" OWNER "+user,
		"-c", "CREATE ROLE "+replicator+" LOGIN REPLICATION PASSWORD '"+password+"'")
	if err != nil {
		return err
	}
	if _, missing := os.Stat(setup); missing == nil {
		if _, err := run(database, "-f", setup); err != nil {
			return err
		}
	}
	names, err := run("postgres", "-c", "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")
	st.databases = strings.Fields(names)
	return err
}

// before starts pgkennel before the instance and has st point to it.
func (s *stands) before(ctx context.Context, st *stand, mode, log string) error {
	port, release, err := s.scratch.FreePort()
	if err != nil {
		return err
	}
	st.release = release
	dir, err := os.MkdirTemp(s.scratch.Dir, "k")
	if err != nil {
		return err
	}
	var general strings.Builder
	fmt.Fprintf(&general, "[general]\nhost = \"127.0.0.1\"\nport = %d\npooler_mode = %q\ndefault_pool_size = 100\nmin_pool_size = 0\n", port, mode)
	fmt.Fprintf(&general, "tls_certificate = %q\ntls_private_key = %q\n", s.tls.certFile, s.tls.keyFile)
	for _, db := range st.databases {
		fmt.Fprintf(&general, "\n[[databases]]\nname = %q\nhost = \"127.0.0.1\"\nport = %d\n", db, st.server.Port)
	}
	users := fmt.Sprintf("[[users]]\nname = %q\nall_databases = true\npassword = %q\n", user, password)
	users += fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\nreplication_mode = true\n", replicator, database, password)
	for name, text := range map[string]string{"pgdog.toml": general.String(), "users.toml": users} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := command(context.WithoutCancel(ctx), s.pgkennel)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, f
	if st.program, err = pginstance.Spawn(cmd); err != nil {
		return err
	}
	st.host, st.port = "127.0.0.1", port
	return st.answers(ctx)
}

// answers waits until somebody listens.
func (st *stand) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(st.host, strconv.Itoa(st.port)))
		if err == nil {
			return c.Close()
		}
		select {
		case <-st.program.Done():
			return errors.New("pgkennel ended; see pgkennel.log")
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// env is how a suite finds its server.
func (st *stand) env() []string {
	address := net.JoinHostPort(st.host, strconv.Itoa(st.port))
	return []string{
		"PGHOST=" + st.host, "PGPORT=" + strconv.Itoa(st.port), "PGUSER=" + user, "PGPASSWORD=" + password, "PGDATABASE=" + database,
		"PGSSLMODE=disable", "PGBIN=" + st.bin, "PGTZ=UTC",
		// Both have a certificate for localhost that the authority in TLS_ROOT signed, and another authority did not.
		"TLS_ROOT=" + st.tls.rootFile, "TLS_OTHER_ROOT=" + st.tls.otherFile,
		"REPLICATOR=" + replicator,
		"URL=postgres://" + user + ":" + password + "@" + address + "/" + database + "?sslmode=disable",
		// PostgreSQL's own, for what a test has to see or do behind pgkennel.
		"SERVER_SOCKET=" + st.socket, "SERVER_PORT=" + strconv.Itoa(st.server.Port),
	}
}

// stop ends both and removes what they left.
func (st *stand) stop() {
	if st.program != nil {
		st.program.Signal(os.Kill) //nolint:errcheck // it may have ended
		<-st.program.Done()
	}
	st.release()
	if err := st.server.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, "drivers:", err)
	}
}
