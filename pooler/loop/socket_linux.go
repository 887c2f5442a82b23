package loop

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// socket is a connection that a poller watches. It is the net.Conn of those who ask for addresses and deadlines, and can't be read by it.
type socket struct {
	p atomic.Pointer[poller] // it changes under w.mu, and by its own thread only
	h handler
	w *writer

	fd         int
	slot       int32 // -1 before it is watched
	generation int32
	gone       bool // the handler was told of the end
	removed    bool
	queued     bool         // in poller.local
	moving     bool         // to another poller, which ends it
	paused     atomic.Int32 // nothing is read unless it is 0: see pauseInput
	state      atomic.Int32
	window     uint32                     // of its poller, in which something came last
	closer     atomic.Pointer[time.Timer] // of SetWriteDeadline

	// With a ring: requests that read and await room, and whether the first was cancelled.
	reads, awaits, cancelled bool
	bulk                     bool        // it is read from without a request once the one under way has ended
	wants                    atomic.Bool // room is to be awaited
	late                     *aside      // nil = nothing

	weight uint32 // of what came in its window
	silent bool   // the peer says no more
}

// Why nothing is read: whom the bytes are for wants none, or one or more writers have too much to write already.
const (
	pauseInput  = 1
	pauseWriter = 2
)

var _ net.Conn = (*socket)(nil)

// The state is the number of those who use the descriptor, twice, and whether it is to be closed.
const (
	stateClosed = 1
	stateUser   = 2
)

// take makes a socket of nc, which is closed, if it is a bare one. It is not watched before start.
func (ps *pollers) take(nc net.Conn) *socket {
	var raw syscall.RawConn
	var err error
	switch c := nc.(type) {
	case *guest:
		fd := c.fd
		c.fd = -1
		return ps.socket(fd)
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	fd := -1
	err = raw.Control(func(own uintptr) {
		// A descriptor of our own: Go's poller knows the other.
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, own, syscall.F_DUPFD_CLOEXEC, 0)
		if errno == 0 {
			fd = int(n)
		}
	})
	if err != nil || fd < 0 {
		return nil
	}
	return ps.socket(fd)
}

// socket makes a socket of a descriptor.
func (ps *pollers) socket(fd int) *socket {
	s := &socket{fd: fd, slot: -1}
	s.p.Store(ps.list[int(ps.next.Add(1))%len(ps.list)])
	s.state.Store(stateUser) // the poller
	return s
}

// abandon closes a socket that was never started.
func (s *socket) abandon() { syscall.Close(s.fd) }

// serve says what the socket is for; start has it watched.
func (s *socket) serve(h handler, w *writer) { s.h, s.w = h, w }

func (s *socket) start() { s.post() }

// post has the socket's thread look at it.
func (s *socket) post() { s.p.Load().post(s) }

// buffers are those of the poller, for as long as anybody wants them: they may be another's later.
func (s *socket) buffers() *buffers {
	if p := s.p.Load(); p != nil {
		return &p.bufs
	}
	return nil
}

func (s *socket) read(b []byte) (n int, errno syscall.Errno) {
	// The descriptor does not block: the scheduler need not know.
	r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0) //nolint:gosec // as syscall.Recvfrom does
	return int(r), errno
}

// send writes what the socket takes at once. It is called under the lock of the socket's writer, by which the poller knows that nobody does
// when it closes the descriptor.
func (s *socket) send(b []byte) (n int, err error) {
	if s.closed() {
		return 0, net.ErrClosed
	}
	for n < len(b) {
		r, errno := s.sendSome(b[n:])
		switch errno {
		case 0:
			n += int(r)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, os.NewSyscallError("write", errno)
		}
	}
	return n, nil
}

// sendSome is send(2), which has less to do than write(2). What is no socket is written to.
func (s *socket) sendSome(b []byte) (n uintptr, errno syscall.Errno) {
	n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), //nolint:gosec // as syscall.Sendto does
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno == syscall.ENOTSOCK {
		n, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))) //nolint:gosec // as syscall.Write does
	}
	return n, errno
}

func (s *socket) acquire() bool {
	for {
		v := s.state.Load()
		if v&stateClosed != 0 {
			return false
		}
		if s.state.CompareAndSwap(v, v+stateUser) {
			return true
		}
	}
}

func (s *socket) release() {
	if s.state.Add(-stateUser) == stateClosed {
		syscall.Close(s.fd)
	}
}

func (s *socket) closed() bool { return s.state.Load()&stateClosed != 0 }

// end tells the handler, once. It is called by the poller.
func (s *socket) end(err error) {
	if !s.gone {
		s.gone = true
		s.h.ended(err)
	}
}

// endOfInput is that the peer says no more. It is called by the poller.
func (s *socket) endOfInput() {
	if s.silent = s.h.finished(); !s.silent {
		s.end(io.EOF)
	}
}

// finish ends a socket that was closed.
func (s *socket) finish() {
	s.end(net.ErrClosed)
	s.w.abandon() // it waits for who is writing
	s.release()
}

// pause has nothing read until resume.
func (s *socket) pause() { s.paused.Or(pauseInput) }

// resume is the end of pause, if there was one.
func (s *socket) resume() {
	if s.paused.Load()&pauseInput != 0 && s.paused.And(^pauseInput) == pauseInput {
		s.post()
	}
}

// hold has nothing read until unhold; others may do the same.
func (s *socket) hold() { s.paused.Add(pauseWriter) }

// unhold is the end of hold.
func (s *socket) unhold() {
	if s.paused.Add(-pauseWriter) == 0 {
		s.post()
	}
}

// isHeld reports whether there was a hold without an unhold.
func (s *socket) isHeld() bool { return s.paused.Load() >= pauseWriter }

// Close implements net.Conn: the handler is told, and then the descriptor closed.
func (s *socket) Close() error {
	for {
		v := s.state.Load()
		if v&stateClosed != 0 {
			return net.ErrClosed
		}
		if s.state.CompareAndSwap(v, v|stateClosed) {
			if t := s.closer.Swap(nil); t != nil {
				t.Stop()
			}
			s.post()
			return nil
		}
	}
}

// CloseWrite tells the peer that nothing more is sent; what is being sent may not be.
func (s *socket) CloseWrite() error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	return syscall.Shutdown(s.fd, syscall.SHUT_WR)
}

// Read implements net.Conn, and fails.
func (s *socket) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Write implements net.Conn as far as the socket takes the bytes at once.
func (s *socket) Write(b []byte) (int, error) {
	n, err := s.send(b)
	if err == nil && n < len(b) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// LocalAddr implements net.Conn.
func (s *socket) LocalAddr() net.Addr { return s.address(syscall.Getsockname) }

// RemoteAddr implements net.Conn.
func (s *socket) RemoteAddr() net.Addr { return s.address(syscall.Getpeername) }

func (s *socket) address(get func(int) (syscall.Sockaddr, error)) net.Addr {
	if !s.acquire() {
		return &net.TCPAddr{}
	}
	defer s.release()
	a, err := get(s.fd)
	if err != nil {
		return &net.TCPAddr{}
	}
	return addressOf(a)
}

// SyscallConn gives those who ask the kernel about the socket its descriptor; only Control works.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return control{s}, nil }

type control struct{ s *socket }

// Control implements syscall.RawConn.
func (c control) Control(f func(fd uintptr)) error {
	if !c.s.acquire() {
		return net.ErrClosed
	}
	defer c.s.release()
	f(uintptr(c.s.fd))
	return nil
}

// Read implements syscall.RawConn, and fails.
func (control) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write implements syscall.RawConn, and fails.
func (control) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// SetDeadline implements net.Conn, and fails.
func (s *socket) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.Conn, and fails.
func (s *socket) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.Conn for who closes the socket next: it is closed by then, whatever was written.
func (s *socket) SetWriteDeadline(t time.Time) error {
	timer := time.AfterFunc(time.Until(t), func() { s.Close() })
	if old := s.closer.Swap(timer); old != nil {
		old.Stop()
	}
	if s.closed() {
		timer.Stop() // whichever of both came first
	}
	return nil
}
