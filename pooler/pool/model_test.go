package pool

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is the simple reference that every operation is compared with: a queue and a set of holders.
type model struct {
	*bench
	rng     *rand.Rand
	waiting []*player // in order of arrival
	holders []*player
	idle    []*player // clients that neither wait nor hold
	max     int
	total   int // after the last operation
	paused  bool
}

// player is one client of the model.
type player struct {
	w     Waiter[*fakeConn]
	m     *model
	lease *Lease[*fakeConn]
}

func (c *player) Granted(l *Lease[*fakeConn]) {
	c.m.answered(c, "grant")
	if c.m.paused {
		c.m.t.Fatal("granted during a pause")
	}
	c.m.hold(c, l)
}

func (c *player) CheckoutFailed(err error) {
	c.m.answered(c, "failure")
	if err == nil || (!errors.Is(err, ErrCheckoutTimeout) && !errors.Is(err, ErrClosed) && !errors.Is(err, errDown) &&
		!errors.Is(err, errRejected)) {
		c.m.t.Fatalf("got failure %v", err)
	}
	c.m.idle = append(c.m.idle, c)
}

// answered takes c out of the queue, of which it must be the first.
func (m *model) answered(c *player, what string) {
	if len(m.waiting) == 0 || m.waiting[0] != c {
		m.t.Fatalf("%s for client at place %d of %d in the queue", what, slices.Index(m.waiting, c), len(m.waiting))
	}
	m.waiting = m.waiting[1:]
}

func (m *model) hold(c *player, l *Lease[*fakeConn]) {
	for _, h := range m.holders {
		if h.lease == l {
			m.t.Fatalf("connection %d has two holders", l.Conn().id)
		}
	}
	if l.Conn().closed != "" {
		m.t.Fatalf("connection %d was lent after it was closed", l.Conn().id)
	}
	c.lease = l
	m.holders = append(m.holders, c)
}

func pick[T any](r *rand.Rand, s *[]T) (v T, ok bool) {
	if len(*s) == 0 {
		return v, false
	}
	i := r.IntN(len(*s))
	v = (*s)[i]
	*s = slices.Delete(*s, i, i+1)
	return v, true
}

// do makes one operation, op and the random source saying which.
func (m *model) do(op byte) {
	switch op % 24 {
	case 0, 1, 2, 3:
		if c, ok := pick(m.rng, &m.idle); ok {
			m.waiting = append(m.waiting, c)
			m.p.Checkout(&c.w)
		}
	case 4:
		l := m.p.TryCheckout()
		if l == nil {
			break
		}
		if len(m.waiting) > 0 || m.paused {
			m.t.Fatal("TryCheckout overtook the queue")
		}
		c, ok := pick(m.rng, &m.idle)
		if !ok {
			l.Release()
			break
		}
		m.hold(c, l)
	case 5, 6, 7:
		if c, ok := pick(m.rng, &m.holders); ok {
			l := c.lease
			m.idle = append(m.idle, c)
			l.Release()
		}
	case 8:
		if c, ok := pick(m.rng, &m.holders); ok {
			l := c.lease
			m.idle = append(m.idle, c)
			l.Discard("test")
		}
	case 9:
		if len(m.waiting) > 0 {
			i := m.rng.IntN(len(m.waiting))
			c := m.waiting[i]
			if !c.w.Withdraw() {
				m.t.Fatal("Withdraw of somebody who waits: got false")
			}
			m.waiting = slices.Delete(m.waiting, i, i+1)
			m.idle = append(m.idle, c)
		}
	case 10, 11, 12, 13, 14:
		if f, ok := pick(m.rng, &m.tasks); ok {
			f()
		}
	case 15:
		m.clock = m.clock.Add(time.Duration(m.rng.IntN(400)) * time.Millisecond)
	case 16:
		m.p.Tick()
	case 17:
		switch m.rng.IntN(4) {
		case 0:
			m.p.Suspect()
		case 1:
			m.p.Reconnect()
		case 2:
			m.p.Kill()
		case 3:
			if len(m.p.mu.all) > 0 {
				m.p.Expire(m.p.mu.all[m.rng.IntN(len(m.p.mu.all))], "test")
			}
		}
	case 18:
		if m.paused = !m.paused; m.paused {
			m.p.Pause()
			break
		}
		m.p.Resume()
	case 19:
		m.max = 1 + m.rng.IntN(5)
		m.p.Resize(m.rng.IntN(3), m.max)
	case 20:
		m.fail = []error{nil, nil, nil, errDown, errTransient, errRejected}[m.rng.IntN(6)]
	case 21:
		if len(m.conns) > 0 {
			c := m.conns[m.rng.IntN(len(m.conns))]
			c.sick = true
			c.dead = m.rng.IntN(2) == 0
		}
	case 22:
		m.fail = nil
	case 23:
		s := m.p.Settings()
		s.CheckoutTimeout = time.Duration(m.rng.IntN(3)) * 300 * time.Millisecond
		m.p.Reconfigure(s)
	}
	m.hasInvariants()
}

func (m *model) hasInvariants() {
	m.t.Helper()
	s := m.p.Stats()
	if s.Leased != len(m.holders) || s.Waiting != len(m.waiting) {
		m.t.Fatalf("got %d lent and %d waiting, want %d and %d", s.Leased, s.Waiting, len(m.holders), len(m.waiting))
	}
	if s.Total() > max(m.max, m.total) {
		m.t.Fatalf("got %d connections, of %d before, with a limit of %d", s.Total(), m.total, m.max)
	}
	m.total = s.Total()
	if m.open > m.total {
		m.t.Fatalf("got %d connections open, %d counted", m.open, m.total)
	}
	if len(m.tasks) != m.p.mu.tasks || s.Opening+s.Closing+m.p.mu.checking != len(m.tasks) {
		m.t.Fatalf("got %d tasks, counted %d, for %+v", len(m.tasks), m.p.mu.tasks, s)
	}
	free := m.p.mu.set.Max - s.Total()
	switch {
	case m.paused || s.Waiting == 0 || m.p.mu.trouble.notBefore != 0:
	case s.Idle > 0:
		m.t.Fatalf("somebody waits although %d connections are idle", s.Idle)
	case free > 0 && s.Opening < s.Waiting:
		m.t.Fatalf("somebody waits although nothing is opened: %+v", s)
	}
	if s.Waiting > 0 && !m.paused && m.p.mu.set.CheckoutTimeout > 0 && m.next().IsZero() {
		m.t.Fatal("somebody waits and nobody watches the time")
	}
	states := map[State]int{}
	for i, l := range m.p.mu.all {
		states[l.state]++
		if l.index != i {
			m.t.Fatalf("connection %d thinks that it is at %d", i, l.index)
		}
	}
	if states[Idle] != m.p.mu.idle.len || states[Doubtful] != m.p.mu.doubtful.len || states[Leased] != m.p.mu.leased ||
		states[Checking] != m.p.mu.checking || states[Closing] != m.p.mu.closing {
		m.t.Fatalf("got states %v, counted %+v", states, s)
	}
	n := 0
	for l := m.p.mu.idle.front; l != nil; l = l.next {
		n++
	}
	if n != m.p.mu.idle.len {
		m.t.Fatalf("got %d in the idle list of %d", n, m.p.mu.idle.len)
	}
}

// play runs a script and brings the pool to an end, at which everybody must have an answer.
func play(t *testing.T, seed uint64, script []byte) {
	t.Helper()
	b := newBench(t, Settings{
		Max: 3, CheckoutTimeout: 500 * time.Millisecond, IdleTimeout: time.Second,
		HealthInterval: 300 * time.Millisecond, AliveAfter: 100 * time.Millisecond, Lifetime: 2 * time.Second,
		LifetimeJitter: time.Second, ConnectBackoff: 50 * time.Millisecond, ConnectAttempts: 2,
		ConnectDelay: 20 * time.Millisecond, RejectedDelay: 200 * time.Millisecond,
	})
	m := &model{bench: b, rng: rand.New(rand.NewPCG(seed, 1)), max: 3}
	b.p.rand = m.rng.Float64
	for range 8 {
		c := &player{m: m}
		c.w.To = c
		m.idle = append(m.idle, c)
	}
	for _, op := range script {
		m.do(op)
	}
	// With a server that works and time, everybody who waits is served or fails.
	m.fail = nil
	if m.paused {
		m.paused = false
		m.p.Resume()
	}
	m.p.Resize(0, 3)
	m.max = max(m.max, 3)
	for len(m.holders) > 0 || len(m.waiting) > 0 {
		waiting := len(m.waiting)
		for len(m.holders) > 0 {
			m.do(5)
		}
		m.pass(time.Second)
		m.hasInvariants()
		if len(m.holders) == 0 && waiting > 0 && len(m.waiting) == waiting {
			t.Fatalf("%d clients are waiting and nothing happens: %+v", waiting, m.p.Stats())
		}
	}
	b.end()
}

func TestRandomOperationsKeepTheRules(t *testing.T) {
	runs := 1000
	if testing.Short() {
		runs = 300
	}
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 0))
		script := make([]byte, 200)
		for i := range script {
			script[i] = byte(r.IntN(24))
		}
		if play(t, seed, script); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzPool(f *testing.F) {
	f.Add(uint64(1), []byte("\x00\x0a\x05\x00\x0f\x10\x11\x0a\x12\x00\x12\x0a"))
	f.Add(uint64(2), []byte("\x14\x00\x00\x0a\x0a\x0f\x10\x16\x0a\x08\x09\x13\x0a"))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		if len(script) > 2000 {
			t.Skip()
		}
		play(t, seed, script)
	})
}
