package integration

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// One test for each line of the table "Transactions and the choice of shard" of docs/routing.md. Tenants 1 to 999 are on
// shard 0, 1000 to 1999 on shard 1.

const tableSchema = ordersSchema + `
CREATE TABLE notes (id bigint PRIMARY KEY, text text);
CREATE VIEW order_notes AS SELECT id, note FROM orders;
CREATE FUNCTION order_count() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM orders';
`

func tableStand(t *testing.T, general string) *stand {
	t.Helper()
	return start(t, spec{shards: 2, schema: tableSchema, rest: twoRanges, general: general})
}

// elsewhere is a tenant of the other shard than the one that answered "SELECT current_database()".
func (s *stand) elsewhere(t *testing.T, c *pgtest.Client, p protocol) int {
	t.Helper()
	rows := pgtest.Rows(p.run(c, "SELECT current_database()"))
	if len(rows) != 1 {
		t.Fatalf("current_database: %v", rows)
	}
	// Databases of two instances may have one name; it is the instance that counts.
	answered := pgtest.Rows(p.run(c, "SELECT current_setting('port')"))
	if len(answered) == 1 && answered[0] == fmt.Sprint(s.shards[0].Port) {
		return 1500
	}
	return 500
}

// "BEGIN, START TRANSACTION, and SET, SET LOCAL, SET TRANSACTION, SAVEPOINT after it: answered at once, queued, sent in one
// write in front of the first statement that needs a backend; no connection is held meanwhile."
func TestTableBeginIsQueued(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1\ncheckout_timeout = 1_000")
	each(t, func(t *testing.T, p protocol) {
		begins := []string{"BEGIN", "START TRANSACTION", "BEGIN ISOLATION LEVEL REPEATABLE READ", "begin read write"}
		open := make([]*pgtest.Client, len(begins))
		for i, begin := range begins {
			open[i] = s.connect(t)
			tag := "BEGIN"
			if i == 1 {
				tag = "START TRANSACTION"
			}
			p.play(t, open[i],
				begin, tag+"; T",
				"SET work_mem = '1234kB'", "SET; T",
				"SET LOCAL statement_timeout = '12s'", "SET; T",
				"SET TRANSACTION READ WRITE", "SET; T",
				"SAVEPOINT first", "SAVEPOINT; T",
			)
		}
		// Eight transactions are open on pools of one, and there is room for everybody.
		other := s.connect(t)
		p.play(t, other, "SELECT count(*) FROM orders WHERE tenant_id = 1900", "0; SELECT 1; I")
		for i, c := range open {
			id := fmt.Sprint(i)
			p.play(t, c,
				"INSERT INTO orders VALUES (1800, "+id+", '"+p.name+"')", "INSERT 0 1; T",
				"SHOW statement_timeout", "12s; SHOW; T",
				"SHOW work_mem", "1234kB; SHOW; T",
				"ROLLBACK TO first", "ROLLBACK; T",
				"INSERT INTO orders VALUES (1801, "+id+", '"+p.name+"') ON CONFLICT DO NOTHING", "INSERT 0 1; T",
				"DELETE FROM orders WHERE tenant_id = 1801", "DELETE 1; T",
				"COMMIT", "COMMIT; I",
				"SHOW statement_timeout", "0; SHOW; I",
				"SHOW work_mem", "1234kB; SHOW; I",
			)
		}
		if rows := s.shards[1].rows(t, "SELECT * FROM orders WHERE note = '"+p.name+"'"); len(rows) > 0 {
			t.Errorf("rolled back to the savepoint, and still there: %v", rows)
		}
	})
}

// "JDBC's BEGIN in the same pipeline as its first statement: the batch is routed as one."
func TestTableBeginInThePipeline(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	for n, tenant := range []string{"7", "1007"} {
		c.Send(
			&pgproto3.Parse{Query: "BEGIN"}, &pgproto3.Bind{}, &pgproto3.Execute{},
			&pgproto3.Parse{Query: "INSERT INTO orders VALUES ($1, 1, 'jdbc')"},
			&pgproto3.Bind{Parameters: [][]byte{[]byte(tenant)}},
			&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{},
		)
		want := "ParseComplete BindComplete CommandComplete(BEGIN) ParseComplete BindComplete NoData CommandComplete(INSERT 0 1) ReadyForQuery(T)"
		if got := pgtest.Format(c.UntilReady()...); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got := outcome(c.Extended("COMMIT")); got != "COMMIT; I" {
			t.Errorf("COMMIT: %s", got)
		}
		if rows := s.shards[n].rows(t, "SELECT tenant_id FROM orders"); len(rows) != 1 || rows[0] != tenant {
			t.Errorf("shard %d holds %v", n, rows)
		}
	}
}

// "First statement with a key: fixes the transaction's shard; another shard's key later: 0A000 cross_shard."
func TestTableFirstKeyFixesTheShard(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	each(t, func(t *testing.T, p protocol) {
		c := s.connect(t)
		p.play(t, c,
			"BEGIN", "BEGIN; T",
			"INSERT INTO orders VALUES (1, 1, '"+p.name+"')", "INSERT 0 1; T",
			"INSERT INTO orders VALUES (999, 1, '"+p.name+"')", "INSERT 0 1; T",
			"SELECT note FROM orders WHERE tenant_id = 1000", "0A000 cross_shard; E",
			"SELECT 1", "25P02; E",
			"ROLLBACK", "ROLLBACK; I",
			"SELECT count(*) FROM orders WHERE tenant_id = 1000", "0; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			"SELECT count(*) FROM orders WHERE tenant_id = 1000", "0; SELECT 1; T",
			"UPDATE orders SET note = 'x' WHERE tenant_id = 1", "0A000 cross_shard; E",
			"COMMIT", "ROLLBACK; I",
		)
		if rows := s.shards[0].rows(t, "SELECT * FROM orders WHERE note = '"+p.name+"'"); len(rows) > 0 {
			t.Errorf("rows of an aborted transaction: %v", rows)
		}
	})
}

// "Reads without a key inside a transaction: run on one shard without fixing it; if a keyed statement for another shard
// follows and only such reads ran, the transaction is restarted there unseen."
func TestTableReadsWithoutKeyMove(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	first := map[string]int{"extended": 10} // both may be sent to the same tenant
	each(t, func(t *testing.T, p protocol) {
		c := s.connect(t)
		p.play(t, c, "BEGIN", "BEGIN; T", "SET LOCAL statement_timeout = '12s'", "SET; T")
		tenant := s.elsewhere(t, c, p)
		insert := func(id int) string {
			return fmt.Sprintf("INSERT INTO orders VALUES (%d, %d, '%s')", tenant, first[p.name]+id, p.name)
		}
		p.play(t, c,
			"SET LOCAL work_mem = '4321kB'", "SET; T",
			"SAVEPOINT a", "SAVEPOINT; T",
			insert(1), "INSERT 0 1; T",
			"SHOW statement_timeout", "12s; SHOW; T",
			"SHOW work_mem", "4321kB; SHOW; T",
			"ROLLBACK TO a", "ROLLBACK; T",
			insert(2), "INSERT 0 1; T",
			fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d", 2000-tenant), "0A000 cross_shard; E",
			"ROLLBACK TO a", "ROLLBACK; T",
			insert(3), "INSERT 0 1; T",
			"COMMIT", "COMMIT; I",
		)
		want := fmt.Sprintf("%d|%d", tenant, first[p.name]+3)
		if rows := s.shards[tenant/1000].rows(t, "SELECT tenant_id, id FROM orders WHERE note = '"+p.name+"'"); len(rows) != 1 || rows[0] != want {
			t.Errorf("the shard holds %v, not %s", rows, want)
		}
	})
}

// "Isolation levels above read committed: 0A000 instead."
func TestTableStrictIsolationDoesNotMove(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	for _, begin := range []string{
		"BEGIN ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
		"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET LOCAL transaction_isolation = 'repeatable read'",
		"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SET default_transaction_isolation TO serializable",
	} {
		t.Run(begin, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, p protocol) {
				c := s.connect(t)
				switch begin[:7] {
				case "SET TRA", "SET LOC":
					p.play(t, c, "BEGIN", "BEGIN; T", begin, "SET; T")
				case "SET SES", "SET def":
					p.play(t, c, begin, "SET; I", "BEGIN", "BEGIN; T")
				default:
					p.run(c, begin)
				}
				tenant := s.elsewhere(t, c, p)
				p.play(t, c,
					fmt.Sprintf("SELECT count(*) FROM orders WHERE tenant_id = %d", tenant), "0A000 cross_shard; E",
					"ROLLBACK", "ROLLBACK; I",
				)
			})
		})
	}
}

// "Refusal inside a transaction: the transaction is aborted as in PostgreSQL: 25P02 until ROLLBACK, COMMIT answers
// ROLLBACK, ROLLBACK TO works; also when no backend was taken yet."
func TestTableRefusalAborts(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	const refused, refusal = "SELECT * FROM orders", "42501 tenant_missing; E"
	each(t, func(t *testing.T, p protocol) {
		for _, first := range []struct{ name, sql, want string }{
			{name: "queued"}, {"on a backend", "SELECT count(*) FROM orders WHERE tenant_id = 7", "0; SELECT 1; T"},
		} {
			t.Run(first.name, func(t *testing.T) {
				c := s.connect(t)
				begin := func(more ...string) {
					t.Helper()
					p.play(t, c, "BEGIN", "BEGIN; T")
					if first.sql != "" {
						p.play(t, c, first.sql, first.want)
					}
					p.play(t, c, more...)
				}
				begin(refused, refusal, "SELECT 1", "25P02; E", "SAVEPOINT a", "25P02; E", refused, "25P02; E", "COMMIT", "ROLLBACK; I")
				begin(refused, refusal, "INSERT INTO orders VALUES (1, 1, 'x')", "25P02; E", "ROLLBACK", "ROLLBACK; I", "SELECT 1", "1; SELECT 1; I")
				begin("SAVEPOINT a", "SAVEPOINT; T", refused, refusal, "ROLLBACK TO a", "ROLLBACK; T",
					"SELECT count(*) FROM orders WHERE tenant_id = 7", "0; SELECT 1; T", "COMMIT", "COMMIT; I")
				begin(refused, refusal, "ROLLBACK TO SAVEPOINT nowhere", "3B001; E", "ROLLBACK AND CHAIN", "ROLLBACK; T", "ROLLBACK", "ROLLBACK; I")
			})
		}
	})
}

// "Parse + Describe + Sync before any Bind, key in a parameter: described on any shard, outside the queued transaction,
// cached by text; prepared on the right shard at Bind. Never refused for a key that is not known yet."
func TestTableDescribeBeforeBind(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1\ncheckout_timeout = 1_000")
	for _, begin := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a block %v", begin), func(t *testing.T) {
			c := s.connect(t)
			status := "I"
			if begin {
				c.Query("BEGIN")
				status = "T"
			}
			c.Send(&pgproto3.Parse{Name: "s", Query: "SELECT id, note FROM orders WHERE tenant_id = $1"},
				&pgproto3.Describe{ObjectType: 'S', Name: "s"}, &pgproto3.Sync{})
			want := "ParseComplete ParameterDescription(20) RowDescription(id, note) ReadyForQuery(" + status + ")"
			if got := pgtest.Format(c.UntilReady()...); got != want {
				t.Errorf("described: %s\nwant %s", got, want)
			}
			c.Send(&pgproto3.Parse{Name: "w", Query: "INSERT INTO orders VALUES ($1, $2, $3)"},
				&pgproto3.Describe{ObjectType: 'S', Name: "w"}, &pgproto3.Sync{})
			want = "ParseComplete ParameterDescription(20, 20, 25) NoData ReadyForQuery(" + status + ")"
			if got := pgtest.Format(c.UntilReady()...); got != want {
				t.Errorf("described: %s\nwant %s", got, want)
			}
			// Nothing is held: both pools have their only connection for others.
			other := s.connect(t)
			for _, sql := range []string{"SELECT count(*) FROM orders WHERE tenant_id = 1", "SELECT count(*) FROM orders WHERE tenant_id = 1001"} {
				if got := outcome(other.Query(sql)); got != "0; SELECT 1; I" {
					t.Errorf("another client: %s", got)
				}
			}
			for _, tenant := range []string{"3", "1003"} {
				c.Send(&pgproto3.Bind{PreparedStatement: "w", Parameters: [][]byte{[]byte(tenant), []byte("1"), []byte("described")}},
					&pgproto3.Execute{}, &pgproto3.Sync{})
				if got := outcome(c.UntilReady()); got != "INSERT 0 1; "+status {
					t.Errorf("tenant %s: %s", tenant, got)
				}
				c.Send(&pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{[]byte(tenant)}}, &pgproto3.Execute{}, &pgproto3.Sync{})
				if got := outcome(c.UntilReady()); got != "1|described; SELECT 1; "+status {
					t.Errorf("tenant %s: %s", tenant, got)
				}
				c.Query("DELETE FROM orders WHERE tenant_id = " + tenant)
				if begin {
					c.Query("COMMIT")
					c.Query("BEGIN")
				}
			}
		})
	}
}

// "DDL, and writes to unsharded tables, without tenant or hint, several shards: 0A000 with the hint how to address a shard."
func TestTableNoTenantSeveralShards(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	t.Run("statements", func(t *testing.T) { noTenantStatements(t, s) })
	if rows := s.shards[0].rows(t, "SELECT count(*) FROM notes"); rows[0] != "0" {
		t.Errorf("shard 0 holds %s notes", rows[0])
	}
	if rows := s.shards[1].rows(t, "SELECT count(*) FROM notes"); rows[0] != "24" {
		t.Errorf("shard 1 holds %s notes", rows[0])
	}
	c := s.connect(t)
	protocols[0].play(t, c,
		"SET pgdog.shard = 0", "SET; I", "CREATE TABLE x (id int)", "CREATE TABLE; I", "INSERT INTO x VALUES (1)", "INSERT 0 1; I",
		"RESET pgdog.shard", "RESET; I", "INSERT INTO x VALUES (1)", "0A000 shard_missing; I",
		"SET pgdog.sharding_key = '1500'", "SET; I", "INSERT INTO notes VALUES (100, 'by key')", "INSERT 0 1; I",
	)
	if rows := s.shards[1].rows(t, "SELECT text FROM notes WHERE id = 100"); len(rows) != 1 {
		t.Errorf("a write by sharding key went elsewhere")
	}
}

func noTenantStatements(t *testing.T, s *stand) {
	t.Helper()
	for i, sql := range []string{
		"CREATE TABLE x (id int)", "DROP TABLE notes", "ALTER TABLE notes ADD COLUMN more int", "CREATE INDEX ON notes (text)",
		"INSERT INTO notes VALUES (1, 'x')", "UPDATE notes SET text = 'y'", "DELETE FROM notes", "TRUNCATE notes",
		"GRANT SELECT ON notes TO PUBLIC", "COMMENT ON TABLE notes IS 'x'", "VACUUM notes", "DO $$ BEGIN NULL; END $$",
	} {
		t.Run(sql, func(t *testing.T) {
			each(t, func(t *testing.T, p protocol) {
				c := s.connect(t)
				answer := p.run(c, sql)
				if got := outcome(answer); got != "0A000 shard_missing; I" {
					t.Errorf("%s: %s", sql, got)
				}
				if e := pgtest.Failure(answer); e == nil || e.Hint == "" || e.Detail == "" {
					t.Errorf("%s: no hint or no detail", sql)
				}
				id := i
				if p.name == "extended" {
					id += 1000
				}
				p.play(t, c, fmt.Sprintf("/* pgdog_shard: 1 */ INSERT INTO notes VALUES (%d, '%s')", id, p.name), "INSERT 0 1; I")
			})
		})
	}
}

// "Views and functions over sharded tables without a key: 42501 tenant_missing."
func TestTableViewsAndFunctions(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	each(t, func(t *testing.T, p protocol) {
		c := s.connect(t)
		p.play(t, c,
			"SELECT * FROM order_notes", "42501 tenant_missing; I",
			"SELECT count(*) FROM order_notes WHERE id = 1", "42501 tenant_missing; I",
			"SELECT order_count()", "42501 tenant_missing; I",
			"SELECT count(*) FROM notes WHERE id < order_count()", "42501 tenant_missing; I",
		)
	})
	// Where statements need not name their tenant, it is enough to address the shard.
	addressed := start(t, spec{shards: 2, schema: tableSchema, rest: manuals[0].inline()})
	each(t, func(t *testing.T, p protocol) {
		p.play(t, addressed.connect(t),
			"SELECT * FROM order_notes", "42501 tenant_missing; I",
			"SELECT order_count()", "42501 tenant_missing; I",
			"/* pgdog_shard: 1 */ SELECT order_count()", "0; SELECT 1; I",
			"/* pgdog_shard: 0 */ SELECT count(*) FROM order_notes", "0; SELECT 1; I",
		)
	})
}

// "Several statements in one Query message: all parsed before any runs; one shard for all or refused."
func TestTableSeveralStatements(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "")
	c := s.connect(t)
	protocols[0].play(t, c,
		"INSERT INTO orders VALUES (1, 1, 'a'); SELEC 1", "42601 unparsable; I",
		"INSERT INTO orders VALUES (1, 1, 'a'); INSERT INTO orders VALUES (1001, 1, 'a')", "0A000 cross_shard; I",
		"INSERT INTO orders VALUES (1, 1, 'a'); SELECT * FROM orders", "42501 tenant_missing; I",
		"INSERT INTO orders VALUES (1, 1, 'a'); CREATE TABLE y (id int)", "0A000 shard_missing; I",
		"INSERT INTO orders VALUES (1, 1, 'a'); SELECT note FROM orders WHERE tenant_id = 1", "INSERT 0 1; a; SELECT 1; I",
		"INSERT INTO orders VALUES (1002, 1, 'a'); INSERT INTO orders VALUES (1003, 1, 'b'); SELECT note FROM orders WHERE tenant_id = 1002",
		"INSERT 0 1; INSERT 0 1; a; SELECT 1; I",
		"BEGIN; INSERT INTO orders VALUES (1004, 1, 'a'); COMMIT; INSERT INTO orders VALUES (1005, 1, 'b')",
		"BEGIN; INSERT 0 1; COMMIT; INSERT 0 1; I",
		"INSERT INTO orders VALUES (1006, 1, 'a'); SELECT 1/0", "INSERT 0 1; 22012; I",
		"; ;", "empty; I",
	)
	if got := s.shards[0].rows(t, "SELECT tenant_id FROM orders ORDER BY 1"); fmt.Sprint(got) != "[1]" {
		t.Errorf("shard 0 holds %v", got)
	}
	if got := s.shards[1].rows(t, "SELECT tenant_id FROM orders ORDER BY 1"); fmt.Sprint(got) != "[1002 1003 1004 1005]" {
		t.Errorf("shard 1 holds %v", got)
	}
}

// "SQL newer than the parser: forwarded where the shard is already certain (one shard, hint, bound session), else 0A000
// saying so." MERGE has RETURNING since PostgreSQL 17; an older server answers with its own error, which tells that it was asked.
func TestTableNewerSQL(t *testing.T) {
	t.Parallel()
	const newer = "MERGE INTO orders o USING (SELECT 1 AS t) s ON o.tenant_id = s.t WHEN NOT MATCHED THEN INSERT VALUES (1, 1, 'x') RETURNING merge_action()"
	several := start(t, spec{shards: 2, schema: tableSchema, rest: manuals[0].inline()})
	one := start(t, spec{schema: tableSchema})
	server := "42601; I" // PostgreSQL's own
	if several.shards[0].Major >= 17 {
		server = "INSERT; MERGE 1; I"
	}
	each(t, func(t *testing.T, p protocol) {
		c := several.connect(t)
		p.play(t, c,
			newer, "0A000 newer_sql; I",
			"/* pgdog_shard: 0 */ "+newer, server,
			"SET pgdog.shard = 1", "SET; I",
			newer, server,
			"RESET pgdog.shard", "RESET; I",
			"BEGIN", "BEGIN; T",
			newer, "0A000 newer_sql; E",
			"ROLLBACK", "ROLLBACK; I",
		)
		p.play(t, one.connect(t), newer, server)
	})
}
