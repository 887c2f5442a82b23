package config

import (
	"strings"
	"unicode/utf8"
)

// maxDepth bounds arrays in arrays and tables in tables.
const maxDepth = 64

// value reads over a value and notes what is inside it in n, which may be nil. False: the value is broken, that was
// reported, and the scanner stands where the next statement may begin. top says that a statement's own value is read.
func (sc *scanner) value(n *node, top bool) bool {
	start := sc.i
	ok := sc.valueAt(n, 0)
	switch {
	case ok || !top:
	case start < len(sc.s) && (sc.s[start] == '[' || sc.s[start] == '{' || strings.HasPrefix(sc.s[start:], `"""`) || strings.HasPrefix(sc.s[start:], "'''")):
		sc.recover()
	default: // a value of one line
		sc.nextLine()
	}
	return ok
}

func (sc *scanner) valueAt(n *node, depth int) bool {
	if n != nil {
		n.val = offset(sc.i)
	}
	if depth > maxDepth {
		sc.fail(sc.i, "", "values are nested deeper than %d", maxDepth)
		return false
	}
	if sc.i >= len(sc.s) {
		sc.fail(sc.i, "", "there is no value after the =")
		return false
	}
	if sc.s[sc.i] == '[' {
		if n != nil && n.rules != nil {
			return sc.ruleArray(n)
		}
		return sc.array(n, depth)
	}
	if n != nil {
		n.rules = nil // not what a mapping is; its kind will tell
	}
	switch sc.s[sc.i] {
	case '"', '\'':
		return sc.skipString()
	case '{':
		return sc.inlineTable(n, depth)
	}
	return sc.bareValue()
}

// bareValue reads a number, date or truth value. Whether it is a good one, the library says.
func (sc *scanner) bareValue() bool {
	start := sc.i
	sc.token()
	if sc.i-start == len("2026-11-22") && sc.s[start+4] == '-' && sc.i+1 < len(sc.s) && sc.s[sc.i] == ' ' && isDigit(sc.s[sc.i+1]) {
		sc.i++ // a date and a time with a space between them
		sc.token()
	}
	tok := sc.s[start:sc.i]
	switch {
	case tok == "":
		sc.fail(start, "", "there is no value after the =")
		return false
	case isDigit(tok[0]) && !isDigit(tok[len(tok)-1]) && isUnit(strings.TrimLeft(tok, "0123456789_.")):
		sc.fail(start, "durations are in milliseconds, sizes in bytes", "a number has no unit")
		return false
	case isDigit(tok[0]) || tok[0] == '+' || tok[0] == '-' || tok == "true" || tok == "false" || tok == "inf" || tok == "nan":
		return true
	case strings.EqualFold(tok, "true") || strings.EqualFold(tok, "false"):
		sc.fail(start, "write "+strings.ToLower(tok), "%s is not a value", tok)
		return false
	}
	sc.fail(start, `write it in quotes: "..."`, "a text is not in quotes")
	return false
}

func isUnit(s string) bool {
	switch strings.ToLower(s) {
	case "ms", "s", "sec", "m", "min", "h", "d", "b", "k", "kb", "mb", "g", "gb", "kib", "mib", "gib":
		return true
	}
	return false
}

// token reads over what can be one value without quotes.
func (sc *scanner) token() {
	for sc.i < len(sc.s) {
		switch sc.s[sc.i] {
		case ',', ']', '}', '#', '\n', '\r', ' ', '\t':
			return
		}
		sc.i++
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// array reads [ value, value ].
func (sc *scanner) array(n *node, depth int) bool {
	start := sc.i
	sc.i++
	if n != nil {
		n.kind = arrayNode
	}
	for {
		sc.skipBlank()
		if !sc.inside(start, "array", "]") {
			return false
		}
		if sc.s[sc.i] == ']' {
			sc.i++
			return true
		}
		var e *node
		if n != nil {
			e = &node{kind: valueNode, off: offset(sc.i)}
			n.elems = append(n.elems, e)
		}
		if !sc.valueAt(e, depth+1) {
			return false
		}
		sc.skipBlank()
		if !sc.inside(start, "array", "]") {
			return false
		}
		switch sc.s[sc.i] {
		case ',':
			sc.i++
		case ']':
		default:
			sc.fail(sc.i, "separate the values by commas", "there is no comma or ] after a value of the array")
			return false
		}
	}
}

// inside checks that the text, or the next section, has not come before the closing bracket.
func (sc *scanner) inside(start int, what, closing string) bool {
	if sc.i < len(sc.s) && (sc.s[sc.i] == ']' || sc.s[sc.i] == ',' || !sc.statementAhead(what == "array")) {
		return true
	}
	sc.fail(start, "close it with "+closing, "the %s that begins here has no end", what)
	return false
}

// inlineTable reads { key = value, key = value }.
func (sc *scanner) inlineTable(n *node, depth int) bool {
	start := sc.i
	sc.i++
	if n != nil {
		n.kind = inlineNode
	}
	for {
		sc.skipBlank()
		if !sc.inside(start, "table", "}") {
			return false
		}
		if sc.s[sc.i] == '}' {
			sc.i++
			return true
		}
		path, ok := sc.keyPath()
		if !ok {
			return false
		}
		if sc.i >= len(sc.s) || sc.s[sc.i] != '=' {
			sc.fail(sc.i, "write { key = value, key = value }", "there is no = after the key")
			return false
		}
		sc.i++
		sc.skipSpace()
		c, _ := sc.place(n, path)
		if !sc.valueAt(c, depth+1) {
			return false
		}
		sc.skipBlank()
		if sc.i >= len(sc.s) {
			sc.fail(start, "close it with }", "the table that begins here has no end")
			return false
		}
		switch sc.s[sc.i] {
		case ',':
			sc.i++
		case '}':
		default:
			if sc.statementAhead(true) {
				sc.fail(start, "close it with }", "the table that begins here has no end")
			} else {
				sc.fail(sc.i, "separate the keys by commas", "there is no comma or } after a value of the table")
			}
			return false
		}
	}
}

// statementAhead says whether the scanner stands at the beginning of a line that can only be a statement: a header,
// or, where keys can't be otherwise, key =.
func (sc *scanner) statementAhead(keys bool) bool {
	if sc.i >= len(sc.s) {
		return true
	}
	c := sc.s[sc.i]
	if c != '[' && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_') {
		return false
	}
	line := sc.s[strings.LastIndexByte(sc.s[:sc.i], '\n')+1:]
	if strings.TrimLeft(line[:sc.i-(len(sc.s)-len(line))], " \t") != "" {
		return false
	}
	line = strings.TrimLeft(line, " \t")
	if n := strings.IndexByte(line, '\n'); n >= 0 {
		line = line[:n]
	}
	if c == '[' {
		return isHeaderLine(line)
	}
	n := 0
	for n < len(line) && (isBare(line[n]) || line[n] == '.') {
		n++
	}
	return keys && strings.HasPrefix(strings.TrimLeft(line[n:], " \t"), "=")
}

// isHeaderLine says whether a line is the header of a section and can't be a value of an array.
func isHeaderLine(line string) bool {
	in, closing := line[1:], "]"
	if strings.HasPrefix(in, "[") {
		in, closing = in[1:], "]]"
	}
	in = strings.TrimLeft(in, " \t")
	n := 0
	for n < len(in) && (isBare(in[n]) || in[n] == '.') {
		n++
	}
	switch name := in[:n]; {
	case name == "" || isDigit(name[0]) || name[0] == '-' || name == "true" || name == "false" || name == "inf" || name == "nan":
		return false
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(in[n:], " \t"), closing)
	rest = strings.TrimSpace(rest)
	return ok && (rest == "" || rest[0] == '#')
}

// recover goes to the next line that can be a statement, behind a value that is broken.
func (sc *scanner) recover() {
	for !sc.statementAhead(true) {
		sc.nextLine()
		sc.skipSpace()
	}
}

// skipString reads over a string in any of its four forms.
func (sc *scanner) skipString() bool {
	start := sc.i
	q := sc.s[sc.i]
	triple := sc.i+2 < len(sc.s) && sc.s[sc.i+1] == q && sc.s[sc.i+2] == q
	if triple {
		sc.i += 3
		for sc.i < len(sc.s) {
			switch c := sc.s[sc.i]; {
			case c == '\\' && q == '"':
				sc.i += 2
			case c == q && sc.i+2 < len(sc.s) && sc.s[sc.i+1] == q && sc.s[sc.i+2] == q:
				sc.i += 3
				for n := 0; n < 2 && sc.i < len(sc.s) && sc.s[sc.i] == q; n++ { // up to two quotes belong to the text
					sc.i++
				}
				return true
			default:
				sc.i++
			}
		}
		sc.i = start
		sc.fail(start, "close it with the same three quotes", "the text that begins here has no end")
		return false
	}
	sc.i++
	for sc.i < len(sc.s) {
		switch c := sc.s[sc.i]; {
		case c == q:
			sc.i++
			return true
		case c == '\n':
			sc.i = start
			sc.fail(start, "close it with the same quote", "the text that begins here has no end on its line")
			return false
		case c == '\\' && q == '"' && sc.i+1 < len(sc.s) && sc.s[sc.i+1] != '\n':
			sc.i += 2
		default:
			sc.i++
		}
	}
	sc.i = start
	sc.fail(start, "close it with the same quote", "the text that begins here has no end")
	return false
}

// unquote returns the text that a quoted string stands for, or what is wrong with it.
func unquote(tok string) (text, problem string) {
	q := tok[0]
	multi := len(tok) >= 6 && tok[1] == q && tok[2] == q
	if multi {
		tok = tok[3 : len(tok)-3]
		tok = strings.TrimPrefix(strings.TrimPrefix(tok, "\r"), "\n")
	} else {
		tok = tok[1 : len(tok)-1]
	}
	for i := range len(tok) {
		c := tok[i]
		if c < ' ' && c != '\t' && !(multi && (c == '\n' || c == '\r')) || c == 0x7f {
			return "", "a text holds a control character"
		}
	}
	if q == '\'' || strings.IndexByte(tok, '\\') < 0 {
		return tok, ""
	}
	var b strings.Builder
	for i := 0; i < len(tok); {
		if tok[i] != '\\' {
			b.WriteByte(tok[i])
			i++
			continue
		}
		n, ok := unescape(&b, tok[i+1:], multi)
		if !ok {
			return "", "a text holds an escape that is not known"
		}
		i += 1 + n
	}
	return b.String(), ""
}

// unescape writes what the escape at the beginning of s, without its backslash, stands for, and returns its length.
func unescape(b *strings.Builder, s string, multi bool) (int, bool) {
	if s == "" {
		return 0, false
	}
	if i := strings.IndexByte(`btnfre"\`, s[0]); i >= 0 {
		b.WriteByte("\b\t\n\f\r\x1b\"\\"[i])
		return 1, true
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if digits > 0 {
		if len(s) <= digits {
			return 0, false
		}
		var r rune
		for _, c := range []byte(s[1 : 1+digits]) {
			v, ok := hexDigit(c)
			if !ok || r > utf8.MaxRune {
				return 0, false
			}
			r = r<<4 | rune(v)
		}
		if !utf8.ValidRune(r) {
			return 0, false
		}
		b.WriteRune(r)
		return 1 + digits, true
	}
	if n := len(s) - len(strings.TrimLeft(s, " \t\r\n")); multi && strings.Contains(s[:n], "\n") { // the line goes on below
		return n, true
	}
	return 0, false
}

func hexDigit(c byte) (v byte, ok bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
