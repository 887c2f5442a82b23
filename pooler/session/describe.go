package session

import (
	"sync"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// Descriptions remembers what servers said of statements that clients parse and describe before they bind them, when the shard is not known
// yet: most drivers do so with the same few texts again and again. An entry is good for descriptionTTL and until a statement that may have changed
// tables goes by. Bounded, and safe for concurrent use.
type Descriptions struct {
	mu      sync.Mutex
	entries map[descriptionKey]description
	bytes   int
}

type descriptionKey struct {
	account    *Account
	sql, types string
	path, role string
}

type description struct {
	answer []byte // ParameterDescription, and RowDescription or NoData
	until  int64
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

func (d *Descriptions) get(k descriptionKey, now int64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.entries[k]; ok && now < e.until {
		return e.answer
	}
	return nil
}

func (d *Descriptions) put(k descriptionKey, answer []byte, now int64) {
	size := len(answer) + len(k.sql) + len(k.types) + len(k.path) + 200
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bytes+size > maxDescriptions {
		clear(d.entries)
		d.bytes = 0
	}
	if _, ok := d.entries[k]; !ok {
		d.bytes += size
	}
	d.entries[k] = description{answer: append([]byte(nil), answer...), until: now + descriptionTTL}
}

// Forget drops everything.
func (d *Descriptions) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.entries)
	d.bytes = 0
}

// describedAlone returns the statement of a batch that is one Parse and its Describe; nil for any other.
func (s *Session) describedAlone() *item {
	if len(s.unit.items) != 2 {
		return nil
	}
	p, d := &s.unit.items[0], &s.unit.items[1]
	if p.typ == pgwire.MsgParse && d.typ == pgwire.MsgDescribe && d.target == pgwire.TargetStatement && d.name == p.name && !p.local {
		return p
	}
	return nil
}

func (s *Session) descriptionKey(p *state.Prepared) descriptionKey {
	_, path := s.searchPath()
	role, _ := s.track.Expected.Get("role")
	return descriptionKey{account: s.acct, sql: p.SQL, types: p.Types, path: path, role: role.Value}
}

// answerDescribed answers such a batch from memory. It returns false if it is not remembered.
func (s *Session) answerDescribed(how end) bool {
	p := s.describedAlone()
	if p == nil || how == endOpen || s.conn != nil || s.sh.Descriptions == nil {
		return false
	}
	answer := s.sh.Descriptions.get(s.descriptionKey(p.prep), s.drv.Now())
	if answer == nil {
		s.capture.key, s.capture.on = s.descriptionKey(p.prep), true
		s.capture.buf = s.capture.buf[:0]
		return false
	}
	s.setName(p.name, p.prep)
	out := pgwire.AppendParseComplete(s.scratch())
	out = append(out, answer...)
	s.out = out[:0]
	s.toClient(out)
	clear(s.unit.items)
	s.unit.items = s.unit.items[:0]
	if how == endSync {
		s.sync()
	}
	return true
}

// capture is an answer to a Parse and Describe that is to be remembered.
type capture struct {
	on  bool
	key descriptionKey
	buf []byte
}

// captured remembers the answer if it is whole and no error.
func (s *Session) captured() {
	if !s.capture.on {
		return
	}
	s.capture.on = false
	b := s.capture.buf
	s.capture.buf = nil
	var types [3]byte
	var body []byte
	for i := range types {
		typ, total, ok := pgwire.Header(b)
		if !ok || total < 0 || total > len(b) {
			return
		}
		types[i] = typ
		if i == 1 {
			body = b // from the ParameterDescription on
		}
		b = b[total:]
	}
	if types[0] == pgwire.MsgParseComplete && types[1] == pgwire.MsgParameterDescription &&
		(types[2] == pgwire.MsgRowDescription || types[2] == pgwire.MsgNoData) && len(b) == 0 && !s.unit.failed {
		s.sh.Descriptions.put(s.capture.key, body, s.drv.Now())
	}
	s.capture.key = descriptionKey{}
}
