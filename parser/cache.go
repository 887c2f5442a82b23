package parser

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Cache keeps parsed Messages by their text, bounded by bytes. It is safe for concurrent use; a hit takes a read lock of one of
// its shards and allocates nothing. What is not asked for again goes first (SIEVE: a queue with a hand that spares what was hit since it last
// came by), so that a flood of texts that never return does not push out those that do. Nor does one of texts that return: of whoever has half of a
// shard, only his own are dropped for what he brings anew, and what nobody has asked for in a long time.
type Cache struct {
	seed    maphash.Seed
	maxText int // bytes; longer texts are parsed and forgotten
	purges  atomic.Uint64
	shards  [cacheShards]cacheShard
}

const (
	cacheShards = 16
	// maxCachedText bounds the texts that are kept, whatever the budget.
	maxCachedText = 64 << 10
	// entryOverhead is what an entry costs beside its text and its Message: the entry itself and its place in the map.
	entryOverhead = 190
	// forgotten is when an entry is nobody's any more: it was not hit for that long, or longer.
	forgotten = 10 * time.Minute
)

// Owner is whose a text is, in whatever way he can be told from others.
type Owner string

// cacheShard is the part of a Cache for some hashes.
type cacheShard struct {
	maxBytes int64

	hits atomic.Uint64

	mu struct {
		sync.RWMutex
		entries map[uint64]*cacheEntry // by hash; entries of one hash are chained
		flights map[uint64]*flight     // by hash; texts of one hash one after the other
		// newest and oldest end the queue, hand is where eviction goes on, from the oldest to the newest. In a flood it does not come round; the broom does,
		// and takes what is forgotten.
		newest, oldest, hand, broom *cacheEntry
		count                       int
		bytes                       int64
		owners                      map[Owner]*share // who have entries
		misses, evictions           uint64
		// seen are hashes of shapes that were met once; oldSeen those before, which are forgotten next.
		seen, oldSeen map[uint64]struct{}
		parseTime     time.Duration
	}
	_ [64]byte // shards on cache lines of their own
}

type cacheEntry struct {
	text    string
	hash    uint64
	message *Message
	bytes   int64
	hits    atomic.Uint32 // byHand and byBroom: it was hit since they came by
	idle    time.Time     // since when the broom knows of no hit
	of      *share
	same    *cacheEntry // another entry of this hash
	// newer and older are the neighbours in the queue.
	newer, older *cacheEntry
}

// share is what an owner has of a shard. That others use it, too, makes no difference.
type share struct {
	owner Owner
	bytes int64
}

// flight is a parse that others wait for.
type flight struct {
	text    string
	done    chan struct{}
	message *Message
}

// NewCache makes a Cache that holds about maxBytes of texts and Messages. Of zero or less it holds nothing.
func NewCache(maxBytes int64) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), maxText: int(min(maxCachedText, maxBytes/64))}
	for i := range c.shards {
		s := &c.shards[i]
		s.maxBytes = maxBytes / cacheShards
		s.mu.entries = make(map[uint64]*cacheEntry)
		s.mu.owners = make(map[Owner]*share)
		s.mu.flights = make(map[uint64]*flight)
	}
	return c
}

// Get gives the Message of a text that is in the cache, else nil. It does not count as a miss. The text is not kept.
func (c *Cache) Get(sql []byte) *Message {
	if len(sql) > 0 && sql[0] == shapeKey {
		return nil
	}
	return c.get(sql)
}

// get finds what is kept under a key: a text, or shapeKey and what stands for a shape.
func (c *Cache) get(key []byte) *Message {
	if e := c.find(key); e != nil {
		return e.message
	}
	return nil
}

// find is get; it finds the entry.
func (c *Cache) find(key []byte) *cacheEntry {
	if len(key) > c.maxText {
		return nil
	}
	hash := maphash.Bytes(c.seed, key)
	s := c.shard(hash)
	s.mu.RLock()
	e := s.mu.entries[hash]
	for e != nil && e.text != string(key) {
		e = e.same
	}
	s.mu.RUnlock()
	if e == nil {
		return nil
	}
	e.hit()
	s.hits.Add(1)
	return e
}

// Parse gives the Message of a text, from the cache or parsed now; then it blocks for as long as that takes. Callers that ask for one text at a
// time share one parse. Texts that are too long for the cache are parsed for each caller. The text is copied where it is kept.
func (c *Cache) Parse(sql []byte, by Owner) *Message {
	if len(sql) > 0 && sql[0] == shapeKey { // a NUL, which PostgreSQL refuses
		return Parse(string(sql))
	}
	return c.load(sql, by, func() *Message { return Parse(string(sql)) })
}

// load gives what is kept under a key, or what parse makes.
func (c *Cache) load(key []byte, by Owner, parse func() *Message) *Message {
	if m := c.get(key); m != nil {
		return m
	}
	hash := maphash.Bytes(c.seed, key)
	s := c.shard(hash)
	if len(key) > c.maxText {
		m, took := timed(parse)
		s.missed(took)
		return m
	}
	for {
		f, mine, m := s.join(hash, key)
		switch {
		case m != nil:
			return m
		case mine:
			s.fly(hash, f, by, parse)
			return f.message
		default:
			<-f.done
			if f.text == string(key) {
				return f.message
			}
		}
	}
}

func timed(parse func() *Message) (*Message, time.Duration) {
	start := time.Now()
	m := parse()
	return m, time.Since(start)
}

func (c *Cache) shard(hash uint64) *cacheShard { return &c.shards[hash%cacheShards] }

// missed counts a parse that is not kept.
func (s *cacheShard) missed(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.misses++
	s.mu.parseTime += took
}

// join finds the text's Message if it has come meanwhile, else the flight for its hash, else starts that.
func (s *cacheShard) join(hash uint64, sql []byte) (f *flight, mine bool, m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.mu.entries[hash]; e != nil; e = e.same {
		if e.text == string(sql) {
			s.hits.Add(1)
			return nil, false, e.message
		}
	}
	if f := s.mu.flights[hash]; f != nil {
		if f.text == string(sql) {
			s.hits.Add(1)
		}
		return f, false, nil
	}
	f = &flight{text: string(sql), done: make(chan struct{})}
	s.mu.flights[hash] = f
	return f, true, nil
}

// fly parses the flight's text and keeps it.
func (s *cacheShard) fly(hash uint64, f *flight, by Owner, parse func() *Message) {
	var took time.Duration
	f.message, took = timed(parse)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.misses++
	s.mu.parseTime += took
	delete(s.mu.flights, hash)
	// The router hangs its own on a Message: reckoned as half of it.
	e := &cacheEntry{text: f.text, hash: hash, message: f.message, bytes: int64(len(f.text) + f.message.Size + f.message.Size/2 + entryOverhead)}
	close(f.done)
	if e.bytes <= s.maxBytes {
		s.keepLocked(e, by)
	}
}

// keepLocked makes room for e and puts it in.
func (s *cacheShard) keepLocked(e *cacheEntry, by Owner) {
	e.of, e.idle = s.mu.owners[by], time.Now()
	if e.of == nil {
		e.of = &share{owner: by}
	}
	for s.mu.bytes+e.bytes > s.maxBytes {
		s.evictLocked(e.of, e.idle)
	}
	s.mu.owners[by] = e.of
	e.of.bytes += e.bytes
	e.same = s.mu.entries[e.hash]
	s.mu.entries[e.hash] = e
	e.older = s.mu.newest
	if s.mu.newest != nil {
		s.mu.newest.newer = e
	}
	s.mu.newest = e
	if s.mu.oldest == nil {
		s.mu.oldest = e
	}
	s.mu.count++
	s.mu.bytes += e.bytes
}

// evictLocked drops the first entry from the hand on that was not hit since the hand came by, and that may go for what by brings; or what is forgotten.
func (s *cacheShard) evictLocked(by *share, now time.Time) {
	s.mu.evictions++
	for range 2 { // one for each new entry would never come to the end
		e := orElse(s.mu.broom, s.mu.oldest)
		if e.spared(byBroom) {
			e.idle = now
		} else if now.Sub(e.idle) >= forgotten {
			s.removeLocked(e)
			return
		}
		s.mu.broom = e.newer
	}
	own := by.bytes >= s.maxBytes/2
	e := orElse(s.mu.hand, s.mu.oldest)
	for e.spared(byHand) || own && e.of != by {
		e = orElse(e.newer, s.mu.oldest)
	}
	s.mu.hand = e
	s.removeLocked(e)
}

// byHand and byBroom are who looks for hits, as bits.
const byHand, byBroom = 1, 2

// hit notes one. Mostly it is noted already, and nothing is written.
func (e *cacheEntry) hit() {
	if e.hits.Load() != byHand|byBroom {
		e.hits.Store(byHand | byBroom)
	}
}

// spared reports whether e was hit since who asks asked last.
func (e *cacheEntry) spared(by uint32) bool {
	return e.hits.And(^by)&by != 0
}

func orElse(e, other *cacheEntry) *cacheEntry {
	if e == nil {
		return other
	}
	return e
}

func (s *cacheShard) removeLocked(e *cacheEntry) {
	if s.mu.hand == e {
		s.mu.hand = e.newer
	}
	if s.mu.broom == e {
		s.mu.broom = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.mu.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.mu.oldest = e.newer
	}
	if first := s.mu.entries[e.hash]; first == e {
		if e.same == nil {
			delete(s.mu.entries, e.hash)
		} else {
			s.mu.entries[e.hash] = e.same
		}
	} else {
		for first.same != e {
			first = first.same
		}
		first.same = e.same
	}
	s.mu.count--
	s.mu.bytes -= e.bytes
	if e.of.bytes -= e.bytes; e.of.bytes == 0 {
		delete(s.mu.owners, e.of.owner)
	}
}

// Purge empties the cache. Parses under way may still put their Messages in.
func (c *Cache) Purge() {
	c.purges.Add(1)
	for i := range c.shards {
		c.shards[i].purge()
	}
}

func (s *cacheShard) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.entries)
	clear(s.mu.owners)
	s.mu.newest, s.mu.oldest, s.mu.hand, s.mu.broom = nil, nil, nil, nil
	s.mu.count, s.mu.bytes = 0, 0
}

// CacheStats are what a Cache counts. Hits, Misses, Evictions and ParseTime grow from its making on.
type CacheStats struct {
	Hits      uint64 // texts found, and those whose parse others had begun
	Misses    uint64 // texts parsed
	Evictions uint64 // entries dropped to make room
	Entries   int
	Bytes     int64         // held, by estimate
	ParseTime time.Duration // spent in parsing
}

// Stats sums up the shards, one after the other.
func (c *Cache) Stats() CacheStats {
	var sum CacheStats
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		sum.Misses += s.mu.misses
		sum.Evictions += s.mu.evictions
		sum.Entries += s.mu.count
		sum.Bytes += s.mu.bytes
		sum.ParseTime += s.mu.parseTime
		s.mu.RUnlock()
		sum.Hits += s.hits.Load()
	}
	return sum
}
