package sharding

import "encoding/binary"

// Array reads the elements of an array parameter, as in "key = ANY ($1)", one by one. It handles arrays of at most one
// dimension with the lower bound left out; others are Unreadable.
type Array struct {
	typ    KeyType
	oid    uint32 // of the elements
	binary bool
	rest   []byte
	left   int  // binary: elements still to come
	opened bool // text: behind the opening brace, in front of the closing one
	failed bool // what follows can't be read
	done   bool // and that was said
}

// NewArray starts reading. oid is the declared type of the array; with 0 the server gives it the column's.
func NewArray(t KeyType, value []byte, isBinary bool, oid uint32) Array {
	a := Array{typ: t, binary: isBinary, rest: value}
	elem, ok := elementOID(oid)
	a.oid, a.failed = elem, !ok
	switch {
	case a.failed:
	case isBinary:
		a.header()
	default:
		a.trim()
		if len(a.rest) < 2 || a.rest[0] != '{' {
			a.failed = true
			break
		}
		a.rest, a.opened = a.rest[1:], true
		a.trim()
		if len(a.rest) > 0 && a.rest[0] == '}' {
			a.close()
		}
	}
	return a
}

// header reads the binary form's dimensions.
func (a *Array) header() {
	if len(a.rest) < 12 {
		a.failed = true
		return
	}
	dims := binary.BigEndian.Uint32(a.rest)
	elem := binary.BigEndian.Uint32(a.rest[8:])
	a.rest = a.rest[12:]
	if a.oid != 0 && elem != a.oid || elem == 0 || dims > 1 {
		a.failed = true // array_recv refuses another element type than the declared one's
		return
	}
	a.oid = elem
	if dims == 0 {
		a.failed = len(a.rest) != 0
		return
	}
	if len(a.rest) < 8 {
		a.failed = true
		return
	}
	n := binary.BigEndian.Uint32(a.rest)
	a.rest = a.rest[8:]
	if uint64(n)*4 > uint64(len(a.rest)) {
		a.failed = true
		return
	}
	a.left = int(n)
}

// Next returns the next element, or ok = false at the end. After Unreadable nothing follows.
func (a *Array) Next() (k Key, r Reading, ok bool) {
	switch {
	case a.done:
		return Key{}, 0, false
	case a.failed:
		r, ok = Unreadable, true
	case a.binary:
		k, r, ok = a.nextBinary()
	default:
		k, r, ok = a.nextText()
	}
	a.done = !ok || r == Unreadable
	return k, r, ok
}

func (a *Array) nextBinary() (Key, Reading, bool) {
	if a.left == 0 {
		return Key{}, Unreadable, len(a.rest) != 0 // trailing bytes: array_recv refuses them
	}
	a.left--
	if len(a.rest) < 4 {
		return Key{}, Unreadable, true
	}
	size := int32(binary.BigEndian.Uint32(a.rest))
	a.rest = a.rest[4:]
	switch {
	case size == -1:
		return Key{}, Null, true
	case size < 0 || int(size) > len(a.rest):
		return Key{}, Unreadable, true
	}
	k, r := readBinary(a.typ, a.rest[:size:size], a.oid, Compare)
	a.rest = a.rest[size:]
	return k, r, true
}

func (a *Array) nextText() (Key, Reading, bool) {
	if !a.opened {
		return Key{}, 0, false
	}
	a.trim()
	elem, quoted, ok := a.element()
	if !ok {
		return Key{}, Unreadable, true
	}
	a.trim()
	switch {
	case len(a.rest) == 0:
		return Key{}, Unreadable, true
	case a.rest[0] == ',':
		a.rest = a.rest[1:]
		a.trim()
		if len(a.rest) == 0 || a.rest[0] == '}' {
			return Key{}, Unreadable, true
		}
	case a.rest[0] == '}':
		if a.close(); a.failed {
			return Key{}, Unreadable, true
		}
	default:
		return Key{}, Unreadable, true
	}
	if !quoted && len(elem) == 4 && isNull(elem) {
		return Key{}, Null, true
	}
	k, r := ReadParam(a.typ, elem, false, a.oid, Compare)
	return k, r, true
}

// close ends the text form at its closing brace.
func (a *Array) close() {
	a.rest, a.opened = a.rest[1:], false
	a.trim()
	a.failed = len(a.rest) != 0
}

// element cuts one element of the text form, without quotes and backslashes; blanks around unquoted ones are dropped.
func (a *Array) element() (elem []byte, quoted, ok bool) {
	if len(a.rest) > 0 && a.rest[0] == '"' {
		return a.quoted()
	}
	n := 0
	for n < len(a.rest) {
		switch c := a.rest[n]; c {
		case '"', '{', '\\': // nested, or an escape outside quotes: legal in parts, never written by a driver
			return nil, false, false
		case ',', '}':
			elem = a.rest[:n:n]
			a.rest = a.rest[n:]
			for len(elem) > 0 && isSpace(elem[len(elem)-1]) {
				elem = elem[:len(elem)-1]
			}
			return elem, false, len(elem) > 0
		}
		n++
	}
	return nil, false, false
}

func (a *Array) quoted() (elem []byte, quoted, ok bool) {
	var copied []byte // only where a backslash had to go
	escaped := false
	start := 1
	for n := 1; n < len(a.rest); n++ {
		switch a.rest[n] {
		case '\\':
			copied = append(copied, a.rest[start:n]...)
			escaped = true
			if n++; n == len(a.rest) {
				return nil, true, false
			}
			start = n
		case '"':
			elem = a.rest[start:n:n]
			if escaped {
				elem = append(copied, elem...)
			}
			if elem == nil {
				elem = []byte{}
			}
			a.rest = a.rest[n+1:]
			return elem, true, true
		}
	}
	return nil, true, false
}

func (a *Array) trim() {
	for len(a.rest) > 0 && isSpace(a.rest[0]) {
		a.rest = a.rest[1:]
	}
}

// isNull tells whether four bytes spell NULL in any case.
func isNull(b []byte) bool {
	return b[0]|0x20 == 'n' && b[1]|0x20 == 'u' && b[2]|0x20 == 'l' && b[3]|0x20 == 'l'
}
