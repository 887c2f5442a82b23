package pool

import "time"

// instant is a time in nanoseconds since the pool was made; it is never 0, which stands for none, or never. It costs a third of what a
// time.Time does to get and to keep.
type instant int64

func (t instant) add(d time.Duration) instant { return t + instant(d) }

func (t instant) sub(u instant) time.Duration { return time.Duration(t - u) }

// now reads the clock.
func (p *Pool[C]) now() instant {
	if p.clock != nil {
		return instant(p.clock().Sub(p.made)) + 1
	}
	return instant(time.Since(p.made)) + 1
}

// time is what others call an instant.
func (p *Pool[C]) time(t instant) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return p.made.Add(time.Duration(t - 1))
}
