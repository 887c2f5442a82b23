package judge

import "strings"

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
	switch w.word(w.at) {
	case "execute":
		w.at++
		w.dynamic("loop")
	case "select", "with", "values", "insert", "update", "delete", "table", "merge":
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
