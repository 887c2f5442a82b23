package router_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func shop(t testing.TB) *router.Router {
	f := fixture{options: router.Options{Cluster: "shop", Shards: 2}}
	f.readConfig(t, `
		table orders tenant_id bigint 1,2=0 11,12=1
		table items tenant_id bigint 1,2=0 11,12=1
		omni countries`)
	f.options.Schema = schema(t, `
table orders id:int8 tenant_id:int8 customer:int8
table items id:int8 tenant_id:int8 order_id:int8
table countries id:int8 code:text
view v_orders id:int8 tenant_id:int8 AS SELECT orders.id, orders.tenant_id FROM public.orders
function f`)
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	return f.r
}

func TestMemoIsOfRouterAndSearchPath(t *testing.T) {
	t.Parallel()
	f := fixture{options: router.Options{Cluster: "shop", Shards: 2}}
	f.readConfig(t, "table app.orders tenant_id bigint 1=0 11=1")
	f.options.Schema = schema(t, "table app.orders id:int8 tenant_id:int8\ntable public.orders id:int8 tenant_id:int8")
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	m := parser.Parse("SELECT * FROM orders")
	app, public := &router.Env{SearchPath: []string{"app"}, SearchPathKey: "app"}, &router.Env{SearchPath: []string{"public"}, SearchPathKey: "public"}
	in := &router.Input{UTF8: true}
	for range 2 {
		if plan, e := f.r.Route(m, app).Plan(in); e == nil {
			t.Errorf("app: got %v, want a refusal", plan)
		}
		if plan, e := f.r.Route(m, public).Plan(in); e != nil || plan.Kind != sharding.PlanAny {
			t.Errorf("public: got %v, %v, want any", plan, e)
		}
	}
	if first := f.r.Route(m, public); first != f.r.Route(m, public) {
		t.Error("the route was not remembered")
	}
	before := f.r.Route(m, public)
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	if f.r.Route(m, public) == before {
		t.Error("another router took the first one's route")
	}
	m = parser.Parse("SELECT * FROM app.orders WHERE tenant_id = 11")
	if f.r.Route(m, public) != f.r.Route(m, app) {
		t.Error("a route that needs no search path depends on it")
	}
}

func TestExecuteGoesByWhatItRuns(t *testing.T) {
	t.Parallel()
	r := shop(t)
	m := parser.Parse("EXECUTE q (11)")
	executing := func(sql string) *parser.Message {
		return m.Executing(func(string) *parser.Statement { return parser.Parse(sql).Statements[0] })
	}
	in := &router.Input{UTF8: true}
	for _, c := range []struct {
		sql  string
		want topology.ShardID
	}{
		{"PREPARE q AS SELECT * FROM orders WHERE tenant_id = $1", 1},
		{"PREPARE q AS SELECT * FROM orders WHERE tenant_id = 1", 0},
		{"SELECT * FROM orders WHERE tenant_id = $1", 1}, // what the PREPARE wraps
	} {
		plan, e := r.Route(executing(c.sql), nil).Plan(in)
		if e != nil || plan.Kind != sharding.PlanShard || plan.Shard != c.want {
			t.Errorf("%s: got %v, %v, want shard %d", c.sql, plan, e, c.want)
		}
	}
}

func TestRoutesAreSafeTogether(t *testing.T) {
	t.Parallel()
	one, other := shop(t), shop(t)
	m := parser.Parse("SELECT * FROM v_orders WHERE tenant_id = $1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := one
			if i%2 == 0 {
				r = other
			}
			for n := range 200 {
				tenant := []string{"1", "11"}[n%2]
				plan, e := r.Route(m, &router.Env{SearchPath: []string{"public"}, SearchPathKey: strconv.Itoa(n % 3)}).
					Plan(&router.Input{UTF8: true, Params: testParams{{value: []byte(tenant)}}})
				if e != nil || int(plan.Shard) != n%2 {
					t.Errorf("got %v, %v", plan, e)
				}
			}
		})
	}
	wg.Wait()
}

func TestOptionsMistakes(t *testing.T) {
	t.Parallel()
	good := mapping(t, sharding.Bigint, []string{"1=0", "2=3"})
	for want, o := range map[string]router.Options{
		"has no shards":                      {},
		"no column":                          {Shards: 1, Tables: []router.Table{{Type: sharding.Bigint}}},
		"no type":                            {Shards: 1, Tables: []router.Table{{Column: "x"}}},
		"its mapping is of bigint, not uuid": {Shards: 4, Tables: []router.Table{{Column: "x", Type: sharding.UUID, Mapping: good}}},
		"its mapping names shard 3, but there are 2 shards": {Shards: 2, Tables: []router.Table{{Column: "x", Type: sharding.Bigint, Mapping: good}}},
		"omnisharded": {Shards: 4, Tables: []router.Table{{Name: "t", Column: "x", Type: sharding.Bigint}}, Omnisharded: []topology.QualifiedName{{Name: "t"}}},
	} {
		if _, err := router.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestPlainNeedsNoParse(t *testing.T) {
	t.Parallel()
	r, err := router.New(router.Options{Cluster: "shop", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Plain() || r.Shards() != 1 || r.Cluster() != "shop" {
		t.Errorf("got %v, %d, %q", r.Plain(), r.Shards(), r.Cluster())
	}
	plan, e := r.Route(&parser.Message{}, nil).Plan(&router.Input{})
	if e != nil || plan.Kind != sharding.PlanShard || plan.Shard != 0 || !plan.Write {
		t.Errorf("got %v, %v", plan, e)
	}
}

func TestNeedsParams(t *testing.T) {
	t.Parallel()
	r := shop(t)
	for sql, want := range map[string]bool{
		"SELECT * FROM orders WHERE tenant_id = $1":             true,
		"SELECT * FROM orders WHERE tenant_id = 11 AND id = $1": false,
		"SELECT $1":                          false,
		"SELECT * FROM orders WHERE id = $1": false,
	} {
		if got := r.Route(parser.Parse(sql), nil).NeedsParams(); got != want {
			t.Errorf("%s: got %v, want %v", sql, got, want)
		}
	}
	if _, e := r.Route(parser.Parse("SELECT * FROM orders WHERE tenant_id = $1"), nil).Plan(&router.Input{}); e != router.ErrNeedsParams {
		t.Errorf("without parameters: got %v, want ErrNeedsParams", e)
	}
}

// TestHugeStatements: what a client can make big must not take long, nor be guessed at.
func TestHugeStatements(t *testing.T) {
	t.Parallel()
	r := shop(t)
	repeat := func(n int, format, separator string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = strings.ReplaceAll(format, "%d", strconv.Itoa(i))
		}
		return strings.Join(parts, separator)
	}
	chain := func(n int) string {
		sql := "WITH x0 AS (SELECT * FROM orders)"
		for i := 1; i <= n; i++ {
			sql += fmt.Sprintf(", x%d AS (SELECT a.* FROM x%d a JOIN x%d b ON a.tenant_id = b.tenant_id)", i, i-1, i-1)
		}
		return sql + fmt.Sprintf(" SELECT * FROM x%d WHERE tenant_id = 11", n)
	}
	nested := func(n int) string {
		return strings.Repeat("SELECT * FROM (", n) + "SELECT * FROM orders" + strings.Repeat(") d", n) + " WHERE tenant_id = 11"
	}
	ors := func(n int) string {
		sql := "SELECT * FROM orders o, items i WHERE i.tenant_id = o.tenant_id"
		for range n {
			sql += " AND (o.tenant_id = 11 AND o.id = 1 OR i.tenant_id = 11 AND i.id = 2 OR o.tenant_id = 12 AND i.id = 7)"
		}
		return sql
	}
	deep := "o.tenant_id = 11"
	for range 12 {
		deep = "(" + deep + " AND o.id = 1 OR i.tenant_id = 12 AND (i.id = 2 OR o.id = 3))"
	}
	for name, c := range map[string]struct{ sql, want string }{
		"many values":     {"SELECT * FROM orders WHERE tenant_id IN (" + repeat(50_000, "11", ", ") + ")", "shard 1"},
		"many ors":        {"SELECT * FROM orders WHERE " + repeat(2_000, "tenant_id = 11", " OR "), "shard 1"},
		"many rows":       {"INSERT INTO orders (id, tenant_id) VALUES " + repeat(20_000, "(%d, 11)", ", "), "shard 1 write"},
		"many row pairs":  {"SELECT * FROM orders WHERE (id, tenant_id) IN (" + repeat(2_000, "(%d, 11)", ", ") + ")", "shard 1"},
		"many tables":     {"SELECT * FROM " + repeat(1_000, "orders t%d", ", ") + " WHERE " + repeat(1_000, "t%d.tenant_id = 11", " AND "), "shard 1"},
		"left joins":      {"SELECT * FROM orders o " + repeat(300, "LEFT JOIN items t%d ON t%d.tenant_id = o.tenant_id", " ") + " WHERE o.tenant_id = 11", "shard 1"},
		"chain":           {chain(5), "shard 1"},
		"explosion":       {chain(40), "54001 too_complex"},
		"hint explosion":  {"/* pgdog_shard: 1 */ " + chain(40), "shard 1 write"},
		"nested":          {nested(200), "shard 1"},
		"choices":         {ors(30), "shard 1"},
		"nested choices":  {"SELECT * FROM orders o, items i WHERE i.tenant_id = o.tenant_id AND " + deep, "shard 1"},
		"many statements": {repeat(2_000, "DELETE FROM orders WHERE tenant_id = 11", ";"), "shard 1 write"},
	} {
		m := parser.Parse(c.sql)
		start := time.Now()
		plan, e := r.Route(m, nil).Plan(&router.Input{UTF8: true})
		took := time.Since(start)
		if got := outcome(plan, e); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
		t.Logf("%s: %v", name, took.Round(time.Microsecond))
		if took > 5*time.Second { // a few 10 ms, on a machine that does nothing else
			t.Errorf("%s: took %v", name, took)
		}
	}
}

var numbers = regexp.MustCompile(`[0-9]+`)

// FuzzRoute holds the router to this for any text: it does not fail, its plan is the same again, and it names a shard
// only if a tenant of that shard, or the shard itself, stands in the text.
func FuzzRoute(f *testing.F) {
	for i := range 200 {
		g := newGenerator(99, uint64(i))
		f.Add(g.statement())
	}
	for _, sql := range []string{
		"SELECT 1; SELECT * FROM orders WHERE tenant_id = 11", "/* pgdog_shard: 1 */ SELECT 1", "/* pgdog_sharding_key: 11 */ SELECT * FROM orders",
		"COPY orders FROM STDIN", "EXECUTE q (11)", "MERGE INTO orders o USING items i ON o.id = i.id WHEN MATCHED THEN DELETE",
		"SELECT * FROM orders WHERE tenant_id = 0x0B OR tenant_id = 1.1e1 OR tenant_id = U&'\\0031\\0031'", "PREPARE q AS SELECT * FROM orders WHERE tenant_id = $1",
	} {
		f.Add(sql)
	}
	known, blind := shop(f), func() *router.Router {
		x := fixture{options: router.Options{Cluster: "shop", Shards: 2}}
		x.readConfig(f, "table * tenant_id bigint 1,2=0 11,12=1")
		x.rebuild(f)
		return x.r
	}()
	prepared := parser.Parse("PREPARE q AS SELECT * FROM orders WHERE tenant_id = $1").Statements[0]
	find := func(name string) *parser.Statement {
		if name == "q" {
			return prepared
		}
		return nil
	}
	f.Fuzz(func(t *testing.T, sql string) {
		m := parser.Parse(sql).Executing(find)
		for _, r := range []*router.Router{known, blind} {
			in := &router.Input{UTF8: true}
			rt := r.Route(m, nil)
			plan, e := rt.Plan(in)
			if e == nil {
				_, _ = rt.Explain(in)
			} else if e.Code == "" || e.Message == "" {
				t.Fatalf("%q: refusal %+v", sql, e)
			}
			if _, described := rt.Describe(in); described != nil && e == nil {
				t.Fatalf("%q runs, but can't be described: %v", sql, described)
			}
			if again, e2 := r.Route(m, nil).Plan(in); again != plan || (e2 == nil) != (e == nil) {
				t.Fatalf("%q: %v, %v, and then %v, %v", sql, plan, e, again, e2)
			}
			if e != nil || plan.Kind != sharding.PlanShard {
				continue
			}
			if !names(sql, m, plan.Shard) {
				t.Fatalf("%q: shard %d, whose tenants do not stand in it", sql, plan.Shard)
			}
		}
	})
}

// names reports that a tenant of the shard stands in the text in some spelling, or the shard in a hint.
func names(sql string, m *parser.Message, shard topology.ShardID) bool {
	if n, err := strconv.Atoi(m.Hints.Shard); err == nil && topology.ShardID(n) == shard {
		return true
	}
	if strings.ContainsAny(sql, `\_.xXoObBeE&`) && numbers.MatchString(sql) {
		// Escapes and other bases: the spellings are tested by themselves; here they only must not be missed.
		text := m.String()
		for _, n := range numbers.FindAllString(text, -1) {
			if tenantOf(n, shard) {
				return true
			}
		}
		return strings.Contains(text, "n@") || strings.Contains(text, "numeric") || strings.Contains(text, "float") // 10.6::int
	}
	for _, n := range numbers.FindAllString(sql, -1) {
		if tenantOf(n, shard) {
			return true
		}
	}
	return false
}

func tenantOf(number string, shard topology.ShardID) bool {
	n, err := strconv.ParseUint(number, 10, 64)
	return err == nil && (shard == 0 && (n == 1 || n == 2) || shard == 1 && (n == 11 || n == 12))
}

// oneParam is a parameter that costs nothing to ask for.
type oneParam struct {
	value  []byte
	binary bool
}

func (p *oneParam) Param(int) ([]byte, bool, uint32, bool) { return p.value, p.binary, 0, true }

func TestPlanDoesNotAllocate(t *testing.T) {
	r := shop(t)
	for sql, params := range map[string]router.Params{
		"SELECT * FROM orders WHERE tenant_id = $1":                                                             &oneParam{value: []byte("11")},
		"SELECT * FROM orders WHERE tenant_id = $1 AND id = 5":                                                  &oneParam{value: int8Bytes(11), binary: true},
		"SELECT * FROM orders o JOIN items i ON i.tenant_id = o.tenant_id WHERE o.tenant_id = $1":               &oneParam{value: []byte("11")},
		"INSERT INTO orders (id, tenant_id) VALUES (1, $1)":                                                     &oneParam{value: []byte("11")},
		"SELECT * FROM orders WHERE tenant_id = 11":                                                             nil,
		"SELECT * FROM countries":                                                                               nil,
		"SELECT * FROM orders WHERE tenant_id = 11; SELECT * FROM items WHERE tenant_id = 12; SELECT 1; COMMIT": nil,
	} {
		m := parser.Parse(sql)
		in := &router.Input{UTF8: true, Params: params}
		if n := testing.AllocsPerRun(100, func() {
			if _, e := r.Route(m, nil).Plan(in); e != nil {
				t.Fatal(sql, e)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", sql, n)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	r := shop(b)
	for _, c := range []struct {
		name, sql string
		params    router.Params
	}{
		{"param text", "SELECT * FROM orders WHERE tenant_id = $1", &oneParam{value: []byte("11")}},
		{"param binary", "SELECT * FROM orders WHERE tenant_id = $1", &oneParam{value: int8Bytes(11), binary: true}},
		{"literal", "SELECT * FROM orders WHERE tenant_id = 11", nil},
		{"any", "SELECT * FROM countries", nil},
		{"array of 10", "SELECT * FROM orders WHERE tenant_id = ANY ($1)", &oneParam{value: []byte("{11,12,11,12,11,12,11,12,11,12}")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := parser.Parse(c.sql)
			in := &router.Input{UTF8: true, Params: c.params}
			env := &router.Env{SearchPath: []string{"public"}, SearchPathKey: "public"}
			b.ReportAllocs()
			for b.Loop() {
				if _, e := r.Route(m, env).Plan(in); e != nil {
					b.Fatal(e)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	r := shop(b)
	for name, sql := range map[string]string{
		"point":  "SELECT * FROM orders WHERE tenant_id = $1 AND id = $2",
		"join":   "SELECT o.id, i.id FROM orders o LEFT JOIN items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id WHERE o.tenant_id = $1 AND o.customer = 5 ORDER BY 1 LIMIT 10",
		"insert": "INSERT INTO orders (id, tenant_id, customer) VALUES ($1, $2, $3) RETURNING id",
	} {
		b.Run(name, func(b *testing.B) {
			m := parser.Parse(sql)
			b.ReportAllocs()
			for b.Loop() {
				clear(m.Memo[:])
				r.Route(m, nil)
			}
		})
	}
}

func BenchmarkCopy(b *testing.B) {
	r := copyFixture(b)
	row := []byte(strings.Repeat("1234567\t11\tthe rest of a row of an ordinary table, as long as they are\n", 100))
	for _, sql := range []string{"COPY orders FROM STDIN", "COPY orders FROM STDIN (FORMAT csv, DELIMITER E'\\t')"} {
		b.Run(sql[len("COPY orders FROM STDIN"):], func(b *testing.B) {
			cr := newCopy(b, r, sql, &router.Input{UTF8: true})
			b.SetBytes(int64(len(row)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, e := cr.Feed(row); e != nil {
					b.Fatal(e)
				}
			}
		})
	}
}
