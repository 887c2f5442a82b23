package integration

import (
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestListenToSilence: who awaits its own notifications from a connection whose server is silent can be killed, can leave, and does not wait for longer than
// query_timeout. Its transaction has run, and its server connection is free then for others, as good as it was. Nor does a shutdown wait.
func TestListenToSilence(t *testing.T) {
	t.Parallel()
	p := protocols[0]
	say := &pgproto3.Query{String: "NOTIFY news, 'done'"}
	testbed.EachDriver(t, func(t *testing.T) {
		for name, x := range map[string]struct {
			general string
			ends    func(t *testing.T, s *stand, c *pgtest.Client)
		}{
			"killed": {"", func(t *testing.T, s *stand, c *pgtest.Client) {
				t.Helper()
				id := ""
				for _, row := range s.console(t, "SHOW CLIENTS") {
					if row["state"] == "active" && row["database"] == cluster {
						id = row["id"]
					}
				}
				s.console(t, "KILL_CLIENT "+id)
				if code := ends(t, c); code != "57P01" {
					t.Errorf("its connection ends with %q", code)
				}
			}},
			"shut down": {"shutdown_timeout = 300", func(t *testing.T, s *stand, c *pgtest.Client) {
				t.Helper()
				s.tryConsole("SHUTDOWN") //nolint:errcheck // what the client hears tells
				if code := ends(t, c); code != "57P01" {
					t.Errorf("its connection ends with %q", code)
				}
			}},
			"leaves": {"", func(_ *testing.T, _ *stand, c *pgtest.Client) { c.Close() }},
			"waits": {"query_timeout = 300", func(t *testing.T, _ *stand, c *pgtest.Client) {
				t.Helper()
				if got := outcome(c.UntilReady()); got != "NOTIFY; I" {
					t.Errorf("it is answered %s", got)
				}
			}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := start(t, spec{general: "default_pool_size = 1\n" + x.general})
				other, c := s.connect(t), s.connect(t)
				p.play(t, c, "LISTEN news", "LISTEN; I")
				goOn := sync.OnceFunc(stopEar(t, s))
				defer goOn()
				const ours = " FROM pg_stat_activity WHERE state = 'idle' AND query LIKE 'NOTIFY%' AND datname = current_database()"
				begun := time.Now()
				c.Send(say)
				eventually(t, "it has run", func() bool { return s.shards[0].rows(t, "SELECT count(*)"+ours)[0] == "1" })
				pid := s.shards[0].rows(t, "SELECT pid"+ours)[0]
				c.Cancel() // which does nothing
				if n := s.used(t); n != 1 {
					t.Errorf("%v connections are in use while it waits", n)
				}
				x.ends(t, s, c)
				if name == "shut down" {
					return // and the end of the test waits for that
				}
				p.play(t, other, "SELECT pg_backend_pid()", pid+"; SELECT 1; I") // as good as it was
				if took := time.Since(begun); took > 6*time.Second {
					t.Errorf("the connection was kept for %v", took)
				}
				goOn()
				if name == "waits" {
					if n := notification(t, c); n.Payload != "done" {
						t.Errorf("heard %q", n.Payload)
					}
				}
			})
		}
	})
}
