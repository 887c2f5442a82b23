package loop

import "sync"

// Buffers are lent for as long as something is in them: an idle connection has none, and those in use are warm.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// The sizes, in bytes: an answer of some rows, and one more than all that is read at once.
const (
	smallBuffer = 4 << 10
	largeBuffer = 80 << 10
)

// lend returns an empty buffer for n bytes or more.
func lend(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:0] //nolint:forcetypeassert // it holds nothing else
	case n <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:0] //nolint:forcetypeassert // it holds nothing else
	}
	return make([]byte, 0, n)
}

// extend appends to a buffer that was lent, which is given back if it is too small.
func extend(b, more []byte) []byte {
	n := len(b) + len(more)
	if n <= cap(b) {
		return append(b, more...)
	}
	if n > largeBuffer {
		grown := append(b, more...) //nolint:gocritic // b is another from here on
		giveBack(b)
		return grown
	}
	grown := append(append(lend(n), b...), more...)
	giveBack(b)
	return grown
}

// giveBack ends the loan of b, which may be nil.
func giveBack(b []byte) {
	switch cap(b) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(b[:largeBuffer]))
	}
}
