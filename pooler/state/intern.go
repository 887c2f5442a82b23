package state

import (
	"runtime"
	"sync"
	"weak"
)

// Interned are immutable values in use, by hash: thousands of clients have a few between them, each held once, which are found to be equal by a
// look at a pointer. It is safe for concurrent use; values that nobody uses any more are forgotten.
type Interned[T any] struct {
	mu     sync.Mutex
	byHash map[uint64]weak.Pointer[T]
}

// Unify returns the value in use that equals v, which is v if there was none.
func (i *Interned[T]) Unify(v *T, hash uint64, equal func(a, b *T) bool) *T {
	i.mu.Lock()
	defer i.mu.Unlock()
	if old := i.byHash[hash].Value(); old != nil {
		if equal(old, v) {
			return old
		}
		return v // equal in hash only
	}
	if i.byHash == nil {
		i.byHash = make(map[uint64]weak.Pointer[T])
	}
	i.byHash[hash] = weak.Make(v)
	runtime.AddCleanup(v, i.forget, hash)
	return v
}

// forget drops a value that nobody uses any more.
func (i *Interned[T]) forget(hash uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byHash[hash].Value() == nil {
		delete(i.byHash, hash)
	}
}
