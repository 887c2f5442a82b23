package parser

import (
	"strings"
	"unicode/utf8"
)

// blankComments puts blanks in the place of comments, byte for byte. To PostgreSQL a comment is white space; pg_query's scanner, though, gives
// comments as tokens, and its grammar then fails where it looks one token ahead (NOT /* c */ IN, NULLS /* c */ FIRST) and where a
// comment stands between the parts of one string.
func blankComments(text string) string {
	if !strings.Contains(text, "--") && !strings.Contains(text, "/*") {
		return text
	}
	var blank []byte
	wipe := func(start, end int) {
		if blank == nil {
			blank = []byte(text)
		}
		for i := start; i < end; i++ {
			blank[i] = ' '
		}
	}
	s := Scan(text)
	for last := TokenEnd; ; {
		tok := s.Next()
		switch tok.Kind {
		case TokenEnd, TokenError:
			if blank == nil {
				return text
			}
			return string(blank)
		case TokenLineComment, TokenBlockComment:
			if !joins(s, last) {
				wipe(tok.Start, tok.End)
			}
		case TokenString, TokenEscapeString, TokenUnicodeString, TokenBitString, TokenHexString:
			last = tok.Kind
			blankGaps(text, tok, wipe)
		default:
			last = tok.Kind
		}
	}
}

// blankGaps wipes the comments between the parts of a string.
func blankGaps(text string, tok Token, wipe func(start, end int)) {
	if !strings.Contains(text[tok.Start:tok.End], "--") {
		return
	}
	s := Scan(text[:tok.End])
	for i := tok.Start + strings.IndexByte(text[tok.Start:], '\'') + 1; i < tok.End; i++ {
		switch {
		case text[i] == '\\' && tok.Kind == TokenEscapeString:
			i++
		case text[i] != '\'':
		case i+1 < tok.End && text[i+1] == '\'' && tok.Kind != TokenBitString && tok.Kind != TokenHexString:
			i++
		default:
			next, more := s.continuation(i + 1)
			if !more {
				return
			}
			for i++; i < next; {
				if text[i] == '-' {
					end := lineEnd(text, i)
					wipe(i, end)
					i = end
					continue
				}
				i++
			}
			i = next - 1 // the quote that continues the string
		}
	}
}

// joins reports that a comment keeps two strings apart, which its blanks would make one: a block comment does, a line comment does not, but then the
// strings are one token already.
func joins(s Scanner, last TokenKind) bool {
	switch last {
	case TokenString, TokenEscapeString, TokenUnicodeString, TokenBitString, TokenHexString:
		return nextCode(&s).Kind == TokenString
	default:
		return false
	}
}

// position gives the position in text, in characters from 1, that stands at the given one in parsed, a text of the same bytes but
// for comments.
func position(text, parsed string, at int) int {
	if at == 0 || text == parsed {
		return at
	}
	i := 0
	for n := 1; n < at && i < len(parsed); n++ {
		_, size := utf8.DecodeRuneInString(parsed[i:])
		i += size
	}
	return utf8.RuneCountInString(text[:min(i, len(text))]) + 1
}
