package router_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const oracleTables = `
	CREATE TABLE orders (id bigint, tenant_id bigint, customer bigint, PRIMARY KEY (tenant_id, id));
	CREATE TABLE items (id bigint, tenant_id bigint, order_id bigint, PRIMARY KEY (tenant_id, id));
	CREATE TABLE users (id bigint, tenant_id int, customer bigint, PRIMARY KEY (tenant_id, id));
	CREATE TABLE countries (id bigint, code bigint);
	CREATE VIEW v_orders AS SELECT * FROM orders;
	CREATE VIEW v_joined AS SELECT o.id, o.tenant_id, i.order_id FROM orders o LEFT JOIN items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id;
	CREATE VIEW v_counts AS SELECT tenant_id, count(*) AS id FROM items GROUP BY tenant_id;
	CREATE VIEW v_last AS SELECT * FROM items ORDER BY id DESC LIMIT 3;
`

const oracleSchema = `
table orders id:int8 tenant_id:int8 customer:int8
table items id:int8 tenant_id:int8 order_id:int8
table users id:int8 tenant_id:int4 customer:int8
table countries id:int8 code:int8
view v_orders id:int8 tenant_id:int8 customer:int8 AS %s
view v_joined id:int8 tenant_id:int8 order_id:int8 AS %s
view v_counts tenant_id:int8 id:int8 AS %s
view v_last id:int8 tenant_id:int8 order_id:int8 AS %s
`

const oracleConfig = `
table orders tenant_id bigint 1,2=0 11,12=1
table items tenant_id bigint 1,2=0 11,12=1
table users tenant_id bigint 1,2=0 11,12=1
omni countries
`

// oracle holds the same rows three times: all of them in one database, and each shard's in its own.
type oracle struct {
	all    *pgconn.PgConn
	shards []*pgconn.PgConn
	others [][]string     // what each shard does not hold
	with   *router.Router // knows the schema
	blind  *router.Router // does not
}

func newOracle(t testing.TB) *oracle {
	pg := pgtest.Shared(t)
	rows := func(tenants ...int) string {
		r := rand.New(rand.NewPCG(1, 1)) // the same rows wherever they are
		var sql strings.Builder
		for _, tenant := range []int{1, 2, 11, 12} {
			for i := range 5 {
				customer := []string{"NULL", "1", "11", strconv.Itoa(tenant), strconv.Itoa(r.IntN(4))}[r.IntN(5)]
				order := []string{"NULL", strconv.Itoa(r.IntN(6)), strconv.Itoa(tenant)}[r.IntN(3)]
				if !slices.Contains(tenants, tenant) {
					continue
				}
				fmt.Fprintf(&sql, "INSERT INTO orders VALUES (%d, %d, %s); INSERT INTO items VALUES (%d, %d, %s);", i, tenant, customer, i, tenant, order)
				if i < 3 {
					fmt.Fprintf(&sql, "INSERT INTO users VALUES (%d, %d, %s);", i, tenant, customer)
				}
			}
		}
		return sql.String() + "INSERT INTO countries VALUES (1, 1), (2, 11), (3, NULL);"
	}
	o := &oracle{}
	connect := func(tenants ...int) *pgconn.PgConn {
		db := pg.CreateDatabase(t, oracleTables, rows(tenants...))
		// A random join may be as big as it likes; then it proves nothing.
		conn, err := pgconn.Connect(t.Context(), pg.DSN(db, pgtest.Superuser, "", "statement_timeout=200"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	o.all = connect(1, 2, 11, 12)
	o.shards = []*pgconn.PgConn{connect(1, 2), connect(11, 12)}
	for s := range o.shards {
		rows, err := ask(o.shards[1-s], oracleDump, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.others = append(o.others, slices.DeleteFunc(rows, func(row string) bool { return strings.HasPrefix(row, "countries") }))
	}
	f := fixture{options: router.Options{Cluster: "oracle", Shards: 2}}
	f.readConfig(t, oracleConfig)
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	o.blind = f.r
	var definitions []any
	if _, err := o.all.Exec(t.Context(), "SET search_path TO pg_catalog").ReadAll(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"v_orders", "v_joined", "v_counts", "v_last"} {
		got, err := ask(o.all, "SELECT pg_get_viewdef('public."+v+"'::regclass)", nil)
		if err != nil {
			t.Fatal(err)
		}
		definitions = append(definitions, strings.Join(strings.Fields(got[0]), " "))
	}
	if _, err := o.all.Exec(t.Context(), "RESET search_path").ReadAll(); err != nil {
		t.Fatal(err)
	}
	f.options.Schema = schema(t, fmt.Sprintf(oracleSchema, definitions...))
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	o.with = f.r
	return o
}

// ask runs one statement and returns its rows as text, sorted.
func ask(conn *pgconn.PgConn, sql string, params testParams) ([]string, error) {
	values := make([][]byte, len(params))
	for i := range params {
		values[i] = params[i].value
	}
	res := conn.ExecParams(context.Background(), sql, values, nil, nil, nil).Read()
	if res.Err != nil {
		return nil, res.Err
	}
	rows := make([]string, 0, len(res.Rows))
	for _, row := range res.Rows {
		fields := make([]string, len(row))
		for i := range row {
			if fields[i] = string(row[i]); row[i] == nil {
				fields[i] = "∅"
			}
		}
		rows = append(rows, strings.Join(fields, "|"))
	}
	slices.Sort(rows)
	return rows, nil
}

const oracleDump = `SELECT 'orders', tenant_id, id, customer FROM orders UNION ALL SELECT 'items', tenant_id, id, order_id FROM items
	UNION ALL SELECT 'users', tenant_id, id, customer FROM users UNION ALL SELECT 'countries', 0, id, code FROM countries`

// result is what a statement gives, and what the tables hold after it.
func result(t testing.TB, conn *pgconn.PgConn, sql string, params testParams, write bool) (rows, dump []string, err error) {
	must := func(sql string) {
		if _, err := conn.Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if write {
		must("BEGIN")
		defer must("ROLLBACK")
	}
	if rows, err = ask(conn, sql, params); err != nil || !write {
		return rows, nil, err
	}
	dump, err = ask(conn, oracleDump, nil)
	return rows, dump, err
}

// TestOracle routes random statements and runs those that are routed where the router says, and where all rows are: the
// outcome must be the same. It is the proof that the router never leaves out a row that counts.
//
// PGKENNEL_ORACLE=SEED,COUNT looks further.
func TestOracle(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	seed, count := uint64(1), 1500
	if testing.Short() {
		count = 200
	}
	if s := os.Getenv("PGKENNEL_ORACLE"); s != "" {
		if _, err := fmt.Sscanf(s, "%d,%d", &seed, &count); err != nil {
			t.Fatal(err)
		}
	}
	stats := map[string]int{}
	for i := range count {
		g := newGenerator(seed, uint64(i))
		sql := g.statement()
		o.check(t, sql, g.params, stats)
		if t.Failed() {
			return
		}
	}
	t.Logf("%v", stats)
	if stats["routed"] < count/10 || stats["write"] < count/50 || stats["failed"] > count/4 {
		t.Errorf("the generator has become useless: %v", stats)
	}
}

func (o *oracle) check(t testing.TB, sql string, params testParams, stats map[string]int) {
	m := parser.Parse(sql)
	if m.Unparsable != nil {
		t.Fatalf("the generator wrote no SQL: %s\n%s", m.Unparsable.Message, sql)
	}
	in := &router.Input{Params: params, UTF8: true}
	var done sharding.Plan
	for _, name := range []string{"with", "blind"} {
		r := o.with
		if name == "blind" {
			r = o.blind
		}
		if name == "blind" && strings.Contains(sql, " v_") {
			continue // tables without an entry are not sharded while nothing is known of them
		}
		plan, refusal := r.Route(m, nil).Plan(in)
		if refusal != nil {
			stats[refusal.Routine]++
			if os.Getenv("PGKENNEL_ORACLE_SHOW") == refusal.Routine {
				t.Logf("%s: %s\nparams %s\n%s", name, sql, params, errorText(refusal))
			}
			continue
		}
		stats["routed"]++
		if plan.Write {
			stats["write"]++
		}
		if plan != done { // the same plan has the same outcome
			o.compare(t, name, sql, params, plan, stats)
		}
		done = plan
	}
}

// compare runs the statement where its plan says and where all rows are.
func (o *oracle) compare(t testing.TB, name, sql string, params testParams, plan sharding.Plan, stats map[string]int) {
	rows, dump, err := result(t, o.all, sql, params, plan.Write)
	places := []topology.ShardID{plan.Shard}
	if plan.Kind == sharding.PlanAny {
		places = []topology.ShardID{0, 1}
	}
	for _, s := range places {
		got, gotDump, gotErr := result(t, o.shards[s], sql, params, plan.Write)
		if code(err) == "57014" || code(gotErr) == "57014" {
			stats["too long"]++
			continue
		}
		if err != nil || gotErr != nil {
			if code(err) != code(gotErr) {
				t.Errorf("%s: %s\nparams %s\nplan %v shard %d: %v, where all rows are: %v", name, sql, params, plan.Kind, s, gotErr, err)
			}
			stats["failed"]++
			stats["failed "+code(err)]++
			continue
		}
		if !slices.Equal(rows, got) {
			t.Errorf("%s: %s\nparams %s\nplan %v shard %d: rows %q, where all rows are: %q", name, sql, params, plan.Kind, s, got, rows)
		}
		if len(rows) > 0 {
			stats["with rows"]++
		}
		if !plan.Write {
			continue
		}
		// What the shard does not hold must have stayed as it was.
		want := append(gotDump, o.others[s]...)
		slices.Sort(want)
		if !slices.Equal(dump, want) {
			t.Errorf("%s: %s\nparams %s\nplan %v shard %d: tables %q, where all rows are: %q", name, sql, params, plan.Kind, s, want, dump)
		}
	}
}

func code(err error) string {
	if err == nil {
		return "no error"
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return err.Error()
}

func (p testParams) String() string {
	var s []string
	for _, v := range p {
		s = append(s, string(v.value))
	}
	return strings.Join(s, ", ")
}
