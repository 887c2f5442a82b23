package pgwire

import "encoding/binary"

// Format is how a value travels.
type Format uint16

// The two formats PostgreSQL knows.
const (
	FormatText   Format = 0
	FormatBinary Format = 1
)

// inlineParams is how many parameters a Bind finds in one step. More need a walk, which costs one step each when they are asked
// for in order.
const inlineParams = 16

// Bind is a decoded Bind. Its slices are views into the body. It is not safe for concurrent use: Param remembers where it was.
type Bind struct {
	Portal    []byte
	Statement []byte
	// Tail is the offset in the body of what follows the statement's name: formats, parameters and result formats.
	Tail int

	body        []byte
	formats     []byte // 2 bytes each: none, one for all, or one per parameter
	results     []byte // 2 bytes each: none, one for all, or one per column
	params      int
	cursor      int // a parameter at or beyond inlineParams, and
	cursorStart int // where its length word is
	inline      [inlineParams]int32
}

// DecodeBind decodes the body of a Bind and checks all of it, so that the accessors cannot fail. What needs the prepared
// statement or the result's columns (their number, the result formats' codes) is left to the server, as in PostgreSQL, which
// looks at the latter only when rows are sent.
func DecodeBind(body []byte) (Bind, error) {
	r := reader{b: body}
	b := Bind{body: body}
	b.Portal = r.cstring()
	b.Statement = r.cstring()
	b.Tail = r.off
	b.formats = r.bytes(2 * int(r.uint16()))
	b.params = int(r.uint16())
	if r.fault != faultNone {
		return Bind{}, r.fault.err()
	}
	if n := len(b.formats) / 2; n > 1 && n != b.params {
		return Bind{}, Errorf(CodeProtocolViolation, "bind message has %d parameter formats but %d parameters", n, b.params)
	}
	for i := 0; i < len(b.formats) && b.params > 0; i += 2 {
		if f := binary.BigEndian.Uint16(b.formats[i:]); f > uint16(FormatBinary) {
			return Bind{}, Errorf(CodeInvalidParameterValue, "unsupported format code: %d", int16(f)) //nolint:gosec // as PostgreSQL prints it
		}
	}
	off := r.off
	for i := range b.params {
		if i < inlineParams {
			b.inline[i] = int32(off) //nolint:gosec // a body is shorter than MaxMessageBytes
		} else if i == inlineParams {
			b.cursor, b.cursorStart = i, off
		}
		if len(body)-off < 4 {
			return Bind{}, faultShort.err()
		}
		n := int32(binary.BigEndian.Uint32(body[off:])) //nolint:gosec // signed on purpose
		off += 4
		if n == -1 {
			continue
		}
		if n < 0 || int(n) > len(body)-off {
			return Bind{}, faultShort.err()
		}
		off += int(n)
	}
	r.off = off
	b.results = r.bytes(2 * int(r.uint16()))
	if err := r.end(); err != nil {
		return Bind{}, err
	}
	return b, nil
}

// NumParams is the number of parameters.
func (b *Bind) NumParams() int { return b.params }

// Format is how parameter i (0-based) travels: text where the client gave no formats, the only one where it gave one.
func (b *Bind) Format(i int) Format { return formatAt(b.formats, i) }

// NumResultFormats is how many result formats the client gave: 0 = all text, 1 = that one for all columns, else one per column.
func (b *Bind) NumResultFormats() int { return len(b.results) / 2 }

// ResultFormat is how result column i (0-based) is wanted. Codes other than text and binary are the server's to refuse. A column
// beyond those the client gave formats for is text here; the server refuses such a Bind.
func (b *Bind) ResultFormat(i int) Format { return formatAt(b.results, i) }

func formatAt(codes []byte, i int) Format {
	switch {
	case len(codes) == 0:
		return FormatText
	case len(codes) == 2:
		return Format(binary.BigEndian.Uint16(codes))
	case 2*i+2 <= len(codes):
		return Format(binary.BigEndian.Uint16(codes[2*i:]))
	default:
		return FormatText
	}
}

// Param is the value of parameter i (0-based) as a view into the body; null is true for NULL. The first 16 are found at once, the
// rest in one step each when asked for in ascending order. It panics if i is out of range.
func (b *Bind) Param(i int) (value []byte, null bool) {
	if uint(i) >= uint(b.params) { // negative becomes huge
		panic("pgwire: Bind.Param out of range")
	}
	if i < inlineParams {
		value, null, _ = b.valueAt(int(b.inline[i]))
		return value, null
	}
	if i < b.cursor {
		b.cursor = inlineParams
		_, _, b.cursorStart = b.valueAt(int(b.inline[inlineParams-1]))
	}
	for b.cursor < i {
		_, _, b.cursorStart = b.valueAt(b.cursorStart)
		b.cursor++
	}
	value, null, _ = b.valueAt(b.cursorStart)
	return value, null
}

// valueAt reads the value whose length word is at off, and says where the next one begins.
func (b *Bind) valueAt(off int) (value []byte, null bool, next int) {
	n := int32(binary.BigEndian.Uint32(b.body[off:])) //nolint:gosec // signed on purpose
	off += 4
	if n == -1 {
		return nil, true, off
	}
	next = off + int(n)
	return b.body[off:next:next], false, next
}
