package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestParseThatFails: a named statement whose Parse failed does not exist, whatever it failed by; its name is free.
func TestParseThatFails(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: tableSchema})
	wire := s.throughProxy(0)
	s.startInside()
	direct := s.direct(t, nil)
	protocols[0].play(t, direct, "BEGIN", "BEGIN; T", "LOCK TABLE orders", "LOCK TABLE; T")
	parse := testbed.Parse("s", "SELECT count(*) FROM orders")
	for _, block := range []bool{false, true} {
		c := s.connect(t)
		if block {
			protocols[0].play(t, c, "BEGIN", "BEGIN; T", "SELECT 1", "1; SELECT 1; T")
		}
		c.Send(parse, testbed.Sync)
		s.shards[0].waits(t)
		c.Cancel()
		want := map[bool]string{false: "57014; I", true: "57014; E"}[block]
		if got := outcome(c.UntilReady()); got != want {
			t.Errorf("cancelled: got %s, want %s", got, want)
		}
		if block {
			protocols[0].play(t, c, "ROLLBACK", "ROLLBACK; I")
		}
		if got := testbed.Extended(c, testbed.Bind("", "s"), testbed.Run("", 0)); got != "26000; I" {
			t.Errorf("bound: got %s", got)
		}
		if got := testbed.Extended(c, testbed.Parse("s", "SELECT 2"), testbed.Bind("", "s"), testbed.Run("", 0)); got != "2; SELECT 1; I" {
			t.Errorf("parsed anew: got %s", got)
		}
		c.Terminate()
	}
	units := map[string][]pgproto3.FrontendMessage{
		"the Parse":                {parse, testbed.Sync},
		"something in front of it": {testbed.Parse("", "SELECT pg_sleep(60)"), testbed.Bind("", ""), testbed.Run("", 0), testbed.Parse("s", "SELECT 1"), testbed.Sync},
	}
	for _, lose := range []func(){ // with a last word, and without
		func() {
			s.shards[0].rows(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE "+waiting)
		},
		func() { wire.cut(true) },
	} {
		for name, unit := range units {
			c := s.connect(t)
			protocols[0].play(t, c, "BEGIN", "BEGIN; T", "SELECT 1", "1; SELECT 1; T")
			c.Send(unit...)
			s.shards[0].waits(t)
			lose()
			if got := outcome(c.UntilReady()); got != "08006 shard_unavailable; E" {
				t.Errorf("the server is lost in %s: got %s", name, got)
			}
			protocols[0].play(t, c, "ROLLBACK", "ROLLBACK; I")
			if got := testbed.Extended(c, testbed.Bind("", "s"), testbed.Run("", 0)); got != "26000; I" {
				t.Errorf("%s: bound: got %s", name, got)
			}
			if got := testbed.Extended(c, testbed.Parse("s", "SELECT 2")); got != "I" {
				t.Errorf("%s: parsed anew: got %s", name, got)
			}
			c.Terminate()
			s.shards[0].rows(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE "+waiting)
		}
	}
}

// TestServerLostInAPipeline: who sent more behind what was under way is told of the loss once, and what is behind it is skipped.
func TestServerLostInAPipeline(t *testing.T) {
	t.Parallel()
	s := prepare(t, spec{schema: tableSchema})
	wire := s.throughProxy(0)
	s.startInside()
	for name, unit := range map[string][]pgproto3.FrontendMessage{
		"COPY":  append(testbed.Statements("COPY orders FROM STDIN"), &pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{}, testbed.Sync),
		"Query": append(testbed.Statements("SELECT FROM orders"), testbed.Flush, testbed.Simple("SELECT 1"), testbed.Sync),
		"BEGIN": append(append(testbed.Statements("SELECT FROM orders"), testbed.Flush), append(testbed.Statements("BEGIN"), testbed.Sync)...),
	} {
		direct, c := s.direct(t, nil), s.connect(t)
		protocols[0].play(t, direct, "BEGIN", "BEGIN; T", "LOCK TABLE orders", "LOCK TABLE; T")
		c.Send(unit...)
		s.shards[0].waits(t)
		wire.cut(true)
		if got := outcome(c.UntilReady()); got != "08006 shard_unavailable; I" {
			t.Errorf("%s: got %s", name, got)
		}
		s.shards[0].rows(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE "+waiting)
		protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
		direct.Terminate()
		c.Terminate()
	}
}

const waiting = "(wait_event_type = 'Lock' OR wait_event = 'PgSleep') AND datname = current_database()"

// waits waits until a statement does, for a lock or the time.
func (s shard) waits(t testing.TB) {
	t.Helper()
	eventually(t, "it waits", func() bool {
		return s.rows(t, "SELECT count(*) FROM pg_stat_activity WHERE "+waiting)[0] == "1"
	})
}
