package process

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stat is what /proc/PID/stat says of a process.
type stat struct {
	state byte
	ppid  int
	cpu   time.Duration // with that of its children that were waited for
	tty   int           // its controlling terminal; 0 = none
	start uint64        // clock ticks after the machine's start: with the PID, it names one process for ever
}

// ticks is the unit of times in /proc, per second.
const ticks = 100

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false
	}
	s := string(b)
	i := strings.LastIndexByte(s, ')') // the name before it may hold anything
	if i < 0 {
		return stat{}, false
	}
	f := strings.Fields(s[i+1:])
	if len(f) < 20 {
		return stat{}, false
	}
	st := stat{state: f[0][0]}
	st.ppid, _ = strconv.Atoi(f[1])
	st.tty, _ = strconv.Atoi(f[4])
	for _, word := range f[11:15] {
		n, _ := strconv.ParseInt(word, 10, 64)
		st.cpu += time.Duration(n) * time.Second / ticks
	}
	st.start, _ = strconv.ParseUint(f[19], 10, 64)
	return st, true
}

// alive reports whether a process runs. One that has ended, and that nobody has waited for, does not.
func alive(pid int) bool {
	st, ok := readStat(pid)
	return ok && st.state != 'Z' && st.state != 'X'
}

// hasUser reports whether one of a process's users (real, effective, saved, of files) is uid.
func hasUser(pid, uid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nUid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	want := strconv.Itoa(uid)
	for word := range strings.FieldsSeq(line) {
		if word == want {
			return true
		}
	}
	return false
}

// cwd is the directory that a process is in, even if that was removed.
func cwd(pid int) string {
	dir, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(dir, " (deleted)")
}

func pids() []int {
	entries, _ := os.ReadDir("/proc") // it is there
	list := make([]int, 0, len(entries))
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

func below(dir, path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// member reports whether a process is the instance's: it runs as its user, which is nobody else's, or is in its directory, as all of PostgreSQL's are.
func (p *place) member(pid int) bool {
	if pid == os.Getpid() {
		return false
	}
	if p.ownUID {
		// Most processes of a host are other instances': one look is enough for those.
		st, err := os.Stat("/proc/" + strconv.Itoa(pid))
		if err != nil {
			return false
		}
		uid, _ := ownerOf(st)
		if uid == p.uid {
			return true
		}
		if uid >= p.uidMin && uid <= p.uidMax {
			return false
		}
		if hasUser(pid, p.uid) {
			return true
		}
	}
	if !below(p.dir, cwd(pid)) {
		return false
	}
	st, ok := readStat(pid)
	return ok && st.tty == 0 // else it is somebody who looks around there: all of an instance's are sessions without a terminal
}

// members are the instance's processes that run.
func (p *place) members() []int {
	var list []int
	for _, pid := range pids() {
		if p.member(pid) && alive(pid) {
			list = append(list, pid)
		}
	}
	return list
}

// postmaster is a server that runs, as its postmaster.pid tells and the kernel confirms.
type postmaster struct {
	pid    int
	since  int64
	status string
	ready  bool
}

// findPostmaster looks for the instance's server. Its directory is that of somebody who may be hostile: what is in it only counts if the process is the
// instance's own PostgreSQL, and not another's whose number is written there.
func findPostmaster(p *place) (postmaster, bool) {
	pm, err := readPostmaster(p)
	if err != nil || !isServer(p, pm.pid) {
		return postmaster{}, false
	}
	return pm, true
}

func isServer(p *place, pid int) bool {
	if pid <= 1 || !alive(pid) || cwd(pid) != p.data || p.ownUID && !hasUser(pid, p.uid) {
		return false
	}
	exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return err == nil && strings.HasPrefix(filepath.Base(exe), "postgres") // " (deleted)" after an upgrade of the package
}

func readPostmaster(p *place) (postmaster, error) {
	b, err := readSmall(filepath.Join(p.data, "postmaster.pid"))
	if err != nil {
		return postmaster{}, err
	}
	lines := strings.Split(string(b), "\n")
	var pm postmaster
	if pm.pid, err = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil {
		return postmaster{}, err
	}
	if p.outer != nil {
		pm.pid = p.outer(pm.pid)
	}
	if len(lines) > 2 {
		pm.since, _ = strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	}
	if len(lines) > 7 {
		pm.status = strings.TrimSpace(lines[7])
	}
	pm.ready = pm.status == "ready"
	return pm, nil
}

// readSmall reads a file that an instance wrote: neither through a link, nor waiting for a pipe's other end, nor without end.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.Join(err, fs.ErrInvalid)}
	}
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// signal sends a signal to a process if it is still who it was: check is asked after nobody else can have its number.
func signal(pid int, sig unix.Signal, check func(pid int) bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		if !check(pid) {
			return nil
		}
		return gone(unix.Kill(pid, sig))
	}
	if err != nil {
		return gone(err)
	}
	defer unix.Close(fd)
	if !check(pid) {
		return nil
	}
	return gone(unix.PidfdSendSignal(fd, sig, nil, 0))
}

// gone has no error for a process that is not there any more.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// killMembers ends all of the instance's processes, and returns when they have.
func (d *Driver) killMembers(ctx context.Context, p *place) error {
	if p.ownUID {
		// All at once, in the kernel: what makes new processes faster than they are found here does not get away.
		sweep := exec.CommandContext(ctx, "/bin/sh", "-c", "kill -9 -1")
		sweep.Dir, sweep.Env, sweep.SysProcAttr = "/", []string{}, p.become()
		_ = sweep.Run() // it kills itself
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		list := p.members()
		if len(list) == 0 {
			return nil
		}
		for _, pid := range list {
			if err := signal(pid, unix.SIGKILL, p.member); err != nil {
				return err
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if left := p.members(); len(left) > 0 {
				return context.Cause(ctx)
			}
			return nil
		}
	}
}

// become has a program run as the instance's user, apart from this process's session.
func (p *place) become() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if p.ownUID {
		attr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid), Groups: []uint32{}} //nolint:gosec // Options bound it
	}
	return attr
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func ownerOf(st fs.FileInfo) (uid, gid int) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(sys.Uid), int(sys.Gid)
	}
	return -1, -1
}
