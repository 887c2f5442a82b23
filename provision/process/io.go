package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a block device at which reading and writing can be limited.
type Disk struct {
	Number string // such as 7:3
	Path   string // such as /dev/loop3
}

// DiskOf finds the disk that a directory is on, as who reads and writes there sees it: that of an instance's volume is its loop device. Of a partition it is the
// whole disk: the kernel limits no other.
func DiskOf(dir string) (Disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return Disk{}, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	at, err := filepath.EvalSymlinks("/sys/dev/block/" + number)
	if err != nil {
		// Their numbers are of no device.
		return Disk{}, fmt.Errorf("The file system of %s is on no block device, as those of btrfs, overlays and tmpfs are not", dir) //nolint:staticcheck // it is the detail of an error
	}
	return diskAt(at)
}

// diskAt reads what sysfs says of a disk or partition.
func diskAt(at string) (Disk, error) {
	if exists(filepath.Join(at, "partition")) {
		at = filepath.Dir(at)
	}
	_, rest, found := strings.Cut("\n"+read(at, "uevent"), "\nDEVNAME=")
	name, _, _ := strings.Cut(rest, "\n")
	number := read(at, "dev")
	if number == "" || !found {
		return Disk{}, fmt.Errorf("The kernel does not say which disk %s is", at) //nolint:staticcheck // it is the detail of an error
	}
	return Disk{number, "/dev/" + name}, nil
}

// ioGroup is where an instance's reading and writing is limited; empty = nowhere. Of v1 it is a group in a hierarchy of its own, made for those that are limited.
func (g *groups) ioGroup(id string) string {
	if g.io == "" {
		return ""
	}
	return filepath.Join(g.io, g.name, id)
}

// limitIO limits reading, and writing, in bytes a second each; 0 = no limit. A volume may have another device than at the instance's last start.
func (g *groups) limitIO(id string, bytes int64) error {
	if bytes == 0 {
		return g.throttle(id, "", 0)
	}
	disk, err := DiskOf(filepath.Join(g.data, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is nothing of it yet: Start has to see to it
	}
	if err != nil {
		return err
	}
	return g.throttle(id, disk.Number, bytes)
}

// throttle limits an instance at one device, and no longer at others.
func (g *groups) throttle(id, device string, bytes int64) error {
	dir := g.ioGroup(id)
	if dir == "" && bytes > 0 {
		return g.can("io")
	}
	if dir == "" || bytes == 0 && !exists(dir) {
		return nil
	}
	if g.parent != "" {
		return rewrite(dir, "io.max", device, bytes, " rbps=%[1]s wbps=%[1]s", "max")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as all of cgroups' are
		return err
	}
	for _, name := range []string{"blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"} {
		if err := rewrite(dir, name, device, bytes, " %s", "0"); err != nil {
			return err
		}
	}
	return g.gatherIn(dir, id)
}

// rewrite has a file with a line for each device limit that one, and none else.
func rewrite(dir, name, device string, bytes int64, format, none string) error {
	for line := range strings.Lines(read(dir, name)) {
		had, _, _ := strings.Cut(line, " ")
		if had == device {
			continue
		}
		if err := write(dir, name, had+fmt.Sprintf(format, none)); err != nil && !errors.Is(err, unix.ENODEV) { // it has gone
			return err
		}
	}
	if bytes == 0 {
		return nil
	}
	return write(dir, name, device+fmt.Sprintf(format, strconv.FormatInt(bytes, 10)))
}

// moved is what an instance has read and written at a device where that is limited, and the limit of each, in bytes and bytes a second. Without one both are 0.
func (g *groups) moved(id string) (bytes, limit int64) {
	dir := g.ioGroup(id)
	if dir == "" {
		return 0, 0
	}
	limits, counts, words := "blkio.throttle.write_bps_device", "blkio.throttle.io_service_bytes", []string{"Read ", "Write "}
	if g.parent != "" {
		limits, counts, words = "io.max", "io.stat", []string{"rbytes=", "wbytes="}
	}
	device, most, limited := strings.Cut(read(dir, limits), " ") // there is one, at most
	if !limited {
		return 0, 0
	}
	if _, after, v2 := strings.Cut(most, "wbps="); v2 {
		most = after
	}
	limit = number(most)
	for line := range strings.Lines(read(dir, counts)) {
		rest, its := strings.CutPrefix(line, device+" ")
		for _, word := range words {
			if _, n, found := strings.Cut(rest, word); its && found {
				bytes += number(n)
			}
		}
	}
	return bytes, limit
}

// number is the one that a text begins with; 0 = none.
func number(text string) (n int64) {
	for i := 0; i < len(text) && '0' <= text[i] && text[i] <= '9'; i++ {
		n = n*10 + int64(text[i]-'0')
	}
	return n
}
