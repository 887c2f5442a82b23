package sharding

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Use says what a value does with the column, which decides how other numeric types become integers.
type Use uint8

// The uses of a value.
const (
	// Compare: the value is compared by =, exactly; 7.5 equals no integer.
	Compare Use = iota
	// Assign: the value is stored in the column, rounded to its type; 7.5 becomes 8.
	Assign
)

// Reading is the outcome of reading a value as a key.
type Reading uint8

// The outcomes.
const (
	// Unreadable: it can't be told which key the value is.
	Unreadable Reading = iota
	// Exact: it is this key and no other.
	Exact
	// Null: it is NULL.
	Null
	// Never: it equals no value that the column can have.
	Never
)

// decimal collects a number digit by digit: its integer part and whether and how it continues behind the point.
type decimal struct {
	negative bool
	integer  uint64
	overflow bool // the integer part is beyond uint64
	fraction bool // a digit behind the point is not zero
	half     bool // the first digit behind the point is 5 or more
}

func (d *decimal) add(digit uint64) {
	if d.overflow || d.integer > (math.MaxUint64-digit)/10 {
		d.overflow = true
		return
	}
	d.integer = d.integer*10 + digit
}

// key turns the number into the key of a bigint column.
func (d *decimal) key(use Use) (Key, Reading) {
	v := d.integer
	out := d.overflow
	if use == Assign && d.half { // numeric rounds half away from zero
		out = out || v == math.MaxUint64
		v++
	}
	limit := uint64(math.MaxInt64)
	if d.negative {
		limit++
	}
	switch {
	case out || v > limit:
		return Key{}, Never // stored: an error of the server's, out of range
	case use == Compare && d.fraction:
		return Key{}, Never
	case d.negative:
		return BigintKey(int64(-v)), Exact
	}
	return BigintKey(int64(v)), Exact
}

// maxExponent bounds the work for 1e999999999; such a number is no bigint, or has no digits.
const maxExponent = 1000

// ParseNumeric reads a literal or the text form of a numeric and turns it into a bigint key: 7, 7.0, 7e0, 0.7E+1.
func ParseNumeric(s string, use Use) (Key, Reading) {
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	var d decimal
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		d.negative = s[0] == '-'
		s = s[1:]
	}
	mantissa, exponent, ok := splitExponent(s)
	if !ok {
		return Key{}, Unreadable
	}
	digits, point := 0, -1
	for i := range len(mantissa) {
		switch c := mantissa[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && point < 0:
			point = digits
		default: // NaN, Infinity, 0x10, 1_000: refused rather than read by the rules of one version
			return Key{}, Unreadable
		}
	}
	if digits == 0 {
		return Key{}, Unreadable
	}
	if point < 0 {
		point = digits
	}
	point += exponent // the number of digits in front of the point; may be negative or beyond digits
	n := 0
	for i := range len(mantissa) {
		if mantissa[i] == '.' {
			continue
		}
		v := uint64(mantissa[i] - '0')
		switch {
		case n < point:
			d.add(v)
		default:
			d.fraction = d.fraction || v != 0
			d.half = d.half || n == point && v >= 5
		}
		n++
	}
	for ; n < point && !d.overflow && d.integer != 0; n++ {
		d.add(0)
	}
	return d.key(use)
}

func splitExponent(s string) (mantissa string, exponent int, ok bool) {
	for i := range len(s) {
		if s[i] != 'e' && s[i] != 'E' {
			continue
		}
		e, err := strconv.Atoi(s[i+1:])
		if err != nil || e > maxExponent || e < -maxExponent {
			return "", 0, false
		}
		return s[:i], e, true
	}
	return s, 0, true
}

// maxExactFloat is 2^53: below it every integer has a double of its own, and int8 = float8 compares exactly.
const maxExactFloat = 1 << 53

// FloatKey turns a double into a bigint key, unless integers next to each other look alike at its size.
func FloatKey(f float64, use Use) (Key, Reading) {
	if use == Assign {
		f = math.RoundToEven(f)
	}
	switch {
	case math.IsNaN(f) || math.Abs(f) >= maxExactFloat:
		return Key{}, Unreadable
	case f != math.Trunc(f):
		return Key{}, Never
	}
	return BigintKey(int64(f)), Exact
}

// parseFloat reads the text form of float4 or float8: decimal only.
func parseFloat(s string, bits int, use Use) (Key, Reading) {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c == '.', c == '-', c == '+', c == 'e', c == 'E', isSpace(c):
		default:
			return Key{}, Unreadable
		}
	}
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	f, err := strconv.ParseFloat(s, bits)
	if err != nil {
		return Key{}, Unreadable
	}
	return FloatKey(f, use)
}

// The sign words of numeric's binary form; others are NaN and the infinities.
const (
	numericPositive = 0x0000
	numericNegative = 0x4000
)

// binaryNumeric reads numeric's binary form: counts and sign in 16-bit words, then digits to the base 10000, of which
// numeric_recv drops what lies behind the display scale.
func binaryNumeric(b []byte, use Use) (Key, Reading) {
	if len(b) < 8 {
		return Key{}, Unreadable
	}
	count := int(binary.BigEndian.Uint16(b))
	weight := int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := binary.BigEndian.Uint16(b[4:])
	scale := int(binary.BigEndian.Uint16(b[6:]))
	if len(b) != 8+2*count || sign != numericPositive && sign != numericNegative {
		return Key{}, Unreadable
	}
	d := decimal{negative: sign == numericNegative}
	n := 0
	for ; n < count; n++ {
		group := uint64(binary.BigEndian.Uint16(b[8+2*n:]))
		if group > 9999 {
			return Key{}, Unreadable
		}
		if n <= weight {
			for _, unit := range [4]uint64{1000, 100, 10, 1} {
				d.add(group / unit % 10)
			}
			continue
		}
		behind := 4 * (n - weight - 1) // decimals in front of this group
		switch keep := scale - behind; {
		case keep <= 0:
			group = 0
		case keep < 4:
			unit := [4]uint64{10000, 1000, 100, 10}[keep]
			group -= group % unit
		}
		d.fraction = d.fraction || group != 0
		d.half = d.half || behind == 0 && group >= 5000
	}
	for ; n <= weight && !d.overflow && d.integer != 0; n++ {
		for range 4 {
			d.add(0)
		}
	}
	return d.key(use)
}
