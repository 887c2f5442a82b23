package sharding

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Builder collects the entries of a Mapping. Its methods report mistakes at once where one entry shows them, so that
// the caller can say which line made them; Build finds the overlaps.
type Builder struct {
	m       *Mapping
	calls   int     // of Range
	numbers []int32 // which call made each range
}

// ErrKeyType is returned for a key of another type than the mapping's.
var ErrKeyType = errors.New("key of another type")

// ErrDuplicate is returned for a value that is listed twice, or a second default.
var ErrDuplicate = errors.New("listed twice")

// ErrInverted is returned for a range whose start is not below its end.
var ErrInverted = errors.New("start is not below end")

// OverlapError says that two ranges share values.
type OverlapError struct {
	// First and Second are the numbers of the calls of Range, from 0, First < Second.
	First, Second int
}

// Error names the two ranges.
func (e *OverlapError) Error() string {
	return fmt.Sprintf("range %d overlaps range %d", e.Second+1, e.First+1)
}

// NewBuilder starts a mapping of keys of type t.
func NewBuilder(t KeyType) *Builder {
	return &Builder{m: &Mapping{typ: t}}
}

// Value lists a value. The builder keeps the text of a Text key.
func (b *Builder) Value(k Key, shard topology.ShardID) error {
	if k.typ != b.m.typ {
		return ErrKeyType
	}
	switch k.typ {
	case Bigint:
		return list(&b.m.ints, k.Bigint(), shard)
	case UUID:
		return list(&b.m.uuids, k.UUID(), shard)
	case Text:
		return list(&b.m.texts, k.text, shard)
	}
	return ErrKeyType
}

func list[K comparable](m *map[K]topology.ShardID, v K, shard topology.ShardID) error {
	if *m == nil {
		*m = make(map[K]topology.ShardID)
	}
	before := len(*m)
	if (*m)[v] = shard; len(*m) == before {
		return ErrDuplicate
	}
	return nil
}

// Range adds the values from start up to, and without, end; nil is open. The builder keeps the texts of Text keys.
func (b *Builder) Range(start, end *Key, shard topology.ShardID) error {
	b.calls++
	if start != nil && start.typ != b.m.typ || end != nil && end.typ != b.m.typ {
		return ErrKeyType
	}
	if start != nil && end != nil && !start.Less(*end) {
		return ErrInverted
	}
	r := &b.m.ranges
	switch b.m.typ {
	case Bigint:
		first, last := int64(math.MinInt64), int64(math.MaxInt64)
		if start != nil {
			first = start.Bigint()
		}
		if end != nil {
			if end.Bigint() == math.MinInt64 {
				return ErrInverted
			}
			last = end.Bigint() - 1
		}
		r.ints.add(first, rangeEnd[int64]{last: last, shard: shard})
	case UUID:
		first, last := uuidKey{}, uuidKey{math.MaxUint64, math.MaxUint64}
		if start != nil {
			first = uuidKey{start.hi, start.lo}
		}
		if end != nil {
			if last = (uuidKey{end.hi, end.lo}); last == (uuidKey{}) {
				return ErrInverted
			}
			last = last.before()
		}
		r.uuids.add(first, rangeEnd[uuidKey]{last: last, shard: shard})
	case Text:
		first, e := "", rangeEnd[string]{shard: shard, open: end == nil}
		if start != nil {
			first = start.text
		}
		if end != nil {
			if e.last = end.text; e.last == "" {
				return ErrInverted
			}
		}
		r.texts.add(first, e)
	}
	b.numbers = append(b.numbers, int32(b.calls-1))
	return nil
}

func (s *rangeSet[K]) add(start K, end rangeEnd[K]) {
	s.starts = append(s.starts, start)
	s.ends = append(s.ends, end)
}

// Default sets the shard of every other value.
func (b *Builder) Default(shard topology.ShardID) error {
	if b.m.hasFallback {
		return ErrDuplicate
	}
	b.m.fallback, b.m.hasFallback = shard, true
	return nil
}

// Build returns the mapping, or one *OverlapError for each range that shares values with one before it, joined.
// The builder must not be used afterwards.
func (b *Builder) Build() (*Mapping, error) {
	m := b.m
	var err error
	switch m.typ {
	case Bigint:
		err = finish(&m.ranges.ints, b.numbers, func(x, y int64) bool { return x < y }, nil)
	case UUID:
		err = finish(&m.ranges.uuids, b.numbers, uuidKey.less, nil)
	case Text:
		err = finish(&m.ranges.texts, b.numbers, func(x, y string) bool { return x < y },
			func(e *rangeEnd[string], start string) bool { return e.open || start < e.last })
	}
	if err != nil {
		return nil, err
	}
	b.m, b.numbers = nil, nil
	return m, nil
}

// finish sorts the ranges and looks for overlaps. holds tells whether a range with that end holds a start not below its own;
// nil where last belongs to the range.
func finish[K any](s *rangeSet[K], numbers []int32, less func(x, y K) bool, holds func(e *rangeEnd[K], start K) bool) error {
	if holds == nil {
		holds = func(e *rangeEnd[K], start K) bool { return !less(e.last, start) }
	}
	if sorter := (rangeSorter[K]{s, numbers, less}); !sort.IsSorted(sorter) {
		sort.Sort(sorter)
	}
	var errs []error
	widest := 0 // the range that reaches furthest so far
	for i := 1; i < len(s.starts); i++ {
		w, e := &s.ends[widest], &s.ends[i]
		if holds(w, s.starts[i]) {
			x, y := int(numbers[widest]), int(numbers[i])
			errs = append(errs, &OverlapError{First: min(x, y), Second: max(x, y)})
		}
		if !w.open && (e.open || less(w.last, e.last)) {
			widest = i
		}
	}
	return errors.Join(errs...)
}

// rangeSorter orders a rangeSet by start, then by the order in which the ranges were given.
type rangeSorter[K any] struct {
	set     *rangeSet[K]
	numbers []int32
	less    func(x, y K) bool
}

func (s rangeSorter[K]) Len() int { return len(s.numbers) }

func (s rangeSorter[K]) Less(i, j int) bool {
	x, y := s.set.starts[i], s.set.starts[j]
	return s.less(x, y) || !s.less(y, x) && s.numbers[i] < s.numbers[j]
}

func (s rangeSorter[K]) Swap(i, j int) {
	s.set.starts[i], s.set.starts[j] = s.set.starts[j], s.set.starts[i]
	s.set.ends[i], s.set.ends[j] = s.set.ends[j], s.set.ends[i]
	s.numbers[i], s.numbers[j] = s.numbers[j], s.numbers[i]
}
