package parser

import (
	"strings"
	"testing"
)

func TestHints(t *testing.T) {
	for _, test := range []struct {
		sql  string
		want Hints
	}{
		{"SELECT 1", Hints{}},
		{"/* pgdog_shard: 1 */ SELECT 1", Hints{Shard: "1"}},
		{"SELECT 1 /* pgdog_shard: 1 */", Hints{Shard: "1"}},
		{"SELECT /*pgdog_shard:1*/ 1", Hints{Shard: "1"}},
		{"SELECT 1 -- pgdog_shard: 1", Hints{Shard: "1"}},
		{"-- pgdog_shard: 1\nSELECT 1", Hints{Shard: "1"}},
		{"/* pgdog_sharding_key: 42 */ SELECT 1", Hints{ShardingKey: "42"}},
		{"/* pgdog_sharding_key: 'a b' */ SELECT 1", Hints{ShardingKey: "a b"}},
		{`/* pgdog_sharding_key: "a''b" */ SELECT 1`, Hints{ShardingKey: "a''b"}},
		{`/* pgdog_sharding_key: 'it''s' */ SELECT 1`, Hints{ShardingKey: "it's"}},
		{"/* pgdog_sharding_key: 3f2504e0-4f89-11d3-9a0c-0305e82c3301 */ SELECT 1", Hints{ShardingKey: "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}},
		{"/* pgdog_role: replica */ SELECT 1", Hints{Role: "replica"}},
		{"/* pgdog_role: replica pgdog_shard: 2 */ SELECT 1", Hints{Role: "replica", Shard: "2"}},
		{"/* pgdog_role: replica, pgdog_shard: 2; pgdog_sharding_key: 'x' */ SELECT 1", Hints{Role: "replica", Shard: "2", ShardingKey: "x"}},
		{"/* x /* pgdog_shard: 1*/ y */ SELECT 1", Hints{Shard: "1"}},
		{"/* a pgdog_shard : 1 */ SELECT 1", Hints{Shard: "1"}},
		{"/* pgdog_shard: 1 */ SELECT 1 /* pgdog_shard: 1 */", Hints{Shard: "1"}},
		{"/* pgdog_shard: 1 */ SELECT 1 /* pgdog_shard: 2 */", Hints{Shard: "1", Conflict: true}},
		{"/* pgdog_shard: 1, pgdog_shard: 2 */ SELECT 1", Hints{Shard: "1", Conflict: true}},
		{"/* pgdog_shard: */ SELECT 1", Hints{Conflict: true}},
		{"/* pgdog_sharding_key: 'open */ SELECT 1", Hints{Conflict: true}},
		{"/* pgdog_sharding_key: '' */ SELECT 1", Hints{Conflict: true}},
		{"/* see pgdog_shard */ SELECT 1", Hints{}},
		{"/* my_pgdog_shard: 1 */ SELECT 1", Hints{}},
		{"/* pgdog_shards: 1 */ SELECT 1", Hints{}},
		{"SELECT '/* pgdog_shard: 1 */'", Hints{}},
		{"SELECT E'\\'/* pgdog_shard: 1 */'", Hints{}},
		{"SELECT $$/* pgdog_shard: 1 */$$", Hints{}},
		{"SELECT $a$ $$ /* pgdog_shard: 1 */ $a$", Hints{}},
		{`SELECT "/* pgdog_shard: 1 */"`, Hints{}},
		{"SELECT 'a'\n'-- pgdog_shard: 1'", Hints{}},
		{"SELECT 1 -/* pgdog_shard: 1 */ 2", Hints{Shard: "1"}},
		{"SELECT 'open /* pgdog_shard: 1 */", Hints{}},
		{"/* pgdog_shard: 1 */ SELECT 'open", Hints{Shard: "1"}},
		{"/* pgdog_shard: 1", Hints{}},
	} {
		if got := Parse(test.sql).Hints; got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.sql, got, test.want)
		}
	}
}

func FuzzHints(f *testing.F) {
	f.Add("/* pgdog_shard: 1 */", "SELECT 1")
	f.Add("-- pgdog_sharding_key: 'a''b'\n", "SELECT '")
	f.Add("/* pgdog_role: \"x", "*/ pgdog_shard: 2")
	f.Fuzz(func(t *testing.T, comment, sql string) {
		findHints(comment + sql)
		// Inside of a literal a hint never counts.
		quoted := "SELECT '" + strings.ReplaceAll(comment, "'", "''") + "', $pgkennel$" + strings.ReplaceAll(comment, "$", "") + "$pgkennel$"
		if got := findHints(quoted); got != (Hints{}) {
			t.Fatalf("got %+v from literals only: %q", got, quoted)
		}
		// A hint in front of anything counts, unless a second one speaks against it.
		h := findHints("/* pgdog_shard: 7 */" + sql)
		if h.Shard != "7" {
			t.Fatalf("got %+v", h)
		}
	})
}
