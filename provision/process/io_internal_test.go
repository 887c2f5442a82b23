package process

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
)

// The limit is at the device that the volume has now, with all processes under it, from the server's start on or from when it was set.
func TestThrottleFollowsTheVolume(t *testing.T) {
	t.Parallel()
	d, err := New(Options{DataDir: drivertest.Dir(t, pgtest.Root()), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	g := findGroups(d.o)
	if g.can("io") != nil || d.canMount() != nil {
		return // the driver's test sees that refused
	}
	k := drivertest.Kit{TB: t, Driver: d}
	in := k.Instance()
	in.Limits.Disk = 128 << 20
	k.Up(in)
	dir, file := g.ioGroup(in.ID), "io.max"
	if g.parent == "" {
		file = "blkio.throttle.write_bps_device"
	}
	check := func(when string) {
		t.Helper()
		disk, err := DiskOf(filepath.Join(d.o.DataDir, in.ID))
		if err != nil || !strings.HasPrefix(disk.Path, "/dev/loop") {
			t.Fatalf("%s: the volume is on %v, %v", when, disk, err)
		}
		if lines := strings.Split(read(dir, file), "\n"); len(lines) != 1 || !strings.HasPrefix(lines[0], disk.Number+" ") {
			t.Errorf("%s: %s has %q, want device %s and no other", when, file, lines, disk.Number)
		}
		k.Eventually("all of its processes are limited", func() bool {
			got, want := processes(dir), g.pids(in.ID)
			slices.Sort(got)
			slices.Sort(want)
			return len(got) > 2 && slices.Equal(got, want)
		})
	}
	in.Limits.IO = 16 << 20
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	check("set")
	writes(t, k, d, in)
	k.Do("stop", func(ctx context.Context) error { return k.Stop(ctx, in) })
	p, err := d.place(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmount(p); err != nil {
		t.Fatal(err)
	}
	other := k.Instance() // its volume gets that device, if no other does
	other.Limits.Disk = 128 << 20
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, other, nil) })
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, other) })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	check("started anew")
	in.Limits.IO = 0
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	if got := read(dir, file); got != "" {
		t.Errorf("without a limit, %s has %q", file, got)
	}
}

// writes has the instance write much of its limit: others go first then, until it has been quiet.
func writes(t *testing.T, k drivertest.Kit, d *Driver, in *provision.Instance) {
	t.Helper()
	c, s := d.confiner, share{}
	if c == nil {
		return
	}
	s.moved, _ = c.groups.moved(in.ID)
	k.SQL(in, "COPY (SELECT 1) TO PROGRAM 'dd if=/dev/zero of=waste bs=1M count=9 oflag=direct 2>/dev/null; rm waste'")
	for _, x := range []struct {
		elapsed time.Duration
		burns   bool
	}{{time.Second, true}, {calmFor - time.Second, true}, {time.Second, false}} {
		c.burn(in.ID, &s, 100, x.elapsed)
		pids := c.groups.pids(in.ID)
		if n := long(pids); s.burns != x.burns || slicesWork() && (n == len(pids)) != x.burns {
			t.Errorf("%v later: it uses much: %v, want %v; %d of %d processes have the long slice", x.elapsed, s.burns, x.burns, n, len(pids))
		}
	}
}

// What is made in a volume, and what a crash has its server sync, is synced as a whole: file by file it would be a flush of the host's disk for each, and there are
// a thousand.
func TestVolumeIsSyncedAtOnce(t *testing.T) {
	t.Parallel()
	d, err := New(Options{DataDir: drivertest.Dir(t, pgtest.Root())})
	if err != nil {
		t.Fatal(err)
	}
	if d.canMount() != nil || !syncfsFails() {
		return // the driver's test sees volumes refused
	}
	k := drivertest.Kit{TB: t, Driver: d}
	in := k.Instance()
	in.Limits.Disk = 128 << 20
	k.Do("plan", func(ctx context.Context) error { return k.Plan(ctx, in, nil) })
	k.Do("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	disk, err := DiskOf(filepath.Join(d.o.DataDir, in.ID))
	if err != nil {
		t.Fatal(err)
	}
	flushes := func() int {
		t.Helper()
		f := strings.Fields(read(filepath.Join("/sys/block", filepath.Base(disk.Path)), "stat"))
		if len(f) < 17 {
			t.Skip("this kernel does not count flushes") // before 5.5
		}
		n, err := strconv.Atoi(f[15])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const most = 200
	before := flushes() // the device's, of volumes before this one too
	k.Do("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	if n := flushes() - before; n > most {
		t.Errorf("%d flushes until it was made, want %d at most", n, most)
	}
	k.Do("configure", func(ctx context.Context) error { _, err := k.Configure(ctx, in); return err })
	k.Do("start", func(ctx context.Context) error { return k.Start(ctx, in) })
	backend, err := strconv.Atoi(k.SQL(in, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
	if err != nil {
		t.Fatal(err)
	}
	up := flushes()
	if err := unix.Kill(backend, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	k.Eventually("it has recovered", func() bool {
		out, err := k.Try(in, in.Password, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		return err == nil && out != "" && out != strconv.Itoa(backend)
	})
	if n := flushes() - up; n > most {
		t.Errorf("%d flushes behind a crash, want %d at most", n, most)
	}
}
