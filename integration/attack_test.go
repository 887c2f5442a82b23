package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Ways that were found to see, or to break, what is another client's. The clients of a stand share one backend for each shard.

// extended runs messages up to a Sync.
func extended(c *pgtest.Client, messages ...pgproto3.FrontendMessage) string {
	c.Send(append(messages, syncs)...)
	return outcome(c.UntilReady())
}

const peek = "/* pgdog_shard: 0 */ SELECT coalesce(current_setting('app.v', true), '')"

// What set_config set is followed also if the client wants no more rows than the one there is.
func TestLeftoversOfASuspendedPortal(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		c := s.connect(t)
		if got := extended(c, parse("", "/* pgdog_shard: 0 */ SELECT set_config('app.v', 'mine', false)"), bind("", ""), run("", 1)); got != "mine; I" {
			t.Errorf("got %s", got)
		}
		if got := outcome(s.connect(t).Query(peek)); got != "; SELECT 1; I" {
			t.Errorf("the next client finds %s", got)
		}
		if got := outcome(c.Query(peek)); got != "mine; SELECT 1; I" {
			t.Errorf("the client itself finds %s", got)
		}
	})
}

// A DEALLOCATE that reaches the server can't take a statement away that other clients believe to be there.
func TestDeallocateOfAnothersStatement(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *stand) {
		const sql = "SELECT note FROM orders WHERE tenant_id = 1"
		a, b := s.connect(t), s.connect(t)
		if got := extended(a, parse("s", sql), bind("", "s"), run("", 0)); got != "SELECT 0; I" {
			t.Fatal(got)
		}
		names := pgtest.Rows(b.Query("/* pgdog_shard: 0 */ SELECT name FROM pg_prepared_statements"))
		if len(names) != 1 {
			t.Fatalf("the backend has %q", names)
		}
		if got := outcome(b.Query("/* pgdog_shard: 0 */ DEALLOCATE " + names[0] + "; SELECT 1")); got != "DEALLOCATE; 1; SELECT 1; I" {
			t.Fatal(got)
		}
		if got := extended(a, bind("", "s"), run("", 0)); got != "SELECT 0; I" {
			t.Errorf("who prepared it: %s", got)
		}
		if got := extended(s.connect(t), parse("", "SELECT 7"), bind("", ""), run("", 0), parse("s", sql), bind("", "s"), run("", 0)); got != "7; SELECT 1; SELECT 0; I" {
			t.Errorf("another client: %s", got)
		}
	})
}
