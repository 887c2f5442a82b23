package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// usage is what processes have.
type usage struct {
	processes   int
	memory      float64 // bytes: each one's own, and its share of what is shared
	descriptors int
	cpu         float64 // seconds
}

func (u *usage) add(x usage) {
	u.processes += x.processes
	u.memory += x.memory
	u.descriptors += x.descriptors
	u.cpu += x.cpu
}

// clockTick is what /proc counts CPU in: USER_HZ, of which Linux has 100 on all its architectures.
const clockTick = 100

// usageOf is what a process has; nothing, if it has ended.
func usageOf(pid int) (u usage) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	rollup, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(rollup)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			u.memory = kb * 1024
		}
	}
	open, _ := os.ReadDir(dir + "fd")
	stat, _ := os.ReadFile(dir + "stat")
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.ParseFloat(f[11], 64)
			system, _ := strconv.ParseFloat(f[12], 64)
			u.cpu = (user + system) / clockTick
		}
	}
	u.processes, u.descriptors = 1, len(open)
	return u
}

// parentOf is a process's parent; 0, if it has ended.
func parentOf(pid int) int {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(f[1])
	return parent
}

// instances are what the servers of tenants use, by ID: a postmaster, and its children.
func (h *host) instances() map[string]*usage {
	all, of := make(map[string]*usage), make(map[int]string)
	lines := programs()
	for pid, line := range lines {
		_, rest, ok := strings.Cut(line, filepath.Join(h.dir, "instances")+"/")
		if !ok || !strings.Contains(line, "/postgres -D ") {
			continue
		}
		id, _, _ := strings.Cut(rest, "/")
		of[pid] = id
	}
	for pid := range lines {
		id, ok := of[pid]
		if !ok {
			id, ok = of[parentOf(pid)]
		}
		if !ok {
			continue
		}
		if all[id] == nil {
			all[id] = &usage{}
		}
		all[id].add(usageOf(pid))
	}
	return all
}

// disk is what the blocks of a tree's files hold.
func disk(pattern string) (sum float64) {
	roots, _ := filepath.Glob(pattern) // the pattern is good
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error { // what goes meanwhile is not there
			if err != nil {
				return nil //nolint:nilerr // see above
			}
			if info, err := e.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					sum += float64(st.Blocks) * 512
				}
			}
			return nil
		})
	}
	return sum
}
