package pooler

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Every view that SHOW HELP names answers psql and pgx, in both protocols.
func TestEveryView(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	run(t, h.connect("shop"), "select 1")
	admin := h.console()
	seen := 0
	for _, r := range admin.show("SHOW HELP") {
		view, ok := strings.CutPrefix(r["command"], "SHOW ")
		if !ok {
			continue
		}
		seen++
		sql := "SHOW " + view
		simple := admin.show(sql)
		rows, err := admin.c.Query(t.Context(), sql) // extended, binary where pgx can
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		n := 0
		for rows.Next() {
			if _, err := rows.Values(); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
			n++
		}
		if rows.Err() != nil {
			t.Errorf("%s: %v", sql, rows.Err())
		}
		if n != len(simple) && view != "PREPARED" {
			t.Errorf("%s: got %d rows by the extended protocol, %d by the simple one", sql, n, len(simple))
		}
		if out := h.psql("-c", sql); (out == "") != (len(simple) == 0) {
			t.Errorf("%s: psql got %q, pgx %v", sql, out, simple)
		}
	}
	if seen < 20 {
		t.Errorf("got %d views, want all of them", seen)
	}
}

func TestShowConnections(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	admin := h.console()
	app := h.connect("shop", "application_name=till")
	run(t, app, "select 1")
	admin.until("SHOW CLIENTS", "application_name", "till", "state", "idle", "link", "")

	run(t, app, "begin")
	run(t, app, "insert into items values (1, 'x')")
	c := admin.one("SHOW CLIENTS", "application_name", "till")
	for key, want := range map[string]string{
		"type": "C", "user": h.user, "database": "shop", "state": "active", "addr": "127.0.0.1", "shard": "0", "close_needed": "0",
		"local_port": port(h.addr()), "tls": "", "protocol": "3.0", "errors": "0", "transactions": "1", "queries": "3",
	} {
		if c[key] != want {
			t.Errorf("SHOW CLIENTS: %s is %q, want %q", key, c[key], want)
		}
	}
	s := admin.one("SHOW SERVERS", "link", c["ptr"])
	for key, want := range map[string]string{
		"type": "S", "user": h.user, "database": "shop", "state": "active", "port": port(h.server.Addr()), "ptr": c["link"],
		"login": h.user, "server_database": h.db, "role": "primary", "shard": "0", "application_name": "till",
	} {
		if s[key] != want {
			t.Errorf("SHOW SERVERS: %s is %q, want %q", key, s[key], want)
		}
	}
	// It is by TCP if it is the pool's first one, else by the server's socket.
	if got := h.server.Query(t, h.db, "select coalesce(host(client_addr), 'unix') from pg_stat_activity where pid = "+s["remote_pid"]); len(got) != 1 || got[0] != s["addr"] {
		t.Errorf("of the backend with pid %s the server says %q, and we %q", s["remote_pid"], got, s["addr"])
	}
	if s["bytes_sent"] == "0" || s["bytes_received"] == "0" || s["request_time"] == "∅" {
		t.Errorf("SHOW SERVERS: got no traffic in %v", s)
	}
	p := admin.one("SHOW POOLS", "database", "shop", "user", h.user)
	for key, want := range map[string]string{"cl_active": "1", "cl_waiting": "0", "sv_active": "1", "pool_mode": "transaction", "pool_size": "2", "healthy": "1"} {
		if p[key] != want {
			t.Errorf("SHOW POOLS: %s is %q, want %q", key, p[key], want)
		}
	}
	if p := admin.one("SHOW POOLS", "database", "admin"); p["user"] != operator || p["cl_active"] != "1" {
		t.Errorf("SHOW POOLS: got %v of the operators", p)
	}
	sp := admin.one("SHOW SHARD_POOLS")
	if sp["login"] != h.user || sp["host"] != "127.0.0.1" || sp["port"] != port(h.server.Addr()) || sp["sv_active"] != "1" {
		t.Errorf("SHOW SHARD_POOLS: got %v", sp)
	}
	run(t, app, "commit")
	if me := admin.one("SHOW CLIENTS", "database", "admin"); me["state"] != "active" || me["user"] != operator {
		t.Errorf("SHOW CLIENTS: the operator is %v", me)
	}
	l := admin.one("SHOW LISTS", "list", "used_clients")
	if l["items"] != "2" || admin.one("SHOW LISTS", "list", "login_clients")["items"] != "0" {
		t.Errorf("SHOW LISTS: got %v", admin.show("SHOW LISTS"))
	}
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

func TestShowTopology(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	admin := h.console()
	run(t, h.connect("shop"), "select 1")
	d := admin.one("SHOW DATABASES")
	for key, want := range map[string]string{
		"name": "shop", "host": "127.0.0.1", "port": port(h.server.Addr()), "database": h.db, "pool_size": "2", "paused": "0", "disabled": "0",
		"current_connections": "1", "current_client_connections": "1", "force_user": "∅", "role": "primary", "shard": "0",
	} {
		if d[key] != want {
			t.Errorf("SHOW DATABASES: %s is %q, want %q", key, d[key], want)
		}
	}
	admin.until("SHOW SHARDS", "database", "shop", "healthy", "1", "last_error", "∅", "server_database", h.db)
	if s := admin.one("SHOW SHARDS"); !strings.HasPrefix(s["server_version"], "1") {
		t.Errorf("SHOW SHARDS: got %v", s)
	}
	u := admin.one("SHOW USERS", "name", h.user)
	if u["databases"] != "shop" || u["console"] != "∅" || u["current_client_connections"] != "1" || u["pool_mode"] != "transaction" {
		t.Errorf("SHOW USERS: got %v", u)
	}
	if u := admin.one("SHOW USERS", "name", operator); u["console"] != "admin" || u["databases"] != "admin" {
		t.Errorf("SHOW USERS: got %v", u)
	}
	if c := admin.one("SHOW CONFIG", "key", "general.default_pool_size"); c["value"] != "2" || c["default"] != "10" || c["changeable"] != "yes" {
		t.Errorf("SHOW CONFIG: got %v", c)
	}
	for _, r := range admin.show("SHOW CONFIG") {
		for _, v := range r {
			if strings.Contains(v, operatorSecret) || strings.Contains(v, h.secret) {
				t.Errorf("SHOW CONFIG shows a secret: %v", r)
			}
		}
	}
	if v := admin.one("SHOW VERSION"); v["version"] != "pgkennel 1.2.3" {
		t.Errorf("SHOW VERSION: got %v", v)
	}
	if s := admin.one("SHOW STATE", "key", "config_epoch"); s["value"] != "1" {
		t.Errorf("SHOW STATE: got %v", s)
	}
	// What the client was told at its login, and what it gets when it asks, are the same.
	if got, want := admin.one("SHOW server_version")["server_version"], admin.c.PgConn().ParameterStatus("server_version"); got != want {
		t.Errorf("server_version: got %q, told %q", got, want)
	}
}

func TestShowTraffic(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	admin := h.console()
	app := h.connect("shop")
	const n = 5
	for range n { // prepared once: Parse, Describe; then Bind, Execute
		run(t, app, "select $1::text", "x")
	}
	run(t, app, "begin")
	run(t, app, "rollback")
	s := admin.one("SHOW STATS", "database", "shop")
	for key, want := range map[string]string{
		"total_query_count": "7", "total_xact_count": "7", "total_client_parse_count": "1", "total_bind_count": "5", "total_error_count": "0",
	} {
		if s[key] != want {
			t.Errorf("SHOW STATS: %s is %q, want %q", key, s[key], want)
		}
	}
	for _, key := range []string{"total_received", "total_sent", "total_query_time", "total_xact_time", "total_server_assignment_count", "total_server_parse_count"} {
		if s[key] == "0" {
			t.Errorf("SHOW STATS: %s is 0", key)
		}
	}
	p := admin.one("SHOW PREPARED", "statement", "select $1::text")
	if p["used_by"] != "1" || !strings.HasPrefix(p["name"], "pgkennel_") {
		t.Errorf("SHOW PREPARED: got %v", p)
	}
	q := admin.one("SHOW QUERY_CACHE")
	if q["misses"] == "0" || q["entries"] == "0" || q["memory_max"] == "0" {
		t.Errorf("SHOW QUERY_CACHE: got %v", q)
	}
	for _, name := range []string{"parse_cache", "heap", "process"} {
		if m := admin.one("SHOW MEM", "name", name); m["used"] == "0" || m["memtotal"] == "0" {
			t.Errorf("SHOW MEM: got %v", m)
		}
	}

	for series, want := range map[string]string{
		`pgkennel_session_clients{cluster="shop"}`:                           "1",
		`pgkennel_session_connects_total{cluster="shop"}`:                    "1",
		`pgkennel_session_queries_total{cluster="shop"}`:                     "7",
		`pgkennel_session_parses_total{cluster="shop"}`:                      "1",
		`pgkennel_session_binds_total{cluster="shop"}`:                       "5",
		`pgkennel_session_prepared_statements`:                               "1",
		`pgkennel_router_plans_total{cluster="shop",kind="local"}`:           "2",
		`pgkennel_router_plans_total{cluster="shop",kind="direct"}`:          "5",
		`pgkennel_session_statement_seconds_count{cluster="shop",shard="0"}`: "6",
		`pgkennel_session_closes_total{cluster="shop",reason="client"}`:      "0",
	} {
		if got := h.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	app.Close(t.Context())
	admin.until("SHOW LISTS", "list", "used_clients", "items", "1")
	if got := h.metric(`pgkennel_session_closes_total{cluster="shop",reason="client"}`); got != "1" {
		t.Errorf("closes: got %s, want 1", got)
	}
	if got := h.metric(`pgkennel_session_clients{cluster="shop"}`); got != "0" {
		t.Errorf("clients: got %s, want 0", got)
	}
	if got := admin.show("SHOW PREPARED"); len(got) != 0 {
		t.Errorf("prepared statements of nobody: %v", got)
	}
}

func TestFailedLoginsAreCounted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	for dsn, code := range map[string]string{
		pgtest.DSN(h.addr(), "shop", h.user, "wrong"): "28P01", pgtest.DSN(h.addr(), "nowhere", h.user, "wrong"): "28P01",
		pgtest.DSN(h.addr(), "shop", operator, operatorSecret): "28P01", pgtest.DSN(h.addr(), "shop", "nobody", h.secret): "28P01",
		pgtest.DSN(h.addr(), "admin", h.user, h.secret): "3D000",
	} {
		_, err := pgx.Connect(t.Context(), dsn)
		wantCode(t, dsn, code, err)
	}
	if got := h.metric(`pgkennel_session_logins_failed_total{kind="wrong_password"}`); got != "2" {
		t.Errorf("wrong passwords: got %s, want 2", got)
	}
	if got := h.metric(`pgkennel_session_logins_failed_total{kind="unknown_database"}`); got != "1" {
		t.Errorf("unknown databases: got %s, want 1", got)
	}
	if got := h.metric(`pgkennel_session_logins_failed_total{kind="unknown_user"}`); got != "2" {
		t.Errorf("unknown users: got %s, want 2", got)
	}
}
