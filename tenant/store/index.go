package store

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/tenant"
)

// A cell is one tenant for as long as it is there. Its record is replaced at once for all who look it up by whatever it is called.
type cell struct{ record atomic.Pointer[tenant.Record] }

// shards is how many parts an index has. A part is written anew when what is in it changes: with a million tenants it has 250 of them.
const shards = 4096

// An index finds cells by the hash of a key. It does not know the keys: who asks looks whether the record is the right one. Look-ups take no lock; add and
// remove are one goroutine's.
type index struct {
	shards [shards]atomic.Pointer[[]slot]
}

// slot is a place of a hash table with linear probing; a nil cell is an empty one.
type slot struct {
	hash uint64
	cell *cell
}

// entry is a cell that is put into an index, or taken out.
type entry struct {
	hash   uint64
	cell   *cell
	remove bool
}

// find calls match with each record whose key has this hash, until that returns true.
func (x *index) find(hash uint64, match func(*tenant.Record) bool) *tenant.Record {
	_, r := x.findCell(hash, match)
	return r
}

func (x *index) findCell(hash uint64, match func(*tenant.Record) bool) (*cell, *tenant.Record) {
	table := x.shards[hash%shards].Load()
	if table == nil {
		return nil, nil
	}
	mask := uint64(len(*table) - 1) //nolint:gosec // it is not empty
	for i := hash / shards & mask; (*table)[i].cell != nil; i = (i + 1) & mask {
		if s := &(*table)[i]; s.hash == hash {
			if r := s.cell.record.Load(); r != nil && match(r) {
				return s.cell, r
			}
		}
	}
	return nil, nil
}

// apply changes an index; what is there already is not put in twice.
func (x *index) apply(list []entry) {
	byShard := make(map[uint64][]entry)
	for _, e := range list {
		byShard[e.hash%shards] = append(byShard[e.hash%shards], e)
	}
	for i, list := range byShard {
		x.applyTo(&x.shards[i], list)
	}
}

func (*index) applyTo(shard *atomic.Pointer[[]slot], list []entry) {
	set := make(map[slot]struct{})
	if table := shard.Load(); table != nil {
		for _, s := range *table {
			if s.cell != nil {
				set[s] = struct{}{}
			}
		}
	}
	for _, e := range list {
		if e.remove {
			delete(set, slot{e.hash, e.cell})
		} else {
			set[slot{e.hash, e.cell}] = struct{}{}
		}
	}
	if len(set) == 0 {
		shard.Store(nil)
		return
	}
	size := 4
	for size*2 < len(set)*3 { // two thirds full at most, so that there is always an empty one
		size *= 2
	}
	table := make([]slot, size)
	mask := uint64(size - 1) //nolint:gosec // a size
	for s := range set {
		i := s.hash / shards & mask
		for table[i].cell != nil {
			i = (i + 1) & mask
		}
		table[i] = s
	}
	shard.Store(&table)
}

// all calls f with each record until that returns false.
func (x *index) all(f func(*tenant.Record) bool) {
	for i := range x.shards {
		table := x.shards[i].Load()
		if table == nil {
			continue
		}
		for _, s := range *table {
			if s.cell == nil {
				continue
			}
			if r := s.cell.record.Load(); r != nil && !f(r) {
				return
			}
		}
	}
}

// seed makes the places of keys unforeseeable: names are the tenants' to choose.
var seed = maphash.MakeSeed()

func hashOf(s string) uint64 { return maphash.String(seed, s) }

// hashPair is the hash of two strings; what pairs have in common does not matter, for they are compared.
func hashPair(a, b string) uint64 {
	return maphash.String(seed, a)*0x9e3779b97f4a7c15 ^ maphash.String(seed, b)
}
