package admin

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// AppendResult appends the answer to a Query message, without its ReadyForQuery: what ran, and then err if there is one.
func AppendResult(dst []byte, r *Result, err *pgwire.Error) []byte {
	for i := range r.Statements {
		s := &r.Statements[i]
		if s.Columns != nil {
			dst = pgwire.AppendRowDescription(dst, s.Columns)
		}
		dst, _ = AppendRows(dst, s, nil, 0, 0)
	}
	switch {
	case err != nil:
		dst = pgwire.AppendErrorResponse(dst, err)
	case len(r.Statements) == 0:
		dst = pgwire.AppendEmptyQuery(dst)
	}
	return dst
}

// AppendDescription appends what Describe asks for: RowDescription, or NoData without columns. formats are Bind's; nil = text.
func AppendDescription(dst []byte, columns []pgwire.Column, formats []pgwire.Format) []byte {
	if columns == nil {
		return pgwire.AppendNoData(dst)
	}
	if len(formats) == 0 {
		return pgwire.AppendRowDescription(dst, columns)
	}
	described := make([]pgwire.Column, len(columns))
	for i, c := range columns {
		c.Format = format(formats, i)
		described[i] = c
	}
	return pgwire.AppendRowDescription(dst, described)
}

// AppendRows appends the notices (with the first row), at most limit rows from row from on (0 = all), and then CommandComplete
// or, if rows are left, PortalSuspended. formats are Bind's; nil = text. It returns the row to go on from.
func AppendRows(dst []byte, s *Statement, formats []pgwire.Format, from, limit int) (out []byte, next int) {
	if from == 0 {
		for _, n := range s.Notices {
			dst = pgwire.AppendNoticeResponse(dst, n)
		}
	}
	end := s.Rows.Len()
	if limit > 0 && limit < end-from {
		end = from + limit
	}
	cells := make([][]byte, 0, len(s.Columns))
	var scratch []byte
	for row := from; row < end; row++ {
		cells = s.Rows.appendRow(cells[:0], row)
		if len(formats) > 0 {
			scratch = binaryRow(scratch[:0], cells, s.Columns, formats)
		}
		dst = pgwire.AppendDataRow(dst, cells)
	}
	if end < s.Rows.Len() || limit > 0 && end-from == limit { // PostgreSQL can't see the end either before it asks for one row more
		return pgwire.AppendPortalSuspended(dst), end
	}
	return pgwire.AppendCommandComplete(dst, s.Tag), end
}

// format is the format of column i.
func format(formats []pgwire.Format, i int) pgwire.Format {
	switch len(formats) {
	case 0:
		return pgwire.FormatText
	case 1:
		return formats[0]
	}
	return formats[i]
}

// checkFormats refuses result formats that don't fit, as PostgreSQL does.
func checkFormats(b *pgwire.Bind, columns []pgwire.Column) ([]pgwire.Format, *pgwire.Error) {
	n := b.NumResultFormats()
	if n > 1 && n != len(columns) {
		return nil, pgwire.Errorf(pgwire.CodeProtocolViolation, "bind message has %d result formats but query has %d columns", n, len(columns))
	}
	formats := make([]pgwire.Format, n)
	for i := range formats {
		formats[i] = b.ResultFormat(i)
		if formats[i] != pgwire.FormatText && formats[i] != pgwire.FormatBinary {
			return nil, pgwire.Errorf(pgwire.CodeInvalidParameterValue, "unsupported format code: %d", formats[i])
		}
	}
	return formats, nil
}

// binaryRow replaces the cells that are wanted in binary; their bytes are appended to scratch.
func binaryRow(scratch []byte, cells [][]byte, columns []pgwire.Column, formats []pgwire.Format) []byte {
	for i, cell := range cells {
		if cell == nil || format(formats, i) != pgwire.FormatBinary {
			continue
		}
		start := len(scratch)
		scratch = appendBinary(scratch, columns[i].TypeOID, cell)
		cells[i] = scratch[start:len(scratch):len(scratch)]
	}
	return scratch
}

// appendBinary appends a cell in its type's binary form. Text is the same in both.
func appendBinary(dst []byte, oid uint32, cell []byte) []byte {
	switch oid {
	case pgwire.OIDBool:
		if cell[0] == 't' {
			return append(dst, 1)
		}
		return append(dst, 0)
	case pgwire.OIDInt4:
		return binary.BigEndian.AppendUint32(dst, uint32(int32(clamp(cell, math.MinInt32, math.MaxInt32)))) //nolint:gosec // clamped; two's complement on purpose
	case pgwire.OIDInt8:
		return binary.BigEndian.AppendUint64(dst, uint64(clamp(cell, math.MinInt64, math.MaxInt64))) //nolint:gosec // two's complement on purpose
	case pgwire.OIDNumeric:
		n, err := strconv.ParseUint(string(cell), 10, 64)
		if err != nil {
			n = 0 // no view has negative or fractional ones
		}
		return appendNumeric(dst, n)
	}
	return append(dst, cell...)
}

func clamp(cell []byte, low, high int64) int64 {
	n, _ := strconv.ParseInt(string(cell), 10, 64) // out of range gives the nearest
	return min(max(n, low), high)
}

// appendNumeric appends an integer as numeric_send does: digits of base 10000, the most significant first, their number, the
// weight of the first one, sign and scale.
func appendNumeric(dst []byte, n uint64) []byte {
	const base = 10_000
	var digits [5]uint16 // 2^64 has 20 decimal digits
	first := len(digits)
	for ; n > 0; n /= base {
		first--
		digits[first] = uint16(n % base)
	}
	weight := max(len(digits)-first-1, 0)
	last := len(digits)
	for last > first && digits[last-1] == 0 { // trailing zeros are left out
		last--
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(last-first)) //nolint:gosec // at most 5
	dst = binary.BigEndian.AppendUint16(dst, uint16(weight))
	dst = append(dst, 0, 0, 0, 0)
	for _, d := range digits[first:last] {
		dst = binary.BigEndian.AppendUint16(dst, d)
	}
	return dst
}
