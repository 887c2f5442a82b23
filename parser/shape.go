package parser

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// Literal is a constant that a text's shape leaves out.
type Literal struct {
	Kind       TokenKind // TokenInteger, TokenFloat, TokenString, TokenEscapeString or TokenDollarString
	Start, End int32     // bytes of the text
}

// Shape is a text taken apart into what it has in common with others that differ in their constants, and these constants. Texts of one shape
// have one parse tree but for the constants. A Shape may be used again and again; its slices are valid until then.
type Shape struct {
	// Key is the text with single spaces for white space and comments, comments with hints as they are, and a mark for each literal.
	Key      []byte
	Literals []Literal
}

// The marks of literals in a key. No token starts with them.
const (
	markInteger = 1
	markFloat   = 2
	markString  = 3
	markLong    = 4
)

const maxInt4 = "2147483647"

// integerMark is the mark of an integer, 0 for one that is written in an unusual way. PostgreSQL's grammar tells those that fit into an int4
// from others: varchar(2147483648) is a syntax error.
func integerMark(text string) byte {
	if len(text) > 1 && text[0] == '0' {
		return 0
	}
	for i := range len(text) {
		if class[text[i]]&classDigit == 0 {
			return 0
		}
	}
	if len(text) > len(maxInt4) || len(text) == len(maxInt4) && text > maxInt4 {
		return markLong
	}
	return markInteger
}

// Of finds the shape of sql. It reports false for texts that are to be parsed as they are: what does not begin as a query or a change of
// rows, several statements, what PostgreSQL's scanner refuses, and a few odd forms.
func (s *Shape) Of(sql []byte) bool {
	s.Key, s.Literals = append(s.Key[:0], shapeKey), s.Literals[:0]
	text := bytesAsString(sql)
	sc := Scanner{text: text}
	key := s.Key
	last, high := 0, false
	first, ended := true, false
	for {
		tok := sc.Next()
		if tok.Kind == TokenEnd {
			break
		}
		switch tok.Kind {
		case TokenLineComment, TokenBlockComment:
			if strings.Contains(text[tok.Start:tok.End], hintPrefix) {
				key = append(append(append(key, ' '), text[tok.Start:tok.End]...), '\n')
			}
			last = -1 // a gap
			continue
		default:
		}
		if ended {
			return false
		}
		if tok.Kind == TokenPunct && text[tok.Start] == ';' {
			ended = true
			continue
		}
		if tok.Start != last && len(key) > 1 {
			key = append(key, ' ')
		}
		last = tok.End
		mark := byte(0)
		switch tok.Kind {
		case TokenWord:
			if first {
				if !shaped(text[tok.Start:tok.End]) {
					return false
				}
				first = false
			}
			key = append(key, text[tok.Start:tok.End]...)
			continue
		case TokenPunct:
			c := text[tok.Start]
			if c < ' ' || first && c != '(' {
				return false
			}
			key = append(key, text[tok.Start:tok.End]...)
			continue
		case TokenInteger:
			if mark = integerMark(text[tok.Start:tok.End]); mark == 0 {
				key = append(key, text[tok.Start:tok.End]...)
				continue
			}
		case TokenFloat:
			mark = markFloat
		case TokenString, TokenEscapeString, TokenDollarString:
			mark = markString
		case TokenUnicodeString, TokenUnicodeIdent, TokenError:
			return false
		case TokenQuotedIdent, TokenBitString, TokenHexString, TokenParam, TokenOperator:
			key = append(key, text[tok.Start:tok.End]...)
			continue
		default:
			return false
		}
		key = append(key, mark)
		s.Literals = append(s.Literals, Literal{tok.Kind, int32(tok.Start), int32(tok.End)}) //nolint:gosec // texts are bounded
	}
	s.Key = key
	for i := range sql { // what is not UTF-8 is parsed in another way
		if sql[i] >= utf8.RuneSelf {
			high = true
			break
		}
	}
	return !first && (!high || utf8.Valid(sql))
}

// shaped reports whether statements that begin with word may be shared by shape.
func shaped(word string) bool {
	switch len(word) {
	case 4:
		return strings.EqualFold(word, "with")
	case 6:
		return strings.EqualFold(word, "select") || strings.EqualFold(word, "insert") || strings.EqualFold(word, "update") ||
			strings.EqualFold(word, "delete") || strings.EqualFold(word, "values")
	}
	return false
}

// Value is the literal of the text sql as Value.Text has it; ok is false for forms that are too odd to be worth it here. The string may be a
// part of sql.
func (l *Literal) Value(sql []byte) (kind ValueKind, text string, ok bool) {
	raw := bytesAsString(sql[l.Start:l.End])
	switch l.Kind {
	case TokenInteger, TokenFloat:
		kind, text = numeral(raw)
		return kind, text, true
	case TokenString:
		body := raw[1 : len(raw)-1]
		return ValueString, body, strings.IndexByte(body, '\'') < 0 // doubled, or the string goes on behind a line end
	case TokenDollarString:
		tag := strings.IndexByte(raw[1:], '$') + 2
		return ValueString, raw[tag : len(raw)-tag], true
	default:
		return ValueNull, "", false
	}
}

// literals are those of a text that stands for its shape, while it is compiled.
type literals struct {
	list   []Literal
	pinned []bool // they decide more than a value
}

// at returns 1 + the index of the literal that is the token, 0 if it is pinned or none.
func (l *literals) at(tok Token) int {
	if l == nil {
		return 0
	}
	i, ok := slices.BinarySearchFunc(l.list, tok.Start, func(l Literal, start int) int { return int(l.Start) - start })
	if !ok || l.pinned[i] || int(l.list[i].End) != tok.End {
		return 0
	}
	return i + 1
}

// pin notes that what v is decides more than a value.
func (l *literals) pin(v Value) {
	if l != nil && v.Literal > 0 {
		l.pinned[v.Literal-1] = true
	}
}

// pinBoth pins literals that are compared with each other: the outcome is known.
func (u *unit) pinBoth(x, y Expr) {
	if x.Kind == ExprValue && y.Kind == ExprValue {
		u.literals.pin(x.Value)
		u.literals.pin(y.Value)
	}
}

// maxProbes bounds how many literals are looked at one by one.
const maxProbes = 24

// parseShape parses a text that stands for its shape, in which the literals are. Those with a say in more than a value come back as
// pinned, by index: the Message is for texts that have the same there. It returns nil where the text is for itself only.
//
// The compiler pins what it looks at. What it does not look at can't matter; as a proof, the text is parsed once more with
// all other literals changed, and has to give the same.
func parseShape(sql string, list []Literal) (m *Message, pinned []int) {
	l := &literals{list: list, pinned: make([]bool, len(list))}
	first := l.parse(sql)
	if first == nil {
		return nil, nil
	}
	if slices.Contains(l.pinned, true) {
		first = l.parse(sql) // values that were taken for free before they were pinned are not, now
	}
	if !l.same(first, sql, -1) {
		if len(list) > maxProbes {
			return nil, nil
		}
		for i := range list {
			if !l.pinned[i] && !l.same(first, sql, i) {
				l.pinned[i] = true
			}
		}
		if first = l.parse(sql); first == nil || !l.same(first, sql, -1) {
			return nil, nil
		}
	}
	for i, p := range l.pinned {
		if p {
			pinned = append(pinned, i)
		}
	}
	return first, pinned
}

// parse parses a text of the shape; nil if it is none that can stand for others.
func (l *literals) parse(sql string) (m *Message) {
	defer func() {
		if recover() != nil {
			m = nil // Parse, which comes next, tells
		}
	}()
	m = &Message{Hints: findHints(sql), Shaped: true}
	m.Statements, m.Unparsable = parseText(sql, nil, l)
	if m.Unparsable != nil || len(m.Statements) != 1 {
		return nil
	}
	m.Size = sizeOf(m)
	return m
}

// same reports whether the text with other literals (with another literal n, if that is not negative) means the same as first.
func (l *literals) same(first *Message, sql string, n int) bool {
	other := []byte(sql)
	changed := false
	for i := range l.list {
		if !l.pinned[i] && (n < 0 || n == i) {
			changed = l.list[i].change(other) || changed
		}
	}
	if !changed {
		return true
	}
	probe := &literals{list: l.list, pinned: slices.Clone(l.pinned)}
	m := probe.parse(string(other))
	return m != nil && slices.Equal(probe.pinned, l.pinned) && m.String() == first.String()
}

// change makes another literal of one in sql, as long as it is and of its kind. It reports whether it could.
func (l *Literal) change(sql []byte) (changed bool) {
	body := sql[l.Start:l.End]
	switch l.Kind {
	case TokenInteger, TokenFloat:
		if len(body) > 1 && body[0] == '0' {
			return false // hexadecimal, or odd
		}
		for i, c := range body {
			if '0' <= c && c <= '9' && (i == 0 || class[body[i-1]]&classDigit != 0) {
				body[i] = '1' + (c-'0'+1)%9
			}
		}
		return true
	case TokenString:
		body = body[1 : len(body)-1]
		if bytes.IndexByte(body, '\'') >= 0 {
			return false
		}
	case TokenDollarString:
		tag := bytes.IndexByte(body[1:], '$') + 2
		body = body[tag : len(body)-tag]
		if bytes.IndexByte(body, '$') >= 0 {
			return false
		}
	default:
		return false
	}
	for i, c := range body {
		switch {
		case '0' <= c && c <= '9':
			body[i] = '0' + (c-'0'+1)%10
		case 'a' <= c && c <= 'z':
			body[i] = 'a' + (c-'a'+1)%26
		case 'A' <= c && c <= 'Z':
			body[i] = 'A' + (c-'A'+1)%26
		default:
			continue
		}
		changed = true
	}
	return changed
}
