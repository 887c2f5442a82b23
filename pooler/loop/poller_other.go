//go:build !linux

package loop

import (
	"errors"
	"net"
)

// pollers can't be had here.
type pollers struct{}

type handler interface {
	received(b []byte)
	finished() bool
	ended(err error)
}

func newPollers(int, int) (*pollers, error) { return nil, errors.ErrUnsupported }

func newRingPollers(int, int) (*pollers, error) { return nil, errors.ErrUnsupported }

func (*pollers) close() {}

// Listen is for pollers.
func (*Goroutines) Listen(net.Listener, func(net.Conn), func(error)) (end func()) { return nil }

func known(nc net.Conn) (net.Conn, error) { return nc, nil }

// labor is for sessions of pollers.
type labor struct{}

func newLabor() (*labor, error) { return nil, errors.ErrUnsupported }

func (*labor) do(func()) {}

func (*labor) close() {}

func (*pollers) take(net.Conn) *socket { return nil }

// socket is never made.
type socket struct{ net.Conn }

func (*socket) serve(handler, *writer) {}

func (*socket) start() {}

func (*socket) buffers() *buffers { return nil }

func (*socket) send([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (*socket) later(*writer) bool { return false }

func (*socket) kick() {}

func (*socket) awaitRoom() {}

func (*socket) closed() bool { return false }

func (*socket) abandon() {}

func (*socket) pause() {}

func (*socket) resume() {}

func (*socket) hold() {}

func (*socket) unhold() {}

func (*socket) isHeld() bool { return false }

func defaultPollers() int { return 0 }
