package loop

import (
	"testing"
	"time"
)

// TestQuick: of the time that passes, quick jobs take their share and no more.
func TestQuick(t *testing.T) {
	t.Parallel()
	var q quick
	began, took, last, ran := nanos(), int64(0), int64(0), 0
	for nanos()-began < int64(30*time.Millisecond) {
		if q.run(func() {
			start := nanos()
			for nanos()-start < int64(100*time.Microsecond) {
			}
			last = nanos() - start
			took += last
		}) {
			ran++
		}
	}
	if elapsed := nanos() - began; ran == 0 || took > elapsed/quickShare+int64(quickBurst)+last {
		t.Errorf("%d jobs took %v of %v", ran, time.Duration(took), time.Duration(elapsed))
	}
	q.due.Store(nanos() + int64(time.Hour))
	if q.run(func() { t.Error("a job was run") }) {
		t.Error("a job is said to have been run")
	}
	q.due.Store(nanos() - int64(time.Hour))
	if !q.run(func() {}) || q.due.Load() < nanos()-int64(time.Minute) {
		t.Error("time that has passed is saved up")
	}
}
