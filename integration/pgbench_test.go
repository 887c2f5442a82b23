package integration

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Each client has a thread of its own where pools are smaller than their number: pgbench waits for the answer to a Parse with the whole thread, and the
// others on it would keep the connections that it waits for.
var pgbenchModes = []string{"simple", "extended", "prepared"}

// pgbench runs the program against a stand and returns how many transactions it did.
func pgbench(t *testing.T, s *stand, args ...string) int {
	t.Helper()
	out, err := pgtest.Command(t, "pgbench", append(args, s.dsn())...).CombinedOutput()
	if err != nil {
		t.Fatalf("pgbench %v: %v\n%s", args, err, out)
	}
	m := regexp.MustCompile(`number of transactions actually processed: (\d+)`).FindSubmatch(out)
	if m == nil {
		return 0
	}
	if failed := regexp.MustCompile(`number of failed transactions: ([1-9]\d*)`).Find(out); failed != nil {
		t.Errorf("pgbench: %s", failed)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// Every transaction of every mode writes one row, to be found in the shard of its tenant.
func TestPgbenchOfManyTenants(t *testing.T) {
	t.Parallel()
	for _, mode := range pgbenchModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{shards: 2, schema: ordersSchema, rest: twoRanges, general: "default_pool_size = 3", program: true})
			s.write("alone.sql", `
\set tenant random(1, 1999)
\set id random(1, 1000000000000000)
INSERT INTO orders (tenant_id, id, note) VALUES (:tenant, :id, 'alone');
SELECT count(*) FROM orders WHERE tenant_id = :tenant;
`)
			s.write("block.sql", `
\set tenant random(1, 1999)
\set id random(1, 1000000000000000)
BEGIN;
SELECT 1;
INSERT INTO orders VALUES (:tenant, :id, 'block');
UPDATE orders SET note = note || '!' WHERE tenant_id = :tenant AND id = :id;
SELECT note FROM orders WHERE tenant_id = :tenant AND id = :id;
END;
`)
			done := pgbench(t, s, "-n", "-M", mode, "-c", "8", "-j", "8", "-t", "25", "-f", s.path("alone.sql"), "-f", s.path("block.sql"))
			if done != 200 {
				t.Errorf("pgbench did %d transactions, not 200", done)
			}
			const misplaced = "SELECT count(*) FROM orders WHERE NOT tenant_id "
			rows := 0
			for n, only := range []string{"BETWEEN 1 AND 999", "BETWEEN 1000 AND 1999"} {
				if got := s.shards[n].rows(t, misplaced+only); got[0] != "0" {
					t.Errorf("shard %d holds %s rows of other shards", n, got[0])
				}
				all, _ := strconv.Atoi(s.shards[n].rows(t, "SELECT count(*) FROM orders")[0])
				if all == 0 {
					t.Errorf("shard %d holds nothing", n)
				}
				rows += all
				if got := s.shards[n].rows(t, "SELECT DISTINCT note FROM orders ORDER BY 1"); strings.Join(got, " ") != "alone block!" {
					t.Errorf("shard %d has notes %q", n, got)
				}
			}
			if rows != done {
				t.Errorf("%d rows of %d transactions", rows, done)
			}
		})
	}
}

// pgbench's own tables and script, on one shard without tenants.
func TestPgbenchOnOneShard(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 3", program: true})
	pgbench(t, s, "-i", "-q", "-s", "1")
	pgbench(t, s, "-c", "2", "-t", "2") // it cleans up beforehand, unless told otherwise
	s.shards[0].Exec(t, s.shards[0].db, "UPDATE pgbench_accounts SET abalance = 0 WHERE abalance <> 0; UPDATE pgbench_tellers SET tbalance = 0; UPDATE pgbench_branches SET bbalance = 0; TRUNCATE pgbench_history")
	total := 0
	for _, mode := range pgbenchModes {
		total += pgbench(t, s, "-n", "-M", mode, "-c", "8", "-j", "8", "-t", "25")
	}
	if total != 600 {
		t.Errorf("%d transactions, not 600", total)
	}
	got := s.shards[0].rows(t, `SELECT (SELECT count(*) FROM pgbench_history),
		(SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts),
		(SELECT sum(delta) FROM pgbench_history) = (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(delta) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)`)
	if got[0] != "600|t|t|t" {
		t.Errorf("balances: %s, not 600|t|t|t", got[0])
	}
}
