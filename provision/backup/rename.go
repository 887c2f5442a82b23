package backup

import (
	"context"
	"errors"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// loadRenamed restores a schema under another name, which PostgreSQL's programs can't: it comes back in a database of its own, is renamed there, and goes from
// there to its place. What refers to things outside of the schema, or says its name in the text of a function, does not follow.
func (a *Archive) loadRenamed(ctx context.Context, m *manifest, to provision.Source, report func(provision.Progress)) (err error) {
	admin, err := connect(ctx, to.Connect)
	if err != nil {
		return err
	}
	defer hangUp(ctx, admin)
	scratch := loadPrefix + to.Record.ID
	locale, err := words(ctx, admin, `SELECT format('ENCODING %L LC_COLLATE %L LC_CTYPE %L', pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = current_database()`)
	if err != nil {
		return err
	}
	drop := "DROP DATABASE IF EXISTS " + ident(scratch) + " WITH (FORCE)"
	if err := execute(ctx, admin, drop, "CREATE DATABASE "+ident(scratch)+" TEMPLATE template0 "+locale[0], "REVOKE ALL ON DATABASE "+ident(scratch)+" FROM PUBLIC"); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, execute(ctx, admin, drop))
	}()
	there := to
	there.Record, there.Connect.Database = to.Record.Clone(), scratch
	there.Record.Isolation = tenant.Database
	if err := a.load(ctx, m, there, report); err != nil {
		return err
	}
	conn, err := connect(ctx, there.Connect)
	if err != nil {
		return err
	}
	err = execute(ctx, conn, "ALTER SCHEMA "+ident(m.Schema)+" RENAME TO "+ident(to.Record.Schema))
	hangUp(ctx, conn)
	if err != nil {
		return err
	}
	there.Record.Isolation = tenant.Schema
	b, err := a.Dump(ctx, there, "renamed", report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.place.remove(b.Tenant, b.ID)) }()
	renamed, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return err
	}
	renamed.Imported = m.Imported
	return a.load(ctx, renamed, to, report)
}
