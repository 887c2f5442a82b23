package external

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant"
)

// kind is an isolation and a mode.
type kind struct {
	i tenant.Isolation
	m tenant.Mode
}

var kinds = []kind{
	{tenant.Row, tenant.Strict}, {tenant.Row, tenant.Sealed}, {tenant.Row, tenant.Shared}, {tenant.Schema, tenant.Strict}, {tenant.Schema, tenant.Shared}, {tenant.Database, tenant.Strict},
}

func (k kind) String() string { return fmt.Sprintf("%s %s", k.i, k.m) }

// worldOf is a database for tenants of one kind. Where they share tables, these are there and safe.
func worldOf(t *testing.T, in *pgtest.Instance, k kind) (w *world, rows tenant.Mode) {
	t.Helper()
	if k.i != tenant.Row {
		w = newWorld(t, in, 0, nil)
		w.secured(t, 0)
		return w, 0
	}
	w = newWorld(t, in, k.m, nil, tables)
	w.secured(t, k.m)
	return w, k.m
}

// stock gives a tenant something that is its own, and returns the SQL that reads it.
func (w *world) stock(t *testing.T, r *tenant.Record) string {
	t.Helper()
	switch r.Isolation {
	case tenant.Row:
		w.in.Exec(t, w.db, fill(int(r.Key[0]-'0')))
		return "SELECT DISTINCT note FROM orders UNION ALL SELECT DISTINCT what FROM events ORDER BY 1"
	case tenant.Schema:
		w.in.Exec(t, w.db, fmt.Sprintf("SET ROLE %[1]s; CREATE TABLE %[2]s.orders (note text); CREATE TABLE %[2]s.lines (id serial); INSERT INTO %[2]s.orders VALUES ('of %[3]s'); CREATE VIEW %[2]s.v AS SELECT * FROM %[2]s.orders",
			ownerIn(w.db), r.Schema, r.Key))
	case tenant.Database:
		w.in.Exec(t, r.Database, fmt.Sprintf("SET ROLE %s; CREATE TABLE orders (note text); INSERT INTO orders VALUES ('of %s')", ownerIn(r.Database), r.Key))
	case tenant.Instance:
	}
	return "SELECT note FROM orders"
}

func ownerIn(db string) string { return ownerOf(&tenant.Record{Database: db}) }

func testKinds(t *testing.T, in *pgtest.Instance) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			w, rows := worldOf(t, in, k)
			one := w.made(t, "acme", k.i, k.m, "1")
			read := w.stock(t, one)
			other := record("umbrella", k.i, k.m, "2")
			before := w.catalog(t, one, other)

			two := other
			if err := w.x.Place(t.Context(), two); err != nil {
				t.Fatal(explain(err))
			}
			for range 2 {
				if err := w.x.Make(t.Context(), two); err != nil {
					t.Fatal(explain(err))
				}
			}
			if err := w.x.Place(t.Context(), two); err != nil {
				t.Errorf("placed when it is there: %s", explain(err))
			}
			if err := w.again(t).Make(t.Context(), two); err != nil {
				t.Fatal(explain(err))
			}
			w.stock(t, two)
			if strings.Contains(fmt.Sprint(w.catalog(t, two)), "umbrella") {
				t.Error("the tenant's name is in the catalogs")
			}
			w.healthy(t, rows, one, two)
			for _, r := range []*tenant.Record{one, two} {
				c, err := w.enter(t, r)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := strings.Fields(sees(t, c, read)), "of"; len(got) == 0 || slices.ContainsFunc(got, func(s string) bool { return s != want && s != r.Key }) {
					t.Errorf("tenant %s sees %v", r.Name, got)
				}
			}
			if n, err := w.x.Size(t.Context(), two); err != nil || n <= 0 && k.i != tenant.Row {
				t.Errorf("it has %d bytes, %v", n, err)
			}
			w.fences(t, k, rows, one, two, read)

			for range 2 {
				if err := w.x.Unmake(t.Context(), two); err != nil {
					t.Fatal(explain(err))
				}
			}
			if d := cmp.Diff(before, w.catalog(t, one, other)); d != "" {
				t.Errorf("left over: %s", d)
			}
			w.healthy(t, rows, one)
			c, err := w.enter(t, one)
			if err != nil {
				t.Fatal(err)
			}
			if got := sees(t, c, read); !strings.Contains(got, "of 1") {
				t.Errorf("the other tenant sees %s", got)
			}
			if k.i == tenant.Row {
				left := in.Query(t, w.db, "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM a_items), (SELECT count(*) FROM z_parts), (SELECT count(*) FROM tree), (SELECT count(*) FROM hen), (SELECT count(*) FROM egg), (SELECT count(*) FROM events), (SELECT count(*) FROM small)")
				if want := "25|25|25|25|25|25|2|1"; left[0] != want {
					t.Errorf("rows %s, want %s", left[0], want)
				}
			}
		})
	}
}

// fences closes and opens a tenant while it has a session.
func (w *world) fences(t *testing.T, k kind, rows tenant.Mode, one, two *tenant.Record, read string) {
	t.Helper()
	open, err := w.enter(t, two)
	if err != nil {
		t.Fatal(err)
	}
	neighbour, err := w.enter(t, one)
	if err != nil {
		t.Fatal(err)
	}
	good := sees(t, open, read)
	for range 2 {
		if err := w.x.Fence(t.Context(), two, true); err != nil {
			t.Fatal(explain(err))
		}
	}
	after := sees(t, open, read)
	if err := w.x.Make(t.Context(), two); err != nil { // repair does, and opens nothing
		t.Fatal(explain(err))
	}
	again := ""
	if c, err := w.enter(t, two); err != nil {
		again = err.Error()
	} else {
		again = sees(t, c, read)
	}
	if k == (kind{tenant.Row, tenant.Shared}) {
		if after != good || again != good {
			t.Errorf("the server can't fence it, and it sees %s, then %s", after, again)
		}
	} else if strings.Contains(after, "of") && !strings.Contains(after, "conn") || strings.Contains(again, "of 2") {
		t.Errorf("fenced it sees %s, and anew %s", after, again)
	}
	if got := sees(t, neighbour, read); !strings.Contains(got, "of 1") {
		t.Errorf("the neighbour sees %s", got)
	}
	w.healthy(t, rows, one, two)
	if err := w.x.Fence(t.Context(), two, false); err != nil {
		t.Fatal(explain(err))
	}
	c, err := w.enter(t, two)
	if err != nil {
		t.Fatal(err)
	}
	if got := sees(t, c, read); got != good {
		t.Errorf("opened again it sees %s, want %s", got, good)
	}
	w.healthy(t, rows, one, two)
}
