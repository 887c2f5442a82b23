package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is what was measured.
type report struct {
	dir string

	Machine  string            `json:"machine"`
	Cores    int               `json:"cores"`
	Go       string            `json:"go"`
	Versions map[string]string `json:"versions"`
	Date     string            `json:"date"`
	Seconds  int               `json:"seconds"`
	Repeats  int               `json:"repeats"`
	Results  []result          `json:"results"`
}

// result is one scenario's.
type result struct {
	Scenario string              `json:"scenario"`
	Medians  map[string]sample   `json:"medians"`
	Samples  map[string][]sample `json:"samples"`
	// Ratios are of pgkennel to PgBouncer: the median of those of neighbouring runs.
	CPURatio float64 `json:"cpu_ratio,omitempty"`
	TPSRatio float64 `json:"tps_ratio,omitempty"`
}

func newReport(o *options, env *environment) *report {
	r := &report{
		dir: o.out, Machine: processor(), Cores: runtime.NumCPU(), Go: runtime.Version(), Versions: map[string]string{},
		Date: time.Now().UTC().Format("2006-01-02"), Seconds: max(1, int(o.length.Seconds())), Repeats: o.repeats,
	}
	for _, t := range env.targets {
		r.Versions[t.name] = t.version
	}
	return r
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(info), "\n") {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimLeft(name, "\t :")
		}
	}
	return runtime.GOARCH
}

func (r *report) add(s *scenario, samples map[string][]sample) {
	res := result{Scenario: s.name(), Medians: map[string]sample{}, Samples: samples}
	for name, list := range samples {
		res.Medians[name] = medians(list)
	}
	ours, theirs := samples["pgkennel"], samples["pgbouncer"]
	res.CPURatio = ratio(ours, theirs, func(s sample) float64 { return s.CPU })
	res.TPSRatio = ratio(ours, theirs, func(s sample) float64 { return s.TPS })
	r.Results = append(r.Results, res)
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	if n := len(list); n%2 == 0 {
		return (list[n/2-1] + list[n/2]) / 2
	}
	return list[len(list)/2]
}

func medians(list []sample) (m sample) {
	list = slices.DeleteFunc(slices.Clone(list), func(s sample) bool { return s.Failed != "" })
	of := func(f func(s sample) float64) float64 {
		values := make([]float64, len(list))
		for i, s := range list {
			values[i] = f(s)
		}
		return median(values)
	}
	if len(list) == 0 {
		m.Failed = "all runs"
	}
	m.TPS, m.CPU, m.User = of(func(s sample) float64 { return s.TPS }), of(func(s sample) float64 { return s.CPU }), of(func(s sample) float64 { return s.User })
	m.P50, m.P99, m.P999 = of(func(s sample) float64 { return s.P50 }), of(func(s sample) float64 { return s.P99 }), of(func(s sample) float64 { return s.P999 })
	m.Memory = of(func(s sample) float64 { return s.Memory })
	return m
}

// ratio is the median of the ratios of runs that followed each other.
func ratio(ours, theirs []sample, f func(s sample) float64) float64 {
	var list []float64
	for i := range min(len(ours), len(theirs)) {
		if ours[i].Failed == "" && theirs[i].Failed == "" && f(theirs[i]) > 0 {
			list = append(list, f(ours[i])/f(theirs[i]))
		}
	}
	return median(list)
}

// write writes latest.json, latest.md and latest.svg.
func (r *report) write(log io.Writer) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil { //nolint:gosec // results are for everybody
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"latest.json": string(data) + "\n", "latest.md": r.markdown(), "latest.svg": r.plot()} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	_, err = fmt.Fprint(log, "\n", r.markdown())
	return err
}

// targetNames are the targets in the order of the table.
var targetNames = []string{"direct", "pgbouncer", "pgkennel"}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, PostgreSQL %s on the same machine, PgBouncer %s (no routing), pgkennel %s (routes by range over two shards, 2 × %d connections), "+
		"pools of %d, runs of %d s, medians of %d, in turns. %s.\n\n", r.Machine, r.Cores, r.Versions["direct"], cmp.Or(r.Versions["pgbouncer"], "not installed"),
		r.Versions["pgkennel"], poolSize/2, poolSize, r.Seconds, r.Repeats, r.Date)
	if _, ok := r.Versions["base"]; ok {
		r.comparison(&b)
		return b.String()
	}
	b.WriteString("| load | direct tps | PgBouncer tps | pgkennel tps | × PgBouncer | PgBouncer CPU µs | pgkennel CPU µs | × PgBouncer | p99 ms: PgBouncer, pgkennel |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, res := range r.Results {
		d, p, k := res.Medians["direct"], res.Medians["pgbouncer"], res.Medians["pgkennel"]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s, %s |\n", res.Scenario, figure(d, d.TPS, 0), figure(p, p.TPS, 0), figure(k, k.TPS, 0), times(res.TPSRatio),
			figure(p, p.CPU, 1), figure(k, k.CPU, 1), times(res.CPURatio), figure(p, p.P99, 1), figure(k, k.P99, 1))
	}
	return b.String()
}

// comparison is the table of two programs of ours.
func (r *report) comparison(b *strings.Builder) {
	b.WriteString("| load | base tps | pgkennel tps | × | base CPU µs | pgkennel CPU µs | × |\n|---|---|---|---|---|---|---|\n")
	for _, res := range r.Results {
		old, now := res.Medians["base"], res.Medians["pgkennel"]
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", res.Scenario, figure(old, old.TPS, 0), figure(now, now.TPS, 0),
			times(ratio(res.Samples["pgkennel"], res.Samples["base"], func(s sample) float64 { return s.TPS })), figure(old, old.CPU, 1), figure(now, now.CPU, 1),
			times(ratio(res.Samples["pgkennel"], res.Samples["base"], func(s sample) float64 { return s.CPU })))
	}
}

func figure(s sample, v float64, digits int) string {
	if s.Failed != "" || v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f", digits, v)
}

func times(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", v)
}

// plot draws the transactions per second of every scenario.
func (r *report) plot() string {
	const left, width, bar, gap = 170, 520, 12, 10
	colors := map[string]string{"direct": "#bbbbbb", "pgbouncer": "#4e79a7", "pgkennel": "#e15759"}
	top := 0.0
	for _, res := range r.Results {
		for _, m := range res.Medians {
			top = max(top, m.TPS)
		}
	}
	height := 30 + len(r.Results)*(len(targetNames)*bar+gap)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", left+width+80, height)
	for i, name := range targetNames {
		fmt.Fprintf(&b, `<rect x="%d" y="4" width="10" height="10" fill="%s"/><text x="%d" y="13">%s, transactions/s</text>`+"\n", left+i*170, colors[name], left+i*170+14, name)
	}
	y := 26
	for _, res := range r.Results {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+22, res.Scenario)
		for _, name := range targetNames {
			tps := res.Medians[name].TPS
			w := 0.0
			if top > 0 {
				w = tps / top * width
			}
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%.0f</text>`+"\n", left, y, w, bar-2, colors[name], left+w+4, y+9, tps)
			y += bar
		}
		y += gap
	}
	b.WriteString("</svg>\n")
	return b.String()
}
