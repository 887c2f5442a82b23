package pginstance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A portLease keeps one TCP port number from every other instance of the same base folder, also while its own
// instance is stopped, so that a restart gets the same port back.
type portLease struct {
	port int
	file *os.File
}

func (p *portLease) release() { p.file.Close() }

// leasePort picks a port outside the range that the kernel gives to outgoing connections. Whether another program
// listens on it is for PostgreSQL's own bind to find out.
func (s *Scratch) leasePort() (*portLease, error) {
	dir := filepath.Join(s.base, "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("port locks: %w", err)
	}
	low, high := portRange()
	for range 200 {
		port := low + rand.IntN(high-low)
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("port lock: %w", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return &portLease{port: port, file: f}, nil
		}
		f.Close()
	}
	return nil, errors.New("no free port lock in 200 attempts")
}

// FreePort is a port on which nobody listens, for a server other than PostgreSQL. It is kept from other processes that ask here, until
// release is called or the scratch folder is closed.
func (s *Scratch) FreePort() (port int, release func(), err error) {
	for range 200 {
		lease, err := s.leasePort()
		if err != nil {
			return 0, nil, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(lease.port))
		if err == nil {
			s.mu.Lock()
			s.leases = append(s.leases, lease)
			s.mu.Unlock()
			return lease.port, lease.release, l.Close()
		}
		lease.release()
	}
	return 0, nil, errors.New("no free port in 200 attempts")
}

// portRange is [low, high) below the ephemeral ports where there is room, else above them.
func portRange() (low, high int) {
	const floor, room = 15000, 5000
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) != 2 {
		return floor, 32768 // the usual lower end on Linux; others begin higher
	}
	first, _ := strconv.Atoi(fields[0])
	last, _ := strconv.Atoi(fields[1])
	switch {
	case first >= floor+room:
		return floor, first
	case last > 0 && last <= 65535-room:
		return last + 1, 65536
	default:
		return floor, 65536
	}
}
