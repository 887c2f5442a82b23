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

// A portLease keeps some successive TCP port numbers from every other instance of the same base folder, also while its own
// instance is stopped, so that a restart gets the same port back.
type portLease struct {
	port  int // the first
	files []*os.File
}

func (p *portLease) release() {
	for _, f := range p.files {
		f.Close()
	}
}

// leasePorts picks n ports outside the range that the kernel gives to outgoing connections. Whether another program
// listens on one is for PostgreSQL's own bind to find out.
func (s *Scratch) leasePorts(n int) (*portLease, error) {
	dir := filepath.Join(s.base, "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("port locks: %w", err)
	}
	low, high := portRange()
	for range 200 {
		lease := &portLease{port: low + rand.IntN(high-low-n+1)}
		for len(lease.files) < n {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(lease.port+len(lease.files))), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				lease.release()
				return nil, fmt.Errorf("port lock: %w", err)
			}
			if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
				f.Close()
				break
			}
			lease.files = append(lease.files, f)
		}
		if len(lease.files) == n {
			return lease, nil
		}
		lease.release()
	}
	return nil, errors.New("no free port lock in 200 attempts")
}

// FreePort is a port on which nobody listens, for a server other than PostgreSQL. It is kept from other processes that ask here, until
// release is called or the scratch folder is closed.
func (s *Scratch) FreePort() (port int, release func(), err error) { return s.FreePorts(1) }

// FreePorts are n such ports in a row, of which it returns the first.
func (s *Scratch) FreePorts(n int) (first int, release func(), err error) {
	for range 200 {
		lease, err := s.leasePorts(n)
		if err != nil {
			return 0, nil, err
		}
		if lease.unused() {
			s.mu.Lock()
			s.leases = append(s.leases, lease)
			s.mu.Unlock()
			return lease.port, lease.release, nil
		}
		lease.release()
	}
	return 0, nil, errors.New("no free port in 200 attempts")
}

// unused reports that nobody listens on its ports.
func (p *portLease) unused() bool {
	for i := range p.files {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p.port+i))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// portRange is [low, high) below the ephemeral ports where there is room, and below those that pgkennel gives to instances by default; else above them.
func portRange() (low, high int) {
	const floor, room = 15000, 5000
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) != 2 {
		return floor, floor + room // the ephemeral ones begin at 32768 on Linux; on others higher
	}
	first, _ := strconv.Atoi(fields[0])
	last, _ := strconv.Atoi(fields[1])
	switch {
	case first >= floor+room:
		return floor, floor + room
	case last > 0 && last <= 65535-room:
		return last + 1, 65536
	default:
		return floor, 65536
	}
}
