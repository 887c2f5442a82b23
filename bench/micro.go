package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// step is what a statement passes, as benchmarks of the packages measure it: the sum of some of them.
type step struct {
	name  string
	parts []part
}

// part is one benchmark. Names of those below it may hold figures that change, so it is a regular expression.
type part struct{ dir, name string }

var steps = []step{
	{"routing a statement of 60 bytes", []part{{"parser", `BenchmarkShape/\d{2}`}, {"sharding/router", "BenchmarkPlan/literal"}}},
	{"routing a statement of 1 KB", []part{{"parser", `BenchmarkShape/\d{3,4}`}, {"sharding/router", "BenchmarkPlan/literal"}}},
	{"routing at Bind", []part{{"sharding/router", "BenchmarkPlan/param_binary"}}},
	{"looking up one of a million tenants", []part{{"sharding", "BenchmarkLookupMillion/range_bigint"}}},
	{"checkout and release", []part{{"pooler/cluster", "BenchmarkCheckout"}}},
	{"a transaction, simple", []part{{"pooler/loop", "BenchmarkTransaction/simple/1000"}}},
	{"a transaction, extended", []part{{"pooler/loop", "BenchmarkTransaction/extended/1000"}}},
	{"a transaction, prepared", []part{{"pooler/loop", "BenchmarkTransaction/prepared/1000"}}},
}

// micro runs the benchmarks from the sources in the current folder.
func micro() (list []trial) {
	for _, st := range steps {
		list = append(list, trial{name: st.name, run: func(ctx context.Context, b *bench, _ *target) (s sample, err error) {
			s.Values = map[metric]float64{nanoseconds: 0, allocations: 0}
			for _, p := range st.parts {
				ns, allocs, err := p.run(ctx)
				if err != nil {
					return s, err
				}
				s.Values[nanoseconds] += ns
				s.Values[allocations] += allocs
			}
			return s, nil
		}})
	}
	return list
}

func (p part) run(ctx context.Context) (ns, allocs float64, err error) {
	// Each level of a name is matched for itself, and as a whole.
	pattern := "^" + strings.ReplaceAll(p.name, "/", "$/^") + "$"
	out, err := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench="+pattern, "-benchmem", "-benchtime=0.1s", "./"+p.dir).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("go test ./%s: %w: %s", p.dir, err, lastLine(out))
	}
	return benchmarkLine(out)
}

var benchmark = regexp.MustCompile(`(?m)^Benchmark\S+\s+\d+\s+([0-9.]+) ns/op(?:.*?\s(\d+) allocs/op)?`)

// benchmarkLine reads what `go test -bench` printed about one benchmark.
func benchmarkLine(out []byte) (ns, allocs float64, err error) {
	all := benchmark.FindAllSubmatch(out, -1)
	if len(all) != 1 {
		return 0, 0, fmt.Errorf("%d benchmarks ran, want one", len(all))
	}
	ns, err1 := strconv.ParseFloat(string(all[0][1]), 64)
	allocs, err2 := strconv.ParseFloat(string(all[0][2]), 64)
	return ns, allocs, errors.Join(err1, err2)
}
