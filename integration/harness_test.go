package integration

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// The names of every stand. Its users.toml may say more.
const (
	cluster       = testbed.Cluster
	user          = testbed.User
	password      = testbed.Password
	adminPassword = testbed.AdminPassword
)

// patience bounds every wait of a test.
const patience = testbed.Patience

// spec says what the pgkennel of a test is; see testbed.Spec.
type spec struct {
	shards    int
	instances []*pgtest.Instance
	schema    string
	general   string
	databases string
	rest      string
	users     string
	program   bool     // the built program in a process of its own
	env       []string // of the program
}

// stand is one pgkennel in front of its shards.
type stand struct {
	*testbed.Stand
	t      *testing.T
	dir    string
	addr   string
	log    *testbed.Log
	shards []shard

	metrics string // address of the HTTP server
	process *process
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
	b := testbed.Prepare(t, testbed.Spec{
		Shards: sp.shards, Instances: sp.instances, Schema: sp.schema, General: sp.general, Databases: sp.databases, Rest: sp.rest, Users: sp.users,
	})
	s := &stand{Stand: b, t: t, dir: b.Dir, addr: b.Addr, log: b.Journal, metrics: b.Metrics}
	for _, sh := range b.Shards {
		s.shards = append(s.shards, shard{sh.Instance, sh.DB})
	}
	return s
}

// startInside runs the stand's configuration in this process, until the test ends.
func (s *stand) startInside() {
	s.t.Helper()
	s.Start()
}

func (s *stand) path(name string) string { return s.Path(name) }

func (s *stand) write(name, text string) {
	s.t.Helper()
	s.Write(name, text)
}

// edit changes the configuration on disk.
func (s *stand) edit(name, old, replacement string) {
	s.t.Helper()
	s.Edit(name, old, replacement)
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

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
