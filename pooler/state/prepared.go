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

// Prepared is a prepared statement, shared by all sessions that prepare the same text with the same parameter types, be it by the protocol or by SQL's PREPARE. It is immutable but for the registry's count of references.
type Prepared struct {
	// ID is unique in this process and never used again; the same for all settings a statement is prepared under.
	ID uint64
	// Name is what it is called on every server connection.
	Name string
	SQL  string
	// Made is the PREPARE that makes the statement, nil = a Parse does. Its text is Head and SQL with the statement's name in between.
	Made *parser.Statement
	Head string
	// At is where the client's own text has that, in characters.
	At Place
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
	n := len(p.SQL) + len(p.Types) + int(unsafe.Sizeof(parser.Literal{}))*len(p.Literals) + 256
	if p.Made != nil { // whose tree no cache has
		n += TreeBytes(len(p.SQL))
	}
	return n
}

// TreeBytes is what the tree of a statement with a text of n bytes weighs, roughly.
func TreeBytes(n int) int {
	const overhead, factor = 1 << 10, 8
	return overhead + factor*n
}

// Text is what makes the statement, for people.
func (p *Prepared) Text() string {
	if p.Head == "" {
		return p.SQL
	}
	return p.Command(p.Name)
}

// Command is the PREPARE that makes the statement by the given name.
func (p *Prepared) Command(name string) string { return p.Head + name + p.SQL }

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
	return s.takeLocked(hash, "", Place{}, sql, types)
}

func (s *registryShard) takeLocked(hash uint64, head string, at Place, sql, types []byte) *Prepared {
	for p := s.byHash[hash]; p != nil; p = p.same {
		if p.SQL == string(sql) && p.Types == string(types) && p.Head == head && p.At == at {
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

// Place is where a PREPARE stands in its message: so much is in front of it, and so long is the name in it. Both are counted in characters.
type Place struct{ Before, Name int32 }

// Make is Intern for the statement that a PREPARE makes, whose text is head and rest with the statement's name in between.
func (r *Registry) Make(made *parser.Statement, head, rest string, at Place) *Prepared {
	hash := hashOf(parser.BytesOf(rest), parser.BytesOf(head))
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.takeLocked(hash, head, at, parser.BytesOf(rest), nil); p != nil {
		return p
	}
	p := &Prepared{SQL: rest, Made: made, Head: head, At: at, Message: made.Prepared(), hash: hash}
	r.addLocked(s, p)
	return p
}

// Once is a statement for one use, which no session has and no other is the same as.
func (r *Registry) Once(head, sql, types string) *Prepared {
	p := &Prepared{SQL: sql, Types: types, Head: head}
	r.call(p)
	return p
}

// call gives p its identity.
func (r *Registry) call(p *Prepared) {
	p.ID = r.next.Add(1)
	p.Name = NamePrefix + strconv.FormatUint(p.ID, 10)
}

// NamePrefix is what every statement's name on a connection begins with.
const NamePrefix = "pgkennel_"

// addLocked adds p with one reference.
func (r *Registry) addLocked(s *registryShard, p *Prepared) {
	r.call(p)
	p.refs, p.same = 1, s.byHash[p.hash]
	s.byHash[p.hash] = p
	s.count++
	s.bytes += p.Bytes()
}

func (r *Registry) intern(hash uint64, sql, types []byte, m *parser.Message, literals []parser.Literal) *Prepared {
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.takeLocked(hash, "", Place{}, sql, types); p != nil {
		return p
	}
	if !m.Shaped || len(literals) == 0 {
		literals = nil
	} else {
		literals = slices.Clone(literals)
	}
	p := &Prepared{SQL: string(sql), Types: string(types), Message: m, Literals: literals, hash: hash}
	r.addLocked(s, p)
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
