package provision_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// A tenant's life, from its creation to its end.
func TestLife(t *testing.T) {
	t.Parallel()
	templates := t.TempDir()
	if err := os.WriteFile(filepath.Join(templates, "app.sql"), []byte("CREATE TABLE orders (id int PRIMARY KEY);\nINSERT INTO orders VALUES (1), (2);"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBed(t, func(_ *bed, o *provision.Options) { o.Templates = templates })
	res := b.do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "acme", Template: "app", Extensions: []string{"citext"}, Init: "INSERT INTO orders VALUES (3)",
		Settings: map[string]string{"work_mem": "3MB"},
	})
	if !res.Changed || len(res.Secrets) != 1 || res.Secrets[0].Login != "acme" || len(res.Tenants) != 1 || res.Tenants[0].Phase != "ready" {
		t.Fatalf("got %+v, want a ready tenant and its password", res)
	}
	r := b.record("acme")
	if r.Access.Enabled || r.Routable() {
		t.Error("access is open from the beginning")
	}
	if r.Origin.Hash == "" || r.Operation != nil {
		t.Errorf("got origin %+v, operation %+v", r.Origin, r.Operation)
	}
	for query, want := range map[string]string{
		"SELECT count(*) FROM orders":                                 "3",
		"SELECT tableowner FROM pg_tables WHERE tablename = 'orders'": tenant.OwnerRole(r.ID),
		"SHOW work_mem":            "3MB",
		"SELECT 'A'::citext = 'a'": "true",
		"SELECT current_user":      tenant.OwnerRole(r.ID),
		"SELECT session_user":      tenant.OwnRole(r.ID, 0),
	} {
		if got := b.mustSQL("acme", "acme", query); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	// The same again changes nothing; another of that name is refused.
	if res := b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme"}); res.Changed || len(res.Secrets) > 0 {
		t.Errorf("create again: got %+v", res)
	}
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Password: "another"}, provision.KindTaken, "password")
	b.do(provision.Order{Verb: provision.VerbEnable, Tenant: "acme"})
	if !b.record("acme").Routable() {
		t.Error("access is closed when it was enabled")
	}
	b.do(provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true})
	if _, err := b.sql("acme", "acme", "SELECT 1"); err == nil {
		t.Error("a fenced role logs in at the server")
	}
	b.do(provision.Order{Verb: provision.VerbEnable, Tenant: "acme"})
	b.mustSQL("acme", "acme", "SELECT 1")
	for _, s := range []struct {
		verb, phase string
		up          bool
	}{
		{provision.VerbStop, "stopped", false},
		{provision.VerbStop, "stopped", false},
		{provision.VerbStart, "ready", true},
		{provision.VerbRestart, "ready", true},
		{provision.VerbSleep, "asleep", false},
		{provision.VerbWake, "ready", true},
		{provision.VerbSuspend, "suspended", false},
		{provision.VerbResume, "ready", true},
		{provision.VerbRemove, "removed", false},
	} {
		b.do(provision.Order{Verb: s.verb, Tenant: "acme"})
		if got := b.record("acme").Phase.String(); got != s.phase {
			t.Fatalf("%s: got phase %s, want %s", s.verb, got, s.phase)
		}
		if got := b.up("acme"); got != s.up {
			t.Fatalf("%s: got up %v, want %v", s.verb, got, s.up)
		}
	}
	b.refused(provision.Order{Verb: provision.VerbStart, Tenant: "acme"}, provision.KindState, "removed")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "acme"}, provision.KindTaken, "restore")
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true})
	b.refused(provision.Order{Verb: provision.VerbShow, Tenant: "acme"}, provision.KindNotFound, "acme")
	b.nothing()
}

// What makes a tenant may never end, and is ended by its removal: by whoever is at it, and by who finds it later.
func TestRemoveWhileMade(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	o := provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Init: "DO $$ BEGIN LOOP END LOOP; END $$"}
	made := make(chan error, 1)
	go func() { made <- b.try(o) }()
	b.until("its template is made", func() bool {
		r, err := b.dir.Find(t.Context(), "name/acme")
		return err == nil && r.Operation != nil && r.Operation.Now == "template"
	})
	b.refused(provision.Order{Verb: provision.VerbRemove, Tenant: "acme"}, provision.KindBusy, "create")
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true})
	if err := <-made; err == nil || !strings.Contains(told(err), "given up") {
		t.Errorf("create: got %v", err)
	}
	b.nothing()
	b.killedAt(provision.Order{Verb: provision.VerbCreate, Tenant: "acme"}, "create before template", false)
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true})
	b.nothing()
}

// What is on the host of an instance that the directory never had stays, until repair is told to take it away.
func TestStrays(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	in := &provision.Instance{ID: tenant.NewID(), Password: "x"}
	if err := b.driver.Plan(t.Context(), in, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.driver.Volume(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		res := b.do(provision.Order{Verb: provision.VerbRepair, Force: force})
		if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], in.ID) || res.Changed != force {
			t.Errorf("repair, force %v: got %+v", force, res)
		}
		found, err := b.driver.Found(t.Context())
		if err != nil || slices.Contains(found, in.ID) == force {
			t.Errorf("repair, force %v: found %v, %v", force, found, err)
		}
	}
}
