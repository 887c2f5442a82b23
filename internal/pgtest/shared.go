package pgtest

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// shared is the test binary's common instance.
var shared struct {
	sync.Mutex
	instance *Instance
	err      error // the first start's; later tests do not try again
}

// Shared returns the instance that all tests of this binary share, starting it at the first call. Tests keep apart by
// CreateDatabase and CreateUser, and must not stop it. Main or Wrap stops it; without them it ends with the process.
func Shared(t testing.TB) *Instance {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.instance == nil && shared.err == nil {
		shared.instance, shared.err = start(t, "shared", []Option{MaxConnections(200)})
	}
	if shared.err != nil {
		t.Fatalf("shared PostgreSQL instance: %v", shared.err)
	}
	return shared.instance
}

// TestingM is *testing.M, or a wrapper of it such as goleak.VerifyTestMain takes.
type TestingM interface{ Run() int }

// Main is for a package's TestMain: it runs the tests and stops the shared instance.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
func Main(m *testing.M) { Wrap(m).Run() }

// Wrap returns an M whose Run also stops the shared instance, for TestMains that do more:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }
func Wrap(m TestingM) TestingM { return wrapped{m} }

type wrapped struct{ m TestingM }

func (w wrapped) Run() int {
	code := w.m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.instance == nil {
		return code
	}
	if err := shared.instance.remove(); err != nil {
		fmt.Fprintf(os.Stderr, "shared PostgreSQL instance: %v\n", err)
		code = max(code, 1)
	}
	shared.instance = nil
	return code
}
