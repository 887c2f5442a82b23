package store

import (
	"flag"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

// population is a million, unless benchmarks run once only, to see whether they work.
func population() int {
	if f := flag.Lookup("test.benchtime"); f != nil && f.Value.String() == "1x" {
		return 10_000
	}
	return 1_000_000
}

// million makes as many tenants, with what an instance's record has.
func million(n int) []*tenant.Record {
	list := make([]*tenant.Record, n)
	for i := range list {
		r := newRecord(fmt.Sprintf("customer-%d", i))
		r.Revision = int64(i + 1)
		list[i] = r
	}
	return list
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// processorTime is what this process has used of the processor, in nanoseconds: what others do does not count.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkMirror looks names up among a million tenants, in no order; and beside it in what the index could have been: a sync.Map, and maps in shards that
// are copied when they change. All of them say how many bytes they need for a tenant, without the record. For comparison, floor looks at the record alone, by its
// number: most of the time goes into waiting for memory. A mirror does not look at the record unless it is changing or the name is long; who then uses the record
// waits for it himself.
func BenchmarkMirror(b *testing.B) {
	n := population()
	list := million(n)
	names := make([]string, n)
	for i, r := range list {
		names[i] = string([]byte(r.Name))
	}
	rand.Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
	for i, name := range names { // who asks has just read the name: what is waited for is not that
		names[i] = strings.Clone(name)
	}
	measure := func(b *testing.B, before int64, look func(string) *tenant.Record) {
		b.Helper()
		perTenant := float64(heap()-before) / float64(n)
		b.ReportAllocs()
		i, began := 0, processorTime(b)
		for b.Loop() {
			if look(names[i]) == nil {
				b.Fatal("a tenant is missing")
			}
			if i++; i == n {
				i = 0
			}
		}
		b.ReportMetric(perTenant, "B/tenant")
		b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op")
	}
	b.Run("mirror", func(b *testing.B) {
		before := heap()
		m := NewMirror(nil, MirrorOptions{})
		m.apply(tenant.Change{Reset: true, Records: list})
		measure(b, before, m.ByName)
		if m.Len() != n {
			b.Fatal("tenants are missing")
		}
	})
	b.Run("changing", func(b *testing.B) { // as the mirror is while it applies a change
		before := heap()
		m := NewMirror(nil, MirrorOptions{})
		m.apply(tenant.Change{Reset: true, Records: list})
		m.changes.Add(1)
		measure(b, before, m.ByName)
	})
	b.Run("floor", func(b *testing.B) {
		byName := make(map[string]int, n)
		for i, r := range list {
			byName[r.Name] = i
		}
		order := make([]int, n)
		for i, name := range names {
			order[i] = byName[name]
		}
		clear(byName)
		i := 0
		measure(b, heap(), func(name string) *tenant.Record {
			r := list[order[i]]
			if i++; i == n {
				i = 0
			}
			if r.Name != name {
				return nil
			}
			return r
		})
	})
	b.Run("syncmap", func(b *testing.B) {
		before := heap()
		var byID, byName sync.Map
		for _, r := range list {
			byID.Store(r.ID, r)
			byName.Store(r.Name, r)
		}
		measure(b, before, func(name string) *tenant.Record {
			r, _ := byName.Load(name)
			return r.(*tenant.Record)
		})
		runtime.KeepAlive(&byID)
	})
	b.Run("shards", func(b *testing.B) {
		const parts = 4096
		before := heap()
		var byID, byName [parts]atomic.Pointer[map[string]*tenant.Record]
		fill := func(to *[parts]atomic.Pointer[map[string]*tenant.Record], key func(*tenant.Record) string) {
			maps2 := make([]map[string]*tenant.Record, parts)
			for _, r := range list {
				i := maphash.String(seed, key(r)) % parts
				if maps2[i] == nil {
					maps2[i] = make(map[string]*tenant.Record)
				}
				maps2[i][key(r)] = r
			}
			for i, m := range maps2 {
				m = maps.Clone(m)
				to[i].Store(&m)
			}
		}
		fill(&byID, func(r *tenant.Record) string { return r.ID })
		fill(&byName, func(r *tenant.Record) string { return r.Name })
		measure(b, before, func(name string) *tenant.Record { return (*byName[maphash.String(seed, name)%parts].Load())[name] })
		runtime.KeepAlive(&byID)
	})
}

// BenchmarkMirrorChange changes one tenant among a million, and its name.
func BenchmarkMirrorChange(b *testing.B) {
	n := population()
	list := million(n)
	m := NewMirror(nil, MirrorOptions{})
	m.apply(tenant.Change{Reset: true, Records: list})
	for name, rename := range map[string]bool{"access": false, "name": true} {
		b.Run(name, func(b *testing.B) {
			i, began := 0, processorTime(b)
			for b.Loop() {
				r := m.ByID(list[rand.IntN(n)].ID).Clone()
				if r.Revision++; rename {
					r.Name = fmt.Sprintf("renamed-%d", i)
				}
				i++
				m.apply(tenant.Change{Records: []*tenant.Record{r}})
			}
			b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkMirrorLoad has a mirror take up a million tenants at once.
func BenchmarkMirrorLoad(b *testing.B) {
	list := million(population())
	began := processorTime(b)
	for b.Loop() {
		NewMirror(nil, MirrorOptions{}).apply(tenant.Change{Reset: true, Records: list})
	}
	b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op")
}

// TestMirrorAllocations holds look-ups to allocating nothing.
func TestMirrorAllocations(t *testing.T) {
	m := NewMirror(nil, MirrorOptions{})
	list := million(1000)
	for i, r := range list {
		r.Cluster, r.Key, r.Schema = "main", fmt.Sprint(i), fmt.Sprintf("t%d", i)
		if i%2 == 0 {
			r.Name += "-of-a-long-name"
		}
	}
	m.apply(tenant.Change{Reset: true, Records: list})
	var missing atomic.Int32
	for name, look := range map[string]func(*tenant.Record) *tenant.Record{
		"ByID":     func(r *tenant.Record) *tenant.Record { return m.ByID(r.ID) },
		"ByName":   func(r *tenant.Record) *tenant.Record { return m.ByName(r.Name) },
		"ByKey":    func(r *tenant.Record) *tenant.Record { return m.ByKey(r.Cluster, r.Key) },
		"BySchema": func(r *tenant.Record) *tenant.Record { return m.BySchema(r.Cluster, r.Schema) },
	} {
		i := 0
		if n := testing.AllocsPerRun(1000, func() {
			if look(list[i%1000]) != list[i%1000] {
				missing.Add(1)
			}
			i++
		}); n != 0 || missing.Load() != 0 {
			t.Errorf("%s: got %v allocations and %d missing, want none", name, n, missing.Load())
		}
	}
}
