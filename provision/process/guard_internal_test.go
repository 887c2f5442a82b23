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

// Where cgroup v2 tells that an instance's memory is short, its large processes get no more, and neither its server nor small ones; they do again when there is room, and
// when nobody looks any more.
func TestGuardOfV2(t *testing.T) {
	t.Parallel()
	start := func(bytes int) int {
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
	server, large, small := start(10<<20), start(10<<20), start(0)
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it never came to it that %s", what)
			}
		}
	}
	free := func(pid int) bool {
		soft, _, err := softOf(pid)
		return err == nil && soft == 176<<20
	}

	g := &guard{groups: &groups{unified: t.TempDir()}, log: slog.New(slog.DiscardHandler), conf: func(string) map[string]string { return map[string]string{"shared_buffers": "64MB"} }}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", server))
	if err != nil {
		t.Fatal(err)
	}
	dir, v2 := g.groups.memoryOf(string(own))
	if dir == "" || !v2 {
		t.Skip("this host has no cgroup v2")
	}
	put := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	taken := func(anon int) {
		put("memory.stat", fmt.Sprintf("anon %d\nfile 200000000\nkernel 9000000\nkernel_stack 100000\nshmem 1000000\nslab_reclaimable 200000000\n", anon))
	}
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
	eventually("it is known", func() bool { return heard() && free(server) && free(large) && free(small) }) // somebody else has started it, without their limit
	short := func(high int) {
		t.Helper()
		taken(245 << 20)
		eventually("the large one gets no more", func() bool {
			high++
			put("memory.events", fmt.Sprintf("high %d\n", high)) // once is enough as soon as somebody listens
			return !free(large)
		})
		if soft, _, err := softOf(large); err != nil || soft > 64<<20 {
			t.Errorf("the large one may have %d, %v", soft, err)
		}
		if !free(server) || !free(small) {
			t.Error("the server gets no more, or a small one")
		}
	}
	short(0)
	taken(30 << 20)
	eventually("there is room", func() bool { return free(large) })
	short(1000)
	cancel()
	<-ended
	if !free(large) {
		t.Error("it gets no more, and nobody looks")
	}
}
