package integration

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestPinsAreLost: a client that was answered already is told that what it had left on its backend is gone with that.
func TestPinsAreLost(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: listenSchema, general: "default_pool_size = 1"})
	const kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"

	t.Run("while it waits to hear itself", func(t *testing.T) {
		c := s.connect(t)
		protocols[0].play(t, c, "LISTEN news", "LISTEN; I")
		ear, err := strconv.Atoi(s.shards[0].rows(t, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgkennel LISTEN'")[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(ear, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(ear, syscall.SIGCONT) }) //nolint:errcheck // it may have ended
		c.Send(&pgproto3.Query{String: "SELECT pg_advisory_lock(1); NOTIFY news"})
		eventually(t, "the transaction is over", func() bool {
			return s.shards[0].rows(t, "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE locktype = 'advisory' AND state = 'idle' AND datname = current_database()")[0] == "1"
		})
		s.shards[0].rows(t, kill)
		eventually(t, "the loss is noticed", func() bool { return len(s.console(t, "SHOW SERVERS")) <= 1 })
		syscall.Kill(ear, syscall.SIGCONT) //nolint:errcheck // it may have ended
		for {
			m, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := m.(*pgproto3.ReadyForQuery); ok {
				break
			}
		}
		protocols[0].play(t, c, "SELECT 1", "08006 shard_unavailable; I", "SELECT 1", "1; SELECT 1; I")
	})
	t.Run("behind an error", func(t *testing.T) {
		c := s.connect(t)
		protocols[0].play(t, c, "SELECT count(pg_advisory_lock(1))", "1; SELECT 1; I")
		c.Send(&pgproto3.Parse{Query: "SELECT 1/0"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
		for {
			m, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := m.(*pgproto3.ErrorResponse); ok {
				break
			}
		}
		s.shards[0].rows(t, kill)
		eventually(t, "the loss is noticed", func() bool { return len(s.pinned(t)) == 0 })
		c.Send(&pgproto3.Sync{})
		if m, err := c.Next(); err != nil {
			t.Fatal(err)
		} else if _, ok := m.(*pgproto3.ReadyForQuery); !ok {
			t.Fatalf("got %T", m)
		}
		protocols[0].play(t, c, "SELECT 1", "08006 shard_unavailable; I", "SELECT 1", "1; SELECT 1; I")
	})
}
