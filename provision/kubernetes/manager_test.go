package kubernetes_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/backup"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// managed has the manager take a tenant through its life.
func managed(t *testing.T, d provision.Driver) {
	t.Helper()
	dir := t.TempDir()
	key, err := tenant.NewSecret([]byte("0123456789abcdef of tests"))
	if err != nil {
		t.Fatal(err)
	}
	records, err := store.OpenFile(t.Context(), store.FileOptions{Path: filepath.Join(dir, "d"), Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := backup.New(backup.Options{Dir: filepath.Join(dir, "b"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	m, err := provision.New(provision.Options{
		Directory: records, Vault: tenant.NewVault(key), Host: "here", Drivers: map[string]provision.Driver{d.Name(): d}, Default: d.Name(), Archive: archive,
	})
	if err != nil {
		t.Fatal(err)
	}
	k := drivertest.Kit{TB: t, Driver: d}
	try := func(o provision.Order) (*provision.Result, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		return m.Execute(ctx, o, nil)
	}
	do := func(o provision.Order) *provision.Result {
		t.Helper()
		res, err := try(o)
		if err != nil {
			t.Fatalf("%s: %v", o.Verb, err)
		}
		return res
	}
	t.Cleanup(func() {
		for _, name := range []string{"acme", "copy"} {
			_, _ = try(provision.Order{Verb: provision.VerbRemove, Tenant: name, Now: true}) // it is gone, if all is well
		}
		m.Close()
		records.Close()
	})
	// sql runs a statement in a tenant's database as an operator would.
	sql := func(name, statement string) string {
		t.Helper()
		c := do(provision.Order{Verb: provision.VerbConnect, Tenant: name}).Connect
		if c.CA == "" {
			t.Fatal("operators are not told the authority")
		}
		in := &provision.Instance{Endpoint: tenant.Endpoint{Host: c.Host, Port: c.Port, CA: c.CA}, Password: c.Password}
		return k.SQL(in, statement)
	}
	do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Extensions: []string{"citext"}, Init: "CREATE TABLE x (i int, c citext); INSERT INTO x VALUES (1, 'A')",
	})
	dump := do(provision.Order{Verb: provision.VerbBackup, Tenant: "acme", Kind: provision.Logical})
	base := do(provision.Order{Verb: provision.VerbBackup, Tenant: "acme", Kind: provision.Physical})
	if len(base.Backups) != 1 || base.Backups[0].Bytes == 0 {
		t.Errorf("physical backup: %+v", base.Backups)
	}
	if _, err := try(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: base.Backups[0].ID, Name: "other"}); drivertest.Kind(err) != provision.KindRefused {
		t.Errorf("restore of a physical backup: %v, want %s", err, provision.KindRefused)
	}
	do(provision.Order{Verb: provision.VerbClone, Tenant: "acme", Name: "copy"})
	do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Settings: map[string]string{"work_mem": "7MB"}, Limits: &tenant.Limits{Connections: 7}, Now: true})
	if got := sql("acme", "SHOW work_mem"); got != "7MB" {
		t.Errorf("work_mem is %s", got)
	}
	do(provision.Order{Verb: provision.VerbReplica, Action: "create", Tenant: "acme", Force: true})
	do(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	do(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: dump.Backups[0].ID})
	do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true})
	do(provision.Order{Verb: provision.VerbRemove, Tenant: "copy", Now: true})
	k.Nothing()
}
