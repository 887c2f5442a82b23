package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision/drivertest"
	"github.com/pgkennel/pgkennel/tenant"
)

func TestShareOut(t *testing.T) {
	t.Parallel()
	on := func(cpus ...int) []int { return cpus }
	two, four := on(0, 1), on(0, 1, 2, 3)
	for name, test := range map[string]struct {
		cpus []int
		list []occupant
		want map[string][]int
	}{
		"half of a core is much":                        {two, []occupant{{id: "a", limit: 1000, use: 500}}, map[string][]int{"a": on(1)}},
		"less is not":                                   {two, []occupant{{id: "a", limit: 1000, use: 499}}, nil},
		"of a small limit, half of that is":             {two, []occupant{{id: "a", limit: 100, use: 50}}, map[string][]int{"a": on(1)}},
		"less of it is not":                             {two, []occupant{{id: "a", limit: 100, use: 49}}, nil},
		"part of a core is one":                         {four, []occupant{{id: "a", limit: 1001, use: 900}}, map[string][]int{"a": on(2, 3)}},
		"without a limit":                               {two, []occupant{{id: "a", use: 2000}}, nil},
		"without a limit any more":                      {two, []occupant{{id: "a", use: 2000, at: on(1)}}, nil},
		"with that of the host":                         {two, []occupant{{id: "a", limit: 2000, use: 2000}}, nil},
		"with nearly that of the host":                  {two, []occupant{{id: "a", limit: 1500, use: 1500}}, nil},
		"with that of the host, since now":              {two, []occupant{{id: "a", limit: 2000, use: 900, at: on(1)}}, nil},
		"on a host with one CPU":                        {on(0), []occupant{{id: "a", limit: 500, use: 500}}, nil},
		"which CPUs there are is the host's to say":     {on(3, 7), []occupant{{id: "a", limit: 1000, use: 900}}, map[string][]int{"a": on(7)}},
		"two that begin are apart":                      {two, []occupant{{id: "a", limit: 1000, use: 900}, {id: "b", limit: 1000, use: 900}}, map[string][]int{"a": on(1), "b": on(0)}},
		"who begins goes where nobody is":               {two, []occupant{{id: "a", limit: 1000, use: 900, at: on(1)}, {id: "b", limit: 1000, use: 1000}}, map[string][]int{"a": on(1), "b": on(0)}},
		"two on one are separated":                      {two, []occupant{{id: "a", limit: 1000, use: 500, at: on(0)}, {id: "b", limit: 1000, use: 500, at: on(0)}}, map[string][]int{"a": on(1), "b": on(0)}},
		"small ones too":                                {two, []occupant{{id: "a", limit: 100, use: 90, at: on(1)}, {id: "b", limit: 100, use: 90, at: on(1)}}, map[string][]int{"a": on(0), "b": on(1)}},
		"three on two stay":                             {two, []occupant{{id: "a", limit: 1000, use: 1000, at: on(0)}, {id: "b", limit: 1000, use: 500, at: on(1)}, {id: "c", limit: 1000, use: 500, at: on(1)}}, map[string][]int{"a": on(0), "b": on(1), "c": on(1)}},
		"three and one become two and two":              {two, []occupant{{id: "a", limit: 400, use: 400, at: on(0)}, {id: "b", limit: 400, use: 333, at: on(1)}, {id: "c", limit: 400, use: 333, at: on(1)}, {id: "d", limit: 400, use: 333, at: on(1)}}, map[string][]int{"a": on(0), "b": on(0), "c": on(1), "d": on(1)}},
		"a small gain moves nobody":                     {two, []occupant{{id: "a", limit: 1000, use: 300, at: on(0)}, {id: "b", limit: 1000, use: 300, at: on(0)}, {id: "c", limit: 1000, use: 260, at: on(1)}}, map[string][]int{"a": on(0), "b": on(0), "c": on(1)}},
		"who stays keeps what it has, the first too":    {four, []occupant{{id: "a", limit: 1000, use: 900, at: on(0)}}, map[string][]int{"a": on(0)}},
		"large ones overlap as little as can be":        {four, []occupant{{id: "a", limit: 3000, use: 3000}, {id: "b", limit: 2000, use: 2000}}, map[string][]int{"a": on(1, 2, 3), "b": on(0, 3)}},
		"a limit that grew keeps the CPUs of before":    {four, []occupant{{id: "a", limit: 2000, use: 900, at: on(1)}}, map[string][]int{"a": on(1, 3)}},
		"a limit that shrank keeps one of them":         {four, []occupant{{id: "a", limit: 1000, use: 900, at: on(1, 2)}}, map[string][]int{"a": on(2)}},
		"a CPU that is gone is not had any more":        {two, []occupant{{id: "a", limit: 1000, use: 900, at: on(3)}}, map[string][]int{"a": on(1)}},
		"little after much, for a moment":               {two, []occupant{{id: "a", limit: 1000, use: 0, at: on(1)}}, map[string][]int{"a": on(1)}},
		"little for long":                               {two, []occupant{{id: "a", limit: 1000, use: 249, calm: calmFor - time.Second, at: on(1)}}, nil},
		"not so little after long":                      {two, []occupant{{id: "a", limit: 1000, use: 250, calm: calmFor - time.Second, at: on(1)}}, map[string][]int{"a": on(1)}},
		"of a small limit, little is a quarter of that": {two, []occupant{{id: "a", limit: 100, use: 25, calm: calmFor - time.Second, at: on(1)}}, map[string][]int{"a": on(1)}},
	} {
		before := fmt.Sprint(test.list)
		got := shareOut(test.cpus, time.Second, test.list)
		for i, o := range got {
			if !slices.Equal(o.at, test.want[o.id]) {
				t.Errorf("%s: %s is confined to %v, want %v", name, o.id, o.at, test.want[o.id])
			}
			if o.id != test.list[i].id || (o.calm > 0) != (o.at != nil && test.list[i].little()) {
				t.Errorf("%s: %s was calm for %v", name, o.id, o.calm)
			}
		}
		if again := fmt.Sprint(test.list); again != before {
			t.Errorf("%s: what was given is now %s", name, again)
		}
		// With the same uses, nobody moves a second time, and calm adds up.
		if next := shareOut(test.cpus, 0, got); fmt.Sprint(next) != fmt.Sprint(got) {
			t.Errorf("%s: the next time %v, after %v", name, next, got)
		}
	}
}

func TestCPULists(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]int{"0": {0}, "0-2,5": {0, 1, 2, 5}, "3,7-8": {3, 7, 8}, "": nil, "x": nil, "1-": nil, "-1": nil, "0-99999999": nil} {
		got, err := parseCPUs(list)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v; want %v", list, got, err, want)
		}
		if again, err := parseCPUs(formatCPUs(want)); want != nil && (err != nil || !slices.Equal(again, want)) {
			t.Errorf("%v: written and read again it is %v, %v", want, again, err)
		}
	}
}

// Of v2, an instance's group gets its CPUs when it is confined first, and the controller with it.
func TestConfineV2(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"cgroup.controllers": "cpuset cpu memory\n"})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup2 "+root+" cgroup2 rw 0 0\n", "0::/\n")
	if err := g.setup("one", tenant.Limits{CPU: 1500}, 1); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(root, "kennel")
	leaf := filepath.Join(base, "one")
	all := []int{0, 1, 2, 3}
	confine := func(at []int, want string) {
		t.Helper()
		if err := g.confine("one", at, all); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, leaf)["cpuset.cpus"]; got != want {
			t.Errorf("confined to %v, it has %q, want %q", at, got, want)
		}
	}
	confine(nil, "")
	if _, is := tree(t, base)["cpuset.cpus"]; is {
		t.Error("the group of all has CPUs, and nobody was confined")
	}
	confine([]int{1, 3}, "1,3")
	for _, dir := range []string{root, base} {
		if got := tree(t, dir)["cgroup.subtree_control"]; got != "+cpuset" { // the last that was written
			t.Errorf("%s shares out %q", dir, got)
		}
	}
	if got := g.confinedTo("one", all); !slices.Equal(got, []int{1, 3}) || g.quota("one") != 1500 || g.outdated(all) || !g.outdated(all[:3]) {
		t.Errorf("it is confined to %v, with a limit of %d", got, g.quota("one"))
	}
	all = all[:3]
	if err := g.outer(all); err != nil || tree(t, base)["cpuset.cpus"] != "0,1,2" {
		t.Errorf("of fewer CPUs the group of all has %q, %v", tree(t, base)["cpuset.cpus"], err)
	}
	confine(nil, "0,1,2")
	if got := g.confinedTo("one", all); got != nil {
		t.Errorf("set free, it is confined to %v", got)
	}
	if err := os.RemoveAll(leaf); err != nil {
		t.Fatal(err)
	}
	if err := g.confine("one", []int{1}, all); err != nil || exists(leaf) {
		t.Errorf("one that is removed: %v", err)
	}
}

// A group that the operator chose keeps the CPUs that it has, and instances are confined to some of those.
func TestConfineInTheirs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	cpus, err := parseCPUs(ownStatus("Cpus_allowed_list"))
	if err != nil {
		t.Fatal(err)
	}
	last := formatCPUs(cpus[len(cpus)-1:])
	all := formatCPUs(cpus)
	files(t, root, map[string]string{
		"cpu/x": "", "memory/x": "", "cpuset/cpuset.effective_cpus": all, "cpuset/a/cpuset.cpus": last, "cpuset/a/cpuset.effective_cpus": last, "cpuset/a/cpuset.mems": "0",
	})
	g := &groups{name: "a/b", theirs: true}
	var mounts strings.Builder
	for _, c := range []string{"cpu", "memory", "cpuset"} {
		fmt.Fprintf(&mounts, "cgroup %s/%s cgroup rw,%s 0 0\n", root, c, c)
	}
	g.find(root, mounts.String(), "")
	if err := g.setup("one", tenant.Limits{CPU: 1000}, 1); err != nil {
		t.Fatal(err)
	}
	confine := func() {
		t.Helper()
		if err := g.confine("one", []int{7}, []int{6, 7}); err != nil {
			t.Fatal(err)
		}
	}
	confine()
	set := filepath.Join(root, "cpuset/a")
	for dir, want := range map[string]string{set: last, filepath.Join(set, "b"): "6,7", filepath.Join(set, "b/one"): "7"} {
		if got := tree(t, dir); got["cpuset.cpus"] != want || got["cpuset.mems"] == "" {
			t.Errorf("%s has %v, want CPUs %s", dir, got, want)
		}
	}
	files(t, set, map[string]string{"b/cpuset.cpus": last, "b/cpuset.effective_cpus": last})
	confine()
	if got, err := g.allowed(); err != nil || formatCPUs(got) != last || tree(t, filepath.Join(set, "b"))["cpuset.cpus"] != last || g.outdated(cpus) {
		t.Errorf("of its group with %s, an instance may have %v, %v", last, got, err)
	}
	if got := g.list(); !slices.Contains(got, "one") {
		t.Errorf("list: %v", got)
	}
}

// Who burns CPU is kept to as many CPUs as its limit has, with all that it starts, until it has been quiet; what pgkennel does not know any more it finds.
func TestConfine(t *testing.T) {
	t.Parallel()
	d, err := New(Options{DataDir: drivertest.Dir(t, pgtest.Root()), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	g := findGroups(d.o)
	all, err := g.allowed()
	if err != nil {
		t.Fatal(err)
	}
	k := drivertest.Kit{TB: t, Driver: d}
	in := k.Instance()
	in.Limits.CPU = 100 // it has that much on a busy machine, too
	if d.confiner == nil || g.confines() != nil || len(all) < 2 {
		if d.confiner != nil {
			d.confiner.look(t.Context(), time.Now())
			if d.confiner.look(t.Context(), time.Now().Add(time.Minute)); len(all) > 1 && !d.confiner.mu.told {
				t.Error("it was not said that instances can't be confined here")
			}
		}
		return
	}
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })

	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- d.Watch(ctx, func(string) {}) }()
	burning := make(chan error, 1)
	go func() {
		_, err := k.Try(in, in.Password, "SET application_name = 'burner'; DO $$ BEGIN LOOP END LOOP; END $$")
		burning <- err
	}()
	k.Eventually("it is confined", func() bool { return len(g.confinedTo(in.ID, all)) == 1 })
	k.Eventually("whoever wakes up goes first", func() bool { return long(g.pids(in.ID)) == len(g.pids(in.ID)) || !slicesWork() })
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
	at := g.confinedTo(in.ID, all)
	allowed := func() string {
		return k.SQL(in, "SELECT regexp_replace(pg_read_file('/proc/self/status'), '.*Cpus_allowed_list:\\s*(\\S+).*', '\\1')")
	}
	if got := allowed(); got != formatCPUs(at) {
		t.Errorf("a new session may run on CPUs %s, want %v", got, at)
	}
	k.Eventually("all of its processes are confined", func() bool { return slices.Equal(g.pids(in.ID), processes(g.set(in.ID))) })
	if got := k.SQL(in, "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'burner'"); got != "1" {
		t.Errorf("%s sessions burned", got)
	}
	if err := <-burning; drivertest.Code(err) != "57P01" {
		t.Errorf("who burned: %v", err)
	}

	// Another pgkennel.
	next, err := New(d.o)
	if err != nil {
		t.Fatal(err)
	}
	k.Driver = next
	now := time.Now()
	look := func(after time.Duration) {
		now = now.Add(after)
		next.confiner.look(t.Context(), now)
	}
	look(0)
	look(confineEvery)
	// A server that is started anew was never confined.
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	look(confineEvery)
	if got := allowed(); got != formatCPUs(at) {
		t.Errorf("after a restart a session may run on CPUs %s, want %v", got, at)
	}
	look(time.Minute) // an average of nearly nothing
	if n := long(g.pids(in.ID)); n > 0 {
		t.Errorf("after a quiet minute %d processes have the long slice", n)
	}
	if got := g.confinedTo(in.ID, all); got != nil {
		t.Errorf("after a quiet minute it is confined to %v", got)
	}
	if got, err := parseCPUs(allowed()); err != nil || !slices.Equal(got, all) {
		t.Errorf("set free, a session may run on CPUs %v, %v; want %v", got, err, all)
	}
	k.Do("destroy", func(ctx context.Context) error { return k.Destroy(ctx, in) })
	if left, err := filepath.Glob(filepath.Join(d.o.CgroupRoot, "*", g.name)); err != nil || len(left) > 0 {
		t.Errorf("left over: %s, %v", strings.Join(left, " "), err)
	}
	k.Nothing()
}

// long is how many processes have the long slice.
func long(pids []int) (n int) {
	for _, pid := range pids {
		if attr, err := unix.SchedGetAttr(pid, 0); err == nil && attr.Runtime == uint64(longSlice) {
			n++
		}
	}
	return n
}

// slicesWork reports whether Linux has slices that can be chosen.
func slicesWork() bool {
	self := []int{os.Getpid()}
	setSlices(self, true)
	defer setSlices(self, false)
	return long(self) == 1
}
