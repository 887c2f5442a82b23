package integration

import (
	"fmt"
	"testing"
)

// TestTenantsInConsoleAndMetrics: whose clients, connections and pools there are, and what each tenant did; in metrics that of the busiest.
func TestTenantsInConsoleAndMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: rowsSchema, users: switching, general: "openmetrics_tenants = 1\n", rest: twoTenants})
	two, free := s.as(t, "app@two", nil), s.as(t, "app", nil)
	const mine = "SELECT DISTINCT note FROM orders"
	protocols[0].play(t, two, mine, "of 2; SELECT 1; I", "SELECT 1/0", "22012; I", "BEGIN", "BEGIN; T", mine, "of 2; SELECT 1; T")
	protocols[1].play(t, free, "SELECT DISTINCT note FROM orders WHERE tenant_id = 3", "of 3; SELECT 1; I", "SET pgkennel.tenant = 'four'", "SET; I", mine, "of 4; SELECT 1; I")

	seen := make(map[string]map[string]string)
	for _, row := range s.console(t, "SHOW TENANTS") {
		seen[row["tenant"]] = row
	}
	for name, want := range map[string]string{
		"two":  "saas 2 row shared active 1 0 2 4 1",
		"four": "saas 4 row shared active 1 0 1 1 0",
		"3":    "saas 3 row shared active 0 0 1 1 0",
	} {
		r := seen[name]
		got := fmt.Sprint(r["database"], " ", r["key"], " ", r["isolation"], " ", r["mode"], " ", r["state"], " ", r["clients"], " ", r["clients_waiting"], " ",
			r["transactions"], " ", r["queries"], " ", r["errors"])
		if got != want || r["bytes_sent"] == "0" {
			t.Errorf("tenant %s: got %s, want %s", name, got, want)
		}
	}
	if rows := s.console(t, "SHOW TENANTS LIMIT 1"); len(rows) != 1 || rows[0]["tenant"] != "two" {
		t.Errorf("the busiest: got %v", rows)
	}
	of := func(view, state string) (tenants []string) {
		for _, row := range s.console(t, view) {
			if row["state"] == state && row["database"] == cluster {
				tenants = append(tenants, row["tenant"])
			}
		}
		return tenants
	}
	if got := fmt.Sprint(of("SHOW CLIENTS", "active"), of("SHOW CLIENTS", "idle"), of("SHOW SERVERS", "active")); got != "[two] [four] [two]" {
		t.Errorf("clients and servers: got %s", got)
	}
	for labels, want := range map[string]float64{`tenant="two"`: 2, `tenant="*"`: 4, `tenant="four"`: 0, `tenant="3"`: 0} {
		if got := s.metric(t, "session_tenant_transactions_total", labels); got != want {
			t.Errorf("metrics: %v transactions of %s, want %v", got, labels, want)
		}
	}
	if got := s.metric(t, "session_tenant_errors_total", `"*"`); got != 1 {
		t.Errorf("metrics: %v errors", got)
	}
}

// TestTenantsPoolsAreReloaded: the pools of tenants' own logins have the size that the configuration says today; metrics have them under one name.
func TestTenantsPoolsAreReloaded(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: schemasSchema(1), users: switching, general: "default_pool_size = 2\n"})
	db := s.shards[0].db
	s.shards[0].Exec(t, db, fmt.Sprintf("CREATE ROLE %s_t0 LOGIN; GRANT USAGE ON SCHEMA t_0 TO %[1]s_t0; GRANT ALL ON ALL TABLES IN SCHEMA t_0 TO %[1]s_t0", db))
	s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\n[admin]", db))
	s.startInside()
	protocols[0].play(t, s.as(t, "app@0", nil), "SELECT note FROM orders", "of 0; SELECT 1; I")
	size := func(view string) string {
		for _, row := range s.console(t, view) {
			if row["tenant"] == "0" {
				return row["pool_size"]
			}
		}
		return "none"
	}
	for _, view := range []string{"SHOW POOLS", "SHOW SHARD_POOLS"} {
		if got := size(view); got != "2" {
			t.Errorf("%s: got %s, want 2", view, got)
		}
	}
	s.edit("pgdog.toml", "default_pool_size = 2", "default_pool_size = 7")
	s.console(t, "RELOAD")
	if got := size("SHOW POOLS"); got != "7" {
		t.Errorf("after a reload: got %s, want 7", got)
	}
	if got := s.metric(t, "pool_backends", `user="(tenants)"`); got != 1 {
		t.Errorf("metrics: got %v connections of tenants, want 1", got)
	}
	if got := s.metric(t, "pool_backends", fmt.Sprintf("user=%q", db+"_t0")); got != 0 {
		t.Error("a tenant's role is a label")
	}
}

// TestConnectionsEndWithTheSchemasTheySaw: a shared connection is closed when it was used for so many tenants' schemas, and not for how often; and whoever
// visits a tenant has the search_path again afterwards that was its own.
func TestConnectionsEndWithTheSchemasTheySaw(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: schemasSchema(12), users: switching, general: "default_pool_size = 1\n"})
	db := s.shards[0].db
	for i := range 12 {
		s.shards[0].Exec(t, db, fmt.Sprintf("CREATE ROLE %s_t%d; GRANT USAGE ON SCHEMA t_%[2]d TO %[1]s_t%[2]d; GRANT ALL ON ALL TABLES IN SCHEMA t_%[2]d TO %[1]s_t%[2]d; GRANT %[1]s_t%[2]d TO app", db, i))
	}
	s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nmode = \"shared\"\nschemas_per_connection = 3\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\n[admin]", db))
	s.startInside()
	c := s.as(t, "app", nil)
	p := protocols[0]
	p.play(t, c, "SET search_path TO mine, public", "SET; I")
	visit := func(i int) {
		t.Helper()
		p.play(t, c, fmt.Sprintf("/* pgkennel_tenant: %d */ SELECT note FROM orders", i), fmt.Sprintf("of %d; SELECT 1; I", i))
	}
	for range 20 {
		visit(1)
	}
	if got := s.metric(t, "backend_closed_total", `"schemas"`); got != 0 {
		t.Errorf("%v connections were closed for one tenant", got)
	}
	for i := range 12 {
		visit(i)
	}
	eventually(t, "connections are closed", func() bool { return s.metric(t, "backend_closed_total", `"schemas"`) >= 3 })
	p.play(t, c, "SHOW search_path", "mine, public; SHOW; I")
}
