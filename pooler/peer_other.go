//go:build !linux

package pooler

import "net"

// peerPID is the process at the other end of a Unix socket; 0 where that can't be told.
func peerPID(net.Conn) int { return 0 }
