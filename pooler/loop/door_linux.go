package loop

import (
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// door is a listening socket that a poller watches: who comes is taken by the thread that serves him, and no other has to be woken for it.
type door struct {
	p      *poller
	fd     int
	enter  func(net.Conn)
	failed func(error)
	shut   atomic.Bool
	gone   chan struct{} // closed when the descriptor is

	// The poller's.
	at      int // its place in poller.doors
	watched bool
	empty   int           // events in a row for which nobody was there
	pause   time.Duration // behind the last failure
}

// Descriptors may be used up: those who are served go on meanwhile, and some will leave.
const (
	doorPause    = time.Millisecond
	maxDoorPause = time.Second
)

// doorTurn is how many are let in before others have their turn.
const doorTurn = 16

// maxEmpty is how often in a row nobody may be there.
const maxEmpty = 100

// doorSlot tells the events of a door from those of sockets; it is less than 0.
const doorSlot = -2

// Listen has a poller accept the clients of ln, and hand each to enter, which waits for nothing; failed hears why one could not be accepted. What it returns
// ends that, and ln is none any more when it has returned. It returns nil where that can't be had, or ln is closed.
func (g *Goroutines) Listen(ln net.Listener, enter func(net.Conn), failed func(error)) (end func()) {
	s, ok := ln.(syscall.Conn)
	if !ok || g.pollers == nil || len(g.pollers.list) == 0 {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	d := &door{p: g.pollers.list[0], fd: -1, enter: enter, failed: failed, gone: make(chan struct{})}
	err = raw.Control(func(own uintptr) {
		if _, ok := ln.(*net.TCPListener); ok {
			_ = syscall.SetsockoptInt(int(own), syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) // who is accepted has it as well
		}
		if n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, own, syscall.F_DUPFD_CLOEXEC, 0); errno == 0 { // Go's poller knows the other
			d.fd = int(n)
		}
	})
	if err != nil || d.fd < 0 {
		return nil
	}
	d.p.ask(d)
	return d.close
}

// close ends it. It waits for the poller, which must not call it.
func (d *door) close() {
	if !d.shut.Swap(true) {
		_ = syscall.Shutdown(d.fd, syscall.SHUT_RDWR) // nobody listens from now on, and who watches hears of it
		d.p.ask(d)
	}
	<-d.gone
}

// over closes the descriptor. It is called by the poller, or once that has ended.
func (d *door) over() {
	select {
	case <-d.gone:
	default:
		syscall.Close(d.fd)
		close(d.gone)
	}
}

// ask has the poller look at d.
func (p *poller) ask(d *door) {
	p.mu.Lock()
	ended := p.mu.ended
	if !ended {
		p.mu.doors = append(p.mu.doors, d)
		if !p.mu.woken && !p.mu.awake {
			p.mu.woken = true
			p.rouse()
		}
	}
	p.mu.Unlock()
	if ended {
		d.over()
	}
}

// doDoors looks at the doors that it was asked to.
func (p *poller) doDoors(asked []*door) {
	for _, d := range asked {
		if !slices.Contains(p.doors, d) {
			d.at = len(p.doors)
			p.doors = append(p.doors, d)
		}
		switch {
		case !d.shut.Load():
			p.watch(d)
		case p.ring == nil || !d.watched: // else its request ends
			p.unwatch(d)
			d.over()
		}
	}
}

func (p *poller) watch(d *door) {
	if d.watched {
		return
	}
	d.watched = true
	if p.ring != nil {
		p.ring.room()
		p.ring.poll(d.fd, syscall.EPOLLIN, 0, d.request())
		p.ring.ops++
		return
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: doorSlot, Pad: int32(d.at)} //nolint:gosec // there are few
	if err := syscall.EpollCtl(p.ep, syscall.EPOLL_CTL_ADD, d.fd, &ev); err != nil {
		d.watched = false
		p.putOff(d, os.NewSyscallError("epoll_ctl", err))
	}
}

func (d *door) request() uint64 { return forDoor<<56 | uint64(d.at) } //nolint:gosec // there are few

func (p *poller) unwatch(d *door) {
	if d.watched && p.ring == nil {
		_ = syscall.EpollCtl(p.ep, syscall.EPOLL_CTL_DEL, d.fd, nil) // it is there
		d.watched = false
	}
}

// knocked is that somebody came, or that the door is shut.
func (p *poller) knocked(d *door) {
	if p.ring != nil {
		d.watched = false
	}
	if d.shut.Load() {
		p.unwatch(d)
		d.over()
		return
	}
	p.mu.Lock()
	woken := p.mu.woken
	p.mu.woken = true // what is posted meanwhile is looked at next anyway
	p.mu.Unlock()
	n, err := d.admit()
	p.mu.Lock()
	p.mu.woken = woken || len(p.mu.posted)+len(p.mu.doors) > 0
	p.mu.Unlock()
	if err != nil {
		p.putOff(d, err)
	} else {
		if n > 0 {
			d.pause = 0
		}
		p.watch(d)
	}
}

// putOff has nobody let in for a while.
func (p *poller) putOff(d *door, err error) {
	p.unwatch(d)
	d.pause = min(max(doorPause, 2*d.pause), maxDoorPause)
	d.failed(err)
	time.AfterFunc(d.pause, func() { p.ask(d) })
}

// admit lets in who waits, n of them. Who has given up meanwhile is nobody's fault; a socket that calls again and again for nobody is broken.
func (d *door) admit() (n int, err error) {
	for range doorTurn {
		fd, from, err := syscall.Accept4(d.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		switch {
		case err == nil:
			n++
			d.enter(&guest{fd: fd, from: addressOf(from)})
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ECONNABORTED):
		case d.shut.Load():
			return n, nil
		case errors.Is(err, syscall.EAGAIN) && (n > 0 || d.empty < maxEmpty):
			if d.empty++; n > 0 {
				d.empty = 0
			}
			return n, nil
		default:
			return n, os.NewSyscallError("accept4", err)
		}
	}
	d.empty = 0
	return n, nil
}

// addressOf is an address as package net has it.
func addressOf(a syscall.Sockaddr) net.Addr {
	switch a := a.(type) {
	case *syscall.SockaddrInet4:
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
	case *syscall.SockaddrInet6:
		t := &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
		if a.ZoneId != 0 {
			t.Zone = strconv.Itoa(int(a.ZoneId))
			if i, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
				t.Zone = i.Name
			}
		}
		return t
	case *syscall.SockaddrUnix:
		return &net.UnixAddr{Name: a.Name, Net: "unix"}
	}
	return &net.TCPAddr{}
}

// guest is a client that a door has let in, before a poller or a goroutine has him. He is told something at most; nothing waits.
type guest struct {
	fd   int // -1 = others have it
	from net.Addr
}

// known is nc as package net has it.
func known(nc net.Conn) (net.Conn, error) {
	c, ok := nc.(*guest)
	if !ok {
		return nc, nil
	}
	f := os.NewFile(uintptr(c.fd), "client")
	c.fd = -1
	defer f.Close()
	return net.FileConn(f)
}

// Write implements net.Conn as far as the socket takes the bytes at once.
func (c *guest) Write(b []byte) (int, error) { return syscall.Write(c.fd, b) }

// Close implements net.Conn.
func (c *guest) Close() error {
	if c.fd < 0 {
		return net.ErrClosed
	}
	fd := c.fd
	c.fd = -1
	return syscall.Close(fd)
}

// RemoteAddr implements net.Conn.
func (c *guest) RemoteAddr() net.Addr { return c.from }

// LocalAddr implements net.Conn.
func (c *guest) LocalAddr() net.Addr {
	a, err := syscall.Getsockname(c.fd)
	if err != nil {
		return &net.TCPAddr{}
	}
	return addressOf(a)
}

// SyscallConn gives those who ask the kernel about the socket its descriptor; only Control works.
func (c *guest) SyscallConn() (syscall.RawConn, error) { return bareControl(c.fd), nil }

// Read implements net.Conn, and fails.
func (*guest) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline implements net.Conn: nothing waits.
func (*guest) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, likewise.
func (*guest) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, likewise.
func (*guest) SetWriteDeadline(time.Time) error { return nil }

type bareControl int

// Control implements syscall.RawConn.
func (c bareControl) Control(f func(fd uintptr)) error {
	f(uintptr(c))
	return nil
}

// Read implements syscall.RawConn, and fails.
func (bareControl) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write implements syscall.RawConn, and fails.
func (bareControl) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
