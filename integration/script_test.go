package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// protocol is a way to run one statement.
type protocol struct {
	name string
	run  func(c *pgtest.Client, sql string) []pgproto3.BackendMessage
}

var protocols = []protocol{
	{"simple", (*pgtest.Client).Query},
	{"extended", func(c *pgtest.Client, sql string) []pgproto3.BackendMessage { return c.Extended(sql) }},
}

// outcome condenses an answer to what scripts compare; see testbed.Outcome.
func outcome(msgs []pgproto3.BackendMessage) string { return testbed.Outcome(msgs) }

// play runs pairs of a statement and its outcome.
func (p protocol) play(t *testing.T, c *pgtest.Client, steps ...string) {
	t.Helper()
	for i := 0; i < len(steps); i += 2 {
		if got := outcome(p.run(c, steps[i])); got != steps[i+1] {
			t.Errorf("%s: step %d, %s\n got %s\nwant %s", p.name, i/2+1, steps[i], got, steps[i+1])
		}
	}
}

// each runs f once for each protocol, side by side.
func each(t *testing.T, f func(t *testing.T, p protocol)) {
	t.Helper()
	t.Run("by", func(t *testing.T) {
		for _, p := range protocols {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				f(t, p)
			})
		}
	})
}
