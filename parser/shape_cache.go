package parser

import "slices"

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
	if len(sql) > c.maxText || !s.Of(sql) {
		return c.Get(sql)
	}
	m := c.get(s.Key)
	if m == nil || m.redirect == nil {
		return m
	}
	if m.redirect.pinned != nil {
		s.pin(sql, m.redirect.pinned)
		if m = c.get(s.Key); m == nil || m.redirect == nil {
			return m
		}
	}
	return c.Get(sql)
}

// ParseShape is GetShape, and parses what is not in the cache; then it blocks for as long as that takes. Callers that ask for one shape at a time
// share one parse.
func (c *Cache) ParseShape(sql []byte, s *Shape) *Message {
	if len(sql) > c.maxText || !s.Of(sql) {
		return c.Parse(sql)
	}
	var first *Message // has the literals of pinned
	m := c.load(s.Key, func() *Message {
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
		m = c.load(s.Key, func() *Message {
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
	return c.Parse(sql)
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
