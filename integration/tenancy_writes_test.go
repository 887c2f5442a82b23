package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// batch is a statement in the extended protocol, without its Sync.
func batch(sql string) []pgproto3.FrontendMessage {
	return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}}
}

func joined(lists ...[]pgproto3.FrontendMessage) (all []pgproto3.FrontendMessage) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// TestContextsCostNoRoundTrip: what a shared connection lacks of a tenant's context goes in the very write that has the client's first statement, while the
// server is silent; and altogether pgkennel writes as often as where there is nothing to set.
func TestContextsCostNoRoundTrip(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: rowsSchema, users: switching, general: "default_pool_size = 1\n", rest: twoTenants})
	p := s.throughProxy(0)
	s.startInside()
	const (
		mine  = "SELECT DISTINCT note FROM orders"
		other = "SELECT count(*) FROM countries"
	)
	sync := []pgproto3.FrontendMessage{&pgproto3.Sync{}}
	query := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Query{String: sql}}
	}
	for _, x := range []struct {
		name    string
		steps   [][]pgproto3.FrontendMessage // each is sent at once; the next when it was answered
		answers []int                        // how many ReadyForQuery each brings
		silent  int                          // the step that brings the first statement to the server
		want    int                          // writes
	}{
		{"simple", [][]pgproto3.FrontendMessage{query(mine)}, []int{1}, 0, 1},
		{"several statements", [][]pgproto3.FrontendMessage{query(mine + ";" + other)}, []int{1}, 0, 1},
		{"extended", [][]pgproto3.FrontendMessage{joined(batch(mine), sync)}, []int{1}, 0, 1},
		{"one pipeline", [][]pgproto3.FrontendMessage{joined(batch(mine), batch(other), batch(mine), sync)}, []int{1}, 0, 1},
		{"pipelined queries", [][]pgproto3.FrontendMessage{joined(query(mine), query(other), query(mine))}, []int{3}, 0, 3},
		{"pipelined batches", [][]pgproto3.FrontendMessage{joined(batch(mine), sync, batch(other), sync)}, []int{2}, 0, 2},
		{"transaction", [][]pgproto3.FrontendMessage{query("BEGIN"), query(mine), query(other), query("COMMIT")}, []int{1, 1, 1, 1}, 1, 3},
		{"extended transaction", [][]pgproto3.FrontendMessage{joined(batch("BEGIN"), sync), joined(batch(mine), sync), joined(batch("COMMIT"), sync)}, []int{1, 1, 1}, 1, 2},
		{"pipelined transaction", [][]pgproto3.FrontendMessage{joined(batch("BEGIN"), batch(mine), batch("COMMIT"), sync)}, []int{1}, 0, 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			clients := map[string]*pgtest.Client{"2": s.as(t, "app@two", nil), "4": s.as(t, "app@four", nil)}
			// run has a tenant's client play the steps, and returns what was written meanwhile.
			run := func(tenant string) []string {
				c := clients[tenant]
				p.mute()
				defer p.unmute()
				var rows []string
				for i, step := range x.steps {
					c.Send(step...)
					if i == x.silent {
						eventually(t, "the statement is sent", func() bool { return strings.Contains(strings.Join(p.heard(), ""), mine) })
						p.unmute()
					}
					for range x.answers[i] {
						rows = append(rows, pgtest.Rows(c.UntilReady())...)
					}
				}
				if len(rows) == 0 || rows[0] != "of "+tenant {
					t.Errorf("tenant %s: got the rows %q", tenant, rows)
				}
				return p.heard()
			}
			run("4")
			for range 3 {
				for _, tenant := range []string{"2", "4"} {
					switched, kept := run(tenant), run(tenant)
					set := fmt.Sprintf("SET \"app\".\"current_tenant\" TO '%s'", tenant)
					if !strings.Contains(switched[0], set) || !strings.Contains(switched[0], mine) {
						t.Errorf("the first write has not both the context and the statement: %q", switched)
					}
					if strings.Contains(strings.Join(kept, ""), "current_tenant") {
						t.Errorf("the context is sent although it is there: %q", kept)
					}
					if len(switched) != x.want || len(kept) != x.want {
						t.Errorf("got %d writes with the context and %d without it, want %d", len(switched), len(kept), x.want)
					}
				}
			}
		})
	}
	if sent, reused := s.metric(t, "session_contexts_total", `"sent"`), s.metric(t, "session_contexts_total", `"reused"`); sent == 0 || reused < sent {
		t.Errorf("got %v contexts sent and %v that were there", sent, reused)
	}
}
