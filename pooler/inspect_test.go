package pooler

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

func TestMappings(t *testing.T) {
	t.Parallel()
	c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: `
[[databases]]
name = "shop"
host = "a"
[[databases]]
name = "shop"
host = "b"
shard = 1
[[sharded_tables]]
database = "shop"
schema = "public"
name = "orders"
column = "tenant_id"
data_type = "bigint"
[[sharded_tables.mapping]]
values = [7, 3]
shard = 1
[[sharded_tables.mapping]]
start = 10
end = 20
shard = 0
[[sharded_tables.mapping]]
start = 20
shard = 1
[[sharded_tables.mapping]]
shard = 0
[[sharded_tables]]
database = "shop"
column = "key"
data_type = "uuid"
[[sharded_tables.mapping]]
values = ["00000000-0000-0000-0000-0000000000ff"]
shard = 0
[[sharded_tables]]
database = "shop"
name = "codes"
column = "code"
data_type = "varchar"
[[sharded_tables.mapping]]
values = ["x"]
shard = 1
[[sharded_tables]]
database = "shop"
name = "hashed"
column = "id"
data_type = "bigint"
`}, config.File{Name: "users.toml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &Pooler{}
	p.state.Store(&snapshot{cfg: c})
	var got []string
	rows, total := inspector{p}.Mappings(100)
	text := func(s *string) string {
		if s == nil {
			return "∅"
		}
		return *s
	}
	for _, r := range rows {
		got = append(got, fmt.Sprint(r.Schema, ".", r.Table, ".", r.Column, " ", r.DataType, " ", r.Kind, " ", text(r.Value), " ", text(r.RangeStart), " ", text(r.RangeEnd), " ", r.Shard))
	}
	want := []string{
		"public.orders.tenant_id bigint list 3 ∅ ∅ 1",
		"public.orders.tenant_id bigint list 7 ∅ ∅ 1",
		"public.orders.tenant_id bigint range ∅ 10 20 0",
		"public.orders.tenant_id bigint range ∅ 20 ∅ 1",
		"public.orders.tenant_id bigint default ∅ ∅ ∅ 0",
		"..key uuid list 00000000-0000-0000-0000-0000000000ff ∅ ∅ 0",
		".codes.code varchar list x ∅ ∅ 1",
		".hashed.id bigint hash ∅ ∅ ∅ -1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
	if total != len(want) {
		t.Errorf("got a total of %d, want %d", total, len(want))
	}
	for limit := 1; limit < len(want); limit++ {
		some, n := inspector{p}.Mappings(limit)
		if len(some) != limit || n != total || !cmp.Equal(some, rows[:limit]) {
			t.Errorf("limit %d: got %d rows of %d", limit, len(some), n)
		}
	}
	// Six bigints and two values, a uuid, and a text of one byte; each twice.
	if got := mappingBytes(c); got < 2*(4*8+16+16) || got > 400 {
		t.Errorf("mappings weigh %d bytes", got)
	}
}

func TestUnixSocketClients(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pgk") // shorter than the test's own, as sockets want it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := newHouse(t, extra{general: fmt.Sprintf("unix_socket_dir = %q", dir)})
	c, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=admin", dir, port(h.addr()), operator, operatorSecret))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	local := &console{t, c}
	r := local.one("SHOW CLIENTS", "addr", "unix")
	if r["remote_pid"] != fmt.Sprint(os.Getpid()) || r["local_port"] != port(h.addr()) {
		t.Errorf("got %v, want pid %d and port %s", r, os.Getpid(), port(h.addr()))
	}
}

func TestEncryptedClients(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	cert, key := ca.Issue("pooler", "localhost", "127.0.0.1")
	h := newHouse(t, extra{general: fmt.Sprintf("tls_certificate = %q\ntls_private_key = %q", cert, key)})
	c, err := pgx.Connect(t.Context(), h.dsn("admin", "sslmode=verify-full", "sslrootcert="+ca.File))
	if err != nil {
		t.Fatalf("%v; log:\n%s", err, h.log)
	}
	defer c.Close(context.Background())
	if r := (&console{t, c}).one("SHOW CLIENTS"); !strings.HasPrefix(r["tls"], "TLSv1.3/TLS_") {
		t.Errorf("got tls %q", r["tls"])
	}
}

// Two users whose connections log in as one role: their pools share labels, and both are counted.
func TestUsersOfOneRole(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	alias := func(name string) string {
		return fmt.Sprintf("[[users]]\nname = %q\ndatabase = \"shop\"\npassword = \"p\"\nserver_user = %q\nserver_password = %q\npool_size = 1\n", name, h.user, h.secret)
	}
	h.write(extra{users: alias("ann") + alias("ben")})
	boss := h.console()
	boss.do("RELOAD")
	for _, user := range []string{"ann", "ben", "ben"} {
		c, err := pgx.Connect(t.Context(), pgtest.DSN(h.addr(), "shop", user, "p"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		run(t, c, "select 1")
	}
	for user, clients := range map[string]string{"ann": "1", "ben": "2", h.user: "0"} {
		p := boss.one("SHOW POOLS", "database", "shop", "user", user)
		if p["cl_active"] != clients {
			t.Errorf("SHOW POOLS: %s has %s clients, want %s", user, p["cl_active"], clients)
		}
		if sp := boss.one("SHOW SHARD_POOLS", "user", user); sp["login"] != h.user {
			t.Errorf("SHOW SHARD_POOLS: got %v", sp)
		}
		if u := boss.one("SHOW USERS", "name", user); u["current_client_connections"] != clients {
			t.Errorf("SHOW USERS: got %v, want %s clients", u, clients)
		}
	}
	if u := boss.one("SHOW USERS", "name", "ann"); u["pool_size"] != "1" {
		t.Errorf("SHOW USERS: got %v", u)
	}
	if d := boss.one("SHOW DATABASES"); d["force_user"] != h.user {
		t.Errorf("SHOW DATABASES: got %v, want all to log in as %s", d, h.user)
	}
	labels := fmt.Sprintf(`{cluster="shop",endpoint="127.0.0.1:%s",role="primary",shard="0",user=%q}`, port(h.server.Addr()), h.user)
	if got := h.metric("pgkennel_pool_backends_max" + labels); got != "4" { // 1 + 1 + 2
		t.Errorf("got a maximum of %s, want that of all three pools", got)
	}
	if got := h.metric("pgkennel_pool_checkouts_total" + labels); got == "0" || got == "1" {
		t.Errorf("got %s checkouts, want those of all pools", got)
	}
	before := boss.one("SHOW STATS", "database", "shop")["total_server_assignment_count"]
	h.write(extra{})
	boss.do("RELOAD") // two pools go
	if after := boss.one("SHOW STATS", "database", "shop")["total_server_assignment_count"]; after != before {
		t.Errorf("got %s assignments after two pools are gone, want %s", after, before)
	}
}

// What a statement is counted with costs no memory.
func TestCountingAllocatesNothing(t *testing.T) {
	h := newHouse(t, extra{})
	a, _ := h.account(tenant.Asked{User: h.user, Database: "shop"})
	o := observer{h.Pooler}
	statement := func() {
		u := session.UnitCounts{Parses: 1, Binds: 1, Received: 100, Sent: 200, Answered: true, Nanos: 1000, Transaction: true, TxNanos: 1000}
		u.Routes[session.RouteShard] = 1
		o.Unit(a, &u)
		o.Error(a, "23505", true)
	}
	n := testing.AllocsPerRun(100, statement)
	for range 9 { // what else the process does meanwhile counts, too: a statement that allocates does so each time
		n = min(n, testing.AllocsPerRun(100, statement))
	}
	if n != 0 {
		t.Errorf("got %v allocations a statement, want none", n)
	}
}

func TestReloadCountsNewShards(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss := h.console()
	h.write(extra{
		config: fmt.Sprintf("shard = 0\n[[databases]]\nname = \"shop\"\nhost = \"127.0.0.1\"\nport = %s\ndatabase_name = \"postgres\"\nshard = 1\n", port(h.server.Addr())),
	})
	boss.do("RELOAD")
	app := h.connect("shop")
	run(t, app, "/* pgdog_shard: 1 */ select 1")
	if got := h.metric(`pgkennel_session_statement_seconds_count{cluster="shop",shard="1"}`); got == "0" {
		t.Error("statements on the new shard are not counted")
	}
	if got := h.metric(`pgkennel_router_plans_total{cluster="shop",kind="shard"}`); got == "0" {
		t.Error("the hint is not counted")
	}
	if l := boss.one("SHOW LISTS", "list", "shards"); l["items"] != "2" {
		t.Errorf("SHOW LISTS: got %v", l)
	}
	if len(boss.show("SHOW SHARDS")) != 2 {
		t.Errorf("SHOW SHARDS: got %v", boss.show("SHOW SHARDS"))
	}
	var i admin.Inspector = inspector{h.Pooler}
	if got := i.Lists().Endpoints; got != 2 {
		t.Errorf("got %d endpoints", got)
	}
}
