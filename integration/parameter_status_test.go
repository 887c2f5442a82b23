package integration

import (
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What a client last heard of its parameters is what its next statement runs with.
func TestParametersAreTold(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1")
	last := func(c *pgtest.Client, sql, name string) (value string) {
		t.Helper()
		for part := range strings.SplitSeq(c.Answer(sql), " ") {
			if v, ok := strings.CutPrefix(part, "ParameterStatus("+name+"="); ok {
				value = strings.TrimSuffix(v, ")")
			}
		}
		return value
	}
	c := s.connect(t)
	c.Query("SET client_encoding = 'LATIN1'")
	if got := last(c, "DISCARD ALL", "client_encoding"); got != "UTF8" {
		t.Errorf("DISCARD ALL tells %q", got)
	}

	c = s.with(t, map[string]string{"client_encoding": "LATIN1", "timezone": "Asia/Tokyo"})
	for _, sql := range []string{"RESET ALL", "RESET client_encoding"} {
		c.Query("SET client_encoding = 'LATIN2'")
		if got := last(c, sql, "client_encoding"); got != "LATIN1" {
			t.Errorf("%s tells %q", sql, got)
		}
	}
	c.Query("SET timezone = 'Europe/Paris'")
	if got := last(c, "DISCARD ALL", "TimeZone"); got != "Asia/Tokyo" {
		t.Errorf("DISCARD ALL tells %q", got)
	}
	if got := pgtest.Rows(c.Query("SHOW timezone")); len(got) != 1 || got[0] != "Asia/Tokyo" {
		t.Errorf("timezone is %v", got)
	}
}
