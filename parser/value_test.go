package parser

import (
	"testing"
)

func TestValues(t *testing.T) {
	for _, test := range []struct{ sql, want, span string }{
		{"7", "7", "7"},
		{"007", "7", "007"},
		{"-7", "-7", "-7"},
		{"- 7", "-7", "- 7"},
		{"-(7)", "-7", ""},
		{"- -7", "7", "- -7"},
		{"- /* c */ 7", "-7", ""},
		{"+7", "7", "+7"},
		{"+(7)", "7", ""},
		{"-(-7)", "7", ""},
		{"OPERATOR(pg_catalog.-) 7", "-7", ""},
		{"OPERATOR(x.-) 7", "?", ""},
		{"@ 7", "?", ""},
		{"-7::int8", "-7::int8", "-7"},
		{"(-7)::int8", "-7::int8", "-7"},
		{"-'7'", "?", ""},
		{"-'7'::text", "?", ""},
		{"- NULL", "?", ""},
		{"- $1", "?", ""},
		{"2147483648", "2147483648", "2147483648"},
		{"-9223372036854775808", "-9223372036854775808", "-9223372036854775808"},
		{"99999999999999999999999", "99999999999999999999999", "99999999999999999999999"},
		{"0000000000000000000000012", "12", "0000000000000000000000012"},
		{"-00000000000000000000000", "0", "-00000000000000000000000"},
		{"0x1F", "31", "0x1F"},
		{"-0x1F", "-31", "-0x1F"},
		{"0o17", "15", "0o17"},
		{"0b101", "5", "0b101"},
		{"0x7FFFFFFFFFFFFFFF", "9223372036854775807", "0x7FFFFFFFFFFFFFFF"},
		{"0xFFFFFFFFFFFFFFFFFF", "4722366482869645213695", "0xFFFFFFFFFFFFFFFFFF"},
		{"-0x1FFFFFFFFF", "-137438953471", "-0x1FFFFFFFFF"},
		{"0o1777777777777777777777", "18446744073709551615", "0o1777777777777777777777"},
		{"1_000", "1000", "1_000"},
		{"1_000_000_000_000", "1000000000000", "1_000_000_000_000"},
		{"7.0", "7.0n", "7.0"},
		{"7.", "7.n", "7."},
		{".5", ".5n", ".5"},
		{"0.5", "0.5n", "0.5"},
		{"0e5", "0e5n", "0e5"},
		{"7e0", "7e0n", "7e0"},
		{"-7.0", "-7.0n", "-7.0"},
		{"1_0.5", "10.5n", "1_0.5"},
		{"1 + 1", "?", ""},
		{"'7'", `"7"`, "'7'"},
		{"'it''s'", `"it's"`, "'it''s'"},
		{"E'a\\tb\\''", `"a\tb'"`, "E'a\\tb\\''"},
		{"e'\\x41\\u0042'", `"AB"`, "e'\\x41\\u0042'"},
		{"U&'\\0061b'", `"ab"`, "U&'\\0061b'"},
		{"U&'!0061b' UESCAPE '!'", `"ab"`, "U&'!0061b' UESCAPE '!'"},
		{"U&'!0061b' /* c */ uescape '!'", `"ab"`, "U&'!0061b' /* c */ uescape '!'"},
		{"'a' -- c\n 'b'", `"ab"`, "'a' -- c\n 'b'"},
		{"$$a'b$$", `"a'b"`, "$$a'b$$"},
		{"$x$a$$b$x$", `"a$$b"`, "$x$a$$b$x$"},
		{"'a'\n 'b'", `"ab"`, "'a'\n 'b'"},
		{"N'abc'", `"abc"::bpchar`, "'abc'"},
		{"B'101'", "?", ""},
		{"X'1F'", "?", ""},
		{"uuid 'A'", `"A"::uuid`, "'A'"},
		{"int '7'", `"7"::int4`, "'7'"},
		{"bigint '7'", `"7"::int8`, "'7'"},
		{"pg_catalog.int8 '7'", `"7"::int8`, "'7'"},
		{"s.int8 '7'", `"7"::s.int8`, "'7'"},
		{`s."int8[]" '7'`, `"7"::s."int8[]"`, "'7'"},
		{`'7'::"INT8"`, `"7"::INT8`, "'7'"},
		{"'7'::\"char\"", `"7"::char`, "'7'"},
		{"'7'::char", "?", ""},
		{"'7'::varchar(3)", "?", ""},
		{"'7'::varchar", `"7"::varchar`, "'7'"},
		{"'7'::character varying", `"7"::varchar`, "'7'"},
		{"7::numeric(3,1)", "?", ""},
		{"'7'::text::int8", `"7"::text::int8`, "'7'"},
		{"CAST(CAST('7' AS text) AS bigint)", `"7"::text::int8`, "'7'"},
		{"('7')::int2", `"7"::int2`, "'7'"},
		{"'{1}'::int8[]", `"{1}"::int8[]`, "'{1}'"},
		{"'{1}'::int8[3]", `"{1}"::int8[]`, "'{1}'"},
		{"int8('7')", "?", ""},
		{"int8(7)", "?", ""},
		{"'7' COLLATE \"C\"", "?", ""},
		{"interval '1' day", "?", ""},
		{"interval '1 day'", `"1 day"::interval`, "'1 day'"},
		{"date '2020-01-01'", `"2020-01-01"::date`, "'2020-01-01'"},
		{"timestamp with time zone '2020-01-01'", `"2020-01-01"::timestamptz`, "'2020-01-01'"},
		{"TRUE", "true", "TRUE"},
		{"false", "false", "false"},
		{"'t'::bool", `"t"::bool`, "'t'"},
		{"NULL", "NULL", "NULL"},
		{"NULL::int8", "NULL::int8", "NULL"},
		{"$1", "$1", "$1"},
		{"$12::int8", "$12::int8", "$12"},
		{"CAST($1 AS uuid)", "$1::uuid", "$1"},
		{"c", "c", ""},
		{"t.c::text", "t.c::text", ""},
		{"(SELECT 1)", "(select)", ""},
		{"(SELECT 1)::text", "(select)::text", ""},
		{"ARRAY(SELECT 1)", "?", ""},
		{"CURRENT_USER", "?", ""},
		{"ROW(1)", "?", ""},
	} {
		sql := "SELECT  " + test.sql + "  AS x /* c */"
		m := Parse(sql)
		if m.Unparsable != nil {
			t.Errorf("%s: %v", test.sql, m.Unparsable)
			continue
		}
		e := m.Statements[0].Query.Output[0].Expr
		span := sql[e.Value.Start:e.Value.End]
		e.Value.Start, e.Value.End = 0, 0
		if got := e.String(); got != test.want || span != test.span {
			t.Errorf("%s: got %s with span %q, want %s with %q", test.sql, got, span, test.want, test.span)
		}
	}
}

func TestParseBool(t *testing.T) {
	for s, want := range map[string]bool{
		"t": true, "TRUE": true, " tru ": true, "y": true, "yes": true, "on": true, "1": true,
		"f": false, "fal": false, "n": false, "No": false, "of": false, "off": false, "0": false,
	} {
		if got, ok := parseBool(s); !ok || got != want {
			t.Errorf("%q: got %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", " ", "o", "2", "truee", "10", "onn", "null"} {
		if _, ok := parseBool(s); ok {
			t.Errorf("%q is no boolean", s)
		}
	}
}

func TestTranscodedSpans(t *testing.T) {
	sql := "SELECT '\xe9\xe8', \"\xfc\" FROM t WHERE \xe4 = '\xdf' AND c = 42; SELECT 1"
	m := Parse(sql)
	if m.Unparsable != nil || !m.Transcoded {
		t.Fatalf("got %v", m)
	}
	s := m.Statements[0]
	if got := sql[s.Start:s.End]; got != "SELECT '\xe9\xe8', \"\xfc\" FROM t WHERE \xe4 = '\xdf' AND c = 42" {
		t.Errorf("got statement %q", got)
	}
	if v := s.Query.Output[0].Expr.Value; sql[v.Start:v.End] != "'\xe9\xe8'" || v.Text != "éè" {
		t.Errorf("got %v", v)
	}
	if v := s.Query.Where.Args[0].Right[0].Value; sql[v.Start:v.End] != "'\xdf'" {
		t.Errorf("got %v", v)
	}
	if v := s.Query.Where.Args[1].Right[0].Value; sql[v.Start:v.End] != "42" {
		t.Errorf("got %v", v)
	}
	if s := m.Statements[1]; sql[s.Start:s.End] != "SELECT 1" {
		t.Errorf("got %q", sql[s.Start:s.End])
	}
	if m := Parse("SELECT '\xe9' FROM FROM"); m.Unparsable == nil || m.Unparsable.Position != 17 {
		t.Errorf("got %v", m.Unparsable)
	}
	if m := Parse("SELECT 'é'"); m.Transcoded {
		t.Error("UTF-8 was transcoded")
	}
}
