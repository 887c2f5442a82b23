package pgtest

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// shared are the test binary's common instances.
var shared struct {
	sync.Mutex
	instances []*Instance
	err       error // the first failed start's; later tests do not try again
}

// Shared returns the instance that all tests of this binary share, starting it at the first call. Tests keep apart by
// CreateDatabase and CreateUser, and must not stop it. Main or Wrap stops it; without them it ends with the process.
func Shared(t testing.TB) *Instance {
	t.Helper()
	return SharedSet(t, 1)[0]
}

// SharedSet is Shared for tests that need n instances. The first of them is Shared's, and so on.
func SharedSet(t testing.TB, n int) []*Instance {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	for len(shared.instances) < n && shared.err == nil {
		name := "shared"
		if i := len(shared.instances); i > 0 {
			name = fmt.Sprintf("shared_%d", i)
		}
		instance, err := start(t, name, []Option{MaxConnections(200)})
		if err != nil {
			shared.err = err
			break
		}
		shared.instances = append(shared.instances, instance)
	}
	if len(shared.instances) < n {
		t.Fatalf("shared PostgreSQL instance: %v", shared.err)
	}
	return append([]*Instance(nil), shared.instances[:n]...)
}

// TestingM is *testing.M, or a wrapper of it such as goleak.VerifyTestMain takes.
type TestingM interface{ Run() int }

// Main is for a package's TestMain: it runs the tests and stops the shared instances.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
func Main(m *testing.M) { Wrap(m).Run() }

// Wrap returns an M whose Run also stops the shared instances, for TestMains that do more:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }
func Wrap(m TestingM) TestingM { return wrapped{m} }

type wrapped struct{ m TestingM }

func (w wrapped) Run() int {
	code := w.m.Run()
	shared.Lock()
	defer shared.Unlock()
	for _, instance := range shared.instances {
		if err := instance.remove(); err != nil {
			fmt.Fprintf(os.Stderr, "shared PostgreSQL instance: %v\n", err)
			code = max(code, 1)
		}
	}
	shared.instances = nil
	return code
}
