package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// commandTimeout bounds every statement and program that a test runs through this package.
const commandTimeout = 60 * time.Second

// DSN makes a connection URL that pgx, lib/pq and libpq understand. addr is host:port. Parameters are key=value; the
// sslmode is disable unless one of them says otherwise.
func DSN(addr, db, user, password string, params ...string) string {
	u := url.URL{Scheme: "postgres", Host: addr, Path: "/" + db, User: url.User(user)}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	q := url.Values{"sslmode": {"disable"}}
	for _, p := range params {
		key, value, _ := strings.Cut(p, "=")
		q.Set(key, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// DSN is a connection URL for this instance over TCP.
func (i *Instance) DSN(db, user, password string, params ...string) string {
	return DSN(i.Addr(), db, user, password, params...)
}

// socketDSN connects as the superuser over the unix socket, which works under every authentication option.
func (i *Instance) socketDSN(db string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", i.SocketDir, i.Port, Superuser, db)
}

// Exec runs SQL as the superuser, also several statements in one string.
func (i *Instance) Exec(t testing.TB, db, sql string) {
	t.Helper()
	if err := i.exec(db, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (i *Instance) exec(db string, sql ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout) // clean-up runs after the test's context
	defer cancel()
	conn, err := pgconn.Connect(ctx, i.socketDSN(db))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, text := range sql {
		if _, err := conn.Exec(ctx, text).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// Query runs one statement as the superuser and returns its rows as text, columns joined by "|" and NULL as "∅", so
// that a test can compare what an instance really holds.
func (i *Instance) Query(t testing.TB, db, sql string, args ...any) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, i.socketDSN(db))
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer conn.Close(ctx)
	result, err := conn.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer result.Close()
	var rows []string
	for result.Next() {
		var columns []string
		for _, raw := range result.RawValues() {
			if raw == nil {
				columns = append(columns, "∅")
			} else {
				columns = append(columns, string(raw))
			}
		}
		rows = append(rows, strings.Join(columns, "|"))
	}
	if err := result.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// CreateDatabase makes a database with a name of its own, runs the SQL in it, and drops it when t ends.
func (i *Instance) CreateDatabase(t testing.TB, sql ...string) string {
	t.Helper()
	name := fmt.Sprintf("db_%d", i.names.Add(1))
	i.Exec(t, "postgres", "CREATE DATABASE "+name)
	t.Cleanup(func() {
		if !i.Running() {
			return
		}
		if err := i.exec("postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	if err := i.exec(name, sql...); err != nil {
		t.Fatalf("database %s: %v", name, err)
	}
	return name
}

// CreateUser makes a login with a name of its own and drops it when t ends. method is how it must authenticate, over
// TCP and the unix socket: scram-sha-256, md5, password (cleartext; stored as SCRAM), cert (under the TLS option), or
// trust (whatever the instance's Auth option says). The user may do everything in a database created for the test.
func (i *Instance) CreateUser(t testing.TB, password, method string) string {
	t.Helper()
	name := fmt.Sprintf("user_%d", i.names.Add(1))
	encryption, group := "scram-sha-256", ""
	switch method {
	case "scram-sha-256":
		group = "pgtest_scram"
	case "md5":
		encryption, group = "md5", "pgtest_md5"
	case "password":
		group = "pgtest_password"
	case "cert":
		group = "pgtest_cert"
	case "trust":
	default:
		t.Fatalf("unknown authentication method %q", method)
	}
	sql := []string{
		"SET password_encryption = '" + encryption + "'",
		"CREATE ROLE " + name + " LOGIN PASSWORD '" + strings.ReplaceAll(password, "'", "''") + "'",
	}
	if group != "" {
		sql = append(sql,
			"DO $$ BEGIN CREATE ROLE "+group+"; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
			"GRANT "+group+" TO "+name)
	}
	// Since PostgreSQL 15 the schema public is closed to others than the database's owner.
	sql = append(sql, "GRANT pg_read_all_data, pg_write_all_data TO "+name)
	if err := i.exec("postgres", sql...); err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
	t.Cleanup(func() {
		if !i.Running() {
			return
		}
		// What the user owns in databases that outlive the test keeps the role alive; that is no error.
		_ = i.exec("postgres", "DROP ROLE IF EXISTS "+name)
	})
	return name
}

// PSQL runs psql against a database of the instance as the superuser, without startup file, unaligned and tuples
// only, and returns what it printed. An SQL error fails the test.
func (i *Instance) PSQL(t testing.TB, db string, args ...string) string {
	t.Helper()
	return PSQL(t, i.socketDSN(db), args...)
}

// PSQL runs psql against any server, such as the pooler under test.
func PSQL(t testing.TB, dsn string, args ...string) string {
	t.Helper()
	base := []string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dsn}
	out, err := Command(t, "psql", append(base, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("psql %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// Command prepares one of PostgreSQL's programs, psql or pgbench for instance. It is killed when t ends.
func Command(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	in, err := pginstance.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), in.Path(program), args...)
	cmd.Env = append(cmd.Environ(), "PGCONNECT_TIMEOUT=20", "PGPASSFILE=/nonexistent", "LC_ALL=C")
	return cmd
}
