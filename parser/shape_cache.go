package parser

import (
	"hash/maphash"
	"slices"
)

// shapeKey begins the keys of shapes; no text does.
const shapeKey = 0

// redirect is what is kept for a shape whose texts do not have one Message in common.
type redirect struct {
	// pinned are the literals that are part of the key, by index; nil: all that is in the text.
	pinned []int
}

// GetShape gives the Message of a text, or of its shape, if it is in the cache, else nil. For a Message that is Shaped, s holds the literals of
// the text. The text is not kept; nothing is allocated once s has grown.
func (c *Cache) GetShape(sql []byte, s *Shape) *Message {
	if m := c.getShape(sql, s); m != nil {
		return m
	}
	return c.Get(sql)
}

// GetText is GetShape for texts that mostly come again as they are, as those of Parse messages do: the text itself is looked for first, which
// takes no scanner.
func (c *Cache) GetText(sql []byte, s *Shape) *Message {
	if m := c.Get(sql); m != nil {
		return m
	}
	return c.getShape(sql, s)
}

// getShape finds the Message of a text's shape; nil = there is none.
func (c *Cache) getShape(sql []byte, s *Shape) *Message {
	if len(sql) > c.maxText || !s.Of(sql) {
		return nil
	}
	m := s.recent.get(c, s.Key)
	if m != nil && m.redirect != nil && m.redirect.pinned != nil {
		s.pin(sql, m.redirect.pinned)
		m = s.recent.get(c, s.Key)
	}
	if m == nil || m.redirect != nil {
		return nil
	}
	return m
}

// recent are the entries of a cache that were found last with a Shape, by a rough hash of their keys. Most statements are among them, which
// spares the lock and the map. An entry that the cache has dropped since is as good: what is parsed does not change.
type recent struct {
	of      *Cache
	purges  uint64
	entries [32]*cacheEntry
	hits    uint64 // not yet counted by the cache
}

// get is c.get.
func (r *recent) get(c *Cache, key []byte) *Message {
	if r.of != c || r.purges != c.purges.Load() {
		*r = recent{of: c, purges: c.purges.Load()}
	}
	n := len(key)
	slot := &r.entries[(n*7+int(key[n/2])*3+int(key[n-1])+int(key[n*3/4]))%len(r.entries)]
	if e := *slot; e != nil && e.text == string(key) {
		e.hit()
		if r.hits++; r.hits == 64 {
			c.shard(e.hash).hits.Add(r.hits)
			r.hits = 0
		}
		return e.message
	}
	e := c.find(key)
	if e == nil {
		return nil
	}
	*slot = e
	return e.message
}

// ParseShape is GetShape, and parses what is not in the cache; then it blocks for as long as that takes. Callers that ask for one shape at a time
// share one parse. The first text of a shape is parsed for itself: many come once only, and that a text may stand for others takes more parses
// to prove.
func (c *Cache) ParseShape(sql []byte, s *Shape, by Owner) *Message {
	if len(sql) > c.maxText || !s.Of(sql) || len(s.Literals) > 0 && c.isNew(s.Key) {
		return c.Parse(sql, by)
	}
	return c.parseShape(sql, s, by)
}

// ParseText is GetText, and parses what is not in the cache, as ParseShape does. The first text of a shape is kept as it is, whether it has
// literals or not.
func (c *Cache) ParseText(sql []byte, s *Shape, by Owner) *Message {
	if m := c.Get(sql); m != nil {
		return m
	}
	if len(sql) > c.maxText || !s.Of(sql) || c.isNew(s.Key) {
		return c.Parse(sql, by)
	}
	return c.parseShape(sql, s, by)
}

// ParseFirst parses the first text of a shape for itself, for callers that have no time for more; asIs: as ParseText, else as ParseShape does. It returns nil for
// other texts, and while another caller parses this one: they are left to those two.
func (c *Cache) ParseFirst(sql []byte, s *Shape, by Owner, asIs bool) *Message {
	if len(sql) > c.maxText || !s.Of(sql) || len(s.Literals) == 0 && !asIs || !c.isNew(s.Key) {
		return nil
	}
	hash := maphash.Bytes(c.seed, sql)
	shard := c.shard(hash)
	f, mine, m := shard.join(hash, sql)
	if !mine {
		return m
	}
	shard.fly(hash, f, by, func() *Message { return Parse(f.text) })
	return f.message
}

// parseShape finds the Message of a shape, or parses the text for it.
func (c *Cache) parseShape(sql []byte, s *Shape, by Owner) *Message {
	var first *Message // has the literals of pinned
	m := c.load(s.Key, by, func() *Message {
		m, pinned := parseShape(string(sql), s.Literals)
		if len(pinned) == 0 {
			return orAlone(m)
		}
		first = m
		return &Message{redirect: &redirect{pinned}, Size: len(sql)}
	})
	if m.redirect == nil {
		return m
	}
	if pinned := m.redirect.pinned; pinned != nil {
		s.pin(sql, pinned)
		m = c.load(s.Key, by, func() *Message {
			if first != nil {
				return first
			}
			m, now := parseShape(string(sql), s.Literals)
			if slices.ContainsFunc(now, func(i int) bool { return !slices.Contains(pinned, i) }) {
				m = nil
			}
			return orAlone(m)
		})
		if m.redirect == nil {
			return m
		}
	}
	return c.Parse(sql, by)
}

// maxSeen is how many shapes of each shard of a cache are known to have been met.
const maxSeen = 512

// isNew reports whether a shape is met for the first time, as far as is known.
func (c *Cache) isNew(key []byte) bool {
	hash := maphash.Bytes(c.seed, key)
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.seen[hash]; ok {
		return false
	}
	if _, ok := s.mu.oldSeen[hash]; ok {
		return false
	}
	if s.mu.seen == nil || len(s.mu.seen) == maxSeen {
		s.mu.seen, s.mu.oldSeen = make(map[uint64]struct{}), s.mu.seen
	}
	s.mu.seen[hash] = struct{}{}
	return true
}

// orAlone is m, or says that each text is for itself.
func orAlone(m *Message) *Message {
	if m == nil {
		return &Message{redirect: &redirect{}}
	}
	return m
}

// pin adds literals to the key.
func (s *Shape) pin(sql []byte, literals []int) {
	for _, i := range literals {
		l := s.Literals[i]
		s.Key = append(append(s.Key, shapeKey), sql[l.Start:l.End]...)
	}
}
