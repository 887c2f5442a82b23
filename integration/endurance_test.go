package integration

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// TestKilledClientsHarmNobody has clients cut their connections in the middle of whatever they do, for the time of -soak, beside clients that
// check every answer, all on a pool of five.
func TestKilledClientsHarmNobody(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		shards: 2, general: "default_pool_size = 5\ncheckout_timeout = 30_000",
		schema: "CREATE TABLE visits (tenant_id bigint NOT NULL, who text NOT NULL)",
		rest: fmt.Sprintf("[[sharded_tables]]\ndatabase = %q\ncolumn = \"tenant_id\"\ndata_type = \"bigint\"\n"+
			"mapping = [{ end = 100, shard = 0 }, { start = 100, shard = 1 }]\n", cluster),
	})
	end := time.Now().Add(*soak)
	over := func() bool { return time.Now().After(end) }
	var wg sync.WaitGroup
	var done, cut atomic.Int64
	for i := range 20 {
		wg.Go(func() { // steady: every answer is its own
			c := s.pgx(t, pgx.QueryExecModeCacheStatement)
			for n := 0; !over(); n++ {
				want, tenant := fmt.Sprintf("steady-%d-%d", i, n), (i*37+n)%200
				var got string
				if err := c.QueryRow(t.Context(), "SELECT $1::text FROM (SELECT count(*) FROM visits WHERE tenant_id = $2) x", want, tenant).Scan(&got); err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range 10 {
		wg.Go(func() { // killed: the socket is closed while a transaction, or a statement, is open
			for n := 0; !over(); n++ {
				config, err := pgx.ParseConfig(s.dsn())
				if err != nil {
					t.Error(err)
					return
				}
				var socket net.Conn
				config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					var d net.Dialer
					var err error
					socket, err = d.DialContext(ctx, network, addr)
					return socket, err
				}
				c, err := pgx.ConnectConfig(t.Context(), config)
				if err != nil {
					t.Error(err)
					return
				}
				time.AfterFunc(time.Duration((i*7+n*13)%20)*time.Millisecond, func() { socket.Close() })
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
	for n, sh := range s.shards {
		if rows := sh.rows(t, "SELECT count(*) FROM visits"); rows[0] != "0" {
			t.Errorf("shard %d has %s rows of transactions that were cut", n, rows[0])
		}
	}
	eventually(t, "no backend is held", func() bool {
		for _, row := range s.console(t, "SHOW POOLS") {
			if row["database"] == cluster && (row["sv_active"] != "0" || row["cl_waiting"] != "0") {
				return false
			}
		}
		return true
	})
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
