package loop

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// pollers are the threads that wait for the sockets of many, by epoll(7), edge-triggered. A socket stays with one of them, until that has much more
// to do than another (balance). What comes is read into the thread's own buffer and handled at once: an idle connection holds neither a goroutine
// nor a buffer, and no read is tried that is known to find nothing.
type pollers struct {
	list []*poller
	next atomic.Uint32
	lent int // processors
	wait sync.WaitGroup
}

// poller is one of the threads. All but what is in mu belongs to it.
type poller struct {
	ep, wake int
	bufs     buffers
	buf      []byte
	stay     stay
	slots    []*socket // by the number that the kernel hands back
	free     []int32
	local    []*socket   // to be read on after the others had their turn
	ring     *ringPoller // instead of ep; nil = there is none
	balance  balance
	doors    []*door

	mu struct {
		sync.Mutex
		posted []*socket
		doors  []*door // to be looked at
		woken  bool
		closed bool // the thread is to end
		ended  bool // it looks at nothing any more, and its files are closed
		awake  bool // with a ring: the thread handles what came, and looks at posted and dirty before it waits
		dirty  []*writer
	}
	spare, spareLocal []*socket
}

// handler is what a socket's bytes are for. Its methods are called by the poller, one at a time.
type handler interface {
	// received handles bytes, which are the poller's.
	received(b []byte)
	// finished tells that the peer says no more, for which it may yet be told something: then it returns true, and ended follows when the socket is closed.
	finished() bool
	// ended tells that there will be no more, once.
	ended(err error)
}

// readAhead is how long one socket is read from before others have their turn, in nanoseconds.
const readAhead = 200_000

// newPollers starts n threads with buffers of the given size.
func newPollers(n, buffer int) (*pollers, error) {
	ps := &pollers{lent: n}
	lend(n)
	for range n {
		p, err := newPoller(buffer)
		if err != nil {
			ps.close()
			return nil, err
		}
		p.balance.join(ps)
		ps.list = append(ps.list, p)
		ps.wait.Go(p.run)
	}
	ps.introduce()
	return ps, nil
}

// newRingPollers starts n threads with rings, if the kernel has them.
func newRingPollers(n, buffer int) (*pollers, error) {
	probed := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with this
		probed <- probeUring()
	}()
	if err := <-probed; err != nil {
		return nil, err
	}
	ps := &pollers{lent: n}
	lend(n)
	for range n {
		p, err := newRingPoller(ps, buffer)
		if err != nil {
			ps.close()
			return nil, err
		}
		ps.list = append(ps.list, p)
	}
	ps.introduce()
	return ps, nil
}

func newPoller(buffer int) (*poller, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &poller{ep: ep, buf: make([]byte, buffer)}
	if err := p.newWake(); err != nil {
		syscall.Close(ep)
		return nil, err
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | epollET, Fd: -1}
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, p.wake, &ev); err != nil {
		p.closeFiles()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return p, nil
}

const epollET = 1 << 31

func (p *poller) newWake() error {
	const efdNonblock, efdCloexec = 0x800, 0x80000
	wake, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, efdNonblock|efdCloexec, 0)
	if errno != 0 {
		return os.NewSyscallError("eventfd2", errno)
	}
	p.wake = int(wake)
	return nil
}

// close ends the threads; their sockets must be closed.
func (ps *pollers) close() {
	for _, p := range ps.list {
		p.mu.Lock()
		p.mu.closed = true
		if !p.mu.ended {
			p.rouse()
		}
		p.mu.Unlock()
	}
	ps.wait.Wait()
	ps.closeStats()
	lend(-ps.lent)
	ps.lent = 0
}

func (p *poller) closeFiles() {
	if p.ring != nil {
		p.ring.close()
	} else if p.ep >= 0 {
		syscall.Close(p.ep)
	}
	syscall.Close(p.wake)
}

// rouse wakes the thread, which has not ended. The counter need not be read back: every write is an edge.
func (p *poller) rouse() {
	one := uint64(1)
	syscall.Write(p.wake, (*[8]byte)(unsafe.Pointer(&one))[:]) //nolint:errcheck,gosec // full only after 2^64 times
}

// post has the thread look at s, or pass it on if it is another's by then. Where it has ended, a socket that was closed is done with at once.
func (p *poller) post(s *socket) {
	p.mu.Lock()
	if p.mu.ended {
		if s.p.Load() != p {
			p.mu.Unlock()
			s.post()
			return
		}
		last := s.closed() && !s.removed
		s.removed = s.removed || last
		p.mu.Unlock()
		if last {
			s.finish()
		}
		return
	}
	p.mu.posted = append(p.mu.posted, s)
	if !p.mu.woken && !p.mu.awake {
		p.mu.woken = true
		p.rouse()
	}
	p.mu.Unlock()
}

func (p *poller) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with it
	defer p.closeFiles()
	p.balance.measured()
	var events [128]syscall.EpollEvent
	for {
		n := p.next(&events)
		for i := range events[:n] {
			ev := &events[i]
			if ev.Fd < 0 {
				if ev.Fd == doorSlot {
					p.knocked(p.doors[ev.Pad])
				}
				continue
			}
			if s := p.slots[ev.Fd]; s != nil && s.generation == ev.Pad {
				p.happened(s, ev.Events)
			}
		}
		if p.doPosted() {
			p.end()
			return
		}
		p.turned()
	}
}

// end is the end of the thread, when nobody has asked for anything more.
func (p *poller) end() {
	for {
		p.mu.Lock()
		posted, doors := p.mu.posted, p.mu.doors
		p.mu.posted, p.mu.doors, p.mu.ended = nil, nil, len(posted) == 0
		p.mu.Unlock()
		for _, d := range slices.Concat(doors, p.doors) {
			d.over()
		}
		if len(posted) == 0 {
			return
		}
		for _, s := range posted {
			switch {
			case s.p.Load() != p:
				s.post()
			case s.closed():
				p.remove(s)
			}
		}
	}
}

// next waits for events.
func (p *poller) next(events *[128]syscall.EpollEvent) int {
	timeout := -1
	if len(p.local) > 0 {
		timeout = 0
	}
	for {
		n, errno := p.await(events, timeout)
		switch errno {
		case 0:
			return n
		case syscall.EINTR:
		default:
			panic(os.NewSyscallError("epoll_wait", errno)) // the descriptor is ours, and open
		}
	}
}

// await waits for events, or for the time-out in milliseconds; -1 = for ever.
func (p *poller) await(events *[128]syscall.EpollEvent, timeout int) (int, syscall.Errno) {
	if timeout == 0 || p.stay.here() {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.ep), uintptr(unsafe.Pointer(events)), uintptr(len(events)), uintptr(timeout), 0, 0) //nolint:gosec // it has no other way
		return int(n), p.stay.waited(errno)
	}
	defer p.stay.leave()()
	n, _, errno := syscall.Syscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.ep), uintptr(unsafe.Pointer(events)), uintptr(len(events)), uintptr(timeout), 0, 0) //nolint:gosec // as above
	return int(n), errno
}

func (p *poller) happened(s *socket, events uint32) {
	if events&syscall.EPOLLOUT != 0 {
		s.w.writable()
	}
	if events&^syscall.EPOLLOUT != 0 && !s.queued {
		p.read(s, events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0)
	}
}

// read reads what is there. A read that does not fill the buffer has emptied the socket, and what comes later is a new edge; end says that
// the end is to be looked for nevertheless. Who has sent more than can be handled in a short time goes on when the others had their turn.
func (p *poller) read(s *socket, end bool) {
	if p.ring != nil {
		p.ringLook(s)
		return
	}
	began := int64(0)
	for {
		if s.gone || s.silent || s.paused.Load() != 0 {
			return
		}
		n, errno := s.read(p.buf)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return
		case errno != 0:
			s.end(os.NewSyscallError("read", errno))
			return
		case n == 0:
			s.endOfInput()
			return
		}
		p.hand(s, p.buf[:n])
		if n < len(p.buf) && !end {
			return
		}
		now := nanos()
		if began == 0 {
			began = now
		} else if now-began >= readAhead {
			break
		}
	}
	if !s.queued {
		s.queued = true
		p.local = append(p.local, s)
	}
}

// doPosted does what was asked for. It returns true at the end.
func (p *poller) doPosted() bool {
	p.mu.Lock()
	posted, doors, closed := p.mu.posted, p.mu.doors, p.mu.closed
	p.mu.posted, p.mu.doors, p.mu.woken = p.spare[:0], nil, false
	p.mu.Unlock()
	if doors != nil {
		p.doDoors(doors)
	}
	local := p.local
	p.local = p.spareLocal[:0]
	for _, s := range local {
		if s.p.Load() == p && s.queued {
			s.queued = false
			p.read(s, true)
		}
	}
	clear(local)
	p.spareLocal = local[:0]
	for _, s := range posted {
		switch {
		case s.p.Load() != p:
			s.post()
		case s.closed():
			p.remove(s)
		case s.slot < 0:
			p.add(s)
		case !s.queued || p.ring != nil:
			p.read(s, true)
		}
	}
	clear(posted)
	p.spare = posted[:0]
	return closed // nobody has anything to post any more
}

// add begins to watch s.
func (p *poller) add(s *socket) {
	if n := len(p.free); n > 0 {
		s.slot, p.free = p.free[n-1], p.free[:n-1]
		p.slots[s.slot] = s
	} else {
		s.slot = int32(len(p.slots)) //nolint:gosec // there are fewer descriptors
		p.slots = append(p.slots, s)
	}
	p.generation(s)
	if s.moving {
		s.moving = false
		p.balance.settles(s)
	}
	if p.ring != nil {
		p.ringLook(s)
		return
	}
	ev := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollET, Fd: s.slot, Pad: s.generation,
	}
	if err := syscall.EpollCtl(p.ep, syscall.EPOLL_CTL_ADD, s.fd, &ev); err != nil {
		s.end(os.NewSyscallError("epoll_ctl", err))
	}
}

var generations atomic.Int32

// generation tells the socket of a slot from those that had it before.
func (p *poller) generation(s *socket) { s.generation = generations.Add(1) }

// remove forgets a socket that was closed.
func (p *poller) remove(s *socket) {
	if s.removed {
		return
	}
	s.removed = true // guarded by p.mu once the thread has ended
	if p.ring != nil {
		p.ringRemove(s)
		return
	}
	if s.slot >= 0 {
		p.slots[s.slot] = nil
		p.free = append(p.free, s.slot)
	}
	s.finish()
}

// defaultPollers is how many threads serve sockets where nobody says: half of the processors, for servers are often beside them, and each thread
// more costs those that would do wake-ups.
func defaultPollers() int { return max(1, ownProcessors()/2) }
