package loop

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// writer sends to one socket. Whoever steps a machine appends to it and then flushes: one goroutine at a time
// writes, in order, and what is appended meanwhile goes out with its next write.
type writer struct {
	nc  net.Conn
	try func(b []byte) int     // writes as much as the socket takes at once; nil if that can't be had
	ev  atomic.Pointer[socket] // nc, if a poller watches it: nobody waits then

	mu      sync.Mutex
	drained sync.Cond
	buf     []byte
	spare   []byte
	writing bool
	stuck   bool      // the socket takes no more for now: a goroutine, or the poller, writes what is left
	closing bool      // the socket is closed once everything is written
	then    func()    // called once everything is written
	held    []*socket // read from again once there is room
	// ev: a write is under way, or not all was taken; and whether the socket has taken more since the write began.
	sending, again atomic.Bool
	err            error
}

// writeLimit is how much may wait to be written before whoever produces more is made to wait, in bytes.
const writeLimit = 256 << 10

// congested is how much may wait to be written before a client gets no more to do, in bytes.
const congested = 32 << 10

func (w *writer) init(nc net.Conn) {
	w.nc, w.try = nc, tryWriter(nc)
	w.drained.L = &w.mu
}

// swap puts TLS in the place of the bare socket.
func (w *writer) swap(nc net.Conn) {
	w.mu.Lock()
	w.nc, w.try = nc, nil
	w.mu.Unlock()
}

func (w *writer) append(b []byte) {
	w.mu.Lock()
	if w.err == nil && !w.closing {
		if w.buf == nil {
			w.buf, w.spare = w.spare, nil
		}
		w.buf = append(w.buf, b...)
	}
	w.mu.Unlock()
}

// closeAfter closes the socket after what was appended so far.
func (w *writer) closeAfter() {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
}

// watch puts a socket that a poller watches in the place of nc. It returns false while somebody writes.
func (w *writer) watch(s *socket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing {
		return false
	}
	w.nc, w.try = s, nil
	w.ev.Store(s)
	return true
}

// abandon gives up what was not written: the socket is closed.
func (w *writer) abandon() {
	w.mu.Lock()
	if w.err == nil {
		w.err = net.ErrClosed
	}
	w.buf = nil
	w.unhold()
	w.drained.Broadcast()
	w.mu.Unlock()
}

// flushNow writes what the watched socket takes; the poller goes on with the rest.
func (w *writer) flushNow() {
	w.mu.Lock()
	if w.writing {
		w.mu.Unlock()
		return
	}
	w.writing = true
	w.sending.Store(true)
	for len(w.buf) > 0 && w.err == nil {
		b := w.buf
		w.buf = nil
		w.again.Store(false)
		w.mu.Unlock()
		n, err := w.ev.Load().send(b)
		w.mu.Lock()
		if err == nil && n < len(b) {
			rest := b[n:]
			if w.buf != nil || n > 0 {
				rest = append(slices.Clip(rest), w.buf...)
			}
			w.buf = rest
			if w.again.Load() {
				continue
			}
			w.writing, w.stuck = false, true
			w.drained.Broadcast()
			w.mu.Unlock()
			return
		}
		w.wrote(b, err)
	}
	w.sending.Store(false)
	w.end()
}

// writable tells that the watched socket takes more.
func (w *writer) writable() {
	if !w.sending.Load() {
		return
	}
	w.again.Store(true)
	w.mu.Lock()
	stuck := w.stuck && !w.writing
	w.mu.Unlock()
	if stuck {
		w.flushNow()
	}
}

// hold has nothing more read from s while too much waits to be written.
func (w *writer) hold(s *socket) {
	w.mu.Lock()
	if len(w.buf) > writeLimit && w.err == nil {
		s.pause()
		w.held = append(w.held, s)
	}
	w.mu.Unlock()
}

// unhold is the opposite, once there is room; w.mu is held.
func (w *writer) unhold() {
	if len(w.held) == 0 || len(w.buf) > writeLimit/2 && w.err == nil {
		return
	}
	for _, s := range w.held {
		s.resume()
	}
	w.held = nil
}

// flush writes what was appended. When another goroutine is writing it returns at once, unless too much waits already: then it waits for room.
func (w *writer) flush() {
	if w.ev.Load() != nil {
		w.flushNow()
		w.mu.Lock()
		for len(w.buf) > writeLimit && w.err == nil {
			w.drained.Wait()
		}
		w.mu.Unlock()
		return
	}
	w.mu.Lock()
	for w.writing && len(w.buf) > writeLimit && w.err == nil {
		w.drained.Wait()
	}
	if w.writing {
		w.mu.Unlock()
		return
	}
	w.writing = true
	for len(w.buf) > 0 && w.err == nil {
		b := w.buf
		w.buf = nil
		w.mu.Unlock()
		_, err := w.nc.Write(b)
		w.mu.Lock()
		w.wrote(b, err)
	}
	w.end()
}

// flushAside is flush for those who must not wait for the peer: what the socket doesn't take at once is left to a goroutine started by spawn.
func (w *writer) flushAside(spawn func(func())) {
	if w.ev.Load() != nil {
		w.flushNow()
		return
	}
	w.mu.Lock()
	if w.writing {
		w.mu.Unlock()
		return
	}
	for len(w.buf) > 0 && w.err == nil {
		n := 0
		b := w.buf
		w.buf = nil
		if w.try != nil {
			w.writing = true
			w.mu.Unlock()
			n = w.try(b)
			w.mu.Lock()
		}
		if n < len(b) {
			if n > 0 || w.buf != nil {
				b = append(b[n:], w.buf...)
			}
			w.buf, w.writing, w.stuck = b, false, true
			w.mu.Unlock()
			spawn(w.flush)
			return
		}
		w.wrote(b, nil)
	}
	w.end()
}

// wrote notes that b was written; w.mu is held.
func (w *writer) wrote(b []byte, err error) {
	if cap(b) <= 64<<10 {
		w.spare = b[:0]
	}
	if err != nil {
		w.err = err
		w.buf = nil
	}
	w.unhold()
	w.drained.Broadcast()
}

// end ends a flush; w.mu is held, and released.
func (w *writer) end() {
	w.writing, w.stuck = false, false
	w.unhold()
	closing, then := w.closing, w.then
	w.then = nil
	w.drained.Broadcast()
	w.mu.Unlock()
	if closing {
		w.nc.Close()
	}
	if then != nil {
		then()
	}
}

// busy reports whether the peer is slow to read what it was sent.
func (w *writer) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busyLocked()
}

func (w *writer) busyLocked() bool {
	return w.err == nil && (w.stuck || w.writing && len(w.buf) > congested)
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
