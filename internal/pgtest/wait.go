package pgtest

import (
	"syscall"
	"testing"
	"time"
)

// Patience bounds Eventually: what takes longer on a busy machine does not happen at all.
const Patience = 30 * time.Second

// Eventually waits until f is true.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !f(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// FreePort is a port of 127.0.0.1 on which nobody listens, and that no other test gets until t ends.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)
}

// FreePorts are n such ports in a row, of which it returns the first.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
	scratch, err := useScratch()
	if err != nil {
		t.Fatalf("free port: %v", err)
	}
	port, release, err := scratch.FreePorts(n)
	if err != nil {
		releaseScratch() //nolint:errcheck // it fails already
		t.Fatalf("free port: %v", err)
	}
	t.Cleanup(func() {
		release()
		if err := releaseScratch(); err != nil {
			t.Errorf("free port: %v", err)
		}
	})
	return port
}

// CPUTime is what this process has used, its garbage collector too: unlike the time of day it says little of the neighbours.
func CPUTime(t testing.TB) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
