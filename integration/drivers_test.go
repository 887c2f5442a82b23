package integration

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx of database/sql
	"github.com/lib/pq"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// conn is one connection of a driver.
type conn interface {
	exec(t *testing.T, sql string, args ...any)
	// fails runs a statement that must not succeed and returns its SQLSTATE.
	fails(t *testing.T, sql string, args ...any) string
	count(t *testing.T, sql string, args ...any) int64
	// copyIn stores rows of orders by COPY.
	copyIn(t *testing.T, rows [][]any)
}

// drivers are the clients that the manual's configurations are tried with.
var drivers = []struct {
	name string
	open func(t *testing.T, s *stand) conn
}{
	{"psql", func(t *testing.T, s *stand) conn { return openPSQL(t, s.dsn()) }},
	{"pgx cache statement", func(t *testing.T, s *stand) conn { return pgxConn{s.pgx(t, pgx.QueryExecModeCacheStatement)} }},
	{"pgx cache describe", func(t *testing.T, s *stand) conn { return pgxConn{s.pgx(t, pgx.QueryExecModeCacheDescribe)} }},
	{"pgx describe exec", func(t *testing.T, s *stand) conn { return pgxConn{s.pgx(t, pgx.QueryExecModeDescribeExec)} }},
	{"pgx exec", func(t *testing.T, s *stand) conn { return pgxConn{s.pgx(t, pgx.QueryExecModeExec)} }},
	{"pgx simple protocol", func(t *testing.T, s *stand) conn { return pgxConn{s.pgx(t, pgx.QueryExecModeSimpleProtocol)} }},
	{"pq simple", func(t *testing.T, s *stand) conn { return openSQL(t, "postgres", s.dsn(), literally) }},
	{"pq parameters", func(t *testing.T, s *stand) conn { return openSQL(t, "postgres", s.dsn(), directly) }},
	{"pq binary parameters", func(t *testing.T, s *stand) conn {
		return openSQL(t, "postgres", s.dsn("binary_parameters=yes"), directly)
	}},
	{"pq prepared", func(t *testing.T, s *stand) conn { return openSQL(t, "postgres", s.dsn(), prepared) }},
	{"database/sql pgx", func(t *testing.T, s *stand) conn { return openSQL(t, "pgx", s.dsn(), directly) }},
	{"database/sql pgx prepared", func(t *testing.T, s *stand) conn { return openSQL(t, "pgx", s.dsn(), prepared) }},
}

// literal writes a value into SQL.
func literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case int64:
		return strconv.FormatInt(v, 10)
	case string:
		return "'" + strings.ReplaceAll(v, "'", "''") + "'"
	}
	panic(fmt.Sprintf("literal of %T", v))
}

// interpolate puts the arguments in the place of $1, $2.
func interpolate(text string, args []any) string {
	for i := len(args); i > 0; i-- {
		text = strings.ReplaceAll(text, "$"+strconv.Itoa(i), literal(args[i-1]))
	}
	return text
}

// psql is the program, fed through its standard input. What it has to say comes on standard error, which it does not buffer.
type psql struct {
	in  io.Writer
	err *bufio.Scanner
}

func openPSQL(t *testing.T, dsn string) conn {
	t.Helper()
	cmd := pgtest.Command(t, "psql", "-X", "-q", "-d", dsn)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait() //nolint:errcheck // it is killed when the test ends
	})
	return psql{in, bufio.NewScanner(said)}
}

// ask runs a script and returns what \warn says after it: the SQLSTATE, and the value of the variable n.
func (p psql) ask(t *testing.T, script string) (code, n string) {
	t.Helper()
	fmt.Fprintf(p.in, "\\set n nothing\n%s\n\\warn done :SQLSTATE :n\n", script)
	var said []string
	for p.err.Scan() {
		if f := strings.Fields(p.err.Text()); len(f) == 3 && f[0] == "done" {
			if f[1] != "00000" {
				t.Logf("psql: %s", strings.Join(said, "\n"))
			}
			return f[1], f[2]
		}
		said = append(said, p.err.Text())
	}
	t.Fatalf("psql ended: %s", strings.Join(said, "\n"))
	return "", ""
}

func (p psql) exec(t *testing.T, text string, args ...any) {
	t.Helper()
	if code, _ := p.ask(t, interpolate(text, args)+";"); code != "00000" {
		t.Errorf("psql: %s: SQLSTATE %s", text, code)
	}
}

func (p psql) fails(t *testing.T, text string, args ...any) string {
	t.Helper()
	code, _ := p.ask(t, interpolate(text, args)+";")
	return code
}

func (p psql) count(t *testing.T, text string, args ...any) int64 {
	t.Helper()
	code, n := p.ask(t, strings.Replace(interpolate(text, args), "count(*)", "count(*) AS n", 1)+" \\gset")
	count, err := strconv.ParseInt(n, 10, 64)
	if code != "00000" || err != nil {
		t.Errorf("psql: %s: SQLSTATE %s, %s", text, code, n)
	}
	return count
}

func (p psql) copyIn(t *testing.T, rows [][]any) {
	t.Helper()
	var b strings.Builder
	b.WriteString("\\copy orders from stdin\n")
	for _, row := range rows {
		for i, v := range row {
			if i > 0 {
				b.WriteByte('\t')
			}
			if v == nil {
				b.WriteString(`\N`)
			} else {
				fmt.Fprint(&b, v)
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("\\.")
	if code, _ := p.ask(t, b.String()); code != "00000" {
		t.Errorf("psql: copy: SQLSTATE %s", code)
	}
}

type pgxConn struct{ c *pgx.Conn }

func (p pgxConn) exec(t *testing.T, text string, args ...any) {
	t.Helper()
	if _, err := p.c.Exec(t.Context(), text, args...); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

func (p pgxConn) fails(t *testing.T, text string, args ...any) string {
	t.Helper()
	_, err := p.c.Exec(t.Context(), text, args...)
	return sqlstate(err)
}

func (p pgxConn) count(t *testing.T, text string, args ...any) (n int64) {
	t.Helper()
	if err := p.c.QueryRow(t.Context(), text, args...).Scan(&n); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return n
}

func (p pgxConn) copyIn(t *testing.T, rows [][]any) {
	t.Helper()
	if _, err := p.c.CopyFrom(t.Context(), pgx.Identifier{"orders"}, []string{"tenant_id", "id", "note"}, pgx.CopyFromRows(rows)); err != nil {
		t.Errorf("copy: %v", err)
	}
}

// sqlstate is an error's, whatever the driver.
func sqlstate(err error) string {
	var viaPgx *pgconn.PgError
	var viaPq *pq.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &viaPgx):
		return viaPgx.Code
	case errors.As(err, &viaPq):
		return string(viaPq.Code)
	}
	return err.Error()
}

// how a statement with arguments is run through database/sql.
type how int

const (
	directly  how = iota // by the driver's own choice
	prepared             // Prepare, then the statement
	literally            // without parameters
)

// viaSQL is database/sql.
type viaSQL struct {
	db  *sql.DB
	c   *sql.Conn
	how how
}

func openSQL(t *testing.T, driver, dsn string, how how) conn {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		db.Close()
	})
	return viaSQL{db, c, how}
}

func (v viaSQL) try(t *testing.T, text string, args []any) error {
	t.Helper()
	var err error
	switch v.how {
	case literally:
		_, err = v.c.ExecContext(t.Context(), interpolate(text, args))
	case directly:
		_, err = v.c.ExecContext(t.Context(), text, args...)
	case prepared:
		var stmt *sql.Stmt
		if stmt, err = v.c.PrepareContext(t.Context(), text); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		_, err = stmt.ExecContext(t.Context(), args...)
		if e := stmt.Close(); err == nil {
			err = e
		}
	}
	return err
}

func (v viaSQL) exec(t *testing.T, text string, args ...any) {
	t.Helper()
	if err := v.try(t, text, args); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

func (v viaSQL) fails(t *testing.T, text string, args ...any) string {
	t.Helper()
	return sqlstate(v.try(t, text, args))
}

func (v viaSQL) count(t *testing.T, text string, args ...any) (n int64) {
	t.Helper()
	if v.how == literally {
		text, args = interpolate(text, args), nil
	}
	if err := v.c.QueryRowContext(t.Context(), text, args...).Scan(&n); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return n
}

// copyIn goes through lib/pq's CopyIn; pgx has its own way, which its driver for database/sql does not show.
func (v viaSQL) copyIn(t *testing.T, rows [][]any) {
	t.Helper()
	if _, ok := v.db.Driver().(*pq.Driver); !ok {
		err := v.c.Raw(func(c any) error {
			_, err := c.(interface{ Conn() *pgx.Conn }).Conn(). //nolint:forcetypeassert // it is pgx's
										CopyFrom(t.Context(), pgx.Identifier{"orders"}, []string{"tenant_id", "id", "note"}, pgx.CopyFromRows(rows))
			return err
		})
		if err != nil {
			t.Errorf("copy: %v", err)
		}
		return
	}
	tx, err := v.c.BeginTx(t.Context(), nil)
	if err != nil {
		t.Errorf("begin: %v", err)
		return
	}
	defer tx.Rollback()                                                                         //nolint:errcheck // after a commit it does nothing
	stmt, err := tx.PrepareContext(t.Context(), pq.CopyIn("orders", "tenant_id", "id", "note")) //nolint:staticcheck // deprecated and in use
	if err != nil {
		t.Errorf("copy in: %v", err)
		return
	}
	for _, row := range rows {
		if _, err := stmt.ExecContext(t.Context(), row...); err != nil {
			t.Errorf("copy in: %v", err)
			return
		}
	}
	_, err = stmt.ExecContext(t.Context())
	if err = errors.Join(err, stmt.Close(), tx.Commit()); err != nil {
		t.Errorf("copy in: %v", err)
	}
}
