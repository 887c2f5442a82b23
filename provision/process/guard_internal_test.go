package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// holding is a process that has so many bytes.
func holding(t *testing.T, bytes int) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(`x=$(head -c %d /dev/zero | tr "\0" x); echo; read y`, bytes))
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// guardOf is a guard of made-up files of cgroup v2, in which put puts some.
func guardOf(t *testing.T) (g *guard, put func(name, text string)) {
	t.Helper()
	g = &guard{groups: &groups{unified: t.TempDir()}, log: slog.New(slog.DiscardHandler), conf: func(string) map[string]string { return map[string]string{"shared_buffers": "64MB"} }}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	dir, v2 := g.groups.memoryOf(string(own))
	if dir == "" || !v2 {
		t.Skip("this host has no cgroup v2")
	}
	return g, func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func statOf(anon int) string {
	return fmt.Sprintf("anon %d\nfile 200000000\nkernel 9000000\nkernel_stack 100000\nshmem 1000000\nslab_reclaimable 200000000\n", anon)
}

// freeOf reports whether a process has the limit that it has where 256 MiB are the instance's.
func freeOf(pid int) bool {
	soft, _, err := softOf(pid)
	return err == nil && soft == 176<<20
}

// Of two sessions that take memory together, both of which pause, the one that has less is left time to come to its end, while there is some left, and the other
// has something to give back.
func TestGuardSparesTheLast(t *testing.T) {
	t.Parallel()
	server, most, less := holding(t, 10<<20), holding(t, 30<<20), holding(t, 15<<20)
	g, put := guardOf(t)
	g.watch = -1
	put("memory.max", strconv.Itoa(256<<20)+"\n")
	put("cgroup.procs", fmt.Sprintf("%d\n%d\n%d\n", server, most, less))
	put("memory.stat", statOf(20<<20))
	begun := time.Now()
	w := g.ward("x", server, begun)
	if w == nil {
		t.Fatal("there is nothing to look after")
	}
	for _, look := range []struct {
		at         time.Duration
		taken      int
		most, less bool // are free
	}{
		{0, 200 << 20, true, true},
		{10 * time.Millisecond, 242 << 20, false, true},
		{20 * time.Millisecond, 243 << 20, false, true},
		{40 * time.Millisecond, 244 << 20, false, true},
		{50*time.Millisecond + patience, 245 << 20, false, false}, // it has had time
		{200 * time.Millisecond, 100 << 20, true, true},
		{300 * time.Millisecond, 242 << 20, false, true},
		{310 * time.Millisecond, 250 << 20, false, false}, // there is none
		{400 * time.Millisecond, 100 << 20, true, true},
		{500 * time.Millisecond, 242 << 20, false, true},
		{510 * time.Millisecond, 246 << 20, false, false}, // at that pace there is none, either
		{600 * time.Millisecond, 100 << 20, true, true},
	} {
		put("memory.stat", statOf(look.taken))
		g.look(t.Context(), "x", w, begun.Add(look.at))
		if freeOf(most) != look.most || freeOf(less) != look.less {
			t.Errorf("after %v: free are %v and %v, want %v and %v", look.at, freeOf(most), freeOf(less), look.most, look.less)
		}
	}
}

// Where cgroup v2 tells that an instance's memory is short, its large processes get no more, and neither its server nor small ones; they do again when there is room, and
// when nobody looks any more.
func TestGuardOfV2(t *testing.T) {
	t.Parallel()
	server, large, small := holding(t, 10<<20), holding(t, 10<<20), holding(t, 0)
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it never came to it that %s", what)
			}
		}
	}
	g, put := guardOf(t)
	taken := func(anon int) { put("memory.stat", statOf(anon)) }
	put("memory.max", strconv.Itoa(256<<20)+"\n")
	put("cgroup.procs", fmt.Sprintf("%d\n%d\n%d\n", server, large, small))
	put("memory.events", "high 0\n")
	taken(20 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	g.follow(map[string]seen{"x": {pid: server}})
	heard := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.mu.wake > 0 && g.mu.servers == nil
	}
	eventually("it is known", func() bool { return heard() && freeOf(server) && freeOf(large) && freeOf(small) }) // somebody else has started it, without their limit
	short := func(high int) {
		t.Helper()
		taken(245 << 20)
		eventually("the large one gets no more", func() bool {
			high++
			put("memory.events", fmt.Sprintf("high %d\n", high)) // once is enough as soon as somebody listens
			return !freeOf(large)
		})
		if soft, _, err := softOf(large); err != nil || soft > 64<<20 {
			t.Errorf("the large one may have %d, %v", soft, err)
		}
		if !freeOf(server) || !freeOf(small) {
			t.Error("the server gets no more, or a small one")
		}
	}
	short(0)
	taken(30 << 20)
	eventually("there is room", func() bool { return freeOf(large) })
	short(1000)
	cancel()
	<-ended
	if !freeOf(large) {
		t.Error("it gets no more, and nobody looks")
	}
}
