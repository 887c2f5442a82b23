package pgtest_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("PGTEST_ORPHAN") != "" {
		m.Run() // no clean-up: this process is there to be killed
		return
	}
	goleak.VerifyTestMain(pgtest.Wrap(m))
}

func TestSharedIsOneInstance(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	if other := pgtest.Shared(t); other != i {
		t.Fatal("two shared instances")
	}
	db := i.CreateDatabase(t, "CREATE TABLE a (id int, name text)", "INSERT INTO a VALUES (1, 'x'), (2, NULL)")
	if got, want := fmt.Sprint(i.Query(t, db, "SELECT * FROM a ORDER BY id")), "[1|x 2|∅]"; got != want {
		t.Errorf("got rows %s, want %s", got, want)
	}
	if got, want := i.PSQL(t, db, "-c", "SELECT count(*) FROM a"), "2"; got != want {
		t.Errorf("psql printed %q, want %q", got, want)
	}
}

func TestCreatedDatabasesAndUsersGoAway(t *testing.T) { //nolint:tparallel // the inner test must end first
	t.Parallel()
	i := pgtest.Shared(t)
	var db, user string
	t.Run("inner", func(t *testing.T) {
		db = i.CreateDatabase(t)
		user = i.CreateUser(t, "pw", "md5")
	})
	if rows := i.Query(t, "postgres", "SELECT datname FROM pg_database WHERE datname = $1", db); len(rows) > 0 {
		t.Errorf("database %s is still there", db)
	}
	if rows := i.Query(t, "postgres", "SELECT rolname FROM pg_roles WHERE rolname = $1", user); len(rows) > 0 {
		t.Errorf("user %s is still there", user)
	}
}

func TestStopKillRestartKeepPortAndData(t *testing.T) {
	t.Parallel()
	i := pgtest.Start(t, pgtest.Name("phoenix"), pgtest.Config("work_mem", "1234kB"))
	port := i.Port
	i.Exec(t, "postgres", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
	for _, end := range []func(){
		func() { i.Stop(t, pgtest.Fast) },
		func() { i.Stop(t, pgtest.Smart) },
		func() { i.Stop(t, pgtest.Immediate) },
		func() { i.Exec(t, "postgres", "CHECKPOINT"); i.Kill(t) },
		func() {}, // restart of a running one
	} {
		end()
		i.Restart(t)
		got := i.Query(t, "postgres", "SELECT n, current_setting('cluster_name'), current_setting('work_mem') FROM kept")
		if want := "[7|phoenix|1234kB]"; fmt.Sprint(got) != want {
			t.Fatalf("got %v, want %s", got, want)
		}
	}
	if i.Port != port {
		t.Errorf("port changed from %d to %d", port, i.Port)
	}
}

func TestKillCutsConnections(t *testing.T) {
	t.Parallel()
	i := pgtest.Start(t)
	c := i.Connect(t, pgtest.Login{User: "postgres", Database: "postgres"})
	i.Kill(t)
	c.ExpectClosed()
	if i.Running() {
		t.Error("still running")
	}
}

func TestFreezeStallsAndThawGoesOn(t *testing.T) {
	t.Parallel()
	i := pgtest.Start(t)
	c := i.Connect(t, pgtest.Login{User: "postgres", Database: "postgres"})
	i.Freeze(t)
	c.Timeout = 50 * time.Millisecond
	c.Send(query("SELECT 1"))
	if _, err := c.Next(); !os.IsTimeout(err) {
		t.Fatalf("got %v from a frozen server, want a time-out", err)
	}
	i.Thaw()
	c.Timeout = pgtest.DefaultTimeout
	if got := pgtest.Rows(c.UntilReady()); fmt.Sprint(got) != "[1]" {
		t.Errorf("got rows %v, want [1]", got)
	}
}

func TestAuthenticationMethods(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	db := i.CreateDatabase(t)
	for _, method := range []string{"scram-sha-256", "md5", "password"} {
		user := i.CreateUser(t, "it's a secret", method)
		for _, addr := range []string{i.Addr(), i.Socket()} {
			c := pgtest.Dial(t, addr)
			if err := c.Login(pgtest.Login{User: user, Database: db, Password: "it's a secret"}); err != nil {
				t.Errorf("%s at %s: %v", method, addr, err)
				continue
			}
			if got := c.Answer("SELECT current_user"); !strings.Contains(got, user) {
				t.Errorf("%s: got %s, want %s", method, got, user)
			}
			c.Terminate()
			c = pgtest.Dial(t, addr)
			if err := c.Login(pgtest.Login{User: user, Database: db, Password: "wrong"}); err == nil || !strings.Contains(err.Error(), "28P01") {
				t.Errorf("%s with a wrong password: got %v, want 28P01", method, err)
			}
		}
		conn, err := pgx.Connect(t.Context(), i.DSN(db, user, "it's a secret"))
		if err != nil {
			t.Errorf("pgx, %s: %v", method, err)
			continue
		}
		conn.Close(t.Context())
	}
}

func TestTLSAndClientCertificates(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	i := pgtest.Start(t, pgtest.TLS(ca), pgtest.Auth("scram-sha-256"))
	user := i.CreateUser(t, "", "cert")
	config := &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", Certificates: []tls.Certificate{ca.Certificate(user)}}
	c := i.Connect(t, pgtest.Login{User: user, Database: "postgres", TLS: config})
	if got := pgtest.Rows(c.Query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")); fmt.Sprint(got) != "[t]" {
		t.Errorf("ssl is %v, want [t]", got)
	}
	plain := pgtest.Dial(t, i.Addr())
	if err := plain.Login(pgtest.Login{User: user, Database: "postgres", Password: "x"}); err == nil {
		t.Error("the certificate's user got in without it")
	}
}

func TestInstancesDoNotCollide(t *testing.T) {
	t.Parallel()
	ports := map[int]bool{}
	for range 4 {
		i := pgtest.Start(t)
		if ports[i.Port] {
			t.Fatalf("port %d given twice", i.Port)
		}
		ports[i.Port] = true
	}
}

// TestKilledTestLeavesNothing runs this binary again as a victim, kills it, and looks whether its instance follows and
// its folder is swept by the next user of the base folder.
func TestKilledTestLeavesNothing(t *testing.T) {
	if os.Getenv("PGTEST_ORPHAN") != "" {
		i := pgtest.Start(t)
		pid := i.Query(t, "postgres", "SELECT pg_postmaster_pid FROM (SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1) AS pg_postmaster_pid) s")
		fmt.Fprintf(os.Stdout, "postmaster %s in %s\n", pid[0], i.SocketDir)
		select {}
	}
	t.Parallel()
	base := pgtest.Dir(t)
	defer os.RemoveAll(base)
	victim := func() (*exec.Cmd, int, string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledTestLeavesNothing$")
		cmd.Env = append(os.Environ(), "PGTEST_ORPHAN=1", "PGKENNEL_TEST_DIR="+base)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		var socketDir string
		if _, err := fmt.Fscanf(out, "postmaster %d in %s\n", &pid, &socketDir); err != nil {
			t.Fatalf("victim: %v", err)
		}
		return cmd, pid, socketDir
	}
	kill := func(cmd *exec.Cmd) {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "signal: killed"
	}

	cmd, pid, socketDir := victim()
	kill(cmd)
	waitGone(t, pid)
	if _, err := os.Stat(socketDir); err != nil {
		t.Fatalf("nobody was there to remove it, yet: %v", err)
	}
	// The second victim sweeps the first one's folder.
	cmd, pid, second := victim()
	defer waitGone(t, pid)
	defer kill(cmd)
	if _, err := os.Stat(filepath.Dir(filepath.Dir(socketDir))); !os.IsNotExist(err) {
		t.Errorf("folder of the killed process: got %v, want that it does not exist", err)
	}
	if _, err := os.Stat(second); err != nil {
		t.Errorf("folder of the living process: %v", err)
	}
}

// waitGone waits until pid runs no more; its zombie may wait for init.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(data), ") Z ") {
			return
		}
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("postmaster %d outlived its test", pid)
}

func TestFreePortsAreApart(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 20 {
		port := pgtest.FreePort(t)
		if seen[port] {
			t.Errorf("port %d was given twice", port)
		}
		seen[port] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		l.Close() // it is still ours
	}
}
