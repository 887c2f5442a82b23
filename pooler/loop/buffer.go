package loop

import "sync"

// buffers are lent for as long as something is in them: an idle connection has none, and those in use are warm. The last one given back is
// the first to be lent. Each poller has its own, so that the lock is almost always free.
type buffers struct {
	mu    sync.Mutex
	n     int
	small [keptBuffers]*[smallBuffer]byte
}

// keptBuffers is how many small ones are kept.
const keptBuffers = 64

// shared are for connections that no poller watches.
var shared buffers

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// The sizes, in bytes: an answer of some rows, and one more than all that is read at once.
const (
	smallBuffer = 4 << 10
	largeBuffer = 80 << 10
)

// lend returns an empty buffer for n bytes or more.
func (s *buffers) lend(n int) []byte {
	switch {
	case n <= smallBuffer:
		return s.lendSmall()[:0]
	case n <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:0] //nolint:forcetypeassert // it holds nothing else
	}
	return make([]byte, 0, n)
}

func (s *buffers) lendSmall() *[smallBuffer]byte {
	s.mu.Lock()
	if s.n == 0 {
		s.mu.Unlock()
		return new([smallBuffer]byte)
	}
	s.n--
	b := s.small[s.n]
	s.mu.Unlock()
	return b
}

// extend appends to a buffer that was lent, which is given back if it is too small.
func (s *buffers) extend(b, more []byte) []byte {
	n := len(b) + len(more)
	if n <= cap(b) {
		return append(b, more...)
	}
	if n > largeBuffer {
		grown := append(b, more...) //nolint:gocritic // b is another from here on
		s.giveBack(b)
		return grown
	}
	grown := append(append(s.lend(n), b...), more...)
	s.giveBack(b)
	return grown
}

// giveBack ends the loan of b, which may be nil.
func (s *buffers) giveBack(b []byte) {
	switch cap(b) {
	case smallBuffer:
		s.mu.Lock()
		if s.n < keptBuffers {
			s.small[s.n] = (*[smallBuffer]byte)(b[:smallBuffer])
			s.n++
		}
		s.mu.Unlock()
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(b[:largeBuffer]))
	}
}
