package pgwire

import "encoding/binary"

// Type OIDs the admin console's columns have (pg_type.dat).
const (
	OIDBool        uint32 = 16
	OIDInt8        uint32 = 20
	OIDInt4        uint32 = 23
	OIDText        uint32 = 25
	OIDFloat8      uint32 = 701
	OIDTimestampTZ uint32 = 1184
	OIDNumeric     uint32 = 1700
)

// Column is one column of a RowDescription.
type Column struct {
	Name     string
	TableOID uint32
	Attr     uint16 // the column's number in that table
	TypeOID  uint32
	TypeSize int16 // bytes; negative = variable
	TypeMod  int32 // -1 = none
	Format   Format
}

// TextColumn describes a column of computed values in text format.
func TextColumn(name string, typeOID uint32) Column {
	size := int16(-1)
	switch typeOID {
	case OIDBool:
		size = 1
	case OIDInt4:
		size = 4
	case OIDInt8, OIDFloat8, OIDTimestampTZ:
		size = 8
	}
	return Column{Name: name, TypeOID: typeOID, TypeSize: size, TypeMod: -1}
}

// AppendRowDescription appends a RowDescription.
func AppendRowDescription(dst []byte, columns []Column) []byte {
	dst, start := begin(dst, MsgRowDescription)
	dst = appendCount(dst, len(columns))
	for i := range columns {
		c := &columns[i]
		dst = appendString(dst, c.Name)
		dst = binary.BigEndian.AppendUint32(dst, c.TableOID)
		dst = binary.BigEndian.AppendUint16(dst, c.Attr)
		dst = binary.BigEndian.AppendUint32(dst, c.TypeOID)
		dst = binary.BigEndian.AppendUint16(dst, uint16(c.TypeSize)) //nolint:gosec // two's complement on purpose
		dst = binary.BigEndian.AppendUint32(dst, uint32(c.TypeMod))  //nolint:gosec // two's complement on purpose
		dst = binary.BigEndian.AppendUint16(dst, uint16(c.Format))
	}
	return end(dst, start)
}

// DecodeRowDescription decodes the body of a RowDescription and appends its columns to dst.
func DecodeRowDescription(dst []Column, body []byte) ([]Column, error) {
	r := reader{b: body}
	n := int(r.uint16())
	kept := len(dst)
	for range n {
		c := Column{Name: string(r.cstring()), TableOID: r.uint32(), Attr: r.uint16(), TypeOID: r.uint32()}
		c.TypeSize = int16(r.uint16()) //nolint:gosec // two's complement on purpose
		c.TypeMod = int32(r.uint32())  //nolint:gosec // two's complement on purpose
		c.Format = Format(r.uint16())
		if r.fault != faultNone {
			break
		}
		dst = append(dst, c)
	}
	if err := r.end(); err != nil {
		return dst[:kept], err
	}
	return dst, nil
}

// AppendDataRow appends a DataRow; a nil value is NULL.
func AppendDataRow(dst []byte, values [][]byte) []byte {
	dst, start := begin(dst, MsgDataRow)
	dst = appendCount(dst, len(values))
	for _, v := range values {
		dst = appendValue(dst, v)
	}
	return end(dst, start)
}

// AppendTextRow appends a DataRow of strings, none of them NULL.
func AppendTextRow(dst []byte, values ...string) []byte {
	dst, start := begin(dst, MsgDataRow)
	dst = appendCount(dst, len(values))
	for _, v := range values {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(v))) //nolint:gosec // see end
		dst = append(dst, v...)
	}
	return end(dst, start)
}

// DecodeDataRow decodes the body of a DataRow and appends its values to dst as views; NULL is nil, an empty value is not.
func DecodeDataRow(dst [][]byte, body []byte) ([][]byte, error) {
	r := reader{b: body}
	n := int(r.uint16())
	kept := len(dst)
	for range n {
		var v []byte
		if length := int32(r.uint32()); length != -1 { //nolint:gosec // signed on purpose
			v = r.bytes(int(length))
		}
		if r.fault != faultNone {
			break
		}
		dst = append(dst, v)
	}
	if err := r.end(); err != nil {
		return dst[:kept], err
	}
	return dst, nil
}
