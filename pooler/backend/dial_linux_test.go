package backend

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// checkTCP asks the kernel for what Apply set.
func checkTCP(t *testing.T, conn net.Conn, o TCPOptions) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn() // a test's own connection
	if err != nil {
		t.Fatal(err)
	}
	get := func(level, opt int) (value int) {
		if err := raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, opt) }); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if got := get(syscall.IPPROTO_TCP, tcpUserTimeout); got != int(o.UserTimeout/time.Millisecond) {
		t.Errorf("got user timeout %d ms, want %v", got, o.UserTimeout)
	}
	if got := get(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); got != 1 {
		t.Errorf("got keepalive %d, want 1", got)
	}
	if got := get(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE); got != int(o.Idle/time.Second) {
		t.Errorf("got idle %d s, want %v", got, o.Idle)
	}
}
