package process

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/tenant"
)

// groups are the cgroups of instances: v2 if it has both the controllers that limits need, else v1's hierarchies.
type groups struct {
	parent string            // v2: the directory that ours is made in; empty = v1
	self   bool              // v2: parent is this process's own group, which it has to leave to share out what is in it
	v1     map[string]string // v1: the directories of hierarchies, by controller
	// unified and memory are where v2, and v1's controller of memory, are mounted; empty = nowhere.
	unified, memory string
	cpuset          string // where groups of CPUs are made: parent, or a hierarchy of v1; empty = nowhere
	io              string // the same of groups that limit reading and writing
	data            string // the directories of instances are in it
	name            string
	theirs          bool  // the operator chose name, and may have given that group CPUs
	reason          error // why there are none

	sets sync.Mutex // held while a group of CPUs is made or removed
}

// v1Controllers are those of v1 that instances join. Without the last two, limits are enforced all the same.
var v1Controllers = []string{"memory", "cpu", "cpuacct", "pids"}

func findGroups(o Options) *groups {
	g := &groups{name: o.Cgroup, theirs: o.Cgroup != "", data: o.DataDir}
	if g.name == "" {
		sum := sha256.Sum256([]byte(o.DataDir))
		g.name = "pgkennel-" + hex.EncodeToString(sum[:4])
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		g.reason = err
		return g
	}
	own, _ := os.ReadFile("/proc/self/cgroup") // its absence is as having none
	g.find(o.CgroupRoot, string(mounts), string(own))
	return g
}

// find looks through the mounts below root. own is the list of this process's groups.
func (g *groups) find(root, mounts, own string) {
	g.v1 = map[string]string{}
	var v2 string
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 || !below(root, f[1]) {
			continue
		}
		switch f[2] {
		case "cgroup2":
			v2, g.unified = f[1], f[1]
		case "cgroup":
			for option := range strings.SplitSeq(f[3], ",") {
				if slices.Contains(v1Controllers, option) {
					g.v1[option] = f[1]
				}
				if option == "memory" {
					g.memory = f[1]
				}
				if option == "cpuset" && unix.Access(f[1], unix.W_OK) == nil {
					g.cpuset = f[1]
				}
				if option == "blkio" && unix.Access(f[1], unix.W_OK) == nil {
					g.io = f[1]
				}
			}
		}
	}
	if v2 != "" {
		parents := []string{v2}
		for line := range strings.Lines(own) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && path != "/" {
				parents = append(parents, filepath.Join(v2, path))
			}
		}
		for i, dir := range parents {
			have, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers")) // without the file, without the controllers
			words := strings.Fields(string(have))
			if slices.Contains(words, "memory") && slices.Contains(words, "cpu") && unix.Access(dir, unix.W_OK) == nil {
				g.parent, g.self, g.v1, g.cpuset, g.io = dir, i > 0, nil, "", ""
				if slices.Contains(words, "cpuset") {
					g.cpuset = dir
				}
				if slices.Contains(words, "io") {
					g.io = dir
				}
				return
			}
		}
	}
	var missing []string
	for _, c := range v1Controllers[:2] {
		if dir := g.v1[c]; dir == "" || unix.Access(dir, unix.W_OK) != nil {
			missing = append(missing, c)
		}
	}
	for c, dir := range g.v1 {
		if unix.Access(dir, unix.W_OK) != nil {
			delete(g.v1, c)
		}
	}
	if len(missing) > 0 {
		g.reason = fmt.Errorf("This process may make no cgroup with the controller %s", strings.Join(missing, " and ")) //nolint:staticcheck // it is the detail of an error
	}
}

// can reports why a controller is not at hand.
func (g *groups) can(controller string) error {
	if controller == "io" {
		switch {
		case g.io != "" && (g.parent != "" || len(g.v1) > 0):
			return nil
		case g.parent == "":
			controller = "blkio"
		}
		return fmt.Errorf("This process may make no cgroup with the controller %s", controller) //nolint:staticcheck // it is the detail of an error
	}
	if g.parent != "" || g.v1[controller] != "" {
		return nil
	}
	return g.reason
}

// dirs are an instance's groups.
func (g *groups) dirs(id string) []string {
	if g.parent != "" {
		return []string{filepath.Join(g.parent, g.name, id)}
	}
	var list []string
	for _, c := range v1Controllers {
		if root := g.v1[c]; root != "" {
			if dir := filepath.Join(root, g.name, id); !slices.Contains(list, dir) {
				list = append(list, dir) // cpu and cpuacct are one hierarchy on many hosts
			}
		}
	}
	return list
}

// setup makes an instance's groups and limits them. It says so if a limit can't be had, or one that was there can't be taken away; groups without a limit may be
// missing.
func (g *groups) setup(id string, l tenant.Limits, processes int) error {
	needed := l.CPU > 0 || l.Memory > 0 || l.IO > 0
	if g.parent == "" && len(g.v1) == 0 {
		if needed {
			return g.reason
		}
		return nil
	}
	had := slices.ContainsFunc(append(g.dirs(id), g.ioGroup(id)), exists)
	err := g.make(id)
	if err != nil && !needed && !had {
		return nil // it is in no group, so nothing limits it
	}
	if err == nil {
		err = g.limit(id, l, processes)
	}
	if err != nil {
		return fmt.Errorf("cgroup of instance %s: %w", id, err)
	}
	return nil
}

func (g *groups) make(id string) error {
	if g.parent == "" {
		for _, dir := range g.dirs(id) {
			if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as all of cgroups' are
				return err
			}
		}
		return nil
	}
	base := filepath.Join(g.parent, g.name)
	if err := os.MkdirAll(base, 0o755); err != nil { //nolint:gosec // as all of cgroups' are
		return err
	}
	if g.self {
		// A group with processes in it can't share out its resources to groups below it.
		own := filepath.Join(g.parent, "pgkennel")
		if err := os.MkdirAll(own, 0o755); err != nil { //nolint:gosec // as all of cgroups' are
			return err
		}
		if err := write(own, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	for _, dir := range []string{g.parent, base} {
		if err := write(dir, "cgroup.subtree_control", "+memory +cpu"); err != nil {
			return err
		}
		_ = write(dir, "cgroup.subtree_control", "+pids") // not all have it
		if g.io != "" {
			_ = write(dir, "cgroup.subtree_control", "+io") // whom a limit is wanted of has the error from that
		}
	}
	return os.MkdirAll(filepath.Join(base, id), 0o755) //nolint:gosec // as all of cgroups' are
}

// period is the time that CPU limits are shares of, in microseconds.
const period = 100000

func (g *groups) limit(id string, l tenant.Limits, processes int) error {
	quota := strconv.Itoa(l.CPU * period / 1000)
	if g.parent != "" {
		dir := filepath.Join(g.parent, g.name, id)
		cpu, high, most, swap := "max", "max", "max", "max"
		if l.CPU > 0 {
			cpu = quota
		}
		if l.Memory > 0 {
			// Slowed down a little below the limit, it gives back cache and does not lose a process.
			high, most, swap = strconv.FormatInt(l.Memory-l.Memory/16, 10), strconv.FormatInt(l.Memory, 10), "0"
		}
		_ = write(dir, "pids.max", strconv.Itoa(processes))
		_ = write(dir, "memory.swap.max", swap) // not all have it
		return errors.Join(set(dir, "cpu.max", fmt.Sprintf("%s %d", cpu, period), l.CPU > 0), set(dir, "memory.high", high, l.Memory > 0),
			set(dir, "memory.max", most, l.Memory > 0), g.limitIO(id, l.IO))
	}
	var err error
	if root := g.v1["cpu"]; root != "" {
		if l.CPU == 0 {
			quota = "-1"
		}
		dir := filepath.Join(root, g.name, id)
		err = errors.Join(set(dir, "cpu.cfs_period_us", strconv.Itoa(period), l.CPU > 0), set(dir, "cpu.cfs_quota_us", quota, l.CPU > 0))
	}
	if root := g.v1["memory"]; root != "" {
		dir, most := filepath.Join(root, g.name, id), "-1"
		if l.Memory > 0 {
			most = strconv.FormatInt(l.Memory, 10)
		}
		// The one with swap may not be below that without: which goes first depends on the way.
		swap := write(dir, "memory.memsw.limit_in_bytes", most)
		err = errors.Join(err, set(dir, "memory.limit_in_bytes", most, l.Memory > 0))
		if swap != nil {
			swap = write(dir, "memory.memsw.limit_in_bytes", most)
		}
		if swap != nil && !errors.Is(swap, fs.ErrNotExist) && !errors.Is(swap, fs.ErrPermission) {
			err = errors.Join(err, swap)
		}
	}
	if root := g.v1["pids"]; root != "" {
		_ = write(filepath.Join(root, g.name, id), "pids.max", strconv.Itoa(processes))
	}
	return errors.Join(err, g.limitIO(id, l.IO))
}

// has reports whether an instance has a group of its own.
func (g *groups) has(id string) bool {
	dirs := g.dirs(id)
	for _, dir := range dirs {
		if !exists(dir) {
			return false
		}
	}
	return len(dirs) > 0
}

// join has a program that is about to be started by this thread begin in the instance's groups. Of v1, a child is where the thread was that made it; so the
// thread goes there, and must end with its goroutine.
func (g *groups) join(id string, attr *syscall.SysProcAttr) (done func(), err error) {
	done = func() {}
	if !g.has(id) {
		return done, nil
	}
	if g.parent != "" {
		f, err := os.Open(filepath.Join(g.parent, g.name, id))
		if err != nil {
			return done, err
		}
		attr.UseCgroupFD, attr.CgroupFD = true, int(f.Fd())
		return func() { f.Close() }, nil
	}
	dirs := g.dirs(id)
	if dir := g.ioGroup(id); dir != "" && exists(dir) {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		if err := write(dir, "tasks", "0"); err != nil {
			return done, err
		}
	}
	return done, nil
}

// adopt moves processes that run already.
func (g *groups) adopt(id string, pids []int) error {
	if !g.has(id) {
		return nil
	}
	var err error
	for _, dir := range g.dirs(id) {
		for _, pid := range pids {
			if e := write(dir, "cgroup.procs", strconv.Itoa(pid)); e != nil && alive(pid) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// cpu is how much time an instance's processes had, those that have ended too.
func (g *groups) cpu(id string) (time.Duration, bool) {
	if !g.has(id) {
		return 0, false
	}
	return g.used(id)
}

// used is cpu for an instance that has a group.
func (g *groups) used(id string) (time.Duration, bool) {
	if g.parent != "" {
		b, err := os.ReadFile(filepath.Join(g.parent, g.name, id, "cpu.stat"))
		if err != nil {
			return 0, false
		}
		for line := range strings.Lines(string(b)) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
				n, err := strconv.ParseInt(word, 10, 64)
				return time.Duration(n) * time.Microsecond, err == nil
			}
		}
		return 0, false
	}
	root := g.v1["cpuacct"]
	if root == "" {
		return 0, false
	}
	b, err := os.ReadFile(filepath.Join(root, g.name, id, "cpuacct.usage"))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return time.Duration(n), err == nil
}

// pids are the processes in an instance's group; nil = it has none.
func (g *groups) pids(id string) []int {
	dirs := g.dirs(id)
	if len(dirs) == 0 {
		return nil
	}
	return processes(dirs[0])
}

// processes are those in one group.
func processes(dir string) []int {
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // without a group, without processes
	var list []int
	for word := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(word); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// remove takes an instance's groups away, and that around them after the last.
func (g *groups) remove(id string) error {
	var err error
	for _, dir := range g.dirs(id) {
		err = errors.Join(err, removeGroup(dir))
		_ = os.Remove(filepath.Dir(dir)) // fails while there are others
	}
	if dir := g.ioGroup(id); dir != "" && g.parent == "" {
		err = errors.Join(err, removeGroup(dir))
		if !g.theirs {
			_ = os.Remove(filepath.Dir(dir))
		}
	}
	if g.cpuset != "" && g.parent == "" {
		// At last: without the others it is not made again.
		g.sets.Lock()
		defer g.sets.Unlock()
		err = errors.Join(err, removeGroup(g.set(id)))
		if !g.theirs {
			_ = os.Remove(filepath.Dir(g.set(id)))
		}
	}
	return err
}

func removeGroup(dir string) error {
	var err error
	// A process that has ended stays in its group until somebody has waited for it.
	for range 200 {
		if e := os.Remove(dir); e == nil || errors.Is(e, fs.ErrNotExist) {
			break
		} else if !errors.Is(e, unix.EBUSY) {
			err = e
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if exists(dir) {
		err = errors.Join(err, fmt.Errorf("cgroup %s can't be removed: there are processes in it", dir))
	}
	return err
}

// list are the IDs of instances that have groups.
func (g *groups) list() []string {
	var ids []string
	for _, dir := range g.dirs("x") {
		ids = append(ids, idsIn(filepath.Dir(dir))...)
	}
	if g.cpuset != "" && g.parent == "" {
		ids = append(ids, idsIn(filepath.Dir(g.set("x")))...)
	}
	if g.io != "" && g.parent == "" {
		ids = append(ids, idsIn(filepath.Dir(g.ioGroup("x")))...)
	}
	return ids
}

func idsIn(dir string) []string {
	var ids []string
	entries, _ := os.ReadDir(dir) // none without it
	for _, e := range entries {
		if e.IsDir() && goodID.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// set is write for a limit, or for its absence: what the kernel has no limit of needs none to be taken away.
func set(dir, name, value string, limited bool) error {
	if !limited && !exists(filepath.Join(dir, name)) {
		return nil
	}
	return write(dir, name, value)
}

func write(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644) //nolint:gosec // as all of cgroups' are
}
