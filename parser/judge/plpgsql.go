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
			w.odd(notUnderstood)
			return w.code
		case parser.TokenLineComment, parser.TokenBlockComment:
			continue
		}
		w.tokens = append(w.tokens, t)
	}
	w.block()
	w.accept(";")
	if w.at < len(w.tokens) {
		w.odd(notUnderstood)
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
	w.odd(notUnderstood)
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
