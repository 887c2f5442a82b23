package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Counter only grows. Its zero value is ready to use.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n; a negative n adds nothing.
func (c *Counter) Add(n int) {
	if n > 0 {
		c.n.Add(uint64(n))
	}
}

// Load returns the count.
func (c *Counter) Load() uint64 { return c.n.Load() }

// Seconds is a Counter of time. Its zero value is ready to use.
type Seconds struct{ n atomic.Int64 }

// Add adds d; a negative d adds nothing.
func (s *Seconds) Add(d time.Duration) { s.n.Add(int64(max(d, 0))) }

// Load returns the time.
func (s *Seconds) Load() time.Duration { return time.Duration(s.n.Load()) }

// Gauge goes up and down. Its zero value is ready to use.
type Gauge struct{ n atomic.Int64 }

// Inc adds one.
func (g *Gauge) Inc() { g.n.Add(1) }

// Dec takes one off.
func (g *Gauge) Dec() { g.n.Add(-1) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int) { g.n.Add(int64(n)) }

// Set sets the value.
func (g *Gauge) Set(n int64) { g.n.Store(n) }

// Load returns the value.
func (g *Gauge) Load() int64 { return g.n.Load() }

const (
	maxWords    = 64
	maxWordLen  = 48
	overflowing = "other"
)

// Words counts by a word of an enum: a close reason, the routine of a refusal. The words come from code, never from a peer.
// All the same the set is bounded: after 64 words, and for what is no word ([a-z0-9_], at most 48 bytes), it counts under
// "other". Its zero value is ready to use. Inc costs a map look-up.
type Words struct {
	known atomic.Pointer[map[string]*Counter] // copied on write
	mu    sync.Mutex                          // held by writers of known
}

// Inc adds one to the word's count.
func (w *Words) Inc(word string) { w.counter(word).Inc() }

// Load returns the word's count.
func (w *Words) Load(word string) uint64 {
	if c := w.find(word); c != nil {
		return c.Load()
	}
	return 0
}

func (w *Words) find(word string) *Counter {
	if known := w.known.Load(); known != nil {
		return (*known)[word]
	}
	return nil
}

func (w *Words) counter(word string) *Counter {
	if c := w.find(word); c != nil {
		return c
	}
	if !isWord(word) {
		word = overflowing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.find(word)
	if c == nil && w.size() >= maxWords {
		word = overflowing
		c = w.find(word)
	}
	if c == nil {
		c = w.addLocked(word)
	}
	return c
}

// seed makes words appear before their first Inc, so that a rate sees that one too.
func (w *Words) seed(words ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, word := range words {
		if w.find(word) == nil {
			w.addLocked(word)
		}
	}
}

func (w *Words) size() int {
	if known := w.known.Load(); known != nil {
		return len(*known)
	}
	return 0
}

func (w *Words) addLocked(word string) *Counter {
	next := make(map[string]*Counter, w.size()+1)
	if known := w.known.Load(); known != nil {
		maps.Copy(next, *known)
	}
	c := new(Counter)
	next[word] = c
	w.known.Store(&next)
	return c
}

// each calls f for every word in alphabetical order.
func (w *Words) each(f func(word string, n uint64)) {
	known := w.known.Load()
	if known == nil {
		return
	}
	for _, word := range slices.Sorted(maps.Keys(*known)) {
		f(word, (*known)[word].Load())
	}
}

func isWord(s string) bool {
	if s == "" || len(s) > maxWordLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
