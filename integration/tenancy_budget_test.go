package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// mostBackends is a function that counts the backends of roles for a while.
const mostBackends = `CREATE FUNCTION most_backends(roles text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE most int := 0;
BEGIN
  FOR i IN 1..200 LOOP
    PERFORM pg_stat_clear_snapshot();
    most := greatest(most, (SELECT count(*) FROM pg_stat_activity WHERE usename LIKE roles));
    PERFORM pg_sleep(0.0005);
  END LOOP;
  RETURN most;
END $$;`

// TestTenantsShareABudget: many tenants, each with a role of its own, over few connections, while one of them wants all.
func TestTenantsShareABudget(t *testing.T) {
	t.Parallel()
	const tenants, budget, greedy, rounds = 60, 8, 100, 30
	s := prepare(t, spec{schema: "CREATE TABLE countries (code text)", users: switching})
	db := s.shards[0].db
	s.write("role.secret", "0123456789abcdef0123456789abcdef")
	var sql strings.Builder
	sql.WriteString(mostBackends)
	for i := range tenants + 1 {
		role := fmt.Sprintf("%s_t%d", db, i)
		fmt.Fprintf(&sql, "CREATE ROLE %s LOGIN PASSWORD '%s'; CREATE SCHEMA t_%d AUTHORIZATION %[1]s;", role, rolePassword(t, role), i)
	}
	s.shards[0].Exec(t, db, sql.String())
	s.edit("pgdog.toml", "[admin]", fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nconnections = %d\nrole = \"%s_t{key}\"\nschema = \"t_{key}\"\nrole_secret_file = %q\n[admin]", budget, db, s.path("role.secret")))
	s.startInside()

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	connect := func(tenant int) *pgx.Conn {
		c, err := pgx.Connect(ctx, pgtest.DSN(s.addr, cluster, fmt.Sprintf("app@%d", tenant), password))
		if err != nil {
			t.Error(err)
			return nil
		}
		return c
	}
	transact := func(c *pgx.Conn, tenant int) bool {
		var role string
		tx, err := c.Begin(ctx)
		if err == nil {
			if err = tx.QueryRow(ctx, "SELECT session_user::text").Scan(&role); err == nil {
				err = tx.Commit(ctx)
			}
		}
		if want := fmt.Sprintf("%s_t%d", db, tenant); err != nil || role != want {
			t.Errorf("tenant %d: got %q, %v", tenant, role, err)
			return false
		}
		return true
	}

	// Those who count their backends, and those who want all of them, until the others are done.
	var done atomic.Bool
	var others, wg sync.WaitGroup
	most := 0
	others.Go(func() {
		for !done.Load() {
			n := 0
			fmt.Sscan(s.shards[0].rows(t, fmt.Sprintf("SELECT most_backends('%s\\_t%%')", db))[0], &n) //nolint:errcheck // it is a number
			most = max(most, n)
		}
	})
	var took atomic.Int64 // transactions of the greedy
	for range greedy {
		others.Go(func() {
			c := connect(tenants)
			if c == nil {
				return
			}
			defer c.Close(context.WithoutCancel(ctx))
			for !done.Load() && transact(c, tenants) {
				took.Add(1)
			}
		})
	}
	begun := time.Now()
	var longest atomic.Int64
	for i := range tenants {
		wg.Go(func() {
			c := connect(i)
			if c == nil {
				return
			}
			defer c.Close(context.WithoutCancel(ctx))
			for range rounds {
				asked := time.Now()
				if !transact(c, i) {
					return
				}
				wait := int64(time.Since(asked))
				for old := longest.Load(); wait > old && !longest.CompareAndSwap(old, wait); old = longest.Load() {
				}
			}
		})
	}
	wg.Wait()
	total := time.Since(begun)
	done.Store(true)
	others.Wait()
	t.Logf("%d transactions and %d of the greedy took %v, the longest wait %v; at most %d backends", tenants*rounds, took.Load(), total, time.Duration(longest.Load()), most)
	if most > budget || most == 0 {
		t.Errorf("got %d backends of the tenants at once, want %d at most", most, budget)
	}
	if got := time.Duration(longest.Load()); got > max(total*3/4, 5*time.Second) {
		t.Errorf("one transaction waited %v of %v", got, total)
	}
	if took.Load() == 0 {
		t.Error("the greedy one was never served")
	}
	if got := s.metric(t, "cluster_endpoint_budget_max_connections"); got != budget {
		t.Errorf("metrics: a budget of %v", got)
	}
	if got := s.metric(t, "cluster_endpoint_budget_connections"); got > budget || got == 0 {
		t.Errorf("metrics: %v connections of the budget", got)
	}
	s.edit("pgdog.toml", fmt.Sprintf("connections = %d", budget), "connections = 3")
	s.console(t, "RELOAD")
	eventually(t, "a smaller budget", func() bool { return s.metric(t, "cluster_endpoint_budget_connections") <= 3 })
}
