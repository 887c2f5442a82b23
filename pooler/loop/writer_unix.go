//go:build unix

package loop

import (
	"net"
	"syscall"
)

// tryWriter returns what writes to the socket without waiting for it.
func tryWriter(nc net.Conn) func([]byte) int {
	s, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	var b []byte
	var n int
	once := func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), b) // an error meets whoever writes the rest
		return true
	}
	return func(p []byte) int {
		b, n = p, 0
		if raw.Write(once) != nil {
			n = 0
		}
		b = nil
		return max(n, 0)
	}
}
