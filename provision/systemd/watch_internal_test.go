package systemd

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// TestWatchHears has a unit change, and no one look for it.
func TestWatchHears(t *testing.T) {
	t.Parallel()
	if os.Getenv("PGKENNEL_TEST_SYSTEMD") == "" {
		return // TestDriver runs it there
	}
	u := &units{}
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		u.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	})
	defer wg.Wait()
	defer cancel()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); { // it may not listen yet
		if out, err := exec.CommandContext(t.Context(), "systemd-run", "--wait", "--unit=pgkennel-watched", "true").CombinedOutput(); err != nil {
			t.Fatalf("systemd-run: %v: %s", err, out)
		}
		select {
		case <-heard:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("nothing is heard of a unit that came and went")
}
