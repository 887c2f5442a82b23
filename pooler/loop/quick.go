package loop

import (
	"sync/atomic"
	"time"
)

// quick lets the threads that serve many clients do a part of what labor is for themselves: to wake up another thread, and to change over to it and back, takes about
// as long as the parse of a short text. The part is small, for all others wait meanwhile, however many new texts there are.
type quick struct {
	due atomic.Int64 // when as much time as jobs took has passed quickShare times, in nanoseconds; see nanos
}

const (
	// quickShare is the part of the time that jobs may take: one of so many.
	quickShare = 8
	// quickBurst is what they may take at once, or in a row.
	quickBurst = 500 * time.Microsecond
)

// run runs job, if it is its turn.
func (q *quick) run(job func()) bool {
	began := nanos()
	if q.due.Load()-began > int64(quickBurst)*quickShare {
		return false
	}
	job()
	for {
		now, due := nanos(), q.due.Load()
		if q.due.CompareAndSwap(due, max(due, began)+(now-began)*quickShare) {
			return true
		}
	}
}
