package state

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// Shape is what a server says of a prepared statement, as numbers that are equal where that is. PostgreSQL keeps it as it is for as long as the
// statement exists on the connection: else it fails with "cached plan must not change result type". 0 = not known.
type Shape struct {
	Params, Rows uint64
	// Columns is the number of columns of Rows.
	Columns uint16
	// types are those of the first parameters, as far as they are among knownTypes: half a byte each.
	types [6]byte
}

// knownTypes are the types of parameters that are remembered, by their OIDs: integers, floats, numeric, uuid, texts, and arrays of them.
var knownTypes = [16]uint32{0, 21, 23, 20, 700, 701, 1700, 2950, 25, 1043, 1005, 1007, 1016, 2951, 1009, 1015}

// ParamType is the OID of the type of parameter i, from 0; 0 = it is not known.
func (s *Shape) ParamType(i int) uint32 {
	if i < 0 || i/2 >= len(s.types) {
		return 0
	}
	return knownTypes[s.types[i/2]>>(i%2*4)&15]
}

const (
	// NoRows is Shape.Rows of a statement that returns none.
	NoRows = 1
	// UnsureRows is Shape.Rows of a statement that nobody looked at when a client was told of it.
	UnsureRows = 2
	// firstHash is the least hash.
	firstHash = 16
	// firstOwnType is the least OID of types that users make (FirstNormalObjectId): one type has another number in each database.
	firstOwnType = 16384
)

// SetRows takes over the body of a RowDescription; nil = there are no rows. Names and types count; not so where a column comes from and its
// typmod, of which a portal may know more than its statement, and its format, which is a portal's.
func (s *Shape) SetRows(body []byte) {
	s.Rows, s.Columns = NoRows, 0
	if body == nil {
		return
	}
	const fixed, typeAt = 18, 6
	var h maphash.Hash
	h.SetSeed(seed)
	if len(body) >= 2 {
		s.Columns = binary.BigEndian.Uint16(body)
		for body = body[2:]; ; {
			end := bytes.IndexByte(body, 0)
			if end < 0 || len(body) < end+1+fixed {
				break
			}
			h.Write(body[:end+1])
			writeType(&h, body[end+1+typeAt:])
			body = body[end+1+fixed:]
		}
	}
	h.Write(body) // nothing, but where it is malformed
	s.Rows = max(h.Sum64(), firstHash)
}

// TakeParams takes over what o says of the parameters.
func (s *Shape) TakeParams(o *Shape) { s.Params, s.types = o.Params, o.types }

// SetParams takes over the body of a ParameterDescription.
func (s *Shape) SetParams(body []byte) {
	var h maphash.Hash
	h.SetSeed(seed)
	clear(s.types[:])
	if len(body) >= 2 {
		body = body[2:]
		for i := 0; len(body) >= 4; i++ {
			if i/2 < len(s.types) {
				known := max(slices.Index(knownTypes[:], binary.BigEndian.Uint32(body)), 0)
				s.types[i/2] |= byte(known << (i % 2 * 4)) //nolint:gosec // there are sixteen
			}
			writeType(&h, body)
			body = body[4:]
		}
	}
	h.Write(body)
	s.Params = max(h.Sum64(), firstHash)
}

// writeType adds the type whose OID is at the front of b.
func writeType(h *maphash.Hash, b []byte) {
	if binary.BigEndian.Uint32(b) >= firstOwnType {
		h.WriteString("\x00\x00\x40\x00")
		return
	}
	h.Write(b[:4])
}
