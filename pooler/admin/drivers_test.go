package admin

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen serves the console to real clients, whom it lets in unasked, until the test ends.
func listen(t *testing.T, c *Console, u User) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		l.Close()
		g.Wait()
	})
	g.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() {
				defer conn.Close()
				if err := letIn(conn); err == nil {
					_ = c.NewConn(u).Serve(ctx, conn, conn)
				}
			})
		}
	})
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no TCP address")
	}
	return addr.IP.String(), addr.Port
}

// letIn is a login without a password.
func letIn(conn net.Conn) error {
	for {
		packet := make([]byte, 4)
		if _, err := io.ReadFull(conn, packet); err != nil {
			return err
		}
		total, ok := pgwire.StartupHeader(packet)
		if !ok || total < 0 {
			return errors.New("no startup packet")
		}
		packet = append(packet, make([]byte, total-4)...)
		if _, err := io.ReadFull(conn, packet[4:]); err != nil {
			return err
		}
		s, err := pgwire.DecodeStartup(packet)
		if err != nil {
			return err
		}
		if s.Kind != pgwire.StartupMessage {
			if _, err := conn.Write([]byte("N")); err != nil {
				return err
			}
			continue
		}
		out := pgwire.AppendAuthenticationOk(nil)
		for _, p := range [][2]string{{"server_version", "16.4 (pgkennel 1.2.3)"}, {"client_encoding", "UTF8"}, {"standard_conforming_strings", "on"}, {"DateStyle", "ISO, MDY"}, {"TimeZone", "UTC"}, {"integer_datetimes", "on"}} {
			out = pgwire.AppendParameterStatus(out, p[0], p[1])
		}
		out = pgwire.AppendBackendKeyData(out, 1, []byte("1234"))
		_, err = conn.Write(pgwire.AppendReadyForQuery(out, pgwire.TxIdle))
		return err
	}
}

func TestPgxInEveryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			f := newFake()
			host, port := listen(t, f.console(), admin)
			ctx := t.Context()
			config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=root dbname=admin sslmode=prefer", host, port))
			if err != nil {
				t.Fatal(err)
			}
			config.DefaultQueryExecMode = mode
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if err := conn.Ping(ctx); err != nil {
				t.Errorf("ping: %v", err)
			}
			for range 2 { // the second time from the cache
				rows, err := conn.Query(ctx, "SHOW STATS")
				if err != nil {
					t.Fatal(err)
				}
				stats, err := pgx.CollectRows(rows, pgx.RowToMap)
				if err != nil {
					t.Fatal(err)
				}
				n, ok := stats[0]["total_query_count"].(pgtype.Numeric)
				if v, err := n.Int64Value(); !ok || err != nil || v.Int64 != 300 || stats[0]["database"] != "app" {
					t.Errorf("stats: %v", stats[0])
				}
				var id int64
				var name, link string
				var shard *int32
				if err := conn.QueryRow(ctx, "SHOW CLIENTS").Scan(slices.Concat(
					discards(15), []any{&link}, discards(2), []any{&name, new(int32), &id, &shard}, discards(9))...); err != nil {
					t.Fatal(err)
				}
				if id != 1 || name != "web" || link != "s11" || shard == nil || *shard != 1 {
					t.Errorf("client: id %d, name %q, link %q, shard %v", id, name, link, shard)
				}
			}
			var version string
			if err := conn.QueryRow(ctx, "select version()").Scan(&version); err != nil || !strings.HasPrefix(version, "PostgreSQL ") {
				t.Errorf("version %q, %v", version, err)
			}
			if tag, err := conn.Exec(ctx, "PAUSE app"); err != nil || tag.String() != "PAUSE" {
				t.Errorf("pause: %q, %v", tag, err)
			}
			if calls := f.taken(); !slices.Equal(calls, []string{"pause app"}) {
				t.Errorf("ordered %q", calls)
			}
			_, err = conn.Exec(ctx, "SHOW ME")
			if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "42601" || e.Position != 6 {
				t.Errorf("got %v, want 42601", err)
			}
			tx, err := conn.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "SHOW POOLS"); err != nil {
				t.Error(err)
			}
			if err := tx.Commit(ctx); err != nil {
				t.Error(err)
			}
			if conn.PgConn().TxStatus() != 'I' {
				t.Errorf("status %c", conn.PgConn().TxStatus())
			}
		})
	}
}

func discards(n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = new(any)
	}
	return out
}

// TestNumericAsPgxReadsIt holds the binary form of numbers to pgx's reading of it.
func TestNumericAsPgxReadsIt(t *testing.T) {
	t.Parallel()
	m := pgtype.NewMap()
	for _, n := range []uint64{0, 1, 9999, 10_000, 10_001, 100_000_000, 123_456_789_012, 10_000_000_000_000_000_000, 1<<63 - 1, 1<<64 - 1} {
		var got pgtype.Numeric
		if err := m.Scan(pgwire.OIDNumeric, pgtype.BinaryFormatCode, appendNumeric(nil, n), &got); err != nil {
			t.Errorf("%d: %v", n, err)
			continue
		}
		text, err := got.Value()
		if want := strconv.FormatUint(n, 10); err != nil || text != want {
			if f, err := got.MarshalJSON(); err != nil || string(f) != want {
				t.Errorf("got %v (%s), want %s", text, f, want)
			}
		}
	}
}

// TestLibPQ does what database/sql and pgbouncer_exporter do with lib/pq.
func TestLibPQ(t *testing.T) {
	t.Parallel()
	f := newFake()
	host, port := listen(t, f.console(), stats)
	connector, err := pq.NewConnector(fmt.Sprintf("host=%s port=%d user=monitor dbname=admin sslmode=disable", host, port))
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The exporter takes labels only as strings or NULL, and values only as what it can make a float of; each table must have one row
	// for its labels.
	for table, labels := range map[string][]string{
		"STATS_TOTALS": {"database"},
		"POOLS":        {"database", "user"},
		"DATABASES":    {"name", "host", "port", "database", "force_user", "pool_mode"},
	} {
		rows := query(t, db, "SHOW "+table+";")
		seen := map[string]bool{}
		for _, row := range rows {
			var key []string
			for _, l := range labels {
				switch v := row[l].(type) {
				case string:
					key = append(key, v)
				case int64:
					key = append(key, fmt.Sprint(v))
				case nil:
					key = append(key, "")
				default:
					t.Errorf("%s.%s is a %T", table, l, v)
				}
			}
			if k := strings.Join(key, "|"); seen[k] {
				t.Errorf("%s has two rows for %s", table, k)
			} else {
				seen[k] = true
			}
		}
		if len(rows) == 0 {
			t.Errorf("%s is empty", table)
		}
	}
	totals := query(t, db, "SHOW STATS_TOTALS")[0]
	if v, ok := totals["query_time"].([]byte); !ok || string(v) != "600000" {
		t.Errorf("query_time %v", totals["query_time"])
	}
	pool := query(t, db, "SHOW POOLS")[0]
	if v, ok := pool["maxwait"].(int64); !ok || v != 2 {
		t.Errorf("maxwait %v", pool["maxwait"])
	}
	for text, columns := range map[string]int{"SHOW VERSION;": 1, "SHOW LISTS;": 2, "SHOW CONFIG;": 4} {
		if rows := query(t, db, text); len(rows[0]) != columns {
			t.Errorf("%s has %d columns, want %d", text, len(rows[0]), columns)
		}
	}

	// Prepared, as with arguments lib/pq always does.
	stmt, err := db.PrepareContext(t.Context(), "SHOW VERSION")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	for range 3 {
		var version string
		if err := stmt.QueryRowContext(t.Context()).Scan(&version); err != nil || version != "pgkennel 1.2.3" {
			t.Errorf("version %q, %v", version, err)
		}
	}
	_, err = db.ExecContext(t.Context(), "SHUTDOWN")
	if e, ok := errors.AsType[*pq.Error](err); !ok || e.Code != "42501" || e.Routine != "admin_forbidden" {
		t.Errorf("got %v, want 42501", err)
	}
	if calls := f.taken(); len(calls) > 0 {
		t.Errorf("ordered %q", calls)
	}
}

func query(t *testing.T, db *sql.DB, text string) []map[string]any {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for rows.Next() {
		values := make([]any, len(names))
		targets := make([]any, len(names))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		row := map[string]any{}
		for i, n := range names {
			row[n] = values[i]
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPsql(t *testing.T) {
	t.Parallel()
	f := newFake()
	host, port := listen(t, f.console(), admin)
	run := func(sql ...string) string {
		args := []string{"-X", "-A", "-t", "-h", host, "-p", strconv.Itoa(port), "-U", "root", "-d", "admin"}
		for _, s := range sql {
			args = append(args, "-c", s)
		}
		out, _ := pgtest.Command(t, "psql", args...).CombinedOutput()
		return string(out)
	}
	for _, c := range []struct {
		sql  []string
		want string
	}{
		{[]string{"SHOW VERSION"}, "pgkennel 1.2.3\n"},
		{[]string{"SHOW VERSION;", "RELOAD;"}, "pgkennel 1.2.3\nRELOAD\n"},
		{[]string{"SHOW BANS"}, "app|1|primary|db1|5432|connection refused|2026-11-22 10:29:00 UTC\n"},
		{[]string{"SHOW FOO"}, "ERROR:  unknown SHOW command \"foo\"\nLINE 1: SHOW FOO\n             ^\nHINT:  SHOW has "},
		{[]string{"SET application_name = 'x'"}, "NOTICE:  parameter \"application_name\" has no effect on the admin console\nSET\n"},
		{[]string{"PAUSE; RESUME"}, "PAUSE\nRESUME\n"},
	} {
		if got := run(c.sql...); !strings.HasPrefix(got, strings.ReplaceAll(c.want, "\"foo\"", "\"FOO\"")) {
			t.Errorf("%q:\n%s", c.sql, cmp.Diff(c.want, got))
		}
	}
}

// TestServe covers how a conversation over a socket ends.
func TestServe(t *testing.T) {
	t.Parallel()
	type end struct {
		err  error
		last string
	}
	serve := func(t *testing.T, ctx context.Context, in []byte, keepOpen bool) end {
		t.Helper()
		client, server := net.Pipe()
		ended := make(chan error, 1)
		go func() {
			defer server.Close()
			ended <- newFake().console().NewConn(admin).Serve(ctx, server, server)
		}()
		got := make(chan []byte, 1)
		go func() {
			var b bytes.Buffer
			_, _ = io.Copy(&b, client)
			got <- b.Bytes()
		}()
		_ = client.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, _ = client.Write(in)
		if !keepOpen {
			client.Close()
		}
		err := <-ended
		client.Close()
		return end{err, transcript(t, <-got)}
	}
	t.Run("the client leaves", func(t *testing.T) {
		t.Parallel()
		e := serve(t, t.Context(), pgwire.AppendTerminate(pgwire.AppendQuery(nil, "SHOW VERSION")), true)
		if e.err != nil || !strings.HasSuffix(e.last, "ReadyForQuery I\n") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("the client vanishes", func(t *testing.T) {
		t.Parallel()
		if e := serve(t, t.Context(), nil, false); e.err != nil {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("in the middle of a message", func(t *testing.T) {
		t.Parallel()
		if e := serve(t, t.Context(), []byte{'Q', 0, 0, 0, 20, 'S'}, false); !errors.Is(e.err, io.ErrUnexpectedEOF) {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("a message too long", func(t *testing.T) {
		t.Parallel()
		e := serve(t, t.Context(), []byte{'Q', 0x7f, 0xff, 0xff, 0xff}, true)
		if e.err == nil || !strings.HasPrefix(e.last, "FATAL 08P01") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("a message too short", func(t *testing.T) {
		t.Parallel()
		e := serve(t, t.Context(), []byte{'Q', 0, 0, 0, 3}, true)
		if e.err == nil || !strings.HasPrefix(e.last, "FATAL 08P01") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("an unknown message", func(t *testing.T) {
		t.Parallel()
		e := serve(t, t.Context(), []byte{'?', 0, 0, 0, 4}, true)
		if e.err != nil || !strings.HasPrefix(e.last, "FATAL 08P01") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("the process ends", func(t *testing.T) {
		t.Parallel()
		draining := errors.New("draining")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(draining)
		e := serve(t, ctx, nil, true)
		if !errors.Is(e.err, draining) || !strings.HasPrefix(e.last, "FATAL 57P01") {
			t.Errorf("got %+v", e)
		}
	})
}
