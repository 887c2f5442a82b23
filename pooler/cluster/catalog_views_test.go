package cluster

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// TestDefinitionsOfViews: views over tables with a key come with their query, every name in it qualified.
func TestDefinitionsOfViews(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t, exampleSchema+`CREATE VIEW billing."It's" AS SELECT tenant_id FROM public.orders`)
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, db, settings(1))}}, Service: superuser(), LoadSchema: true, KeyColumns: []KeyColumn{{Column: "tenant_id"}},
	}, pgHooks())
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
	for name, want := range map[string]string{
		"public.order_view": "FROM public.orders", "public.deep_view": "FROM (public.order_view", "public.totals": "FROM public.deep_view",
		"public.operating": "OPERATOR(public.===)", "billing.It's": "FROM public.orders",
		"public.constants": "", "public.calling": "", "public.orders": "",
	} {
		schema, table, _ := strings.Cut(name, ".")
		rel := r.Schema().Lookup(schema, table, nil)
		if rel == nil || (rel.Definition != "") != (want != "") || !strings.Contains(rel.Definition, want) {
			t.Errorf("%s: got %+v, want a definition with %q", name, rel, want)
		}
	}
}

// TestLockedViewIsLeftOut: a table that somebody has locked costs the definitions, not the schema.
func TestLockedViewIsLeftOut(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t, `CREATE TABLE a (tenant_id bigint); CREATE VIEW v AS SELECT * FROM a`)
	conn, err := pgconn.Connect(t.Context(), shared.DSN(db, pgtest.Superuser, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
		t.Fatal(err)
	}
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, db, settings(1))}}, Service: superuser(), LoadSchema: true, KeyColumns: []KeyColumn{{Column: "tenant_id"}},
	}, pgHooks())
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
	if rel := r.Schema().Lookup("public", "v", nil); rel == nil || rel.Definition != "" || len(rel.Reads) != 1 {
		t.Errorf("got %+v, want a view without a definition", rel)
	}
	if !strings.Contains(r.log.String(), "views not all read") {
		t.Errorf("nothing is said of it: %s", r.log)
	}
	if _, err := conn.Exec(t.Context(), "ROLLBACK").ReadAll(); err != nil {
		t.Fatal(err)
	}
	<-r.RefreshSchema("test")
	if rel := r.Schema().Lookup("public", "v", nil); rel == nil || rel.Definition == "" {
		t.Errorf("got %+v, want a definition", rel)
	}
}
