package parser

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"
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

	recent recent
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
	if len(text) < len(maxInt4) {
		return markInteger
	}
	if len(text) > len(maxInt4) || len(text) == len(maxInt4) && text > maxInt4 {
		return markLong
	}
	return markInteger
}

// Of finds the shape of sql. It reports false for texts that are to be parsed as they are: what does not begin as a query or a change of
// rows, several statements, what PostgreSQL's scanner refuses, and a few odd forms.
//
// It is the Scanner's rules once more, for the forms that most texts consist of: tokens that follow each other directly or behind one
// space go into the key as they are, in one piece. The Scanner has the others.
func (s *Shape) Of(sql []byte) bool {
	text := bytesAsString(sql)
	classes := &class
	key, list := append(s.Key[:0], shapeKey), s.Literals[:0]
	first := true // nothing but ( so far
	from := 0     // text[from:i] is to go into the key
	for i := 0; i < len(text); {
		start, c := i, text[i]
		next := byte(0)
		if i+1 < len(text) {
			next = text[i+1]
		}
		switch cl := classes[c]; {
		case cl&classIdentStart != 0 && next != '\'' && next != '&':
			for i++; i < len(text) && classes[text[i]]&classIdentCont != 0; {
				i++
			}
			if first {
				if !shaped(text[start:i]) {
					return false
				}
				first = false
			}
			// More words, each behind one space.
			for i+2 < len(text) && text[i] == ' ' && classes[text[i+1]]&classIdentStart != 0 && text[i+2] != '\'' && text[i+2] != '&' {
				for i += 2; i < len(text) && classes[text[i]]&classIdentCont != 0; {
					i++
				}
			}
			continue
		case c == ' ' && classes[next]&classSpace == 0 && next != '-' && next != '/' && next != ';' && next != 0 && i > from:
			i++
			continue
		case cl&classOp != 0 && classes[next]&classOp == 0, c == '.' && next != '.' && classes[next]&classDigit == 0,
			cl&(classSelf|classOp) == classSelf && c != '.' && c != ':' && c != ';':
			if first && c != '(' {
				return false
			}
			i++
			continue
		}
		tok, end := TokenInteger, i
		if end = plainInteger(text, i); end == i {
			sc := Scanner{text: text, pos: i}
			t := sc.Next()
			if t.Start > i || t.Kind == TokenLineComment || t.Kind == TokenBlockComment || t.Kind == TokenPunct && c == ';' {
				// A gap, and maybe the end.
				key = append(key, text[from:i]...)
				if i = s.gap(text, i, &key); i < 0 {
					return false
				}
				from = i
				if i < len(text) && len(key) > 1 {
					key = append(key, ' ')
				}
				continue
			}
			tok, end = t.Kind, t.End
		}
		i = end
		mark := byte(0)
		switch tok {
		case TokenInteger:
			mark = integerMark(text[start:end])
		case TokenFloat:
			mark = markFloat
		case TokenString, TokenEscapeString, TokenDollarString:
			mark = markString
		case TokenWord:
			if first && !shaped(text[start:end]) {
				return false
			}
			first = false
		case TokenPunct:
			if c < ' ' {
				return false
			}
		case TokenQuotedIdent, TokenBitString, TokenHexString, TokenParam, TokenOperator:
		default: // U&'', U&"", and what is no token
			return false
		}
		if first {
			return false
		}
		if mark != 0 {
			list = append(list, Literal{tok, int32(start), int32(end)}) //nolint:gosec // texts are bounded
			key = append(append(key, text[from:start]...), mark)
			from = end
		}
	}
	s.Key, s.Literals = append(key, text[from:]...), list
	// What is not UTF-8, or has a zero byte (a comment may), is parsed in another way.
	return !first && (ascii(sql) || utf8.Valid(sql) && bytes.IndexByte(sql, 0) < 0)
}

// gap ends what is between tokens at i, and the statement, if it ends there: comments with hints go into the key. It returns the
// place of the next token, -1 if there is none to be where it is.
func (s *Shape) gap(text string, i int, key *[]byte) int {
	sc := Scanner{text: text, pos: i}
	ended := false
	for {
		switch t := sc.Next(); {
		case t.Kind == TokenEnd:
			return len(text)
		case t.Kind == TokenLineComment, t.Kind == TokenBlockComment:
			if mayHint(text[t.Start:t.End]) {
				*key = append(append(append(*key, ' '), text[t.Start:t.End]...), '\n')
			}
		case ended:
			return -1
		case t.Kind == TokenPunct && text[t.Start] == ';':
			ended = true
		default:
			return t.Start
		}
	}
}

// ascii reports whether all bytes of b are from 1 to 127.
func ascii(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if x := binary.LittleEndian.Uint64(b); (x|(x-0x0101010101010101))&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c == 0 || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// plainInteger ends the number at i if it is of nothing but digits; else it returns i.
func plainInteger(text string, i int) int {
	j := i
	for j < len(text) && class[text[j]]&classDigit != 0 {
		j++
	}
	if j == len(text) || class[text[j]]&classIdentCont == 0 && text[j] != '.' {
		return j
	}
	return i
}

// shaped reports whether statements that begin with word may be shared by shape.
func shaped(word string) bool {
	switch word[0] | ' ' {
	case 's':
		return isWord(word, "select")
	case 'i':
		return isWord(word, "insert")
	case 'u':
		return isWord(word, "update")
	case 'd':
		return isWord(word, "delete")
	case 'w':
		return isWord(word, "with")
	case 'v':
		return isWord(word, "values")
	}
	return false
}

// isWord reports whether word is lower, which is of lower-case letters, in any case.
func isWord(word, lower string) bool {
	if len(word) != len(lower) {
		return false
	}
	for i := range len(lower) {
		if word[i]|' ' != lower[i] {
			return false
		}
	}
	return true
}

// BytesOf are the bytes of a text, for those that only read them.
func BytesOf(sql string) []byte {
	return unsafe.Slice(unsafe.StringData(sql), len(sql)) //nolint:gosec // the comment says for what
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
	if len(list) > 0 && !l.same(first, sql, -1) {
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

// same reports whether the text with other literals (with another literal n, if that is not negative) means the same as first: with
// different ones, for some decide by their size. float(1) is another type than float(53), and float(54) none.
func (l *literals) same(first *Message, sql string, n int) bool {
	for _, others := range [...]map[byte]string{
		{markInteger: "1987654321", markLong: "98765432109876543210", markFloat: "7.25e1", markString: "'other'"},
		{markInteger: "3", markLong: "2147483653", markFloat: ".5", markString: "'5'"},
	} {
		other, list := l.other(sql, n, others)
		if len(list) != len(l.list) {
			return false
		}
		probe := &literals{list: list, pinned: slices.Clone(l.pinned)}
		m := probe.parse(other)
		if m == nil || !slices.Equal(probe.pinned, l.pinned) || m.Hints != first.Hints || !alike(reflect.ValueOf(m.Statements), reflect.ValueOf(first.Statements)) {
			return false
		}
	}
	return true
}

// other writes sql with other literals, by their marks: with all that are not pinned, or the one of index n. list is what they are then.
func (l *literals) other(sql string, n int, others map[byte]string) (text string, list []Literal) {
	var b strings.Builder
	last := 0
	for i, x := range l.list {
		if l.pinned[i] || n >= 0 && n != i {
			continue
		}
		b.WriteString(sql[last:x.Start])
		b.WriteString(others[x.mark(sql)])
		last = int(x.End)
	}
	b.WriteString(sql[last:])
	text = b.String()
	var s Shape
	if !s.Of([]byte(text)) {
		return "", nil
	}
	return text, s.Literals
}

// mark is what stands for the literal in a key.
func (l *Literal) mark(sql string) byte {
	switch l.Kind {
	case TokenInteger:
		return integerMark(sql[l.Start:l.End])
	case TokenFloat:
		return markFloat
	default:
		return markString
	}
}

// alike reports whether two analyses are the same but for places in the text. They are trees.
func alike(x, y reflect.Value) bool {
	switch x.Kind() {
	case reflect.Pointer, reflect.Interface:
		if x.IsNil() || y.IsNil() {
			return x.IsNil() == y.IsNil()
		}
		return x.Pointer() == y.Pointer() || alike(x.Elem(), y.Elem())
	case reflect.Slice:
		if x.Len() != y.Len() || x.IsNil() != y.IsNil() {
			return false
		}
		for i := range x.Len() {
			if !alike(x.Index(i), y.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		value := x.Type() == reflect.TypeFor[Value]()
		for i := range x.NumField() {
			switch name := x.Type().Field(i).Name; {
			case name == "Start" || name == "End":
			case value && name == "Text" && x.FieldByName("Literal").Int() > 0: // read from the text at hand
			case !alike(x.Field(i), y.Field(i)):
				return false
			}
		}
		return true
	default:
		return x.Equal(y)
	}
}
