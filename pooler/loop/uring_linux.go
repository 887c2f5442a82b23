package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// uring is an io_uring(7) with its own buffers to receive into. It belongs to one thread, which made it. The kernel looks at what is in it, and at
// what it points to, while that thread is in enter, and at no other time: requests that wait for a socket go on in there too.
type uring struct {
	fd int

	sqHead, sqTail, sqFlags *uint32
	sqes                    []sqe
	tail                    uint32 // of requests that were made; the kernel knows of those up to *sqTail

	cqHead, cqTail *uint32
	cqes           []cqe

	// Buffers that the kernel may take, in a ring of their own, and what is in them.
	size     int
	bufRing  []byte
	bufMem   []byte
	bufTail  uint16
	firstBid uint16

	stay   stay
	mapped [][]byte
	params uringParams
}

type sqe struct {
	op, flags uint8
	ioprio    uint16
	fd        int32
	off, addr uint64
	len       uint32
	opFlags   uint32
	data      uint64
	bufGroup  uint16
	_         uint16
	_         uint32
	_         [2]uint64
}

type cqe struct {
	data  uint64
	res   int32
	flags uint32
}

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct{ head, tail, mask, entries, flags, dropped, array, _ uint32 }
	_                                                    uint64
	cq                                                   struct{ head, tail, mask, entries, overflow, cqes, flags, _ uint32 }
	_                                                    uint64
}

// From linux/io_uring.h.
const (
	sysUringSetup    = 425
	sysUringEnter    = 426
	sysUringRegister = 427

	setupCQSize       = 1 << 3
	setupSubmitAll    = 1 << 7
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featCQESkip    = 1 << 11

	offSQEs = 0x10000000

	enterGetEvents = 1 << 0
	sqCQOverflow   = 1 << 1

	registerPbufRing = 22

	opPollAdd     = 6
	opAsyncCancel = 14
	opSend        = 26
	opRecv        = 27

	sqeBufferSelect   = 1 << 5
	sqeCQESkipSuccess = 1 << 6

	pollMulti     = 1 << 0
	recvMultishot = 1 << 1

	cqeBuffer = 1 << 0
	cqeMore   = 1 << 1
)

// The sizes of a ring. There is room for what all requests of one call come to, and the buffers, before anything is lost sight of.
const (
	uringEntries     = 512
	uringCompletions = 4096
	uringBuffers     = 64
)

// newUring makes one, on the thread that it will belong to.
func newUring(size int) (*uring, error) {
	if !slices.Contains([]string{"amd64", "arm64", "riscv64", "loong64", "ppc64le"}, runtime.GOARCH) {
		return nil, errors.ErrUnsupported
	}
	u := &uring{fd: -1, size: size}
	if err := u.setup(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

func (u *uring) setup() error {
	p := &u.params
	p.flags, p.cqEntries = setupCQSize|setupSubmitAll|setupSingleIssuer|setupDeferTaskrun, uringCompletions
	fd, _, errno := syscall.Syscall(sysUringSetup, uringEntries, uintptr(unsafe.Pointer(p)), 0) //nolint:gosec // it has no other way
	if errno != 0 {
		return os.NewSyscallError("io_uring_setup", errno)
	}
	u.fd = int(fd)
	if needs := uint32(featSingleMmap | featNoDrop | featCQESkip); p.features&needs != needs {
		return fmt.Errorf("io_uring: %w: features %#x", errors.ErrUnsupported, p.features)
	}
	shared := syscall.MAP_SHARED | syscall.MAP_POPULATE
	rings, err := u.mmap(u.fd, 0, int(max(p.sq.array+4*p.sqEntries, p.cq.cqes+16*p.cqEntries)), shared)
	if err != nil {
		return err
	}
	sqes, err := u.mmap(u.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), shared)
	if err != nil {
		return err
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[off])) } //nolint:gosec // the kernel's word is as good as its memory
	u.sqHead, u.sqTail, u.sqFlags = at(p.sq.head), at(p.sq.tail), at(p.sq.flags)
	u.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&sqes[0])), p.sqEntries) //nolint:gosec // as above
	for i, slot := 0, unsafe.Slice(at(p.sq.array), p.sqEntries); i < len(slot); i++ {
		slot[i] = uint32(i)
	}
	u.cqHead, u.cqTail = at(p.cq.head), at(p.cq.tail)
	u.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&rings[p.cq.cqes])), p.cqEntries) //nolint:gosec // as above
	return u.provide()
}

// provide gives the kernel the buffers.
func (u *uring) provide() error {
	const private = syscall.MAP_PRIVATE | syscall.MAP_ANON
	var err error
	if u.bufRing, err = u.mmap(-1, 0, max(16*uringBuffers, os.Getpagesize()), private); err != nil {
		return err
	}
	if u.bufMem, err = u.mmap(-1, 0, u.size*uringBuffers, private); err != nil {
		return err
	}
	reg := struct {
		addr       uint64
		entries    uint32
		group, pad uint16
		_          [3]uint64
	}{addr: uint64(uintptr(unsafe.Pointer(&u.bufRing[0]))), entries: uringBuffers} //nolint:gosec // as above
	_, _, errno := syscall.Syscall6(sysUringRegister, uintptr(u.fd), registerPbufRing, uintptr(unsafe.Pointer(&reg)), 1, 0, 0) //nolint:gosec // as above
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	for i := range uint16(uringBuffers) {
		u.recycle(i)
	}
	return nil
}

func (u *uring) mmap(fd int, off int64, n, flags int) ([]byte, error) {
	b, err := syscall.Mmap(fd, off, n, syscall.PROT_READ|syscall.PROT_WRITE, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	u.mapped = append(u.mapped, b)
	return b, nil
}

// close ends the ring, when no request is left.
func (u *uring) close() {
	if u.fd >= 0 {
		syscall.Close(u.fd)
	}
	for _, b := range u.mapped {
		syscall.Munmap(b) //nolint:errcheck // it is ours
	}
	u.mapped = nil
}

// buffer is one that the kernel has filled with n bytes.
func (u *uring) buffer(id uint16, n int32) []byte {
	from := int(id) * u.size
	return u.bufMem[from : from+int(n) : from+u.size]
}

// recycle gives a buffer back to the kernel.
func (u *uring) recycle(id uint16) {
	slot := int(u.bufTail % uringBuffers)
	e := u.bufRing[16*slot : 16*slot+16]
	binary.LittleEndian.PutUint64(e, uint64(uintptr(unsafe.Pointer(&u.bufMem[int(id)*u.size])))) //nolint:gosec // as above
	binary.LittleEndian.PutUint32(e[8:], uint32(u.size))                                         //nolint:gosec // it is small
	u.bufTail++
	if slot == 0 {
		u.firstBid = id
	} else {
		binary.LittleEndian.PutUint16(e[12:], id)
	}
	// The tail lies beside the number of the first buffer.
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&u.bufRing[12])), uint32(u.bufTail)<<16|uint32(u.firstBid)) //nolint:gosec // as above
}

// full reports whether there is no room for another request before enter.
func (u *uring) full() bool { return int(u.tail-atomic.LoadUint32(u.sqHead)) == len(u.sqes) }

// request is the place of the next one.
func (u *uring) request() *sqe {
	e := &u.sqes[int(u.tail)&(len(u.sqes)-1)]
	*e = sqe{}
	u.tail++
	return e
}

// enter has the kernel do all requests, and waits for as many completions. Each is given to f, in order. When it returns the kernel has taken
// every request, and has nothing that f was not given.
func (u *uring) enter(wait uintptr, f func(cqe)) {
	for {
		atomic.StoreUint32(u.sqTail, u.tail)
		before := atomic.LoadUint32(u.sqHead)
		var errno syscall.Errno
		head, tail, sent := *u.cqHead, *u.cqHead, false
		if wait == 0 || u.tail-before > 1 {
			// The scheduler is told of what waits only: else it takes the processor away while much is sent.
			_, _, errno = syscall.RawSyscall6(sysUringEnter, uintptr(u.fd), uintptr(u.tail-before), 0, enterGetEvents, 0, 0)
			tail, sent = atomic.LoadUint32(u.cqTail), atomic.LoadUint32(u.sqHead) == u.tail
		}
		if wait > 0 && head == tail && errno == 0 && (sent || u.tail-before <= 1) {
			errno = u.await(wait)
			tail = atomic.LoadUint32(u.cqTail)
		}
		got := head != tail
		for ; head != tail; head++ {
			f(u.cqes[int(head)&(len(u.cqes)-1)])
		}
		atomic.StoreUint32(u.cqHead, head)
		left := atomic.LoadUint32(u.sqHead) != u.tail
		switch errno {
		case 0, syscall.EINTR:
		case syscall.EAGAIN, syscall.EBUSY, syscall.ENOMEM: // no memory for a request, or for completions
			if !got {
				time.Sleep(time.Millisecond)
			}
		default:
			panic(os.NewSyscallError("io_uring_enter", errno)) // the ring is ours, and whole
		}
		if !left && atomic.LoadUint32(u.sqFlags)&sqCQOverflow == 0 {
			return
		}
		if got {
			wait = 0
		}
	}
}

// await does the requests that are left, and waits for completions.
func (u *uring) await(wait uintptr) syscall.Errno {
	left := uintptr(u.tail - atomic.LoadUint32(u.sqHead))
	if u.stay.here() {
		_, _, errno := syscall.RawSyscall6(sysUringEnter, uintptr(u.fd), left, wait, enterGetEvents, 0, 0)
		return u.stay.waited(errno)
	}
	defer u.stay.leave()()
	_, _, errno := syscall.Syscall6(sysUringEnter, uintptr(u.fd), left, wait, enterGetEvents, 0, 0)
	return errno
}

var errOldKernel = errors.New("the kernel is older than Linux 6.12")

// uringRelease reports whether a kernel's release is one whose io_uring is trusted: there were many changes before.
func uringRelease(release string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return n == 2 && (major > 6 || major == 6 && minor >= 12)
}

// probeUring tells why io_uring can't be used here: what is needed of it is tried. It is called by a thread that ends, or stays, with it.
func probeUring() error {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return os.NewSyscallError("uname", err)
	}
	release := make([]byte, 0, len(name.Release))
	for _, c := range name.Release {
		release = append(release, byte(c)) //nolint:gosec // bytes, of either sign
	}
	if !uringRelease(string(release)) {
		return errOldKernel
	}
	u, err := newUring(4 << 10)
	if err != nil {
		return err
	}
	defer u.close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	const reads, small, large = 1, 2, 3
	u.receive(pair[0], reads)
	message := []byte("is anybody there")
	u.send(pair[1], message, small)
	got, quiet, ended := 0, true, false
	see := func(c cqe) {
		switch {
		case c.data == small || c.data == large:
			quiet = false
		case c.res > 0 && c.flags&cqeBuffer != 0:
			if id := uint16(c.flags >> 16); string(u.buffer(id, c.res)) == string(message) {
				got++
				u.recycle(id)
			}
		}
		ended = ended || c.data == reads && c.flags&cqeMore == 0
	}
	u.enter(1, see)
	if got != 1 || !quiet || ended {
		return fmt.Errorf("io_uring: %w: a message came %d times", errors.ErrUnsupported, got)
	}
	// What does not fit is said, and not waited for.
	if err := syscall.SetsockoptInt(pair[0], syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<10); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	most := make([]byte, 1<<20)
	part := 0
	u.send(pair[0], most, large)
	u.enter(0, func(c cqe) {
		if c.data == large {
			part = int(c.res)
		}
	})
	runtime.KeepAlive(most)
	if part <= 0 || part == len(most) {
		return fmt.Errorf("io_uring: %w: %d bytes were sent", errors.ErrUnsupported, part)
	}
	u.cancel(reads, 0)
	for range 100 {
		if u.enter(0, see); ended {
			return nil
		}
	}
	return fmt.Errorf("io_uring: %w: requests don't end", errors.ErrUnsupported)
}

// receive begins to read.
func (u *uring) receive(fd int, data uint64) {
	e := u.request()
	e.op, e.flags, e.ioprio, e.fd, e.data = opRecv, sqeBufferSelect, recvMultishot, int32(fd), data //nolint:gosec // it is a descriptor
}

// send writes what the socket takes at once: it has happened when enter returns. It completes only if that was not all of b, which must be on the heap.
func (u *uring) send(fd int, b []byte, data uint64) {
	e := u.request()
	e.op, e.flags, e.fd, e.data = opSend, sqeCQESkipSuccess, int32(fd), data             //nolint:gosec // it is a descriptor
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b)) //nolint:gosec // it is short
	e.opFlags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL | syscall.MSG_WAITALL
}

// poll waits for events.
func (u *uring) poll(fd int, events, flags uint32, data uint64) {
	e := u.request()
	e.op, e.fd, e.len, e.opFlags, e.data = opPollAdd, int32(fd), flags, events, data //nolint:gosec // it is a descriptor
}

// cancel ends the request with the given data.
func (u *uring) cancel(target, data uint64) {
	e := u.request()
	e.op, e.flags, e.fd, e.addr, e.data = opAsyncCancel, sqeCQESkipSuccess, -1, target, data
}
