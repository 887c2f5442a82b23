package pgwire

import (
	"bytes"
	"encoding/binary"
)

// AppendQuery appends a simple Query.
func AppendQuery[T Text](dst []byte, sql T) []byte {
	dst, start := begin(dst, MsgQuery)
	return end(appendString(dst, sql), start)
}

// AppendParse appends a Parse. types are the parameters' type OIDs, 0 = let the server infer; it may be shorter than the number
// of parameters.
func AppendParse[N, S Text](dst []byte, name N, sql S, types []uint32) []byte {
	dst, start := begin(dst, MsgParse)
	dst = appendString(dst, name)
	dst = appendString(dst, sql)
	dst = appendCount(dst, len(types))
	for _, t := range types {
		dst = binary.BigEndian.AppendUint32(dst, t)
	}
	return end(dst, start)
}

// AppendParseTail appends a Parse under another name: tail is the bytes after the name of a decoded one (body[p.Tail:]).
func AppendParseTail[N Text](dst []byte, name N, tail []byte) []byte {
	dst, start := begin(dst, MsgParse)
	return end(append(appendString(dst, name), tail...), start)
}

// AppendBind appends a Bind whose parameters all have the same format (FormatText or FormatBinary) and whose result columns all
// come in resultFormat. A nil value is NULL.
func AppendBind[P, S Text](dst []byte, portal P, statement S, format Format, params [][]byte, resultFormat Format) []byte {
	dst, start := begin(dst, MsgBind)
	dst = appendString(dst, portal)
	dst = appendString(dst, statement)
	dst = appendFormat(dst, format)
	dst = appendCount(dst, len(params))
	for _, v := range params {
		dst = appendValue(dst, v)
	}
	return end(appendFormat(dst, resultFormat), start)
}

// appendFormat appends the list of format codes that means "all of them f": none for text, one for anything else.
func appendFormat(dst []byte, f Format) []byte {
	if f == FormatText {
		return append(dst, 0, 0)
	}
	return binary.BigEndian.AppendUint16(append(dst, 0, 1), uint16(f))
}

// AppendBindTail appends a Bind for another portal or statement: tail is the bytes after the statement's name of a decoded one
// (body[b.Tail:]).
func AppendBindTail[P, S Text](dst []byte, portal P, statement S, tail []byte) []byte {
	dst, start := begin(dst, MsgBind)
	dst = appendString(dst, portal)
	dst = appendString(dst, statement)
	return end(append(dst, tail...), start)
}

// AppendDescribe appends a Describe of a statement or a portal.
func AppendDescribe[T Text](dst []byte, kind TargetKind, name T) []byte {
	return appendTarget(dst, MsgDescribe, kind, name)
}

// AppendClose appends a Close of a statement or a portal.
func AppendClose[T Text](dst []byte, kind TargetKind, name T) []byte {
	return appendTarget(dst, MsgClose, kind, name)
}

func appendTarget[T Text](dst []byte, typ byte, kind TargetKind, name T) []byte {
	dst, start := begin(dst, typ)
	return end(appendString(append(dst, byte(kind)), name), start)
}

// AppendExecute appends an Execute; maxRows 0 = all.
func AppendExecute[T Text](dst []byte, portal T, maxRows uint32) []byte {
	dst, start := begin(dst, MsgExecute)
	dst = appendString(dst, portal)
	return end(binary.BigEndian.AppendUint32(dst, maxRows), start)
}

// AppendFlush appends a Flush.
func AppendFlush(dst []byte) []byte { return appendBare(dst, MsgFlush) }

// AppendSync appends a Sync.
func AppendSync(dst []byte) []byte { return appendBare(dst, MsgSync) }

// AppendTerminate appends a Terminate.
func AppendTerminate(dst []byte) []byte { return appendBare(dst, MsgTerminate) }

// AppendCopyData appends a CopyData.
func AppendCopyData[T Text](dst []byte, data T) []byte {
	dst, start := begin(dst, MsgCopyData)
	return end(append(dst, data...), start)
}

// AppendCopyDone appends a CopyDone.
func AppendCopyDone(dst []byte) []byte { return appendBare(dst, MsgCopyDone) }

// AppendCopyFail appends a CopyFail with the reason the client gives.
func AppendCopyFail[T Text](dst []byte, reason T) []byte {
	dst, start := begin(dst, MsgCopyFail)
	return end(appendString(dst, reason), start)
}

// TargetKind says whether Describe or Close is about a prepared statement or a portal.
type TargetKind byte

// The two kinds.
const (
	TargetStatement TargetKind = 'S'
	TargetPortal    TargetKind = 'P'
)

// Target is a decoded Describe or Close.
type Target struct {
	Kind TargetKind
	Name []byte
}

// DecodeDescribe decodes the body of a Describe.
func DecodeDescribe(body []byte) (Target, error) { return decodeTarget(body, "DESCRIBE") }

// DecodeClose decodes the body of a Close.
func DecodeClose(body []byte) (Target, error) { return decodeTarget(body, "CLOSE") }

func decodeTarget(body []byte, message string) (Target, error) {
	r := reader{b: body}
	t := Target{Kind: TargetKind(r.byte()), Name: r.cstring()}
	if err := r.end(); err != nil {
		return Target{}, err
	}
	if t.Kind != TargetStatement && t.Kind != TargetPortal {
		return Target{}, Errorf(CodeProtocolViolation, "invalid %s message subtype %d", message, t.Kind)
	}
	return t, nil
}

// DecodeQuery decodes the body of a Query and returns its text without the terminator.
func DecodeQuery(body []byte) ([]byte, error) { return decodeString(body) }

// DecodeCopyFail decodes the body of a CopyFail and returns the reason.
func DecodeCopyFail(body []byte) ([]byte, error) { return decodeString(body) }

func decodeString(body []byte) ([]byte, error) {
	if n := len(body) - 1; n >= 0 && bytes.IndexByte(body, 0) == n {
		return body[:n:n], nil
	}
	r := reader{b: body}
	s := r.cstring()
	if err := r.end(); err != nil {
		return nil, err
	}
	return s, nil
}

// DecodeEmpty checks the body of a message that has none: Sync, Flush, and from a server ParseComplete and its like. PostgreSQL
// does not check Terminate or CopyDone.
func DecodeEmpty(body []byte) error {
	r := reader{b: body}
	return r.end()
}

// Execute is a decoded Execute.
type Execute struct {
	Portal []byte
	// MaxRows is the row limit; 0 or less = no limit. PostgreSQL reads the word as signed.
	MaxRows int32
}

// DecodeExecute decodes the body of an Execute.
func DecodeExecute(body []byte) (Execute, error) {
	r := reader{b: body}
	e := Execute{Portal: r.cstring(), MaxRows: int32(r.uint32())} //nolint:gosec // signed on purpose
	if err := r.end(); err != nil {
		return Execute{}, err
	}
	return e, nil
}

// Parse is a decoded Parse. Its slices are views into the body.
type Parse struct {
	Name []byte
	SQL  []byte
	// Tail is the offset in the body of what follows the name: the SQL text and the types.
	Tail int

	types []byte
}

// DecodeParse decodes the body of a Parse.
func DecodeParse(body []byte) (Parse, error) {
	r := reader{b: body}
	p := Parse{Name: r.cstring(), Tail: r.off}
	p.SQL = r.cstring()
	p.types = r.bytes(4 * int(r.uint16()))
	if err := r.end(); err != nil {
		return Parse{}, err
	}
	return p, nil
}

// NumTypes is how many parameter types the client gave.
func (p *Parse) NumTypes() int { return len(p.types) / 4 }

// Type is the type OID of parameter i (0-based), 0 = unspecified.
func (p *Parse) Type(i int) uint32 { return binary.BigEndian.Uint32(p.types[4*i:]) }

// AppendTypes appends all the type OIDs to dst.
func (p *Parse) AppendTypes(dst []uint32) []uint32 {
	for i := range p.NumTypes() {
		dst = append(dst, p.Type(i))
	}
	return dst
}
