package parser

import "testing"

func TestNewer(t *testing.T) {
	for _, sql := range []string{
		"MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1 RETURNING *",
		"WITH x AS (MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE RETURNING t.id) SELECT * FROM x",
		"MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED BY SOURCE THEN DELETE",
		"MERGE INTO t USING s ON t.id = s.id WHEN NOT MATCHED BY TARGET THEN INSERT VALUES (1)",
		"SELECT * FROM JSON_TABLE('[]', '$[*]' COLUMNS (a int PATH '$.a')) AS t",
		"SELECT JSON_VALUE(a, '$.b' RETURNING int) FROM t",
		"SELECT JSON_QUERY(a, '$.b' WITH WRAPPER) FROM t",
		"SELECT JSON_EXISTS(a, '$.b' PASSING 1 AS x) FROM t",
		"UPDATE t SET a = 1 RETURNING WITH (OLD AS o, NEW AS n) o.a, n.a",
		"CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL)",
		"CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2))",
		"CREATE TABLE t (id int, v daterange, PRIMARY KEY (id, v WITHOUT OVERLAPS))",
		"ALTER TABLE t ADD FOREIGN KEY (id, PERIOD v) REFERENCES u (id, PERIOD v)",
		"ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT ENFORCED",
		"ALTER TABLE t ADD CONSTRAINT c NOT NULL a",
		"SELECT now() AT LOCAL",
		"ANALYZE ONLY t",
		"SELECT 1; MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE RETURNING 1",
		"SELECT a, count(*) FROM t GROUP BY ALL ORDER BY 1",
		"/* MERGE */ SELECT first_value(a) IGNORE NULLS OVER () FROM t",
	} {
		m := Parse(sql)
		if m.Unparsable == nil || m.Unparsable.Code != "42601" || !m.Newer {
			t.Errorf("%s: got newer %v, %v", sql, m.Newer, m.Unparsable)
		}
	}
	for _, sql := range []string{
		"SELECT 1",
		"MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE",
		"SELEC 1",
		"SELECT FROM FROM t",
		"SELECT * FROM t WHERE tenant_id = ",
		"SELECT 'JSON_TABLE' FROM FROM t",
		"SELECT FROM FROM t -- JSON_TABLE",
		`SELECT "json_table" FROM FROM t`,
		"SELECT * FROM JSON_TABLE('[]",
		"MERGE INTO t; SELECT RETURNING",
		"SELECT 1 FROM t WHERE (",
		"",
	} {
		if m := Parse(sql); m.Newer {
			t.Errorf("%s: taken for newer SQL: %v", sql, m.Unparsable)
		}
	}
}
