package pooler

import (
	"net"
	"syscall"
)

// peerPID is the process at the other end of a Unix socket; 0 where that can't be told.
func peerPID(nc net.Conn) (pid int) {
	u, ok := nc.(syscall.Conn)
	if !ok || nc.RemoteAddr().Network() != "unix" {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // it is closed: the client is about to go
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
