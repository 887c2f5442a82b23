package pooler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

const (
	operator       = "root"
	operatorSecret = "gone fishing"
)

// house is a pooler at work in front of real databases.
type house struct {
	*Pooler
	t      testing.TB
	log    *logBuffer
	ran    chan error // gets Run's result
	server *pgtest.Instance
	db     string // on the server
	user   string
	secret string

	mu    sync.Mutex
	files [2]string // the configuration, for reloads
}

// keys of the configuration that a test adds.
type extra struct{ general, config, users string }

// newHouse serves one database, called shop, to a user of the test's own.
func newHouse(t testing.TB, e extra) *house {
	t.Helper()
	server := pgtest.Shared(t)
	h := &house{t: t, log: &logBuffer{}, server: server, secret: "let me in"}
	h.db = server.CreateDatabase(t, "create table items (id bigint primary key, name text)")
	h.user = server.CreateUser(t, h.secret, "scram-sha-256")
	server.Exec(t, h.db, fmt.Sprintf("grant all on items to %q", h.user))
	h.write(e)
	h.start()
	return h
}

// write sets the configuration that the next start or reload reads.
func (h *house) write(e extra) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[0] = fmt.Sprintf(`[general]
host = "127.0.0.1"
default_pool_size = 2
load_schema = "off"
connect_timeout = 30000
checkout_timeout = 30000
%s
[admin]
user = %q
password = %q
[[databases]]
name = "shop"
host = "127.0.0.1"
port = %d
database_name = %q
%s
`, e.general, operator, operatorSecret, h.server.Port, h.db, e.config)
	h.files[1] = fmt.Sprintf("[[users]]\nname = %q\ndatabase = \"shop\"\npassword = %q\n%s\n", h.user, h.secret, e.users)
}

// load reads the configuration, but listens at a port that the system chooses.
func (h *house) load() (*config.Config, config.Warnings, error) {
	h.mu.Lock()
	files := h.files
	h.mu.Unlock()
	c, w, err := config.Parse(config.File{Name: "pgdog.toml", Text: files[0]}, config.File{Name: "users.toml", Text: files[1]}, nil)
	if err != nil {
		return nil, w, err
	}
	c.Listen.Port = 0
	return c, w, nil
}

// start runs the pooler until the test ends.
func (h *house) start() {
	t := h.t
	t.Helper()
	for attempt := 0; h.Pooler == nil; attempt++ {
		c, _, err := h.load()
		if err != nil {
			t.Fatal(err)
		}
		c.Metrics.Port = pgtest.FreePort(t)
		c.Metrics.Host = "127.0.0.1"
		h.Pooler, err = New(t.Context(), Options{
			Config: c, Load: h.load, Version: "1.2.3", Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil && attempt == 5 { // somebody may have been faster to take the port
			t.Fatal(err)
		}
	}
	h.ran = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background()) // it ends after the test's context
	go func() { h.ran <- h.Run(ctx) }()
	t.Cleanup(func() {
		h.Hurry()
		h.ended()
		cancel()
		if t.Failed() {
			t.Logf("log:\n%s", h.log)
		}
	})
}

// ended waits for the end of Run.
func (h *house) ended() {
	h.t.Helper()
	select {
	case err := <-h.ran:
		h.ran <- err // for the next one who asks
		if err != nil {
			h.t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		h.t.Fatalf("the pooler does not end; goroutines:\n%s", stacks)
	}
}

func (h *house) addr() string { return h.Addrs()[0].String() }

// dsn leads to a database as the test's user, or to the console.
func (h *house) dsn(database string, params ...string) string {
	if database == "admin" {
		return pgtest.DSN(h.addr(), database, operator, operatorSecret, params...)
	}
	return pgtest.DSN(h.addr(), database, h.user, h.secret, params...)
}

// psql runs psql on the console.
func (h *house) psql(args ...string) string {
	h.t.Helper()
	return pgtest.PSQL(h.t, h.dsn("admin"), args...)
}

// connect logs in with pgx.
func (h *house) connect(database string, params ...string) *pgx.Conn {
	h.t.Helper()
	c, err := pgx.Connect(h.t.Context(), h.dsn(database, params...))
	if err != nil {
		h.t.Fatalf("connect to %s: %v; log:\n%s", database, err, h.log)
	}
	h.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// console is a connection to the admin database.
type console struct {
	t testing.TB
	c *pgx.Conn
}

func (h *house) console() *console { return &console{h.t, h.connect("admin")} }

// row is a row of SHOW by column, NULL as ∅.
type row map[string]string

// show returns the rows of a command, read by the simple protocol.
func (c *console) show(sql string) []row {
	c.t.Helper()
	rows, err := c.rows(sql)
	if err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

func (c *console) rows(sql string) ([]row, error) {
	results, err := c.c.PgConn().Exec(context.Background(), sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var list []row
	for _, r := range results {
		for _, cells := range r.Rows {
			m := make(row)
			for i, f := range r.FieldDescriptions {
				m[f.Name] = "∅"
				if cells[i] != nil {
					m[f.Name] = string(cells[i])
				}
			}
			list = append(list, m)
		}
	}
	return list, nil
}

// one returns the one row in which the columns have the values given, as key, value, key, value.
func (c *console) one(sql string, want ...string) row {
	c.t.Helper()
	var found []row
	rows := c.show(sql)
	for _, r := range rows {
		if r.has(want) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		c.t.Fatalf("%s: got %d rows with %q, want 1, among %v", sql, len(found), want, rows)
	}
	return found[0]
}

func (r row) has(want []string) bool {
	for i := 0; i < len(want); i += 2 {
		if r[want[i]] != want[i+1] {
			return false
		}
	}
	return true
}

// until asks again and again until a row is there.
func (c *console) until(sql string, want ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		rows := c.show(sql)
		for _, r := range rows {
			if r.has(want) {
				return
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: no row has %q: %v", sql, want, rows)
		}
	}
}

// do gives a command that has to succeed.
func (c *console) do(sql string) {
	c.t.Helper()
	if err := c.try(sql); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

func (c *console) try(sql string) error {
	_, err := c.c.PgConn().Exec(context.Background(), sql).ReadAll()
	return err
}

// refused gives a command that has to fail with a SQLSTATE.
func (c *console) refused(code, sql string) *pgconn.PgError {
	c.t.Helper()
	return wantCode(c.t, sql, code, c.try(sql))
}

func wantCode(t testing.TB, what, code string, err error) *pgconn.PgError {
	t.Helper()
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Code != code {
		t.Fatalf("%s: got %v, want SQLSTATE %s", what, err, code)
	}
	return e
}

// later runs f on the side; the result is waited for by wait.
func later(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// wait waits for what later began.
func wait(t testing.TB, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// pending fails the test if what later began is over.
func pending(t testing.TB, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("%s ended early: %v", what, err)
	default:
	}
}

// run runs a statement that has to succeed.
func run(t testing.TB, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// get asks the pooler's HTTP server.
func (h *house) get(path string) (int, string) {
	h.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	r, err := c.Get("http://" + h.MetricsAddr().String() + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// metric reads one series, as the text format writes its name and labels.
func (h *house) metric(series string) string {
	h.t.Helper()
	_, text := h.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	h.t.Errorf("no series %s in:\n%s", series, text)
	return ""
}

// logBuffer holds what was logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
