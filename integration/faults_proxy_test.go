package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// proxy stands between pgkennel and a server, and does to their connections what networks do.
type proxy struct {
	listener net.Listener
	port     int
	all      sync.WaitGroup

	mu     sync.Mutex
	to     string
	closed bool
	wires  map[*wire]struct{}
	flow   chan struct{} // closed while bytes flow
	speech chan struct{} // closed while what servers say is passed on
	asked  []string      // what pgkennel wrote, write by write, since hear

	trickles atomic.Bool // what servers say comes a byte at a time
	// pid is which process new connections are told to have; 0 = the one that they have.
	pid atomic.Uint32
}

// wire is one connection through the proxy.
type wire struct {
	p              *proxy
	client, server net.Conn

	mu    sync.Mutex // guards below, and writing to client
	fault *fault
}

// fault is what happens to what a server says: after so many bytes more, something is inserted, or the connection is cut.
type fault struct {
	after  int
	insert []byte // instead of the cut
	reset  bool   // the cut is a reset
}

// throughProxy puts a proxy in front of a shard of a prepared stand.
func (s *stand) throughProxy(shard int) *proxy {
	s.t.Helper()
	p := newProxy(s.t, s.shards[shard].Addr())
	s.edit("pgdog.toml", fmt.Sprintf("port = %d\nshard = %d\n", s.shards[shard].Port, shard), fmt.Sprintf("port = %d\nshard = %d\n", p.port, shard))
	return p
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(pgtest.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, port: l.Addr().(*net.TCPAddr).Port, to: to, wires: make(map[*wire]struct{}), flow: make(chan struct{}), speech: make(chan struct{})}
	close(p.flow)
	close(p.speech)
	p.all.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		l.Close()
		p.thaw()
		p.unmute()
		p.cut(false)
		p.all.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() {
			<-p.flowing()
			server, err := net.Dial("tcp", p.target())
			if err != nil {
				client.Close()
				return
			}
			w := &wire{p: p, client: client, server: server}
			p.mu.Lock()
			closed := p.closed
			p.wires[w] = struct{}{}
			p.mu.Unlock()
			if closed {
				w.cut(false)
			}
			p.all.Go(func() {
				w.pump(client, func(b []byte) bool { p.note(b); _, err := server.Write(b); return err == nil })
			})
			w.pump(server, func(b []byte) bool { <-p.speaking(); return w.say(b) })
			p.mu.Lock()
			delete(p.wires, w)
			p.mu.Unlock()
		})
	}
}

func (p *proxy) target() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to
}

// lead has new connections lead to another server. Those that are there stay.
func (p *proxy) lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

func (p *proxy) flowing() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flow
}

// freeze stops all bytes, of new connections too.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flow = make(chan struct{})
}

// thaw lets the bytes go on that were stopped.
func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
	default:
		close(p.flow)
	}
}

func (p *proxy) speaking() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.speech
}

// mute keeps back what servers say, and begins to note what they are asked.
func (p *proxy) mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.speech, p.asked = make(chan struct{}), nil
}

// unmute passes on what servers say.
func (p *proxy) unmute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.speech:
	default:
		close(p.speech)
	}
}

func (p *proxy) note(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, string(b))
}

// heard returns what servers were asked since mute, write by write.
func (p *proxy) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// each calls f for the connections of this moment.
func (p *proxy) each(f func(w *wire)) int {
	p.mu.Lock()
	var wires []*wire
	for w := range p.wires {
		wires = append(wires, w)
	}
	p.mu.Unlock()
	for _, w := range wires {
		f(w)
	}
	return len(wires)
}

// cut ends every connection.
func (p *proxy) cut(reset bool) { p.each(func(w *wire) { w.cut(reset) }) }

// arm prepares a fault for each connection of this moment.
func (p *proxy) arm(f fault) int {
	return p.each(func(w *wire) {
		w.mu.Lock()
		defer w.mu.Unlock()
		own := f
		w.fault = &own
	})
}

// disarm takes back the faults that did not happen.
func (p *proxy) disarm() {
	p.each(func(w *wire) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fault = nil
	})
}

// say inserts bytes now, as if the servers had sent them.
func (p *proxy) say(b []byte) {
	p.each(func(w *wire) { w.say(b) })
}

func (w *wire) pump(from net.Conn, to func([]byte) bool) {
	defer w.cut(false)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		<-w.p.flowing()
		if n > 0 && !to(buf[:n]) || err != nil {
			return
		}
	}
}

// say passes on what the server said, with the fault.
func (w *wire) say(b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pid := w.p.pid.Load(); pid != 0 {
		if at := bytes.Index(b, []byte("K\x00\x00\x00\x0c")); at >= 0 {
			binary.BigEndian.PutUint32(b[at+5:], pid)
		}
	}
	if f := w.fault; f != nil {
		if len(b) < f.after {
			f.after -= len(b)
		} else {
			if _, err := w.client.Write(b[:f.after]); err != nil {
				return false
			}
			w.fault = nil
			if f.insert == nil {
				w.cut(f.reset)
				return false
			}
			if _, err := w.client.Write(f.insert); err != nil {
				return false
			}
			b = b[f.after:]
		}
	}
	for n := len(b); len(b) > 0; b = b[n:] {
		if w.p.trickles.Load() {
			n = 1
			time.Sleep(time.Millisecond) // a packet each
		}
		if _, err := w.client.Write(b[:n]); err != nil {
			return false
		}
	}
	return true
}

func (w *wire) cut(reset bool) {
	if c, ok := w.client.(*net.TCPConn); ok && reset {
		c.SetLinger(0) //nolint:errcheck // it is a means, not the matter
	}
	w.client.Close()
	w.server.Close()
}
