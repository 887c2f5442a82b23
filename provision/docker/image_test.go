package docker_test

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"
)

// makeImage makes an image of this host's PostgreSQL, since none can be pulled where tests run: its files, a shell and what the tests call, and their libraries.
func makeImage(t *testing.T, host, repository string) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	if len(bins) == 0 {
		t.Fatal("no PostgreSQL is installed in /usr/lib/postgresql")
	}
	bin := bins[len(bins)-1]
	base := filepath.Dir(bin)
	version := filepath.Base(base)
	paths := []string{bin, base + "/lib", "/usr/share/postgresql/" + version, "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo"}
	for _, name := range []string{"sh", "cat", "cmp", "cp", "env", "grep", "head", "id", "kill", "ls", "mv", "sed", "sleep", "sync", "test"} {
		if path, err := exec.LookPath(name); err == nil {
			paths = append(paths, path)
		}
	}
	for _, dir := range []string{"/bin", "/lib", "/lib64"} { // programs are called by these paths, too
		if st, err := os.Lstat(dir); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			paths = append(paths, dir)
		}
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeImage(w, paths)) }()
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	ref := repository + ":" + version
	out, err := api.ImageImport(t.Context(), client.ImageImportSource{Source: r, SourceName: "-"}, ref, client.ImageImportOptions{
		Changes: []string{"ENV PATH=" + bin + ":/usr/bin:/bin", "ENV LANG=C.UTF-8", "VOLUME /var/lib/postgresql/data"},
	})
	if err != nil {
		t.Fatalf("import of an image: %v", err)
	}
	defer out.Close()
	if said, err := io.ReadAll(out); err != nil || strings.Contains(string(said), `"error"`) {
		t.Fatalf("import of an image: %v: %s", err, said)
	}
	t.Cleanup(func() {
		api, err := client.New(client.WithHost(host))
		if err != nil {
			t.Fatal(err)
		}
		defer api.Close()
		if _, err := api.ImageRemove(context.Background(), ref, client.ImageRemoveOptions{Force: true}); err != nil {
			t.Errorf("image after the test: %v", err)
		}
	})
}

func writeImage(w io.Writer, paths []string) error {
	tw := tar.NewWriter(w)
	done := map[string]bool{}
	var add func(path string) error
	add = func(path string) error {
		if done[path] {
			return nil
		}
		done[path] = true
		// Directories that are links, such as /lib, go first.
		for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
			if st, err := os.Lstat(dir); err == nil && st.Mode()&fs.ModeSymlink != 0 {
				if err := add(dir); err != nil {
					return err
				}
				real, err := filepath.EvalSymlinks(dir)
				if err != nil {
					return err
				}
				return add(filepath.Join(real, strings.TrimPrefix(path, dir)))
			}
		}
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		link := ""
		if st.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(st, link)
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path, "/")
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if link != "" {
			if !filepath.IsAbs(link) {
				link = filepath.Join(filepath.Dir(path), link)
			}
			return add(link)
		}
		if !st.Mode().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	}
	var programs []string
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
			if err != nil || strings.Contains(path, "bitcode") || strings.Contains(path, "llvmjit") {
				return err
			}
			if strings.HasSuffix(path, ".so") || strings.Contains(path, "/bin/") {
				programs = append(programs, path)
			}
			return add(path)
		})
		if err != nil {
			return err
		}
	}
	out, _ := exec.Command("ldd", programs...).Output() // scripts among them have none, and it says so
	for line := range strings.Lines(string(out)) {
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "/") && !strings.HasSuffix(word, ":") && strings.Contains(word, ".so") {
				if err := add(word); err != nil {
					return err
				}
			}
		}
	}
	return tw.Close()
}
