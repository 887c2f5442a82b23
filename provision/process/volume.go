package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
)

// Volume implements provision.Driver.
func (d *Driver) Volume(ctx context.Context, in *provision.Instance) error {
	p, err := d.place(in)
	if err != nil {
		return err
	}
	defer d.lock(in.ID)()
	return d.volume(ctx, p, in.Limits.Disk)
}

// volume makes the directories, within a limited volume if there has to be one, and mounts that.
func (d *Driver) volume(ctx context.Context, p *place, limit int64) error {
	if err := d.own(p.dir, 0o710, 0o700, p.gid); err != nil {
		return err
	}
	switch {
	case exists(p.image) || limit == 0:
	case exists(p.data):
		return provision.Errorf(provision.KindRefused, "instance %s has data that are not in a volume: its disk can't be limited any more", p.id)
	default:
		if err := d.canMount(); err != nil {
			return provision.Errorf(provision.KindRefused, "disk space can't be limited on this host").WithDetail("%v.", err)
		}
		if err := d.makeImage(ctx, p, limit); err != nil {
			return err
		}
	}
	if exists(p.image) {
		if err := d.mount(ctx, p); err != nil {
			return err
		}
		if err := d.own(p.dir, 0o710, 0o700, p.gid); err != nil {
			return err
		}
		fillReserve(p)
	}
	if err := d.give(p.socket, 0o710, p.uid, p.gid); err != nil {
		return err
	}
	return d.give(p.spool, 0o700, p.uid, p.gid)
}

// own makes a directory of pgkennel's own that a group may pass through, under root; else one for nobody but us.
func (d *Driver) own(dir string, rootMode, mode fs.FileMode, gid int) error {
	if !d.root {
		return d.give(dir, mode, os.Geteuid(), os.Getegid())
	}
	return d.give(dir, rootMode, 0, gid)
}

// give makes a directory, and has its owner and mode be as wanted. Only pgkennel can write to that around it.
func (d *Driver) give(dir string, mode fs.FileMode, uid, gid int) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if d.root {
		if err := os.Lchown(dir, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(dir, mode)
}

// makeImage makes a file system in a file whose blocks are all there: should the host's disk be full, the instance's is not, and does not break.
func (d *Driver) makeImage(ctx context.Context, p *place, bytes int64) error {
	part := p.image + ".new"
	defer os.Remove(part)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := allocate(f, bytes); err != nil {
		return err
	}
	label := p.id
	if len(label) > 16 { // ext4 has no room for more
		label = label[:16]
	}
	// nodiscard: it would give the file's blocks back.
	if err := tool(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-L", label, "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", part); err != nil {
		return err
	}
	if !d.o.NoSync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(part, p.image); err != nil {
		return err
	}
	return d.syncDir(d.o.DataDir)
}

func allocate(f *os.File, bytes int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	if errors.Is(err, unix.ENOSPC) {
		return provision.Errorf(provision.KindRefused, "the data directory of instances has no room for a volume of %s", size(bytes))
	}
	if err != nil {
		return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

func (d *Driver) syncDir(path string) error {
	if d.o.NoSync {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// ownVolume reports whether an instance's files are synced with all of their file system, by syncfs: that is a volume of its own, and one flush of the host's disk.
// File by file it is a flush for each, also of those that nobody has written to, and no limit counts them: a thousand, for which its neighbours' commits wait.
func ownVolume(in *provision.Instance) bool { return in.Limits.Disk > 0 && syncfsFails() }

// syncfsFails reports whether the kernel says so when syncfs could not write something; before Linux 5.8 it does not.
var syncfsFails = sync.OnceValue(func() bool {
	var u unix.Utsname
	var major, minor int
	if err := unix.Uname(&u); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
})

// syncVolume has all of the file system be on disk that a directory is on.
func syncVolume(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// mounted reports whether something is mounted on a directory.
func mounted(dir string) (bool, error) {
	list, err := mounts()
	return list[dir] != "", err
}

// mounts are the devices by the directories that they are mounted on.
func mounts() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	list := map[string]string{}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) > 4 && len(g) > 1 {
			list[strings.NewReplacer(`\040`, " ", `\134`, `\`).Replace(f[4])] = g[1]
		}
	}
	return list, nil
}

// mount mounts an instance's volume, if it is not.
func (d *Driver) mount(ctx context.Context, p *place) error {
	if is, err := mounted(p.dir); is || err != nil {
		return err
	}
	dev, err := device(ctx, p.image)
	if err != nil {
		return fmt.Errorf("loop device for %s: %w", p.image, err)
	}
	defer dev.Close() // the mount keeps it; without one, it goes
	if err := unix.Mount(dev.Name(), p.dir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", p.dir, err)
	}
	return nil
}

// device returns a volume's block device. There may be one already that is not mounted here, but where servers run that were started by a pgkennel with
// mounts of its own: a second one of the same file would destroy it.
func device(ctx context.Context, image string) (*os.File, error) {
	for have := loops(image); len(have) > 0; have = loops(image) {
		dev, err := os.OpenFile(have[0], os.O_RDWR, 0)
		if err == nil || !errors.Is(err, unix.ENXIO) { // else it is just going away
			return dev, err
		}
	}
	if err := resize(ctx, image); err != nil {
		return nil, err
	}
	img, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	return attach(img)
}

// attach makes a file a block device, which goes when nobody uses it any more.
func attach(img *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := &unix.LoopConfig{Fd: uint32(img.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // it is small
	copy(config.Info.File_name[:len(config.Info.File_name)-1], img.Name())
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), config); err == nil {
			_ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_DIRECT_IO, 1) // or its data are cached twice
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// loops are the devices of a file, such as /dev/loop3.
func loops(image string) []string {
	var list []string
	paths, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)") == image {
			list = append(list, "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(path))))
		}
	}
	return list
}

// grow makes a volume larger: at once where this process may do that to a mounted one (CAP_SYS_RESOURCE), else when the instance is down.
func (d *Driver) grow(ctx context.Context, p *place, bytes int64) (provision.Need, error) {
	st, err := os.Stat(p.image)
	if errors.Is(err, fs.ErrNotExist) {
		if bytes == 0 {
			return provision.NeedNothing, nil
		}
		return 0, provision.Errorf(provision.KindRefused, "the instance's data are not in a volume: its disk can't be limited any more").
			WithHint("Clone the tenant with the limit.")
	}
	if err != nil {
		return 0, err
	}
	switch {
	case bytes == 0:
		return 0, provision.Errorf(provision.KindRefused, "the disk limit of an instance can't be taken away").WithHint("Make it larger, or clone the tenant without.")
	case bytes < st.Size():
		return 0, provision.Errorf(provision.KindRefused, "the disk limit of an instance can't become smaller than it is, %s", size(st.Size())).
			WithHint("Clone the tenant with the smaller one.")
	case bytes > st.Size():
		f, err := os.OpenFile(p.image, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if err := allocate(f, bytes); err != nil {
			return 0, err
		}
	}
	// Also if the file has that size already: who began may not have come to the end.
	if smaller, err := smallerThanImage(p.image); !smaller || err != nil {
		return 0, err
	}
	if is, err := mounted(p.dir); !is || err != nil {
		return 0, errors.Join(err, d.mount(ctx, p))
	}
	if hasCapability(24) {
		return 0, d.growMounted(ctx, p)
	}
	if len(p.members()) > 0 {
		return provision.NeedRestart, nil
	}
	return 0, d.remount(ctx, p)
}

func (d *Driver) growMounted(ctx context.Context, p *place) error {
	for _, path := range loops(p.image) {
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0)
		dev.Close()
		if err != nil {
			return fmt.Errorf("size of %s: %w", path, err)
		}
		if err := tool(ctx, "resize2fs", path); err != nil {
			return err
		}
	}
	fillReserve(p)
	return nil
}

// remount mounts a volume of an instance that is down again if it has to become as large as its file.
func (d *Driver) remount(ctx context.Context, p *place) error {
	if smaller, err := smallerThanImage(p.image); !smaller || err != nil {
		return err
	}
	if err := unmount(p); err != nil {
		return err
	}
	return d.mount(ctx, p)
}

// resize has the file system fill its file, which is not mounted.
func resize(ctx context.Context, image string) error {
	if smaller, err := smallerThanImage(image); !smaller || err != nil {
		return err
	}
	if err := tool(ctx, "e2fsck", "-f", "-p", image); err != nil { // the other insists on it
		return err
	}
	return tool(ctx, "resize2fs", image)
}

// tool runs a program of e2fsprogs.
func tool(ctx context.Context, name string, args ...string) error {
	path, err := sbin(name)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput() //nolint:gosec // on our own files and devices
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && name == "e2fsck" && exit.ExitCode() == 1 {
		return nil // it mended something
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, lastLines(string(out), 3))
	}
	return nil
}

// smallerThanImage reads from an ext4 file system itself whether it leaves room in its file.
func smallerThanImage(image string) (bool, error) {
	f, err := os.Open(image)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return false, err
	}
	block := int64(1024) << (binary.LittleEndian.Uint32(super[24:]) & 7)
	blocks := int64(binary.LittleEndian.Uint32(super[4:])) | int64(binary.LittleEndian.Uint32(super[0x150:]))<<32
	return st.Size()-blocks*block >= 1<<20, nil // it leaves out the rest of a group that would hold too little
}

// reserveFor is how much of a volume is kept for WAL.
func reserveFor(volume int64) int64 { return min(max(volume/32, 4<<20), 64<<20) }

// fillReserve sets room aside, if there is plenty.
func fillReserve(p *place) {
	var fsys unix.Statfs_t
	if unix.Statfs(p.dir, &fsys) != nil {
		return
	}
	total, free := int64(fsys.Blocks)*fsys.Bsize, int64(fsys.Bavail)*fsys.Bsize //nolint:gosec // a disk has fewer bytes
	want := reserveFor(total)
	if st, err := os.Lstat(p.reserve); err == nil && st.Size() >= want || free < 4*want {
		return
	}
	f, err := os.OpenFile(p.reserve, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), 0, 0, want) != nil {
		os.Remove(p.reserve)
	}
}

// freeReserve gives the room back when a volume is so full that recovery could not write WAL.
func freeReserve(p *place) (freed bool) {
	var fsys unix.Statfs_t
	if !exists(p.reserve) || unix.Statfs(p.dir, &fsys) != nil {
		return false
	}
	total, free := int64(fsys.Blocks)*fsys.Bsize, int64(fsys.Bavail)*fsys.Bsize //nolint:gosec // a disk has fewer bytes
	return free < reserveFor(total) && os.Remove(p.reserve) == nil
}

// unmount takes an instance's volume down, whatever uses it.
func unmount(p *place) error {
	for {
		is, err := mounted(p.dir)
		if err != nil {
			return err
		}
		if !is {
			break
		}
		err = unix.Unmount(p.dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(p.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // somebody else did
			return fmt.Errorf("unmount %s: %w", p.dir, err)
		}
	}
	for _, path := range loops(p.image) { // that of one who was killed between attach and mount
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		_ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0) // it may have gone by itself
		dev.Close()
	}
	for end := time.Now().Add(time.Second); len(loops(p.image)) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	return nil
}
