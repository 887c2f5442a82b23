package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxFile is how large a file of the project may be, in bytes: more is something that was built.
const maxFile = 4 << 20

// TestNothingBuiltIsKept: what can be made of the sources is not among them.
func TestNothingBuiltIsKept(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	if _, err := os.Lstat(filepath.Join(root, ".git")); err != nil {
		t.Log("nobody knows what is kept: these are no files of git's") // but of an archive
		return
	}
	list, err := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z").Output() // whoever owns them
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if info, err := os.Lstat(filepath.Join(root, name)); err == nil && info.Size() > maxFile {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
	}
}
