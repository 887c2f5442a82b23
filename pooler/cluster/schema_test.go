package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

const exampleSchema = `
CREATE SCHEMA billing;
CREATE DOMAIN tenant_key AS bigint CHECK (VALUE > 0);
CREATE DOMAIN billing.strict_key AS tenant_key NOT NULL;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE orders (id int, gone text, tenant_id billing.strict_key, total numeric, double_total numeric GENERATED ALWAYS AS (total * 2) STORED,
	note varchar(20), code char(3), "Mixed Case" text[], m mood);
ALTER TABLE orders DROP COLUMN gone;
CREATE TABLE users (id uuid, tenant_id smallint);
CREATE TABLE audit (tenant_id bigint, what text);
CREATE TABLE empty ();
CREATE VIEW order_view AS SELECT tenant_id, total FROM orders;
CREATE VIEW deep_view AS SELECT v.total, u.id FROM order_view v JOIN users u USING (tenant_id);
CREATE MATERIALIZED VIEW totals AS SELECT sum(total) FROM deep_view;
CREATE VIEW constants AS SELECT 1 AS one;
CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders';
CREATE FUNCTION billing.invoice(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE PROCEDURE billing.close_month() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE billing.total(numeric) (SFUNC = numeric_add, STYPE = numeric);
CREATE VIEW calling AS SELECT peek() AS n;
CREATE VIEW calling_deep AS SELECT n FROM calling;
CREATE VIEW sneaky AS SELECT query_to_xml('SELECT * FROM orders', true, false, '');
CREATE VIEW sneaky_from AS SELECT word FROM ts_stat('SELECT to_tsvector(note) FROM orders');
CREATE FUNCTION op_impl(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = op_impl);
CREATE VIEW operating AS SELECT note === 'x' AS same FROM orders;
CREATE RULE also AS ON INSERT TO orders DO ALSO INSERT INTO audit VALUES (NEW.tenant_id, 'insert');
CREATE TABLE events (tenant_id bigint, at date) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (tenant_id);
CREATE TABLE events_2026_7 PARTITION OF events_2026 FOR VALUES IN (7);
CREATE TABLE billing.orders (tenant_id text);
CREATE SEQUENCE numbers;
CREATE TEMPORARY TABLE passing (x int);
`

// readExample reads the schema of a database in which sql was run.
func readExample(t *testing.T, sql string) *topology.Schema {
	t.Helper()
	shared := pgtest.Shared(t)
	su := superuser()
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, shared.CreateDatabase(t, sql), settings(1))}}, Service: su, LoadSchema: true}, pgHooks())
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
	return r.Schema()
}

func TestSchemaOfARealDatabase(t *testing.T) {
	t.Parallel()
	s := readExample(t, exampleSchema)
	if s.Epoch != 1 {
		t.Errorf("got epoch %d", s.Epoch)
	}
	got := map[string]string{}
	for name, rel := range s.Relations {
		if name.Schema == "pg_catalog" || name.Schema == "information_schema" {
			if len(rel.Columns) > 0 || len(rel.Reads) > 0 {
				t.Errorf("%v: got %+v, want its name only", name, rel)
			}
			continue
		}
		got[name.Schema+"."+name.Name] = describe(rel)
	}
	want := map[string]string{
		"public.orders":        "table (id int4, tenant_id int8, total numeric, double_total numeric generated, note varchar, code bpchar, Mixed Case _text, m mood) reads public.audit",
		"public.users":         "table (id uuid, tenant_id int2)",
		"public.audit":         "table (tenant_id int8, what text)",
		"public.empty":         "table ()",
		"public.order_view":    "view (tenant_id int8, total numeric) reads public.orders",
		"public.deep_view":     "view (total numeric, id uuid) reads public.order_view public.orders public.users",
		"public.totals":        "materialized (sum numeric) reads public.deep_view public.order_view public.orders public.users",
		"public.constants":     "view (one int4)",
		"public.calling":       "view (n int8) calls",
		"public.calling_deep":  "view (n int8) reads public.calling calls",
		"public.sneaky":        "view (query_to_xml xml) calls",
		"public.sneaky_from":   "view (word text) calls",
		"public.operating":     "view (same bool) reads public.orders calls",
		"public.events":        "table (tenant_id int8, at date)",
		"public.events_2026":   "table (tenant_id int8, at date) of public.events",
		"public.events_2026_7": "table (tenant_id int8, at date) of public.events public.events_2026",
		"billing.orders":       "table (tenant_id text)",
		"public.numbers":       "sequence ()",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("relations (-want +got):\n%s", d)
	}
	functions := map[topology.QualifiedName]bool{
		{Schema: "public", Name: "peek"}: true, {Schema: "billing", Name: "invoice"}: true, {Schema: "billing", Name: "close_month"}: true,
		{Schema: "billing", Name: "total"}: true, {Schema: "public", Name: "op_impl"}: true,
	}
	if d := cmp.Diff(functions, s.Functions); d != "" {
		t.Errorf("functions (-want +got):\n%s", d)
	}
	if !s.FunctionNames["invoice"] || s.FunctionNames["count"] {
		t.Errorf("got function names %v", s.FunctionNames)
	}
	if s.Lookup("pg_catalog", "pg_class", nil) == nil || s.Lookup("information_schema", "tables", nil) == nil {
		t.Error("the catalogs are not listed")
	}
	if got := s.Lookup("", "orders", []string{"billing", "public"}); got == nil || got.Column("tenant_id").OID != 25 {
		t.Errorf("got %+v, want billing.orders with a text key", got)
	}
	if got := s.Lookup("public", "orders", nil).Column("tenant_id").OID; got != 20 {
		t.Errorf("got type %d, want int8 (20) below two domains", got)
	}
}

// TestSearchPathsOfARealDatabase: what a user's session begins with is known without a session of that user.
func TestSearchPathsOfARealDatabase(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	name := fmt.Sprintf("paths_%d", time.Now().UnixNano())
	shared.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s_one LOGIN; CREATE ROLE %[1]s_two LOGIN; CREATE ROLE %[1]s_three LOGIN; ALTER ROLE %[1]s_one SET search_path TO everywhere", name))
	t.Cleanup(func() { shared.Exec(t, "postgres", fmt.Sprintf("DROP ROLE %s_one, %[1]s_two, %[1]s_three", name)) })
	s := readExample(t, fmt.Sprintf(`DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %%I SET search_path TO "Of the", database', current_database());
		EXECUTE format('ALTER ROLE %[1]s_one IN DATABASE %%I SET search_path TO here', current_database());
		EXECUTE format('ALTER ROLE %[1]s_two IN DATABASE %%I SET work_mem TO 100', current_database());
		EXECUTE format('ALTER ROLE %[1]s_three IN DATABASE %%I SET search_path TO %%L', current_database(), '$user');
	END $$`, name))
	for user, want := range map[string]string{"one": "here", "two": `"Of the", database`, "three": `"$user"`} {
		if got := s.SearchPath(name + "_" + user); got != want {
			t.Errorf("%s: got %s, want %s", user, got, want)
		}
	}
	if got := readExample(t, "").SearchPath("nobody"); got != `"$user", public` {
		t.Errorf("by default: got %s", got)
	}
}

func describe(rel *topology.Relation) string {
	kinds := map[topology.RelationKind]string{
		topology.Table: "table", topology.View: "view", topology.Materialized: "materialized",
		topology.Sequence: "sequence",
	}
	var b strings.Builder
	b.WriteString(kinds[rel.Kind] + " (")
	for i, c := range rel.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.Name + " " + c.Type)
		if c.Generated {
			b.WriteString(" generated")
		}
	}
	b.WriteString(")")
	list := func(word string, names []topology.QualifiedName) {
		if len(names) > 0 {
			b.WriteString(" " + word)
		}
		for _, n := range names {
			b.WriteString(" " + n.Schema + "." + n.Name)
		}
	}
	list("reads", rel.Reads)
	list("of", rel.Parents)
	if rel.Calls {
		b.WriteString(" calls")
	}
	return b.String()
}

// What PostgreSQL does with generated columns is why they are listed: an INSERT without column list counts them.
func TestGeneratedColumnsCountInAnInsert(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t, `CREATE TABLE g (double int GENERATED ALWAYS AS (tenant_id * 2) STORED, tenant_id int)`,
		`INSERT INTO g VALUES (DEFAULT, 7)`)
	if got := shared.Query(t, db, `SELECT tenant_id FROM g`); len(got) != 1 || got[0] != "7" {
		t.Errorf("got %v", got)
	}
}

func TestRefreshSchema(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t, `CREATE TABLE a (tenant_id int)`)
	su := superuser()
	changed := make(chan *topology.Schema, 100)
	h := pgHooks()
	h.SchemaChanged = func(s *topology.Schema) { changed <- s }
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, db, settings(1))}}, Service: su, LoadSchema: true, SchemaGap: 10 * time.Millisecond}, h)
	<-changed
	shared.Exec(t, db, `CREATE TABLE b (tenant_id int)`)
	<-r.RefreshSchema("ddl")
	s := r.Schema()
	if s.Epoch != 2 || s.Lookup("public", "b", nil) == nil {
		t.Errorf("got epoch %d without the new table", s.Epoch)
	}
	if got := <-changed; got != s {
		t.Error("SchemaChanged: got another snapshot")
	}
	var last <-chan struct{}
	for range 100 { // put together
		last = r.RefreshSchema("ddl")
	}
	<-last
	if got := r.Schema().Epoch; got > 4 {
		t.Errorf("got epoch %d after a burst of 100 requests", got)
	}
	if s.Lookup("public", "b", nil) == nil || s.Epoch != 2 {
		t.Error("a snapshot changed")
	}
}

func TestSchemaIsReadPeriodically(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t)
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, db, settings(1))}}, Service: superuser(), LoadSchema: true,
		SchemaInterval: 20 * time.Millisecond, SchemaGap: time.Millisecond,
	}, pgHooks())
	eventually(t, "the third epoch", func() bool { return r.Stats().SchemaEpoch >= 3 })
}

func TestSchemaFromWhicheverShardAnswers(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	db := shared.CreateDatabase(t, `CREATE TABLE a (tenant_id int)`)
	dead := at(t, shared, db, settings(1))
	dead.Address.Port = closedPort(t)
	r := run(t, Options{Shards: [][]Endpoint{{dead}, {at(t, shared, db, settings(1))}}, Service: superuser(), LoadSchema: true}, pgHooks())
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
	if r.Schema().Lookup("public", "a", nil) == nil {
		t.Error("the table is not there")
	}
}

func TestSchemaIsRetriedAndNobodyHangs(t *testing.T) {
	t.Parallel()
	inst := pgtest.Start(t)
	inst.Stop(t, pgtest.Fast)
	r := run(t, Options{Shards: [][]Endpoint{{at(t, inst, "postgres", settings(1))}}, Service: superuser(), LoadSchema: true}, pgHooks())
	<-r.RefreshSchema("asked") // though it fails
	if r.Schema() != nil {
		t.Error("got a schema of a server that is down")
	}
	eventually(t, "a warning", func() bool { return strings.Contains(r.log.String(), "schema not read") })
	inst.Restart(t)
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
}

func TestSchemaWithoutLoading(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	o := Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(1))}}, Service: superuser()}
	r := run(t, o, pgHooks())
	<-r.RefreshSchema("asked")
	if r.Schema() != nil {
		t.Error("a schema was read")
	}
	o.LoadSchema = true
	if err := r.Reload(o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a schema after a reload that wants it", func() bool { return r.Schema() != nil })
}

func TestCloseFreesThoseWhoWaitForTheSchema(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, "postgres", settings(1))}}, Service: superuser(), LoadSchema: true,
		SchemaGap: time.Hour,
	}, pgHooks())
	eventually(t, "a schema", func() bool { return r.Schema() != nil })
	waiting := r.RefreshSchema("asked")
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-waiting
	<-r.RefreshSchema("late")
}

func TestShardsWithOtherKeysAreReported(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	one := shared.CreateDatabase(t, `CREATE TABLE a (tenant_id bigint); CREATE TABLE b (tenant_id bigint); CREATE TABLE c (tenant_id bigint); CREATE TABLE d (x int)`)
	two := shared.CreateDatabase(t, `CREATE TABLE a (tenant_id int); CREATE TABLE b (x int); CREATE TABLE d (y int); CREATE TABLE e (tenant_id bigint)`)
	r := run(t, Options{
		Shards: [][]Endpoint{{at(t, shared, one, settings(1))}, {at(t, shared, two, settings(1))}}, Service: superuser(),
		LoadSchema: true, KeyColumns: []KeyColumn{{Column: "tenant_id"}, {Table: "d", Column: "it's"}}, SchemaGap: time.Millisecond,
	}, pgHooks())
	eventually(t, "a report", func() bool { return strings.Contains(r.log.String(), "sharding keys differ between shards") })
	for _, want := range []string{
		"shard 1: column public.a.tenant_id has type int4 instead of int8", "shard 1: table public.b has no column tenant_id",
		"shard 1: table public.c does not exist", "shard 1: table public.e exists only here",
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, r.log)
		}
	}
	<-r.RefreshSchema("asked")
	if n := strings.Count(r.log.String(), "sharding keys differ"); n != 1 {
		t.Errorf("got %d reports of the same differences, want 1", n)
	}
}

// A server may answer anything: that is an error, and no more.
func TestSchemaOfAHostileServer(t *testing.T) {
	t.Parallel()
	row := func(fields ...string) []pgproto3.BackendMessage {
		d, r := &pgproto3.RowDescription{}, &pgproto3.DataRow{}
		for i, f := range fields {
			d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte{byte('a' + i)}, DataTypeOID: 25})
			r.Values = append(r.Values, []byte(f))
		}
		return []pgproto3.BackendMessage{d, r, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}}
	}
	good := func() []pgproto3.BackendMessage {
		return slices.Concat(row("16400", "public", "t", "r"), row("16400", "a", "20", "f"), row("20", "int8", "0"), row("16400", "16400"),
			row("16400"), row("public", "f"), row("16400", "16400"), row("app", "public"))
	}
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	for name, c := range map[string]struct {
		answer []pgproto3.BackendMessage
		ok     bool
	}{
		"as asked":           {append(good(), ready), true},
		"an answer too many": {append(good(), append(row("x"), ready)...), false},
		"an answer missing":  {append(good()[:18], ready), false},
		"a field missing":    {append(row("16400", "public"), ready), false},
		"a row too short": {[]pgproto3.BackendMessage{
			row("1", "2", "3", "4")[0], &pgproto3.DataRow{Values: [][]byte{[]byte("16400")}}, &pgproto3.CommandComplete{}, ready,
		}, false},
		"no number": {append(row("abc", "public", "t", "r"), ready), false},
		"NULLs": {append([]pgproto3.BackendMessage{
			row("1", "2", "3", "4")[0], &pgproto3.DataRow{Values: make([][]byte, 4)}, &pgproto3.CommandComplete{},
		}, ready), false},
		"nothing":            {[]pgproto3.BackendMessage{ready}, false},
		"an error":           {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42501", Message: "no"}, ready}, false},
		"a cut":              {row("16400", "public", "t", "r")[:2], false},
		"COPY":               {[]pgproto3.BackendMessage{&pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: []byte("x")}, &pgproto3.CopyDone{}, ready}, false},
		"a row without head": {[]pgproto3.BackendMessage{&pgproto3.DataRow{Values: make([][]byte, 4)}, ready}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.NewFakeServer(t, func(f *pgtest.FakeConn) error {
				if err := f.Expect("Query"); err != nil {
					return err
				}
				return f.Send(c.answer...)
			})
			e := Endpoint{Role: topology.Primary, Address: address(t, server.Addr), Database: "db"}
			cl := New(Options{Shards: [][]Endpoint{{e}}}, pgHooks(), Env{})
			conn, err := cl.dialCatalog(t.Context(), cl.newEndpoint(0, &e), superuser())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.close(t.Context())
			s, err := conn.schema(t.Context())
			if (err == nil) != c.ok {
				t.Errorf("got %+v, %v", s, err)
			}
			if err := cl.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSchemaOfManyTables(t *testing.T) {
	if testing.Short() {
		t.Skip("creates thousands of tables")
	}
	t.Parallel()
	inst := pgtest.Start(t, pgtest.Config("max_locks_per_transaction", "20000"))
	const tables = 2000
	inst.Exec(t, "postgres", fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		EXECUTE format('CREATE TABLE t%%s (id bigint, tenant_id bigint, a text, b text, c int, d int, e numeric, f timestamptz, g jsonb, h uuid)', i);
		EXECUTE format('CREATE VIEW v%%s AS SELECT * FROM t%%s', i, i);
		END LOOP; END $$`, tables))
	e := at(t, inst, "postgres", settings(1))
	c := New(Options{Shards: [][]Endpoint{{e}}}, pgHooks(), Env{})
	conn, err := c.dialCatalog(t.Context(), c.newEndpoint(0, &e), superuser())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close(t.Context())
	begun := time.Now()
	s, err := conn.schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	t.Logf("%d relations in %v", len(s.Relations), took)
	if len(s.Relations) < 2*tables || took > 10*time.Second {
		t.Errorf("got %d relations in %v", len(s.Relations), took)
	}
	if r := s.Lookup("public", "v17", nil); r == nil || len(r.Columns) != 10 || len(r.Reads) != 1 {
		t.Errorf("got %+v", r)
	}
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
