package loop

import (
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// TestOneGoroutineWritesToTLS: where nothing can be tried, as over TLS, one goroutine writes, for as long as the connection lasts.
func TestOneGoroutineWritesToTLS(t *testing.T) {
	g := NewGoroutines(Options{Log: slog.New(slog.DiscardHandler), Pollers: -1})
	ours, theirs := net.Pipe()
	w := &writer{}
	w.init(ours)
	w.more.keeps = true
	before := runtime.NumGoroutine()
	for i := range 100 {
		w.append([]byte{byte(i)})
		w.stage()
		w.flush(g, nil)
		if i == 0 {
			w.mu.Lock()
			first := w.more.wake
			w.mu.Unlock()
			if first == nil {
				t.Fatal("there is none")
			}
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(theirs, b); err != nil || int(b[0]) != i {
			t.Fatal(b, err)
		}
	}
	pgtest.Eventually(t, "one goroutine writes", func() bool { return runtime.NumGoroutine()-before <= 1 }) // others end, or look who rests
	ours.Close()
	w.abandon()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Wait()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

// held is a connection whose first write returns when that is wanted.
type held struct {
	net.Conn
	begun, goOn chan struct{}
	mu          sync.Mutex
	got         []string
	closed      bool
}

func (h *held) Write(b []byte) (int, error) {
	h.mu.Lock()
	h.got = append(h.got, string(b))
	first := len(h.got) == 1
	h.mu.Unlock()
	if first {
		close(h.begun)
		<-h.goOn
	}
	return len(b), nil
}

func (h *held) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return nil
}

// TestLastWordsAreWritten: what was said at a connection's end is written though somebody still is at what was said before.
func TestLastWordsAreWritten(t *testing.T) {
	t.Parallel()
	h := &held{begun: make(chan struct{}), goOn: make(chan struct{})}
	var w writer
	w.init(h)
	say := func(text string) {
		w.append([]byte(text))
		w.stage()
	}
	say("first")
	var others sync.WaitGroup
	others.Go(w.flushAndWait)
	<-h.begun
	say("last words")
	w.closeAfter(false)
	others.Go(func() {
		w.finish()
		w.abandon()
	})
	for waits := false; !waits; runtime.Gosched() {
		w.mu.Lock()
		waits = w.more.waiting > 0 || w.broken
		w.mu.Unlock()
	}
	close(h.goOn)
	others.Wait()
	if want := []string{"first", "last words"}; !slices.Equal(h.got, want) || !h.closed {
		t.Errorf("got %q, closed: %v", h.got, h.closed)
	}
}
