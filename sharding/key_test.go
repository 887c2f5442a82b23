package sharding

import (
	"encoding/binary"
	"math"
	"testing"
)

func TestParseKeySpellings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ  KeyType
		in   string
		want string // "" = refused
	}{
		{Bigint, "7", "7"},
		{Bigint, " 7 ", "7"},
		{Bigint, "\t\n\v\f\r7\t", "7"},
		{Bigint, "007", "7"},
		{Bigint, "+7", "7"},
		{Bigint, "-7", "-7"},
		{Bigint, "-0", "0"},
		{Bigint, "0x1F", "31"},
		{Bigint, "-0X1f", "-31"},
		{Bigint, "0o17", "15"},
		{Bigint, "0b101", "5"},
		{Bigint, "1_000", "1000"},
		{Bigint, "0x_ff", "255"},
		{Bigint, "9223372036854775807", "9223372036854775807"},
		{Bigint, "-9223372036854775808", "-9223372036854775808"},
		{Bigint, "0x7fffffffffffffff", "9223372036854775807"},
		{Bigint, "-0x8000000000000000", "-9223372036854775808"},
		{Bigint, "9223372036854775808", ""},
		{Bigint, "-9223372036854775809", ""},
		{Bigint, "99999999999999999999999999", ""},
		{Bigint, "0x8000000000000000", ""},
		{Bigint, "", ""},
		{Bigint, " ", ""},
		{Bigint, "+", ""},
		{Bigint, "- 7", ""},
		{Bigint, "7.0", ""},
		{Bigint, "7e0", ""},
		{Bigint, "_7", ""},
		{Bigint, "7_", ""},
		{Bigint, "7__0", ""},
		{Bigint, "0x", ""},
		{Bigint, "0xg", ""},
		{Bigint, "0b2", ""},
		{Bigint, "0o8", ""},
		{Bigint, "7a", ""},
		{Bigint, "7\u00a0", ""},
		{Bigint, "7\x00", ""},
		{UUID, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{UUID, "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{UUID, "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{UUID, "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{UUID, "a0-eebc999c0b4ef8bb6d6bb9bd380a11", ""},
		{UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a1", ""},
		{UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11-", ""},
		{UUID, "-a0eebc999c0b4ef8bb6d6bb9bd380a11", ""},
		{UUID, "{a0eebc999c0b4ef8bb6d6bb9bd380a11", ""},
		{UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11}", ""},
		{UUID, " a0eebc999c0b4ef8bb6d6bb9bd380a11", ""},
		{UUID, "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", ""},
		{UUID, "g0eebc999c0b4ef8bb6d6bb9bd380a11", ""},
		{UUID, "", ""},
		{UUID, "{}", ""},
		{Text, " a ", " a "},
		{Text, "É", "É"},
	} {
		k, ok := ParseKey(c.typ, c.in)
		if ok != (c.want != "") || ok && (k.String() != c.want || k.Type() != c.typ) {
			t.Errorf("ParseKey(%v, %q) = %q, %v, want %q", c.typ, c.in, k, ok, c.want)
		}
	}
	if k, ok := ParseKey(Text, ""); !ok || k == (Key{}) || k != TextKey("") {
		t.Errorf("the empty text is %v, %v; it is a key, and not the zero Key", k, ok)
	}
}

func TestKeysOfDifferentTypesDiffer(t *testing.T) {
	t.Parallel()
	if BigintKey(0) == UUIDKey([16]byte{}) || BigintKey(0) == TextKey("") || UUIDKey([16]byte{}) == TextKey("") {
		t.Error("keys of different types are equal")
	}
	if TextKey("é") == TextKey("e\u0301") {
		t.Error("texts of different bytes are equal")
	}
}

func TestParseNumeric(t *testing.T) {
	t.Parallel()
	const never, bad = "never", "bad"
	for _, c := range []struct{ in, compare, assign string }{
		{"7", "7", "7"},
		{"7.0", "7", "7"},
		{"7e0", "7", "7"},
		{".7e1", "7", "7"},
		{"0.07E+2", "7", "7"},
		{"70e-1", "7", "7"},
		{"7.", "7", "7"},
		{" -7.000 ", "-7", "-7"},
		{"7.5", never, "8"},
		{"7.4999999999999999999999999999999999", never, "7"},
		{"-7.5", never, "-8"},
		{"-7.4", never, "-7"},
		{"0.5", never, "1"},
		{"0.05", never, "0"},
		{"5e-1", never, "1"},
		{"5e-2", never, "0"},
		{"0e999", "0", "0"},
		{"1e18", "1000000000000000000", "1000000000000000000"},
		{"1e19", never, never},
		{"9223372036854775807", "9223372036854775807", "9223372036854775807"},
		{"9223372036854775808", never, never},
		{"-9223372036854775808.0", "-9223372036854775808", "-9223372036854775808"},
		{"9223372036854775807.5", never, never},
		{"18446744073709551615.5", never, never},
		{"1e1001", bad, bad},
		{"1e", bad, bad},
		{"", bad, bad},
		{".", bad, bad},
		{"1.2.3", bad, bad},
		{"NaN", bad, bad},
		{"Infinity", bad, bad},
		{"0x10", bad, bad},
		{"1 2", bad, bad},
	} {
		for use, want := range map[Use]string{Compare: c.compare, Assign: c.assign} {
			k, r := ParseNumeric(c.in, use)
			if got := readingString(k, r); got != want {
				t.Errorf("ParseNumeric(%q, %d) = %s, want %s", c.in, use, got, want)
			}
		}
	}
}

func readingString(k Key, r Reading) string {
	switch r {
	case Exact:
		return k.String()
	case Null:
		return "null"
	case Never:
		return "never"
	case Unreadable:
		return "bad"
	}
	return "?"
}

func be(width int, v uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, v)
	return b[8-width:]
}

// numericBytes is numeric's binary form.
func numericBytes(weight int16, sign, scale uint16, groups ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(groups)))
	b = binary.BigEndian.AppendUint16(b, uint16(weight))
	b = binary.BigEndian.AppendUint16(b, sign)
	b = binary.BigEndian.AppendUint16(b, scale)
	for _, g := range groups {
		b = binary.BigEndian.AppendUint16(b, g)
	}
	return b
}

func TestReadParam(t *testing.T) {
	t.Parallel()
	minus := func(v int64) uint64 { return uint64(-v) }
	uuid := []byte{0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b, 0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9, 0xbd, 0x38, 0x0a, 0x11}
	const uuidText = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
	for _, c := range []struct {
		name   string
		typ    KeyType
		value  []byte
		binary bool
		oid    uint32
		use    Use
		want   string
	}{
		{"null", Bigint, nil, false, 0, Compare, "null"},
		{"text", Bigint, []byte(" 007"), false, 0, Compare, "7"},
		{"text int8", Bigint, []byte("7"), false, oidInt8, Compare, "7"},
		{"text int4", Bigint, []byte("7"), false, oidInt4, Compare, "7"},
		{"text int2", Bigint, []byte("7"), false, oidInt2, Compare, "7"},
		{"text unknown", Bigint, []byte("7"), false, oidUnknown, Compare, "7"},
		{"text of text", Bigint, []byte("7"), false, oidText, Compare, "bad"},
		{"text numeric", Bigint, []byte("7.0"), false, oidNumeric, Compare, "7"},
		{"text numeric stored", Bigint, []byte("7.5"), false, oidNumeric, Assign, "8"},
		{"text float8", Bigint, []byte("7e0"), false, oidFloat8, Compare, "7"},
		{"text float8 between", Bigint, []byte("7.5"), false, oidFloat8, Compare, "never"},
		{"text float8 stored rounds half to even", Bigint, []byte("6.5"), false, oidFloat8, Assign, "6"},
		{"text float8 too big", Bigint, []byte("9007199254740992"), false, oidFloat8, Compare, "bad"},
		{"text float8 NaN", Bigint, []byte("NaN"), false, oidFloat8, Compare, "bad"},
		{"text float8 hex", Bigint, []byte("0x1p3"), false, oidFloat8, Compare, "bad"},
		{"text float4", Bigint, []byte("16777217"), false, oidFloat4, Compare, "16777216"},
		{"text empty", Bigint, []byte{}, false, 0, Compare, "bad"},
		{"binary int8", Bigint, be(8, minus(7)), true, oidInt8, Compare, "-7"},
		{"binary int4", Bigint, be(4, minus(7)), true, oidInt4, Compare, "-7"},
		{"binary int2", Bigint, be(2, minus(7)), true, oidInt2, Compare, "-7"},
		{"binary by length", Bigint, be(4, 7), true, 0, Compare, "7"},
		{"binary wrong length", Bigint, be(3, 7), true, 0, Compare, "bad"},
		{"binary int8 as int4", Bigint, be(8, 7), true, oidInt4, Compare, "bad"},
		{"binary timestamp", Bigint, be(8, 7), true, 1114, Compare, "bad"},
		{"binary oid", Bigint, be(4, 7), true, 26, Compare, "bad"},
		{"binary float8", Bigint, be(8, math.Float64bits(7)), true, oidFloat8, Compare, "7"},
		{"binary float4", Bigint, be(4, uint64(math.Float32bits(7))), true, oidFloat4, Compare, "7"},
		{"binary numeric 0", Bigint, numericBytes(0, 0, 0), true, oidNumeric, Compare, "0"},
		{"binary numeric 7", Bigint, numericBytes(0, 0, 0, 7), true, oidNumeric, Compare, "7"},
		{"binary numeric -70000", Bigint, numericBytes(1, numericNegative, 0, 7), true, oidNumeric, Compare, "-70000"},
		{"binary numeric 7.0", Bigint, numericBytes(0, 0, 1, 7, 0), true, oidNumeric, Compare, "7"},
		{"binary numeric 7.5", Bigint, numericBytes(0, 0, 1, 7, 5000), true, oidNumeric, Compare, "never"},
		{"binary numeric 7.5 stored", Bigint, numericBytes(0, 0, 1, 7, 5000), true, oidNumeric, Assign, "8"},
		{"binary numeric 0.5 stored", Bigint, numericBytes(-1, 0, 1, 5000), true, oidNumeric, Assign, "1"},
		{"binary numeric 0.00005 stored", Bigint, numericBytes(-2, 0, 5, 5000), true, oidNumeric, Assign, "0"},
		{"binary numeric behind its scale", Bigint, numericBytes(0, 0, 2, 7, 12), true, oidNumeric, Compare, "7"},
		{"binary numeric within its scale", Bigint, numericBytes(0, 0, 3, 7, 12), true, oidNumeric, Compare, "never"},
		{"binary numeric max", Bigint, numericBytes(4, 0, 0, 922, 3372, 368, 5477, 5807), true, oidNumeric, Compare, "9223372036854775807"},
		{"binary numeric max+1", Bigint, numericBytes(4, 0, 0, 922, 3372, 368, 5477, 5808), true, oidNumeric, Compare, "never"},
		{"binary numeric min", Bigint, numericBytes(4, numericNegative, 0, 922, 3372, 368, 5477, 5808), true, oidNumeric, Compare, "-9223372036854775808"},
		{"binary numeric huge", Bigint, numericBytes(32767, 0, 0, 1), true, oidNumeric, Compare, "never"},
		{"binary numeric NaN", Bigint, numericBytes(0, 0xC000, 0), true, oidNumeric, Compare, "bad"},
		{"binary numeric bad group", Bigint, numericBytes(0, 0, 0, 10000), true, oidNumeric, Compare, "bad"},
		{"binary numeric short", Bigint, numericBytes(0, 0, 0, 7)[:9], true, oidNumeric, Compare, "bad"},
		{"uuid text", UUID, []byte("{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}"), false, 0, Compare, uuidText},
		{"uuid binary", UUID, uuid, true, 0, Compare, uuidText},
		{"uuid binary typed", UUID, uuid, true, oidUUID, Compare, uuidText},
		{"uuid binary short", UUID, uuid[:15], true, oidUUID, Compare, "bad"},
		{"uuid as text type", UUID, []byte(uuidText), false, oidText, Compare, "bad"},
		{"text text", Text, []byte("É "), false, oidText, Compare, "É "},
		{"text varchar binary", Text, []byte("a"), true, oidVarchar, Compare, "a"},
		{"text untyped binary", Text, []byte("a"), true, 0, Compare, "a"},
		{"text bpchar", Text, []byte("a "), false, 1042, Compare, "bad"},
		{"text name", Text, []byte("a"), false, 19, Compare, "bad"},
		{"text int", Text, []byte("7"), false, oidInt4, Compare, "bad"},
	} {
		k, r := ReadParam(c.typ, c.value, c.binary, c.oid, c.use)
		if got := readingString(k, r); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestReadParamDoesNotAllocate(t *testing.T) {
	value := []byte("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
	m := NewHash(UUID, 3)
	text := NewHash(Text, 3)
	if n := testing.AllocsPerRun(100, func() {
		k, _ := ReadParam(UUID, value, false, 0, Compare)
		m.Lookup(k)
		k, _ = ReadParam(Text, value, false, 0, Compare)
		text.Lookup(k)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// arrayBytes is the binary form of a one-dimensional array.
func arrayBytes(elem uint32, elems ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, elem)
	b = binary.BigEndian.AppendUint32(b, uint32(len(elems)))
	b = binary.BigEndian.AppendUint32(b, 1)
	for _, e := range elems {
		if e == nil {
			b = binary.BigEndian.AppendUint32(b, math.MaxUint32)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(e)))
		b = append(b, e...)
	}
	return b
}

func readArray(t KeyType, value []byte, isBinary bool, oid uint32) (got []string) {
	a := NewArray(t, value, isBinary, oid)
	for {
		k, r, ok := a.Next()
		if !ok {
			return got
		}
		got = append(got, readingString(k, r))
	}
}

func TestArray(t *testing.T) {
	t.Parallel()
	empty := append(make([]byte, 8), be(4, oidInt8)...)
	for _, c := range []struct {
		name   string
		typ    KeyType
		value  []byte
		binary bool
		oid    uint32
		want   []string
	}{
		{"empty", Bigint, []byte("{}"), false, 0, nil},
		{"blanks", Bigint, []byte(" { } "), false, 0, nil},
		{"two", Bigint, []byte("{1,2}"), false, oidInt8Array, []string{"1", "2"}},
		{"spaces and null", Bigint, []byte(" { 1 , NULL ,null, 3 } "), false, 0, []string{"1", "null", "null", "3"}},
		{"quoted", Bigint, []byte(`{"1","2"}`), false, 0, []string{"1", "2"}},
		{"numeric", Bigint, []byte(`{1.0,2.5}`), false, oidNumericArray, []string{"1", "never"}},
		{"texts", Text, []byte(`{a b,"NULL","a\"b\\c",""," x "}`), false, oidTextArray, []string{"a b", "NULL", `a"b\c`, "", " x "}},
		{"uuid", UUID, []byte("{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}"), false, 0, []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}},
		{"not closed", Bigint, []byte("{1"), false, 0, []string{"bad"}},
		{"not closed after comma", Bigint, []byte("{1,"), false, 0, []string{"bad"}},
		{"trailing comma", Bigint, []byte("{1,}"), false, 0, []string{"bad"}},
		{"empty element", Bigint, []byte("{1,,2}"), false, 0, []string{"1", "bad"}},
		{"trailing", Bigint, []byte("{1}x"), false, 0, []string{"bad"}},
		{"empty and trailing", Bigint, []byte("{}x"), false, 0, []string{"bad"}},
		{"nested", Bigint, []byte("{{1},{2}}"), false, 0, []string{"bad"}},
		{"bounds", Bigint, []byte("[0:1]={1,2}"), false, 0, []string{"bad"}},
		{"no brace", Bigint, []byte("1,2"), false, 0, []string{"bad"}},
		{"nothing", Bigint, []byte{}, false, 0, []string{"bad"}},
		{"bad element", Bigint, []byte("{1,x,2}"), false, 0, []string{"1", "bad"}},
		{"open quote", Text, []byte(`{"a`), false, 0, []string{"bad"}},
		{"open escape", Text, []byte(`{"a\`), false, 0, []string{"bad"}},
		{"quote inside", Text, []byte(`{a"b"}`), false, 0, []string{"bad"}},
		{"other type", Bigint, []byte("{1}"), false, oidTextArray, []string{"bad"}},
		{"no array type", Bigint, []byte("{1}"), false, oidInt8, []string{"bad"}},
		{"binary", Bigint, arrayBytes(oidInt4, be(4, 1), nil, be(4, 2)), true, oidInt4Array, []string{"1", "null", "2"}},
		{"binary untyped", Bigint, arrayBytes(oidInt8, be(8, 1)), true, 0, []string{"1"}},
		{"binary empty", Bigint, empty, true, 0, nil},
		{"binary of another type", Bigint, arrayBytes(oidInt8, be(8, 1)), true, oidInt4Array, []string{"bad"}},
		{"binary timestamps", Bigint, arrayBytes(1114, be(8, 1)), true, 0, []string{"bad"}},
		{"binary short", Bigint, arrayBytes(oidInt8, be(8, 1))[:27], true, 0, []string{"bad"}},
		{"binary long", Bigint, append(arrayBytes(oidInt8, be(8, 1)), 0), true, 0, []string{"1", "bad"}},
		{"binary count lies", Bigint, append(binary.BigEndian.AppendUint32(append(be(4, 1), 0, 0, 0, 0, 0, 0, 0, 20), 1<<31), 0, 0, 0, 1), true, 0, []string{"bad"}},
		{"binary two dimensions", Bigint, append(be(4, 2), arrayBytes(oidInt8, be(8, 1))[4:]...), true, 0, []string{"bad"}},
		{"binary cut header", Bigint, empty[:11], true, 0, []string{"bad"}},
		{"binary texts", Text, arrayBytes(oidText, []byte("a"), []byte{}), true, oidTextArray, []string{"a", ""}},
	} {
		got := readArray(c.typ, c.value, c.binary, c.oid)
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
				break
			}
		}
	}
}

func FuzzParam(f *testing.F) {
	f.Add([]byte("007"), false, uint32(0))
	f.Add([]byte("{1,2,NULL}"), false, uint32(oidInt8Array))
	f.Add([]byte(`{"a\"b", c}`), false, uint32(oidTextArray))
	f.Add(arrayBytes(oidInt4, be(4, 1), nil), true, uint32(oidInt4Array))
	f.Add(numericBytes(1, 0, 3, 1, 2, 3), true, uint32(oidNumeric))
	f.Add([]byte("-1.5e3"), false, uint32(oidNumeric))
	f.Fuzz(func(t *testing.T, value []byte, isBinary bool, oid uint32) {
		for _, typ := range []KeyType{Bigint, UUID, Text} {
			for _, use := range []Use{Compare, Assign} {
				k, r := ReadParam(typ, value, isBinary, oid, use)
				if (r == Exact) != (k.Type() == typ) {
					t.Fatalf("ReadParam = %v, %v", k, r)
				}
				if r == Exact && typ != Text { // what it prints reads back as itself
					if again, ok := ParseKey(typ, k.String()); !ok || again != k {
						t.Fatalf("%q reads as %v and prints as %q", value, k, k.String())
					}
				}
			}
			a := NewArray(typ, value, isBinary, oid)
			for n := 0; ; n++ {
				if _, _, ok := a.Next(); !ok {
					break
				}
				if n > len(value) {
					t.Fatalf("more elements than bytes")
				}
			}
		}
	})
}
