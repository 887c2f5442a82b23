package pooler

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant"
)

// newCity is a kennel whose tenants share the tables of a database shop, in which an application's user may choose among them.
func newCity(t *testing.T, orders ...executor) (*kennel, string) {
	t.Helper()
	o := kennelOptions{unused: 100 * time.Millisecond, general: "client_login_timeout = 1500\nload_schema = \"on\""}
	if len(orders) > 0 {
		o.orders = orders[0]
	}
	k := newKennel(t, o)
	db := k.server.CreateDatabase(t, `create table orders (tenant_id bigint not null default nullif(current_setting('app.current_tenant', true), '')::bigint, note text)`,
		"insert into orders select t, 'of ' || t from generate_series(1, 5) t", "alter table orders enable row level security",
		"create policy mine on orders using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::bigint)")
	user := k.server.CreateUser(t, "app", "scram-sha-256")
	k.server.Exec(t, db, fmt.Sprintf("grant all on orders to %[1]q; grant create on schema public to %[1]q", user))
	k.write(kennelOptions{
		general: o.general, config: fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n[[databases]]\nname = \"shop\"\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = %q\n"+
			"[[tenants]]\nname = \"one\"\nkey = 1\n", k.server.Port, db),
		users: fmt.Sprintf("[[users]]\nname = \"app\"\ndatabase = \"shop\"\npassword = \"app\"\nserver_user = %[1]q\ntenant_switch = true\n"+
			"[[users]]\nname = \"keeper\"\ndatabase = \"shop\"\npassword = \"app\"\nserver_user = %[1]q\ntenant_switch = true\npooler_mode = \"session\"\n", user),
	})
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	return k, user
}

func (k *kennel) virtual(name, key string) string {
	r := &tenant.Record{
		ID: tenant.NewID(), Name: name, Key: key, Isolation: tenant.Row, Mode: tenant.Shared, Phase: tenant.Ready, Access: tenant.Access{Enabled: true},
		Cluster: "shop", Shard: -1,
	}
	k.dir.put(r)
	return r.ID
}

// itself gives a virtual tenant a login of its own.
func (k *kennel) itself(id string) {
	k.dir.change(id, func(r *tenant.Record) {
		r.Logins = []tenant.Login{{Name: r.Name, Role: r.Role, Verifier: verifier(k.t, password(r.Name))}}
	})
}

// TestVirtualTenantsThemselves: a tenant is a login.
func TestVirtualTenantsThemselves(t *testing.T) {
	t.Parallel()
	k, user := newCity(t)
	id := k.virtual("two", "2")
	k.itself(id)
	k.itself(k.virtual("three", "3"))
	login := func(user, database string) *pgx.Conn {
		t.Helper()
		c := k.as(user, database, password("two"))
		if got := value(t, c, "select string_agg(note, ',') from orders"); got != "of 2" {
			t.Errorf("%s to %s reads %q", user, database, got)
		}
		return c
	}
	for _, way := range [][2]string{{"two", "shop"}, {"two", "two"}, {"two", ""}, {"two@two", "shop"}, {"two@two", "two"}, {"two@two", ""}} {
		login(way[0], way[1])
	}
	c := login("two", "two")
	for _, sql := range []string{"set pgkennel.tenant = 'three'", "set app.current_tenant = '3'", "set role " + user, "select note from orders where tenant_id = 3"} {
		_, err := c.Exec(t.Context(), sql)
		wantCode(t, sql, "42501", err)
	}
	refused := func(why string) {
		t.Helper()
		for _, way := range [][2]string{{"two", "shop"}, {"two", "two"}, {"two@two", "shop"}} {
			_, err := k.try(way[0], way[1], password("two"))
			wantCode(t, why, "28P01", err)
		}
	}
	_, err := k.try("two", "shop", password("three"))
	wantCode(t, "another's password", "28P01", err)
	for _, way := range [][2]string{{"two", "three"}, {"two", "elsewhere"}, {"two@three", "shop"}, {"three@two", "shop"}, {"two", "admin"}, {"one", "shop"}} {
		_, err := k.try(way[0], way[1], password("two"))
		wantCode(t, "at odds", "28P01", err)
	}
	salt := k.salt("two", "shop")
	for _, name := range []string{"two", "nobody"} { // the salt tells not which of them there is
		first := k.salt(name, "shop")
		for _, way := range [][2]string{{"%", "%"}, {"%", ""}, {"%@%", "shop"}, {"%@%", ""}} {
			if k.salt(strings.ReplaceAll(way[0], "%", name), strings.ReplaceAll(way[1], "%", name)) != first {
				t.Errorf("%s, named as %v, has another salt", name, way)
			}
		}
		for _, way := range [][2]string{{"%", "admin"}, {"%", "three"}, {"%", "elsewhere"}, {"%@three", "shop"}, {"three@%", "shop"}} {
			if k.salt(strings.ReplaceAll(way[0], "%", name), strings.ReplaceAll(way[1], "%", name)) == first {
				t.Errorf("%s, named as %v, has the same salt", name, way)
			}
		}
	}
	change := func(f func(*tenant.Record)) {
		t.Helper()
		k.dir.change(id, f)
		if k.salt("two", "shop") != salt || k.salt("two", "two") != salt {
			t.Error("the salt tells that something changed")
		}
	}
	change(func(r *tenant.Record) { r.Access.Enabled = false })
	wantEnded(t, c)
	refused("disabled")
	change(func(r *tenant.Record) { r.Access.Enabled, r.Phase = true, tenant.OnHold })
	refused("suspended")
	change(func(r *tenant.Record) {
		r.Phase, r.Access.Networks = tenant.Ready, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	refused("elsewhere")
	change(func(r *tenant.Record) { r.Access.Networks, r.Logins[0].Disabled = nil, true })
	refused("login disabled")
	change(func(r *tenant.Record) { r.Logins[0].Disabled, r.Access.ReadOnly = false, true })
	c = login("two", "two")
	_, err = c.Exec(t.Context(), "insert into orders (note) values ('more')")
	wantCode(t, "read only", "25006", err)
	change(func(r *tenant.Record) { r.Access.ReadOnly = false })
	c = login("two", "two")
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	run(t, c, "select 1")
	change(func(r *tenant.Record) { r.Phase = tenant.Stopped })
	wantEnded(t, c)
	for _, way := range [][2]string{{"two", "two"}, {"two", "shop"}} {
		_, err = k.try(way[0], way[1], password("two"))
		wantCode(t, "stopped", "57P03", err)
		_, err = k.try(way[0], way[1], "wrong")
		wantCode(t, "stopped, by a stranger", "28P01", err)
	}
	_, err = k.app("two")
	wantCode(t, "stopped", "57P03", err)
	_, err = k.try("app@two", "shop", "wrong")
	wantCode(t, "stopped, by a stranger", "28P01", err)
	change(func(r *tenant.Record) { r.Access.Enabled = false })
	refused("stopped and disabled")
	_, err = k.app("two")
	wantCode(t, "stopped and disabled", "28P01", err)
	// Names of the configuration are its own.
	k.dir.change(id, func(r *tenant.Record) { r.Access.Enabled, r.Phase, r.Name = true, tenant.Ready, "app" })
	k.itself(id)
	free := k.as("app", "shop", "app")
	if _, err := free.Exec(t.Context(), "set pgkennel.tenant = 'three'"); err != nil {
		t.Errorf("the user of a tenant's name: %v", err)
	}
	_, err = k.try("app", "shop", password("app"))
	wantCode(t, "the tenant of a user's name", "28P01", err)
}

// TestTenantsWithoutUsers: in a cluster that no user of the configuration has, tenants' logins wait for nobody, and one of them reads the schema; when that one is
// gone, or keeps it from being read, another does.
func TestTenantsWithoutUsers(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	db := k.server.CreateDatabase(t, "create table orders (tenant_id bigint not null default nullif(current_setting('app.current_tenant', true), '')::bigint, note text)",
		"insert into orders select t, 'of ' || t from generate_series(1, 5) t", "alter table orders enable row level security",
		"create policy mine on orders using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::bigint)")
	k.write(kennelOptions{general: "load_schema = \"on\"", config: fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\n"+
		"[[databases]]\nname = \"shop\"\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = %q\n", k.server.Port, db)})
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	roles := make(map[string]string)
	for name, key := range map[string]string{"two": "2", "three": "3"} {
		role := k.server.CreateUser(t, "x", "trust")
		k.server.Exec(t, db, fmt.Sprintf("revoke pg_read_all_data, pg_write_all_data from %q; grant select on orders to %[1]q", role))
		id := k.virtual(name, key)
		k.dir.change(id, func(r *tenant.Record) { r.Mode, r.Role = tenant.Strict, role })
		k.itself(id)
		roles[name] = role
	}
	login := func(name string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a checkout may take 30
		defer cancel()
		c, err := pgx.Connect(ctx, pgtest.DSN(k.addr(), "shop", name, password(name)))
		if err != nil {
			t.Fatalf("%s: %v; log:\n%s", name, err, k.log)
		}
		defer c.Close(t.Context())
		if got, want := value(t, c, "select string_agg(note, ',') from orders"), map[string]string{"two": "of 2", "three": "of 3"}[name]; got != want {
			t.Errorf("%s reads %q", name, got)
		}
	}
	u := k.state.Load().units["shop"]
	knows := func(table string) func() bool {
		return func() bool { s := u.cl.Schema(); return s != nil && s.Lookup("public", table, nil) != nil }
	}
	login("two")
	eventually(t, "the schema", knows("orders"))
	// Whoever reads can't any more: by what it may set for itself, because it has all the connections it may have, and because it may not log in.
	readers := []string{"two", "three"}
	for i, x := range [][2]string{{"set statement_timeout = 1", "reset statement_timeout"}, {"connection limit 0", "connection limit -1"}, {"nologin", "login"}} {
		role, other := roles[readers[i%2]], readers[(i+1)%2]
		k.server.Exec(t, db, fmt.Sprintf("alter role %q %s", role, x[0]))
		table := fmt.Sprint("later", i)
		k.server.Exec(t, db, "create table "+table+" (id int)")
		eventually(t, "a reader that is let in", func() bool {
			login(other)
			<-u.cl.RefreshSchema("test")
			return knows(table)()
		})
		k.server.Exec(t, db, fmt.Sprintf("alter role %q %s", role, x[1]))
	}
}

func (k *kennel) app(tenant string) (*pgx.Conn, error) {
	return k.try("app@"+tenant, "shop", "app")
}

func TestVirtualTenantsOfTheDirectory(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	id := k.virtual("two", "2")
	k.virtual("three", "3")
	login := func(name, want string) *pgx.Conn {
		t.Helper()
		c, err := k.app(name)
		if err != nil {
			t.Fatalf("%s: %v; log:\n%s", name, err, k.log)
		}
		t.Cleanup(func() { c.Close(t.Context()) })
		if got := value(t, c, "select string_agg(note, ',') from orders"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		return c
	}
	login("one", "of 1")
	c := login("two", "of 2")
	three := login("three", "of 3")
	free := k.as("app", "shop", "app")
	choose := func(name, want string) {
		t.Helper()
		run(t, free, fmt.Sprintf("set pgkennel.tenant = '%s'", name))
		if got := value(t, free, "select string_agg(note, ',') from orders"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		run(t, free, "set pgkennel.tenant = ''")
	}
	choose("two", "of 2")
	choose("one", "of 1")
	refused := func(why string) {
		t.Helper()
		_, err := k.app("two")
		wantCode(t, why, "28P01", err)
		_, err = free.Exec(t.Context(), "set pgkennel.tenant = 'two'")
		wantCode(t, why, "42501", err)
		_, err = free.Exec(t.Context(), "select * from orders where tenant_id = 2")
		wantCode(t, why, "42501", err)
	}
	k.dir.change(id, func(r *tenant.Record) { r.Access.Enabled = false })
	wantEnded(t, c)
	refused("disabled")
	k.dir.change(id, func(r *tenant.Record) { r.Access.Enabled, r.Phase = true, tenant.OnHold })
	refused("suspended")
	k.dir.change(id, func(r *tenant.Record) { r.Phase = tenant.Ready })
	c = login("two", "of 2")
	k.dir.change(id, func(r *tenant.Record) { r.Access.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	wantEnded(t, c)
	refused("elsewhere")
	k.dir.change(id, func(r *tenant.Record) { r.Access.Networks = nil })
	run(t, login("two", "of 2"), "insert into orders (note) values ('more')")
	k.dir.change(id, func(r *tenant.Record) { r.Access.ReadOnly = true })
	c = login("two", "of 2,more")
	for _, sql := range []string{"insert into orders (note) values ('more')", "begin read write", "set default_transaction_read_only = off"} {
		_, err := c.Exec(t.Context(), sql)
		wantCode(t, sql, "25006", err)
	}
	run(t, three, "insert into orders (note) values ('more')")
	k.dir.change(id, func(r *tenant.Record) { r.Access.ReadOnly = false })
	c = login("two", "of 2,more")
	run(t, c, "insert into orders (note) values ('again')")
	k.dir.change(id, func(r *tenant.Record) { r.Name = "second" })
	wantEnded(t, c)
	_, err := k.app("two")
	wantCode(t, "the old name", "28P01", err)
	login("second", "of 2,more,again")
	k.dir.remove(id)
	_, err = k.app("second")
	wantCode(t, "a deleted tenant", "28P01", err)
	con := k.console()
	con.one("SHOW TENANTS", "tenant", "three", "database", "shop", "isolation", "row", "phase", "ready", "access", "on")
	con.one("SHOW TENANTS", "tenant", "one", "database", "shop", "phase", "∅")
}

// TestNewKindOfTenants: the first tenant of a kind changes what servers are asked about logins.
func TestNewKindOfTenants(t *testing.T) {
	t.Parallel()
	k, user := newCity(t)
	epoch := k.state.Load().epoch
	k.virtual("two", "2")
	if now := k.state.Load().epoch; now != epoch+1 {
		t.Errorf("the configuration was put in force %d times", now-epoch)
	}
	k.tenant("shop") // at odds with the configuration, which keeps no other tenant from being served
	schema := "t_" + tenant.NewID()
	db := k.state.Load().cfg.Cluster("shop").Shards[0][0].DatabaseName
	k.server.Exec(t, db, fmt.Sprintf("create schema %[1]s; create table %[1]s.things (note text); insert into %[1]s.things values ('own'); create role %[1]s nologin; grant usage on schema %[1]s to %[1]s; grant select on %[1]s.things to %[1]s; grant %[1]s to %[2]q", schema, user))
	t.Cleanup(func() { k.server.Exec(t, db, fmt.Sprintf("drop schema %[1]s cascade; drop role %[1]s", schema)) })
	k.dir.put(&tenant.Record{
		ID: schema[2:], Name: "four", Isolation: tenant.Schema, Mode: tenant.Shared, Phase: tenant.Ready, Access: tenant.Access{Enabled: true},
		Cluster: "shop", Shard: -1, Schema: schema, Role: schema,
	})
	c, err := k.app("four")
	if err != nil {
		t.Fatalf("%v; log:\n%s", err, k.log)
	}
	defer c.Close(t.Context())
	if got := value(t, c, "select note from things"); got != "own" {
		t.Errorf("got %q", got)
	}
	two, err := k.app("two")
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close(t.Context())
	_, err = two.Exec(t.Context(), "select note from "+schema+".things")
	wantCode(t, "another's schema", "42501", err)
	k.virtual("five", "5")
	if now := k.state.Load().epoch; now != epoch+2 {
		t.Errorf("the configuration was put in force %d times", now-epoch)
	}
}
