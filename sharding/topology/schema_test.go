package topology

import "testing"

func TestLookupFollowsSearchPath(t *testing.T) {
	t.Parallel()
	s := &Schema{Relations: map[QualifiedName]*Relation{}}
	for _, q := range []QualifiedName{{"public", "orders"}, {"app", "orders"}, {"app", "users"}, {"pg_catalog", "pg_class"}, {"public", "pg_class"}} {
		s.Relations[q] = &Relation{Schema: q.Schema, Name: q.Name}
	}
	for _, c := range []struct {
		schema, name string
		path         []string
		want         string
	}{
		{"", "orders", []string{"public"}, "public"},
		{"", "orders", []string{"app", "public"}, "app"},
		{"", "orders", []string{"nowhere"}, ""},
		{"", "orders", nil, ""},
		{"", "users", []string{"public", "app"}, "app"},
		{"app", "orders", []string{"public"}, "app"},
		{"nowhere", "orders", []string{"public"}, ""},
		{"", "pg_class", []string{"public"}, "pg_catalog"},
		{"", "pg_class", nil, "pg_catalog"},
		{"", "pg_class", []string{"public", "pg_catalog"}, "public"},
	} {
		got := ""
		if r := s.Lookup(c.schema, c.name, c.path); r != nil {
			got = r.Schema
		}
		if got != c.want {
			t.Errorf("Lookup(%q, %q, %v) is in %q, want %q", c.schema, c.name, c.path, got, c.want)
		}
	}
	if (*Schema)(nil).Lookup("public", "orders", nil) != nil {
		t.Error("a schema that is not known knows a relation")
	}
}

func TestColumn(t *testing.T) {
	t.Parallel()
	r := &Relation{Columns: []Column{{Name: "a"}, {Name: "b", Type: "int8"}}}
	if c := r.Column("b"); c == nil || c.Type != "int8" {
		t.Errorf("column b is %v", c)
	}
	if c := r.Column("B"); c != nil {
		t.Errorf("column B is %v, want none: names are folded already", c)
	}
}

func TestRoleNames(t *testing.T) {
	t.Parallel()
	for role, want := range map[Role]string{Primary: "primary", Replica: "replica", 0: "unknown"} {
		if got := role.String(); got != want {
			t.Errorf("Role(%d) = %q, want %q", role, got, want)
		}
	}
}
