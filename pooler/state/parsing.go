package state

import (
	"hash/maphash"
	"strconv"
	"strings"
)

// A statement is prepared under the settings of the moment: names are looked up in the search_path, and literals are
// turned into values (PostgreSQL manual, PREPARE, knows of the first only). '1/2/2020'::date prepared under one DateStyle stays that date under
// every other. So a connection's prepared statements are told apart by these settings, too.

// Parses reports whether the setting called name has a say in what a statement means when it is prepared.
func Parses(name string) bool {
	switch name {
	case "search_path", role, sessionAuthorization, // what names mean, "$user" among them
		"datestyle", "timezone", "timezone_abbreviations", "intervalstyle", "lc_monetary", "xmloption", "array_nulls", // what literals mean
		"client_encoding", "standard_conforming_strings", "backslash_quote", // what characters mean
		"transform_null_equals":
		return true
	}
	return false
}

// Keys of settings: 0 for those of the login; else the two highest bits say what the rest is.
const (
	keyOfSet    uint64 = (iota + 1) << 62 // a hash of session-level settings
	keyOfLocal                            // a hash of others and a SET LOCAL
	keyOfMoment                           // a number
	keyMask     uint64 = 1<<62 - 1
)

// ParseKey tells sets apart in which statements mean different things; 0 if the set leaves all that to the login.
func (s *Set) ParseKey() uint64 {
	if s == nil {
		return 0
	}
	return s.parsing
}

// LocalKey is the key of the settings of the given key with one set by SET LOCAL.
func LocalKey(key uint64, name, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, key)
	h.WriteString(name)
	h.WriteByte(0)
	h.WriteString(value)
	return keyOfLocal | h.Sum64()&keyMask
}

// MomentKey is the key of settings that nobody knows; n tells moments apart.
func MomentKey(n uint64) uint64 { return keyOfMoment | n&keyMask }

// Under returns p as prepared under settings of the given key, with a name of its own on a connection.
func (p *Prepared) Under(key uint64) *Prepared {
	if key == p.key {
		return p
	}
	name, _, _ := strings.Cut(p.Name, "x") // for which SQL needs no quotes
	return &Prepared{
		ID: p.ID, Name: name + "x" + strconv.FormatUint(key, 36), SQL: p.SQL, Made: p.Made, Head: p.Head, At: p.At, Types: p.Types, Message: p.Message, Literals: p.Literals, key: key,
	}
}

// Same reports whether both are the same statement under the same settings.
func (p *Prepared) Same(o *Prepared) bool { return p.ID == o.ID && p.key == o.key }
