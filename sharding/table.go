package sharding

import (
	"hash/maphash"
	"math/bits"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// A table maps listed values to shards. It is a hash table with open addressing, because a look-up in a table that is far
// bigger than the processor's caches costs as much as the memory it touches: here one cache line, in Go's map two or
// three.
type table[K tableKey] struct {
	slots []slot[K]
	count int
	seed  uint64 // of this table, so that nobody can choose values that collide
}

type tableKey interface {
	comparable
	hash(seed uint64) uint64
}

type slot[K tableKey] struct {
	key   K
	shard uint32 // plus one; 0 = empty
}

func newTable[K tableKey]() *table[K] {
	return &table[K]{seed: maphash.Bytes(maphash.MakeSeed(), nil)}
}

func (t *table[K]) find(key K) (topology.ShardID, bool) {
	if t == nil || t.count == 0 {
		return 0, false
	}
	s := t.probe(key)
	return topology.ShardID(s.shard - 1), s.shard != 0
}

// probe returns the slot of the key, or the empty one where it belongs.
func (t *table[K]) probe(key K) *slot[K] {
	high, _ := bits.Mul64(key.hash(t.seed), uint64(len(t.slots)))
	for i := int(high); ; i++ {
		if i == len(t.slots) {
			i = 0
		}
		if s := &t.slots[i]; s.shard == 0 || s.key == key {
			return s
		}
	}
}

// add reports false if the key is there already.
func (t *table[K]) add(key K, shard topology.ShardID) bool {
	if 10*(t.count+1) > 7*len(t.slots) {
		t.grow()
	}
	s := t.probe(key)
	if s.shard != 0 {
		return false
	}
	s.key, s.shard = key, uint32(shard)+1
	t.count++
	return true
}

func (t *table[K]) grow() {
	old := t.slots
	t.slots = make([]slot[K], max(6, 2*len(old)))
	for i := range old {
		if s := &old[i]; s.shard != 0 {
			*t.probe(s.key) = *s
		}
	}
}

func (t *table[K]) each(yield func(K, topology.ShardID) bool) bool {
	if t == nil {
		return true
	}
	for i := range t.slots {
		if s := &t.slots[i]; s.shard != 0 && !yield(s.key, topology.ShardID(s.shard-1)) {
			return false
		}
	}
	return true
}

func (t *table[K]) size() int {
	if t == nil {
		return 0
	}
	return t.count
}

type intSlot int64

func (k intSlot) hash(seed uint64) uint64 { return mix(uint64(k)^seed, 0x9e3779b97f4a7c15) }

func (k uuidKey) hash(seed uint64) uint64 {
	return mix(k.hi^seed, k.lo^0x9e3779b97f4a7c15)
}

// maxShortText is the longest text that a slot holds itself; longer ones are in a Go map.
const maxShortText = 24

// shortText is a text of at most 24 bytes, none of them zero (no text in PostgreSQL has one), padded with zeros.
type shortText [maxShortText / 8]uint64

func shorten(s string) (k shortText, ok bool) {
	if len(s) > maxShortText || strings.IndexByte(s, 0) >= 0 {
		return k, false
	}
	for i := range len(s) {
		k[i/8] |= uint64(s[i]) << (8 * (i % 8))
	}
	return k, true
}

func (k shortText) text() string {
	var b [maxShortText]byte
	n := 0
	for n < len(b) {
		c := byte(k[n/8] >> (8 * (n % 8)))
		if c == 0 {
			break
		}
		b[n] = c
		n++
	}
	return string(b[:n])
}

func (k shortText) hash(seed uint64) uint64 {
	return mix(mix(k[0]^seed, k[1]^0x9e3779b97f4a7c15), k[2]^0xc2b2ae3d27d4eb4f)
}

// mix is the folded product of wyhash.
func mix(x, y uint64) uint64 {
	high, low := bits.Mul64(x, y)
	return high ^ low
}
