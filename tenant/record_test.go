package tenant

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// filled is a record with something in every field, whatever fields there are.
func filled(t *testing.T) *Record {
	t.Helper()
	r := &Record{}
	fill(t, reflect.ValueOf(r).Elem(), "Record")
	return r
}

func fill(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.0.0.0/8")
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.ToLower(path[strings.LastIndexByte(path, '.')+1:]))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8:
		v.SetUint(2)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), path+".0")
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k": "v"}))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	default:
		t.Fatalf("%s: no idea how to fill a %v", path, v.Type())
	}
}

// TestRecordKeepsEverything writes and reads every field there is: but the revision, which is the directory's.
func TestRecordKeepsEverything(t *testing.T) {
	t.Parallel()
	r := filled(t)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	got := &Record{}
	if err := json.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	got.Revision = r.Revision
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	if strings.Contains(string(b), "evision") {
		t.Errorf("the revision is written: %s", b)
	}
}

// TestCloneSharesNothing changes everything that a clone could have in common with its record.
func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	r := filled(t)
	before, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c := r.Clone()
	if !reflect.DeepEqual(c, r) {
		t.Fatalf("got %+v, want %+v", c, r)
	}
	spoil(reflect.ValueOf(c).Elem())
	after, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("a change of the clone changed the record:\n%s\n%s", before, after)
	}
	if empty := (&Record{}).Clone(); !reflect.DeepEqual(empty, &Record{}) {
		t.Errorf("got %+v of an empty record", empty)
	}
}

// spoil changes what is behind every pointer, slice and map.
func spoil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		spoil(v.Elem())
	case reflect.Slice:
		spoil(v.Index(0))
	case reflect.Map:
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("spoiled"))
	case reflect.Struct:
		for _, f := range v.Fields() {
			if f.CanSet() {
				spoil(f)
			}
		}
		if p, ok := reflect.TypeAssert[*netip.Prefix](v.Addr()); ok {
			*p = netip.MustParsePrefix("192.168.0.0/16")
		}
	case reflect.String:
		v.SetString("spoiled")
	default:
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		r    Record
		want []string
	}{
		"an instance": {
			Record{Name: "a", Database: "t_x", Host: "h", Facts: map[string]string{PortFact: "1", UIDFact: "2", "other": "3"}},
			[]string{"name/a", "port/h/1", "uid/h/2"},
		},
		"with a replica": {
			Record{Name: "a", Host: "h", Replicas: []Replica{{Host: "i", Facts: map[string]string{PortFact: "1"}}, {Host: "j"}}},
			[]string{"name/a", "port/i/1"},
		},
		"a row":                    {Record{Name: "a", Cluster: "c", Key: "k"}, []string{"name/a", "key/c/k"}},
		"a schema":                 {Record{Name: "a", Cluster: "c", Shard: 2, Schema: "s", Role: "r"}, []string{"name/a", "schema/c/2/s", "role/c/r"}},
		"a database":               {Record{Name: "a", Cluster: "c", Schema: "public", Database: "d"}, []string{"name/a", "database/c/d"}},
		"a key that nobody shares": {Record{Name: "a", Key: "k", Schema: "s", Role: "r"}, []string{"name/a"}},
	} {
		if got := test.r.Claims(); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestRoutable(t *testing.T) {
	t.Parallel()
	for p := Creating; p <= Failed; p++ {
		r := Record{Phase: p}
		if r.Routable() {
			t.Errorf("%v without access: it can be reached", p)
		}
		r.Access.Enabled = true
		if got, want := r.Routable(), p == Ready || p == Asleep; got != want {
			t.Errorf("%v: got %v, want %v", p, got, want)
		}
		if parsed, ok := ParsePhase(p.String()); !ok || parsed != p {
			t.Errorf("%v: got %v, %v, want the same", p, parsed, ok)
		}
	}
	if _, ok := ParsePhase("unknown"); ok {
		t.Error("unknown is a phase")
	}
}

func TestAccessAllows(t *testing.T) {
	t.Parallel()
	prefixes := func(list ...string) (p []netip.Prefix) {
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for _, test := range []struct {
		networks []netip.Prefix
		from     string // empty = a unix socket
		want     bool
	}{
		{nil, "192.0.2.1", true},
		{prefixes("10.0.0.0/8"), "10.1.2.3", true},
		{prefixes("10.0.0.0/8"), "::ffff:10.1.2.3", true},
		{prefixes("10.0.0.0/8"), "11.1.2.3", false},
		{prefixes("10.0.0.0/8"), "::1", false},
		{prefixes("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", true},
		{prefixes("192.0.2.1/32"), "192.0.2.2", false},
		{prefixes("10.0.0.0/8"), "", true},
		{[]netip.Prefix{{}}, "10.1.2.3", false},
	} {
		var from netip.Addr
		if test.from != "" {
			from = netip.MustParseAddr(test.from)
		}
		if got := (&Access{Networks: test.networks}).Allows(from); got != test.want {
			t.Errorf("%v from %q: got %v, want %v", test.networks, test.from, got, test.want)
		}
	}
}

func TestRecordLogin(t *testing.T) {
	t.Parallel()
	r := &Record{Logins: []Login{{Name: "a"}, {Name: "b"}}}
	if got := r.Login("b"); got != &r.Logins[1] {
		t.Errorf("got %v, want the second", got)
	}
	if got := r.Login("A"); got != nil {
		t.Errorf("got %v, want none", got)
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		id := NewID()
		if len(id) != 16 || !ValidName(id) || CheckIdent("t_"+id) != "" || seen[id] {
			t.Fatalf("got %q, want one that was never there, and that may be a part of names", id)
		}
		seen[id] = true
	}
}
