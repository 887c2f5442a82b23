//go:build !linux

package backend

import (
	"net"
	"syscall"
)

// dialControl does nothing: the options it would set are Linux's.
func (TCPOptions) dialControl(string, string, syscall.RawConn) error { return nil }

func (TCPOptions) control(syscall.RawConn) error { return nil }

func (TCPOptions) applyBare(net.Conn) error { return nil }
