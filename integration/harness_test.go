package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// The names of every stand. Its users.toml may say more.
const (
	cluster       = "saas"
	user          = "app"
	password      = "secret of the application" // in a DSN it needs quoting, which is as well
	adminPassword = "secret of the operator"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// spec says what the pgkennel of a test is.
type spec struct {
	shards    int                // 0 = 1
	instances []*pgtest.Instance // one per shard; nil = the shared ones
	schema    string             // SQL that makes each shard's tables, run as user
	general   string             // lines of [general]
	databases string             // lines of each [[databases]] entry
	rest      string             // the rest of pgdog.toml: [multi_tenant], [[sharded_tables]]
	users     string             // users.toml; "" = one user
	program   bool               // the built program in a process of its own
	env       []string           // of the program
}

// stand is one pgkennel in front of its shards.
type stand struct {
	t      *testing.T
	dir    string
	addr   string
	log    *logBuffer
	shards []shard

	metrics string // address of the HTTP server
	process *process
	inside  *inside
}

// shard is the database that one shard's rows are in.
type shard struct {
	*pgtest.Instance
	db string
}

// rows asks the instance itself.
func (s shard) rows(t testing.TB, sql string) []string {
	t.Helper()
	return s.Query(t, s.db, sql)
}

// roles are the logins that all shared instances have, made once.
var roles sync.Map // *pgtest.Instance -> *sync.Once

// start runs a pgkennel until t ends.
func start(t *testing.T, sp spec) *stand {
	t.Helper()
	s := prepare(t, sp)
	if sp.program {
		s.startProgram(sp.env)
	} else {
		s.startInside()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgkennel's log:\n%s", tail(s.log.String(), 60))
		}
	})
	return s
}

// prepare makes the databases and writes the configuration.
func prepare(t *testing.T, sp spec) *stand {
	t.Helper()
	s := &stand{t: t, dir: t.TempDir(), log: &logBuffer{}}
	instances := sp.instances
	if instances == nil {
		instances = pgtest.SharedSet(t, max(1, sp.shards))
	}
	for _, i := range instances {
		once, _ := roles.LoadOrStore(i, new(sync.Once))
		once.(*sync.Once).Do(func() { //nolint:forcetypeassert // it holds nothing else
			i.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", user, password))
		})
		db := i.CreateDatabase(t)
		i.Exec(t, "postgres", fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", db, user))
		if sp.schema != "" {
			i.Exec(t, db, "SET ROLE "+user+";"+sp.schema)
		}
		s.shards = append(s.shards, shard{i, db})
	}
	s.configure(sp)
	return s
}

// configure writes both files.
func (s *stand) configure(sp spec) {
	s.t.Helper()
	var b strings.Builder
	port, metrics := pgtest.FreePort(s.t), pgtest.FreePort(s.t)
	s.addr, s.metrics = "127.0.0.1:"+strconv.Itoa(port), "127.0.0.1:"+strconv.Itoa(metrics)
	fmt.Fprintf(&b, "[general]\n")
	for _, d := range []struct{ key, value string }{
		{"host", `"127.0.0.1"`},
		{"port", strconv.Itoa(port)},
		{"openmetrics_host", `"127.0.0.1"`},
		{"openmetrics_port", strconv.Itoa(metrics)},
		{"shutdown_timeout", "2_000"},
		{"tls_verify", `"disabled"`},
	} {
		if !hasKey(sp.general, d.key) {
			fmt.Fprintf(&b, "%s = %s\n", d.key, d.value)
		}
	}
	fmt.Fprintf(&b, "%s\n[admin]\npassword = %q\n", sp.general, adminPassword)
	for n, sh := range s.shards {
		fmt.Fprintf(&b, "\n[[databases]]\nname = %q\nhost = \"127.0.0.1\"\nport = %d\nshard = %d\ndatabase_name = %q\n%s\n",
			cluster, sh.Port, n, sh.db, sp.databases)
	}
	b.WriteString(sp.rest)
	users := sp.users
	if users == "" {
		users = fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", user, cluster, password)
	}
	s.write("pgdog.toml", b.String())
	s.write("users.toml", users)
}

func hasKey(lines, key string) bool {
	return slices.ContainsFunc(strings.Split(lines, "\n"), func(l string) bool {
		name, _, ok := strings.Cut(l, "=")
		return ok && strings.TrimSpace(name) == key
	})
}

func (s *stand) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stand) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// edit changes the configuration on disk.
func (s *stand) edit(name, old, replacement string) {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		s.t.Fatalf("%s has no %q", name, old)
	}
	s.write(name, strings.Replace(string(text), old, replacement, 1))
}

// login is how user logs in.
func (s *stand) login() pgtest.Login {
	return pgtest.Login{User: user, Database: cluster, Password: password}
}

// connect is a raw client.
func (s *stand) connect(t testing.TB) *pgtest.Client {
	t.Helper()
	return pgtest.Connect(t, s.addr, s.login())
}

// with is a raw client with startup parameters.
func (s *stand) with(t testing.TB, params map[string]string) *pgtest.Client {
	t.Helper()
	l := s.login()
	l.Params = params
	return pgtest.Connect(t, s.addr, l)
}

// dsn is for drivers and programs.
func (s *stand) dsn(params ...string) string {
	return pgtest.DSN(s.addr, cluster, user, password, params...)
}

// pgx connects with a mode of execution.
func (s *stand) pgx(t testing.TB, mode pgx.QueryExecMode) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(s.dsn())
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = mode
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.Close(ctx)
	})
	return c
}

// console runs a command in the admin database and returns its rows, by column.
func (s *stand) console(t testing.TB, sql string) []map[string]string {
	t.Helper()
	rows, err := s.tryConsole(sql)
	if err != nil {
		t.Fatalf("console %s: %v", sql, err)
	}
	return rows
}

func (s *stand) tryConsole(sql string) ([]map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, pgtest.DSN(s.addr, "admin", "admin", adminPassword, "default_query_exec_mode=simple_protocol"))
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	result, err := c.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	var rows []map[string]string
	for result.Next() {
		row := make(map[string]string)
		for i, raw := range result.RawValues() {
			row[result.FieldDescriptions()[i].Name] = string(raw)
		}
		rows = append(rows, row)
	}
	return rows, result.Err()
}

// metric adds up the samples of a metric whose labels hold all of the given parts.
func (s *stand) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	sum := 0.0
	for line := range strings.Lines(s.scrape(t, "/metrics")) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok {
			series, value, ok = strings.Cut(strings.TrimSpace(line), " ")
		}
		base, with, _ := strings.Cut(series, "{")
		if !ok || base != "pgkennel_"+name && base != name || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(with, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric %s: %v", line, err)
		}
		sum += v
	}
	return sum
}

// scrape gets a page of the HTTP server.
func (s *stand) scrape(t testing.TB, path string) string {
	t.Helper()
	status, body := s.get(t, path)
	if status != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, status, body)
	}
	return body
}

func (s *stand) get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	pgtest.Eventually(t, what, f)
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
