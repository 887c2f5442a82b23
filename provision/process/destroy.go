package process

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Destroy implements provision.Driver. Its directory goes last, so that as long as there is anything, Found says so.
func (d *Driver) Destroy(ctx context.Context, in *provision.Instance) error {
	p, err := d.at(in.ID)
	if err != nil {
		return err
	}
	if !d.root || in.Facts[tenant.UIDFact] != "" {
		if p, err = d.place(in); err != nil {
			return err
		}
	} else if st, err := os.Lstat(p.dir); d.root && err == nil {
		// Nobody knows its user any more but its directory.
		if _, gid := ownerOf(st); gid >= d.o.UIDMin && gid <= d.o.UIDMax {
			p.uid, p.gid, p.ownUID = gid, gid, true
		}
	}
	defer d.lock(in.ID)()
	quick, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := d.stop(quick, p); err != nil {
		return err
	}
	if in.Primary != nil {
		d.dropSlot(ctx, in)
	}
	forgetMemory(p)
	if err := unmount(p); err != nil {
		return err
	}
	if err := d.groups.remove(p.id); err != nil {
		return err
	}
	for _, path := range []string{p.image, p.image + ".new", p.conf, p.log + ".1", p.log, p.dir} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	d.mu.Lock()
	delete(d.mu.planned, p.id)
	delete(d.mu.crashes, p.id)
	d.mu.Unlock()
	d.wake()
	return d.syncDir(d.o.DataDir)
}

// forgetMemory takes away what an instance leaves outside of its directory: shared memory, if it was killed, and what a superuser wrote where all may.
func forgetMemory(p *place) {
	if !p.ownUID {
		if b, err := readSmall(filepath.Join(p.data, "postmaster.pid")); err == nil {
			if lines := strings.Split(string(b), "\n"); len(lines) > 6 {
				if f := strings.Fields(lines[6]); len(f) == 2 {
					if id, err := strconv.Atoi(f[1]); err == nil {
						removeSegment(id)
					}
				}
			}
		}
		return
	}
	table, _ := os.ReadFile("/proc/sysvipc/shm") // none without System V's
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 7 && f[7] == strconv.Itoa(p.uid) {
			if id, err := strconv.Atoi(f[1]); err == nil {
				removeSegment(id)
			}
		}
	}
	for _, dir := range []string{"/dev/shm", "/tmp", "/var/tmp"} {
		entries, _ := os.ReadDir(dir) // what is not there holds nothing
		for _, e := range entries {
			if st, err := e.Info(); err == nil {
				if uid, _ := ownerOf(st); uid == p.uid {
					_ = os.RemoveAll(filepath.Join(dir, e.Name())) // nobody else's, and in nobody's way
				}
			}
		}
	}
}

// removeSegment removes one of System V's shared memory, if nobody is attached.
func removeSegment(id int) {
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err == nil && desc.Nattch == 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // somebody else may have
	}
}

// Found implements provision.Driver.
func (d *Driver) Found(_ context.Context) ([]string, error) {
	ids := map[string]bool{}
	add := func(name string) {
		if id, _, _ := strings.Cut(name, "."); goodID.MatchString(id) {
			ids[id] = true
		}
	}
	addPath := func(path string) {
		if rest, ok := strings.CutPrefix(path, d.o.DataDir+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			add(first)
		}
	}
	entries, err := os.ReadDir(d.o.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		add(e.Name())
	}
	list, err := mounts()
	if err != nil {
		return nil, err
	}
	for dir := range list {
		addPath(dir)
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, path := range files {
		if b, err := os.ReadFile(path); err == nil {
			addPath(strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)"))
		}
	}
	for _, id := range d.groups.list() {
		add(id)
	}
	for _, pid := range pids() {
		if dir := cwd(pid); dir != "" && alive(pid) {
			addPath(dir)
		}
	}
	found := make([]string, 0, len(ids))
	for id := range ids {
		found = append(found, id)
	}
	slices.Sort(found)
	return found, nil
}
