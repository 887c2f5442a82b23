package loop

import (
	"io"
	"net"
	"testing"
	"time"
)

// counter is a handler that takes its time.
type counter struct{ reads, ends int }

func (c *counter) received([]byte) {
	c.reads++
	time.Sleep(time.Millisecond)
}

func (*counter) finished() bool { return false }

func (c *counter) ended(error) { c.ends++ }

// TestOneTurnEach: a socket with more than can be handled waits for its next turn, once.
func TestOneTurnEach(t *testing.T) {
	t.Parallel()
	p, err := newPoller(100)
	if err != nil {
		t.Fatal(err)
	}
	defer p.closeFiles()
	ours, theirs := pair(t)
	h := &counter{}
	s := (&pollers{list: []*poller{p}}).take(ours)
	w := &writer{}
	w.init(s)
	s.serve(h, w)
	defer s.abandon()
	theirs.Write(make([]byte, 2000)) //nolint:errcheck // it fits
	time.Sleep(50 * time.Millisecond)
	for range 3 {
		p.happened(s, 1) // EPOLLIN
	}
	if h.reads != 2 || len(p.local) != 1 {
		t.Errorf("%d reads, %d turns to come", h.reads, len(p.local))
	}
	for range 3 {
		p.doPosted()
		if len(p.local) != 1 {
			t.Errorf("%d turns to come", len(p.local))
		}
	}
	for range 20 {
		p.doPosted()
	}
	if h.reads != 20 || len(p.local) != 0 {
		t.Errorf("%d reads, %d turns to come", h.reads, len(p.local))
	}
}

// TestReasonsToPause: reading goes on when no reason is left.
func TestReasonsToPause(t *testing.T) {
	t.Parallel()
	p, err := newPoller(100)
	if err != nil {
		t.Fatal(err)
	}
	defer p.closeFiles()
	s := &socket{}
	s.p.Store(p)
	goes := func(want bool) {
		t.Helper()
		if got := s.paused.Load() == 0; got != want || len(p.mu.posted) > 0 != want {
			t.Fatalf("is read from: %v", got)
		}
	}
	s.pause()
	s.hold()
	s.hold()
	s.resume()
	goes(false)
	s.resume()
	s.unhold()
	goes(false)
	s.pause()
	s.unhold()
	goes(false)
	s.resume()
	goes(true)
}

// TestPollersEnd: a socket that is closed after its thread has ended is closed all the same, and nothing is written to what was the thread's.
func TestPollersEnd(t *testing.T) {
	t.Parallel()
	ps, err := testPollers(t, 100)
	if err != nil {
		t.Fatal(err)
	}
	var list []*socket
	var peers []net.Conn
	for range 3 {
		s, theirs := ps.serve(t, func(*socket, *writer) handler { return &counter{} })
		list, peers = append(list, s), append(peers, theirs)
	}
	list[0].SetWriteDeadline(time.Now().Add(time.Hour)) //nolint:errcheck // it can't fail
	list[0].Close()
	if list[0].closer.Load() != nil {
		t.Error("a timer of a socket that is closed")
	}
	list[1].SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) //nolint:errcheck // it can't fail
	ps.close()
	list[2].hold()
	list[2].unhold()
	list[2].Close()
	for _, c := range peers {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))   //nolint:errcheck // it is a test
		if _, err := c.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // as it comes
			t.Errorf("got %v", err)
		}
	}
	for _, p := range ps.list {
		if len(p.mu.posted) > 0 {
			t.Errorf("%d sockets wait for a thread that has ended", len(p.mu.posted))
		}
	}
}
