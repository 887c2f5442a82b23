package sharding

import "math"

// parseBigint reads s as int8in of PostgreSQL 16 does: blanks around, a sign, decimal, hexadecimal (0x), octal (0o) or
// binary (0b) digits, single underscores between digits. Older servers refuse what is newer there, with an error.
func parseBigint(s string) (int64, bool) {
	for len(s) > 0 && isSpace(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	negative := false
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		negative = s[0] == '-'
		s = s[1:]
	}
	base, prefixed := uint64(10), false
	if len(s) > 1 && s[0] == '0' {
		switch s[1] {
		case 'x', 'X':
			base, prefixed = 16, true
		case 'o', 'O':
			base, prefixed = 8, true
		case 'b', 'B':
			base, prefixed = 2, true
		}
		if prefixed {
			s = s[2:]
		}
	}
	if s == "" || s[0] == '_' && !prefixed {
		return 0, false
	}
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	var v uint64
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '_' {
			if i++; i == len(s) {
				return 0, false
			}
			c = s[i]
		}
		d := digit(c)
		if d >= base || v > (limit-d)/base {
			return 0, false
		}
		v = v*base + d
	}
	if negative {
		return int64(-v), true
	}
	return int64(v), true
}

// digit returns the value of a hexadecimal digit, 255 for anything else.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 255
}

// isSpace is C's isspace in PostgreSQL's reading of numbers.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// parseUUID reads s as uuid_in does: 32 hexadecimal digits of either case, optional braces around, an optional hyphen
// after each group of four.
func parseUUID(s string) (v [16]byte, ok bool) {
	if len(s) > 1 && s[0] == '{' && s[len(s)-1] == '}' {
		s = s[1 : len(s)-1]
	}
	for i := range v {
		if len(s) < 2 {
			return v, false
		}
		h, l := digit(s[0]), digit(s[1])
		if h > 15 || l > 15 {
			return v, false
		}
		v[i] = byte(h<<4 | l)
		s = s[2:]
		if len(s) > 0 && s[0] == '-' && i%2 == 1 && i < len(v)-1 {
			s = s[1:]
		}
	}
	return v, s == ""
}
