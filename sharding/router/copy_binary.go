package router

import (
	"encoding/binary"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// binaryPart is what the next bytes of the binary format are.
type binaryPart uint8

const (
	binarySignature binaryPart = iota // with the flags and the size of the extension: 19 bytes
	binaryExtension                   // skipped
	binaryCount                       // the number of fields of a row: 2 bytes; -1 ends the data
	binaryLength                      // of a field: 4 bytes; -1 is NULL
	binaryField                       // its bytes
	binaryEnd                         // nothing may follow
)

// binaryState is where the binary format is between two bytes.
type binaryState struct {
	part   binaryPart
	head   [19]byte // of the part at hand, as far as it has come
	have   int
	left   uint32 // bytes of the extension or field
	fields int
}

const binaryMagic = "PGCOPY\n\xff\r\n\x00"

func (r *CopyRouter) feedBinary(data []byte) {
	s := &r.binary
	for len(data) > 0 && r.err == nil {
		switch s.part {
		case binarySignature:
			if data = s.read(data, 19); s.have == 19 {
				r.binarySignature()
			}
		case binaryExtension:
			if data = s.skip(data); s.left == 0 {
				s.part = binaryCount
			}
		case binaryCount:
			if data = s.read(data, 2); s.have == 2 {
				r.binaryCount()
			}
		case binaryLength:
			if data = s.read(data, 4); s.have == 4 {
				r.binaryLength()
			}
		case binaryField:
			n := min(len(data), int(s.left))
			if r.key != nil {
				r.keep(data[:n]...)
			}
			data = data[n:]
			if s.left -= uint32(n); s.left == 0 {
				r.endBinaryField(false)
			}
		case binaryEnd:
			r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "received copy data after EOF marker"))
		}
	}
}

// read collects the n bytes of a head.
func (s *binaryState) read(data []byte, n int) (rest []byte) {
	k := copy(s.head[s.have:n], data)
	s.have += k
	return data[k:]
}

func (s *binaryState) skip(data []byte) (rest []byte) {
	n := min(len(data), int(s.left))
	s.left -= uint32(n)
	return data[n:]
}

func (r *CopyRouter) binarySignature() {
	s := &r.binary
	s.have = 0
	flags, extension := binary.BigEndian.Uint32(s.head[11:]), binary.BigEndian.Uint32(s.head[15:])
	switch {
	case string(s.head[:11]) != binaryMagic:
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "COPY file signature not recognized"))
	case flags>>16 != 0: // 1<<16 is the OIDs of old versions
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "unrecognized critical flags in COPY file header"))
	case int32(extension) < 0:
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "invalid COPY file header (wrong length)"))
	case extension > 0:
		s.left, s.part = extension, binaryExtension
	default:
		s.part = binaryCount
	}
}

func (r *CopyRouter) binaryCount() {
	s := &r.binary
	s.have = 0
	n := int(int16(binary.BigEndian.Uint16(s.head[:])))
	switch {
	case n == -1:
		s.part = binaryEnd
	case n != r.plan.columns:
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "row field count is %d, expected %d", n, r.plan.columns))
	default:
		s.fields, s.part = n, binaryLength
		r.beginField(0)
	}
}

func (r *CopyRouter) binaryLength() {
	s := &r.binary
	s.have = 0
	n := int32(binary.BigEndian.Uint32(s.head[:]))
	switch {
	case n == -1:
		r.endBinaryField(true)
	case n < 0:
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "invalid field size"))
	case n == 0:
		r.endBinaryField(false)
	default:
		s.left, s.part = uint32(n), binaryField
	}
}

func (r *CopyRouter) endBinaryField(null bool) {
	s := &r.binary
	if r.key != nil && r.err == nil {
		r.decide(r.buf, null, true)
	}
	s.part = binaryLength
	if r.field+1 < s.fields {
		r.beginField(r.field + 1)
		return
	}
	r.row++
	s.part = binaryCount
}

// finishBinary: data may end without its trailer, which the server forgives, but not within a row.
func (r *CopyRouter) finishBinary() {
	if s := &r.binary; s.part != binaryEnd && (s.part != binaryCount || s.have > 0) {
		r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "unexpected EOF in COPY data"))
	}
}
