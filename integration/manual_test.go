package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The configurations of PgDog's manual page on multitenancy: tenants by range, and by list, each in both forms that
// pgdog.toml has for a mapping.

const ordersSchema = `
CREATE TABLE orders (tenant_id bigint NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant_id, id));
`

// rule is one entry of a mapping.
type rule struct {
	kind       string // list, range, default
	values     string
	start, end string
	shard      int
}

// mapped is one of the manual's configurations.
type mapped struct {
	name   string
	shards int
	rules  []rule
	// tenants and their shards; rows of others have none.
	tenants map[int64]int
	// stranger is a tenant that no rule covers; 0 = there is none.
	stranger int64
}

var manuals = []mapped{
	{
		name: "two ranges", shards: 2, stranger: 2000,
		rules:   []rule{{kind: "range", end: "1_000", shard: 0}, {kind: "range", start: "1_000", end: "2_000", shard: 1}},
		tenants: map[int64]int{-7: 0, 1: 0, 999: 0, 1000: 1, 1999: 1},
	},
	{
		name: "two ranges and a default", shards: 3,
		rules: []rule{
			{kind: "range", end: "1_000", shard: 0},
			{kind: "range", start: "1_000", end: "2_000", shard: 1},
			{kind: "default", shard: 2},
		},
		tenants: map[int64]int{1: 0, 999: 0, 1000: 1, 1999: 1, 2000: 2, 1 << 62: 2},
	},
	{
		name: "two lists", shards: 2, stranger: 3,
		rules: []rule{
			{kind: "list", values: "[\n  1, 5,\n  1_000, # a large one\n]", shard: 0},
			{kind: "list", values: "[2, 7]", shard: 1},
		},
		tenants: map[int64]int{1: 0, 5: 0, 1000: 0, 2: 1, 7: 1},
	},
	{
		name: "two lists and a default", shards: 3,
		rules: []rule{
			{kind: "list", values: "[1, 5]", shard: 0},
			{kind: "list", values: "[2, 7]", shard: 1},
			{kind: "default", shard: 2},
		},
		tenants: map[int64]int{1: 0, 5: 0, 2: 1, 7: 1, 3: 2, -1: 2},
	},
}

// inline is the mapping as [[sharded_tables.mapping]].
func (m mapped) inline() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n[[sharded_tables]]\ndatabase = %q\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n", cluster)
	for _, r := range m.rules {
		b.WriteString("\n[[sharded_tables.mapping]]\n" + r.body())
	}
	return b.String()
}

// apart is the mapping as [[sharded_mappings]].
func (m mapped) apart() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n[[sharded_tables]]\ndatabase = %q\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n", cluster)
	for _, r := range m.rules {
		fmt.Fprintf(&b, "\n[[sharded_mappings]]\ndatabase = %q\ncolumn = \"tenant_id\"\nkind = %q\n%s", cluster, r.kind, r.body())
	}
	return b.String()
}

func (r rule) body() string {
	var b strings.Builder
	for _, kv := range [][2]string{{"values", r.values}, {"start", r.start}, {"end", r.end}} {
		if kv[1] != "" {
			fmt.Fprintf(&b, "%s = %s\n", kv[0], kv[1])
		}
	}
	fmt.Fprintf(&b, "shard = %d\n", r.shard)
	return b.String()
}

const multiTenant = "\n[multi_tenant]\ncolumn = \"tenant_id\"\n"

// twoRanges is what most tests use: tenants below 1000 on shard 0, below 2000 on shard 1.
var twoRanges = multiTenant + manuals[0].inline()

func TestManualConfigurations(t *testing.T) {
	t.Parallel()
	for _, m := range manuals {
		for _, form := range []struct {
			name string
			rest string
		}{{"inline", m.inline()}, {"sharded_mappings", m.apart()}} {
			t.Run(m.name+"/"+form.name, func(t *testing.T) {
				t.Parallel()
				s := start(t, spec{shards: m.shards, schema: ordersSchema, rest: multiTenant + form.rest, program: true})
				base := int64(0)
				for _, d := range drivers {
					t.Run(d.name, func(t *testing.T) {
						base += 100
						c := d.open(t, s)
						for tenant := range m.tenants {
							workload(t, c, tenant, base)
						}
						if m.stranger != 0 {
							refusesStranger(t, c, m.stranger)
						}
						s.holds(t, m.tenants, base)
					})
				}
			})
		}
	}
}

// workload leaves five rows of the tenant with ids above base, by every kind of statement that writes.
func workload(t *testing.T, c conn, tenant, base int64) {
	t.Helper()
	c.exec(t, "INSERT INTO orders (id, note, tenant_id) VALUES ($1, $2, $3)", base+1, "inserted", tenant)
	c.exec(t, "INSERT INTO orders VALUES ($1, $2, $3)", tenant, base+2, "without columns")
	c.exec(t, "UPDATE orders SET note = $1 WHERE id = $2 AND tenant_id = $3", "updated", base+1, tenant)
	c.exec(t, "INSERT INTO orders VALUES ($1, $2, 'x'), ($1, $3, 'y')", tenant, base+3, base+4)
	c.exec(t, "DELETE FROM orders WHERE tenant_id = $1 AND id IN ($2, $3)", tenant, base+3, base+4)
	c.exec(t, "INSERT INTO orders VALUES ($1, $2, 'new') ON CONFLICT (tenant_id, id) DO UPDATE SET note = 'upserted'", tenant, base+2)
	c.exec(t, "MERGE INTO orders o USING (SELECT $1::bigint AS t, $2::bigint AS i) s ON o.tenant_id = s.t AND o.id = s.i AND o.tenant_id = $1 "+
		"WHEN MATCHED THEN UPDATE SET note = 'seen' WHEN NOT MATCHED THEN INSERT VALUES ($1, s.i, 'merged')", tenant, base+4)
	c.copyIn(t, [][]any{{tenant, base + 5, "copied"}, {tenant, base + 6, nil}})
	if got := c.count(t, "SELECT count(*) FROM orders WHERE tenant_id = $1 AND id > $2 AND id < $3", tenant, base, base+100); got != 5 {
		t.Errorf("tenant %d has %d rows, not 5", tenant, got)
	}
}

// refusesStranger checks that a tenant that no rule covers gets nothing stored.
func refusesStranger(t *testing.T, c conn, tenant int64) {
	t.Helper()
	if code := c.fails(t, "INSERT INTO orders VALUES ($1, $2, 'lost')", tenant, int64(1)); code != "42704" {
		t.Errorf("unknown tenant: SQLSTATE %q, not 42704", code)
	}
}

// holds asks the instances: every tenant's rows are where they belong, and nothing else is anywhere.
func (s *stand) holds(t *testing.T, tenants map[int64]int, base int64) {
	t.Helper()
	for n, sh := range s.shards {
		var want []string
		for tenant, shard := range tenants {
			if shard != n {
				continue
			}
			for i, note := range []string{1: "updated", 2: "upserted", 4: "merged", 5: "copied", 6: "∅"} {
				if note != "" {
					want = append(want, fmt.Sprintf("%d|%d|%s", tenant, base+int64(i), note))
				}
			}
		}
		got := sh.rows(t, fmt.Sprintf("SELECT tenant_id, id, note FROM orders WHERE id > %d AND id < %d OR note = 'lost'", base, base+100))
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("shard %d holds\n%s\nand should hold\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
