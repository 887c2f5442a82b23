package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// database makes a database, and two roles of which the first is a member of the second.
func database(t *testing.T) (db, roleA, roleB string) {
	t.Helper()
	i := pgtest.Shared(t)
	db, roleA, roleB = i.CreateDatabase(t), i.CreateUser(t, "x", "trust"), i.CreateUser(t, "x", "trust")
	i.Exec(t, db, "GRANT "+roleB+" TO "+roleA)
	return db, roleA, roleB
}

// TestLiteralsMeanThemselves: whatever the text, and whatever standard_conforming_strings is.
func TestLiteralsMeanThemselves(t *testing.T) {
	t.Parallel()
	db, _, _ := database(t)
	s := connect(t, db)
	r := seeded(t, 1)
	for _, conforming := range []string{"on", "off"} {
		s.run("SET standard_conforming_strings = " + conforming + "; SET escape_string_warning = off")
		for range 50 {
			texts := make([]string, 20)
			q := []byte("SELECT * FROM unnest(ARRAY['',")
			for i := range texts {
				texts[i] = text(r)
				if i > 0 {
					q = append(q, ',')
				}
				q = AppendLiteral(q, texts[i])
			}
			if got := s.run(string(append(q, "])"...))); !slices.Equal(got[1:], texts) {
				t.Fatalf("standard_conforming_strings %s: got %q, want %q", conforming, got[1:], texts)
			}
			name := strings.ReplaceAll(text(r), "'", "") + "x"
			got := s.c.Query("SELECT 1 AS " + string(AppendIdent(nil, name)))
			if want := "RowDescription(" + name + ")"; pgtest.Format(got[0]) != want {
				t.Fatalf("got %s, want %s", pgtest.Format(got[0]), want)
			}
		}
	}
}

// TestNamesReachTheirSettings: dotted, in any case, with every byte that PostgreSQL allows.
func TestNamesReachTheirSettings(t *testing.T) {
	t.Parallel()
	db, _, _ := database(t)
	s := connect(t, db)
	long := "app." + strings.Repeat("n", 80) // the lexer would cut it
	for _, name := range []string{"app.v", "a.b.c.d", "_x._y", "app.select", "app.a$1", "app.é", "work_mem", "timezone", "application_name", long} {
		v := Var{Name: name, Value: "64MB", Raw: true}
		if name == "timezone" {
			v.Value = "Europe/Berlin"
		}
		before := s.values(name)[name]
		s.run(string((*Set)(nil).AppendDiff(nil, set(v))))
		if got := s.values(name)[name]; got != v.Value {
			t.Errorf("%s: got %q, want %q", name, got, v.Value)
		}
		s.run(string(set(v).AppendDiff(nil, nil)))
		if got := s.values(name)[name]; got != before {
			t.Errorf("%s: got %q after its RESET, want %q", name, got, before)
		}
	}
	for _, name := range []string{"", ".", "a..b", "no_such_setting", `app."x`, "app. v", "app.1"} {
		_, _, code, _ := s.try(string((*Set)(nil).AppendDiff(nil, set(Var{Name: name, Value: "1", Raw: true}))))
		if code != "42704" && code != "42602" {
			t.Errorf("%q: got SQLSTATE %q, want what a startup packet would get", name, code)
		}
	}
}

// variants are settings with values that may be given to them, some in several spellings.
func variants(roleA, roleB string) map[string][]Var {
	lit := func(s string) string { return string(AppendLiteral(nil, s)) }
	return map[string][]Var{
		"work_mem":                      {{Value: "'1MB'"}, {Value: "2048"}, {Value: "3MB", Raw: true}},
		"timezone":                      {{Value: "'Asia/Tokyo'"}, {Value: "UTC", Raw: true}, {Value: "TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE", Special: true}, {Value: "-7"}},
		"datestyle":                     {{Value: "'german'"}, {Value: "'iso', 'dmy'"}, {Value: "SQL, DMY", Raw: true}, {Value: "ymd"}, {Value: "'iso'"}, {Value: "euro", Raw: true}},
		"search_path":                   {{Value: `'a b', 'C', 'public'`}, {Value: `a, "B c", public`, Raw: true}, {Value: "", Raw: true}, {Value: "''"}},
		"standard_conforming_strings":   {{Value: "'off'"}, {Value: "on", Raw: true}, {Value: "off", Raw: true}},
		"default_transaction_isolation": {{Value: "'serializable'"}, {Value: "repeatable read", Raw: true}},
		"default_transaction_read_only": {{Value: "'on'"}, {Value: "on", Raw: true}},
		"default_transaction_deferrable": {
			{Value: "'on'"},
		},
		"session_replication_role": {{Value: "'replica'"}}, // for superusers only
		"extra_float_digits":       {{Value: "-1"}, {Value: "3"}},
		"application_name":         {{Value: "it's", Raw: true}, {Value: lit(`a\b'c`)}},
		"role":                     {{Value: lit(roleA)}, {Value: roleB, Raw: true}, {Value: "'none'"}},
		"session_authorization":    {{Value: lit(roleA)}, {Value: roleA, Raw: true}},
	}
}

// TestDiffTurnsOneSetIntoAnother: the SQL makes a connection that has some set like a fresh one on which the wanted one was set.
func TestDiffTurnsOneSetIntoAnother(t *testing.T) {
	t.Parallel()
	db, roleA, roleB := database(t)
	subject, fresh := connect(t, db), connect(t, db)
	r := seeded(t, 2)
	all := variants(roleA, roleB)
	names := []string{"app.a", "app.b", "other.c.d"}
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	var have *Set
	for range 300 {
		var want *Set
		if r.IntN(3) == 0 {
			want = have // little changes
		}
		custom := map[string]string{}
		for range r.IntN(6) {
			name := pick(r, names...)
			var v Var
			if list := all[name]; list != nil {
				v = pick(r, list...)
			} else if s := text(r); r.IntN(2) == 0 {
				v = Var{Value: s, Raw: true}
			} else {
				v = Var{Value: string(AppendLiteral(nil, s))}
			}
			v.Name = name
			if r.IntN(8) == 0 {
				want = want.Without(name)
			} else {
				want = want.With(v)
			}
		}
		for _, v := range want.Vars() {
			if v.Raw && all[v.Name] == nil {
				custom[v.Name] = v.Value
			}
		}
		sql := string(have.AppendDiff(nil, want))
		if (sql == "") != have.Equal(want) {
			t.Fatalf("diff of %v to %v: %q", have.Vars(), want.Vars(), sql)
		}
		if _, _, code, tx := subject.try("BEGIN ISOLATION LEVEL READ COMMITTED;" + sql + "COMMIT"); code != "" || tx != 'I' {
			t.Fatalf("%s\nhave %v\nwant %v", sql, have.Vars(), want.Vars())
		}
		have = want

		// As a client would have set them, roles last.
		fresh.run("DISCARD ALL")
		for _, last := range []bool{false, true} {
			for _, name := range []string{"session_authorization", "role"} {
				if v, ok := want.Get(name); ok && last {
					fresh.run(v.SQL())
				}
			}
			for _, v := range want.Vars() {
				if !last && v.Name != "role" && v.Name != "session_authorization" {
					fresh.run(v.SQL())
				}
			}
		}
		got := subject.values(names...)
		if d := cmp.Diff(fresh.values(names...), got); d != "" {
			t.Fatalf("settings differ after %s (-want +got):\n%s", sql, d)
		}
		for n, v := range custom {
			if got[n] != v {
				t.Fatalf("%s: got %q, want %q", n, got[n], v)
			}
		}
	}
}

// TestResetAllSparesWhatPostgreSQLSpares asks the server which settings RESET ALL leaves alone.
func TestResetAllSparesWhatPostgreSQLSpares(t *testing.T) {
	t.Parallel()
	db, roleA, roleB := database(t)
	s := connect(t, db)
	spared := s.run("SELECT name FROM pg_settings WHERE 'NO_RESET_ALL' = ANY (pg_settings_get_flags(name)) ORDER BY 1")
	for _, n := range spared {
		if !transient(n) { // role and session_authorization are not listed there
			t.Errorf("RESET ALL spares %s, which is not known", n)
		}
	}
	var have *Set
	for n, list := range variants(roleA, roleB) {
		v := list[0]
		v.Name = n
		have = have.With(v)
	}
	v := Var{Name: "role", Value: string(AppendLiteral(nil, roleB))}
	have = have.With(v)
	s.run(string((*Set)(nil).AppendDiff(nil, have)))
	s.run("RESET ALL")
	left := have.ResetAll()
	fresh := connect(t, db)
	fresh.run(string((*Set)(nil).AppendDiff(nil, left)))
	var names []string
	for _, v := range have.Vars() {
		names = append(names, v.Name)
	}
	if d := cmp.Diff(fresh.values(names...), s.values(names...)); d != "" {
		t.Errorf("settings after RESET ALL (-want +got):\n%s", d)
	}
}

// TestTransientSettingsLeaveNothing: what With does not keep is not there either once its statement is over.
func TestTransientSettingsLeaveNothing(t *testing.T) {
	t.Parallel()
	db, _, _ := database(t)
	s := connect(t, db)
	for _, sql := range []string{"SET transaction_isolation TO 'serializable'", "SET transaction_read_only TO on", "SET transaction_deferrable TO on"} {
		name := strings.Fields(sql)[1]
		before := s.values(name)
		s.run(sql)
		s.run("BEGIN; " + sql + "; COMMIT")
		if d := cmp.Diff(before, s.values(name)); d != "" {
			t.Errorf("%s lasts:\n%s", sql, d)
		}
	}
}

// TestTrackFollowsPostgreSQL runs random sequences on a real server, and asks it after each step.
func TestTrackFollowsPostgreSQL(t *testing.T) {
	t.Parallel()
	db, roleA, roleB := database(t)
	s := connect(t, db)
	names := []string{"app.a", "app.b", "work_mem", "role", "session_authorization"}
	defaults := connect(t, db).values(names...)
	for seed := range uint64(60) {
		r := seeded(t, seed)
		s.run("ROLLBACK; RESET SESSION AUTHORIZATION; RESET ALL")
		follower := follower{r: r, tx: 'I', local: map[string]bool{}, values: map[string][]string{
			"app.a": {"1", "2", "it's"}, "app.b": {"1", "2"}, "work_mem": {"1MB", "2MB"}, "role": {roleA, roleB, "none"}, "session_authorization": {roleA},
		}}
		for range 60 {
			sql := follower.step(s)
			if follower.tx == 'E' {
				continue
			}
			got := s.values(names...)
			for _, n := range names {
				want := defaults[n]
				if v, ok := follower.t.Expected.Get(n); ok {
					want = v.Value
				}
				if got[n] != want && !follower.local[n] {
					t.Fatalf("seed %d: %s is %q, want %q, after\n%s", seed, n, got[n], want, strings.Join(append(follower.history, sql), ";\n"))
				}
			}
			if !follower.t.Have.Equal(follower.t.Expected) {
				t.Fatalf("seed %d: have and expected differ without a choice of the client's", seed)
			}
			if follower.t.InTransaction() != (follower.tx != 'I') {
				t.Fatalf("seed %d: in transaction is %v at %q", seed, follower.t.InTransaction(), follower.tx)
			}
		}
	}
}

// follower runs statements and follows them with a Track as a session does.
type follower struct {
	t       Track
	r       interface{ IntN(n int) int }
	tx      byte
	local   map[string]bool // what SET LOCAL has changed in this transaction
	values  map[string][]string
	history []string
}

func (f *follower) step(s *server) string {
	t := &f.t
	name := []string{"app.a", "app.b", "work_mem", "role", "session_authorization"}[f.r.IntN(5)]
	save := []string{"s", "t"}[f.r.IntN(2)]
	value := f.values[name][f.r.IntN(len(f.values[name]))]
	literal := string(AppendLiteral(nil, value))
	set := func() {
		v := Var{Name: name, Value: value}
		t.Have, t.Expected = t.Have.With(v), t.Expected.With(v)
	}
	var sql string
	var done func(tag string)
	switch k := f.r.IntN(32); {
	case k < 3:
		sql, done = "BEGIN", func(string) {}
	case k == 3:
		sql, done = "COMMIT", f.end(false)
	case k == 4:
		sql, done = "ROLLBACK", f.end(false)
	case k == 5 && f.r.IntN(2) == 0:
		sql, done = "COMMIT AND CHAIN", f.end(true)
	case k == 5:
		sql, done = "ROLLBACK AND CHAIN", f.end(true)
	case k < 12:
		sql, done = "SAVEPOINT "+save, func(string) { t.Savepoint(save) }
	case k < 14:
		sql, done = "RELEASE "+save, func(string) { t.Release(save) }
	case k < 18:
		sql, done = "ROLLBACK TO "+save, func(string) {
			if !t.RollbackTo(save) {
				s.t.Fatalf("the server has a savepoint %s, after %v", save, f.history)
			}
		}
	case k == 18:
		sql, done = "RESET ALL", func(string) { t.Have, t.Expected = t.Have.ResetAll(), t.Expected.ResetAll() }
	case k == 19:
		sql = "SELECT 1/0"
	case k == 20:
		sql, done = "SET LOCAL "+name+" TO "+literal, func(string) {
			f.local[name] = true
			if name == "session_authorization" {
				f.local["role"] = true
			}
		}
	case k < 23:
		sql, done = "RESET "+name, func(string) { t.Have, t.Expected = t.Have.Without(name), t.Expected.Without(name) }
	default:
		sql, done = "SET "+name+" TO "+literal, func(string) { set() }
	}
	implicit := f.tx == 'I'
	if implicit {
		t.Begin()
	}
	_, tag, code, tx := s.try(sql)
	f.history = append(f.history, fmt.Sprintf("%s -- %s%s %c", sql, tag, code, tx))
	if code == "" && done != nil {
		done(tag)
	}
	if implicit && tx == 'I' {
		if code == "" {
			t.Commit()
		} else {
			t.Rollback()
		}
	}
	if tx == 'I' {
		clear(f.local)
	}
	f.tx = tx
	return sql
}

// end follows COMMIT and ROLLBACK; a COMMIT of a failed transaction answers ROLLBACK.
func (f *follower) end(chain bool) func(tag string) {
	return func(tag string) {
		if tag == "ROLLBACK" {
			f.t.Rollback()
		} else {
			f.t.Commit()
		}
		clear(f.local)
		if chain {
			f.t.Begin()
		}
	}
}
