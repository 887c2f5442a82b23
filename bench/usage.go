package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// usage is what a process has used.
type usage struct {
	cpu, user              float64 // seconds
	shared, resident, peak float64 // bytes: PSS, RSS, and the highest RSS since resetPeak
}

// clockTick is the unit of /proc/PID/stat (proc(5)); it is the same on every Linux that Go runs on.
const clockTick = 100

// usage is what the pooler has used; that of the server itself, which has many processes, is not asked for.
func (t *target) usage() (u usage, err error) {
	if t.process == nil {
		return u, nil
	}
	dir := fmt.Sprintf("/proc/%d/", t.process.PID())
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime = 11, 12 // behind the name
	if len(fields) <= stime {
		return u, errors.New("/proc/PID/stat is short")
	}
	user, err1 := strconv.ParseFloat(fields[utime], 64)
	system, err2 := strconv.ParseFloat(fields[stime], 64)
	u.user, u.cpu = user/clockTick, (user+system)/clockTick
	rollup, err3 := os.ReadFile(dir + "smaps_rollup")
	status, err4 := os.ReadFile(dir + "status")
	u.shared, u.resident, u.peak = kilobytes(rollup, "Pss:"), kilobytes(status, "VmRSS:"), kilobytes(status, "VmHWM:")
	return u, errors.Join(err1, err2, err3, err4)
}

// kilobytes finds a line such as "Pss: 12 kB", in bytes; 0 if there is none.
func kilobytes(text []byte, name string) float64 {
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb * 1024
		}
	}
	return 0
}

// resetPeak has the highest memory counted from now on (proc(5), clear_refs).
func (t *target) resetPeak() error {
	if t.process == nil {
		return nil
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", t.process.PID()), []byte("5"), 0)
}

// traceLine is what a Go program writes for each collection under GODEBUG=gctrace=1: the CPU of sweep termination, assists, background
// and idle workers, and mark termination, in milliseconds. Idle workers use what nobody else wanted.
var traceLine = regexp.MustCompile(`(?m)^gc \d+ @.*ms clock, ([0-9.]+)\+([0-9.]+)/([0-9.]+)/[0-9.]+\+([0-9.]+) ms cpu`)

// collections sums up the seconds of CPU that the collector says it used.
func collections(log []byte) (seconds float64) {
	for _, m := range traceLine.FindAllSubmatch(log, -1) {
		for _, text := range m[1:] {
			ms, _ := strconv.ParseFloat(string(text), 64)
			seconds += ms / 1000
		}
	}
	return seconds
}

// measure notes what a target uses from now on.
type measure struct {
	t      *target
	before usage
	logged int
}

func newMeasure(t *target) (m *measure, err error) {
	m = &measure{t: t}
	if err := t.resetPeak(); err != nil {
		return nil, err
	}
	m.logged = len(t.logText())
	m.before, err = t.usage()
	return m, err
}

// end fills in what every run has: CPU for each of n transactions, memory, and the collector's share.
func (m *measure) end(s *sample, n float64) (used usage, err error) {
	after, err := m.t.usage()
	if err != nil || m.t.process == nil {
		return used, err
	}
	used = usage{cpu: after.cpu - m.before.cpu, user: after.user - m.before.user, shared: after.shared - m.before.shared, resident: after.resident - m.before.resident}
	s.Values[memory] = after.shared / (1 << 20)
	if n > 0 {
		s.Values[cpu], s.Values[user] = used.cpu*1e6/n, used.user*1e6/n
	}
	s.Values[grown] = max(0, after.peak-m.before.resident) / (1 << 20)
	if log := m.t.logText(); m.t.traced && used.cpu > 0 && m.logged <= len(log) {
		s.Values[garbage] = collections(log[m.logged:]) / used.cpu * 100
	}
	return used, nil
}
