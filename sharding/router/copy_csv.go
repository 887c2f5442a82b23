package router

// csvState is where the CSV format is between two bytes.
type csvState struct {
	quoted bool // inside quotes
	quotes bool // the field has quotes
	// escape: behind an escape inside quotes. Where escape and quote are the same, it may have been the closing quote.
	escape bool
	cr     bool
	// first are the bytes of the line's first field, as far as they may be \. .
	first  [3]byte
	length int
}

// feedCSV follows CopyReadAttributesCSV of PostgreSQL: quotes may begin and end anywhere in a field, and newlines inside
// them are data.
func (r *CopyRouter) feedCSV(data []byte) {
	s := &r.csv
	quote, escape, delimiter := r.plan.copy.Quote, r.plan.copy.Escape, r.plan.copy.Delimiter
	for i := 0; i < len(data) && r.err == nil; i++ {
		c := data[i]
		if s.cr {
			s.cr = false
			if c == '\n' {
				continue
			}
		}
		if s.escape {
			s.escape = false
			if c == escape || c == quote {
				r.csvByte(c)
				continue
			}
			if escape == quote { // it was the end of the quotes
				s.quoted = false
			} else {
				r.csvByte(escape)
			}
		}
		switch {
		case s.quoted && c == escape:
			s.escape = true
		case s.quoted && c == quote:
			s.quoted = false
		case s.quoted:
			r.csvByte(c)
		case c == delimiter:
			r.endCSVField()
			r.beginField(r.field + 1)
			s.quotes, r.dirty = false, true
		case c == quote:
			s.quoted, s.quotes, r.dirty = true, true, true
		case c == '\n' || c == '\r':
			r.endCSVLine()
			s.cr = c == '\r'
		default:
			r.csvByte(c)
		}
	}
}

// csvByte takes a byte of a field.
func (r *CopyRouter) csvByte(c byte) {
	r.dirty = true
	if s := &r.csv; r.field == 0 && s.length < len(s.first) {
		s.first[s.length] = c
		s.length++
	}
	if r.key != nil {
		r.keep(c)
	}
}

// endCSVLine ends a row. A line of \. alone ends the data for servers before PostgreSQL 18, and is a row of one column for
// later ones; the rows behind it are looked at either way.
func (r *CopyRouter) endCSVLine() {
	s := &r.csv
	if marker := s.length == 2 && s.first[0] == '\\' && s.first[1] == '.' && r.field == 0 && !s.quotes; marker && r.plan.columns > 1 && !r.header {
		r.dirty = false
		r.beginField(0)
	} else {
		r.endCSVField()
		r.endRow()
	}
	s.quotes, s.length = false, 0
}

func (r *CopyRouter) finishCSV() {
	s := &r.csv
	if s.escape && r.plan.copy.Escape != r.plan.copy.Quote {
		r.csvByte(r.plan.copy.Escape)
	}
	if r.dirty && r.err == nil {
		r.endCSVLine()
	}
}

// endCSVField takes the field at hand.
func (r *CopyRouter) endCSVField() {
	k := r.key
	if k == nil || r.err != nil {
		return
	}
	if string(r.buf) == r.plan.copy.Null {
		if r.csv.quotes && k.forceNull || !r.csv.quotes && !k.notNull {
			r.decide(nil, true, false)
			return
		}
	}
	if d := r.plan.copy.Default; d != "" && !r.csv.quotes && string(r.buf) == d {
		r.failDefault()
		return
	}
	r.decide(r.buf, false, false)
}
