package judge

// Texts remembers what texts do, from one reading to the next: most are the same then, and on every shard. A nil one remembers nothing. Not safe for
// concurrent use.
type Texts struct{ before, now map[source]*Code }

// source is a text and how it is read.
type source struct {
	kind textKind
	text string
}

// textKind is what a text is.
type textKind uint8

const (
	sqlText textKind = iota
	sqlExpression
	plpgsqlBody
)

// next returns what remembers what t came across, until it comes across it no more.
func (t *Texts) next() *Texts {
	n := &Texts{now: make(map[source]*Code)}
	if t != nil {
		n.before = t.now
	}
	return n
}

// judge tells what a text does. What it returns is not to be changed.
func (t *Texts) judge(kind textKind, text string) *Code {
	s := source{kind, text}
	if t != nil {
		if c := t.now[s]; c != nil {
			return c
		}
		if c := t.before[s]; c != nil {
			t.now[s] = c
			return c
		}
	}
	c := &Code{}
	switch kind {
	case sqlText:
		c.text(text)
	case sqlExpression:
		c.expression(text)
	case plpgsqlBody:
		c = PLpgSQL(text)
	}
	if t != nil {
		t.now[s] = c
	}
	return c
}

// add adds what other code does.
func (c *Code) add(o *Code) {
	if o.Why != "" {
		c.odd(o.Why)
	}
	c.Stays = c.Stays || o.Stays
	c.Calls = append(c.Calls, o.Calls...)
	c.Reads = append(c.Reads, o.Reads...)
	c.Writes = append(c.Writes, o.Writes...)
}
