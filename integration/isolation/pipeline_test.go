package isolation

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestIsolationOfChoices: sessions that choose their tenants, or are bound to one, in pipelines and at random.
func TestIsolationOfChoices(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		m.shards = 1
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := build(t, m)
			for _, part := range []struct {
				name string
				run  func(*testing.T, *world)
				in   string // the modes that it is about; empty = all
			}{
				{"PipelinesThatChangeTheirTenant", pipelinesThatChangeTheirTenant, ""},
				{"SettingsOfTenantsInPipelines", settingsOfTenantsInPipelines, ""},
				{"DiscardAllInPipelines", discardAllInPipelines, ""},
				{"DiscardAllTellsTenants", discardAllTellsTenants, ""},
				{"ChoicesThatEnd", choicesThatEnd, ""},
				{"TenantsInComments", tenantsInComments, ""},
				{"ChoicesWhoseContextFails", choicesWhoseContextFails, "schema-shared"},
				{"QueuedBehindADescription", queuedBehindADescription, "row-shared"},
				{"random", randomChoices, ""},
				{"random, in session pooling", sessionsChoices, ""},
			} {
				if part.in == "" || m.is(part.in) {
					t.Run(part.name, func(t *testing.T) { part.run(t, w) })
				}
			}
		})
	}
}

// sessionsChoices is randomChoices where a session keeps its connection.
func sessionsChoices(t *testing.T, w *world) {
	w.keepConnections(t)
	randomChoices(t, w)
}

// A pipeline that changes its tenant in the middle is answered as PostgreSQL would, or refused: no statement runs for the tenant that was, or will be,
// the session's.
func pipelinesThatChangeTheirTenant(t *testing.T, s *world) {
	const (
		second = "SET app.current_tenant = '2'"
		third  = "SET app.current_tenant = '3'"
		call2  = "SELECT set_config('app.current_tenant', '2', false)"
		call3  = "SELECT set_config('app.current_tenant', '3', false)"
	)
	ran := func(tenants ...int) (all string) {
		for _, n := range tenants {
			all += fmt.Sprintf("of %d; SELECT 1; ", n)
		}
		return all
	}
	for _, x := range []struct {
		name string
		sql  []string
		want []string // what may be answered to it, up to where it is refused
	}{
		{"SET", []string{mine, third, mine}, []string{ran(2)}},
		{"SET twice", []string{third, mine, second, mine}, []string{"SET; " + ran(3)}},
		{"set_config", []string{mine, call3, mine}, []string{ran(2)}},
		{"set_config twice", []string{call3, mine, call2, mine}, []string{"3; SELECT 1; " + ran(3)}},
		{"set_config and SET", []string{call3, mine, second, mine}, []string{"3; SELECT 1; " + ran(3)}},
		{"behind BEGIN", []string{"BEGIN", mine, third, mine}, []string{"BEGIN; " + ran(2)}},
		{"SET LOCAL", []string{mine, "SET LOCAL app.current_tenant = '3'", mine}, []string{ran(2)}},
		{"RESET", []string{mine, "RESET app.current_tenant", mine}, []string{ran(2)}},
		{"by name", []string{mine, "SET pgkennel.tenant = '3'", mine}, []string{ran(2)}},
	} {
		for _, session := range []string{"", second} {
			c := s.As(t, "app", nil)
			if session != "" {
				if got := testbed.Outcome(c.Query(session)); got != "SET; I" {
					t.Fatal(got)
				}
			} else if x.sql[0] == mine || x.sql[0] == "BEGIN" {
				continue
			}
			got := testbed.Extended(c, testbed.Statements(x.sql...)...)
			if !slices.ContainsFunc(x.want, func(w string) bool {
				return strings.HasPrefix(got, w+"25001") || strings.HasPrefix(got, w+"42501")
			}) {
				t.Errorf("%s: got %s, want %s and a refusal", x.name, got, x.want)
			}
			c.Terminate()
			s.unharmed(t, x.name)
		}
	}
}

// What is in front of a Query in a pipeline does not lead it past the pooler's own settings.
func settingsOfTenantsInPipelines(t *testing.T, s *world) {
	for _, sql := range []string{
		"SET app.current_tenant = '3'", "SET app.current_tenant = '3'; " + mine, "RESET app.current_tenant", "SET LOCAL app.current_tenant = '3'", "SET app.current_tenant = '2'",
		"SELECT set_config('app.current_tenant', '3', false)", "SELECT set_config('app.current_tenant', '2', false)", "SELECT set_config('app.current_tenant', '3', false), 1", "SHOW app.current_tenant", "SET pgkennel.tenant = '3'",
	} {
		for _, user := range []string{"app@2", "app"} {
			c := s.As(t, user, nil)
			c.Send(append(testbed.Statements("SELECT 1"), testbed.Simple(sql), testbed.Sync, testbed.Simple(mine))...)
			for range 3 {
				if got := testbed.Outcome(c.UntilReady()); strings.Contains(got, "of 3") || strings.HasPrefix(got, "FATAL") {
					t.Errorf("%s, %s: %s", user, sql, got)
				}
			}
			c.Terminate()
			s.unharmed(t, "a pipeline with "+sql+" of "+user)
		}
	}
}

// DISCARD ALL takes off the context, and nothing runs behind it in the same pipeline without one.
func discardAllInPipelines(t *testing.T, s *world) {
	all := "SELECT DISTINCT note FROM orders"
	if s.isolation == "schema" {
		all = "SELECT DISTINCT note FROM t_3.orders"
	}
	for _, front := range [][]pgproto3.FrontendMessage{nil, {testbed.Parse("s", "SELECT 1"), testbed.Describe('S', "s"), testbed.Flush}, testbed.Statements("SELECT 1"), {testbed.Flush}, append(testbed.Statements("SELECT 1"), testbed.Flush)} {
		for _, discard := range []string{"DISCARD ALL", "RESET ALL", "ABORT", "COMMIT"} {
			c := s.tenant(t, 2)
			got := testbed.Extended(c, slices.Concat(front, testbed.Statements(discard, all, "SELECT current_user::text"))...)
			if strings.Contains(got, "of 3") || s.isolation == "schema" && strings.Contains(got, "app; ") {
				t.Errorf("%d messages and %s: got %s", len(front), discard, got)
			}
			c.Terminate()
			s.unharmed(t, "a pipeline with "+discard)
		}
	}
}

// What a client changed is told to it as it was at its start when DISCARD ALL is answered here, with a tenant's context or without.
func discardAllTellsTenants(t *testing.T, s *world) {
	c := s.As(t, "app@2", map[string]string{"DateStyle": "German"})
	c.Query("SET datestyle = 'ISO, MDY'")
	if got := c.Params["DateStyle"]; got != "ISO, MDY" {
		t.Fatal(got)
	}
	c.Query("DISCARD ALL")
	if got := c.Params["DateStyle"]; got != "German, DMY" {
		t.Errorf("the client believes in %s", got)
	}
}
