package sharding

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Builder collects the entries of a Mapping. Its methods report mistakes at once where one entry shows them, so that
// the caller can say which line made them; Build finds the overlaps.
type Builder struct {
	m       *Mapping
	shards  map[topology.ShardID]bool
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
	return &Builder{m: &Mapping{typ: t}, shards: make(map[topology.ShardID]bool)}
}

// Value lists a value. The builder keeps the text of a Text key.
func (b *Builder) Value(k Key, shard topology.ShardID) error {
	if k.typ != b.m.typ {
		return ErrKeyType
	}
	fresh := false
	switch k.typ {
	case Bigint:
		if b.m.ints == nil {
			b.m.ints = newTable[intSlot]()
		}
		fresh = b.m.ints.add(intSlot(k.lo), shard)
	case UUID:
		if b.m.uuids == nil {
			b.m.uuids = newTable[uuidKey]()
		}
		fresh = b.m.uuids.add(uuidKey{k.hi, k.lo}, shard)
	case Text:
		fresh = b.text(k.text, shard)
	}
	if !fresh {
		return ErrDuplicate
	}
	b.shards[shard] = true
	return nil
}

func (b *Builder) text(v string, shard topology.ShardID) (fresh bool) {
	if short, ok := shorten(v); ok {
		if b.m.texts == nil {
			b.m.texts = newTable[shortText]()
		}
		return b.m.texts.add(short, shard)
	}
	if b.m.long == nil {
		b.m.long = make(map[string]topology.ShardID)
	}
	if _, ok := b.m.long[v]; ok {
		return false
	}
	b.m.long[v] = shard
	return true
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
		r.ints = append(r.ints, span[int64]{start: first, last: last, shard: shard})
	case UUID:
		first, last := uuidKey{}, highestUUID
		if start != nil {
			first = uuidKey{start.hi, start.lo}
		}
		if end != nil {
			if last = (uuidKey{end.hi, end.lo}); last == (uuidKey{}) {
				return ErrInverted
			}
			last = last.before()
		}
		r.uuids = append(r.uuids, span[uuidKey]{start: first, last: last, shard: shard})
	case Text:
		s := span[string]{shard: shard, open: end == nil}
		if start != nil {
			s.start = start.text
		}
		if end != nil {
			if s.last = end.text; s.last == "" {
				return ErrInverted
			}
		}
		r.texts = append(r.texts, s)
	}
	b.numbers = append(b.numbers, int32(b.calls-1))
	b.shards[shard] = true
	return nil
}

// Default sets the shard of every other value.
func (b *Builder) Default(shard topology.ShardID) error {
	if b.m.hasFallback {
		return ErrDuplicate
	}
	b.m.fallback, b.m.hasFallback = shard, true
	b.shards[shard] = true
	return nil
}

// Build returns the mapping, or one *OverlapError for each range that shares values with one before it, joined.
// The builder must not be used afterwards.
func (b *Builder) Build() (*Mapping, error) {
	m := b.m
	var err error
	switch m.typ {
	case Bigint:
		err = sortSpans(m.ranges.ints, b.numbers, func(x, y int64) bool { return x < y }, nil)
	case UUID:
		err = sortSpans(m.ranges.uuids, b.numbers, uuidKey.less, nil)
	case Text:
		err = sortSpans(m.ranges.texts, b.numbers, func(x, y string) bool { return x < y },
			func(s *span[string], start string) bool { return s.open || start < s.last })
	}
	if err != nil {
		return nil, err
	}
	m.ranges.finish(m.typ)
	m.shards = slices.Sorted(maps.Keys(b.shards))
	b.m, b.numbers = nil, nil
	return m, nil
}

// sortSpans sorts the ranges by start and looks for overlaps. holds tells whether a range holds a start not below its own;
// nil where last belongs to the range.
func sortSpans[K any](spans []span[K], numbers []int32, less func(x, y K) bool, holds func(s *span[K], start K) bool) error {
	if holds == nil {
		holds = func(s *span[K], start K) bool { return !less(s.last, start) }
	}
	if sorter := (spanSorter[K]{spans, numbers, less}); !sort.IsSorted(sorter) {
		sort.Sort(sorter)
	}
	var errs []error
	widest := 0 // the range that reaches furthest so far
	for i := 1; i < len(spans); i++ {
		w, s := &spans[widest], &spans[i]
		if holds(w, s.start) {
			x, y := int(numbers[widest]), int(numbers[i])
			errs = append(errs, &OverlapError{First: min(x, y), Second: max(x, y)})
		}
		if !w.open && (s.open || less(w.last, s.last)) {
			widest = i
		}
	}
	return errors.Join(errs...)
}

// spanSorter orders ranges by start, then by the order in which they were given.
type spanSorter[K any] struct {
	spans   []span[K]
	numbers []int32
	less    func(x, y K) bool
}

func (s spanSorter[K]) Len() int { return len(s.numbers) }

func (s spanSorter[K]) Less(i, j int) bool {
	x, y := s.spans[i].start, s.spans[j].start
	return s.less(x, y) || !s.less(y, x) && s.numbers[i] < s.numbers[j]
}

func (s spanSorter[K]) Swap(i, j int) {
	s.spans[i], s.spans[j] = s.spans[j], s.spans[i]
	s.numbers[i], s.numbers[j] = s.numbers[j], s.numbers[i]
}
