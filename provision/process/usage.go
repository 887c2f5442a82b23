package process

import (
	"bufio"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
)

// Usage implements provision.Driver.
func (d *Driver) Usage(_ context.Context, in *provision.Instance) (provision.Usage, error) {
	p, err := d.place(in)
	if err != nil {
		return provision.Usage{}, err
	}
	var u provision.Usage
	var sum time.Duration
	list := d.groups.pids(p.id)
	if list == nil {
		list = p.members()
	}
	for _, pid := range list {
		if !alive(pid) {
			continue
		}
		u.Processes++
		u.Memory += proportional(pid)
		if st, ok := readStat(pid); ok {
			sum += st.cpu
		}
	}
	if cpu, ok := d.groups.cpu(p.id); ok {
		u.CPU = cpu
	} else {
		u.CPU = sum
	}
	if exists(p.image) {
		if is, err := mounted(p.dir); err != nil {
			return u, err
		} else if is {
			var fsys unix.Statfs_t
			if err := unix.Statfs(p.dir, &fsys); err != nil {
				return u, &fs.PathError{Op: "statfs", Path: p.dir, Err: err}
			}
			u.DiskSize = int64(fsys.Blocks) * fsys.Bsize        //nolint:gosec // a disk has fewer bytes
			u.Disk = u.DiskSize - int64(fsys.Bavail)*fsys.Bsize //nolint:gosec // a disk has fewer bytes
			if st, err := os.Lstat(p.reserve); err == nil {
				u.Disk -= st.Size() // nobody's data
			}
			return u, nil
		}
	}
	u.Disk = du(p.dir)
	return u, nil
}

// proportional is a process's memory with its share of what it shares.
func proportional(pid int) int64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0 // it has ended
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// du is what the blocks of a tree's files hold.
func du(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // what goes meanwhile is not there
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

var goodTool = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Tool implements provision.Driver. The tool runs as the instance's user, and is told how to connect by its environment. Where the version's own is not
// installed, a newer one does: those that read other servers read older ones.
func (d *Driver) Tool(ctx context.Context, in *provision.Instance, name string, args ...string) (*exec.Cmd, error) {
	p, err := d.place(in)
	if err != nil {
		return nil, err
	}
	if !goodTool.MatchString(name) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is no program of PostgreSQL's", name)
	}
	inst, err := d.install(in.Version)
	if err != nil {
		return nil, err
	}
	path := inst.path(name)
	if d.enclosed != nil || unix.Access(path, unix.X_OK) != nil {
		path = ""
		all := d.installs(false)
		if d.enclosed != nil {
			all = discover(d.o.Bins)
		}
		for _, i := range all { // the newest first: the last that fits is the nearest
			if i.major >= inst.major && unix.Access(i.path(name), unix.X_OK) == nil {
				path = i.path(name)
			}
		}
	}
	if path == "" {
		return nil, provision.Errorf(provision.KindRefused, "%s of PostgreSQL %s is not installed on this host", name, in.Version)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // a program of PostgreSQL's
	cmd.Dir, cmd.SysProcAttr = "/", p.become()
	cmd.Env = append(environment("/nonexistent"), connectEnv(in)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}
