package parser

// pg_query builds trees as deep as a text makes them, and walks them by recursion on a C stack that has no guard: a few ten thousand
// levels end the process. Its grammar bounds what nests to the right and in brackets (10,000 entries of bison's stack), but not what
// chains to the left: 1+1+1+..., a JOIN b JOIN c ..., SELECT ... UNION SELECT ..., x::t::t.... PostgreSQL refuses such texts too, with
// "stack depth limit exceeded", from 3000 to 5000 levels on at its default max_stack_depth. So texts are measured before they are parsed.

// maxDepth is how deep a text may nest by our estimate, which is never less than the levels of its tree's chains.
const maxDepth = 4000

// deepBytes is the length from which a text can reach maxDepth at all.
const deepBytes = maxDepth

// tooDeep reports that the tree of a text may be deeper than maxDepth.
func tooDeep(text string) bool {
	if len(text) < deepBytes {
		return false
	}
	var d depth
	s := Scan(text)
	for {
		tok := s.Next()
		if tok.Kind == TokenEnd || tok.Kind == TokenError {
			return false
		}
		d.token(text, tok)
		if d.estimate() > maxDepth {
			return true
		}
	}
}

// depth estimates the depth of a tree from its tokens.
type depth struct {
	levels []level // open brackets
	level          // the innermost one
	above  int     // what the open brackets around the innermost one add up to
	label  bool    // the next word is a label: AS x, a.x
}

// level is one open bracket, or the text outside of all.
type level struct {
	opener  byte // ( [ or c for CASE
	ops     int  // operators since the last separator
	joins   int  // JOINs and set operations, which separators do not end
	between int  // BETWEENs whose AND is still to come: such an AND is no separator
	inner   int  // the deepest closed bracket since the last separator
	deepest int  // the deepest of what separators have ended
}

// token takes one more token into account.
func (d *depth) token(text string, tok Token) {
	switch tok.Kind {
	case TokenPunct:
		d.punct(text[tok.Start])
	case TokenOperator:
		d.chain()
	case TokenWord:
		d.word(text[tok.Start:tok.End])
	case TokenLineComment, TokenBlockComment:
	default:
		d.label = false
	}
}

func (l *level) total() int { return max(l.deepest, l.ops+l.inner) + l.joins + 1 }

func (d *depth) estimate() int { return d.above + d.total() }

func (d *depth) chain() { d.ops++; d.label = false }

// separate ends an item of a list: what follows does not nest in it, nor it in what follows.
func (d *depth) separate() {
	d.deepest = max(d.deepest, d.ops+d.inner)
	d.ops, d.inner = 0, 0
}

func (d *depth) open(by byte) {
	d.above += d.ops + d.joins + 1
	d.levels = append(d.levels, d.level)
	d.level = level{opener: by}
}

// close ends the innermost bracket.
func (d *depth) close() {
	n := len(d.levels)
	if n == 0 {
		return
	}
	closed := d.total()
	d.level, d.levels = d.levels[n-1], d.levels[:n-1]
	d.above -= d.ops + d.joins + 1
	d.inner = max(d.inner, closed)
}

func (d *depth) punct(c byte) {
	d.label = c == '.'
	switch c {
	case '(', '[':
		if c == '[' {
			d.ops++ // a subscript
		}
		d.open(c)
	case ')', ']':
		for d.opener == 'c' {
			d.close() // a label was taken for CASE
		}
		d.close()
	case ',':
		d.separate()
	case ';':
		if len(d.levels) == 0 {
			d.level = level{}
		}
	case '.':
	default:
		d.ops++
	}
}

func (d *depth) word(w string) {
	if d.label {
		d.label = false
		return
	}
	if len(w) > len("intersect") {
		return
	}
	switch lower(w) {
	case "and", "or":
		if d.between > 0 && len(w) == len("and") {
			d.between--
			break
		}
		d.separate() // the grammar flattens chains of these, and nothing but brackets puts them into a chain of operators
	case "between":
		d.between++
		d.ops++
	case "as":
		d.label = true
	case "case":
		d.open('c')
	case "end":
		if d.opener == 'c' {
			d.close()
		}
	case "when", "then", "else":
		if d.opener == 'c' {
			d.separate()
		}
	case "union", "intersect", "except", "join":
		d.joins++
	case "is", "isnull", "notnull", "collate", "at", "like", "ilike", "similar", "in", "not", "overlaps", "operator", "any", "all", "some":
		d.ops++
	}
}
