package sharding

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// key reads s as a key of type typ; "" is nil, an open end.
func key(t testing.TB, typ KeyType, s string) *Key {
	t.Helper()
	if s == "" {
		return nil
	}
	k, ok := ParseKey(typ, s)
	if !ok {
		t.Fatalf("%q is no %v", s, typ)
	}
	return &k
}

func entries(m *Mapping) (list []string) {
	for e := range m.Entries {
		list = append(list, fmt.Sprint(e.Kind, e.Value, e.Start, e.End, e.Shard))
	}
	return list
}

type testSpan struct {
	start, end string
	shard      topology.ShardID
}

func TestMappingOrderIsListRangeDefault(t *testing.T) {
	t.Parallel()
	b := NewBuilder(Bigint)
	for _, err := range []error{
		b.Value(BigintKey(15), 1),
		b.Range(key(t, Bigint, "20"), key(t, Bigint, "30"), 3),
		b.Range(key(t, Bigint, "10"), key(t, Bigint, "20"), 2),
		b.Default(4),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[int64]topology.ShardID{15: 1, 10: 2, 19: 2, 20: 3, 29: 3, 30: 4, 9: 4, math.MinInt64: 4, math.MaxInt64: 4} {
		if got, ok := m.Lookup(BigintKey(v)); !ok || got != want {
			t.Errorf("%d: got shard %d, %v, want %d", v, got, ok, want)
		}
	}
	if _, ok := m.Lookup(TextKey("15")); ok {
		t.Error("a key of another type was found")
	}
	if got, want := m.Shards(), []topology.ShardID{1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("shards %v, want %v", got, want)
	}
	kinds := entries(m)
	want := []string{"list 15 <nil> <nil> 1", "range  10 20 2", "range  20 30 3", "default  <nil> <nil> 4"}
	if !slices.Equal(kinds, want) {
		t.Errorf("entries %q, want %q", kinds, want)
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	const low, mid, high = "00000000-0000-0000-0000-000000000001", "80000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
	for _, c := range []struct {
		name  string
		typ   KeyType
		spans []testSpan
		want  map[string]topology.ShardID // -1 = not found
	}{
		{"open ends", Bigint, []testSpan{{"", "0", 0}, {"0", "", 1}}, map[string]topology.ShardID{
			"-9223372036854775808": 0, "-1": 0, "0": 1, "9223372036854775807": 1,
		}},
		{"gap", Bigint, []testSpan{{"10", "20", 1}, {"0", "5", 0}}, map[string]topology.ShardID{
			"-1": -1, "0": 0, "4": 0, "5": -1, "9": -1, "10": 1, "19": 1, "20": -1,
		}},
		{"all", Bigint, []testSpan{{"", "", 2}}, map[string]topology.ShardID{"0": 2, "-9223372036854775808": 2, "9223372036854775807": 2}},
		{"end at the top", Bigint, []testSpan{{"0", "9223372036854775807", 2}}, map[string]topology.ShardID{"9223372036854775806": 2, "9223372036854775807": -1}},
		{"uuid", UUID, []testSpan{{"", mid, 0}, {mid, high, 1}}, map[string]topology.ShardID{
			low: 0, "7fffffff-ffff-ffff-ffff-ffffffffffff": 0, mid: 1, "ffffffff-ffff-ffff-ffff-fffffffffffe": 1, high: -1,
		}},
		{"uuid open", UUID, []testSpan{{mid, "", 1}}, map[string]topology.ShardID{low: -1, mid: 1, high: 1}},
		{"text", Text, []testSpan{{"m", "t", 1}, {"", "m", 0}}, map[string]topology.ShardID{"": 0, "a": 0, "lz": 0, "m": 1, "sz": 1, "t": -1, "é": -1}},
		{"text open", Text, []testSpan{{"m", "", 1}}, map[string]topology.ShardID{"l": -1, "m": 1, "é": 1}},
	} {
		b := NewBuilder(c.typ)
		for _, s := range c.spans {
			if err := b.Range(key(t, c.typ, s.start), key(t, c.typ, s.end), s.shard); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		m, err := b.Build()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for v, want := range c.want {
			k, _ := ParseKey(c.typ, v)
			got, ok := m.Lookup(k)
			if !ok {
				got = -1
			}
			if got != want {
				t.Errorf("%s: %q: got %d, want %d", c.name, v, got, want)
			}
		}
		// What the entries say builds the same mapping.
		again := NewBuilder(c.typ)
		for e := range m.Entries {
			if err := again.Range(e.Start, e.End, e.Shard); err != nil {
				t.Errorf("%s: entry %v: %v", c.name, e, err)
			}
		}
		if m2, err := again.Build(); err != nil || !slices.Equal(entries(m2), entries(m)) {
			t.Errorf("%s: entries give %v, %v, want %v", c.name, entries(m2), err, entries(m))
		}
	}
}

func TestMappingMistakes(t *testing.T) {
	t.Parallel()
	b := NewBuilder(Bigint)
	for _, c := range []struct {
		err  error
		want error
	}{
		{b.Value(BigintKey(1), 0), nil},
		{b.Value(BigintKey(1), 0), ErrDuplicate},
		{b.Value(TextKey("1"), 0), ErrKeyType},
		{b.Default(0), nil},
		{b.Default(1), ErrDuplicate},
		{b.Range(key(t, Bigint, "2"), key(t, Bigint, "2"), 0), ErrInverted},
		{b.Range(key(t, Bigint, "3"), key(t, Bigint, "2"), 0), ErrInverted},
		{b.Range(nil, key(t, Bigint, "-9223372036854775808"), 0), ErrInverted},
		{b.Range(nil, key(t, Text, "2"), 0), ErrKeyType},
		{NewBuilder(Text).Range(nil, &Key{typ: Text}, 0), ErrInverted},
		{NewBuilder(UUID).Range(nil, &Key{typ: UUID}, 0), ErrInverted},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("got %v, want %v", c.err, c.want)
		}
	}
	if _, err := b.Build(); err != nil {
		t.Errorf("refused entries are in the mapping: %v", err)
	}
}

func TestOverlapsAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ   KeyType
		spans []testSpan
		want  []OverlapError
	}{
		{Bigint, []testSpan{{"0", "10", 0}, {"10", "20", 0}}, nil},
		{Bigint, []testSpan{{"0", "11", 0}, {"10", "20", 0}}, []OverlapError{{0, 1}}},
		{Bigint, []testSpan{{"10", "20", 0}, {"0", "11", 0}}, []OverlapError{{0, 1}}},
		{Bigint, []testSpan{{"0", "100", 0}, {"10", "20", 0}, {"30", "40", 0}, {"100", "", 0}}, []OverlapError{{0, 1}, {0, 2}}},
		{Bigint, []testSpan{{"0", "", 0}, {"5", "", 0}}, []OverlapError{{0, 1}}},
		{Bigint, []testSpan{{"", "5", 0}, {"", "3", 0}}, []OverlapError{{0, 1}}},
		{Bigint, []testSpan{{"0", "5", 0}, {"0", "5", 0}, {"0", "5", 1}}, []OverlapError{{0, 1}, {0, 2}}},
		{Text, []testSpan{{"a", "c", 0}, {"b", "d", 0}}, []OverlapError{{0, 1}}},
		{Text, []testSpan{{"a", "b", 0}, {"b", "", 0}, {"x", "", 0}}, []OverlapError{{1, 2}}},
		{Text, []testSpan{{"a", "", 0}, {"b", "c", 0}, {"d", "e", 0}}, []OverlapError{{0, 1}, {0, 2}}},
		{UUID, []testSpan{{"", "80000000-0000-0000-0000-000000000000", 0}, {"7fffffff-ffff-ffff-ffff-ffffffffffff", "", 0}}, []OverlapError{{0, 1}}},
	} {
		b := NewBuilder(c.typ)
		for _, s := range c.spans {
			if err := b.Range(key(t, c.typ, s.start), key(t, c.typ, s.end), s.shard); err != nil {
				t.Fatal(err)
			}
		}
		_, err := b.Build()
		var got []OverlapError
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				got = append(got, *e.(*OverlapError)) //nolint:errorlint // what Build itself joined
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.spans, got, c.want)
		}
	}
}

func FuzzRangesAgainstScan(f *testing.F) {
	f.Add([]byte{1, 5, 5, 9, 20, 30}, byte(7))
	f.Fuzz(func(t *testing.T, bounds []byte, probe byte) {
		for _, typ := range []KeyType{Bigint, UUID, Text} {
			mk := func(v byte) Key {
				switch typ {
				case Bigint:
					return BigintKey(int64(v) - 100)
				case UUID:
					return UUIDKey([16]byte{0: v / 64, 15: v % 64})
				default:
					return TextKey([]string{"tenant-a", "tenant-abcdefgh-b", "tenant-abcdefgi"}[min(v/50, 2)] + string(rune('0'+v)))
				}
			}
			type pair struct{ start, end byte }
			var all []pair
			b := NewBuilder(typ)
			overlap := false
			for i := 0; i+1 < len(bounds); i += 2 {
				p := pair{bounds[i] & 127, bounds[i+1] & 127}
				start, end := mk(p.start), mk(p.end)
				if err := b.Range(&start, &end, topology.ShardID(len(all))); (err != nil) != (p.start >= p.end) {
					t.Fatalf("Range(%v) = %v", p, err)
				} else if err != nil {
					continue
				}
				for _, o := range all {
					overlap = overlap || p.start < o.end && o.start < p.end
				}
				all = append(all, p)
			}
			m, err := b.Build()
			if (err != nil) != overlap {
				t.Fatalf("%v: overlap %v, got %v", all, overlap, err)
			}
			if err != nil {
				continue
			}
			want := -1
			for i, p := range all {
				if p.start <= probe&127 && probe&127 < p.end {
					want = i
				}
			}
			got, ok := m.Lookup(mk(probe & 127))
			if ok != (want >= 0) || ok && int(got) != want {
				t.Fatalf("%v: %v lookup %d = %d, %v, want %d", typ, all, probe&127, got, ok, want)
			}
		}
	})
}

const million = 1_000_000

// bigMappings builds one mapping of each kind with a million entries; text and uuid values look like real ones.
func bigMappings(tb testing.TB) map[string]func() *Mapping {
	build := func(b *Builder, err error) *Mapping {
		if err != nil {
			tb.Fatal(err)
		}
		m, err := b.Build()
		if err != nil {
			tb.Fatal(err)
		}
		return m
	}
	return map[string]func() *Mapping{
		"list bigint": func() *Mapping {
			b := NewBuilder(Bigint)
			var err error
			for i := range int64(million) {
				err = errors.Join(err, b.Value(BigintKey(i*7), topology.ShardID(i%16)))
			}
			return build(b, err)
		},
		"list uuid": func() *Mapping {
			b := NewBuilder(UUID)
			var err error
			for i := range million {
				err = errors.Join(err, b.Value(bigUUID(i), topology.ShardID(i%16)))
			}
			return build(b, err)
		},
		"list text": func() *Mapping {
			b := NewBuilder(Text)
			var err error
			for i := range million {
				err = errors.Join(err, b.Value(TextKey(fmt.Sprintf("tenant-%d", i)), topology.ShardID(i%16)))
			}
			return build(b, err)
		},
		"range bigint": func() *Mapping {
			b := NewBuilder(Bigint)
			var err error
			for i := range int64(million) {
				start, end := BigintKey(i*7), BigintKey(i*7+7)
				err = errors.Join(err, b.Range(&start, &end, topology.ShardID(i%16)))
			}
			return build(b, err)
		},
		"range uuid": func() *Mapping {
			b := NewBuilder(UUID)
			var err error
			for i := range million {
				var start, end [16]byte
				binary.BigEndian.PutUint64(start[:], uint64(i)<<40)
				binary.BigEndian.PutUint64(end[:], uint64(i+1)<<40)
				s, e := UUIDKey(start), UUIDKey(end)
				err = errors.Join(err, b.Range(&s, &e, topology.ShardID(i%16)))
			}
			return build(b, err)
		},
		"range text": func() *Mapping {
			b := NewBuilder(Text)
			var err error
			last := TextKey("t0000000")
			for i := range million {
				start, end := last, TextKey(fmt.Sprintf("t%07d", i+1))
				err = errors.Join(err, b.Range(&start, &end, topology.ShardID(i%16)))
				last = end
			}
			return build(b, err)
		},
	}
}

func bigUUID(i int) Key {
	var v [16]byte
	binary.BigEndian.PutUint64(v[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(v[8:], uint64(i))
	return UUIDKey(v)
}

func bigProbe(name string, i int) Key {
	switch name {
	case "list uuid":
		return bigUUID(i)
	case "range uuid":
		var v [16]byte
		binary.BigEndian.PutUint64(v[:], uint64(i)<<40+uint64(i))
		return UUIDKey(v)
	case "list text":
		return TextKey(fmt.Sprintf("tenant-%d", i))
	case "range text":
		return TextKey(fmt.Sprintf("t%07d-", i))
	}
	return BigintKey(int64(i) * 7)
}

// TestMillionEntries bounds processor time and memory. Not parallel: it measures.
func TestMillionEntries(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("takes seconds, and measures nothing under the race detector")
	}
	for name, load := range bigMappings(t) {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := pgtest.CPUTime(t)
		m := load()
		took := pgtest.CPUTime(t) - start
		runtime.GC()
		runtime.ReadMemStats(&after)
		used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		t.Logf("%s: %v, %d MB", name, took.Round(time.Millisecond), used>>20)
		if used > 100_000_000 {
			t.Errorf("%s: %d bytes, want under 100 MB", name, used)
		}
		if limit := 2 * time.Second; took > limit {
			t.Errorf("%s: loaded in %v, want under %v", name, took, limit)
		}
		for i := 0; i < million; i += 997 {
			if got, ok := m.Lookup(bigProbe(name, i)); !ok || got != topology.ShardID(i%16) {
				t.Fatalf("%s: entry %d is on shard %d, %v", name, i, got, ok)
			}
		}
		k := bigProbe(name, 4711)
		if n := testing.AllocsPerRun(100, func() { m.Lookup(k) }); n != 0 {
			t.Errorf("%s: %v allocations for a look-up, want 0", name, n)
		}
	}
}

func BenchmarkLookupMillion(b *testing.B) {
	for name, load := range bigMappings(b) {
		b.Run(name, func(b *testing.B) {
			m := load()
			r := rand.New(rand.NewPCG(1, 2))
			probes := make([]Key, 1<<12) // tenants that are active at a time
			for i := range probes {
				probes[i] = bigProbe(name, r.IntN(million))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m.Lookup(probes[i&(1<<12-1)])
			}
		})
	}
}

func BenchmarkLoadMillion(b *testing.B) {
	for name, load := range bigMappings(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				load()
			}
		})
	}
}
