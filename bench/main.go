// The bench compares pgkennel with PgBouncer, with PostgreSQL itself and with what other poolers this machine has, side by
// side: the same server, the same load, one after the other in turns, so that what disturbs one run disturbs its neighbours too. It
// writes tables and plots; what counts in them are the ratios. `make bench` builds and runs it.
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/bench/load"
)

func main() {
	o, err := flags(flag.CommandLine, os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say what is run.
type options struct {
	program   string
	base      string
	out       string
	scenarios string
	only      *regexp.Regexp
	length    time.Duration
	repeats   int
	clients   []int
	scale     int
	bulk      int // MB
	idle      int
	shapes    int
	tenants   int
	log       io.Writer
}

// quick are the values of a run that only shows that everything works.
var quick = map[string]string{
	"length": "1s", "repeats": "1", "clients": "8", "scale": "1", "bulk": "10", "idle": "1000", "shapes": "2000", "tenants": "100000",
}

func flags(set *flag.FlagSet, args []string) (*options, error) {
	o := &options{log: os.Stdout}
	clients, only, short := "", "", false
	set.StringVar(&o.program, "pgkennel", "bin/pgkennel", "the program")
	set.StringVar(&o.base, "base", "", "an older program, to compare with")
	set.StringVar(&o.out, "out", "bench/results", "folder of the results")
	set.StringVar(&o.scenarios, "scenarios", usual, "what is run; there are list, copy and scaling too, and all")
	set.StringVar(&only, "only", "", "a regular expression: of the scenarios, matching rows of the tables only")
	set.DurationVar(&o.length, "length", 3*time.Second, "how long each run lasts")
	set.IntVar(&o.repeats, "repeats", 3, "runs of each kind; medians are reported")
	set.StringVar(&clients, "clients", "1,8,64,1000", "numbers of clients")
	set.IntVar(&o.scale, "scale", 10, "pgbench's scale factor")
	set.IntVar(&o.bulk, "bulk", 100, "size of big results, in MB")
	set.IntVar(&o.idle, "idle", 10_000, "number of idle clients")
	set.IntVar(&o.shapes, "shapes", 20_000, "number of shapes")
	set.IntVar(&o.tenants, "tenants", manyTenants, "number of ranges of the scenario tenants")
	set.BoolVar(&short, "quick", false, "everything small: to see that it works")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if short {
		given := make(map[string]bool)
		set.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range quick {
			if !given[name] {
				if err := set.Set(name, value); err != nil {
					return nil, err
				}
			}
		}
	}
	for n := range strings.SplitSeq(clients, ",") {
		c, err := strconv.Atoi(n)
		if err != nil || c < 1 {
			return nil, fmt.Errorf("-clients %q: %q is no number of clients", clients, n)
		}
		o.clients = append(o.clients, c)
	}
	for name, n := range map[string]int{"repeats": o.repeats, "scale": o.scale, "bulk": o.bulk, "idle": o.idle, "shapes": o.shapes, "tenants": o.tenants} {
		if n < 1 {
			return nil, fmt.Errorf("-%s %d: want 1 at least", name, n)
		}
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

// seconds is the length of a run as pgbench counts.
func (o *options) seconds() int { return max(1, int(o.length.Seconds())) }

// middle is how many clients load a pooler well without being a crowd: 64, or the most that is not more.
func (o *options) middle() int {
	const well = 64
	most := slices.Min(o.clients)
	for _, n := range o.clients {
		if n <= well {
			most = max(most, n)
		}
	}
	return most
}

// bench is the course of all runs.
type bench struct {
	o      *options
	env    *environment
	peak   float64 // statements each second that the peer answers at most; 0: not measured yet
	unseen int     // number of the first shape that nobody has sent
}

// run sets up the server, runs the scenarios and writes the report.
func run(ctx context.Context, o *options) (err error) {
	chosen, err := choose(scenarios(o), o.scenarios)
	if err != nil {
		return err
	}
	env, err := newEnvironment(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.close()) }()
	const known = 1_000_000 // more than manyShapes sends
	b := &bench{o: o, env: env, unseen: known}
	r := newReport(o, env)
	begin := time.Now()
	var errs []error
	for _, s := range chosen {
		err := b.scenario(ctx, s, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the others are worth to be known all the same
			errs = append(errs, fmt.Errorf("%s: %w", s.about, err))
			fmt.Fprintln(o.log, errs[len(errs)-1])
		}
	}
	fmt.Fprintf(o.log, "\n%v for all runs\n", time.Since(begin).Round(time.Second))
	return errors.Join(append(errs, r.write(o.log))...)
}

// scenario runs one scenario's trials, each by all targets in turns. Each round has poolers that were just started: where its memory came
// to lie, and which of its threads got which connections, may cost a process as much as what is looked for, for as long as it lives.
func (b *bench) scenario(ctx context.Context, s *scenario, r *report) error {
	wanted := slices.DeleteFunc(slices.Clone(s.trials), func(t trial) bool { return !b.o.only.MatchString(s.label(&t)) })
	if len(wanted) == 0 {
		return nil
	}
	results := make([]map[string][]sample, len(wanted))
	for i := range results {
		results[i] = make(map[string][]sample)
	}
	for round := range b.o.repeats {
		if err := b.start(ctx, s); err != nil {
			return err
		}
		for i := range wanted {
			for _, t := range turn(b.env.targets, round) {
				got := b.measure(ctx, s, &wanted[i], t)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				results[i][t.name] = append(results[i][t.name], got)
			}
		}
	}
	b.env.stop()
	for i := range wanted {
		r.add(s, &wanted[i], results[i])
	}
	return nil
}

// measure is one run.
func (b *bench) measure(ctx context.Context, s *scenario, what *trial, t *target) sample {
	got, err := what.run(ctx, b, t)
	if err != nil {
		got = sample{Failed: err.Error()}
	} else if t.process != nil {
		got.Values[began] = t.starting.Seconds()
	}
	b.show(s, what, t, &got)
	return got
}

// turn is the order of a round: each second one goes backwards, so that nobody always comes after the same.
func turn[T any](list []T, round int) []T {
	list = slices.Clone(list)
	if round%2 == 1 {
		slices.Reverse(list)
	}
	return list
}

// start starts a scenario's targets and has each make the connections that it may.
func (b *bench) start(ctx context.Context, s *scenario) error {
	return b.env.start(ctx, s, func(t *target) error {
		if s.ours || s.setup.scram { // the load does not log in with SCRAM
			return nil
		}
		o := b.load(t, poolSize, 0, lookup(t.setup.keys()))
		o.Length = o.Warm + time.Millisecond
		r, err := load.Run(ctx, o)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w\n%s", t.name, err, t.logText())
		case r.Failed > 0:
			return fmt.Errorf("%s: %s", t.name, r.Message)
		}
		return nil
	}, b.o.log)
}

// show writes one line for one run.
func (b *bench) show(s *scenario, t *trial, of *target, got *sample) {
	fmt.Fprintf(b.o.log, "%-48s %-10s", s.label(t), of.name)
	for _, m := range s.metrics {
		if v, ok := got.Values[m]; ok {
			fmt.Fprintf(b.o.log, "  %s %.*f", columns[m].title, columns[m].digits, v)
		}
	}
	fmt.Fprintln(b.o.log, "", got.Failed)
}
