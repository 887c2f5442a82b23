package sharding

import (
	"math"
	"sort"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// ranges are the ranges of a mapping; only the set of the mapping's type is in use.
type ranges struct {
	ints  rangeSet[int64]
	uuids rangeSet[uuidKey]
	texts rangeSet[string]
}

// A rangeSet holds ranges sorted by start that do not overlap. The starts lie by themselves, so that the binary search
// touches few cache lines.
type rangeSet[K any] struct {
	starts []K
	ends   []rangeEnd[K]
}

type rangeEnd[K any] struct {
	// last is the highest value of the range; of text, which has no value right below another, the first one behind it.
	last  K
	shard topology.ShardID
	open  bool // text: no end
}

type uuidKey struct{ hi, lo uint64 }

func (k uuidKey) less(o uuidKey) bool { return k.hi < o.hi || k.hi == o.hi && k.lo < o.lo }

// before returns the key right below k, which must not be the lowest.
func (k uuidKey) before() uuidKey {
	if k.lo == 0 {
		return uuidKey{k.hi - 1, math.MaxUint64}
	}
	return uuidKey{k.hi, k.lo - 1}
}

func (r *ranges) size() int { return len(r.ints.ends) + len(r.uuids.ends) + len(r.texts.ends) }

func (r *ranges) bigint(v int64) (topology.ShardID, bool) {
	starts := r.ints.starts
	low, high := 0, len(starts) // the starts below low are not above v, those from high on are
	for low < high {
		mid := int(uint(low+high) >> 1)
		if starts[mid] <= v {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 || r.ints.ends[low-1].last < v {
		return 0, false
	}
	return r.ints.ends[low-1].shard, true
}

func (r *ranges) uuid(v uuidKey) (topology.ShardID, bool) {
	starts := r.uuids.starts
	low, high := 0, len(starts)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if !v.less(starts[mid]) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 || r.uuids.ends[low-1].last.less(v) {
		return 0, false
	}
	return r.uuids.ends[low-1].shard, true
}

func (r *ranges) text(v string) (topology.ShardID, bool) {
	starts := r.texts.starts
	n := sort.Search(len(starts), func(i int) bool { return starts[i] > v })
	if n == 0 {
		return 0, false
	}
	end := &r.texts.ends[n-1]
	if !end.open && v >= end.last {
		return 0, false
	}
	return end.shard, true
}

// entry returns range i of a mapping of type t.
func (r *ranges) entry(t KeyType, i int) Entry {
	e := Entry{Kind: Range}
	switch t {
	case Bigint:
		e.Shard = r.ints.ends[i].shard
		if start := r.ints.starts[i]; start != math.MinInt64 {
			k := BigintKey(start)
			e.Start = &k
		}
		if last := r.ints.ends[i].last; last != math.MaxInt64 {
			k := BigintKey(last + 1)
			e.End = &k
		}
	case UUID:
		e.Shard = r.uuids.ends[i].shard
		if start := r.uuids.starts[i]; start != (uuidKey{}) {
			e.Start = &Key{typ: UUID, hi: start.hi, lo: start.lo}
		}
		if last := r.uuids.ends[i].last; last != (uuidKey{math.MaxUint64, math.MaxUint64}) {
			end := Key{typ: UUID, hi: last.hi, lo: last.lo + 1}
			if end.lo == 0 {
				end.hi++
			}
			e.End = &end
		}
	case Text:
		end := &r.texts.ends[i]
		e.Shard = end.shard
		if start := r.texts.starts[i]; start != "" {
			k := TextKey(start)
			e.Start = &k
		}
		if !end.open {
			k := TextKey(end.last)
			e.End = &k
		}
	}
	return e
}
