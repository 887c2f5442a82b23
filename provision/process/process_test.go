package process_test

import (
	"os"
	"sync"
	"testing"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/provision/process"
)

// dirs are the data directories of tests.
var dirs sync.Map

// open makes a driver over a test's own data directory.
func open(t testing.TB) provision.Driver {
	t.Helper()
	dir, ok := dirs.Load(t.Name())
	if !ok {
		made, err := os.MkdirTemp("/tmp", "pgk-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(made); err != nil {
				t.Errorf("data directory after the test: %v", err)
			}
			dirs.Delete(t.Name())
		})
		dirs.Store(t.Name(), made)
		dir = made
	}
	d, err := process.New(process.Options{DataDir: dir.(string), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDriver(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, open, drivertest.Caps{CPU: true, Memory: true, Disk: true, Superuser: true, Replicas: true, Kill: true})
}
