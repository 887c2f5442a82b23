package sharding

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
)

// KeyType is the domain in which a sharding key's values are compared.
type KeyType uint8

// The key types.
const (
	// Bigint is int8, int4 and int2 alike: PostgreSQL compares them as integers whatever their width.
	Bigint KeyType = iota + 1
	// UUID is uuid.
	UUID
	// Text is text and varchar, compared by bytes.
	Text
)

// String returns the name that configuration uses.
func (t KeyType) String() string {
	switch t {
	case Bigint:
		return "bigint"
	case UUID:
		return "uuid"
	case Text:
		return "varchar"
	}
	return "unknown"
}

// ParseKeyType finds a key type by one of the names that PostgreSQL and configuration have for it.
func ParseKeyType(name string) (KeyType, bool) {
	switch name {
	case "bigint", "integer", "smallint", "int8", "int4", "int2", "int":
		return Bigint, true
	case "uuid":
		return UUID, true
	case "varchar", "text", "character varying":
		return Text, true
	}
	return 0, false
}

// Key is one value of a sharding key. Keys of one type are equal by == exactly if PostgreSQL's = says so for their
// values. The zero Key is no value.
type Key struct {
	typ    KeyType
	hi, lo uint64 // Bigint: lo; UUID: both, big endian
	text   string // Text
}

// BigintKey is the key of an integer.
func BigintKey(v int64) Key { return Key{typ: Bigint, lo: uint64(v)} }

// UUIDKey is the key of a uuid.
func UUIDKey(v [16]byte) Key {
	return Key{typ: UUID, hi: binary.BigEndian.Uint64(v[:8]), lo: binary.BigEndian.Uint64(v[8:])}
}

// TextKey is the key of a text.
func TextKey(v string) Key { return Key{typ: Text, text: v} }

// Type returns the key's type, 0 for the zero Key.
func (k Key) Type() KeyType { return k.typ }

// Bigint returns the integer of a Bigint key.
func (k Key) Bigint() int64 { return int64(k.lo) }

// UUID returns the value of a UUID key.
func (k Key) UUID() (v [16]byte) {
	binary.BigEndian.PutUint64(v[:8], k.hi)
	binary.BigEndian.PutUint64(v[8:], k.lo)
	return v
}

// Text returns the value of a Text key.
func (k Key) Text() string { return k.text }

// ASCII reports whether the key means the same in every client encoding that pgkennel serves.
func (k Key) ASCII() bool {
	for i := range len(k.text) {
		if k.text[i] >= 0x80 {
			return false
		}
	}
	return true
}

// String returns the value as PostgreSQL prints it.
func (k Key) String() string {
	switch k.typ {
	case Bigint:
		return strconv.FormatInt(k.Bigint(), 10)
	case UUID:
		v := k.UUID()
		var s [36]byte
		hex.Encode(s[0:8], v[0:4])
		hex.Encode(s[9:13], v[4:6])
		hex.Encode(s[14:18], v[6:8])
		hex.Encode(s[19:23], v[8:10])
		hex.Encode(s[24:36], v[10:16])
		s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
		return string(s[:])
	case Text:
		return k.text
	}
	return ""
}

// Less orders keys of one type: integers by value, uuids and texts by bytes.
func (k Key) Less(o Key) bool {
	switch k.typ {
	case Bigint:
		return k.Bigint() < o.Bigint()
	case UUID:
		return k.hi < o.hi || k.hi == o.hi && k.lo < o.lo
	case Text:
		return k.text < o.text
	}
	return false
}

// ParseKey reads s as the input function of t's column type does. A Text key aliases s.
func ParseKey(t KeyType, s string) (Key, bool) {
	switch t {
	case Bigint:
		v, ok := parseBigint(s)
		return BigintKey(v), ok
	case UUID:
		v, ok := parseUUID(s)
		return UUIDKey(v), ok
	case Text:
		return TextKey(s), true
	}
	return Key{}, false
}
