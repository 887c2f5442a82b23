package integration

import (
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// TestServerLostBehindBegin: who was told that a transaction has begun is in one, which has failed, when its server is lost; who was not told is in none.
func TestServerLostBehindBegin(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: "CREATE TABLE stored (n int)"})
	const die = "SELECT pg_terminate_backend(pg_backend_pid())"
	for _, x := range []struct{ sql, want string }{
		{die, "t; 08006 shard_unavailable; I"},
		{"BEGIN; " + die, "BEGIN; t; 08006 shard_unavailable; E"},
		{"BEGIN; INSERT INTO stored VALUES (1); " + die, "BEGIN; INSERT 0 1; t; 08006 shard_unavailable; E"},
		{"BEGIN; COMMIT; " + die, "BEGIN; COMMIT; t; 08006 shard_unavailable; I"},
		{"BEGIN; COMMIT AND CHAIN; " + die, "BEGIN; COMMIT; t; 08006 shard_unavailable; E"},
		{"BEGIN; SAVEPOINT a; ROLLBACK TO a; " + die, "BEGIN; SAVEPOINT; ROLLBACK; t; 08006 shard_unavailable; E"},
		{"INSERT INTO stored VALUES (2); " + die, "INSERT 0 1; t; 08006 shard_unavailable; I"},
	} {
		c := s.connect(t)
		got := outcome(c.Query(x.sql))
		if got != x.want {
			t.Errorf("%s:\n got %s\nwant %s", x.sql, got, x.want)
		}
		after := "SELECT 1"
		if e := pgtest.Failure(c.Query(after)); (e != nil && e.Code == "25P02") != (got[len(got)-1] == 'E') {
			t.Errorf("%s: told %s, and then %+v", x.sql, got, e)
		}
		c.Query("ROLLBACK")
		if got := outcome(c.Query("SELECT count(*) FROM stored")); got != "0; SELECT 1; I" {
			t.Errorf("%s: %s", x.sql, got)
		}
	}
	c := s.connect(t)
	c.Query("BEGIN")
	c.Query("INSERT INTO stored VALUES (3)")
	if got := outcome(c.Query("COMMIT; " + die)); got != "COMMIT; t; 08006 shard_unavailable; I" {
		t.Errorf("behind COMMIT: %s", got)
	}
	if got := outcome(c.Query("SELECT n FROM stored")); got != "3; SELECT 1; I" {
		t.Errorf("behind COMMIT: %s", got)
	}
}
