package pooler

import (
	"net"
	"syscall"
)

// peerPID is the process at the other end of a Unix socket; 0 where that can't be told.
func peerPID(nc net.Conn) (pid int) {
	if cred := peer(nc); cred != nil {
		pid = int(cred.Pid)
	}
	return pid
}

// peerUID is the user at the other end of a Unix socket.
func peerUID(nc net.Conn) (uid int, ok bool) {
	if cred := peer(nc); cred != nil {
		return int(cred.Uid), true
	}
	return 0, false
}

func peer(nc net.Conn) (cred *syscall.Ucred) {
	u, ok := nc.(syscall.Conn)
	if !ok || nc.RemoteAddr().Network() != "unix" {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) { // it is closed: the client is about to go
		if c, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			cred = c
		}
	})
	return cred
}
