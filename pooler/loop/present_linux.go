package loop

import (
	"syscall"
	"unsafe"
)

// peerAt asks the system about a socket.
func peerAt(fd uintptr) (p peer) {
	const failed, hup, rdhup, inq, outq = 0x8, 0x10, 0x2000, 0x541b, 0x5411
	ask := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: rdhup} //nolint:gosec // a descriptor
	var now syscall.Timespec
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&ask)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0) //nolint:gosec // as poll(2) does
	if errno != 0 {
		return p
	}
	p.gone, p.half = ask.revents&(failed|hup) != 0, ask.revents&(failed|hup|rdhup) != 0
	n := int32(0)
	if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, outq, uintptr(unsafe.Pointer(&n))); errno == 0 { //nolint:gosec // as ioctl_sockios does
		p.unread = int(n)
	}
	n = 0
	if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, inq, uintptr(unsafe.Pointer(&n))); errno == 0 { //nolint:gosec // as above
		p.unheard = n > 0
	}
	return p
}
