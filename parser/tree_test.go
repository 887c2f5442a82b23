package parser

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	pgparser "github.com/pganalyze/pg_query_go/v5/parser"
	"google.golang.org/protobuf/proto"
)

// TestTreesAreThoseOfProtobuf: a tree that was read from JSON is the one that comes as protobuf; and all of them are read.
func TestTreesAreThoseOfProtobuf(t *testing.T) {
	t.Parallel()
	texts := []string{
		"", ";", "SELECT", "SELECT 0, -1, 2147483647, 2147483648, 1.5, 1e400, 0x1F, 1_000, NULL, true, false, B'101', X'1F'",
		`SELECT '<a "b" \ c>', E'\b\f\n\r\t\x01\x7f', 'ü€𝄞', "a""b", U&'\0441', $$x'y"z\$$`,
		"SELECT DISTINCT a FROM t", "SELECT - 1, -(0), - (1), 0, 00, -0, + 0", "SELECT a::int[0], b::int[], c::int ARRAY, d::int[ 0 ], e::int ARRAY[0], f::int[][3]", "SELECT x[0], '{}'::int[]",
		"CREATE TABLE t (a int DEFAULT -1, b int[]) WITH (fillfactor = 0)", "ALTER SEQUENCE s INCREMENT BY -1 MINVALUE 0", "SELECT interval '1' year, interval(0) '1'", "SELECT ARRAY[]::int[], ARRAY[[1],[2]], ROW(), (1, 2)", "VALUES (1, DEFAULT), (2, 3)",
		"SELECT a FROM t1, LATERAL (SELECT 1) x ORDER BY 1 NULLS FIRST FOR UPDATE OF t1 SKIP LOCKED",
	}
	for _, file := range corpus(t) {
		script, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, psqlStatements(string(script))...)
	}
	all, read := 0, 0
	for _, text := range texts {
		want, err := pg_query.Parse(text)
		json, other := pgparser.ParseToJSON(text)
		if err != nil {
			if other == nil || other.Error() != err.Error() {
				t.Errorf("%q: as JSON %v, as protobuf %v", text, other, err)
			}
			continue
		}
		got, err := readTree(text, json)
		all++
		if err != nil { // it comes as protobuf
			continue
		}
		read++
		if !proto.Equal(got, want) {
			t.Errorf("%q:\ngot  %v\nwant %v", text, got, want)
		}
	}
	if all < 1000 || read < all*9/10 {
		t.Errorf("%d trees were read, of %d", read, all)
	}
}

func BenchmarkTree(b *testing.B) {
	const sql = "SELECT o.id, o.note, sum(l.price) AS total FROM orders o JOIN lines l ON l.order_id = o.id AND l.tenant_id = 42 WHERE o.tenant_id = 42 AND o.state IN ('a', 'b') GROUP BY 1, 2 ORDER BY total DESC LIMIT 10"
	for name, parse := range map[string]func(string) (*pg_query.ParseResult, error){"json": treeOf, "protobuf": pg_query.Parse} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(sql); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzTree: whatever pg_query parses, its JSON is read as its protobuf is, or not at all.
func FuzzTree(f *testing.F) {
	for _, text := range []string{
		"SELECT -1, 0, '<é\"\\', $1::int[], x[0] FROM a.b c WHERE d IN (1, -2)", "CREATE TABLE t (a int[0] DEFAULT -0)", "VALUES (1, NULL), (B'1', E'\\n')",
		"INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING RETURNING *", "ALTER SEQUENCE s INCREMENT -1", "SET a = -1, 0", "SELECT ARRAY[0] :: int ARRAY [ 0 ]",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 || !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 || tooDeep(text) {
			return
		}
		json, err := pgparser.ParseToJSON(text)
		want, other := pg_query.Parse(text)
		if (err == nil) != (other == nil) {
			t.Fatalf("as JSON %v, as protobuf %v", err, other)
		}
		if err != nil {
			return
		}
		if got, err := readTree(text, json); err == nil && !proto.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}
