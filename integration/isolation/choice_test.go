package isolation

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// play runs statements one after the other; each is followed by what it gives.
func play(t *testing.T, run func(*pgtest.Client, string) []pgproto3.BackendMessage, c *pgtest.Client, script ...string) {
	t.Helper()
	for i := 0; i < len(script); i += 2 {
		if got, want := testbed.Outcome(run(c, script[i])), script[i+1]; got != want {
			t.Errorf("step %d, %s\n got %s\nwant %s", i/2+1, script[i], got, want)
		}
	}
}

const mismatch = "42501 tenant_mismatch; I"

// allows is what a choice may give besides the very outcome: * is anything that is not of the other tenant, - a refusal.
func allows(got, want string) bool {
	switch want {
	case "*":
		return !strings.Contains(got, "of 3")
	case "-":
		return verdict(got) == refused || verdict(got) == denied
	}
	return got == want
}

// A tenant's choice that is rolled back is gone, and one that is committed stays, whatever fails behind it. Where that can't be had in the midst of a transaction, nothing
// runs for the tenant that was chosen.
func choicesThatEnd(t *testing.T, s *world) {
	const (
		set2, set3, local3 = "SET app.current_tenant = '2'", "SET app.current_tenant = '3'", "SET LOCAL app.current_tenant = '3'"
		call2, call3       = "SELECT set_config('app.current_tenant', '2', false)", "SELECT set_config('app.current_tenant', '3', true)"
		two, three         = "of 2; SELECT 1; ", "of 3; SELECT 1; "
		refused            = "25001 tenant_mismatch; "
	)
	for _, x := range []struct {
		name  string
		units []string // of the session of tenant 2: Queries; those with | are pipelines
		want  []string
	}{
		{"chain in a message", []string{"BEGIN; " + set3 + "; ROLLBACK AND CHAIN; " + mine, mine}, []string{refused + "I", two + "I"}},
		{"chain at its end", []string{"BEGIN; " + set3 + "; ROLLBACK AND CHAIN", mine, "ROLLBACK", mine}, []string{"BEGIN; SET; ROLLBACK; T", refused + "E", "ROLLBACK; I", two + "I"}},
		{"in front of BEGIN", []string{set3 + "; BEGIN; ROLLBACK AND CHAIN", "SELECT 1", "COMMIT AND CHAIN", mine, "COMMIT", mine}, []string{"SET; BEGIN; ROLLBACK; T", refused + "E", "ROLLBACK; T", refused + "E", "ROLLBACK; I", two + "I"}},
		{"chosen again", []string{"BEGIN; " + set3 + "; ROLLBACK AND CHAIN", local3, mine, "COMMIT", mine}, []string{"BEGIN; SET; ROLLBACK; T", "SET; T", three + "T", "COMMIT; I", two + "I"}},
		{"another is chosen", []string{"BEGIN; " + set3 + "; ROLLBACK AND CHAIN", set2, "ROLLBACK", mine}, []string{"BEGIN; SET; ROLLBACK; T", refused + "E", "ROLLBACK; I", two + "I"}},
		{"COMMIT of what failed", []string{"BEGIN; " + set3 + "; SELECT 1/0", "COMMIT AND CHAIN", mine, "COMMIT", mine}, []string{"BEGIN; SET; 22012; E", "ROLLBACK; T", refused + "E", "ROLLBACK; I", two + "I"}},
		{"a savepoint", []string{"RESET app.current_tenant", "BEGIN", "SAVEPOINT s", local3, mine, "ROLLBACK TO s", mine, "ROLLBACK", mine}, []string{"RESET; I", "BEGIN; T", "SAVEPOINT; T", "SET; T", three + "T", "ROLLBACK; T", refused + "E", "ROLLBACK; I", "-"}},
		{"a savepoint behind it", []string{"RESET app.current_tenant", "BEGIN", local3, "SAVEPOINT s", mine, "ROLLBACK TO s", mine, "COMMIT"}, []string{"RESET; I", "BEGIN; T", "SET; T", "SAVEPOINT; T", three + "T", "ROLLBACK; T", three + "T", "COMMIT; I"}},
		{"a savepoint that was released", []string{"RESET app.current_tenant", "BEGIN", "SAVEPOINT a", "SAVEPOINT b", local3, "RELEASE b", "SAVEPOINT b", mine, "ROLLBACK TO b", mine, "ROLLBACK TO a", mine, "ROLLBACK"}, []string{"RESET; I", "BEGIN; T", "SAVEPOINT; T", "SAVEPOINT; T", "SET; T", "RELEASE; T", "SAVEPOINT; T", three + "T", "ROLLBACK; T", three + "T", "ROLLBACK; T", refused + "E", "ROLLBACK; I"}},
		{"a savepoint in a pipeline", []string{"BEGIN|SAVEPOINT s|" + call3 + "|ROLLBACK TO s|" + mine, "ROLLBACK", mine}, []string{"BEGIN; SAVEPOINT; " + refused + "E", "ROLLBACK; I", two + "I"}},
		{"nobody's savepoint in a pipeline", []string{"RESET app.current_tenant", "BEGIN|SAVEPOINT s|" + call3 + "|ROLLBACK TO s|" + mine, "ROLLBACK"}, []string{"RESET; I", "BEGIN; SAVEPOINT; 3; SELECT 1; ROLLBACK; " + refused + "E", "ROLLBACK; I"}},
		{"chain in a pipeline", []string{set3 + "|BEGIN|" + mine + "|ROLLBACK AND CHAIN|" + mine, "ROLLBACK", mine}, []string{"SET; BEGIN; " + three + "ROLLBACK; " + refused + "E", "ROLLBACK; I", two + "I"}},
		{"chain behind a pipeline", []string{set3 + "|BEGIN|" + mine, "ROLLBACK AND CHAIN", mine, "ROLLBACK", mine}, []string{"SET; BEGIN; " + three + "T", "ROLLBACK; T", "*", "ROLLBACK; I", "*"}},
		{"for a transaction, and another follows", []string{"BEGIN; " + local3 + "; COMMIT AND CHAIN; " + mine, "BEGIN; " + local3 + "; " + mine, "COMMIT AND CHAIN", mine, "ROLLBACK", mine}, []string{refused + "I", "BEGIN; SET; " + three + "T", "COMMIT; T", refused + "E", "ROLLBACK; I", two + "I"}},
		{"nobody's, and another follows", []string{"RESET app.current_tenant", "BEGIN; " + local3 + "; COMMIT AND CHAIN; " + mine, "ROLLBACK"}, []string{"RESET; I", "BEGIN; SET; COMMIT; " + three + "T", "ROLLBACK; I"}},
		{"nothing ran yet", []string{"RESET app.current_tenant", "BEGIN", local3, "ROLLBACK AND CHAIN", "SELECT 7", "COMMIT"}, []string{"RESET; I", "BEGIN; T", "SET; T", "ROLLBACK; T", "7; SELECT 1; T", "COMMIT; I"}},
		{"committed, then an error", []string{"BEGIN; " + set3 + "; COMMIT; SELECT 1/0", mine}, []string{"BEGIN; SET; COMMIT; 22012; I", three + "I"}},
		{"committed and chained, then rolled back", []string{"BEGIN; " + set3 + "; COMMIT AND CHAIN; ROLLBACK", mine}, []string{"BEGIN; SET; COMMIT; ROLLBACK; I", three + "I"}},
		{"committed without BEGIN, then an error", []string{set3 + "; COMMIT; SELECT 1/0", mine}, []string{"SET; COMMIT; 22012; I", three + "I"}},
		{"an error, then nothing", []string{"BEGIN; " + set3 + "; SELECT 1/0; COMMIT", "ROLLBACK", mine}, []string{"BEGIN; SET; 22012; E", "ROLLBACK; I", two + "I"}},
		{"for the session, in a transaction", []string{"RESET app.current_tenant", "BEGIN", set3, mine, "COMMIT", mine}, []string{"RESET; I", "BEGIN; T", "SET; T", three + "T", "COMMIT; I", three + "I"}},
		{"for the session, rolled back", []string{"RESET app.current_tenant", "BEGIN", set3, mine, "ROLLBACK", mine}, []string{"RESET; I", "BEGIN; T", "SET; T", three + "T", "ROLLBACK; I", "-"}},
		{"two in a pipeline", []string{set3 + "|" + call2 + "|" + mine, mine}, []string{"SET; 2; SELECT 1; " + two + "I", two + "I"}},
		{"for a transaction, then for the session", []string{local3 + "|" + set3 + "|" + mine, mine}, []string{"SET; SET; " + three + "I", three + "I"}},
		{"for the session, rolled back to", []string{"RESET app.current_tenant", "BEGIN", local3, "SAVEPOINT s", set3, "ROLLBACK TO s", mine, "COMMIT", mine}, []string{"RESET; I", "BEGIN; T", "SET; T", "SAVEPOINT; T", "SET; T", "ROLLBACK; T", three + "T", "COMMIT; I", "-"}},
		{"for the session, and released", []string{"RESET app.current_tenant", "BEGIN", local3, "SAVEPOINT s", set3, "RELEASE s", mine, "COMMIT", mine}, []string{"RESET; I", "BEGIN; T", "SET; T", "SAVEPOINT; T", "SET; T", "RELEASE; T", three + "T", "COMMIT; I", three + "I"}},
		{"the first of two is another's", []string{set3 + "|" + call3 + "|" + mine, mine}, []string{"SET; 3; SELECT 1; " + three + "I", three + "I"}},
	} {
		c := s.As(t, "app", nil)
		c.Query(set2)
		for i, unit := range x.units {
			got := ""
			if list := strings.Split(unit, "|"); len(list) > 1 {
				got = testbed.Extended(c, testbed.Statements(list...)...)
			} else {
				got = testbed.Outcome(c.Query(unit))
			}
			if want := x.want[i]; !allows(got, want) {
				t.Errorf("%s: %s: got %s, want %s", x.name, unit, got, want)
			}
		}
		c.Terminate()
	}
	c := s.As(t, "app", nil) // behind what is only described
	got := testbed.Extended(c, append([]pgproto3.FrontendMessage{testbed.Parse("s", "SELECT 1"), testbed.Describe('S', "s"), testbed.Flush}, testbed.Statements("SELECT set_config('app.current_tenant', '3', false)", mine)...)...)
	if got != "3; SELECT 1; "+three+"I" {
		t.Error(got)
	}
	if got := testbed.Outcome(c.Query(mine)); got != three+"I" {
		t.Errorf("behind a description: got %s", got)
	}
	c.Terminate()
	call := testbed.Parse("", "SELECT set_config('app.current_tenant', '3', false)")
	for _, x := range []struct {
		name     string
		messages []pgproto3.FrontendMessage
		want     string
	}{
		{"bound and not executed", []pgproto3.FrontendMessage{call, testbed.Bind("p", ""), testbed.Parse("", "SELECT 7"), testbed.Bind("", ""), testbed.Run("", 0)}, "7; SELECT 1; I"},
		{"executed behind another", []pgproto3.FrontendMessage{call, testbed.Bind("p", ""), testbed.Parse("", mine), testbed.Bind("", ""), testbed.Run("", 0), testbed.Run("p", 0), testbed.Parse("", mine), testbed.Bind("", ""), testbed.Run("", 0)}, two + refused + "I"},
		{"executed later", []pgproto3.FrontendMessage{call, testbed.Bind("p", ""), testbed.Flush, testbed.Run("p", 0)}, refused + "I"},
		{"described and executed", []pgproto3.FrontendMessage{call, testbed.Bind("p", ""), testbed.Describe('P', "p"), testbed.Run("p", 0), testbed.Parse("", mine), testbed.Bind("", ""), testbed.Run("", 0), testbed.Run("p", 0)}, "3; SELECT 1; " + three + refused + "I"},
	} {
		c := s.As(t, "app", nil)
		c.Query(set2)
		if got := testbed.Extended(c, x.messages...); got != x.want {
			t.Errorf("%s: got %s, want %s", x.name, got, x.want)
		}
		if got := testbed.Outcome(c.Query(mine)); got != two+"I" {
			t.Errorf("behind what was %s: got %s", x.name, got)
		}
		c.Terminate()
	}
	s.unharmed(t, "choices that ended")
}

// Where the context of a tenant can't be set that was chosen, the session is again for whom it was for before, and so is the connection that it gets next.
func choicesWhoseContextFails(t *testing.T, s *world) {
	sh, third := s.Shards[0], s.roles[3]
	for _, unit := range []string{"SET app.current_tenant = '3'|" + mine, "SELECT set_config('app.current_tenant', '3', false)|" + mine, "BEGIN|SET app.current_tenant = '3'|" + mine} {
		for _, first := range []string{"SET app.current_tenant = '2'", "RESET app.current_tenant"} {
			for _, aside := range []string{"SELECT 7", "BEGIN"} {
				c := s.As(t, "app", nil)
				c.Query(first)
				sh.Exec(t, sh.DB, "REVOKE "+third+" FROM app")
				if got := testbed.Extended(c, testbed.Statements(strings.Split(unit, "|")...)...); strings.Contains(got, "of ") || !strings.Contains(got, "42501") && !strings.Contains(got, "25001") {
					t.Errorf("%s: got %s", unit, got)
				}
				sh.Exec(t, sh.DB, "GRANT "+third+" TO app")
				c.Query("ROLLBACK")
				c.Query(aside)
				want := "of 2; SELECT 1"
				if first[0] == 'R' {
					want = "42P01"
				}
				if got := testbed.Outcome(c.Query(mine)); !strings.HasPrefix(got, want) {
					t.Errorf("%s, and behind it %s; %s: got %s, want %s", first, unit, aside, got, want)
				}
				c.Terminate()
			}
		}
	}
	s.unharmed(t, "contexts that failed")
}

// A comment that names a tenant holds for what is answered without a server, too: it chooses, or is refused.
func tenantsInComments(t *testing.T, s *world) {
	const third = "/* pgkennel_tenant: 3 */ "
	for _, p := range protocols {
		c := s.As(t, "app", nil)
		play(t, p.run, c,
			third+"BEGIN", "BEGIN; T", mine, "of 3; SELECT 1; T", "COMMIT "+third, "COMMIT; I",
			"BEGIN", "BEGIN; T", third+"SET LOCAL work_mem = '1MB'", "SET; T", mine, "of 3; SELECT 1; T", third+"ROLLBACK", "ROLLBACK; I",
			"SET app.current_tenant = '2'", "SET; I",
			third+"BEGIN", mismatch, mine, own,
			"BEGIN", "BEGIN; T", third+"SAVEPOINT s", "42501 tenant_mismatch; E", third+"ROLLBACK", "ROLLBACK; I", mine, own,
			"/* pgkennel_tenant: 2 */ BEGIN", "BEGIN; T", mine, "of 2; SELECT 1; T", "COMMIT", "COMMIT; I",
			"/* pgkennel_tenant: nobody */ BEGIN", mismatch,
			"RESET app.current_tenant", "RESET; I", "/* pgkennel_tenant: nobody */ BEGIN", "42501 tenant_unknown; I",
		)
		if got := testbed.Extended(c, testbed.Statements(third+"BEGIN", mine, "COMMIT")...); got != "BEGIN; of 3; SELECT 1; COMMIT; I" {
			t.Errorf("in a pipeline: got %s", got)
		}
		if got := testbed.Extended(c, testbed.Statements("BEGIN", third+"SAVEPOINT s", mine, "COMMIT")...); got != "BEGIN; SAVEPOINT; of 3; SELECT 1; COMMIT; I" {
			t.Errorf("in a pipeline: got %s", got)
		}
		if got := testbed.Extended(s.tenant(t, 2), testbed.Statements(third+"BEGIN", mine)...); got != mismatch {
			t.Errorf("in a pipeline: got %s", got)
		}
		c.Terminate()
	}
	s.unharmed(t, "comments")
}

// What is answered without a server behind a description that is answered already is done in front of what comes behind it.
func queuedBehindADescription(t *testing.T, s *world) {
	savepoint := []string{"BEGIN", "SAVEPOINT s", "SET LOCAL app.current_tenant = '3'"}
	for _, x := range []struct {
		first, then []string
		want        string
	}{
		{[]string{"BEGIN"}, []string{"SAVEPOINT s", "SELECT 7", "ROLLBACK TO s"}, "SAVEPOINT; 7; SELECT 1; ROLLBACK; T"},
		{savepoint, []string{"SET LOCAL work_mem = '7MB'", "SHOW work_mem"}, "SET; 7MB; SHOW; T"},
		{savepoint, []string{"ROLLBACK TO s", mine}, "ROLLBACK; 25001 tenant_mismatch; E"},
		{savepoint, []string{"ROLLBACK AND CHAIN", mine}, "ROLLBACK; 42501 tenant_missing; E"},
		{savepoint, []string{"ROLLBACK", "UPDATE orders SET id = id WHERE tenant_id = 2"}, "ROLLBACK; UPDATE 3; I"},
	} {
		c := s.As(t, "app", nil)
		for _, sql := range x.first {
			c.Query(sql)
		}
		c.Send(testbed.Parse("q", "SELECT 1"), testbed.Describe('S', "q"), testbed.Flush)
		for range 3 {
			c.Receive()
		}
		if got := testbed.Extended(c, testbed.Statements(x.then...)...); got != x.want {
			t.Errorf("%q: got %s, want %s", x.then, got, x.want)
		}
		c.Terminate()
	}
	s.unharmed(t, "descriptions")
}
