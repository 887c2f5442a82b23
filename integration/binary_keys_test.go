package integration

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestBinaryKeys: a parameter in binary format means what the server takes it for, whoever said of which type it is: the Parse message, SQL's PREPARE, a
// cast, or the place where it stands first. Rows are found and stored where their key lives, or the statement is refused.
func TestBinaryKeys(t *testing.T) {
	t.Parallel()
	const text, short, number = "text", "varchar", "bigint"
	tables := map[string]string{"n": number, "s": number, "i": number, "u": "uuid", "t": text, "v": short}
	rest := ""
	for _, name := range []string{"n", "s", "i", "u", "t", "v"} {
		rest += fmt.Sprintf("\n[[sharded_tables]]\ndatabase = \"saas\"\nname = %q\ncolumn = \"k\"\ndata_type = %q\n", name, tables[name])
	}
	const also = ", f float8, r float4, o oid, x numeric, e text);"
	s := start(t, spec{shards: 3, rest: rest, schema: "CREATE TABLE n (k bigint" + also + "CREATE TABLE s (k smallint" + also + "CREATE TABLE i (k int" + also +
		"CREATE TABLE u (k uuid" + also + "CREATE TABLE t (k text" + also + "CREATE TABLE v (k varchar(40)" + also})
	uuid := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012x", n) }
	keys := map[string]func(n int) string{
		"n": func(n int) string { return fmt.Sprint(n) }, "u": uuid, "t": func(n int) string { return fmt.Sprintf("key %d", n) },
	}
	keys["s"], keys["i"], keys["v"] = keys["n"], keys["n"], keys["t"]
	const rows = 12
	c := s.connect(t)
	for table, key := range keys {
		for n := range rows {
			if got := outcome(c.Query(fmt.Sprintf("INSERT INTO %s VALUES ('%s', %d, %d, %d, %d, 'e')", table, key(n), n, n, n, n))); got != "INSERT 0 1; I" {
				t.Fatal(got)
			}
		}
	}
	int2 := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	int4 := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	int8 := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	float8 := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, math.Float64bits(float64(n))) }
	float4 := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(n))) }
	numeric := func(n int) []byte {
		if n == 0 {
			return []byte{0, 0, 0, 0, 0, 0, 0, 2} // as long as a bigint
		}
		return append([]byte{0, 1, 0, 0, 0, 0, 0, 0}, int2(n)...)
	}
	ids := func(n int) []byte { return append(make([]byte, 14), int2(n)...) }
	texts := func(n int) []byte { return []byte(keys["t"](n)) }
	for _, x := range []struct {
		sql   string
		value func(n int) []byte
		types []uint32
		may   bool // be refused
	}{
		{"SELECT f FROM n WHERE k = $1", int8, nil, false},
		{"SELECT f FROM s WHERE k = $1", int2, nil, false},
		{"SELECT f FROM i WHERE k = $1", int4, nil, false},
		{"SELECT f FROM n WHERE k = $1::int4", int4, nil, false},
		{"SELECT f FROM n WHERE k = $1::int2", int2, nil, false},
		{"SELECT f FROM n WHERE k = $1", int4, []uint32{23}, false},
		{"SELECT f FROM n WHERE k = $1", int2, []uint32{21}, false},
		{"SELECT f FROM n WHERE k = $1", float8, []uint32{701}, true},
		{"SELECT f FROM n WHERE k = $1", float4, []uint32{700}, true},
		{"SELECT f FROM n WHERE k = $1", numeric, []uint32{1700}, true},
		{"SELECT f FROM u WHERE k = $1", ids, nil, false},
		{"SELECT f FROM u WHERE k = $1::uuid", ids, nil, false},
		{"SELECT f FROM t WHERE k = $1", texts, nil, false},
		{"SELECT f FROM v WHERE k = $1", texts, nil, false},
		{"SELECT f FROM v WHERE k = $1", texts, []uint32{25}, false},
		{"SELECT f FROM n WHERE f >= 0 AND k = $1 AND k = $1", int8, nil, false},
		{"SELECT f FROM n WHERE o >= 0 AND f::int8 = $1 AND k = $1", int8, nil, false},
		{"SELECT f FROM n WHERE k = $1 AND f = ($1::int8)::float8", int8, nil, false},
		// Another place decides.
		{"SELECT $1::float8 FROM n WHERE k = $1", float8, nil, true},
		{"SELECT f FROM n WHERE abs(f) = abs($1::float8) AND k = $1", float8, nil, true},
		{"SELECT f FROM n WHERE abs(x) = abs($1::numeric(10, 2)) AND k = $1", numeric, nil, true},
		{"WITH w AS (SELECT $1::float8 AS a) SELECT f FROM n, w WHERE k = $1", float8, nil, true},
		{"INSERT INTO n (f, k) SELECT $1::float8, $1 RETURNING k", float8, nil, true},
		{"SELECT f FROM n WHERE f = $1 AND k = $1", float8, nil, true},
		{"SELECT f FROM n WHERE k = $1 AND r = $1", int8, nil, true},
		{"SELECT f FROM n WHERE abs(f) = abs($1) AND k = $1", float8, nil, true},
		{"SELECT f FROM n WHERE k IN ($1, 1e9::float8)", float8, nil, true},
		{"SELECT f FROM n WHERE k = ANY (ARRAY[$1, 1e9::float8])", float8, nil, true},
		{"SELECT f FROM n WHERE k::numeric = $1", numeric, nil, true},
		{"SELECT n.f FROM n, (VALUES (0::float8)) w(k) WHERE w.k <= $1 AND n.k = $1", float8, nil, true},
		{"SELECT n.f FROM n JOIN (SELECT $1 AS a UNION SELECT 1e9::float8) w ON n.k = w.a", float8, nil, true},
		{"SELECT n.f FROM n JOIN (VALUES ($1), (1e9::float8)) w(a) ON n.k = w.a", float8, nil, true},
		{"UPDATE n SET f = $1 WHERE k = $1 RETURNING f", int8, nil, true},
		// All places say the same.
		{"SELECT f FROM n WHERE k = $1 AND $1 IS NOT NULL", int8, nil, false},
		{"SELECT f FROM n WHERE (k, f) IN (($1, f), ($1, -1))", int8, nil, false},
		{"SELECT f FROM n WHERE k BETWEEN $1 AND $1 AND k IN ($1, $1)", int8, nil, false},
		{"UPDATE n SET k = $1 WHERE k = $1 RETURNING k", int8, nil, false},
		{"INSERT INTO n VALUES ($1) RETURNING k", int8, nil, false},
		{"INSERT INTO n (k) VALUES ($1), ($1) ON CONFLICT DO NOTHING RETURNING k", int8, nil, false},
		// PREPARE says so.
		{"PREPARE p (int8) AS SELECT f FROM n WHERE k = $1", int8, nil, false},
		{"PREPARE p (int) AS SELECT f FROM n WHERE k = $1", int4, nil, false},
		{"PREPARE p (smallint) AS SELECT f FROM n WHERE k = $1", int2, nil, false},
		{"PREPARE p (float8) AS SELECT f FROM n WHERE k = $1", float8, nil, true},
		{"PREPARE p (real) AS SELECT f FROM n WHERE k = $1", float4, nil, true},
		{"PREPARE p (numeric(10, 2)) AS SELECT f FROM n WHERE k = $1", numeric, nil, true},
		{"PREPARE p (oid) AS SELECT f FROM n WHERE k = $1", int4, nil, true},
		{"PREPARE p (float8) AS INSERT INTO n (k) VALUES ($1) RETURNING k", float8, nil, true},
		{"PREPARE p (unknown) AS SELECT f FROM n WHERE k = $1", int8, nil, true},
		{"PREPARE p AS SELECT f FROM n WHERE k = $1", int8, nil, false},
		{"PREPARE p AS SELECT f FROM i WHERE k = $1", int4, nil, false},
		{"PREPARE p (uuid) AS SELECT f FROM u WHERE k = $1", ids, nil, false},
		{"PREPARE p AS SELECT f FROM u WHERE k = $1", ids, nil, false},
		{"PREPARE p (text) AS SELECT f FROM t WHERE k = $1", texts, nil, false},
		{"PREPARE p (varchar(3)) AS SELECT f FROM t WHERE k = $1", texts, nil, true},
		{"PREPARE p AS SELECT f FROM v WHERE k = $1", texts, nil, false},
	} {
		for _, described := range []bool{false, true} {
			refused, wrong := "", 0
			c := s.connect(t)
			for n := range rows {
				name := ""
				if strings.HasPrefix(x.sql, "PREPARE") {
					if name = "p"; n == 0 {
						if got := outcome(c.Query(x.sql)); got != "PREPARE; I" {
							t.Errorf("%s: %s", x.sql, got)
						}
					}
				} else if got := prepareAs(c, "", x.sql, x.types...); got != "I" {
					t.Errorf("%s: %s", x.sql, got)
				}
				if described {
					c.Send(&pgproto3.Describe{ObjectType: 'S', Name: name}, &pgproto3.Sync{})
					c.UntilReady()
				}
				c.Send(&pgproto3.Bind{PreparedStatement: name, ParameterFormatCodes: []int16{1}, Parameters: [][]byte{x.value(n)}}, &pgproto3.Execute{}, &pgproto3.Sync{})
				switch got := outcome(c.UntilReady()); {
				case strings.HasPrefix(got, "42501 ") || strings.HasPrefix(got, "0A000 "):
					refused = got
				case !strings.HasPrefix(got, fmt.Sprint(n)+"; "):
					wrong++
					t.Logf("%s: %d: %s", x.sql, n, got)
				}
			}
			if may := x.may && !(described && x.types == nil && !strings.HasPrefix(x.sql, "PREPARE")) || strings.Contains(x.sql, "1e9"); wrong > 0 || refused != "" && !may {
				t.Errorf("%s, described %v: wrong %d of %d, refused %q", x.sql, described, wrong, rows, refused)
			}
		}
	}
	for i := range s.shards { // what was stored is where it is looked for
		for _, k := range s.shards[i].rows(t, "SELECT DISTINCT k FROM n") {
			if got := outcome(c.Query("SELECT DISTINCT k FROM n WHERE k = " + k)); got != k+"; SELECT 1; I" {
				t.Errorf("key %s is on shard %d, where pgkennel does not look for it: %s", k, i, got)
			}
		}
	}
}

// TestKeysBeyondFloats: a key that is sent as text, is more than a float8 holds, and whose type may come from elsewhere finds and stores its own rows, or is
// refused.
func TestKeysBeyondFloats(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		shards: 3, rest: "\n[[sharded_tables]]\ndatabase = \"saas\"\nname = \"n\"\ncolumn = \"k\"\ndata_type = \"bigint\"\n",
		schema: "CREATE TABLE n (k bigint, f float8, e text, parent bigint)",
	})
	const first = 1 << 53
	c := s.connect(t)
	for n := range 8 {
		k := fmt.Sprint(first + n)
		if got := outcome(c.Query("INSERT INTO n VALUES (" + k + ", " + k + ", '" + k + "', " + k + ")")); got != "INSERT 0 1; I" {
			t.Fatal(got)
		}
	}
	for _, x := range []struct {
		sql string
		may bool // be refused
	}{
		{"SELECT k FROM n WHERE k = $1", false},
		{"SELECT a.k FROM n a JOIN n b ON a.k = b.k WHERE a.k = $1 AND b.k = $1", false},
		{"SELECT k FROM n WHERE k = $1::int8 AND e = $1::text", false},
		{"SELECT k FROM n WHERE k = $1 AND f > 0", false},
		{"SELECT k FROM n WHERE parent = $1 AND k = $1", false},
		{"SELECT a.k FROM n a JOIN n b ON a.k = b.k WHERE a.parent = $1 AND b.k = $1 AND a.e = $1::text", true}, // a text is no bigint
		{"SELECT k FROM n WHERE f = $1 AND k = $1", true},
		{"SELECT k FROM n WHERE k = $1 AND f = $1::float8", true},
		{"SELECT k FROM n WHERE abs(f) = abs($1::float8) AND k = $1", true},
		{"INSERT INTO n (f, k) SELECT $1::float8, $1 RETURNING k", true},
		{"INSERT INTO n (f, k) VALUES ($1, $1) RETURNING k", true},
	} {
		for n := range 8 {
			k := fmt.Sprint(first + n)
			c.Send(&pgproto3.Parse{Query: x.sql}, &pgproto3.Bind{Parameters: [][]byte{[]byte(k)}}, &pgproto3.Execute{}, &pgproto3.Sync{})
			got := outcome(c.UntilReady())
			if refused := strings.HasPrefix(got, "42501 "); refused && !x.may || !refused && !strings.HasPrefix(got, k+"; ") {
				t.Errorf("%s of %s: %s", x.sql, k, got)
			}
		}
	}
}
