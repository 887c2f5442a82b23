package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

// TestKeyOf: two strings have the same short key only if they are the same.
func TestKeyOf(t *testing.T) {
	t.Parallel()
	var list []string
	for n := range 20 {
		for _, c := range []byte{0, 1, 7, 8, 15, 16, 'a', 0xff} {
			list = append(list, strings.Repeat(string([]byte{c}), n))
			for at := range n {
				b := []byte(strings.Repeat("a", n))
				b[at] = c
				list = append(list, string(b))
			}
		}
	}
	type short struct{ lo, hi uint64 }
	seen, shorts := make(map[short]string), 0
	for _, s := range list {
		k := keyOf(s)
		if k != keyOf(strings.Clone(s)) {
			t.Fatalf("%q has two keys", s)
		}
		if k.lo|k.hi == 0 {
			if n := len(s); n > 0 && n < 16 || n == 16 && s[15] >= 16 {
				t.Errorf("%q is not short", s)
			}
			continue
		}
		shorts++
		at := short{k.lo, k.hi}
		if other, ok := seen[at]; ok && other != s {
			t.Errorf("%q and %q have the same short key", s, other)
		}
		seen[at] = s
	}
	if shorts == 0 || keyOf("").lo|keyOf("").hi != 0 {
		t.Error("nothing is short, or the empty string is")
	}
}

// TestIndexAgainstMap puts keys into an index and takes them out, at random, and compares it with a map: it grows, shrinks, and fills up with places that were
// left. All hashes are near a few, most of them the same, so that entries are far from where they are looked for first; some are short and others not.
func TestIndexAgainstMap(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var all cells
	var changes atomic.Uint64
	x := index{cells: &all, changes: &changes}
	x.table.Store(newTable(nil, 0))
	keys := make([]key, 180)
	records := make([]*tenant.Record, len(keys))
	numbers := make([]uint32, len(keys))
	for i := range keys {
		keys[i].hash = [...]uint32{0, 1, 1 << 31, 1<<32 - 1, uint32(i) << 24, uint32(i)}[i%6]
		if i%5 != 0 {
			keys[i].lo, keys[i].hi = uint64(i+1), 1
		}
		records[i] = &tenant.Record{ID: fmt.Sprint(i)}
		numbers[i] = all.take()
		all.at(numbers[i]).record.Store(records[i])
	}
	there := make(map[int]bool)
	check := func(round int) {
		for i, k := range keys {
			var want *tenant.Record
			if there[i] {
				want = records[i]
			}
			match := func(r *tenant.Record) bool { return r.ID == records[i].ID }
			if got := x.glance(k, match); got != want {
				t.Fatalf("round %d: at a glance: got %v, want %v", round, got, want)
			}
			if n, got := x.search(k.hash, match); got != want || got != nil && n != numbers[i] {
				t.Fatalf("round %d: got %d, %v, want %v", round, n, got, want)
			}
		}
	}
	grew, shrank, size := false, false, 1
	for round := range 200 {
		share := []float64{1, 0.9, 0.5, 0.1, 0}[round/20%5] // of the keys, of which so many are put in at last
		var list []entry
		now := make(map[int]bool)
		for range 1 + random.IntN(40) {
			i := random.IntN(len(keys))
			if now[i] {
				continue
			}
			now[i] = true
			e := entry{keys[i], numbers[i], records[i]}
			if there[i] = random.Float64() < share; !there[i] {
				e.record = nil
			}
			list = append(list, e)
		}
		x.apply(list)
		table := x.table.Load()
		live, used := 0, 0
		for i := range table.buckets {
			for j := range places {
				switch tag := table.buckets[i].tags[j].Load(); tag {
				case 0, gone:
					if table.buckets[i].records[j].Load() != nil {
						t.Fatalf("round %d: a place that was left keeps a record", round)
					}
					if tag == gone {
						used++
					}
				default:
					live++
					used++
				}
			}
		}
		if live != table.live || used != table.used || used == len(table.buckets)*places {
			t.Fatalf("round %d: %d of %d places are used and %d live; counted are %d and %d", round, used, len(table.buckets)*places, live, table.used, table.live)
		}
		grew, shrank, size = grew || len(table.buckets) > size, shrank || len(table.buckets) < size, len(table.buckets)
		if round%4 == 0 {
			check(round)
		}
	}
	if !grew || !shrank {
		t.Errorf("it grew: %v, and shrank: %v, want both", grew, shrank)
	}
}

// TestMirrorAgainstMap creates, renames and removes tenants at random, several in one change, and compares a Mirror with maps.
func TestMirrorAgainstMap(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	names := []string{"", "\x00", "a\x00"}
	for i := range 60 {
		names = append(names, fmt.Sprintf("%0*d", 1+i%30, i), "n"+strings.Repeat("x", i%40)+fmt.Sprint(i))
	}
	m := NewMirror(nil, MirrorOptions{})
	byID, byName := make(map[string]*tenant.Record), make(map[string]*tenant.Record)
	for round := range 100 {
		var c tenant.Change
		free := make(map[string]bool)
		for _, name := range names {
			free[name] = byName[name] == nil
		}
		few := 1 + random.IntN(20)
		touched := make(map[string]bool)
		for id, r := range byID {
			if len(touched) == few {
				break
			}
			touched[id] = true
			delete(byID, id)
			delete(byName, r.Name)
			free[r.Name] = true
			if random.IntN(3) == 0 {
				c.Deleted = append(c.Deleted, id)
				continue
			}
			r = r.Clone()
			r.Revision++
			c.Records = append(c.Records, r)
		}
		for range random.IntN(1 + few*3/2) {
			c.Records = append(c.Records, newRecord("new"))
		}
		for i, at := 0, random.Perm(len(names)); i < len(c.Records); i++ {
			r := c.Records[i]
			for len(at) > 0 && !free[names[at[0]]] {
				at = at[1:]
			}
			if len(at) == 0 {
				c.Records = c.Records[:i]
				break
			}
			r.Name, at = names[at[0]], at[1:]
			r.Cluster, r.Key, r.Schema = "c", "k"+r.Name, "s"+r.Name
			if len(r.Name)%3 == 0 {
				r.Key = ""
			}
			free[r.Name] = false
			byID[r.ID], byName[r.Name] = r, r
		}
		for id := range touched { // those for whom there was no name left
			if byID[id] == nil && !slices.Contains(c.Deleted, id) {
				c.Deleted = append(c.Deleted, id)
			}
		}
		m.apply(c)
		if m.Len() != len(byID) {
			t.Fatalf("round %d: got %d tenants, want %d", round, m.Len(), len(byID))
		}
		seen := 0
		for r := range m.All {
			if seen++; byID[r.ID] != r {
				t.Fatalf("round %d: got %v among all", round, r)
			}
		}
		if seen != len(byID) {
			t.Fatalf("round %d: got %d of all, want %d", round, seen, len(byID))
		}
		for _, held := range []bool{false, true} { // look-ups while nothing changes, and as while something does
			if held {
				m.changes.Add(1)
			}
			for _, name := range names {
				want := byName[name]
				keyed := want
				if want != nil && want.Key == "" {
					keyed = nil
				}
				if got := m.ByName(name); got != want {
					t.Fatalf("round %d: %q: got %v, want %v", round, name, got, want)
				}
				if got := m.ByKey("c", "k"+name); got != keyed {
					t.Fatalf("round %d: key of %q: got %v, want %v", round, name, got, keyed)
				}
				if got := m.BySchema("c", "s"+name); got != want {
					t.Fatalf("round %d: schema of %q: got %v, want %v", round, name, got, want)
				}
			}
			for id, want := range byID {
				if got := m.ByID(id); got != want {
					t.Fatalf("round %d: got %v, want %v", round, got, want)
				}
			}
			for _, id := range c.Deleted {
				if got := m.ByID(id); got != nil {
					t.Fatalf("round %d: got %v, who is gone", round, got)
				}
			}
			if held {
				m.changes.Add(1)
			}
		}
	}
	if n := m.cells.end.Load(); int(n) > len(names)*2 {
		t.Errorf("there are %d cells for %d tenants: they are not used again", n, len(names))
	}
}

// TestMirrorDuringChange stops between a tenant's new record and the indexes' end of its old name, where what is beside the keys is not true any more.
func TestMirrorDuringChange(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	x := newRecord("old")
	m.apply(tenant.Change{Reset: true, Records: []*tenant.Record{x}})
	y := x.Clone()
	y.Name, y.Revision = "new", 1
	m.changes.Add(1)
	n, _ := m.cell(x.ID)
	if m.ByName("old") != x || m.ByID(x.ID) != x {
		t.Error("before the change, it is not found as it was")
	}
	m.cells.at(n).record.Store(y)
	if got := m.ByName("old"); got != nil {
		t.Errorf("got %v by a name that it had", got)
	}
	if got := m.ByID(x.ID); got != y {
		t.Errorf("by ID: got %v, want what it is now", got)
	}
	m.cells.at(n).record.Store(nil)
	if m.ByName("old") != nil || m.ByID(x.ID) != nil {
		t.Error("who is gone is found")
	}
}

// TestMirrorChangeDuringLookup changes a tenant while a look-up has it in hand: what was found at a glance does not count then.
func TestMirrorChangeDuringLookup(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	long := strings.Repeat("long", 10) // so that the look-up calls us
	x := newRecord(long)
	m.apply(tenant.Change{Reset: true, Records: []*tenant.Record{x}})
	y := x.Clone()
	y.Name, y.Revision = "short", 1
	calls := 0
	if got := m.names.find(keyOf(long), func(r *tenant.Record) bool {
		if calls++; calls == 1 {
			m.apply(tenant.Change{Records: []*tenant.Record{y}})
		}
		return r.Name == long
	}); got != nil || calls == 0 {
		t.Errorf("got %v after %d calls, want nobody", got, calls)
	}
}

// TestMirrorGrowsAndShrinks has tenants come and go by the hundred, so that tables are made anew and cells change hands, while others look them up: those that
// stay are always found, who is found is always who was asked for, and a new one has all its names at once.
func TestMirrorGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	made := func(name string) *tenant.Record {
		r := newRecord(name)
		r.Cluster, r.Key, r.Schema = "c", "k"+name, "s"+name
		return r
	}
	var stay []*tenant.Record
	for i := range 20 {
		stay = append(stay, made(fmt.Sprintf("stays%0*d", 1+i, i)))
	}
	m.apply(tenant.Change{Reset: true, Records: stay})
	var guests atomic.Pointer[[]*tenant.Record]
	guests.Store(&[]*tenant.Record{})
	stop := make(chan struct{})
	var looked atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r := stay[i%len(stay)]
				if m.ByName(r.Name) != r || m.ByID(r.ID) != r || m.ByKey("c", r.Key) != r || m.BySchema("c", r.Schema) != r {
					t.Errorf("%s is not found", r.Name)
					return
				}
				for _, r := range *guests.Load() {
					for _, look := range []func() *tenant.Record{
						func() *tenant.Record { return m.ByName(r.Name) }, func() *tenant.Record { return m.ByKey("c", r.Key) },
						func() *tenant.Record { return m.BySchema("c", r.Schema) }, func() *tenant.Record { return m.ByID(r.ID) },
					} {
						if got := look(); got != nil && got != r {
							t.Errorf("got %s instead of %s", got.Name, r.Name)
							return
						}
					}
					here := m.ByID(r.ID) != nil
					if named := m.ByName(r.Name) != nil; here && !named && m.ByID(r.ID) != nil {
						t.Errorf("%s is found by its ID, and not by its name", r.Name)
						return
					}
				}
				looked.Add(1)
			}
		})
	}
	for round := 0; (round < 10 || looked.Load() < 100) && !t.Failed(); round++ {
		var list []*tenant.Record
		for i := range 180 {
			list = append(list, made(fmt.Sprintf("guest%d-%0*d", round, 1+i%15, i)))
		}
		few := list[:6]
		guests.Store(&few)
		for i := 0; i < len(list); i += 60 {
			m.apply(tenant.Change{Records: list[i : i+60]})
		}
		for i := 0; i < len(list); i += 60 {
			var ids []string
			for _, r := range list[i : i+60] {
				ids = append(ids, r.ID)
			}
			m.apply(tenant.Change{Deleted: ids})
		}
	}
	close(stop)
	wg.Wait()
	if n := m.cells.end.Load(); n > 400 || m.Len() != len(stay) {
		t.Errorf("there are %d cells and %d tenants, want those of one round, and %d", n, m.Len(), len(stay))
	}
}
