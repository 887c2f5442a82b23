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
	out  []byte
	bufs *buffers
	// slow: the socket takes no more for now; the poller, or a goroutine, writes what is left.
	slow atomic.Bool

	mu      sync.Mutex
	ev      *socket // nc, if a poller watches it
	err     error
	buf     []byte // buf[sent:] is to be written
	sent    int
	writing bool  // without mu
	flying  int32 // bytes before buf that are being sent by ev's ring
	dirty   bool  // ev's poller will flush it
	closing bool  // the socket is closed once everything is written
	waiting int   // goroutines that wait for room
	then    func()
	held    []*socket // read from again once there is room

	nc      net.Conn
	try     func(b []byte) int // writes as much as the socket takes at once; nil if that can't be had
	drained sync.Cond
	// wake rouses the goroutine that writes where nothing can be tried; nil = there is none.
	wake chan struct{}
	// keeps: that goroutine stays until the socket's end.
	keeps bool
}

// writeLimit is how much may wait to be written before whoever produces more is made to wait, in bytes.
const writeLimit = 256 << 10

// congested is how much may wait to be written before a client gets no more to do, in bytes.
const congested = 32 << 10

// flightLimit is how much is left to a poller to send, in bytes.
const flightLimit = 16 << 10

func (w *writer) init(nc net.Conn) {
	w.nc, w.try, w.bufs = nc, tryWriter(nc), &shared
	w.drained.L = &w.mu
}

// swap puts TLS in the place of the bare socket.
func (w *writer) swap(nc net.Conn) {
	w.mu.Lock()
	w.nc, w.try = nc, nil
	w.mu.Unlock()
}

// append leaves b to be staged; the machine's lock is held.
func (w *writer) append(b []byte) {
	if w.out == nil {
		w.out = w.bufs.lend(len(b))
	}
	w.out = w.bufs.extend(w.out, b)
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
	case w.err != nil || w.closing:
		w.bufs.giveBack(b)
	case w.buf == nil:
		w.buf, w.sent = b, 0
	default:
		if w.sent > len(w.buf)/2 {
			w.buf, w.sent = w.buf[:copy(w.buf, w.buf[w.sent:])], 0
		}
		w.buf = w.bufs.extend(w.buf, b)
		w.bufs.giveBack(b)
	}
}

// forget drops what a step left that came to a bad end; the machine's lock is held.
func (w *writer) forget() {
	w.bufs.giveBack(w.out)
	w.out = nil
}

// pendingLocked is how many bytes wait.
func (w *writer) pendingLocked() int { return int(w.flying) + len(w.buf) - w.sent }

func (w *writer) emptyLocked() {
	w.bufs.giveBack(w.buf)
	w.buf, w.sent = nil, 0
}

// closeAfter closes the socket after what was staged so far.
func (w *writer) closeAfter() {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
}

// watch puts a socket that a poller watches in the place of nc. It returns false while somebody writes.
func (w *writer) watch(s *socket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing || w.slow.Load() {
		return false
	}
	w.nc, w.try, w.ev = s, nil, s
	if own := s.buffers(); own != nil {
		w.bufs = own
	}
	return true
}

// abandon gives up what was not written: the socket is closed.
func (w *writer) abandon() {
	w.mu.Lock()
	if w.dirty && w.err == nil && !w.slow.Load() {
		w.sendNowLocked() // it would have been sent next
	}
	if w.err == nil {
		w.err = net.ErrClosed
	}
	w.emptyLocked()
	w.settledLocked()
	if w.wake != nil {
		close(w.wake)
		w.wake = nil
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
	case w.try != nil:
		w.tryLocked(g)
	case w.pendingLocked() > 0:
		w.asideLocked(g)
	}
	if w.pendingLocked() > writeLimit && w.err == nil {
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

// roomLocked waits until not too much waits, as long as others write.
func (w *writer) roomLocked(others func() bool) {
	for w.pendingLocked() > writeLimit && w.err == nil && others() {
		w.waiting++
		w.drained.Wait()
		w.waiting--
	}
}

// sendLocked writes what the watched socket takes at once, or leaves it to the socket's poller to do so soon.
func (w *writer) sendLocked() {
	switch n := len(w.buf) - w.sent; {
	case w.flying > 0:
		if n > 0 {
			w.ev.kick() // it is behind what is being sent
		}
		return
	case n == 0 || n > flightLimit || w.err != nil || w.slow.Load():
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
			w.err = err
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
	if len(b) == 0 || len(b) > flightLimit || w.sent > 0 || w.flying > 0 || w.err != nil || w.slow.Load() || w.ev.closed() {
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
	case n == len(b) || w.err != nil:
		w.bufs.giveBack(b)
	default:
		if w.buf == nil {
			w.buf = b
		} else {
			more := w.buf
			w.buf = w.bufs.extend(b, more[w.sent:])
			w.bufs.giveBack(more)
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
	for w.pendingLocked() > 0 && w.err == nil {
		w.sent += w.try(w.buf[w.sent:])
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
	w.slow.Store(w.try != nil) // else it says nothing of the peer
	switch {
	case w.wake != nil:
		select {
		case w.wake <- struct{}{}:
		default: // it was told
		}
		return
	case w.keeps && w.err == nil:
		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		if g.start(func() {
			for range wake {
				w.flushAndWait()
			}
		}) {
			w.wake = wake
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
	for w.pendingLocked() > 0 && w.err == nil {
		b, sent, nc := w.buf, w.sent, w.nc
		w.buf, w.sent = nil, 0
		w.mu.Unlock()
		_, err := nc.Write(b[sent:])
		w.mu.Lock()
		w.bufs.giveBack(b)
		if err != nil {
			w.err = err
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
	if w.waiting > 0 {
		w.drained.Broadcast()
	}
	if len(w.held) > 0 && (w.pendingLocked() <= writeLimit/2 || w.err != nil) {
		for _, s := range w.held {
			s.unhold()
		}
		w.held = nil
	}
}

// endLocked ends a flush, and releases w.mu.
func (w *writer) endLocked() {
	if !w.closing && w.then == nil || w.writing || w.pendingLocked() > 0 && w.err == nil {
		w.mu.Unlock()
		return
	}
	closing, then, nc := w.closing, w.then, w.nc
	w.then = nil
	w.mu.Unlock()
	if closing {
		nc.Close()
	}
	if then != nil {
		then()
	}
}

// holdLocked has nothing more read from s while too much waits to be written.
func (w *writer) holdLocked(s *socket) {
	if s != nil && !slices.Contains(w.held, s) {
		s.hold()
		w.held = append(w.held, s)
	}
}

// letGo has s read from again, whatever waits: what comes from it is not for this writer any more.
func (w *writer) letGo(s *socket) {
	w.mu.Lock()
	if i := slices.Index(w.held, s); i >= 0 {
		w.held = slices.Delete(w.held, i, i+1)
		s.unhold()
	}
	w.mu.Unlock()
}

// terminate sends a last message, if nothing is before it that the peer has not got: what is half sent must not be completed by it.
func (w *writer) terminate(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirty && !w.slow.Load() {
		w.sendNowLocked() // it would have been sent next
	}
	if w.err != nil || w.writing || w.pendingLocked() > 0 {
		return
	}
	w.err = net.ErrClosed // it was the last
	w.nc.Write(b)         //nolint:errcheck // the socket is closed next
}

// busy reports whether the peer is slow to read what it was sent.
func (w *writer) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busyLocked()
}

func (w *writer) busyLocked() bool {
	return w.err == nil && (w.slow.Load() || w.writing && w.pendingLocked() > congested)
}

// whenRead calls f once the peer is not slow any more; f of an earlier call is forgotten.
func (w *writer) whenRead(f func()) {
	w.mu.Lock()
	if w.busyLocked() {
		w.then = f
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	f()
}
