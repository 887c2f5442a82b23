package judge

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
)

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
