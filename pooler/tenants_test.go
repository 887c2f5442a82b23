package pooler

import (
	"testing"

	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// TestTenantsAccountsAreShared: clients of one tenant have one account, by which others' memory finds them again, and those that are bound have another than
// those that may go.
func TestTenantsAccountsAreShared(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{config: "[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n[[tenants]]\nname = \"acme\"\nkey = 42\n", users: "tenant_switch = true\n"})
	bound := func() *session.Account {
		t.Helper()
		a, refusal := h.account(tenant.Asked{User: h.user + "@acme", Database: "shop"})
		if a == nil || refusal != tenant.Welcome || a.Place != nil {
			t.Fatalf("before its login: %+v, %v", a, refusal)
		}
		a, refusal, e := a.Admit()
		if a == nil || refusal != tenant.Welcome || e != nil || a.Free != nil || a.Place == nil || a.Place.Tenant.Key != "42" {
			t.Fatalf("got %+v, %v, %v", a, refusal, e)
		}
		return a
	}
	first := bound()
	if bound() != first {
		t.Error("another client of the tenant has another account")
	}
	free, _ := h.account(tenant.Asked{User: h.user, Database: "shop"})
	chosen, err := free.Tenants.ByName(free, "acme")
	if err != nil || chosen.Free != free || chosen.Place != first.Place {
		t.Errorf("chosen: %+v, %v", chosen, err)
	}
}
