package tenant

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func registry(t testing.TB, o Options) *Registry {
	t.Helper()
	r, errs := New(o)
	if errs != nil {
		t.Fatal(errs)
	}
	return r
}

func options(tenants ...Tenant) Options {
	for i := range tenants {
		if tenants[i].Cluster == "" {
			tenants[i].Cluster = "prod"
		}
	}
	return Options{
		Setting: "app.current_tenant", Isolation: Schema, Mode: Shared, Schema: "t_{tenant}", Role: "r_{tenant}", Database: "d_{tenant}",
		Tenants: tenants,
	}
}

// TestContexts: what a connection carries, by isolation and mode.
func TestContexts(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		isolation Isolation
		mode      Mode
		key       string
		want      string
	}{
		{Row, Strict, "42", "[{app.current_tenant 42}] role r_acme"},
		{Row, Sealed, "42", "[{app.current_tenant 42}] role "},
		{Row, Shared, "42", "[{app.current_tenant 42}] role "},
		{Schema, Strict, "42", `[{app.current_tenant 42} {search_path "t_acme", public}] role r_acme`},
		{Schema, Shared, "", `[{search_path "t_acme", public} {role r_acme}] role r_acme`},
		{Database, Strict, "", "[] role r_acme"},
	} {
		r := registry(t, options(Tenant{Name: "acme", Key: x.key, Isolation: x.isolation, Mode: x.mode}))
		a := r.ByName("acme")
		got := fmt.Sprint(append([]Setting{}, a.Context()...), " role ", a.Role)
		if got != x.want {
			t.Errorf("%v %v: %s, want %s", x.isolation, x.mode, got, x.want)
		}
		if (a.Database != "") != (x.isolation == Database) || a.Cluster != "prod" || a.State != Active {
			t.Errorf("%v %v: %+v", x.isolation, x.mode, *a)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 62)
	for _, x := range []struct {
		o    Options
		want string
	}{
		{options(Tenant{Name: "Acme"}), `tenant "Acme": a name has`},
		{options(Tenant{Name: ""}), `tenant ""`},
		{options(Tenant{Name: "-a"}), `a name has`},
		{options(Tenant{Name: "a"}, Tenant{Name: "a", Schema: "x", Role: "y"}), `"a" is there twice`},
		{options(Tenant{Name: "a", Key: "1"}, Tenant{Name: "b", Key: "1"}), `"a" and "b" have the same key`},
		{options(Tenant{Name: "a"}, Tenant{Name: "b", Schema: "t_a"}), `have the same schema "t_a"`},
		{options(Tenant{Name: "a"}, Tenant{Name: "b", Role: "r_a"}), `have the same role "r_a"`},
		{options(Tenant{Name: long}), `has more than 63 bytes`},
		{options(Tenant{Name: "a", Schema: "pg_x"}), `begins with pg_`},
		{options(Tenant{Name: "a", Schema: "public"}), `has a meaning for`},
		{options(Tenant{Name: "a", Role: "none"}), `has a meaning for`},
		{options(Tenant{Name: "a", Role: `x"; DROP`}), `other characters`},
		{options(Tenant{Name: "a", Isolation: Row}), `needs its key`},
		{options(Tenant{Name: "a", Mode: Sealed}), `row isolation only`},
		{options(Tenant{Name: "a", Isolation: Instance}), `is provisioned`},
		{options(Tenant{Name: "a", Isolation: Database, Mode: Shared}), `database isolation needs strict mode`},
		{Options{Schema: "t_{tenant"}, `a { without its }`},
		{Options{Schema: "t_tenant}"}, `a } without its {`},
		{Options{Schema: "t_{title}"}, `it can have {tenant}, {key} and {id}`},
		{func() Options { o := options(Tenant{Name: "a"}); o.Schema = "t_{key}"; return o }(), `wants {key}`},
	} {
		_, errs := New(x.o)
		if got := fmt.Sprint(errs); !strings.Contains(got, x.want) {
			t.Errorf("%+v: %s, want %s", x.o.Tenants, got, x.want)
		}
	}
}

// TestByKey: keys without an entry are tenants only where templates make them of the key alone, and never with another's name or place.
func TestByKey(t *testing.T) {
	t.Parallel()
	o := options(Tenant{Name: "acme", Key: "42"}, Tenant{Name: "7", Key: "70"}, Tenant{Name: "b", Key: "9", Schema: "t_8"})
	if r := registry(t, o); r.ByKey("prod", "42") != r.ByName("acme") || r.ByKey("prod", "43") != nil {
		t.Error("keys without an entry")
	}
	o.Clusters = []string{"prod"}
	if r := registry(t, o); r.ByKey("prod", "43") != nil {
		t.Error("templates by name")
	}
	o.Schema, o.Role = "t_{key}", "r_{key}"
	r := registry(t, o)
	a := r.ByKey("prod", "43")
	if a == nil || a.Schema != "t_43" || a.Role != "r_43" || a.Name != "43" || a.Shard != -1 || r.ByKey("prod", "43") != a {
		t.Errorf("%+v", a)
	}
	for _, key := range []string{"7", "8", "", "x'y", "-1" + strings.Repeat("0", 70)} {
		if got := r.ByKey("prod", key); got != nil {
			t.Errorf("key %q: %+v", key, got)
		}
	}
	o.Schema = "all"
	if r := registry(t, Options{Setting: "s.t", Isolation: Schema, Mode: Shared, Schema: "all", Role: "r_{key}", Clusters: []string{"prod"}}); r.ByKey("prod", "43") != nil {
		t.Error("one schema for all")
	}
}

// TestManyKeys: clients can name any number of keys, which are not all kept.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	r := registry(t, Options{Setting: "s.t", Isolation: Row, Mode: Shared, Clusters: []string{"prod"}})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 3 * mostMade / 2 {
				key := fmt.Sprint(i * (g + 1))
				if got := r.ByKey("prod", key); got == nil || got.Key != key {
					t.Errorf("key %s: %+v", key, got)
					return
				}
			}
		})
	}
	all.Wait()
	if n := len(r.mu.made) + len(r.mu.before); n > 2*mostMade {
		t.Errorf("%d are kept", n)
	}
	if a, b := r.ByKey("prod", "1"), r.ByKey("prod", "1"); !a.Same(b) || a.Same(r.ByKey("prod", "2")) || a.Same(nil) {
		t.Error("not the same")
	}
	a := r.ByKey("prod", "1")
	for _, change := range []func(t *Tenant){func(t *Tenant) { t.Key = "2" }, func(t *Tenant) { t.Schema = "other" }} {
		b := *a
		if change(&b); a.Same(&b) || b.Same(a) {
			t.Error("who has got the name of another is taken for that")
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	o := options(Tenant{Name: "acme"}, Tenant{Name: "beta"}, Tenant{Name: "far", Cluster: "other"},
		Tenant{Name: "off", State: Disabled}, Tenant{Name: "late", State: Suspended}, Tenant{Name: "app"}, Tenant{Name: "42", Key: "1"})
	r := registry(t, o)
	known := func(user, database string) (string, bool) {
		if database != "prod" {
			return "", false
		}
		switch user {
		case "web", "web@exact", "app":
			return "", true
		case "fixed":
			return "beta", true
		}
		return "", false
	}
	all := Naming{Dotted: true, ByUser: true, ByDatabase: true, Suffix: ".db.example.com"}
	for _, x := range []struct {
		n    Naming
		a    Asked
		want string
	}{
		{Naming{}, Asked{User: "web", Database: "prod"}, "web prod - welcome"},
		{Naming{}, Asked{User: "web@exact", Database: "prod"}, "web@exact prod - welcome"},
		{Naming{}, Asked{User: "web@acme", Database: "prod"}, "web prod acme welcome"},
		{Naming{}, Asked{User: "web@acme", Database: "web@acme"}, "web prod acme welcome"},
		{Naming{}, Asked{User: "web@exact@acme", Database: "prod"}, "web@exact prod acme welcome"},
		{Naming{}, Asked{User: "web@", Database: "prod"}, "web prod - unknown_tenant"},
		{Naming{}, Asked{User: "@acme", Database: "prod"}, "@acme prod - unknown_user"},
		{Naming{}, Asked{User: "web.acme", Database: "prod"}, "web.acme prod - unknown_user"},
		{all, Asked{User: "web.acme", Database: "prod"}, "web prod acme welcome"},
		{Naming{}, Asked{User: "web@nobody", Database: "prod"}, "web prod - unknown_tenant"},
		{Naming{}, Asked{User: "web@ACME", Database: "prod"}, "web prod - unknown_tenant"},
		{Naming{}, Asked{User: "nobody@acme", Database: "prod"}, "nobody prod - unknown_user"},
		{Naming{}, Asked{User: "web@off", Database: "prod"}, "web prod off disabled_tenant"},
		{Naming{}, Asked{User: "web@late", Database: "prod"}, "web prod late suspended_tenant"},
		{Naming{}, Asked{User: "web@far", Database: "prod"}, "web prod far tenant_conflict"},
		{Naming{}, Asked{User: "fixed", Database: "prod"}, "fixed prod beta welcome"},
		{Naming{}, Asked{User: "fixed@beta", Database: "prod"}, "fixed prod beta welcome"},
		{Naming{}, Asked{User: "fixed@acme", Database: "prod"}, "fixed prod - tenant_conflict"},
		{Naming{}, Asked{User: "web", Database: "prod", Option: "acme"}, "web prod acme welcome"},
		{Naming{}, Asked{User: "web@beta", Database: "prod", Option: "acme"}, "web prod - tenant_conflict"},
		{Naming{}, Asked{User: "fixed", Database: "prod", Option: "acme"}, "fixed prod - tenant_conflict"},
		{Naming{}, Asked{User: "web", Database: "prod", ServerName: "acme.db.example.com"}, "web prod - welcome"},
		{all, Asked{User: "web", Database: "prod", ServerName: "ACME.db.example.com"}, "web prod acme welcome"},
		{all, Asked{User: "web", Database: "prod", ServerName: "db.example.com"}, "web prod - welcome"},
		{all, Asked{User: "web@beta", Database: "prod", ServerName: "acme.db.example.com"}, "web prod - tenant_conflict"},
		{all, Asked{User: "app", Database: "prod"}, "app prod app welcome"},
		{Naming{}, Asked{User: "app", Database: "prod"}, "app prod - welcome"},
		{all, Asked{User: "web", Database: "acme"}, "web prod acme welcome"},
		{Naming{}, Asked{User: "web", Database: "acme"}, "web acme - unknown_user"},
		{all, Asked{User: "app", Database: "acme"}, "app prod - tenant_conflict"},
		{all, Asked{User: "fixed", Database: "acme"}, "fixed prod - tenant_conflict"},
	} {
		id, refusal := r.Identify(x.n, x.a, known)
		name := "-"
		if id.Tenant != nil {
			name = id.Tenant.Name
		}
		if got := fmt.Sprintf("%s %s %s %v", id.User, id.Database, name, refusal); got != x.want {
			t.Errorf("%+v %+v: %s, want %s", x.n, x.a, got, x.want)
		}
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	if _, err := NewSecret([]byte("short\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n")); err == nil {
		t.Error("a short secret is taken")
	}
	a, _ := NewSecret([]byte("0123456789abcdef\n"))
	b, _ := NewSecret([]byte("0123456789abcdef"))
	c, _ := NewSecret([]byte("0123456789abcdeg"))
	if a.ID() != b.ID() || a.ID() == c.ID() || a.RolePassword("prod", "x") != b.RolePassword("prod", "x") {
		t.Error("the same secret is not the same")
	}
	seen := map[string]bool{}
	for _, p := range []string{
		a.RolePassword("prod", "x"), a.RolePassword("pro", "dx"), a.RolePassword("prodx", ""), c.RolePassword("prod", "x"),
		seal(a, "prod", "1", 2, 3), seal(a, "prod", "1", 23, 0), seal(a, "prod", "12", 3, 0), seal(a, "prod", " 1", 2, 3), seal(a, "x", "1", 2, 3),
		seal(c, "prod", "1", 2, 3), seal(a, "prod", strings.Repeat("1", 1000), 2, 3),
	} {
		if seen[p] {
			t.Errorf("%q twice", p)
		}
		seen[p] = true
	}
}

func seal(s *Secret, cluster, key string, pid uint32, start int64) string {
	return string(s.Sealer(cluster).AppendSeal(nil, key, pid, start))
}

// TestSeal: a seal is HMAC-SHA-256.
func TestSeal(t *testing.T) { //nolint:paralleltest // it counts allocations
	s, _ := NewSecret([]byte("0123456789abcdef"))
	h := hmac.New(sha256.New, s.derive("seal", "prod"))
	h.Write([]byte("7 1700000000000001 acme"))
	x := s.Sealer("prod")
	if got, want := seal(s, "prod", "acme", 7, 1700000000000001), x.ID()+"."+hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	dst := make([]byte, 0, 128)
	if n := testing.AllocsPerRun(100, func() { dst = x.AppendSeal(dst[:0], "12345", 1, 2) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNames: every name can be parsed back, and nothing else can.
func TestNames(t *testing.T) {
	t.Parallel()
	for i := Row; i <= Instance; i++ {
		if got, ok := ParseIsolation(i.String()); !ok || got != i {
			t.Errorf("%v", i)
		}
	}
	for m := Strict; m <= Shared; m++ {
		if got, ok := ParseMode(m.String()); !ok || got != m {
			t.Errorf("%v", m)
		}
	}
	for s := Active; s <= Suspended; s++ {
		if got, ok := ParseState(s.String()); !ok || got != s {
			t.Errorf("%v", s)
		}
	}
	for _, s := range []string{"", "unknown", "Row"} {
		if _, ok := ParseIsolation(s); ok {
			t.Error(s)
		}
	}
	if got := QuoteIdent(`a"b`); got != `"a""b"` {
		t.Error(got)
	}
	if !reflect.DeepEqual(Isolation(9).String(), "unknown") {
		t.Error("an isolation that is none")
	}
}
