package loop

import (
	"testing"

	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// modelRouter routes orders by tenant_id: tenant k lives on shard k modulo n.
func modelRouter(t testing.TB, n int) *router.Router {
	t.Helper()
	r, err := router.New(router.Options{Cluster: "prod", Shards: n, Tables: modelTables(t, n)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func modelTables(t testing.TB, n int) []router.Table {
	t.Helper()
	b := sharding.NewBuilder(sharding.Bigint)
	for k := range int64(30) {
		if err := b.Value(sharding.BigintKey(k), topology.ShardID(k%int64(n))); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return []router.Table{{Name: "orders", Column: "tenant_id", Type: sharding.Bigint, Mapping: m}}
}
