package pooler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/session"
)

func TestPauseWaitsAndHolds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	watch, boss := h.console(), h.console()
	busy, late := h.connect("shop"), h.connect("shop", "application_name=late")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")

	paused := later(func() error { return boss.try("PAUSE shop") })
	watch.until("SHOW DATABASES", "name", "shop", "paused", "1")
	asked := later(func() error { _, err := late.Exec(t.Context(), "select 1"); return err })
	watch.until("SHOW CLIENTS", "application_name", "late", "state", "waiting")
	watch.until("SHOW POOLS", "database", "shop", "paused", "1", "cl_waiting", "1", "cl_active", "1")
	pending(t, "PAUSE", paused)
	run(t, busy, "insert into items values (2, 'y')") // the transaction goes on
	run(t, busy, "commit")
	if err := wait(t, "PAUSE", paused); err != nil {
		t.Fatal(err)
	}
	if s := watch.show("SHOW SERVERS"); len(s) != 0 {
		t.Errorf("backends are left: %v", s)
	}
	if got := h.server.Query(t, h.db, "select count(*) from pg_stat_activity where datname = current_database() and usename = $1", h.user); got[0] != "0" {
		t.Errorf("the server has %s connections", got[0])
	}
	pending(t, "the waiting statement", asked)
	boss.refused("55000", "PAUSE shop")
	boss.do("RELOAD")
	if d := boss.one("SHOW DATABASES"); d["paused"] != "1" {
		t.Error("a reload ended the pause")
	}
	if s := boss.one("SHOW STATE", "key", "paused"); s["value"] != "no" {
		t.Error("one database is not all of them")
	}
	boss.do("RESUME shop")
	if err := wait(t, "the waiting statement", asked); err != nil {
		t.Fatal(err)
	}
	boss.refused("55000", "RESUME shop")
}

func TestPauseOfEverything(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss := h.console()
	boss.refused("3D000", "PAUSE nosuch")
	boss.refused("55000", "PAUSE admin")
	boss.refused("55000", "RESUME")
	boss.do("PAUSE")
	boss.refused("55000", "PAUSE")
	boss.refused("55000", "PAUSE shop")
	if s := boss.one("SHOW STATE", "key", "paused"); s["value"] != "yes" {
		t.Errorf("SHOW STATE: got %v", s)
	}
	h.write(extra{config: second(h), users: secondUser(h)})
	boss.do("RELOAD")
	if d := boss.one("SHOW DATABASES", "name", "second"); d["paused"] != "1" {
		t.Errorf("a new database is not paused: %v", d)
	}
	boss.do("RESUME second")
	if s := boss.one("SHOW STATE", "key", "paused"); s["value"] != "no" {
		t.Errorf("SHOW STATE: got %v", s)
	}
	run(t, h.connect("second"), "select 1")
	boss.do("RESUME")
	run(t, h.connect("shop"), "select 1")
	boss.refused("55000", "RESUME")
}

// second is another name for the test's database.
func second(h *house) string {
	return "[[databases]]\nname = \"second\"\nhost = \"127.0.0.1\"\nport = " + port(h.server.Addr()) + "\ndatabase_name = \"" + h.db + "\"\n"
}

func secondUser(h *house) string {
	return "[[users]]\nname = \"" + h.user + "\"\ndatabase = \"second\"\npassword = \"" + h.secret + "\"\n"
}

func TestCancelEndsTheWaitAndNotThePause(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	watch, boss := h.console(), h.console()
	busy := h.connect("shop")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	paused := later(func() error { return boss.try("PAUSE") })
	watch.until("SHOW STATE", "key", "paused", "value", "yes")
	for cancelled := false; !cancelled; { // the request may overtake the command
		if err := boss.c.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-paused:
			wantCode(t, "PAUSE", "57014", err)
			cancelled = true
		default:
		}
	}
	if d := boss.one("SHOW DATABASES"); d["paused"] != "1" {
		t.Errorf("the pause ended with the wait: %v", d)
	}
	run(t, busy, "commit")
	boss.do("RESUME")
}

// A client that goes while its command waits leaves nothing behind: the test's goroutines are counted.
func TestOperatorLeavesWhilePauseWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	watch, boss := h.console(), h.console()
	busy := h.connect("shop")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	paused := later(func() error { return boss.try("PAUSE") })
	watch.until("SHOW STATE", "key", "paused", "value", "yes")
	boss.c.PgConn().Conn().Close()
	if err := wait(t, "PAUSE", paused); err == nil {
		t.Error("got an answer over a closed connection")
	}
	watch.until("SHOW LISTS", "list", "used_clients", "items", "2")
	run(t, busy, "commit")
	watch.do("RESUME")
}

func TestReload(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, app := h.console(), h.connect("shop")
	run(t, app, "select 1")
	before := boss.one("SHOW SERVERS")["ptr"]

	h.write(extra{general: "no_such_key = 1\nport = \"x\""})
	e := boss.refused("F0000", "RELOAD")
	if !strings.Contains(e.Detail, "no_such_key") || strings.Count(e.Detail, "pgdog.toml:") != 2 {
		t.Errorf("got detail %q, want both mistakes with their lines", e.Detail)
	}
	if s := boss.one("SHOW STATE", "key", "config_epoch"); s["value"] != "1" {
		t.Errorf("a bad configuration is in force: %v", s)
	}

	h.write(extra{general: "rollback_timeout = 1234", config: second(h), users: secondUser(h)})
	boss.do("RELOAD")
	if c := boss.one("SHOW CONFIG", "key", "general.rollback_timeout"); c["value"] != "1234" {
		t.Errorf("SHOW CONFIG: got %v", c)
	}
	run(t, h.connect("second"), "select 1")
	run(t, app, "select 1")
	if after := boss.one("SHOW SERVERS", "database", "shop")["ptr"]; after != before {
		t.Errorf("the reload replaced backend %s by %s", before, after)
	}

	h.write(extra{}) // the second database goes, and its clients with it
	boss.do("RELOAD")
	if d := boss.show("SHOW DATABASES"); len(d) != 1 {
		t.Errorf("SHOW DATABASES: got %v", d)
	}
	_, err := pgx.Connect(t.Context(), h.dsn("second"))
	wantCode(t, "login", "3D000", err)
	boss.until("SHOW LISTS", "list", "used_clients", "items", "2")
	for series, want := range map[string]string{
		`pgkennel_config_reloads_total{result="ok"}`: "2", `pgkennel_config_reloads_total{result="failed"}`: "1", `pgkennel_config_epoch`: "3",
	} {
		if got := h.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}

// TestPasswordChange: what was computed of a password is not used any more once the configuration has another.
func TestPasswordChange(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss := h.console()
	h.connect("shop")
	old := h.dsn("shop")
	h.secret = "let them in"
	_, err := pgx.Connect(t.Context(), h.dsn("shop"))
	wantCode(t, "a password of tomorrow", "28P01", err)

	h.server.Exec(t, h.db, fmt.Sprintf("alter role %q password '%s'", h.user, h.secret))
	h.write(extra{})
	boss.do("RELOAD")
	_, err = pgx.Connect(t.Context(), old)
	wantCode(t, "a password of yesterday", "28P01", err)
	run(t, h.connect("shop"), "select 1")
}

// TestReloadInTheMiddleOfLogins: who proves a password behind a reload is somebody of today, or nobody.
func TestReloadInTheMiddleOfLogins(t *testing.T) {
	t.Parallel()
	const general = `auth_type = "plain"`
	for name, x := range map[string]struct {
		then func(h *house) extra // the second database's user
		want string
	}{
		"nothing changed":      {func(h *house) extra { return extra{config: second(h), users: secondUser(h)} }, "in"},
		"the user is gone":     {func(h *house) extra { return extra{config: second(h)} }, "28P01"},
		"the database is gone": {func(*house) extra { return extra{} }, "28P01"},
		"a new password": {func(h *house) extra {
			return extra{config: second(h), users: strings.Replace(secondUser(h), h.secret, "tomorrow", 1)}
		}, "28P01"},
		"session pooling": {func(h *house) extra {
			return extra{config: second(h), users: secondUser(h) + "pooler_mode = \"session\"\n"}
		}, "in and keeps its server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, extra{general: general})
			boss := h.console()
			h.write(extra{general: general, config: second(h), users: secondUser(h)})
			boss.do("RELOAD")
			c := pgtest.Dial(t, h.addr())
			c.Startup(pgtest.Login{User: h.user, Database: "second"})
			if m, ok := c.Receive().(*pgproto3.AuthenticationCleartextPassword); !ok {
				t.Fatalf("asked for %v", m)
			}
			e := x.then(h)
			e.general = general
			h.write(e)
			boss.do("RELOAD")
			c.Send(&pgproto3.PasswordMessage{Password: h.secret})
			got := "in"
			switch m := c.Receive().(type) {
			case *pgproto3.ErrorResponse:
				got = m.Code
			default:
				c.UntilReady()
				c.Query("SELECT 1")
				if boss.one("SHOW SERVERS", "database", "second")["state"] == "active" {
					got = "in and keeps its server"
				}
			}
			if got != x.want {
				t.Errorf("it is %s, want %s", got, x.want)
			}
		})
	}
}

func TestReconnectAndWaitClose(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, busy := h.console(), h.connect("shop")
	boss.refused("3D000", "RECONNECT nosuch")
	boss.refused("3D000", "WAIT_CLOSE nosuch")
	boss.do("WAIT_CLOSE")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	old := boss.one("SHOW SERVERS", "state", "active")
	boss.do("RECONNECT shop")
	if s := boss.one("SHOW SERVERS", "ptr", old["ptr"]); s["close_needed"] != "1" {
		t.Errorf("SHOW SERVERS: got %v", s)
	}
	waiting := h.console()
	id := waiting.id()
	closed := later(func() error { return waiting.try("WAIT_CLOSE shop") })
	boss.until("SHOW CLIENTS", "id", id, "state", "active")
	pending(t, "WAIT_CLOSE", closed)
	run(t, busy, "commit")
	if err := wait(t, "WAIT_CLOSE", closed); err != nil {
		t.Fatal(err)
	}
	run(t, busy, "select 1")
	for _, s := range boss.show("SHOW SERVERS") {
		if s["ptr"] == old["ptr"] {
			t.Errorf("the old backend is still there: %v", s)
		}
	}
}

// id is the console client's own, as SHOW CLIENTS has it.
func (c *console) id() string {
	c.t.Helper()
	own := c.c.PgConn().Conn().LocalAddr().String()
	return c.one("SHOW CLIENTS", "port", port(own), "database", "admin")["id"]
}

func TestDisableAndEnable(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, app := h.console(), h.connect("shop")
	boss.refused("3D000", "DISABLE nosuch")
	boss.do("DISABLE shop")
	run(t, app, "select 1") // who is connected goes on
	_, err := pgx.Connect(t.Context(), h.dsn("shop"))
	wantCode(t, "login", "28P01", err)
	boss.do("RELOAD")
	if d := boss.one("SHOW DATABASES"); d["disabled"] != "1" {
		t.Errorf("SHOW DATABASES: got %v", d)
	}
	boss.do("ENABLE shop")
	run(t, h.connect("shop"), "select 1")
}

func TestKillClient(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, app, other := h.console(), h.connect("shop", "application_name=victim"), h.connect("shop")
	run(t, app, "begin")
	run(t, app, "insert into items values (1, 'x')")
	boss.refused("42704", "KILL_CLIENT 999999")
	boss.do("KILL_CLIENT " + boss.one("SHOW CLIENTS", "application_name", "victim")["id"])
	_, err := app.Exec(t.Context(), "select 1")
	if err == nil {
		t.Fatal("the client lives")
	}
	// Its transaction is gone, and its row lock with it.
	run(t, other, "insert into items values (1, 'y')")
	if got := h.metric(`pgkennel_session_closes_total{cluster="shop",reason="killed"}`); got != "1" {
		t.Errorf("closes: got %s, want 1", got)
	}

	// One that waits for an answer is told.
	slow := h.connect("shop", "application_name=slow")
	asked := later(func() error { _, err := slow.Exec(t.Context(), "select pg_sleep(600)"); return err })
	boss.until("SHOW CLIENTS", "application_name", "slow", "state", "active")
	boss.do("KILL_CLIENT " + boss.one("SHOW CLIENTS", "application_name", "slow")["id"])
	wantCode(t, "the statement", "57P01", wait(t, "the statement", asked))
	boss.until("SHOW SERVERS", "state", "idle")
}

func TestKillDatabase(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, busy, idle := h.console(), h.connect("shop"), h.connect("shop")
	run(t, idle, "select 1")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	boss.refused("3D000", "KILL nosuch")
	boss.do("KILL shop")
	for _, c := range []*pgx.Conn{busy, idle} {
		if _, err := c.Exec(t.Context(), "select 1"); err == nil {
			t.Error("a client lives")
		}
	}
	boss.do("WAIT_CLOSE")
	if s := boss.show("SHOW SERVERS"); len(s) != 0 {
		t.Errorf("backends are left: %v", s)
	}
	if d := boss.one("SHOW DATABASES"); d["paused"] != "1" {
		t.Errorf("SHOW DATABASES: got %v", d)
	}
	boss.do("KILL shop") // again is no mistake
	late := h.connect("shop")
	asked := later(func() error { _, err := late.Exec(t.Context(), "select 1"); return err })
	boss.until("SHOW POOLS", "database", "shop", "cl_waiting", "1")
	boss.do("RESUME shop")
	if err := wait(t, "the waiting statement", asked); err != nil {
		t.Fatal(err)
	}
}

func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, busy, idle := h.console(), h.connect("shop"), h.connect("shop")
	run(t, idle, "select 1")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	if code, body := h.get("/readyz"); code != 200 {
		t.Errorf("readyz: got %d %s", code, body)
	}
	boss.do("SHUTDOWN")
	for {
		if _, err := idle.Exec(t.Context(), "select 1"); err != nil {
			break // it was closed; before, the statement may have been faster
		}
	}
	if _, err := pgx.Connect(t.Context(), h.dsn("shop")); err == nil {
		t.Error("a new client was let in")
	}
	if code, body := h.get("/readyz"); code != 503 || !strings.Contains(body, `"serving":false`) {
		t.Errorf("readyz: got %d %s", code, body)
	}
	run(t, busy, "commit")
	h.ended()
	if got := h.server.Query(t, h.db, "select count(*) from items"); got[0] != "1" {
		t.Errorf("the transaction was lost: %v", got)
	}
}

func TestShutdownWaitsForClients(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, idle := h.console(), h.connect("shop")
	run(t, idle, "select 1")
	boss.do("SHUTDOWN WAIT_FOR_CLIENTS")
	boss.refused("57P03", "SHUTDOWN WAIT_FOR_CLIENTS")
	boss.refused("57P03", "RELOAD")
	if s := boss.one("SHOW STATE", "key", "shutting_down"); s["value"] != "yes" {
		t.Errorf("SHOW STATE: got %v", s)
	}
	run(t, idle, "select 1")
	idle.Close(t.Context())
	h.ended()
}

func TestShutdownWaitsForServers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{general: "shutdown_timeout = 0"})
	boss, busy, idle := h.console(), h.connect("shop"), h.connect("shop")
	run(t, idle, "select 1")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	boss.do("SHUTDOWN WAIT_FOR_SERVERS")
	for {
		if _, err := idle.Exec(t.Context(), "select 1"); err != nil {
			break
		}
	}
	run(t, busy, "commit") // without a limit
	h.ended()
}

// A shutdown under way can be hurried: here from one that waits for a client who never leaves.
func TestShutdownGetsMoreUrgent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{})
	boss, busy := h.console(), h.connect("shop")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	boss.do("SHUTDOWN WAIT_FOR_CLIENTS")
	if err := boss.try("SHUTDOWN IMMEDIATE"); err != nil {
		wantCode(t, "SHUTDOWN IMMEDIATE", "57P01", err) // the operator is a client like others
	}
	h.ended()
	if _, err := busy.Exec(t.Context(), "commit"); err == nil {
		t.Error("the transaction survived")
	}
	if got := h.server.Query(t, h.db, "select count(*) from items"); got[0] != "0" {
		t.Errorf("the transaction was committed: %v", got)
	}
}

// PAUSE does not hold up a shutdown.
func TestShutdownEndsWaitingCommands(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{general: "shutdown_timeout = 600000"})
	boss, busy, watch := h.console(), h.connect("shop"), h.console()
	run(t, busy, "begin")
	run(t, busy, "insert into items values (1, 'x')")
	paused := later(func() error { return boss.try("PAUSE") })
	watch.until("SHOW STATE", "key", "paused", "value", "yes")
	h.Shutdown()
	wantCode(t, "PAUSE", "57014", wait(t, "PAUSE", paused))
	run(t, busy, "commit")
	h.ended()
}

func TestUrgencyAndPlansAreInOrder(t *testing.T) {
	t.Parallel()
	for i, m := range []admin.ShutdownMode{0, admin.ShutdownWaitForClients, admin.ShutdownWaitForServers, admin.ShutdownDrain, admin.ShutdownImmediate} {
		if urgency(m) != i {
			t.Errorf("%v: got urgency %d, want %d", m, urgency(m), i)
		}
	}
	for r, p := range map[session.Route]metrics.Plan{
		session.RouteAny: metrics.PlanAny, session.RouteShard: metrics.PlanShard, session.RouteCopy: metrics.PlanCopy,
		session.RouteDirect: metrics.PlanDirect, session.RouteLocal: metrics.PlanLocal,
	} {
		if metrics.Plan(r) != p {
			t.Errorf("route %d is counted as %v, want %v", r, metrics.Plan(r), p)
		}
	}
}

func TestUnhealthyShardIsNotReady(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	h := newHouse(t, extra{
		config: "[[databases]]\nname = \"other\"\nhost = \"127.0.0.1\"\nport = " + port(server.Addr()) + "\ndatabase_name = \"postgres\"\n",
		users:  "[[users]]\nname = \"" + pgtest.Superuser + "\"\ndatabase = \"other\"\npassword = \"x\"\n",
	})
	boss := h.console()
	boss.until("SHOW SHARDS", "database", "other", "healthy", "1", "failures", "0")
	boss.until("SHOW SHARDS", "database", "shop", "healthy", "1")
	if s := boss.show("SHOW BANS"); len(s) != 0 {
		t.Errorf("SHOW BANS: got %v", s)
	}
	if code, body := h.get("/readyz"); code != 200 {
		t.Errorf("readyz: got %d %s", code, body)
	}
	server.Stop(t, pgtest.Immediate)
	c, err := pgx.Connect(t.Context(), pgtest.DSN(h.addr(), "other", pgtest.Superuser, "x"))
	if err == nil {
		_, err = c.Exec(context.Background(), "select 1")
		c.Close(context.Background())
	}
	if err == nil {
		t.Fatal("a statement was answered by a server that is down")
	}
	boss.until("SHOW SHARDS", "database", "other", "healthy", "0")
	if s := boss.one("SHOW SHARDS", "database", "other"); s["last_error"] == "∅" || s["down_since"] == "∅" {
		t.Errorf("SHOW SHARDS: got %v", s)
	}
	if s := boss.show("SHOW BANS"); len(s) != 1 || s[0]["database"] != "other" || s[0]["reason"] == "∅" || s[0]["down_since"] == "∅" {
		t.Errorf("SHOW BANS: got %v", s)
	}
	bans := `pgkennel_cluster_endpoint_bans_total{cluster="other",endpoint="` + server.Addr() + `",role="primary",shard="0"}`
	if n := h.metric(bans); n != "1" {
		t.Errorf("the endpoint went down %s times", n)
	}
	if code, body := h.get("/readyz"); code != 503 || !strings.Contains(body, `"cluster":"other"`) {
		t.Errorf("readyz: got %d %s", code, body)
	}
	if code, _ := h.get("/healthz"); code != 200 {
		t.Errorf("healthz: got %d", code)
	}
	if errors.Is(h.Reload(), context.Canceled) { // a reload does not need the servers
		t.Error("reload failed")
	}
}
