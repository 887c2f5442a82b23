package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// end is how the last server of an instance ended; empty = it was not this process's, or it has not ended.
func (d *Driver) end(ctx context.Context, id string) string {
	d.mu.Lock()
	c := d.mu.children[id]
	d.mu.Unlock()
	if c != nil && ending(c.pid) { // it is waited for in this moment
		select {
		case <-c.done:
		case <-ctx.Done():
		case <-time.After(time.Second): // the kernel may keep it for as long as a disk does not answer
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.ends[id]
}

// ending reports whether a process has ended, or is about to: the kernel takes its memory, and with it its program, away first.
func ending(pid int) bool {
	_, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return errors.Is(err, fs.ErrNotExist) || !alive(pid)
}

// howEnded says how a server of this process's ended, in one line.
func (d *Driver) howEnded(p *place, end *os.ProcessState) string {
	if end == nil {
		return ""
	}
	ws, ok := end.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return end.String() // exit status 1
	}
	text := fmt.Sprintf("signal %d (%s)", ws.Signal(), ws.Signal())
	if ws.Signal() == syscall.SIGABRT { // PostgreSQL's own way out, and it says why
		if why := panicIn(d.tail(p, panicLines)); why != "" {
			text += ": " + why
		}
	}
	return text
}

const (
	// panicLines is how many lines PostgreSQL and its other processes may write behind the reason of its end.
	panicLines = 50
	maxPanic   = 200 // bytes
)

var panicLine = regexp.MustCompile(`(?m)^.*\bPANIC:  (.*)$`)

// panicIn finds the last PANIC of a log.
func panicIn(log string) string {
	all := panicLine.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return ""
	}
	text := strings.TrimSpace(all[len(all)-1][1])
	return strings.Map(func(r rune) rune { // a superuser of the instance can have it say anything
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text[:min(len(text), maxPanic)])
}

// oomKills is how many of an instance's processes the kernel ended because its group had no memory left.
func (g *groups) oomKills(id string) (int64, bool) {
	if g.parent != "" {
		return oomKillsIn(filepath.Join(g.parent, g.name, id, "memory.events"))
	}
	if root := g.v1["memory"]; root != "" {
		return oomKillsIn(filepath.Join(root, g.name, id, "memory.oom_control"))
	}
	return 0, false
}

func (r runnerLimits) oomKills(id string) (int64, bool) {
	for _, pid := range r.runner.Processes(id) {
		own, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err == nil {
			return r.kernel.oomKillsOf(string(own))
		}
	}
	return 0, false
}

// oomKillsOf is oomKills for groups that somebody else made, as /proc/PID/cgroup names them.
func (g *groups) oomKillsOf(own string) (int64, bool) {
	dir, v2 := g.memoryOf(own)
	switch {
	case dir == "":
		return 0, false
	case v2:
		return oomKillsIn(filepath.Join(dir, "memory.events"))
	default:
		return oomKillsIn(filepath.Join(dir, "memory.oom_control"))
	}
}

// memoryOf is the group whose memory a process has, of v2 or v1, as /proc/PID/cgroup names it; empty = none.
func (g *groups) memoryOf(own string) (dir string, v2 bool) {
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "memory" && g.memory != "" {
			return filepath.Join(g.memory, parts[2]), false
		}
		if parts[0] == "0" && g.unified != "" && g.memory == "" {
			return filepath.Join(g.unified, parts[2]), true
		}
	}
	return "", false
}

// oomKillsIn reads the kernel's count.
func oomKillsIn(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if word, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			n, err := strconv.ParseInt(word, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
