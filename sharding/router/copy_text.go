package router

import (
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// textState is where the text format is between two bytes.
type textState struct {
	backslash bool // behind a backslash
	began     bool // something stands in front of that on its line
	cr        bool // behind a carriage return that ended a line: a newline belongs to it
	marker    bool // behind \. which only the end of the line may follow
}

// feedText follows CopyReadLineText and CopyReadAttributesText of PostgreSQL. A backslash takes the special meaning from
// whatever byte follows. Raw carriage returns and newlines both end a line: the server refuses data that mixes them.
func (r *CopyRouter) feedText(data []byte) {
	t := &r.text
	delimiter := r.plan.copy.Delimiter
	for i := 0; i < len(data) && r.err == nil; i++ {
		c := data[i]
		if t.cr {
			t.cr = false
			if c == '\n' {
				continue
			}
		}
		switch {
		case t.marker:
			if c != '\n' && c != '\r' {
				r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "end-of-copy marker corrupt"))
				return
			}
			r.endText()
			return
		case t.backslash:
			t.backslash = false
			if c == '.' {
				t.marker = true
				continue
			}
			if r.key != nil {
				r.keep('\\', c)
			}
		case c == '\\':
			t.began, t.backslash, r.dirty = r.dirty, true, true
		case c == '\n' || c == '\r':
			r.endTextField()
			r.endRow()
			t.cr = c == '\r'
		case c == delimiter:
			r.endTextField()
			r.beginField(r.field + 1)
			r.dirty = true
		default:
			r.dirty = true
			if r.key != nil {
				r.keep(c)
			} else {
				i = skipText(data, i, delimiter)
			}
		}
	}
}

// skipText returns the last place of a run of bytes without a meaning.
func skipText(data []byte, i int, delimiter byte) int {
	for i+1 < len(data) {
		if c := data[i+1]; c == '\n' || c == '\r' || c == '\\' || c == delimiter {
			break
		}
		i++
	}
	return i
}

// endText ends the data at \. . What stands in front of it on its line is a row, unless nothing does.
func (r *CopyRouter) endText() {
	if r.text.began {
		r.endTextField()
		r.endRow()
	}
	r.ended = true
}

func (r *CopyRouter) finishText() {
	t := &r.text
	switch {
	case t.marker:
		r.endText()
		return
	case t.backslash && r.key != nil:
		r.keep('\\') // PostgreSQL takes it for itself
	}
	if r.dirty && r.err == nil {
		r.endTextField()
		r.endRow()
	}
}

// endTextField takes the field at hand. The marker of NULL is compared before backslashes are resolved.
func (r *CopyRouter) endTextField() {
	if r.key == nil || r.err != nil {
		return
	}
	raw := r.buf
	if string(raw) == r.plan.copy.Null {
		r.decide(nil, true, false)
		return
	}
	if d := r.plan.copy.Default; d != "" && string(raw) == d {
		r.failDefault()
		return
	}
	r.decide(unescape(raw), false, false)
}

func (r *CopyRouter) failDefault() {
	r.fail(r.at(tenantMissing(r.plan.table, r.key.column, "Its default is not known before the statement runs.")))
}

// unescape resolves the backslashes of the text format in place.
func unescape(raw []byte) []byte {
	out := raw[:0]
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' || i+1 == len(raw) {
			out = append(out, c)
			continue
		}
		i++
		switch c = raw[i]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'v':
			c = '\v'
		case '0', '1', '2', '3', '4', '5', '6', '7':
			c -= '0'
			for n := 0; n < 2 && i+1 < len(raw) && raw[i+1] >= '0' && raw[i+1] <= '7'; n++ {
				i++
				c = c<<3 | (raw[i] - '0')
			}
		case 'x':
			if i+1 < len(raw) && hexDigit(raw[i+1]) < 16 {
				i++
				c = hexDigit(raw[i])
				if i+1 < len(raw) && hexDigit(raw[i+1]) < 16 {
					i++
					c = c<<4 | hexDigit(raw[i])
				}
			}
		}
		out = append(out, c)
	}
	return out
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}
