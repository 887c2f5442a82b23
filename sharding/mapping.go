package sharding

import (
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Mapping says on which shard each value of a sharding key lives: by list, then by range, then by default; or by hash.
// It is immutable. Make one with a Builder or NewHash.
type Mapping struct {
	typ    KeyType
	hash   uint64 // number of shards; 0 = not by hash
	ints   *table[intSlot]
	uuids  *table[uuidKey]
	texts  *table[shortText]
	long   map[string]topology.ShardID // texts that are no shortText
	ranges ranges

	fallback    topology.ShardID
	hasFallback bool
	shards      []topology.ShardID // that are named, in order
}

// NewHash makes the mapping of a table without one: PostgreSQL's partition hash over that many shards.
func NewHash(t KeyType, shards int) *Mapping {
	m := &Mapping{typ: t, hash: uint64(shards)}
	for s := range shards {
		m.shards = append(m.shards, topology.ShardID(s))
	}
	return m
}

// Type returns the type of the mapping's keys.
func (m *Mapping) Type() KeyType { return m.typ }

// Lookup returns the shard where rows with that key live, or ok = false if nothing says so. It does not allocate.
func (m *Mapping) Lookup(k Key) (shard topology.ShardID, ok bool) {
	if k.typ != m.typ {
		return 0, false
	}
	if m.hash != 0 {
		return topology.ShardID(PartitionHash(k) % m.hash), true
	}
	switch m.typ {
	case Bigint:
		if shard, ok = m.ints.find(intSlot(k.lo)); !ok {
			shard, ok = m.ranges.bigint(int64(k.lo))
		}
	case UUID:
		if shard, ok = m.uuids.find(uuidKey{k.hi, k.lo}); !ok {
			shard, ok = m.ranges.uuid(uuidKey{k.hi, k.lo})
		}
	case Text:
		if short, fits := shorten(k.text); fits {
			shard, ok = m.texts.find(short)
		} else {
			shard, ok = m.long[k.text]
		}
		if !ok {
			shard, ok = m.ranges.text(k.text)
		}
	}
	if !ok && m.hasFallback {
		return m.fallback, true
	}
	return shard, ok
}

// Kind is how an entry of a mapping names its values.
type Kind uint8

// The kinds of entries.
const (
	List Kind = iota + 1
	Range
	Default
	Hash
)

// String returns the kind's name as configuration has it.
func (k Kind) String() string {
	switch k {
	case List:
		return "list"
	case Range:
		return "range"
	case Default:
		return "default"
	case Hash:
		return "hash"
	}
	return "unknown"
}

// Entry is one line of a mapping, for consoles.
type Entry struct {
	Kind Kind
	// Value of a List entry.
	Value Key
	// Start is included, End is not; nil is open.
	Start, End *Key
	Shard      topology.ShardID
	// Shards is the number of shards of a Hash.
	Shards int
}

// Size returns the number of listed values and of ranges.
func (m *Mapping) Size() (values, ranges int) {
	return m.ints.size() + m.uuids.size() + m.texts.size() + len(m.long), m.ranges.size()
}

// Entries yields every entry: listed values in no order, ranges in order, then the default.
func (m *Mapping) Entries(yield func(Entry) bool) {
	if m.hash != 0 {
		yield(Entry{Kind: Hash, Shards: int(m.hash)})
		return
	}
	listed := func(k Key, s topology.ShardID) bool { return yield(Entry{Kind: List, Value: k, Shard: s}) }
	for v, s := range m.long {
		if !listed(TextKey(v), s) {
			return
		}
	}
	if !m.ints.each(func(v intSlot, s topology.ShardID) bool { return listed(BigintKey(int64(v)), s) }) ||
		!m.uuids.each(func(v uuidKey, s topology.ShardID) bool { return listed(Key{typ: UUID, hi: v.hi, lo: v.lo}, s) }) ||
		!m.texts.each(func(v shortText, s topology.ShardID) bool { return listed(TextKey(v.text()), s) }) {
		return
	}
	for i := range m.ranges.size() {
		if !yield(m.ranges.entry(m.typ, i)) {
			return
		}
	}
	if m.hasFallback {
		yield(Entry{Kind: Default, Shard: m.fallback})
	}
}

// Shards returns the shards that the mapping names, in order. It must not be changed.
func (m *Mapping) Shards() []topology.ShardID { return m.shards }
