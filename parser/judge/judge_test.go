package judge_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
)

// say writes what code does on one line.
func say(c *judge.Code) string {
	var parts []string
	add := func(what string, names []string) {
		slices.Sort(names)
		if names = slices.Compact(names); len(names) > 0 {
			parts = append(parts, what+" "+strings.Join(names, " "))
		}
	}
	if c.Why != "" {
		return c.Why
	}
	add("calls", slices.Clone(c.Calls))
	names := func(list []judge.Name) (all []string) {
		for _, n := range list {
			all = append(all, n.String())
		}
		return all
	}
	add("reads", names(c.Reads))
	add("writes", names(c.Writes))
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

const (
	notUnderstood = "it is not understood"
	made          = "it runs SQL that is made while it runs"
	sets          = "it changes settings of the session"
)

// TestJudgePLpgSQL judges bodies as applications have them.
func TestJudgePLpgSQL(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ body, want string }{
		{"BEGIN NEW.updated_at = now(); RETURN NEW; END;", "calls now"},
		{"begin new.updated_at := now(); return new; end", "calls now"},
		{"BEGIN IF TG_OP = 'DELETE' THEN INSERT INTO audit SELECT TG_TABLE_NAME, row_to_json(OLD), now(); RETURN OLD; END IF; RETURN NEW; END", "calls now row_to_json; writes audit"},
		{"BEGIN IF NEW.* IS DISTINCT FROM OLD.* THEN NEW.version := OLD.version + 1; END IF; RETURN NEW; END", "nothing"},
		{"BEGIN EXECUTE format('INSERT INTO %I SELECT ($1).*', TG_TABLE_NAME || '_log') USING NEW; RETURN NULL; END", made},
		{"BEGIN EXECUTE 'INSERT INTO log VALUES ($1)' USING NEW.id; RETURN NULL; END", "writes log"},
		{"BEGIN EXECUTE 'SET search_path = x'; END", "it changes settings"},
		{"BEGIN EXECUTE $q$LISTEN news$q$; END", "it runs LISTEN"},
		{"BEGIN EXECUTE 'SELECT 1; LISTEN news'; END", "it runs LISTEN"},
		{"DECLARE n int; BEGIN EXECUTE format('SELECT count(*) FROM t WHERE a = %L AND b = f(%L)', x, g(y)) INTO n; END", "calls count f format g; reads t"},
		{"BEGIN EXECUTE format('SELECT ''%L''', x); END", made},
		{"BEGIN EXECUTE format('SELECT 1 -- %L', x); END", made},
		{"BEGIN EXECUTE format('SELECT E%L', x); END", made},
		{"BEGIN EXECUTE format('SELECT %s', x); END", made},
		{"BEGIN EXECUTE format('SELECT %1$L', x); END", made},
		{"BEGIN EXECUTE q; END", made},
		{"BEGIN EXECUTE 'SELECT ' || q; END", made},
		{"BEGIN RETURN QUERY EXECUTE q USING 1; END", made},
		{"BEGIN RETURN QUERY EXECUTE 'SELECT * FROM t WHERE id = $1' USING a; RETURN; END", "reads t"},
		{"BEGIN RETURN QUERY SELECT o.id, f(o) FROM orders o JOIN s.lines l USING (id); END", "calls f; reads orders s.lines"},
		{"BEGIN RETURN NEXT; RETURN NEXT r; RETURN; END", "nothing"},
		{"BEGIN PERFORM set_config('app.user', $1, true); END", "calls set_config"},
		{"BEGIN PERFORM set_config('app.user', v_user, true); END", "calls set_config"},
		{"BEGIN PERFORM set_config('app.user', 'x', false); END", sets},
		{"BEGIN PERFORM set_config('app.user', 'x', local); END", "it leaves something behind: unseen"},
		{"BEGIN PERFORM set_config(name, 'x', true); END", "it leaves something behind: unjudged"},
		{"BEGIN PERFORM set_config('search_path', 'x', true); END", sets},
		{"BEGIN PERFORM set_config('pgkennel.seal', 'x', true); END", sets},
		{"BEGIN SET LOCAL app.actor = 'x'; SET LOCAL work_mem = '1MB'; END", "nothing"},
		{"BEGIN SET LOCAL search_path = x; END", "it changes settings"},
		{"BEGIN SET work_mem = '1MB'; END", "it changes settings"},
		{"BEGIN RESET ALL; END", "it runs RESET"},
		{"BEGIN SET LOCAL role = x; END", "it changes settings"},
		{"BEGIN CREATE TEMP TABLE t (id int); END", "it runs CREATE TABLE"},
		{"BEGIN CREATE TEMP TABLE IF NOT EXISTS t ON COMMIT DROP AS SELECT 1; END", "it runs CREATE TABLE AS"},
		{"BEGIN x := pg_advisory_lock(1); END", "it leaves something behind: advisory-lock"},
		{"BEGIN IF pg_try_advisory_lock(1) THEN NULL; END IF; END", "it leaves something behind: advisory-lock"},
		{"BEGIN PERFORM pg_advisory_xact_lock(hashtext('x')); END", "calls hashtext pg_advisory_xact_lock"},
		{"BEGIN PERFORM pg_advisory_unlock(1); END", "it gives up locks of the session"},
		{"BEGIN PERFORM setseed(0.5); END", "it leaves something behind: unjudged"},
		{"BEGIN PERFORM pg_notify('x', NEW.id::text); NOTIFY news; RETURN NEW; END", "calls pg_notify"},
		{"BEGIN UPDATE pg_settings SET setting = '1' WHERE name = 'work_mem'; END", "it leaves something behind: unjudged"},
		{"DECLARE a int; b text := f('x'); c CONSTANT numeric(10, 2) NOT NULL DEFAULT 1.0; d orders%ROWTYPE; e orders.id%TYPE = g(1); x int[]; y ALIAS FOR $1; BEGIN NULL; END", "calls f g"},
		{"DECLARE c CURSOR (k int) FOR SELECT * FROM t WHERE id = k; d NO SCROLL CURSOR IS SELECT h(1); r record; BEGIN OPEN c(f(1)); FETCH NEXT FROM c INTO r; MOVE c; CLOSE c; FOR r IN c(g(2)) LOOP NULL; END LOOP; FOR r IN d LOOP EXIT WHEN e(r.x); END LOOP; END", "calls e f g h; reads t"},
		{"DECLARE c refcursor; BEGIN OPEN c FOR SELECT * FROM t; RETURN c; END", "reads t"},
		{"DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE q; END", made},
		{"DECLARE c CURSOR FOR SELECT set_config('a.b', 'c', false); BEGIN OPEN c; END", sets},
		{"<<outer>> DECLARE i int; BEGIN <<l>> FOR i IN REVERSE f(10)..1 BY 2 LOOP CONTINUE l WHEN i = 3; EXIT outer; END LOOP l; FOR i IN 1..10 LOOP NULL; END LOOP; END outer;", "calls f"},
		{"DECLARE r record; BEGIN FOR r IN SELECT * FROM t LOOP UPDATE u SET a = f(r.b) WHERE id = r.id; END LOOP; FOR r IN (SELECT 1) LOOP END LOOP; END", "calls f; reads t; writes u"},
		{"BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; FOR r IN EXECUTE q USING 1 LOOP NULL; END LOOP; END", made},
		{"BEGIN FOREACH x SLICE 1 IN ARRAY f(a) LOOP PERFORM g(x); END LOOP; WHILE h() LOOP NULL; END LOOP; LOOP EXIT; END LOOP; END", "calls f g h"},
		{"BEGIN CASE f(x) WHEN 1, 2 THEN PERFORM g(); ELSE NULL; END CASE; CASE WHEN h() THEN NULL; END CASE; END", "calls f g h"},
		{"BEGIN IF (CASE WHEN a THEN b ELSE c END) THEN NULL; ELSIF f() THEN NULL; ELSEIF g() THEN NULL; ELSE PERFORM h(); END IF; END", "calls f g h"},
		{"BEGIN INSERT INTO t (a) VALUES (1) RETURNING id INTO STRICT v_id; SELECT a, b INTO x.c, y FROM u; SELECT INTO z * FROM w WHERE f(1); END", "calls f; reads u w; writes t"},
		{"BEGIN SELECT a INTO b FROM t, (SELECT set_config('a.b', 'c', false)) s; END", sets},
		{"BEGIN WITH n AS (INSERT INTO t VALUES (1) RETURNING id) SELECT id INTO v FROM n; END", "reads n; writes t"},
		{"BEGIN MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = f(s.a) WHEN NOT MATCHED THEN DO NOTHING; END", "calls f; reads s; writes t"},
		{"BEGIN BEGIN INSERT INTO t VALUES (1); EXCEPTION WHEN unique_violation OR SQLSTATE '22012' THEN RAISE NOTICE 'x %', f(SQLERRM); WHEN OTHERS THEN GET STACKED DIAGNOSTICS m = MESSAGE_TEXT; RAISE; END; END", "calls f; writes t"},
		{"BEGIN RAISE EXCEPTION 'no % and %', a, f(b) USING ERRCODE = 'P0001', HINT = g('x'); RAISE unique_violation USING MESSAGE = h(1); RAISE SQLSTATE '22012'; RAISE 'x'; ASSERT i(1), 'm'; END", "calls f g h i"},
		{"BEGIN CALL p(f(1)); END", "calls f p"},
		{"BEGIN CALL p(set_config('a.b', 'c', false)); END", sets},
		{"BEGIN COMMIT; END", "it ends transactions"},
		{"BEGIN DO $d$ BEGIN NULL; END $d$; END", "it runs DO"},
		{"BEGIN ALTER TABLE t DISABLE TRIGGER USER; END", "it runs ALTER TABLE"},
		{"BEGIN TRUNCATE t; LOCK TABLE u; SET CONSTRAINTS ALL DEFERRED; END", "writes t"},
		{"BEGIN COPY t TO '/tmp/x'; END", "it reads or writes files"},
		{"BEGIN x := pg_temp.f(); END", "it calls a temporary function"},
		{"BEGIN a[f(1)] := 2; a[1:2].b := g(3); \"Odd\" := h(); $1 := 5; END", "calls f g h"},
		{"BEGIN x := query_to_xml('SELECT 1', true, true, ''); END", "calls query_to_xml"},
		{"BEGIN x := lo_open(1, 2); END", "it leaves something behind: large-object"},
		{"#variable_conflict use_column\n#option dump\nBEGIN x := f(); END", "calls f"},
		{"-- why\nBEGIN /* what */ x := f(/* a */ 1); -- end\nEND", "calls f"},
		{"BEGIN GET DIAGNOSTICS n = ROW_COUNT; RETURN currval('s') + lastval(); END", "calls currval lastval"},
		{"BEGIN x := 'a\\'; y := f('b'); END", "calls f"},
		// What is no PL/pgSQL.
		{"", notUnderstood},
		{"BEGIN", notUnderstood},
		{"BEGIN END IF; END", notUnderstood},
		{"BEGIN x := ; END", notUnderstood},
		{"BEGIN x := (1; END", notUnderstood},
		{"BEGIN IF a THEN NULL; END LOOP; END", notUnderstood},
		{"BEGIN SELECT 'x; END", notUnderstood},
		{"BEGIN U&\"x\" := 1; END", notUnderstood},
		{"BEGIN NULL; END; BEGIN NULL; END", notUnderstood},
		{"BEGIN GET DIAGNOSTICS a[f(1)] = ROW_COUNT; END", notUnderstood},
		{"BEGIN CLOSE f(1); END", notUnderstood},
		{strings.Repeat("BEGIN ", 5000) + strings.Repeat("END; ", 5000), notUnderstood},
		{"BEGIN " + strings.Repeat("IF a THEN ", 5000) + strings.Repeat("END IF; ", 5000) + "END", notUnderstood},
		{"BEGIN PERFORM '" + strings.Repeat("x", 300<<10) + "'; END", "it is too long"},
	} {
		if got := say(judge.PLpgSQL(x.body)); got != x.want {
			t.Errorf("%.300s\ngot  %s\nwant %s", x.body, got, x.want)
		}
	}
}

// TestJudgeFunctions of all languages.
func TestJudgeFunctions(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		f    judge.Function
		want string
	}{
		{judge.Function{Language: "sql", Source: "SELECT f($1) FROM t; UPDATE u SET a = 1"}, "calls f; reads t; writes u"},
		{judge.Function{Language: "sql", Source: "SELECT set_config('a.b', 'c', false)"}, sets},
		{judge.Function{Language: "sql", Source: "not sql"}, notUnderstood},
		{judge.Function{Language: "sql", Source: ""}, "nothing"},
		{judge.Function{Language: "sql", Atomic: "BEGIN ATOMIC\n INSERT INTO s.t (a)\n   VALUES (s.f($1));\n SELECT 1;\nEND"}, "calls f; writes s.t"},
		{judge.Function{Language: "sql", Atomic: "RETURN (s.f($1) + 1)"}, "calls f"},
		{judge.Function{Language: "sql", Atomic: "BEGIN ATOMIC\nEND"}, "nothing"},
		{judge.Function{Language: "plpgsql", Source: "BEGIN RETURN 1; END", Defaults: "1, f('x'::text)"}, "calls f"},
		{judge.Function{Language: "plpgsql", Source: "BEGIN RETURN 1; END", Settings: []string{"search_path=public"}}, "nothing"},
		{judge.Function{Language: "plpgsql", Source: "BEGIN RETURN 1; END", Settings: []string{"standard_conforming_strings=off"}}, "its text is read by other rules"},
		{judge.Function{Language: "plpython3u", Source: "return 1"}, "nobody can read language plpython3u"},
		{judge.Function{Language: "internal", Source: "set_config_by_name"}, "nobody can read language internal"},
		{judge.Function{Language: "c", Source: "x"}, "nobody can read language c"},
		{judge.Function{Language: "c", Name: "uuid_generate_v4", Extension: "uuid-ossp"}, "nothing"},
		{judge.Function{Language: "c", Name: "similarity", Extension: "pg_trgm"}, "nothing"},
		{judge.Function{Language: "c", Name: "set_limit", Extension: "pg_trgm"}, "it is one of the functions of extension pg_trgm that change the session, or run SQL"},
		{judge.Function{Language: "c", Name: "crosstab4", Extension: "tablefunc"}, "it is one of the functions of extension tablefunc that change the session, or run SQL"},
		{judge.Function{Language: "c", Name: "dblink_connect", Extension: "dblink"}, "nobody knows what extension dblink does"},
		{judge.Function{Language: "internal", Aggregate: true, Calls: []string{"step", "final"}}, "calls final step"},
	} {
		if got := say(x.f.Judge(nil)); got != x.want {
			t.Errorf("%+v\ngot  %s\nwant %s", x.f, got, x.want)
		}
	}
}

// TestUses names what statements of clients run.
func TestUses(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ sql, want string }{
		{"SELECT 1", "nothing"},
		{"BEGIN", "nothing"},
		{"SELECT f(1) FROM a, LATERAL (SELECT * FROM s.b WHERE id IN (SELECT id FROM c)) x LEFT JOIN d ON EXISTS (SELECT FROM e)", "calls f; reads a c d e s.b"},
		{"WITH x AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM c UNION SELECT g(1) FROM x", "calls g; reads c x; writes a b"},
		{"INSERT INTO a VALUES (f(1)) ON CONFLICT (id) DO UPDATE SET b = g((SELECT max(x) FROM h)) RETURNING i(1)", "calls f g i max; reads h; writes a"},
		{"UPDATE a SET b = 1 FROM c WHERE f(a.x)", "calls f; reads c; writes a"},
		{"COPY s.t FROM STDIN", "writes s.t"},
		{"COPY t TO STDOUT", "reads t"},
		{"COPY (SELECT f(1) FROM t) TO STDOUT", "calls f; reads t"},
		{"TRUNCATE a, b", "writes a b"},
		{"CALL p(f(1))", "calls f p"},
		{"EXPLAIN ANALYZE INSERT INTO t SELECT f(1)", "calls f; writes t"},
		{"DECLARE c CURSOR FOR SELECT f(1) FROM t", "calls f; reads t"},
		{"MERGE INTO a USING (SELECT * FROM b) s ON f(s.id) WHEN MATCHED THEN DELETE", "calls f; reads b; writes a"},
		{"SELECT * FROM generate_series(1, f(2)) g, XMLTABLE('x' PASSING h(1) COLUMNS a text) x", "calls f generate_series h"},
	} {
		m := parser.Parse(x.sql)
		if len(m.Statements) != 1 {
			t.Fatalf("%s: %v", x.sql, m.Unparsable)
		}
		if got := say(judge.Uses(m.Statements[0])); got != x.want {
			t.Errorf("%s\ngot  %s\nwant %s", x.sql, got, x.want)
		}
	}
}

// FuzzPLpgSQL: whatever a body is, it is judged, and a body with a statement in it that is harmful is never harmless.
func FuzzPLpgSQL(f *testing.F) {
	for _, s := range []string{
		"NULL;", "x := 1;", "IF a THEN b := 1; ELSE c := 2; END IF;", "FOR i IN 1..2 LOOP NULL; END LOOP;", "EXECUTE format('SELECT %L', x) INTO y USING z;",
		"SELECT a INTO b FROM c;", "RAISE NOTICE 'x %', y USING HINT = 'z';", "CASE x WHEN 1 THEN NULL; END CASE;", "OPEN c FOR SELECT 1;", "BEGIN NULL; EXCEPTION WHEN OTHERS THEN NULL; END;",
		"RETURN QUERY SELECT 1;", "a[1] := 2;", "<<l>> LOOP EXIT l; END LOOP l;", "GET DIAGNOSTICS x = ROW_COUNT;", "-- x", "/* x */", "'", "$$", "PERFORM f(1);",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		judge.PLpgSQL(body)
		// The marker stands at the beginning of a statement, where nothing in front of it can hide it.
		c := judge.PLpgSQL("BEGIN PERFORM set_config('a.b', 'c', false);" + body + " END")
		if c.Why == "" {
			t.Errorf("harmless: %s", fmt.Sprintf("%q", body))
		}
	})
}
