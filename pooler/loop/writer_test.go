package loop

import (
	"io"
	"log/slog"
	"net"
	"runtime"
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
