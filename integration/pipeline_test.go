package integration

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// A Query in the middle of a pipeline is skipped behind an error, as all is up to the Sync; without one it is answered in its turn.
func TestQueryInThePipeline(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	pipeline := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	}
	query := &pgproto3.Query{String: "SELECT 2"}
	for sql, want := range map[string][]string{
		"SELECT 1":           {"1; SELECT 1; 2; SELECT 1; I", "I"},
		"SELECT 1/0":         {"22012; I"},
		"SELECT '1'::nosuch": {"42704; I"},
	} {
		c := s.connect(t)
		c.Send(append(pipeline(sql), query, &pgproto3.Sync{})...)
		for _, want := range append(want, "7; SELECT 1; I") {
			if want[0] == '7' {
				c.Send(&pgproto3.Query{String: "SELECT 7"})
			}
			if got := outcome(c.UntilReady()); got != want {
				t.Errorf("%s: got %s, want %s", sql, got, want)
			}
		}
	}
	// While it is only parsed, where it runs is not known yet.
	c := s.connect(t)
	c.Send(&pgproto3.Parse{Query: "SELECT '1'::nosuch"}, query, &pgproto3.Sync{}, &pgproto3.Query{String: "SELECT 7"})
	for _, want := range []string{"42704; I", "7; SELECT 1; I"} {
		if got := outcome(c.UntilReady()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// What stands in front of a refused message is answered, and what it did is part of the failed transaction.
func TestPipelineAnswersWhatIsInFrontOfARefusal(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	run := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	}
	const (
		first  = "INSERT INTO orders VALUES (1, 1, 'first')"
		second = "INSERT INTO orders VALUES (1001, 1, 'second')"
	)
	for _, x := range []struct {
		name, want string
		pipeline   [][]pgproto3.FrontendMessage
		kept       int
	}{
		{"of another shard", "INSERT 0 1; 0A000 cross_shard; I", [][]pgproto3.FrontendMessage{run(first), run(second), run("SELECT 1")}, 0},
		{"without a tenant", "INSERT 0 1; 42501 tenant_missing; I", [][]pgproto3.FrontendMessage{run(first), run("SELECT * FROM orders")}, 0},
		{"that can't be parsed", "INSERT 0 1; 42601 unparsable; I", [][]pgproto3.FrontendMessage{run(first), run("SELEC")}, 0},
		{"of a statement that is not there", "INSERT 0 1; 26000; I", [][]pgproto3.FrontendMessage{run(first), {&pgproto3.Bind{PreparedStatement: "x"}}}, 0},
		{
			"after a COMMIT", "BEGIN; INSERT 0 1; COMMIT; 42501 tenant_missing; I",
			[][]pgproto3.FrontendMessage{run("BEGIN"), run(first), run("COMMIT"), run("SELECT * FROM orders")},
			1,
		},
		{
			"in a transaction", "BEGIN; INSERT 0 1; 42501 tenant_missing; E",
			[][]pgproto3.FrontendMessage{run("BEGIN"), run(first), run("SELECT * FROM orders"), run("COMMIT")},
			0,
		},
		{
			"in a transaction that took no backend", "BEGIN; SAVEPOINT; 42501 tenant_missing; E",
			[][]pgproto3.FrontendMessage{run("BEGIN"), run("SAVEPOINT a"), run("SELECT * FROM orders"), run("COMMIT")},
			0,
		},
		{"first of all", "42501 tenant_missing; I", [][]pgproto3.FrontendMessage{run("SELECT * FROM orders"), run(first)}, 0},
		{"behind what PostgreSQL refuses", "22012; I", [][]pgproto3.FrontendMessage{run("SELECT 1/0"), run("SELECT * FROM orders")}, 0},
	} {
		c := s.connect(t)
		for _, m := range x.pipeline {
			c.Send(m...)
		}
		c.Send(&pgproto3.Sync{})
		got := outcome(c.UntilReady())
		if got != x.want {
			t.Errorf("%s: got %s, want %s", x.name, got, x.want)
		}
		c.Query("ROLLBACK")
		if got := outcome(c.Query("SELECT 7")); got != "7; SELECT 1; I" {
			t.Errorf("%s: what comes behind it: %s", x.name, got)
		}
		rows := len(s.shards[0].rows(t, "SELECT * FROM orders")) + len(s.shards[1].rows(t, "SELECT * FROM orders"))
		if rows != x.kept {
			t.Errorf("%s: %d rows stay, want %d", x.name, rows, x.kept)
		}
		s.shards[0].Exec(t, s.shards[0].db, "DELETE FROM orders")
	}
}

// TestPipelineSkipsWhatIsAnsweredHere: behind an error nothing of the unit runs, be it what pgkennel does itself.
func TestPipelineSkipsWhatIsAnsweredHere(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	statement := func(sql string) []pgproto3.FrontendMessage { return testbed.Statements(sql) }
	for _, last := range []string{"ROLLBACK", "COMMIT", "SET work_mem = '1111kB'"} {
		unit := slices.Concat(
			statement("BEGIN"), []pgproto3.FrontendMessage{testbed.Parse("s", "SELECT 1"), testbed.Flush},
			statement("RELEASE nothing"), statement(last), []pgproto3.FrontendMessage{testbed.Sync},
		)
		for name, c := range map[string]*pgtest.Client{"PostgreSQL": s.direct(t, nil), "pgkennel": s.connect(t)} {
			c.Send(unit...)
			if got := outcome(c.UntilReady()); got != "BEGIN; 3B001; E" {
				t.Errorf("%s, with %s: got %s", name, last, got)
			}
			if got := testbed.Extended(c, statement("COMMIT")...); got != "ROLLBACK; I" {
				t.Errorf("%s, with %s: the end: got %s", name, last, got)
			}
			protocols[0].play(t, c, "SHOW work_mem", "4MB; SHOW; I")
		}
	}
}
