package notify

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// place is a server that a hub listens to. What it has sent is under way for as long as the test likes.
type place struct {
	t       *testing.T
	hub     *Hub
	listens bool
	said    uint32 // how many notifications were committed; each says its number
	sent    [][]byte
}

// notify commits a notification.
func (p *place) notify() {
	p.said++
	if p.listens {
		p.sent = append(p.sent, binary.BigEndian.AppendUint32([]byte("A\x00\x00\x00\x0e\x00\x00\x00\x01a\x00"), p.said<<8)) // its number, and the end of the payload
	}
}

// serve answers what the hub asks.
func (p *place) serve() {
	for q := p.hub.next(nil); len(q) > 0; {
		_, total, _ := pgwire.Header(q)
		switch sql := string(q[pgwire.HeaderBytes : total-1]); sql {
		case `LISTEN "a"`:
			p.listens = true
		case `UNLISTEN "a"`:
			p.listens = false
		case "":
		default:
			p.t.Fatalf("the hub asks %q", sql)
		}
		p.sent = append(p.sent, pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
		q = q[total:]
	}
}

// deliver has the hub read the next message.
func (p *place) deliver() {
	if len(p.sent) > 0 {
		if rest, err := p.hub.consume(p.sent[0]); err != nil || len(rest) > 0 {
			p.t.Fatalf("%q is left: %v", rest, err)
		}
		p.sent = p.sent[1:]
	}
}

// arrive has what w waits for asked and answered, and no more.
func (p *place) arrive(w Wait) {
	for n := 0; !over(w); n++ {
		if n > 1e4 {
			p.t.Fatal("no answer")
		}
		if len(p.sent) > 0 {
			p.deliver()
		} else {
			p.serve()
		}
	}
}

var stopped = make(chan struct{})

func init() { close(stopped) }

// over reports whether w waits for nothing.
func over(w Wait) bool {
	for range 64 { // where both are due the one that wins is any
		if w(stopped) == nil {
			return true
		}
	}
	return false
}

// stage is how far a session is with its LISTEN.
type stage int

const (
	idle       stage = iota
	preparing        // of a transaction, or one of its own
	inBlock          // the LISTEN ran
	asking           // COMMIT came
	expecting        // what commits may run
	committed        // on the server
	listens          // the session knows
	unlistened       // on the server
)

// sessionModel is a session, and what it has to hear.
type sessionModel struct {
	p                  *place
	l                  *Listener
	at                 stage
	alone              bool // without a transaction block
	wait               Wait
	floor, from, until uint32
	got                []uint32
}

// step goes on by one.
func (s *sessionModel) step(alone bool) {
	switch s.at {
	case idle:
		s.alone, s.floor = alone, s.p.said
		s.wait, s.at = s.l.Prepare([]string{"a"}), preparing
	case preparing:
		s.p.arrive(s.wait)
		if s.at = inBlock; s.alone {
			s.l.Expect()
			s.at = expecting
		}
	case inBlock:
		s.floor = s.p.said
		s.wait, s.at = s.l.Arrive(), asking
	case asking:
		s.p.arrive(s.wait)
		s.l.Expect()
		s.at = expecting
	case expecting:
		s.from, s.at = s.p.said, committed
	case committed:
		s.l.Commit([]Change{{"a", true}})
		s.l.Settle()
		s.at = listens
	case listens:
		s.p.arrive(s.l.Arrive())
		s.l.Sweep()
		s.until, s.at = s.p.said, unlistened
	case unlistened:
		s.l.Commit([]Change{{"a", false}})
		s.l.Settle()
		s.at = idle
		s.hear()
		s.judge()
	}
}

// rollback ends what was not committed.
func (s *sessionModel) rollback() {
	if s.at > idle && s.at < committed {
		s.l.Settle()
		s.at = idle
		s.hear()
		if len(s.got) > 0 {
			s.p.t.Fatalf("%d was heard, and the LISTEN rolled back", s.got)
		}
	}
}

func (s *sessionModel) hear() {
	if s.at != idle && s.at != listens {
		return
	}
	for m := s.l.Next(); m != nil; m = s.l.Next() {
		s.got = append(s.got, binary.BigEndian.Uint32(m[len(m)-4:])>>8)
	}
}

// judge looks at what was heard.
func (s *sessionModel) judge() {
	next := s.from + 1
	for i, n := range s.got {
		if n <= s.floor || i > 0 && n <= s.got[i-1] {
			s.p.t.Fatalf("heard %d, though the LISTEN came behind %d", s.got, s.floor)
		}
		if n > s.from && n <= s.until {
			if n != next {
				break
			}
			next++
		}
	}
	if next != s.until+1 {
		s.p.t.Fatalf("heard %d, not all from %d to %d", s.got, s.from+1, s.until)
	}
	s.got = nil
}

// FuzzListener: whatever comes when, a session hears, once and in order, all that is committed from its LISTEN to its UNLISTEN, and nothing that was when it
// said what commits the LISTEN.
func FuzzListener(f *testing.F) {
	for _, seed := range []string{
		"\x14\x14\x14\x14\x00\x1c\x1c\x1c\x1c\x00\x06\x0e", "\x14\x14\x14\x14\x0c\x0c\x00\x0c\x0c\x0c\x0c\x00\x06\x0e", "\x14\x00\x1c\x03\x00\x1c\x1c\x1c\x14\x14\x14",
		"\x04\x03\x02\x04\x00\x04\x00\x04\x00\x04\x00\x04\x04", "\x14\x14\x00\x14\x00\x14\x14\x14", "\x04\x04\x0c\x0c\x00\x04\x00\x0c\x04\x05\x00\x0c\x0c\x0c\x0c",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set := NewGroup(new(atomic.Uint64)).NewSet([]Options{{Voice: func(uint32) (*backend.Voice, bool) { return nil, true }}}, nil)
		set.hubs[0].mu.running = true
		p := &place{t: t, hub: set.hubs[0]}
		all := make([]*sessionModel, 2)
		for i := range all {
			all[i] = &sessionModel{p: p, l: set.Listen(silent{}, 7, nil)}
		}
		for _, op := range b {
			s := all[op>>3&1]
			switch op & 7 {
			case 0, 1:
				p.notify()
			case 2:
				p.deliver()
			case 3:
				p.serve()
			case 4, 7:
				s.step(op>>4&1 > 0)
			case 5:
				s.rollback()
			case 6:
				s.hear()
			}
		}
		for _, s := range all {
			for s.rollback(); s.at != idle; {
				s.step(false)
			}
			if s.l.bytes != 0 {
				t.Errorf("%d bytes are left", s.l.bytes)
			}
		}
	})
}

// TestAnswersAreShared: however many wait, the server is asked for one answer, and for one more by who comes while that is under way.
func TestAnswersAreShared(t *testing.T) {
	t.Parallel()
	set := NewGroup(new(atomic.Uint64)).NewSet([]Options{{}}, nil)
	h := set.hubs[0]
	h.mu.running = true
	p := &place{t: t, hub: h}
	p.arrive(set.Listen(silent{}, 1, nil).Prepare([]string{"a"}))
	var all []Wait
	for round := range 3 {
		for i := range 50 {
			l := set.Listen(silent{}, 2, nil)
			all = append(all, l.Prepare([]string{"a"}), l.Arrive())
			if i == 25 {
				p.serve()
			}
		}
		if len(p.sent) != 1 {
			t.Errorf("round %d: %d answers are under way, want 1", round, len(p.sent))
		}
		p.deliver()
	}
	for _, w := range all {
		p.arrive(w)
	}
}
