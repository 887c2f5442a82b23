package provision

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/tenant"
)

const connectTimeout = 10 * time.Second

// who is somebody who connects to an instance.
type who struct {
	user, password, database string
	role                     string // acts as it; empty = as itself
}

// own are settings that pgkennel's sessions have, whatever a tenant that is a superuser has given its role.
var own = map[string]string{
	"search_path": "pg_catalog, pg_temp", "role": "none", "default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "0",
	"standard_conforming_strings": "on",
}

// ownAuth is how a server that pgkennel made has to ask for a password, in the words of libpq's require_auth: by SCRAM it proves that it knows the verifier. What
// listens in its place neither gets the password nor is believed.
const ownAuth = "scram-sha-256"

// dial connects to an instance. Names mean the catalog's first, so that what a tenant made is not taken for PostgreSQL's own.
func dial(ctx context.Context, at tenant.Endpoint, w who) (*pgx.Conn, error) {
	// Whatever the environment says about connections is not meant for this.
	c, err := pgx.ParseConfig("host=localhost port=1 user=x password=x dbname=x sslmode=disable target_session_attrs=any channel_binding=prefer require_auth=" + ownAuth)
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
		maps.Copy(c.RuntimeParams, own)
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&bounded{r: r, left: mostHeard}, w)
	}
	return pgx.ConnectConfig(ctx, c)
}

// mostHeard is how much a connection to an instance may bring. Whoever is a superuser there can have its server, or what listens in its place, say anything, and
// this process is everybody's.
const mostHeard = 64 << 20

// bounded reads so many bytes of a server's messages, and none that says that it is longer: room is made for it as soon as it is announced. A login that
// would take more work than PostgreSQL asks for is not gone on with either: no context ends that.
type bounded struct {
	r      io.Reader
	left   int
	header []byte // of the next message, as far as it is here
	body   int    // what is to come of this one
	login  []byte // what is here of this one, if it is of the login
}

var errTooMuch = errors.New("the instance says more than it could have to say")

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooMuch
	}
	for p = p[:n]; len(p) > 0; {
		if b.body > 0 {
			skip := min(b.body, len(p))
			if b.header[0] == 'R' {
				b.login = append(b.login, p[:skip]...)
			}
			if b.body, p = b.body-skip, p[skip:]; b.body == 0 && expensive(b.login) {
				return 0, errTooExpensive
			}
			continue
		}
		if len(b.header) == 5 {
			b.header, b.login = b.header[:0], b.login[:0]
		}
		if b.header, p = append(b.header, p[0]), p[1:]; len(b.header) == 5 {
			size := binary.BigEndian.Uint32(b.header[1:])
			if size > mostHeard {
				return 0, errTooMuch
			}
			b.body = max(int(size)-4, 0)
		}
	}
	return n, err
}

// mostIterations is how often a password may have to be hashed: as many times as for the pooler.
const mostIterations = 100_000

var errTooExpensive = fmt.Errorf("the instance asks for more than %d SCRAM iterations", mostIterations)

// expensive reports whether an authentication message asks for too many iterations (RFC 5802: r=nonce,s=salt,i=count).
func expensive(body []byte) bool {
	const goesOn = 11 // AuthenticationSASLContinue
	if len(body) < 4 || binary.BigEndian.Uint32(body) != goesOn {
		return false
	}
	for part := range strings.SplitSeq(string(body[4:]), ",") {
		if count, is := strings.CutPrefix(part, "i="); is {
			if n, err := strconv.Atoi(count); err != nil || n > mostIterations {
				return true
			}
		}
	}
	return false
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
	c, err := pgx.ParseConfig(at.ConnString() + " target_session_attrs=any")
	if err != nil {
		return nil, errors.New("the environment's settings for PostgreSQL's clients (PG...) can't be read")
	}
	c.Password = at.Password
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

// Ask connects to an instance as pgkennel's superuser, for a driver.
func Ask(ctx context.Context, in *Instance) (*pgx.Conn, error) { return admin(ctx, in, "postgres") }

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

const (
	// longestAsk is how long an instance may take over what is done in one go. Its tenant may be a superuser, and the server what that made of it: nothing is waited
	// for without an end.
	longestAsk = 5 * time.Minute
	// longestWait is how long a tenant's transactions may hold up what pgkennel does to its roles and databases.
	longestWait = 5 * time.Second
)

// as runs do with a connection as pgkennel's superuser. What keeps it waiting for too long is ended.
func as(ctx context.Context, in *Instance, database string, do func(ctx context.Context, c *pgx.Conn) error) error {
	return within(ctx, longestAsk, longestWait, in, database, do)
}

// within is as with a limit of its own, and of how long it waits for the tenant's transactions.
func within(ctx context.Context, most, wait time.Duration, in *Instance, database string, do func(ctx context.Context, c *pgx.Conn) error) error {
	late := Errorf(KindFailed, "the instance does not answer within %s", most)
	limited, cancel := context.WithTimeoutCause(ctx, most, late)
	defer cancel()
	err := func() error {
		c, err := admin(limited, in, database)
		if err != nil {
			return unreachable(in, err)
		}
		defer end(ctx, c)
		defer clearWay(limited, wait, in, c.PgConn().PID())()
		return do(limited, c)
	}()
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(limited), late) {
		return late.WithDetail("%v", err)
	}
	return err
}

// clearWay ends the tenant's sessions whose locks a connection waits for longer than that, until its result is called: an order of the operator's comes before a
// transaction that nobody ends.
func clearWay(ctx context.Context, wait time.Duration, in *Instance, pid uint32) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, wait); ctx.Err() == nil; pause(ctx, min(wait, time.Second)) {
			c, err := admin(ctx, in, "postgres")
			if err != nil {
				continue // whoever waits has an end of its own
			}
			_, _ = c.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
				WHERE pid = ANY(pg_catalog.pg_blocking_pids($1)) AND usename <> '`+Superuser+`'`, int32(pid)) //nolint:gosec // likewise; a process's number
			end(ctx, c)
		}
	}()
	return func() {
		cancel()
		<-done
	}
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
		err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
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
