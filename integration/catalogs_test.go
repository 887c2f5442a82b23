package integration

import (
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// What PostgreSQL's catalogs show of all tenants' values and of other clients' statements is for no tenant.
func TestCatalogsShowNoTenantsValues(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, schema: `
		CREATE TABLE orders (tenant_id bigint, note text); INSERT INTO orders SELECT 1, 'secret of one' FROM generate_series(1, 50);
		CREATE STATISTICS both_of_it (mcv) ON tenant_id, note FROM orders; ANALYZE orders;
		SELECT lo_from_bytea(777, 'secret of one');
		CREATE VIEW pg_peek AS SELECT most_common_vals::text FROM pg_stats; CREATE VIEW opened AS SELECT lo_get(777);
		CREATE MATERIALIZED VIEW texts AS SELECT query FROM pg_stat_activity`})
	each(t, func(t *testing.T, p protocol) {
		for _, sql := range []string{
			"SELECT most_common_vals FROM pg_stats WHERE tablename = 'orders'",
			"/* pgdog_shard: 0 */ SELECT most_common_vals FROM pg_catalog.pg_stats WHERE tablename = 'orders'",
			"SELECT o.note FROM orders o, pg_stats WHERE o.tenant_id = 1001",
			"SELECT most_common_vals FROM pg_stats_ext", "SELECT most_common_vals FROM pg_stats_ext_exprs", "TABLE pg_statistic", "TABLE pg_statistic_ext_data",
			"SELECT lo_get(777)", "/* pgdog_shard: 0 */ SELECT loread(lo_open(777, 262144), 99)", "TABLE pg_largeobject",
			"SELECT query FROM pg_stat_activity", "SELECT * FROM pg_stat_get_activity(NULL)", "SELECT pg_stat_get_backend_activity(1)",
			"SELECT statement FROM pg_prepared_statements", "SELECT statement FROM pg_cursors", "TABLE pg_stat_statements",
			"SELECT * FROM pg_peek", "SELECT * FROM opened", "SELECT * FROM texts", "SELECT pg_read_file('PG_VERSION')",
		} {
			if got := outcome(p.run(s.connect(t), sql)); got != "42501 tenant_missing; I" {
				t.Errorf("%s: %s", sql, got)
			}
		}
	})

	// A view with a name like the system's, made a moment ago, is not the system's.
	c := s.connect(t)
	if got := outcome(c.Query("/* pgdog_shard: 0 */ CREATE VIEW pg_fresh AS SELECT * FROM orders")); got != "CREATE VIEW; I" {
		t.Fatal(got)
	}
	if got := outcome(c.Query("SELECT * FROM pg_fresh")); got != "42501 tenant_missing; I" {
		t.Errorf("a new view: %s", got)
	}
	// Nor is one where nothing is known of the tables.
	s = start(t, spec{shards: 2, rest: twoRanges, general: `load_schema = "off"`, schema: `CREATE TABLE orders (tenant_id bigint, note text);
		CREATE VIEW pg_fresh AS SELECT * FROM orders; CREATE SCHEMA held; CREATE VIEW held.pg_class AS SELECT * FROM orders`})
	c = s.connect(t)
	for sql, want := range map[string]string{
		"SELECT * FROM pg_fresh": "42501 tenant_missing; I", "SELECT * FROM pg_stats": "42501 tenant_missing; I", "SELECT relname FROM pg_class WHERE false": "SELECT 0; I",
	} {
		if got := outcome(c.Query(sql)); got != want {
			t.Errorf("without a schema, %s: %s", sql, got)
		}
	}
	c.Query("SET search_path = held, pg_catalog")
	if got := outcome(c.Query("SELECT * FROM pg_class")); got != "42501 tenant_missing; I" {
		t.Errorf("in front of the system's: %s", got)
	}
}

// What psql describes with \d and the like is not refused, whatever there is. It asks in several statements, by numbers that are another shard's
// own there, so it needs one shard.
func TestPSQLDescribes(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, schema: `
		CREATE TABLE orders (tenant_id bigint, id bigserial PRIMARY KEY, note text CHECK (note <> '')); CREATE INDEX ON orders (note);
		CREATE STATISTICS both_of_it ON tenant_id, note FROM orders; CREATE VIEW notes AS SELECT tenant_id, note FROM orders;
		CREATE MATERIALIZED VIEW kept AS SELECT 1 AS x; CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
		CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE numbers;
		CREATE TABLE parts (tenant_id bigint, x int) PARTITION BY LIST (x); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)`})
	for _, what := range []string{
		`\d`, `\d+`, `\d orders`, `\d+ orders`, `\d+ notes`, `\d+ kept`, `\d+ parts`, `\d numbers`, `\dT+ mood`, `\d pg_stats`, `\d pg_class`, `\da`, `\dA+`, `\db`, `\dc+`, `\dC+`, `\dconfig`, `\dd`,
		`\dD+`, `\ddp`, `\dE+`, `\det+`, `\des+`, `\dew+`, `\deu+`, `\df+`, `\dF+`, `\dFd+`, `\dFp+`, `\dFt+`, `\dg+`, `\di+`, `\dl`, `\dL+`, `\dm+`, `\dn+`, `\do+`, `\dO+`, `\dp`, `\dP+`,
		`\drds`, `\dRp`, `\dRs`, `\ds+`, `\dS`, `\dt+`, `\dtS+`, `\dT+`, `\du+`, `\dv+`, `\dx+`, `\dX`, `\dy+`, `\l+`, `\z`, `\sf one`, `\sv notes`, `\encoding`, `\conninfo`,
	} {
		out, err := pgtest.Command(t, "psql", "-X", "-w", "-v", "ON_ERROR_STOP=1", "-d", s.dsn(), "-c", "SET pgdog.shard = 0", "-c", what).CombinedOutput()
		if err != nil || strings.Contains(string(out), "ERROR") {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
}
