package state

import (
	"encoding/binary"
	"testing"
)

type column struct {
	name                string
	table, oid          uint32
	size, typmod, forms uint16
}

func rowDescription(columns ...column) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(columns)))
	for _, c := range columns {
		b = append(append(b, c.name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.table)
		b = binary.BigEndian.AppendUint16(b, 1)
		b = binary.BigEndian.AppendUint32(b, c.oid)
		b = binary.BigEndian.AppendUint16(b, c.size)
		b = binary.BigEndian.AppendUint32(b, uint32(c.typmod))
		b = binary.BigEndian.AppendUint16(b, c.forms)
	}
	return b
}

// TestShapesOfRows are equal where names and types are, whatever else a server says of the columns.
func TestShapesOfRows(t *testing.T) {
	t.Parallel()
	of := func(body []byte) Shape {
		var s Shape
		s.SetRows(body)
		return s
	}
	a := of(rowDescription(column{name: "a", oid: 23}, column{name: "b", oid: 25}))
	for name, same := range map[string][]byte{
		"formats": rowDescription(column{name: "a", oid: 23, forms: 1}, column{name: "b", oid: 25, forms: 1}),
		"tables":  rowDescription(column{name: "a", oid: 23, table: 7, size: 4, typmod: 9}, column{name: "b", oid: 25}),
	} {
		if of(same) != a {
			t.Errorf("other %s make another shape", name)
		}
	}
	seen := map[Shape]string{a: "a"}
	for name, other := range map[string][]byte{
		"none": nil, "no column": rowDescription(), "type": rowDescription(column{name: "a", oid: 20}, column{name: "b", oid: 25}),
		"name": rowDescription(column{name: "c", oid: 23}, column{name: "b", oid: 25}), "order": rowDescription(column{name: "b", oid: 25}, column{name: "a", oid: 23}),
		"fewer": rowDescription(column{name: "a", oid: 23}), "own type": rowDescription(column{name: "a", oid: 20000}, column{name: "b", oid: 25}),
		"cut": rowDescription(column{name: "a", oid: 23}, column{name: "b", oid: 25})[:30], "more": append(rowDescription(column{name: "a", oid: 23}), 1),
	} {
		s := of(other)
		if is, ok := seen[s]; ok {
			t.Errorf("%s and %s have one shape", name, is)
		}
		if seen[s] = name; s.Rows == 0 || s.Rows == UnsureRows {
			t.Errorf("%s: got %d", name, s.Rows)
		}
	}
	if of(rowDescription(column{name: "a", oid: 20000})) != of(rowDescription(column{name: "a", oid: 30000})) {
		t.Error("the number of a user's type counts, which each database has another for")
	}
	if of(nil).Rows != NoRows || a.Columns != 2 {
		t.Errorf("got %v, %v", of(nil), a)
	}
}

func TestShapesOfParameters(t *testing.T) {
	t.Parallel()
	of := func(types ...uint32) uint64 {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(types)))
		for _, oid := range types {
			b = binary.BigEndian.AppendUint32(b, oid)
		}
		var s Shape
		s.SetParams(b)
		return s.Params
	}
	if of(23, 20000) != of(23, 30000) {
		t.Error("the number of a user's type counts")
	}
	seen := map[uint64]bool{0: true}
	for _, types := range [][]uint32{{}, {23}, {20}, {23, 20}, {20, 23}, {20000}} {
		if n := of(types...); seen[n] {
			t.Errorf("%v is like another", types)
		} else {
			seen[n] = true
		}
	}
	var s Shape
	if s.SetParams([]byte{1}); s.Params == 0 {
		t.Error("what is malformed is nothing")
	}
	b := binary.BigEndian.AppendUint16(nil, 14)
	want := []uint32{20, 701, 20000, 25, 1015, 114, 21, 23, 700, 1700, 2950, 1043, 20, 20}
	for _, oid := range want {
		b = binary.BigEndian.AppendUint32(b, oid)
	}
	s.SetParams(b)
	want[2], want[5], want[12], want[13] = 0, 0, 0, 0 // of no use for keys, or too far behind
	for i, oid := range want {
		if got := s.ParamType(i); got != oid {
			t.Errorf("type of parameter %d: got %d, want %d", i, got, oid)
		}
	}
}
