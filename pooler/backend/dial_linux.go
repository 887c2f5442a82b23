package backend

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Socket options that package syscall does not name (tcp(7)).
const (
	tcpCongestion  = 0xd
	tcpUserTimeout = 0x12
)

// dialControl is for net.Dialer.Control.
func (o TCPOptions) dialControl(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return o.control(raw)
}

// control sets what package net has no call for.
func (o TCPOptions) control(raw syscall.RawConn) error {
	var errs [2]error
	err := raw.Control(func(fd uintptr) {
		if o.UserTimeout > 0 {
			ms := max(int(o.UserTimeout.Milliseconds()), 1)
			if err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, ms); err != nil {
				errs[0] = fmt.Errorf("tcp user timeout %v: %w", o.UserTimeout, err)
			}
		}
		if o.CongestionControl != "" {
			if err := syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, tcpCongestion, o.CongestionControl); err != nil {
				errs[1] = fmt.Errorf("tcp congestion control %q: %w", o.CongestionControl, err)
			}
		}
	})
	return errors.Join(err, errs[0], errs[1])
}
