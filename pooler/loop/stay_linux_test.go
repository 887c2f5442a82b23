package loop

import (
	"io"
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestStay: a wait that was interrupted is taken for a long one, and a short one ends that.
func TestStay(t *testing.T) {
	t.Parallel()
	var s stay
	if !s.here() {
		t.Fatal("the processor is given back at once")
	}
	if errno := s.waited(0); errno != 0 || !s.here() {
		t.Error("given back after a wait that ended by itself")
	}
	if errno := s.waited(syscall.EINTR); errno == 0 || s.here() {
		t.Error("kept after an interrupted wait")
	}
	if s.leave()(); !s.here() {
		t.Error("given back again after a short wait")
	}
	back := s.leave()
	for began := nanos(); nanos()-began <= waitsLong; {
		runtime.Gosched()
	}
	if back(); s.here() {
		t.Error("kept after a long wait")
	}
}

// TestWaitsEndForAll: threads that wait and keep their processor hold up nobody who has to stop all of them, and the processors that are lent to
// them are taken back.
func TestWaitsEndForAll(t *testing.T) {
	t.Parallel()
	for _, ring := range []bool{false, true} {
		t.Run(map[bool]string{false: "epoll", true: "uring"}[ring], func(t *testing.T) {
			t.Parallel()
			start := newPollers
			if ring {
				start = newRingPollers
			}
			ps, err := start(3, pollBuffer)
			if ring {
				needsRing(t, err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer ps.close()
			g := NewGoroutines(Options{Log: slog.New(slog.DiscardHandler), Pollers: -1})
			for range 3 {
				ours, theirs := pair(t)
				s := ps.take(ours)
				w := &writer{}
				w.init(s)
				w.watch(s)
				s.serve(&parrot{g: g, s: s, w: w, over: make(chan error, 1)}, w)
				s.start()
				defer s.Close()
				for range 50 {
					b := make([]byte, 16)
					theirs.Write(b) //nolint:errcheck // its answer is asked for
					if _, err := io.ReadFull(theirs, b); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				runtime.GC()
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("all were stopped after %v", took)
				}
			}
		})
	}
}
