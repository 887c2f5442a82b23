package pooler

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant"
)

const readsReplica = "pgdog.role=replica"

// replicated is a tenant acme with two replicas, which are one server: its rows say that they are read there.
func (k *kennel) replicated() (*tenant.Record, *pgtest.Instance) {
	k.t.Helper()
	r := k.tenant("acme", "bi")
	there := pgtest.Start(k.t, pgtest.Auth("scram-sha-256"))
	there.Exec(k.t, "postgres", fmt.Sprintf("create database %q", r.Database))
	there.Exec(k.t, r.Database, "create table items as select 1 as id, 'replica' as name")
	for i := range r.Logins {
		secret, err := k.vault.Open(r.ID, r.Logins[i].Field(), r.Logins[i].Secret)
		if err != nil {
			k.t.Fatal(err)
		}
		there.Exec(k.t, r.Database, fmt.Sprintf("create role %q login password '%s'; grant all on items to %[1]q", r.Logins[i].Role, secret))
	}
	there.Standby(k.t)
	return r, there
}

// TestPromotion: sessions at a replica that is made a primary end, the idle ones too, and none of them has written there.
func TestPromotion(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	acme, there := k.replicated()
	at := tenant.Endpoint{Host: "127.0.0.1", Port: there.Port}
	k.dir.change(acme.ID, func(r *tenant.Record) { r.Replicas = []tenant.Replica{{ID: "one", Host: "here", Endpoint: at}} })
	reads := func() *pgx.Conn {
		t.Helper()
		c, err := k.try("acme", "acme", password("acme"), readsReplica)
		if err != nil {
			t.Fatalf("%v; log:\n%s", err, k.log)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		value(t, c, "select name from items")
		return c
	}
	idle, busy, own := reads(), reads(), k.owner("acme")
	run(t, busy, "begin")
	value(t, busy, "select name from items")
	there.Exec(t, "postgres", "select pg_promote()")
	if got := value(t, busy, "select pg_is_in_recovery()::text"); got != "false" {
		t.Fatalf("it was not promoted: %s", got)
	}
	_, err := busy.Exec(t.Context(), "commit")
	if err == nil {
		_, err = busy.Exec(t.Context(), "insert into items values (2, 'x')")
	}
	if e := wantCode(t, "a session in a transaction", "57P01", err); !strings.Contains(e.Hint, "pgdog.role") {
		t.Errorf("got %+v", e)
	}
	wantEnded(t, idle)
	run(t, own, "insert into items values (2, 'x')")
	if got := there.Query(t, acme.Database, "select count(*) from items"); got[0] != "1" {
		t.Errorf("rows where it was promoted: %v", got)
	}
	// It was the only one, and is none.
	_, err = k.try("acme", "acme", password("acme"), readsReplica)
	wantCode(t, "a session at what was promoted", "57P03", err)
}

// TestReplicas: a session that wants so is at a replica of its tenant, is kept out as it is from the tenant itself, and is never anywhere else.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := &sleeper{let: make(chan error, 10)}
	k, _ := newCity(t, s.execute)
	s.k = k
	acme, there := k.replicated()
	at := tenant.Endpoint{Host: "127.0.0.1", Port: there.Port}
	change := func(f func(*tenant.Record)) { k.dir.change(acme.ID, f) }
	reads := func(user, login string, params ...string) *pgx.Conn {
		t.Helper()
		c, err := k.try(user, "acme", password(login), append(params, readsReplica)...)
		if err != nil {
			t.Fatalf("%v; log:\n%s", err, k.log)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		if got := value(t, c, "select name || current_setting('transaction_read_only') from items"); got != "replicaon" {
			t.Fatalf("got %q", got)
		}
		return c
	}
	refused := func(what, code string) {
		t.Helper()
		_, err := k.try("acme", "acme", password("acme"), readsReplica)
		if e := wantCode(t, what, code, err); code != "28P01" && e.Hint == "" {
			t.Errorf("%s: no hint in %+v", what, e)
		}
	}
	refused("no replica", "57P03")
	change(func(r *tenant.Record) { r.Replicas = []tenant.Replica{{ID: "one", Host: "here"}} })
	refused("one that is being made", "57P03")
	change(func(r *tenant.Record) {
		r.Replicas = []tenant.Replica{{ID: "far", Host: "far", Endpoint: at}, {ID: "one", Host: "here", Endpoint: at}, {ID: "two", Host: "here", Endpoint: at}}
	})

	first, bi := reads("acme", "acme"), reads("bi@acme", "bi", "pgkennel.tenant=acme")
	if got := first.PgConn().ParameterStatus("in_hot_standby"); got != "on" {
		t.Errorf("in_hot_standby is %q", got)
	}
	_, err := first.Exec(t.Context(), "insert into items values (2, 'x')")
	wantCode(t, "a write", "25006", err)
	_, err = first.Exec(t.Context(), "set pgdog.role = 'primary'")
	if e := wantCode(t, "SET", "55P02", err); e.Hint == "" {
		t.Errorf("got %+v", e)
	}
	run(t, first, "discard all")
	own := k.owner("acme")
	for c, want := range map[*pgx.Conn]string{first: "replica", own: "primary"} {
		if got := value(t, c, "show pgdog.role"); got != want {
			t.Errorf("SHOW: got %q, want %q", got, want)
		}
	}
	if got := value(t, own, "select name from items") + own.PgConn().ParameterStatus("in_hot_standby"); got != "acmeoff" {
		t.Errorf("got %q", got)
	}
	option := pgtest.Dial(t, k.addr())
	defer option.Close()
	if err := option.Login(pgtest.Login{User: "acme", Database: "acme", Password: password("acme"), Params: map[string]string{"options": "-c pgdog.role=replica"}}); err != nil {
		t.Fatal(err)
	}
	if got := option.Answer("select name from items"); !strings.Contains(got, "replica") {
		t.Errorf("by options: got %s", got)
	}
	in, _ := k.follower.open(k.dir.ByID(acme.ID))
	if n := [...]int{in.now.Load().replicas["one"].u.clients(), in.now.Load().replicas["two"].u.clients(), in.now.Load().replicas["far"].u.clients()}; n != [...]int{2, 1, 0} {
		t.Errorf("clients at replicas: %v", n)
	}
	if n := k.Clients(acme.ID); n != 4 {
		t.Errorf("%d clients of the tenant, want 4", n)
	}
	con := k.console()
	con.one("SHOW SHARD_POOLS", "database", "acme", "user", "bi", "role", "replica", "port", fmt.Sprint(at.Port), "sv_idle", "1")
	con.one("SHOW SERVERS", "database", "acme", "role", "primary")

	// What ends a replica ends its sessions, and no others.
	change(func(r *tenant.Record) { r.Replicas[2].Endpoint = tenant.Endpoint{} })
	wantEnded(t, bi)
	run(t, first, "select 1")
	run(t, own, "select 1")
	bi = reads("bi@acme", "bi")
	change(func(r *tenant.Record) { r.Logins[1].Disabled = true })
	wantEnded(t, bi)
	for what, f := range map[string]func(*tenant.Record){
		"access": func(r *tenant.Record) { r.Access.Enabled = false },
		"hold":   func(r *tenant.Record) { r.Phase = tenant.OnHold },
		"net":    func(r *tenant.Record) { r.Access.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	} {
		was := k.dir.ByID(acme.ID)
		c := reads("acme", "acme")
		change(f)
		wantEnded(t, c)
		refused(what, "28P01")
		k.dir.put(was)
	}
	first = reads("acme", "acme")
	change(func(r *tenant.Record) { r.Phase = tenant.Stopped })
	wantEnded(t, first)
	refused("stopped", "57P03")
	change(func(r *tenant.Record) { r.Phase = tenant.Ready })
	first = reads("acme", "acme")
	k.phase("acme", tenant.Asleep)
	done := later(func() error { _, err := oneValue(first, "select name from items where name = 'replica'"); return err })
	eventually(t, "the queue", func() bool { return in.gate.held(in.now.Load().replicas["one"].u)["acme"] == 1 })
	s.let <- nil
	if err := wait(t, "a statement at a replica that sleeps", done); err != nil {
		t.Error(err)
	}
	// A replica that was made a primary is none.
	change(func(r *tenant.Record) { r.Replicas = []tenant.Replica{{ID: "new", Host: "here", Endpoint: r.Endpoint}} })
	wantEnded(t, first)
	if c, err := k.try("acme", "acme", password("acme"), readsReplica); err == nil {
		t.Errorf("reads at a primary: %s", value(t, c, "select name from items"))
	}
	k.dir.remove(acme.ID)
	refused("removed", "28P01")

	// Who can't have one is told so, and only who may log in.
	k.itself(k.virtual("two", "2"))
	k.attached()
	for _, x := range [][4]string{
		{"two", "shop", password("two"), "0A000"},
		{"app", "shop", "app", "0A000"},
		{"app@acme", "shop", "app", "0A000"},
		{operator, "admin", operatorSecret, "0A000"},
		{"two", "shop", "wrong", "28P01"},
		{"app", "shop", "wrong", "28P01"},
	} {
		_, err := k.try(x[0], x[1], x[2], readsReplica)
		wantCode(t, x[0], x[3], err)
	}
	_, err = k.try("app", "shop", "app", "pgdog.role=any")
	wantCode(t, "another role", "22023", err)
	c, err := k.try("app", "shop", "app", "pgdog.role=primary")
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
}
