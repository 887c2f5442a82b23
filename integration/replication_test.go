package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// replicating is a pgkennel in front of a server that replicates; app may, and so may others not.
func replicating(t *testing.T, general string) *stand {
	t.Helper()
	pg := pgtest.Start(t, pgtest.Config("wal_level", "logical"), pgtest.Config("max_wal_senders", "8"), pgtest.Config("max_replication_slots", "8"),
		pgtest.HBA("host replication all all scram-sha-256"))
	s := prepare(t, spec{
		instances: []*pgtest.Instance{pg}, schema: "CREATE TABLE t (id bigserial, note text)", general: general + "\nshutdown_timeout = 60_000",
		users: fmt.Sprintf(`
[[users]]
name = %q
database = %q
password = %q
replication_mode = true
pool_size = 3

[[users]]
name = "other"
database = %[2]q
password = %[3]q
server_user = %[1]q
`, user, cluster, password),
	})
	pg.Exec(t, "postgres", "ALTER ROLE "+user+" REPLICATION")
	s.startInside()
	return s
}

// replicate logs in for replication.
func (s *stand) replicate(t testing.TB, mode string, more ...string) (*pgtest.Client, error) {
	t.Helper()
	l := s.login()
	l.Params = map[string]string{"replication": mode}
	for i := 0; i < len(more); i += 2 {
		l.Params[more[i]] = more[i+1]
	}
	c := pgtest.Dial(t, s.addr)
	return c, c.Login(l)
}

// tool runs one of PostgreSQL's programs through the pooler.
func (s *stand) tool(ctx context.Context, t testing.TB, program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	from := pgtest.Command(t, program)
	cmd := exec.CommandContext(ctx, from.Path, args...)
	cmd.Env = append(from.Env, "PGPASSWORD="+password)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// Real programs replicate through the pooler: a base backup, a stream of WAL, and logical decoding, all of it complete.
func TestReplication(t *testing.T) {
	t.Parallel()
	s := replicating(t, "")
	pg := s.shards[0]
	host, port, _ := strings.Cut(s.addr, ":")
	pg.Exec(t, pg.db, "INSERT INTO t (note) SELECT repeat('x', 1000) FROM generate_series(1, 10000)")

	t.Run("by", func(t *testing.T) {
		t.Run("backup", func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "base")
			cmd, out := s.tool(t.Context(), t, "pg_basebackup", "-h", host, "-p", port, "-U", user, "-d", "dbname="+cluster, "-D", dir, "-c", "fast", "-X", "stream", "--no-sync")
			if err := cmd.Run(); err != nil {
				t.Fatalf("pg_basebackup: %v\n%s", err, out)
			}
			verify, out := s.tool(t.Context(), t, "pg_verifybackup", dir)
			if err := verify.Run(); err != nil {
				t.Errorf("pg_verifybackup: %v\n%s", err, out)
			}
		})
		t.Run("wal", func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			cmd, out := s.tool(ctx, t, "pg_receivewal", "-h", host, "-p", port, "-U", user, "-d", "dbname="+cluster, "-D", dir, "--synchronous", "-s", "1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it streams", func() bool {
				return pg.rows(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND state = 'streaming'")[0] == "1"
			})
			pg.Exec(t, pg.db, "SELECT pg_logical_emit_message(false, 'a', 'segment with something in it'), pg_switch_wal()")
			eventually(t, "a whole segment has come", func() bool {
				list, err := os.ReadDir(dir)
				whole := 0
				for _, e := range list {
					if len(e.Name()) == 24 {
						whole++
					}
				}
				return err == nil && whole > 0
			})
			stop()
			if err := cmd.Wait(); err != nil && ctx.Err() == nil {
				t.Errorf("pg_receivewal: %v\n%s", err, out)
			}
		})
		t.Run("logical", func(t *testing.T) {
			t.Parallel()
			db := pg.db
			pg.Exec(t, db, "SELECT pg_create_logical_replication_slot('logical', 'test_decoding')")
			pg.Exec(t, db, "CREATE TABLE big (id int, note text)")
			const rows = 20_000
			pg.Exec(t, db, fmt.Sprintf("INSERT INTO big SELECT i, repeat('y', 500) FROM generate_series(1, %d) i", rows))
			end := pg.rows(t, "SELECT pg_current_wal_insert_lsn()")[0]
			file := filepath.Join(t.TempDir(), "changes")
			cmd, out := s.tool(t.Context(), t, "pg_recvlogical", "-h", host, "-p", port, "-U", user, "-d", cluster, "-S", "logical", "--start", "-f", file, "--endpos", end)
			if err := cmd.Run(); err != nil {
				t.Fatalf("pg_recvlogical: %v\n%s", err, out)
			}
			got, err := os.ReadFile(file)
			if n := bytes.Count(got, []byte("table public.big: INSERT")); err != nil || n != rows {
				t.Errorf("%d of %d changes, %v", n, rows, err)
			}
			drop, out := s.tool(t.Context(), t, "pg_recvlogical", "-h", host, "-p", port, "-U", user, "-d", cluster, "-S", "logical", "--drop-slot")
			if err := drop.Run(); err != nil {
				t.Errorf("drop: %v\n%s", err, out)
			}
		})
	})
	c, err := s.replicate(t, "on")
	if err != nil {
		t.Fatal(err)
	}
	c.Send(simple("START_REPLICATION PHYSICAL " + s.shards[0].rows(t, "SELECT pg_current_wal_flush_lsn()")[0]))
	if _, ok := c.Receive().(*pgproto3.CopyBothResponse); !ok {
		t.Fatal("no stream")
	}
	s.console(t, "SHUTDOWN") // which does not wait for what has no end
	if e := pgtest.Failure(c.ExpectClosed()); e == nil || e.Code != "57P01" {
		t.Errorf("at the end: %v", e)
	}
}

// A replication connection is PostgreSQL's own, from its greeting to its end: commands, SQL, errors, streams in both directions, cancellation, who may have
// one and how many, and it ends with what it depends on.
func TestReplicationProtocol(t *testing.T) {
	t.Parallel()
	s := replicating(t, "")
	pg := s.shards[0]
	s.refusesReplication(t)
	for _, mode := range []string{"database", "on", "TRUE", "1", "yes"} {
		c, err := s.replicate(t, mode, "application_name", "walreceiver", "options", "-c datestyle=German")
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		rows := pgtest.Rows(c.Query("IDENTIFY_SYSTEM"))
		if want := map[bool]string{true: "|" + pg.db}[mode == "database"]; len(rows) != 1 || !strings.HasSuffix(rows[0], want) {
			t.Errorf("%s: IDENTIFY_SYSTEM: %v", mode, rows)
		}
		if got := pgtest.Rows(c.Query("SHOW DateStyle")); c.Params["application_name"] != "walreceiver" || len(got) != 1 || !strings.HasPrefix(got[0], "German") {
			t.Errorf("%s: the connection's parameters: %v, %v", mode, c.Params, got)
		}
		if mode == "database" {
			protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I", "BEGIN", "BEGIN; T", "SELECT 1/0", "22012; E", "ROLLBACK", "ROLLBACK; I")
			c.Send(simple("SELECT pg_sleep(60)"))
			pg.asleep(t, 1)
			c.Cancel()
			if got := outcome(c.UntilReady()); got != "57014; I" {
				t.Errorf("cancelled: %s", got)
			}
		} else if e := pgtest.Failure(c.Query("SELECT 1")); e == nil || e.Code != "0A000" {
			t.Errorf("%s: SQL of a physical walsender: %v", mode, e)
		}
		c.Terminate()
	}
	senders := func() string {
		return pg.rows(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'")[0]
	}
	eventually(t, "the walsenders are gone", func() bool { return senders() == "0" })

	var streams []*pgtest.Client
	for range 3 {
		c, err := s.replicate(t, "on")
		if err != nil {
			t.Fatal(err)
		}
		c.Send(simple("START_REPLICATION PHYSICAL " + pg.rows(t, "SELECT pg_current_wal_flush_lsn()")[0]))
		if _, ok := c.Receive().(*pgproto3.CopyBothResponse); !ok {
			t.Fatal("no stream")
		}
		streams = append(streams, c)
	}
	if _, err := s.replicate(t, "on"); err == nil || !strings.Contains(err.Error(), "53300") {
		t.Errorf("one more than pool_size: %v", err)
	}
	if got := outcome(s.connect(t).Query("SELECT 1")); got != "1; SELECT 1; I" { // whose connections are apart
		t.Errorf("beside them: %s", got)
	}

	// One ends its stream, and can go on.
	streams[0].Send(&pgproto3.CopyDone{})
	for {
		if _, ok := streams[0].Receive().(*pgproto3.CopyDone); ok {
			break
		}
	}
	streams[0].UntilReady()
	if got := pgtest.Rows(streams[0].Query("SHOW wal_level")); len(got) != 1 || got[0] != "logical" {
		t.Errorf("behind a stream: %v", got)
	}
	// One dies: the server has to find out, though neither says a word.
	streams[1].Close()
	eventually(t, "one is gone", func() bool { return senders() == "2" })
	// The third's walsender is killed.
	pg.rows(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE state = 'streaming'")
	streams[2].ExpectClosed()
	eventually(t, "one is left", func() bool { return senders() == "1" })

	// Who may no longer has it no longer.
	s.edit("users.toml", "replication_mode = true", "replication_mode = false")
	s.console(t, "RELOAD")
	if e := pgtest.Failure(streams[0].ExpectClosed()); e == nil || e.Code != "57P01" {
		t.Errorf("behind the reload: %v", e)
	}
	if _, err := s.replicate(t, "on"); err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("who may not: %v", err)
	}
}

// refusesReplication tries those that are refused, for their reasons. What is in options is no identity: it can't make the connection somebody else's.
func (s *stand) refusesReplication(t *testing.T) {
	t.Helper()
	for _, x := range []struct {
		params []string
		code   string
	}{
		{[]string{"maybe"}, "22023"},
		{[]string{"o"}, "22023"},
		{[]string{""}, "22023"},
		{[]string{"DATABASE"}, "22023"},
		{[]string{"on", "options", "-c user=postgres"}, "42704"},
		{[]string{"on", "options", "-c database=postgres"}, "42704"},
		{[]string{"on", "options", "-c replication=database"}, "42704"},
		{[]string{"off", "options", "-c replication=database"}, "42704"},
		{[]string{"on", "options", "-c no_such_thing=1"}, "42704"},
		{[]string{"on", "options", "-c pgdog.shard=1"}, "22023"},
		{[]string{"on", "options", "-c session_authorization=postgres"}, "42501"},
		{[]string{"on", "options", "-c role=postgres"}, "42501"},
	} {
		if _, err := s.replicate(t, x.params[0], x.params[1:]...); err == nil || !strings.Contains(err.Error(), x.code) {
			t.Errorf("%v: got %v, want %s", x.params, err, x.code)
		}
	}
	c, err := s.replicate(t, "on", "options", "-c pgdog.shard=0")
	if err != nil {
		t.Error(err)
	}
	c.Terminate()
	for _, l := range []pgtest.Login{{User: "other", Database: cluster, Password: password}, {User: "admin", Database: "admin", Password: adminPassword}} {
		l.Params = map[string]string{"replication": "on"}
		if err := pgtest.Dial(t, s.addr).Login(l); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v", l.User, err)
		}
	}
	wrong := s.login()
	wrong.Params, wrong.Password = map[string]string{"replication": "on"}, "wrong"
	if err := pgtest.Dial(t, s.addr).Login(wrong); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("a wrong password: %v", err)
	}
	s.shards[0].Exec(t, "postgres", "ALTER ROLE "+user+" NOREPLICATION")
	if _, err := s.replicate(t, "database"); err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("the server refuses: %v", err)
	}
	s.shards[0].Exec(t, "postgres", "ALTER ROLE "+user+" REPLICATION")
}

// Where there are shards, or tenants, the shard has to be chosen, and tenants have no replication connection, whatever their user may otherwise. That the
// server itself refuses in the end shows that it was asked.
func TestReplicationOfShards(t *testing.T) {
	t.Parallel()
	const asked = "must be superuser or replication role"
	sharded := start(t, spec{
		shards: 2, schema: tableSchema, rest: twoRanges,
		users: fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\nreplication_mode = true\n", user, cluster, password),
	})
	tenants := start(t, spec{schema: rowsSchema, rest: twoTenants, users: strings.Replace(switching, "tenant_switch = true", "tenant_switch = true\nreplication_mode = true", 1)})
	for _, x := range []struct {
		s             *stand
		user, options string
		want          string
	}{
		{sharded, user, "", "0A000"},
		{sharded, user, "-c pgdog.shard=0", asked},
		{sharded, user, "-c pgdog.shard=1", asked},
		{sharded, user, "-c pgdog.shard=2", "22023"},
		{sharded, user, "-c pgdog.shard=-1", "22023"},
		{tenants, user, "", "0A000"},
		{tenants, user, "-c pgdog.shard=0", asked},
		{tenants, user + "@two", "", "42501"},
		{tenants, user + "@two", "-c pgdog.shard=0", "42501"},
		{tenants, user, "-c pgkennel.tenant=two -c pgdog.shard=0", "42501"},
		{tenants, user, "-c pgdog.shard=0 -c pgkennel.tenant=two", "42501"},
	} {
		for _, mode := range []string{"database", "on"} {
			err := pgtest.Dial(t, x.s.addr).Login(pgtest.Login{User: x.user, Database: cluster, Password: password, Params: map[string]string{"replication": mode, "options": x.options}})
			if err == nil || !strings.Contains(err.Error(), x.want) || x.want != asked && strings.Contains(err.Error(), asked) {
				t.Errorf("%s %s %q: %v", x.user, mode, x.options, err)
			}
		}
	}
}
