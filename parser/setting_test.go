package parser

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettings(t *testing.T) {
	for _, test := range []struct{ sql, want string }{
		{"SET x.y TO 1", `SET "x.y" TO 1`},
		{"SET x.y = -2.5", `SET "x.y" TO -2.5`},
		{"SET X.Y = on", `SET "x.y" TO 'on'`},
		{"SET x.y = true", `SET "x.y" TO 'true'`},
		{"SET x.y = 'it''s'", `SET "x.y" TO 'it''s'`},
		{"SET x.y = E'a\\\\b'", `SET "x.y" TO E'a\\b'`},
		{"SET LOCAL work_mem = '1MB'", `SET LOCAL "work_mem" TO '1MB'`},
		{"SET sort_mem = 100", `SET "work_mem" TO 100`},
		{"SET work_mem TO DEFAULT", `SET "work_mem" TO DEFAULT`},
		{"RESET work_mem", `SET "work_mem" TO DEFAULT`},
		{"SET search_path = a, \"B\", 'c d'", `SET "search_path" TO 'a', 'B', 'c d'`},
		{"SET search_path = ''", `SET "search_path" TO ''`},
		{"SET SCHEMA 'tenant_b'", `SET "search_path" TO 'tenant_b'`},
		{`SET "APP.Current_Tenant" = 'b'`, `SET "app.current_tenant" TO 'b'`},
		{`SET U&"app.current\005ftenant" = 'b'`, `SET "app.current_tenant" TO 'b'`},
		{"SET TIME ZONE 'Europe/Berlin'", `SET "timezone" TO 'Europe/Berlin'`},
		{"SET TIME ZONE -7", `SET "timezone" TO -7`},
		{"SET TIME ZONE LOCAL", `SET "timezone" TO DEFAULT`},
		{"SET TIME ZONE DEFAULT", `SET "timezone" TO DEFAULT`},
		{"SET TIME ZONE UTC", `SET "timezone" TO 'utc'`},
		{"SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", `SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE`},
		{"SET TIME ZONE INTERVAL '1' HOUR", `SET TIME ZONE INTERVAL '1' HOUR`},
		{"SET TIME ZONE INTERVAL '1'", `SET TIME ZONE INTERVAL '1'`},
		{"SET TIME ZONE INTERVAL(3) '1'", `SET TIME ZONE INTERVAL(3) '1'`},
		{"RESET TIME ZONE", `SET "timezone" TO DEFAULT`},
		{"SET NAMES 'UTF8'", `SET "client_encoding" TO 'UTF8'`},
		{"SET NAMES DEFAULT", `SET "client_encoding" TO DEFAULT`},
		{"SET NAMES", `SET "client_encoding" TO DEFAULT`},
		{"SET ROLE t_b", `SET "role" TO 't_b'`},
		{`SET SESSION ROLE "T_b"`, `SET "role" TO 'T_b'`},
		{"SET LOCAL ROLE t_b", `SET LOCAL "role" TO 't_b'`},
		{`SET ROLE U&"t\005fb"`, `SET "role" TO 't_b'`},
		{"SET ROLE NONE", `SET "role" TO 'none'`},
		{"RESET ROLE", `SET "role" TO DEFAULT`},
		{"SET SESSION AUTHORIZATION t_b", `SET "session_authorization" TO 't_b'`},
		{"SET LOCAL SESSION AUTHORIZATION 't_b'", `SET LOCAL "session_authorization" TO 't_b'`},
		{"SET SESSION AUTHORIZATION DEFAULT", `SET "session_authorization" TO DEFAULT`},
		{"RESET SESSION AUTHORIZATION", `SET "session_authorization" TO DEFAULT`},
		{"SET XML OPTION DOCUMENT", `SET "xmloption" TO 'DOCUMENT'`},
		{"SET DateStyle = ISO, DMY", `SET "datestyle" TO 'iso', 'dmy'`},
		{"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE"},
		{"SET LOCAL TRANSACTION READ WRITE", "SET LOCAL TRANSACTION READ WRITE"},
		{"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY DEFERRABLE", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE"},
		{"SET TRANSACTION SNAPSHOT '00000003-1'", "SET TRANSACTION SNAPSHOT '00000003-1'"},
		{"SET search_path FROM CURRENT", `SET "search_path" FROM CURRENT`},
		{"SHOW TIME ZONE", ""},
	} {
		set := setOf(t, test.sql)
		if got := set.Command(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.sql, got, test.want)
			continue
		}
		sameAgain(t, set)
	}
}

func setOf(t *testing.T, sql string) *Setting {
	t.Helper()
	m := Parse(sql)
	if m.Unparsable != nil || len(m.Statements) != 1 || m.Statements[0].Set == nil {
		t.Fatalf("%s: got %v", sql, m)
	}
	return m.Statements[0].Set
}

// sameAgain holds that the command a setting gives is read as that setting.
func sameAgain(t *testing.T, set *Setting) {
	t.Helper()
	command := set.Command()
	if command == "" {
		return
	}
	again := setOf(t, command)
	if diff := cmp.Diff(set, again); diff != "" {
		t.Errorf("%s is read otherwise: %s", command, diff)
	}
}

func TestSettingsSurviveTheirCommand(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "B", "'", `"`, `\`, " ", ",", "$", "é", "\n", "--", "/*", "1", ".", "-", "$user", "e", "u&"}
	word := func() string {
		var b strings.Builder
		for range g.IntN(6) {
			b.WriteString(alphabet[g.IntN(len(alphabet))])
		}
		return b.String()
	}
	for range part(3000) {
		name := word()
		if name == "" {
			continue
		}
		sql := "SET " + quoteIdent(name) + " TO " + quoteLiteral(word())
		for range g.IntN(3) {
			sql += ", " + quoteLiteral(word())
		}
		if g.IntN(3) == 0 {
			sql += ", 1, -2.50, 0x1F"
		}
		sameAgain(t, setOf(t, sql))
	}
}

func TestSetConfig(t *testing.T) {
	for _, test := range []struct{ sql, want string }{
		{"SELECT set_config('a.b', 'c', false)", `set-config set_config a.b values="c" sql='c'`},
		{"SELECT pg_catalog.set_config('search_path', '', false)", `set-config set_config search_path sql=''`},
		{"SELECT set_config('Search_Path', 'a, \"B c\",$user', 'f')", `set-config set_config search_path values="a","B c","$user" sql='a', 'B c', '$user'`},
		{"SELECT set_config('search_path', 'a,,b', false)", `unseen unseen search_path`},
		{"SELECT set_config('DateStyle', 'ISO, DMY', false)", `set-config set_config datestyle values="ISO, DMY" sql='ISO, DMY'`},
		{"SELECT set_config('a.b', NULL, false)", `set-config set_config a.b sql=DEFAULT default`},
		{"SELECT set_config('a.b', 'c', true)", `set-config set_config a.b values="c" sql='c' local`},
		{"SELECT set_config('a.b', $1, true)", `set-config set_config a.b local unknown`},
		{"SELECT set_config('a.b', $1, false)", `unseen unseen a.b`},
		{"SELECT set_config($1, 'c', true)", `named`},
		{"SELECT set_config('ro' || 'le', 't_b', false)", `unjudged`},
		{"SELECT set_config('a.b', 'c', $1)", `unseen unseen a.b`},
		{"SELECT set_config('role', 't_b', false)", `set-config+set-role set_config role values="t_b" sql='t_b'`},
		{"SELECT set_config(is_local => false, new_value => 't_b', setting_name => 'role')", `set-config+set-role set_config role values="t_b" sql='t_b'`},
		{"SELECT set_config('a.b', is_local := false, new_value := 'c'::text)", `set-config set_config a.b values="c" sql='c'`},
		{
			"SELECT set_config('a.b', 'c', false), set_config('d.e', 'f', false), 1, current_setting('a.b')",
			`set-config set_config a.b values="c" sql='c' set_config d.e values="f" sql='f'`,
		},
		{"SELECT set_config('a.b', 'c', false) FROM t", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"SELECT set_config('a.b', 'c', true) FROM t", `set-config set_config a.b values="c" sql='c' local`},
		{"SELECT set_config('a.b', 'c', false) WHERE false", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"SELECT set_config('a.b', 'c', false) LIMIT 0", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"SELECT set_config('a.b', 'c', false), generate_series(1, 0)", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"SELECT coalesce('x', set_config('a.b', 'c', false))", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"WITH w AS (SELECT set_config('a.b', 'c', false)) SELECT * FROM w", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"EXPLAIN SELECT set_config('a.b', 'c', false)", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"DELETE FROM t WHERE set_config('a.b', 'c', false) = ''", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"INSERT INTO t VALUES (set_config('a.b', 'c', false))", `set-config+unseen set_config a.b values="c" sql='c' unseen a.b`},
		{"SELECT tenant_a.set_config('a.b', 'c', false)", ""},
	} {
		m := Parse(test.sql)
		if m.Unparsable != nil {
			t.Errorf("%s: %v", test.sql, m.Unparsable)
			continue
		}
		s := m.Statements[0]
		var b strings.Builder
		b.WriteString(s.Effects.String())
		for i := range s.SetConfigs {
			d := dumper{w: &b}
			b.WriteString(" ")
			d.setting("set_config", &s.SetConfigs[i])
			if set := &s.SetConfigs[i]; set.SQL != "" && set.Values != nil && !listQuoted(set.Name) {
				sameAgain(t, set)
			}
		}
		for _, name := range s.Unseen {
			b.WriteString(" unseen " + name)
		}
		if got := strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\n ", " "); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.sql, got, test.want)
		}
	}
}

func TestSplitIdents(t *testing.T) {
	for _, test := range []struct {
		in   string
		want []string
		ok   bool
	}{
		{"", nil, true},
		{"  ", nil, true},
		{"a", []string{"a"}, true},
		{" A , b ", []string{"a", "b"}, true},
		{`"A""b"`, []string{`A"b`}, true},
		{`"a" b`, nil, false},
		{"a b", nil, false},
		{"a,", nil, false},
		{",a", nil, false},
		{`"a`, nil, false},
		{`""`, []string{""}, true},
	} {
		got, ok := SplitIdents(test.in)
		if ok != test.ok || !cmp.Equal(got, test.want) {
			t.Errorf("%q: got %q, %v", test.in, got, ok)
		}
	}
}
