package state

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Equal sets are one, and those that nobody has are forgotten.
func TestSetsAreInterned(t *testing.T) {
	make2 := func(v string) *Set {
		return NewSet([]Var{{Name: "interned.a", Value: v}, {Name: "interned.b", Value: "2"}})
	}
	one, other := make2("1"), make2("1")
	if one != other || one == make2("3") {
		t.Error("equal sets are two, or different ones are one")
	}
	if one.Without("interned.b").With(Var{Name: "interned.b", Value: "2"}) != one {
		t.Error("a set is another when it is itself again")
	}
	for i := range 1000 {
		make2(strconv.Itoa(i))
	}
	pgtest.Eventually(t, "sets that nobody has are forgotten", func() bool {
		runtime.GC()
		interned.mu.Lock()
		defer interned.mu.Unlock()
		return len(interned.byHash) < 500
	})
	runtime.KeepAlive(one)
}
