package main

import (
	"fmt"
	"regexp"
	"strings"
)

// goal is what pgkennel is to reach, in all runs that the goal is about.
type goal struct {
	what   string
	loads  *regexp.Regexp // labels of the runs
	metric metric
	ratio  bool // to PgBouncer's
	least  bool // at least limit, not at most
	limit  float64
	cores  int // below which the machine cannot show it
}

var goals = []goal{
	{what: "CPU per transaction", loads: regexp.MustCompile(`^routing by range, \w+, \d+ clients`), metric: cpu, ratio: true, limit: 1},
	{what: "throughput", loads: regexp.MustCompile(`^routing by range, \w+, \d+ clients`), metric: tps, ratio: true, least: true, limit: 1},
	{what: "throughput with two free cores", loads: regexp.MustCompile(`^GOMAXPROCS=2`), metric: tps, ratio: true, least: true, limit: 1.5, cores: 6},
	{what: "p99 at half of the peak", loads: regexp.MustCompile(`^latency.* 50 %`), metric: p99, ratio: true, limit: 1},
	{what: "p99.9 at half of the peak", loads: regexp.MustCompile(`^latency.* 50 %`), metric: p999, ratio: true, limit: 1},
	{what: "p99 at the peak", loads: regexp.MustCompile(`^latency.* 100 %`), metric: p99, ratio: true, limit: 1},
	{what: "p99.9 at the peak", loads: regexp.MustCompile(`^latency.* 100 %`), metric: p999, ratio: true, limit: 1},
	{what: "routing a known shape of 60 bytes", loads: regexp.MustCompile(`routing a statement of 60 bytes`), metric: nanoseconds, limit: 1000},
	{what: "routing a known shape of 1 KB", loads: regexp.MustCompile(`routing a statement of 1 KB`), metric: nanoseconds, limit: 3000},
	{what: "routing at Bind", loads: regexp.MustCompile(`routing at Bind`), metric: nanoseconds, limit: 150},
	{what: "allocations of routing", loads: regexp.MustCompile(`, routing `), metric: allocations, limit: 0},
	{what: "p99 of others beside 1000 new shapes/s", loads: regexp.MustCompile(`new shapes/s`), metric: growth, limit: 1.5},
	{what: "checkout and release", loads: regexp.MustCompile(`checkout and release`), metric: nanoseconds, limit: 400},
	{what: "allocations of checkout and release", loads: regexp.MustCompile(`checkout and release`), metric: allocations, limit: 0},
	{what: "big results, MB/s", loads: regexp.MustCompile(`^big results, SELECT, 1 `), metric: speed, ratio: true, least: true, limit: 1.5},
	{what: "big results, CPU per GB", loads: regexp.MustCompile(`^big results, SELECT, 1 `), metric: cpuGB, ratio: true, limit: 0.6},
	{what: "big results, memory grows by MB", loads: regexp.MustCompile(`^big results`), metric: grown, limit: 8},
	{what: "memory of an idle client", loads: regexp.MustCompile(`^idle clients`), metric: clientBytes, ratio: true, limit: 1},
	{what: "login storm", loads: regexp.MustCompile(`^login storm`), metric: tps, ratio: true, least: true, limit: 1},
	{what: "allocations per transaction", loads: regexp.MustCompile(`, a transaction`), metric: allocations, limit: 0},
	{what: "garbage collection, % of CPU", loads: regexp.MustCompile(`^routing by range, \w+, \d+ clients`), metric: garbage, limit: 1},
}

// verdict is whether a goal is met.
type verdict int

const (
	unknown verdict = iota // nothing of it was measured
	missed
	met
)

func (v verdict) String() string {
	switch v {
	case unknown:
		return "not measured"
	case missed:
		return "**no**"
	case met:
		return "yes"
	}
	return "?"
}

// outcome is what was found about a goal.
type outcome struct {
	verdict verdict
	worst   float64
	where   string // the run with the worst value
	runs    int    // that are about it
	fine    int    // of them
	lacking string // what is missing that it could be measured
}

// judge holds a goal to the results.
func (g *goal) judge(results []result, cores int) (o outcome) {
	if cores < g.cores {
		o.lacking = fmt.Sprintf("needs %d cores", g.cores)
		return o
	}
	for _, r := range results {
		if !g.loads.MatchString(r.Load) {
			continue
		}
		found := r.Figures[pgkennel]
		if g.ratio {
			found = r.Ratios[pgkennel]
		}
		f, ok := found[g.metric]
		if !ok {
			continue
		}
		o.runs++
		if g.least && f.Median >= g.limit || !g.least && f.Median <= g.limit {
			o.fine++
		}
		if o.runs == 1 || g.least && f.Median < o.worst || !g.least && f.Median > o.worst {
			o.worst, o.where = f.Median, r.Load
		}
	}
	switch {
	case o.runs == 0:
	case o.fine == o.runs:
		o.verdict = met
	default:
		o.verdict = missed
	}
	return o
}

// wanted is the goal's limit for people.
func (g *goal) wanted() string {
	sign, unit := "≤", ""
	if g.least {
		sign = "≥"
	}
	if g.ratio {
		unit = " × PgBouncer"
	} else if g.metric == nanoseconds {
		unit = " ns"
	}
	return fmt.Sprintf("%s %g%s", sign, g.limit, unit)
}

// goalTable says of each goal whether it is met.
func goalTable(b *strings.Builder, results []result, cores int) {
	b.WriteString("| goal | wanted | met | in | worst |\n|---|---|---|---|---|\n")
	for i := range goals {
		g := &goals[i]
		o := g.judge(results, cores)
		if o.verdict == unknown {
			fmt.Fprintf(b, "| %s | %s | %v | – | %s |\n", g.what, g.wanted(), o.verdict, o.lacking)
			continue
		}
		digits := columns[g.metric].digits
		if g.ratio {
			digits = 2
		}
		fmt.Fprintf(b, "| %s | %s | %v | %d of %d | %.*f (%s) |\n", g.what, g.wanted(), o.verdict, o.fine, o.runs, digits, o.worst, o.where)
	}
}
