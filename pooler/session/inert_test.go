package session

import (
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// TestInertStatementsAreWhatNothingFollows: what the parser says leaves nothing is what every rule here would leave alone.
func TestInertStatementsAreWhatNothingFollows(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"SELECT 1": true, "SELECT * FROM t WHERE a = $1 FOR UPDATE": true, "VALUES (1)": true, "TABLE t": true,
		"INSERT INTO t VALUES (now()) ON CONFLICT DO NOTHING RETURNING *": true, "UPDATE t SET a = upper(b)": true, "DELETE FROM t": true,
		"WITH x AS (DELETE FROM t RETURNING *) SELECT count(*) FROM x": true,
		"MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE":   true,
		"SELECT nextval('s')":                                             true,
		"SELECT f()":                                                      false,
		"SELECT s.upper('x')":                                             false,
		"SELECT (SELECT f() FROM t)":                                      false,
		"SELECT 1 OPERATOR(s.+) 1":                                        false,
		"INSERT INTO t SELECT f()":                                        false,
		"SELECT set_config('search_path', 'x', true)":                     false,
		"SELECT set_config('search_path', 'x', false)":                    false,
		"SELECT set_config($1, $2, false)":                                false,
		"WITH x AS (SELECT set_config('role', 'x', true)) SELECT 1":       false,
		"SELECT setseed(1)":                                               false,
		"SELECT pg_advisory_lock(1)":                                      false,
		"SELECT lastval()":                                                false,
		"SELECT lo_open(1, 2)":                                            false,
		"SELECT query_to_xml('SET role x', true, true, '')":               false,
		"SELECT 1 INTO x":                                                 false,
		"CREATE TABLE x AS SELECT 1":                                      false,
		"UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'": false,
		"SET search_path TO x":                                            false,
		"SET LOCAL search_path TO x":                                      false,
		"RESET ALL":                                                       false,
		"SHOW search_path":                                                false,
		"BEGIN":                                                           false,
		"COMMIT":                                                          false,
		"SAVEPOINT a":                                                     false,
		"ROLLBACK TO a":                                                   false,
		"PREPARE q AS SELECT 1":                                           false,
		"EXECUTE q":                                                       false,
		"DEALLOCATE q":                                                    false,
		"DECLARE c CURSOR FOR SELECT 1":                                   false,
		"EXPLAIN SELECT 1":                                                false,
		"EXPLAIN ANALYZE SELECT 1":                                        false,
		"COPY t FROM STDIN":                                               false,
		"COPY (SELECT 1) TO STDOUT":                                       false,
		"CALL p()":                                                        false,
		"DO 'x'":                                                          false,
		"LISTEN x":                                                        false,
		"DISCARD ALL":                                                     false,
		"LOAD 'x'":                                                        false,
		"CREATE TEMP TABLE x (a int)":                                     false,
		"SELECT * FROM generate_series(1, 2), LATERAL (SELECT f() WHERE random() < 1) AS x": false,
	} {
		m := parser.Parse(sql)
		if m.Unparsable != nil || len(m.Statements) != 1 {
			t.Fatalf("%s: %v", sql, m.Unparsable)
		}
		st := m.Statements[0]
		if st.Inert != want {
			t.Errorf("%s: inert is %v", sql, st.Inert)
		}
		builtin := true
		for _, f := range st.Calls {
			builtin = builtin && parser.IsBuiltin(f)
		}
		if st.BuiltinCalls != builtin {
			t.Errorf("%s: BuiltinCalls is %v", sql, st.BuiltinCalls)
		}
		if !st.Inert {
			continue
		}
		long := parser.Parse(sql).Statements[0] // the long way round
		long.Inert = false
		s := &Session{acct: &Account{Statements: true}, tx: pgwire.TxActive, work: &work{}}
		s.track = state.Track{}
		s.track.Begin()
		if taintOf(long) != 0 || s.movesPath(long) || s.movesEncoding(long) || makes(long) || s.localAt(long, view{tx: pgwire.TxActive}) || setup(long) || endsFailure(long) ||
			long.Effects != 0 || len(long.SetConfigs) > 0 || movable(long, true) != (st.ReadOnly && st.Kind == parser.Select) {
			t.Errorf("%s: it is followed the long way round", sql)
		}
		before := s.track
		s.effect(long, []byte("SELECT 1"))
		if s.track.Expected != before.Expected || s.track.Have != before.Have || s.track.Local != before.Local || len(s.prologue) > 0 {
			t.Errorf("%s: it has an effect", sql)
		}
	}
}

// TestPathKeysAreDifferent for different paths, whatever the names are.
func TestPathKeysAreDifferent(t *testing.T) {
	t.Parallel()
	seen := map[string][]string{}
	for _, list := range [][]string{{}, {""}, {"", ""}, {"", "", ""}, {"a"}, {"a", ""}, {"", "a"}, {"a", "b"}, {"ab"}, {"a\x00b"}, {"a\x01b"}, {"\x00"}, {"\x01"}, {"\x01a"}} {
		key := pathKey(list)
		if other, ok := seen[key]; ok {
			t.Errorf("%q has the key of %q", list, other)
		}
		seen[key] = list
	}
}
