package loop

import (
	"bytes"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// balance is how a poller that has too much to do finds another that has little, and hands some of its sockets over. Each looks after a tenth of a
// second at work, and asks the kernel what the threads did meanwhile. A thread that waits for something to happen is not woken, and
// one that is alone keeps no account at all. All but what is atomic belongs to the poller.
type balance struct {
	peers atomic.Pointer[[]*poller] // all of them, once they have started
	clock atomic.Int32              // of what the thread has run
	stat  atomic.Int32              // the file that says how long it waited for a processor, and 1; 0 = there is none
	taken atomic.Int64              // until when nobody else gives it anything

	window  uint32 // the one at hand; 0 = there are no others
	turns   uint32
	since   int64  // its begin
	weight  uint32 // of what came in it
	active  []int32
	did     []int64 // what the threads had done at its begin; -1 = it is not known
	pressed int     // windows in a row in which another had much less to do
	to      *poller // who gets the sockets that are moving
	chosen  []*socket
}

const (
	windowNanos = 100_000_000
	// windowTurns is after how many turns the time is looked at.
	windowTurns = 8
	// pressedFor is how many windows in a row have to tell the same before anything moves.
	pressedFor = 2
	// movedAtOnce is how many sockets move at once.
	movedAtOnce = 64
	// staysFor is how many windows a socket stays where it came.
	staysFor = 10
)

// join is for a poller of ps whose thread has not started.
func (b *balance) join(ps *pollers) {
	if ps.lent > 1 {
		b.window = 1
	}
}

// introduce has pollers know each other.
func (ps *pollers) introduce() {
	if len(ps.list) < 2 {
		return
	}
	list := slices.Clone(ps.list)
	for _, p := range list {
		p.balance.peers.Store(&list)
	}
}

// closeStats is called when all threads have ended.
func (ps *pollers) closeStats() {
	for _, p := range ps.list {
		if fd := p.balance.stat.Swap(0); fd != 0 {
			syscall.Close(int(fd) - 1)
		}
	}
}

// measured lets others know what this thread does; it is called by it.
func (b *balance) measured() {
	if b.window == 0 {
		return
	}
	if fd, err := syscall.Open("/proc/thread-self/schedstat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err == nil {
		b.stat.Store(int32(fd) + 1) //nolint:gosec // it is a descriptor
	}
	b.clock.Store(int32(^syscall.Gettid())<<3 | 6) //nolint:gosec // as clock_getcpuclockid(3) does: what one thread has run
}

// work is how long the thread has run, or wanted to, in nanoseconds; -1 if that can't be known.
func (b *balance) work() int64 {
	clock := b.clock.Load()
	if clock == 0 {
		return -1
	}
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 { //nolint:gosec // it has no other way
		return -1
	}
	return ts.Nano() + b.delayed()
}

// delayed is how long the thread waited for a processor, as far as the kernel tells: who has to wait for one is not idle.
func (b *balance) delayed() int64 {
	fd := b.stat.Load()
	if fd == 0 {
		return 0
	}
	var text [96]byte
	n, err := syscall.Pread(int(fd)-1, text[:], 0)
	if err != nil {
		return 0
	}
	if fields := bytes.Fields(text[:n]); len(fields) == 3 {
		if v, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			return v
		}
	}
	return 0
}

// hand gives s what it was sent, and takes note of that.
func (p *poller) hand(s *socket, b []byte) {
	if p.balance.window != 0 {
		p.balance.came(s, len(b))
	}
	s.h.received(b)
}

// came notes that s was sent n bytes: each message is work, and so is each kilobyte.
func (b *balance) came(s *socket, n int) {
	weight := 1 + uint32(n)>>10 //nolint:gosec // it is a buffer
	b.weight += weight
	if int32(b.window-s.window) > 0 { //nolint:gosec // it may be in the future, see settles
		s.window, s.weight = b.window, 0
		b.active = append(b.active, s.slot)
	}
	s.weight += weight
}

// settles has s, which was moved here, stay for a while.
func (b *balance) settles(s *socket) { s.window = b.window + staysFor }

// turned is the end of a turn.
func (p *poller) turned() {
	if b := &p.balance; b.window != 0 {
		if b.turns++; b.turns%windowTurns == 0 {
			p.weigh()
		}
	}
}

// weigh ends a window that is long enough.
func (p *poller) weigh() {
	b := &p.balance
	now := nanos()
	peers, elapsed := b.peers.Load(), now-b.since
	if elapsed < windowNanos || peers == nil {
		return
	}
	if q, part := b.compare(p, *peers, elapsed); part > 0 {
		b.pressed++
		if b.pressed >= pressedFor {
			if chosen := p.choose(part); len(chosen) > 0 && q.balance.takes(now) {
				b.pressed = 0
				for _, s := range chosen {
					p.give(s, q)
				}
			}
			clear(b.chosen)
		}
	} else {
		b.pressed = 0
	}
	b.window++
	if b.window == 0 {
		b.window++
	}
	b.since, b.weight, b.active = now, 0, b.active[:0]
}

// compare returns the poller that did least since the begin of the window, and what part of this one's work should be done by it; 0 = none.
func (b *balance) compare(p *poller, peers []*poller, elapsed int64) (idlest *poller, part float64) {
	if b.did == nil {
		b.did = make([]int64, len(peers))
		for i := range b.did {
			b.did[i] = -1
		}
	}
	own, least := int64(-1), int64(-1)
	for i, q := range peers {
		before := b.did[i]
		did := q.balance.work()
		b.did[i] = did
		switch work := did - before; {
		case before < 0 || did < 0:
		case q == p:
			own = work
		case idlest == nil || work < least:
			idlest, least = q, work
		}
	}
	if idlest == nil || own < 0 {
		return nil, 0
	}
	return idlest, surplus(own, least, elapsed)
}

// surplus is the part of a thread's own work that another should do: none unless it is at work most of the time, and the other did no more than half of that.
func surplus(own, other, elapsed int64) float64 {
	if own < elapsed/4*3 || other > own/2 {
		return 0
	}
	return float64(own-other) / float64(2*own)
}

// takes reports whether nobody has given the poller anything lately; then it is to be given something now.
func (b *balance) takes(now int64) bool {
	until := b.taken.Load()
	return now >= until && b.taken.CompareAndSwap(until, now+(pressedFor+1)*windowNanos)
}

// choose returns sockets that make up the given part of the window's work. One that is most of it stays, and the others leave it.
func (p *poller) choose(part float64) []*socket {
	b := &p.balance
	limit := uint32(part * float64(b.weight))
	sum := uint32(0)
	var lightest *socket
	b.chosen = b.chosen[:0]
	for _, slot := range b.active {
		s := p.slots[slot]
		if s == nil || s.window != b.window || s.moving || s.gone || s.removed {
			continue
		}
		s.window-- // its slot is there twice if another had it before in this window
		if sum+s.weight <= limit && len(b.chosen) < movedAtOnce {
			b.chosen = append(b.chosen, s)
			sum += s.weight
		} else if lightest == nil || s.weight < lightest.weight {
			lightest = s
		}
	}
	if len(b.chosen) == 0 && lightest != nil && lightest.weight <= limit+limit/2 {
		b.chosen = append(b.chosen, lightest) // better than before, and not the other way round
	}
	return b.chosen
}

// give has s move to q, as soon as nothing is under way for it here.
func (p *poller) give(s *socket, q *poller) {
	p.balance.to = q
	s.moving = true
	if p.ring != nil {
		p.cancelReading(s)
		p.cancelRoom(s)
	}
	p.handOver(s)
}

// handOver ends a move, unless requests are under way. What was put aside, and why nothing is read, goes along. What was posted here meanwhile is
// passed on by doPosted, and what the socket became ready for is an event of the new epoll, too.
func (p *poller) handOver(s *socket) {
	if s.reads || s.awaits {
		return // their ends come here
	}
	if s.closed() || p.ring != nil && p.ring.ending {
		s.moving = false
		return // it is removed next
	}
	if p.ring == nil {
		if err := syscall.EpollCtl(p.ep, syscall.EPOLL_CTL_DEL, s.fd, nil); err != nil {
			s.moving = false
			return
		}
	}
	if s.queued {
		s.queued = false
		if i := slices.Index(p.local, s); i >= 0 {
			p.local = slices.Delete(p.local, i, i+1)
		}
	}
	p.slots[s.slot] = nil
	p.free = append(p.free, s.slot)
	s.slot = -1
	q := p.balance.to
	s.w.passed(s, p, q)
	q.post(s)
}

// passed makes q the poller of s, which is the writer's, instead of p, whose thread calls it: from here on s is q's. No bytes are being sent by p's
// ring then, for it is done with them before it handles what came.
func (w *writer) passed(s *socket, p, q *poller) {
	w.mu.Lock()
	s.p.Store(q) // under the lock, so that the flushes of one ring and the other don't mix
	if !w.dirty {
		w.mu.Unlock()
		return
	}
	w.dirty = false
	p.mu.Lock()
	if i := slices.Index(p.mu.dirty, w); i >= 0 {
		p.mu.dirty = slices.Delete(p.mu.dirty, i, i+1)
	}
	p.mu.Unlock()
	if !w.broken && !w.slow.Load() {
		w.sendNowLocked() // it would have been sent next
	}
	w.endLocked()
}
