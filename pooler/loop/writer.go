package loop

import (
	"net"
	"sync"
)

// writer sends to one socket. Whoever steps a machine appends to it and then flushes: one goroutine at a time
// writes, in order, and what is appended meanwhile goes out with its next write.
type writer struct {
	nc net.Conn

	mu      sync.Mutex
	drained sync.Cond
	buf     []byte
	spare   []byte
	writing bool
	closing bool // the socket is closed once everything is written
	err     error
}

// writeLimit is how much may wait to be written before whoever produces more is made to wait, in bytes.
const writeLimit = 256 << 10

func (w *writer) init(nc net.Conn) {
	w.nc = nc
	w.drained.L = &w.mu
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

// flush writes what was appended. When another goroutine is writing it returns at once, unless too much waits already: then it waits for room.
func (w *writer) flush() {
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
		if cap(b) <= 64<<10 {
			w.spare = b[:0]
		}
		if err != nil {
			w.err = err
			w.buf = nil
		}
		w.drained.Broadcast()
	}
	w.writing = false
	closing := w.closing
	w.drained.Broadcast()
	w.mu.Unlock()
	if closing {
		w.nc.Close()
	}
}

// pending is how many bytes wait.
func (w *writer) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf)
}
