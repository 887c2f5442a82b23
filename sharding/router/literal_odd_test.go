package router_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding/router"
)

func oddFixture(t testing.TB, typ string) *fixture {
	var f fixture
	f.options.Cluster, f.options.Shards = "shop", 2
	const list = " tenant_id bigint 1,2,5,7,-5,16777216=0 0,3,4,9,-7,-9,16777217=1\n"
	cfg := "table orders" + list + "table items" + list + "omni countries"
	sch := "table orders id:int8 tenant_id:int8 customer:int8\ntable items id:int8 tenant_id:int8 order_id:int8\ntable countries id:int8 code:int8\n"
	if typ == "text" {
		cfg = "table orders tenant_id text a,b,1,42,0=0 c,d,2,3,a\\=1\ntable items tenant_id text a,b,1,42,0=0 c,d,2,3,a\\=1\nomni countries"
		sch = strings.ReplaceAll(sch, "tenant_id:int8", "tenant_id:text")
	}
	f.readConfig(t, cfg)
	f.options.Schema = schema(t, sch)
	f.rebuild(t)
	return &f
}

// pair checks that second is routed as for itself when it is routed by its shape, of which first was seen first. It reports whether it was.
func pair(t testing.TB, f *fixture, first, second string, utf8 bool) bool {
	t.Helper()
	cache := parser.NewCache(8 << 20)
	var s parser.Shape
	cache.ParseShape([]byte(first), &s, "")
	cache.ParseShape([]byte(first), &s, "") // the first text of a shape is for itself
	if k := string(s.Key); k == "" {
		return false
	}
	m := cache.ParseShape([]byte(second), &s, "")
	if !m.Shaped {
		return false
	}
	in := router.Input{UTF8: utf8}
	in.Text, in.Literals = []byte(second), s.Literals
	fresh := parser.Parse(second)
	want, wantErr := f.r.Route(fresh, nil).Plan(&in)
	got, gotErr := f.r.Route(m, nil).Plan(&in)
	if gotErr == router.ErrNeedsText {
		return false
	}
	if outcome(got, gotErr) != outcome(want, wantErr) || got.Reason != want.Reason || got.Unjudged != want.Unjudged {
		if fresh.Unparsable != nil {
			return true // the server refuses it
		}
		t.Errorf("\nfirst  %q\nsecond %q\nby its shape: %s (%s) %v\nby itself:    %s (%s) %v", first, second, outcome(got, gotErr), got.Reason, got.Unjudged, outcome(want, wantErr), want.Reason, want.Unjudged)
	}
	return true
}

// Literals that decide more than a value, in places where they are hard to see.
func TestLiteralsThatDecide(t *testing.T) {
	t.Parallel()
	f := oddFixture(t, "bigint")
	for _, x := range [][2]string{
		{"SELECT * FROM orders WHERE tenant_id = -(.5e1)", "SELECT * FROM orders WHERE tenant_id = -(.7e1)"},
		{"SELECT * FROM orders WHERE tenant_id = -(0.0)", "SELECT * FROM orders WHERE tenant_id = -(7.0)"},
		{"SELECT * FROM orders WHERE tenant_id = +(0.0)", "SELECT * FROM orders WHERE tenant_id = +(7.0)"},
		{"SELECT * FROM orders WHERE tenant_id = -/**/.5e1", "SELECT * FROM orders WHERE tenant_id = -/**/.7e1"},
		{"SELECT * FROM orders WHERE tenant_id = -/**/.5e1", "SELECT * FROM orders WHERE tenant_id = - .7e1"},
		{"SELECT * FROM orders WHERE tenant_id = operator(pg_catalog.-) 0.0", "SELECT * FROM orders WHERE tenant_id = operator(pg_catalog.-) 7.0"},
		{"INSERT INTO orders VALUES (1, -(0.0), 3)", "INSERT INTO orders VALUES (1, -(7.0), 3)"},
		{"DELETE FROM orders WHERE tenant_id = -(0.0)::int8", "DELETE FROM orders WHERE tenant_id = -(7.0)::int8"},
		{"SELECT * FROM orders WHERE tenant_id = 16777217::float(1)", "SELECT * FROM orders WHERE tenant_id = 16777217::float(53)"},
		{"SELECT * FROM orders WHERE tenant_id = 16777217::float(53)", "SELECT * FROM orders WHERE tenant_id = 16777217::float(1)"},
		{"INSERT INTO orders VALUES (1, '16777217'::float(1), 3)", "INSERT INTO orders VALUES (1, '16777217'::float(53), 3)"},
		{"SELECT * FROM orders WHERE tenant_id::float(1) = 16777217", "SELECT * FROM orders WHERE tenant_id::float(53) = 16777217"},
	} {
		pair(t, f, x[0], x[1], true)
	}
}

var oddNumbers = []string{
	"0", "1", "2", "5", "7", "9", "16777217", "2147483648", "9007199254740993", "9223372036854775807", "9223372036854775808", "0.0",
	".5e1", "0e0", "0.7e1", "7.", "7.0", "0.5", "1.", "5e0", "1e400", "0.7E+1", "007", "0x7", "0_7", "1_000", "24", "25", "53", "54",
	"1_6777217.0", "50e-1",
}

var oddStrings = []string{
	"''", "' '", "'7'", "' 7 '", "'+7'", "'-7'", "'07'", "'7.0'", "E'7'", "E'\\x37'", "E'\\067'", "$$7$$", "$a$7$a$", "$$ $ $$",
	"'7'\n''", "'5'\n--c\n'5'", "E'5'\n''", "'{7}'", "'{}'", "'{NULL}'", "'{5,7}'", "'NaN'", "'Infinity'", "'t'", "'f'", "E't'",
	"E'f'", "'it''s'", "'''t'", "'1_0'", "'0x7'", "'\u00a07'", "'7\t'", "'search_path'", "E'search_path'", "'pgdog_shard: 1'",
	"'/* pgdog_shard: 1 */'", "'\t7\n'", "'9223372036854775808'", "'a'", "'b'", "'a\\'", "'c'", "'d '", "'ü'",
}

func oddExpr(r *rand.Rand, d int) string {
	n := func() string { return oddNumbers[r.IntN(len(oddNumbers))] }
	s := func() string { return oddStrings[r.IntN(len(oddStrings))] }
	types := []string{"int8", "bigint", "int", "smallint", "text", "varchar", "numeric", "float(53)", "float8", "real", "float", "numeric(10,2)", "varchar(3)", "char", "bpchar", "uuid", "bool", "decimal", "oid", "name", "int8[]"}
	ty := func() string { return types[r.IntN(len(types))] }
	sp := []string{"", " ", "/**/", "/* c */ ", "\n", "-- x\n"}[r.IntN(6)]
	if d <= 0 {
		switch r.IntN(3) {
		case 0:
			return s()
		}
		return n()
	}
	e := func() string { return oddExpr(r, d-1-r.IntN(2)) }
	switch r.IntN(16) {
	case 0:
		return "- " + sp + e()
	case 1:
		return "+" + sp + e()
	case 2:
		return "-(" + e() + ")"
	case 3:
		return "(" + e() + ")"
	case 4:
		return e() + "::" + ty()
	case 5:
		return "(" + e() + ")::" + ty()
	case 6:
		return "CAST(" + e() + " AS " + ty() + ")"
	case 7:
		return []string{"bigint ", "int8 ", "text ", "float8 ", "float(53) ", "numeric ", "N", "n ", "varchar ", "bool ", "real "}[r.IntN(11)] + s()
	case 8:
		return "operator(pg_catalog.-)" + sp + e()
	case 9:
		return "-" + sp + n()
	case 10:
		return "CASE WHEN " + e() + " = " + e() + " THEN " + e() + " ELSE " + e() + " END"
	case 11:
		return "COALESCE(" + e() + ", " + e() + ")"
	case 12:
		return "(SELECT " + e() + ")"
	case 13:
		return "(VALUES (" + e() + "))"
	default:
		return oddExpr(r, 0)
	}
}

func oddCondition(r *rand.Rand, d int, tab string) string {
	e := func() string { return oddExpr(r, r.IntN(3)) }
	c := func() string { return oddCondition(r, d-1, tab) }
	col := tab + "tenant_id"
	k := r.IntN(18)
	if d <= 0 && k < 5 {
		k += 5
	}
	switch k {
	case 0:
		return "(" + c() + " AND " + c() + ")"
	case 1:
		return "(" + c() + " OR " + c() + ")"
	case 2:
		return "NOT (" + c() + ")"
	case 3:
		return "(" + c() + ") IS TRUE"
	case 4:
		return "(" + c() + ") IS NOT FALSE"
	case 5:
		return e() + " = " + col
	case 6:
		return col + " IN (" + e() + ", " + e() + ")"
	case 7:
		return col + " = ANY (" + oddStrings[r.IntN(len(oddStrings))] + []string{"", "::int8[]", "::bigint[]", "::text[]"}[r.IntN(4)] + ")"
	case 8:
		return col + " = ANY (ARRAY[" + e() + ", " + e() + "]" + []string{"", "::int8[]", "::float(53)[]"}[r.IntN(3)] + ")"
	case 9:
		return "(" + col + ", id) = (" + e() + ", " + e() + ")"
	case 10:
		return col + " BETWEEN " + e() + " AND " + e()
	case 11:
		return e() + " = " + e()
	case 12:
		return col + " IS NOT DISTINCT FROM " + e()
	case 13:
		return e()
	case 14:
		return "NOT (" + col + " <> " + e() + ")"
	case 15:
		return "NOT (" + col + " <> ALL (ARRAY[" + e() + "]))"
	default:
		return col + " = " + e()
	}
}

func oddStatement(r *rand.Rand) string {
	e := func() string { return oddExpr(r, r.IntN(3)) }
	c := func() string { return oddCondition(r, r.IntN(3), "") }
	switch r.IntN(14) {
	case 0:
		return "INSERT INTO orders (id, tenant_id, customer) VALUES (1, " + e() + ", 2), (2, " + e() + ", 3)"
	case 1:
		return "INSERT INTO orders SELECT 1, " + e() + ", 2"
	case 2:
		return "UPDATE orders SET customer = " + e() + " WHERE " + c()
	case 3:
		return "UPDATE orders SET tenant_id = " + e() + " WHERE " + c()
	case 4:
		return "DELETE FROM orders WHERE " + c() + " RETURNING " + e()
	case 5:
		return "INSERT INTO orders VALUES (1, " + e() + ", 2) ON CONFLICT (tenant_id, id) DO UPDATE SET customer = " + e() + " WHERE orders.tenant_id = " + e()
	case 6:
		return "WITH x AS (SELECT " + e() + " AS k) SELECT * FROM orders JOIN x ON tenant_id = k WHERE " + c()
	case 7:
		return "SELECT * FROM orders o JOIN items i ON o.tenant_id = i.tenant_id WHERE " + oddCondition(r, 1, "o.") + " AND " + oddCondition(r, 1, "i.")
	case 8:
		return "SELECT tenant_id, count(*) FROM orders WHERE " + c() + " GROUP BY " + []string{"1", "tenant_id", "- -1", "-(-1)", "(1)", "2"}[r.IntN(6)] + " ORDER BY " + []string{"1", "2"}[r.IntN(2)] + " LIMIT " + e()
	case 9:
		return "SELECT * FROM orders, (VALUES (" + e() + ", " + e() + ")) v(a, b) WHERE tenant_id = v.a"
	case 10:
		return "SELECT * FROM (SELECT " + e() + " AS a UNION ALL SELECT " + e() + ") v, orders WHERE tenant_id = v.a"
	case 11:
		return "MERGE INTO orders o USING (SELECT " + e() + " AS k) s ON o.tenant_id = s.k WHEN MATCHED THEN UPDATE SET customer = " + e()
	case 12:
		return "SELECT set_config(" + e() + ", " + e() + ", " + e() + "), * FROM orders WHERE " + c()
	default:
		return "SELECT * FROM orders WHERE " + c()
	}
}

// swapLiterals puts other literals in sql's places, of the kind that the shape allows.
func swapLiterals(r *rand.Rand, sql string) string {
	return withLiterals(sql, func(kind parser.TokenKind, raw string) string {
		if r.IntN(3) == 0 {
			return raw
		}
		if kind != parser.TokenInteger && kind != parser.TokenFloat {
			return oddStrings[r.IntN(len(oddStrings))]
		}
		for range 20 {
			n := oddNumbers[r.IntN(len(oddNumbers))]
			if strings.ContainsAny(n, ".eE") == (kind == parser.TokenFloat) {
				return n
			}
		}
		return raw
	})
}

// Random statements with odd literals, each routed by the shape of another.
func TestOddLiteralsByShape(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"bigint", "text"} {
		for _, tenant := range []string{"", "tenant_id"} {
			t.Run(typ+" "+tenant, func(t *testing.T) {
				t.Parallel()
				f := oddFixture(t, typ)
				f.options.TenantColumn = tenant
				f.rebuild(t)
				planned := 0
				for i := range uint64(400) {
					r := rand.New(rand.NewPCG(77, i))
					sql := oddStatement(r)
					for range 2 {
						if pair(t, f, sql, swapLiterals(r, sql), r.IntN(5) > 0) {
							planned++
						}
					}
				}
				if planned == 0 {
					t.Error("nothing was planned by its shape")
				}
			})
		}
	}
}
