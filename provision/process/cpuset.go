package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Groups of CPUs are made when they are needed first: most instances never have one. Those of v1 are a hierarchy of their own, which processes are moved to; of v2
// it is the instance's own group that gets another file.

// set is an instance's group of CPUs.
func (g *groups) set(id string) string { return filepath.Join(g.cpuset, g.name, id) }

// confines reports why instances can't be confined to CPUs.
func (g *groups) confines() error {
	if g.cpuset == "" {
		return errors.New("this process may make no cgroup with the controller cpuset")
	}
	if g.parent == "" && g.v1["cpuacct"] == "" {
		return errors.New("this process may make no cgroup with the controller cpuacct")
	}
	return nil
}

// accounted are the IDs of instances whose use is known.
func (g *groups) accounted() []string {
	root := g.parent
	if root == "" {
		root = g.v1["cpuacct"]
	}
	if root == "" {
		return nil
	}
	return idsIn(filepath.Join(root, g.name))
}

// quota is an instance's limit, in thousandths of a core; 0 = none.
func (g *groups) quota(id string) int {
	dir, name := filepath.Join(g.parent, g.name, id), "cpu.max"
	if g.parent == "" {
		dir, name = filepath.Join(g.v1["cpu"], g.name, id), "cpu.cfs_quota_us"
	}
	word, _, _ := strings.Cut(read(dir, name), " ")
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 {
		return 0 // max, or -1
	}
	return n * 1000 / period
}

// allowed are the CPUs that instances may have: those of this process that are there.
func (g *groups) allowed() ([]int, error) {
	own, err := parseCPUs(ownStatus("Cpus_allowed_list"))
	if err != nil {
		return nil, err
	}
	bounds := []string{g.cpuset}
	if g.theirs {
		bounds = append(bounds, filepath.Join(g.cpuset, g.name))
	}
	for _, dir := range bounds {
		for _, name := range []string{"cpuset.cpus.effective", "cpuset.effective_cpus"} {
			if there, err := parseCPUs(read(dir, name)); err == nil {
				own = slices.DeleteFunc(own, func(cpu int) bool { return !slices.Contains(there, cpu) })
			}
		}
	}
	return own, nil
}

func ownStatus(name string) string {
	b, _ := os.ReadFile("/proc/self/status") // without it, nothing is in it
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value)
}

// confinedTo are the CPUs that an instance has, if they are not all.
func (g *groups) confinedTo(id string, all []int) []int {
	at, err := parseCPUs(read(g.set(id), "cpuset.cpus"))
	if err != nil || slices.Equal(at, all) {
		return nil
	}
	return at
}

// outdated reports that the group around those of instances does not have all CPUs that they may have, or has others.
func (g *groups) outdated(all []int) bool {
	if g.theirs {
		return false
	}
	has, err := parseCPUs(read(filepath.Join(g.cpuset, g.name), "cpuset.cpus"))
	return err == nil && !slices.Equal(has, all)
}

// outer sets that right.
func (g *groups) outer(all []int) error {
	if !g.outdated(all) {
		return nil
	}
	return write(filepath.Join(g.cpuset, g.name), "cpuset.cpus", formatCPUs(all))
}

// confine has an instance run on some of all CPUs; nil = on all.
func (g *groups) confine(id string, at, all []int) error {
	g.sets.Lock()
	defer g.sets.Unlock()
	dir := g.set(id)
	if !g.has(id) || at == nil && !exists(filepath.Join(dir, "cpuset.cpus")) {
		return nil
	}
	if at == nil {
		at = all
	}
	if err := g.makeSet(dir, all); err != nil {
		return err
	}
	if err := write(dir, "cpuset.cpus", formatCPUs(at)); err != nil {
		return err
	}
	return g.gather(id)
}

func (g *groups) makeSet(dir string, all []int) error {
	base := filepath.Dir(dir)
	if g.parent != "" {
		if !exists(filepath.Join(dir, "cpuset.cpus")) {
			for _, d := range []string{g.parent, base} {
				if err := write(d, "cgroup.subtree_control", "+cpuset"); err != nil {
					return err
				}
			}
		}
	}
	above := []string{dir}
	for d := base; d != g.cpuset; d = filepath.Dir(d) {
		above = append(above, d)
	}
	for _, d := range slices.Backward(above) {
		if g.parent == "" {
			if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // as all of cgroups' are
				return err
			}
			if err := fill(d, "cpuset.mems", ownStatus("Mems_allowed_list")); err != nil { // without, nobody can join it
				return err
			}
		}
		if d != dir && (g.parent == "" || !g.theirs) { // of v2, those above have what is set further up
			if err := fill(d, "cpuset.cpus", formatCPUs(all)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill writes what is not set yet.
func fill(dir, name, value string) error {
	if read(dir, name) != "" {
		return nil
	}
	return write(dir, name, value)
}

// gather has all of an instance's processes be in its group of CPUs: one that was started anew is not, and those that are made meanwhile are where their makers are.
func (g *groups) gather(id string) error {
	if g.parent != "" {
		return nil
	}
	return g.gatherIn(g.set(id), id)
}

// gatherIn is gather for a group of v1 that not all instances have.
func (g *groups) gatherIn(dir, id string) error {
	var err error
	for range 3 {
		in := map[int]bool{}
		for _, pid := range processes(dir) {
			in[pid] = true
		}
		moved := false
		for _, pid := range g.pids(id) {
			if in[pid] {
				continue
			}
			moved = true
			if e := write(dir, "cgroup.procs", strconv.Itoa(pid)); e != nil && alive(pid) {
				err = errors.Join(err, e)
			}
		}
		if !moved || err != nil {
			break
		}
	}
	return err
}

func read(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // without it, nothing is in it
	return strings.TrimSpace(string(b))
}

// parseCPUs reads a list as the kernel writes it, such as 0-2,5.
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last > 1<<16 {
			return nil, fmt.Errorf("%q is no list of CPUs", list)
		}
		for cpu := first; cpu <= last; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

func formatCPUs(cpus []int) string {
	words := make([]string, len(cpus))
	for i, cpu := range cpus {
		words[i] = strconv.Itoa(cpu)
	}
	return strings.Join(words, ",")
}
