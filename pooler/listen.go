package pooler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/loop"
)

// listeners are the sockets that clients connect to.
type listeners struct {
	list []net.Listener
	log  *slog.Logger
	wg   sync.WaitGroup

	mu     sync.Mutex
	ends   []func() // what the driver accepts
	closed bool
}

// ListenOptions say where clients connect.
type ListenOptions struct {
	Host string
	Port int
	// UnixDir is the directory of a unix socket .s.PGSQL.port; empty = none.
	UnixDir  string
	UnixMode os.FileMode
}

// listen opens all sockets, or none.
func listen(ctx context.Context, o ListenOptions, log *slog.Logger) (*listeners, error) {
	l := &listeners{log: log}
	lc := net.ListenConfig{KeepAlive: -1} // who takes the connections sees to that
	tcp, err := lc.Listen(ctx, "tcp", net.JoinHostPort(o.Host, strconv.Itoa(o.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.list = append(l.list, tcp)
	if o.UnixDir == "" {
		return l, nil
	}
	port := tcp.Addr().(*net.TCPAddr).Port
	path := filepath.Join(o.UnixDir, ".s.PGSQL."+strconv.Itoa(port))
	if err := clearStale(ctx, path); err != nil {
		l.close()
		return nil, err
	}
	unix, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.list = append(l.list, unix)
	if err := os.Chmod(path, o.UnixMode); err != nil {
		l.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// clearStale removes a socket that nobody answers at.
func clearStale(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err != nil {
		return nil //nolint:nilerr // nothing is there
	}
	d := net.Dialer{Timeout: time.Second}
	if nc, err := d.DialContext(ctx, "unix", path); err == nil {
		nc.Close()
		return fmt.Errorf("listen: %s is in use by another process", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// addrs are the addresses listened at.
func (l *listeners) addrs() []net.Addr {
	addrs := make([]net.Addr, 0, len(l.list))
	for _, ln := range l.list {
		addrs = append(addrs, ln.Addr())
	}
	return addrs
}

// serve accepts clients until the sockets are closed, by the driver where that can, and hands each to f, which waits for nothing. What f returns runs in a
// goroutine of its own.
func (l *listeners) serve(driver *loop.Goroutines, f func(net.Conn) (run func())) {
	enter := func(nc net.Conn) {
		if run := f(nc); run != nil {
			l.wg.Go(run)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for _, ln := range l.list {
		if end := driver.Listen(ln, enter, l.failed); end != nil {
			l.ends = append(l.ends, end)
		} else {
			l.wg.Go(func() { l.accept(ln, enter) })
		}
	}
}

func (l *listeners) accept(ln net.Listener, enter func(net.Conn)) {
	pause := time.Millisecond
	for {
		nc, err := ln.Accept()
		if err == nil {
			pause = time.Millisecond
			enter(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		l.failed(err)
		time.Sleep(pause)
		pause = min(2*pause, time.Second)
	}
}

// failed notes that nobody could be accepted. Out of descriptors, most likely: those who are there go on, and some will leave.
func (l *listeners) failed(err error) { l.log.Error("accept failed", "error", err) }

func (l *listeners) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, ln := range l.list {
		ln.Close()
	}
	for _, end := range l.ends {
		end()
	}
	l.ends = nil
}
