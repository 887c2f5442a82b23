package integration

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// statements are those of a pipeline, each with its Parse, Bind and Execute.
func statements(list ...string) (messages []pgproto3.FrontendMessage) {
	for _, sql := range list {
		messages = append(messages, parse("", sql), bind("", ""), run("", 0))
	}
	return messages
}

// A pipeline that changes its tenant in the middle is answered as PostgreSQL would, or refused: no statement runs for the tenant that was, or will be,
// the session's.
func TestPipelinesThatChangeTheirTenant(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
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
				c := s.as(t, "app", nil)
				if session != "" {
					if got := outcome(c.Query(session)); got != "SET; I" {
						t.Fatal(got)
					}
				} else if x.sql[0] == mine || x.sql[0] == "BEGIN" {
					continue
				}
				got := extended(c, statements(x.sql...)...)
				if !slices.ContainsFunc(x.want, func(w string) bool {
					return strings.HasPrefix(got, w+"25001") || strings.HasPrefix(got, w+"42501")
				}) {
					t.Errorf("%s: got %s, want %s and a refusal", x.name, got, x.want)
				}
				c.Terminate()
				s.unharmed(t, x.name)
			}
		}
	})
}

// What is in front of a Query in a pipeline does not lead it past the pooler's own settings.
func TestSettingsOfTenantsInPipelines(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		for _, sql := range []string{
			"SET app.current_tenant = '3'", "SET app.current_tenant = '3'; " + mine, "RESET app.current_tenant", "SET LOCAL app.current_tenant = '3'", "SET app.current_tenant = '2'",
			"SELECT set_config('app.current_tenant', '3', false)", "SELECT set_config('app.current_tenant', '2', false)", "SELECT set_config('app.current_tenant', '3', false), 1", "SHOW app.current_tenant", "SET pgkennel.tenant = '3'",
		} {
			for _, user := range []string{"app@2", "app"} {
				c := s.as(t, user, nil)
				c.Send(append(statements("SELECT 1"), simple(sql), syncs, simple(mine))...)
				for range 3 {
					if got := outcome(c.UntilReady()); strings.Contains(got, "of 3") || strings.HasPrefix(got, "FATAL") {
						t.Errorf("%s, %s: %s", user, sql, got)
					}
				}
				c.Terminate()
				s.unharmed(t, "a pipeline with "+sql+" of "+user)
			}
		}
	})
}

// DISCARD ALL takes off the context, and nothing runs behind it in the same pipeline without one.
func TestDiscardAllInPipelines(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		all := "SELECT DISTINCT note FROM orders"
		if s.isolation == "schema" {
			all = "SELECT DISTINCT note FROM t_3.orders"
		}
		for _, front := range [][]pgproto3.FrontendMessage{nil, {parse("s", "SELECT 1"), describe('S', "s"), flush}, statements("SELECT 1"), {flush}, append(statements("SELECT 1"), flush)} {
			for _, discard := range []string{"DISCARD ALL", "RESET ALL", "ABORT", "COMMIT"} {
				c := s.tenant(t, 2)
				got := extended(c, slices.Concat(front, statements(discard, all, "SELECT current_user::text"))...)
				if strings.Contains(got, "of 3") || s.isolation == "schema" && strings.Contains(got, "app; ") {
					t.Errorf("%d messages and %s: got %s", len(front), discard, got)
				}
				c.Terminate()
				s.unharmed(t, "a pipeline with "+discard)
			}
		}
	})
}

// F06: the tenant's key in parameters of all forms, in several Binds, behind a Describe.
func TestTenantsByParameters(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		const by = "SELECT DISTINCT note FROM orders WHERE tenant_id = $1"
		binary8 := func(n uint64) *pgproto3.Bind {
			return &pgproto3.Bind{ParameterFormatCodes: []int16{1}, Parameters: [][]byte{binary.BigEndian.AppendUint64(nil, n)}}
		}
		for _, user := range []string{"app@2", "app"} {
			for name, messages := range map[string][]pgproto3.FrontendMessage{
				"text":           {parse("", by), bind("", "", "3"), run("", 0)},
				"zeros":          {parse("", by), bind("", "", "003"), run("", 0)},
				"blanks":         {parse("", by), bind("", "", " 3"), run("", 0)},
				"binary":         {parse("", by), binary8(3), run("", 0)},
				"int4":           {&pgproto3.Parse{Query: by, ParameterOIDs: []uint32{23}}, &pgproto3.Bind{ParameterFormatCodes: []int16{1}, Parameters: [][]byte{{0, 0, 0, 3}}}, run("", 0)},
				"text type":      {&pgproto3.Parse{Query: "SELECT DISTINCT note FROM orders WHERE tenant_id::text = $1", ParameterOIDs: []uint32{25}}, bind("", "", "3"), run("", 0)},
				"null":           {parse("", by), &pgproto3.Bind{Parameters: [][]byte{nil}}, run("", 0)},
				"none":           {parse("", by), &pgproto3.Bind{}, run("", 0)},
				"two binds":      {parse("s", by), bind("", "s", "2"), run("", 0), bind("", "s", "3"), run("", 0)},
				"two portals":    {parse("s", by), bind("p", "s", "2"), bind("q", "s", "3"), run("q", 0), run("p", 0)},
				"after Describe": {parse("s", by), describe('S', "s"), flush, bind("", "s", "3"), run("", 0)},
				"and all":        {parse("s", by), bind("", "s", "3"), run("", 0), parse("", mine), bind("", ""), run("", 0)},
				"all and":        {parse("", mine), bind("", ""), run("", 0), parse("s", by), bind("", "s", "3"), run("", 0)},
			} {
				c := s.as(t, user, nil)
				got := extended(c, messages...)
				switch {
				case user == "app@2" && strings.Contains(got, "of 3"):
					t.Errorf("%s: got %s", name, got)
				case user == "app" && strings.Contains(got, "of 2") && strings.Contains(got, "of 3"):
					t.Errorf("%s: got %s", name, got)
				case user == "app" && s.isolation == "row" && strings.HasPrefix(name, "two ") && !strings.Contains(got, "tenant_mismatch"):
					t.Errorf("%s: got %s", name, got)
				}
				c.Terminate()
				s.unharmed(t, "parameters by "+name)
			}
		}
	})
}

// C03: a statement of one name and text, where the tenants' tables have other columns.
func TestPreparedStatementsOfTenants(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		if s.isolation == "schema" {
			s.shards[0].Exec(t, s.shards[0].db, "ALTER TABLE t_3.orders ADD more text DEFAULT 'more', ALTER id TYPE text")
		}
		a, b := s.tenant(t, 2), s.tenant(t, 3)
		for i := range 8 {
			for n, c := range map[int]*pgtest.Client{2: a, 3: b} {
				messages := []pgproto3.FrontendMessage{bind("", "all"), run("", 0)}
				if i == 0 {
					messages = append([]pgproto3.FrontendMessage{parse("all", "SELECT * FROM orders WHERE id::int = 1"), describe('S', "all")}, messages...)
				}
				want := fmt.Sprintf("%d|1|of %[1]d; SELECT 1; I", n)
				if s.isolation == "schema" && n == 3 {
					want = "3|1|of 3|more; SELECT 1; I"
				}
				if got := extended(c, messages...); got != want {
					t.Errorf("round %d, tenant %d: got %s, want %s", i, n, got, want)
				}
				if s.mode == "shared" && i == 3 { // by PREPARE, in a transaction
					protocols[0].play(t, c, "BEGIN", "BEGIN; T", "PREPARE q AS "+mine, "PREPARE; T", "EXECUTE q", fmt.Sprintf("of %d; SELECT 1; T", n), "COMMIT", "COMMIT; I", "EXECUTE q", "26000; I")
				}
			}
		}
	})
}

// C07, C14: clients that go in the middle of something.
func TestTenantsThatGoInTheMiddle(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		insert := "INSERT INTO orders (id, note) VALUES (9, 'new')"
		for name, messages := range map[string][]pgproto3.FrontendMessage{
			"a transaction":        {simple("BEGIN"), simple(insert)},
			"a failed one":         {simple("BEGIN"), simple("SELECT 1/0")},
			"a pipeline":           append(statements(insert), flush),
			"a description":        {parse("", mine), describe('S', ""), flush},
			"a result":             {simple("SELECT repeat('of 2', 1000) FROM orders, generate_series(1, 20000)")},
			"a COPY":               {simple("COPY (SELECT repeat('of 2', 1000) FROM orders, generate_series(1, 20000)) TO STDOUT")},
			"a session's settings": {simple("SET search_path = t_2"), simple("SET default_transaction_read_only = on"), simple("BEGIN"), simple("SELECT 1"), simple("SET search_path = t_1")},
		} {
			c := s.tenant(t, 2)
			c.Send(messages...)
			c.Receive()
			c.Close()
			s.unharmed(t, "leaving "+name)
		}
	})
}

// A10, E08, E09, F05, F13, and keys by other names: logins that say too much.
func TestLoginsOfTenants(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		login := func(user string, params map[string]string) error {
			c := pgtest.Dial(t, s.addr)
			defer c.Close()
			err := c.Login(pgtest.Login{User: user, Database: cluster, Password: password, Params: params})
			if err == nil {
				if got := outcome(c.Query(mine)); strings.Contains(got, "of 3") {
					t.Errorf("%s with %v sees %s", user, params, got)
				}
			}
			return err
		}
		for _, params := range []map[string]string{
			{"role": s.roles[3]},
			{"ROLE": s.roles[3]},
			{"session_authorization": s.roles[3]},
			{"options": "-c role=" + s.roles[3]},
			{"options": "--role=" + s.roles[3]},
			{"options": "-c session-authorization=" + s.roles[3]},
			{"options": "-c app.current_tenant=3"},
			{"app.current_tenant": "3"},
			{"APP.Current_Tenant": "3"},
			{"options": "-c pgkennel.tenant=3"},
			{"pgkennel.tenant": "3"},
			{"PGKENNEL.tenant": "3"},
			{"options": "-cpgkennel.tenant=2 --pgkennel.tenant=3"},
			{"replication": "database"},
			{"replication": "1"},
			{"app.current_tenant": "2", "options": "-c app.current_tenant=3"},
		} {
			if login("app@2", params) == nil {
				t.Errorf("%v is welcome", params)
			}
		}
		for _, params := range []map[string]string{{"search_path": "t_3"}, {"options": "-c search_path=t_3"}, {"app.current_tenant": "02"}, {"app.Other": "3"}, {"role ": "x"}} {
			_ = login("app@2", params)
			s.unharmed(t, fmt.Sprint("a login with ", params))
		}
		wrong := fmt.Sprint(login("app@77x", nil))
		for _, user := range []string{"app@01", "app@+1", "app@1", "app@ 1", "app@gone", "app@", "app@2@3", "app@3@2 ", "app@02", "app@+2", "app@GONE", "app@2\x01", "APP@2"} {
			err := login(user, nil)
			if got := strings.ReplaceAll(fmt.Sprint(err), user, "app@77x"); got != wrong {
				t.Errorf("%q: got %s, want %s", user, got, wrong)
			}
		}
		c := s.tenant(t, 2)
		c.Send(&pgproto3.FunctionCall{Function: 2078, Arguments: [][]byte{[]byte("role"), []byte(s.roles[3]), {1}}})
		if got := outcome(c.UntilReady()); got != "0A000 function_call; I" {
			t.Errorf("a function call: %s", got)
		}
		s.unharmed(t, "logins")
	})
}

// What a client changed is told to it as it was at its start when DISCARD ALL is answered here, with a tenant's context or without.
func TestDiscardAllTellsTenants(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *isolated) {
		c := s.as(t, "app@2", map[string]string{"DateStyle": "German"})
		c.Query("SET datestyle = 'ISO, MDY'")
		if got := c.Params["DateStyle"]; got != "ISO, MDY" {
			t.Fatal(got)
		}
		c.Query("DISCARD ALL")
		if got := c.Params["DateStyle"]; got != "German, DMY" {
			t.Errorf("the client believes in %s", got)
		}
	})
}
