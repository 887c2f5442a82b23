package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The modes of pgkennel, and direct: PostgreSQL without it.
const (
	direct      = "direct"
	transaction = "transaction"
	session     = "session"
)

// suite is a client with the tests that it is put to.
type suite struct {
	name    string // its folder
	title   string
	what    string // what is run
	format  string // of the results: junit, gotest, tap, unittest
	modes   []string
	minutes int // that a run may take
}

// both are the modes of most suites.
var both = []string{transaction, session}

// bench is where suites are run.
type bench struct {
	options
	stands *stands
	out    io.Writer // what is being done
}

func openBench(o options, out io.Writer) (*bench, error) {
	if _, err := os.Stat(o.pgkennel); err != nil {
		return nil, fmt.Errorf("%w: `make build` makes it", err)
	}
	st, err := openStands(o.pgkennel)
	if err != nil {
		return nil, err
	}
	return &bench{o, st, out}, nil
}

func (b *bench) close() { b.stands.close() }

// try installs a suite and runs it against PostgreSQL and in each of its modes.
func (b *bench) try(ctx context.Context, s suite) (line, error) {
	l := line{Name: s.name, Title: s.title, What: s.what, Passed: map[string]int{}}
	known, err := readKnown(filepath.Join(b.suites, s.name, "known"))
	if err != nil {
		return l, err
	}
	work := filepath.Join(b.work, s.name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return l, err
	}
	if b.compare {
		// What was run is what was installed.
	} else if err := b.install(ctx, s, work); err != nil {
		return l, fmt.Errorf("not installed: %w", err)
	}
	version, err := os.ReadFile(filepath.Join(work, "version"))
	if err != nil {
		return l, err
	}
	l.Version = strings.TrimSpace(string(version))
	all := map[string]results{}
	for _, target := range append([]string{direct}, s.modes...) {
		r, err := b.once(ctx, s, work, target)
		if err != nil {
			return l, fmt.Errorf("%s: %w", target, err)
		}
		all[target] = r
	}
	l.compare(all, s.modes, known)
	for _, k := range known {
		if !k.met(l.Differences) {
			fmt.Fprintf(b.out, "%s: differs no more: %s | %s\n", s.name, k.mode, k.pattern)
		}
	}
	return l, nil
}

// install runs the suite's script unless it has run for the suite as it is.
func (b *bench) install(ctx context.Context, s suite, work string) error {
	dir := filepath.Join(b.suites, s.name)
	sum, err := sumOf(dir, "install", "manifest")
	if err != nil {
		return err
	}
	stamp := filepath.Join(work, "installed")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == sum {
		return nil
	}
	fmt.Fprintf(b.out, "%s: installing\n", s.name)
	log := filepath.Join(work, "install.log")
	if err := script(ctx, 15*time.Minute, log, filepath.Join(dir, "install"), work, "SUITE="+dir, "WORK="+work); err != nil {
		return fmt.Errorf("%w\n%s", err, tailOf(log, 600))
	}
	return os.WriteFile(stamp, []byte(sum), 0o644)
}

// once runs the suite and returns what its tests came to.
func (b *bench) once(ctx context.Context, s suite, work, target string) (results, error) {
	out := filepath.Join(work, target)
	if b.compare {
		return parse(s.format, out)
	}
	if err := errors.Join(os.RemoveAll(out), os.MkdirAll(out, 0o777), os.Chmod(out, 0o777)); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.suites, s.name)
	st, err := b.stands.start(ctx, target, filepath.Join(dir, "setup.sql"), filepath.Join(out, "pgkennel.log"))
	if err != nil {
		return nil, err
	}
	defer st.stop()
	fmt.Fprintf(b.out, "%s: %s\n", s.name, target)
	env := append(st.env(), "SUITE="+dir, "WORK="+work, "OUT="+out, "TARGET="+target)
	log := filepath.Join(out, "run.log")
	failed := script(ctx, time.Duration(s.minutes)*time.Minute, log, filepath.Join(dir, "run"), work, env...)
	r, err := parse(s.format, out)
	if err != nil || len(r) == 0 {
		return nil, fmt.Errorf("no results: %w\n%s", errors.Join(failed, err), tailOf(log, 600))
	}
	if errors.Is(failed, errTooLong) {
		r["the run as a whole"] = result{Status: failing, Message: failed.Error()}
	}
	return r, nil
}

var errTooLong = errors.New("it took too long")

// script runs a program in a process group of its own. The program's exit status is part of what it reports, if it gets so far.
func script(ctx context.Context, limit time.Duration, log, path, dir string, env ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooLong)
	defer cancel()
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, f
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// tailOf is the end of a log.
func tailOf(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	text = bytes.TrimSpace(text)
	return string(text[max(0, len(text)-n):])
}
