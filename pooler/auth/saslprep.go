package auth

import (
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
	"golang.org/x/text/unicode/norm"
)

// saslprep prepares a password as PostgreSQL's pg_saslprep does, which follows RFC 4013 with three peculiarities: an ASCII password
// is taken as it is, control characters included; characters that are prohibited, or unassigned in Unicode 3.2, are
// looked for before normalisation; and a password that cannot be prepared is used as the raw bytes.
func saslprep(password string) string {
	if isASCII(password) || !utf8.ValidString(password) {
		return password
	}
	mapped := make([]rune, 0, len(password))
	for _, r := range password {
		_, ignored := stringprep.TableB1[r]
		switch {
		case stringprep.TableC1_2.Contains(r): // comes first: U+200B is in both tables
			mapped = append(mapped, ' ')
		case ignored || r == 0x1806: // the library's table lacks this one of RFC 3454's B.1
		default:
			mapped = append(mapped, r)
		}
	}
	if len(mapped) == 0 || !permitted(mapped) {
		return password
	}
	return norm.NFKC.String(string(mapped))
}

// prohibited is RFC 4013's section 2.3 and unassigned code points.
var prohibited = []stringprep.Set{
	stringprep.TableC1_2, stringprep.TableC2_1, stringprep.TableC2_2, stringprep.TableC3, stringprep.TableC4,
	stringprep.TableC5, stringprep.TableC6, stringprep.TableC7, stringprep.TableC8, stringprep.TableC9, stringprep.TableA1,
}

// permitted checks the characters, and the rules for text that runs from right to left (RFC 3454, section 6).
func permitted(s []rune) bool {
	rightToLeft, leftToRight := false, false
	for _, r := range s {
		for _, set := range prohibited {
			if set.Contains(r) {
				return false
			}
		}
		rightToLeft = rightToLeft || stringprep.TableD1.Contains(r)
		leftToRight = leftToRight || stringprep.TableD2.Contains(r)
	}
	if !rightToLeft {
		return true
	}
	return !leftToRight && stringprep.TableD1.Contains(s[0]) && stringprep.TableD1.Contains(s[len(s)-1])
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
