package integration

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// soak is how long tests of endurance go on; the default is what a run of all tests can afford.
var soak = flag.Duration("soak", briefly, "how long tests of endurance go on")

const briefly = 5 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(bench{pgtest.Wrap(m)})
}

// bench wraps the run of all tests: it removes the built program, and counts the descriptors that are left.
type bench struct{ m pgtest.TestingM }

func (b bench) Run() int {
	flag.Parse()
	before := descriptors(os.Getpid())
	code := b.m.Run()
	if program.dir != "" {
		os.RemoveAll(program.dir)
	}
	// Sockets of servers and clients that ended are closed by goroutines that goleak gives a moment, too.
	for range 100 {
		if len(descriptors(os.Getpid())) <= len(before) {
			return code
		}
		time.Sleep(20 * time.Millisecond)
	}
	if code == 0 {
		fmt.Fprintf(os.Stderr, "descriptors leaked:\nbefore %v\nafter  %v\n", before, descriptors(os.Getpid()))
		code = 1
	}
	return code
}

// descriptors lists what a process has open, but for Go's own poller.
func descriptors(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		to, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" {
			continue
		}
		list = append(list, e.Name()+"="+to)
	}
	return list
}
