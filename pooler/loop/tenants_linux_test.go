package loop

import (
	"fmt"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/tenant"
)

// benchTenants are those whose keys are below their number, on the shard that the model has them on.
type benchTenants struct {
	byKey   map[sharding.Key]*session.Account
	unknown *pgwire.Error
}

func (b *benchTenants) ByKey(_ *session.Account, key sharding.Key) (*session.Account, *pgwire.Error) {
	if a := b.byKey[key]; a != nil {
		return a, nil
	}
	return nil, b.unknown
}

func (b *benchTenants) ByName(*session.Account, string) (*session.Account, *pgwire.Error) {
	return nil, b.unknown
}
func (*benchTenants) Setting() string           { return "app.current_tenant" }
func (*benchTenants) KeyType() sharding.KeyType { return sharding.Bigint }

// withTenants has 30 tenants share the bench's login; each, if bound, is what clients in turn are logged in as.
func (s *bench) withTenants(bound bool) {
	const tenants = 30
	ts := &benchTenants{byKey: make(map[sharding.Key]*session.Account), unknown: pgwire.Errorf(pgwire.CodeInsufficientPrivilege, "there is no such tenant")}
	r, err := router.New(router.Options{
		Cluster: "prod", Shards: 2, TenantColumn: "tenant_id", Virtual: true, TenantType: sharding.Bigint, Tables: modelTables(s.b, 2),
	})
	if err != nil {
		s.b.Fatal(err)
	}
	free := *s.acct
	free.Tenants, free.Switch, free.Cluster = ts, true, modelCluster{r, 2, nil}
	s.acct = &free
	var all []*session.Account
	for k := range int64(tenants) {
		x := &tenant.Tenant{Name: fmt.Sprint(k), Key: fmt.Sprint(k), Isolation: tenant.Row, Mode: tenant.Shared, State: tenant.Active, Cluster: "prod"}
		key := sharding.BigintKey(k)
		shard, e := r.TenantShard(key)
		if e != nil {
			s.b.Fatal(e)
		}
		a := free
		a.Free = &free
		if bound {
			a.Free = nil
		}
		a.Place = session.NewPlace(x, router.Tenant{Key: key, Shard: shard}, []tenant.Setting{{Name: "app.current_tenant", Value: x.Key}}, nil)
		ts.byKey[key] = &a
		all = append(all, &a)
	}
	if bound {
		s.bound = all
	}
}

// TestTenantsAllocateNothing: neither does whose it is cost memory, be it that the login says so or the statement, nor does its context.
func TestTenantsAllocateNothing(t *testing.T) {
	for _, bound := range []bool{false, true} {
		for _, mode := range []string{"simple", "extended", "prepared"} {
			for _, clients := range []int{1, 64} {
				s := newBench(t, 10)
				s.withTenants(bound)
				x := newTraffic(s, clients, mode)
				for range 6000 {
					x.step()
				}
				if n := testing.AllocsPerRun(2000, x.step); n >= 1 && !underRace {
					t.Errorf("%s, %d clients, bound %v: %v allocations for each transaction", mode, clients, bound, n)
				}
				if s.sent.Load() == 0 && (clients > 1 || !bound) {
					t.Errorf("%s, %d clients, bound %v: no context was sent", mode, clients, bound)
				}
			}
		}
	}
}
