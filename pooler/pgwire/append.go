package pgwire

import (
	"bytes"
	"encoding/binary"
	"math"
)

// Text is what an encoder takes for a string: either form, without conversion.
type Text interface{ ~string | ~[]byte }

// begin appends a header whose length end fills in.
func begin(dst []byte, typ byte) (out []byte, start int) {
	return append(dst, typ, 0, 0, 0, 0), len(dst)
}

// end writes the length of the message that began at start.
func end(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-1)) //nolint:gosec // a message beyond MaxMessageBytes cannot be built from sane input
	return dst
}

// appendString appends s up to its first NUL byte, and a terminator.
func appendString[T Text](dst []byte, s T) []byte {
	start := len(dst)
	dst = append(dst, s...)
	if i := bytes.IndexByte(dst[start:], 0); i >= 0 {
		dst = dst[:start+i]
	}
	return append(dst, 0)
}

// appendCount appends an element count. A count that 16 bits cannot hold is a mistake of ours, never of a peer, and a message
// that lied about it would desynchronise the connection.
func appendCount(dst []byte, n int) []byte {
	if n > math.MaxUint16 {
		panic("pgwire: more than 65535 elements in a message")
	}
	return binary.BigEndian.AppendUint16(dst, uint16(n)) //nolint:gosec // checked above
}

// appendValue appends a length-prefixed value; nil is NULL.
func appendValue(dst, v []byte) []byte {
	if v == nil {
		return append(dst, 0xff, 0xff, 0xff, 0xff)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(v))) //nolint:gosec // see end
	return append(dst, v...)
}

// appendBare appends a message without a body.
func appendBare(dst []byte, typ byte) []byte { return append(dst, typ, 0, 0, 0, 4) }
