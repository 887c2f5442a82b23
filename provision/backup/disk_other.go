//go:build !linux

package backup

import (
	"errors"
	"os"
	"syscall"
)

// available is not known here.
func available(*os.Root) (int64, error) { return 0, errors.ErrUnsupported }

// syncAll has everything on the disk.
func syncAll(*os.Root) error {
	syscall.Sync()
	return nil
}
