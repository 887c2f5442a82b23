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
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/bench/load"
)

// pgbench is the usual load: one statement each transaction, in one of pgbench's modes.
func pgbench(mode string, clients int) trial {
	return trial{name: fmt.Sprintf("%s, %d clients", mode, clients), run: func(ctx context.Context, b *bench, t *target) (sample, error) {
		const logins = 1000 // each second: the time that pgbench takes to connect is part of the length of a run
		return b.pgbench(ctx, t, "-M", mode, "-c", strconv.Itoa(clients), "-T", strconv.Itoa(b.o.seconds()+clients/logins))
	}}
}

// logins is a new connection for each transaction.
func logins(clients int) trial {
	return trial{name: fmt.Sprintf("%d clients", clients), run: func(ctx context.Context, b *bench, t *target) (sample, error) {
		return b.pgbench(ctx, t, "-C", "-c", strconv.Itoa(clients), "-T", strconv.Itoa(b.o.seconds()))
	}}
}

var (
	tpsLine   = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	countLine = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failLine  = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

// pgbench runs pgbench once.
func (b *bench) pgbench(ctx context.Context, t *target, more ...string) (s sample, err error) {
	s.Values = make(map[metric]float64)
	dir, err := os.MkdirTemp(b.env.dir, "run")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "select.sql")
	sql := fmt.Sprintf("\\set aid random(1, %d)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n", t.setup.keys())
	if t.setup.tenancy != noTenancy {
		sql = t.setup.tenancy.script()
	}
	if err := os.WriteFile(script, []byte(sql), 0o600); err != nil {
		return s, err
	}
	args := append([]string{
		"-n", "-h", "127.0.0.1", "-p", strconv.Itoa(t.port), "-U", t.setup.user(), "-j", "1", "-f", script,
		"-l", "--log-prefix=" + filepath.Join(dir, "log"),
	}, more...)
	m, err := newMeasure(t)
	if err != nil {
		return s, err
	}
	sent := t.contexts(ctx)
	cmd := exec.CommandContext(ctx, b.env.scratch.Install().Path("pgbench"), append(args, database)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, complaint(out))
	}
	n, err := number(countLine, out)
	if err != nil || n == 0 {
		return s, errors.Join(errors.New("no transactions"), err)
	}
	if failed, err := number(failLine, out); err != nil || failed > 0 {
		return s, fmt.Errorf("%v failed transactions", failed)
	}
	if s.Values[tps], err = number(tpsLine, out); err != nil {
		return s, err
	}
	if _, err := m.end(&s, n); err != nil {
		return s, err
	}
	if t.metrics > 0 {
		s.Values[contextsTx] = (t.contexts(ctx) - sent) / n
	}
	list, err := transactionLog(dir)
	s.latencies(list)
	return s, err
}

// latencies fills in the quantiles.
func (s *sample) latencies(list load.Latencies) {
	for m, q := range map[metric]float64{p50: 0.5, p99: 0.99, p999: 0.999} {
		s.Values[m] = float64(list.Quantile(q)) / float64(time.Millisecond)
	}
}

func number(re *regexp.Regexp, out []byte) (float64, error) {
	m := re.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench does not say %v", re)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// complaint is the first line that tells of an error, else the last one.
func complaint(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "ERROR:") || strings.Contains(line, "FATAL:") || strings.Contains(line, "could not") {
			return strings.TrimSpace(line)
		}
	}
	return lastLine(out)
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// transactionLog reads what pgbench logged of each transaction.
func transactionLog(dir string) (list load.Latencies, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			const latency = 2 // client, number, µs
			fields := strings.Fields(lines.Text())
			if len(fields) <= latency {
				continue
			}
			if us, err := strconv.Atoi(fields[latency]); err == nil {
				list = append(list, time.Duration(us)*time.Microsecond)
			}
		}
		f.Close()
	}
	if len(list) == 0 {
		return nil, errors.New("pgbench logged nothing")
	}
	return list, nil
}
