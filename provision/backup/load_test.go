package backup

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// contents are what a restore has to bring back, of all sorts.
const contents = `CREATE SCHEMA "Odd ""Name"; CREATE TABLE "Odd ""Name"."t.1" (id bigserial PRIMARY KEY, "a b" text, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
COMMENT ON TABLE "Odd ""Name"."t.1" IS 'said of it';
INSERT INTO "Odd ""Name"."t.1" ("a b") SELECT repeat(md5(n::text), 20) FROM generate_series(1, 1000) n;
INSERT INTO "Odd ""Name"."t.1" ("a b") VALUES (E'tab\t, line\n, back\\slash, \\N'), (NULL), (''), ('ümlaut');
CREATE TABLE child (id int PRIMARY KEY, parent bigint NOT NULL REFERENCES "Odd ""Name"."t.1", at timestamptz, f float8, b bytea);
INSERT INTO child VALUES (1, 1, '2026-11-22 20:00:00.123456+00', 0.1::float8 + 0.2, '\xdeadbeef'), (2, 1004, 'infinity', 'NaN', '');
CREATE INDEX ON child (parent); CREATE VIEW joined AS SELECT c.id, "a b" FROM child c JOIN "Odd ""Name"."t.1" p ON p.id = c.parent;
CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.f := -1; RETURN NEW; END'; CREATE TRIGGER bump BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION bump();
CREATE TABLE parts (k int, v text) PARTITION BY LIST (k); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 'one');
CREATE SEQUENCE counter START 41; SELECT nextval('counter'); CREATE PUBLICATION news FOR TABLE child;
ALTER TABLE child ENABLE ROW LEVEL SECURITY; ALTER TABLE child FORCE ROW LEVEL SECURITY; CREATE POLICY all_of_it ON child USING (true);
SELECT lo_from_bytea(4711, 'large object'); CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM "Odd ""Name"."t.1"`

const fingerprint = `SELECT (SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM "Odd ""Name"."t.1" t), (SELECT string_agg(c::text, ',' ORDER BY id) FROM child c), (SELECT count(*) FROM joined),
(SELECT v FROM parts), (SELECT last_value FROM counter), (SELECT last_value FROM "Odd ""Name"."t.1_id_seq"), encode(lo_get(4711), 'escape'), (SELECT count FROM counted),
obj_description('"Odd ""Name"."t.1"'::regclass), (SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint), (SELECT relforcerowsecurity FROM pg_class WHERE relname = 'child'),
(SELECT string_agg(polname, ',') FROM pg_policy), (SELECT string_agg(pubname, ',') FROM pg_publication), (SELECT string_agg(tgname, ',') FROM pg_trigger WHERE NOT tgisinternal)`

// owners are the roles that own anything in a database.
const owners = `SELECT string_agg(DISTINCT pg_get_userbyid(o), ',') FROM (SELECT relowner FROM pg_class WHERE oid >= 16384 UNION SELECT proowner FROM pg_proc WHERE oid >= 16384
UNION SELECT lomowner FROM pg_largeobject_metadata UNION SELECT nspowner FROM pg_namespace WHERE oid >= 16384 UNION SELECT pubowner FROM pg_publication) x(o)`

// empty says what there is in a database.
const empty = `SELECT string_agg(x, ',') FROM (SELECT relname::text FROM pg_class WHERE oid >= 16384 UNION SELECT proname FROM pg_proc WHERE oid >= 16384 UNION SELECT nspname FROM pg_namespace WHERE oid >= 16384
UNION SELECT oid::text FROM pg_largeobject_metadata UNION SELECT extname FROM pg_extension WHERE oid >= 16384) x(x)`

func TestADatabaseComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for name, big := range map[string]int64{"in one transaction": bigTable, "in parts": 8192} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := open(t, "")
			a.big = big
			from := home(t, contents)
			var told []provision.Progress
			b := must[*provision.Backup](t)(a.Dump(t.Context(), from, "", func(p provision.Progress) { told = append(told, p) }))
			m := must[*manifest](t)(a.manifest(b.Tenant, b.ID))
			if parts := len(m.Tables) > 0; parts != (big == 8192) {
				t.Fatalf("got tables %v beside the dump", m.Tables)
			}
			to := home(t)
			to.Record.ID = from.Record.ID
			pgtest.Shared(t).Exec(t, "postgres", "ALTER DATABASE "+to.Connect.Database+" SET default_transaction_read_only = on")
			check(t, a.Load(t.Context(), b, to, func(p provision.Progress) { told = append(told, p) }))
			if got, want := query(t, to, fingerprint), query(t, from, fingerprint); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
			if got, want := query(t, to, owners), query(t, to, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"); got != want {
				t.Errorf("things belong to %s, want %s", got, want)
			}
			if roles := query(t, to, "SELECT rolname FROM pg_roles WHERE rolname = 'pgkennel_load_"+to.Record.ID+"'"); roles != "" {
				t.Errorf("%s is left", roles)
			}
			last := told[len(told)-1]
			if len(told) < 2 || !last.Bytes || last.Done == 0 || last.Done != last.Total {
				t.Errorf("progress ended with %+v", last)
			}
			refused(t, a.Load(t.Context(), b, to, nil), provision.KindState, "there is data")
		})
	}
}

func TestARestoreIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, big := range map[string]int64{"in one transaction": bigTable, "in parts": 8192} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := open(t, "")
			a.big = big
			from := home(t, "CREATE TABLE a (x text); INSERT INTO a SELECT repeat('x', 100) FROM generate_series(1, 1000); SELECT lo_create(1); CREATE SCHEMA s; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
				// It holds when it is made, and fails when it is restored into a database of another name.
				"CREATE TABLE z (n name CHECK (n = current_database())); INSERT INTO z VALUES (current_database())")
			pgtest.Shared(t).Exec(t, from.Connect.Database, "CREATE EXTENSION citext")
			b := dump(t, a, from)
			to := home(t)
			refused(t, a.Load(t.Context(), b, to, nil), provision.KindFailed, "failed", "z_n_check")
			if got := query(t, to, empty) + query(t, to, "SELECT rolname FROM pg_roles WHERE rolname = 'pgkennel_load_"+to.Record.ID+"'"); got != "∅" {
				t.Errorf("got %s, want nothing", got)
			}
			// It can be repeated, and what a process left that died half-way is no obstacle.
			pg := pgtest.Shared(t)
			role := ident(loadPrefix + to.Record.ID)
			pg.Exec(t, to.Connect.Database, "CREATE ROLE "+role+"; CREATE SCHEMA s AUTHORIZATION "+role+"; CREATE TABLE s.half (x int); ALTER TABLE s.half OWNER TO "+role)
			pg.Exec(t, from.Connect.Database, "ALTER TABLE z DROP CONSTRAINT z_n_check")
			check(t, a.Load(t.Context(), dump(t, a, from), to, nil))
			if got := query(t, to, "SELECT count(*) FROM a"); got != "1000" {
				t.Errorf("got %s rows, want 1000", got)
			}
		})
	}
}

func TestRestoredCodeHasNoPower(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	from := home(t, `CREATE TABLE proof (who text, super text)`,
		`CREATE FUNCTION evil(x int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
BEGIN EXECUTE 'RESET ROLE'; EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN others THEN NULL; END;
BEGIN EXECUTE 'ALTER ROLE ' || quote_ident(session_user) || ' SUPERUSER'; EXCEPTION WHEN others THEN NULL; END;
BEGIN EXECUTE 'CREATE ROLE made_by_a_restore SUPERUSER'; EXCEPTION WHEN others THEN NULL; END;
IF current_setting('is_superuser') = 'on' OR session_user = 'postgres' THEN RAISE EXCEPTION 'restored by a superuser'; END IF;
RETURN true; END $$`, `CREATE TABLE bait (x int)`, `INSERT INTO bait VALUES (1)`)
	pg.Exec(t, from.Connect.Database, "ALTER TABLE bait ADD CONSTRAINT c CHECK (public.evil(x)) NOT VALID")
	b := dump(t, a, from)
	to := home(t)
	check(t, a.Load(t.Context(), b, to, nil))
	if got := query(t, to, "SELECT count(*) FROM pg_roles WHERE rolname IN ('made_by_a_restore', 'pgkennel_load_"+to.Record.ID+"')"); got != "0" {
		t.Error("the restore left roles")
	}
	if got := query(t, to, "SELECT count(*) FROM bait"); got != "1" {
		t.Errorf("got %s rows", got)
	}
}

func TestExtensionsAndPrivilegesComeBack(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	reader, gone := pg.CreateUser(t, "x", "trust"), fmt.Sprintf("gone_%d", homes.Add(1))
	from := home(t)
	pg.Exec(t, from.Connect.Database, "CREATE EXTENSION pageinspect; CREATE EXTENSION citext; COMMENT ON EXTENSION citext IS 'ours'; CREATE ROLE "+gone)
	owner := query(t, from, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
	pg.Exec(t, from.Connect.Database, "SET ROLE "+owner+"; CREATE TABLE a (x citext PRIMARY KEY); GRANT SELECT ON a TO "+reader+", "+gone+
		"; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "+reader+
		"; CREATE POLICY p ON a TO "+gone+", "+reader+" USING (true); INSERT INTO a VALUES ('Aa')")
	b := dump(t, a, from)
	pg.Exec(t, from.Connect.Database, "DROP OWNED BY "+gone+"; DROP ROLE "+gone)
	to := home(t)
	to.Record.ID = from.Record.ID
	pg.Exec(t, to.Connect.Database, "ALTER DATABASE "+to.Connect.Database+" OWNER TO "+owner)
	check(t, a.Load(t.Context(), b, to, nil))
	const state = `SELECT has_table_privilege($1, 'a', 'SELECT'), has_function_privilege('public', 'f()', 'EXECUTE'), (SELECT string_agg(extname, ',' ORDER BY extname) FROM pg_extension),
(SELECT count(*) FROM a WHERE x = 'AA'), (SELECT polroles::regrole[] FROM pg_policy), (SELECT count(*) FROM pg_default_acl), (SELECT count(*) FROM pg_roles WHERE rolname = '`
	got := strings.Join(pg.Query(t, to.Connect.Database, state+gone+"')", reader), "")
	if want := "t|f|citext,pageinspect,plpgsql|1|{" + reader + "}|1|0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Another tenant's restore gives nothing to the first one's roles.
	other := home(t)
	check(t, a.Load(t.Context(), b, other, nil))
	if got := pg.Query(t, other.Connect.Database, "SELECT coalesce(relacl::text, '') FROM pg_class WHERE relname = 'a'")[0]; got != "" {
		t.Error("a role of another tenant may read the restored table")
	}
	for _, s := range []provision.Source{from, to, other} {
		pg.Exec(t, s.Connect.Database, "DROP OWNED BY "+reader+", "+owner+" CASCADE")
	}
	pg.Exec(t, "postgres", "ALTER DATABASE "+to.Connect.Database+" OWNER TO postgres")
}

func TestAnAdministratorNeedsToBeNoSuperuser(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	from, to := home(t, "CREATE SCHEMA s; CREATE TABLE s.a (x int); INSERT INTO s.a VALUES (1); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"), home(t)
	admin := pg.CreateUser(t, "", "trust")
	for _, s := range []*provision.Source{&from, &to} {
		pg.Exec(t, "postgres", "ALTER ROLE "+admin+" CREATEROLE; GRANT "+query(t, *s, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")+" TO "+admin)
		s.Connect.User = admin
	}
	check(t, a.Load(t.Context(), dump(t, a, from), to, nil))
	if got := query(t, to, "SELECT count(*) FROM s.a"); got != "1" {
		t.Errorf("got %s rows", got)
	}
}

func TestASchemaComesBackBesideOthers(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	from := home(t)
	owner := query(t, from, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
	reader := pg.CreateUser(t, "x", "trust")
	pg.Exec(t, from.Connect.Database, "SET ROLE "+owner+`; CREATE SCHEMA "t a"; CREATE SCHEMA t_b; CREATE TABLE t_b.other (x int); INSERT INTO t_b.other VALUES (7);
ALTER DEFAULT PRIVILEGES IN SCHEMA "t a" GRANT SELECT ON TABLES TO `+reader+`; COMMENT ON SCHEMA "t a" IS 'its own';
CREATE TABLE "t a".big (id serial PRIMARY KEY, x text); INSERT INTO "t a".big (x) SELECT repeat('y', 100) FROM generate_series(1, 500) n`)
	from.Record.Isolation, from.Record.Schema = tenant.Schema, "t a"
	for _, big := range []int64{bigTable, 8192} {
		a.big = big
		b := dump(t, a, from)
		pg.Exec(t, from.Connect.Database, `DROP TABLE "t a".big`)
		check(t, a.Load(t.Context(), b, from, nil))
		got := pg.Query(t, from.Connect.Database, `SELECT (SELECT count(*) FROM "t a".big), (SELECT x FROM t_b.other), has_table_privilege($1, '"t a".big', 'SELECT'), pg_get_userbyid(relowner) = $2,
(SELECT count(*) FROM pg_default_acl) FROM pg_class WHERE relname = 'big'`, reader, owner)[0]
		if got != "500|7|t|t|1" {
			t.Errorf("got %s", got)
		}
	}
	b := dump(t, a, from)
	// Under another name it comes back too, and leaves nothing else.
	pg.Exec(t, from.Connect.Database, `CREATE EXTENSION citext; ALTER TABLE "t a".big ADD y citext; SET ROLE `+owner+`; CREATE SCHEMA t_c`)
	other := from
	other.Record = &tenant.Record{ID: tenant.NewID(), Isolation: tenant.Schema, Schema: "t_c"}
	check(t, a.Load(t.Context(), dump(t, a, from), other, nil))
	if got := query(t, from, `SELECT (SELECT count(*) FROM t_c.big), (SELECT count(*) FROM "t a".big), (SELECT count(*) FROM pg_database WHERE datname LIKE '%`+other.Record.ID+`'),
pg_get_userbyid(relowner) = '`+owner+`' FROM pg_class WHERE oid = 't_c.big'::regclass`); got != "500|500|0|t" {
		t.Errorf("got %s", got)
	}
	if list := must[[]provision.Backup](t)(a.List(t.Context(), other.Record.ID)); len(list) != 0 {
		t.Errorf("got backups %v", list)
	}
	refused(t, a.Load(t.Context(), dump(t, a, home(t)), other, nil), provision.KindRefused, "holds a database")
	// A database of its own takes it.
	to := home(t)
	check(t, a.Load(t.Context(), b, to, nil))
	if got := query(t, to, `SELECT count(*) FROM "t a".big`); got != "500" {
		t.Errorf("got %s rows", got)
	}
	pg.Exec(t, from.Connect.Database, "DROP OWNED BY "+reader+", "+owner+" CASCADE")
}

func TestRowsComeBackWithTheirKeys(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	db := pg.CreateDatabase(t, `CREATE TABLE a (tenant_id text, id bigserial, up bigint, v text, twice bigint GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (tenant_id, id),
FOREIGN KEY (tenant_id, up) REFERENCES a); CREATE TABLE b (tenant_id text, a bigint, FOREIGN KEY (tenant_id, a) REFERENCES a); CREATE TABLE lone (tenant_id text);
CREATE TABLE parts (v int, tenant_id text, fixed int GENERATED ALWAYS AS IDENTITY) PARTITION BY HASH (tenant_id); CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE common (v int); INSERT INTO common VALUES (1); CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER no BEFORE INSERT ON b FOR EACH ROW EXECUTE FUNCTION no();
ALTER TABLE b DISABLE TRIGGER no; INSERT INTO a (tenant_id, v) SELECT t, E'line\n\ttab \\N ' || n FROM unnest('{x,y}'::text[]) t, generate_series(1, 300) n; UPDATE a SET up = id;
INSERT INTO b SELECT tenant_id, id FROM a; INSERT INTO lone VALUES ('x'), ('x'), ('y'); INSERT INTO parts (v, tenant_id) VALUES (1, 'x'), (2, 'y'); ALTER TABLE b ENABLE TRIGGER no;
ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE a FORCE ROW LEVEL SECURITY; CREATE SCHEMA own; CREATE TABLE own.a (tenant_id text); INSERT INTO own.a VALUES ('x')`)
	x := source(pg, db, tenant.Row)
	x.Record.Key, x.Column, x.Tables = "x", "tenant_id", []string{"public.a", "public.b", "public.lone", "public.parts"}
	rows := func(key string) string {
		return pg.Query(t, db, `SELECT (SELECT md5(string_agg(concat(id, up, v, twice), ',' ORDER BY id)) FROM a WHERE tenant_id = $1), (SELECT count(*) FROM b WHERE tenant_id = $1),
(SELECT count(*) FROM lone WHERE tenant_id = $1), (SELECT concat(v, fixed) FROM parts WHERE tenant_id = $1), (SELECT count(*) FROM own.a)`, key)[0]
	}
	was, others := rows("x"), rows("y")
	b := dump(t, a, x)
	refused(t, a.Load(t.Context(), b, x, nil), provision.KindState, "has rows already")
	pg.Exec(t, db, "DELETE FROM b WHERE tenant_id = 'x'; DELETE FROM a WHERE tenant_id = 'x'; DELETE FROM lone WHERE tenant_id = 'x'; DELETE FROM parts WHERE tenant_id = 'x'")
	check(t, a.Load(t.Context(), b, x, nil))
	if got := rows("x"); got != was {
		t.Errorf("got %s, want %s", got, was)
	}
	if got := rows("y"); got != others {
		t.Errorf("another tenant has %s, had %s", got, others)
	}
	// As another tenant: the key is the other's, whatever is in it.
	odd := x
	odd.Record = &tenant.Record{ID: tenant.NewID(), Isolation: tenant.Row, Key: "ta\tb\\N\nline"}
	check(t, a.Load(t.Context(), b, odd, nil))
	if got := rows(odd.Record.Key); got != was {
		t.Errorf("got %s, want %s", got, was)
	}
	// Rows that point to nothing are noticed, and nothing stays.
	k := must[*making](t)(a.begin(x, provision.Logical, ofRows, ""))
	k.m.Column, k.m.Tables = "tenant_id", []table{{Schema: "public", Name: "b", Columns: []string{"a"}, File: "table0", Rows: 1}}
	check(t, k.write("table0", func(w io.Writer) error { _, err := io.WriteString(w, "999999\n"); return err }))
	k.m.Backup.Version = "15"
	bad := must[*provision.Backup](t)(k.finish())
	odd.Record.Key = "z"
	refused(t, a.Load(t.Context(), bad, odd, nil), provision.KindFailed, "point to rows that are not there")
	if got := rows("z"); !strings.HasPrefix(got, "∅|0|0|") {
		t.Errorf("got %s, want nothing", got)
	}
}

// TestMemoryIsBounded dumps and restores more than the process may allocate at a time.
func TestMemoryIsBounded(t *testing.T) {
	a := open(t, "")
	from := home(t, "CREATE TABLE big (x text)", "ALTER TABLE big ALTER x SET STORAGE EXTERNAL",
		"INSERT INTO big SELECT string_agg(md5(n::text || m::text), '') FROM generate_series(1, 20) m, generate_series(1, 32768) n GROUP BY m")
	to := home(t)
	var peak uint64
	var mu sync.Mutex
	watch := func(provision.Progress) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		mu.Lock()
		defer mu.Unlock()
		peak = max(peak, m.HeapInuse)
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	b := must[*provision.Backup](t)(a.Dump(t.Context(), from, "", watch))
	if b.Bytes < 8<<20 {
		t.Fatalf("the backup has %d bytes, too few for this test", b.Bytes)
	}
	check(t, a.Load(t.Context(), b, to, watch))
	if grown := int64(peak) - int64(before.HeapInuse); grown > 12<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
}

func TestDumpsThatFailLeaveNothing(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	s := home(t, "CREATE TABLE x (y int)")
	s.Record.Isolation, s.Record.Schema = tenant.Schema, "nowhere"
	_, err := a.Dump(t.Context(), s, "", nil)
	refused(t, err, provision.KindFailed, "pg_dump failed", "no matching schemas")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Dump(ctx, s, "", nil); err == nil {
		t.Error("a cancelled dump did not fail")
	}
	s.Connect.Port = 1
	if _, err := a.Dump(t.Context(), s, "", nil); err == nil {
		t.Error("a dump of nobody did not fail")
	}
	if left, err := os.ReadDir(filepath.Join(dirOf(a), s.Record.ID)); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v, want nothing left", left, err)
	}
}
