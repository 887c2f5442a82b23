package pooler

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// attached makes a tenant acme with a database of its own on its server, to which clients of shop come as well, with the key 7.
func (k *kennel) attached() *tenant.Record {
	k.t.Helper()
	r := k.tenant("acme")
	k.server.Exec(k.t, r.Database, fmt.Sprintf(`create table orders (tenant_id bigint not null default nullif(current_setting('app.current_tenant', true), '')::bigint, note text);
		insert into orders select t, 'own of acme' from generate_series(7, 99, 92) t; grant all on orders to %q`, r.Logins[0].Role))
	k.dir.change(r.ID, func(r *tenant.Record) { r.Cluster, r.Key = "shop", "7" })
	return k.dir.ByID(r.ID)
}

// notes is what a connection sees of orders.
func notes(t testing.TB, c *pgx.Conn, where string) string {
	t.Helper()
	return value(t, c, "select coalesce(string_agg(note, ',' order by note), '') from orders "+where)
}

const ownNotes = "own of acme,own of acme" // one row is another key's, which says nothing where all is one tenant's

func TestAttachedInstances(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	acme := k.attached()
	k.virtual("two", "2")
	if n := k.follower.made.Load(); n != 0 {
		t.Fatalf("%d instances at work", n)
	}
	_, err := k.try("app@acme", "shop", "wrong")
	wantCode(t, "a wrong password", "28P01", err)
	if n := k.follower.made.Load(); n != 0 {
		t.Errorf("something was made for who has no password")
	}
	bound, err := k.app("acme")
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close(context.Background())
	if got := notes(t, bound, ""); got != ownNotes {
		t.Errorf("got %q", got)
	}
	if got := value(t, bound, "select current_database() || session_user || current_setting('app.current_tenant')"); got != acme.Database+acme.Logins[0].Role+"7" {
		t.Errorf("got %q", got)
	}
	if got := notes(t, k.owner("acme"), ""); got != ownNotes { // directly
		t.Errorf("got %q", got)
	}
	keeper := k.as("keeper@acme", "shop", "app") // keeps its connection
	run(t, keeper, "create temp table mine as select 1 as n")
	if got := value(t, keeper, "select count(*) || current_database() from mine"); got != "1"+acme.Database {
		t.Errorf("got %q", got)
	}
	free := k.as("app", "shop", "app")
	to := func(where, want string) {
		t.Helper()
		if got := notes(t, free, where); got != want {
			t.Errorf("%s: got %q, want %q", where, got, want)
		}
	}
	for range 3 { // the same prepared statements here and there
		to("where tenant_id = 7", "own of acme")
		to("where tenant_id = 2", "of 2")
		run(t, free, "set app.current_tenant = '7'")
		to("", ownNotes)
		run(t, free, "set pgkennel.tenant = 'two'")
		to("", "of 2")
		run(t, free, "set pgkennel.tenant = 'acme'")
		to("", ownNotes)
		run(t, free, "set pgkennel.tenant = 'one'")
		to("", "of 1")
		run(t, free, "reset pgkennel.tenant")
		run(t, free, "/* pgkennel_tenant: acme */ insert into orders (note) values ('own of acme')")
		run(t, free, "delete from orders where tenant_id = 7 and ctid <> '(0,1)'")
	}
	run(t, free, "begin")
	to("where tenant_id = 7", "own of acme")
	_, err = free.Exec(t.Context(), "select * from orders where tenant_id = 2")
	wantCode(t, "another's key in the transaction", "42501", err)
	run(t, free, "rollback")
	for _, sql := range []string{"select * from orders where tenant_id = 2", "insert into orders values (2, 'x')", "update orders set note = 'x' where tenant_id in (2, 7)"} {
		_, err = bound.Exec(t.Context(), sql)
		wantCode(t, sql, "42501", err)
	}
	_, err = bound.Exec(t.Context(), "set pgkennel.tenant = 'two'")
	wantCode(t, "a bound session", "42501", err)
	_, err = bound.Exec(t.Context(), "alter role current_user password 'x'")
	wantCode(t, "the role's password", "42501", err)
	for _, sql := range []string{"select note from orders", "update orders set note = 'nobody'", "truncate orders"} {
		_, err = free.Exec(t.Context(), sql)
		wantCode(t, sql, "42501", err)
	}
	run(t, free, "create table everywhere (n int)") // who is nobody is in the shared database, and there only
	if got := value(t, bound, "select (to_regclass('everywhere') is null and count(*) = 2)::text from orders"); got != "true" {
		t.Errorf("a statement of nobody's has reached an instance")
	}
	keeps := k.as("keeper", "shop", "app")
	run(t, keeps, "set pgkennel.tenant = 'acme'")
	run(t, keeps, "create temp table mine as select 'acme' as whose")
	_, err = keeps.Exec(t.Context(), "set pgkennel.tenant = 'two'")
	wantCode(t, "a connection that is kept", "25001", err)
	if got := notes(t, keeps, ""); got != ownNotes {
		t.Errorf("got %q", got)
	}
	con := k.console()
	con.one("SHOW TENANTS", "tenant", "acme", "database", "shop", "isolation", "instance", "phase", "ready", "clients", "4")
	con.one("SHOW POOLS", "database", "acme", "user", "(shop)")
	if n := k.Clients(acme.ID); n != 4 {
		t.Errorf("%d clients keep it awake", n)
	}
	con.do("KILL acme")
	wantEnded(t, bound)
	con.do("RESUME acme")
	k.as("app", "shop", "app")
}

// TestAttachedAccess: what keeps clients out of an instance keeps out those who come by a database of the configuration.
func TestAttachedAccess(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	id := k.attached().ID
	k.virtual("two", "2")
	free := k.as("app", "shop", "app")
	login := func() *pgx.Conn {
		t.Helper()
		c := k.as("app@acme", "shop", "app")
		if got := notes(t, c, ""); got != ownNotes {
			t.Errorf("got %q", got)
		}
		if got := notes(t, free, "where tenant_id = 7"); got != "own of acme" {
			t.Errorf("got %q", got)
		}
		return c
	}
	refused := func(why, code string) {
		t.Helper()
		_, err := k.app("acme")
		wantCode(t, why, code, err)
		_, err = k.try("app@acme", "shop", "wrong")
		wantCode(t, why+", a wrong password", "28P01", err)
		if code == "28P01" {
			code = "42501"
		}
		for _, sql := range []string{"set pgkennel.tenant = 'acme'", "set app.current_tenant = '7'", "select * from orders where tenant_id = 7", "/* pgkennel_tenant: acme */ select 1"} {
			_, err = free.Exec(t.Context(), sql)
			wantCode(t, why+": "+sql, code, err)
		}
	}
	for _, x := range []struct {
		why, code  string
		keep, undo func(*tenant.Record)
	}{
		{"disabled", "28P01", func(r *tenant.Record) { r.Access.Enabled = false }, func(r *tenant.Record) { r.Access.Enabled = true }},
		{"suspended", "28P01", func(r *tenant.Record) { r.Phase = tenant.OnHold }, func(r *tenant.Record) { r.Phase = tenant.Ready }},
		{"stopped", "57P03", func(r *tenant.Record) { r.Phase = tenant.Stopped }, func(r *tenant.Record) { r.Phase = tenant.Ready }},
		{"failed", "57P03", func(r *tenant.Record) { r.Phase = tenant.Failed }, func(r *tenant.Record) { r.Phase = tenant.Ready }},
		{"stopped and disabled", "28P01", func(r *tenant.Record) { r.Phase, r.Access.Enabled = tenant.Stopped, false }, func(r *tenant.Record) { r.Phase, r.Access.Enabled = tenant.Ready, true }},
		{"foreign network", "28P01", func(r *tenant.Record) { r.Access.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, func(r *tenant.Record) { r.Access.Networks = nil }},
		{"its own login is disabled", "28P01", func(r *tenant.Record) { r.Logins[0].Disabled = true }, func(r *tenant.Record) { r.Logins[0].Disabled = false }},
		{"removed", "28P01", func(r *tenant.Record) { r.Phase = tenant.Removed }, func(r *tenant.Record) { r.Phase = tenant.Ready }},
	} {
		idle, busy := login(), login()
		run(t, busy, "begin")
		run(t, busy, "insert into orders (note) values ('own of acme')")
		k.dir.change(id, x.keep)
		wantEnded(t, idle)
		refused(x.why, x.code)
		run(t, busy, "rollback") // it is let end
		wantEnded(t, busy)
		k.dir.change(id, x.undo)
	}
	for _, reason := range []string{"disabled_tenant", "suspended_tenant", "unknown_tenant", "foreign_network"} {
		if !strings.Contains(k.log.String(), "user=app@acme database=shop reason="+reason) {
			t.Errorf("the log has no refusal for %s", reason)
		}
	}
	idle := login()
	k.dir.change(id, func(r *tenant.Record) { r.Key = "07" })
	wantEnded(t, idle)
	_, err := k.app("acme")
	wantCode(t, "a key that is none", "28P01", err)
	k.dir.change(id, func(r *tenant.Record) { r.Key = "7" })
	// As for who logs in directly, no session ends by what follows.
	c := login()
	writes := func(code string) {
		t.Helper()
		for who, c := range map[string]*pgx.Conn{"insert into orders (note) values ('x')": c, "insert into orders values (7, 'x')": free} {
			if _, err := c.Exec(t.Context(), who); code != "" || err != nil {
				wantCode(t, who, code, err)
			}
		}
	}
	for _, on := range []bool{true, false, true} {
		k.dir.change(id, func(r *tenant.Record) { r.Access.Full = on })
		if !on {
			writes("")
			continue
		}
		writes("25006")
		for _, sql := range []string{"begin read write", "set default_transaction_read_only = off"} {
			_, err := c.Exec(t.Context(), sql)
			wantCode(t, sql, "25006", err)
		}
	}
	k.dir.change(id, func(r *tenant.Record) { r.Access.Full = false })
	role, secret := k.dir.ByID(id).Logins[0].Role, tenant.NewPassword()
	other := k.server.CreateDatabase(t, "create table orders (tenant_id bigint, note text)", "insert into orders values (7, 'moved')", fmt.Sprintf("grant all on orders to %q", role))
	k.server.Exec(t, "postgres", fmt.Sprintf("alter role %q password '%s'", role, secret))
	k.dir.change(id, func(r *tenant.Record) {
		r.Logins[0].Secret, r.Database = k.vault.Seal(r.ID, r.Logins[0].Field(), secret), other
	})
	for range 5 {
		if got := notes(t, c, "") + notes(t, free, "where tenant_id = 7"); got != "movedmoved" {
			t.Errorf("got %q", got)
		}
	}
	gone := func(why string) { // by its key, somebody of the shared tables is meant now
		t.Helper()
		_, err := k.app("acme")
		wantCode(t, why, "28P01", err)
		_, err = free.Exec(t.Context(), "set pgkennel.tenant = 'acme'")
		wantCode(t, why, "42501", err)
		if got := notes(t, free, "where tenant_id = 7"); got != "" {
			t.Errorf("%s: got %q", why, got)
		}
	}
	// Its name and key become another's, whose rows are others.
	k.dir.change(id, func(r *tenant.Record) { r.Name, r.Logins[0].Name, r.Key = "initech", "initech", "8" })
	wantEnded(t, c)
	gone("another name")
	run(t, free, "set pgkennel.tenant = 'initech'")
	if got := notes(t, free, ""); got != "moved" {
		t.Errorf("got %q", got)
	}
	run(t, free, "reset pgkennel.tenant")
	next := k.attached()
	c = login()
	if got := value(t, c, "select current_database()"); got != next.Database {
		t.Errorf("the new tenant is where the old one was")
	}
	// It takes the other's place at the server, as of a port that is used again: nobody gets in there with the old one's login.
	k.dir.change(id, func(r *tenant.Record) { r.Database = next.Database })
	k.server.Exec(t, next.Database, fmt.Sprintf("revoke connect on database %[1]q from public; grant connect on database %[1]q to %[2]q", next.Database, next.Logins[0].Role))
	_, err = k.as("app@initech", "shop", "app").Exec(t.Context(), "select 1")
	wantCode(t, "another's place", "08006", err)
	k.dir.remove(next.ID)
	wantEnded(t, c)
	gone("deleted")
	eventually(t, "the end of what served it", func() bool { return k.follower.made.Load() == 1 })
	k.virtual("acme", "7") // a virtual tenant under the old name and key
	if got := notes(t, k.as("app@acme", "shop", "app"), "") + notes(t, free, "where tenant_id = 7"); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestAttachedSleep: instances that are asleep are woken by statements, however their clients come.
func TestAttachedSleep(t *testing.T) {
	t.Parallel()
	s := &sleeper{let: make(chan error, 100)}
	k, _ := newCity(t, s.execute)
	s.k = k
	acme := k.attached()
	bound, free := k.as("app@acme", "shop", "app"), k.as("app", "shop", "app")
	time.Sleep(300 * time.Millisecond) // longer than an instance without clients is kept
	for n, wakes := range []func() error{
		func() error { _, err := oneValue(bound, "select note from orders limit 1"); return err },
		func() error { _, err := oneValue(free, "select note from orders where tenant_id = 7"); return err },
		func() error {
			c, err := k.app("acme")
			if err == nil {
				_, err = oneValue(c, "select note from orders limit 1")
				c.Close(context.Background())
			}
			return err
		},
	} {
		k.phase("acme", tenant.Asleep)
		done := later(wakes)
		eventually(t, "an order", func() bool { return s.orders.Load() == int64(n)+1 })
		pending(t, "a client of a tenant that is asleep", done)
		s.let <- nil
		if err := wait(t, "a client", done); err != nil {
			t.Error(err)
		}
		eventually(t, "the end of the order", func() bool { return k.follower.waking.Load() == 0 }) // else the next client waits for that
	}
	// A restart is waited for, a stop is not.
	k.dir.change(acme.ID, func(r *tenant.Record) { r.Operation = &tenant.Operation{Verb: provision.VerbRestart} })
	done := later(func() error { _, err := oneValue(bound, "select note from orders limit 1"); return err })
	in, _ := k.follower.open(k.dir.ByID(acme.ID))
	eventually(t, "the queue", func() bool { return in.gate.held(in.u)["(shop)"] == 1 })
	k.dir.change(acme.ID, func(r *tenant.Record) { r.Operation = nil })
	if err := wait(t, "a restart", done); err != nil {
		t.Error(err)
	}
	k.dir.change(acme.ID, func(r *tenant.Record) { r.Host, r.Endpoint = "far", tenant.Endpoint{Host: "/nowhere", Port: 5432} })
	_, err := k.app("acme")
	if e := wantCode(t, "a server that another host has", "57P03", err); strings.Contains(e.Error()+e.Detail+e.Hint, "far") {
		t.Errorf("got %+v", e)
	}
	_, err = free.Exec(t.Context(), "select * from orders where tenant_id = 7")
	wantCode(t, "a server that another host has", "57P03", err)
}

// TestReadOnlyVisits: who is nobody's may write, but takes no leave for that to a tenant that may only read.
func TestReadOnlyVisits(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	for _, id := range []string{k.attached().ID, k.virtual("two", "2")} {
		k.dir.change(id, func(r *tenant.Record) { r.Access.ReadOnly = true })
	}
	free := k.as("app", "shop", "app")
	run(t, free, "set default_transaction_read_only = off")
	start, err := k.try("app", "shop", "app", "default_transaction_read_only=off")
	if err != nil {
		t.Fatal(err)
	}
	defer start.Close(context.Background())
	for name, key := range map[string]string{"acme": "7", "two": "2"} {
		hint, insert := "/* pgkennel_tenant: "+name+" */ ", "insert into orders values ("+key+", 'x')"
		for _, sql := range []string{
			insert, hint + insert, hint + "begin read write", "begin read write; " + insert, "begin read write; " + hint + insert + "; commit", "begin; set transaction read write; " + insert,
			"begin; set local transaction_read_only = off; " + insert, "begin read write; set local app.current_tenant = '" + key + "'; " + insert,
			"begin; savepoint s; set transaction read write; rollback to s; " + insert,
		} {
			for who, c := range map[string]*pgx.Conn{"by SET": free, "by its start": start} {
				_, err := c.PgConn().Exec(t.Context(), sql).ReadAll() // as one message
				wantCode(t, who+": "+sql, "25006", err)
				run(t, c, "rollback")
				for part := range strings.SplitSeq(sql, "; ") { // one by one, prepared
					if _, err = c.Exec(t.Context(), part); err != nil {
						break
					}
				}
				wantCode(t, who+", one by one: "+sql, "25006", err)
				run(t, c, "rollback")
			}
		}
		var batch pgx.Batch
		batch.Queue("begin read write")
		batch.Queue(insert)
		err := free.SendBatch(t.Context(), &batch).Close()
		wantCode(t, "a pipeline", "25006", err)
		run(t, free, "rollback")
		run(t, free, "set pgkennel.tenant = '"+name+"'")
		_, err = free.Exec(t.Context(), "insert into orders (note) values ('x')")
		wantCode(t, "chosen", "25006", err)
		if got := notes(t, free, "where note = 'x'"); got != "" {
			t.Errorf("%s was written to", name)
		}
		run(t, free, "reset pgkennel.tenant")
	}
	run(t, free, "begin read write") // whom nothing keeps from it may write
	run(t, free, "insert into orders values (1, 'x')")
	run(t, free, "commit")
}
