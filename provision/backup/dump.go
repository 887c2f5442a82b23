package backup

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// dumpName is the file that pg_dump wrote; those of tables that were copied beside it are called so and a number.
const (
	dumpName  = "dump"
	tableName = "table"
)

// maxBeside is how many tables are copied beside pg_dump at most: their names go on its command line.
const maxBeside = 100

// Dump implements provision.Archive: pg_dump in custom format, of the database or the schema, or COPY of a row tenant's rows. pg_dump writes that format with
// one connection; so big tables are copied beside it, under the same snapshot, with as many connections as Options.Jobs says.
func (a *Archive) Dump(ctx context.Context, from provision.Source, note string, report func(provision.Progress)) (*provision.Backup, error) {
	content := ofDatabase
	switch from.Record.Isolation {
	case tenant.Row:
		content = ofRows
	case tenant.Schema:
		content = ofSchema
	default:
	}
	return a.make(from, provision.Logical, content, note, func(k *making) error {
		s, err := openSnapshot(ctx, from.Connect)
		if err != nil {
			return err
		}
		defer hangUp(ctx, s.conn)
		k.m.Backup.Version = strconv.Itoa(s.version)
		if content == ofRows {
			return a.dumpRows(ctx, k, s, from, report)
		}
		return a.dump(ctx, k, s, from, report)
	})
}

// snapshot is a transaction that sees the database as it was at its beginning, and lends that view to others.
type snapshot struct {
	conn    *pgx.Conn
	connect provision.Connect
	id      string
	version int
}

func openSnapshot(ctx context.Context, c provision.Connect) (*snapshot, error) {
	conn, err := connect(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &snapshot{conn: conn, connect: c}
	if s.version, err = server(ctx, conn); err == nil {
		if err = begin(ctx, conn); err == nil {
			err = conn.QueryRow(ctx, "SELECT pg_export_snapshot()").Scan(&s.id)
		}
	}
	if err != nil {
		hangUp(ctx, conn)
		return nil, err
	}
	return s, nil
}

func begin(ctx context.Context, conn *pgx.Conn) error {
	// Row security that hides rows has to be an error, and no time-out may end a long copy.
	_, err := conn.Exec(ctx, `SET row_security = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = `+
		strconv.Itoa(lockWait)+`; SET extra_float_digits = 3; SET datestyle = ISO; SET intervalstyle = postgres; SET client_encoding = 'UTF8';
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	return err
}

// also opens one more connection that sees the same.
func (s *snapshot) also(ctx context.Context) (*pgx.Conn, error) {
	conn, err := connect(ctx, s.connect)
	if err != nil {
		return nil, err
	}
	if err = begin(ctx, conn); err == nil {
		_, err = conn.Exec(ctx, "SET TRANSACTION SNAPSHOT "+literal(s.id))
	}
	if err != nil {
		hangUp(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// dump writes a database or a schema.
func (a *Archive) dump(ctx context.Context, k *making, s *snapshot, from provision.Source, report func(provision.Progress)) error {
	args := []string{
		database(s.connect), "--format=custom", "--compress=0", "--no-subscriptions", "--lock-wait-timeout=" + strconv.Itoa(lockWait), "--snapshot=" + s.id,
	}
	like := "true"
	if k.m.Content == ofSchema {
		k.m.Schema = from.Record.Schema
		if k.m.Schema == "" {
			return provision.Errorf(provision.KindInvalid, "the tenant has no schema of its own")
		}
		like = "n.nspname = " + literal(k.m.Schema)
		args = append(args, "--schema="+pattern(k.m.Schema), "--strict-names")
	}
	if err := describe(ctx, k.m, s.conn); err != nil {
		return err
	}
	var total int64
	if err := s.conn.QueryRow(ctx, `SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND `+like).Scan(&total); err != nil {
		return err
	}
	tables, err := readTables(ctx, s.conn, `AND c.relkind = 'r' AND pg_table_size(c.oid) >= `+strconv.FormatInt(a.big, 10)+` AND `+like+`
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`,
		"pg_table_size(c.oid) DESC", "", maxBeside)
	if err != nil {
		return err
	}
	for i := range tables {
		tables[i].File = tableName + strconv.Itoa(i)
		args = append(args, "--exclude-table-data="+pattern(tables[i].Schema)+"."+pattern(tables[i].Name))
	}
	k.m.Tables = tables
	m := newMeter(report, "dump", total)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		cmd, err := a.tool(ctx, from, s.connect, s.version, "pg_dump", args...)
		if err != nil {
			return err
		}
		return k.write(dumpName, func(w io.Writer) error { return output(cmd, "pg_dump", m.writer(w)) })
	})
	a.copyAll(ctx, g, k, s, m, "")
	if err := g.Wait(); err != nil {
		return err
	}
	m.end()
	return nil
}

// copyAll writes the manifest's tables, those with rows of one tenant only if where is not empty.
func (a *Archive) copyAll(ctx context.Context, g *errgroup.Group, k *making, s *snapshot, m *meter, where string) {
	var next atomic.Int64
	for range min(len(k.m.Tables), max(a.jobs-1, 1)) {
		g.Go(func() error {
			conn, err := s.also(ctx)
			if err != nil {
				return err
			}
			defer hangUp(ctx, conn)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(k.m.Tables) {
					return nil
				}
				t := &k.m.Tables[i]
				err := k.write(t.File, func(w io.Writer) error {
					out := &sticky{w: m.writer(w)}
					tag, err := conn.PgConn().CopyTo(ctx, out, t.copyOut(where))
					t.Rows = tag.RowsAffected()
					if out.err != nil {
						return out.err
					}
					return err
				})
				if err != nil {
					return fmt.Errorf("copy of table %s.%s: %w", t.Schema, t.Name, err)
				}
			}
		})
	}
}

// copyOut is the statement that reads a table. FROM ONLY: tables that inherit from it are read on their own; partitions are not, so theirs is read through it.
func (t *table) copyOut(where string) string {
	if where == "" {
		return "COPY " + t.name() + " (" + names(t.Columns) + ") TO STDOUT"
	}
	return "COPY (SELECT " + names(t.Columns) + " FROM " + t.only() + t.name() + " WHERE " + where + ") TO STDOUT"
}

func (t *table) name() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

func (t *table) only() string {
	if t.Partitioned {
		return ""
	}
	return "ONLY "
}

func names(list []string) string {
	quoted := make([]string, len(list))
	for i, n := range list {
		quoted[i] = ident(n)
	}
	return strings.Join(quoted, ", ")
}

func ident(s string) string { return pgx.Identifier{s}.Sanitize() }

// literal writes a string constant that does not depend on standard_conforming_strings.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// pattern is a name that pg_dump takes by the letter.
func pattern(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// readTables finds tables by a condition, with their columns: generated ones are not among them, nor the one that is left out.
func readTables(ctx context.Context, conn *pgx.Conn, condition, order, without string, limit int) ([]table, error) {
	rows, err := conn.Query(ctx, `SELECT n.nspname::text, c.relname::text, c.relkind = 'p',
ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attname <> `+literal(without)+` ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't' `+condition+` ORDER BY `+order+`, 1, 2 LIMIT `+strconv.Itoa(limit))
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.Schema, &t.Name, &t.Partitioned, &t.Columns)
	})
	// A table without columns has nothing to copy that COPY could write.
	return slices.DeleteFunc(list, func(t table) bool { return len(t.Columns) == 0 && without == "" }), err
}

// describe notes what a restore has to have ready: extensions, and roles that privileges and policies name.
func describe(ctx context.Context, m *manifest, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT extname::text, nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname <> 'plpgsql' ORDER BY e.oid`)
	if err != nil {
		return err
	}
	if m.Extensions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[extension]); err != nil {
		return err
	}
	if m.Content == ofSchema {
		if m.Roles, err = words(ctx, conn, `SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
JOIN pg_policy p ON p.oid = d.objid JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_authid'::regclass
AND n.nspname = $1 ORDER BY 1`, m.Schema); err != nil {
			return err
		}
	} else {
		if m.Roles, err = words(ctx, conn, `SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.refclassid = 'pg_authid'::regclass
AND (d.deptype IN ('a', 'r') OR d.classid = 'pg_default_acl'::regclass) AND NOT r.rolsuper AND r.rolname !~ '^pg_' ORDER BY 1`); err != nil {
			return err
		}
	}
	return conn.QueryRow(ctx, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND ($1 = '' OR n.nspname = $1)`, m.Schema).Scan(&m.Relations)
}

func words(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
