package process

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

// files writes a tree of files, as a kernel would have them.
func files(t *testing.T, root string, contents map[string]string) {
	t.Helper()
	for name, text := range contents {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tree reads what was written below a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			got[e.Name()] = string(b)
		}
	}
	return got
}

func wantTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if got := tree(t, dir); !maps.Equal(got, want) {
		t.Errorf("%s holds %v, want %v", dir, got, want)
	}
}

func TestCgroupV2(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n"})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup2 "+root+" cgroup2 rw,nosuid 0 0\nproc /proc proc rw 0 0\n", "0::/user.slice\n")
	for _, c := range []string{"cpu", "memory"} {
		if err := g.can(c); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	if err := g.setup("one", tenant.Limits{CPU: 1500, Memory: 160 << 20}, 77); err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(root, "kennel", "one")
	wantTree(t, leaf, map[string]string{
		"cpu.max": "150000 100000", "memory.max": "167772160", "memory.high": "157286400", "memory.swap.max": "0", "pids.max": "77",
	})
	if err := g.setup("one", tenant.Limits{}, 77); err != nil {
		t.Fatal(err)
	}
	wantTree(t, leaf, map[string]string{"cpu.max": "max 100000", "memory.max": "max", "memory.high": "max", "memory.swap.max": "max", "pids.max": "77"})
	attr := &syscall.SysProcAttr{}
	done, err := g.join("one", attr)
	if err != nil || !attr.UseCgroupFD || attr.CgroupFD <= 0 {
		t.Errorf("join: %+v, %v", attr, err)
	}
	done()
	files(t, leaf, map[string]string{"cpu.stat": "usage_usec 2500000\nuser_usec 1\n"})
	if cpu, ok := g.cpu("one"); !ok || cpu.Milliseconds() != 2500 {
		t.Errorf("CPU: %v, %t", cpu, ok)
	}
	if got := g.list(); len(got) != 1 || got[0] != "one" {
		t.Errorf("list: %v", got)
	}
	for name := range tree(t, leaf) { // a kernel's files go with their directory
		os.Remove(filepath.Join(leaf, name))
	}
	if err := g.remove("one"); err != nil {
		t.Error(err)
	}
	if got := g.list(); len(got) != 0 || g.has("one") {
		t.Errorf("list after: %v", got)
	}
	if err := g.remove("one"); err != nil {
		t.Errorf("again: %v", err)
	}
}

// Of a service with Delegate=yes, only its own group is its own; and it has to leave that for one below.
func TestCgroupV2Delegated(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"cgroup.controllers": "cpuset io\n", "system.slice/k.service/cgroup.controllers": "cpu memory\n"})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup2 "+root+" cgroup2 rw 0 0\n", "0::/system.slice/k.service\n")
	if err := g.setup("one", tenant.Limits{CPU: 500}, 1); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, "system.slice/k.service")
	if got := tree(t, filepath.Join(own, "pgkennel"))["cgroup.procs"]; got == "" {
		t.Error("this process did not go to a group of its own")
	}
	if got := tree(t, filepath.Join(own, "kennel", "one"))["cpu.max"]; got != "50000 100000" {
		t.Errorf("cpu.max is %q", got)
	}
}

// Reading and writing is limited at one device: that of the instance's directory, which may be another one after a start.
func TestThrottle(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"v2/cgroup.controllers": "cpu io memory\n", "cpu/x": "", "memory/x": "", "blkio/x": ""})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup2 "+root+"/v2 cgroup2 rw 0 0\n", "")
	leaf := filepath.Join(root, "v2/kennel/one")
	if err := g.setup("one", tenant.Limits{}, 1); err != nil || tree(t, leaf)["io.max"] != "" {
		t.Errorf("without a limit: %v, %v", tree(t, leaf), err)
	}
	if err := g.throttle("one", "7:3", 5); err != nil || tree(t, leaf)["io.max"] != "7:3 rbps=5 wbps=5" {
		t.Errorf("a limit: %v, %v", tree(t, leaf), err)
	}
	files(t, leaf, map[string]string{"io.max": "7:3 rbps=5 wbps=5 riops=max wiops=max\n", "io.stat": "254:0 rbytes=1 wbytes=2 rios=1 wios=1\n7:3 rbytes=30 wbytes=400 rios=2 wios=8 dbytes=0 dios=0\n"})
	if bytes, limit := g.moved("one"); bytes != 430 || limit != 5 {
		t.Errorf("%d bytes were read and written of %d a second, want 430 of 5", bytes, limit)
	}
	if err := g.throttle("one", "", 0); err != nil || tree(t, leaf)["io.max"] != "7:3 rbps=max wbps=max" {
		t.Errorf("no limit any more: %v, %v", tree(t, leaf), err)
	}

	const mounts = "cgroup R/cpu cgroup rw,cpu 0 0\ncgroup R/memory cgroup rw,memory 0 0\n"
	g = &groups{name: "kennel"}
	g.find(root, strings.ReplaceAll(mounts, "R", root), "")
	if err := g.can("io"); err == nil || !strings.Contains(err.Error(), "blkio") {
		t.Errorf("without the controller: %v, want its name", err)
	}
	if err := g.throttle("one", "7:3", 5); err == nil {
		t.Error("a limit was ignored")
	}
	g = &groups{name: "kennel", data: root}
	g.find(root, strings.ReplaceAll(mounts+"cgroup R/blkio cgroup rw,blkio 0 0\n", "R", root), "")
	if err := g.can("io"); err != nil {
		t.Error(err)
	}
	leaf = filepath.Join(root, "blkio/kennel/one")
	files(t, leaf, map[string]string{
		"blkio.throttle.write_bps_device": "7:3 5\n",
		"blkio.throttle.io_service_bytes": "254:0 Read 1\n254:0 Write 2\n7:3 Read 30\n7:3 Write 400\n7:3 Sync 9\n7:3 Total 430\nTotal 433\n",
	})
	if bytes, limit := g.moved("one"); bytes != 430 || limit != 5 {
		t.Errorf("%d bytes were read and written of %d a second, want 430 of 5", bytes, limit)
	}
	if err := os.RemoveAll(leaf); err != nil {
		t.Fatal(err)
	}
	// Those without a limit have no group, nor those of which there is nothing yet.
	for _, l := range []tenant.Limits{{}, {IO: 5}} {
		if err := g.setup("one", l, 1); err != nil || exists(leaf) {
			t.Errorf("limits %+v: %v", l, err)
		}
	}
	files(t, root, map[string]string{"memory/kennel/one/cgroup.procs": "4711\n"})
	if err := g.throttle("one", "7:3", 5); err != nil {
		t.Fatal(err)
	}
	const read, written = "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"
	if got := tree(t, leaf); got[read] != "7:3 5" || got[written] != "7:3 5" || got["cgroup.procs"] != "4711" {
		t.Errorf("a limit: %v", got)
	}
	files(t, leaf, map[string]string{read: "7:3 5\n7:4 9\n", written: "7:3 5\n"})
	if err := g.throttle("one", "7:4", 6); err != nil || tree(t, leaf)[read] != "7:4 6" || tree(t, leaf)[written] != "7:4 6" {
		t.Errorf("another device: %v, %v", tree(t, leaf), err)
	}
	if err := g.throttle("one", "", 0); err != nil || tree(t, leaf)[read] != "7:4 0" {
		t.Errorf("no limit any more: %v, %v", tree(t, leaf), err)
	}
	done, err := g.join("one", &syscall.SysProcAttr{})
	if done(); err != nil || tree(t, leaf)["tasks"] != "0" {
		t.Errorf("join: %v, %v", tree(t, leaf), err)
	}
	for _, dir := range []string{leaf, filepath.Join(root, "cpu/kennel/one"), filepath.Join(root, "memory/kennel/one")} {
		for name := range tree(t, dir) { // a kernel's files go with their directory
			os.Remove(filepath.Join(dir, name))
		}
	}
	if got := g.list(); !slices.Contains(got, "one") {
		t.Errorf("list: %v", got)
	}
	if err := g.remove("one"); err != nil || len(g.list()) > 0 || exists(filepath.Dir(leaf)) {
		t.Errorf("remove: %v, %v", g.list(), err)
	}
}

// The kernel limits whole disks only, and what is on none can't be limited.
func TestDiskOf(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{
		"vda/dev": "254:0\n", "vda/uevent": "MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n", "vda/vda1/dev": "254:1\n", "vda/vda1/partition": "1\n",
		"vda/vda1/uevent": "DEVNAME=vda1\n", "cciss/uevent": "DEVNAME=cciss/c0d0", "cciss/dev": "1:2",
	})
	for at, want := range map[string]Disk{"vda": {"254:0", "/dev/vda"}, "vda/vda1": {"254:0", "/dev/vda"}, "cciss": {"1:2", "/dev/cciss/c0d0"}} {
		if got, err := diskAt(filepath.Join(root, at)); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", at, got, err, want)
		}
	}
	if got, err := diskAt(root); err == nil {
		t.Errorf("no disk: %v", got)
	}
	if got, err := DiskOf("/proc"); err == nil || !strings.Contains(err.Error(), "no block device") {
		t.Errorf("/proc is on %v, %v", got, err)
	}
	if _, err := DiskOf(filepath.Join(root, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestCgroupV1(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"cpu,cpuacct/x": "", "memory/x": "", "unified/cgroup.controllers": "hugetlb\n"})
	g := &groups{name: "kennel"}
	g.find(root, strings.ReplaceAll(`cgroup R/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup R/memory cgroup rw,memory 0 0
cgroup2 R/unified cgroup2 rw 0 0
cgroup /elsewhere/pids cgroup rw,pids 0 0
`, "R", root), "1:cpu:/\n0::/\n")
	if err := g.setup("one", tenant.Limits{CPU: 250, Memory: 100 << 20}, 5); err != nil {
		t.Fatal(err)
	}
	wantTree(t, filepath.Join(root, "cpu,cpuacct/kennel/one"), map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "25000"})
	wantTree(t, filepath.Join(root, "memory/kennel/one"), map[string]string{"memory.limit_in_bytes": "104857600", "memory.memsw.limit_in_bytes": "104857600"})
	done, err := g.join("one", &syscall.SysProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	done()
	if got := tree(t, filepath.Join(root, "memory/kennel/one"))["tasks"]; got != "0" {
		t.Errorf("tasks holds %q, want 0: the thread that asks", got)
	}
	if dirs := g.dirs("one"); len(dirs) != 2 {
		t.Errorf("directories %v, want one of each hierarchy", dirs)
	}
}

// Where there is nothing to limit with, it is said; and nothing is asked of who wants no limits.
func TestNoCgroups(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files(t, root, map[string]string{"memory/x": ""})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup "+root+"/memory cgroup rw,memory 0 0\n", "")
	if err := g.can("memory"); err != nil {
		t.Errorf("memory: %v", err)
	}
	if err := g.can("cpu"); err == nil || !strings.Contains(err.Error(), "cpu") {
		t.Errorf("cpu: %v, want the controller's name", err)
	}
	g = &groups{name: "kennel"}
	g.find(root, "", "")
	if err := g.can("memory"); err == nil || !strings.Contains(err.Error(), "memory and cpu") {
		t.Errorf("memory: %v, want the controllers' names", err)
	}
	if err := g.setup("one", tenant.Limits{}, 1); err != nil {
		t.Error(err)
	}
	if err := g.setup("one", tenant.Limits{Memory: 1 << 30}, 1); err == nil {
		t.Error("a limit was ignored")
	}
	if g.has("one") || g.list() != nil {
		t.Error("there are groups")
	}
}

// A limit that can't be taken away is still in force: that is said. Who never had one goes without a group.
func TestLimitsStay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ mount, group, file string }{
		"v2":            {"cgroup2 R/v2 cgroup2 rw 0 0\n", "v2/kennel/one", "memory.max"},
		"v1":            {"cgroup R/cpu cgroup rw,cpu 0 0\ncgroup R/memory cgroup rw,memory 0 0\n", "memory/kennel/one", "memory.limit_in_bytes"},
		"v1's of disks": {"cgroup R/cpu cgroup rw,cpu 0 0\ncgroup R/memory cgroup rw,memory 0 0\ncgroup R/blkio cgroup rw,blkio 0 0\n", "blkio/kennel/one", "blkio.throttle.write_bps_device"},
	} {
		root := t.TempDir()
		files(t, root, map[string]string{"v2/cgroup.controllers": "cpu memory\n", "cpu/x": "", "memory/x": "", "blkio/x": ""})
		g := &groups{name: "kennel"}
		g.find(root, strings.ReplaceAll(c.mount, "R", root), "")
		if err := g.setup("one", tenant.Limits{CPU: 250, Memory: 100 << 20}, 5); err != nil {
			t.Fatal(name, err)
		}
		stuck := filepath.Join(root, c.group, c.file)
		os.Remove(stuck)
		if err := errors.Join(os.MkdirAll(filepath.Dir(stuck), 0o755), os.Symlink("/proc/version", stuck)); err != nil { // it has a line, and takes none
			t.Fatal(err)
		}
		if err := g.setup("one", tenant.Limits{}, 5); err == nil {
			t.Errorf("%s: a limit that stays was passed over", name)
		}
	}
	root := t.TempDir()
	files(t, root, map[string]string{"cgroup.controllers": "cpu memory\n", "kennel": ""})
	g := &groups{name: "kennel"}
	g.find(root, "cgroup2 "+root+" cgroup2 rw 0 0\n", "")
	if err := g.setup("one", tenant.Limits{}, 5); err != nil || g.has("one") {
		t.Errorf("without limits, and without a group: %v", err)
	}
	if err := g.setup("one", tenant.Limits{CPU: 250}, 5); err == nil {
		t.Error("a limit was ignored")
	}
}
