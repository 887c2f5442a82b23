package notify

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/tenant"
)

// place is a server that a hub listens to. What it has sent is under way for as long as the test likes.
type place struct {
	t       *testing.T
	hub     *Hub
	listens bool
	said    []said // the notifications that were committed; each says its number, from 1 on
	sent    [][]byte
}

// said is by whom a notification was. lost: it may be, for its connection became another's before it had arrived.
type said struct {
	by   *tenant.Tenant
	lost bool
}

func (p *place) count() uint32 { return uint32(len(p.said)) }

// notify commits a notification by a process.
func (p *place) notify(pid byte, by *tenant.Tenant, lost bool) (n uint32) {
	p.said = append(p.said, said{by, lost})
	if p.listens {
		m := []byte("A\x00\x00\x00\x0e\x00\x00\x00" + string(rune(pid)) + "a\x00")
		p.sent = append(p.sent, binary.BigEndian.AppendUint32(m, p.count()<<8)) // its number, and the end of the payload
	}
	return p.count()
}

// mouth is a connection that tenants share, and whoever has it.
type mouth struct {
	p     *place
	pid   byte
	c     backend.Conn
	t     *tenant.Tenant
	at    int
	flown []uint32 // what was said for t; not all of that may have arrived
}

// step goes on by one for who has it, who waits as sessions do; as the next one, where nobody has it.
func (m *mouth) step(next *tenant.Tenant) {
	waits := func(w func(<-chan struct{}) *pgwire.Error) bool { return w != nil && !over(w) }
	switch m.at {
	case 0:
		if !m.c.Voice.Speaks(next) {
			if waits(m.c.Echo()) {
				return
			}
			m.c.Voice.Speak(next)
			m.flown = nil
		}
		if m.t = next; next == nil {
			m.p.notify(m.pid, nil, false)
			return
		}
		m.at = 1
	case 1:
		if !waits(m.c.Says()) {
			m.at = 2
		}
	case 2:
		m.flown = append(m.flown, m.p.notify(m.pid, m.t, false))
		m.at = 3
	case 3:
		m.c.Fell()
		m.at = 0
	}
}

// steal has somebody speak there who waits for nothing. What is certain of those in front of him, and of him, is only that nobody else hears it.
func (m *mouth) steal(t *tenant.Tenant) {
	if m.at > 0 && !m.c.Voice.Speaks(t) {
		return // a connection that is in use is nobody else's
	}
	if !m.c.Voice.Speaks(t) {
		for _, n := range m.flown {
			m.p.said[n-1].lost = true
		}
		m.flown = nil
		m.c.Voice.Speak(t)
	}
	m.p.notify(m.pid, t, true)
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
	set                *Set
	l                  *Listener      // nil = it listens to nothing
	tenant             *tenant.Tenant // nil = it hears everybody
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
		s.alone, s.floor = alone, s.p.count()
		if s.l == nil {
			s.l = s.set.Listen(silent{}, 7, s.tenant)
		}
		s.wait, s.at = s.l.Prepare([]string{"a"}), preparing
	case preparing:
		s.p.arrive(s.wait)
		if s.at = inBlock; s.alone {
			s.l.Expect()
			s.at = expecting
		}
	case inBlock:
		s.floor = s.p.count()
		s.wait, s.at = s.l.Arrive(), asking
	case asking:
		s.p.arrive(s.wait)
		s.l.Expect()
		s.at = expecting
	case expecting:
		s.from, s.at = s.p.count(), committed
	case committed:
		s.l.Commit([]Change{{"a", true}})
		s.l.Settle()
		s.at = listens
	case listens:
		s.p.arrive(s.l.Arrive())
		s.l.Sweep()
		s.until, s.at = s.p.count(), unlistened
	case unlistened:
		s.l.Commit([]Change{{"a", false}})
		s.l.Settle()
		s.at = idle
		s.hear()
		s.judge()
		s.close()
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
		s.close()
	}
}

// close is when nothing is listened to.
func (s *sessionModel) close() {
	if s.l.bytes != 0 {
		s.p.t.Errorf("%d bytes are left", s.l.bytes)
	}
	s.l.Close()
	s.l = nil
}

func (s *sessionModel) hear() {
	if s.l == nil || s.at != idle && s.at != listens {
		return
	}
	for m := s.l.Next(); m != nil; m = s.l.Next() {
		s.got = append(s.got, binary.BigEndian.Uint32(m[len(m)-4:])>>8)
	}
}

// judge looks at what was heard.
func (s *sessionModel) judge() {
	for i, n := range s.got {
		if n <= s.floor || i > 0 && n <= s.got[i-1] {
			s.p.t.Fatalf("heard %d, though the LISTEN came behind %d", s.got, s.floor)
		}
		if by := s.p.said[n-1].by; s.tenant != nil && by != s.tenant {
			s.p.t.Fatalf("tenant %+v heard %d, which is by %+v", *s.tenant, n, by)
		}
	}
	for n := s.from + 1; n <= s.until; n++ {
		if x := s.p.said[n-1]; (s.tenant == nil || x.by == s.tenant && !x.lost) && !slices.Contains(s.got, n) {
			s.p.t.Fatalf("heard %d, and not %d", s.got, n)
		}
	}
	s.got = nil
}

// FuzzListener: whatever comes when, a session hears, once and in order, all that is committed from its LISTEN to its UNLISTEN, and nothing that was when it
// said what commits the LISTEN. A tenant's, over connections that tenants share, hears all that its tenant says, and never anything else.
func FuzzListener(f *testing.F) {
	for _, seed := range []string{
		"\x14\x14\x14\x14\x00\x1c\x1c\x1c\x1c\x00\x06\x0e", "\x14\x14\x14\x14\x0c\x0c\x00\x0c\x0c\x0c\x0c\x00\x06\x0e", "\x14\x00\x1c\x03\x00\x1c\x1c\x1c\x14\x14\x14",
		"\x04\x03\x02\x04\x00\x04\x00\x04\x00\x04\x00\x04\x04", "\x14\x14\x00\x14\x00\x14\x14\x14", "\x04\x04\x0c\x0c\x00\x04\x00\x0c\x04\x05\x00\x0c\x0c\x0c\x0c",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(listening)
}

// TestTenantsHearThemselves is FuzzListener at random.
func TestTenantsHearThemselves(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := make([]byte, 20+rnd.IntN(150))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		if listening(t, b); t.Failed() {
			t.Fatalf("%q", b)
		}
	}
}

// listening plays what b says.
func listening(t *testing.T, b []byte) {
	tenants := []*tenant.Tenant{nil, {Name: "a"}, {Name: "b"}, {Name: "a", Cluster: "other"}}
	p := &place{t: t}
	group, audience, mouths := NewGroup(new(atomic.Uint64)), new(Audience), make([]*mouth, 2)
	for i := range mouths {
		m := &mouth{p: p, pid: byte(i)}
		m.c.Audience, m.c.Voice.Epoch = audience, group.Epoch
		mouths[i] = m
	}
	set := group.NewSet([]Options{{Voice: func(_ string, pid uint32) (*backend.Voice, bool) { return &mouths[pid].c.Voice, true }}}, audience)
	p.hub = set.hubs[0]
	p.hub.mu.running = true
	p.hub.up.Store(true)
	all := make([]*sessionModel, 4)
	for i := range all {
		all[i] = &sessionModel{p: p, set: set, tenant: tenants[i%3]}
	}
	for _, op := range b {
		s, m, who := all[op>>3&3], mouths[op>>3&1], tenants[op>>4&3]
		switch op & 7 {
		case 0:
			m.step(who)
		case 1:
			if m.step(who); op>>6 == 0 {
				m.steal(who)
			}
		case 2:
			p.deliver()
		case 3:
			p.serve()
		case 4, 7:
			s.step(op>>5&1 > 0)
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
	}
	if n := audience.listening.Load(); n != 0 {
		t.Errorf("%d listen still", n)
	}
}

// TestLate: what arrives when its connection speaks for another tenant already is heard by nobody but those who hear everybody.
func TestLate(t *testing.T) {
	t.Parallel()
	p := &place{t: t}
	group, audience := NewGroup(new(atomic.Uint64)), new(Audience)
	m := &mouth{p: p}
	m.c.Audience, m.c.Voice.Epoch = audience, group.Epoch
	set := group.NewSet([]Options{{Voice: func(string, uint32) (*backend.Voice, bool) { return &m.c.Voice, true }}}, audience)
	p.hub = set.hubs[0]
	p.hub.mu.running = true
	p.hub.up.Store(true)
	a, b := &tenant.Tenant{Name: "a"}, &tenant.Tenant{Name: "b"}
	var all []*Listener
	for _, who := range []*tenant.Tenant{a, b, nil} {
		l := set.Listen(silent{}, 7, who)
		p.arrive(l.Prepare([]string{"a"}))
		l.Expect()
		l.Commit([]Change{{"a", true}})
		all = append(all, l)
	}
	heard := func(what string, want ...int) {
		t.Helper()
		for i, l := range all {
			n := 0
			for l.Next() != nil {
				n++
			}
			if n != want[i] {
				t.Errorf("%s: listener %d hears %d, want %d", what, i, n, want[i])
			}
		}
	}
	arrive := func() { p.arrive(all[0].Arrive()) }
	m.c.Voice.Speak(a)
	p.notify(0, a, false)
	arrive()
	heard("nobody was asked since it speaks for a", 0, 0, 1)
	p.notify(0, a, false)
	arrive()
	heard("a alone", 1, 0, 1)
	p.notify(0, a, false) // under way
	m.c.Voice.Speak(b)
	p.notify(0, b, false)
	arrive()
	heard("b comes too soon", 0, 0, 2)
	p.notify(0, b, false)
	arrive()
	heard("b alone", 0, 1, 1)
	p.notify(0, b, false)
	m.c.Voice.Speak(nil)
	p.notify(0, nil, false)
	arrive()
	p.notify(0, nil, false)
	arrive()
	heard("nobody's", 0, 0, 3)
}

// TestNobodyWaitsForNobody: while no tenant listens it costs nothing to speak.
func TestNobodyWaitsForNobody(t *testing.T) {
	audience, a, b := new(Audience), &tenant.Tenant{Name: "a"}, &tenant.Tenant{Name: "b"}
	c := &backend.Conn{Audience: audience}
	c.Voice.Epoch = NewGroup(new(atomic.Uint64)).Epoch
	n := testing.AllocsPerRun(100, func() {
		for _, who := range []*tenant.Tenant{a, b} {
			c.Voice.Speak(who)
			if c.Says() != nil || c.Echo() != nil {
				t.Error("something is waited for")
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestOnlyWhoListensWaits: for who listens only those wait who are the same tenant.
func TestOnlyWhoListensWaits(t *testing.T) {
	t.Parallel()
	group, audience := NewGroup(new(atomic.Uint64)), new(Audience)
	set := group.NewSet([]Options{{}}, audience)
	p := &place{t: t, hub: set.hubs[0]}
	p.hub.mu.running = true
	p.hub.up.Store(true)
	a, b := &tenant.Tenant{Name: "a"}, &tenant.Tenant{Name: "b"}
	l := set.Listen(silent{}, 7, a)
	p.arrive(l.Prepare([]string{"a"}))
	c := &backend.Conn{Audience: audience}
	c.Voice.Epoch = group.Epoch
	c.Voice.Speak(b)
	if c.Says() != nil || c.Echo() != nil {
		t.Error("who has nobody that listens waits")
	}
	c.Voice.Speak(a)
	says := c.Says()
	if says == nil || over(says) {
		t.Fatal("it is not waited for who spoke before")
	}
	p.arrive(says)
	if c.Says() != nil {
		t.Error("it waits again")
	}
	echo := c.Echo()
	if echo == nil {
		t.Fatal("what was said is not waited for")
	}
	p.arrive(echo)
	if c.Echo() != nil {
		t.Error("it has arrived")
	}
	if l.Close(); c.Says() != nil || c.Echo() != nil {
		t.Error("nobody listens, and somebody waits")
	}
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
