package main

import (
	"cmp"
	"slices"
)

// metric is something that is measured; its text is its key in the JSON file.
type metric string

const (
	tps         metric = "tps"
	cpu         metric = "cpu_us"
	user        metric = "user_us"
	p50         metric = "p50_ms"
	p99         metric = "p99_ms"
	p999        metric = "p999_ms"
	memory      metric = "memory_mb"
	rate        metric = "rate"
	late        metric = "unanswered"
	alone       metric = "alone_p99_ms"
	growth      metric = "p99_growth"
	speed       metric = "mb_s"
	cpuGB       metric = "cpu_s_gb"
	grown       metric = "grown_mb"
	clientBytes metric = "client_bytes"
	clientRSS   metric = "client_rss"
	idleCPU     metric = "idle_cpu"
	garbage     metric = "gc_share"
	began       metric = "start_s"
	contextsTx  metric = "contexts"
	nanoseconds metric = "ns"
	allocations metric = "allocs"
)

// column is how a metric is shown.
type column struct {
	title    string
	digits   int
	compared bool // the ratio to the peer says something
}

var columns = map[metric]column{
	tps:         {"tps", 0, true},
	cpu:         {"CPU µs", 1, true},
	user:        {"of it user", 1, false},
	p50:         {"p50 ms", 2, false},
	p99:         {"p99 ms", 2, true},
	p999:        {"p99.9 ms", 2, true},
	memory:      {"PSS MB", 1, false},
	rate:        {"rate", 0, false},
	late:        {"without answer", 0, false},
	alone:       {"p99 ms alone", 2, false},
	growth:      {"p99: × alone", 2, false},
	speed:       {"MB/s", 0, true},
	cpuGB:       {"CPU s/GB", 2, true},
	grown:       {"memory grows by MB", 1, false},
	clientBytes: {"PSS bytes per client", 0, true},
	clientRSS:   {"RSS bytes per client", 0, false},
	idleCPU:     {"CPU % while idle", 2, false},
	garbage:     {"GC % of CPU", 2, false},
	contextsTx:  {"contexts per transaction", 2, false},
	began:       {"start s", 1, false},
	nanoseconds: {"ns", 0, false},
	allocations: {"allocations", 0, false},
}

// sample is the outcome of one run.
type sample struct {
	Values map[metric]float64 `json:"values,omitempty"`
	Failed string             `json:"failed,omitempty"`
}

// figure is a value of several runs: their median and how far they are apart.
type figure struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func figureOf(list []float64) figure {
	if len(list) == 0 {
		return figure{}
	}
	return figure{Median: median(list), Low: slices.Min(list), High: slices.Max(list)}
}

// spread is half of the distance between the lowest and the highest value, in percent of the median.
func (f figure) spread() float64 {
	if f.Median == 0 {
		return 0
	}
	return (f.High - f.Low) / 2 / f.Median * 100
}

func median[T cmp.Ordered](list []T) (m T) {
	if len(list) == 0 {
		return m
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return list[(len(list)-1)/2] // of two the lower: a value that was measured
}

// figures are the metrics of all runs that did not fail.
func figures(samples []sample) map[metric]figure {
	values := make(map[metric][]float64)
	for _, s := range samples {
		if s.Failed == "" {
			for m, v := range s.Values {
				values[m] = append(values[m], v)
			}
		}
	}
	return collect(values)
}

// ratios are the ratios of runs that followed each other: the load of other programs on the machine is much the same for both.
func ratios(ours, theirs []sample) map[metric]figure {
	values := make(map[metric][]float64)
	for i := range min(len(ours), len(theirs)) {
		if ours[i].Failed != "" || theirs[i].Failed != "" {
			continue
		}
		for m, v := range ours[i].Values {
			if base := theirs[i].Values[m]; columns[m].compared && base > 0 {
				values[m] = append(values[m], v/base)
			}
		}
	}
	return collect(values)
}

func collect(values map[metric][]float64) map[metric]figure {
	out := make(map[metric]figure, len(values))
	for m, list := range values {
		out[m] = figureOf(list)
	}
	return out
}
