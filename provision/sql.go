package provision

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/tenant"
)

const connectTimeout = 10 * time.Second

// who is somebody who connects to an instance.
type who struct {
	user, password, database string
	role                     string // acts as it; empty = as itself
}

// dial connects to an instance. Names mean the catalog's first, so that what a tenant made is not taken for PostgreSQL's own.
func dial(ctx context.Context, at tenant.Endpoint, w who) (*pgx.Conn, error) {
	// Whatever the environment says about connections is not meant for this.
	c, err := pgx.ParseConfig("host=localhost port=1 user=x password=x dbname=x sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, errors.New("the environment's settings for PostgreSQL's clients (PG...) can't be read")
	}
	c.Host, c.Port, c.User, c.Password, c.Database = at.Host, uint16(at.Port), w.user, w.password, w.database //nolint:gosec // a port
	if c.TLSConfig, err = ServerTLS(at.Host, at.CA); err != nil {
		return nil, err
	}
	c.Fallbacks = nil
	c.ConnectTimeout = connectTimeout
	c.RuntimeParams = map[string]string{"application_name": "pgkennel provision", "client_encoding": "UTF8", "lc_messages": "C"}
	if w.role != "" {
		c.RuntimeParams["role"] = w.role
		delete(c.RuntimeParams, "lc_messages") // a superuser's to set
	} else {
		c.RuntimeParams["search_path"] = "pg_catalog, pg_temp"
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	return pgx.ConnectConfig(ctx, c)
}

// ServerTLS is how a server is connected to that has to show a certificate of ca (PEM) for its host; nil = without TLS, where there is none.
func ServerTLS(host, ca string) (*tls.Config, error) {
	if ca == "" {
		return nil, nil //nolint:nilnil // it means no TLS to pgx too
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("the certificate authority of the instance can't be read")
	}
	return &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}, nil
}

// dialSource connects to a database of a server that is not ours, as an operator does: with TLS as the environment says (PGSSLMODE and so on).
func dialSource(ctx context.Context, at Connect) (*pgx.Conn, error) {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	c, err := pgx.ParseConfig(fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s' target_session_attrs=any passfile=/dev/null",
		quote.Replace(at.Host), at.Port, quote.Replace(at.User), quote.Replace(at.Password), quote.Replace(at.Database)))
	if err != nil {
		return nil, errors.New("the environment's settings for PostgreSQL's clients (PG...) can't be read") // the text has a password
	}
	if at.CA != "" {
		if c.TLSConfig, err = ServerTLS(at.Host, at.CA); err != nil {
			return nil, err
		}
		c.Fallbacks = nil
	}
	c.ConnectTimeout = connectTimeout
	c.RuntimeParams = map[string]string{"application_name": "pgkennel provision", "client_encoding": "UTF8", "options": at.Options}
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	return pgx.ConnectConfig(ctx, c)
}

// admin connects to a database of an instance as pgkennel's superuser.
func admin(ctx context.Context, in *Instance, database string) (*pgx.Conn, error) {
	return dial(ctx, in.Endpoint, who{user: Superuser, password: in.Password, database: database})
}

// end closes a connection politely, but not for long.
func end(ctx context.Context, c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = c.Close(ctx) // it is over either way
}

// as runs do with a connection as pgkennel's superuser.
func as(ctx context.Context, in *Instance, database string, do func(c *pgx.Conn) error) error {
	c, err := admin(ctx, in, database)
	if err != nil {
		return unreachable(in, err)
	}
	defer end(ctx, c)
	return do(c)
}

func unreachable(in *Instance, err error) error {
	e := Errorf(KindFailed, "the instance does not let pgkennel in").WithDetail("%v", err)
	if refusesPassword(err) && in.Superuser {
		e = e.WithHint("its tenant is a superuser, and has changed the role %s: repair changes it back, if the pooler still can log in as the tenant", Superuser)
	}
	return e
}

func refusesPassword(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pe.Code == "28P01" || pe.Code == "28000")
}

// run runs statements one after another.
func run(ctx context.Context, c *pgx.Conn, statements ...string) error {
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// column returns a query's first column.
func column(ctx context.Context, c *pgx.Conn, query string, args ...any) ([]string, error) {
	rows, err := c.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

func ident(s string) string { return tenant.QuoteIdent(s) }

// explainSQL says where in a text of the operator's an error is.
func explainSQL(what, text string, err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	e := Errorf(KindFailed, "%s: %s", what, pe.Message)
	if p := int(pe.Position); p > 0 {
		r := []rune(text)
		if p-1 <= len(r) {
			e = e.WithDetail("SQLSTATE %s, line %d", pe.Code, 1+strings.Count(string(r[:p-1]), "\n"))
		}
	} else {
		e = e.WithDetail("SQLSTATE %s", pe.Code)
	}
	if pe.Hint != "" {
		e = e.WithHint("%s", pe.Hint)
	}
	return e
}

// answers waits until the instance answers SQL, and not only takes connections.
func answers(ctx context.Context, j *job) error {
	return j.instance(func(in *Instance, _ Driver) error { return answer(ctx, in) })
}

const answerTimeout = time.Minute

func answer(ctx context.Context, in *Instance) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("no answer in %s", answerTimeout))
	defer cancel()
	wait := 10 * time.Millisecond
	for {
		err := as(ctx, in, "postgres", func(c *pgx.Conn) error {
			var recovering bool
			if err := c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering); err != nil {
				return err
			}
			if recovering && in.Primary == nil {
				return errors.New("it is recovering")
			}
			return nil
		})
		if err == nil {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Errorf(KindFailed, "the instance does not answer: %v", context.Cause(ctx)).WithDetail("%v", err)
		case <-timer.C:
			wait = min(wait*2, time.Second)
		}
	}
}
