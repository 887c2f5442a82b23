package parser

import (
	"regexp"
	"strings"
	"testing"
)

// renamed is sql with another name for each prepared statement.
func renamed(m *Message, sql, name string) (string, bool) {
	var b strings.Builder
	from := 0
	for _, s := range m.Statements {
		switch {
		case s.Naming() == nil:
			continue
		case s.NameEnd == 0:
			return "", false
		}
		b.WriteString(sql[from:s.NameStart])
		if s.NameIsQuoted(sql) {
			b.WriteString(`"` + name + `"`)
		} else {
			b.WriteString(name)
		}
		from = s.NameEnd
	}
	return b.String() + sql[from:], true
}

func TestNameSpans(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"PREPARE a AS SELECT 1":                           "PREPARE N AS SELECT 1",
		" prepare/*a*/a(int,text)as select $1 ":           " prepare/*a*/N(int,text)as select $1 ",
		"-- EXECUTE b\nEXECUTE \"a b\"(1)":                "-- EXECUTE b\nEXECUTE \"N\"(1)",
		"EXECUTE \"a\"\"b\"":                              "EXECUTE \"N\"",
		"EXECUTE\"a\"":                                    "EXECUTE\"N\"",
		"PREPARE\"a\"AS SELECT 1":                         "PREPARE\"N\"AS SELECT 1",
		"PREPARE U&\"a\"UESCAPE'!'AS SELECT 1":            "PREPARE \"N\"AS SELECT 1",
		"EXECUTE U&\"\\0061\" ":                           "EXECUTE \"N\" ",
		"EXECUTE U&\"!0061\" /**/ UESCAPE '!' (1)":        "EXECUTE \"N\" (1)",
		"DEALLOCATE a; DEALLOCATE PREPARE a":              "DEALLOCATE N; DEALLOCATE PREPARE N",
		"DEALLOCATE prepare; DEALLOCATE PREPARE prepare;": "DEALLOCATE N; DEALLOCATE PREPARE N;",
		"DEALLOCATE ALL; DEALLOCATE PREPARE ALL":          "DEALLOCATE ALL; DEALLOCATE PREPARE ALL",
		"DEALLOCATE \"all\"":                              "DEALLOCATE \"N\"",
		"EXPLAIN EXECUTE execute(1)":                      "EXPLAIN EXECUTE N(1)",
		"EXPLAIN ANALYZE VERBOSE EXECUTE a":               "EXPLAIN ANALYZE VERBOSE EXECUTE N",
		"EXPLAIN (ANALYZE, FORMAT json) EXECUTE a":        "EXPLAIN (ANALYZE, FORMAT json) EXECUTE N",
		"CREATE TABLE execute AS EXECUTE a(1)":            "CREATE TABLE execute AS EXECUTE N(1)",
		"CREATE TEMP TABLE IF NOT EXISTS s.\"as\" (x) WITH (fillfactor = 10) ON COMMIT DROP TABLESPACE y AS EXECUTE a WITH NO DATA": "CREATE TEMP TABLE IF NOT EXISTS s.\"as\" (x) WITH (fillfactor = 10) ON COMMIT DROP TABLESPACE y AS EXECUTE N WITH NO DATA",
		"EXPLAIN (COSTS) CREATE TABLE t (a) AS EXECUTE a":                                "EXPLAIN (COSTS) CREATE TABLE t (a) AS EXECUTE N",
		"SELECT 'EXECUTE a'; EXECUTE \xe4; SELECT '\xf6'":                                "SELECT 'EXECUTE a'; EXECUTE N; SELECT '\xf6'",
		"PREPARE q AS SELECT 1; EXECUTE q; CREATE TABLE x AS SELECT 2; EXPLAIN SELECT 3": "PREPARE N AS SELECT 1; EXECUTE N; CREATE TABLE x AS SELECT 2; EXPLAIN SELECT 3",
	} {
		m := Parse(sql)
		if m.Unparsable != nil {
			t.Errorf("%s: %v", sql, m.Unparsable)
		} else if got, ok := renamed(m, sql, "N"); !ok || got != want {
			t.Errorf("%s: got %s, want %s", sql, got, want)
		}
	}
	if _, ok := renamed(Parse("EXECUTE "+strings.Repeat("a", 64)), "", ""); ok {
		t.Error("a name that is cut off is thought to be that of a statement")
	}
}

// literalSpan is where a literal stands, in a dump.
var literalSpan = regexp.MustCompile(`@\d+-\d+`)

// FuzzNameSpans: a text in which the names are replaced means the same but for the names.
func FuzzNameSpans(f *testing.F) {
	for _, sql := range []string{
		"PREPARE a AS SELECT 1; EXECUTE a(1, 'x'); DEALLOCATE PREPARE a", "EXPLAIN (ANALYZE, FORMAT json) EXECUTE a(1)", "CREATE TEMP TABLE t (x) WITH (a = 'as') AS EXECUTE U&\"!0061\" UESCAPE '!'(1)",
		"EXECUTE /* x */ \"a\"\"b\" -- y\n(1)", "EXPLAIN CREATE TABLE a AS EXECUTE prepare", "DEALLOCATE prepare; SELECT $$EXECUTE a$$; EXECUTE \xe4",
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		m := Parse(sql)
		text, ok := renamed(m, sql, "pgkennel_1x2")
		if !ok || !m.Names {
			return
		}
		again := Parse(text)
		if again.Unparsable != nil || len(again.Statements) != len(m.Statements) {
			t.Fatalf("%q becomes %q: %v", sql, text, again.Unparsable)
		}
		for i, s := range m.Statements {
			if n := s.Naming(); n != nil {
				o := again.Statements[i].Naming()
				if o == nil || o.Name != "pgkennel_1x2" {
					t.Fatalf("%q becomes %q, whose statement %d does not have the name", sql, text, i)
				}
				o.Name = n.Name
			}
			s.Start, s.End, again.Statements[i].Start, again.Statements[i].End = 0, 0, 0, 0
		}
		if again.Transcoded != m.Transcoded {
			return // the names were all that is no UTF-8: the rest is other letters then
		}
		got, want := literalSpan.ReplaceAllString(again.String(), ""), literalSpan.ReplaceAllString(m.String(), "")
		if got != want {
			t.Fatalf("%q becomes %q:\n%s\nwant\n%s", sql, text, got, want)
		}
	})
}
