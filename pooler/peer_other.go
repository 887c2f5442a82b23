//go:build !linux

package pooler

import (
	"net"
	"os"
)

// peerPID is the process at the other end of a Unix socket; 0 where that can't be told.
func peerPID(net.Conn) int { return 0 }

// peerUID is the user at the other end of a Unix socket. The socket's mode lets nobody else in.
func peerUID(net.Conn) (uid int, ok bool) { return os.Geteuid(), true }
