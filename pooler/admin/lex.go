package admin

import (
	"strings"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// tokenKind is what a token is.
type tokenKind uint8

const (
	tokenEnd    tokenKind = iota // the text is over
	tokenWord                    // keyword, unquoted name or number: text is as written
	tokenQuoted                  // "name": text is without quotes
	tokenString                  // 'text': likewise
	tokenSymbol                  // one character
)

type token struct {
	kind tokenKind
	text string
	pos  int // byte offset
}

// is reports whether the token is that keyword or symbol; keyword in lower case.
func (t token) is(keyword string) bool {
	return (t.kind == tokenWord || t.kind == tokenSymbol) && strings.EqualFold(t.text, keyword)
}

// lexer cuts a text into tokens.
type lexer struct {
	text string
	pos  int
}

// next returns the next token, comments and white space left out.
func (l *lexer) next() (token, *pgwire.Error) {
	if err := l.skipBlank(); err != nil {
		return token{}, err
	}
	start := l.pos
	if start >= len(l.text) {
		return token{kind: tokenEnd, pos: start}, nil
	}
	switch c := l.text[start]; {
	case isWordByte(c):
		for l.pos < len(l.text) && (isWordByte(l.text[l.pos]) || l.text[l.pos] == '$') {
			l.pos++
		}
		return token{tokenWord, l.text[start:l.pos], start}, nil
	case c == '"':
		text, ok := l.quoted('"')
		if !ok {
			return token{}, errorAt(l.text, start, "unterminated quoted identifier")
		}
		if text == "" {
			return token{}, errorAt(l.text, start, "zero-length delimited identifier")
		}
		return token{tokenQuoted, text, start}, nil
	case c == '\'':
		text, ok := l.quoted('\'')
		if !ok {
			return token{}, errorAt(l.text, start, "unterminated quoted string")
		}
		return token{tokenString, text, start}, nil
	default:
		l.pos++
		return token{tokenSymbol, l.text[start:l.pos], start}, nil
	}
}

// quoted reads what stands between two quotes; two of them inside are one. pos is at the first one.
func (l *lexer) quoted(quote byte) (string, bool) {
	var b strings.Builder
	l.pos++
	for l.pos < len(l.text) {
		c := l.text[l.pos]
		l.pos++
		if c == quote {
			if l.pos >= len(l.text) || l.text[l.pos] != quote {
				return b.String(), true
			}
			l.pos++
		}
		b.WriteByte(c)
	}
	return "", false
}

// skipBlank passes white space and comments; /* */ nest, as in PostgreSQL.
func (l *lexer) skipBlank() *pgwire.Error {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.IndexByte(" \t\r\n\f\v", rest[0]) >= 0:
			l.pos++
		case strings.HasPrefix(rest, "--"):
			if n := strings.IndexAny(rest, "\r\n"); n >= 0 {
				l.pos += n
			} else {
				l.pos = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			n := commentLen(rest)
			if n < 0 {
				return errorAt(l.text, l.pos, "unterminated /* comment")
			}
			l.pos += n
		default:
			return nil
		}
	}
	return nil
}

// commentLen is the length of the comment that s starts with, -1 if it does not end.
func commentLen(s string) int {
	depth, i := 1, 2
	for depth > 0 {
		if i+1 >= len(s) {
			return -1
		}
		switch s[i : i+2] {
		case "/*":
			depth++
			i += 2
		case "*/":
			depth--
			i += 2
		default:
			i++
		}
	}
	return i
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c >= utf8.RuneSelf
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// errorAt is PostgreSQL's message for text that it cannot read.
func errorAt(text string, pos int, what string) *pgwire.Error {
	const most = 64
	near := text[pos:]
	if len(near) > most {
		near = strings.ToValidUTF8(near[:most], "")
	}
	return pgwire.Errorf(pgwire.CodeSyntaxError, `%s at or near "%s"`, what, near).WithPosition(position(text, pos))
}

// syntaxError points at a token.
func syntaxError(text string, t token) *pgwire.Error {
	if t.kind == tokenEnd {
		return pgwire.Errorf(pgwire.CodeSyntaxError, "syntax error at end of input").WithPosition(position(text, len(text)))
	}
	return pgwire.Errorf(pgwire.CodeSyntaxError, `syntax error at or near "%s"`, shorten(t.text)).WithPosition(position(text, t.pos))
}

// position is a byte offset in characters, from 1, as ErrorResponse has it.
func position(text string, pos int) int { return utf8.RuneCountInString(text[:pos]) + 1 }

// shorten keeps an error from repeating a text of megabytes.
func shorten(s string) string {
	const most = 128
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
