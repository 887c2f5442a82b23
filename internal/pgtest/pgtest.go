// Package pgtest gives tests real PostgreSQL instances, a raw protocol client, and a scripted server that misbehaves
// on command. It is imported by tests only.
//
// Start runs an instance for one test, Shared one for the whole test binary. Both need the PostgreSQL binaries
// (scripts/deps installs them) and fail the test without them: a test that silently skips protects nothing. Instances
// run as the user postgres when the test is root, listen on 127.0.0.1 and on a unix socket, use ports that they found
// free themselves, and are gone after the test, also when it is killed. Root is where their
// folder is; $PGKENNEL_TEST_DIR moves it.
//
// Client sends and receives exact messages. FakeServer plays PostgreSQL from a script, with faults.
package pgtest

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// StopMode is how Stop asks PostgreSQL to shut down.
type StopMode = pginstance.StopMode

// The ways to stop an instance.
const (
	Fast      = pginstance.Fast
	Smart     = pginstance.Smart
	Immediate = pginstance.Immediate
)

// Superuser is every instance's bootstrap user. It needs no password on the unix socket, whatever the options say.
const Superuser = pginstance.Superuser

// Instance is one running PostgreSQL server.
type Instance struct {
	SocketDir string
	Port      int
	Major     int // PostgreSQL's major version

	server *pginstance.Server
	tls    bool
	names  atomic.Int64 // numbers databases and users
}

// Option changes how an instance is set up.
type Option func(*settings)

type settings struct {
	pginstance.Options
	tls bool
}

// Config sets an entry of postgresql.conf.
func Config(key, value string) Option {
	return func(s *settings) { s.Settings[key] = value }
}

// MaxConnections sets max_connections; the default is 100.
func MaxConnections(n int) Option { return Config("max_connections", strconv.Itoa(n)) }

// Name sets cluster_name, by which queries can tell which instance answered. The default is the test's name.
func Name(name string) Option {
	return func(s *settings) { s.Options.Name = name }
}

// Auth sets the pg_hba method for everybody but the superuser on the unix socket. The default is trust.
func Auth(method string) Option {
	return func(s *settings) { s.Options.Auth = method }
}

// HBA puts lines in front of the instance's default pg_hba.conf.
func HBA(lines ...string) Option {
	return func(s *settings) { s.Options.HBA = append(s.Options.HBA, lines...) }
}

// TLS turns on ssl with a certificate of ca for localhost and 127.0.0.1; client certificates are checked against ca.
// Unencrypted connections stay allowed unless HBA says otherwise ("hostnossl all all all reject").
func TLS(ca *CA) Option {
	return func(s *settings) {
		cert, key := ca.issue("localhost", "localhost", "127.0.0.1")
		s.Files["server.crt"], s.Files["server.key"], s.Files["root.crt"] = cert, key, ca.PEM
		s.Settings["ssl"] = "on"
		s.Settings["ssl_cert_file"] = "server.crt"
		s.Settings["ssl_key_file"] = "server.key"
		s.Settings["ssl_ca_file"] = "root.crt"
		s.tls = true
	}
}

// Start runs an instance of its own for t, and removes it when t ends. Of a failed test it logs the server log's end.
func Start(t testing.TB, opts ...Option) *Instance {
	t.Helper()
	i, err := start(t, clusterName(t.Name()), opts)
	if err != nil {
		t.Fatalf("PostgreSQL instance: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of PostgreSQL instance %d:\n%s", i.Port, tail(i.Logs(), 60))
		}
		if err := i.remove(); err != nil {
			t.Errorf("PostgreSQL instance: %v", err)
		}
	})
	return i
}

func start(t testing.TB, name string, opts []Option) (*Instance, error) {
	t.Helper()
	s := settings{Options: pginstance.Options{
		Name:     name,
		Settings: map[string]string{},
		Files:    map[string][]byte{},
		HBA: []string{ // what CreateUser's users must do; unknown roles match nobody
			"local all +pgtest_scram scram-sha-256", "host all +pgtest_scram all scram-sha-256",
			"local all +pgtest_md5 md5", "host all +pgtest_md5 all md5",
			"local all +pgtest_password password", "host all +pgtest_password all password",
			"hostssl all +pgtest_cert all cert",
		},
	}}
	for _, opt := range opts {
		opt(&s)
	}
	if !s.tls { // hostssl without ssl is a warning at each load
		s.Options.HBA = removeLine(s.Options.HBA, "hostssl all +pgtest_cert all cert")
	}
	scratch, err := useScratch()
	if err != nil {
		return nil, err
	}
	server, err := scratch.NewServer(t.Context(), s.Options)
	if err != nil {
		return nil, errors.Join(err, releaseScratch())
	}
	return &Instance{
		SocketDir: server.SocketDir,
		Port:      server.Port,
		Major:     scratch.Install().Major,
		server:    server,
		tls:       s.tls,
	}, nil
}

func removeLine(lines []string, line string) []string {
	kept := lines[:0]
	for _, l := range lines {
		if l != line {
			kept = append(kept, l)
		}
	}
	return kept
}

func (i *Instance) remove() error {
	err := i.server.Stop(Fast)
	if rerr := i.server.Remove(); err == nil {
		err = rerr
	}
	if rerr := releaseScratch(); err == nil {
		err = rerr
	}
	return err
}

// Addr is the instance's TCP address.
func (i *Instance) Addr() string { return "127.0.0.1:" + strconv.Itoa(i.Port) }

// Socket is the path of the instance's unix socket.
func (i *Instance) Socket() string { return i.SocketDir + "/.s.PGSQL." + strconv.Itoa(i.Port) }

// Stop shuts the instance down and waits for its end.
func (i *Instance) Stop(t testing.TB, mode StopMode) {
	t.Helper()
	if err := i.server.Stop(mode); err != nil {
		t.Fatalf("PostgreSQL instance: %v", err)
	}
}

// Kill ends every process of the instance with SIGKILL, as if the machine had lost power.
func (i *Instance) Kill(t testing.TB) {
	t.Helper()
	i.server.Kill()
}

// Restart stops the instance (fast) if it runs, and starts it again on the same port.
func (i *Instance) Restart(t testing.TB) {
	t.Helper()
	i.Stop(t, Fast)
	if err := i.server.Start(t.Context()); err != nil {
		t.Fatalf("PostgreSQL instance: %v", err)
	}
}

// Standby starts the instance anew as a hot standby, which follows nobody: it has what it had, and can only be read.
func (i *Instance) Standby(t testing.TB) {
	t.Helper()
	i.Stop(t, Fast)
	err := i.server.Standby()
	if err == nil {
		err = i.server.Start(t.Context())
	}
	if err != nil {
		t.Fatalf("PostgreSQL instance: %v", err)
	}
}

// Freeze stops every process of the instance where it stands: connections stay open, nothing answers. It thaws when
// t ends.
func (i *Instance) Freeze(t testing.TB) {
	t.Helper()
	i.server.Freeze()
	t.Cleanup(i.server.Thaw)
}

// Thaw lets a frozen instance go on.
func (i *Instance) Thaw() { i.server.Thaw() }

// Running tells whether the postmaster lives.
func (i *Instance) Running() bool { return i.server.Running() }

// Logs returns the server's log.
func (i *Instance) Logs() string { return i.server.Logs() }

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// clusterName makes the test's name fit for cluster_name: printable ASCII, under NAMEDATALEN.
func clusterName(testName string) string {
	name := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '\'' {
			return '_'
		}
		return r
	}, testName)
	return name[:min(len(name), 60)]
}

// scratch is the folder of this test binary, open while an instance uses it.
var scratch struct {
	sync.Mutex
	users int
	dir   *pginstance.Scratch
}

func useScratch() (*pginstance.Scratch, error) {
	scratch.Lock()
	defer scratch.Unlock()
	if scratch.dir == nil {
		dir, err := pginstance.OpenScratch(Base())
		if err != nil {
			return nil, err
		}
		scratch.dir = dir
	}
	scratch.users++
	return scratch.dir, nil
}

func releaseScratch() error {
	scratch.Lock()
	defer scratch.Unlock()
	scratch.users--
	if scratch.users > 0 {
		return nil
	}
	err := scratch.dir.Close()
	scratch.dir = nil
	return err
}
