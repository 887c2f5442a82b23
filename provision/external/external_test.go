package external

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

func testPlaces(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, tenant.Strict, func(o *Options) {
		c := o.Clusters["saas"]
		c.Shards = append(c.Shards, c.Shards[0])
		c.ShardOf = func(key string) (int, error) {
			if strings.HasPrefix(key, "9") {
				return 0, errors.New("no shard")
			}
			return int(key[0]-'0') % 2, nil
		}
		c.Taken = func(x *tenant.Tenant) error {
			if x.Key == "66" {
				return errors.New("the key is acme's")
			}
			return nil
		}
		o.Clusters["saas"] = c
	}, "CREATE SCHEMA there", "CREATE ROLE there")
	t.Cleanup(func() { in.Exec(t, "postgres", "DROP ROLE there") })
	for _, x := range []struct {
		kind   provision.ErrorKind
		text   string
		change func(*tenant.Record)
	}{
		{"invalid", "no name", func(r *tenant.Record) { r.Name = `a"; DROP` }},
		{"invalid", "no ID", func(r *tenant.Record) { r.ID = "" }},
		{"invalid", "makes no instances", func(r *tenant.Record) { r.Isolation = tenant.Instance }},
		{"invalid", "Leave --driver out", func(r *tenant.Record) { r.Driver = "docker" }},
		{"refused", "CPU", func(r *tenant.Record) { r.Limits.Memory = 1 }},
		{"refused", "I/O", func(r *tenant.Record) { r.Limits.IO = 1 }},
		{"refused", "postgresql.conf", func(r *tenant.Record) { r.Settings = map[string]string{"a": "b"} }},
		{"refused", "sleep", func(r *tenant.Record) { r.SuspendAfter = 1 }},
		{"refused", "WAL", func(r *tenant.Record) { r.Backups.Archive = true }},
		{"refused", "replicas", func(r *tenant.Record) { r.Replicas = make([]tenant.Replica, 1) }},
		{"refused", "superuser", func(r *tenant.Record) { r.Logins = []tenant.Login{{Superuser: true}} }},
		{"invalid", "is not configured", func(r *tenant.Record) { r.Cluster = "elsewhere" }},
		{"invalid", "row isolation only", func(r *tenant.Record) { r.Mode = tenant.Sealed }},
		{"invalid", "needs strict", func(r *tenant.Record) { r.Isolation, r.Mode = tenant.Database, tenant.Shared }},
		{"refused", "in mode strict", func(r *tenant.Record) { r.Isolation, r.Mode, r.Key = tenant.Row, tenant.Sealed, "1" }},
		{"refused", "extensions", func(r *tenant.Record) { r.Extensions = []string{"citext"} }},
		{"invalid", "--key", func(r *tenant.Record) { r.Isolation = tenant.Row }},
		{"invalid", "is no bigint", func(r *tenant.Record) { r.Key = "1 OR true" }},
		{"invalid", "other characters", func(r *tenant.Record) { r.Schema = `x"; DROP SCHEMA y` }},
		{"invalid", "pg_", func(r *tenant.Record) { r.Role = "pg_read_all_data" }},
		{"taken", "schema", func(r *tenant.Record) { r.Schema = "there" }},
		{"taken", "role", func(r *tenant.Record) { r.Role = "there" }},
		{"taken", "database", func(r *tenant.Record) { r.Isolation, r.Database = tenant.Database, w.db }},
		{"taken", "the key is acme's", func(r *tenant.Record) { r.Key = "66" }},
		{"refused", "no shard", func(r *tenant.Record) { r.Key = "9" }},
		{"refused", "as the mapping has it", func(r *tenant.Record) { r.Isolation, r.Key, r.Shard = tenant.Row, "3", 0 }},
		{"invalid", "no shard 2", func(r *tenant.Record) { r.Shard = 2 }},
		{"refused", "not 9", func(r *tenant.Record) { r.Version = "9" }},
	} {
		r := record("acme", tenant.Schema, 0, "")
		x.change(r)
		wants(t, w.x.Place(t.Context(), r), x.kind, x.text)
	}
	for _, x := range []struct {
		in, out tenant.Record
	}{
		{tenant.Record{Key: "007", Shard: -1}, tenant.Record{Key: "7", Isolation: tenant.Schema, Mode: tenant.Strict, Schema: "t_ID", Role: "t_ID", Shard: 1}},
		{tenant.Record{Isolation: tenant.Row, Key: " 4", Shard: -1}, tenant.Record{Key: "4", Isolation: tenant.Row, Mode: tenant.Strict, Role: "t_ID", Shard: -1}},
		{tenant.Record{Isolation: tenant.Database, Shard: 1}, tenant.Record{Isolation: tenant.Database, Mode: tenant.Strict, Role: "t_ID", Database: "t_ID", Shard: 1}},
		{tenant.Record{Mode: tenant.Shared, Shard: 0}, tenant.Record{Isolation: tenant.Schema, Mode: tenant.Shared, Schema: "t_ID", Role: "t_ID"}},
	} {
		r := x.in
		r.ID, r.Name = tenant.NewID(), "acme"
		if err := w.x.Place(t.Context(), &r); err != nil {
			t.Errorf("%+v: %s", x.in, explain(err))
			continue
		}
		want := x.out
		want.ID, want.Name, want.Cluster = r.ID, "acme", "saas"
		for _, s := range []*string{&want.Schema, &want.Role, &want.Database} {
			*s = strings.ReplaceAll(*s, "ID", r.ID)
		}
		if d := cmp.Diff(want, r); d != "" {
			t.Errorf("%+v: %s", x.in, d)
		}
	}
	r := record("acme", tenant.Schema, 0, "5")
	r.Isolation = 0
	w.o.Defaults = Defaults{Isolation: tenant.Schema, Mode: tenant.Sealed, Schema: "s_{key}", Role: "r_{tenant}_{key}"}
	if err := w.again(t).Place(t.Context(), r); err != nil || r.Schema != "s_5" || r.Role != "r_acme_5" || r.Mode != tenant.Strict {
		t.Errorf("by templates: %+v, %v", r, err)
	}
	r = record("acme", tenant.Schema, 0, "")
	wants(t, w.x.Place(t.Context(), r), provision.KindInvalid, "wants {key}")
	w.o.Secret = nil
	wants(t, w.again(t).Place(t.Context(), r), provision.KindRefused, "role_secret_file")
}

func testUnsafeTables(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, 0, nil, tables)
	r := record("acme", tenant.Row, tenant.Strict, "1")
	if err := w.x.Place(t.Context(), r); err != nil {
		t.Fatal(explain(err))
	}
	wants(t, w.x.Make(t.Context(), r), provision.KindRefused, "public.orders: it has no row security")
	if got := in.Query(t, w.db, "SELECT relrowsecurity FROM pg_class WHERE relname = 'orders'"); got[0] != "f" {
		t.Error("an application's table was changed")
	}
	if err := w.x.Unmake(t.Context(), r); err != nil {
		t.Error(explain(err))
	}
	// A schema among them has nothing to do with these, nor they with its tables.
	s := w.made(t, "beta", tenant.Schema, tenant.Strict, "")
	in.Exec(t, w.db, "SET ROLE "+ownerIn(w.db)+"; CREATE TABLE "+s.Schema+".orders (tenant_id bigint)")
	w.secured(t, tenant.Strict)
	if got := in.Query(t, w.db, "SELECT relname, relrowsecurity, relacl::text ~ '[{,]=' FROM pg_class WHERE relnamespace::regnamespace::text = '"+s.Schema+"'"); !cmp.Equal(got, []string{"orders|f|f"}) {
		t.Errorf("a table of a tenant's own schema was taken for one that tenants share: %v", got)
	}
	if err := w.x.Make(t.Context(), r); err != nil {
		t.Error(explain(err))
	}
	wants(t, w.x.Place(t.Context(), record("gamma", tenant.Row, tenant.Sealed, "2")), provision.KindRefused, "in mode strict")
	w.healthy(t, tenant.Strict, r, s)
}

// counter counts statements and the rows that they give, and cancels at one of them.
type counter struct {
	statements, rows atomic.Int64
	locks            atomic.Int64 // of the statements, those that ask for the lock: each gives a row, and a connection that is being closed may still have it
	at               int64
	cancel           context.CancelFunc
}

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if strings.Contains(d.SQL, "pg_try_advisory_lock") {
		c.locks.Add(1)
	}
	if n := c.statements.Add(1); n == c.at {
		c.cancel()
	}
	return ctx
}

func (c *counter) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	if d.CommandTag.Select() {
		c.rows.Add(d.CommandTag.RowsAffected())
	}
}

func testCrowd(t *testing.T, in *pgtest.Instance) {
	n := &counter{}
	w := newWorld(t, in, 0, func(o *Options) { o.trace = n })
	first := w.made(t, "first", tenant.Schema, tenant.Strict, "")
	cost := func(name string) (statements, rows int64) {
		n.statements.Store(0)
		n.rows.Store(0)
		n.locks.Store(0)
		w.made(t, name, tenant.Schema, tenant.Strict, "")
		return n.statements.Load() - n.locks.Load(), n.rows.Load() - n.locks.Load()
	}
	statements, rows := cost("second")
	records := make([]*tenant.Record, 30)
	var all sync.WaitGroup
	for i := range records {
		all.Go(func() {
			r := record(fmt.Sprint("tenant-", i), tenant.Schema, tenant.Strict, "")
			if err := errors.Join(w.x.Place(t.Context(), r), w.x.Make(t.Context(), r)); err != nil {
				t.Error(explain(err))
			}
			records[i] = r
		})
	}
	all.Wait()
	w.healthyBut(t, "tenant", append(records, first)...)
	in.Exec(t, w.db, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..2000 LOOP
EXECUTE format('CREATE ROLE %[1]s_x%%s; CREATE SCHEMA %[1]s_x%%s', i, i); INSERT INTO pgkennel.tenants (role, schema) VALUES ('%[1]s_x' || i, '%[1]s_x' || i);
END LOOP; EXECUTE (SELECT 'GRANT CONNECT ON DATABASE %[1]s TO ' || string_agg('%[1]s_x' || i, ', ') FROM generate_series(1, 2000) i); END $$`, w.db))
	if s, r := cost("last"); s != statements || r != rows {
		t.Errorf("among 2,000 tenants one more takes %d statements with %d rows, and at first %d with %d", s, r, statements, rows)
	}
	if statements > 40 {
		t.Errorf("%d statements for a tenant", statements)
	}
}

// healthyBut is healthy, but for one check.
func (w *world) healthyBut(t *testing.T, check string, records ...*tenant.Record) {
	t.Helper()
	report, err := secure.NewPlanner().Doctor(t.Context(), w.admin(t, w.db), w.options(0, records...))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Severity != secure.Info && f.Check != "server" && f.Check != check {
			t.Errorf("the doctor finds: %+v", f)
		}
	}
}

// testKilled ends Make, and Unmake, at each statement of theirs, and has another process do it again.
func testKilled(t *testing.T, in *pgtest.Instance) {
	for _, k := range []struct {
		kind
		every int64
	}{{kind{tenant.Row, tenant.Strict}, 19}, {kind{tenant.Schema, tenant.Strict}, 7}, {kind{tenant.Schema, tenant.Shared}, 17}, {kind{tenant.Database, tenant.Strict}, 37}} {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			w, rows := worldOf(t, in, k.kind)
			first := w.made(t, "first", k.i, k.m, "1")
			w.stock(t, first)
			before := w.catalog(t, first)
			r := record("acme", k.i, k.m, "2")
			if err := w.x.Place(t.Context(), r); err != nil {
				t.Fatal(explain(err))
			}
			// try begins something, ends it at a statement, and reports whether there were as many.
			try := func(at int64, f func(context.Context, *tenant.Record) error) bool {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				n := &counter{at: at, cancel: cancel}
				w.o.trace = n
				w.again(t)
				err := f(ctx, r)
				w.o.trace = nil
				w.again(t)
				if n.statements.Load() < at {
					if err != nil {
						t.Fatal(explain(err))
					}
					return false
				}
				return true
			}
			for at := int64(1); try(at, func(ctx context.Context, r *tenant.Record) error { return w.x.Make(ctx, r) }); at += k.every {
				if at%2 == 0 { // undone
					if err := w.x.Unmake(t.Context(), r); err != nil {
						t.Fatalf("after statement %d: %s", at, explain(err))
					}
					if d := cmp.Diff(before, w.catalog(t, first, r)); d != "" {
						t.Fatalf("after statement %d, left over: %s", at, d)
					}
					continue
				}
				if err := w.x.Make(t.Context(), r); err != nil {
					t.Fatalf("after statement %d: %s", at, explain(err))
				}
				if at%4 == 1 {
					w.healthy(t, rows, first, r)
				}
				if err := w.x.Unmake(t.Context(), r); err != nil {
					t.Fatalf("after statement %d: %s", at, explain(err))
				}
			}
			for at := int64(1); ; at += 2 * k.every {
				if err := w.x.Make(t.Context(), r); err != nil {
					t.Fatal(explain(err))
				}
				w.stock(t, r)
				more := try(at, func(ctx context.Context, r *tenant.Record) error { return w.x.Unmake(ctx, r) })
				if err := w.x.Unmake(t.Context(), r); err != nil {
					t.Fatalf("after statement %d: %s", at, explain(err))
				}
				if d := cmp.Diff(before, w.catalog(t, first, r)); d != "" {
					t.Fatalf("after statement %d, left over: %s", at, d)
				}
				if !more {
					break
				}
			}
			w.healthy(t, rows, first)
		})
	}
}

func testDependents(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, 0, func(o *Options) { o.Batch = 2 })
	other := w.made(t, "other", tenant.Schema, tenant.Strict, "")
	r := w.made(t, "acme", tenant.Schema, tenant.Strict, "")
	for _, x := range []struct{ make, undo, said string }{
		{"CREATE VIEW O.v AS SELECT * FROM S.a", "DROP VIEW O.v", "view " + other.Schema + ".v"},
		{"CREATE TABLE O.t (id int REFERENCES S.a)", "DROP TABLE O.t", "constraint t_id_fkey on table " + other.Schema + ".t"},
		{"CREATE TABLE O.t (x S.mood)", "DROP TABLE O.t", "column x of table " + other.Schema + ".t"},
		{"CREATE TABLE O.t (id int DEFAULT S.f())", "DROP TABLE O.t", "default value"},
		{"CREATE TABLE O.t (id int); CREATE TRIGGER g BEFORE INSERT ON O.t EXECUTE FUNCTION S.g()", "DROP TABLE O.t", "trigger g"},
		{"CREATE TABLE O.t () INHERITS (S.a)", "DROP TABLE O.t", "table " + other.Schema + ".t"},
		{"CREATE EXTENSION citext SCHEMA S", "DROP EXTENSION citext", "extension citext"},
	} {
		in.Exec(t, w.db, strings.ReplaceAll(`CREATE TABLE S.a (id int PRIMARY KEY); CREATE TABLE S.b (id int REFERENCES S.a); CREATE TABLE S.c (); CREATE TABLE S.d (id serial) PARTITION BY LIST (id);
CREATE TABLE S.d1 PARTITION OF S.d FOR VALUES IN (1); CREATE VIEW S.w AS SELECT * FROM S.b; CREATE MATERIALIZED VIEW S.m AS SELECT * FROM S.w; CREATE TYPE S.mood AS ENUM ('x');
CREATE FUNCTION S.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION S.g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE PUBLICATION p FOR TABLE S.a;`, "S.", r.Schema+"."))
		fit := func(sql string) string {
			sql = strings.ReplaceAll(strings.ReplaceAll(sql, "S.", r.Schema+"."), "O.", other.Schema+".")
			return strings.ReplaceAll(sql, "SCHEMA S", "SCHEMA "+r.Schema)
		}
		in.Exec(t, w.db, fit(x.make))
		wants(t, w.x.Unmake(t.Context(), r), provision.KindRefused, x.said)
		if got := in.Query(t, w.db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text = '"+r.Schema+"' AND relkind IN ('r', 'v')"); got[0] != "5" {
			t.Errorf("%s: %s relations are left of 5", x.make, got[0])
		}
		in.Exec(t, w.db, fit(x.undo))
		if err := w.x.Unmake(t.Context(), r); err != nil {
			t.Errorf("%s: %s", x.make, explain(err))
		}
		in.Exec(t, w.db, "DROP PUBLICATION p")
		if err := w.x.Make(t.Context(), r); err != nil {
			t.Fatal(explain(err))
		}
	}
	w.healthy(t, 0, other, r)
}

func testEntangled(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, tenant.Strict, nil, tables, `
CREATE TABLE loose (tenant_id bigint NOT NULL, id int PRIMARY KEY);
CREATE TABLE cascading (tenant_id bigint NOT NULL, id int REFERENCES loose ON DELETE CASCADE);
CREATE TABLE notes (id int REFERENCES loose ON DELETE CASCADE);
CREATE TABLE audit (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (old.what); RETURN NULL; END';
CREATE TRIGGER note AFTER DELETE ON small FOR EACH ROW EXECUTE FUNCTION note()`)
	w.secured(t, tenant.Strict)
	one, two := w.made(t, "one", tenant.Row, tenant.Strict, "1"), w.made(t, "two", tenant.Row, tenant.Strict, "2")
	in.Exec(t, w.db, fill(1)+fill(2)+"INSERT INTO loose VALUES (1, 1), (2, 2); INSERT INTO cascading VALUES (1, 1), (2, 2), (2, 1); INSERT INTO notes VALUES (1), (2)")
	wants(t, w.x.Unmake(t.Context(), one), provision.KindRefused, "1 of public.cascading, to public.loose")
	if got := in.Query(t, w.db, "SELECT count(*) FROM orders WHERE tenant_id = 1"); got[0] != "25" {
		t.Errorf("%s orders are left", got[0])
	}
	in.Exec(t, w.db, "DELETE FROM cascading WHERE (tenant_id, id) = (2, 1)")
	if err := w.x.Unmake(t.Context(), one); err != nil {
		t.Fatal(explain(err))
	}
	if got := in.Query(t, w.db, "SELECT (SELECT array_agg(tenant_id) FROM loose), (SELECT array_agg(tenant_id) FROM cascading), (SELECT array_agg(id) FROM notes), (SELECT count(*) FROM orders), (SELECT array_agg(what) FROM audit)"); got[0] != `{2}|{2}|{2}|25|{"of 1"}` {
		t.Errorf("left are %s", got[0])
	}
	// Who does not stand above policies must not believe that there are no rows.
	in.Exec(t, w.db, "CREATE ROLE "+w.db+"_admin LOGIN CREATEROLE PASSWORD 'x'; GRANT pg_signal_backend, "+ownerIn(w.db)+" TO "+w.db+"_admin; GRANT EXECUTE ON FUNCTION pg_terminate_backend TO "+w.db+"_admin; GRANT CONNECT ON DATABASE "+w.db+" TO "+w.db+"_admin")
	c := w.o.Clusters["saas"]
	c.Shards[0].Admin, c.Shards[0].At.Host = "sslmode=disable password=x user="+w.db+"_admin", "127.0.0.1"
	wants(t, w.again(t).Unmake(t.Context(), two), provision.KindRefused, "row-level security")
}

func testSources(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, tenant.Strict, nil, tables)
	w.secured(t, tenant.Strict)
	through := func(r *tenant.Record, sql string) {
		t.Helper()
		src, err := w.x.Source(t.Context(), r)
		if err != nil {
			t.Fatal(explain(err))
		}
		if src.Instance.Version != fmt.Sprint(in.Major) {
			t.Errorf("version %q", src.Instance.Version)
		}
		conf, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=%s", src.Connect.Host, src.Connect.Port, src.Connect.User, src.Connect.Database))
		if err != nil {
			t.Fatal(err)
		}
		conf.RuntimeParams["options"] = src.Connect.Options
		c, err := pgx.ConnectConfig(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if _, err := c.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	const template = "CREATE TABLE invoices (id serial, note text); INSERT INTO invoices (note) VALUES ('first'); CREATE VIEW latest AS SELECT * FROM invoices"
	var all []*tenant.Record
	for _, i := range []tenant.Isolation{tenant.Schema, tenant.Database} {
		r := w.made(t, "acme-"+i.String(), i, tenant.Strict, "")
		all = append(all, r)
		through(r, template)
		c, err := w.enter(t, r)
		if err != nil {
			t.Fatal(err)
		}
		if got := sees(t, c, "INSERT INTO invoices (note) VALUES ('second') RETURNING note"); got != "second" {
			t.Errorf("%s: writes %s", i, got)
		}
		if got := sees(t, c, "SELECT note FROM latest ORDER BY id"); got != "first second" {
			t.Errorf("%s: reads %s", i, got)
		}
	}
	r := w.made(t, "acme", tenant.Row, tenant.Strict, "1")
	src, err := w.x.Source(t.Context(), r)
	if err != nil || src.Column != "tenant_id" {
		t.Fatalf("%+v, %v", src, err)
	}
	at := make(map[string]int)
	for i, name := range src.Tables {
		at[name] = i
	}
	if len(at) != 8 || at["public.orders"] > at["public.a_items"] || at["public.a_items"] > at["public.z_parts"] {
		t.Errorf("tables in the order %v", src.Tables)
	}
	through(r, "INSERT INTO orders (tenant_id, note) VALUES (1, 'loaded')")
	w.healthy(t, tenant.Strict, append(all, r)...)
	in.Exec(t, w.db, "INSERT INTO orders SELECT 1, i, repeat('x', 100) FROM generate_series(1000, 3000) i; INSERT INTO orders SELECT 2, i, repeat('x', 100) FROM generate_series(1, 6000) i; ANALYZE")
	total := in.Query(t, w.db, "SELECT pg_total_relation_size('orders') / 4 / 2, pg_total_relation_size('orders') / 4 * 2")
	var low, high int64
	if _, err := fmt.Sscanf(total[0], "%d|%d", &low, &high); err != nil {
		t.Fatal(err)
	}
	if n, err := w.x.Size(t.Context(), r); err != nil || n < low || n > high {
		t.Errorf("a quarter of the table is %d bytes, %v, between %d and %d", n, err, low, high)
	}
}

func testSealedFence(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, tenant.Sealed, nil, tables)
	w.secured(t, tenant.Sealed)
	r := w.made(t, "acme", tenant.Row, tenant.Sealed, "1")
	in.Exec(t, w.db, fill(1))
	c, err := w.enter(t, r)
	if err != nil {
		t.Fatal(err)
	}
	sees(t, c, "SELECT '' FROM (SELECT 1) x WHERE false")
	if _, err := c.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if got := sees(t, c, "SELECT count(*)::text FROM orders"); got != "25" {
		t.Fatal(got)
	}
	if err := w.x.Fence(t.Context(), r, true); err != nil {
		t.Fatal(explain(err))
	}
	for _, sql := range []string{"SELECT count(*)::text FROM orders", "INSERT INTO orders (tenant_id, note) VALUES (1, '') RETURNING note", "UPDATE orders SET note = '' RETURNING note", "DELETE FROM orders RETURNING note"} {
		if got := sees(t, c, sql); got != "42501" && got != "25P02" {
			t.Errorf("%s: %s", sql, got)
		}
		if _, err := c.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	// A database of before has to be told of fences first.
	in.Exec(t, w.db, "CREATE OR REPLACE FUNCTION pgkennel.tenant_key() RETURNS text LANGUAGE sql STABLE AS 'SELECT NULL::text'")
	wants(t, w.x.Fence(t.Context(), r, true), provision.KindRefused, "pgkennel secure apply")
}

func testMarks(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, 0, nil)
	r := w.made(t, "acme", tenant.Schema, tenant.Strict, "")
	in.Exec(t, w.db, "CREATE TABLE "+r.Schema+".t ()")
	stranger := r.Clone()
	stranger.ID = tenant.NewID()
	wants(t, w.x.Make(t.Context(), stranger), provision.KindTaken, "not this tenant's")
	wants(t, w.x.Fence(t.Context(), stranger, true), provision.KindRefused, "not marked")
	wants(t, w.x.Fence(t.Context(), stranger, false), provision.KindNotFound, "not this tenant's")
	in.Exec(t, w.db, "COMMENT ON ROLE "+r.Role+" IS NULL")
	wants(t, w.x.Unmake(t.Context(), r), provision.KindRefused, "COMMENT ON ROLE")
	if got := in.Query(t, w.db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text = '"+r.Schema+"'"); got[0] != "1" {
		t.Error("the tenant's table is gone")
	}
	in.Exec(t, w.db, "COMMENT ON ROLE "+r.Role+" IS '"+mark(r)+"'; GRANT SELECT ON pg_class TO "+r.Role)
	if err := w.x.Unmake(t.Context(), r); err != nil {
		t.Error(explain(err))
	}
	// Somebody else's schema and database are left alone, whatever they are called.
	in.Exec(t, w.db, "CREATE SCHEMA "+r.Schema+"; CREATE TABLE "+r.Schema+".t ()")
	for _, err := range []error{w.x.Unmake(t.Context(), r), w.x.Fence(t.Context(), r, true)} {
		if err != nil {
			t.Error(explain(err))
		}
	}
	wants(t, w.x.Make(t.Context(), r), provision.KindTaken, "schema")
	if got := in.Query(t, w.db, "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text = '"+r.Schema+"'"); got[0] != "1" {
		t.Error("somebody's table is gone")
	}
	d := record("beta", tenant.Database, tenant.Strict, "")
	if err := errors.Join(w.x.Place(t.Context(), d), w.x.Fence(t.Context(), d, true)); err != nil {
		t.Fatal(explain(err))
	}
	in.Exec(t, "postgres", "CREATE DATABASE "+d.Database)
	if err := w.x.Unmake(t.Context(), d); err != nil {
		t.Error(explain(err))
	}
	wants(t, w.x.Make(t.Context(), d), provision.KindTaken, "database")
	in.Exec(t, "postgres", "DROP DATABASE "+d.Database)
	if err := w.x.Make(t.Context(), d); err != nil {
		t.Fatal(explain(err))
	}
	in.Exec(t, "postgres", "COMMENT ON ROLE "+ownerOf(d)+" IS NULL")
	wants(t, w.x.Unmake(t.Context(), d), provision.KindRefused, "COMMENT ON ROLE")
	in.Exec(t, "postgres", "COMMENT ON ROLE "+ownerOf(d)+" IS '"+mark(d)+"'")
	if err := w.x.Unmake(t.Context(), d); err != nil {
		t.Error(explain(err))
	}
}

// An administrator need not be a superuser, where the server is a managed service.
func testAdministrator(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, 0, nil)
	admin := w.db + "_owner"
	in.Exec(t, w.db, fmt.Sprintf("CREATE ROLE %[1]s LOGIN CREATEROLE CREATEDB PASSWORD 'x'; ALTER DATABASE %[2]s OWNER TO %[1]s", admin, w.db))
	c := w.o.Clusters["saas"]
	c.Shards[0].Admin, c.Shards[0].At.Host = "postgres://"+admin+":x@/?sslmode=disable", "127.0.0.1"
	w.again(t)
	for _, k := range []kind{{tenant.Schema, tenant.Strict}, {tenant.Schema, tenant.Shared}, {tenant.Database, tenant.Strict}} {
		first := w.made(t, "first", k.i, k.m, "1")
		before := w.catalog(t, first)
		r := w.made(t, "acme", k.i, k.m, "2")
		read := w.stock(t, r)
		session, err := w.enter(t, r)
		if err != nil {
			t.Fatal(err)
		}
		if got := sees(t, session, read); got != "of 2" {
			t.Errorf("%s: it sees %s", k, got)
		}
		for _, f := range []func() error{
			func() error { return w.x.Fence(t.Context(), r, true) }, func() error { return w.x.Fence(t.Context(), r, false) }, func() error { return w.x.Unmake(t.Context(), r) },
		} {
			if err := f(); err != nil {
				t.Errorf("%s: %s", k, explain(err))
			}
		}
		if d := cmp.Diff(before, w.catalog(t, first, r)); d != "" {
			t.Errorf("%s, left over: %s", k, d)
		}
		if k.m == tenant.Strict { // functions of PostgreSQL's are a superuser's to close
			w.healthy(t, 0, first)
		}
		if err := w.x.Unmake(t.Context(), first); err != nil {
			t.Errorf("%s: %s", k, explain(err))
		}
	}
}

// Keys are texts, whatever they look like.
func testOddKeys(t *testing.T, in *pgtest.Instance) {
	w := newWorld(t, in, tenant.Strict, func(o *Options) {
		c := o.Clusters["saas"]
		c.Column, c.Type = `der "Mandant"`, "varchar"
		o.Clusters["saas"] = c
	}, `CREATE TABLE orders ("der ""Mandant""" text NOT NULL, note text)`)
	w.secured(t, tenant.Strict)
	const odd = `o'neil\ $1 "x" é; DROP TABLE orders --`
	one, two := w.made(t, "one", tenant.Row, tenant.Strict, odd), w.made(t, "two", tenant.Row, tenant.Strict, "o''neil")
	db := w.admin(t, w.db)
	for _, r := range []*tenant.Record{one, two} {
		if _, err := db.Exec(t.Context(), "INSERT INTO orders VALUES ($1, $1)", r.Key); err != nil {
			t.Fatal(err)
		}
		c, err := w.enter(t, r)
		if err != nil {
			t.Fatal(err)
		}
		if got := sees(t, c, "SELECT note FROM orders"); got != r.Key {
			t.Errorf("%s sees %s", r.Key, got)
		}
	}
	if _, err := w.x.Size(t.Context(), one); err != nil {
		t.Error(explain(err))
	}
	w.healthy(t, tenant.Strict, one, two)
	if err := w.x.Unmake(t.Context(), one); err != nil {
		t.Fatal(explain(err))
	}
	if got := in.Query(t, w.db, "SELECT note FROM orders"); !cmp.Equal(got, []string{"o''neil"}) {
		t.Errorf("left are %v", got)
	}
	wants(t, w.x.Place(t.Context(), record("three", tenant.Row, tenant.Strict, "a\x00b")), provision.KindInvalid, "no text")
}

// Rows of a key that was somebody's are not shown to a new tenant, and do not go with it.
func testRowsBefore(t *testing.T, in *pgtest.Instance) {
	for _, m := range []tenant.Mode{tenant.Strict, tenant.Shared} {
		w := newWorld(t, in, m, nil, tables, fill(1))
		w.secured(t, m)
		r := record("acme", tenant.Row, m, "1")
		wants(t, w.x.Place(t.Context(), r), provision.KindTaken, "public.a_items")
		if m == tenant.Strict { // creation went wrong before there was anything of it
			if err := w.x.Unmake(t.Context(), r); err != nil {
				t.Error(explain(err))
			}
			if got := in.Query(t, w.db, "SELECT count(*) FROM orders"); got[0] != "25" {
				t.Errorf("%s orders are left", got[0])
			}
		}
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	tables := make([]table, 7)
	for i := range tables {
		tables[i] = table{OID: uint32(i), Name: string(rune('a' + i))}
	}
	// a refers to b, b to c, c to d, d to c and itself, f to e, g to nothing, and somebody else to a.
	order := groups(tables, []reference{{From: 0, To: 1}, {From: 1, To: 2}, {From: 2, To: 3}, {From: 3, To: 2}, {From: 3, To: 3}, {From: 5, To: 4}, {From: 99, To: 0}})
	at := make(map[string]int)
	for i, g := range order {
		for _, x := range g {
			at[x.Name] = i
		}
	}
	if len(at) != 7 || len(order) != 6 || at["a"] >= at["b"] || at["b"] >= at["c"] || at["c"] != at["d"] || at["f"] >= at["e"] {
		t.Errorf("groups %+v", order)
	}
}

func TestKeysInSQL(t *testing.T) {
	t.Parallel()
	c := Cluster{Column: `tenant"id`}
	for _, x := range []struct{ typ, key, want string }{
		{"bigint", "7", `"tenant""id" = '7'::bigint`},
		{"smallint", "40000", ""},
		{"text", `a'b\`, `"tenant""id" =  E'a''b\\'::text`},
		{"jsonb", "7", ""},
	} {
		tab := table{Type: x.typ, Deterministic: true}
		if got := tab.of(c, x.key, ""); strings.ReplaceAll(got, "  ", " ") != strings.ReplaceAll(x.want, "  ", " ") {
			t.Errorf("%s %q: %s", x.typ, x.key, got)
		}
	}
}

// Tenants with instances of their own take a name and a key in the database, and nothing else.
func TestAttach(t *testing.T) {
	t.Parallel()
	clusters := map[string]Cluster{"saas": {Shards: make([]Shard, 1), Column: "tenant_id", Type: "bigint", Taken: func(x *tenant.Tenant) error {
		if x.Name == "small" || x.Key == "1" {
			return errors.New("it is there")
		}
		return nil
	}}}
	x, err := New(Options{Clusters: clusters})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, cluster, key, want string
		kind                     provision.ErrorKind
	}{
		{"acme", "saas", " 042", "42", ""},
		{"acme", "", "", "", ""},
		{"acme", "other", "42", "", provision.KindInvalid},
		{"acme", "saas", "forty", "", provision.KindInvalid},
		{"acme", "saas", "1", "", provision.KindTaken},
		{"small", "saas", "", "", provision.KindTaken},
	} {
		r := record(c.name, tenant.Instance, 0, c.key)
		r.Cluster = c.cluster
		err := x.Attach(t.Context(), r)
		if e, ok := errors.AsType[*provision.Error](err); ok != (c.kind != "") || ok && e.Kind != c.kind {
			t.Errorf("%+v: got %v", c, err)
		} else if !ok && (r.Cluster != "saas" || r.Key != c.want || r.Shard != -1 || r.Role != "") {
			t.Errorf("%+v: got %+v", c, r)
		}
	}
	clusters["other"] = Cluster{Shards: make([]Shard, 1)}
	for cluster, key := range map[string]string{"": "", "other": "42"} {
		r := record("acme", tenant.Instance, 0, key)
		if r.Cluster = cluster; x.Attach(t.Context(), r) == nil {
			t.Errorf("database %q, key %q: got %+v", cluster, key, r)
		}
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Clusters: map[string]Cluster{"a": {}}},
		{Clusters: map[string]Cluster{"a": {Shards: make([]Shard, 2)}}},
		{Defaults: Defaults{Schema: "t_{what}"}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}
