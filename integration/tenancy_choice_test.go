package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// A reload that takes a tenant away ends the transactions that chose it, too: else it would be the session's tenant when they are committed.
func TestChosenTenantsAreTakenAway(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: rowsSchema, users: switching, rest: twoTenants})
	const mine = "SELECT DISTINCT note FROM orders"
	p := protocols[0]
	chosen, visiting, kept, other := s.as(t, "app", nil), s.as(t, "app", nil), s.as(t, "app", nil), s.as(t, "app", nil)
	p.play(t, chosen, "BEGIN", "BEGIN; T", "SET pgkennel.tenant = 'two'", "SET; T", mine, "of 2; SELECT 1; T")
	p.play(t, visiting, "BEGIN", "BEGIN; T", mine+" WHERE tenant_id = 2", "of 2; SELECT 1; T")
	p.play(t, kept, "BEGIN; SET app.current_tenant = '2'", "BEGIN; SET; T")
	p.play(t, other, "BEGIN", "BEGIN; T", "SET pgkennel.tenant = 'four'", "SET; T", mine, "of 4; SELECT 1; T")
	s.edit("pgdog.toml", `name = "two"`, "name = \"two\"\nstate = \"disabled\"")
	s.console(t, "RELOAD")
	for i, c := range []*pgtest.Client{chosen, visiting, kept} {
		c.Send(&pgproto3.Query{String: "COMMIT"})
		if m, err := c.Next(); err == nil {
			if e, ok := m.(*pgproto3.ErrorResponse); !ok || e.Code != "57P01" {
				t.Errorf("client %d of a disabled tenant got %s", i, pgtest.Format(m))
			}
		}
	}
	p.play(t, other, mine, "of 4; SELECT 1; T", "COMMIT", "COMMIT; I")
}
