package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A Query in the middle of a pipeline is skipped behind an error, as all is up to the Sync; without one it is answered in its turn.
func TestQueryInThePipeline(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	pipeline := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	}
	query := &pgproto3.Query{String: "SELECT 2"}
	for sql, want := range map[string][]string{
		"SELECT 1":           {"1; SELECT 1; 2; SELECT 1; I", "I"},
		"SELECT 1/0":         {"22012; I"},
		"SELECT '1'::nosuch": {"42704; I"},
	} {
		c := s.connect(t)
		c.Send(append(pipeline(sql), query, &pgproto3.Sync{})...)
		for _, want := range append(want, "7; SELECT 1; I") {
			if want[0] == '7' {
				c.Send(&pgproto3.Query{String: "SELECT 7"})
			}
			if got := outcome(c.UntilReady()); got != want {
				t.Errorf("%s: got %s, want %s", sql, got, want)
			}
		}
	}
	// While it is only parsed, where it runs is not known yet.
	c := s.connect(t)
	c.Send(&pgproto3.Parse{Query: "SELECT '1'::nosuch"}, query, &pgproto3.Sync{}, &pgproto3.Query{String: "SELECT 7"})
	for _, want := range []string{"42704; I", "7; SELECT 1; I"} {
		if got := outcome(c.UntilReady()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
