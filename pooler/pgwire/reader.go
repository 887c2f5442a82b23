package pgwire

import (
	"bytes"
	"encoding/binary"
)

// fault says what was wrong with a body. It stays a small number until a decoder returns, so that reading allocates nothing.
type fault uint8

const (
	faultNone    fault = iota
	faultNoData        // a byte was wanted and none is left
	faultShort         // a number or a value reaches past the end
	faultString        // a string has no terminator
	faultTrailer       // bytes are left over
)

// err gives PostgreSQL's text for the fault (pqformat.c).
func (f fault) err() error {
	switch f {
	case faultNone:
		return nil
	case faultNoData:
		return Errorf(CodeProtocolViolation, "no data left in message")
	case faultShort:
		return Errorf(CodeProtocolViolation, "insufficient data left in message")
	case faultString:
		return Errorf(CodeProtocolViolation, "invalid string in message")
	case faultTrailer:
		return Errorf(CodeProtocolViolation, "invalid message format")
	default:
		panic("pgwire: unknown fault")
	}
}

// reader takes a body apart. The first fault sticks; after it every method returns zero values.
type reader struct {
	b     []byte
	off   int
	fault fault
}

func (r *reader) byte() byte {
	if r.fault != faultNone {
		return 0
	}
	if r.off >= len(r.b) {
		r.fault = faultNoData
		return 0
	}
	c := r.b[r.off]
	r.off++
	return c
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// bytes returns the next n bytes as a view; never nil unless there is a fault.
func (r *reader) bytes(n int) []byte {
	if r.fault != faultNone {
		return nil
	}
	if n < 0 || n > len(r.b)-r.off {
		r.fault = faultShort
		return nil
	}
	v := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return v
}

// cstring returns the next NUL-terminated string as a view without its terminator.
func (r *reader) cstring() []byte {
	if r.fault != faultNone {
		return nil
	}
	i := bytes.IndexByte(r.b[r.off:], 0)
	if i < 0 {
		r.fault = faultString
		return nil
	}
	v := r.b[r.off : r.off+i : r.off+i]
	r.off += i + 1
	return v
}

// rest returns everything that is left.
func (r *reader) rest() []byte { return r.bytes(len(r.b) - r.off) }

// end checks that nothing is left, and returns the first fault as an error.
func (r *reader) end() error {
	if r.fault == faultNone && r.off != len(r.b) {
		r.fault = faultTrailer
	}
	return r.fault.err()
}
