package parser

import (
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"testing"
)

func TestCacheKeepsMessages(t *testing.T) {
	c := NewCache(1 << 20)
	sql := []byte("SELECT 1")
	if c.Get(sql) != nil {
		t.Fatal("an empty cache has an entry")
	}
	m := c.Parse(sql, "")
	if m == nil || len(m.Statements) != 1 {
		t.Fatalf("got %v", m)
	}
	if c.Get(sql) != m || c.Parse([]byte("SELECT 1"), "") != m {
		t.Error("not the same message again")
	}
	copy(sql, "SHOW   x")
	if c.Get([]byte("SELECT 1")) != m {
		t.Error("the cache holds the caller's bytes")
	}
	if bad := c.Parse([]byte("SELEC"), ""); bad.Unparsable == nil || c.Get([]byte("SELEC")) != bad {
		t.Error("a text that can't be parsed is not kept")
	}
	s := c.Stats()
	if s.Hits != 4 || s.Misses != 2 || s.Entries != 2 || s.Evictions != 0 || s.Bytes < int64(m.Size) || s.ParseTime <= 0 {
		t.Errorf("got %+v", s)
	}
	c.Purge()
	if s := c.Stats(); c.Get([]byte("SELECT 1")) != nil || s.Entries != 0 || s.Bytes != 0 || s.Misses != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestCacheIsBounded(t *testing.T) {
	const budget = 256 << 10
	c := NewCache(budget)
	for i := range 5000 {
		c.Parse(fmt.Appendf(nil, "SELECT a FROM t WHERE id = %d", i), "")
		if i%100 == 0 {
			checkCache(t, c, budget)
		}
	}
	s := c.Stats()
	if s.Evictions == 0 || s.Entries == 0 || int(s.Evictions)+s.Entries != 5000 {
		t.Errorf("got %+v", s)
	}
}

// checkCache walks all entries and holds the counts to them.
func checkCache(t *testing.T, c *Cache, budget int64) {
	t.Helper()
	total := int64(0)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		inMap, inQueue, bytes, hand, broom := 0, 0, int64(0), s.mu.hand == nil, s.mu.broom == nil
		shares := make(map[*share]int64)
		for hash, e := range s.mu.entries {
			for ; e != nil; e = e.same {
				inMap++
				if e.hash != hash {
					t.Error("an entry under another's hash")
				}
			}
		}
		var last *cacheEntry
		for e := s.mu.oldest; e != nil; last, e = e, e.newer {
			inQueue++
			bytes += e.bytes
			shares[e.of] += e.bytes
			hand, broom = hand || e == s.mu.hand, broom || e == s.mu.broom
			if e.older != last {
				t.Error("the queue's links differ")
			}
		}
		if inMap != inQueue || inMap != s.mu.count || bytes != s.mu.bytes || last != s.mu.newest || !hand || !broom || bytes > s.maxBytes {
			t.Errorf("map %d, queue %d, count %d, bytes %d and %d of %d, hand and broom in the queue: %v, %v", inMap, inQueue, s.mu.count, bytes, s.mu.bytes, s.maxBytes, hand, broom)
		}
		for of, bytes := range shares {
			if of.bytes != bytes || s.mu.owners[of.owner] != of || len(shares) != len(s.mu.owners) {
				t.Errorf("%q has %d bytes, not %d; %d owners, not %d", of.owner, bytes, of.bytes, len(shares), len(s.mu.owners))
			}
		}
		total += bytes
		s.mu.RUnlock()
	}
	if total > budget {
		t.Errorf("%d bytes of %d", total, budget)
	}
}

func TestCacheSparesWhatReturns(t *testing.T) {
	c := NewCache(512 << 10)
	var hot [][]byte
	for i := range 20 {
		hot = append(hot, fmt.Appendf(nil, "SELECT hot FROM t WHERE id = %d", i))
		c.Parse(hot[i], "")
	}
	for i := range 3000 {
		c.Parse(fmt.Appendf(nil, "SELECT cold FROM t WHERE id = %d", i), "")
		c.Get(hot[i%len(hot)])
	}
	for _, sql := range hot {
		if c.Get(sql) == nil {
			t.Errorf("%s was pushed out by texts that never return", sql)
		}
	}
}

// TestCacheIsNotOneOwners: who brings texts without end, and brings each again, has half of the cache, and not what others use now and then.
func TestCacheIsNotOneOwners(t *testing.T) {
	const budget = 2 << 20
	c := NewCache(budget)
	var others [][]byte
	for i := range 50 {
		others = append(others, fmt.Appendf(nil, "SELECT hers FROM t WHERE id = %d", i))
		c.Parse(others[i], Owner(fmt.Sprint("tenant ", i%5)))
	}
	for i := range 5000 {
		for range 2 {
			c.Parse(fmt.Appendf(nil, "SELECT his FROM t WHERE id = %d", i), "tenant x")
		}
	}
	checkCache(t, c, budget)
	for _, sql := range others {
		if c.Get(sql) == nil {
			t.Errorf("%s was pushed out by another's", sql)
		}
	}
	// What nobody asks for any more is in nobody's way.
	for i := range c.shards {
		for e := c.shards[i].mu.oldest; e != nil; e = e.newer {
			e.hits.Store(0)
			if e.of.owner != "tenant x" {
				e.idle = e.idle.Add(-forgotten)
			}
		}
	}
	for i := range 5000 {
		c.Parse(fmt.Appendf(nil, "SELECT more FROM t WHERE id = %d", i), "tenant x")
	}
	checkCache(t, c, budget)
	for _, sql := range others {
		if c.Get(sql) != nil {
			t.Errorf("%s is kept for nobody", sql)
		}
	}
}

func TestCacheForgetsLongTexts(t *testing.T) {
	c := NewCache(64 << 20)
	long := []byte("SELECT '" + strings.Repeat("x", maxCachedText) + "'")
	if m := c.Parse(long, ""); m == nil || m.Unparsable != nil || c.Get(long) != nil {
		t.Errorf("got %v", m)
	}
	// Long in what it means, not in its text.
	small := NewCache(64 << 10)
	wide := []byte("VALUES (1" + strings.Repeat(",1", 400) + ")")
	if m := small.Parse(wide, ""); m == nil || small.Get(wide) != nil {
		t.Error("a message greater than its shard of the cache is kept")
	}
	none := NewCache(0)
	if m := none.Parse([]byte("SELECT 1"), ""); m == nil || none.Get([]byte("SELECT 1")) != nil {
		t.Error("a cache of no size keeps something")
	}
	if m := none.Parse(nil, ""); m == nil || len(m.Statements) != 0 {
		t.Errorf("got %v", m)
	}
	if s := c.Stats(); s.Misses != 1 || s.Entries != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestCacheChainsEqualHashes(t *testing.T) {
	c := NewCache(1 << 20)
	s := &c.shards[0]
	var entries []*cacheEntry
	s.mu.Lock()
	for i := range 3 {
		e := &cacheEntry{text: fmt.Sprint(i), hash: 7, bytes: 10}
		entries = append(entries, e)
		s.keepLocked(e, "")
	}
	s.mu.Unlock()
	checkCache(t, c, 1<<20)
	s.mu.Lock()
	s.removeLocked(entries[1])
	s.mu.Unlock()
	checkCache(t, c, 1<<20)
	s.mu.Lock()
	s.removeLocked(entries[2])
	s.removeLocked(entries[0])
	s.mu.Unlock()
	checkCache(t, c, 1<<20)
}

func TestCacheParsesOnce(t *testing.T) {
	c := NewCache(1 << 20)
	sql := []byte("SELECT 1" + strings.Repeat(" + 1", 500))
	const callers = 16
	got := make([]*Message, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { got[i] = c.Parse(sql, "") })
	}
	wg.Wait()
	for _, m := range got {
		if m == nil || m != got[0] {
			t.Fatal("callers got different messages")
		}
	}
	if s := c.Stats(); s.Misses != 1 || s.Hits != callers-1 {
		t.Errorf("got %+v", s)
	}
}

func TestCacheInParallel(t *testing.T) {
	c := NewCache(128 << 10)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 {
				n := i * (w + 1) % 150
				sql := fmt.Appendf(nil, "SELECT %d", n)
				m := c.Parse(sql, "")
				if m.Statements[0].Query.Output[0].Expr.Value.Text != fmt.Sprint(n) {
					t.Error("another text's message")
				}
				if i%200 == 0 {
					c.Purge()
				}
				c.Stats()
			}
		})
	}
	wg.Wait()
	checkCache(t, c, 128<<10)
}

func TestCacheGetAllocatesNothing(t *testing.T) {
	c := NewCache(1 << 20)
	sql := []byte("SELECT id FROM orders WHERE tenant_id = 42")
	c.Parse(sql, "")
	if n := testing.AllocsPerRun(100, func() {
		if c.Get(sql) == nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkCacheGet(b *testing.B) {
	c := NewCache(1 << 20)
	sql := []byte("SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.tenant_id = 42 AND o.state = 'open' LIMIT 20")
	c.Parse(sql, "")
	b.ReportAllocs()
	for b.Loop() {
		c.Get(sql)
	}
}

func BenchmarkParse(b *testing.B) {
	sql := "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.tenant_id = 42 AND o.state = 'open' LIMIT 20"
	b.ReportAllocs()
	for b.Loop() {
		Parse(sql)
	}
}

// TestCacheParsesFirstTexts: ParseFirst parses what nobody has parsed, gives what another caller has just parsed, and waits for nobody.
func TestCacheParsesFirstTexts(t *testing.T) {
	c := NewCache(1 << 20)
	var s Shape
	first := []byte("SELECT a FROM t WHERE id = 1")
	m := c.ParseFirst(first, &s, "", false)
	if m == nil || m.Shaped || len(m.Statements) != 1 || c.Get(first) != m || c.GetShape(first, &s) != m {
		t.Fatalf("got %+v", m)
	}
	for _, x := range []struct {
		sql  string
		asIs bool
	}{
		{"SELECT a FROM t WHERE id = 1", false}, // a second text of the shape, if the same
		{"SELECT a FROM t WHERE id = 2", false},
		{"SELECT a FROM t WHERE id = 2", true},
		{"SELECT a FROM t", false}, // stands for its shape
		{"SET a = 1", false},       // has no shape
		{"SELECT '" + strings.Repeat("x", c.maxText) + "'", false},
	} {
		if m := c.ParseFirst([]byte(x.sql), &s, "", x.asIs); m != nil {
			t.Errorf("%.50q: %+v", x.sql, m)
		}
	}
	if m := c.ParseFirst([]byte("SELECT b FROM t WHERE id = $1"), &s, "", true); m == nil || m.Unparsable != nil || c.GetText([]byte("SELECT b FROM t WHERE id = $1"), &s) != m {
		t.Errorf("as it is: %+v", m)
	}

	busy := []byte("SELECT c FROM t WHERE id = 1")
	hash := maphash.Bytes(c.seed, busy)
	f, mine, _ := c.shard(hash).join(hash, busy)
	if !mine {
		t.Fatal("somebody parses it")
	}
	if m := c.ParseFirst(busy, &s, "", false); m != nil {
		t.Errorf("while it is parsed: %+v", m)
	}
	c.shard(hash).fly(hash, f, "", func() *Message { return Parse(f.text) })
	if m := c.ParseShape(busy, &s, ""); m == nil || m.Unparsable != nil {
		t.Errorf("then: %+v", m)
	}
}
