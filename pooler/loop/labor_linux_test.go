package loop

import (
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLabor: every job is done, those too that come in crowds and those that are left at the end, by a few threads with a slice of their own.
func TestLabor(t *testing.T) {
	t.Parallel()
	l, err := newLabor()
	if err != nil {
		t.Fatal(err)
	}
	var seen sync.Map
	var done atomic.Int64
	const rounds, crowd = 50, 20
	for range rounds {
		var all sync.WaitGroup
		for range crowd {
			all.Add(1)
			go l.do(func() {
				defer all.Done()
				done.Add(1)
				if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Runtime != uint64(patient) && attr.Runtime != 0 { // before Linux 6.12 it is always 0
					t.Errorf("a thread's slice is %d (%v)", attr.Runtime, err)
				}
				seen.Store(unix.Gettid(), true)
			})
		}
		all.Wait()
	}
	for range crowd {
		l.do(func() { done.Add(1) })
	}
	l.close()
	if n := done.Load(); n != (rounds+1)*crowd {
		t.Errorf("%d jobs were done, of %d", n, (rounds+1)*crowd)
	}
	threads := 0
	seen.Range(func(any, any) bool { threads++; return true })
	if threads > l.most {
		t.Errorf("%d threads, at most %d", threads, l.most)
	}
}
