package judge

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
)

// What a body may have at most: more is not looked at.
const (
	maxBody    = 256 << 10 // bytes
	maxNesting = 100
)

// PLpgSQL judges the body of a PL/pgSQL function.
//
// It is taken apart into the SQL in it by the rules of PL/pgSQL's own grammar, which finds the end of an expression by a key word outside of parentheses.
// Every token is either a key word or in a piece of SQL that is judged, or the whole is odd; so a mistake here makes nothing harmless.
func PLpgSQL(body string) *Code {
	w := &walker{code: &Code{}}
	w.src = options(body)
	if len(body) > maxBody {
		w.odd("it is too long")
		return w.code
	}
	scan := parser.Scan(w.src)
	for {
		t := scan.Next()
		if t.Kind == parser.TokenEnd {
			break
		}
		switch t.Kind { //nolint:exhaustive // the others stand for themselves
		case parser.TokenError, parser.TokenUnicodeIdent, parser.TokenUnicodeString:
			w.odd("it is not understood")
			return w.code
		case parser.TokenLineComment, parser.TokenBlockComment:
			continue
		}
		w.tokens = append(w.tokens, t)
	}
	w.block()
	w.accept(";")
	if w.at < len(w.tokens) {
		w.odd("it is not understood")
	}
	return w.code
}

// options blanks the lines in front of the body that set options of the compiler; none changes what it does.
func options(body string) string {
	blank := []byte(body)
	for i := 0; i < len(blank); {
		line := i
		for line < len(blank) && (blank[line] == ' ' || blank[line] == '\t' || blank[line] == '\r') {
			line++
		}
		end := line
		for end < len(blank) && blank[end] != '\n' {
			end++
		}
		if line < len(blank) && blank[line] != '#' && line != end {
			break
		}
		for j := line; j < end; j++ {
			blank[j] = ' '
		}
		i = end + 1
	}
	return string(blank)
}

// walker goes over the tokens of a body.
type walker struct {
	src    string
	tokens []parser.Token
	at     int
	depth  int
	code   *Code
}

func (w *walker) odd(why string) { w.code.odd(why) }

// lost notes that the body is not understood from here on.
func (w *walker) lost() {
	w.odd("it is not understood")
	w.at = len(w.tokens)
}

func (w *walker) text(i int) string { return w.src[w.tokens[i].Start:w.tokens[i].End] }

// word returns the token at i if it is a key word or an unquoted name, in lower case; else what it is written like.
func (w *walker) word(i int) string {
	if i >= len(w.tokens) {
		return ""
	}
	if w.tokens[i].Kind == parser.TokenWord {
		return strings.ToLower(w.text(i))
	}
	switch w.tokens[i].Kind { //nolint:exhaustive // what else there is means itself nowhere
	case parser.TokenPunct, parser.TokenOperator:
		return w.text(i)
	}
	return ""
}

// isName reports whether the token at i may be a name.
func (w *walker) isName(i int) bool {
	return i < len(w.tokens) && (w.tokens[i].Kind == parser.TokenWord || w.tokens[i].Kind == parser.TokenQuotedIdent || w.tokens[i].Kind == parser.TokenParam)
}

// isString reports whether the token at i is a string.
func (w *walker) isString(i int) bool {
	switch w.tokens[i].Kind { //nolint:exhaustive // those that RAISE takes
	case parser.TokenString, parser.TokenEscapeString, parser.TokenDollarString:
		return true
	}
	return false
}

// accept goes over the word if it is next.
func (w *walker) accept(word string) bool {
	if w.word(w.at) != word {
		return false
	}
	w.at++
	return true
}

// expect goes over the word, which has to be next.
func (w *walker) expect(word string) {
	if !w.accept(word) {
		w.lost()
	}
}

// until returns the index of the first token from w.at on, outside of parentheses, that is one of the words.
func (w *walker) until(words ...string) int {
	depth := 0
	for i := w.at; i < len(w.tokens); i++ {
		word := w.word(i)
		switch word {
		case "(", "[":
			depth++
			continue
		case ")", "]":
			depth--
			continue
		case "":
			continue
		}
		for _, x := range words {
			if depth == 0 && word == x {
				return i
			}
		}
		if depth <= 0 && word == ";" {
			break
		}
	}
	w.lost()
	return len(w.tokens)
}

// piece is the text of the tokens from i to before end.
func (w *walker) piece(i, end int) string {
	if i >= end || end > len(w.tokens) {
		return ""
	}
	return w.src[w.tokens[i].Start:w.tokens[end-1].End]
}

// expression judges what stands up to one of the words, and goes over that.
func (w *walker) expression(words ...string) {
	end := w.until(words...)
	if end == w.at || end == len(w.tokens) {
		w.lost()
		return
	}
	w.code.expression(w.piece(w.at, end))
	w.at = end + 1
}

// labels goes over <<label>>.
func (w *walker) labels() {
	for w.word(w.at) == "<<" && w.isName(w.at+1) && w.word(w.at+2) == ">>" {
		w.at += 3
	}
}

// block walks [DECLARE ...] BEGIN ... [EXCEPTION ...] END [label], without the semicolon.
func (w *walker) block() {
	if w.depth++; w.depth > maxNesting {
		w.lost()
		return
	}
	defer func() { w.depth-- }()
	w.labels()
	for w.accept("declare") {
		for w.at < len(w.tokens) && w.word(w.at) != "begin" && w.word(w.at) != "declare" {
			w.declaration()
		}
	}
	w.expect("begin")
	w.statements()
	if w.accept("exception") {
		for w.accept("when") {
			end := w.until("then")
			w.plain(end)
			w.at = end + 1
			w.statements()
		}
	}
	w.expect("end")
	if w.isName(w.at) {
		w.at++ // its label
	}
}

// plain demands that nothing up to end can be an expression: names, literals, commas and the like.
func (w *walker) plain(end int) {
	for i := w.at; i < end; i++ {
		switch w.word(i) {
		case "(", ")", "[", "]", ";":
			w.lost()
			return
		}
	}
}

// declaration walks one variable up to its semicolon.
func (w *walker) declaration() {
	end := w.until(";")
	if !w.isName(w.at) {
		w.lost()
		return
	}
	i := w.at + 1
	if w.word(i) == "no" {
		i++
	}
	if w.word(i) == "scroll" {
		i++
	}
	switch {
	case w.word(w.at+1) == "alias":
		w.plain(end)
	case w.word(i) == "cursor":
		for depth := 0; i < end; i++ {
			switch w.word(i) {
			case "(":
				depth++
			case ")":
				depth--
			}
			if word := w.word(i); depth == 0 && (word == "for" || word == "is") {
				break
			}
		}
		w.code.text(w.piece(i+1, end))
		if i+1 >= end {
			w.lost()
			return
		}
	default:
		depth := 0
		for i = w.at + 1; i < end; i++ {
			switch w.word(i) {
			case "(", "[":
				depth++
			case ")", "]":
				depth--
			case ":=", "=", "default":
				if depth != 0 {
					w.lost()
					return
				}
				w.at = i + 1
				w.expression(";")
				return
			}
		}
	}
	w.at = end + 1
}

// statements walks statements up to the word that ends their list.
func (w *walker) statements() {
	if w.depth++; w.depth > maxNesting {
		w.lost()
		return
	}
	defer func() { w.depth-- }()
	for w.at < len(w.tokens) {
		w.labels()
		switch w.word(w.at) {
		case "end", "exception", "else", "elsif", "elseif", "when":
			return
		}
		w.statement()
	}
}

// assigns reports whether an assignment is next, and where its operator stands.
func (w *walker) assigns() (operator int, ok bool) {
	if !w.isName(w.at) {
		return 0, false
	}
	i := w.at + 1
	for i < len(w.tokens) {
		switch w.word(i) {
		case ".":
			if !w.isName(i + 1) {
				return 0, false
			}
			i += 2
		case "[":
			for depth := 0; i < len(w.tokens); i++ {
				switch w.word(i) {
				case "[":
					depth++
				case "]":
					depth--
				case ";":
					return 0, false
				}
				if depth == 0 {
					break
				}
			}
			i++
		case ":=", "=":
			return i, true
		default:
			return 0, false
		}
	}
	return 0, false
}

func (w *walker) statement() {
	if operator, ok := w.assigns(); ok {
		if to := w.piece(w.at, operator); strings.Contains(to, "[") {
			w.code.expression(to)
		}
		w.at = operator + 1
		w.expression(";")
		return
	}
	start := w.at
	word := w.word(w.at)
	w.at++
	switch word {
	case "begin", "declare":
		w.at = start
		w.block()
		w.expect(";")
	case "if":
		w.conditional()
	case "case":
		w.cases()
	case "loop":
		w.loop()
	case "while":
		w.expression("loop")
		w.loop()
	case "for":
		w.iteration()
	case "foreach":
		end := w.until("array")
		w.plain(end)
		w.at = end + 1
		w.expression("loop")
		w.loop()
	case "exit", "continue":
		if w.isName(w.at) && w.word(w.at) != "when" {
			w.at++
		}
		if w.accept("when") {
			w.expression(";")
		} else {
			w.expect(";")
		}
	case "return":
		w.returns()
	case "raise":
		w.raise()
	case "assert":
		w.expression(";")
	case "execute":
		w.execute()
	case "perform":
		end := w.until(";")
		w.code.text("SELECT " + w.piece(w.at, end))
		w.at = end + 1
	case "get", "fetch", "move", "close":
		end := w.until(";")
		w.plain(end)
		w.at = end + 1
	case "open":
		w.open()
	case "null":
		w.expect(";")
	case "commit", "rollback":
		w.odd("it ends transactions")
		w.at = w.until(";") + 1
	default:
		w.at = start
		w.sql(w.until(";"))
	}
}

// conditional walks IF behind its first word.
func (w *walker) conditional() {
	w.expression("then")
	w.statements()
	for w.accept("elsif") || w.accept("elseif") {
		w.expression("then")
		w.statements()
	}
	if w.accept("else") {
		w.statements()
	}
	w.expect("end")
	w.expect("if")
	w.expect(";")
}

// cases walks the statement CASE behind its first word.
func (w *walker) cases() {
	if w.word(w.at) != "when" {
		w.expression("when")
		w.at--
	}
	for w.accept("when") {
		w.expression("then")
		w.statements()
	}
	if w.accept("else") {
		w.statements()
	}
	w.expect("end")
	w.expect("case")
	w.expect(";")
}

// loop walks the body of a loop behind LOOP.
func (w *walker) loop() {
	w.statements()
	w.expect("end")
	w.expect("loop")
	if w.isName(w.at) {
		w.at++
	}
	w.expect(";")
}

// iteration walks FOR ... IN behind its first word.
func (w *walker) iteration() {
	in := w.until("in")
	w.plain(in)
	w.at = in + 1
	w.accept("reverse")
	switch word := w.word(w.at); {
	case word == "execute":
		w.at++
		w.dynamic("loop")
	case word == "select" || word == "with" || word == "values" || word == "insert" || word == "update" || word == "delete" || word == "table" || word == "merge":
		end := w.until("loop")
		w.code.text(w.piece(w.at, end))
		w.at = end + 1
	default:
		end := w.until("..", "loop")
		if w.word(end) == ".." {
			w.expression("..")
			if by := w.until("by", "loop"); w.word(by) == "by" {
				w.expression("by")
			}
			w.expression("loop")
			break
		}
		if w.word(w.at) == "(" { // a query in parentheses
			w.code.text(w.piece(w.at, end))
		} else {
			w.cursor(end)
		}
		w.at = end + 1
	}
	w.loop()
}

// cursor walks the name of a cursor and its arguments up to end.
func (w *walker) cursor(end int) {
	switch {
	case !w.isName(w.at):
		w.lost()
	case w.at+1 == end:
	case w.word(w.at+1) == "(" && w.word(end-1) == ")" && w.at+2 < end-1:
		w.code.expression(w.piece(w.at+2, end-1))
	default:
		w.lost()
	}
}

// returns walks RETURN behind its word.
func (w *walker) returns() {
	switch {
	case w.accept(";"):
	case w.word(w.at) == "next" && w.word(w.at+1) == ";":
		w.at += 2
	case w.accept("next"):
		w.expression(";")
	case w.accept("query"):
		if w.accept("execute") {
			w.dynamic(";")
			return
		}
		end := w.until(";")
		w.code.text(w.piece(w.at, end))
		w.at = end + 1
	default:
		w.expression(";")
	}
}

// raise walks RAISE behind its word.
func (w *walker) raise() {
	switch w.word(w.at) {
	case "debug", "log", "info", "notice", "warning", "exception":
		w.at++
	}
	end := w.until("using", ";")
	if w.at < end && w.isString(w.at) {
		w.at++
		if w.accept(",") {
			w.code.expression(w.piece(w.at, end))
		} else if w.at < end {
			w.lost()
			return
		}
	} else {
		w.plain(end)
	}
	w.at = end
	if w.accept("using") {
		for {
			w.at++ // the option's name
			if !w.accept("=") && !w.accept(":=") {
				w.lost()
				return
			}
			end := w.until(",", ";")
			w.code.expression(w.piece(w.at, end))
			w.at = end
			if !w.accept(",") {
				break
			}
		}
	}
	w.expect(";")
}

// open walks OPEN behind its word.
func (w *walker) open() {
	end := w.until("for", ";")
	if w.word(end) == ";" {
		w.cursor(end)
		w.at = end + 1
		return
	}
	w.plain(end)
	w.at = end + 1
	if w.accept("execute") {
		w.dynamic(";")
		return
	}
	end = w.until(";")
	w.code.text(w.piece(w.at, end))
	w.at = end + 1
}

// execute walks EXECUTE behind its word: a text, INTO and USING.
func (w *walker) execute() {
	end := w.until("into", "using", ";")
	w.made(end)
	w.at = end
	for {
		switch {
		case w.accept("into"):
			w.at = w.targets(w.at)
		case w.accept("using"):
			end := w.until("into", ";")
			w.code.expression(w.piece(w.at, end))
			w.at = end
		default:
			w.expect(";")
			return
		}
	}
}

// dynamic walks a text that is run and USING, up to the word, and over that.
func (w *walker) dynamic(word string) {
	end := w.until("using", word)
	w.made(end)
	w.at = end
	if word != "using" && w.accept("using") {
		w.expression(word)
		return
	}
	w.expect(word)
}

// targets returns the index behind the variables of an INTO.
func (w *walker) targets(i int) int {
	if w.word(i) == "strict" {
		i++
	}
	for {
		if !w.isName(i) {
			w.lost()
			return len(w.tokens)
		}
		for i++; w.word(i) == "." && w.isName(i+1); {
			i += 2
		}
		if w.word(i) != "," {
			return i
		}
		i++
	}
}

// sql judges the statement up to end, without the INTO that names variables, and goes over the semicolon there.
func (w *walker) sql(end int) {
	if end <= w.at {
		w.lost()
		return
	}
	depth := 0
	for i := w.at; i < end; i++ {
		switch w.word(i) {
		case "(", "[":
			depth++
		case ")", "]":
			depth--
		case "into":
			if before := w.word(i - 1); i == w.at || depth != 0 || before == "insert" || before == "merge" {
				continue
			}
			behind := w.targets(i + 1)
			w.code.text(w.piece(w.at, i) + " " + w.piece(behind, end))
			w.at = end + 1
			return
		}
	}
	w.code.text(w.piece(w.at, end))
	w.at = end + 1
}

const madeText = "it runs SQL that is made while it runs"

// made judges the text that EXECUTE runs, which stands up to end: a literal, or format() of one, where no more than literals are filled in.
func (w *walker) made(end int) {
	i := w.at
	if i+1 == end {
		if text, ok := w.literal(i); ok {
			w.code.text(text)
			return
		}
	}
	if w.word(i) == "format" && w.word(i+1) == "(" && w.word(end-1) == ")" && i+2 < end {
		if text, ok := w.literal(i + 2); ok && (i+4 == end || w.word(i+3) == ",") {
			if text, ok = filled(text); ok {
				w.code.expression(w.piece(i, end)) // what its arguments do, and that it is PostgreSQL's own
				w.code.text(text)
				return
			}
		}
	}
	w.odd(madeText)
}

// literal returns the value of the token at i if it is a string without escapes.
func (w *walker) literal(i int) (string, bool) {
	if i >= len(w.tokens) {
		return "", false
	}
	text := w.text(i)
	switch w.tokens[i].Kind { //nolint:exhaustive // others need more reading
	case parser.TokenString:
		inner := text[1 : len(text)-1]
		if rest := strings.ReplaceAll(inner, "''", ""); strings.ContainsAny(rest, `'\`) {
			return "", false
		}
		return strings.ReplaceAll(inner, "''", "'"), true
	case parser.TokenDollarString:
		tag := strings.IndexByte(text[1:], '$') + 2
		return text[tag : len(text)-tag], true
	}
	return "", false
}

// filled replaces the %L of a format by a literal. It returns false if something else is filled in, or not in the place of a literal.
func filled(format string) (string, bool) {
	const mark = "'pgkennel_filled'"
	if strings.Contains(format, mark[1:len(mark)-1]) {
		return "", false
	}
	var b strings.Builder
	marks := 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		if i++; i == len(format) {
			return "", false
		}
		switch format[i] {
		case '%':
			b.WriteByte('%')
		case 'L':
			marks++
			b.WriteString(mark)
		default:
			return "", false
		}
	}
	text := b.String()
	scan := parser.Scan(text)
	for {
		t := scan.Next()
		if t.Kind == parser.TokenEnd {
			return text, marks == 0
		}
		if t.Kind == parser.TokenString && text[t.Start:t.End] == mark {
			marks--
		}
	}
}
