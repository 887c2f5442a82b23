package parser

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// These tests ask PostgreSQL itself.

func TestMain(m *testing.M) { pgtest.Main(m) }

func server(t *testing.T) *pgtest.Client {
	t.Helper()
	i := pgtest.Shared(t)
	db := i.CreateDatabase(t)
	return i.Connect(t, pgtest.Login{User: pgtest.Superuser, Database: db})
}

// answer gives the column names and the rows of a query, or its error.
func answer(msgs []pgproto3.BackendMessage) (names []string, rows [][]string, failure *pgproto3.ErrorResponse) {
	for _, msg := range msgs {
		switch m := msg.(type) {
		case *pgproto3.RowDescription:
			for _, f := range m.Fields {
				names = append(names, string(f.Name))
			}
		case *pgproto3.DataRow:
			var row []string
			for _, v := range m.Values {
				row = append(row, string(v))
			}
			rows = append(rows, row)
		case *pgproto3.ErrorResponse:
			failure = m
		}
	}
	return names, rows, failure
}

func TestOutputNamesArePostgreSQLs(t *testing.T) {
	t.Parallel()
	c := server(t)
	sql := `SELECT 1, 'a', 1::text, '1'::int, CAST(1 AS varchar(3)), int '1', now(), pg_catalog.lower('A'), CASE WHEN true THEN 'y' ELSE t.a END,
CASE WHEN true THEN 1 END, CASE 1 WHEN 1 THEN 2 ELSE (SELECT 4) END, ARRAY[1], ROW(1, 2), (1, 2), coalesce(1), nullif(1, 2), greatest(1), least(1), (SELECT a), (SELECT 1), (SELECT 1 AS q),
(SELECT now()), (SELECT 1)::text, (VALUES (1)), (SELECT 1 AS b UNION SELECT 1), EXISTS (SELECT 1), ARRAY(SELECT 1), 1 IN (SELECT 1), current_user, user, current_date, localtime(1), current_schema,
(ARRAY[1])[1], (t.c).x, t.a COLLATE "C", a, t.a, t, -1, -t.b, NOT true, 1 + 1, a IS NULL, xmlelement(name x), xmlforest(1 AS x), extract(year FROM now()), a || 'x', now() AT TIME ZONE 'UTC',
substring('abc' FROM 1 FOR 2), trim('a'), position('a' IN 'b'), t.*, a::text::varchar, (a), ((a))::text, 1 BETWEEN 1 AND 2, a LIKE 'x', true IS TRUE, true, NULL, $$x$$, 1.5, B'1', interval '1 day',
collation for (a), xmlparse(document '<a/>'), xmlserialize(content x AS text), 1 = ANY (ARRAY[1]), sum(1) OVER ()
FROM (SELECT 'x'::text AS a, 1 AS b, ROW(1)::comp AS c, NULL::xml AS x) t`
	if _, _, failure := answer(c.Query("CREATE TYPE comp AS (x int)")); failure != nil {
		t.Fatal(failure)
	}
	want, _, failure := answer(c.Query(sql))
	if failure != nil {
		t.Fatalf("%s", failure.Message)
	}
	var got []string
	m := Parse(sql)
	if m.Unparsable != nil {
		t.Fatal(m.Unparsable)
	}
	for _, o := range m.Statements[0].Query.Output {
		if o.Star {
			got = append(got, "a", "b", "c", "x")
			continue
		}
		got = append(got, o.Name)
	}
	if len(got) != len(want) {
		t.Fatalf("got %d columns, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("column %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

func TestLiteralsArePostgreSQLs(t *testing.T) {
	t.Parallel()
	c := server(t)
	for _, literal := range []string{
		"7", "007", "-7", "- -7", "+7", "-(-7)", "2147483648", "-9223372036854775808", "99999999999999999999999", "0000000000000000000000012", "7.0", "7.", ".5", "7e0", "7e2", "-7.50", "1e-3",
		"'7'", "'it''s'", `E'a\tb\'c\\'`, `e'\x41\102\u0043\U00000044'`, `U&'\0061b\+000063'`, "U&'!0061b' UESCAPE '!'", "U&'a''b'", "$$a'b$$", "$x$a$$b$x$", "'a'\n 'b'", "'a' -- c\n 'b'", `E'a'
 '\''`, "'é'", "true", "FALSE", "NULL", "'a\\b'",
	} {
		_, rows, failure := answer(c.Query("SELECT (" + literal + ")::text, (" + literal + ") IS NULL"))
		if failure != nil {
			t.Errorf("%s: %s", literal, failure.Message)
			continue
		}
		v := Parse("SELECT " + literal).Statements[0].Query.Output[0].Expr.Value
		want, null := rows[0][0], rows[0][1] == "t"
		switch v.Kind {
		case ValueNull:
			if !null {
				t.Errorf("%s: got NULL", literal)
			}
		case ValueNumeric:
			_, rows, _ = answer(c.Query("SELECT (" + literal + ")::numeric = (" + v.Text + ")::numeric"))
			if rows[0][0] != "t" {
				t.Errorf("%s: got %s, want %s", literal, v.Text, want)
			}
		default:
			if null || v.Text != want {
				t.Errorf("%s: got %q, want %q", literal, v.Text, want)
			}
		}
	}
}

func TestSettingsCommandsMeanTheSame(t *testing.T) {
	t.Parallel()
	c := server(t)
	run := func(sql string) {
		t.Helper()
		if _, _, failure := answer(c.Query(sql)); failure != nil {
			t.Fatalf("%s: %s", sql, failure.Message)
		}
	}
	show := func(name string) string {
		t.Helper()
		_, rows, failure := answer(c.Query("SHOW " + quoteIdent(name)))
		if failure != nil {
			t.Fatalf("%s: %s", name, failure.Message)
		}
		return rows[0][0]
	}
	for _, sql := range []string{
		"SET x.y TO 1", "SET x.y = -2.50", "SET X.Y = on", "SET x.y = 'it''s'", `SET x.y = E'a\\b\n'`, "SET work_mem = '5MB'", "SET sort_mem = 100", "SET work_mem TO DEFAULT",
		`SET search_path = a, "B", 'c d', "$user"`, "SET search_path = 'a, b'", "SET SCHEMA 'tenant_b'", `SET U&"app.current\005ftenant" = 'b'`, "SET TIME ZONE 'Europe/Berlin'", "SET TIME ZONE -7",
		"SET TIME ZONE 2.5", "SET TIME ZONE LOCAL", "SET TIME ZONE UTC", "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", "SET TIME ZONE INTERVAL '1' HOUR", "SET TIME ZONE INTERVAL '2'",
		"SET NAMES 'LATIN1'", "SET NAMES DEFAULT", "SET ROLE pg_monitor", "SET ROLE NONE", "SET SESSION AUTHORIZATION pg_monitor", "SET SESSION AUTHORIZATION DEFAULT", "SET XML OPTION DOCUMENT",
		"SET DateStyle = ISO, DMY", "SET enable_seqscan = off", "SET extra_float_digits = 2", "SET temp_tablespaces = ''", "SET statement_timeout TO 1000", "SET lock_timeout = '1s'",
		"SET x.y = 0.1e1", "SET x.y = true", `SET "we ird.na""me" = 1`, "SET default_transaction_isolation = 'repeatable read'",
		"SELECT set_config('search_path', 'a, \"B c\", \"$user\"', false)", "SELECT set_config('DateStyle', 'ISO, DMY', false)", "SELECT set_config('x.y', E'a\\\\b', false)", "SELECT set_config('work_mem', NULL, false)",
	} {
		m := Parse(sql)
		if m.Unparsable != nil {
			t.Errorf("%s: %v", sql, m.Unparsable)
			continue
		}
		set := m.Statements[0].Set
		if set == nil {
			set = &m.Statements[0].SetConfigs[0]
		}
		reset := "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"
		run(reset)
		if strings.Contains(sql, `na""me`) {
			continue // PostgreSQL refuses such a name; that it stays one name is held elsewhere
		}
		run(sql)
		want := show(set.Name)
		run(reset)
		run(set.Command())
		if got := show(set.Name); got != want {
			t.Errorf("%s: %s gives %q, want %q", sql, set.Command(), got, want)
		}
	}
}

// TestConditionsArePostgreSQLs holds the three-valued logic of the tests to PostgreSQL's.
func TestConditionsArePostgreSQLs(t *testing.T) {
	t.Parallel()
	c := server(t)
	var parts []string
	var predicates []predicate
	for seed := range uint64(300) {
		g := generator{rand.New(rand.NewPCG(seed, 9))}
		p := g.predicate(3)
		predicates = append(predicates, p)
		parts = append(parts, fmt.Sprintf("count(*) FILTER (WHERE %s)", p.sql))
	}
	const rows = "(VALUES (NULL::int), (1), (2), (3))"
	_, got, failure := answer(c.Query("SELECT " + strings.Join(parts, ", ") + " FROM " + rows + " x(a), " + rows + " y(b), " + rows + " z(c)"))
	if failure != nil {
		t.Fatal(failure.Message)
	}
	values := []*int{nil, new(int), new(int), new(int)}
	for i, v := range values[1:] {
		*v = i + 1
	}
	for i, p := range predicates {
		want := 0
		for _, a := range values {
			for _, b := range values {
				for _, d := range values {
					if p.eval(row{"a": a, "b": b, "c": d}) == yes {
						want++
					}
				}
			}
		}
		if got[0][i] != fmt.Sprint(want) {
			t.Errorf("%s: PostgreSQL passes %s rows, the test %d", p.sql, got[0][i], want)
		}
	}
}

func TestErrorsArePostgreSQLs(t *testing.T) {
	t.Parallel()
	c := server(t)
	for _, sql := range []string{
		"SELEC 1", "SELECT * FROM orders WHERE", "SELECT 'open", `SELECT "open`, "SELECT /* open", "SELECT $a$ open", "SELECT 'é', x FROM FROM t",
		"SELECT 1; SELECT 2 FROM; SELECT 3", "SELECT 1a", "SET search_path = a b", `SELECT ""`, "SELECT /* é */ é FROM FROM", "SELECT 'a' 'b'", "SELECT 'a' /* c */\n 'b'", "VALUES (1) LIMIT 1, 2", "INSERT INTO t",
		"SELECT E'\\u12'", "SELECT U&'\\00'", "SELECT 1 ORDER BY 1 NULLS -- x\n FIRST,",
	} {
		_, _, failure := answer(c.Query(sql))
		m := Parse(sql)
		if failure == nil || m.Unparsable == nil {
			t.Errorf("%s: got %v, want %v", sql, m.Unparsable, failure)
			continue
		}
		if e := m.Unparsable; e.Message != failure.Message || e.Position != int(failure.Position) || e.Code != failure.Code {
			t.Errorf("%s: got %v, want %s %s %d", sql, e, failure.Code, failure.Message, failure.Position)
		}
	}
}

// A search_path of random names, well written or not, means to PostgreSQL the schemas that SplitIdents and SET's values say.
func TestSearchPathsArePostgreSQLs(t *testing.T) {
	t.Parallel()
	c := server(t)
	long := strings.Repeat("x", 61)
	words := []string{"a", "A", "é", "É", "b c", `q"`, "safe", "safe\u00a0", "1e5", "1E5", "", long, long + "yy", long + "yyz", long + "é", long + "éz", long + "yé", long + "y", "\u2003a", "ẞ", "ß"}
	known := map[string]bool{}
	for _, w := range words {
		if w != "" && len(w) <= 63 {
			known[w] = true
			if _, _, failure := answer(c.Query("CREATE SCHEMA " + quoteIdent(w))); failure != nil {
				t.Fatal(w, failure)
			}
		}
	}
	// compare demands that list means what PostgreSQL has after sql; ok: that sql works.
	compare := func(sql string, list []string, ok bool) bool {
		t.Helper()
		_, _, failure := answer(c.Query(sql))
		if (failure == nil) != ok {
			t.Errorf("%q: ok is %v, PostgreSQL says %v", sql, ok, failure)
			return false
		}
		want := []string{}
		for _, name := range list {
			if known[name] && !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		_, rows, _ := answer(c.Query("SELECT unnest(current_schemas(false))"))
		got := []string{}
		for _, row := range rows {
			got = append(got, row[0])
		}
		if ok && !slices.Equal(got, want) {
			t.Errorf("%q: PostgreSQL looks in %q, not in %q", sql, got, want)
			return false
		}
		return true
	}
	rnd := rand.New(rand.NewPCG(7, 63))
	glue := []string{",", ", ", " ,", "\t,\n", "\f,\r", " ", "", `"`, ",,"}
	for range 4000 {
		var list strings.Builder
		var names, literals []string
		for i := range 1 + rnd.IntN(4) {
			w := words[rnd.IntN(len(words))]
			names = append(names, w)
			literals = append(literals, quoteLiteral(w))
			if i > 0 {
				list.WriteString(glue[min(rnd.IntN(3*len(glue)), 3*len(glue)-1)/3])
			}
			if rnd.IntN(2) == 0 {
				w = quoteIdent(w)
			}
			list.WriteString(w)
		}
		want, ok := SplitIdents(list.String())
		if !compare("SELECT set_config('search_path', "+quoteLiteral(list.String())+", false)", want, ok) {
			return
		}
		sql := "SET search_path = " + strings.Join(literals, ", ")
		if !compare(sql, Parse(sql).Statements[0].Set.Values, true) {
			return
		}
		if sql = "SET search_path = 1E5, " + quoteIdent(names[0]); names[0] != "" && !compare(sql, Parse(sql).Statements[0].Set.Values, true) {
			return
		}
	}
	for _, list := range []string{"\va", "a\v", "a,\vb", "\v"} {
		if _, ok := SplitIdents(list); ok {
			t.Errorf("%q is ok: PostgreSQL's versions differ", list)
		}
	}
	if list, ok := SplitIdents("\"\v\""); !ok || !slices.Equal(list, []string{"\v"}) {
		t.Errorf("in quotes: %q, %v", list, ok)
	}
}
