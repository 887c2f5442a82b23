package loop

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// writer sends to one socket, in order. Whoever steps a machine leaves bytes in out; before the machine's lock is released they are staged, in
// the order of the steps, and afterwards they are flushed, under no lock but the writer's own. What is staged is sent by whoever comes first.
//
// A socket that a poller watches is written to under mu, as far as it takes the bytes at once; the poller goes on with the rest. On others one
// goroutine at a time writes, without mu, and what is staged meanwhile goes out with its next write.
type writer struct {
	// out is what the step at hand sends; guarded as the machine that is stepped.
	out []byte

	buf  []byte // buf[sent:] is to be written; guarded by mu, as all below
	sent int
	ev   *socket     // if a poller watches it; set under mu and the machine's lock
	more *writerMore // what a watched socket that is idle has none of; nil = nothing
	mu   sync.Mutex
	// slow: the socket takes no more for now; the poller, or a goroutine, writes what is left.
	slow    atomic.Bool
	flying  int32 // bytes before buf that are being sent by ev's ring
	writing bool  // without mu
	dirty   bool  // ev's poller will flush it
	closing bool  // the socket is closed once everything is written
	ends    ending
	broken  bool // nothing can be written any more
}

// writerMore is what few of the many have: most clients are silent, and watched.
type writerMore struct {
	nc      net.Conn           // without a poller
	try     func(b []byte) int // writes as much as the socket takes at once; nil if that can't be had
	waiting int                // goroutines that wait for room
	drained sync.Cond
	then    func()
	held    []*socket // read from again once there is room
	// wake rouses the goroutine that writes where nothing can be tried; nil = there is none.
	wake chan struct{}
	// keeps: that goroutine stays until the socket's end.
	keeps bool
}

// writeLimit is how much may wait to be written, in bytes, before whoever produces more is made to wait, and a client gets no more to do. With what is read at
// once behind it, it fits in a large buffer: a peer that is slow takes no more memory than that, and leaves nothing to the collector.
const writeLimit = largeBuffer - pollBuffer

// flightLimit is how much is left to a poller to send, in bytes.
const flightLimit = 16 << 10

func (w *writer) init(nc net.Conn) {
	w.more = &writerMore{nc: nc, try: tryWriter(nc)}
}

// bufs are those that the writer borrows from; its lock, or the machine's, is held.
func (w *writer) bufs() *buffers {
	if w.ev != nil {
		if own := w.ev.buffers(); own != nil {
			return own
		}
	}
	return &shared
}

// ncLocked is the socket.
func (w *writer) ncLocked() net.Conn {
	if w.ev != nil {
		return w.ev
	}
	return w.more.nc
}

// moreLocked is where to keep what is rare.
func (w *writer) moreLocked() *writerMore {
	if w.more == nil {
		w.more = new(writerMore)
	}
	return w.more
}

// lessLocked drops what a watched socket does not need any more.
func (w *writer) lessLocked() {
	if m := w.more; m != nil && w.ev != nil && m.waiting == 0 && m.then == nil && len(m.held) == 0 && m.wake == nil {
		w.more = nil
	}
}

// swap puts TLS in the place of the bare socket.
func (w *writer) swap(nc net.Conn) {
	w.mu.Lock()
	w.more.nc, w.more.try = nc, nil
	w.mu.Unlock()
}

// append leaves b to be staged; the machine's lock is held.
func (w *writer) append(b []byte) {
	if w.out == nil {
		w.out = w.bufs().lend(len(b))
	}
	w.out = w.bufs().extend(w.out, b)
}

// stage puts what the step left behind what waits already; the machine's lock is held.
func (w *writer) stage() {
	if len(w.out) > 0 {
		w.mu.Lock()
		w.stageLocked()
		w.mu.Unlock()
	}
}

func (w *writer) stageLocked() {
	b := w.out
	w.out = nil
	switch {
	case w.broken || w.closing:
		w.bufs().giveBack(b)
	case w.buf == nil:
		w.buf, w.sent = b, 0
	default:
		if w.sent > len(w.buf)/2 || w.sent > 0 && len(w.buf)+len(b) > cap(w.buf) {
			w.buf, w.sent = w.buf[:copy(w.buf, w.buf[w.sent:])], 0
		}
		w.buf = w.bufs().extend(w.buf, b)
		w.bufs().giveBack(b)
	}
}

// forget drops what a step left that came to a bad end; the machine's lock is held.
func (w *writer) forget() {
	w.bufs().giveBack(w.out)
	w.out = nil
}

// pendingLocked is how many bytes wait.
func (w *writer) pendingLocked() int { return int(w.flying) + len(w.buf) - w.sent }

func (w *writer) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pendingLocked()
}

func (w *writer) emptyLocked() {
	w.bufs().giveBack(w.buf)
	w.buf, w.sent = nil, 0
}

// closeAfter closes the socket after what was staged so far, or with half only its sending half, until heardAll.
func (w *writer) closeAfter(half bool) {
	w.mu.Lock()
	w.closing = true
	switch {
	case !half:
		w.ends = endsWhole
	case w.ends == endsWhole:
		w.ends = endsHalf
	}
	w.mu.Unlock()
}

// heardAll closes the whole of a socket of which only half was to be closed, or will be.
func (w *writer) heardAll() {
	w.closeAfter(false)
	w.mu.Lock()
	w.endLocked()
}

// watch puts a socket that a poller watches in the place of nc. It returns false while somebody writes.
func (w *writer) watch(s *socket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing || w.slow.Load() {
		return false
	}
	if m := w.more; m != nil {
		m.nc, m.try = nil, nil
	}
	w.ev = s
	w.lessLocked()
	return true
}

// abandon gives up what was not written: the socket is closed.
func (w *writer) abandon() {
	w.mu.Lock()
	if w.dirty && !w.broken && !w.slow.Load() {
		w.sendNowLocked() // it would have been sent next
	}
	w.broken = true
	w.emptyLocked()
	w.settledLocked()
	if m := w.more; m != nil && m.wake != nil {
		close(m.wake)
		m.wake = nil
	}
	w.mu.Unlock()
}

// flush writes what is staged without waiting for the peer: what the socket doesn't take at once is left to the poller, or to a goroutine of g.
// Nothing more is read from s, which may be nil, while too much is left.
func (w *writer) flush(g *Goroutines, s *socket) {
	w.mu.Lock()
	w.flushLocked(g, s, nil)
}

// flushLocked is flush by who holds w.mu, and releases it; for two sockets.
func (w *writer) flushLocked(g *Goroutines, a, b *socket) {
	switch {
	case w.ev != nil:
		if !w.slow.Load() {
			w.sendLocked()
		}
	case w.writing || w.slow.Load():
	case w.more.try != nil:
		w.tryLocked(g)
	case w.pendingLocked() > 0:
		w.asideLocked(g)
	}
	if w.pendingLocked() > writeLimit && !w.broken {
		w.holdLocked(a)
		w.holdLocked(b)
	}
	w.endLocked()
}

// flushAndWait writes what is staged. When another goroutine is writing it returns at once, unless too much waits already: then it waits for room.
func (w *writer) flushAndWait() {
	w.mu.Lock()
	w.flushAndWaitLocked()
}

// flushAndWaitLocked is flushAndWait by who holds w.mu, and releases it.
func (w *writer) flushAndWaitLocked() {
	if w.ev != nil {
		if !w.slow.Load() {
			w.sendLocked()
		}
		w.roomLocked(func() bool { return true })
	} else {
		w.roomLocked(func() bool { return w.writing })
		w.writeLocked()
	}
	w.endLocked()
}

// finish writes what is staged when whoever writes has ended. Its caller sees to it that the socket has a deadline.
func (w *writer) finish() {
	w.mu.Lock()
	for w.writing {
		m := w.moreLocked()
		m.drained.L = &w.mu
		m.waiting++
		m.drained.Wait()
		m.waiting--
	}
	w.lessLocked()
	w.writeLocked()
	w.endLocked()
}

// roomLocked waits until not too much waits, as long as others write.
func (w *writer) roomLocked(others func() bool) {
	for w.pendingLocked() > writeLimit && !w.broken && others() {
		m := w.moreLocked()
		m.drained.L = &w.mu
		m.waiting++
		m.drained.Wait()
		m.waiting--
	}
	w.lessLocked()
}

// sendLocked writes what the watched socket takes at once, or leaves it to the socket's poller to do so soon.
func (w *writer) sendLocked() {
	switch n := len(w.buf) - w.sent; {
	case w.flying > 0:
		if n > 0 || w.closing {
			w.ev.kick() // it is behind what is being sent
		}
		return
	case n == 0 || n > flightLimit || w.broken || w.slow.Load() || w.closing: // nobody is told of a flight's end for its own sake
	case w.dirty:
		return
	case w.ev.later(w):
		w.dirty = true
		return
	}
	w.sendNowLocked()
}

// sendNowLocked writes what the watched socket takes at once; nothing is being sent.
func (w *writer) sendNowLocked() {
	for w.sent < len(w.buf) {
		n, err := w.ev.send(w.buf[w.sent:])
		w.sent += n
		if err != nil {
			w.broken = true
			break
		}
		if w.sent == len(w.buf) {
			break
		}
		if w.slow.Load() {
			w.ev.awaitRoom()
			w.settledLocked() // as far as there is room
			return
		}
		w.slow.Store(true) // and once more: the poller may have been told of room before it could know that anybody wants it
	}
	if w.buf != nil {
		w.emptyLocked()
	}
	if w.slow.Load() {
		w.slow.Store(false)
	}
	w.settledLocked()
}

// depart takes what is to be sent by the ring of the socket's poller, which calls it; nil = nothing.
func (w *writer) depart() []byte {
	w.mu.Lock()
	w.dirty = false
	b := w.buf
	if len(b) == 0 || len(b) > flightLimit || w.sent > 0 || w.flying > 0 || w.broken || w.slow.Load() || w.closing || w.ev.closed() {
		if w.flying == 0 && !w.slow.Load() {
			w.sendNowLocked()
		}
		w.endLocked()
		return nil
	}
	w.buf, w.flying = nil, int32(len(b)) //nolint:gosec // it is short
	w.mu.Unlock()
	return b
}

// landed tells what became of b, which was taken to be sent: so many bytes were, none if n is not positive.
func (w *writer) landed(b []byte, n int) {
	w.mu.Lock()
	w.flying = 0
	switch {
	case n == len(b) || w.broken:
		w.bufs().giveBack(b)
	default:
		if w.buf == nil {
			w.buf = b
		} else {
			more := w.buf
			w.buf = w.bufs().extend(b, more[w.sent:])
			w.bufs().giveBack(more)
		}
		w.sent = max(n, 0)
		w.sendNowLocked() // an error is met again
	}
	if len(w.buf) > w.sent && !w.slow.Load() {
		w.sendLocked()
	} else {
		w.settledLocked()
	}
	w.endLocked()
}

// writable tells that the watched socket takes more.
func (w *writer) writable() {
	if !w.slow.Load() {
		return
	}
	w.mu.Lock()
	if w.slow.Load() {
		w.sendLocked()
	}
	w.endLocked()
}

// tryLocked writes what the socket takes at once; a goroutine writes the rest.
func (w *writer) tryLocked(g *Goroutines) {
	for w.pendingLocked() > 0 && !w.broken {
		w.sent += w.more.try(w.buf[w.sent:])
		if w.pendingLocked() > 0 {
			w.asideLocked(g)
			return
		}
	}
	w.emptyLocked()
	w.settledLocked()
}

// asideLocked has a goroutine write.
func (w *writer) asideLocked(g *Goroutines) {
	m := w.more
	w.slow.Store(m.try != nil) // else it says nothing of the peer
	switch {
	case m.wake != nil:
		select {
		case m.wake <- struct{}{}:
		default: // it was told
		}
		return
	case m.keeps && !w.broken:
		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		if g.start(func() {
			for range wake {
				w.flushAndWait()
			}
		}) {
			m.wake = wake
			return
		}
	}
	w.mu.Unlock()
	g.spawn(w.flushAndWait)
	w.mu.Lock()
}

// writeLocked writes what is staged, unless somebody does. It releases w.mu meanwhile.
func (w *writer) writeLocked() {
	if w.writing {
		return
	}
	w.writing = true
	for w.pendingLocked() > 0 && !w.broken {
		b, sent, nc := w.buf, w.sent, w.ncLocked()
		w.buf, w.sent = nil, 0
		w.mu.Unlock()
		_, err := nc.Write(b[sent:])
		w.mu.Lock()
		w.bufs().giveBack(b)
		if err != nil {
			w.broken = true
			w.emptyLocked()
		}
		w.settledLocked()
	}
	w.writing = false
	w.slow.Store(false)
	w.settledLocked()
}

// settledLocked tells those who wait for room, if there is some.
func (w *writer) settledLocked() {
	m := w.more
	if m == nil {
		return
	}
	if m.waiting > 0 {
		m.drained.Broadcast()
	}
	if len(m.held) > 0 && (w.pendingLocked() <= writeLimit/2 || w.broken) {
		for _, s := range m.held {
			s.unhold()
		}
		m.held = nil
	}
	w.lessLocked()
}

// endLocked ends a flush, and releases w.mu.
func (w *writer) endLocked() {
	if !w.closing && (w.more == nil || w.more.then == nil) || w.writing || w.pendingLocked() > 0 && !w.broken {
		w.mu.Unlock()
		return
	}
	closing, ends, nc := w.closing, w.ends, w.ncLocked()
	if closing && ends == endsHalf {
		w.ends = endsHalved
	}
	if w.broken {
		ends = endsWhole
	}
	var then func()
	if m := w.more; m != nil {
		then, m.then = m.then, nil
		w.lessLocked()
	}
	w.mu.Unlock()
	switch {
	case !closing || ends == endsHalved:
	case ends == endsHalf && closeHalf(nc):
	default:
		nc.Close()
	}
	if then != nil {
		then()
	}
}

// holdLocked has nothing more read from s while too much waits to be written.
func (w *writer) holdLocked(s *socket) {
	if s == nil {
		return
	}
	if m := w.moreLocked(); !slices.Contains(m.held, s) {
		s.hold()
		m.held = append(m.held, s)
	}
}

// letGo has s read from again, whatever waits: what comes from it is not for this writer any more.
func (w *writer) letGo(s *socket) {
	w.mu.Lock()
	if m := w.more; m != nil {
		if i := slices.Index(m.held, s); i >= 0 {
			m.held = slices.Delete(m.held, i, i+1)
			s.unhold()
			w.lessLocked()
		}
	}
	w.mu.Unlock()
}

// terminate sends a last message, after which the peer closes the socket. If something is before it that the peer may not have got, the end of the stream is
// sent instead: what is half sent must not be completed by the message.
func (w *writer) terminate(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirty && !w.slow.Load() {
		w.sendNowLocked() // it would have been sent next
	}
	nc := w.ncLocked()
	if !w.broken && !w.writing && w.pendingLocked() == 0 {
		nc.Write(b) //nolint:errcheck // the socket is closed next
	} else {
		closeHalf(bareOf(nc)) // that of TLS would wait for what is being written
	}
	w.broken = true // it was the last
}

// busy reports whether the peer is slow to read what it was sent.
func (w *writer) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busyLocked()
}

func (w *writer) busyLocked() bool {
	return !w.broken && (w.slow.Load() || w.writing && w.pendingLocked() > writeLimit)
}

// whenRead calls f once the peer is not slow any more; f of an earlier call is forgotten.
func (w *writer) whenRead(f func()) {
	w.mu.Lock()
	if w.busyLocked() {
		w.moreLocked().then = f
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	f()
}
