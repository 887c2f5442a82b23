package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scenario is one kind of load.
type scenario struct {
	mode    string // pgbench's -M
	clients int
	seconds int
	connect bool // -C: each transaction logs in
}

func (s *scenario) name() string {
	mode := s.mode
	if s.connect {
		mode = "login"
	}
	return fmt.Sprintf("%s, %d clients", mode, s.clients)
}

// scenarios are all that are run.
func scenarios(o *options) (list []*scenario) {
	seconds := max(1, int(o.length.Seconds()))
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, n := range o.clients {
			list = append(list, &scenario{mode: mode, clients: n, seconds: seconds})
		}
	}
	return append(list, &scenario{mode: "simple", clients: 16, seconds: seconds, connect: true})
}

// sample is the outcome of one run.
type sample struct {
	TPS    float64 `json:"tps"`
	CPU    float64 `json:"cpu_us"` // of the pooler, per transaction
	User   float64 `json:"user_us"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p999_ms"`
	Memory float64 `json:"memory_mb"` // of the pooler, at the end
	Failed string  `json:"failed,omitempty"`
}

var (
	tpsLine   = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	countLine = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failLine  = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

// run has pgbench load a target.
func (s *scenario) run(ctx context.Context, env *environment, t *target) (r sample, err error) {
	dir, err := os.MkdirTemp(env.dir, "run")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "select.sql")
	sql := fmt.Sprintf("\\set aid random(1, %d)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n", env.rows)
	if err := os.WriteFile(script, []byte(sql), 0o600); err != nil {
		return r, err
	}
	args := []string{
		"-n", "-h", "127.0.0.1", "-p", strconv.Itoa(t.port), "-U", "postgres", "-M", s.mode, "-c", strconv.Itoa(s.clients), "-j", "1",
		"-T", strconv.Itoa(s.seconds), "-f", script, "-l", "--log-prefix=" + filepath.Join(dir, "log"),
	}
	if s.connect {
		args = append(args, "-C")
	}
	before, err := t.usage()
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, env.scratch.Install().Path("pgbench"), append(args, "bench0")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return r, fmt.Errorf("%w: %s", err, lastLine(out))
	}
	after, err := t.usage()
	if err != nil {
		return r, err
	}
	n, err := number(countLine, out)
	if err != nil || n == 0 {
		return r, errors.Join(errors.New("no transactions"), err)
	}
	if failed, err := number(failLine, out); err != nil || failed > 0 {
		return r, fmt.Errorf("%v failed transactions", failed)
	}
	if r.TPS, err = number(tpsLine, out); err != nil {
		return r, err
	}
	r.CPU = (after.user + after.system - before.user - before.system) * 1e6 / n
	r.User = (after.user - before.user) * 1e6 / n
	r.Memory = after.memory / (1 << 20)
	r.P50, r.P99, r.P999, err = percentiles(dir)
	return r, err
}

func number(re *regexp.Regexp, out []byte) (float64, error) {
	m := re.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench does not say %v", re)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// percentiles reads pgbench's log of transactions, in milliseconds.
func percentiles(dir string) (p50, p99, p999 float64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil {
		return 0, 0, 0, err
	}
	var all []int
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return 0, 0, 0, err
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 3 {
				continue
			}
			if us, err := strconv.Atoi(fields[2]); err == nil {
				all = append(all, us)
			}
		}
		f.Close()
	}
	if len(all) == 0 {
		return 0, 0, 0, errors.New("pgbench logged nothing")
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[min(len(all)-1, int(q*float64(len(all))))]) / 1000 }
	return at(0.5), at(0.99), at(0.999), nil
}

// usage is what a process has used.
type usage struct{ user, system, memory float64 } // seconds, bytes

// clockTick is the unit of /proc/PID/stat (proc(5)); it is the same on every Linux that Go runs on.
const clockTick = 100

func (t *target) usage() (u usage, err error) {
	if t.process == nil {
		return u, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.process.PID()))
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
	u.user, u.system = user/clockTick, system/clockTick
	rollup, err3 := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", t.process.PID()))
	for line := range strings.SplitSeq(string(rollup), "\n") {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			u.memory = kb * 1024
		}
	}
	return u, errors.Join(err1, err2, err3)
}
