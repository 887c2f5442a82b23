package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/tenant"
)

// putterVariable has this program be the child of TestFileSurvivesKill.
const putterVariable = "PGKENNEL_TEST_PUTTER"

// putter makes, renames and deletes tenants until it is killed, and writes a line for each change that it knows to be made: ID, revision and name, which is
// empty if it was deleted.
func putter(dir string) {
	ctx := context.Background()
	fail := func(err error) { panic(err) }
	d, err := OpenFile(ctx, FileOptions{Path: dir})
	if err != nil {
		fail(err)
	}
	list, err := d.List(ctx)
	if err != nil {
		fail(err)
	}
	name := func() string { return fmt.Sprintf("n%d", rand.IntN(40)) }
	var taken *tenant.TakenError
	for {
		i := rand.IntN(len(list) + 1)
		switch {
		case i == len(list):
			r := newRecord(name())
			r.Reason = strings.Repeat("x", rand.IntN(20000))
			list = append(list, r)
		case rand.IntN(6) == 0:
			r := list[i]
			list = append(list[:i], list[i+1:]...)
			if r.Revision > 0 {
				if err := d.Delete(ctx, r, byTest("delete")); err != nil {
					fail(err)
				}
				fmt.Fprintf(os.Stdout, "%s %d \n", r.ID, r.Revision)
			}
			continue
		}
		r := list[i].Clone()
		r.Name = name()
		r, err := d.Put(ctx, r, byTest("put"))
		switch {
		case err == nil:
			list[i] = r
			fmt.Fprintf(os.Stdout, "%s %d %s\n", r.ID, r.Revision, r.Name)
		case !errors.As(err, &taken):
			fail(err)
		}
	}
}

// TestFileSurvivesKill kills a process that changes a directory, again and again: each record is whole, claims are those of the records, each change has its
// entry in the audit, and what was said to be made is there.
func TestFileSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "directory")
	known := make(map[string]string) // revision and name by ID, as acknowledged
	for round := range 6 {
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), putterVariable+"="+dir)
		cmd.Stdout, cmd.Stderr = in, os.Stderr
		child, err := pginstance.Spawn(cmd)
		in.Close()
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		// It is killed in the middle of something: we are not told when it begins.
		for n := 20 + rand.IntN(100); n > 0 && lines.Scan(); n-- {
			id, rest, _ := strings.Cut(lines.Text(), " ")
			known[id] = rest
		}
		if _, err := OpenFile(t.Context(), FileOptions{Path: dir}); !errors.Is(err, tenant.ErrInUse) {
			t.Errorf("while the child has it: got error %v, want ErrInUse", err)
		}
		_ = child.Signal(syscall.SIGKILL)
		for lines.Scan() {
			id, rest, _ := strings.Cut(lines.Text(), " ")
			known[id] = rest
		}
		<-child.Done()
		out.Close()

		d, err := OpenFile(t.Context(), FileOptions{Path: dir, Wait: 5 * time.Second})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wantWhole(t, d, known)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(known) < 20 {
		t.Errorf("only %d tenants were changed", len(known))
	}
}

// wantWhole looks whether a directory is in order, and has what is known to have been made.
func wantWhole(t *testing.T, d tenant.Directory, known map[string]string) {
	t.Helper()
	list, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantClaims(t, d)
	there := make(map[string]*tenant.Record)
	for _, r := range list {
		there[r.ID] = r
	}
	last := uint64(0)
	err = d.(*fileStore).view(t.Context(), func(tx *bbolt.Tx) error {
		last = tx.Bucket(recordsBucket).Sequence()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	log, err := d.Audit(t.Context(), "", 0)
	if err != nil || uint64(len(log)) != last {
		t.Errorf("got %d entries of the audit, %v, want %d: one for each change", len(log), err, last)
	}
	latest := make(map[string]tenant.Entry)
	for _, e := range log {
		if _, ok := latest[e.ID]; !ok {
			latest[e.ID] = e
		}
	}
	for id, e := range latest {
		r := there[id]
		switch {
		case e.What == "delete" && r != nil, e.What != "delete" && r == nil:
			t.Errorf("the audit's last of %s is %s, and the record %v", id, e.What, r)
		case r != nil && r.Name != e.Name:
			t.Errorf("the audit's last name of %s is %s, and the record's %s", id, e.Name, r.Name)
		}
	}
	for id, line := range known {
		text, name, _ := strings.Cut(line, " ")
		revision, _ := strconv.ParseInt(text, 10, 64)
		switch r := there[id]; {
		case r == nil && name != "" && latest[id].What != "delete":
			t.Errorf("%s, known as %s, is not there", id, name)
		case r != nil && r.Revision < revision:
			t.Errorf("%s has revision %d, and had %d already", id, r.Revision, revision)
		case r != nil && r.Revision == revision && r.Name != name:
			t.Errorf("%s has the name %s, and not %s", id, r.Name, name)
		}
	}
}

func TestFileIsOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "directory")
	d := openFile(t, dir)
	began := time.Now()
	if _, err := OpenFile(t.Context(), FileOptions{Path: dir}); !errors.Is(err, tenant.ErrInUse) {
		t.Errorf("got error %v, want ErrInUse", err)
	}
	if took := time.Since(began); took > 300*time.Millisecond {
		t.Errorf("it took %v to say so", took)
	}
	opened := make(chan error, 1)
	go func() {
		d, err := OpenFile(t.Context(), FileOptions{Path: dir, Wait: 10 * time.Second})
		if err == nil {
			err = d.Close()
		}
		opened <- err
	}()
	d.Close()
	if err := <-opened; err != nil {
		t.Errorf("who waits: %v", err)
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "directory")
	openFile(t, dir).Close()
	path := filepath.Join(dir, "directory.db")
	wantMode := func(path string, want os.FileMode) {
		t.Helper()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	wantMode(dir, 0o700)
	wantMode(path, 0o600)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openFile(t, dir).Close()
	wantMode(path, 0o600)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(t.Context(), FileOptions{Path: dir}); err == nil || !strings.Contains(err.Error(), "everybody may write") {
		t.Errorf("got error %v, want that everybody may write there", err)
	}
}

// checkDrop has a damaged record dropped, and no other.
func checkDrop(t *testing.T, d tenant.Directory, newer, damaged, claim string) {
	t.Helper()
	for _, id := range []string{newer, put(t, d, newRecord("fine")).ID} {
		if err := d.Drop(t.Context(), id, byTest("drop")); !errors.Is(err, tenant.ErrReadable) {
			t.Errorf("got error %v for one that somebody can read", err)
		}
	}
	if err := d.Drop(t.Context(), damaged, byTest("drop")); err != nil {
		t.Error(err)
	}
	if err := d.Drop(t.Context(), damaged, byTest("drop")); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("got error %v for one that is gone", err)
	}
	if _, err := d.Find(t.Context(), claim); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("got error %v, want that nobody has its name any more", err)
	}
	if log, err := d.Audit(t.Context(), damaged, 1); err != nil || len(log) != 1 || log[0].What != "drop" {
		t.Errorf("got audit %v, %v", log, err)
	}
}

func TestFileFormats(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "directory")
	d := openFile(t, dir)
	r := put(t, d, newRecord("acme"))
	set := func(bucket, key, value []byte) {
		t.Helper()
		if err := d.(*fileStore).db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, value) }); err != nil {
			t.Fatal(err)
		}
	}
	set(recordsBucket, []byte("short"), []byte("x"))
	set(claimsBucket, []byte("name/short"), []byte("short"))
	set(recordsBucket, []byte(r.ID), append(make([]byte, 8), `{"format":2}`...))
	if _, err := d.Get(t.Context(), r.ID); !errors.Is(err, ErrNewer) {
		t.Errorf("got error %v, want ErrNewer", err)
	}
	var damaged *DamagedError
	if list, err := d.List(t.Context()); !errors.As(err, &damaged) || !strings.Contains(err.Error(), "tenant short") || len(list) != 0 {
		t.Errorf("got %v, %v, want an error for each", list, err)
	}
	w := watch(t, d)
	w.until(time.Second, "an empty reset", func() bool { return w.resets == 1 && len(w.names) == 0 })
	checkDrop(t, d, r.ID, "short", "name/short")
	set(metaBucket, formatKey, []byte("2"))
	d.Close()
	if _, err := OpenFile(t.Context(), FileOptions{Path: dir}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got error %v, want ErrNewer, and where", err)
	}
}

// TestNoFile opens what can't be a directory.
func TestNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "directory.db"), []byte(strings.Repeat("no bbolt", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, dir} {
		if _, err := OpenFile(t.Context(), FileOptions{Path: path}); err == nil {
			t.Errorf("%q was opened", path)
		}
	}
}
