package integration

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
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

// outcome condenses an answer to what scripts compare: rows, tags, errors, and the transaction status.
//
//	a|b; c|d; SELECT 2; I
//	42501 tenant_missing; E     a refusal of pgkennel's, with its name
//	22012; E                    an error of PostgreSQL's
func outcome(msgs []pgproto3.BackendMessage) string {
	var parts []string
	for _, msg := range msgs {
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			parts = append(parts, pgtest.Rows([]pgproto3.BackendMessage{m})...)
		case *pgproto3.CommandComplete:
			parts = append(parts, string(m.CommandTag))
		case *pgproto3.EmptyQueryResponse:
			parts = append(parts, "empty")
		case *pgproto3.ErrorResponse:
			e := m.Code
			if m.File == "" && m.Routine != "" {
				e += " " + m.Routine
			}
			parts = append(parts, e)
		case *pgproto3.ReadyForQuery:
			parts = append(parts, string(m.TxStatus))
		case *pgproto3.CopyInResponse:
			parts = append(parts, "copy in")
		}
	}
	return strings.Join(parts, "; ")
}

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
