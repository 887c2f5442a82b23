package secure

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Conn is an administrator's connection.
type Conn = pgx.Conn

// Place is a database of a server.
type Place struct {
	Host     string // a directory if it begins with /
	Port     int
	Database string
}

// Connect connects to a place as the administrator. Who that is, and how, says dsn, a URL or key=value pairs, or the environment where dsn says
// nothing (PGUSER, PGPASSWORD, PGSSLMODE and so on, PostgreSQL manual, 34.15); host, port and database of both do not count.
func Connect(ctx context.Context, dsn string, at Place) (*Conn, error) {
	c, err := Config(dsn, at)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// Config is how Connect connects.
func Config(dsn string, at Place) (*pgx.ConnConfig, error) {
	full, err := at.in(dsn)
	if err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(full)
	if err != nil {
		return nil, errors.New("--dsn, or PG... in the environment, can't be read") // the text may hold a password
	}
	c.RuntimeParams["application_name"] = "pgkennel secure"
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	return c, nil
}

// in puts the place into a dsn.
func (at Place) in(dsn string) (string, error) {
	port := strconv.Itoa(at.Port)
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return "", errors.New("--dsn is no URL")
		}
		u.Host, u.Path = "", "/"
		q := u.Query()
		q.Set("host", at.Host)
		q.Set("port", port)
		q.Set("dbname", at.Database)
		u.RawQuery = q.Encode()
		return u.String(), nil
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return dsn + " host='" + quote.Replace(at.Host) + "' port=" + port + " dbname='" + quote.Replace(at.Database) + "'", nil
}

// Missing reports whether a connection failed because the database is not there.
func Missing(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.Code == "3D000"
}
