package secure

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/tenant"
)

func TestNamesAndValuesAreQuoted(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ got, want string }{
		{ident("a", `b"c; --`), `"a"."b""c; --"`},
		{literal("it's"), `'it''s'`},
		{literal(`\'; --`), ` E'\\''; --'`},
		{orNull(""), "NULL"},
		{ownerOf("saas"), "pgkennel_owner_saas"},
	} {
		if x.got != x.want {
			t.Errorf("got %s, want %s", x.got, x.want)
		}
	}
	long := strings.Repeat("d", 63)
	a, b := ownerOf(long), ownerOf(long[1:]+"e")
	if len(a) > tenant.MaxName || len(b) > tenant.MaxName || a == b {
		t.Errorf("names of roles for long names of databases: %s and %s", a, b)
	}
}

func TestExpressionsAreComparedAsPrinted(t *testing.T) {
	t.Parallel()
	strict, shared := &plan{Options: Options{Column: "tenant_id", Rows: tenant.Strict}}, &plan{Options: Options{Column: "tenant_id", Setting: "app.current_tenant", Rows: tenant.Shared}}
	for _, x := range []struct {
		p       *plan
		typ     string
		printed string
		same    bool
	}{
		{strict, "int8", "(tenant_id = ( SELECT (pgkennel.tenant_key())::bigint AS tenant_key))", true},
		{strict, "text", "(tenant_id = ( SELECT pgkennel.tenant_key() AS tenant_key))", true},
		{strict, "varchar", "((tenant_id)::text = ( SELECT pgkennel.tenant_key() AS tenant_key))", true},
		{shared, "int8", `(tenant_id = ( SELECT (NULLIF(current_setting('app.current_tenant'::text, true), ''::text))::bigint AS "nullif"))`, true},
		{strict, "int8", "(tenant_id = (pgkennel.tenant_key())::bigint) OR true", false},
		{strict, "int8", "(tenant_id >= ( SELECT (pgkennel.tenant_key())::bigint AS tenant_key))", false},
		{strict, "int8", "(tenant_id = ( SELECT (public.tenant_key())::bigint AS tenant_key))", false},
		{strict, "int8", "(tenant_id = ( SELECT (pgkennel.tenant_key())::integer AS tenant_key))", false},
		{strict, "int8", "true", false},
		{strict, "int8", "", false},
	} {
		if got := same(x.printed, x.p.condition(&table{Type: x.typ})); got != x.same {
			t.Errorf("%s: got %t, want %t", x.printed, got, x.same)
		}
	}
}

func TestCallsAreFoundInTrees(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		tree string
		want []call
	}{
		{"", nil},
		{"{OPEXPR :opno 410 :args ({VAR :varno 1} {FUNCEXPR :funcid 2078 :args ({CONST :constvalue 4 [ 1 0 ]})})}", []call{{oid: 2078}}},
		{"{OPEXPR :args ({VAR :varno 1} {SUBLINK :subselect {QUERY :targetList ({TARGETENTRY :expr {FUNCEXPR :funcid 7 :args <>}})}})}", []call{{oid: 7, wrapped: true}}},
		{"{FUNCEXPR :funcid 16400 :args ({FUNCEXPR :funcid 9 :args ({VAR :varno 1})})}{FUNCEXPR :funcid 5}", []call{{oid: 16400, varies: true}, {oid: 9, varies: true}, {oid: 5}}},
		{`{RTE :name a\{FUNCEXPR\ :funcid\ 8 :x {FUNCEXPR :funcid 3}}`, []call{{oid: 3}}},
		{"}}{FUNCEXPR :funcid", []call{{}}},
	} {
		if d := cmp.Diff(x.want, callsIn(x.tree), cmp.AllowUnexported(call{})); d != "" {
			t.Errorf("%s: %s", x.tree, d)
		}
	}
}

func TestAdministratorsGoToThePlace(t *testing.T) {
	t.Parallel()
	at := Place{Host: "/run/pg's", Port: 5433, Database: "saas 0"}
	for _, x := range []struct{ dsn, want string }{
		{"", ` host='/run/pg\'s' port=5433 dbname='saas 0'`},
		{"user=a host=b", `user=a host=b host='/run/pg\'s' port=5433 dbname='saas 0'`},
		{"postgres://a:b@c:1/d?sslmode=disable", "postgres://a:b@/?dbname=saas+0&host=%2Frun%2Fpg%27s&port=5433&sslmode=disable"},
	} {
		if got, err := at.in(x.dsn); err != nil || got != x.want {
			t.Errorf("%q: got %s, %v, want %s", x.dsn, got, err, x.want)
		}
	}
	if _, err := at.in("postgres://a:se%zzcret@c/"); err == nil || strings.Contains(err.Error(), "se") && strings.Contains(err.Error(), "cret") {
		t.Errorf("a URL that is none: %v", err)
	}
}

func TestFloor(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"15.19": "15.20", "15.20": "", "15.21 (Debian 15.21-1)": "", "16.3 (Debian 16.3-1.pgdg120+1)": "16.16", "18.6": "", "19.0": "", "18beta1": "", "": "", "17": "",
	} {
		if got := Floor(version); got != want {
			t.Errorf("%q: got %q, want %q", version, got, want)
		}
	}
}
