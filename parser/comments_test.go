package parser

import "testing"

func TestBlankComments(t *testing.T) {
	for _, test := range []struct{ sql, want string }{
		{"SELECT 1", "SELECT 1"},
		{"SELECT 1 - -1", "SELECT 1 - -1"},
		{"SELECT '--' -- é\n, 1", "SELECT '--'      \n, 1"},
		{"a /* x /* y */ */ b", "a                 b"},
		{"'a' -- c\n 'b'", "'a'     \n 'b'"},
		{"'--' -- c\n -- 'd'\n '--'' --'", "'--'     \n       \n '--'' --'"},
		{"e'\\' --' -- c\n '\\'--'", "e'\\' --'     \n '\\'--'"},
		{"x'1--'--\n'2--'", "x'1--'  \n'2--'"},
		{"'a' /* c */\n 'b'", "'a' /* c */\n 'b'"},
		{"'a' /* c */\n -- d\n 'b'", "'a' /* c */\n -- d\n 'b'"},
		{"'a' /* c */\n + 'b'", "'a'        \n + 'b'"},
		{"$$ -- $$ -- x", "$$ -- $$     "},
		{"a/**/b", "a    b"},
		{"-- x\n 'open -- y", "    \n 'open -- y"},
	} {
		if got := blankComments(test.sql); got != test.want {
			t.Errorf("%q: got %q, want %q", test.sql, got, test.want)
		}
	}
}

func TestCommentsAreWhiteSpace(t *testing.T) {
	for _, sql := range []string{
		"SELECT 1 WHERE a NOT /* c */ IN (1)",
		"SELECT 1 ORDER BY a NULLS -- c\n FIRST",
		"CREATE TABLE t (a timestamp WITH /* c */ TIME ZONE)",
		"SELECT U&'!0061' /* c */ UESCAPE /* d */ '!'",
		"SELECT 'a' -- c\n 'b'",
		"SELECT 1 WHERE a NOT /* x /* y */ */ BETWEEN 1 AND 2",
	} {
		if m := Parse(sql); m.Unparsable != nil {
			t.Errorf("%s: %v", sql, m.Unparsable)
		}
	}
	for _, sql := range []string{"SELECT 'a' /* c */\n 'b'", "SELECT 'a' /* c */ 'b'"} {
		if m := Parse(sql); m.Unparsable == nil {
			t.Errorf("%s: parsed", sql)
		}
	}
	if m := Parse("SELECT /* é */ 'é' FROM FROM"); m.Unparsable == nil || m.Unparsable.Position != 25 {
		t.Errorf("got %v", m.Unparsable)
	}
}
