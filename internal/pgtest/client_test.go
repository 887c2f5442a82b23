package pgtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func query(sql string) *pgproto3.Query { return &pgproto3.Query{String: sql} }

func TestClientSeesExactMessages(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	c := i.Connect(t, pgtest.Login{User: pgtest.Superuser, Database: "postgres", Params: map[string]string{"application_name": "me"}})
	if c.PID == 0 || len(c.Secret) != 4 || c.Params["application_name"] != "me" {
		t.Errorf("got pid %d, secret %x, application_name %q", c.PID, c.Secret, c.Params["application_name"])
	}
	for _, test := range []struct{ sql, want string }{
		{"SELECT 1 AS a, NULL AS b", "RowDescription(a, b) DataRow(1, ∅) CommandComplete(SELECT 1) ReadyForQuery(I)"},
		{"BEGIN; SELECT 1 WHERE false", "CommandComplete(BEGIN) RowDescription(?column?) CommandComplete(SELECT 0) ReadyForQuery(T)"},
		{"nonsense", `ErrorResponse(ERROR, 42601, syntax error at or near "nonsense") ReadyForQuery(E)`},
		{"ROLLBACK", "CommandComplete(ROLLBACK) ReadyForQuery(I)"},
		{"SET application_name = 'x'", "CommandComplete(SET) ParameterStatus(application_name=x) ReadyForQuery(I)"},
		{"", "EmptyQueryResponse ReadyForQuery(I)"},
	} {
		if got := c.Answer(test.sql); got != test.want {
			t.Errorf("%q:\ngot  %s\nwant %s", test.sql, got, test.want)
		}
	}
	got := pgtest.Format(c.Extended("SELECT $1::int + 1 AS sum", "41")...)
	want := "ParseComplete BindComplete RowDescription(sum) DataRow(42) CommandComplete(SELECT 1) ReadyForQuery(I)"
	if got != want {
		t.Errorf("extended:\ngot  %s\nwant %s", got, want)
	}
	c.Terminate()
}

func TestClientCancels(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t).Connect(t, pgtest.Login{User: pgtest.Superuser, Database: "postgres"})
	c.Send(query("SELECT pg_sleep(60)"))
	for { // a cancel that is there before the statement hits nothing
		waits := pgtest.Shared(t).Query(t, "postgres", "SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = $1", int(c.PID))
		if len(waits) == 1 && waits[0] == "PgSleep" {
			break
		}
	}
	c.Cancel()
	if e := pgtest.Failure(c.UntilReady()); e == nil || e.Code != "57014" {
		t.Errorf("got %+v, want 57014", e)
	}
}

func TestFakeServerPlaysItsScript(t *testing.T) {
	t.Parallel()
	s := pgtest.NewFakeServer(t, pgtest.PerConnection(
		pgtest.Script(
			pgtest.ExpectQuery("SELECT 1"),
			pgtest.Reply(pgtest.Columns("x"), pgtest.Row("one"), pgtest.Done("SELECT 1"), pgtest.Ready('I')),
			pgtest.Expect("Query"),
			pgtest.Cut(9, pgtest.Columns("x")),
		),
		pgtest.Echo(),
	), pgtest.FakeParam("server_version", "9.9"))

	c := pgtest.Connect(t, s.Addr, pgtest.Login{User: "u", Database: "d"})
	if c.Params["server_version"] != "9.9" {
		t.Errorf("server_version is %q", c.Params["server_version"])
	}
	if got, want := c.Answer("SELECT 1"), "RowDescription(x) DataRow(one) CommandComplete(SELECT 1) ReadyForQuery(I)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Send(query("SELECT 2"))
	if msgs := c.ExpectClosed(); len(msgs) != 0 {
		t.Errorf("got %s from a cut frame, want nothing", pgtest.Format(msgs...))
	}

	c = pgtest.Connect(t, s.Addr, pgtest.Login{User: "u", Database: "d"})
	if got, want := c.Answer("BEGIN"), "RowDescription(connection, statement) DataRow(2, BEGIN) CommandComplete(BEGIN) ReadyForQuery(T)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Cancel()
	if key := s.WaitCancel(t); key.PID != c.PID || key.Secret != string(c.Secret) {
		t.Errorf("got cancel key %+v, want pid %d", key, c.PID)
	}
	if s.Accepted() != 2 {
		t.Errorf("accepted %d connections, want 2", s.Accepted())
	}
}

func TestEchoServesADriver(t *testing.T) {
	t.Parallel()
	s := pgtest.NewFakeServer(t, pgtest.Echo())
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(s.Addr, "d", "u", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for range 2 { // prepared, then from the cache
		var number, text string
		if err := conn.QueryRow(t.Context(), "SELECT hello").Scan(&number, &text); err != nil {
			t.Fatal(err)
		}
		if number != "1" || text != "SELECT hello" {
			t.Errorf("got %q, %q", number, text)
		}
	}
}

// TestFakeServerReportsAScriptThatWasNotFollowed holds the fake to failing: a fake that cannot fail tests nothing.
func TestFakeServerReportsAScriptThatWasNotFollowed(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	s := pgtest.NewFakeServer(r, pgtest.Script(pgtest.ExpectQuery("SELECT 1")))
	c := pgtest.Connect(t, s.Addr, pgtest.Login{User: "u"})
	c.Send(query("SELECT 2"))
	c.ExpectClosed()
	s.Close()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "SELECT 2") {
		t.Errorf("got errors %q, want one about SELECT 2", r.errors)
	}
}

// recorder is a testing.TB whose errors are looked at instead of reported.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
