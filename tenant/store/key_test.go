package store

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestLoadKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "directory.key")
	if _, _, err := LoadKey(path, "", false); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want that there is no %s", err, path)
	}
	var made atomic.Int32
	var ids sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			key, created, err := LoadKey(path, "", true)
			if err != nil {
				t.Error(err)
				return
			}
			if created {
				made.Add(1)
			}
			ids.Store(key.ID(), true)
		})
	}
	wg.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if made.Load() != 1 || n != 1 {
		t.Errorf("%d made a key, and there are %d, want one", made.Load(), n)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("got files %v, %v, want the key only", list, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	file, created, err := LoadKey(path, "", false)
	if err != nil || created {
		t.Errorf("got %v, %v, want the key that is there", created, err)
	}
	variable, created, err := LoadKey(path, "sixteen bytes or more", true)
	if err != nil || created || variable.ID() == file.ID() {
		t.Errorf("got %v, %v, want the variable's key and not the file's", created, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, value, want string }{
		"others may read it": {path, "", "mode 0640"},
		"a folder":           {dir, "", "no file"},
		"a short variable":   {path, "short", KeyVariable},
		"neither":            {"", "", "set key_file"},
		"no such folder":     {filepath.Join(dir, "x", "key"), "", "no such file"},
	} {
		_, _, err := LoadKey(test.path, test.value, true)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), string(secret)) {
			t.Errorf("%s: got error %v, want %q", name, err, test.want)
		}
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadKey(empty, "", true); err == nil || !strings.Contains(err.Error(), "16 bytes") {
		t.Errorf("an empty file: got error %v, want that it is too short", err)
	}
}
