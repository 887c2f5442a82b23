package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Root is where tests have data directories of PostgreSQL: $PGKENNEL_TEST_DIR, or memory where there is plenty (a third of their time goes to the disk
// otherwise), or /tmp. Its path is short, as paths of unix sockets have to be.
func Root() string { return root() }

var root = sync.OnceValue(func() string {
	if dir := os.Getenv("PGKENNEL_TEST_DIR"); dir != "" {
		return dir
	}
	if dir := "/dev/shm"; plenty(dir) {
		return dir
	}
	return "/tmp"
})

// Base is the folder in Root that test binaries of this user share for pginstance.OpenScratch.
func Base() string {
	return filepath.Join(Root(), fmt.Sprintf("pgkennel-test-%d", os.Geteuid()))
}

// Dir makes a folder in Root that others may pass through, such as the users of instances. The caller removes it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(Root(), "pgk-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}
