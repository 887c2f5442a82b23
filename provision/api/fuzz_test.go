package api

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/provision"
)

// FuzzOrder feeds the readers of requests: an order, or an error that says whose fault it is.
func FuzzOrder(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"name":"acme","limits":{"cpu":"0.5","memory":"256MB","disk":1024,"io":"1MB","connections":5},"suspend_after":"7d","every":90}`, "now=true"},
		{`{"limits":{"cpu":"-1"}}`, "lines=-1&limit=99999999999999999999"},
		{`{"limits":{"memory":1e400}}`, "follow=maybe"},
		{`{} {}`, "now=1&now=1"},
		{`{"suspend_after":"99999d"}`, "x=%zz"},
		{`[`, ";"},
		{``, ``},
		{`null`, ``},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, body, query string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.URL = &url.URL{Path: "/", RawQuery: query}
		o, err := fromBody(httptest.NewRecorder(), r)
		for _, err := range []error{err, fromQuery(r, &o)} {
			if e, ok := errors.AsType[*provision.Error](err); err != nil && (!ok || e.Kind != provision.KindInvalid) {
				t.Errorf("%q, %q: %v", body, query, err)
			}
		}
	})
}

// FuzzUnits feeds the readers of numbers with units: what is taken is not negative.
func FuzzUnits(f *testing.F) {
	for _, seed := range []string{"256MB", "1.5GB", "4611686018427387904", "1e18tb", "0.0001", "500m", "0x1p70", "nan", "-0", "7d", "99999d", "1h30m", "9223372036s", ".", "1_000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, err1 := provision.ParseSize(s)
		cpu, err2 := provision.ParseCPU(s)
		d, err3 := provision.ParseDuration(s)
		if size < 0 || cpu < 0 || d < 0 {
			t.Errorf("%q is %d bytes, %d thousandths, %v", s, size, cpu, d)
		}
		if err1 != nil && size != 0 || err2 != nil && cpu != 0 || err3 != nil && d != 0 {
			t.Errorf("%q is %d (%v), %d (%v), %v (%v)", s, size, err1, cpu, err2, d, err3)
		}
	})
}
