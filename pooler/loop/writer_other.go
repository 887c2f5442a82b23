//go:build !unix

package loop

import "net"

// tryWriter: it can't be had here.
func tryWriter(net.Conn) func([]byte) int { return nil }
