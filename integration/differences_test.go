package integration

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Lines of docs/differences.md that no other test holds.

// Statements that are too long or too intricate to be looked at are refused, unless their shard is certain.
func TestLimitsOfStatements(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "query_size_limit = 20_000\nquery_size_limit_action = \"block\"")
	each(t, func(t *testing.T, p protocol) {
		long := "SELECT '" + strings.Repeat("x", 19_950) + "' <> ''"
		deep := "SELECT " + strings.Repeat("- ", 5000) + "1"
		p.play(t, s.connect(t),
			long, "t; SELECT 1; I", long+strings.Repeat(" ", 100), "54000 query_size; I",
			deep, "54001 unparsable; I", "/* pgdog_shard: 1 */ SELECT 7", "7; SELECT 1; I",
			"BEGIN", "BEGIN; T", deep, "54001 unparsable; E", "ROLLBACK", "ROLLBACK; I",
		)
	})
}

// Statements that are too long only for the operator's taste run, and the log tells once for each client, by their length.
func TestLongStatementsAreLogged(t *testing.T) {
	t.Parallel()
	for name, rest := range map[string]string{"plain": "", "sharded": twoRanges} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shards := 1
			if rest != "" {
				shards = 2
			}
			s := start(t, spec{shards: shards, rest: rest, general: "query_size_limit = 100"})
			const text = "kanarienvogel"
			long := "SELECT '" + strings.Repeat(text, 10) + "' <> ''"
			var clients atomic.Int64
			each(t, func(t *testing.T, p protocol) {
				clients.Add(1)
				p.play(t, s.connect(t), "SELECT 7", "7; SELECT 1; I", long, "t; SELECT 1; I", long, "t; SELECT 1; I")
			})
			if n := strings.Count(s.log.String(), `level=WARN msg="long statement"`); n != int(clients.Load()) {
				t.Errorf("%d clients, told %d times", clients.Load(), n)
			}
			if log := s.log.String(); strings.Contains(log, text) || !strings.Contains(log, fmt.Sprintf("bytes=%d query_size_limit=100", len(long))) {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
}

// Which column of COPY's rows is the key has to be known: by the statement, or by the table.
func TestCopyFromWithoutColumns(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "load_schema = \"off\"")
	for n, extended := range []bool{false, true} {
		c := s.connect(t)
		for _, x := range [][2]string{
			{"COPY orders FROM STDIN", "0A000 shard_missing; I"},
			{"/* pgdog_shard: 1 */ COPY orders FROM STDIN", "0A000 shard_missing; I"},
			{"COPY orders (tenant_id, id, note) FROM STDIN", "COPY 1; I"},
		} {
			if got := copyIn(c, extended, x[0], fmt.Sprintf("%d\t1\tx\n", 1005+n)); got != x[1] {
				t.Errorf("%s: got %s, want %s", x[0], got, x[1])
			}
		}
	}
	if rows := s.shards[0].rows(t, "SELECT * FROM orders"); len(rows) != 0 {
		t.Errorf("the first shard has %q", rows)
	}
	if rows := s.shards[1].rows(t, "SELECT tenant_id FROM orders"); len(rows) != 2 {
		t.Errorf("the second shard has %q", rows)
	}
}

// A Parse whose Bind is refused does not count as sent.
func TestParseBeforeARefusedBind(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	const sql = "SELECT note FROM orders WHERE tenant_id = $1"
	c := s.connect(t)
	bound := func(value string) *pgproto3.Bind {
		return &pgproto3.Bind{PreparedStatement: "q", Parameters: [][]byte{[]byte(value)}}
	}
	for _, x := range []struct {
		name, want string
		messages   []pgproto3.FrontendMessage
	}{
		{"refused", "ErrorResponse 42704 tenant_unknown; I", []pgproto3.FrontendMessage{&pgproto3.Parse{Name: "q", Query: sql}, bound("9999999"), &pgproto3.Execute{}}},
		{"the statement is not there", "ErrorResponse 26000; I", []pgproto3.FrontendMessage{bound("1"), &pgproto3.Execute{}}},
		{"its name is free", "ParseComplete; BindComplete; I", []pgproto3.FrontendMessage{&pgproto3.Parse{Name: "q", Query: sql}, bound("1")}},
	} {
		c.Send(append(x.messages, syncs)...)
		var parts []string
		answer := c.UntilReady()
		for _, msg := range answer[:len(answer)-1] {
			parts = append(parts, strings.TrimSpace(strings.TrimPrefix(fmt.Sprintf("%T", msg), "*pgproto3.")+" "+outcome([]pgproto3.BackendMessage{msg})))
		}
		if got := strings.Join(append(parts, outcome(answer[len(answer)-1:])), "; "); got != x.want {
			t.Errorf("%s: got %s, want %s", x.name, got, x.want)
		}
	}
}

// What EXECUTE can't run it refuses, be it that PostgreSQL would.
func TestExecuteOfNoQuery(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	c.Send(&pgproto3.Parse{Name: "q", Query: "SHOW work_mem"}, &pgproto3.Parse{Name: "r", Query: "EXECUTE q"}, &pgproto3.Sync{})
	c.UntilReady()
	for _, p := range protocols {
		p.play(t, c, "EXECUTE q", "0A000 execute; I", "EXPLAIN EXECUTE q", "0A000 execute; I", "EXECUTE r", "0A000 execute; I")
	}
	// Nothing can be prepared in front of a message that begins in a failed transaction.
	a, b := s.connect(t), s.connect(t)
	protocols[0].play(t, a, "/* pgdog_shard: 0 */ PREPARE q AS SELECT 5", "PREPARE; I") // not where it is needed next
	protocols[0].play(t, b, "/* pgdog_shard: 0 */ BEGIN; SELECT 1", "BEGIN; 1; SELECT 1; T")
	protocols[0].play(t, a, "BEGIN", "BEGIN; T", "/* pgdog_shard: 1 */ SELECT 1/0", "22012; E", "ROLLBACK; EXECUTE q", "0A000 mixed_message; E", "ROLLBACK", "ROLLBACK; I", "EXECUTE q", "5; SELECT 1; I")
}

// Who a session is can't be said at its start, only after the login.
func TestRolesAtTheStart(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, name := range []string{"role", "session_authorization"} {
		for _, params := range []map[string]string{{name: user}, {"options": "-c " + name + "=" + user}} {
			l := s.login()
			l.Params = params
			err := pgtest.Dial(t, s.addr).Login(l)
			if err == nil || !strings.Contains(err.Error(), "42501") {
				t.Errorf("%v: got %v, want 42501", params, err)
			}
		}
	}
}

// A client learns which backend answered, and what its statements are called there.
func TestBackendsAreSeen(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	one, other := s.connect(t), s.connect(t)
	first, second := outcome(one.Query("SELECT pg_backend_pid()")), outcome(other.Query("SELECT pg_backend_pid()"))
	if first != second {
		t.Errorf("a pool of one has two backends: %s, %s", first, second)
	}
	one.Send(&pgproto3.Parse{Name: "mine", Query: "SELECT 'prepared'"}, &pgproto3.Bind{PreparedStatement: "mine"}, &pgproto3.Execute{}, &pgproto3.Sync{})
	one.UntilReady()
	got := outcome(other.Query("SELECT name LIKE 'pgkennel\\_%' FROM pg_prepared_statements WHERE statement LIKE '%prepared%'"))
	if got != "t; SELECT 1; I" {
		t.Errorf("got %s", got)
	}
	protocols[0].play(t, one, "PREPARE own AS SELECT 1", "PREPARE; I", "EXECUTE own", "1; SELECT 1; I", "DO 'BEGIN EXECUTE ''EXECUTE own''; END'", "26000; I")
}

// TestBackendsKeepTheirLogin: what ALTER ROLE and ALTER DATABASE set is the backend's from when it was opened; what LOAD loads, the transaction's.
func TestBackendsKeepTheirLogin(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 2"})
	p, sh := protocols[0], s.shards[0]
	loader := "loader_" + sh.db
	sh.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s SUPERUSER; GRANT %s TO %s", loader, loader, user))
	t.Cleanup(func() { sh.Exec(t, "postgres", "DROP ROLE "+loader) })
	const settings = "SELECT current_setting('work_mem'), current_setting('lock_timeout')"
	p.play(t, s.connect(t), settings, "4MB|0; SELECT 1; I")
	sh.Exec(t, sh.db, fmt.Sprintf("ALTER DATABASE %s SET work_mem = '7MB'; ALTER ROLE %s IN DATABASE %[1]s SET lock_timeout = '7s'", sh.db, user))
	p.play(t, s.direct(t, nil), settings, "7MB|7s; SELECT 1; I")
	p.play(t, s.connect(t), settings, "4MB|0; SELECT 1; I")
	s.console(t, "RECONNECT")
	p.play(t, s.connect(t), settings, "7MB|7s; SELECT 1; I")

	const loaded = "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_nested_statements'"
	c := s.connect(t)
	eventually(t, "the role may be taken", func() bool {
		return outcome(c.Query("SET ROLE "+loader)) == "SET; I" && pgtest.Failure(c.Query("SELECT 1")) == nil
	})
	p.play(t, c, "BEGIN", "BEGIN; T", "LOAD 'auto_explain'", "LOAD; T", loaded, "1; SELECT 1; T")
	p.play(t, c, "COMMIT", "COMMIT; I")
	for range 2 { // what has loaded it is gone
		p.play(t, c, loaded, "0; SELECT 1; I")
	}
}

// TestTimeoutsAreOfWhatRuns: what a client takes between two messages of a unit is nothing to statement_timeout.
func TestTimeoutsAreOfWhatRuns(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	clock, params := s.direct(t, nil), map[string]string{"statement_timeout": "100ms"}
	c, direct := s.with(t, params), s.direct(t, params)
	for _, c := range []*pgtest.Client{c, direct} {
		c.Send(&pgproto3.Parse{Query: "SELECT 'done'"})
	}
	clock.Query("SELECT pg_sleep(0.3)")
	for c, want := range map[*pgtest.Client]string{c: "done; SELECT 1; I", direct: "57014; I"} {
		c.Send(&pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
		if got := outcome(c.UntilReady()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	protocols[0].play(t, c, "SELECT pg_sleep(20)", "57014; I") // what runs is
}

// TestNumbersOfClientsAreNoBackends: the process id of a login is pgkennel's own.
func TestNumbersOfClientsAreNoBackends(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		s := start(t, spec{general: fmt.Sprintf("pooler_mode = %q", mode)})
		c := s.connect(t)
		protocols[0].play(t, c, fmt.Sprintf("SELECT pg_terminate_backend(%d), pg_cancel_backend(%[1]d), pg_backend_pid() = %[1]d", c.PID), "f|f|f; SELECT 1; I")
		direct := s.direct(t, nil)
		protocols[0].play(t, direct, fmt.Sprintf("SELECT pg_backend_pid() = %d", direct.PID), "t; SELECT 1; I")
	}
}

// TestCustomSettingsAreKnown: a server forgets the value of a custom setting, and not its name.
func TestCustomSettingsAreKnown(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	p, one, other := protocols[0], s.connect(t), s.connect(t)
	p.play(t, one, "SHOW app.never_set", "42704; I", "SET app.never_set = 'x'", "SET; I", "SHOW app.never_set", "x; SHOW; I")
	p.play(t, other, "SHOW app.never_set", "; SHOW; I", "SELECT count(*) FROM pg_settings WHERE name ~ 'never_set' OR setting ~ 'never_set'", "0; SELECT 1; I")
	for _, row := range pgtest.Rows(other.Query("SHOW ALL")) {
		if strings.Contains(row, "never_set") {
			t.Errorf("SHOW ALL has %s", row)
		}
	}
	p.play(t, one, "SHOW app.never_set", "x; SHOW; I")
}

// TestSeedsLastForATransaction: the seed of random() is the backend's.
func TestSeedsLastForATransaction(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	p, c, other := protocols[0], s.connect(t), s.connect(t)
	p.play(t, c, "BEGIN", "BEGIN; T", "SELECT setseed(0.5) IS NULL", "f; SELECT 1; T")
	inside := outcome(c.Query("SELECT random()"))
	p.play(t, c, "COMMIT", "COMMIT; I", "SELECT setseed(0.5) IS NULL", "f; SELECT 1; I")
	other.Query("SELECT random()")
	if behind := outcome(c.Query("SELECT random()")); strings.TrimSuffix(behind, "I") == strings.TrimSuffix(inside, "T") {
		t.Errorf("both are %s", behind)
	}
}

// Channel binding is not offered, so that a client which insists on it is told at once by its own library.
func TestTLSChannelBinding(t *testing.T) {
	t.Parallel()
	cert, key := pgtest.NewCA(t).Issue("127.0.0.1")
	s := start(t, spec{general: fmt.Sprintf("tls_certificate = %q\ntls_private_key = %q", cert, key)})
	for mode, want := range map[string]string{"disable": "", "prefer": "", "require": "channel binding"} {
		out, err := pgtest.Command(t, "psql", "-X", "-w", "-d", s.dsn("sslmode=require", "channel_binding="+mode), "-c", "SELECT 1").CombinedOutput()
		if (err == nil) != (want == "") || !strings.Contains(string(out), want) {
			t.Errorf("channel_binding=%s: %v\n%s", mode, err, out)
		}
	}
}

// A transaction that was refused before a server knew of it is ended by a message of its own.
func TestRollbackBesideOthers(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	const refused = "SELECT count(*) FROM orders"
	protocols[0].play(t, c,
		"BEGIN", "BEGIN; T", "SET application_name TO 'left'", "SET; T", refused, "42501 tenant_missing; E",
		"COMMIT; SELECT 1", "0A000 mixed_message; E", "COMMIT", "ROLLBACK; I", "SELECT current_setting('application_name') <> 'left'", "t; SELECT 1; I",
		"BEGIN; SELECT 1", "BEGIN; 1; SELECT 1; T", refused, "42501 tenant_missing; E", "ROLLBACK; SELECT 2", "ROLLBACK; 2; SELECT 1; I",
	)
}

// TestCopyWithoutFlush: a COPY that nobody asks to be answered is, once its first row comes.
func TestCopyWithoutFlush(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: "CREATE TABLE copied (id int)"})
	c := s.connect(t)
	for _, next := range []pgproto3.FrontendMessage{&pgproto3.Flush{}, &pgproto3.CopyData{Data: []byte("1\n")}} {
		c.Send(&pgproto3.Parse{Query: "COPY copied FROM STDIN"}, &pgproto3.Bind{}, &pgproto3.Execute{}, next)
		for _, want := range []string{"ParseComplete", "BindComplete", "CopyInResponse"} {
			if got := pgtest.Format(c.Receive()); !strings.HasPrefix(got, want) {
				t.Fatalf("%T: got %s, want %s", next, got, want)
			}
		}
		c.Send(&pgproto3.CopyData{Data: []byte("2\n")}, &pgproto3.CopyDone{}, &pgproto3.Sync{})
		c.UntilReady()
	}
	if got := outcome(c.Query("SELECT count(*) FROM copied")); got != "3; SELECT 1; I" {
		t.Errorf("got %s", got)
	}
}

// TestParseInAFailedTransaction: which of two errors a Parse gets.
func TestParseInAFailedTransaction(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for c, want := range map[*pgtest.Client][2]string{s.direct(t, nil): {"42601", "25P02"}, s.connect(t): {"25P02", "42P05"}} {
		if got := prepareAs(c, "taken", "SELECT 1"); got != "I" {
			t.Errorf("got %s", got)
		}
		c.Query("BEGIN")
		c.Query("SELECT 1/0")
		for i, p := range []pgproto3.Parse{{Query: "SELEC"}, {Name: "taken", Query: "SELECT 2"}} {
			if got := prepareAs(c, p.Name, p.Query); !strings.HasPrefix(got, want[i]) {
				t.Errorf("%s: got %s, want %s", p.Query, got, want[i])
			}
		}
	}
}

// TestDescribeInAFailedTransaction: what nobody said of a statement's parameters, the server alone knows.
func TestDescribeInAFailedTransaction(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: "CREATE TABLE described (a int)"})
	for c, want := range map[*pgtest.Client]string{s.direct(t, nil): "E", s.connect(t): "25P02; E"} {
		for name, types := range map[string][]uint32{"declared": {23}, "not": nil} {
			if got := prepareAs(c, name, "INSERT INTO described VALUES ($1)", types...); got != "I" {
				t.Errorf("got %s", got)
			}
		}
		c.Query("BEGIN")
		c.Send(&pgproto3.Bind{PreparedStatement: "nowhere"}, &pgproto3.Sync{}) // fails where no server knows of the transaction yet
		c.UntilReady()
		for name, want := range map[string]string{"declared": "E", "not": want} {
			c.Send(&pgproto3.Describe{ObjectType: 'S', Name: name}, &pgproto3.Sync{})
			answer := c.UntilReady()
			if p, ok := answer[0].(*pgproto3.ParameterDescription); want == "E" && (!ok || len(p.ParameterOIDs) != 1 || p.ParameterOIDs[0] != 23) {
				t.Errorf("%s: got %T %+v", name, answer[0], answer[0])
			}
			if got := outcome(answer); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
	}
}
