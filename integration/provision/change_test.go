package provision_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// What can be changed of a tenant, and what can't.
func TestChanges(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Password: "first", Enable: true, Settings: map[string]string{"shared_buffers": "16MB"}})
	b.refused(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "globex", Version: "15"}, provision.KindInvalid, "version")
	b.refused(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "Postgres"}, provision.KindInvalid, "name")
	b.refused(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "postgres"}, provision.KindInvalid, "reserved")
	b.refused(provision.Order{Verb: "dance", Tenant: "acme"}, provision.KindInvalid, "dance")
	b.refused(provision.Order{Verb: provision.VerbStart, Tenant: "nobody"}, provision.KindNotFound, "nobody")
	b.refused(provision.Order{Verb: provision.VerbBackup, Tenant: "acme"}, provision.KindRefused, "backup")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Isolation: "schema"}, provision.KindRefused, "share")
}

// Settings and limits count at once where they can, and say where they can't; what PostgreSQL refuses leaves all as it was.
func TestSet(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	set := func(settings map[string]string, now bool) *provision.Result {
		t.Helper()
		return b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Settings: settings, Now: now})
	}
	if res := set(map[string]string{"work_mem": "5MB"}, false); !res.Changed || len(res.Notes) > 0 {
		t.Errorf("set work_mem: got %+v", res)
	}
	if got := b.mustSQL("acme", "acme", "SHOW work_mem"); got != "5MB" {
		t.Errorf("got work_mem %s, want 5MB", got)
	}
	if res := set(map[string]string{"Work_Mem": "5MB"}, false); res.Changed {
		t.Errorf("set what is set: got %+v", res)
	}
	if res := set(map[string]string{"max_worker_processes": "9"}, false); !strings.Contains(strings.Join(res.Notes, " "), "restart is needed") {
		t.Errorf("got notes %v, want that a restart is needed", res.Notes)
	}
	if res := set(map[string]string{"max_worker_processes": "10"}, true); !strings.Contains(strings.Join(res.Notes, " "), "was restarted") {
		t.Errorf("got notes %v, want that it was restarted", res.Notes)
	}
	if got := b.mustSQL("acme", "acme", "SHOW max_worker_processes"); got != "10" {
		t.Errorf("got max_worker_processes %s, want 10", got)
	}
	was := b.record("acme")
	for setting, value := range map[string]string{
		"nonsense_here": "1", "work_mem": "much", "max_worker_processes": "many", "listen_addresses": "*", "max_connections": "5", "log_min_messages": "loud",
	} {
		b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Settings: map[string]string{setting: value}}, provision.KindInvalid, setting)
	}
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Limits: &tenant.Limits{IO: 1}}, provision.KindInvalid, "1 MiB")
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Limits: &tenant.Limits{Connections: 7}})
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Limits: &tenant.Limits{}, LimitsOnly: []string{"cpu"}})
	if got := b.record("acme").Limits.Connections; got != 7 {
		t.Errorf("got %d connections after setting another limit, want 7", got)
	}
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Limits: &was.Limits})
	if r := b.record("acme"); r.Phase != tenant.Ready || r.Operation != nil || r.Limits != was.Limits || r.Settings["work_mem"] != "5MB" || len(r.Settings) != len(was.Settings) {
		t.Errorf("after refusals: got %+v, want it as it was", r)
	}
	if set(map[string]string{"work_mem": ""}, false); b.mustSQL("acme", "acme", "SHOW work_mem") == "5MB" {
		t.Error("a setting that was taken back is there still")
	}
	// Extensions are made where the tenant has put nothing for their scripts to find.
	r := b.record("acme")
	admin := b.admin(r, r.Database)
	for _, sql := range []string{
		"CREATE SCHEMA watch; CREATE TABLE watch.paths (path text)",
		`CREATE FUNCTION watch.path() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO watch.paths VALUES (current_setting('search_path')); END $$`,
		"CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION watch.path()",
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Extensions: []string{"earthdistance", "pg_trgm", "plpgsql"}})
	var paths, away string
	if err := admin.QueryRow(t.Context(), `SELECT string_agg(DISTINCT path, '; '), (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgkennel%')::text FROM watch.paths`).Scan(&paths, &away); err != nil ||
		paths == "" || strings.Contains(paths, "public") || away != "0" {
		t.Errorf("scripts of extensions had search_path %s; %s schemas are left, %v", paths, away, err)
	}
	b.mustSQL("acme", "acme", "SELECT public.similarity('a', 'b'), public.earth(), public.cube(1)")
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Extensions: []string{"no_such"}}, provision.KindFailed, "no_such")
	if got := b.record("acme").Extensions; !slices.Equal(got, []string{"earthdistance", "pg_trgm", "plpgsql"}) {
		t.Errorf("got extensions %v", got)
	}
}

// Logins: passwords, names, what further ones may.
func TestLogins(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Password: "first", Enable: true, Init: "CREATE TABLE x (i int); INSERT INTO x VALUES (1)"})
	proves := func(login, password string) bool {
		t.Helper()
		v, err := auth.ParseVerifier(b.record("acme").Login(login).Verifier)
		if err != nil {
			t.Fatal(err)
		}
		return v.Matches(login, password)
	}
	if !proves("acme", "first") {
		t.Error("the password that was given is not the tenant's")
	}
	res := b.do(provision.Order{Verb: provision.VerbPassword, Tenant: "acme"})
	if len(res.Secrets) != 1 || !proves("acme", res.Secrets[0].Password) || proves("acme", "first") {
		t.Errorf("password: got %+v", res.Secrets)
	}
	res = b.do(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "bi", ReadOnly: new(true), Limits: &tenant.Limits{Connections: 2}})
	if len(res.Secrets) != 1 || res.Secrets[0].Login != "bi" || !proves("bi", res.Secrets[0].Password) {
		t.Errorf("user create: got %+v", res.Secrets)
	}
	if got := b.mustSQL("acme", "bi", "SELECT i FROM x"); got != "1" {
		t.Errorf("bi reads %s", got)
	}
	for _, query := range []string{
		"SET default_transaction_read_only = off; INSERT INTO x VALUES (2)", "SET transaction_read_only = off; DELETE FROM x", "RESET ROLE; TRUNCATE x",
		"SET default_transaction_read_only = off; CREATE TABLE y ()",
	} {
		if _, err := b.sql("acme", "bi", query); err == nil {
			t.Errorf("a login that only reads can %s", query)
		}
	}
	b.refused(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "bi"}, provision.KindTaken, "bi")
	b.refused(provision.Order{Verb: provision.VerbUser, Action: "remove", Tenant: "acme", Login: "acme"}, provision.KindInvalid, "own")
	b.do(provision.Order{Verb: provision.VerbUser, Action: "set", Tenant: "acme", Login: "bi", Limits: &tenant.Limits{Connections: 0}})
	b.do(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "writer", Password: "w"})
	b.mustSQL("acme", "writer", "CREATE TABLE of_writer (); INSERT INTO x VALUES (2)")
	// One that can't be removed goes on to be one.
	r := b.record("acme")
	admin := b.admin(r, "postgres")
	if _, err := admin.Exec(t.Context(), fmt.Sprintf("CREATE TABLE public.elsewhere (); ALTER TABLE public.elsewhere OWNER TO %q", r.Login("writer").Role)); err != nil {
		t.Fatal(err)
	}
	b.refused(provision.Order{Verb: provision.VerbUser, Action: "remove", Tenant: "acme", Login: "writer"}, provision.KindFailed, "2BP01")
	b.mustSQL("acme", "writer", "INSERT INTO x VALUES (2)")
	if r := b.record("acme"); r.Login("writer").Disabled || r.Operation != nil || r.Phase != tenant.Ready {
		t.Errorf("a login that could not be removed: %+v", r)
	}
	if _, err := admin.Exec(t.Context(), "DROP TABLE public.elsewhere"); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbUser, Action: "remove", Tenant: "acme", Login: "writer"})
	b.mustSQL("acme", "acme", "DROP TABLE of_writer")
	if n := len(b.record("acme").Logins); n != 2 {
		t.Errorf("got %d logins, want 2", n)
	}
	gone := &tenant.Record{
		ID: tenant.NewID(), Name: "globex", Isolation: tenant.Instance, Phase: tenant.Removed, Host: r.Host, Driver: r.Driver, Forget: time.Date(2040, 1, 2, 3, 4, 0, 0, time.UTC),
		Admin: b.vault.Seal("x", tenant.AdminField, "x"),
	}
	gone, err := b.dir.Put(t.Context(), gone, tenant.Entry{Who: "test", What: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"globex", "2040-01-02 03:04 UTC", "tenant remove --now globex", "tenant restore globex"} {
		b.refused(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "globex"}, provision.KindTaken, says)
	}
	if err := b.dir.Delete(t.Context(), gone, tenant.Entry{Who: "test", What: "test"}); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "globex"})
	b.mustSQL("globex", "globex", "SELECT 1") // its secret is opened by the role's name, which stays
	b.refused(provision.Order{Verb: provision.VerbShow, Tenant: "acme"}, provision.KindNotFound, "acme")
	// Read-only at the server, for those who come from now on.
	b.do(provision.Order{Verb: provision.VerbReadOnly, Tenant: "globex"})
	if _, err := b.sql("globex", "globex", "INSERT INTO x VALUES (3)"); err == nil {
		t.Error("a tenant that only reads has written")
	}
	b.do(provision.Order{Verb: provision.VerbReadOnly, Tenant: "globex", On: new(false)})
	b.mustSQL("globex", "globex", "INSERT INTO x VALUES (3)")
	network := netip.MustParsePrefix("10.1.2.3/8")
	b.do(provision.Order{Verb: provision.VerbEnable, Tenant: "globex", Networks: []netip.Prefix{network}})
	if got := b.record("globex").Access.Networks; len(got) != 1 || got[0] != network.Masked() {
		t.Errorf("got networks %v", got)
	}
	res = b.do(provision.Order{Verb: provision.VerbAudit, Tenant: "globex"})
	if len(res.Audit) < 10 {
		t.Errorf("got %d entries in the audit", len(res.Audit))
	}
	for _, e := range res.Audit {
		if e.Who == "" || e.What == "" || strings.Contains(e.Detail, "SCRAM") {
			t.Errorf("got entry %+v", e)
		}
	}
	if res := b.do(provision.Order{Verb: provision.VerbStats, Tenant: "globex"}); res.Tenants[0].Stats["commits"] == 0 || res.Tenants[0].Usage == nil {
		t.Errorf("got stats %+v", res.Tenants[0])
	}
	if res := b.do(provision.Order{Verb: provision.VerbConnect, Tenant: "globex"}); res.Connect == nil || res.Connect.User != provision.Superuser {
		t.Errorf("got %+v", res.Connect)
	}
}
