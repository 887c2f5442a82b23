package session

import (
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// Descriptions remembers what servers said of statements that clients parse, or parse and describe, before they bind them, when no backend is
// held: most drivers do so with the same few texts again and again, and some (pgbench) hold other transactions open meanwhile, whose backends
// such a Parse would wait for. That a text could be parsed is remembered until a statement that may have changed tables goes by: should it be
// wrong, the client hears so at its Bind. A description is good for descriptionTTL besides. Bounded, and safe for concurrent use.
type Descriptions struct {
	mu      sync.Mutex
	entries map[descriptionKey]description
	bytes   int
}

type descriptionKey struct {
	account    *Account
	sql, types string
	path, role string // a path that is known
	encoding   string // names of columns travel in it
}

// bytes is about what an entry of the key weighs without its answer.
func (k *descriptionKey) bytes() int {
	return len(k.sql) + len(k.types) + len(k.path) + len(k.role) + len(k.encoding) + 300
}

type description struct {
	answer []byte // ParameterDescription, and RowDescription or NoData; nil if only a Parse was seen
	until  int64  // for the answer
	shape  state.Shape
}

const (
	// descriptionTTL bounds how long a change of a table that did not pass through here stays unnoticed, in nanoseconds.
	descriptionTTL = 5e9
	// maxDescriptions bounds what is remembered, in bytes; beyond it all is forgotten.
	maxDescriptions = 16 << 20
)

// NewDescriptions returns an empty memory.
func NewDescriptions() *Descriptions {
	return &Descriptions{entries: make(map[descriptionKey]description)}
}

// get returns whether the text is known to parse, and its description if that is known too.
func (d *Descriptions) get(k descriptionKey, now int64) (answer []byte, shape state.Shape, parses bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.entries[k]
	if !ok || now >= e.until {
		return nil, shape, ok
	}
	return e.answer, e.shape, true
}

func (d *Descriptions) put(k descriptionKey, answer []byte, now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := k.bytes() + len(answer)
	if old, ok := d.entries[k]; ok {
		if answer == nil && old.answer != nil {
			return // more is known already
		}
		more = len(answer) - len(old.answer)
	}
	if more > 0 && d.bytes+more > maxDescriptions {
		clear(d.entries)
		d.bytes, more = 0, k.bytes()+len(answer)
	}
	d.bytes += more
	e := description{until: now + descriptionTTL}
	if answer != nil {
		e.answer = append([]byte(nil), answer...)
		e.shape = shapeOf(e.answer)
	}
	d.entries[k] = e
}

// forget drops one.
func (d *Descriptions) forget(k descriptionKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.entries[k]; ok {
		d.bytes -= k.bytes() + len(e.answer)
		delete(d.entries, k)
	}
}

// misled forgets the description of a statement that turned out to be another.
func (s *Session) misled(p *state.Prepared) {
	if p != nil && s.sh.Descriptions != nil {
		s.sh.Descriptions.forget(s.descriptionKey(p))
	}
}

// shapeOf is what an answer to a Describe says.
func shapeOf(answer []byte) (shape state.Shape) {
	for {
		typ, total, ok := pgwire.Header(answer)
		if !ok || total < pgwire.HeaderBytes || total > len(answer) {
			return shape
		}
		switch body := answer[pgwire.HeaderBytes:total]; typ {
		case pgwire.MsgParameterDescription:
			shape.SetParams(body)
		case pgwire.MsgRowDescription:
			shape.SetRows(body)
		case pgwire.MsgNoData:
			shape.SetRows(nil)
		}
		answer = answer[total:]
	}
}

// Forget drops everything.
func (d *Descriptions) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.entries)
	d.bytes = 0
}

// parsesOnly reports whether the batch is nothing but Parse messages, the last perhaps with its Describe.
func (s *Session) parsesOnly() (describe, ok bool) {
	items := s.unit.items
	if n := len(items); n > 1 && items[n-1].typ == pgwire.MsgDescribe && items[n-1].target == pgwire.TargetStatement && items[n-1].name == items[n-2].name {
		describe = true
		items = items[:n-1]
	}
	for i := range items {
		if items[i].typ != pgwire.MsgParse || items[i].local {
			return false, false
		}
	}
	return describe, len(items) > 0
}

func (s *Session) descriptionKey(p *state.Prepared) descriptionKey {
	role, _ := s.setting("role")
	encoding, _ := s.track.Expected.Get("client_encoding")
	return descriptionKey{account: s.at(), sql: p.SQL, types: p.Types, path: s.searchPath().key, role: role.Value, encoding: encoding.Value}
}

// answerDescribed answers such a batch from memory. It returns false if it is not remembered.
func (s *Session) answerDescribed(how end) bool {
	describe, ok := s.parsesOnly()
	if !ok || how == endOpen || s.conn != nil || s.sh.Descriptions == nil || !s.acct.Statements || !s.searchPath().known {
		return false
	}
	out := s.scratch()
	items := s.unit.items
	if describe {
		items = items[:len(items)-1]
	}
	var shape state.Shape
	for i := range items {
		key := s.descriptionKey(items[i].prep)
		answer, known, parses := s.sh.Descriptions.get(key, s.drv.Now())
		last := describe && i == len(items)-1
		if !parses || last && answer == nil {
			if len(items) == 1 {
				s.capture = capture{on: true, describe: describe, key: key, buf: s.capture.buf[:0]}
			}
			return false
		}
		out = pgwire.AppendParseComplete(out)
		if last {
			out = append(out, answer...)
			shape = known
		}
	}
	for i := range items {
		s.parsed(&items[i])
	}
	if last := &items[len(items)-1]; describe && last.name == "" {
		s.unnamedTold = &shape
	} else if describe {
		s.names[last.name].told = shape
	}
	s.out = out[:0]
	s.toClient(out)
	clear(s.unit.items)
	s.unit.items = s.unit.items[:0]
	s.settleUnsent()
	if how == endSync {
		s.sync()
	}
	return true
}

// capture is an answer to a Parse, and perhaps its Describe, that is to be remembered.
type capture struct {
	on, describe bool
	key          descriptionKey
	buf          []byte
}

// maxCapture bounds what is held of an answer, in bytes: the description of 1600 columns of long names has a few hundred KiB.
const maxCapture = 512 << 10

// keep holds more of the answer.
func (c *capture) keep(b []byte) {
	if len(c.buf)+len(b) > maxCapture {
		c.on, c.buf = false, nil
		return
	}
	c.buf = append(c.buf, b...)
}

// captured remembers the answer if it is whole and no error.
func (s *Session) captured() {
	if !s.capture.on {
		return
	}
	b, key := s.capture.buf, s.capture.key
	wanted := "1"
	if s.capture.describe {
		wanted = "1tT"
	}
	s.capture = capture{}
	if s.unit.failed {
		return
	}
	var body []byte
	for i := range len(wanted) {
		typ, total, ok := pgwire.Header(b)
		if !ok || total < 0 || total > len(b) || typ != wanted[i] && !(wanted[i] == pgwire.MsgRowDescription && typ == pgwire.MsgNoData) {
			return
		}
		b = b[total:]
		if i == 0 {
			body = b
		}
	}
	if len(b) == 0 {
		if len(body) == 0 {
			body = nil
		}
		s.sh.Descriptions.put(key, body, s.drv.Now())
	}
}

// ofExecution reports whether a refusal is about where a statement would run. It can be described nevertheless, and its Bind is refused: some
// drivers describe what they never run, to learn the types of a table's columns.
func ofExecution(refusal *pgwire.Error) bool {
	switch refusal.Routine {
	case router.RefusalTenantMissing, router.RefusalTenantUnknown, router.RefusalTenantNull, router.RefusalCrossShard, router.RefusalShardMissing:
		return true
	}
	return false
}
