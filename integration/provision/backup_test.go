package provision_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/tenant"
)

// Backups of each kind are made, tried, and bring back what there was: in place, and as another tenant.
func TestBackups(t *testing.T) {
	t.Parallel()
	b := newBed(t, archived(t))
	b.do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Extensions: []string{"citext"}, Keep: new(20),
		Init: "CREATE TABLE x (i int, c citext DEFAULT 'A'); INSERT INTO x VALUES (1)", Settings: map[string]string{"shared_buffers": "16MB"},
	})
	b.do(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "bi", ReadOnly: new(true)})
	sum := func(name string) string { return b.mustSQL(name, name, "SELECT coalesce(sum(i), 0) FROM x") }
	ids := map[string]string{}
	for _, kind := range []string{provision.Logical, provision.Physical} {
		res := b.do(provision.Order{Verb: provision.VerbBackup, Tenant: "acme", Kind: kind})
		if len(res.Backups) != 1 || res.Backups[0].Kind != kind {
			t.Fatalf("backup: got %+v", res.Backups)
		}
		ids[kind] = res.Backups[0].ID
		b.mustSQL("acme", "acme", "INSERT INTO x VALUES (10)")
	}
	res := b.do(provision.Order{Verb: provision.VerbVerify, Tenant: "acme"})
	if len(res.Backups) != 1 || res.Backups[0].ID != ids[provision.Physical] || res.Backups[0].Verified.IsZero() {
		t.Errorf("verify: got %+v", res.Backups)
	}
	b.nothing()
	if n := len(b.record("acme").Replicas); n > 0 {
		t.Errorf("%d instances on trial are left", n)
	}
	// It holds what there was when it was made; what is no tenant's own login is not taken along.
	b.killedAt(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: ids[provision.Physical], Name: "other", Enable: true}, "restore-as after adopt", true)
	b.do(provision.Order{Verb: provision.VerbRepair, Tenant: "other"})
	admin := func(name string) string {
		r := b.record(name)
		s, err := b.vault.Open(r.ID, tenant.AdminField, r.Admin)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if admin("acme") == admin("other") {
		t.Error("both have the same administrator's password")
	}
	b.do(provision.Order{Verb: provision.VerbPassword, Tenant: "other"})
	if got := sum("other"); got != "11" {
		t.Errorf("restore as another: got %s, want 11", got)
	}
	b.mustSQL("other", "other", "CREATE TABLE y (); INSERT INTO x (i) VALUES (0)")
	r := b.record("other")
	if got := b.mustSQL("other", "other", "SELECT tableowner FROM pg_tables WHERE tablename = 'x'"); got != tenant.OwnerRole(r.ID) {
		t.Errorf("restore as another: the owner is %s", got)
	}
	if got := b.mustSQL("other", "other", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 't\\_%'"); got != "2" {
		t.Errorf("restore as another: there are %s roles", got)
	}
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "other", Now: true})
	b.do(provision.Order{Verb: provision.VerbReplica, Action: "create", Tenant: "acme", Force: true})
	res = b.do(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: ids[provision.Physical]})
	if x := b.record("acme").Replicas[0]; x.Endpoint.Port != 0 || !slices.ContainsFunc(res.Notes, func(s string) bool { return strings.Contains(s, x.ID) }) {
		t.Errorf("a replica of what was replaced goes on to serve: %+v, %q", x, res.Notes)
	} else {
		b.do(provision.Order{Verb: provision.VerbReplica, Action: "remove", Tenant: "acme", Replica: x.ID})
	}
	if got := sum("acme"); got != "11" {
		t.Errorf("restore: got %s, want 11", got)
	}
	b.mustSQL("acme", "bi", "SELECT c FROM x")
	b.refused(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: "none"}, provision.KindNotFound, "none")
	b.refused(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", ToTime: time.Unix(1, 0)}, provision.KindNotFound, "physical")
	b.refused(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", ToTime: time.Now().Add(time.Hour)}, provision.KindInvalid, "not come yet")
	b.refused(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", ToTime: time.Now()}, provision.KindRefused, "no WAL")
	if res := b.do(provision.Order{Verb: provision.VerbBackups, Tenant: "acme"}); len(res.Backups) != 3 { // and one before the restore
		t.Errorf("got %d backups, want 3", len(res.Backups))
	}
	// A damaged backup is refused while what it was to replace is still there, and served.
	for _, id := range ids {
		files, err := filepath.Glob(filepath.Join(b.root, "b", "*", id, "[bd][au][sm][ep]"))
		if err != nil || len(files) != 1 {
			t.Fatalf("got files %v, %v", files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(files[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		b.refused(provision.Order{Verb: provision.VerbRestore, Tenant: "acme", Backup: id}, provision.KindFailed, "damaged")
		if r := b.record("acme"); r.Phase != tenant.Ready || r.Operation != nil {
			t.Errorf("after a damaged backup: got phase %s, operation %+v", r.Phase, r.Operation)
		}
		if got := sum("acme"); got != "11" {
			t.Errorf("after a damaged backup: got %s, want 11", got)
		}
	}
	// Another has its data through a file.
	file := filepath.Join(t.TempDir(), "acme")
	part := file + ".pgkennel-part" // of one that was killed
	if err := os.WriteFile(part, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbExport, Tenant: "acme", File: file, Passphrase: "secret words"})
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("what was left of an export is still there: %v", err)
	}
	n := len(b.do(provision.Order{Verb: provision.VerbBackups, Tenant: "acme"}).Backups)
	b.refused(provision.Order{Verb: provision.VerbExport, Tenant: "acme", File: file}, provision.KindTaken, "already")
	if got := len(b.do(provision.Order{Verb: provision.VerbBackups, Tenant: "acme"}).Backups); got != n {
		t.Errorf("an export that is refused has made %d backups", got-n)
	}
	pipe := filepath.Join(t.TempDir(), "pipe") // nobody writes to it
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	b.refused(provision.Order{Verb: provision.VerbImport, Tenant: "piped", File: pipe}, provision.KindInvalid, "is not a file")
	b.do(provision.Order{Verb: provision.VerbImport, Tenant: "moved", File: file, Passphrase: "secret words"})
	if a, m := sum("acme"), sum("moved"); a != m {
		t.Errorf("import: got %s, want %s", m, a)
	}
	followed := make(chan error, 1)
	go func() { followed <- b.try(provision.Order{Verb: provision.VerbLogs, Tenant: "moved", Follow: true}) }()
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "moved", Now: true})
	defer func() {
		select {
		case err := <-followed:
			if err != nil && drivertest.Kind(err) != provision.KindNotFound { // it may come too late
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the log of a tenant that is gone is followed on")
		}
	}()
	// What was removed comes back as it was.
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme"})
	if res := b.do(provision.Order{Verb: provision.VerbBackups, Tenant: "acme"}); res.Backups[0].Note != "final" {
		t.Errorf("got %+v, want a final backup", res.Backups[0])
	}
	b.do(provision.Order{Verb: provision.VerbRestore, Tenant: "acme"})
	if r := b.record("acme"); r.Phase != tenant.Ready || !r.Forget.IsZero() || !r.Routable() {
		t.Errorf("brought back: got %+v", r)
	}
	// Of one that is there, the same order replaces the data by those of the latest backup; what was written since is in the one that was made before.
	was := sum("acme")
	b.mustSQL("acme", "acme", "INSERT INTO x VALUES (100)")
	since := sum("acme")
	if res := b.do(provision.Order{Verb: provision.VerbRestore, Tenant: "acme"}); !res.Changed || sum("acme") != was {
		t.Errorf("restored in place: got %+v, and %s instead of %s", res, sum("acme"), was)
	}
	b.do(provision.Order{Verb: provision.VerbRestore, Tenant: "acme"})
	if got := sum("acme"); got != since {
		t.Errorf("what was there before a restore: got %s, want %s", got, since)
	}
}

// A template may be another tenant's schema, of which the new one gets no row.
func TestTemplateOfTenant(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "model", Extensions: []string{"citext", "pgcrypto"},
		Init: "CREATE SCHEMA s; CREATE TABLE s.x (i int PRIMARY KEY, c citext); COMMENT ON TABLE s.x IS 'it''s'; INSERT INTO s.x VALUES (1, 'a');" +
			"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'a;b' $$",
	})
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Template: "tenant:model", Extensions: []string{"citext", "pgcrypto"}, Enable: true})
	if got := b.mustSQL("acme", "acme", "SELECT f() || count(*) || obj_description('s.x'::regclass) FROM s.x"); got != "a;b0it's" {
		t.Errorf("got %s", got)
	}
	if r := b.record("acme"); r.Origin.Template != "tenant:model" || len(r.Origin.Hash) != 64 {
		t.Errorf("got origin %+v", r.Origin)
	}
	// A replica has what its primary has, and is beside it only if that was asked for.
	b.refused(provision.Order{Verb: provision.VerbReplica, Action: "create", Tenant: "acme"}, provision.KindRefused, "beside")
	b.do(provision.Order{Verb: provision.VerbReplica, Action: "create", Tenant: "acme", Force: true})
	r := b.record("acme")
	if len(r.Replicas) != 1 || r.Replicas[0].Endpoint.Port == 0 || r.Replicas[0].Endpoint.Port == r.Endpoint.Port {
		t.Fatalf("got replicas %+v", r.Replicas)
	}
	x := r.Replicas[0]
	if out, err := b.sqlAt("acme", "acme", x.Endpoint, "SELECT pg_is_in_recovery()"); err != nil || out != "true" {
		t.Errorf("the replica answers %s, %v", out, err)
	}
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	if _, err := b.sqlAt("acme", "acme", x.Endpoint, "SELECT 1"); err != nil {
		t.Errorf("the replica after a restart: %v", err)
	}
	// Who is kept out of the tenant's own server is kept out there, whatever poolers know.
	held := make(chan error, 1)
	go func() { _, err := b.sqlAt("acme", "acme", x.Endpoint, "SELECT pg_sleep(120)"); held <- err }()
	b.until("a session at the replica", func() bool {
		n, err := b.sqlAt("acme", "acme", x.Endpoint, "SELECT count(*) FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid()")
		return err == nil && n == "1"
	})
	b.do(provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true})
	select {
	case err := <-held:
		if err == nil || !strings.Contains(err.Error(), "57P01") {
			t.Errorf("the session at the replica: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the session at the replica goes on")
	}
	if _, err := b.sqlAt("acme", "acme", x.Endpoint, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "28000") {
		t.Errorf("a login at the replica: %v", err)
	}
	b.do(provision.Order{Verb: provision.VerbEnable, Tenant: "acme"})
	b.do(provision.Order{Verb: provision.VerbReplica, Action: "remove", Tenant: "acme", Replica: x.ID})
	if n := len(b.record("acme").Replicas); n != 0 {
		t.Errorf("%d replicas are left", n)
	}
	b.nothing()
}
