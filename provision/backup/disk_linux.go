package backup

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// available is how many bytes may be written where a directory is.
func available(root *os.Root) (int64, error) {
	f, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil //nolint:gosec // bytes of a disk
}

// syncAll has everything on the disk that a directory is on: one call, where a data directory has a thousand files.
func syncAll(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
