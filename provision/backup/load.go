package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Load implements provision.Archive. It reads and checks the whole backup before it begins.
//
// A restore runs the code that is in the backup: defaults, checks, functions of indexes. So it is not the superuser who restores, but a role that is made for
// it, and may do in the tenant's place only what the owner there may; the role goes when it is done. Extensions are made by the superuser beforehand.
//
// What the role makes is its own until all is there, and is given to the owner in one transaction then. Should anything fail before, what the role owns is
// dropped; should the process die, the next Load does that. A small database comes back in one transaction in the first place.
func (a *Archive) Load(ctx context.Context, b *provision.Backup, to provision.Source, report func(provision.Progress)) error {
	m, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return fail(err)
	}
	if m.Content == ofInstance {
		return provision.Errorf(provision.KindInvalid, "backup %s is a physical one: it makes an instance, and can't be loaded into a database", b.ID)
	}
	rows := to.Record.Isolation == tenant.Row
	if rows != (m.Content == ofRows) {
		return provision.Errorf(provision.KindRefused, "backup %s holds a %s, which can't be loaded into a tenant of isolation %s", b.ID, m.Content, to.Record.Isolation)
	}
	if to.Record.Isolation == tenant.Schema && m.Content != ofSchema {
		return provision.Errorf(provision.KindRefused, "backup %s holds a database, which can't be loaded into a schema", b.ID).
			WithHint("Restore it as a tenant with a database or an instance of its own.")
	}
	if err := a.check(ctx, m); err != nil {
		return fail(err)
	}
	if rows {
		return fail(a.loadRows(ctx, m, to, report))
	}
	if to.Record.Isolation == tenant.Schema && m.Schema != to.Record.Schema {
		return fail(a.loadRenamed(ctx, m, to, report))
	}
	return fail(a.load(ctx, m, to, report))
}

const (
	// loadPrefix is in front of the names of roles that restore; the tenant's ID follows.
	loadPrefix = "pgkennel_load_"
	// manyRelations are more than one transaction can lock where max_locks_per_transaction is PostgreSQL's default, with room for others.
	manyRelations = 2000
)

// loader restores one backup into one database.
type loader struct {
	a       *Archive
	m       *manifest
	to      provision.Source
	admin   *pgx.Conn
	version int
	owner   string // of what is restored
	role    string // who restores, and its password
	connect provision.Connect
	super   bool     // admin is
	guest   bool     // the owner is others' too: the role is no member of it
	parts   bool     // more than one transaction
	made    []string // extensions
	schemas []string // made for them
	stand   []string // roles that stand in for those that are not there
	meter   *meter
}

func (a *Archive) load(ctx context.Context, m *manifest, to provision.Source, report func(provision.Progress)) (err error) {
	admin, err := connect(ctx, to.Connect)
	if err != nil {
		return err
	}
	defer hangUp(ctx, admin)
	l := &loader{a: a, m: m, to: to, admin: admin, parts: len(m.Tables) > 0 || m.Relations > manyRelations}
	var total int64
	for _, f := range m.Files {
		total += f.Plain
	}
	l.meter = newMeter(report, "restore", total)
	if err := l.look(ctx); err != nil {
		return err
	}
	defer func() {
		// Taking back must not depend on why it failed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err != nil {
			err = errors.Join(err, l.undo(ctx))
		}
		err = errors.Join(err, l.dropRoles(ctx))
	}()
	if err := l.prepare(ctx); err != nil {
		return err
	}
	if err := l.restore(ctx); err != nil {
		return err
	}
	l.analyze(ctx)
	if err := l.handOver(ctx); err != nil {
		return err
	}
	l.meter.end()
	return nil
}

// look finds the owner, and that there is nothing that would be overwritten.
func (l *loader) look(ctx context.Context) error {
	var err error
	if l.version, err = server(ctx, l.admin); err != nil {
		return err
	}
	if err := l.admin.QueryRow(ctx, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&l.super); err != nil {
		return err
	}
	if v, err := strconv.Atoi(major(l.m.Backup.Version)); err != nil || v > l.version {
		return provision.Errorf(provision.KindRefused, "backup %s is of PostgreSQL %s, and the tenant has %d", l.m.Backup.ID, l.m.Backup.Version, l.version).
			WithHint("Restore it into an instance of that version or a later one.")
	}
	schema := ""
	if l.to.Record.Isolation == tenant.Schema {
		schema = l.m.Schema
	}
	var super bool
	err = l.admin.QueryRow(ctx, `SELECT r.rolname::text, r.rolsuper FROM pg_roles r WHERE r.oid =
CASE WHEN $1 = '' THEN (SELECT datdba FROM pg_database WHERE datname = current_database()) ELSE (SELECT nspowner FROM pg_namespace WHERE nspname = $1) END`, schema).
		Scan(&l.owner, &super)
	if errors.Is(err, pgx.ErrNoRows) {
		return provision.Errorf(provision.KindState, "the schema %q is not there", schema)
	}
	if err != nil {
		return err
	}
	l.guest = l.to.Record.Isolation != tenant.Instance || super
	if err := l.clean(ctx); err != nil {
		return err
	}
	var found string
	err = l.admin.QueryRow(ctx, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND ($1 = '' OR n.nspname = $1) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') LIMIT 1`, schema).Scan(&found)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return provision.Errorf(provision.KindState, "there is data in the place that the backup is to be restored to").WithDetail("It has %s.", found)
}

// prepare makes the role, and what has to be there for what it may not make.
func (l *loader) prepare(ctx context.Context) error {
	l.role = loadPrefix + l.to.Record.ID
	l.connect = l.to.Connect
	l.connect.User, l.connect.Password = l.role, tenant.NewPassword()
	if err := l.dropRoles(ctx); err != nil { // of one who died
		return err
	}
	attributes := ""
	if l.to.Instance != nil && l.to.Instance.Superuser && l.to.Record.Isolation == tenant.Instance {
		attributes = " SUPERUSER" // the tenant has that right there, and used it
	}
	var salt [16]byte
	rand.Read(salt[:]) // it does not fail
	verifier, _ := auth.MakeVerifier(l.connect.Password, salt[:], auth.DefaultIterations).Encode()
	sql := []string{
		"CREATE ROLE " + ident(l.role) + " LOGIN PASSWORD " + literal(verifier) + attributes, // a verifier, which may be logged
		"ALTER ROLE " + ident(l.role) + " SET default_transaction_read_only = off", "ALTER ROLE " + ident(l.role) + " SET statement_timeout = 0",
		"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE " + ident(l.connect.Database) + " TO " + ident(l.role),
	}
	if !l.super { // it has to be a member to give away what the role owns
		sql = slices.Insert(sql, 1, "GRANT "+ident(l.role)+" TO CURRENT_USER")
	}
	switch {
	case l.to.Record.Isolation == tenant.Schema:
		sql[len(sql)-1] = "GRANT CONNECT ON DATABASE " + ident(l.connect.Database) + " TO " + ident(l.role)
		sql = append(sql, "GRANT USAGE, CREATE ON SCHEMA "+ident(l.m.Schema)+" TO "+ident(l.role))
	case l.guest:
		schemas, err := words(ctx, l.admin, `SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`)
		if err != nil {
			return err
		}
		for _, n := range schemas {
			sql = append(sql, "GRANT USAGE, CREATE ON SCHEMA "+ident(n)+" TO "+ident(l.role))
		}
	default:
		sql = append(sql, "GRANT "+ident(l.owner)+" TO "+ident(l.role))
	}
	if err := execute(ctx, l.admin, sql...); err != nil {
		return err
	}
	if err := l.copyDefaults(ctx); err != nil {
		return err
	}
	if err := l.standIns(ctx); err != nil {
		return err
	}
	return l.extensions(ctx)
}

// copyDefaults has what the role makes come with the privileges that the owner's things come with.
func (l *loader) copyDefaults(ctx context.Context) error {
	list, err := words(ctx, l.admin, `SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I %s GRANT %s ON %s TO %s%s', $1::text,
CASE WHEN d.defaclnamespace = 0 THEN '' ELSE format('IN SCHEMA %I', (SELECT nspname FROM pg_namespace n WHERE n.oid = d.defaclnamespace)) END, x.privilege_type,
CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END,
CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_default_acl d CROSS JOIN aclexplode(d.defaclacl) x WHERE pg_get_userbyid(d.defaclrole) = $2 AND x.grantee <> d.defaclrole
AND ($3 = '' OR d.defaclnamespace IN (0, (SELECT oid FROM pg_namespace WHERE nspname = $3)))`, l.role, l.owner, l.to.Record.Schema)
	if err != nil {
		return err
	}
	return execute(ctx, l.admin, list...)
}

// standIns makes roles that privileges and policies name, and that are not there. They go again with what they were given.
func (l *loader) standIns(ctx context.Context) error {
	missing, err := words(ctx, l.admin, `SELECT x FROM unnest($1::text[]) x WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = x)`, l.m.Roles)
	if err != nil {
		return err
	}
	for _, n := range missing {
		if strings.HasPrefix(n, "pg_") {
			continue
		}
		if err := execute(ctx, l.admin, "BEGIN", "CREATE ROLE "+ident(n)+" NOLOGIN", "COMMENT ON ROLE "+ident(n)+" IS "+literal(l.role), "COMMIT"); err != nil {
			return err
		}
		l.stand = append(l.stand, n)
	}
	if l.guest || l.m.Backup.Tenant != l.to.Record.ID {
		return nil
	}
	// ALTER DEFAULT PRIVILEGES FOR ROLE takes a member of it. These are the tenant's own.
	ours, err := words(ctx, l.admin, `SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1::text[]) AND NOT rolsuper AND rolname <> $2`, l.m.Roles, l.role)
	if err != nil {
		return err
	}
	for _, n := range ours {
		if err := execute(ctx, l.admin, "GRANT "+ident(n)+" TO "+ident(l.role)); err != nil {
			return err
		}
	}
	return nil
}

// extensions makes those that are missing, where they were.
func (l *loader) extensions(ctx context.Context) error {
	if l.to.Record.Isolation == tenant.Schema {
		return nil // they are the database's, and others' too
	}
	for _, e := range l.m.Extensions {
		var there, home, fixed, trusted bool
		if err := l.admin.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_extension WHERE extname = $1), EXISTS (SELECT FROM pg_namespace WHERE nspname = $2),
EXISTS (SELECT FROM pg_available_extensions a JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version WHERE a.name = $1 AND v.schema IS NOT NULL),
EXISTS (SELECT FROM pg_available_extensions a JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version WHERE a.name = $1 AND v.trusted)`,
			e.Name, e.Schema).Scan(&there, &home, &fixed, &trusted); err != nil {
			return err
		}
		if there {
			continue
		}
		if l.m.Imported && !trusted && !slices.Contains(l.to.Record.Extensions, e.Name) {
			return provision.Errorf(provision.KindRefused, "the imported backup wants extension %q, which the tenant does not have", e.Name).
				WithHint("If it may, create the tenant with --extension %s.", e.Name)
		}
		sql := "CREATE EXTENSION " + ident(e.Name)
		if !fixed {
			sql += " SCHEMA " + ident(e.Schema)
			if !home {
				if err := execute(ctx, l.admin, "CREATE SCHEMA "+ident(e.Schema)+" AUTHORIZATION "+ident(l.role)); err != nil {
					return err
				}
				l.schemas = append(l.schemas, e.Schema)
			}
		}
		if err := execute(ctx, l.admin, sql); err != nil {
			return fmt.Errorf("extension %s, which the backup needs: %w", e.Name, err)
		}
		l.made = append(l.made, e.Name)
	}
	return nil
}

// restore runs pg_restore, and copies what was copied beside the dump.
func (l *loader) restore(ctx context.Context) error {
	if !l.parts {
		return l.run(ctx, "--single-transaction")
	}
	if err := l.run(ctx, "--section=pre-data", "--section=data"); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(len(l.m.Tables), l.a.jobs) {
		g.Go(func() error {
			conn, err := connect(gctx, l.connect)
			if err != nil {
				return err
			}
			defer hangUp(gctx, conn)
			if _, err := conn.Exec(gctx, "SET client_encoding = 'UTF8'; SET statement_timeout = 0"); err != nil {
				return err
			}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(l.m.Tables) {
					return nil
				}
				t := &l.m.Tables[i]
				if err := l.a.copyIn(gctx, conn, l.m, t, t.Columns, l.meter.reader); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return l.run(ctx, "--section=post-data")
}

// copyIn fills a table with what copyOut wrote of it.
func (a *Archive) copyIn(ctx context.Context, conn *pgx.Conn, m *manifest, t *table, columns []string, through func(io.Reader) io.Reader) error {
	return a.read(ctx, m, t.File, func(r io.Reader) error {
		tag, err := conn.PgConn().CopyFrom(ctx, through(r), "COPY "+t.name()+" ("+names(columns)+") FROM STDIN")
		if err == nil && tag.RowsAffected() != t.Rows {
			err = fmt.Errorf("%d rows came back of %d", tag.RowsAffected(), t.Rows)
		}
		if err != nil {
			return fmt.Errorf("copy of table %s.%s: %w", t.Schema, t.Name, err)
		}
		return nil
	})
}

// run runs pg_restore over the dump.
func (l *loader) run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args = append([]string{"--format=custom", database(l.connect), "--exit-on-error", "--no-owner", "--no-tablespaces"}, args...)
	// Roles of other tenants may have these names here.
	if l.guest || l.m.Backup.Tenant != l.to.Record.ID {
		args = append(args, "--no-acl")
	}
	cmd, err := l.a.tool(ctx, l.to, l.connect, l.version, "pg_restore", args...)
	if err != nil {
		return err
	}
	return l.a.read(ctx, l.m, dumpName, func(r io.Reader) error {
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			pw.CloseWithError(filterTOC(l.meter.reader(r), pw, l.drops))
		}()
		err := input(cmd, "pg_restore", pr)
		pr.CloseWithError(io.ErrClosedPipe)
		<-done
		return err
	})
}

// drops says which statements are not for the role to run.
func (l *loader) drops(e entry) bool {
	switch e.desc {
	case "EXTENSION":
		return true
	case "COMMENT":
		return strings.HasPrefix(e.tag, "EXTENSION ") || l.to.Record.Isolation == tenant.Schema && e.tag == "SCHEMA "+ident(l.m.Schema) ||
			l.to.Record.Isolation == tenant.Schema && e.tag == "SCHEMA "+l.m.Schema || l.guest && e.tag == "SCHEMA public"
	case "SCHEMA":
		return l.to.Record.Isolation == tenant.Schema && e.tag == l.m.Schema || slices.Contains(l.schemas, e.tag)
	default:
		return false
	}
}

// analyze gathers statistics, which a dump does not have. Without them queries are slow, and no more than that.
func (l *loader) analyze(ctx context.Context) {
	conn, err := connect(ctx, l.connect)
	if err == nil {
		err = execute(ctx, conn, "SET client_min_messages = error; SET statement_timeout = 0", "ANALYZE")
		hangUp(ctx, conn)
	}
	if err != nil {
		l.a.log.Warn("restored tables have no statistics", "tenant", l.to.Record.ID, "error", err)
	}
}

// handOver gives what was restored to its owner.
func (l *loader) handOver(ctx context.Context) error {
	if l.guest && l.m.Imported {
		found, err := words(ctx, l.admin, `SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND pg_get_userbyid(proowner) = $1 ORDER BY 1`, l.role)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return provision.Errorf(provision.KindRefused, "the imported backup has functions that work with their owner's rights, and the owner is not the tenant's own").
				WithDetail("SECURITY DEFINER: %s.", strings.Join(found, ", ")).WithHint("Import it as a tenant with an instance of its own.")
		}
	}
	sql := []string{"BEGIN", "REASSIGN OWNED BY " + ident(l.role) + " TO " + ident(l.owner)}
	for _, n := range l.stand {
		sql = append(sql, "DROP OWNED BY "+ident(n))
	}
	return execute(ctx, l.admin, append(sql, "COMMIT")...)
}

// undo takes away what was made.
func (l *loader) undo(ctx context.Context) error {
	err := l.clean(ctx)
	for _, n := range slices.Backward(l.made) {
		err = errors.Join(err, execute(ctx, l.admin, "DROP EXTENSION IF EXISTS "+ident(n)))
	}
	return err
}

// clean drops what a restore made that was not handed over.
func (l *loader) clean(ctx context.Context) error {
	role := loadPrefix + l.to.Record.ID
	var there bool
	if err := l.admin.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, role).Scan(&there); err != nil || !there {
		return err
	}
	return execute(ctx, l.admin, "ROLLBACK", "ALTER ROLE "+ident(role)+" NOLOGIN",
		"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = "+literal(role), // it may be at it still
		"DROP OWNED BY "+ident(role)+" CASCADE")
}

// dropRoles takes the roles away that were made for the restore.
func (l *loader) dropRoles(ctx context.Context) error {
	role := loadPrefix + l.to.Record.ID
	list, err := words(ctx, l.admin, `SELECT r.rolname::text FROM pg_roles r LEFT JOIN pg_shdescription s ON s.objoid = r.oid AND s.classoid = 'pg_authid'::regclass
WHERE r.rolname = $1 OR s.description = $1`, role)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := execute(ctx, l.admin, "DROP OWNED BY "+ident(n), "DROP ROLE "+ident(n)); err != nil {
			return err
		}
	}
	return nil
}

func execute(ctx context.Context, conn *pgx.Conn, sql ...string) error {
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}
