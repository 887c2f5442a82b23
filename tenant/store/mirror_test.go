package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/tenanttest"
)

// script is a directory that tells its watchers what a test wants.
type script struct {
	tenant.Directory
	changes chan tenant.Change
	err     atomic.Pointer[error]
}

func (s *script) Watch(context.Context) (<-chan tenant.Change, error) {
	if err := s.err.Load(); err != nil {
		return nil, *err
	}
	return s.changes, nil
}

// run runs a Mirror until the test ends, or stop is called.
func run(t *testing.T, m *Mirror) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func wait(t *testing.T, m *Mirror) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorFollows(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		m := NewMirror(b, MirrorOptions{})
		if current, _, err := m.State(); current || err == nil || m.Ready() {
			t.Errorf("before Run: got %v, %v, want that it has nothing", current, err)
		}
		old := put(t, a, newRecord("old"))
		run(t, m)
		wait(t, m)
		if current, since, err := m.State(); !current || err != nil || time.Since(since) > time.Minute {
			t.Errorf("got %v, %v, %v, want that it is current", current, since, err)
		}
		if got := m.ByName("old"); got == nil || got.ID != old.ID {
			t.Errorf("got %v, want the one that was there", got)
		}
		x := tenanttest.Full("acme")
		x.Database = ""
		x = put(t, a, x)
		eventually(t, time.Second, "acme", func() bool { return m.ByName("acme") != nil })
		for what, got := range map[string]*tenant.Record{
			"ID": m.ByID(x.ID), "name": m.ByName("acme"), "key": m.ByKey(x.Cluster, x.Key), "schema": m.BySchema(x.Cluster, x.Schema),
		} {
			if got == nil || got.Revision != x.Revision {
				t.Errorf("by %s: got %v, want acme", what, got)
			}
		}
		for what, got := range map[string]*tenant.Record{
			"ID": m.ByID("acme"), "name": m.ByName(x.ID), "empty name": m.ByName(""), "key": m.ByKey(x.Cluster, x.Schema), "cluster": m.ByKey(x.Key, x.Cluster),
			"no key": m.ByKey("", ""), "schema": m.BySchema(x.Cluster, x.Key), "no schema": m.BySchema("", ""),
		} {
			if got != nil {
				t.Errorf("by another %s: got %v, want nobody", what, got)
			}
		}
		x = put(t, a, x, rename("new"), func(r *tenant.Record) { r.Key, r.Cluster = "", "other" })
		eventually(t, time.Second, "new", func() bool { return m.ByName("new") != nil })
		if m.ByName("acme") != nil || m.ByKey("main", "42/x") != nil || m.BySchema("main", "t_x") != nil || m.ByKey("other", "") != nil {
			t.Error("it is found under what it had before")
		}
		if m.BySchema("other", "t_x") == nil || m.ByID(x.ID).Name != "new" || m.Len() != 2 {
			t.Error("it is not found under what it has now")
		}
		var all []string
		for r := range m.All {
			all = append(all, r.Name)
		}
		if slices.Sort(all); !slices.Equal(all, []string{"new", "old"}) {
			t.Errorf("got %q, want both", all)
		}
		for range m.All {
			break
		}
		if err := a.Delete(t.Context(), x, byTest("delete")); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "its end", func() bool { return m.Len() == 1 })
		if m.ByID(x.ID) != nil || m.ByName("new") != nil || m.BySchema("other", "t_x") != nil {
			t.Error("who is gone is found")
		}
	})
}

// TestMirrorBySchemaOfTwo has two tenants with a schema of one name on two shards: neither is taken for the other.
func TestMirrorBySchemaOfTwo(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	on := func(shard int) *tenant.Record {
		r := newRecord(fmt.Sprintf("n%d", shard))
		r.Cluster, r.Schema, r.Shard = "c", "s", shard
		return r
	}
	x, y := on(0), on(1)
	m.apply(tenant.Change{Reset: true, Records: []*tenant.Record{x, y}})
	if got := m.BySchema("c", "s"); got != nil {
		t.Errorf("got %v, want none of two", got)
	}
	m.apply(tenant.Change{Deleted: []string{x.ID}})
	if got := m.BySchema("c", "s"); got != y {
		t.Errorf("got %v, want the one that is left", got)
	}
}

// TestMirrorNamesChangeHands lets names go round among tenants in one change, many times, while others look them up: a tenant is always found by its ID, and
// never by a name that it does not have.
func TestMirrorNamesChangeHands(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	const tenants = 6
	var list []*tenant.Record
	for i := range tenants {
		r := newRecord(fmt.Sprintf("n%d", i))
		r.Revision = 1
		list = append(list, r)
	}
	m.apply(tenant.Change{Reset: true, Records: list})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var looked atomic.Int64
	for range 2 {
		wg.Go(func() {
			last := make(map[string]int64)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := list[i%tenants].ID
				r := m.ByID(id)
				if r == nil || r.ID != id {
					t.Errorf("by ID: got %v, want %s", r, id)
					return
				}
				if r.Revision < last[id] {
					t.Errorf("revision %d of %s came after %d", r.Revision, id, last[id])
					return
				}
				last[id] = r.Revision
				name := fmt.Sprintf("n%d", i%(tenants+3))
				if r := m.ByName(name); r != nil {
					if r.Name != name {
						t.Errorf("by %s: got %s", name, r.Name)
						return
					}
					if r.Revision < last[r.ID] {
						t.Errorf("%s was found by the name %s, which it had before revision %d", r.ID, name, last[r.ID])
						return
					}
					last[r.ID] = r.Revision
				}
				looked.Add(1)
			}
		})
	}
	now := slices.Clone(list)
	for round := 2; round < 400 || looked.Load() < 2000; round++ {
		var next []*tenant.Record
		for i, r := range now {
			c := r.Clone()
			c.Name, c.Revision = fmt.Sprintf("n%d", (i+round)%(tenants+3)), int64(round)
			now[i] = c
			next = append(next, c)
		}
		if round%2 == 0 {
			slices.Reverse(next)
		}
		m.apply(tenant.Change{Records: next})
		for _, r := range now {
			if got := m.ByName(r.Name); got != r {
				t.Fatalf("round %d: by %s: got %v, want %s", round, r.Name, got, r.ID)
			}
		}
		found := 0
		for i := range tenants + 3 {
			if m.ByName(fmt.Sprintf("n%d", i)) != nil {
				found++
			}
		}
		if found != tenants {
			t.Fatalf("round %d: %d names are somebody's, want %d", round, found, tenants)
		}
		runtime.Gosched()
		if t.Failed() {
			break
		}
	}
	close(stop)
	wg.Wait()
}

// TestMirrorTakesOver frees a name and gives it to a new tenant in one change.
func TestMirrorTakesOver(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{})
	renamed, gone := newRecord("a"), newRecord("b")
	m.apply(tenant.Change{Reset: true, Records: []*tenant.Record{renamed, gone}})
	moved := renamed.Clone()
	moved.Name, moved.Revision = "c", 1
	x, y := newRecord("a"), newRecord("b")
	m.apply(tenant.Change{Records: []*tenant.Record{x, y, moved}, Deleted: []string{gone.ID, "unknown"}})
	for name, want := range map[string]*tenant.Record{"a": x, "b": y, "c": moved} {
		if got := m.ByName(name); got != want {
			t.Errorf("by %s: got %v, want %s", name, got, want.ID)
		}
	}
	if m.ByID(gone.ID) != nil || m.ByID(renamed.ID) != moved || m.Len() != 3 {
		t.Error("by ID: it is not what the change says")
	}
}

func TestMirrorSubscribers(t *testing.T) {
	t.Parallel()
	d := &script{changes: make(chan tenant.Change)}
	m := NewMirror(d, MirrorOptions{})
	var mu sync.Mutex
	var told []string
	m.Subscribe(func(changed []*tenant.Record, deleted []string) {
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for _, r := range changed {
			if m.ByName(r.Name) != r {
				t.Errorf("%s is told of before it can be looked up", r.Name)
			}
			names = append(names, r.Name)
		}
		slices.Sort(names)
		for _, id := range deleted {
			if m.ByID(id) != nil {
				t.Errorf("%s is told to be gone, and can be looked up", id)
			}
			names = append(names, "-"+id)
		}
		told = append(told, strings.Join(names, " "))
	})
	run(t, m)
	x, y := newRecord("x"), newRecord("y")
	x.ID, y.ID, x.Revision, y.Revision = "ix", "iy", 1, 2
	d.changes <- tenant.Change{Reset: true, Records: []*tenant.Record{x, y}}
	d.changes <- tenant.Change{Records: []*tenant.Record{x}} // known already
	d.changes <- tenant.Change{Reset: true, Records: []*tenant.Record{x.Clone(), y}}
	d.changes <- tenant.Change{Err: errors.New("away")}
	eventually(t, time.Second, "the error", func() bool { current, _, err := m.State(); return !current && err.Error() == "away" })
	d.changes <- tenant.Change{}
	eventually(t, time.Second, "its end", func() bool { current, _, err := m.State(); return current && err == nil })
	restored := y.Clone() // another under the same revision, as after a backup was restored
	restored.Name = "z"
	d.changes <- tenant.Change{Reset: true, Records: []*tenant.Record{restored}}
	d.changes <- tenant.Change{Deleted: []string{"iy", "nobody"}}
	d.changes <- tenant.Change{}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"x y", "z -ix", "-iy"}; !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
}

// TestMirrorCache starts a Mirror without its directory: it has what was saved, until the directory is there.
func TestMirrorCache(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cache")
	o := MirrorOptions{Cache: path, Source: "etcd a"}
	x, y := tenanttest.Full("x"), newRecord("y")
	x.Revision, y.Revision = 5, 6
	d := &script{changes: make(chan tenant.Change)}
	stop := run(t, NewMirror(d, o))
	d.changes <- tenant.Change{Reset: true, Records: []*tenant.Record{x, y}}
	d.changes <- tenant.Change{}
	stop()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got mode %v, %v, want 0600", info, err)
	}
	if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) != 1 {
		t.Errorf("got files %v, %v, want the cache only", list, err)
	}

	d = &script{changes: make(chan tenant.Change)}
	away := fmt.Errorf("etcd: %w", ErrUnreachable)
	d.err.Store(&away)
	m := NewMirror(d, o)
	var deleted []string
	m.Subscribe(func(changed []*tenant.Record, gone []string) {
		if deleted = append(deleted, gone...); len(gone) > 0 && len(changed) > 0 {
			t.Errorf("got %v changed: what is as it was saved is no change", changed)
		}
	})
	run(t, m)
	wait(t, m)
	if got := m.ByName("x"); got == nil || got.Revision != 5 || got.Logins[0].Verifier != x.Logins[0].Verifier || m.Len() != 2 {
		t.Errorf("got %+v, want what was saved", got)
	}
	if current, since, err := m.State(); current || !errors.Is(err, ErrUnreachable) || time.Since(since) > time.Minute || since.After(time.Now()) {
		t.Errorf("got %v, %v, %v, want that it is of when it was saved", current, since, err)
	}
	d.err.Store(nil)
	d.changes <- tenant.Change{Reset: true, Records: []*tenant.Record{x}}
	d.changes <- tenant.Change{}
	if m.ByName("y") != nil || m.ByName("x") == nil || !slices.Equal(deleted, []string{y.ID}) {
		t.Errorf("got %v deleted, want y only", deleted)
	}
	if current, _, err := m.State(); !current || err != nil {
		t.Errorf("got %v, %v, want that it is current", current, err)
	}
}

// TestMirrorCacheIsSaved saves it while the Mirror runs.
func TestMirrorCacheIsSaved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cache")
	d := openFile(t, filepath.Join(t.TempDir(), "directory"))
	run(t, NewMirror(d, MirrorOptions{Cache: path}))
	for i := range 20 {
		put(t, d, newRecord(fmt.Sprintf("n%d", i)))
	}
	eventually(t, 3*saveEvery, "the cache", func() bool {
		_, list, err := readCache(path, "")
		return err == nil && len(list) == 20
	})
}

// TestMirrorDamagedCache is ignored, wherever it is damaged, as one of another directory is.
func TestMirrorDamagedCache(t *testing.T) {
	t.Parallel()
	m := NewMirror(nil, MirrorOptions{Source: "s"})
	m.apply(tenant.Change{Reset: true, Records: []*tenant.Record{tenanttest.Full("x"), newRecord("y")}})
	var b strings.Builder
	if err := m.write(&b); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	if head, list, err := decodeCache(strings.NewReader(good), "s"); err != nil || len(list) != 2 || head.Records != 2 {
		t.Fatalf("got %v, %v, want both", list, err)
	}
	if _, _, err := decodeCache(strings.NewReader(good), "other"); err == nil || !strings.Contains(err.Error(), "another directory") {
		t.Errorf("got error %v, want that it is another's", err)
	}
	for i := range good {
		for _, bad := range []string{good[:i], good[:i] + string(good[i]^1) + good[i+1:]} {
			if i == len(good)-1 && strings.TrimSpace(bad) == strings.TrimSpace(good) {
				continue // the last newline is nobody's loss
			}
			if _, list, err := decodeCache(strings.NewReader(bad), "s"); err == nil || len(list) != 0 {
				t.Fatalf("damaged at %d: got %v, %v, want nothing", i, list, err)
			}
		}
	}
	if _, _, err := decodeCache(io.MultiReader(strings.NewReader(`{"pgkennel_cache":1,"source":"s","records":1}`+"\n"), endless{}), "s"); err == nil {
		t.Error("a line without an end was read")
	}
	path := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readCache(path, "s"); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("got error %v, want that others may write to it", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(good[:len(good)/2]), 0o600); err != nil {
		t.Fatal(err)
	}
	away := ErrUnreachable
	d := &script{}
	d.err.Store(&away)
	m = NewMirror(d, MirrorOptions{Cache: path, Source: "s"})
	run(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) || m.Len() != 0 {
		t.Errorf("got %v and %d tenants, want none, and why", err, m.Len())
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// TestMirrorGoesOnWithoutEtcd stops etcd, and lets it go on.
func TestMirrorGoesOnWithoutEtcd(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	d := s.open(t, quick)
	r := put(t, d, newRecord("acme"))
	m := NewMirror(d, MirrorOptions{})
	run(t, m)
	wait(t, m)
	_ = s.process.Signal(syscall.SIGSTOP)
	eventually(t, 4*time.Second, "the word that it is not current", func() bool { current, _, err := m.State(); return !current && errors.Is(err, ErrUnreachable) })
	if got := m.ByName("acme"); got == nil || got.ID != r.ID {
		t.Errorf("got %v, want what was known", got)
	}
	_ = s.process.Signal(syscall.SIGCONT)
	eventually(t, 5*time.Second, "the word that it is current", func() bool { current, _, _ := m.State(); return current })
	put(t, d, r, rename("other"))
	eventually(t, time.Second, "the new name", func() bool { return m.ByName("other") != nil })
}

// TestMirrorEnds with its directory.
func TestMirrorEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, _ tenant.Directory) {
		m := NewMirror(a, MirrorOptions{})
		done := make(chan error, 1)
		go func() { done <- m.Run(context.Background()) }()
		wait(t, m)
		a.Close()
		select {
		case err := <-done:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("got error %v, want ErrClosed", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("it did not end")
		}
	})
}
