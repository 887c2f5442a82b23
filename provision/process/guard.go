package process

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Several sessions of an instance can use up its memory together, each of them below its own limit. Before they have, those that have most get no more (RLIMIT_DATA as
// low as what they have): the next allocation of such a one is an error, 53200, and what it had is free. When there is room again, they have the limit of the others.
// This is a race against who takes memory, and no wall: that is the cgroup's. But a crash of all sessions, a recovery with its flushes, and the kernel's search for
// memory until then are rare with it.

const (
	// guardEvery is how often an instance is looked at that takes more of its memory, and has the larger part.
	guardEvery = 10 * time.Millisecond
	// guardFor is for how long, after it took some.
	guardFor = time.Second
	// modest is what a process may have in any case: what has less is not worth an error.
	modest = 8 << 20
)

// At short, who has most gets no more, and the next one if that does not help; at dire, without waiting for that, but for the last one. Below ample, nobody is kept
// from anything.
func short(limit int64) int64 { return limit - max(limit/8, 16<<20) }
func dire(limit int64) int64  { return limit - max(limit/16, 8<<20) }
func ample(limit int64) int64 { return short(limit) - max(limit/8, 8<<20) }

// full is when there is no time any more.
func full(limit int64) int64 { return limit - max(limit/32, 4<<20) }

// ahead is how long it may take until a limit counts. What is taken by then, at the pace of now, counts as taken.
const ahead = 100 * time.Millisecond

// patience is how long a process that gets no more has, to ask for more and give back what it has, before the next one is in its place.
const patience = 50 * time.Millisecond

// guard looks after the memory of a driver's instances. Linux tells it when there is something to look at: cgroup v1 when an amount of memory is passed, and when it is
// reclaimed; v2 when memory.high is passed, which also slows down who does. run's goroutine alone has the wards and their descriptors.
type guard struct {
	groups *groups
	log    *slog.Logger
	conf   func(id string) map[string]string // what an instance's server was started with

	wards map[string]*ward // by ID
	watch int              // inotify, for v2; -1 = none

	mu struct {
		sync.Mutex
		wake    int            // eventfd; 0 = run is not there
		servers map[string]int // that run has not heard of yet, by ID; nil = none
	}
}

// ward is an instance that has a limit of memory.
type ward struct {
	server     int // its process
	uid, gid   int
	dir        string // its cgroup of memory
	v2         bool
	limit      int64 // v1: what listen was told
	event      int   // v1: eventfd; v2: number of the watch; -1 = none, and it is only looked at now and then
	hot        time.Time
	took       int64 // what was taken at that time, the last at which it was another; and the one before
	at, before time.Time
	tightened  time.Time    // the last time that a process got no more
	tight      map[int]bool // processes that get no more
}

// follow is told of all servers that run, every now and then.
func (g *guard) follow(servers map[string]seen) {
	all := make(map[string]int, len(servers))
	for id, s := range servers {
		all[id] = s.pid
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.servers = all; g.mu.wake > 0 {
		(&waker{g.mu.wake}).wake()
	}
}

// heard brings wards up to date, and looks which of them have much.
func (g *guard) heard(now time.Time) {
	g.mu.Lock()
	servers := g.mu.servers
	g.mu.servers = nil
	g.mu.Unlock()
	if servers == nil {
		return
	}
	for id, w := range g.wards {
		if servers[id] != w.server {
			g.drop(w)
			delete(g.wards, id)
		}
	}
	for id, pid := range servers {
		w := g.wards[id]
		if w == nil {
			if w = g.ward(id, pid, now); w == nil {
				continue
			}
			g.wards[id] = w
		}
		taken, limit, ok := w.taken()
		if ok && w.more(taken, now) > 0 && taken > limit/2 {
			w.hot = now
		}
		if ok && !w.v2 && limit != w.limit {
			g.drop(w)
			w.listen(limit)
		}
	}
}

// ward finds out what there is to know of an instance; nil = nothing, for now.
func (g *guard) ward(id string, server int, now time.Time) *ward {
	own, err := os.ReadFile("/proc/" + strconv.Itoa(server) + "/cgroup")
	if err != nil {
		return nil
	}
	w := &ward{server: server, event: -1, tight: map[int]bool{}}
	if w.dir, w.v2 = g.groups.memoryOf(string(own)); w.dir == "" {
		return nil
	}
	st, err := os.Stat("/proc/" + strconv.Itoa(server))
	if err != nil {
		return nil
	}
	w.uid, w.gid = ownerOf(st)
	usual, most, err := softOf(server)
	if err != nil {
		return nil
	}
	if _, limit, ok := w.taken(); ok && usual == most { // somebody else has started it again, as a container's engine does
		_ = setData(append([]int{server}, processes(w.dir)...), dataLimit(limit, g.conf(id)), w.uid, w.gid) // without, there is this guard
		usual = 0
	}
	for _, pid := range processes(w.dir) { // somebody before may have been at it, and ended
		if soft, _, err := softOf(pid); err == nil && soft < usual {
			w.tight[pid], w.hot = true, now
		}
	}
	if w.v2 && g.watch >= 0 {
		if w.event, err = unix.InotifyAddWatch(g.watch, filepath.Join(w.dir, "memory.events"), unix.IN_MODIFY); err != nil {
			w.event = -1
		}
	}
	return w
}

// listen has v1 tell when an instance has more memory, its cache included, than it had, and when it is reclaimed.
func (w *ward) listen(limit int64) {
	w.event, w.limit = -1, limit
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return
	}
	tell := func(file, what string) {
		f, err := os.Open(filepath.Join(w.dir, file))
		if err != nil {
			return
		}
		defer f.Close()
		// Without one of them it is told later, or not.
		_ = write(w.dir, "cgroup.event_control", strconv.Itoa(fd)+" "+strconv.Itoa(int(f.Fd()))+" "+what)
	}
	for n := int64(8); n < 16; n++ {
		tell("memory.usage_in_bytes", strconv.FormatInt(limit/16*n, 10))
	}
	tell("memory.pressure_level", "low")
	w.event = fd
}

// drop ends what listen, or the watch, began.
func (g *guard) drop(w *ward) {
	switch {
	case w.event < 0:
	case w.v2:
		_, _ = unix.InotifyRmWatch(g.watch, uint32(w.event)) //nolint:gosec // it goes with its file, too
	default:
		unix.Close(w.event)
	}
}

// taken is how much of an instance's memory can't be given back, and how much there may be. Not ok: it has ended, or has no limit.
func (w *ward) taken() (taken, limit int64, ok bool) {
	name, words := "memory.limit_in_bytes", []string{"total_rss", "total_shmem"}
	if w.v2 {
		name, words = "memory.max", []string{"anon", "shmem", "sock", "kernel_stack", "pagetables", "slab_unreclaimable"}
	}
	limit = int64(readNumber(filepath.Join(w.dir, name)))
	b, err := os.ReadFile(filepath.Join(w.dir, "memory.stat"))
	if err != nil || limit <= 0 || limit >= 1<<60 {
		return 0, 0, false
	}
	for line := range strings.Lines(string(b)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(words, word) {
			n, _ := strconv.ParseInt(rest, 10, 64)
			taken += n
		}
	}
	return taken, limit, true
}

// run looks at instances when there is reason to, until ctx is done. Then nobody is kept from anything any more.
func (g *guard) run(ctx context.Context) {
	// What it does, and runs, takes a millisecond now and then, for which nobody is to wait who forwards or answers statements.
	runtime.LockOSThread() // it ends with this
	setSlices([]int{0}, true)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		g.log.WarnContext(ctx, "memory of instances is not looked at", "error", err)
		return
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		watch = -1
	}
	g.wards, g.watch = map[string]*ward{}, watch
	g.mu.Lock()
	g.mu.wake = wake
	g.mu.Unlock()
	done := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(done)
		(&waker{wake}).wake()
	})
	defer func() {
		if !unhook() {
			<-done
		}
		g.mu.Lock()
		g.mu.wake = 0
		g.mu.Unlock()
		for _, w := range g.wards {
			g.loosen(w)
			g.drop(w)
		}
		unix.Close(wake)
		if watch >= 0 {
			unix.Close(watch)
		}
	}()
	for ctx.Err() == nil {
		now := time.Now()
		g.heard(now)
		hot := false
		for id, w := range g.wards {
			if !w.hot.IsZero() {
				g.look(ctx, id, w, now)
				hot = hot || !w.hot.IsZero()
			}
		}
		timeout := -1
		if hot {
			select {
			case <-ctx.Done():
			case <-time.After(guardEvery):
			}
			timeout = 0
		}
		if err := g.wait(wake, timeout); err != nil {
			g.log.WarnContext(ctx, "memory of instances is not looked at any more", "error", err)
			return
		}
	}
}

// wait waits for Linux, or follow, to tell of something, for so many milliseconds; -1 = for as long as it takes. What is told of is hot.
func (g *guard) wait(wake, timeout int) error {
	set := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(g.watch), Events: unix.POLLIN}} //nolint:gosec // descriptors are small, and nothing is told of a negative one
	of := []*ward{nil, nil}
	for _, w := range g.wards {
		if w.event >= 0 && !w.v2 {
			set, of = append(set, unix.PollFd{Fd: int32(w.event), Events: unix.POLLIN}), append(of, w) //nolint:gosec // descriptors are small
		}
	}
	if _, err := unix.Poll(set, timeout); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	now := time.Now()
	var b [4096]byte
	for i, p := range set {
		if p.Revents == 0 {
			continue
		}
		n, _ := unix.Read(int(p.Fd), b[:]) // fails when there was nothing
		switch i {
		case 0:
		case 1:
			for at := 0; at+unix.SizeofInotifyEvent <= n; {
				watch, more := binary.NativeEndian.Uint32(b[at:]), binary.NativeEndian.Uint32(b[at+12:])
				for _, w := range g.wards {
					if w.v2 && w.event == int(watch) {
						w.hot = now
					}
				}
				at += unix.SizeofInotifyEvent + int(more)
			}
		default:
			of[i].hot = now
		}
	}
	return nil
}

// more is how much more is taken than when that was noticed last, and notes it. What does not grow does no harm; and while an instance pauses for its limit of CPU, those
// that get no more can't have come to their next allocation.
func (w *ward) more(taken int64, now time.Time) int64 {
	n := taken - w.took
	if n >= 0 && n < 64<<10 {
		return 0
	}
	w.took, w.before, w.at = taken, w.at, now
	return n
}

// look has an instance's sessions get no more, or as much again as they may, as its memory is.
func (g *guard) look(ctx context.Context, id string, w *ward, now time.Time) {
	taken, limit, ok := w.taken()
	if !ok {
		w.hot = time.Time{}
		return
	}
	soon, next, more := taken, taken, w.more(taken, now)
	if elapsed := now.Sub(w.before); more > 0 && elapsed > 0 {
		soon += int64(float64(more) * float64(ahead) / float64(elapsed))
		next += int64(float64(more) * float64(2*guardEvery) / float64(elapsed)) // at the next look, or the one behind it
	}
	switch {
	case more > 0 && (soon >= dire(limit) || soon >= short(limit) && now.Sub(w.tightened) >= patience):
		g.tighten(ctx, id, w, now, next < full(limit) && now.Sub(w.tightened) < patience)
	case taken < ample(limit):
		g.loosen(w)
	}
	if more > 0 && taken > limit/2 {
		w.hot = now
	} else if now.Sub(w.hot) > guardFor && len(w.tight) == 0 {
		w.hot = time.Time{}
	}
}

// tighten has the process that has most get no more, of those that may still. With early it spares the last of them, while others have something to give back: those
// that pause for their instance's limit of CPU, all at once, have not come to their next allocation, and one is to come to its end.
func (g *guard) tighten(ctx context.Context, id string, w *ward, now time.Time, early bool) {
	greediest, most, others, holding := 0, int64(modest), 0, 0
	for _, pid := range processes(w.dir) {
		if pid == w.server {
			continue // what the server forks would have the same
		}
		n := privateOf(pid)
		switch {
		case n < modest:
		case w.tight[pid]:
			holding++
		default:
			if others++; n >= most {
				greediest, most = pid, n
			}
		}
	}
	if greediest == 0 || early && others == 1 && holding > 0 {
		return
	}
	w.tight[greediest], w.tightened = true, now
	err := setDataOf(greediest, most, w.uid, w.gid)
	g.log.DebugContext(ctx, "memory is short: a process gets no more", "instance", id, "backend_pid", greediest, "bytes", most, "error", err)
}

// loosen gives those that get no more the limit of the others back.
func (g *guard) loosen(w *ward) {
	if len(w.tight) == 0 {
		return
	}
	usual, _, err := softOf(w.server)
	if err != nil {
		return // it has ended
	}
	if usual > math.MaxInt64 {
		usual = 0 // no limit
	}
	there := processes(w.dir)
	for pid := range w.tight {
		if slices.Contains(there, pid) {
			_ = setDataOf(pid, int64(usual), w.uid, w.gid) // it has ended, or keeps what it has
		}
		delete(w.tight, pid)
	}
}
