package process

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where an instance's memory is used up, the kernel ends one of its processes, and PostgreSQL ends all sessions then and recovers. So each process has a limit of its own,
// below the instance's: of private memory that it may write to (RLIMIT_DATA). Who wants more gets PostgreSQL's error 53200, and nobody else notices. It is the soft
// limit, which whoever is the same user may raise: the hard wall is the cgroup's.

// leastData is what a process always may have: a query with JIT takes 20 MB.
const leastData = 32 << 20

// dataLimit is how many bytes of its own each process may have: the instance's memory without the shared buffers, and without what its other processes need to be
// there at all. limit is the instance's; 0 = none, as many as it likes.
func dataLimit(limit int64, conf map[string]string) int64 {
	if limit == 0 {
		return 0
	}
	buffers, ok := bytesOf(conf["shared_buffers"], 8<<10)
	if !ok {
		buffers = limit / 4
	}
	return max(limit-buffers-max(limit/16, 16<<20), limit/4, leastData)
}

// bytesOf reads an amount of memory as PostgreSQL does. Without a unit, it is a multiple of unit.
func bytesOf(value string, unit float64) (int64, bool) {
	value = strings.TrimSpace(value)
	number := strings.TrimRight(value, "BkMGT")
	if word := value[len(number):]; word != "" {
		i := slices.Index([]string{"B", "kB", "MB", "GB", "TB"}, word)
		if i < 0 {
			return 0, false
		}
		unit = math.Pow(1024, float64(i))
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if n *= unit; err != nil || !(n >= 0 && n < 1<<60) {
		return 0, false
	}
	return int64(n), true
}

// bindData is setData for all processes of an instance, the server first: those that are forked meanwhile have what it has.
func (d *Driver) bindData(ctx context.Context, p *place, server int, bytes int64) {
	if err := setData(append([]int{server}, p.members()...), bytes, p.uid, p.gid); err != nil {
		d.log.WarnContext(ctx, "processes keep the limit of memory that they began with", "instance", p.id, "error", err)
	}
}

// setData has processes of a user's own have at most so many bytes each, from their next allocation on; 0 = as many as they may. Linux lets do that who has CAP_SYS_RESOURCE, and
// the user itself: where this process is neither, a program does it that is.
func setData(pids []int, bytes int64, uid, gid int) error {
	var err error
	for _, pid := range pids {
		e := setDataOf(pid, bytes, uid, gid)
		if e != nil && alive(pid) {
			err = errors.Join(err, fmt.Errorf("limit of memory of process %d: %w", pid, e))
		}
	}
	return err
}

func setDataOf(pid int, bytes int64, uid, gid int) error {
	now, most, err := softOf(pid)
	if err != nil {
		return err
	}
	soft := most
	if bytes > 0 {
		soft = min(most, uint64(bytes))
	}
	if soft == now {
		return nil
	}
	err = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: soft, Max: most}, nil)
	if !errors.Is(err, unix.EPERM) || os.Geteuid() != 0 || uid == 0 {
		return err
	}
	program, err := exec.LookPath("prlimit")
	if err != nil {
		return err
	}
	word := "unlimited"
	if soft != unix.RLIM_INFINITY {
		word = strconv.FormatUint(soft, 10)
	}
	cmd := exec.Command(program, "--pid="+strconv.Itoa(pid), "--data="+word+":") //nolint:gosec,noctx // it ends at once
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}} //nolint:gosec // Options bound it
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = startBeside(cmd, pid); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// startBeside starts a program on the CPUs that a process may have: one whose instance is confined is to be worked for where it is in nobody's way.
func startBeside(cmd *exec.Cmd, pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var own, there unix.CPUSet
	if unix.SchedGetaffinity(0, &own) == nil && unix.SchedGetaffinity(pid, &there) == nil && unix.SchedSetaffinity(0, &there) == nil {
		defer unix.SchedSetaffinity(0, &own) //nolint:errcheck // it had them before
	}
	return cmd.Start()
}

// softOf is what private memory a process may have, and what it could allow itself. It reads what only some may ask prlimit(2) for.
func softOf(pid int) (soft, hard uint64, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nMax data size ")
	line, _, _ := strings.Cut(rest, "\n")
	words := strings.Fields(line)
	if len(words) < 2 {
		return 0, 0, fmt.Errorf("process %d has no limit of memory", pid)
	}
	read := func(word string) (uint64, error) {
		if word == "unlimited" {
			return unix.RLIM_INFINITY, nil
		}
		return strconv.ParseUint(word, 10, 64)
	}
	soft, err = read(words[0])
	hard, err2 := read(words[1])
	return soft, hard, errors.Join(err, err2)
}

// privateOf is how much private memory a process has, as RLIMIT_DATA counts it, and its stack; 0 = it has ended.
func privateOf(pid int) int64 {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm")) // without the file, without memory
	words := strings.Fields(string(b))
	if len(words) < 6 {
		return 0
	}
	n, _ := strconv.ParseInt(words[5], 10, 64)
	return n * int64(os.Getpagesize())
}
