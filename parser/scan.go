package parser

import (
	"strings"
	"unsafe"
)

// TokenKind is what a token of SQL text is.
type TokenKind uint8

// The kinds of tokens, after PostgreSQL 16's scan.l.
const (
	TokenEnd           TokenKind = iota // past the last token
	TokenWord                           // unquoted identifier or key word
	TokenQuotedIdent                    // "..."
	TokenUnicodeIdent                   // U&"..."
	TokenInteger                        // 7, 0x1F, 1_000
	TokenFloat                          // 7.0, 7e0, .5
	TokenString                         // '...' with its continuations on further lines
	TokenEscapeString                   // E'...'
	TokenUnicodeString                  // U&'...', without a UESCAPE clause
	TokenDollarString                   // $tag$...$tag$
	TokenBitString                      // B'...'
	TokenHexString                      // X'...'
	TokenParam                          // $1
	TokenOperator                       // operators but for the single characters of TokenPunct: <=, ||, @>, =>
	TokenPunct                          // , ( ) [ ] . ; : + - * / % ^ < > = and :: := .. and characters that no rule knows
	TokenLineComment                    // -- to the end of the line, without the line's end
	TokenBlockComment                   // /* ... */, nested
	TokenError                          // PostgreSQL's scanner refuses the text from here: see Scanner.Err
)

// Token is one token: its kind and its byte span. The bytes between tokens are white space.
type Token struct {
	Kind       TokenKind
	Start, End int
}

// Scanner cuts SQL text into tokens by PostgreSQL's rules with standard_conforming_strings on. It allocates nothing.
// A Scanner is a value: copy it to look ahead. Declare it outside of the loop that uses it: a loop's own variable is copied each time round.
type Scanner struct {
	text string
	pos  int
	err  string
}

// Scan gives a Scanner over sql.
func Scan(sql string) Scanner { return Scanner{text: sql} }

// ScanBytes gives a Scanner over sql, which must not change while the Scanner is used.
func ScanBytes(sql []byte) Scanner { return Scanner{text: bytesAsString(sql)} }

// bytesAsString views b as a string without copying it.
func bytesAsString(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // ScanBytes tells its callers to leave b alone
}

// Err says why the last token was a TokenError, in PostgreSQL's words; empty otherwise.
func (s *Scanner) Err() string { return s.err }

// Character classes of scan.l.
const (
	classSpace      = 1 << iota // space; a vertical tab is one from PostgreSQL 17 on only
	classIdentStart             // ident_start
	classIdentCont              // ident_cont
	classDigit                  // decdigit
	classOp                     // op_chars
	classSelf                   // self
	classHex                    // hexdigit
	classOpSpecial              // ~ ! @ # ^ & | ` ? %: they let an operator end in + or -
)

var class = func() (t [256]uint8) {
	set := func(chars string, c uint8) {
		for i := range len(chars) {
			t[chars[i]] |= c
		}
	}
	set(" \t\n\r\f", classSpace)
	for c := 'a'; c <= 'z'; c++ {
		set(string(c)+strings.ToUpper(string(c)), classIdentStart|classIdentCont)
	}
	set("_", classIdentStart|classIdentCont)
	for c := 0x80; c <= 0xff; c++ {
		t[c] |= classIdentStart | classIdentCont
	}
	set("$", classIdentCont)
	set("0123456789", classDigit|classIdentCont|classHex)
	set("abcdefABCDEF", classHex)
	set("~!@#^&|`?+-*/%<>=", classOp)
	set(",()[].;:+-*/%^<>=", classSelf)
	set("~!@#^&|`?%", classOpSpecial)
	return t
}()

// Next gives the next token; TokenEnd when there are no more. After a TokenError, which reaches to the end of the text, comes TokenEnd.
func (s *Scanner) Next() Token {
	text, i := s.text, s.pos
	for i < len(text) && class[text[i]]&classSpace != 0 {
		i++
	}
	if i >= len(text) {
		s.pos = len(text)
		return Token{TokenEnd, len(text), len(text)}
	}
	kind, end := s.token(i)
	s.pos = end
	return Token{kind, i, end}
}

// token finds the kind and the end of the token that starts at i.
func (s *Scanner) token(i int) (TokenKind, int) {
	text := s.text
	c := text[i]
	cl := class[c]
	switch {
	case cl&classIdentStart != 0:
		if i+1 < len(text) {
			switch next := text[i+1]; {
			case next == '\'':
				switch c {
				case 'e', 'E':
					return s.escapeString(i + 2)
				case 'b', 'B':
					return s.plainString(TokenBitString, i+2)
				case 'x', 'X':
					return s.plainString(TokenHexString, i+2)
				}
			case next == '&' && (c == 'u' || c == 'U') && i+2 < len(text):
				switch text[i+2] {
				case '\'':
					return s.plainString(TokenUnicodeString, i+3)
				case '"':
					return s.quotedIdent(TokenUnicodeIdent, i+3)
				}
			}
		}
		i++
		for i < len(text) && class[text[i]]&classIdentCont != 0 {
			i++
		}
		return TokenWord, i
	case cl&classDigit != 0:
		return s.number(i)
	case c == '\'':
		return s.plainString(TokenString, i+1)
	case c == '"':
		return s.quotedIdent(TokenQuotedIdent, i+1)
	case c == '$':
		return s.dollar(i)
	case c == '.':
		if i+1 < len(text) {
			if class[text[i+1]]&classDigit != 0 {
				return s.number(i)
			}
			if text[i+1] == '.' {
				return TokenPunct, i + 2
			}
		}
		return TokenPunct, i + 1
	case c == ':':
		if i+1 < len(text) && (text[i+1] == ':' || text[i+1] == '=') {
			return TokenPunct, i + 2
		}
		return TokenPunct, i + 1
	case cl&classOp != 0:
		if i+1 < len(text) {
			if c == '-' && text[i+1] == '-' {
				return TokenLineComment, lineEnd(text, i+2)
			}
			if c == '/' && text[i+1] == '*' {
				return s.blockComment(i + 2)
			}
		}
		return s.operator(i)
	case c == 0:
		return s.fail("invalid byte sequence for encoding \"UTF8\": 0x00")
	default:
		return TokenPunct, i + 1
	}
}

func (s *Scanner) fail(why string) (TokenKind, int) {
	s.err = why
	return TokenError, len(s.text)
}

// lineEnd finds the first line end at or after i.
func lineEnd(text string, i int) int {
	if n := strings.IndexAny(text[i:], "\n\r"); n >= 0 {
		return i + n
	}
	return len(text)
}

// plainString ends a string without backslash escapes, whose first byte is at i; B, X and U& strings are such.
func (s *Scanner) plainString(kind TokenKind, i int) (TokenKind, int) {
	for {
		n := strings.IndexByte(s.text[i:], '\'')
		if n < 0 {
			return s.fail(unterminated(kind))
		}
		i += n + 1
		if i < len(s.text) && s.text[i] == '\'' && kind != TokenBitString && kind != TokenHexString {
			i++
			continue
		}
		next, ok := s.continuation(i)
		if !ok {
			return kind, i
		}
		i = next
	}
}

func unterminated(kind TokenKind) string {
	switch kind {
	case TokenBitString:
		return "unterminated bit string literal"
	case TokenHexString:
		return "unterminated hexadecimal string literal"
	default:
		return "unterminated quoted string"
	}
}

// escapeString ends an E string, whose first byte is at i.
func (s *Scanner) escapeString(i int) (TokenKind, int) {
	text := s.text
	for i < len(text) {
		switch text[i] {
		case '\\':
			i += 2
		case '\'':
			i++
			if i < len(text) && text[i] == '\'' {
				i++
				continue
			}
			next, ok := s.continuation(i)
			if !ok {
				return TokenEscapeString, i
			}
			i = next
		default:
			i++
		}
	}
	return s.fail("unterminated quoted string")
}

// continuation looks behind a closing quote for white space with a line end and then another quote, which continues the string
// (Lexical Structure, 4.1.2.1). It gives the position behind that quote.
func (s *Scanner) continuation(i int) (int, bool) {
	text := s.text
	newline := false
	for i < len(text) {
		switch c := text[i]; {
		case c == '\n' || c == '\r':
			newline = true
			i++
		case class[c]&classSpace != 0:
			i++
		case c == '-' && i+1 < len(text) && text[i+1] == '-':
			i = lineEnd(text, i+2)
		case c == '\'' && newline:
			return i + 1, true
		default:
			return 0, false
		}
	}
	return 0, false
}

// quotedIdent ends a quoted identifier, whose first byte is at i.
func (s *Scanner) quotedIdent(kind TokenKind, i int) (TokenKind, int) {
	first := i
	for {
		n := strings.IndexByte(s.text[i:], '"')
		if n < 0 {
			return s.fail("unterminated quoted identifier")
		}
		i += n + 1
		if i < len(s.text) && s.text[i] == '"' {
			i++
			continue
		}
		if i == first+1 {
			return s.fail("zero-length delimited identifier")
		}
		return kind, i
	}
}

// dollar ends what starts with the $ at i: a parameter, a dollar-quoted string, or a lone $.
func (s *Scanner) dollar(i int) (TokenKind, int) {
	text := s.text
	j := i + 1
	if j < len(text) && class[text[j]]&classDigit != 0 {
		for j < len(text) && class[text[j]]&classDigit != 0 {
			j++
		}
		return TokenParam, j // a letter right behind it is an error from PostgreSQL 15 on, but not in pg_query
	}
	if j < len(text) && class[text[j]]&classIdentStart != 0 {
		for j < len(text) && class[text[j]]&classIdentCont != 0 && text[j] != '$' {
			j++
		}
	}
	if j >= len(text) || text[j] != '$' {
		return TokenPunct, i + 1
	}
	tag := text[i : j+1]
	n := strings.Index(text[j+1:], tag)
	if n < 0 {
		return s.fail("unterminated dollar-quoted string")
	}
	return TokenDollarString, j + 1 + n + len(tag)
}

// blockComment ends a comment, which may hold others, whose first byte behind the opening is at i.
func (s *Scanner) blockComment(i int) (TokenKind, int) {
	text := s.text
	for depth := 1; i+1 < len(text); {
		switch {
		case text[i] == '*' && text[i+1] == '/':
			i += 2
			if depth--; depth == 0 {
				return TokenBlockComment, i
			}
		case text[i] == '/' && text[i+1] == '*':
			i += 2
			depth++
		default:
			i++
		}
	}
	return s.fail("unterminated /* comment")
}

// maxOperator is NAMEDATALEN - 1.
const maxOperator = 63

// operator ends the operator at i: as long as possible, but up to a comment, and without trailing + and - unless
// it holds a character that standard SQL's operators have not.
func (s *Scanner) operator(i int) (TokenKind, int) {
	text := s.text
	end, special := i, false
	for end < len(text) && class[text[end]]&classOp != 0 {
		if end+1 < len(text) && (text[end] == '/' && text[end+1] == '*' || text[end] == '-' && text[end+1] == '-') {
			break
		}
		end++
	}
	if end-i > 1 && (text[end-1] == '+' || text[end-1] == '-') {
		for j := i; j < end-1 && !special; j++ {
			special = class[text[j]]&classOpSpecial != 0
		}
		if !special {
			for end-i > 1 && (text[end-1] == '+' || text[end-1] == '-') {
				end--
			}
		}
	}
	if end-i == 1 && class[text[i]]&classSelf != 0 {
		return TokenPunct, end
	}
	if end-i > maxOperator {
		return s.fail("operator too long")
	}
	return TokenOperator, end
}

// number ends the number at i, which is a digit or a point with a digit behind it.
func (s *Scanner) number(i int) (TokenKind, int) {
	const junk = "trailing junk after numeric literal"
	text := s.text
	if text[i] == '0' && i+1 < len(text) {
		if what, of := radix(text[i+1]); of != nil {
			end := digits(text, i+2, of)
			if end == i+2 {
				return s.fail("invalid " + what + " integer")
			}
			if end < len(text) && class[text[end]]&classIdentStart != 0 {
				return s.fail(junk)
			}
			return TokenInteger, end
		}
	}
	kind := TokenInteger
	end := decimals(text, i)
	if end < len(text) && text[end] == '.' && !isRange(text, i, end) {
		kind = TokenFloat
		end = decimals(text, end+1)
	}
	if end < len(text) && (text[end] == 'e' || text[end] == 'E') {
		j := end + 1
		if j < len(text) && (text[j] == '+' || text[j] == '-') {
			j++
		}
		if k := decimals(text, j); k > j {
			kind, end = TokenFloat, k
		}
	}
	if end < len(text) && class[text[end]]&classIdentStart != 0 {
		return s.fail(junk)
	}
	return kind, end
}

// isRange reports that the point at end belongs to two of them behind a plain integer: 1..10. Behind 1_000 PostgreSQL 16 takes the first
// point for a decimal one.
func isRange(text string, i, end int) bool {
	return end > i && end+1 < len(text) && text[end+1] == '.' && strings.IndexByte(text[i:end], '_') < 0
}

// radix tells what the letter behind a leading 0 announces, and which digits that takes.
func radix(c byte) (what string, of func(byte) bool) {
	switch c {
	case 'x', 'X':
		return "hexadecimal", func(c byte) bool { return class[c]&classHex != 0 }
	case 'o', 'O':
		return "octal", func(c byte) bool { return '0' <= c && c <= '7' }
	case 'b', 'B':
		return "binary", func(c byte) bool { return c == '0' || c == '1' }
	default:
		return "", nil
	}
}

// digits ends a run of digits at i, each of which may have one underscore before it.
func digits(text string, i int, of func(byte) bool) int {
	for {
		switch {
		case i < len(text) && of(text[i]):
			i++
		case i+1 < len(text) && text[i] == '_' && of(text[i+1]):
			i += 2
		default:
			return i
		}
	}
}

// decimals ends a run of decimal digits at i, between which single underscores may stand.
func decimals(text string, i int) int {
	start := i
	for {
		switch {
		case i < len(text) && class[text[i]]&classDigit != 0:
			i++
		case i > start && i+1 < len(text) && text[i] == '_' && class[text[i+1]]&classDigit != 0:
			i += 2
		default:
			return i
		}
	}
}
