// The density proof makes many tenants with PostgreSQL instances of their own through a running pgkennel, and says what each takes; orders the same ones
// many times at once; and has one tenant burn CPU, memory and disk while another is asked what it always is. At the end everything is removed, and what is
// left anywhere is an error. It writes its figures into a file, and the tables of docs/density.md from that. `make density` builds and runs it.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/provision"
)

func main() {
	o, err := flags(flag.CommandLine, os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "density:", err)
		os.Exit(1)
	}
}

// options say what is run.
type options struct {
	program string
	results string // file of the figures
	page    string // file with the tables; empty = none
	note    string // on the machine

	scenarios []string
	tenants   int
	beside    int // how many are made at a time
	names     int
	orders    int
	load      time.Duration
	noises    string
	rounds    int
	length    time.Duration
	io        int64 // bytes a second; 0 = no limit
	log       io.Writer
}

// scenario is a part of the proof, with a pgkennel of its own.
type scenario struct {
	name string
	run  func(ctx context.Context, h *host, o *options, f *figures) error
}

var scenarios = []scenario{{"density", density}, {"creates", creates}, {"neighbours", neighbours}}

func flags(set *flag.FlagSet, args []string) (*options, error) {
	o := &options{log: os.Stdout}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	chosen := ""
	set.StringVar(&o.program, "pgkennel", "bin/pgkennel", "the program")
	set.StringVar(&o.results, "results", "bench/results/density.json", "file of the figures; what is not run keeps those it has")
	set.StringVar(&o.page, "page", "docs/density.md", "file whose tables are written anew")
	set.StringVar(&o.note, "note", "", "what is to be known of the machine meanwhile")
	set.StringVar(&chosen, "scenarios", strings.Join(names, ","), "what is run; none: only the page is written anew")
	set.IntVar(&o.tenants, "tenants", 50, "density: number of tenants")
	set.IntVar(&o.beside, "beside", runtime.NumCPU(), "density: how many are made at a time")
	set.DurationVar(&o.load, "load", 20*time.Second, "density: how long all tenants have something to do")
	set.IntVar(&o.names, "names", 20, "creates: number of names")
	set.IntVar(&o.orders, "orders", 100, "creates: number of orders at once")
	set.StringVar(&o.noises, "noises", "cpu,memory,disk", "neighbours: what the other burns")
	set.IntVar(&o.rounds, "rounds", 5, "neighbours: phases of each kind")
	set.DurationVar(&o.length, "length", 5*time.Second, "neighbours: length of a phase")
	o.io = 16 << 20
	set.Func("io", "neighbours: bytes a second that each may read, and as many that it may write; 0 = no limit (default 16MB)", func(text string) (err error) {
		o.io, err = provision.ParseSize(text)
		return err
	})
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(chosen, ",") {
		switch {
		case name == "" || name == "none":
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(names, ", "))
		default:
			o.scenarios = append(o.scenarios, name)
		}
	}
	for name, n := range map[string]int{"tenants": o.tenants, "beside": o.beside, "names": o.names, "rounds": o.rounds} {
		if n < 1 {
			return nil, fmt.Errorf("-%s %d: want 1 at least", name, n)
		}
	}
	if o.orders < 2*o.names {
		return nil, fmt.Errorf("-orders %d: want two for each of %d names at least", o.orders, o.names)
	}
	var err error
	o.program, err = filepath.Abs(o.program)
	return o, err
}

// run runs the scenarios. What one has measured is written even if another fails.
func run(ctx context.Context, o *options) error {
	f, err := readFigures(o.results)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range scenarios {
		if !slices.Contains(o.scenarios, s.name) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(o.log, "\n%s\n", s.name)
		if err := with(ctx, o, func(h *host) error { return s.run(ctx, h, o, f) }); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	if ctx.Err() != nil {
		return errors.Join(append(errs, context.Cause(ctx))...)
	}
	if len(o.scenarios) > 0 {
		f.machine()
		errs = append(errs, f.write(o.results))
	}
	if o.page != "" {
		errs = append(errs, f.writePage(o.page))
	}
	fmt.Fprintf(o.log, "\n%s", f.tables())
	return errors.Join(errs...)
}

// with runs f with a pgkennel, and takes everything away behind it. What is left is an error.
func with(ctx context.Context, o *options, f func(h *host) error) (err error) {
	h, err := newHost(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }() //nolint:contextcheck // it has to be done whatever has ended
	return f(h)
}
