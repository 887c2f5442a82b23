package pooler

import (
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

// TestTenantsAccountsAreShared: clients of one tenant have one account, by which others' memory finds them again, and those that are bound have another than
// those that may go.
func TestTenantsAccountsAreShared(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{config: "[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n[[tenants]]\nname = \"acme\"\nkey = 42\n", users: "tenant_switch = true\n"})
	asked := tenant.Asked{User: h.user + "@acme", Database: "shop"}
	first, refusal := h.account(asked)
	if first == nil || refusal != tenant.Welcome || first.Free != nil || first.Place == nil || first.Place.Tenant.Key != "42" {
		t.Fatalf("got %+v, %v", first, refusal)
	}
	if again, _ := h.account(asked); again != first {
		t.Error("another client of the tenant has another account")
	}
	free, _ := h.account(tenant.Asked{User: h.user, Database: "shop"})
	chosen, err := free.Tenants.ByName(free, "acme")
	if err != nil || chosen.Free != free || chosen.Place != first.Place {
		t.Errorf("chosen: %+v, %v", chosen, err)
	}
}
