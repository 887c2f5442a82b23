package isolation

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestIsolationOnShards: tenants 2 and 3 live on shards of their own, until tenant 3 moves.
func TestIsolationOnShards(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		if m.isolation == "database" {
			continue
		}
		m.shards, m.split = 2, true
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := build(t, m)
			t.Run("each on its own", func(t *testing.T) { eachOnItsShard(t, w) })
			t.Run("a move", func(t *testing.T) { moveToAnotherShard(t, w) })
		})
	}
}

// keepConnections turns on session pooling.
func (w *world) keepConnections(t testing.TB) {
	t.Helper()
	w.passing = true
	for _, c := range w.watch {
		c.Terminate()
	}
	for range strings.Count(users, "pooler_mode") {
		w.Edit("users.toml", `pooler_mode = "transaction"`, `pooler_mode = "session"`)
	}
	w.reload(t)
}

// reload has the configuration read anew.
func (w *world) reload(t testing.TB) {
	t.Helper()
	if err := w.pooler.Reload(); err != nil {
		t.Fatal(err)
	}
}

// Tenants live on two shards: each is looked for on its own only, however it was chosen, and no transaction runs on both.
func eachOnItsShard(t *testing.T, s *world) {
	const two, three, insert = "SET app.current_tenant = '2'", "SET app.current_tenant = '3'", "INSERT INTO orders (id, note) VALUES (9, 'new')"
	for _, p := range protocols {
		c := s.As(t, "app", nil)
		play(t, p.run, c,
			two, "SET; I", mine, own, three, "SET; I", mine, "of 3; SELECT 1; I",
			"RESET app.current_tenant", "RESET; I",
			"BEGIN", "BEGIN; T", "SELECT 7", "7; SELECT 1; T", three, "SET; T", mine, "of 3; SELECT 1; T", two, "25001 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
			"BEGIN", "BEGIN; T", "SAVEPOINT s", "SAVEPOINT; T", three, "SET; T", mine, "of 3; SELECT 1; T", "ROLLBACK TO s", "ROLLBACK; T", two, "25001 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
			"BEGIN", "BEGIN; T", three, "SET; T", insert, "INSERT 0 1; T", mine+" WHERE note = 'new'", "new; SELECT 1; T", "ROLLBACK AND CHAIN", "ROLLBACK; T", insert, "25001 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
			two, "SET; I", "BEGIN", "BEGIN; T", mine, "of 2; SELECT 1; T", "/* pgdog_shard: 1 */ "+mine, "42501 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
			"SET pgdog.shard = '1'", "SET; I", mine, "42501 tenant_mismatch; I", "RESET pgdog.shard", "RESET; I",
			three, "SET; I", mine, "of 3; SELECT 1; I",
		)
		if s.isolation == "row" {
			play(t, p.run, c,
				"RESET app.current_tenant", "RESET; I",
				mine+" WHERE tenant_id = 3", "of 3; SELECT 1; I", mine+" WHERE tenant_id = 2", own,
				"BEGIN", "BEGIN; T", mine+" WHERE tenant_id = 2", "of 2; SELECT 1; T", mine+" WHERE tenant_id = 3", "42501 tenant_mismatch; E", "ROLLBACK", "ROLLBACK; I",
				mine+" WHERE tenant_id IN (2, 3)", mismatch,
			)
		}
		c.Terminate()
	}
	// Prepared once, for both in turn.
	c := s.As(t, "app", nil)
	c.Query(two)
	if got := testbed.Extended(c, testbed.Parse("q", mine), testbed.Describe('S', "q"), testbed.Bind("", "q"), testbed.Run("", 0)); got != own {
		t.Error(got)
	}
	for range 3 {
		for choice, want := range map[string]string{two: "of 2", three: "of 3"} {
			if got := testbed.Extended(c, append(testbed.Statements(choice), testbed.Bind("", "q"), testbed.Run("", 0))...); got != "SET; "+want+"; SELECT 1; I" {
				t.Errorf("%s: got %s", choice, got)
			}
		}
	}
	c.Terminate()
	s.unharmed(t, "shards")
}

// A reload that moves a tenant to another shard moves who works for it, or ends it.
func moveToAnotherShard(t *testing.T, s *world) {
	const three, all = "SET app.current_tenant = '3'", "SELECT DISTINCT note FROM orders"
	s.Edit("pgdog.toml", "default_pool_size = 1", "default_pool_size = 9")
	s.reload(t)
	clients := map[string]*pgtest.Client{}
	for name, units := range map[string][]string{
		"bound": {all}, "bound, in a transaction": {"BEGIN", all}, "before it ran anything": {"BEGIN"},
		"chosen": {three, all}, "chosen, in a transaction": {three, "BEGIN", all}, "chosen for a transaction": {"BEGIN", "SET LOCAL app.current_tenant = '3'"},
		"chosen for a transaction that ran": {"BEGIN", three, all},
	} {
		user := "app"
		if strings.HasPrefix(name, "b") {
			user = "app@3"
		}
		c := s.As(t, user, nil)
		for _, unit := range units {
			if got := testbed.Outcome(c.Query(unit)); unit == all && !strings.HasPrefix(got, "of 3; ") {
				t.Errorf("%s: %s: got %s", name, unit, got)
			}
		}
		clients[name] = c
	}
	s.Edit("pgdog.toml", "key = 3\nshard = 1", "key = 3\nshard = 0")
	if s.isolation == "row" {
		s.Edit("pgdog.toml", "values = [3]\nshard = 1", "values = [3]\nshard = 0")
	}
	s.Secure(t, "2", "3", "4")
	s.reload(t)
	for name, c := range clients {
		c.Send(testbed.Simple(all))
		for {
			m, err := c.Next()
			if err != nil {
				break
			}
			if row, ok := m.(*pgproto3.DataRow); ok && strings.HasPrefix(string(row.Values[0]), "of ") {
				t.Errorf("%s: it still sees %s", name, row.Values[0])
			}
			if _, ok := m.(*pgproto3.ReadyForQuery); ok {
				break
			}
		}
	}
	for _, user := range []string{"app", "app@3"} {
		c := s.As(t, user, nil)
		c.Query(three)
		if got := testbed.Outcome(c.Query(all)); got != "wrong 3; SELECT 1; I" {
			t.Errorf("%s after the move: got %s", user, got)
		}
	}
}
