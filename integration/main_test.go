package integration

import (
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// soak is how long tests of endurance go on; the default is what a run of all tests can afford.
var soak = flag.Duration("soak", 5*time.Second, "how long tests of endurance go on")

// driverOf chooses the driver of a stand by the name of its test, so that a test runs on the same one each time. A third of them runs on
// each. All have to pass every test: make integration runs all on each.
func driverOf(t testing.TB) string {
	t.Helper()
	if *driver != "" {
		return *driver
	}
	name := fnv.New32a()
	name.Write([]byte(t.Name()))
	chosen := []string{"goroutines", "epoll", "uring"}[name.Sum32()%3]
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("it ran on -driver=" + chosen)
		}
	})
	return chosen
}

var driver = flag.String("driver", "", "epoll, uring or goroutines; by the name of the test if not given")

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
