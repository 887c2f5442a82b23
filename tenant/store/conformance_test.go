package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
	"github.com/pgkennel/pgkennel/tenant/tenanttest"
)

func TestPutAndRead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		r := tenanttest.Full("acme")
		got := put(t, a, r)
		if got.Revision <= 0 {
			t.Errorf("got revision %d, want one above 0", got.Revision)
		}
		want := r.Clone()
		want.Revision = got.Revision
		for _, d := range []tenant.Directory{a, b} {
			read, err := d.Get(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, read, prefixes); diff != "" {
				t.Errorf("it was changed on the way (-want +got):\n%s", diff)
			}
		}
		if diff := cmp.Diff(want, got, prefixes); diff != "" {
			t.Errorf("Put returned another (-want +got):\n%s", diff)
		}
		for _, claim := range r.Claims() {
			if found, err := b.Find(t.Context(), claim); err != nil || found.ID != r.ID {
				t.Errorf("by %s: got %v, %v", claim, found, err)
			}
		}
		other := put(t, b, newRecord("aardvark"))
		if other.Revision <= got.Revision {
			t.Errorf("got revision %d after %d, want a higher one", other.Revision, got.Revision)
		}
		list, err := a.List(t.Context())
		if err != nil || len(list) != 2 || list[0].Name != "aardvark" || list[1].Name != "acme" {
			t.Errorf("got list %v, %v, want aardvark and acme", list, err)
		}
		if _, err := a.Get(t.Context(), tenant.NewID()); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
		if _, err := a.Find(t.Context(), "name/nobody"); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
	})
}

// prefixes compares addresses, and takes none for an empty list.
var prefixes = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()}

func TestPutComparesRevisions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		first := put(t, a, newRecord("acme"))
		second := put(t, b, first, func(r *tenant.Record) { r.Reason = "b" })
		for name, r := range map[string]*tenant.Record{"stale": first, "new": func() *tenant.Record { r := second.Clone(); r.Revision = 0; return r }()} {
			if _, err := a.Put(t.Context(), r, byTest("lost")); !errors.Is(err, tenant.ErrConflict) {
				t.Errorf("%s: got error %v, want ErrConflict", name, err)
			}
		}
		if err := a.Delete(t.Context(), first, byTest("lost")); !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("delete: got error %v, want ErrConflict", err)
		}
		gone := newRecord("gone")
		gone.Revision = 7
		if _, err := a.Put(t.Context(), gone, byTest("lost")); !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("one that is not there: got error %v, want ErrConflict", err)
		}
		if got, err := a.Get(t.Context(), first.ID); err != nil || got.Reason != "b" || got.Revision != second.Revision {
			t.Errorf("got %+v, %v, want what b wrote", got, err)
		}
		log, err := a.Audit(t.Context(), "", 10)
		if err != nil || len(log) != 2 {
			t.Errorf("got audit %v, %v, want the two changes that were made", log, err)
		}
	})
}

// TestConcurrentPuts has many add one to a number: none may be lost.
func TestConcurrentPuts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		id := put(t, a, newRecord("acme")).ID
		const workers, times = 8, 5
		var wg sync.WaitGroup
		for i := range workers {
			d := []tenant.Directory{a, b}[i%2]
			wg.Go(func() {
				for n := 0; n < times; {
					r, err := d.Get(t.Context(), id)
					if err != nil {
						t.Error(err)
						return
					}
					r = r.Clone()
					r.Limits.Connections++
					switch _, err := d.Put(t.Context(), r, byTest("add")); {
					case err == nil:
						n++
					case !errors.Is(err, tenant.ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		r, err := a.Get(t.Context(), id)
		if err != nil || r.Limits.Connections != workers*times {
			t.Errorf("got %d, %v, want %d", r.Limits.Connections, err, workers*times)
		}
		if log, err := b.Audit(t.Context(), id, 1000); err != nil || len(log) != workers*times+1 {
			t.Errorf("got %d entries of the audit, %v, want %d", len(log), err, workers*times+1)
		}
	})
}

// TestOneOfManyGetsAName has a hundred make a tenant of one name at once.
func TestOneOfManyGetsAName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		var won atomic.Int32
		var winner atomic.Pointer[tenant.Record]
		var wg sync.WaitGroup
		for i := range 100 {
			d := []tenant.Directory{a, b}[i%2]
			wg.Go(func() {
				r, err := d.Put(t.Context(), newRecord("acme"), byTest("create"))
				var taken *tenant.TakenError
				switch {
				case err == nil:
					won.Add(1)
					winner.Store(r)
				case !errors.As(err, &taken) || taken.Claim != "name/acme" || taken.ID == "":
					t.Errorf("got error %v, want that name/acme is taken", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d got the name, want one", won.Load())
		}
		list, err := a.List(t.Context())
		if err != nil || len(list) != 1 || list[0].ID != winner.Load().ID {
			t.Errorf("got %v, %v, want the winner only", list, err)
		}
		if log, err := a.Audit(t.Context(), "", 1000); err != nil || len(log) != 1 || log[0].ID != winner.Load().ID {
			t.Errorf("got audit %v, %v, want the winner's entry only", log, err)
		}
	})
}

// TestNamesChangeHands has many swap names, and ports, as they like: no two ever have the same, and all claims are right in the end.
func TestNamesChangeHands(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		const tenants, names = 5, 7
		name := func() string { return fmt.Sprintf("n%d", rand.IntN(names)) }
		var wg sync.WaitGroup
		for i := range tenants {
			d := []tenant.Directory{a, b}[i%2]
			r := newRecord(fmt.Sprintf("first%d", i))
			r.Host = "h"
			r = put(t, d, r)
			wg.Go(func() {
				for range 12 {
					next := r.Clone()
					next.Name = name()
					next.Facts = map[string]string{tenant.PortFact: name()}
					got, err := d.Put(t.Context(), next, byTest("rename"))
					var taken *tenant.TakenError
					switch {
					case err == nil:
						r = got
					case !errors.As(err, &taken):
						t.Errorf("got error %v, want that a claim is taken, at most", err)
					case taken.ID == r.ID:
						t.Errorf("%s is taken by the one who wants it", taken.Claim)
					}
				}
			})
		}
		wg.Wait()
		wantClaims(t, a)
	})
}

// wantClaims looks whether the claims that the directory holds are those of its records.
func wantClaims(t *testing.T, d tenant.Directory) {
	t.Helper()
	list, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, r := range list {
		for _, c := range r.Claims() {
			if other, ok := want[c]; ok && other != r.ID {
				t.Errorf("%s and %s both have %s", other, r.ID, c)
			}
			want[c] = r.ID
		}
	}
	if diff := cmp.Diff(want, heldClaims(t, d)); diff != "" {
		t.Errorf("claims are not those of the records (-records +held):\n%s", diff)
	}
}

func TestClaimsAreReleased(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		r := put(t, a, tenanttest.Full("acme"))
		for _, claim := range r.Claims() {
			other := claimant(t, r, claim)
			var taken *tenant.TakenError
			if _, err := b.Put(t.Context(), other, byTest("take")); !errors.As(err, &taken) || taken.Claim != claim || taken.ID != r.ID {
				t.Errorf("%s: got error %v, want that it is taken", claim, err)
			}
		}
		wantClaims(t, a)
		if err := b.Delete(t.Context(), r, byTest("delete")); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Get(t.Context(), r.ID); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
		if err := b.Delete(t.Context(), r, byTest("again")); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("deleted again: got error %v, want ErrNotFound", err)
		}
		if held := heldClaims(t, a); len(held) != 0 {
			t.Errorf("claims %v outlive the tenant", held)
		}
		again := tenanttest.Full("acme")
		again.ID = tenant.NewID()
		put(t, b, again)
		wantClaims(t, a)
	})
}

func TestAudit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		x, y := newRecord("x"), newRecord("y")
		var all []string
		for i := range 4 {
			for _, r := range []**tenant.Record{&x, &y} {
				what := fmt.Sprintf("%s %d", (*r).Name, i)
				// The clock of whoever writes may be wrong: a tenant's entries are in the order of its changes all the same.
				e := byTest(what)
				e.Time = time.Now().Add(-time.Duration(i) * time.Hour)
				if r == &y {
					e.Time = time.Time{}
				}
				got, err := []tenant.Directory{a, b}[i%2].Put(t.Context(), (*r).Clone(), e)
				if err != nil {
					t.Fatal(err)
				}
				*r = got
				all = append(all, what)
			}
		}
		if err := b.Delete(t.Context(), x, byTest("x gone")); err != nil {
			t.Fatal(err)
		}
		read := func(id string, limit int) (list []string) {
			log, err := a.Audit(t.Context(), id, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range log {
				if e.Who != "test" || e.Name == "" || e.ID == "" || e.Time.IsZero() {
					t.Errorf("got entry %+v, want who, when and which", e)
				}
				list = append(list, e.What)
			}
			return list
		}
		if got, want := read(x.ID, 100), []string{"x gone", "x 3", "x 2", "x 1", "x 0"}; !slices.Equal(got, want) {
			t.Errorf("of x: got %q, want %q", got, want)
		}
		if got, want := read(y.ID, 2), []string{"y 3", "y 2"}; !slices.Equal(got, want) {
			t.Errorf("of y: got %q, want %q", got, want)
		}
		if got := read("", 100); len(got) != len(all)+1 {
			t.Errorf("got %q, want all %d", got, len(all)+1)
		}
		if got := read("", 0); len(got) != len(all)+1 {
			t.Errorf("without a limit: got %q, want all %d", got, len(all)+1)
		}
		if got := read("", 3); len(got) != 3 {
			t.Errorf("got %q, want three", got)
		}
		if got := read("nobody", 3); len(got) != 0 {
			t.Errorf("got %q, want none", got)
		}
		prune := func(before time.Time, most, want, left int) {
			t.Helper()
			if n, err := b.Prune(t.Context(), before, most); err != nil || n != want {
				t.Errorf("pruned %d, %v, want %d", n, err, want)
			}
			if n, of := len(read("", 0)), len(read(x.ID, 0))+len(read(y.ID, 0)); n != left || of != left {
				t.Errorf("%d entries are left, %d of tenants, want %d", n, of, left)
			}
		}
		prune(time.Time{}, 0, 0, 9)
		prune(time.Now().Add(-24*time.Hour), 9, 0, 9)
		prune(time.Time{}, 3, 6, 3)
		if got := read(x.ID, 1); !slices.Equal(got, []string{"x gone"}) {
			t.Errorf("the latest of x: got %q", got)
		}
		prune(time.Now().Add(24*time.Hour), 0, 3, 0)
		if _, err := a.Put(t.Context(), y, byTest("y 4")); err != nil {
			t.Fatal(err)
		}
		prune(time.Now().Add(-time.Hour), 1, 0, 1)
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		x := put(t, a, newRecord("x"))
		w := watch(t, b)
		w.until(time.Second, "the first reset", func() bool { return w.resets == 1 && w.names[x.ID] == "x" })
		y := put(t, a, newRecord("y"))
		w.until(time.Second, "y", func() bool { return w.names[y.ID] == "y" })
		for i := range 20 {
			y = put(t, a, y, rename(fmt.Sprintf("y%d", i)))
		}
		x = put(t, b, x, rename("y"))
		w.until(time.Second, "the last names", func() bool { return w.names[y.ID] == "y19" && w.names[x.ID] == "y" })
		if err := a.Delete(t.Context(), x, byTest("delete")); err != nil {
			t.Fatal(err)
		}
		w.until(time.Second, "the end of x", func() bool { return len(w.names) == 1 })
		if w.resets != 1 {
			t.Errorf("got %d resets, want one: nothing was missed", w.resets)
		}
	})
}

// TestSlowWatchers has watchers that do not listen: nobody waits for them, and they hear the end of it when they do.
func TestSlowWatchers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, _ tenant.Directory) {
		var watchers []*watcher
		for range 3 {
			watchers = append(watchers, watch(t, a))
		}
		r := put(t, a, newRecord("first"))
		for i := range 50 {
			r = put(t, a, r, rename(fmt.Sprintf("n%d", i)))
		}
		other := put(t, a, newRecord("other"))
		if err := a.Delete(t.Context(), other, byTest("delete")); err != nil {
			t.Fatal(err)
		}
		for _, w := range watchers {
			told := 0
			w.until(time.Second, "the last name", func() bool { told++; return w.names[r.ID] == "n49" && len(w.names) == 1 })
			if told > 20 {
				t.Errorf("it was told %d times, want what nobody heard told as one", told)
			}
		}
	})
}

// TestWatchesEnd closes channels when their context ends, and when the directory is closed.
func TestWatchesEnd(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, _ tenant.Directory) {
		ctx, cancel := context.WithCancel(t.Context())
		one, err := a.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		two, err := a.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		wantClosed(t, one)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		wantClosed(t, two)
		if _, err := a.Watch(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("got error %v, want ErrClosed", err)
		}
		if _, err := a.Get(t.Context(), "x"); !errors.Is(err, ErrClosed) {
			t.Errorf("got error %v, want ErrClosed", err)
		}
		if _, err := a.Put(t.Context(), newRecord("x"), byTest("put")); !errors.Is(err, ErrClosed) {
			t.Errorf("got error %v, want ErrClosed", err)
		}
	})
}

func wantClosed(t *testing.T, ch <-chan tenant.Change) {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-timeout:
			t.Fatal("the watch did not end")
		}
	}
}

func TestLockExcludes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		var inside, total atomic.Int32
		var wg sync.WaitGroup
		for i := range 6 {
			d := []tenant.Directory{a, b}[i%2]
			wg.Go(func() {
				for range 3 {
					unlock, lost, err := d.Lock(t.Context(), "tenant/x")
					if err != nil {
						t.Error(err)
						return
					}
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d have the lock", n)
					}
					total.Add(1)
					select {
					case <-lost:
						t.Error("it is lost")
					default:
					}
					inside.Add(-1)
					unlock()
					unlock() // does nothing
				}
			})
		}
		// Others are not kept by it, nor by one whose name begins like it.
		for _, name := range []string{"tenant/y", "tenant", "tenant/x/y"} {
			unlock, _, err := a.Lock(t.Context(), name)
			if err != nil {
				t.Error(err)
				continue
			}
			defer unlock()
		}
		wg.Wait()
		if total.Load() != 18 {
			t.Errorf("it was had %d times, want 18", total.Load())
		}
	})
}

func TestLockWaitsNoLongerThanAsked(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		unlock, _, err := a.Lock(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := b.Lock(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want that the time is over", err)
		}
		got := make(chan error, 1)
		go func() {
			unlock, _, err := b.Lock(t.Context(), "x")
			if err == nil {
				unlock()
			}
			got <- err
		}()
		unlock()
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(3 * time.Second):
			t.Error("who waited did not get it")
		}
		// Who has it and closes the directory has it no longer.
		_, lost, err := a.Lock(t.Context(), "y")
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		select {
		case <-lost:
		case <-time.After(5 * time.Second):
			t.Error("the lock outlives its directory")
		}
	})
}

func TestHosts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, b tenant.Directory) {
		names := func() (list []string) {
			hosts, err := a.Hosts(t.Context())
			if err != nil {
				t.Error(err)
			}
			for _, h := range hosts {
				list = append(list, h.Name+" "+h.Runner)
			}
			return list
		}
		want := func(what string, want ...string) {
			t.Helper()
			eventually(t, 5*time.Second, what, func() bool { return slices.Equal(names(), want) })
		}
		var wg sync.WaitGroup
		alive := func(d tenant.Directory, name, runner string) context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(func() {
				if err := d.Alive(ctx, tenant.Host{Name: name, Runner: runner, Since: time.Now()}); err != nil {
					t.Error(err)
				}
			})
			return cancel
		}
		x := alive(a, "x", "1")
		want("x", "x 1")
		y := alive(b, "y", "1")
		want("both", "x 1", "y 1")
		// Who comes next on a host is the one; the end of the one before does not matter.
		z := alive(b, "x", "2")
		want("the next", "x 2", "y 1")
		x()
		y()
		want("one", "x 2")
		z()
		want("none")
		wg.Wait()
	})
}

// TestCancelled calls everything with a context that is done.
func TestCancelled(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, _ tenant.Directory) {
		r := put(t, a, newRecord("acme"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		calls := map[string]func() error{
			"Get":    func() error { _, err := a.Get(ctx, r.ID); return err },
			"Find":   func() error { _, err := a.Find(ctx, "name/acme"); return err },
			"List":   func() error { _, err := a.List(ctx); return err },
			"Put":    func() error { _, err := a.Put(ctx, r, byTest("put")); return err },
			"Delete": func() error { return a.Delete(ctx, r, byTest("delete")) },
			"Watch":  func() error { _, err := a.Watch(ctx); return err },
			"Audit":  func() error { _, err := a.Audit(ctx, "", 1); return err },
			"Lock":   func() error { _, _, err := a.Lock(ctx, "x"); return err },
			"Hosts":  func() error { _, err := a.Hosts(ctx); return err },
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got error %v, want that it was canceled", name, err)
			}
		}
		if got, err := a.Get(t.Context(), r.ID); err != nil || got.Revision != r.Revision {
			t.Errorf("got %v, %v, want what it was", got, err)
		}
	})
}

// TestBadRecords are refused.
func TestBadRecords(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, a, _ tenant.Directory) {
		for what, change := range map[string]func(*tenant.Record){
			"no ID":           func(r *tenant.Record) { r.ID = "" },
			"an ID of a path": func(r *tenant.Record) { r.ID = "../x" },
			"no name":         func(r *tenant.Record) { r.Name = "" },
			"a bad name":      func(r *tenant.Record) { r.Name = "A b" },
			"no isolation":    func(r *tenant.Record) { r.Isolation = 0 },
			"no phase":        func(r *tenant.Record) { r.Phase = 0 },
			"a huge reason":   func(r *tenant.Record) { r.Reason = string(make([]byte, envelope.MaxBytes)) },
			"many claims": func(r *tenant.Record) {
				r.Host = "h"
				for i := range envelope.MaxClaims {
					r.Replicas = append(r.Replicas, tenant.Replica{ID: fmt.Sprint(i), Host: "h", Facts: map[string]string{tenant.PortFact: fmt.Sprint(i)}})
				}
			},
		} {
			r := newRecord("acme")
			change(r)
			if _, err := a.Put(t.Context(), r, byTest("put")); err == nil {
				t.Errorf("%s: it was taken", what)
			}
		}
		if list, err := a.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("got %v, %v, want none", list, err)
		}
		if held := heldClaims(t, a); len(held) != 0 {
			t.Errorf("got claims %v, want none", held)
		}
	})
}
