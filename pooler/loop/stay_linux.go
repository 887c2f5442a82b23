package loop

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// stay decides how a poller's thread waits in the kernel. Go's scheduler wants to know of calls that wait, to use the thread's processor for other
// goroutines, and to be told of each costs more than all that is done for a message where messages come one by one. Therefore a thread that is busy
// keeps its processor while it waits, and there is one more for each such thread (lend). The scheduler sees a goroutine that runs and runs: when that
// took 10 ms it interrupts it by a signal, as it does at once when all have to stop, for the garbage collector. A wait that was interrupted
// is taken for a long one, and the next gives the processor back.
type stay struct{ idle bool }

// waitsLong is what a wait has to take to be a long one, in nanoseconds.
const waitsLong = 5_000_000

// here reports whether the next wait is to keep the processor.
func (s *stay) here() bool { return !s.idle && interrupts }

// waited tells how a wait that kept it ended.
func (s *stay) waited(errno syscall.Errno) syscall.Errno {
	s.idle = s.idle || errno == syscall.EINTR
	return errno
}

// leave tells that the processor is given back for a wait, and what it returns that the wait is over.
func (s *stay) leave() func() {
	began := nanos()
	return func() { s.idle = nanos()-began > waitsLong }
}

// interrupts reports whether the scheduler interrupts goroutines at all.
var interrupts = !strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff") // to whatever: nobody sets it but to have none

// lent are the processors of Go's scheduler that are there for pollers that keep one.
var lent struct {
	sync.Mutex
	n int
}

// lend makes n processors more; negative to take them back.
func lend(n int) {
	lent.Lock()
	defer lent.Unlock()
	lent.n += n
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}

// ownProcessors are those that are there for everything else.
func ownProcessors() int {
	lent.Lock()
	defer lent.Unlock()
	return runtime.GOMAXPROCS(0) - lent.n
}
