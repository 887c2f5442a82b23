package loop

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// parrot is a handler that says again what it heard, now and then after a pause.
type parrot struct {
	g     *Goroutines
	s     *socket
	w     *writer
	mu    sync.Mutex // as a client's
	heard int
	over  chan error
}

func (e *parrot) received(b []byte) {
	e.mu.Lock()
	e.heard += len(b)
	for len(b) > 0 { // in several steps
		n := min(len(b), 1+e.heard%30_000)
		e.w.append(b[:n])
		e.w.stage()
		b = b[n:]
	}
	pause := e.heard%7 == 0
	if pause {
		e.s.pause()
	}
	e.mu.Unlock()
	e.w.flush(e.g, e.s)
	if pause {
		time.AfterFunc(time.Millisecond, e.s.resume)
	}
}

func (*parrot) finished() bool { return false }

func (e *parrot) ended(err error) {
	e.w.abandon()
	e.over <- err
}

// TestRingKeepsOrder: what many sockets send comes back as it was, however it was cut, whoever wrote it, and however slowly it is read; and all
// sockets are closed in the end.
func TestRingKeepsOrder(t *testing.T) {
	t.Parallel()
	ps, err := newRingPollers(2, pollBuffer)
	needsRing(t, err)
	talkToParrots(t, ps, 120) // more than there are buffers
}

// talkToParrots has so many of them, and ends the threads.
func talkToParrots(t *testing.T, ps *pollers, n int) {
	t.Helper()
	defer ps.close()
	g := NewGoroutines(Options{Log: slog.New(slog.DiscardHandler), Pollers: -1})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ours, theirs := pair(t)
			s := ps.take(ours)
			ours.Close()
			e := &parrot{g: g, s: s, w: &writer{}, over: make(chan error, 2)}
			e.w.init(s)
			e.w.watch(s)
			s.serve(e, e.w)
			s.start()
			r := rand.New(rand.NewPCG(uint64(i), 1))
			said := make([]byte, 100+r.IntN(1+i*20_000))
			for j := range said {
				said[j] = byte(r.Uint32())
			}
			go func() {
				for at := 0; at < len(said); {
					n := min(len(said)-at, 1+r.IntN(1+r.IntN(100_000)))
					theirs.Write(said[at : at+n]) //nolint:errcheck // what comes back tells
					at += n
				}
			}()
			theirs.SetReadDeadline(time.Now().Add(60 * time.Second)) //nolint:errcheck // it is a test
			heard := make([]byte, len(said))
			if n, err := io.ReadFull(theirs, heard); err != nil || !bytes.Equal(said, heard) {
				t.Errorf("%d: %d bytes of %d came back: %v", i, n, len(said), err)
			}
			switch i % 3 {
			case 0: // others write as well
				var others sync.WaitGroup
				for range 4 {
					others.Go(func() {
						for range 50 {
							e.mu.Lock()
							e.w.append([]byte("abc"))
							e.w.stage()
							e.mu.Unlock()
							e.w.flush(g, nil)
						}
					})
				}
				others.Wait()
				got := make([]byte, 600)
				if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("abc"), 200)) {
					t.Errorf("%d: %v, %q", i, err, got)
				}
				s.Close()
			case 1: // closed after the last word
				e.mu.Lock()
				e.w.append([]byte("bye"))
				e.w.stage()
				e.w.closeAfter(false)
				e.mu.Unlock()
				e.w.flush(g, nil)
				if got, err := io.ReadAll(theirs); string(got) != "bye" {
					t.Errorf("%d: %q, %v", i, got, err)
				}
			default:
				theirs.(*net.UnixConn).CloseWrite() //nolint:errcheck,forcetypeassert // it is one
			}
			select {
			case err := <-e.over:
				if err == nil {
					t.Errorf("%d: no reason was given for the end", i)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("%d: nobody heard of the end", i)
			}
			s.Close()                                                  // for the second time
			if _, err := theirs.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // as it comes
				t.Errorf("%d: the socket is open: %v", i, err)
			}
			select {
			case err := <-e.over:
				t.Errorf("%d: it ended twice: %v", i, err)
			default:
			}
		})
	}
	all.Wait()
	for _, p := range ps.list {
		for range 1000 { // the slots are free when the kernel has let go
			p.mu.Lock()
			idle := len(p.mu.posted) == 0
			p.mu.Unlock()
			if idle {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	ps.close()
	for _, p := range ps.list {
		for _, s := range p.slots {
			if s != nil && !isShuffler(s) {
				t.Error("a socket is left")
			}
		}
		if p.ring != nil && p.ring.ops != 0 {
			t.Errorf("%d requests are left", p.ring.ops)
		}
	}
}

// TestRingTurns: who sends much waits for its next turn, and is not read from meanwhile but by turns.
func TestRingTurns(t *testing.T) {
	t.Parallel()
	ps, err := newRingPollers(1, 100)
	needsRing(t, err)
	defer ps.close()
	serve := func(h handler) net.Conn {
		ours, theirs := pair(t)
		s := ps.take(ours)
		ours.Close()
		w := &writer{}
		w.init(s)
		w.watch(s)
		s.serve(h, w)
		s.start()
		t.Cleanup(func() { s.Close() })
		return theirs
	}
	var mu sync.Mutex
	var order []byte
	note := func(b byte) {
		mu.Lock()
		order = append(order, b)
		mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	hog := serve(heard(func([]byte) { note('h') }))
	other := serve(heard(func([]byte) { note('o') }))
	hog.Write(make([]byte, 5000)) //nolint:errcheck // it fits
	for range 5 {
		time.Sleep(3 * time.Millisecond)
		other.Write([]byte("x")) //nolint:errcheck // it fits
	}
	for range 1000 {
		mu.Lock()
		done := bytes.Count(order, []byte("h")) >= 50
		mu.Unlock()
		if done {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	if last := bytes.LastIndexByte(order, 'o'); bytes.Count(order, []byte("h")) != 50 || last > 45 || last < 0 {
		t.Errorf("in this order: %s", order)
	}
}

type heard func(b []byte)

func (h heard) received(b []byte) { h(b) }
func (heard) ended(error)         {}
func (heard) finished() bool      { return false }
