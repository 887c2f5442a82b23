package pool

import "time"

// Instant is a time in nanoseconds since the program began, by the monotonic clock; it is never 0, which stands for none, or never. It costs
// a third of what a time.Time does to get and to keep.
type Instant int64

func (t Instant) add(d time.Duration) Instant { return t + Instant(d) }

func (t Instant) sub(u Instant) time.Duration { return time.Duration(t - u) }

// start is the instant 1.
var start = time.Now()

// Now reads the clock.
func Now() Instant { return Instant(time.Since(start)) + 1 }

// NowBy reads another clock; nil = that of Now.
func NowBy(clock func() time.Time) Instant {
	if clock != nil {
		return Instant(clock().Sub(start)) + 1
	}
	return Now()
}

func (p *Pool[C]) now() Instant { return NowBy(p.clock) }

// Time is the time of day, zero for 0.
func (t Instant) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return start.Add(time.Duration(t - 1))
}
