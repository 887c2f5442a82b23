package loop

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// listening returns a driver of threads only, and listening sockets of both families.
func listening(t *testing.T, ring bool) (*Goroutines, []net.Listener) {
	t.Helper()
	g := &Goroutines{pollers: threads(t, ring, 2, 4096)}
	t.Cleanup(g.pollers.close)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); unix.Close() })
	return g, []net.Listener{tcp, unix}
}

func TestDoor(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		g, list := listening(t, ring)
		for _, ln := range list {
			network, address := ln.Addr().Network(), ln.Addr().String()
			var came atomic.Int32
			end := g.Listen(ln, func(nc net.Conn) {
				came.Add(1)
				if from := nc.RemoteAddr(); from.Network() != network || network == "tcp" && nc.LocalAddr().String() != address {
					t.Errorf("from %s to %s", from, nc.LocalAddr())
				}
				if network == "tcp" {
					raw, _ := nc.(syscall.Conn).SyscallConn()
					_ = raw.Control(func(fd uintptr) {
						if v, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY); v == 0 {
							t.Errorf("what is sent waits for more: %v", err)
						}
					})
				}
				if came.Load()%2 == 0 { // a client with a goroutine of his own
					known, err := known(nc)
					if err != nil {
						t.Error(err)
						return
					}
					nc = known
				}
				_, _ = io.WriteString(nc, nc.RemoteAddr().String())
				nc.Close()
				nc.Close()
			}, func(err error) { t.Error(err) })
			if end == nil {
				t.Fatal("nobody listens")
			}
			var wg sync.WaitGroup
			for range 40 { // more than a turn
				wg.Go(func() {
					c, err := net.Dial(network, address)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					said, err := io.ReadAll(c)
					if want := c.LocalAddr().String(); err != nil || network == "tcp" && string(said) != want {
						t.Errorf("%q, %v, want %q", said, err, want)
					}
				})
			}
			wg.Wait()
			ln.Close()
			wg.Go(end)
			end()
			wg.Wait()
			if came.Load() != 40 {
				t.Errorf("%d came", came.Load())
			}
			if c, err := net.Dial(network, address); err == nil {
				c.Close()
				t.Error("somebody listens still")
			}
			again, err := net.Listen(network, address)
			if err != nil {
				t.Errorf("the address is in use: %v", err)
				continue
			}
			again.Close()
		}
	})
}

// Where nobody can be accepted the thread does not spin, and who listened can still be shut.
func TestDoorThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		g, list := listening(t, ring)
		for _, ln := range list {
			var failed atomic.Int32
			var first atomic.Pointer[time.Time]
			twice := make(chan time.Duration, 1)
			end := g.Listen(ln, func(net.Conn) { t.Error("somebody came") }, func(error) {
				now := time.Now()
				if failed.Add(1) == 1 {
					first.Store(&now)
				} else if failed.Load() == 6 {
					twice <- now.Sub(*first.Load())
				}
			})
			raw, err := ln.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
			if took := <-twice; took < (1+2+4+8+16)*doorPause {
				t.Errorf("six failures in %v", took)
			}
			end()
		}
	})
}

// A driver that ends closes what it listens to.
func TestDoorOfADriverThatEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		g, list := listening(t, ring)
		var ends []func()
		for _, ln := range list {
			ends = append(ends, g.Listen(ln, func(nc net.Conn) { nc.Close() }, func(err error) { t.Error(err) }))
			ln.Close()
		}
		g.pollers.close()
		for i, ln := range list {
			if c, err := net.Dial(ln.Addr().Network(), ln.Addr().String()); err == nil {
				c.Close()
				t.Error("somebody listens still")
			}
			ends[i]()
		}
		if g.Listen(list[0], nil, nil) != nil {
			t.Error("a closed socket is listened to")
		}
	})
}
