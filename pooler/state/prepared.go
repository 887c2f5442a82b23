package state

import (
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/pgkennel/pgkennel/parser"
)

// Prepared is a protocol-level prepared statement, shared by all sessions that prepare the same text with the same parameter
// types. It is immutable but for the registry's count of references.
type Prepared struct {
	// ID is unique in this process and never used again; the same for all settings a statement is prepared under.
	ID uint64
	// Name is what it is called on every server connection.
	Name string
	SQL  string
	// Types are the declared parameter types as the Parse message had them: big-endian OIDs.
	Types string
	// Message is the parsed SQL. Where it is Shaped it stands for other texts as well, and Literals are those of SQL.
	Message  *parser.Message
	Literals []parser.Literal
	// own is what became of SQL parsed for itself, where the Message, which is Shaped, did not do.
	own atomic.Pointer[parser.Message]

	key uint64 // of the settings it is prepared under

	// Guarded by its shard of the registry: the references to it, and the next statement there of the same hash.
	hash uint64
	refs int
	same *Prepared
}

// Bytes is what the statement weighs in limits.
func (p *Prepared) Bytes() int {
	return len(p.SQL) + len(p.Types) + int(unsafe.Sizeof(parser.Literal{}))*len(p.Literals) + 256
}

// Own is the SQL parsed for itself, if that was said to be known.
func (p *Prepared) Own() *parser.Message {
	if p.Message.Shaped {
		return p.own.Load()
	}
	return p.Message
}

// SetOwn says what the SQL is, parsed for itself.
func (p *Prepared) SetOwn(m *parser.Message) { p.own.Store(m) }

// ParamType returns the declared type OID of parameter i, 0 if not declared.
func (p *Prepared) ParamType(i int) uint32 {
	if i < 0 || 4*i+4 > len(p.Types) {
		return 0
	}
	t := p.Types[4*i:]
	return uint32(t[0])<<24 | uint32(t[1])<<16 | uint32(t[2])<<8 | uint32(t[3])
}

// Registry gives equal statements one identity across sessions. Memory is bounded by what sessions hold: a statement
// that no session has is forgotten.
type Registry struct {
	// Changes grows with all that may have changed tables under statements: when it is sent, and when its transaction has ended.
	Changes atomic.Uint32

	shards [registryShards]registryShard
	next   atomic.Uint64
}

const registryShards = 16

type registryShard struct {
	mu     sync.Mutex
	byHash map[uint64]*Prepared // those of one hash are chained
	count  int
	bytes  int
	_      [32]byte // shards on cache lines of their own
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	r := &Registry{}
	for i := range r.shards {
		r.shards[i].byHash = make(map[uint64]*Prepared)
	}
	return r
}

// hashOf is the same for equal statements.
func hashOf(sql, types []byte) uint64 {
	h := maphash.Bytes(seed, sql)
	if len(types) > 0 {
		h = h*31 + maphash.Bytes(seed, types)
	}
	return h
}

func (r *Registry) shard(hash uint64) *registryShard { return &r.shards[hash%registryShards] }

// Take returns the statement for sql and types, with a reference to it; nil = there is none.
func (r *Registry) Take(sql, types []byte) *Prepared {
	hash := hashOf(sql, types)
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(hash, sql, types)
}

func (s *registryShard) takeLocked(hash uint64, sql, types []byte) *Prepared {
	for p := s.byHash[hash]; p != nil; p = p.same {
		if p.SQL == string(sql) && p.Types == string(types) {
			p.refs++
			return p
		}
	}
	return nil
}

// Intern is Take, and makes the statement if there is none: with the parsed text m and, where that is Shaped, the text's literals, which are
// copied.
func (r *Registry) Intern(sql, types []byte, m *parser.Message, literals []parser.Literal) *Prepared {
	return r.intern(hashOf(sql, types), sql, types, m, literals)
}

func (r *Registry) intern(hash uint64, sql, types []byte, m *parser.Message, literals []parser.Literal) *Prepared {
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.takeLocked(hash, sql, types); p != nil {
		return p
	}
	if !m.Shaped || len(literals) == 0 {
		literals = nil
	} else {
		literals = slices.Clone(literals)
	}
	id := r.next.Add(1)
	p := &Prepared{
		ID: id, Name: "pgkennel_" + strconv.FormatUint(id, 10),
		SQL: string(sql), Types: string(types), Message: m, Literals: literals, hash: hash, refs: 1, same: s.byHash[hash],
	}
	s.byHash[hash] = p
	s.count++
	s.bytes += p.Bytes()
	return p
}

// Drop gives back one reference; nil is none.
func (r *Registry) Drop(p *Prepared) {
	if p == nil {
		return
	}
	s := r.shard(p.hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.refs--; p.refs == 0 {
		s.forget(p)
	}
}

// forget takes p out of its chain.
func (s *registryShard) forget(p *Prepared) {
	first := s.byHash[p.hash]
	switch {
	case first != p:
		for first.same != p {
			first = first.same
		}
		first.same = p.same
	case p.same != nil:
		s.byHash[p.hash] = p.same
	default:
		delete(s.byHash, p.hash)
	}
	s.count--
	s.bytes -= p.Bytes()
}

// Stats returns how many statements are held and their bytes.
func (r *Registry) Stats() (statements, bytes int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		statements += s.count
		bytes += s.bytes
		s.mu.Unlock()
	}
	return statements, bytes
}

// All calls f for every statement with its number of references.
func (r *Registry) All(f func(p *Prepared, refs int)) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for _, p := range s.byHash {
			for ; p != nil; p = p.same {
				f(p, p.refs)
			}
		}
		s.mu.Unlock()
	}
}
