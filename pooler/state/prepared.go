package state

import (
	"hash/maphash"
	"strconv"
	"sync"

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
	// Message is the parsed SQL.
	Message *parser.Message

	key  uint64 // of the settings it is prepared under
	refs int    // guarded by its shard of the registry
}

// Bytes is what the statement weighs in limits.
func (p *Prepared) Bytes() int { return len(p.SQL) + len(p.Types) + 256 }

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
	shards [16]registryShard
	next   struct {
		sync.Mutex
		id uint64
	}
}

type registryShard struct {
	mu    sync.Mutex
	byKey map[string]*Prepared
	bytes int
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	r := &Registry{}
	for i := range r.shards {
		r.shards[i].byKey = make(map[string]*Prepared)
	}
	return r
}

// key joins types and text: the number of types first, so that no two pairs collide.
func appendKey(dst []byte, sql, types []byte) []byte {
	dst = append(dst, byte(len(types)>>2), byte(len(types)>>10)) //nolint:gosec // a Parse has at most 65535 types
	dst = append(dst, types...)
	return append(dst, sql...)
}

// Intern returns the statement for sql and types and takes a reference to it, making it if there is none; message is
// then called for the parsed text.
func (r *Registry) Intern(sql, types []byte, message func() *parser.Message) *Prepared {
	var buf [512]byte
	key := appendKey(buf[:0], sql, types)
	s := &r.shards[maphash.Bytes(seed, key)%uint64(len(r.shards))]
	s.mu.Lock()
	if p := s.byKey[string(key)]; p != nil {
		p.refs++
		s.mu.Unlock()
		return p
	}
	s.mu.Unlock()

	m := message()
	r.next.Lock()
	r.next.id++
	id := r.next.id
	r.next.Unlock()
	p := &Prepared{
		ID: id, Name: "pgkennel_" + strconv.FormatUint(id, 10),
		SQL: string(sql), Types: string(types), Message: m,
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.byKey[string(key)]; other != nil {
		other.refs++
		return other
	}
	p.refs = 1
	s.byKey[string(key)] = p
	s.bytes += p.Bytes()
	return p
}

// Retain takes one more reference.
func (r *Registry) Retain(p *Prepared) {
	s := r.shardOf(p)
	s.mu.Lock()
	p.refs++
	s.mu.Unlock()
}

// Drop gives back one reference.
func (r *Registry) Drop(p *Prepared) {
	if p == nil {
		return
	}
	var buf [512]byte
	key := appendKey(buf[:0], []byte(p.SQL), []byte(p.Types))
	s := &r.shards[maphash.Bytes(seed, key)%uint64(len(r.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	p.refs--
	if p.refs == 0 && s.byKey[string(key)] == p {
		delete(s.byKey, string(key))
		s.bytes -= p.Bytes()
	}
}

func (r *Registry) shardOf(p *Prepared) *registryShard {
	var buf [512]byte
	key := appendKey(buf[:0], []byte(p.SQL), []byte(p.Types))
	return &r.shards[maphash.Bytes(seed, key)%uint64(len(r.shards))]
}

// Stats returns how many statements are held and their bytes.
func (r *Registry) Stats() (statements, bytes int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		statements += len(s.byKey)
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
		for _, p := range s.byKey {
			f(p, p.refs)
		}
		s.mu.Unlock()
	}
}
