// Package testbed runs a pgkennel of a test's own, in the test's process, in front of databases of its own. It is imported by tests only.
package testbed

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler"
)

// The names of every stand. Its users.toml may say more.
const (
	Cluster       = "saas"
	User          = "app"
	Password      = "secret of the application" // in a DSN it needs quoting, which is as well
	AdminPassword = "secret of the operator"
)

// Patience bounds every wait of a test.
const Patience = 30 * time.Second

// Spec says what the pgkennel of a test is.
type Spec struct {
	Shards    int                // 0 = 1
	Instances []*pgtest.Instance // one per shard; nil = the shared ones
	Schema    string             // SQL that makes each shard's tables, run as User
	General   string             // lines of [general]
	Databases string             // lines of each [[databases]] entry
	Rest      string             // the rest of pgdog.toml: [multi_tenant], [[sharded_tables]]
	Users     string             // users.toml; "" = one user
}

// Stand is one pgkennel in front of its shards.
type Stand struct {
	T       testing.TB
	Dir     string
	Addr    string
	Metrics string // address of the HTTP server
	Journal *Log   // what pgkennel logs
	Shards  []Shard
}

// Shard is the database that one shard's rows are in.
type Shard struct {
	*pgtest.Instance
	DB string
}

// Rows asks the instance itself.
func (s Shard) Rows(t testing.TB, sql string) []string {
	t.Helper()
	return s.Query(t, s.DB, sql)
}

// logins are those that all shared instances have, made once.
var logins sync.Map // *pgtest.Instance -> *sync.Once

// Prepare makes the databases and writes the configuration.
func Prepare(t testing.TB, sp Spec) *Stand {
	t.Helper()
	s := &Stand{T: t, Dir: t.TempDir(), Journal: &Log{}}
	instances := sp.Instances
	if instances == nil {
		instances = pgtest.SharedSet(t, max(1, sp.Shards))
	}
	for _, i := range instances {
		once, _ := logins.LoadOrStore(i, new(sync.Once))
		once.(*sync.Once).Do(func() { //nolint:forcetypeassert // it holds nothing else
			i.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", User, Password))
		})
		db := i.CreateDatabase(t)
		i.Exec(t, "postgres", fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", db, User))
		if sp.Schema != "" {
			i.Exec(t, db, "SET ROLE "+User+";"+sp.Schema)
		}
		s.Shards = append(s.Shards, Shard{i, db})
	}
	s.configure(sp)
	return s
}

// configure writes both files.
func (s *Stand) configure(sp Spec) {
	s.T.Helper()
	var b strings.Builder
	port, metrics := pgtest.FreePort(s.T), pgtest.FreePort(s.T)
	s.Addr, s.Metrics = "127.0.0.1:"+strconv.Itoa(port), "127.0.0.1:"+strconv.Itoa(metrics)
	fmt.Fprintf(&b, "[general]\n")
	for _, d := range []struct{ key, value string }{
		{"host", `"127.0.0.1"`},
		{"port", strconv.Itoa(port)},
		{"openmetrics_host", `"127.0.0.1"`},
		{"openmetrics_port", strconv.Itoa(metrics)},
		{"shutdown_timeout", "2_000"},
		{"tls_verify", `"disabled"`},
		{"local_sockets", strconv.FormatBool(chance(s.T)%2 == 0)},
	} {
		if !hasKey(sp.General, d.key) {
			fmt.Fprintf(&b, "%s = %s\n", d.key, d.value)
		}
	}
	fmt.Fprintf(&b, "%s\n[admin]\npassword = %q\n", sp.General, AdminPassword)
	for n, sh := range s.Shards {
		fmt.Fprintf(&b, "\n[[databases]]\nname = %q\nhost = \"127.0.0.1\"\nport = %d\nshard = %d\ndatabase_name = %q\n%s\n",
			Cluster, sh.Port, n, sh.DB, sp.Databases)
	}
	b.WriteString(sp.Rest)
	users := sp.Users
	if users == "" {
		users = fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", User, Cluster, Password)
	}
	s.Write("pgdog.toml", b.String())
	s.Write("users.toml", users)
}

func hasKey(lines, key string) bool {
	return slices.ContainsFunc(strings.Split(lines, "\n"), func(l string) bool {
		name, _, ok := strings.Cut(l, "=")
		return ok && strings.TrimSpace(name) == key
	})
}

// Path is that of a file of the stand's.
func (s *Stand) Path(name string) string { return filepath.Join(s.Dir, name) }

// Write makes a file.
func (s *Stand) Write(name, text string) {
	s.T.Helper()
	if err := os.WriteFile(s.Path(name), []byte(text), 0o600); err != nil {
		s.T.Fatal(err)
	}
}

// Edit changes the configuration on disk.
func (s *Stand) Edit(name, old, replacement string) {
	s.T.Helper()
	text, err := os.ReadFile(s.Path(name))
	if err != nil {
		s.T.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		s.T.Fatalf("%s has no %q", name, old)
	}
	s.Write(name, strings.Replace(string(text), old, replacement, 1))
}

// As is a raw client that logs in by a name, with startup parameters.
func (s *Stand) As(t testing.TB, user string, params map[string]string) *pgtest.Client {
	t.Helper()
	return pgtest.Connect(t, s.Addr, pgtest.Login{User: user, Database: Cluster, Password: Password, Params: params})
}

// Load reads the configuration.
func (s *Stand) Load() (*config.Config, config.Warnings, error) {
	return config.Load(config.Options{
		ConfigFile: s.Path("pgdog.toml"), UsersFile: s.Path("users.toml"), ConfigGiven: true, UsersGiven: true,
	})
}

// Start runs the configuration in this process until the test ends.
func (s *Stand) Start() *pooler.Pooler {
	s.T.Helper()
	cfg, _, err := s.Load()
	if err != nil {
		s.T.Fatalf("configuration: %v", err)
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelDebug)
	ctx, cancel := context.WithCancel(context.Background())
	chosen := DriverOf(s.T)
	p, err := pooler.New(ctx, pooler.Options{
		Config: cfg, Load: s.Load, Version: "integration", Goroutines: chosen == "goroutines", Ring: chosen == "uring",
		Log: slog.New(slog.NewTextHandler(s.Journal, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		cancel()
		s.T.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	s.T.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.T.Errorf("Run: %v", err)
			}
		case <-time.After(Patience):
			var all strings.Builder
			pprof.Lookup("goroutine").WriteTo(&all, 1) //nolint:errcheck // a Builder takes everything
			s.T.Errorf("Run does not return:\n%s", all.String())
		}
	})
	return p
}

var drivers = [...]string{"goroutines", "epoll", "uring"}

// EachDriver runs f on every driver, beside each other.
func EachDriver(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, name := range drivers {
		if *driver == "" || *driver == name {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t)
			})
		}
	}
}

// DriverOf chooses the driver of a stand: the one that its test is named after, in EachDriver, or any by the name, so that a test runs on the same one each
// time. A third of them runs on each. All have to pass every test: make integration runs all on each.
func DriverOf(t testing.TB) string {
	t.Helper()
	if *driver != "" {
		return *driver
	}
	for _, name := range drivers {
		if strings.Contains(t.Name()+"/", "/"+name+"/") {
			return name
		}
	}
	chosen := drivers[chance(t)%3]
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("it ran on -driver=" + chosen)
		}
	})
	return chosen
}

// chance is any number, and the same one whenever the test runs.
func chance(t testing.TB) uint32 {
	name := fnv.New32a()
	name.Write([]byte(t.Name()))
	return name.Sum32()
}

var driver = flag.String("driver", "", "epoll, uring or goroutines; by the name of the test if not given")

// Log is a log that may be read while it is written.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns what was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
