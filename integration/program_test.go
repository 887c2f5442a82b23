package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// outcomeOf runs the program to its end in dir.
func outcomeOf(t testing.TB, dir string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), build(t), args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &out, &log
	cmd.WaitDelay = time.Second
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	defer limit.Stop()
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), log.String()
}

// filesIn makes a directory with both files; an empty text makes none.
func filesIn(t testing.TB, config, users string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"pgdog.toml": config, "users.toml": users} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	programConfig = `[general]
port = 7999
[admin]
password = "canary of the operator"
[[databases]]
name = "saas"
host = "127.0.0.1"
port = 1
shard = 0
password = "canary of the server"
[[databases]]
name = "saas"
host = "127.0.0.1"
port = 2
shard = 1
[[sharded_tables]]
database = "saas"
column = "tenant_id"
data_type = "bigint"
mapping = [{ end = 100, shard = 0 }, { start = 100, shard = 1 }]
`
	programUsers = `[[users]]
name = "app"
database = "saas"
password = "canary of the application"
`
)

// Exit codes: 0 it was done, 1 it could not be, 2 it was not understood. What was asked for is on stdout, everything else on stderr.
func TestProgramExitCodes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	busy := fmt.Sprintf("[general]\nhost = \"127.0.0.1\"\nport = %d\n", taken.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it is
	good, empty := filesIn(t, programConfig, programUsers), t.TempDir()
	bad := filesIn(t, "[general]\nprot = 1\n", programUsers)
	warned := filesIn(t, "[general]\nworkers = 1\ntwo_phase_commit = true\n"+strings.TrimPrefix(programConfig, "[general]\n"), programUsers)
	tenants := programConfig + "[multi_tenant]\ncolumn = \"tenant_id\"\nrole = \"r_{key}\"\nmode = "
	shared, strict := filesIn(t, tenants+"\"shared\"\n", programUsers), filesIn(t, tenants+"\"strict\"\n", programUsers)
	metrics := fmt.Sprintf("[general]\nhost = \"127.0.0.1\"\nport = %d\nopenmetrics_host = \"127.0.0.1\"\nopenmetrics_port = %d\n", pgtest.FreePort(t), taken.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it is
	for _, x := range []struct {
		dir    string
		args   string
		code   int
		stdout string // a part of it; "" = nothing
		stderr string
	}{
		{empty, "version", 0, "pgkennel ", ""},
		{empty, "version x", 2, "", "hint: pgkennel --help"},
		{empty, "--help", 0, "Usage:", ""},
		{empty, "serve --help", 0, "Usage:", ""},
		{empty, "--nonsense", 2, "", "unknown flag: --nonsense"},
		{empty, "serve --nonsense", 2, "", "unknown flag: --nonsense"},
		{empty, "nonsense", 2, "", `unknown command "nonsense"`},
		{empty, "serve nonsense", 2, "", `unknown command "nonsense"`},
		{empty, "--config", 2, "", "flag needs an argument"},
		{empty, "serve --config none.toml", 1, "", "none.toml: the file does not exist"},
		{empty, "--users none.toml", 1, "", "none.toml: the file does not exist"},
		{empty, "serve --config .", 1, "", "the file can't be read"},
		{bad, "serve", 1, "", "pgdog.toml:2"},
		{bad, "", 1, "", "pgdog.toml:2"},
		{filesIn(t, busy, ""), "serve", 1, "", "address already in use"},
		{filesIn(t, metrics, ""), "", 1, "", "address already in use"},
		{good, "check", 0, "port = 7999 # pgdog.toml:2", ""},
		{empty, "check", 0, "port = 6432 # default", "warning: pgdog.toml: the file does not exist, defaults are used"},
		{warned, "check", 0, "port = 7999", "two_phase_commit"},
		{bad, "check", 1, "", "pgdog.toml:2"},
		{shared, "check", 0, "mode = \"shared\"", `note: database "saas": tenants in shared mode, row isolation, are kept apart from mistakes, and not from SQL`},
		{strict, "check", 0, "port = 7999", "tenants' roles log in without a password, for role_secret_file is not set"},
		{good, "check --users none.toml", 1, "", "none.toml: the file does not exist"},
		{good, "check it", 2, "", `unknown command "it"`},
		{good, "route", 2, "", "route takes one argument"},
		{good, "route SELECT 1", 2, "", "route takes one argument"},
		{good, "route --nonsense ;", 2, "", "unknown flag"},
		{good, "route --database none ;", 2, "", `database "none" is not configured`},
		{good, "route --user none ;", 2, "", `user "none" may not use database "saas"`},
		{bad, "route ;", 1, "", "pgdog.toml:2"},
	} {
		t.Run(x.args, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := outcomeOf(t, x.dir, nil, strings.Fields(x.args)...)
			if code != x.code || !strings.Contains(stdout, x.stdout) || !strings.Contains(stderr, x.stderr) || x.stdout == "" && stdout != "" || x.stderr == "" && stderr != "" {
				t.Errorf("exit code %d, not %d\nstdout: %s\nstderr: %s", code, x.code, stdout, stderr)
			}
			if strings.Contains(stdout+stderr, "canary") || strings.Contains(stderr, "goroutine ") {
				t.Errorf("it says too much:\n%s%s", stdout, stderr)
			}
		})
	}
	if code, _, stderr := outcomeOf(t, good, []string{"PGKENNEL_DRIVER=fast"}); code != 1 || !strings.Contains(stderr, `PGKENNEL_DRIVER is "fast"; it may be uring, epoll or goroutines`) {
		t.Errorf("an unknown driver: exit code %d, %s", code, stderr)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{"version", "check", "route ;"} { // who is not heard has not done it
		cmd := exec.CommandContext(t.Context(), build(t), strings.Fields(args)...)
		cmd.Dir, cmd.Stdout = good, full
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s, to a full disk: exit code %d", args, cmd.ProcessState.ExitCode())
		}
	}
}

// check says every mistake of both files and the environment at once, each where it is, and no secret.
func TestProgramCheckSaysEverything(t *testing.T) {
	t.Parallel()
	dir := filesIn(t, `[general]
prot = 7999
pooler_mode = "sometimes"
[[databases]]
name = "saas"
host = "127.0.0.1"
shard = 0
[[databases]]
name = "saas"
host = "127.0.0.1"
shard = 2
[[sharded_tables]]
database = "sass"
column = "tenant_id"
data_type = "bigint"
`, `[[users]]
name = "app"
database = "saas"
password = canary
[[users]]
name = "b"
database = "nowhere"
password = "canary of b"
`)
	code, stdout, stderr := outcomeOf(t, dir, []string{"PGKENNEL_OPENMETRICS_PORT=canary"}, "check")
	if code != 1 || stdout != "" || strings.Contains(stderr, "canary") {
		t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
	}
	form := regexp.MustCompile(`^((pgdog|users)\.toml:\d+(:\d+)?|environment): [^;]+(; .+)?$`)
	for line := range strings.Lines(stderr) {
		if !form.MatchString(strings.TrimSpace(line)) {
			t.Errorf("not file:line: what; hint: %s", line)
		}
	}
	for _, want := range []string{"pgdog.toml:2", "pgdog.toml:3", "pgdog.toml:13", "users.toml:4", "users.toml:7", "PGKENNEL_OPENMETRICS_PORT", "port"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("nothing of %s in\n%s", want, stderr)
		}
	}
}

// route explains without asking a server: there is none at these ports.
func TestProgramRoute(t *testing.T) {
	t.Parallel()
	dir := filesIn(t, programConfig, programUsers)
	for _, x := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"SELECT * FROM orders WHERE tenant_id = 7"}, 0, "runs on shard 0: sharding key tenant_id", ""},
		{[]string{"-d", "saas", "--user", "app", "SELECT * FROM orders WHERE tenant_id = 700"}, 0, "runs on shard 1", ""},
		{[]string{"SELECT 1"}, 0, "runs on any shard", ""},
		{[]string{"--shard", "1", "DELETE FROM orders"}, 0, "runs on shard 1: hint", ""},
		{[]string{"--sharding-key", "7", "DELETE FROM orders"}, 0, "runs on shard 0", ""},
		{[]string{"DELETE FROM orders"}, 1, "refused: ", "HINT: "},
		{[]string{"SELECT * FROM orders WHERE tenant_id IN (7, 700)"}, 1, "refused: cross_shard", "ERROR: 0A000 cross_shard: "},
		{[]string{"SELECT * FROM orders WHERE tenant_id = NULL"}, 1, "refused: ", "ERROR: "},
		{[]string{"SELEC 1"}, 1, "refused: unparsable", "ERROR: 42601 "},
		{[]string{"--shard", "7", "SELECT 1"}, 1, "refused: hint_invalid", "ERROR: 22023 "},
	} {
		code, stdout, stderr := outcomeOf(t, dir, nil, append([]string{"route"}, x.args...)...)
		if code != x.code || !strings.Contains(stdout, x.stdout) || !strings.Contains(stderr, x.stderr) || x.stderr == "" && stderr != "" {
			t.Errorf("%q: exit code %d\n%s%s", x.args, code, stdout, stderr)
		}
	}
}

// Without a word on the command line it serves pgdog.toml and users.toml of the working directory; the environment overrides them.
func TestProgramDefaults(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{})
	port := pgtest.FreePort(t)
	s.addr = fmt.Sprintf("127.0.0.1:%d", port)
	p := s.run([]string{fmt.Sprintf("PGKENNEL_PORT=%d", port), "PGKENNEL_LOG_FORMAT=json"})
	eventually(t, "it is ready", func() bool { return p.ended() || strings.Contains(s.log.String(), `"msg":"ready"`) })
	if !strings.Contains(s.log.String(), `"address":"`+s.addr+`"`) {
		t.Errorf("the line of readiness does not say where:\n%s", s.log.String())
	}
	protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// closedBy is the code of the error that a client was closed with, after what it had asked for.
func closedBy(c *pgtest.Client) string {
	if e := pgtest.Failure(c.ExpectClosed()); e != nil {
		return e.Severity + " " + e.Code
	}
	return ""
}

// refusesConnections says whether nobody listens any more.
func (s *stand) refusesConnections() bool {
	nc, err := net.DialTimeout("tcp", s.addr, time.Second)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// A signal lets everybody finish what they do, and nobody begin.
func TestProgramDrains(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{program: true, general: "shutdown_timeout = 60_000", schema: "CREATE TABLE notes (id bigint, note text)"})
			transaction, queued, copying, busy, idle := s.connect(t), s.connect(t), s.connect(t), s.connect(t), s.connect(t)
			protocols[0].play(t, transaction, "BEGIN", "BEGIN; T", "INSERT INTO notes VALUES (1, 'a')", "INSERT 0 1; T")
			protocols[0].play(t, queued, "BEGIN", "BEGIN; T") // no backend yet
			copying.Send(simple("COPY notes FROM STDIN"))
			copying.Receive()
			busy.Send(simple("INSERT INTO notes SELECT 3, pg_sleep(1)::text"))
			eventually(t, "the statement runs", func() bool {
				return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+s.shards[0].db+"'")[0] == "1"
			})
			silent := raw(t, s.addr)

			s.process.signal(t, sig)
			if got := closedBy(idle); got != "FATAL 57P01" {
				t.Errorf("idle: %s", got)
			}
			listen(t, silent)
			eventually(t, "nobody listens", s.refusesConnections)
			if status, _ := s.get(t, "/readyz"); status != 503 {
				t.Errorf("readyz: %d", status)
			}
			if got := outcome(busy.UntilReady()); got != "INSERT 0 1; I" {
				t.Errorf("the statement: %s", got)
			}
			if got := closedBy(busy); got != "FATAL 57P01" {
				t.Errorf("after its statement: %s", got)
			}
			copying.Send(copied("2\tb\n"), done)
			if got := outcome(copying.UntilReady()); got != "COPY 1; I" {
				t.Errorf("COPY: %s", got)
			}
			protocols[0].play(t, queued, "INSERT INTO notes VALUES (4, 'd')", "INSERT 0 1; T", "COMMIT", "COMMIT; I")
			if s.process.ended() {
				t.Fatal("it did not wait")
			}
			protocols[0].play(t, transaction, "INSERT INTO notes VALUES (5, 'e')", "INSERT 0 1; T", "COMMIT", "COMMIT; I")
			if got := closedBy(transaction); got != "FATAL 57P01" {
				t.Errorf("after its transaction: %s", got)
			}
			if code := s.process.wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(tail(s.log.String(), 1), "msg=stopped") {
				t.Errorf("its last word: %s", tail(s.log.String(), 1))
			}
			if rows := s.shards[0].rows(t, "SELECT id FROM notes ORDER BY id"); strings.Join(rows, " ") != "1 2 3 4 5" {
				t.Errorf("rows: %v", rows)
			}
		})
	}
}

// unfinished are clients that do not come to an end by themselves; it returns them by what they do.
func unfinished(t *testing.T, s *stand) map[string]*pgtest.Client {
	t.Helper()
	clients := map[string]*pgtest.Client{"transaction": s.connect(t), "statement": s.connect(t), "reader": s.connect(t), "locked": s.connect(t)}
	protocols[0].play(t, clients["transaction"], "BEGIN", "BEGIN; T", "INSERT INTO notes VALUES (1, 'a')", "INSERT 0 1; T", "LOCK TABLE locked", "LOCK TABLE; T")
	clients["statement"].Send(simple("INSERT INTO notes SELECT 2, pg_sleep(600)::text"))
	clients["reader"].Send(simple("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
	clients["locked"].Send(simple("SELECT * FROM locked"))
	eventually(t, "all are at it", func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = '"+s.shards[0].db+"' AND (wait_event IN ('PgSleep', 'ClientWrite') OR wait_event_type = 'Lock')")[0] == "3"
	})
	return clients
}

// nothingLeft holds a program that has ended to having left nothing at the server.
func nothingLeft(t *testing.T, s *stand) {
	t.Helper()
	eventually(t, "the server is free", func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = '"+s.shards[0].db+"' AND usename = '"+user+"'")[0] == "0"
	})
	if rows := s.shards[0].rows(t, "SELECT id FROM notes"); len(rows) > 0 {
		t.Errorf("something of a transaction that was ended is there: %v", rows)
	}
}

const unfinishedSchema = "CREATE TABLE notes (id bigint, note text); CREATE TABLE locked (id bigint)"

// What does not finish within shutdown_timeout is ended, and so is what it does at the server.
func TestProgramDrainsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	s := start(t, spec{program: true, general: "shutdown_timeout = 700", schema: unfinishedSchema})
	clients := unfinished(t, s)
	begun := time.Now()
	s.process.signal(t, syscall.SIGTERM)
	for _, name := range []string{"transaction", "statement", "locked"} {
		if got := closedBy(clients[name]); got != "FATAL 57P01" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if took := time.Since(begun); took < 600*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
	if code := s.process.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	nothingLeft(t, s)
}

// With shutdown_termination_timeout statements are cancelled first, and who ends its transaction then has ended it.
func TestProgramCancelsBeforeItEnds(t *testing.T) {
	t.Parallel()
	s := start(t, spec{program: true, general: "shutdown_timeout = 300\nshutdown_termination_timeout = 60_000", schema: unfinishedSchema})
	transaction, statement := s.connect(t), s.connect(t)
	protocols[0].play(t, transaction, "BEGIN", "BEGIN; T", "SAVEPOINT a", "SAVEPOINT; T", "INSERT INTO notes VALUES (1, 'a')", "INSERT 0 1; T", "SAVEPOINT b", "SAVEPOINT; T")
	transaction.Send(simple("SELECT pg_sleep(600)"))
	statement.Send(simple("SELECT pg_sleep(600)"))
	s.shards[0].asleep(t, 2)
	s.process.signal(t, syscall.SIGTERM)
	if got := outcome(transaction.UntilReady()); got != "57014; E" {
		t.Errorf("in a transaction: %s", got)
	}
	if got := outcome(statement.UntilReady()); got != "57014; I" {
		t.Errorf("outside: %s", got)
	}
	protocols[0].play(t, transaction, "ROLLBACK TO b", "ROLLBACK; T", "COMMIT", "COMMIT; I")
	if code := s.process.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if rows := s.shards[0].rows(t, "SELECT id FROM notes"); len(rows) != 1 {
		t.Errorf("rows: %v", rows)
	}
}

// A second signal, of either kind, ends everything at once.
func TestProgramHurries(t *testing.T) {
	t.Parallel()
	for first, second := range map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT, syscall.SIGINT: syscall.SIGINT} {
		t.Run(first.String(), func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{program: true, general: "shutdown_timeout = 600_000", schema: unfinishedSchema})
			clients := unfinished(t, s)
			s.process.signal(t, first)
			eventually(t, "it drains", s.refusesConnections)
			protocols[0].play(t, clients["transaction"], "SELECT 1", "1; SELECT 1; T")
			begun := time.Now()
			s.process.signal(t, second)
			if got := closedBy(clients["statement"]); got != "FATAL 57P01" {
				t.Errorf("statement: %s", got)
			}
			if code := s.process.wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(begun); took > 4*time.Second {
				t.Errorf("it took %v", took)
			}
			nothingLeft(t, s)
		})
	}
}

// SIGHUP with a mistake in a file changes nothing and says what and where; without one it applies, and nobody who is connected notices.
func TestProgramReload(t *testing.T) {
	t.Parallel()
	s := start(t, spec{program: true, general: "log_format = \"json\"", schema: "CREATE TABLE notes (id bigint)"})
	c, idle := s.connect(t), s.connect(t)
	protocols[0].play(t, c, "BEGIN", "BEGIN; T", "INSERT INTO notes VALUES (1)", "INSERT 0 1; T")
	reloads := func(result string) float64 {
		return s.metric(t, "config_reloads_total", fmt.Sprintf("result=%q", result))
	}
	config, err := os.ReadFile(s.path("pgdog.toml"))
	if err != nil {
		t.Fatal(err)
	}
	epoch := s.metric(t, "config_epoch")
	bad := 0.0
	for name, spoil := range map[string]func(){
		"a mistake in each": func() {
			s.write("pgdog.toml", strings.Replace(string(config), "[general]", "[general]\nprot = 1\ndefault_pool_size = -1", 1))
			s.write("users.toml", "[[users]]\nname = \"second\"\ndatabase = \"nowhere\"\npassword = \"two\"\n")
		},
		"nothing":  func() { os.Remove(s.path("pgdog.toml")) },
		"half one": func() { s.write("pgdog.toml", "[general\n") },
	} {
		spoil()
		s.process.signal(t, syscall.SIGHUP)
		bad++
		eventually(t, name+": refused", func() bool { return reloads("failed") == bad })
		protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
		if now := s.metric(t, "config_epoch"); now != epoch {
			t.Errorf("%s: the configuration changed", name)
		}
	}
	for _, want := range []string{"pgdog.toml:2", "pgdog.toml:3", "users.toml:3", "prot", "the file does not exist", "pgdog.toml:1:"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log says nothing of %q", want)
		}
	}
	s.write("pgdog.toml", strings.Replace(string(config), "[general]", "[general]\ndefault_pool_size = 3", 1))
	s.write("users.toml", fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n[[users]]\nname = \"second\"\ndatabase = \"saas\"\npassword = \"two\"\nserver_user = %q\nserver_password = %q\n", user, cluster, password, user, password))
	s.process.signal(t, syscall.SIGHUP)
	eventually(t, "it applies", func() bool { return reloads("ok") == 1 })
	protocols[0].play(t, pgtest.Connect(t, s.addr, pgtest.Login{User: "second", Database: cluster, Password: "two"}), "SELECT 1", "1; SELECT 1; I")
	if now := s.metric(t, "config_epoch"); now != epoch+1 {
		t.Errorf("epoch %v after %v", now, epoch)
	}
	protocols[0].play(t, c, "INSERT INTO notes VALUES (2)", "INSERT 0 1; T", "COMMIT", "COMMIT; I")
	protocols[0].play(t, idle, "SELECT count(*) FROM notes", "2; SELECT 1; I")
}

// logLines checks that a log is one JSON object a line, with what each has to have.
func logLines(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		var event struct {
			Time  time.Time `json:"time"`
			Level string    `json:"level"`
			Msg   string    `json:"msg"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Time.IsZero() || event.Msg == "" {
			t.Errorf("%v: %s", err, line)
		}
		switch event.Level {
		case "DEBUG", "INFO", "WARN", "ERROR":
		default:
			t.Errorf("level %q: %s", event.Level, line)
		}
	}
}

// Whatever goes wrong, no password, verifier or value of a client's is in the log, at any level; and in JSON every line of it is.
func TestProgramLogKeepsSecrets(t *testing.T) {
	t.Parallel()
	const canary = "kanarienvogel" // in everything that is secret here
	verifier := "SCRAM-SHA-256$4096:" + "a2FuYXJpZW52b2dlbA==$a2FuYXJpZW52b2dlbGthbmFyaWVudm9nZWxrYW5hcmllbnY=:a2FuYXJpZW52b2dlbGthbmFyaWVudm9nZWxrYW5hcmllbnY="
	users := fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", user, cluster, password) +
		fmt.Sprintf("[[users]]\nname = \"verified\"\ndatabase = %q\npassword = %q\nserver_user = \"app\"\nserver_password = %q\n", cluster, verifier, canary) +
		fmt.Sprintf("[[users]]\nname = \"stranger\"\ndatabase = %q\npassword = \"x%s\"\nserver_password = %q\n", cluster, canary, canary)
	s := start(t, spec{
		program: true, users: users, schema: "CREATE TABLE notes (id bigint PRIMARY KEY, note text); INSERT INTO notes VALUES (1, 'a')",
		general: "log_format = \"json\"\nlog_level = \"debug\"\nauth_type = \"plain\"\nquery_size_limit = 200\nquery_timeout = 2000\n",
	})
	// Logins.
	pgtest.Dial(t, s.addr).Login(pgtest.Login{User: user, Database: cluster, Password: canary})                       //nolint:errcheck // it is to be refused
	pgtest.Dial(t, s.addr).Login(pgtest.Login{User: "nobody", Database: cluster, Password: canary})                   //nolint:errcheck // as above
	pgtest.Dial(t, s.addr).Login(pgtest.Login{User: "verified", Database: cluster, Password: canary})                 //nolint:errcheck // as above
	pgtest.Dial(t, s.addr).Login(pgtest.Login{User: "admin", Database: "admin", Password: canary})                    //nolint:errcheck // as above
	stranger := pgtest.Dial(t, s.addr)                                                                                // whom the server does not let in
	if err := stranger.Login(pgtest.Login{User: "stranger", Database: cluster, Password: "x" + canary}); err == nil { // the server may be asked later
		stranger.Query("SELECT 1")
	}
	// Statements that fail here and there.
	c := s.connect(t)
	for _, sql := range []string{
		"SELECT '" + canary + "'::int",
		"SELEC '" + canary + "'",
		"SELECT '" + canary,
		"INSERT INTO notes VALUES (1, '" + canary + "')",
		"SELECT '" + strings.Repeat(canary, 30) + "'",
		"SET work_mem = '" + canary + "'",
		"SET application_name = '" + canary + "'",
		"SET client_encoding = '" + canary + "'",
		"ALTER ROLE " + user + " PASSWORD '" + canary + "' nonsense",
		"DO $$ BEGIN RAISE WARNING '" + canary + "'; END $$",
		"DO $$ BEGIN RAISE EXCEPTION '" + canary + "'; END $$",
		"/* pgdog_shard: " + canary + " */ SELECT 1",
		"/* pgdog_sharding_key: " + canary + " */ SELECT 1",
		"SET pgdog.sharding_key = '" + canary + "'",
		"LISTEN " + canary,
		"PREPARE p AS SELECT '" + canary + "'",
		"SELECT pg_sleep(600), '" + canary + "'",
	} {
		c.Query(sql)
	}
	c.Extended("SELECT $1::int", canary)
	c.Send(simple("COPY notes FROM STDIN"), copied(canary+"\n"), done)
	c.UntilReady()
	c.Send(simple("COPY notes FROM STDIN"), &pgproto3.CopyFail{Message: canary})
	c.UntilReady()
	// A server that goes away in the middle, a client that breaks the protocol, one that dies.
	c.Send(simple("BEGIN; SELECT '" + canary + "', pg_terminate_backend(pg_backend_pid())"))
	c.UntilReady()
	broken := s.connect(t)
	broken.Write(honest('Z', canary))
	broken.ExpectClosed()
	dying := s.connect(t)
	dying.Send(simple("SELECT pg_sleep(1), '" + canary + "'"))
	dying.Close()
	s.tryConsole("SHOW " + canary)                  //nolint:errcheck // it is to fail
	s.tryConsole("SET password = '" + canary + "'") //nolint:errcheck // as above
	// A file whose mistakes are where the secrets are.
	s.write("users.toml", strings.Replace(users, "password = \"", "password = \"\\q"+canary, 1)+"\n[[users]]\nname = \"x\"\ndatabase = \"none\"\npasswort = \""+canary+"\"\n")
	s.process.signal(t, syscall.SIGHUP)
	eventually(t, "the mistakes are in the log", func() bool { return strings.Contains(s.log.String(), "not reloaded") })
	if _, err := s.tryConsole("RELOAD"); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("RELOAD: %v", err)
	}
	s.process.signal(t, syscall.SIGTERM)
	if code := s.process.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	log := s.log.String()
	logLines(t, log)
	for line := range strings.Lines(log) {
		if strings.Contains(line, canary) || strings.Contains(line, "a2FuYXJpZW52b2dlb") || strings.Contains(line, password) || strings.Contains(line, adminPassword) {
			t.Errorf("a secret is in the log: %s", line)
		}
	}
	for _, want := range []string{"ready", "login refused", "client connected", "backend lost", "configuration not reloaded", "shutting down", "stopped"} {
		if !strings.Contains(log, `"msg":"`+want+`"`) {
			t.Errorf("the log has no %q", want)
		}
	}
}
