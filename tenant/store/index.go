package store

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/tenant"
)

// A cell is one tenant for as long as it is there. Its record is replaced at once for all who look it up by whatever it is called.
type cell struct{ record atomic.Pointer[tenant.Record] }

// cells are the tenants by number; zero is nobody's. A cell does not move. Its number may be another tenant's later: who has it from an index looks whether the
// record is the one that he wants.
type cells struct {
	chunks [33]atomic.Pointer[[]cell] // a number of so many bits is in that chunk
	end    atomic.Uint32              // all numbers are less
	free   []uint32                   // the writer's
}

func (c *cells) at(number uint32) *cell {
	k := bits.Len32(number)
	return &(*c.chunks[k].Load())[number&^(1<<(k-1))]
}

// take returns the number of a cell that is nobody's.
func (c *cells) take() uint32 {
	if n := len(c.free); n > 0 {
		number := c.free[n-1]
		c.free = c.free[:n-1]
		return number
	}
	number := max(c.end.Load(), 1)
	if k := bits.Len32(number); c.chunks[k].Load() == nil {
		chunk := make([]cell, 1<<(k-1))
		c.chunks[k].Store(&chunk)
	}
	c.end.Store(number + 1)
	return number
}

// all calls f with each record until that returns false.
func (c *cells) all(f func(*tenant.Record) bool) {
	for n := uint32(1); n < c.end.Load(); n++ {
		if r := c.at(n).record.Load(); r != nil && !f(r) {
			return
		}
	}
}

// An index finds cells by a key. Look-ups take no lock; what changes it is one goroutine's. While nothing changes, what is beside a key in the table is its
// tenant's record; while something does, only what the cell has counts, and a record has to say by itself what it is called.
type index struct {
	table   atomic.Pointer[table]
	cells   *cells
	changes *atomic.Uint64 // odd while the indexes and cells change
}

// table is a hash table. An entry whose bucket is full is in one of the next; from a bucket that was full once nothing is taken but its place stays (gone), so
// that a bucket with an empty place ends each search.
type table struct {
	buckets []bucket
	used    int // places that are not empty; the writer's
	live    int // of those, the ones that are not gone
}

// places is how many entries a bucket has.
const places = 4

// A bucket is two lines of the processor's cache, which are fetched at once; a look-up that finds a short key needs nothing else.
type bucket struct {
	tags    [places]atomic.Uint64 // the hash, and the cell's number: 0 is an empty place
	records [places]atomic.Pointer[tenant.Record]
	keys    [places][2]atomic.Uint64 // short keys
}

// gone is the tag of a place that was left.
const gone = 1 << 32

// key is a key as it is asked for.
type key struct {
	hash uint32
	// lo and hi are all of a key that is short; both are zero if it is not.
	lo, hi uint64
}

// entry is a cell that is put into an index, with its record, or taken out.
type entry struct {
	key
	number uint32
	record *tenant.Record // nil = take it out
}

func (e entry) tag() uint64 { return uint64(e.hash)<<32 | uint64(e.number) }

// match returns a bit for each place whose key has this hash. It does not branch: which place it is can't be predicted, and a processor that guesses wrong waits
// for memory instead of looking ahead.
func (b *bucket) match(hash uint32) uint64 {
	h := uint64(hash)
	return (b.tags[0].Load()>>32^h-1)>>63 |
		(b.tags[1].Load()>>32^h-1)>>63<<1 |
		(b.tags[2].Load()>>32^h-1)>>63<<2 |
		(b.tags[3].Load()>>32^h-1)>>63<<3
}

func (b *bucket) full() bool {
	for i := range b.tags {
		if b.tags[i].Load() == 0 {
			return false
		}
	}
	return true
}

// home is the bucket that a key is in, or before.
func (t *table) home(hash uint32) uint64 { return uint64(hash) * uint64(len(t.buckets)) >> 32 }

func (t *table) next(i uint64) uint64 {
	if i++; i == uint64(len(t.buckets)) {
		return 0
	}
	return i
}

// find finds the record that has this key, which match decides.
func (x *index) find(k key, match func(*tenant.Record) bool) *tenant.Record {
	if began := x.changes.Load(); began&1 == 0 {
		r := x.glance(k, match)
		if x.changes.Load() == began {
			return r
		}
	}
	_, r := x.search(k.hash, match)
	return r
}

// glance looks into the table only. What it returns is right if nothing has changed since before.
func (x *index) glance(k key, match func(*tenant.Record) bool) *tenant.Record {
	t := x.table.Load()
	for i := t.home(k.hash); ; i = t.next(i) {
		b := &t.buckets[i]
		b.keys[0][0].Load() // fetches the second line with the first
		for m := b.match(k.hash); m != 0; m &= m - 1 {
			j := bits.TrailingZeros64(m) % places
			r := b.records[j].Load()
			if k.lo|k.hi != 0 {
				if b.keys[j][0].Load() == k.lo && b.keys[j][1].Load() == k.hi && r != nil {
					return r
				}
			} else if r != nil && match(r) {
				return r
			}
		}
		if !b.full() {
			return nil
		}
	}
}

// search looks at the records of cells, and returns the number of the one that it found.
func (x *index) search(hash uint32, match func(*tenant.Record) bool) (uint32, *tenant.Record) {
	t := x.table.Load()
	for i := t.home(hash); ; i = t.next(i) {
		b := &t.buckets[i]
		for m := b.match(hash); m != 0; m &= m - 1 {
			number := uint32(b.tags[bits.TrailingZeros64(m)%places].Load()) //nolint:gosec // half of it
			if number == 0 {
				continue
			}
			if r := x.cells.at(number).record.Load(); r != nil && match(r) {
				return number, r
			}
		}
		if !b.full() {
			return 0, nil
		}
	}
}

// apply changes an index: puts cells in, or what is beside their keys right, and takes others out.
func (x *index) apply(list []entry) {
	t := x.table.Load()
	if t.crowded(len(list)) {
		more := 0
		for _, e := range list {
			if e.record != nil && !t.has(e) {
				more++
			}
		}
		if t.crowded(more) {
			t = newTable(t, t.live+more)
			x.table.Store(t)
		}
	}
	for _, e := range list {
		if e.record != nil {
			t.put(e)
		} else {
			t.remove(e)
		}
	}
	if len(t.buckets) > 1 && t.live*8 < len(t.buckets)*places {
		x.table.Store(newTable(t, t.live))
	}
}

// crowded reports whether a table would be full to more than four fifths.
func (t *table) crowded(more int) bool { return (t.used+more)*5 > len(t.buckets)*places*4 }

// newTable returns a table for so many entries, which has those of another, if that is not nil. It is little more than half full:
// the fuller one is, the more entries are not in the bucket where they are looked for first.
func newTable(from *table, entries int) *table {
	t := &table{buckets: make([]bucket, entries*9/(5*places)+1)}
	if from == nil {
		return t
	}
	for i := range from.buckets {
		b := &from.buckets[i]
		for j := range b.tags {
			if tag := b.tags[j].Load(); uint32(tag) != 0 { //nolint:gosec // half of it
				k := key{uint32(tag >> 32), b.keys[j][0].Load(), b.keys[j][1].Load()}
				t.put(entry{k, uint32(tag), b.records[j].Load()}) //nolint:gosec // half of it
			}
		}
	}
	return t
}

// place finds an entry, or where it is to be put.
func (t *table) place(e entry) (b *bucket, place int, there bool) {
	for i := t.home(e.hash); ; i = t.next(i) {
		at := &t.buckets[i]
		for j := range at.tags {
			switch tag := at.tags[j].Load(); {
			case tag == e.tag():
				return at, j, true
			case uint32(tag) == 0 && b == nil: //nolint:gosec // half of it
				b, place = at, j
			}
		}
		if !at.full() {
			return b, place, false
		}
	}
}

func (t *table) has(e entry) bool {
	_, _, there := t.place(e)
	return there
}

func (t *table) put(e entry) {
	b, j, there := t.place(e)
	b.keys[j][0].Store(e.lo)
	b.keys[j][1].Store(e.hi)
	b.records[j].Store(e.record)
	if there {
		return
	}
	t.live++
	if b.tags[j].Load() == 0 {
		t.used++
	}
	b.tags[j].Store(e.tag())
}

func (t *table) remove(e entry) {
	b, j, there := t.place(e)
	if !there {
		return
	}
	t.live--
	if b.full() {
		b.tags[j].Store(gone)
	} else {
		t.used--
		b.tags[j].Store(0)
	}
	b.records[j].Store(nil)
}

// seed makes the places of keys unforeseeable: names are the tenants' to choose.
var seed = maphash.MakeSeed()

// keyOf is the key of a string. One of 16 bytes at most is short. The last byte of hi says how many they are, or is the sixteenth; lest one be
// taken for the other, a string whose sixteenth is like a number is not short.
func keyOf(s string) key {
	k := key{hash: uint32(maphash.String(seed, s) >> 32)}
	n := len(s)
	switch {
	case n > 16 || n == 0:
		return k
	case n >= 8:
		k.lo, k.hi = word(s), word(s[n-8:])>>((16-n)*8)
	default:
		for i := range n {
			k.lo |= uint64(s[i]) << (i * 8)
		}
	}
	switch {
	case n < 16:
		k.hi |= uint64(n) << 56
	case k.hi>>56 < 16:
		k.lo, k.hi = 0, 0
	}
	return k
}

// word is the first eight bytes of a string.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// keyOfPair is the key of two strings; what pairs have in common does not matter, for they are compared.
func keyOfPair(a, b string) key {
	return key{hash: uint32((maphash.String(seed, a)*0x9e3779b97f4a7c15 ^ maphash.String(seed, b)) >> 32)}
}
