// Package pginstance runs real PostgreSQL instances as children of this process, for tests and for the demo.
//
// It finds the installed binaries, becomes an unprivileged user when the process is root, runs initdb, chooses
// ports, waits for readiness, and stops what it started. A Scratch is the folder of one process, a Server one
// instance in it.
//
// An instance never outlives its process for long: it gets SIGINT (fast shutdown) from the kernel when the process
// dies, however it dies, and the next Scratch over the same base folder removes what a killed process left behind.
//
// Each running instance has one goroutine, locked to its thread (the kernel ties the death signal to the thread that
// started the child) and waiting for the child's end; Stop and Kill wait for it.
package pginstance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// ErrNotInstalled means that no PostgreSQL server binaries were found on this machine.
var ErrNotInstalled = errors.New("PostgreSQL server binaries not found")

// Install is one installed set of PostgreSQL binaries.
type Install struct {
	Dir     string // the folder that holds postgres and initdb
	Version string // as `postgres -V` prints it
	Major   int
}

// Find returns the PostgreSQL to use: $PG_BIN_DIR, else the newest of /usr/lib/postgresql, else the one in PATH.
// The search runs once per process.
var Find = sync.OnceValues(find)

func find() (Install, error) {
	if dir := os.Getenv("PG_BIN_DIR"); dir != "" {
		return inspect(dir)
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Slice(dirs, func(i, j int) bool { return majorOfPath(dirs[i]) > majorOfPath(dirs[j]) })
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		if in, err := inspect(dir); err == nil {
			return in, nil
		}
	}
	return Install{}, fmt.Errorf("%w: install them with `apt-get install postgresql`, or set PG_BIN_DIR", ErrNotInstalled)
}

func majorOfPath(binDir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(binDir)))
	return n
}

func inspect(dir string) (Install, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Install{}, fmt.Errorf("%w in %s: %w", ErrNotInstalled, dir, err)
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "-V").Output()
	if err != nil {
		return Install{}, fmt.Errorf("%w in %s: %w", ErrNotInstalled, dir, err)
	}
	version := strings.TrimSpace(string(out)) // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	in := Install{Dir: dir, Version: version}
	if _, rest, ok := strings.Cut(version, "(PostgreSQL) "); ok {
		digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if digits < 0 {
			digits = len(rest)
		}
		in.Major, _ = strconv.Atoi(rest[:digits])
	}
	return in, nil
}

// Path returns the full path of one of the installed programs, such as psql or pgbench.
func (in Install) Path(program string) string { return filepath.Join(in.Dir, program) }

// account is the operating-system user that the instances run as. PostgreSQL refuses to run as root.
type account struct {
	switchUser bool   // the process is root and has to become uid:gid
	uid, gid   uint32 // of the unprivileged user, when switching
}

// unprivileged returns the account for instances: this process's own, or for root $PG_OS_USER, postgres or nobody.
func unprivileged() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{os.Getenv("PG_OS_USER"), "postgres", "nobody"} {
		if name == "" {
			continue
		}
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
		if uid != 0 {
			return account{switchUser: true, uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return account{}, errors.New("running as root and no unprivileged user (postgres, nobody or $PG_OS_USER) to run PostgreSQL as")
}

// Unprivileged has a program that refuses to run as root run as the account that instances run as, see Spawn.
func Unprivileged() (*syscall.SysProcAttr, error) {
	a, err := unprivileged()
	if err != nil {
		return nil, err
	}
	return a.sysProcAttr(), nil
}

// command prepares a program that runs as the account, in dir, with an environment free of PG* variables.
func (a account) command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	cmd.SysProcAttr = a.sysProcAttr()
	return cmd
}

// own hands a path to the account.
func (a account) own(path string) error {
	if !a.switchUser {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// mkdir creates a folder that belongs to the account.
func (a account) mkdir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return a.own(path)
}
