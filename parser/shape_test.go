package parser

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"
)

// facts is what m says of sql, without the places of its values.
func facts(m *Message, sql []byte, list []Literal) string {
	eachValue(reflect.ValueOf(m.Statements), map[uintptr]bool{}, func(v *Value) {
		v.Start, v.End = 0, 0
		if v.Literal == 0 {
			return
		}
		kind, text, ok := list[v.Literal-1].Value(sql)
		if !ok { // the router takes another way: see sameLines
			return
		}
		if v.Negative && text != "0" {
			text = "-" + text
		}
		v.Kind, v.Text, v.Literal, v.Negative = kind, text, 0, false
	})
	for _, s := range m.Statements {
		s.Start, s.End = 0, 0
	}
	return m.String()
}

// sameLines compares line by line, but for those with a literal that Literal.Value leaves alone.
func sameLines(got, want string) bool {
	one, other := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range one {
		if i >= len(other) || one[i] != other[i] && !strings.Contains(one[i], "literal ") {
			return false
		}
	}
	return len(one) == len(other)
}

// eachValue walks everything that is reached from x.
func eachValue(x reflect.Value, seen map[uintptr]bool, f func(*Value)) {
	switch x.Kind() {
	case reflect.Pointer:
		if x.IsNil() || seen[x.Pointer()] {
			return
		}
		seen[x.Pointer()] = true
		eachValue(x.Elem(), seen, f)
	case reflect.Slice:
		for i := range x.Len() {
			eachValue(x.Index(i), seen, f)
		}
	case reflect.Struct:
		if v, ok := reflect.TypeAssert[*Value](x.Addr()); ok {
			f(v)
			return
		}
		for _, field := range x.Fields() {
			if field.CanInterface() { // the parser's facts have no others
				eachValue(field, seen, f)
			}
		}
	default:
	}
}

// other writes another text of the shape: other literals, some of them odd.
func other(r *rand.Rand, sql string, list []Literal, pinned []int) string {
	var b strings.Builder
	last := 0
	for i, l := range list {
		b.WriteString(sql[last:l.Start])
		last = int(l.End)
		raw := sql[l.Start:l.End]
		for _, p := range pinned {
			if p == i {
				b.WriteString(raw)
				raw = ""
			}
		}
		switch {
		case raw == "":
		case l.Kind == TokenInteger:
			b.WriteString([]string{"0", "1", "2", "7", "42", "2147483647", "2147483648", "9223372036854775808", "0x1F", "1_000", "007"}[r.IntN(11)])
		case l.Kind == TokenFloat:
			b.WriteString([]string{"0.0", "1.5", "1e3", "12.25", "1_0.0"}[r.IntN(5)])
		default:
			b.WriteString([]string{"''", "'t'", "'f'", "'true'", "'1'", "'it''s'", "E'a\\\\tb'", "$$x$$", "$q$ 'y' $q$", "'search_path'", "'ü'", "'{1,2}'", "'now'"}[r.IntN(13)])
		}
	}
	b.WriteString(sql[last:])
	return b.String()
}

// checkShape holds that a Message made for a shape says of each text of the shape what Parse says of that text.
func checkShape(t *testing.T, r *rand.Rand, sql string, texts int) (shaped bool) {
	t.Helper()
	var s Shape
	if !s.Of([]byte(sql)) {
		return false
	}
	key, list := string(s.Key), append([]Literal(nil), s.Literals...)
	m, pinned := parseShape(sql, list)
	if m == nil {
		return false
	}
	for n := range texts {
		text := sql
		if n > 0 {
			text = other(r, sql, list, pinned)
		}
		var o Shape
		if !o.Of([]byte(text)) || string(o.Key) != key { // long, or odd
			continue
		}
		fresh := Parse(text)
		if fresh.Unparsable != nil {
			t.Fatalf("%q: %v, but %q can be parsed", text, fresh.Unparsable, sql)
		}
		again, _ := parseShape(sql, list)
		got, want := facts(again, []byte(text), o.Literals), facts(fresh, nil, nil)
		if !sameLines(got, want) {
			t.Fatalf("%q by the shape of %q:\n%s\nby itself:\n%s\npinned %v", text, sql, got, want, pinned)
		}
	}
	return true
}

// TestShapesOfTheCorpus holds it for the statements of PostgreSQL's regression tests.
func TestShapesOfTheCorpus(t *testing.T) {
	t.Parallel()
	var candidates, shaped atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d of %d", shaped.Load(), candidates.Load())
		if shaped.Load() < 50 || shaped.Load() < candidates.Load()*9/10 {
			t.Errorf("%d of %d statements can stand for their shape", shaped.Load(), candidates.Load())
		}
	})
	for _, path := range corpus(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, 2))
			for i, sql := range psqlStatements(string(script)) {
				if i%3 != 0 || underRace && i%20 != 0 {
					continue
				}
				var s Shape
				if !s.Of([]byte(sql)) || Parse(sql).Unparsable != nil {
					continue
				}
				candidates.Add(1)
				if checkShape(t, r, sql, 3) {
					shaped.Add(1)
				}
			}
		})
	}
}

// FuzzShape holds it for any text.
// ofByTokens is Shape.Of by the Scanner alone, token by token.
func (s *Shape) ofByTokens(sql []byte) bool {
	s.Key, s.Literals = append(s.Key[:0], shapeKey), s.Literals[:0]
	text := bytesAsString(sql)
	sc := Scanner{text: text}
	key := s.Key
	last, high := 0, false
	first, ended := true, false
	for {
		tok := sc.Next()
		if tok.Kind == TokenEnd {
			break
		}
		switch tok.Kind {
		case TokenLineComment, TokenBlockComment:
			if mayHint(text[tok.Start:tok.End]) {
				key = append(append(append(key, ' '), text[tok.Start:tok.End]...), '\n')
			}
			last = -1 // a gap
			continue
		default:
		}
		if ended {
			return false
		}
		if tok.Kind == TokenPunct && text[tok.Start] == ';' {
			ended = true
			continue
		}
		if tok.Start != last && len(key) > 1 {
			key = append(key, ' ')
		}
		last = tok.End
		mark := byte(0)
		if first && tok.Kind != TokenWord && text[tok.Start] != '(' {
			return false
		}
		switch tok.Kind {
		case TokenWord:
			if first {
				if !shaped(text[tok.Start:tok.End]) {
					return false
				}
				first = false
			}
			key = append(key, text[tok.Start:tok.End]...)
			continue
		case TokenPunct:
			c := text[tok.Start]
			if c < ' ' {
				return false
			}
			key = append(key, text[tok.Start:tok.End]...)
			continue
		case TokenInteger:
			if mark = integerMark(text[tok.Start:tok.End]); mark == 0 {
				key = append(key, text[tok.Start:tok.End]...)
				continue
			}
		case TokenFloat:
			mark = markFloat
		case TokenString, TokenEscapeString, TokenDollarString:
			mark = markString
		case TokenUnicodeString, TokenUnicodeIdent, TokenError:
			return false
		case TokenQuotedIdent, TokenBitString, TokenHexString, TokenParam, TokenOperator:
			key = append(key, text[tok.Start:tok.End]...)
			continue
		default:
			return false
		}
		key = append(key, mark)
		s.Literals = append(s.Literals, Literal{tok.Kind, int32(tok.Start), int32(tok.End)})
	}
	s.Key = key
	for i := range sql { // what is not UTF-8 is parsed in another way, and so is a zero byte
		if sql[i] == 0 {
			return false
		}
		high = high || sql[i] >= utf8.RuneSelf
	}
	return !first && (!high || utf8.Valid(sql))
}

// sameByTokens checks Shape.Of against the Scanner.
func sameByTokens(t *testing.T, sql string) {
	t.Helper()
	var got, want Shape
	a, b := got.Of([]byte(sql)), want.ofByTokens([]byte(sql))
	if a != b || a && (string(got.Key) != string(want.Key) || !slices.Equal(got.Literals, want.Literals)) {
		t.Errorf("%q: got %v %q %v, want %v %q %v", sql, a, got.Key, got.Literals, b, want.Key, want.Literals)
	}
}

func FuzzShapeByTokens(f *testing.F) {
	for _, sql := range []string{
		"select 1", " ( select 'a'  'b'::text, 1.5e3 from t where a=-1 and b>=$1)", "select/*c*/1/* pgdog_shard: 1 */;", "select 1..2, .5, a.b, 0x1f, 1_0",
		"with a as (select $$x$$) select * from a -- x\n;;", "select E'\\'' , U&'a', \"q\" @> '{}' [1:2] \v", "select '\u00e9', é, \xff", "/*\x00*/select", "select 'é' -- \x00",
	} {
		f.Add(sql)
	}
	f.Fuzz(sameByTokens)
}

func FuzzShape(f *testing.F) {
	for _, sql := range []string{
		"SELECT * FROM orders WHERE tenant_id = 5", "SELECT a, count(*) FROM t WHERE x = 'y' GROUP BY 1, 2 ORDER BY 2 LIMIT 10",
		"INSERT INTO t VALUES (1, 'a'), (-2, E'b'), (- -3, $$c$$)", "UPDATE t SET a = 1 WHERE b = '7'::int8 AND c = -(5::int2)",
		"/* pgdog_shard: 1 */ SELECT 1; -- x", "SELECT set_config('search_path', 'a', true), 1 = 1, 't' WHERE 'f'",
		"WITH x AS (DELETE FROM t WHERE a = ANY ('{1,2}') RETURNING *) SELECT * FROM x WHERE 1 IN (1, 2)", "SELECT 1/**/2, a--\n-1",
		"/*\x00*/SELECT", "SELECT 'é' -- \x00",
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if len(sql) > 4000 || tooDeep(sql) {
			return
		}
		checkShape(t, rand.New(rand.NewPCG(1, 2)), sql, 4)
	})
}

// TestShapes tells which texts share a shape, and which literals keep them apart.
func TestShapes(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		one, other string
		same       bool
	}{
		{"SELECT 1", "select 2", false}, // as written
		{"SELECT 1", "SELECT  /* x */ 2 ;", true},
		{"SELECT 1", "SELECT\n2 -- two", true},
		{"SELECT 1", "SELECT 1.0", false},
		{"SELECT 'a'", "SELECT $$b$$", true},
		{"SELECT a", "SELECT\ta", true},
		{"SELECT a b", "SELECT a/**/b", true},
		{"SELECT a b", "SELECT ab", false},
		{"SELECT a-1", "SELECT a - 2", false},
		{"SELECT \"a\"", "SELECT \"b\"", false},
		{"SELECT $1", "SELECT $2", false},
		{"SELECT B'1'", "SELECT B'0'", false},
		{"SELECT a FROM t GROUP BY 1", "SELECT a FROM t GROUP BY 2", false},
		{"SELECT a FROM t ORDER BY 1 LIMIT 5", "SELECT a FROM t ORDER BY 2 LIMIT 6", true},
		{"SELECT a FROM t WHERE 1 = 1 AND b = 2", "SELECT a FROM t WHERE 1 = 0 AND b = 2", false},
		{"SELECT a FROM t WHERE 't' OR b = 1", "SELECT a FROM t WHERE 'f' OR b = 1", false},
		{"SELECT set_config('a.b', 'x', true)", "SELECT set_config('a.b', 'y', true)", false},
		{"/* pgdog_shard: 0 */ SELECT 1", "/* pgdog_shard: 1 */ SELECT 1", false},
		{"/* pgdog_shard: 0 */ SELECT 1", "/* pgdog_shard: 0 */ SELECT 7", true},
		{"SELECT 1 WHERE a = -5", "SELECT 1 WHERE a = -7", true},
	} {
		c := NewCache(1 << 20)
		var s Shape
		one := parseTwice(c, []byte(x.one), &s)
		if got := c.GetShape([]byte(x.other), &s) == one; got != x.same {
			t.Errorf("%q and %q: same is %v", x.one, x.other, got)
		}
		if c.GetShape([]byte(x.one), &s) != one {
			t.Errorf("%q is not kept", x.one)
		}
		if !one.Shaped || one.Unparsable != nil {
			t.Errorf("%q has no shape", x.one)
		}
	}
	for _, sql := range []string{"BEGIN", "SELECT 1; SELECT 2", "SET a = 1", "SELECT U&'x'", "SELECT '", "SELECT \x01", "", ";", "SELECT 'a\xff'", "SELECT \x00", "COPY t FROM STDIN"} {
		var s Shape
		if s.Of([]byte(sql)) {
			t.Errorf("%q has a shape", sql)
		}
	}
}

// parseTwice makes the shape of a text known.
func parseTwice(c *Cache, sql []byte, s *Shape) *Message {
	c.ParseShape(sql, s, "")
	return c.ParseShape(sql, s, "")
}

// The first text of a shape is for itself; from the second on they have one Message.
func TestShapesMetOnce(t *testing.T) {
	c := NewCache(1 << 20)
	var s Shape
	texts := [][]byte{[]byte("SELECT a FROM t WHERE b = 1"), []byte("SELECT a FROM t WHERE b = 2"), []byte("SELECT a FROM t WHERE b = 3")}
	first, second, third := c.ParseShape(texts[0], &s, ""), c.ParseShape(texts[1], &s, ""), c.ParseShape(texts[2], &s, "")
	if first.Shaped || !second.Shaped || third != second {
		t.Errorf("got %v, %v, %v", first.Shaped, second.Shaped, third == second)
	}
	for i, sql := range texts {
		if got := c.GetShape(sql, &s); got != second {
			t.Errorf("text %d is not found by its shape", i)
		}
	}
	if without := c.ParseShape([]byte("SELECT a FROM t"), &s, ""); !without.Shaped {
		t.Error("a text without literals is not known at once")
	}
	for i := range 5000 {
		c.ParseShape([]byte("SELECT a"+strings.Repeat("a", i%40)+", b"+strings.Repeat("b", i/40)+" FROM t WHERE b = 1"), &s, "")
	}
	for i := range c.shards {
		if n := len(c.shards[i].mu.seen) + len(c.shards[i].mu.oldSeen); n > 2*maxSeen {
			t.Errorf("%d shapes are remembered", n)
		}
	}
}

// Texts that come again as they are are known as they are, with literals or without; others by their shape.
func TestTextsAndShapes(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"SELECT a FROM t WHERE b = $1 AND c = %d", "SELECT a FROM t WHERE b = $1 /* %d */", "SELECT a FROM t WHERE b = $1 AND %d = 3"} {
		c := NewCache(1 << 20)
		var s Shape
		text := func(i int) []byte { return fmt.Appendf(nil, format, i) }
		first := c.ParseText(text(0), &s, "")
		if first.Shaped || c.GetText(text(0), &s) != first || c.ParseText(text(0), &s, "") != first {
			t.Errorf("%q is not kept as it is", text(0))
		}
		if c.GetText(text(1), &s) != nil {
			t.Errorf("%q is known before its shape is", text(1))
		}
		second := c.ParseText(text(1), &s, "")
		if strings.Contains(format, "= 3") {
			if !second.Shaped || second == c.ParseText(text(2), &s, "") || c.GetText(text(1), &s) != second {
				t.Errorf("%q: literals that decide are not told apart", format)
			}
			continue
		}
		for i := range 1000 {
			sql := text(i + 1)
			if m := c.GetText(sql, &s); m != second || !m.Shaped {
				t.Fatalf("%q is not known by its shape", sql)
			}
			if c.ParseText(sql, &s, "") != second {
				t.Fatalf("%q is parsed", sql)
			}
			if len(s.Literals) == 1 && string(sql[s.Literals[0].Start:s.Literals[0].End]) != fmt.Sprint(i+1) {
				t.Fatalf("%q: the literal is %v", sql, s.Literals)
			}
		}
		if c.GetText(text(0), &s) != first || c.GetShape(text(0), &s) != second {
			t.Errorf("%q: the text is not looked for as asked", format)
		}
		if n := c.Stats().Misses; n != 2 {
			t.Errorf("%q: %d parses", format, n)
		}
	}
	c := NewCache(1 << 20)
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			var s Shape
			for i := range 50 {
				if m := c.ParseText(fmt.Appendf(nil, "SELECT a FROM t WHERE b = %d", 50*n+i), &s, ""); m.Unparsable != nil || m.Shaped && len(s.Literals) != 1 {
					t.Errorf("got %v with %v", m, s.Literals)
				}
			}
		})
	}
	all.Wait()
	if n := c.Stats().Misses; n != 2 {
		t.Errorf("%d parses for many at a time", n)
	}
}

// TestShapesAllocateNothing: a known shape costs no memory.
func TestShapesAllocateNothing(t *testing.T) {
	c := NewCache(1 << 20)
	var s Shape
	sql := []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 42 AND note = 'x'")
	parseTwice(c, sql, &s)
	for _, get := range []func([]byte, *Shape) *Message{c.GetShape, c.GetText} {
		if n := testing.AllocsPerRun(100, func() { get(sql, &s) }); n > 0 && !underRace {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkShape(b *testing.B) {
	join := "SELECT o.id, o.total, c.name, c.email, p.title, p.price, i.quantity, s.status FROM orders o JOIN customers c ON c.tenant_id = o.tenant_id AND c.id = o.customer_id " +
		strings.Repeat("JOIN products p ON p.tenant_id = o.tenant_id AND p.id = o.product_id AND p.kind = 'book' ", 8) + "WHERE o.tenant_id = 42 AND o.created > '2026-01-01' ORDER BY o.id LIMIT 20"
	for _, sql := range []string{"SELECT abalance FROM pgbench_accounts WHERE aid = 4211324;", join} {
		b.Run(fmt.Sprint(len(sql)), func(b *testing.B) {
			c := NewCache(1 << 20)
			var s Shape
			text := []byte(sql)
			parseTwice(c, text, &s)
			b.ReportAllocs()
			for b.Loop() {
				if c.GetShape(text, &s) == nil {
					b.Fatal("not kept")
				}
			}
		})
	}
}

// BenchmarkText is what a Parse message costs here: its text is known as it is, by its shape only, or both are asked in the other order.
func BenchmarkText(b *testing.B) {
	for _, sql := range []string{"SELECT abalance FROM pgbench_accounts WHERE aid = $1;", "SELECT abalance FROM pgbench_accounts WHERE aid = 4211324;"} {
		known, by := NewCache(1<<20), NewCache(1<<20)
		var s, other Shape
		known.Parse([]byte(sql), "")
		parseTwice(by, []byte(strings.Replace(sql, "4211324", "1", 1)), &s)
		for _, x := range []struct {
			name string
			get  func([]byte, *Shape) *Message
			s    *Shape
		}{
			{"known/text first", known.GetText, &other},
			{"known/shape first", known.GetShape, &other},
			{"by shape/text first", by.GetText, &s},
			{"by shape/shape first", by.GetShape, &s},
		} {
			b.Run(fmt.Sprint(len(sql), "/", x.name), func(b *testing.B) {
				text := []byte(sql)
				b.ReportAllocs()
				for b.Loop() {
					if x.get(text, x.s) == nil {
						b.Fatal("not known")
					}
				}
			})
		}
	}
}
