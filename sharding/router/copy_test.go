package router_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// copyFixture has a table with a bigint key in the middle, one with a text key at the end, and one with nothing but a key.
func copyFixture(t testing.TB) *router.Router {
	f := fixture{options: router.Options{Cluster: "shop", Shards: 2}}
	f.readConfig(t, `
		table orders tenant_id bigint 1,2=0 11,12=1
		table pages slug text acme,a,é=0 Acme,b=1 [x,y)=1
		table keys tenant_id bigint 1,2=0 11,12=1
		table docs owner uuid 00000000-0000-0000-0000-000000000001=0 00000000-0000-0000-0000-00000000000b=1`)
	f.options.Schema = schema(t, `
table orders id:int8 tenant_id:int8 note:text
table pages id:int8 slug:text
table keys tenant_id:int8
table docs id:int8 owner:uuid`)
	if e := f.rebuild(t); e != "" {
		t.Fatal(e)
	}
	return f.r
}

func newCopy(t testing.TB, r *router.Router, sql string, in *router.Input) *router.CopyRouter {
	t.Helper()
	rt := r.Route(parser.Parse(sql), nil)
	cr, e := rt.Copy(in)
	if e != nil {
		t.Fatalf("%s: %v", sql, e)
	}
	return cr
}

// feed sends data in pieces and returns the outcome at the end: the shard, "no rows", or the error.
func feed(cr *router.CopyRouter, data []byte, cuts ...int) string {
	at := 0
	for _, cut := range append(cuts, len(data)) {
		if _, _, e := cr.Feed(data[at:cut]); e != nil {
			return e.Code + " " + e.Routine
		}
		at = cut
	}
	shard, known, e := cr.Finish()
	switch {
	case e != nil:
		return e.Code + " " + e.Routine
	case !known:
		return "no rows"
	}
	return fmt.Sprintf("shard %d", shard)
}

func TestCopyRows(t *testing.T) {
	t.Parallel()
	r := copyFixture(t)
	for _, c := range []struct{ sql, data, want string }{
		{"COPY orders FROM STDIN", "1\t11\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\n2\t12\ty\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\n2\t1\ty\n", "0A000 cross_shard"},
		{"COPY orders FROM STDIN", "1\t7\tx\n", "42704 tenant_unknown"},
		{"COPY orders FROM STDIN", "1\t\\N\tx\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN", "1\t\tx\n", "22P02 "},
		{"COPY orders FROM STDIN", "1\tx\tx\n", "22P02 "},
		{"COPY orders FROM STDIN", "1\t 011 \tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t1\\61\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t\\x31\\x31\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "a\\\tb\t11\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "a\\\nb\t11\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\ta\\\\\n2\t12\tb\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\r\n2\t12\tx\r\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\r2\t12\tx\r", "shard 1"},
		{"COPY orders FROM STDIN", "1\n", "22P04 "},
		{"COPY orders FROM STDIN", "\n", "22P04 "},
		{"COPY orders FROM STDIN", "", "no rows"},
		{"COPY orders FROM STDIN", "\\.\n", "no rows"},
		{"COPY orders FROM STDIN", "\\.", "no rows"},
		{"COPY orders FROM STDIN", "1\t11\tx\n\\.\nthe rest is not read", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\n\\.\n1\t1\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\t\\.\n1\t1\tx\n", "shard 1"},
		{"COPY orders FROM STDIN", "1\t11\tx\n\\.x", "22P04 "},
		{"COPY orders (tenant_id, id) FROM STDIN", "11\t1\n", "shard 1"},
		{"COPY orders (tenant_id) FROM STDIN", "11\n12\n", "shard 1"},
		{"COPY orders FROM STDIN (DELIMITER '|')", "1|11|x\n", "shard 1"},
		{"COPY orders FROM STDIN (DELIMITER '|')", "a\\|b|11|x\n", "shard 1"},
		{"COPY orders FROM STDIN (NULL '')", "1\t\tx\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN (NULL '\\x31')", "1\t\\x31\tx\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN (HEADER)", "id\ttenant_id\tnote\n1\t11\tx\n", "shard 1"},
		{"COPY orders FROM STDIN (HEADER)", "id\ttenant_id\tnote\n", "no rows"},
		{"COPY orders FROM STDIN (DEFAULT '\\D')", "1\t\\D\tx\n", "42501 tenant_missing"},
		{"COPY pages FROM STDIN", "1\tacme\n", "shard 0"},
		{"COPY pages FROM STDIN", "1\tAcme\n", "shard 1"},
		{"COPY pages FROM STDIN", "1\t\\141\n", "shard 0"},
		{"COPY pages FROM STDIN", "1\t\\b\n", "42704 tenant_unknown"},
		{"COPY pages FROM STDIN", "1\t\\N\n", "22004 tenant_null"},
		{"COPY pages FROM STDIN", "1\t\n", "42704 tenant_unknown"},
		{"COPY pages FROM STDIN", "1\té\n", "shard 0"},
		{"COPY pages FROM STDIN (ENCODING 'latin1')", "1\t\xe9\n", "0A000 encoding"},
		{"COPY pages FROM STDIN (ENCODING 'latin1')", "1\tacme\n", "shard 0"},
		{"COPY keys FROM STDIN", "11\n\\.\n1\n", "shard 1"},
		{"COPY docs FROM STDIN", "1\t{0000000000000000000000000000000B}\n", "shard 1"},

		{"COPY orders FROM STDIN CSV", "1,11,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,11,x", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,\"11\",x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,1\"1\",x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "\"a,b\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "\"a\nb\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "\"a\n1,1,\nb\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "\"a\"\"\n1,1,\"\"b\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,,x\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN CSV", "1,\"\",x\n", "22P02 "},
		{"COPY orders FROM STDIN CSV", "1,11,x\r\n2,12,y\r\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,11,x\n2,1,y\n", "0A000 cross_shard"},
		{"COPY orders FROM STDIN CSV", "1,11,\"x\ny\"\n2,1,y\n", "0A000 cross_shard"},
		{"COPY orders FROM STDIN CSV", "1,11,x\n\\.\n2,12,x\n", "shard 1"},
		{"COPY orders FROM STDIN CSV", "1,11,x\n\\.\n2,1,x\n", "0A000 cross_shard"},
		{"COPY keys FROM STDIN CSV", "11\n\\.\n", "22P02 "},
		{"COPY orders FROM STDIN CSV HEADER", "id,tenant_id,\"no\nte\"\n1,11,x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, QUOTE '''')", "'a,b',11,x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, ESCAPE '\\')", "\"a\\\"\n,\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, ESCAPE '\\')", "\"a\\\\\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, ESCAPE '\\')", "\"a\\b\",11,x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, NULL 'nil')", "1,nil,x\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN (FORMAT csv, NULL '11')", "1,\"11\",x\n", "shard 1"},
		{"COPY orders FROM STDIN (FORMAT csv, NULL '11', FORCE_NULL (tenant_id))", "1,\"11\",x\n", "22004 tenant_null"},
		{"COPY orders FROM STDIN (FORMAT csv, NULL '11', FORCE_NOT_NULL (tenant_id))", "1,11,x\n", "shard 1"},
		{"COPY pages FROM STDIN (FORMAT csv, FORCE_NOT_NULL (slug))", "1,\n", "42704 tenant_unknown"},
		{"COPY pages FROM STDIN CSV", "1,\"ac\"\"me\"\n", "42704 tenant_unknown"},
		{"COPY pages FROM STDIN CSV", "1,\"acme\n", "42704 tenant_unknown"}, // no end of the quotes
	} {
		if got := feed(newCopy(t, r, c.sql, &router.Input{UTF8: true}), []byte(c.data)); got != c.want {
			t.Errorf("%s <- %q: got %s, want %s", c.sql, c.data, got, c.want)
		}
		for cut := range len(c.data) { // the same, cut in two anywhere
			if got := feed(newCopy(t, r, c.sql, &router.Input{UTF8: true}), []byte(c.data), cut); got != c.want {
				t.Errorf("%s <- %q cut at %d: got %s, want %s", c.sql, c.data, cut, got, c.want)
			}
		}
	}
}

// copyBinary makes the binary format of rows; a nil field is NULL.
func copyBinary(rows ...[][]byte) []byte {
	b := []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, row := range rows {
		b = binary.BigEndian.AppendUint16(b, uint16(len(row)))
		for _, f := range row {
			if f == nil {
				b = binary.BigEndian.AppendUint32(b, 0xffffffff)
				continue
			}
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		}
	}
	return append(b, 0xff, 0xff)
}

func int8Bytes(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func TestCopyBinary(t *testing.T) {
	t.Parallel()
	r := copyFixture(t)
	id, note := int8Bytes(1), []byte("x")
	good := copyBinary([][]byte{id, int8Bytes(11), note}, [][]byte{id, int8Bytes(12), nil})
	extended := append([]byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x03abc"), good[19:]...)
	for _, c := range []struct {
		name, sql string
		data      []byte
		want      string
	}{
		{"rows", "COPY orders FROM STDIN BINARY", good, "shard 1"},
		{"without a trailer", "COPY orders FROM STDIN BINARY", good[:len(good)-2], "shard 1"},
		{"extension", "COPY orders FROM STDIN BINARY", extended, "shard 1"},
		{"two shards", "COPY orders FROM STDIN BINARY", copyBinary([][]byte{id, int8Bytes(11), note}, [][]byte{id, int8Bytes(1), nil}), "0A000 cross_shard"},
		{"null", "COPY orders FROM STDIN BINARY", copyBinary([][]byte{id, nil, note}), "22004 tenant_null"},
		{"empty key", "COPY orders FROM STDIN BINARY", copyBinary([][]byte{id, {}, note}), "22P02 "},
		{"no rows", "COPY orders FROM STDIN BINARY", copyBinary(), "no rows"},
		{"nothing", "COPY orders FROM STDIN BINARY", nil, "22P04 "},
		{"no binary", "COPY orders FROM STDIN BINARY", []byte("1\t11\tx\nand more of the same\n"), "22P04 "},
		{"flags", "COPY orders FROM STDIN BINARY", []byte("PGCOPY\n\xff\r\n\x00\x00\x01\x00\x00\x00\x00\x00\x00"), "22P04 "},
		{"field count", "COPY orders FROM STDIN BINARY", copyBinary([][]byte{id, int8Bytes(11)}), "22P04 "},
		{"cut in a row", "COPY orders FROM STDIN BINARY", good[:40], "22P04 "},
		{"behind the end", "COPY orders FROM STDIN BINARY", append(slices.Clip(good), 0), "22P04 "},
		{"text key", "COPY pages FROM STDIN BINARY", copyBinary([][]byte{id, []byte("acme")}), "shard 0"},
		{"empty text", "COPY pages FROM STDIN BINARY", copyBinary([][]byte{id, {}}), "42704 tenant_unknown"},
		{"uuid", "COPY docs FROM STDIN BINARY", copyBinary([][]byte{id, {15: 11}}), "shard 1"},
	} {
		cr := newCopy(t, r, c.sql, &router.Input{UTF8: true})
		if !cr.Binary() {
			t.Errorf("%s is not binary", c.sql)
		}
		if got := feed(cr, c.data); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		for cut := range len(c.data) {
			if got := feed(newCopy(t, r, c.sql, &router.Input{UTF8: true}), c.data, cut); got != c.want {
				t.Errorf("%s cut at %d: got %s, want %s", c.name, cut, got, c.want)
			}
		}
	}
}

func TestCopyWithHint(t *testing.T) {
	t.Parallel()
	r := copyFixture(t)
	for hint, want := range map[string]string{"1": "shard 1", "0": "0A000 cross_shard"} {
		cr := newCopy(t, r, "COPY orders FROM STDIN", &router.Input{UTF8: true, Hint: router.Hint{Shard: hint}})
		if got := feed(cr, []byte("1\t11\tx\n")); got != want {
			t.Errorf("hint %s: got %s, want %s", hint, got, want)
		}
	}
	cr := newCopy(t, r, "COPY orders FROM STDIN", &router.Input{UTF8: true, Hint: router.Hint{Shard: "1"}})
	if shard, known, e := cr.Feed(nil); shard != 1 || !known || e != nil {
		t.Errorf("before the first row: got %d, %v, %v; the hint names the shard", shard, known, e)
	}
}

func TestCopyColumnCount(t *testing.T) {
	t.Parallel()
	r := copyFixture(t)
	for sql, want := range map[string]int{"COPY orders FROM STDIN": 3, "COPY orders (id, tenant_id) FROM STDIN": 2, "COPY keys FROM STDIN": 1} {
		if cr := newCopy(t, r, sql, &router.Input{UTF8: true}); cr.ColumnCount() != want || cr.Binary() {
			t.Errorf("%s: got %d columns, want %d", sql, cr.ColumnCount(), want)
		}
	}
	if _, e := r.Route(parser.Parse("SELECT 1"), nil).Copy(&router.Input{UTF8: true}); e == nil {
		t.Error("a SELECT is no COPY")
	}
	if _, e := r.Route(parser.Parse("COPY nowhere FROM STDIN"), nil).Copy(&router.Input{UTF8: true}); e == nil {
		t.Error("a refused COPY was begun")
	}
}

func TestCopyKeepsNoMoreThanAKey(t *testing.T) {
	r := copyFixture(t)
	big := []byte(strings.Repeat("x", 1<<20))
	cr := newCopy(t, r, "COPY orders FROM STDIN", &router.Input{UTF8: true})
	if got := feed(cr, append(append(append([]byte{}, big...), "\t11\t"...), big...)); got != "shard 1" {
		t.Errorf("long fields: got %s", got)
	}
	cr = newCopy(t, r, "COPY orders FROM STDIN", &router.Input{UTF8: true})
	if got := feed(cr, append([]byte("1\t"), big...)); got != "54000 " {
		t.Errorf("long key: got %s, want 54000", got)
	}
	cr = newCopy(t, r, "COPY orders FROM STDIN", &router.Input{UTF8: true})
	row := []byte(strings.Repeat("1\t11\tnothing\n", 100))
	if n := testing.AllocsPerRun(20, func() { _, _, _ = cr.Feed(row) }); n != 0 {
		t.Errorf("%v allocations for 100 rows, want 0", n)
	}
}

var copyTexts = []string{
	"COPY orders FROM STDIN", "COPY orders FROM STDIN CSV", "COPY orders FROM STDIN CSV HEADER", "COPY orders FROM STDIN (FORMAT csv, ESCAPE '\\')",
	"COPY orders FROM STDIN BINARY", "COPY pages FROM STDIN", "COPY pages FROM STDIN CSV", "COPY orders FROM STDIN (HEADER, DELIMITER '1')", "COPY keys FROM STDIN",
}

// FuzzCopyCuts holds that it does not matter how the data is cut into messages.
func FuzzCopyCuts(f *testing.F) {
	f.Add(byte(0), []byte("1\t11\tx\n2\t12\ty\n\\.\n"), uint64(1))
	f.Add(byte(1), []byte("1,\"1\"\"1\",x\r\n"), uint64(2))
	f.Add(byte(3), []byte("\"a\\\"\",11,x\n"), uint64(3))
	f.Add(byte(4), copyBinary([][]byte{int8Bytes(1), int8Bytes(11), []byte("x")}), uint64(4))
	r := copyFixture(f)
	f.Fuzz(func(t *testing.T, which byte, data []byte, seed uint64) {
		sql := copyTexts[int(which)%len(copyTexts)]
		in := &router.Input{UTF8: true}
		want := feed(newCopy(t, r, sql, in), data)
		random := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for at := 0; at < len(data); at += 1 + random.IntN(1+random.IntN(9)) {
			cuts = append(cuts, at)
		}
		if got := feed(newCopy(t, r, sql, in), data, cuts...); got != want {
			t.Fatalf("%s <- %q cut at %v: got %s, want %s", sql, data, cuts, got, want)
		}
	})
}

// TestCopyOracle sends random data to a real server too: of rows that it stores, all must live on the shard that the
// router named, and there must be rows only if it named one.
func TestCopyOracle(t *testing.T) {
	t.Parallel()
	r := copyFixture(t)
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, `
		CREATE TABLE orders (id text, tenant_id bigint, note text);
		CREATE TABLE pages (id text, slug text);
		CREATE TABLE keys (tenant_id bigint);`)
	conn, err := pgconn.Connect(t.Context(), pg.DSN(db, pgtest.Superuser, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	count := 3000
	if testing.Short() {
		count = 500
	}
	texts := []string{
		"COPY orders FROM STDIN", "COPY orders FROM STDIN CSV", "COPY orders FROM STDIN CSV HEADER", "COPY orders FROM STDIN (FORMAT csv, ESCAPE '\\')",
		"COPY pages FROM STDIN", "COPY pages FROM STDIN CSV", "COPY orders FROM STDIN (HEADER)", "COPY keys FROM STDIN", "COPY keys FROM STDIN CSV",
		"COPY pages FROM STDIN (FORMAT csv, QUOTE '''', NULL 'a', FORCE_NULL (slug))", "COPY pages FROM STDIN (FORMAT csv, NULL 'a', FORCE_NOT_NULL (slug))",
		"COPY orders FROM STDIN (DELIMITER '|', NULL '')",
	}
	shardOf := map[string]string{"1": "shard 0", "2": "shard 0", "11": "shard 1", "12": "shard 1", "acme": "shard 0", "a": "shard 0", "é": "shard 0", "Acme": "shard 1", "b": "shard 1"}
	stored := 0
	for i := range count {
		g := rand.New(rand.NewPCG(5, uint64(i)))
		sql := texts[g.IntN(len(texts))]
		data := copyNoise(g, sql)
		got := feed(newCopy(t, r, sql, &router.Input{UTF8: true}), []byte(data))
		table, key := strings.Fields(sql)[1], "tenant_id"
		if table == "pages" {
			key = "slug"
		}
		if _, err := conn.Exec(t.Context(), "BEGIN").ReadAll(); err != nil {
			t.Fatal(err)
		}
		tag, err := conn.CopyFrom(t.Context(), strings.NewReader(data), sql)
		var keys []string
		if err == nil {
			if keys, err = ask(conn, "SELECT "+key+" FROM "+table, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Exec(t.Context(), "ROLLBACK").ReadAll(); err != nil {
			t.Fatal(err)
		}
		if err != nil || !strings.HasPrefix(got, "shard") && got != "no rows" {
			continue
		}
		if tag.RowsAffected() > 0 {
			stored++
		}
		if got == "no rows" && len(keys) > 0 {
			t.Errorf("%s <- %q: the router saw no rows, the server %q", sql, data, keys)
		}
		for _, k := range keys {
			want := shardOf[k]
			if want == "" && k >= "x" && k < "y" {
				want = "shard 1"
			}
			if want != got {
				t.Errorf("%s <- %q: the router says %s, the server stores %q", sql, data, got, keys)
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d were stored", stored, count)
	if stored < count/20 {
		t.Errorf("%d of %d were stored: the test has become useless", stored, count)
	}
}

// copyNoise writes data that is nearly what the statement wants.
func copyNoise(g *rand.Rand, sql string) string {
	delimiter, quote := "\t", ""
	switch {
	case strings.Contains(sql, "'|'"):
		delimiter = "|"
	case strings.Contains(strings.ToLower(sql), "csv"):
		delimiter, quote = ",", "\""
		if strings.Contains(sql, "QUOTE") {
			quote = "'"
		}
	}
	width := map[string]int{"orders": 3, "pages": 2, "keys": 1}[strings.Fields(sql)[1]]
	eol := []string{"\n", "\n", "\n", "\r\n", "\r"}[g.IntN(5)]
	noise := []string{"", "\\", "\\\\", "\\n", "\\" + delimiter, "\\\n", quote, quote + quote, "\\x31", "\\061", " ", "x", "\\N", "\\.", "a" + quote}
	keys := [][]string{{"1", "2", "01"}, {"11", "12", " 11"}}[g.IntN(2)]
	if width == 2 {
		keys = [][]string{{"acme", "a", "é"}, {"Acme", "b", "x", "xx", "x\\n"}}[g.IntN(2)]
	}
	field := func(isKey bool) string {
		s := noise[g.IntN(len(noise))]
		if isKey {
			s = keys[g.IntN(len(keys))]
			if g.IntN(8) == 0 {
				s += noise[g.IntN(len(noise))]
			}
		} else if g.IntN(2) == 0 {
			s = "y"
		}
		if quote != "" && g.IntN(3) == 0 {
			s = quote + strings.ReplaceAll(s, quote, quote+quote) + []string{"", "", "\n", ",", eol}[g.IntN(5)%(1+4*b2i(!isKey))] + quote
		}
		return s
	}
	var out strings.Builder
	if strings.Contains(sql, "HEADER") {
		out.WriteString("header" + eol)
	}
	for range g.IntN(4) {
		for i := range width {
			if i > 0 {
				out.WriteString(delimiter)
			}
			out.WriteString(field(i == 1 || width == 1))
		}
		out.WriteString(eol)
		if g.IntN(12) == 0 {
			out.WriteString("\\." + eol)
		}
	}
	s := out.String()
	if g.IntN(4) == 0 {
		s = strings.TrimSuffix(s, eol)
	}
	return s
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
