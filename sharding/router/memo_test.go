package router_test

import (
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// memoRouter knows a sharded table with the name of a catalog, and a function of users' own with the name of a built-in one, both in schema
// held.
func memoRouter(t *testing.T) *router.Router {
	t.Helper()
	r, err := router.New(router.Options{
		Cluster: "shop", Shards: 2, TenantColumn: "tenant_id",
		Tables: []router.Table{{Name: "", Column: "tenant_id", Type: sharding.Bigint}},
		Schema: &topology.Schema{
			Relations: map[topology.QualifiedName]*topology.Relation{
				{Schema: "held", Name: "pg_description"}: {
					Schema: "held", Name: "pg_description", Kind: topology.Table,
					Columns: []topology.Column{{Name: "tenant_id", Type: "int8"}, {Name: "id", Type: "int4"}},
				},
				{Schema: "open", Name: "pg_description"}: {Schema: "open", Name: "pg_description", Kind: topology.Table, Columns: []topology.Column{{Name: "id", Type: "int4"}}},
			},
			FunctionNames: map[string]bool{"version": true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func env(key string, path ...string) *router.Env {
	return &router.Env{SearchPath: path, SearchPathKey: key}
}

// TestRoutesOfKnownPathsAreNotForUnknownOnes whatever key a session gives for either: a name that a known path does not lead to is harmless
// there, and may be anything where nobody knows the path.
func TestRoutesOfKnownPathsAreNotForUnknownOnes(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{"SELECT id FROM pg_description", "SELECT version()"} {
		r := memoRouter(t)
		m := parser.Parse(sql)
		in := &router.Input{UTF8: true}
		known := env("k", "", "")
		lost := env("k")
		lost.PathUnknown = true
		if plan, e := r.Route(m, known).Plan(in); e != nil || plan.Unjudged {
			t.Fatalf("%s: got %v, %v where the path is known", sql, plan, e)
		}
		if plan, e := r.Route(m, lost).Plan(in); e == nil && !plan.Unjudged {
			t.Errorf("%s: got %v where the path is unknown", sql, plan)
		}
		if plan, e := r.Route(m, known).Plan(in); e != nil || plan.Unjudged {
			t.Errorf("%s: got %v, %v where the path is known again", sql, plan, e)
		}
	}
}

// TestRoutesAreRememberedByPathAndRouter so that clusters and paths that take turns on a text don't compile it every time; what routers of the
// past made of it goes.
func TestRoutesAreRememberedByPathAndRouter(t *testing.T) {
	t.Parallel()
	one, other := memoRouter(t), memoRouter(t)
	m := parser.Parse("SELECT id FROM things WHERE tenant_id = $1")
	paths := []*router.Env{env("a", "a"), env("b", "b"), env("c", "c")}
	var first []*router.Route
	for _, e := range paths {
		first = append(first, one.Route(m, e))
	}
	for range 3 {
		for i, e := range paths {
			if one.Route(m, e) != first[i] {
				t.Errorf("path %s was compiled again", e.SearchPathKey)
			}
		}
	}
	other.Route(m, paths[0])
	for range parser.Memos {
		other.Route(m, paths[0])
	}
	for i, e := range paths {
		if one.Route(m, e) == first[i] {
			t.Errorf("what the cluster's router of before made of path %s is still there", e.SearchPathKey)
		}
	}
}
