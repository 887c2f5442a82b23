package cluster

import (
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

const codeSchema = `
CREATE EXTENSION "uuid-ossp"; CREATE EXTENSION pgcrypto; CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION pg_trgm;
CREATE EXTENSION unaccent; CREATE EXTENSION fuzzystrmatch; CREATE EXTENSION btree_gin; CREATE EXTENSION btree_gist; CREATE EXTENSION cube;
CREATE EXTENSION earthdistance; CREATE EXTENSION intarray; CREATE EXTENSION tablefunc; CREATE EXTENSION isn; CREATE EXTENSION dblink; CREATE EXTENSION seg;
CREATE EXTENSION tcn; CREATE EXTENSION moddatetime; CREATE EXTENSION xml2;
CREATE SCHEMA s;
CREATE TYPE s.unknown_type AS (a int);
CREATE FUNCTION good() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION bad() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('a.b', 'c', false); RETURN 1; END $$;
CREATE FUNCTION calls_good() RETURNS int LANGUAGE sql AS 'SELECT good()';
CREATE FUNCTION calls_bad() RETURNS int LANGUAGE sql AS 'SELECT bad()';
CREATE FUNCTION calls_bad_deep() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN calls_bad(); END';
CREATE FUNCTION recursive(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN IF n = 0 THEN RETURN 0; END IF; RETURN recursive(n - 1); END';
CREATE FUNCTION ping(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN pong(n); END';
CREATE FUNCTION pong(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN ping(n); END';
CREATE FUNCTION calls_none() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN not_there(); END';
CREATE FUNCTION overloaded() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION s.overloaded(int) RETURNS int LANGUAGE sql AS 'SELECT bad()';
CREATE FUNCTION atomic_good() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT good(); SELECT calls_good(); END;
CREATE FUNCTION atomic_bad() RETURNS int RETURN bad() + 1;
CREATE FUNCTION defaults_bad(a int DEFAULT bad()) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION unaccented(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT unaccent('unaccent', $1) $$;
CREATE FUNCTION dynamic(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END';
CREATE FUNCTION lower(s.unknown_type) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE PROCEDURE proc() LANGUAGE plpgsql AS 'BEGIN UPDATE plain SET a = 1; END';
CREATE PROCEDURE proc_commits() LANGUAGE plpgsql AS 'BEGIN UPDATE plain SET a = 1; COMMIT; END';
CREATE AGGREGATE agg_good(int) (SFUNC = int4pl, STYPE = int);
CREATE FUNCTION step_bad(int, int) RETURNS int LANGUAGE sql AS 'SELECT bad()';
CREATE AGGREGATE agg_bad(int) (SFUNC = step_bad, STYPE = int);

CREATE TABLE plain (id int PRIMARY KEY, a int DEFAULT 1, at timestamptz DEFAULT now(), CHECK (a > 0));
CREATE INDEX ON plain (abs(a)) WHERE a < 10;
CREATE TABLE log (what text);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.at = now(); RETURN NEW; END';
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log SELECT TG_TABLE_NAME || row_to_json(NEW); RETURN NEW; END';
CREATE FUNCTION trigger_bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM bad(); RETURN NEW; END';
CREATE TABLE touched (id int, at timestamptz); CREATE TRIGGER t BEFORE UPDATE ON touched FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch();
CREATE TABLE audited (id int); CREATE TRIGGER t AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TABLE triggered_bad (id int); CREATE TRIGGER t AFTER INSERT ON triggered_bad FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE TABLE disabled (id int); CREATE TRIGGER t AFTER INSERT ON disabled FOR EACH ROW EXECUTE FUNCTION trigger_bad(); ALTER TABLE disabled DISABLE TRIGGER t;
CREATE TABLE when_bad (id int); CREATE TRIGGER t AFTER INSERT ON when_bad FOR EACH ROW WHEN (bad() = NEW.id) EXECUTE FUNCTION touch();
CREATE TABLE when_locks (id int); CREATE TRIGGER t AFTER INSERT ON when_locks FOR EACH ROW WHEN (pg_try_advisory_lock(NEW.id)) EXECUTE FUNCTION touch();
CREATE TABLE default_bad (id int, b int DEFAULT bad());
CREATE TABLE default_locks (id int, b bool DEFAULT pg_try_advisory_lock(1));
CREATE TABLE check_bad (id int CHECK (bad() > id));
CREATE FUNCTION immutable_bad(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN bad(); END';
CREATE TABLE generated_bad (id int, g int GENERATED ALWAYS AS (immutable_bad(id)) STORED);
CREATE TABLE indexed_bad (id int); CREATE INDEX ON indexed_bad (immutable_bad(id));
CREATE TABLE policed_bad (id int); ALTER TABLE policed_bad ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON policed_bad USING (bad() = id);
CREATE TABLE ruled (id int); CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT 1;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int, parent int REFERENCES parent ON DELETE CASCADE); CREATE TRIGGER t AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE TABLE strict_parent (id int PRIMARY KEY);
CREATE TABLE strict_child (id int, parent int REFERENCES strict_parent); CREATE TRIGGER t AFTER DELETE ON strict_child FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE TABLE parted (id int) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
CREATE TRIGGER t AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE TABLE heir (b int) INHERITS (log);
CREATE TABLE s.log (what text); CREATE TRIGGER t AFTER INSERT ON s.log FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE VIEW view_plain AS SELECT * FROM plain;
CREATE VIEW view_bad AS SELECT bad() AS b;
CREATE VIEW view_deep AS SELECT * FROM view_bad;
CREATE VIEW view_triggered AS SELECT * FROM triggered_bad;
CREATE VIEW view_instead AS SELECT 1 AS x; CREATE TRIGGER t INSTEAD OF INSERT ON view_instead FOR EACH ROW EXECUTE FUNCTION trigger_bad();
CREATE VIEW knobs AS SELECT name, setting FROM pg_settings;
CREATE FUNCTION s.total(plain) RETURNS int LANGUAGE sql AS 'SELECT bad()';
CREATE FUNCTION calls_total() RETURNS int LANGUAGE sql SET search_path = s, public AS 'SELECT p.total FROM plain p';
CREATE FUNCTION writes_log() RETURNS void LANGUAGE sql AS $$ INSERT INTO log VALUES ('x') $$;
CREATE FUNCTION writes_public_log() RETURNS void LANGUAGE sql AS $$ INSERT INTO public.log VALUES ('x') $$;
`

// TestCodeOfARealDatabase judges functions, triggers and all else that runs beside a statement as PostgreSQL's catalogs have them.
func TestCodeOfARealDatabase(t *testing.T) {
	t.Parallel()
	h := pgHooks()
	h.Book = judge.NewBook(new(judge.Changes))
	shared := pgtest.Shared(t)
	run(t, Options{Shards: [][]Endpoint{{at(t, shared, shared.CreateDatabase(t, codeSchema), settings(1))}}, Service: superuser()}, h)
	cases := []struct {
		sql  string
		want judge.Verdict
	}{
		{"SELECT 1", judge.Harmless},
		{"SELECT now(), lower('X'), count(*) FROM pg_class", judge.Harmless},
		{"SELECT good()", judge.Harmless},
		{"SELECT bad()", judge.Harmful},
		{"SELECT calls_good()", judge.Harmless},
		{"SELECT calls_bad()", judge.Harmful},
		{"SELECT calls_bad_deep()", judge.Harmful},
		{"SELECT recursive(3), ping(1)", judge.Harmless},
		{"SELECT calls_none()", judge.Harmful},
		{"SELECT not_there()", judge.Harmful},
		{"SELECT overloaded()", judge.Harmful},
		{"SELECT atomic_good()", judge.Harmless},
		{"SELECT atomic_bad()", judge.Harmful},
		{"SELECT defaults_bad(1)", judge.Harmful},
		{"SELECT dynamic('SET x')", judge.Harmful},
		{"SELECT pg_temp.good()", judge.Harmful},
		{"CALL proc()", judge.Harmless},
		{"CALL proc_commits()", judge.Harmful},
		{"SELECT agg_good(id) FROM plain", judge.Harmless},
		{"SELECT agg_bad(id) FROM plain", judge.Harmful},
		{"SELECT uuid_generate_v4(), crypt('x', gen_salt('bf')), gen_random_bytes(4), digest('x', 'md5')", judge.Harmless},
		{"SELECT similarity('a', 'b'), show_trgm('x'), unaccent('x'), unaccented('x'), levenshtein('a', 'b'), soundex('x')", judge.Harmless},
		{"SELECT set_limit(0.5)", judge.Harmful},
		{"SELECT hstore('a', 'b'), akeys(h), subltree(l, 0, 1), replace('a'::citext, 'b', 'c'), isn_weak(), cube(1), earth_distance(a, b), ll_to_earth(1, 2), idx(a, 1), sort(a) FROM plain", judge.Harmful},
		{"SELECT hstore('a', 'b'), akeys(h), subltree(l, 0, 1), replace('a'::citext, 'b', 'c'), max(a::citext), cube(1), earth_distance(a, b), ll_to_earth(1, 2), idx(a, 1), sort(a), normal_rand(1, 2, 3) FROM plain", judge.Harmless},
		{"SELECT * FROM crosstab('SELECT 1') AS c (a int)", judge.Harmful},
		{"SELECT dblink_connect('x')", judge.Harmful},
		{"SELECT lower(x) FROM plain", judge.Harmless},
		{"INSERT INTO plain VALUES (1)", judge.Harmless},
		{"UPDATE touched SET id = 1", judge.Harmless},
		{"INSERT INTO audited VALUES (1)", judge.Harmful}, // by name alone, log is the other schema's, too
		{"INSERT INTO triggered_bad VALUES (1)", judge.Harmful},
		{"COPY triggered_bad FROM STDIN", judge.Harmful},
		{"SELECT * FROM triggered_bad", judge.Harmless},
		{"INSERT INTO disabled VALUES (1)", judge.Harmless},
		{"INSERT INTO when_bad VALUES (1)", judge.Harmful},
		{"INSERT INTO when_locks VALUES (1)", judge.Harmful},
		{"INSERT INTO default_bad VALUES (1)", judge.Harmful},
		{"INSERT INTO default_locks VALUES (1)", judge.Harmful},
		{"INSERT INTO check_bad VALUES (1)", judge.Harmful},
		{"INSERT INTO generated_bad VALUES (1)", judge.Harmful},
		{"INSERT INTO indexed_bad VALUES (1)", judge.Harmful},
		{"SELECT FROM policed_bad", judge.Harmful},
		{"INSERT INTO ruled VALUES (1)", judge.Harmful},
		{"DELETE FROM parent", judge.Harmful},
		{"DELETE FROM strict_parent", judge.Harmless},
		{"INSERT INTO parted VALUES (1)", judge.Harmful},
		{"INSERT INTO log VALUES ('x')", judge.Harmful},
		{"INSERT INTO public.log VALUES ('x')", judge.Harmless},
		{"INSERT INTO s.log VALUES ('x')", judge.Harmful},
		{"SELECT writes_log()", judge.Harmful},
		{"SELECT writes_public_log()", judge.Harmless},
		{"SELECT * FROM view_plain", judge.Harmless},
		{"INSERT INTO view_plain VALUES (1)", judge.Harmless},
		{"SELECT * FROM view_bad", judge.Harmful},
		{"SELECT * FROM view_deep", judge.Harmful},
		{"SELECT * FROM view_triggered", judge.Harmless},
		{"INSERT INTO view_triggered VALUES (1)", judge.Harmful},
		{"INSERT INTO view_instead VALUES (1)", judge.Harmful},
		{"SELECT * FROM view_instead", judge.Harmless},
		{"UPDATE knobs SET setting = 'x'", judge.Harmful},
		{"SELECT * FROM knobs", judge.Harmless},
		{"SELECT calls_total()", judge.Harmful},
		{"WITH x AS (SELECT 1) SELECT * FROM x, no_such_table", judge.Harmless},
	}
	verdict := func(sql string) judge.Verdict {
		m := parser.Parse(sql)
		if len(m.Statements) != 1 {
			t.Fatalf("%s: %v", sql, m.Unparsable)
		}
		return h.Book.Verdict(m.Statements[0], int64(pool.Now()))
	}
	for _, x := range cases {
		verdict(x.sql) // asks for it
	}
	eventually(t, "verdicts", func() bool { return verdict("SELECT good()") == judge.Harmless })
	for _, x := range cases {
		got := judge.Unknown
		eventually(t, x.sql, func() bool { got = verdict(x.sql); return got != judge.Unknown })
		if got != x.want {
			t.Errorf("%s: got %d, want %d", x.sql, got, x.want)
		}
	}
	if t.Failed() {
		for _, f := range h.Book.Findings() {
			t.Logf("%+v", f)
		}
	}
}
