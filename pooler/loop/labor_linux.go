package loop

import (
	"encoding/binary"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// labor does what sessions leave to others because it would hold up a thread: parses of new texts, above all. Its threads are few, so that a flood of new texts
// is no flood of threads, and patient: whoever wakes up to send a message on does not wait for them.
type labor struct {
	fd   int // an eventfd(2) that counts who is to wake up
	most int // threads
	wait sync.WaitGroup

	mu struct {
		sync.Mutex
		queue   []func()
		threads int
		idle    int // of them; whoever is to wake up is not
		closed  bool
	}
}

func newLabor() (*labor, error) {
	const efdSemaphore, efdCloexec = 1, 0x80000
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, efdSemaphore|efdCloexec, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	return &labor{fd: int(fd), most: max(2, ownProcessors())}, nil
}

// do has a thread run job, in its turn. Jobs are brief, and wait for no other but one that has begun.
func (l *labor) do(job func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.queue = append(l.mu.queue, job)
	switch {
	case l.mu.idle > 0:
		l.mu.idle--
		l.wake()
	case l.mu.threads < l.most:
		l.mu.threads++
		l.wait.Go(l.run)
	}
}

func (l *labor) wake() {
	_, _ = syscall.Write(l.fd, binary.NativeEndian.AppendUint64(nil, 1))
}

func (l *labor) run() {
	runtime.LockOSThread() // it ends with this
	lend(1)
	defer lend(-1)
	sliceOfThread(patient)
	for {
		job := l.next()
		if job == nil {
			return
		}
		job()
	}
}

// next waits for a job; nil = there will be none.
func (l *labor) next() func() {
	for {
		l.mu.Lock()
		if len(l.mu.queue) > 0 {
			job := l.mu.queue[0]
			l.mu.queue[0] = nil
			if l.mu.queue = l.mu.queue[1:]; len(l.mu.queue) == 0 {
				l.mu.queue = nil
			}
			l.mu.Unlock()
			return job
		}
		if l.mu.closed {
			l.mu.Unlock()
			return nil
		}
		l.mu.idle++
		l.mu.Unlock()
		var b [8]byte
		for {
			if _, err := syscall.Read(l.fd, b[:]); err != syscall.EINTR {
				break
			}
		}
	}
}

// close ends the threads when they have done what there is to do.
func (l *labor) close() {
	l.mu.Lock()
	l.mu.closed = true
	for range l.mu.idle {
		l.wake()
	}
	l.mu.idle = 0
	l.mu.Unlock()
	l.wait.Wait()
	syscall.Close(l.fd)
}

// patient is the time slice of threads for which nobody should have to wait, and the longest that there is. From Linux 6.12 on, who wakes up with a shorter
// one than who runs gets the processor at once, and not at the next tick, up to 4 ms later (sched_setattr(2)). It takes nothing of a thread's share.
const patient = 100 * time.Millisecond

// sliceOfThread sets the calling thread's slice. Where there is no such thing, all is as without it.
func sliceOfThread(d time.Duration) {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return // somebody chose another policy for this process
	}
	attr.Runtime = uint64(d)          //nolint:gosec // nanoseconds
	_ = unix.SchedSetAttr(0, attr, 0) // as above
}
