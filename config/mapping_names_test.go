package config

import (
	"fmt"
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

// TestMappingNames reads the same mapping in both forms and finds what each key's tenant is called.
func TestMappingNames(t *testing.T) {
	t.Parallel()
	c, _ := goodFile(t, "mapping_names.good.toml")
	r := c.Tenancy.Registry
	for key, want := range map[string]string{
		"1": "1 schema acme acme", "2": "two row  r_2", "3": "rows row  t_3", "4": "", "9": "nine schema t_9 nine",
		"-10": "-10 row  r_-10", "-11": "-11 schema low-11 low-11", "100": "100 schema b_100 b_100", "199": "199 schema b_199 b_199", "200": "200 row  r_200",
		"99": "99 row  r_99", "9223372036854775807": "9223372036854775807 row  r_9223372036854775807", "007": "", "1x": "",
	} {
		got := ""
		if x := r.ByKey("prod", key); x != nil {
			got = fmt.Sprintf("%s %s %s %s", x.Name, x.Isolation, x.Schema, x.Role)
		}
		if key == "2" { // its entry in the mapping gives nothing, and a template by name does not make a role of "two" any other
			want = "two row  t_two"
		}
		if got != want {
			t.Errorf("key %s: got %q, want %q", key, got, want)
		}
	}
	owns := c.Cluster("prod").TenantSchema()
	for schema, want := range map[string]bool{"acme": true, "t_9": true, "t_1": false, "b_100": true, "b_200": false, "low-11": true, "low5": false, "public": false} {
		if owns(schema) != want {
			t.Errorf("schema %s is a tenant's: %v", schema, !want)
		}
	}
}

// TestMappingNamesOfTypes: keys of the other types, open ranges, and the order of list, range, default.
func TestMappingNamesOfTypes(t *testing.T) {
	t.Parallel()
	const text = `[multi_tenant]
column = "tenant_id"
[[databases]]
name = "prod"
host = "10.0.0.1"
[[sharded_tables]]
database = "prod"
column = "tenant_id"
data_type = %q
mapping = [
  { values = [%q], shard = 0, schema = "one", role = "one" },
  { start = %q, end = %q, shard = 0, schema = "a_{key}", role = "a_{key}" },
  { start = %q, shard = 0, schema = "z{key}z", role = "z{key}z" },
]
`
	for _, x := range []struct {
		typ  string
		args [4]any
		want map[string]string
	}{
		{"varchar", [4]any{"k", "b", "m", "x"}, map[string]string{"k": "one", "b": "a_b", "lz": "a_lz", "m": "", "x": "zxz", "zz": "zzzz", "a": "", "ü": "", "C": "", "xY": ""}},
		{"uuid", [4]any{
			"00000000-0000-0000-0000-00000000000b", "00000000000000000000000000000001", "{00000000-0000-0000-0000-0000000000ff}", "F0000000-0000-0000-0000-000000000000",
		}, map[string]string{
			"00000000-0000-0000-0000-00000000000b": "one", "00000000-0000-0000-0000-000000000001": "a_00000000-0000-0000-0000-000000000001",
			"00000000-0000-0000-0000-0000000000ff": "", "ffffffff-0000-0000-0000-000000000000": "zffffffff-0000-0000-0000-000000000000z", "FFFFFFFF-0000-0000-0000-000000000000": "",
		}},
	} {
		c, _ := mustParse(t, fmt.Sprintf(text, append([]any{x.typ}, x.args[:]...)...), "")
		for key, want := range x.want {
			got := ""
			if x := c.Tenancy.Registry.ByKey("prod", key); x != nil {
				got = x.Schema
			}
			if got != want {
				t.Errorf("%s %s: got %q, want %q", x.typ, key, got, want)
			}
		}
	}
}

// TestMappingNamesChange: a change of a name is seen, another order of entries is none.
func TestMappingNamesChange(t *testing.T) {
	t.Parallel()
	const head = "[multi_tenant]\ncolumn = \"t\"\n[[databases]]\nname = \"prod\"\nhost = \"h\"\n[[sharded_tables]]\ndatabase = \"prod\"\ncolumn = \"t\"\n"
	one, other := "[[sharded_mappings]]\ndatabase = \"prod\"\ncolumn = \"t\"\nkind = \"list\"\nvalues = [1]\nshard = 0\ntenant_schema = \"a\"\nrole = \"a\"\n",
		"[[sharded_mappings]]\ndatabase = \"prod\"\ncolumn = \"t\"\nkind = \"list\"\nvalues = [2]\nshard = 0\ntenant_schema = \"b\"\nrole = \"b\"\n"
	was, _ := mustParse(t, head+one+other, "")
	if same, _ := mustParse(t, head+other+one, ""); len(Diff(was, same)) > 0 {
		t.Errorf("another order: %v", Diff(was, same))
	}
	now, _ := mustParse(t, head+one+other[:len(other)-4]+"\"c\"\n", "")
	if d := Diff(was, now); len(d) != 1 || d[0].What != `sharding of database "prod"` {
		t.Errorf("another role: %v", d)
	}
	if was.Tenancy.Registry.ByKey("prod", "2").Equal(now.Tenancy.Registry.ByKey("prod", "2")) {
		t.Error("the tenant is the same")
	}
	var x *tenant.Tenant
	now.Tenancy.Registry.Listed("prod", func(t *tenant.Tenant) bool { x = t; return t.Key != "2" })
	if x == nil || x.Role != "c" {
		t.Errorf("listed: %+v", x)
	}
}

func TestUsersOfNobody(t *testing.T) {
	t.Parallel()
	const head = "[multi_tenant]\ncolumn = \"t\"\nmode = \"shared\"\n[[databases]]\nname = \"prod\"\nhost = \"h\"\n"
	for tenant, want := range map[string]string{"7": "", "acme": `users.toml:5:1: user "app" is bound to the tenant "acme", which is there by no name, and is no key; its logins are refused; add the tenant to [[tenants]]`} {
		_, warnings := mustParse(t, head, "[[users]]\nname = \"app\"\ndatabase = \"prod\"\npassword = \"p\"\ntenant = \""+tenant+"\"\n")
		if got := fmt.Sprint(warnings); got != want {
			t.Errorf("%s: got %s, want %s", tenant, got, want)
		}
	}
}
