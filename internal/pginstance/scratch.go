package pginstance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// maxSocketPath keeps unix socket paths under sun_path's 108 bytes, with a margin for other systems.
const maxSocketPath = 100

// Scratch is the folder of one process: its instances' data, sockets and logs. The base folder above it is shared by
// processes of the same user and holds the initdb templates and the port locks. Safe for concurrent use.
type Scratch struct {
	Dir string // this process's own folder; removed by Close

	base    string
	install Install
	account account
	lock    *os.File // flocked while the process lives

	mu     sync.Mutex
	next   int          // number of the next instance's folder
	leases []*portLease // FreePort's
}

// OpenScratch creates this process's folder under base, which the unprivileged account must be able to reach and
// which should be short (unix socket paths end at 100 bytes). It first removes what dead processes left in base.
func OpenScratch(base string) (*Scratch, error) {
	in, err := Find()
	if err != nil {
		return nil, err
	}
	acct, err := unprivileged()
	if err != nil {
		return nil, err
	}
	unlock, err := lockBase(base, acct)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sweep(base)

	dir, err := os.MkdirTemp(base, "r")
	if err != nil {
		return nil, fmt.Errorf("scratch folder: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("scratch folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scratch folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
	return &Scratch{Dir: dir, base: base, install: in, account: acct, lock: lock}, nil
}

// Install returns the binaries that instances of this scratch folder run.
func (s *Scratch) Install() Install { return s.install }

// Close removes the folder and everything in it. The instances must be stopped.
func (s *Scratch) Close() error {
	s.mu.Lock()
	for _, l := range s.leases {
		l.release()
	}
	s.leases = nil
	s.mu.Unlock()
	err := os.RemoveAll(s.Dir)
	return errors.Join(err, s.lock.Close())
}

// RemoveBase closes the scratch folder and removes the base folder too, unless another process still uses it.
func (s *Scratch) RemoveBase() error {
	unlock, err := lockFile(filepath.Join(s.base, "lock"))
	if err != nil {
		return errors.Join(s.Close(), err)
	}
	defer unlock()
	if err := s.Close(); err != nil {
		return err
	}
	if others, err := filepath.Glob(filepath.Join(s.base, "r*", "lock")); err != nil || len(others) > 0 {
		return err
	}
	return os.RemoveAll(s.base)
}

// lockBase creates base and takes its lock. RemoveBase of another process may remove both in between; then it tries
// again.
func lockBase(base string, acct account) (unlock func(), err error) {
	for {
		if err := makeBase(base, acct); err != nil {
			return nil, err
		}
		unlock, err := lockFile(filepath.Join(base, "lock"))
		if !errors.Is(err, fs.ErrNotExist) {
			return unlock, err
		}
	}
}

// makeBase creates base or checks that it is ours: a folder planted by another user of the machine is refused.
func makeBase(base string, acct account) error {
	mode := os.FileMode(0o700)
	if acct.switchUser {
		mode = 0o711 // the account passes through, and cannot list
	}
	if err := os.MkdirAll(base, mode); err != nil {
		return fmt.Errorf("scratch base: %w", err)
	}
	info, err := os.Lstat(base)
	if err != nil {
		return fmt.Errorf("scratch base: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("scratch base %s is not a folder of this user", base)
	}
	if err := os.Chmod(base, mode); err != nil {
		return fmt.Errorf("scratch base: %w", err)
	}
	return nil
}

// sweep removes the folders under base whose process is gone, with the instances that may still be shutting down.
// A folder that cannot be removed is left for the next sweep.
func sweep(base string) {
	locks, _ := filepath.Glob(filepath.Join(base, "r*", "lock"))
	for _, path := range locks {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			dir := filepath.Dir(path)
			pids, _ := filepath.Glob(filepath.Join(dir, "*", "data", "postmaster.pid"))
			tenants, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*", "data", "postmaster.pid")) // of a pgkennel that ran in the folder
			pids = append(pids, tenants...)
			for _, pidFile := range pids {
				if pid := postmasterPID(pidFile); pid > 1 {
					killOrphan(pid, filepath.Dir(pidFile))
				}
			}
			os.RemoveAll(dir)
		}
		f.Close()
	}
}

// postmasterPID reads the process id from a postmaster.pid file, 0 if there is none.
func postmasterPID(pidFile string) int {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return pid
}

// instanceDir makes the folder of a new instance.
func (s *Scratch) instanceDir() (string, error) {
	s.mu.Lock()
	s.next++
	dir := filepath.Join(s.Dir, strconv.Itoa(s.next))
	s.mu.Unlock()
	if path := filepath.Join(dir, "s", ".s.PGSQL.65535"); len(path) >= maxSocketPath {
		return "", fmt.Errorf("unix socket path %s is too long; choose a shorter base folder", path)
	}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", err
	}
	return dir, s.account.own(dir)
}

// template returns a data folder fresh from initdb, made once per base folder and version of the binaries.
func (s *Scratch) template() (string, error) {
	sum := sha256.Sum256([]byte(s.install.Dir + "\x00" + s.install.Version + "\x00" + strconv.Itoa(int(s.account.uid)) + "\x00" + strings.Join(initdbArgs, " ")))
	root := filepath.Join(s.base, "templates")
	if err := s.account.mkdir(root, 0o711); err != nil {
		return "", fmt.Errorf("template folder: %w", err)
	}
	dir := filepath.Join(root, hex.EncodeToString(sum[:6]))
	unlock, err := lockFile(filepath.Join(s.base, "template.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	building := dir + ".new"
	if err := os.RemoveAll(building); err != nil {
		return "", fmt.Errorf("template folder: %w", err)
	}
	args := append([]string{"-D", building}, initdbArgs...)
	if out, err := outputOf(s.account.command(root, s.install.Path("initdb"), args...)); err != nil {
		return "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := os.Rename(building, dir); err != nil {
		return "", fmt.Errorf("template folder: %w", err)
	}
	return dir, nil
}

// initdbArgs make a small, unsynced, deterministic instance. The superuser is postgres on every system.
var initdbArgs = []string{
	"--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-instructions",
}

// lockFile takes an exclusive lock, waiting for it, and returns its release. When the file was removed meanwhile the
// error is fs.ErrNotExist.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	// A lock on a file that is not there any more keeps nobody out.
	here, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !os.SameFile(here, there) {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return func() { f.Close() }, nil
}
