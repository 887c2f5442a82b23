package backup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/provision"
)

// A row tenant is kept as one file for each table that has the tenant column, in COPY's text format, without that column: so it can come back with another
// key. Partitions come with their table. The order of the columns is the manifest's.

const maxTables = 10_000

func (a *Archive) dumpRows(ctx context.Context, k *making, s *snapshot, from provision.Source, report func(provision.Progress)) error {
	if from.Column == "" || from.Record.Key == "" {
		return provision.Errorf(provision.KindInvalid, "the tenant has no key, or its database no tenant column")
	}
	k.m.Column = from.Column
	tables, err := rowTables(ctx, s.conn, from)
	if err != nil {
		return err
	}
	if len(tables) == 0 {
		return provision.Errorf(provision.KindRefused, "no table of the database has the column %q", from.Column)
	}
	for i := range tables {
		tables[i].File = fmt.Sprint(tableName, i)
	}
	k.m.Tables = tables
	m := newMeter(report, "dump", 0)
	g, gctx := errgroup.WithContext(ctx)
	a.copyAll(gctx, g, k, s, m, ident(from.Column)+" = "+literal(from.Record.Key))
	if err := g.Wait(); err != nil {
		return err
	}
	m.end()
	return nil
}

// rowTables are those whose rows are tenants': those that the source says, for a table of that form may be in a schema of another tenant's own.
func rowTables(ctx context.Context, conn *pgx.Conn, s provision.Source) ([]table, error) {
	among := ""
	if s.Tables != nil {
		quoted := []string{"NULL"}
		for _, t := range s.Tables {
			quoted = append(quoted, literal(t)+"::regclass")
		}
		among = " AND c.oid IN (" + strings.Join(quoted, ", ") + ")"
	}
	list, err := readTables(ctx, conn, `AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname <> 'pgkennel'
AND EXISTS (SELECT FROM pg_attribute x WHERE x.attrelid = c.oid AND x.attname = `+literal(s.Column)+` AND x.attnum > 0 AND NOT x.attisdropped)`+among, "1", s.Column, maxTables+1)
	if len(list) > maxTables {
		return nil, provision.Errorf(provision.KindRefused, "more than %d tables have the column %q", maxTables, s.Column)
	}
	return list, err
}

// loadRows brings a tenant's rows back, in one transaction. Triggers don't run, and foreign keys are checked when all rows are there: so the order of tables
// does not count.
func (a *Archive) loadRows(ctx context.Context, m *manifest, to provision.Source, report func(provision.Progress)) error {
	if to.Column == "" || to.Record.Key == "" {
		return provision.Errorf(provision.KindInvalid, "the tenant has no key, or its database no tenant column")
	}
	conn, err := connect(ctx, to.Connect)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	if err := execute(ctx, conn, "SET row_security = off; SET statement_timeout = 0; SET client_encoding = 'UTF8'; SET datestyle = ISO; SET intervalstyle = postgres", "BEGIN"); err != nil {
		return err
	}
	if err := execute(ctx, conn, "SET LOCAL session_replication_role = replica"); err != nil {
		return provision.Errorf(provision.KindRefused, "rows can't be restored as %s: %v", to.Connect.User, err).
			WithHint("Restores of rows need a superuser, or a role that may set session_replication_role.")
	}
	there, err := rowTables(ctx, conn, to)
	if err != nil {
		return err
	}
	var total int64
	for _, f := range m.Files {
		total += f.Plain
	}
	meter := newMeter(report, "restore", total)
	for i := range m.Tables {
		if err := a.loadTable(ctx, conn, m, &m.Tables[i], there, to, meter); err != nil {
			return err
		}
	}
	for i := range m.Tables {
		if err := checkKeys(ctx, conn, &m.Tables[i], to); err != nil {
			return err
		}
		if err := raise(ctx, conn, &m.Tables[i], to); err != nil {
			return err
		}
	}
	if err := execute(ctx, conn, "COMMIT"); err != nil {
		return err
	}
	meter.end()
	return nil
}

func (a *Archive) loadTable(ctx context.Context, conn *pgx.Conn, m *manifest, t *table, there []table, to provision.Source, meter *meter) error {
	i := slices.IndexFunc(there, func(x table) bool { return x.Schema == t.Schema && x.Name == t.Name })
	if i < 0 {
		if t.Rows == 0 {
			return nil
		}
		return provision.Errorf(provision.KindRefused, "the database has no table %s with the column %q", t.name(), to.Column).
			WithHint("Bring the schema to the version that the backup was made of.")
	}
	for _, c := range t.Columns {
		if !slices.Contains(there[i].Columns, c) {
			return provision.Errorf(provision.KindRefused, "the table %s has no column %q any more", t.name(), c).
				WithHint("Bring the schema to the version that the backup was made of.")
		}
	}
	var some bool
	where := ident(to.Column) + " = " + literal(to.Record.Key)
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+t.name()+" WHERE "+where+")").Scan(&some); err != nil {
		return err
	}
	if some {
		return provision.Errorf(provision.KindState, "the tenant has rows already").WithDetail("The table %s has some.", t.name())
	}
	if err := a.copyIn(ctx, conn, m, t, append(slices.Clone(t.Columns), to.Column), func(r io.Reader) io.Reader {
		return withKey(meter.reader(r), to.Record.Key, len(t.Columns) == 0)
	}); err != nil {
		return err
	}
	// All that came has the tenant's key.
	var its int64
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM "+t.name()+" WHERE "+where).Scan(&its); err != nil {
		return err
	}
	if its != t.Rows {
		return damaged("backup "+m.Backup.ID, "of %d rows in %s %d are the tenant's", t.Rows, t.name(), its)
	}
	return nil
}

// withKey appends a column to each line of COPY's text format. A table with no column but the tenant's has empty lines.
func withKey(r io.Reader, key string, alone bool) io.Reader {
	suffix := strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`).Replace(key) + "\n"
	if !alone {
		suffix = "\t" + suffix
	}
	return &keyed{r: bufio.NewReaderSize(r, 1<<16), suffix: suffix}
}

var errLines = errors.New("its lines do not end as COPY's do")

// keyed passes lines on in pieces: one may be longer than memory.
type keyed struct {
	r      *bufio.Reader
	suffix string
	buf    []byte
	rest   []byte // of buf; a line's end is in suffix instead
	err    error
}

func (k *keyed) Read(p []byte) (int, error) {
	for len(k.rest) == 0 {
		if k.err != nil {
			return 0, k.err
		}
		piece, err := k.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		k.err = err
		// COPY writes no such byte, and reads it as a line's end: what is in front of it would be a line without the key.
		if bytes.IndexByte(piece, '\r') >= 0 || errors.Is(err, io.EOF) && len(piece) > 0 {
			k.err, k.rest = errLines, nil
			return 0, k.err
		}
		if n := len(piece); n > 0 && piece[n-1] == '\n' {
			k.buf = append(append(k.buf[:0], piece[:n-1]...), k.suffix...)
		} else {
			k.buf = append(k.buf[:0], piece...)
		}
		k.rest = k.buf
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

// checkKeys does what foreign keys would have done.
func checkKeys(ctx context.Context, conn *pgx.Conn, t *table, to provision.Source) error {
	rows, err := conn.Query(ctx, `SELECT k.conname::text, k.confrelid::regclass::text,
ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, o) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.o),
ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, o) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.o)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.convalidated AND n.nspname = $1 AND c.relname = $2`, t.Schema, t.Name)
	if err != nil {
		return err
	}
	type key struct {
		name, parent string
		from, to     []string
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k key, err error) {
		return k, row.Scan(&k.name, &k.parent, &k.from, &k.to)
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		var conditions, join []string
		for i := range k.from {
			conditions = append(conditions, "c."+ident(k.from[i])+" IS NOT NULL")
			join = append(join, "p."+ident(k.to[i])+" = c."+ident(k.from[i]))
		}
		var lost bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+t.name()+" c WHERE c."+ident(to.Column)+" = "+literal(to.Record.Key)+" AND "+
			strings.Join(conditions, " AND ")+" AND NOT EXISTS (SELECT FROM "+k.parent+" p WHERE "+strings.Join(join, " AND ")+"))").Scan(&lost); err != nil {
			return err
		}
		if lost {
			return provision.Errorf(provision.KindFailed, "rows of %s point to rows that are not there (foreign key %q)", t.name(), k.name).
				WithHint("Restore what they point to first: rows of %s that are no tenant's are not in the backup.", k.parent)
		}
	}
	return nil
}

// raise has the sequences of a table go on behind what was restored.
func raise(ctx context.Context, conn *pgx.Conn, t *table, to provision.Source) error {
	for _, c := range t.Columns {
		var sequence *string
		if err := conn.QueryRow(ctx, "SELECT pg_get_serial_sequence($1, $2)", t.name(), c).Scan(&sequence); err != nil {
			return err
		}
		if sequence == nil {
			continue
		}
		if err := execute(ctx, conn, "SELECT setval("+literal(*sequence)+", x.n) FROM (SELECT max("+ident(c)+")::bigint AS n FROM "+t.name()+
			" WHERE "+ident(to.Column)+" = "+literal(to.Record.Key)+") x, "+*sequence+" s WHERE x.n > s.last_value"); err != nil {
			return err
		}
	}
	return nil
}
