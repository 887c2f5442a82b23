package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestCollectorsPace(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	percent := func() int {
		was := debug.SetGCPercent(100)
		debug.SetGCPercent(was)
		return was
	}
	is := func(what string, ok func(percent int) bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(percent()); runtime.GC() { // a finalizer runs when it runs
			if time.Now().After(end) {
				t.Fatalf("%s: %d percent", what, percent())
			}
		}
	}
	paceCollector()
	is("a small heap", func(n int) bool { return n >= 200 })
	big := make([]byte, 4*heapSlack)
	is("a large heap", func(n int) bool { return n == 100 })
	runtime.KeepAlive(big)
	is("a small one again", func(n int) bool { return n >= 200 })
}
