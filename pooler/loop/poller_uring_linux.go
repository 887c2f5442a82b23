package loop

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
)

// A poller with a ring reads and writes by io_uring(7) instead of epoll(7), read(2) and write(2): what it was told to do while it handled what
// came goes to the kernel in one call, with the wait for what comes next.
//
// Each socket that is read from has a request that receives again and again, into buffers of the ring. What comes although nobody wants it
// now is put aside, and the request ended until somebody does; then the socket is read from as by the others until it is empty.
//
// What is written while the thread is at work, by whomever, is sent when it has done, if it is short; each such sending is over when the call
// returns, and what the socket did not take is written as by the others: when there is room.
type ringPoller struct {
	*uring
	came    []cqe    // not handled yet
	flights []flight // the kernel has, or had in the last call
	ops     int      // requests that have not ended
	ending  bool
	see     func(cqe)
	spare   []*writer

	// last is the socket that came last in this turn, and when it came a second time.
	last  *socket
	began int64
}

// ringBuffer is what a request receives at once, in bytes: most of what comes is short.
const ringBuffer = 16 << 10

// flight is bytes that are being sent.
type flight struct {
	w   *writer
	b   []byte
	res int32
}

// What a request is for; its data holds that, the slot, and the generation of the socket.
const (
	forReading = iota + 1
	forRoom
	forSending
	forWaking
	forDoor
	forCancelling
)

// aside is what came from a socket while nobody wanted it.
type aside struct {
	parts [][]byte // lent
	at    int      // in the first
	err   error
}

func (l *aside) put(bufs *buffers, b []byte) {
	for len(b) > 0 {
		last := len(l.parts) - 1
		if last < 0 || len(l.parts[last]) == cap(l.parts[last]) {
			l.parts = append(l.parts, bufs.lend(largeBuffer))
			last++
		}
		part := l.parts[last]
		n := min(len(b), cap(part)-len(part))
		l.parts[last] = append(part, b[:n]...)
		b = b[n:]
	}
}

// next hands over some of what was put aside.
func (l *aside) next(p *poller, s *socket) {
	part := l.parts[0]
	from := l.at
	l.at = min(len(part), from+len(p.buf))
	p.hand(s, part[from:l.at])
	if l.at == len(part) {
		p.bufs.giveBack(part)
		l.parts, l.at = l.parts[1:], 0
	}
}

// drop forgets what was put aside.
func (s *socket) drop(bufs *buffers) {
	if l := s.late; l != nil {
		s.late = nil
		for _, part := range l.parts {
			bufs.giveBack(part)
		}
	}
}

func (s *socket) request(kind uint64) uint64 {
	return kind<<56 | uint64(uint32(s.slot))<<32 | uint64(uint32(s.generation)) //nolint:gosec // as they are
}

// newRingPoller starts a thread with a ring.
func newRingPoller(ps *pollers, buffer int) (*poller, error) {
	p := &poller{ep: -1, buf: make([]byte, buffer)}
	p.balance.join(ps)
	if err := p.newWake(); err != nil {
		return nil, err
	}
	started := make(chan error)
	ps.wait.Go(func() {
		runtime.LockOSThread() // it ends with this
		u, err := newUring(min(buffer, ringBuffer))
		if err != nil {
			started <- err
			return
		}
		p.ring = &ringPoller{uring: u}
		p.ring.see = p.ring.saw
		p.balance.measured()
		started <- nil
		p.runRing()
	})
	if err := <-started; err != nil {
		p.closeFiles()
		return nil, err
	}
	return p, nil
}

// saw takes note of a completion.
func (r *ringPoller) saw(c cqe) {
	if c.data>>56 == forSending {
		r.flights[c.data&0xffffffff].res = c.res
		return
	}
	r.came = append(r.came, c)
}

// room makes room for a request.
func (r *ringPoller) room() {
	if r.full() {
		r.enter(0, r.see)
	}
}

func (p *poller) runRing() {
	defer p.closeFiles()
	p.watchWake()
	wait := false
	for {
		p.ringTurn(wait)
		if p.doPosted() {
			p.ringEnd()
			return
		}
		p.turned()
		wait = p.depart()
	}
}

// ringTurn handles what came.
func (p *poller) ringTurn(wait bool) {
	r := p.ring
	least := uintptr(0)
	if wait {
		least = 1
	}
	r.enter(least, r.see)
	p.mu.Lock()
	p.mu.awake = true
	p.mu.Unlock()
	for i := range r.flights {
		f := &r.flights[i]
		f.w.landed(f.b, int(f.res))
	}
	clear(r.flights)
	r.flights = r.flights[:0]
	r.last = nil
	for at := 0; at < len(r.came); { // it may grow
		c := r.came[at]
		at++
		p.completed(c)
	}
	r.came = r.came[:0]
	r.last = nil
}

// depart has what was written meanwhile sent with the next call. It reports whether there is nothing else to do.
func (p *poller) depart() bool {
	r := p.ring
	p.mu.Lock()
	writers := p.mu.dirty
	p.mu.dirty, p.mu.awake = r.spare[:0], false
	posted := len(p.mu.posted)+len(p.mu.doors) > 0
	p.mu.Unlock()
	for _, w := range writers {
		if b := w.depart(); b != nil {
			r.room()
			r.flights = append(r.flights, flight{w, b, int32(len(b))})  //nolint:gosec // it is short
			r.send(w.ev.fd, b, forSending<<56|uint64(len(r.flights)-1)) //nolint:gosec // there are few
		}
	}
	clear(writers)
	r.spare = writers[:0]
	return !posted && len(p.local) == 0 && len(r.came) == 0
}

// later has w flushed when the thread has handled what came, if it is at that; w.mu is held.
func (p *poller) later(w *writer) bool {
	p.mu.Lock()
	awake := p.mu.awake
	if awake {
		p.mu.dirty = append(p.mu.dirty, w)
	}
	p.mu.Unlock()
	return awake
}

// kick has the thread see what became of what it had sent.
func (p *poller) kick() {
	p.mu.Lock()
	if !p.mu.awake && !p.mu.woken && !p.mu.ended {
		p.mu.woken = true
		p.rouse()
	}
	p.mu.Unlock()
}

// ringEnd ends all requests, and what was left to do.
func (p *poller) ringEnd() {
	r := p.ring
	for _, s := range p.slots {
		if s != nil {
			p.cancelReading(s)
			p.cancelRoom(s)
		}
	}
	for _, d := range p.doors {
		if d.watched {
			r.room()
			r.cancel(d.request(), forCancelling<<56)
		}
	}
	r.room()
	r.cancel(forWaking<<56, forCancelling<<56)
	p.depart()
	r.ending = true
	for {
		p.ringTurn(r.ops > 0 && len(r.flights) == 0)
		p.depart()
		if r.ops == 0 && len(r.flights) == 0 {
			break
		}
	}
	p.end()
}

func (p *poller) watchWake() {
	p.ring.room()
	p.ring.poll(p.wake, syscall.EPOLLIN, pollMulti, forWaking<<56)
	p.ring.ops++
}

// completed handles the completion of a request.
func (p *poller) completed(c cqe) {
	more := c.flags&cqeMore != 0
	kind := c.data >> 56
	if kind == forCancelling {
		p.notCancelled(c)
		return
	}
	if !more {
		p.ring.ops--
	}
	if kind == forWaking {
		if !more && !p.ring.ending {
			p.watchWake()
		}
		return
	}
	if kind == forDoor {
		if p.ring.ending {
			return
		}
		p.knocked(p.doors[c.data&0xffffffff])
		return
	}
	s := p.slots[c.data>>32&0xffffff] // it is kept until its requests have ended
	switch kind {
	case forReading:
		p.came(s, c, more)
	case forRoom:
		s.awaits = false
		if !s.removed {
			s.w.writable()
		}
	}
	switch {
	case more:
	case s.removed:
		p.ringForget(s)
	case s.moving:
		p.handOver(s)
	}
}

// notCancelled handles a request to cancel that did not. Mostly there was nothing to cancel any more.
func (p *poller) notCancelled(c cqe) {
	slot := int(c.data >> 32 & 0xffffff)
	if syscall.Errno(-c.res) != syscall.EALREADY || slot >= len(p.slots) { //nolint:gosec // it is one
		return
	}
	if s := p.slots[slot]; s != nil && s.request(forCancelling) == c.data {
		s.cancelled = false
		if s.removed || s.moving || p.ring.ending {
			p.cancelReading(s)
			p.cancelRoom(s)
		}
	}
}

// came handles what a socket was sent.
func (p *poller) came(s *socket, c cqe, more bool) {
	if !more {
		s.reads, s.cancelled = false, false
	}
	if c.flags&cqeBuffer != 0 {
		id := uint16(c.flags >> 16)
		if c.res > 0 {
			p.deliver(s, p.ring.buffer(id, c.res))
		}
		p.ring.recycle(id)
	}
	if more || s.removed || s.gone || s.silent {
		return
	}
	switch errno := syscall.Errno(-min(c.res, 0)); { //nolint:gosec // it is one
	case c.res > 0, errno == syscall.ENOBUFS, errno == syscall.ECANCELED, errno == syscall.EINTR, errno == syscall.EAGAIN:
	case c.res == 0:
		s.putAside().err = io.EOF
	default:
		s.putAside().err = os.NewSyscallError("read", errno)
	}
	if !s.queued && !s.moving {
		p.ringRead(s)
	}
}

func (s *socket) putAside() *aside {
	if s.late == nil {
		s.late = &aside{}
	}
	return s.late
}

// deliver hands over what came, or puts it aside. Who has sent more than can be handled in a short time goes on when the others had their turn.
func (p *poller) deliver(s *socket, b []byte) {
	r := p.ring
	switch {
	case s.gone || s.silent || s.removed || r.ending:
		return
	case s.paused.Load() != 0 || s.late != nil:
	case r.last != s:
		r.last, r.began = s, 0
		p.hand(s, b)
		return
	default:
		now := nanos()
		if r.began == 0 {
			r.began = now
		}
		if now-r.began < readAhead {
			p.hand(s, b)
			return
		}
		p.ringQueue(s)
	}
	s.putAside().put(&p.bufs, b)
	s.bulk = true
	p.cancelReading(s)
}

func (p *poller) ringQueue(s *socket) {
	if !s.queued {
		s.queued = true
		p.local = append(p.local, s)
	}
}

// ringRead hands over what was put aside, and then reads on.
func (p *poller) ringRead(s *socket) {
	began := int64(0)
	for s.late != nil || s.bulk && !s.reads {
		switch {
		case s.gone || s.silent || s.removed || p.ring.ending:
			s.drop(&p.bufs)
			return
		case s.paused.Load() != 0:
			return
		case s.late == nil:
			if !p.ringReadOn(s) {
				continue
			}
		case len(s.late.parts) > 0:
			s.late.next(p, s)
		default:
			err := s.late.err
			if s.late = nil; err == io.EOF { //nolint:errorlint // as it was put there
				s.endOfInput()
				return
			} else if err != nil {
				s.end(err)
				return
			}
			continue
		}
		now := nanos()
		if began == 0 {
			began = now
		} else if now-began >= readAhead {
			p.ringQueue(s)
			return
		}
	}
	if s.gone || s.silent || s.removed || p.ring.ending || s.paused.Load() != 0 {
		return
	}
	if !s.reads {
		s.reads = true
		p.ring.room()
		p.ring.receive(s.fd, s.request(forReading))
		p.ring.ops++
	}
}

// ringReadOn reads from a socket that had more than was wanted. It returns false when the socket is empty, or at its end.
func (p *poller) ringReadOn(s *socket) bool {
	n, errno := s.read(p.buf)
	switch {
	case errno == syscall.EINTR:
		return true
	case errno == syscall.EAGAIN:
		s.bulk = false
		return false
	case errno != 0:
		s.end(os.NewSyscallError("read", errno))
		return false
	case n == 0:
		s.endOfInput()
		return false
	}
	p.hand(s, p.buf[:n])
	s.bulk = n == len(p.buf)
	return true
}

// ringLook does what a socket was posted for.
func (p *poller) ringLook(s *socket) {
	if s.moving {
		return // the other does it
	}
	if s.wants.Swap(false) && !s.awaits && !p.ring.ending {
		s.awaits = true
		p.ring.room()
		p.ring.poll(s.fd, syscall.EPOLLOUT, 0, s.request(forRoom))
		p.ring.ops++
	}
	if !s.queued {
		p.ringRead(s)
	}
}

func (p *poller) cancelReading(s *socket) {
	if s.reads && !s.cancelled {
		s.cancelled = true
		p.ring.room()
		p.ring.cancel(s.request(forReading), s.request(forCancelling))
	}
}

func (p *poller) cancelRoom(s *socket) {
	if s.awaits {
		p.ring.room()
		p.ring.cancel(s.request(forRoom), s.request(forCancelling))
	}
}

// ringRemove ends a socket that was closed. Its descriptor, and its slot, are free when its requests have ended.
func (p *poller) ringRemove(s *socket) {
	s.drop(&p.bufs)
	s.end(net.ErrClosed)
	s.w.abandon() // it waits for who is writing
	if s.reads || s.awaits {
		p.cancelReading(s)
		p.cancelRoom(s)
		return
	}
	p.ringForget(s)
}

func (p *poller) ringForget(s *socket) {
	if s.reads || s.awaits {
		return
	}
	if s.slot >= 0 {
		p.slots[s.slot] = nil
		p.free = append(p.free, s.slot)
	}
	s.release()
}

// awaitRoom has the socket's writer told when the socket takes more.
func (s *socket) awaitRoom() {
	if p := s.p.Load(); p != nil && p.ring != nil && !s.wants.Swap(true) {
		p.post(s)
	}
}

// later has what is short sent by the ring; w.mu is held.
func (s *socket) later(w *writer) bool {
	p := s.p.Load()
	return p != nil && p.ring != nil && p.later(w)
}

// kick has the poller go on where it left the writer, whose lock is held.
func (s *socket) kick() { s.p.Load().kick() }
