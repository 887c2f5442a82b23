package state

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func set(vars ...Var) *Set { return NewSet(vars) }

func TestSetIsOrderedAndImmutable(t *testing.T) {
	t.Parallel()
	var none *Set
	if none.Vars() != nil || none.Without("a") != nil || !none.Equal(nil) || none.ResetAll() != nil {
		t.Error("the nil Set is not the empty one")
	}
	b := none.With(Var{Name: "b", Value: "1"})
	ab := b.With(Var{Name: "a", Value: "2"})
	abc := ab.With(Var{Name: "c", Value: "3"})
	if got := len(b.Vars()); got != 1 {
		t.Errorf("got %d settings in the first set, want it untouched", got)
	}
	names := func(s *Set) (list []string) {
		for _, v := range s.Vars() {
			list = append(list, v.Name)
		}
		return list
	}
	if got := names(abc); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v, want the names in order", got)
	}
	if got := names(abc.Without("b")); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("got %v without b", got)
	}
	if got := names(abc); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v, want it untouched by Without", got)
	}
	if abc.Without("d") != abc || abc.With(Var{Name: "b", Value: "1"}) != abc {
		t.Error("a set that does not change is not itself")
	}
	if b.Without("b") != nil {
		t.Error("a set that is empty is not nil")
	}
	other := set(Var{Name: "c", Value: "3"}, Var{Name: "b", Value: "0"}, Var{Name: "a", Value: "2"}, Var{Name: "b", Value: "1"})
	if !abc.Equal(other) || !other.Equal(abc) {
		t.Error("sets made in different order are not equal, or the last value did not win")
	}
	for _, v := range []Var{{Name: "b", Value: "2"}, {Name: "b", Value: "1", Raw: true}, {Name: "b", Value: "1", Special: true}} {
		if abc.Equal(abc.With(v)) {
			t.Errorf("sets are equal that differ in %+v", v)
		}
	}
}

// TestSetModel holds a Set against a map through random changes.
func TestSetModel(t *testing.T) {
	t.Parallel()
	r := seeded(t, 3)
	var s *Set
	model := map[string]Var{}
	for range 20000 {
		name := pick(r, "a", "b", "c", "role", "session_authorization", "transaction_isolation", "seed")
		switch r.IntN(4) {
		case 0, 1:
			v := Var{Name: name, Value: pick(r, "1", "2"), Raw: r.IntN(2) == 0}
			s = s.With(v)
			if name == "transaction_isolation" || name == "seed" {
				break
			}
			if name == "session_authorization" {
				delete(model, "role")
			}
			model[name] = v
		case 2:
			s = s.Without(name)
			delete(model, name)
			if name == "session_authorization" {
				delete(model, "role")
			}
		case 3:
			if r.IntN(5) == 0 {
				s = s.ResetAll()
				maps.DeleteFunc(model, func(n string, _ Var) bool { return n != "role" && n != "session_authorization" })
			}
		}
		got := map[string]Var{}
		for _, v := range s.Vars() {
			got[v.Name] = v
		}
		if !maps.Equal(got, model) {
			t.Fatalf("got %v, want %v", got, model)
		}
		vars := slices.Collect(maps.Values(model))
		slices.SortFunc(vars, func(a, b Var) int { return strings.Compare(b.Name, a.Name) }) // the role behind the authorization, which takes it off
		if !s.Equal(NewSet(vars)) {
			t.Fatalf("%v is not equal to the set of its own settings", got)
		}
	}
}

func TestAppendDiff(t *testing.T) {
	t.Parallel()
	app := Var{Name: "app.v", Value: "'1'"}
	roleA, roleB := Var{Name: "role", Value: "'a'"}, Var{Name: "role", Value: "'b'"}
	authA := Var{Name: "session_authorization", Value: "'a'"}
	dates := func(value string) Var { return Var{Name: "datestyle", Value: value} }
	for name, c := range map[string]struct {
		have, want *Set
		sql        string
	}{
		"nothing":          {nil, nil, ``},
		"equal":            {set(app, roleA), set(app, roleA), ``},
		"set":              {nil, set(app), `SET "app"."v" TO '1';`},
		"reset":            {set(app), nil, `RESET "app"."v";`},
		"change":           {set(Var{Name: "app.v", Value: "'0'"}), set(app), `SET "app"."v" TO '1';`},
		"resets first":     {set(Var{Name: "z", Value: "1"}), set(app), `RESET "z";SET "app"."v" TO '1';`},
		"raw":              {nil, set(Var{Name: "work_mem", Value: "1MB", Raw: true}), `SET "work_mem" TO '1MB';`},
		"raw list":         {nil, set(Var{Name: "search_path", Value: `a, "B"`, Raw: true}), `SELECT pg_catalog.set_config('search_path','a, "B"',false);`},
		"raw odd name":     {nil, set(Var{Name: "a..b", Value: "1", Raw: true}), `SELECT pg_catalog.set_config('a..b','1',false);`},
		"reset odd name":   {set(Var{Name: "a..b", Value: "1", Raw: true}), nil, `SELECT pg_catalog.set_config('a..b',NULL,false);`},
		"special":          {nil, set(Var{Name: "timezone", Value: "TIME ZONE INTERVAL '1' HOUR", Special: true}), `SET TIME ZONE INTERVAL '1' HOUR;`},
		"role last":        {nil, set(roleA, Var{Name: "z", Value: "1"}), `SET "z" TO 1;SET "role" TO 'a';`},
		"role kept":        {set(roleA), set(roleA, app), `RESET role;SET "app"."v" TO '1';SET "role" TO 'a';`},
		"role changes":     {set(roleA), set(roleB), `RESET role;SET "role" TO 'b';`},
		"role goes":        {set(roleA, app), set(app), `RESET role;`},
		"authorization":    {set(app), set(app, authA), `SET "session_authorization" TO 'a';`},
		"under a user":     {set(authA), set(authA, app), `RESET session_authorization;SET "app"."v" TO '1';SET "session_authorization" TO 'a';`},
		"role under it":    {set(authA), set(authA, roleB), `SET "role" TO 'b';`},
		"role off it":      {set(authA, roleB), set(authA), `RESET role;`},
		"both go":          {set(authA, roleB), nil, `RESET role;RESET session_authorization;`},
		"both come":        {nil, set(authA, roleB), `SET "session_authorization" TO 'a';SET "role" TO 'b';`},
		"half over half":   {nil, set(dates("iso"), dates("ymd")), `SET "datestyle" TO 'ISO, YMD';`},
		"half over whole":  {set(dates("SQL, DMY")), set(dates("'german'"), dates("US")), `SET "datestyle" TO 'German, MDY';`},
		"half after other": {set(dates("SQL, DMY")), set(dates("ymd")), `RESET "datestyle";SET "datestyle" TO ymd;`},
		"user goes, role:": {set(authA), set(roleB), `RESET session_authorization;SET "role" TO 'b';`},
	} {
		if got := string(c.have.AppendDiff([]byte("x"), c.want)); got != "x"+c.sql {
			t.Errorf("%s: got %s, want %s", name, got[1:], c.sql)
		}
	}
}

func TestVarSQL(t *testing.T) {
	t.Parallel()
	if got, want := (Var{Name: "a", Value: "';'"}).SQL(), `SET "a" TO ';'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
