package state

// Statements are the prepared statements that one server connection has: least recently used first out, bounded by
// number and bytes. It belongs to the connection's owner.
type Statements struct {
	MaxCount, MaxBytes int
	// Known is what Registry.Changes was when the connection was last sent anything of a client's.
	Known uint32

	byKey map[statementKey]*entry
	// head is the most recently used.
	head, tail *entry
	bytes      int
	changes    uint32 // the number of Change
}

type statementKey struct{ id, settings uint64 }

func (p *Prepared) statementKey() statementKey { return statementKey{p.ID, p.key} }

type entry struct {
	p          *Prepared
	prev, next *entry
	shape      Shape
	changes    uint32 // Statements.changes of when it was prepared
	since      uint32 // Statements.Known, likewise
}

// Find returns p as the connection has it under settings of the given key, and marks it used; nil if it does not have it.
func (s *Statements) Find(p *Prepared, key uint64) *Prepared {
	has, _, _ := s.Instance(p, key)
	return has
}

// Instance is Find. It returns what is known of the statement's shape besides, and whether it has to be prepared anew before it is used.
func (s *Statements) Instance(p *Prepared, key uint64) (has *Prepared, shape *Shape, stale bool) {
	e := s.byKey[statementKey{p.ID, key}]
	if e == nil {
		return nil, nil, false
	}
	if s.head != e {
		s.unlink(e)
		s.push(e)
	}
	return e.p, &e.shape, e.changes != s.changes
}

// ByName are the statements by what they are called on the connection.
func (s *Statements) ByName() map[string]*Prepared {
	names := make(map[string]*Prepared, len(s.byKey))
	for e := s.head; e != nil; e = e.next {
		names[e.p.Name] = e.p
	}
	return names
}

// Change notes that tables have changed under the statements: each is to be prepared anew.
func (s *Statements) Change() { s.changes++ }

// Expire notes that p is to be prepared anew.
func (s *Statements) Expire(p *Prepared) {
	if e := s.byKey[p.statementKey()]; e != nil {
		e.changes = s.changes - 1
	}
}

// Outdated reports whether tables may have changed since p was prepared. Whoever has told a client of it goes on with it, as the server does, but who parses
// the text now means the tables of now.
func (s *Statements) Outdated(p *Prepared) bool {
	e := s.byKey[p.statementKey()]
	return e != nil && e.since != s.Known
}

// Has reports whether the connection has p, and marks it used.
func (s *Statements) Has(p *Prepared) bool { return s.Find(p, p.key) != nil }

// Add notes that p is prepared on the connection, by a message about to be sent. It returns the place of its shape.
func (s *Statements) Add(p *Prepared) *Shape {
	if s.byKey == nil {
		s.byKey = make(map[statementKey]*entry)
	}
	if e := s.byKey[p.statementKey()]; e != nil {
		return &e.shape
	}
	e := &entry{p: p, changes: s.changes, since: s.Known}
	s.byKey[p.statementKey()] = e
	s.push(e)
	s.bytes += p.Bytes()
	return &e.shape
}

// Remove forgets p: it was closed, or its Parse failed.
func (s *Statements) Remove(p *Prepared) {
	if e := s.byKey[p.statementKey()]; e != nil {
		delete(s.byKey, p.statementKey())
		s.unlink(e)
		s.bytes -= p.Bytes()
	}
}

// Evict returns the least recently used statement if one has to go before another of size bytes is added, else nil.
// The caller closes it on the connection and calls Remove. keep is never returned.
func (s *Statements) Evict(bytes int, keep *Prepared) *Prepared {
	if (s.MaxCount <= 0 || len(s.byKey) < s.MaxCount) && (s.MaxBytes <= 0 || s.bytes+bytes <= s.MaxBytes) {
		return nil
	}
	for e := s.tail; e != nil; e = e.prev {
		if keep == nil || !e.p.Same(keep) {
			return e.p
		}
	}
	return nil
}

// Clear forgets all: DISCARD ALL, DEALLOCATE ALL.
func (s *Statements) Clear() {
	clear(s.byKey)
	s.head, s.tail, s.bytes = nil, nil, 0
}

// Len is the number of statements.
func (s *Statements) Len() int { return len(s.byKey) }

// Bytes is their weight.
func (s *Statements) Bytes() int { return s.bytes }

func (s *Statements) push(e *entry) {
	e.prev, e.next = nil, s.head
	if s.head != nil {
		s.head.prev = e
	}
	s.head = e
	if s.tail == nil {
		s.tail = e
	}
}

func (s *Statements) unlink(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		s.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		s.tail = e.prev
	}
	e.prev, e.next = nil, nil
}
