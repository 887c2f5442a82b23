package pgwire

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// AppendReadyForQuery appends a ReadyForQuery.
func AppendReadyForQuery(dst []byte, status TxStatus) []byte {
	return append(dst, MsgReadyForQuery, 0, 0, 0, 5, byte(status))
}

// DecodeReadyForQuery decodes the body of a ReadyForQuery.
func DecodeReadyForQuery(body []byte) (TxStatus, error) {
	if len(body) == 1 && TxStatus(body[0]).Valid() {
		return TxStatus(body[0]), nil
	}
	r := reader{b: body}
	s := TxStatus(r.byte())
	if err := r.end(); err != nil {
		return 0, err
	}
	if !s.Valid() {
		return 0, Errorf(CodeProtocolViolation, "unknown transaction status %d in ReadyForQuery", byte(s))
	}
	return s, nil
}

// AppendParameterStatus appends a ParameterStatus.
func AppendParameterStatus[N, V Text](dst []byte, name N, value V) []byte {
	dst, start := begin(dst, MsgParameterStatus)
	return end(appendString(appendString(dst, name), value), start)
}

// DecodeParameterStatus decodes the body of a ParameterStatus; both are views into it.
func DecodeParameterStatus(body []byte) (name, value []byte, err error) {
	r := reader{b: body}
	name, value = r.cstring(), r.cstring()
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	return name, value, nil
}

// MaxSecretBytes is the longest cancel secret that protocol 3.2 allows; 3.0 has exactly 4 bytes.
const MaxSecretBytes = 256

// AppendBackendKeyData appends a BackendKeyData. Secrets of other than 4 bytes are for clients of protocol 3.2 only.
func AppendBackendKeyData(dst []byte, pid uint32, secret []byte) []byte {
	dst, start := begin(dst, MsgBackendKeyData)
	dst = binary.BigEndian.AppendUint32(dst, pid)
	return end(append(dst, secret...), start)
}

// DecodeBackendKeyData decodes the body of a BackendKeyData; secret is a view of 4 to 256 bytes.
func DecodeBackendKeyData(body []byte) (pid uint32, secret []byte, err error) {
	r := reader{b: body}
	pid, secret = r.uint32(), r.rest()
	if err := r.end(); err != nil {
		return 0, nil, err
	}
	if len(secret) < 4 || len(secret) > MaxSecretBytes {
		return 0, nil, Errorf(CodeProtocolViolation, "invalid cancel key length %d in BackendKeyData", len(secret))
	}
	return pid, secret, nil
}

// AppendCommandComplete appends a CommandComplete with the given tag, such as "SELECT 1".
func AppendCommandComplete[T Text](dst []byte, tag T) []byte {
	dst, start := begin(dst, MsgCommandComplete)
	return end(appendString(dst, tag), start)
}

// DecodeCommandTag decodes the body of a CommandComplete; the tag is a view into it.
func DecodeCommandTag(body []byte) ([]byte, error) { return decodeString(body) }

// TagRows is the number of rows a command tag ends with; ok is false for commands that count none.
func TagRows(tag []byte) (rows int64, ok bool) {
	n, err := strconv.ParseInt(string(tag[bytes.LastIndexByte(tag, ' ')+1:]), 10, 64)
	return n, err == nil && n >= 0
}

// AppendEmptyQuery appends an EmptyQueryResponse.
func AppendEmptyQuery(dst []byte) []byte { return appendBare(dst, MsgEmptyQuery) }

// AppendParseComplete appends a ParseComplete.
func AppendParseComplete(dst []byte) []byte { return appendBare(dst, MsgParseComplete) }

// AppendBindComplete appends a BindComplete.
func AppendBindComplete(dst []byte) []byte { return appendBare(dst, MsgBindComplete) }

// AppendCloseComplete appends a CloseComplete.
func AppendCloseComplete(dst []byte) []byte { return appendBare(dst, MsgCloseComplete) }

// AppendNoData appends a NoData.
func AppendNoData(dst []byte) []byte { return appendBare(dst, MsgNoData) }

// AppendPortalSuspended appends a PortalSuspended.
func AppendPortalSuspended(dst []byte) []byte { return appendBare(dst, MsgPortalSuspended) }

// AppendParameterDescription appends a ParameterDescription.
func AppendParameterDescription(dst []byte, types []uint32) []byte {
	dst, start := begin(dst, MsgParameterDescription)
	dst = appendCount(dst, len(types))
	for _, t := range types {
		dst = binary.BigEndian.AppendUint32(dst, t)
	}
	return end(dst, start)
}

// DecodeParameterDescription decodes the body of a ParameterDescription and appends its type OIDs to dst.
func DecodeParameterDescription(dst []uint32, body []byte) ([]uint32, error) {
	r := reader{b: body}
	types := r.bytes(4 * int(r.uint16()))
	if err := r.end(); err != nil {
		return dst, err
	}
	for ; len(types) > 0; types = types[4:] {
		dst = append(dst, binary.BigEndian.Uint32(types))
	}
	return dst, nil
}

// AppendCopyInResponse appends a CopyInResponse for that many columns, all in one format.
func AppendCopyInResponse(dst []byte, format Format, columns int) []byte {
	return appendCopyResponse(dst, MsgCopyIn, format, columns)
}

// AppendCopyOutResponse appends a CopyOutResponse for that many columns, all in one format.
func AppendCopyOutResponse(dst []byte, format Format, columns int) []byte {
	return appendCopyResponse(dst, MsgCopyOut, format, columns)
}

func appendCopyResponse(dst []byte, typ byte, format Format, columns int) []byte {
	dst, start := begin(dst, typ)
	dst = append(dst, byte(format)) //nolint:gosec // 0 or 1
	dst = appendCount(dst, columns)
	for range columns {
		dst = binary.BigEndian.AppendUint16(dst, uint16(format))
	}
	return end(dst, start)
}

// DecodeCopyResponse decodes the body of a CopyInResponse, CopyOutResponse or CopyBothResponse.
func DecodeCopyResponse(body []byte) (format Format, columns int, err error) {
	r := reader{b: body}
	format = Format(r.byte())
	columns = int(r.uint16())
	r.bytes(2 * columns)
	if err := r.end(); err != nil {
		return 0, 0, err
	}
	if format > FormatBinary {
		return 0, 0, Errorf(CodeProtocolViolation, "unsupported copy format %d", format)
	}
	return format, columns, nil
}

// AppendNegotiateProtocolVersion appends a NegotiateProtocolVersion: the newest version of protocol 3 the server speaks (Version30
// or Version32; PostgreSQL sends the whole word, not the minor number alone) and the "_pq_." options it did not know.
func AppendNegotiateProtocolVersion(dst []byte, version uint32, unknown []string) []byte {
	dst, start := begin(dst, MsgNegotiateProtocolVersion)
	dst = binary.BigEndian.AppendUint32(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(unknown))) //nolint:gosec // bounded by the startup packet
	for _, o := range unknown {
		dst = appendString(dst, o)
	}
	return end(dst, start)
}

// DecodeNegotiateProtocolVersion decodes the body of a NegotiateProtocolVersion. minor is the low half of the version word, so that
// servers which send only the minor number are understood as well.
func DecodeNegotiateProtocolVersion(body []byte) (minor uint16, unknown []string, err error) {
	r := reader{b: body}
	version, n := r.uint32(), r.uint32()
	for i := uint32(0); i < n && r.fault == faultNone; i++ {
		unknown = append(unknown, string(r.cstring()))
	}
	if err := r.end(); err != nil {
		return 0, nil, err
	}
	return uint16(version), unknown, nil //nolint:gosec // the low half on purpose
}
