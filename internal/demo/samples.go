package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// whereami is how a statement tells which instance answered: each has its own cluster_name. Nothing of pgkennel's is in
// the evidence.
const whereami = "current_setting('cluster_name')"

// anywhere is the expectation of a statement that needs no tenant.
const anywhere = -1

// sample is one statement sent through pgkennel, and what must come of it.
type sample struct {
	sql   string
	args  []any
	shard int    // the shard that must answer, or anywhere
	code  string // the SQLSTATE that must come instead
	plain bool   // returns no rows, and is sent as drivers send BEGIN
}

// A scene is a few statements in one session that show one thing.
type scene struct {
	title  string
	simple bool // in the simple protocol, with literals
	steps  []sample
}

func scenes() []scene {
	const one = "SELECT name, " + whereami + " FROM tenants WHERE tenant_id = $1"
	every := scene{title: "One statement, prepared once, with each tenant's key as its parameter"}
	for _, t := range tenants {
		every.steps = append(every.steps, sample{sql: one, args: []any{t.id}, shard: t.shard})
	}
	return []scene{
		every,
		{title: "Joins and aggregates of one tenant, with literals", simple: true, steps: []sample{
			{
				sql: "SELECT count(*) || ' paid orders', " + whereami + "\n" +
					"FROM orders o JOIN order_items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id\n" +
					"WHERE o.tenant_id = 3 AND o.status = 'paid'",
				shard: 2,
			},
			{sql: "SELECT email, " + whereami + " FROM users WHERE tenant_id IN (1, 4, 120) ORDER BY email LIMIT 1", shard: 0},
		}},
		{title: "A transaction stays with its tenant", steps: []sample{
			{sql: "BEGIN", plain: true, shard: anywhere},
			{sql: "UPDATE orders SET status = 'shipped' WHERE tenant_id = $1 AND id = $2 RETURNING status, " + whereami, args: []any{int64(2), int64(1)}, shard: 1},
			{sql: "SELECT status, " + whereami + " FROM orders WHERE tenant_id = $1 AND id = $2", args: []any{int64(2), int64(1)}, shard: 1},
			{sql: "COMMIT", plain: true, shard: anywhere},
		}},
		{title: "What no tenant can answer is refused, never guessed", simple: true, steps: []sample{
			{sql: "SELECT count(*) FROM orders", code: "42501"},
			{sql: "SELECT count(*) FROM orders WHERE tenant_id IN (1, 2)", code: "0A000"},
			{sql: "DELETE FROM orders WHERE tenant_id = 77", code: "42704"},
			{sql: "SELECT 'and the session goes on', " + whereami, shard: anywhere},
		}},
	}
}

// showSamples sends the scenes through pgkennel at addr and returns how many statements were answered otherwise than
// expected. The error is for what kept it from finding out.
func showSamples(ctx context.Context, out io.Writer, addr string, all shards) (wrong int, err error) {
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, addr, database))
	if err != nil {
		return 0, fmt.Errorf("connect to pgkennel: %w", err)
	}
	defer conn.Close(ctx)
	for _, scene := range scenes() {
		fmt.Fprintf(out, "\n%s\n", scene.title)
		last := ""
		for _, s := range scene.steps {
			if s.sql != last {
				fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(s.sql, "\n", "\n  "))
				last = s.sql
			}
			ok, err := s.show(ctx, out, conn, scene.simple)
			if err != nil {
				return wrong, err
			}
			if !ok {
				wrong++
			}
		}
	}
	bad, err := showInsert(ctx, out, conn, all)
	return wrong + bad, err
}

// show runs one statement and prints the outcome.
func (s sample) show(ctx context.Context, out io.Writer, conn *pgx.Conn, simple bool) (ok bool, err error) {
	if s.plain {
		_, err := conn.Exec(ctx, s.sql)
		return err == nil, err
	}
	args := s.args
	if simple {
		args = append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	}
	rows, err := collect(conn.Query(ctx, s.sql, args...))
	var refusal *pgconn.PgError
	switch {
	case errors.As(err, &refusal) && s.code != "":
		return verdict(out, refusal.Code == s.code, fmt.Sprintf("%s %s", refusal.Code, refusal.Message), "SQLSTATE "+s.code), nil
	case errors.As(err, &refusal):
		return verdict(out, false, fmt.Sprintf("%s %s", refusal.Code, refusal.Message), s.expected()), nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", s.sql, err)
	case s.code != "":
		return verdict(out, false, strings.Join(rows, ", "), "SQLSTATE "+s.code), nil
	case len(rows) == 0:
		return verdict(out, false, "no row", s.expected()), nil
	}
	right := s.shard == anywhere || slices.ContainsFunc(rows, func(r string) bool { return strings.HasSuffix(r, s.expected()) })
	line := strings.Join(rows, ", ")
	if len(s.args) > 0 {
		line = fmt.Sprintf("%v: %s", s.args[0], line)
	}
	return verdict(out, right, line, s.expected()), nil
}

func (s sample) expected() string {
	if s.shard == anywhere {
		return "an answer"
	}
	return fmt.Sprintf("shard-%d", s.shard)
}

// verdict prints one outcome, and what was expected where it differs.
func verdict(out io.Writer, right bool, got, want string) bool {
	if right {
		fmt.Fprintf(out, "    → %s\n", got)
	} else {
		fmt.Fprintf(out, "    → %s   WRONG, expected %s\n", got, want)
	}
	return right
}

// collect renders rows as text, columns separated by spaces.
func collect(rows pgx.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		if err != nil {
			return "", err
		}
		var parts []string
		for _, v := range values {
			parts = append(parts, fmt.Sprint(v))
		}
		return strings.Join(parts, "  "), nil
	})
}

// showInsert writes a row for each tenant through pgkennel, and looks for it in the instances themselves.
func showInsert(ctx context.Context, out io.Writer, conn *pgx.Conn, all shards) (wrong int, err error) {
	const insert = "INSERT INTO orders (tenant_id, id, user_id, status) VALUES ($1, $2, $3, $4)"
	const newOrder = 4711
	fmt.Fprintf(out, "\nRows written through pgkennel, counted in the instances themselves\n  %s\n", insert)
	for _, t := range tenants {
		if _, err := conn.Exec(ctx, insert, t.id, int64(newOrder), int64(1), "demo"); err != nil {
			if refusal := (*pgconn.PgError)(nil); !errors.As(err, &refusal) {
				return wrong, fmt.Errorf("%s: %w", insert, err)
			}
			verdict(out, false, err.Error(), "INSERT 0 1")
			wrong++
			continue
		}
		var found []string
		for _, s := range all {
			n, err := s.count(ctx, "SELECT count(*) FROM orders WHERE tenant_id = $1 AND id = $2", t.id, newOrder)
			if err != nil {
				return wrong, err
			}
			if n > 0 {
				found = append(found, s.name)
			}
		}
		want := all[t.shard].name
		got := fmt.Sprintf("%d: %s (%s): %s", t.id, t.name, t.how, strings.Join(found, " and "))
		if !verdict(out, len(found) == 1 && found[0] == want, got, want) {
			wrong++
		}
	}
	return wrong, nil
}
