package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// What a server may make us hold.
const (
	maxCatalogRows    = 20_000_000
	maxCatalogMessage = 1 << 20 // bytes of a message
)

// catalogLockTimeout is well below PostgreSQL's deadlock_timeout, of a second: who changes a table, and waits for our locks or our snapshot while we wait for
// the table, is not who PostgreSQL ends.
const catalogLockTimeout = "400ms"

var (
	errNoCancel    = errors.New("catalog queries are not cancelled")
	errWrongAnswer = errors.New("the server's answer is not to the question")
)

// catalog is a connection to read catalogs with. It speaks the simple protocol: several statements, one round trip.
type catalog struct {
	pg *pgconn.PgConn
}

func (c *Cluster[C]) dialCatalog(ctx context.Context, e *endpoint[C], l *Login) (*catalog, error) {
	login, err := c.hooks.Dial(ctx, e.options().dial(l))
	if err != nil {
		return nil, err
	}
	pg, err := construct(login)
	if err != nil {
		goodbye(login)
		return nil, fmt.Errorf("catalog connection: %w", err)
	}
	return &catalog{pg: pg}, nil
}

// construct makes a connection of pgx's of one that has just logged in.
func construct(l *backend.Login) (*pgconn.PgConn, error) {
	params := make(map[string]string, len(l.Params))
	for _, p := range l.Params {
		params[p.Name] = p.Value
	}
	leftover := bytes.NewReader(l.Leftover)
	return pgconn.Construct(&pgconn.HijackedConn{
		Conn:              l.Conn,
		PID:               l.PID,
		SecretKey:         l.Secret,
		ParameterStatuses: params,
		TxStatus:          byte(pgwire.TxIdle),
		Config: &pgconn.Config{ // not by ParseConfig, which reads the environment
			// What is given up is closed; no cancel request goes after it.
			DialFunc:                  func(context.Context, string, string) (net.Conn, error) { return nil, errNoCancel },
			MaxProtocolMessageBodyLen: maxCatalogMessage,
			BuildFrontend: func(r io.Reader, w io.Writer) *pgproto3.Frontend {
				return pgproto3.NewFrontend(io.MultiReader(leftover, r), w)
			},
			BuildContextWatcherHandler: func(pg *pgconn.PgConn) ctxwatch.Handler {
				return &pgconn.DeadlineContextWatcherHandler{Conn: pg.Conn()}
			},
		},
	})
}

// close ends the connection politely, but not for long.
func (c *catalog) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.pg.Close(ctx) // it is over either way
}

// query runs the statements in one round trip and one snapshot, and hands the rows of the i-th to the i-th function.
// The fields are text, valid during the call only; NULL is nil. It does not wait for a table's lock for long: 55P03.
func (c *catalog) query(ctx context.Context, statements statements) error {
	var sql strings.Builder
	// Names are spelt out by schema nowhere else; a user's search_path must not hide the catalogs. Standard strings
	// are what our literals are written in.
	sql.WriteString("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path TO pg_catalog;" +
		"SET LOCAL standard_conforming_strings TO on; SET LOCAL jit TO off; SET LOCAL lock_timeout TO '" + catalogLockTimeout + "';")
	for i := range statements {
		sql.WriteString(statements[i].sql)
		sql.WriteByte(';')
	}
	sql.WriteString("COMMIT")
	results := c.pg.Exec(ctx, sql.String())
	err := statements.take(results)
	if errClose := results.Close(); errClose != nil {
		err = errClose // the cause: what take saw was cut short by it
	}
	if err != nil {
		return fmt.Errorf("read catalogs: %w", err)
	}
	return nil
}

// statement is a query and what takes its rows, which have so many fields.
type statement struct {
	sql    string
	fields int
	row    func(fields [][]byte) error
}

type statements []statement

// take hands out the rows. The server may send anything.
func (s statements) take(results *pgconn.MultiResultReader) error {
	answered, rows := 0, 0
	for results.NextResult() {
		r := results.ResultReader()
		n := len(r.FieldDescriptions())
		if n == 0 {
			continue // of BEGIN and the like; NextResult goes over what is left of it
		}
		if answered == len(s) || n != s[answered].fields {
			return errWrongAnswer
		}
		for r.NextRow() {
			if rows++; rows > maxCatalogRows || len(r.Values()) != n {
				return errWrongAnswer
			}
			if err := s[answered].row(r.Values()); err != nil {
				return err
			}
		}
		answered++
	}
	if answered < len(s) {
		return errWrongAnswer
	}
	return nil
}
