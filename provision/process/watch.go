package process

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchEvery is how often Watch looks for servers that others started, and how long logs have become.
const watchEvery = time.Second

// waker ends the poll of a Watch.
type waker struct{ fd int }

func (d *Driver) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.mu.wakes {
		w.wake()
	}
}

func (w *waker) wake() {
	_, _ = unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only when it is set already
}

// seen is a server that Watch follows.
type seen struct {
	pid   int
	since int64
	fd    int // readable when it has ended; -1 where the kernel has no such thing
}

// Watch implements provision.Driver. It also keeps logs short, looks in them for crashes, confines instances that use much CPU, and sees to it that sessions do not use
// up their instance's memory together.
func (d *Driver) Watch(ctx context.Context, changed func(id string)) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	w := &waker{fd}
	d.mu.Lock()
	d.mu.wakes[w] = true
	clear(d.mu.crashes)
	d.mu.Unlock()
	unhook := context.AfterFunc(ctx, d.wake)
	servers, logs := map[string]seen{}, map[string]int64{}
	var told sync.WaitGroup
	inner, end := context.WithCancel(ctx)
	g := &guard{groups: d.kernel, log: d.log, conf: d.startedWith}
	told.Go(func() { g.run(inner) })
	if d.o.Runner != nil {
		told.Go(func() { d.o.Runner.Watch(inner, d.wake) })
	}
	defer func() {
		end()
		told.Wait()
		unhook()
		d.mu.Lock()
		delete(d.mu.wakes, w)
		d.mu.Unlock()
		unix.Close(fd)
		for _, s := range servers {
			s.close()
		}
	}()
	for first := true; ctx.Err() == nil; first = false {
		for _, id := range d.look(servers) {
			if !first {
				changed(id)
			}
		}
		for _, id := range d.readLogs(logs, servers, first) {
			changed(id)
		}
		g.follow(servers)
		d.cutLogs(ctx)
		if d.confiner != nil {
			d.confiner.look(ctx, time.Now())
		}
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		for _, s := range servers {
			if s.fd >= 0 {
				set = append(set, unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}) //nolint:gosec // descriptors are small
			}
		}
		if _, err := unix.Poll(set, int(watchEvery/time.Millisecond)); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		var b [8]byte
		_, _ = unix.Read(fd, b[:]) // fails when it was not set
	}
	return context.Cause(ctx)
}

func (s seen) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}

// look brings servers up to date and returns whose changed.
func (d *Driver) look(servers map[string]seen) []string {
	var ids []string
	there := map[string]bool{}
	entries, _ := os.ReadDir(d.o.DataDir) // without it there is none
	for _, e := range entries {
		if !e.IsDir() || !goodID.MatchString(e.Name()) {
			continue
		}
		id := e.Name()
		p, err := d.at(id)
		if err != nil {
			continue
		}
		if st, err := e.Info(); err == nil && d.root {
			_, p.gid = ownerOf(st)
			p.uid, p.ownUID = p.gid, true
		}
		pm, running := findPostmaster(p)
		s, known := servers[id]
		if running {
			there[id] = true
		}
		if running && known && s.pid == pm.pid && s.since == pm.since {
			continue
		}
		if known {
			s.close()
			delete(servers, id)
		}
		if running {
			fd, err := unix.PidfdOpen(pm.pid, 0)
			if err != nil {
				fd = -1
			}
			servers[id] = seen{pid: pm.pid, since: pm.since, fd: fd}
		}
		if running || known {
			ids = append(ids, id)
		}
	}
	for id, s := range servers {
		if !there[id] {
			s.close()
			delete(servers, id)
			ids = append(ids, id)
		}
	}
	return ids
}
