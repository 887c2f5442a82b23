package integration

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// size is what a pgkennel of its own process holds.
type size struct{ descriptors, goroutines, backends, clients int }

func (s *stand) size(t testing.TB) size {
	t.Helper()
	return size{
		descriptors: len(descriptors(s.process.cmd.Process.Pid)), goroutines: int(s.metric(t, "go_goroutines")),
		backends: int(s.metric(t, "pool_backends")), clients: int(s.metric(t, "session_clients")),
	}
}

// shrunk waits until nobody waits and nothing is lent, and descriptors and goroutines are back to what they were, but for those of backends.
func (s *stand) shrunk(t *testing.T, before size) {
	t.Helper()
	var now size
	defer func() {
		if t.Failed() {
			t.Logf("before %+v, now %+v", before, now)
		}
	}()
	eventually(t, "no backend is held and nothing is left of those who went", func() bool {
		for _, row := range s.console(t, "SHOW POOLS") {
			if row["database"] == cluster && (row["sv_active"] != "0" || row["cl_waiting"] != "0") {
				return false
			}
		}
		now = s.size(t)
		more := now.backends - before.backends
		return now.clients <= before.clients && now.descriptors <= before.descriptors+more && now.goroutines <= before.goroutines+more
	})
}

const visitsSchema = "CREATE TABLE visits (tenant_id bigint NOT NULL, who text NOT NULL)"

// visits is tenants below 100 on shard 0, all others on shard 1.
var visits = fmt.Sprintf("[[sharded_tables]]\ndatabase = %q\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n"+
	"mapping = [{ end = 100, shard = 0 }, { start = 100, shard = 1 }]\n", cluster)

// cuttable connects with a driver, and returns how to cut the connection.
func (s *stand) cuttable(ctx context.Context) (*pgx.Conn, func(), error) {
	config, err := pgx.ParseConfig(s.dsn())
	if err != nil {
		return nil, nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	var socket net.Conn
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		var err error
		socket, err = d.DialContext(ctx, network, addr)
		return socket, err
	}
	c, err := pgx.ConnectConfig(ctx, config)
	return c, func() { socket.Close() }, err
}

// TestKilledClientsHarmNobody has clients cut their connections in the middle of whatever they do, for the time of -soak, beside clients that
// check every answer, two hundred in all on pools of five.
func TestKilledClientsHarmNobody(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		shards: 2, general: "default_pool_size = 5\ncheckout_timeout = 30_000\nlog_connections = false\nlog_disconnections = false",
		schema: visitsSchema, rest: visits, program: true,
	})
	eventually(t, "both shards have their connections", func() bool { return s.metric(t, "pool_backends") >= 2 })
	before := s.size(t)
	end := time.Now().Add(*soak)
	over := func() bool { return time.Now().After(end) }
	var wg sync.WaitGroup
	var done, cut, stored atomic.Int64
	for i := range 150 {
		wg.Go(func() { // steady: every answer is its own
			c, _, err := s.cuttable(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close(context.Background())
			for n := 0; !over(); n++ {
				want, tenant := fmt.Sprintf("steady-%d-%d", i, n), (i*37+n)%200
				var got string
				if err := c.QueryRow(t.Context(), "SELECT $1::text FROM (SELECT count(*) FROM visits WHERE tenant_id = $2) x",
					pgx.QueryExecModeCacheStatement, want, tenant).Scan(&got); err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
					return
				}
				done.Add(1)
				if n%10 != 0 {
					continue
				}
				if _, err := c.Exec(t.Context(), "INSERT INTO visits VALUES ($1, 'steady')", tenant); err != nil {
					t.Errorf("store: %v", err)
					return
				}
				stored.Add(1)
			}
		})
	}
	for i := range 50 {
		wg.Go(func() { // killed: the socket is closed while a transaction, or a statement, is open
			for n := 0; !over(); n++ {
				c, kill, err := s.cuttable(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.AfterFunc(time.Duration((i*7+n*13)%20)*time.Millisecond, kill)
				for k := 0; err == nil; k++ {
					_, err = c.Exec(t.Context(), fmt.Sprintf("BEGIN; INSERT INTO visits VALUES (%d, 'killed'); SELECT pg_sleep(0.001)", k%100))
				}
				cut.Add(1)
			}
		})
	}
	wg.Wait()
	if done.Load() == 0 || cut.Load() == 0 {
		t.Errorf("%d answers, %d connections cut: nothing was tested", done.Load(), cut.Load())
	}
	t.Logf("%d answers, %d rows, %d connections cut", done.Load(), stored.Load(), cut.Load())
	s.shrunk(t, before)
	rows := 0
	for n, sh := range s.shards {
		if killed := sh.rows(t, "SELECT count(*) FROM visits WHERE who = 'killed'"); killed[0] != "0" {
			t.Errorf("shard %d has %s rows of transactions that were cut", n, killed[0])
		}
		if strangers := sh.rows(t, fmt.Sprintf("SELECT count(*) FROM visits WHERE (tenant_id < 100) <> (%d = 0)", n)); strangers[0] != "0" {
			t.Errorf("shard %d has %s rows of the other one", n, strangers[0])
		}
		count, err := strconv.Atoi(sh.rows(t, "SELECT count(*) FROM visits")[0])
		if err != nil {
			t.Fatal(err)
		}
		rows += count
	}
	if int64(rows) != stored.Load() {
		t.Errorf("%d rows, and %d were stored", rows, stored.Load())
	}
}

// TestReloadBySignal holds SIGHUP to the promise: a good file is in force for the next client, a bad one changes nothing and says why.
func TestReloadBySignal(t *testing.T) {
	t.Parallel()
	s := start(t, spec{program: true})
	s.edit("users.toml", "[[users]]", "[[users]]\nname = \"second\"\ndatabase = \"saas\"\npassword = \"two\"\nserver_user = \"app\"\nserver_password = \""+password+"\"\n[[users]]")
	s.process.signal(t, syscall.SIGHUP)
	eventually(t, "the new user may log in", func() bool {
		c, err := pgx.Connect(t.Context(), pgtest.DSN(s.addr, cluster, "second", "two"))
		if err != nil {
			return false
		}
		c.Close(t.Context())
		return true
	})
	s.edit("pgdog.toml", "[general]", "[general]\nno_such_key = 1")
	s.process.signal(t, syscall.SIGHUP)
	eventually(t, "the mistake is in the log", func() bool {
		return strings.Contains(s.log.String(), "pgdog.toml:2") && strings.Contains(s.log.String(), "no_such_key")
	})
	c := s.pgx(t, pgx.QueryExecModeSimpleProtocol)
	var one int
	if err := c.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil || one != 1 {
		t.Errorf("after a bad reload: %d, %v", one, err)
	}
}
