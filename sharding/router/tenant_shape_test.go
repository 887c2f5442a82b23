package router_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// forTenants says what becomes of a message: whose rows it means for nobody's session, and what it is for those of tenants, with its parameters and before they are
// known. What is left to the text is empty.
func forTenants(f *fixture, m *parser.Message, in router.Input, tenants []router.Tenant) (list []string) {
	say := func(e *pgwire.Error, what string) {
		if e == router.ErrNeedsText {
			what = ""
		} else if e != nil {
			what = errorText(e)
		}
		list = append(list, what)
	}
	rt := f.r.Route(m, nil)
	key, found, e := rt.TenantKey(&in)
	say(e, fmt.Sprint("whose: ", key, found))
	for i := range tenants {
		in.Tenant = &tenants[i]
		p, e := rt.Plan(&in)
		say(e, fmt.Sprintf("tenant %d: %s %v", i, outcome(p, e), p.Unjudged))
		p, e = rt.Describe(&in)
		say(e, fmt.Sprintf("tenant %d, described: %s", i, outcome(p, e)))
	}
	return list
}

// sameForTenants checks that texts of one shape, which one cache holds, are to tenants what they are by themselves. It returns how many outcomes were known by the shape.
func sameForTenants(t testing.TB, f *fixture, tenants []router.Tenant, in router.Input, texts []string, asParse bool) (known int) {
	t.Helper()
	cache := parser.NewCache(8 << 20)
	find := cache.ParseShape
	if asParse {
		find = cache.ParseText
	}
	for range 2 { // the first of a shape is for itself
		for _, text := range texts {
			var s parser.Shape
			m := find([]byte(text), &s, "")
			fresh := parser.Parse(text)
			if !m.Shaped || fresh.Unparsable != nil {
				continue // the server refuses it
			}
			in.Text, in.Literals = []byte(text), s.Literals
			want := forTenants(f, fresh, in, tenants)
			for i, got := range forTenants(f, m, in, tenants) {
				if got == "" {
					continue
				}
				if known++; got != want[i] {
					t.Errorf("%q\nby its shape: %s\nby itself:    %s\nof %q", text, got, want[i], texts)
				}
			}
		}
	}
	return known
}

// tenantsOf are tenants with and without logins and tables of their own.
func tenantsOf(t testing.TB, typ sharding.KeyType, keys ...string) (list []router.Tenant) {
	for i, text := range keys {
		key, ok := sharding.ParseKey(typ, text)
		if !ok {
			t.Fatal(text)
		}
		list = append(list, router.Tenant{Key: key, Login: i%2 == 1})
	}
	return append(list, router.Tenant{Own: true})
}

// TestTenantsByShape: whose rows a statement means, and whether it may run for a tenant, is the same by its shape as by itself: with odd literals, with parameters of
// all kinds, for texts of Query and of Parse.
func TestTenantsByShape(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"bigint", "text"} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			f := oddFixture(t, typ)
			f.options.TenantColumn = "tenant_id"
			f.rebuild(t)
			tenants := tenantsOf(t, sharding.Bigint, "5", "7", "-7", "16777217")
			if typ == "text" {
				tenants = tenantsOf(t, sharding.Text, "a", "1", "0", "c")
			}
			known := 0
			for i := range uint64(tenantTrials) {
				known += tenantTrial(t, f, tenants, i)
			}
			if known < tenantTrials {
				t.Errorf("%d outcomes were known by shapes", known)
			}
		})
	}
}

const tenantTrials = 200

func tenantTrial(t testing.TB, f *fixture, tenants []router.Tenant, seed uint64) (known int) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, seed))
	sql := oddStatement(r)
	in := router.Input{UTF8: r.IntN(5) > 0}
	if r.IntN(2) == 0 { // some of it are parameters
		var params testParams
		sql = withLiterals(sql, func(_ parser.TokenKind, raw string) string {
			if r.IntN(3) > 0 {
				return raw
			}
			params = append(params, oddParam(r, raw))
			return fmt.Sprint("$", len(params))
		})
		in.Params = params
	}
	texts := []string{sql}
	for range 3 {
		texts = append(texts, swapLiterals(r, sql))
	}
	return sameForTenants(t, f, tenants, in, texts, r.IntN(2) == 0)
}

// oddParam is a parameter of some type and format.
func oddParam(r *rand.Rand, raw string) testParam {
	switch r.IntN(8) {
	case 0:
		return testParam{}
	case 1:
		return testParam{value: []byte{0, 0, 0, 0, 0, 0, 0, 5}, binary: true, oid: []uint32{0, 20, 701}[r.IntN(3)]}
	case 2:
		return testParam{value: []byte{0, 0, 0, 7}, binary: true, oid: []uint32{0, 23, 700}[r.IntN(3)]}
	}
	return testParam{value: []byte(strings.Trim(raw, "'")), oid: []uint32{0, 0, 20, 23, 25, 1700, 1042, 1043, 18, 19, 705}[r.IntN(11)]}
}

// FuzzTenantsByShape is TestTenantsByShape for ever.
func FuzzTenantsByShape(f *testing.F) {
	fix := oddFixture(f, "bigint")
	fix.options.TenantColumn = "tenant_id"
	fix.rebuild(f)
	tenants := tenantsOf(f, sharding.Bigint, "5", "7", "-7", "16777217")
	f.Add("SELECT * FROM orders WHERE tenant_id = 5", "SELECT * FROM orders WHERE tenant_id = 7", "5")
	f.Add("UPDATE orders SET customer = 1 WHERE tenant_id IN (5, -7) AND id = $1", "UPDATE orders SET customer = 2 WHERE tenant_id IN (7, 7) AND id = $1", "7")
	f.Fuzz(func(t *testing.T, one, two, param string) {
		in := router.Input{UTF8: true, Params: testParams{{value: []byte(param)}}}
		var a, b parser.Shape
		if len(one) > 500 || len(two) > 500 || !a.Of([]byte(one)) || !b.Of([]byte(two)) || string(a.Key) != string(b.Key) {
			two = one
		}
		sameForTenants(t, fix, tenants, in, []string{one, two, one}, len(param)%2 == 0)
	})
}
