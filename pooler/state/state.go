// Package state holds what a session expects of a server connection and what a server connection has: settings and
// prepared statements, and the SQL that closes the difference. Everything here is pure; Set is immutable, Registry is
// safe for concurrent use, the rest belongs to one owner.
package state

import (
	"hash/maphash"
	"slices"
	"strings"
)

// Var is one session-level setting.
type Var struct {
	// Name as PostgreSQL lists it in pg_settings, lower case.
	Name string
	// Value is the argument of SET name TO, as SQL text; with Raw the value itself, as in a startup packet or set_config.
	Value string
	Raw   bool
	// Special: Value is the whole command after SET (SET TIME ZONE INTERVAL ...).
	Special bool
	// Sealer, if there is one, makes of Value what is set, for each connection its own. It is set by the extended protocol, so that it is in no text
	// that pg_stat_activity shows: see Set.Seal.
	Sealer Sealer
}

// Sealer signs a value for one server process: its pid, and when it began, in microseconds since 1970. It is comparable.
type Sealer interface {
	AppendSeal(dst []byte, value string, pid uint32, start int64) []byte
}

// Set is an immutable set of session-level settings, ordered by name. The nil Set is empty.
type Set struct {
	vars    []Var
	hash    uint64
	parsing uint64
	ends    bool // see EndsIdle
}

var seed = maphash.MakeSeed()

func newSet(vars []Var) *Set {
	if len(vars) == 0 {
		return nil
	}
	var all, parsing maphash.Hash
	all.SetSeed(seed)
	parsing.SetSeed(seed)
	parses := false
	for _, v := range vars {
		v.hash(&all)
		if Parses(v.Name) {
			v.hash(&parsing)
			parses = true
		}
	}
	s := &Set{vars: vars, hash: all.Sum64()}
	idle, is := s.Get(IdleSessionTimeout)
	s.ends = is && idle.Value != "0"
	if parses {
		s.parsing = keyOfSet | parsing.Sum64()&keyMask
	}
	return unify(s)
}

// interned are the sets in use.
var interned Interned[Set]

// unify returns the set in use that equals s, which is s if there was none.
func unify(s *Set) *Set {
	return interned.Unify(s, s.hash, func(a, b *Set) bool { return slices.Equal(a.vars, b.vars) })
}

func (v Var) hash(h *maphash.Hash) {
	h.WriteString(v.Name)
	h.WriteByte(0)
	h.WriteString(v.Value)
	b := byte(1)
	if v.Raw {
		b |= 2
	}
	if v.Special {
		b |= 4
	}
	h.WriteByte(b)
}

// NewSet returns the set of vars; the last of several with one name wins.
func NewSet(vars []Var) *Set {
	var s *Set
	for _, v := range vars {
		s = s.With(v)
	}
	return s
}

// Equal reports whether both sets hold the same settings.
func (s *Set) Equal(o *Set) bool {
	if s == o {
		return true
	}
	if s == nil || o == nil {
		return false
	}
	return s.hash == o.hash && slices.Equal(s.vars, o.vars)
}

// Mark is equal for equal sets, and hardly ever for others; 0 for the empty one.
func (s *Set) Mark() uint64 {
	if s == nil {
		return 0
	}
	return s.hash
}

// Vars returns the settings in order. The slice must not be changed.
func (s *Set) Vars() []Var {
	if s == nil {
		return nil
	}
	return s.vars
}

func (s *Set) find(name string) (int, bool) {
	if s == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(s.vars, name, func(v Var, n string) int { return strings.Compare(v.Name, n) })
}

// Get returns the setting called name.
func (s *Set) Get(name string) (Var, bool) {
	if i, ok := s.find(name); ok {
		return s.vars[i], true
	}
	return Var{}, false
}

// With returns the set with v added or replaced. What lasts no longer than a transaction, or is no state at all, is not kept.
func (s *Set) With(v Var) *Set {
	if transient(v.Name) {
		return s
	}
	if v.Name == sessionAuthorization {
		s = s.Without(role) // SET SESSION AUTHORIZATION takes the role off
	}
	i, ok := s.find(v.Name)
	if ok && v.Name == dateStyle {
		v = v.over(s.vars[i])
	}
	if ok && s.vars[i] == v {
		return s
	}
	vars := slices.Clone(s.Vars())
	if ok {
		vars[i] = v
	} else {
		vars = slices.Insert(vars, i, v)
	}
	return newSet(vars)
}

// Without returns the set without the setting called name.
func (s *Set) Without(name string) *Set {
	if name == sessionAuthorization {
		s = s.Without(role)
	}
	i, ok := s.find(name)
	if !ok {
		return s
	}
	return newSet(slices.Delete(slices.Clone(s.vars), i, i+1))
}

// ResetAll returns what RESET ALL leaves: it spares the role and the session's authorisation
// (GUC_NO_RESET_ALL; PostgreSQL manual, RESET).
func (s *Set) ResetAll() *Set {
	var keep []Var
	for _, v := range s.Vars() {
		if v.Name == role || v.Name == sessionAuthorization {
			keep = append(keep, v)
		}
	}
	return newSet(keep)
}

// IdleSessionTimeout is the setting by which a server closes a connection that nobody uses.
const IdleSessionTimeout = "idle_session_timeout"

// EndsIdle reports whether a server may close a connection with these settings while nobody uses it.
func (s *Set) EndsIdle() bool { return s != nil && s.ends }

// The settings that decide who sets the others.
const (
	role                 = "role"
	sessionAuthorization = "session_authorization"
)

// transient reports whether SET name, even outside of a transaction, leaves nothing that another connection would need: the
// transaction's own characteristics end with it, and the seed is an argument of random(), not a state. PostgreSQL 16 refuses to RESET them.
func transient(name string) bool {
	switch name {
	case "transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed":
		return true
	}
	return false
}

// Sealed reports whether a setting of the set has a Sealer.
func (s *Set) Sealed() bool {
	_, is := (*Set)(nil).Seal(s)
	return is
}

// Seal returns the setting of want that has a Sealer, if a connection that has s lacks it.
func (s *Set) Seal(want *Set) (Var, bool) {
	for _, v := range want.Vars() {
		if v.Sealer != nil && v != s.value(v.Name) {
			return v, true
		}
	}
	return Var{}, false
}

// AppendDiff appends the statements that turn a connection that has s into one that has want, each ended by a semicolon, but for Seal.
// RESETs come first; role and session authorization are taken off before all else and put on last, so that every other setting is set by the
// login itself. It appends nothing if there is no difference.
func (s *Set) AppendDiff(dst []byte, want *Set) []byte {
	if s.Equal(want) {
		return dst
	}
	if _, ok := s.Get(role); ok {
		dst = append(dst, "RESET role;"...)
		s = s.Without(role)
	}
	if have, ok := s.Get(sessionAuthorization); ok && !(have == want.value(sessionAuthorization) && s.Equal(want.Without(role))) {
		dst = append(dst, "RESET session_authorization;"...)
		s = s.Without(sessionAuthorization)
	}
	for _, v := range s.Vars() {
		if w, ok := want.Get(v.Name); !ok || w != v && w.partial() {
			dst = v.appendReset(dst)
		}
	}
	for _, v := range want.Vars() {
		if v.Name != role && v.Name != sessionAuthorization && v.Sealer == nil && v != s.value(v.Name) {
			dst = v.append(dst)
		}
	}
	for _, name := range [...]string{sessionAuthorization, role} {
		if v, ok := want.Get(name); ok && v != s.value(name) {
			dst = v.append(dst)
		}
	}
	return dst
}

// value is the setting called name, the zero Var if there is none.
func (s *Set) value(name string) Var {
	v, _ := s.Get(name)
	return v
}

// SQL is the statement that sets v.
func (v Var) SQL() string { return strings.TrimSuffix(string(v.append(nil)), ";") }

func (v Var) append(dst []byte) []byte {
	switch {
	case v.Raw && (listQuoted(v.Name) || !plainName(v.Name)):
		// A list in text form SET would take for one element; and what is no name for SET is to fail as it does in a startup packet.
		dst = appendSetConfig(dst, v.Name)
		dst = AppendLiteral(dst, v.Value)
		return append(dst, ",false);"...)
	case v.Raw:
		dst = append(dst, "SET "...)
		dst = AppendName(dst, v.Name)
		dst = append(dst, " TO "...)
		dst = AppendLiteral(dst, v.Value)
		return append(dst, ';')
	case v.Special:
		dst = append(dst, "SET "...)
		dst = append(dst, v.Value...)
		return append(dst, ';')
	default:
		dst = append(dst, "SET "...)
		dst = AppendName(dst, v.Name)
		dst = append(dst, " TO "...)
		dst = append(dst, v.Value...)
		return append(dst, ';')
	}
}

func (v Var) appendReset(dst []byte) []byte {
	if !plainName(v.Name) {
		return append(appendSetConfig(dst, v.Name), "NULL,false);"...)
	}
	dst = append(dst, "RESET "...)
	dst = AppendName(dst, v.Name)
	return append(dst, ';')
}

func appendSetConfig(dst []byte, name string) []byte {
	dst = append(dst, "SELECT pg_catalog.set_config("...)
	dst = AppendLiteral(dst, name)
	return append(dst, ',')
}

// listQuoted reports whether SET quotes each of its arguments for name (GUC_LIST_QUOTE; extensions can't have such settings).
func listQuoted(name string) bool {
	switch name {
	case "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries",
		"unix_socket_directories":
		return true
	}
	return false
}

// plainName reports whether name reaches PostgreSQL unchanged as a quoted identifier, or several with dots between: none is empty or so
// long that the lexer cuts it.
func plainName(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > 63 {
			return false
		}
	}
	return true
}

// AppendName appends the name of a setting, each part of a dotted one quoted where it has to be.
func AppendName(dst []byte, name string) []byte {
	for {
		part, rest, more := strings.Cut(name, ".")
		dst = AppendIdent(dst, part)
		if !more {
			return dst
		}
		dst = append(dst, '.')
		name = rest
	}
}

// AppendIdent appends name as a quoted identifier.
func AppendIdent(dst []byte, name string) []byte {
	dst = append(dst, '"')
	for i := range len(name) {
		if name[i] == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, name[i])
	}
	return append(dst, '"')
}

// AppendLiteral appends s as a string literal that means the same whatever standard_conforming_strings is.
func AppendLiteral(dst []byte, s string) []byte {
	if strings.IndexByte(s, '\\') >= 0 {
		dst = append(dst, " E"...)
	}
	dst = append(dst, '\'')
	for i := range len(s) {
		switch s[i] {
		case '\'', '\\':
			dst = append(dst, s[i])
		}
		dst = append(dst, s[i])
	}
	return append(dst, '\'')
}
