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
