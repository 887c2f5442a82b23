package pooler

import (
	"fmt"
	"testing"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/tenant"
)

// TestKeysOfParametersAreCopied: the key that a parameter names is a view of the client's message, whose memory another client's message has next.
func TestKeysOfParametersAreCopied(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{config: "[multi_tenant]\ncolumn = \"tenant_id\"\ndata_type = \"text\"\nmode = \"shared\"\n", users: "tenant_switch = true\n"})
	a, _ := h.account(tenant.Asked{User: h.user, Database: "shop"})
	message := make([]byte, 3)
	of := func(key string) string {
		copy(message, key)
		k, r := sharding.ReadParam(sharding.Text, message, false, 0, 0)
		if r != sharding.Exact {
			t.Fatalf("%s: reading %v", key, r)
		}
		to, e := a.Tenants.ByKey(a, k)
		if e != nil {
			t.Fatal(e)
		}
		copy(message, "xyz")
		return fmt.Sprintf("%s %s %s %v", to.Place.Tenant.Name, to.Place.Tenant.Key, to.Place.Route.Key, to.Place.Tenant.Context())
	}
	for range 3 {
		for _, key := range []string{"abc", "def", "abd"} {
			if got, want := of(key), fmt.Sprintf("%s %s %s %v", key, key, key, []tenant.Setting{{Name: "app.current_tenant", Value: key}}); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// TestTenantsAreFoundWithoutMemory: a transaction that names its tenant finds it at no cost.
func TestTenantsAreFoundWithoutMemory(t *testing.T) {
	h := newHouse(t, extra{config: "[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n", users: "tenant_switch = true\n"})
	a, _ := h.account(tenant.Asked{User: h.user, Database: "shop"})
	i := int64(0)
	find := func() {
		i++
		if _, e := a.Tenants.ByKey(a, sharding.BigintKey(i%1000)); e != nil {
			t.Fatal(e)
		}
	}
	for range 1000 {
		find()
	}
	if n := testing.AllocsPerRun(1000, find); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
