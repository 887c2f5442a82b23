package load

import (
	"math/rand/v2"
	"time"
)

// schedule says when statements are meant to start: at random times with a fixed rate, as independent users send them.
type schedule struct {
	random *rand.Rand
	mean   float64 // nanoseconds between two
	next   float64
}

func newSchedule(rate float64, seed uint64) *schedule {
	s := &schedule{random: rand.New(rand.NewPCG(seed, 0)), mean: 1e9 / rate} //nolint:gosec // the same seed has to give the same times
	s.advance()
	return s
}

// peek is the next time, counted from the begin.
func (s *schedule) peek() time.Duration { return time.Duration(s.next) }

// take is peek, and goes on to the one after.
func (s *schedule) take() time.Duration {
	at := s.peek()
	s.advance()
	return at
}

func (s *schedule) advance() { s.next += s.random.ExpFloat64() * s.mean }
