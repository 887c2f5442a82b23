// The bench compares pgkennel with PgBouncer and with PostgreSQL itself, side by side on this machine: the same server, the
// same load, one after the other in turns, so that what disturbs one run disturbs its neighbours too. It writes tables and plots;
// what counts in them are the ratios. `make bench` builds and runs it.
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
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	o, err := flags()
	if err == nil {
		var stop context.CancelFunc
		ctx := context.Background()
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags() (*options, error) {
	o := &options{log: os.Stdout}
	clients, only := "", ""
	flag.StringVar(&o.program, "pgkennel", "bin/pgkennel", "the program")
	flag.StringVar(&o.base, "base", "", "an older program, to compare with")
	flag.StringVar(&o.out, "out", "bench/results", "folder of the results")
	flag.DurationVar(&o.length, "length", 5*time.Second, "how long each run lasts")
	flag.IntVar(&o.repeats, "repeats", 3, "runs of each kind; medians are reported")
	flag.StringVar(&clients, "clients", "1,8,64,1000", "numbers of clients")
	flag.StringVar(&only, "only", "", "a regular expression: run matching scenarios only")
	flag.IntVar(&o.scale, "scale", 5, "pgbench's scale factor")
	flag.Parse()
	for n := range strings.SplitSeq(clients, ",") {
		c, err := strconv.Atoi(n)
		if err != nil || c < 1 {
			return nil, fmt.Errorf("-clients %q: %q is no number of clients", clients, n)
		}
		o.clients = append(o.clients, c)
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return nil, err
	}
	if o.program, err = filepath.Abs(o.program); err == nil && o.base != "" {
		o.base, err = filepath.Abs(o.base)
	}
	return o, err
}

// options say what is run.
type options struct {
	program string
	base    string
	out     string
	length  time.Duration
	repeats int
	clients []int
	only    *regexp.Regexp
	scale   int
	log     io.Writer
}

// run sets up the server and the poolers, runs all scenarios and writes the report.
func run(ctx context.Context, o *options) (err error) {
	env, err := newEnvironment(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.close()) }()
	report := newReport(o, env)
	for _, s := range scenarios(o) {
		if !o.only.MatchString(s.name()) {
			continue
		}
		results := make(map[string][]sample)
		for range o.repeats {
			for _, t := range env.targets {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r, err := s.run(ctx, env, t)
				if err != nil {
					fmt.Fprintf(o.log, "%-22s %-10s %v\n", s.name(), t.name, err)
					r = sample{Failed: err.Error()}
				} else {
					fmt.Fprintf(o.log, "%-22s %-10s %7.0f tps  %6.2f µs CPU  p99 %.2f ms\n", s.name(), t.name, r.TPS, r.CPU, r.P99)
				}
				results[t.name] = append(results[t.name], r)
			}
		}
		report.add(s, results)
	}
	return report.write(o.log)
}
