package pooler

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
)

// TestLanesAreBounded: so many requests are under way to one address, so many wait, in their order and not for ever, and the next is refused; other addresses
// have lanes of their own, and nothing is left in the end.
func TestLanesAreBounded(t *testing.T) {
	t.Parallel()
	var l lanes
	at, other := backend.Address{Host: "a", Port: 1}, backend.Address{Host: "b", Port: 1}
	for range mostCancels {
		if err := l.enter(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	short, end := context.WithTimeout(t.Context(), time.Millisecond)
	defer end()
	if err := l.enter(short, at); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one too many: %v", err)
	}
	entered := make(chan int, mostCancelsQueued)
	queued := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.to[at].queue)
	}
	for i := range mostCancelsQueued {
		go func() {
			if l.enter(t.Context(), at) == nil {
				entered <- i
			}
		}()
		for queued() <= i {
			time.Sleep(10 * time.Microsecond)
		}
	}
	if err := l.enter(t.Context(), at); !errors.Is(err, errManyCancels) {
		t.Errorf("with a full queue: %v", err)
	}
	if err := l.enter(t.Context(), other); err != nil {
		t.Errorf("to another address: %v", err)
	}
	l.leave(other)
	for i := range mostCancelsQueued {
		l.leave(at)
		if got := <-entered; got != i {
			t.Fatalf("%d went in the place of %d", got, i)
		}
	}
	for range mostCancels {
		l.leave(at)
	}
	if len(l.to) != 0 {
		t.Errorf("%d lanes are left", len(l.to))
	}
}

// TestCancelsOfOneAreBounded: one client can't have so many requests under way that there is no room for those of others.
func TestCancelsOfOneAreBounded(t *testing.T) {
	t.Parallel()
	k := newKeys(0)
	c := k.some(t)
	for range mostForOne {
		if _, ok := k.enter(c.pid, c.secret); !ok {
			t.Fatal("refused")
		}
	}
	if got, ok := k.enter(c.pid, c.secret); ok || got == nil {
		t.Error("one too many")
	}
	o := k.some(t)
	if _, ok := k.enter(o.pid, o.secret); !ok {
		t.Error("another client's is refused")
	}
	got, _ := k.enter(c.pid, c.secret)
	k.leave(got)
	if _, ok := k.enter(c.pid, c.secret); !ok {
		t.Error("there is no room behind an end")
	}
}
