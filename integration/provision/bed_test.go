// Package provision_test has the real manager, directory and process driver make real instances.
package provision_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/backup"
	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

const host = "here"

// bed is one host: a directory in a file, a process driver and a manager.
type bed struct {
	testing.TB
	*provision.Manager
	root   string
	driver *process.Driver
	dir    tenant.Directory
	vault  *tenant.Vault
}

// parts are what a bed and its children are made of.
func parts(root string) (dir tenant.Directory, d *process.Driver, v *tenant.Vault, err error) {
	key, err := tenant.NewSecret([]byte("0123456789abcdef of tests"))
	if err != nil {
		return nil, nil, nil, err
	}
	d, err = process.New(process.Options{DataDir: filepath.Join(root, "i"), NoSync: true, PortMin: 15000, PortMax: 32000})
	if err != nil {
		return nil, nil, nil, err
	}
	dir, err = store.OpenFile(context.Background(), store.FileOptions{Path: filepath.Join(root, "d"), Wait: 10 * time.Second})
	return dir, d, tenant.NewVault(key), err
}

func options(dir tenant.Directory, d *process.Driver, v *tenant.Vault) provision.Options {
	return provision.Options{
		Log:       slog.New(slog.DiscardHandler),
		Directory: dir, Vault: v, Host: host, Drivers: map[string]provision.Driver{"process": d}, Default: "process",
		Every: 200 * time.Millisecond,
	}
}

// archive opens the archive of a host.
func archive(root string) (*backup.Archive, error) {
	key, err := tenant.NewSecret([]byte("fedcba9876543210 of tests"))
	if err != nil {
		return nil, err
	}
	return backup.New(backup.Options{Dir: filepath.Join(root, "b"), Key: key})
}

// archived is a change of options: with backups, and instances that listen for other hosts.
func archived(t testing.TB) func(b *bed, o *provision.Options) {
	t.Helper()
	return func(b *bed, o *provision.Options) {
		listening(b, o)
		a, err := archive(b.root)
		if err != nil {
			t.Fatal(err)
		}
		o.Archive = a
	}
}

// newBed makes a host. At its end nothing may be left on it.
func newBed(t testing.TB, change func(b *bed, o *provision.Options)) *bed {
	t.Helper()
	root := pgtest.Dir(t)
	b := &bed{TB: t, root: root}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Errorf("what a host leaves: %v", err)
		}
	})
	b.open(change)
	t.Cleanup(func() {
		ctx := context.Background()
		list, err := b.dir.List(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, r := range list {
			if err := b.try(provision.Order{Verb: provision.VerbRemove, Tenant: r.Name, Now: true}); err != nil {
				t.Errorf("remove %s at the end: %s", r.Name, told(err))
			}
		}
		b.nothing()
		b.close()
	})
	return b
}

func (b *bed) open(change func(b *bed, o *provision.Options)) {
	b.Helper()
	var err error
	if b.dir, b.driver, b.vault, err = parts(b.root); err != nil {
		b.Fatal(err)
	}
	o := options(b.dir, b.driver, b.vault)
	if change != nil {
		change(b, &o)
	}
	if b.Manager, err = provision.New(o); err != nil {
		b.Fatal(err)
	}
}

// close ends the manager as the end of its process would.
func (b *bed) close() {
	b.Helper()
	b.Manager.Close()
	if err := b.dir.Close(); err != nil {
		b.Error(err)
	}
}

// nothing fails the test if there is anything left of any instance that no record has.
func (b *bed) nothing() {
	b.Helper()
	found, err := b.driver.Found(context.Background())
	if err != nil {
		b.Error(err)
	}
	list, err := b.dir.List(context.Background())
	if err != nil {
		b.Error(err)
	}
	for _, id := range found {
		known := false
		for _, r := range list {
			known = known || r.ID == id
			for _, x := range r.Replicas {
				known = known || x.ID == id
			}
		}
		if !known {
			b.Errorf("something is left of instance %s", id)
		}
	}
	files, err := filepath.Glob(filepath.Join(b.root, "i", "*"))
	if err != nil {
		b.Error(err)
	}
	if len(list) == 0 && len(files) > 0 {
		b.Errorf("files are left: %v", files)
	}
}

// told is all that an error says.
func told(err error) string {
	if e, ok := errors.AsType[*provision.Error](err); ok {
		return fmt.Sprintf("%s: %s (%s) [%s]", e.Kind, e.Message, e.Detail, e.Hint)
	}
	return err.Error()
}

func (b *bed) try(o provision.Order) error {
	_, err := b.order(o)
	return err
}

func (b *bed) order(o provision.Order) (*provision.Result, error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if o.By == "" {
		o.By = "test"
	}
	return b.Execute(ctx, o, nil)
}

// do carries out an order that has to succeed.
func (b *bed) do(o provision.Order) *provision.Result {
	b.Helper()
	res, err := b.order(o)
	if err != nil {
		b.Fatalf("%s %s: %s", o.Verb, o.Tenant, told(err))
	}
	return res
}

// refused carries out an order that has to be refused so.
func (b *bed) refused(o provision.Order, kind provision.ErrorKind, says string) {
	b.Helper()
	_, err := b.order(o)
	var e *provision.Error
	if !errors.As(err, &e) {
		b.Fatalf("%s %s: got %v, want a refusal of kind %s", o.Verb, o.Tenant, err, kind)
	}
	if e.Kind != kind || !strings.Contains(told(e), says) {
		b.Fatalf("%s %s: got %s, want %s with %q", o.Verb, o.Tenant, told(e), kind, says)
	}
}

// record is a tenant's, which has to be there.
func (b *bed) record(name string) *tenant.Record {
	b.Helper()
	r, err := b.dir.Find(context.Background(), "name/"+name)
	if err != nil {
		b.Fatalf("tenant %s: %v", name, err)
	}
	return r
}

// sql runs a query as one of a tenant's logins, as the pooler would, and returns the first value of its first row.
func (b *bed) sql(name, login, query string) (string, error) {
	b.Helper()
	return b.sqlAt(name, login, b.record(name).Endpoint, query)
}

// sqlAt is sql at an endpoint of the tenant's.
func (b *bed) sqlAt(name, login string, at tenant.Endpoint, query string) (string, error) {
	b.Helper()
	r := b.record(name)
	l := r.Login(login)
	if l == nil {
		b.Fatalf("tenant %s has no login %s", name, login)
	}
	secret, err := b.vault.Open(r.ID, l.Field(), l.Secret)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", at.Host, at.Port, l.Role, secret, r.Database))
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var out string
	if rows.Next() {
		if v, err := rows.Values(); err == nil && len(v) > 0 {
			out = fmt.Sprint(v[0])
		}
	}
	rows.Close()
	return out, rows.Err()
}

// admin connects to a database of a tenant's instance as pgkennel does.
func (b *bed) admin(r *tenant.Record, database string) *pgx.Conn {
	b.Helper()
	secret, err := b.vault.Open(r.ID, tenant.AdminField, r.Admin)
	if err != nil {
		b.Fatal(err)
	}
	c, err := pgx.Connect(b.Context(), fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", r.Endpoint.Host, r.Endpoint.Port, provision.Superuser, secret, database))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// mustSQL is sql that has to succeed.
func (b *bed) mustSQL(name, login, query string) string {
	b.Helper()
	out, err := b.sql(name, login, query)
	if err != nil {
		b.Fatalf("%s as %s: %v", query, login, err)
	}
	return out
}

// up reports whether a tenant's instance runs.
func (b *bed) up(name string) bool { //nolint:unparam // a name as all others
	b.Helper()
	r := b.record(name)
	s, err := b.driver.State(context.Background(), &provision.Instance{ID: r.ID, Facts: r.Facts, Endpoint: r.Endpoint})
	if err != nil {
		b.Fatal(err)
	}
	return s.Running
}
