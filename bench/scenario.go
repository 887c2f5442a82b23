package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// scenario is a set of runs with poolers that are configured alike.
type scenario struct {
	name     string // by which it is chosen
	about    string // for people
	setup    setup
	indirect bool // not for PostgreSQL without a pooler
	ours     bool // for pgkennel only
	metrics  []metric
	trials   []trial
}

// trial is one kind of run.
type trial struct {
	name string
	run  func(ctx context.Context, b *bench, t *target) (sample, error)
}

// Which scenarios run if none are named, and how they can be named together.
const (
	usual    = "pooling,range,tenants,shapes,bulk,idle,login,latency,micro"
	everyone = "all"
)

// manyTenants is how many ranges the mapping of the scenario "tenants" has.
const manyTenants = 1_000_000

// scenarios are all that there are.
func scenarios(o *options) []*scenario {
	transactions := []metric{tps, cpu, user, p50, p99, p999, memory, garbage}
	ranges := setup{routing: byRange, entries: 2}
	grid := func(clients []int, modes ...string) (list []trial) {
		for _, mode := range modes {
			for _, n := range clients {
				list = append(list, pgbench(mode, n))
			}
		}
		return list
	}
	few := []int{o.middle()}
	scaling := func(procs int) *scenario {
		s := ranges
		s.procs = procs
		return &scenario{name: "scaling", about: fmt.Sprintf("GOMAXPROCS=%d", procs), setup: s, indirect: true, metrics: transactions, trials: grid(few, "simple", "prepared")}
	}
	virtual := func(t tenancy) *scenario {
		return &scenario{
			name: "virtual", about: "virtual tenancy: " + string(t), setup: setup{tenancy: t}, ours: true, indirect: true, metrics: append(slices.Clone(transactions), contextsTx),
			trials: grid([]int{poolSize / 2, virtualClients}, "simple", "prepared"),
		}
	}
	list := []*scenario{
		{name: "pooling", about: "pooling only", metrics: transactions, trials: grid(few, "simple", "prepared")},
		{name: "range", about: "routing by range", setup: ranges, metrics: transactions, trials: grid(o.clients, "simple", "extended", "prepared")},
		{name: "list", about: "routing by list", setup: setup{routing: byList, entries: 10_000}, indirect: true, metrics: transactions, trials: grid(few, "simple", "prepared")},
		{name: "tenants", about: fmt.Sprintf("routing by range, %d tenants", o.tenants), setup: setup{routing: byRange, entries: o.tenants}, indirect: true, metrics: append(slices.Clone(transactions), began), trials: grid(few, "simple", "prepared")},
		{name: "shapes", about: "many shapes", setup: ranges, metrics: []metric{tps, cpu, user, p50, p99, p999, memory, alone, growth}, trials: []trial{manyShapes(o.shapes), newShapes(1000)}},
		{name: "bulk", about: "big results", setup: ranges, metrics: []metric{speed, cpuGB, memory, grown}, trials: []trial{bigResults(1), bigResults(8)}},
		{name: "copy", about: "COPY", setup: ranges, metrics: []metric{speed, cpuGB, memory, grown}, trials: []trial{copyOut(), copyIn()}},
		{name: "idle", about: "idle clients", setup: ranges, indirect: true, metrics: []metric{clientBytes, clientRSS, idleCPU, memory}, trials: []trial{idle(o.idle)}},
		{name: "login", about: "login storm, SCRAM", setup: setup{routing: byRange, entries: 2, scram: true}, metrics: []metric{tps, cpu, user, p50, p99, p999}, trials: []trial{logins(16)}},
		scaling(1), scaling(2), virtual(withoutAny), virtual(namedOnly), virtual(sharedRows), virtual(sealedRows), virtual(sharedSchemas), virtual(strictRows),
		{name: "latency", about: "latency at a fixed rate", setup: ranges, metrics: []metric{rate, p50, p99, p999, late, cpu}, trials: []trial{atRate(0.5), atRate(1)}},
		{name: "micro", about: "single steps, in the program's own benchmarks", ours: true, indirect: true, metrics: []metric{nanoseconds, allocations}, trials: micro()},
	}
	return list
}

// choose picks scenarios by their names.
func choose(all []*scenario, names string) (chosen []*scenario, err error) {
	if names == everyone {
		return all, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		found := slices.DeleteFunc(slices.Clone(all), func(s *scenario) bool { return s.name != name })
		if len(found) == 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("there is no scenario %q; there are %s, and %s", name, strings.Join(slices.Compact(known), ", "), everyone)
		}
		chosen = append(chosen, found...)
	}
	return chosen, nil
}

// label names a run in tables.
func (s *scenario) label(t *trial) string { return s.about + ", " + t.name }
