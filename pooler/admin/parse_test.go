package admin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everyCommand has one text for each verb.
var everyCommand = map[verb]string{
	verbShow:          "SHOW POOLS",
	verbShowParameter: "SHOW server_version",
	verbSelect:        "SELECT 1",
	verbSet:           "SET application_name = 'x'",
	verbTransaction:   "BEGIN",
	verbDiscard:       "DISCARD ALL",
	verbReload:        "RELOAD",
	verbPause:         "PAUSE app",
	verbResume:        "RESUME app",
	verbReconnect:     "RECONNECT app",
	verbKill:          "KILL app",
	verbKillClient:    "KILL_CLIENT 1",
	verbDisable:       "DISABLE app",
	verbEnable:        "ENABLE app",
	verbWaitClose:     "WAIT_CLOSE app",
	verbShutdown:      "SHUTDOWN",
	verbTenant:        "DROP TENANT acme",
}

// TestAccess holds every verb, by each way in, to what each access may do. What acts is for admins alone.
func TestAccess(t *testing.T) {
	t.Parallel()
	looking := map[verb]bool{
		verbShow: true, verbShowParameter: true, verbSelect: true, verbSet: true, verbTransaction: true, verbDiscard: true,
	}
	for v := verb(1); int(v) < numVerbs; v++ {
		text, ok := everyCommand[v]
		if !ok {
			t.Errorf("verb %d has no text in this test", v)
			continue
		}
		commands, err := parse(text)
		if err != nil || len(commands) != 1 || commands[0].verb != v {
			t.Errorf("%s: parsed as %v, %v, want verb %d", text, commands, err, v)
		}
		for _, c := range []struct {
			access Access
			may    bool
		}{{0, false}, {AccessStats, looking[v]}, {AccessAdmin, true}, {AccessAdmin + 1, false}} {
			for way, run := range map[string]func(*Console, User) string{
				"run": func(c *Console, u User) string {
					if _, err := c.Run(t.Context(), text, u); err != nil {
						return err.Code
					}
					return ""
				},
				"query": func(c *Console, u User) string {
					out, _ := c.NewConn(u).Handle(t.Context(), nil, 'Q', []byte(text+"\x00"))
					return firstCode(transcript(t, out))
				},
				"extended": func(c *Console, u User) string {
					return firstCode(transcript(t, extended(t, c.NewConn(u), text, false, 0)))
				},
			} {
				f := newFake()
				code := run(f.console(), User{Name: "x", Database: "admin", Access: c.access})
				if refused := code == "42501"; refused == c.may {
					t.Errorf("%s as %v by %s: code %q, want allowed %v", text, c.access, way, code, c.may)
				}
				if calls := f.taken(); len(calls) > 0 && (!c.may || looking[v]) {
					t.Errorf("%s as %v by %s: ordered %q", text, c.access, way, calls)
				}
			}
		}
	}
	if verb(0).allowed(AccessAdmin) || verb(numVerbs).allowed(AccessAdmin) {
		t.Error("a verb that does not exist is allowed")
	}
}

// firstCode is the SQLSTATE of the first error in a transcript.
func firstCode(transcript string) string {
	for line := range strings.Lines(transcript) {
		if rest, ok := strings.CutPrefix(line, "ERROR "); ok {
			return rest[:5]
		}
	}
	return ""
}

// TestNothingRunsIfOneIsForbidden: the command before the forbidden one has no effect either.
func TestNothingRunsIfOneIsForbidden(t *testing.T) {
	t.Parallel()
	f := newFake()
	r, err := f.console().Run(t.Context(), "SHOW VERSION; KILL_CLIENT 1", stats)
	if err == nil || err.Routine != "admin_forbidden" || len(r.Statements) != 0 || len(f.taken()) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestPgBouncerColumns holds the columns that PgBouncer 1.25 has to its names and order; ours come after them. The tables that its
// tools count the columns of have no others.
func TestPgBouncerColumns(t *testing.T) {
	t.Parallel()
	const socket = "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us " +
		"close_needed ptr link remote_pid tls application_name prepared_statements id"
	for name, want := range map[string]string{
		"clients": socket,
		"servers": socket,
		"pools": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel " +
			"sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
		"stats": "database total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time " +
			"total_query_time total_wait_time total_client_parse_count total_server_parse_count total_bind_count " +
			"avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time " +
			"avg_client_parse_count avg_server_parse_count avg_bind_count",
		"stats_totals": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time " +
			"client_parse_count server_parse_count bind_count",
		"stats_averages": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time " +
			"avg_client_parse_count avg_server_parse_count avg_bind_count",
		"databases": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode " +
			"load_balance_hosts max_connections current_connections max_client_connections current_client_connections paused disabled",
		"users": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections max_user_client_connections " +
			"current_client_connections",
		"totals":  "name value",
		"lists":   "list items",
		"config":  "key value default changeable",
		"version": "version",
		"state":   "key value",
		"mem":     "name size used free memtotal",
	} {
		var got []string
		for _, c := range views[name].columns {
			got = append(got, c.Name)
		}
		fields := strings.Fields(want)
		exact := len(fields) <= 5
		if len(got) < len(fields) || exact && len(got) != len(fields) {
			t.Errorf("%s: %d columns, want %d", name, len(got), len(fields))
			continue
		}
		if diff := cmp.Diff(fields, got[:len(fields)]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTooManyStatements(t *testing.T) {
	t.Parallel()
	if _, err := parse(strings.Repeat("SHOW VERSION;", maxStatements)); err != nil {
		t.Errorf("%d statements: %v", maxStatements, err)
	}
	if _, err := parse(strings.Repeat("SHOW VERSION;", maxStatements+1)); err == nil || err.Code != "54001" {
		t.Errorf("%d statements: %v, want 54001", maxStatements+1, err)
	}
	if commands, err := parse(strings.Repeat(";", 1<<20)); err != nil || len(commands) != 0 {
		t.Errorf("empty statements: %d, %v", len(commands), err)
	}
	if _, err := parse("SELECT " + strings.Repeat("1,", 100) + "1"); err == nil || err.Code != "54011" {
		t.Errorf("too many columns: %v, want 54011", err)
	}
}

func TestErrorsStayShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 1<<20)
	for _, text := range []string{long, "SHOW " + long, "SHOW POOLS " + long, "SET " + long + " = 1", "'" + long, "RESET " + long} {
		_, err := newFake().console().Run(t.Context(), text, admin)
		if err == nil || len(err.Message) > 300 {
			t.Errorf("%.20s...: message of %d bytes", text, len(err.Message))
		}
	}
	if _, err := parse("SHOW \xff"); err == nil || err.Code != "22021" {
		t.Errorf("invalid UTF-8: %v, want 22021", err)
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	c := newFake().console()
	for text, want := range map[string]int{"SHOW VERSION": 1, "SHOW LISTS;": 2, "RELOAD": 0, "": 0, "-- x": 0, "SELECT 1, 2": 2} {
		if got, err := c.Columns(text); err != nil || len(got) != want {
			t.Errorf("%q: %d columns, %v, want %d", text, len(got), err, want)
		}
	}
	for text, code := range map[string]string{"FOO": "42601", "SHOW POOLS; SHOW LISTS": "42601", "SHOW FDS": "0A000"} {
		if _, err := c.Columns(text); err == nil || err.Code != code {
			t.Errorf("%q: %v, want %s", text, err, code)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]bool{
		"admin.password": true, "users.bob.server_password": true, "users.bob.password_hash": true, "users.bob.passwords": true,
		"otel.datadog_api_key": true, "password": true, "vault.token": true, "general.auth_type": false, "general.tls_private_key": false,
		"general.passthrough_auth": false, "multi_tenant.column": false,
	} {
		if got := isSecret(key); got != want {
			t.Errorf("isSecret(%q) = %v, want %v", key, got, want)
		}
	}
}
