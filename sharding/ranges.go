package sharding

import (
	"math"
	"sort"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// ranges are the ranges of a mapping, sorted by start, without overlaps. Only the slice of the mapping's type is in use.
type ranges struct {
	index headIndex
	ints  []span[int64]
	uuids []span[uuidKey]
	texts []span[string]
	// prefix is what the starts of all texts begin with; their heads leave it out.
	prefix string
}

// A span is one range.
type span[K any] struct {
	start K
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

var highestUUID = uuidKey{math.MaxUint64, math.MaxUint64}

// bigintHead orders integers as unsigned numbers.
func bigintHead(v int64) uint64 { return uint64(v) ^ 1<<63 }

// textHead is the first bytes of s behind the prefix, as a number.
func textHead(s, prefix string) (head uint64) {
	rest := s[len(prefix):]
	if len(rest) >= 8 {
		_ = rest[7]
		return uint64(rest[0])<<56 | uint64(rest[1])<<48 | uint64(rest[2])<<40 | uint64(rest[3])<<32 |
			uint64(rest[4])<<24 | uint64(rest[5])<<16 | uint64(rest[6])<<8 | uint64(rest[7])
	}
	for i := range 8 {
		head <<= 8
		if i < len(rest) {
			head |= uint64(rest[i])
		}
	}
	return head
}

func (r *ranges) size() int { return r.index.count }

func (r *ranges) bigint(v int64) (topology.ShardID, bool) {
	i, shard, whole := r.index.find(bigintHead(v))
	return shard, whole || i >= 0 && v <= r.ints[i].last
}

func (r *ranges) uuid(v uuidKey) (topology.ShardID, bool) {
	i, shard, whole := r.index.find(v.hi)
	if i < 0 {
		return 0, false
	}
	if whole && r.index.head(i) != v.hi { // the start is below v, and nothing else begins with v's head
		return shard, true
	}
	if v.less(r.uuids[i].start) {
		i = r.index.step(i, v.hi, func(n int) bool { return v.less(r.uuids[n].start) })
	}
	if i < 0 || r.uuids[i].last.less(v) {
		return 0, false
	}
	return r.uuids[i].shard, true
}

func (r *ranges) text(v string) (topology.ShardID, bool) {
	i := len(r.texts) - 1 // above all starts
	if strings.HasPrefix(v, r.prefix) {
		head := textHead(v, r.prefix)
		var shard topology.ShardID
		var whole bool
		i, shard, whole = r.index.find(head)
		if i >= 0 && whole && r.index.head(i) != head {
			return shard, true
		}
		if i >= 0 && v < r.texts[i].start {
			i = r.index.step(i, head, func(n int) bool { return v < r.texts[n].start })
		}
	} else if v < r.prefix {
		return 0, false
	}
	if i < 0 || !r.texts[i].open && v >= r.texts[i].last {
		return 0, false
	}
	return r.texts[i].shard, true
}

// finish makes the index of the sorted ranges.
func (r *ranges) finish(t KeyType) {
	switch t {
	case Bigint:
		for i, s := range r.ints {
			whole := s.last == math.MaxInt64 || i+1 < len(r.ints) && r.ints[i+1].start == s.last+1
			r.index.add(bigintHead(s.start), s.shard, whole)
		}
	case UUID:
		for i, s := range r.uuids {
			whole := s.last == highestUUID || i+1 < len(r.uuids) && r.uuids[i+1].start.before() == s.last
			r.index.add(s.start.hi, s.shard, whole)
		}
	case Text:
		if len(r.texts) > 0 {
			first, last := r.texts[0].start, r.texts[len(r.texts)-1].start
			n := 0
			for n < min(len(first), len(last)) && first[n] == last[n] {
				n++
			}
			r.prefix = first[:n]
		}
		for i, s := range r.texts {
			whole := s.open || i+1 < len(r.texts) && r.texts[i+1].start == s.last
			r.index.add(textHead(s.start, r.prefix), s.shard, whole)
		}
	}
	r.index.finish()
}

// entry returns range i of a mapping of type t.
func (r *ranges) entry(t KeyType, i int) Entry {
	e := Entry{Kind: Range}
	switch t {
	case Bigint:
		s := &r.ints[i]
		e.Shard = s.shard
		if s.start != math.MinInt64 {
			k := BigintKey(s.start)
			e.Start = &k
		}
		if s.last != math.MaxInt64 {
			k := BigintKey(s.last + 1)
			e.End = &k
		}
	case UUID:
		s := &r.uuids[i]
		e.Shard = s.shard
		if s.start != (uuidKey{}) {
			e.Start = &Key{typ: UUID, hi: s.start.hi, lo: s.start.lo}
		}
		if s.last != highestUUID {
			end := Key{typ: UUID, hi: s.last.hi, lo: s.last.lo + 1}
			if end.lo == 0 {
				end.hi++
			}
			e.End = &end
		}
	case Text:
		s := &r.texts[i]
		e.Shard = s.shard
		if s.start != "" {
			k := TextKey(s.start)
			e.Start = &k
		}
		if !s.open {
			k := TextKey(s.last)
			e.End = &k
		}
	}
	return e
}

// A headIndex finds ranges by the head of their start: a number that orders as the starts do, but may be the same for some
// that follow each other. It lies in blocks; above them are levels, each eight times smaller than the one below. A look-up
// reads one cache line of each level, and only the lowest ones are far from the processor.
type headIndex struct {
	blocks []headBlock
	levels [][]uint64 // levels[0] has the first head of each block, levels[n+1] every eighth of levels[n]
	count  int
}

// width is how many ranges a block holds, and how many entries of a level one above stands for.
const width = 8

type headBlock struct {
	heads  [width]uint64
	shards [width]uint32 // with the bit wholeBit
}

// wholeBit marks a range that goes on to the start of the next one, or to the end of all values.
const wholeBit = 1 << 31

func (x *headIndex) add(head uint64, shard topology.ShardID, whole bool) {
	if x.count%width == 0 {
		x.blocks = append(x.blocks, headBlock{})
	}
	b, i := &x.blocks[x.count/width], x.count%width
	b.heads[i], b.shards[i] = head, uint32(shard)
	if whole {
		b.shards[i] |= wholeBit
	}
	x.count++
}

func (x *headIndex) finish() {
	level := make([]uint64, len(x.blocks))
	for i := range x.blocks {
		level[i] = x.blocks[i].heads[0]
	}
	for x.levels = [][]uint64{level}; len(level) > width; x.levels = append(x.levels, level) {
		above := make([]uint64, 0, (len(level)+width-1)/width)
		for i := 0; i < len(level); i += width {
			above = append(above, level[i])
		}
		level = above
	}
}

// find returns the last range whose head is not above the given one, its shard, and whether it reaches to the start of
// the next range. The number is -1 if all are above.
func (x *headIndex) find(head uint64) (i int, shard topology.ShardID, whole bool) {
	at := x.upper(head) - 1
	if at < 0 {
		return -1, 0, false
	}
	s := x.blocks[at/width].shards[at%width]
	return at, topology.ShardID(s &^ wholeBit), s&wholeBit != 0
}

// upper returns how many heads are not above the given one.
func (x *headIndex) upper(head uint64) int {
	if x.count == 0 {
		return 0
	}
	at := 0
	for n := len(x.levels) - 1; n >= 0; n-- { //nolint:modernize // on every statement's way: no iterator
		level := x.levels[n]
		if at += notAbove(level[at:min(at+width, len(level))], head) - 1; at < 0 {
			return 0
		}
		at *= width
	}
	b := &x.blocks[at/width]
	return at + notAbove(b.heads[:min(width, x.count-at)], head)
}

// notAbove counts without a branch on the outcome, which no processor could foretell.
func notAbove(heads []uint64, head uint64) (n int) {
	for _, h := range heads {
		if h <= head {
			n++
		}
	}
	return n
}

func (x *headIndex) head(i int) uint64 { return x.blocks[i/width].heads[i%width] }

// step returns the last range below i, which has that head, that is not above; all with lower heads are not.
func (x *headIndex) step(i int, head uint64, above func(n int) bool) int {
	low := 0
	if head > 0 {
		low = x.upper(head - 1)
	}
	return low + sort.Search(i-low, func(n int) bool { return above(low + n) }) - 1
}
