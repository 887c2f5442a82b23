package integration

import (
	"fmt"
	"strings"
	"testing"
)

// A search_path names the schemas that PostgreSQL looks in: its spaces, its letters, its longest name. Where that depends on the server, the path
// is not known. In every case below the rows of all tenants are what the server would read.
func TestSearchPathIsReadAsPostgreSQLReadsIt(t *testing.T) {
	t.Parallel()
	const missing, unclear = "42501 tenant_missing; I", "0A000 shard_missing; I"
	long := strings.Repeat("x", 63)
	cut := strings.Repeat("x", 62)
	orders := func(schema, columns string) string {
		return fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS "%s"; CREATE TABLE "%[1]s".orders (%s);`, schema, columns)
	}
	const held, open = "tenant_id bigint, note text", "x int"
	s := start(t, spec{
		shards: 2, rest: twoRanges,
		schema: orders("public", held) + orders("safe", open) + orders(long, held) + orders(cut, held) + orders("É", held) + orders("é", open) + orders("1e5", held),
	})
	for path, want := range map[string]string{
		"\vsafe,public":        unclear,
		"safe\v,public":        unclear,
		"safe\u00a0,public":    missing,
		"É,é":                  missing,
		`"É",é`:                missing,
		long + "y,safe":        missing,
		`"` + long + `y",safe`: missing,
		cut + "é,safe":         missing,
	} {
		c := s.with(t, map[string]string{"search_path": path})
		if got := outcome(c.Query("SELECT * FROM orders")); got != want {
			t.Errorf("startup %q: got %s, want %s", path, got, want)
		}
	}
	for _, sql := range []string{
		"SELECT set_config('search_path', '" + long + "y,safe', false)",
		"SELECT set_config('search_path', '" + cut + "é,safe', false)",
		"SET search_path = '" + long + "y', 'safe'",
		"SET search_path = '" + cut + "é', 'safe'",
		"SET search_path = 1E5, safe",
	} {
		c := s.connect(t)
		c.Query("/* pgdog_shard: 0 */ " + sql)
		if got := outcome(c.Query("SELECT * FROM orders")); got != missing {
			t.Errorf("%s: %s", sql, got)
		}
		c = s.connect(t)
		if got := outcome(c.Query("BEGIN; " + sql + "; SELECT * FROM orders")); got != missing && got != unclear {
			t.Errorf("%s, in one message: %s", sql, got)
		}
	}
	c := s.with(t, map[string]string{"client_encoding": "LATIN1", "search_path": "é,safe"})
	if got := outcome(c.Query("SELECT * FROM orders")); got != unclear {
		t.Errorf("startup, of another encoding: %s", got)
	}
	for _, sql := range []string{"SET search_path = '\xe9', 'safe'", "SELECT 1; SET search_path = '\xe9', 'safe'; SELECT * FROM orders"} {
		c := s.connect(t)
		c.Query("SET client_encoding = 'LATIN1'")
		got := outcome(c.Query(sql))
		if got == "SET; I" {
			got = outcome(c.Query("SELECT * FROM orders"))
		}
		if got != unclear && got != "0A000 encoding; I" {
			t.Errorf("SET, of another encoding: %s", got)
		}
	}
}

// A role's or a database's search_path is read in the same way.
func TestSearchPathOfTheServerIsReadAsPostgreSQLReadsIt(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 63)
	s := prepare(t, spec{
		shards: 2, rest: twoRanges,
		schema: `CREATE TABLE orders (tenant_id bigint, note text); CREATE SCHEMA safe; CREATE TABLE safe.orders (x int); CREATE SCHEMA ` + long + `; CREATE TABLE ` + long + `.orders (tenant_id bigint, note text)`,
	})
	for _, sh := range s.shards {
		sh.Exec(t, "postgres", fmt.Sprintf("ALTER DATABASE %s SET search_path TO '%sy', 'safe'", sh.db, long))
	}
	s.startInside()
	if got := outcome(s.connect(t).Query("SELECT * FROM orders")); got != "42501 tenant_missing; I" {
		t.Error(got)
	}
}
