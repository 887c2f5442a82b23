package backend

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
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

// applyBare is Apply for a connection that is none of package net's, and new.
func (o TCPOptions) applyBare(conn net.Conn) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	if _, ok := conn.RemoteAddr().(*net.TCPAddr); !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	set := func(fd, level, option, value int, name string) {
		if err := syscall.SetsockoptInt(fd, level, option, value); err != nil {
			errs = append(errs, fmt.Errorf("%s %d: %w", name, value, err))
		}
	}
	seconds := func(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
	err = raw.Control(func(own uintptr) {
		fd := int(own)
		if o.KeepAlive {
			set(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1, "tcp keepalive")
		}
		if o.Idle > 0 {
			set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, seconds(o.Idle), "tcp keepalive idle")
		}
		if o.Interval > 0 {
			set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, seconds(o.Interval), "tcp keepalive interval")
		}
		if o.Probes > 0 {
			set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, o.Probes, "tcp keepalive count")
		}
	})
	return errors.Join(append(errs, err, o.control(raw))...)
}
