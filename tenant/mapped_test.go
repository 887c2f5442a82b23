package tenant

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mappedTo is a mapping of numbers: single keys first, then the rest, which have entry rest (-1: no names).
func mappedTo(entries []Names, listed map[string]int, rest int) *Mapped {
	m := &Mapped{Entries: entries, KeyByte: func(c byte) bool { return c >= '0' && c <= '9' || c == '-' }}
	m.Find = func(key string) int {
		n, err := strconv.Atoi(key)
		if err != nil || strconv.Itoa(n) != key {
			return -1
		}
		if i, ok := listed[key]; ok {
			return i
		}
		return rest
	}
	m.Listed = func(yield func(string, int) bool) {
		keys := make([]string, 0, len(listed))
		for k := range listed {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if listed[k] >= 0 && !yield(k, listed[k]) {
				return
			}
		}
	}
	if rest >= 0 {
		m.Open = []int{rest}
	}
	return m
}

func TestMappedNames(t *testing.T) {
	t.Parallel()
	o := Options{
		Setting: "app.t", Isolation: Row, Mode: Shared, Schema: "d_{key}", Role: "d_{key}", Clusters: []string{"prod", "other"},
		Tenants: []Tenant{{Name: "own", Key: "3", Cluster: "prod", Schema: "mine"}, {Name: "rows", Key: "4", Cluster: "prod", Isolation: Row}, {Name: "acme", Key: "1", Cluster: "prod"}},
		Mapped: map[string]*Mapped{"prod": mappedTo([]Names{{"acme", "r_acme"}, {"t_{key}", "r_{key}"}, {"", "s_{key}"}},
			map[string]int{"1": 0, "2": 1, "3": 1, "4": 1, "5": -1}, 2)},
	}
	r := registry(t, o)
	for key, want := range map[string]string{
		"1": "acme schema acme r_acme", "2": "2 schema t_2 r_2", "3": "own schema mine r_3", "4": "rows row  ", "5": "5 row  ", "9": "9 row  ",
	} {
		x := r.ByKey("prod", key)
		if got := fmt.Sprintf("%s %s %s %s", x.Name, x.Isolation, x.Schema, x.Role); got != want {
			t.Errorf("key %s: got %q, want %q", key, got, want)
		}
	}
	if x := r.ByKey("other", "2"); x.Isolation != Row {
		t.Errorf("a mapping counts in another cluster: %+v", x)
	}
	for schema, want := range map[string]bool{"acme": true, "mine": true, "t_2": true, "t_3": true, "t_5": false, "t_9": false, "t_02": false, "public": false, "t_": false} {
		if got := r.OwnsSchema("prod", schema); got != want {
			t.Errorf("schema %s is a tenant's: %v", schema, got)
		}
	}
	var listed []string
	r.Listed("prod", func(x *Tenant) bool { listed = append(listed, x.Name); return true })
	if !slices.Equal(listed, []string{"2"}) {
		t.Errorf("listed without an entry: %q", listed)
	}
	o.Mode = Strict
	o.Tenants = nil
	if x := registry(t, o).ByKey("prod", "9"); x.Role != "s_9" || x.Isolation != Row {
		t.Errorf("a role alone: %+v", x)
	}
}

func TestMappedMistakes(t *testing.T) {
	t.Parallel()
	many := make([]Names, mostTemplates+2)
	for i := range many {
		many[i] = Names{Schema: Template(fmt.Sprintf("a%dx{key}", i)), Role: "r_{key}"}
	}
	for _, x := range []struct {
		o       Options
		entries []Names
		listed  map[string]int
		rest    int
		want    string
	}{
		{Options{}, []Names{{"one", "a"}, {"one", "b"}}, map[string]int{"1": 0, "2": 1}, -1, `0 1 tenants "1" and "2" have the same schema "one"`},
		{Options{}, []Names{{"a", "one"}, {"b", "one"}}, map[string]int{"1": 0, "2": 1}, -1, `tenants "1" and "2" have the same role "one"`},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_1{key}", "b_{key}"}}, map[string]int{"1": 0}, 1, `could give one schema to two tenants`},
		{Options{}, []Names{{"{key}_1", "a_{key}"}, {"2_{key}", "b_{key}"}}, map[string]int{"1": 0}, 1, `could give one schema to two tenants`},
		{Options{}, []Names{{"a_{key}", "t_{key}"}, {"b_{key}", "t_{key}0"}}, map[string]int{"1": 0}, 1, `could give one role to two tenants`},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_b_{key}", "b_{key}"}}, map[string]int{"1": 0}, 1, ``},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_{key}_b", "b_{key}"}}, map[string]int{"1": 0}, 1, ``},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_7", "b"}}, map[string]int{"1": 1}, 0, `schema "t_7" is what template "t_{key}" gives`},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_7", "b"}}, map[string]int{"7": 1}, 0, ``},
		{Options{}, []Names{{"t_{key}", "a_{key}"}, {"t_7", "b"}}, map[string]int{"1": 1, "2": 0}, -1, ``},
		{Options{Isolation: Schema, Schema: "t_{key}", Role: "r_{key}"}, []Names{{"t_7", "b"}}, map[string]int{"1": 0}, -1, `schema "t_7" is what template "t_{key}" gives`},
		{Options{Schema: "t_{tenant}", Role: "t_{tenant}"}, []Names{{"t_{key}", ""}}, nil, 0, `need a role as well, and template "t_{tenant}"`},
		{Options{Schema: "t_{tenant}", Role: "t_{tenant}", Isolation: Schema}, []Names{{"", "t_{key}"}}, map[string]int{"1": 0}, -1, `need a schema as well`},
		{Options{}, []Names{{"T_{key}", "r_{key}"}}, nil, 0, `such as "T_0" has other characters`},
		{Options{}, []Names{{Template(strings.Repeat("a", 61) + "{key}"), "r_{key}"}}, map[string]int{"100": 0}, -1, `more than 63 bytes`},
		{Options{Tenants: []Tenant{{Name: "x", Key: "5", Schema: "one", Role: "rx", Cluster: "prod", Isolation: Schema}}}, []Names{{"one", "r"}}, map[string]int{"1": 0}, -1, `tenants "x" and "1" have the same schema "one"`},
		{Options{Tenants: []Tenant{{Name: "1", Key: "5", Cluster: "prod"}}}, []Names{{"one", "r"}}, map[string]int{"1": 0}, -1, `would have the name of tenant "1"`},
		{Options{}, many, nil, 0, "more than 256 templates"},
	} {
		o := x.o
		o.Setting, o.Clusters, o.Mode = "app.t", []string{"prod"}, Shared
		if o.Isolation == 0 {
			o.Isolation = Row
		}
		o.Mapped = map[string]*Mapped{"prod": mappedTo(x.entries, x.listed, x.rest)}
		_, wrong := New(o)
		got := ""
		for _, w := range wrong {
			got += fmt.Sprintf("%d %d %v\n", w.Index+1, w.Entry, w.Err)
		}
		if !strings.Contains(got, x.want) || x.want == "" && got != "" {
			t.Errorf("%v: got %q, want %q", x.entries, got, x.want)
		}
	}
}

// TestNoTwoTenantsShareAName: whatever templates New takes, tenants of different keys have different names.
func TestNoTwoTenantsShareAName(t *testing.T) {
	t.Parallel()
	parts := []string{"", "a", "1", "a1", "1a", "_", "1_", "_1"}
	taken := 0
	for _, b1 := range parts {
		for _, a1 := range parts {
			for _, b2 := range parts {
				for _, a2 := range parts {
					one, two := Template("s"+b1+"{key}"+a1), Template("s"+b2+"{key}"+a2)
					listed := map[string]int{}
					for i := range 40 {
						listed[fmt.Sprint(i-5)] = i % 2
					}
					r, _ := New(Options{
						Setting: "app.t", Isolation: Row, Mode: Shared, Clusters: []string{"prod"},
						Mapped: map[string]*Mapped{"prod": mappedTo([]Names{{one, "r_{key}"}, {two, "r_{key}"}}, listed, -1)},
					})
					if r == nil {
						continue
					}
					taken++
					whose := map[string]string{}
					for key := range listed {
						x := r.ByKey("prod", key)
						if other, ok := whose[x.Schema]; ok {
							t.Fatalf("%s and %s: keys %s and %s have the schema %s", one, two, other, key, x.Schema)
						}
						whose[x.Schema] = key
					}
				}
			}
		}
	}
	if taken < 100 {
		t.Errorf("%d pairs of templates are taken", taken)
	}
}
