// Command drivers runs test suites of PostgreSQL's clients twice: against PostgreSQL and through pgkennel. What passes the one and not the other is a
// difference; each has its reason in the suite's file `known`, or the run fails. The result is docs/compatibility.md, and docs/compatibility.json for
// programs.
//
// A suite is a folder under suites: `install` puts the client, in the version that a manifest beside it pins, into a folder of its own; `run` leaves the
// results of its tests there; setup.sql, if there is one, is run by PostgreSQL before. Each run has a PostgreSQL instance of its own, and a pgkennel
// before it unless it is to do without.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	only     string
	modes    string
	pgkennel string
	work     string
	docs     string
	suites   string
	compare  bool
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "suites to run, with commas between; the others' lines stay as they are")
	flag.StringVar(&o.modes, "modes", "", "modes of pgkennel to run them in, with commas between; nothing is written then")
	flag.StringVar(&o.pgkennel, "pgkennel", "bin/pgkennel", "the program")
	flag.StringVar(&o.work, "work", "bin/drivers", "what is installed, and what the runs leave")
	flag.StringVar(&o.docs, "docs", "docs", "where compatibility.md and compatibility.json are")
	flag.StringVar(&o.suites, "suites", "integration/drivers/suites", "the suites")
	flag.BoolVar(&o.compare, "compare", false, "run nothing, and compare anew what the last runs left")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drivers:", err)
		os.Exit(1)
	}
}

// run runs what was asked for and brings the documents up to date.
func run(ctx context.Context, o options, out io.Writer) error {
	for _, path := range []*string{&o.pgkennel, &o.work, &o.suites} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	b, err := openBench(o, out)
	if err != nil {
		return err
	}
	defer b.close()

	var faults []string
	var lines []line
	for _, s := range chosen {
		if o.modes != "" {
			s.modes = slices.DeleteFunc(slices.Clone(s.modes), func(m string) bool { return !slices.Contains(strings.Split(o.modes, ","), m) })
		}
		line, err := b.try(ctx, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			line.Missing = err.Error()
			faults = append(faults, fmt.Sprintf("%s: %v", s.name, err))
		}
		for _, d := range line.Differences {
			if d.Reason == "" {
				faults = append(faults, fmt.Sprintf("%s, %s mode: %s: %s", s.name, d.Mode, d.Test, d.Status))
			}
		}
		line.print(out)
		lines = append(lines, line)
	}
	if o.modes == "" {
		report, err := readReport(filepath.Join(o.docs, "compatibility.json"))
		if err != nil {
			return err
		}
		for _, l := range lines {
			report.set(l)
		}
		if err := report.write(o.docs); err != nil {
			return err
		}
	}
	if len(faults) > 0 {
		return errors.New("not explained:\n  " + strings.Join(faults, "\n  "))
	}
	return nil
}

// choose returns the suites of these names, or all.
func choose(names string) ([]suite, error) {
	if names == "" {
		return suites, nil
	}
	var chosen []suite
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no suite %q", name)
		}
		chosen = append(chosen, suites[i])
	}
	return chosen, nil
}
