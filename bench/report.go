package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is what was measured.
type report struct {
	dir   string
	names []string // of the targets, in the order of tables

	Machine   string            `json:"machine"`
	Cores     int               `json:"cores"`
	Kernel    string            `json:"kernel"`
	Go        string            `json:"go"`
	Versions  map[string]string `json:"versions"`
	Date      string            `json:"date"`
	Seconds   int               `json:"seconds"`
	Repeats   int               `json:"repeats"`
	Reference string            `json:"reference"` // the target that ratios are to
	Results   []result          `json:"results"`
}

// result is one trial's.
type result struct {
	scenario *scenario

	Scenario string                       `json:"scenario"`
	Load     string                       `json:"load"`
	Figures  map[string]map[metric]figure `json:"figures"` // by target
	Ratios   map[string]map[metric]figure `json:"ratios"`  // by target, of neighbouring runs to the reference
	Samples  map[string][]sample          `json:"samples"`
}

func newReport(o *options, env *environment) *report {
	r := &report{
		dir: o.out, names: []string{direct}, Machine: processor(), Cores: runtime.NumCPU(), Kernel: kernel(), Go: runtime.Version(),
		Versions: map[string]string{direct: version(env.scratch.Install().Version)}, Date: time.Now().UTC().Format(time.DateOnly),
		Seconds: o.seconds(), Repeats: o.repeats, Reference: pgbouncer,
	}
	if o.base != "" {
		r.Reference = base
	}
	for _, p := range env.peers {
		r.names = append(r.names, p.name)
		r.Versions[p.name] = p.version
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

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return cmp.Or(strings.TrimSpace(string(text)), "unknown")
}

func (r *report) add(s *scenario, t *trial, samples map[string][]sample) {
	res := result{scenario: s, Scenario: s.name, Load: s.label(t), Figures: map[string]map[metric]figure{}, Ratios: map[string]map[metric]figure{}, Samples: samples}
	for name, list := range samples {
		res.Figures[name] = figures(list)
		if name != r.Reference {
			res.Ratios[name] = ratios(list, samples[r.Reference])
		}
	}
	r.Results = append(r.Results, res)
}

// write writes latest.json, latest.md and latest.svg.
func (r *report) write(log io.Writer) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil { //nolint:gosec // results are for everybody
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
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

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, Linux %s, PostgreSQL %s on the same machine", r.Machine, r.Cores, r.Kernel, r.Versions[direct])
	for _, name := range r.names[1:] {
		fmt.Fprintf(&b, ", %s %s", name, r.Versions[name])
	}
	fmt.Fprintf(&b, ". Pools of %d; where pgkennel routes it has two shards of %d, and PgBouncer one database. Runs of %d s, in turns; medians of %d, "+
		"± half of the distance between the lowest and the highest; × is the median of the ratios of neighbouring runs to %s (lowest–highest). %s.\n\n",
		poolSize, poolSize/2, r.Seconds, r.Repeats, r.Reference, r.Date)
	if r.Reference == pgbouncer {
		goalTable(&b, r.Results, r.Cores)
	}
	for i := range r.Results {
		if i == 0 || r.Results[i].scenario.about != r.Results[i-1].scenario.about {
			r.head(&b, r.Results[i].scenario)
		}
		r.rows(&b, &r.Results[i])
	}
	return b.String()
}

func (r *report) head(b *strings.Builder, s *scenario) {
	fmt.Fprintf(b, "\n**%s**\n\n| load | by |", s.about)
	cells := 2
	for _, m := range s.metrics {
		fmt.Fprintf(b, " %s |", columns[m].title)
		cells++
		if columns[m].compared {
			b.WriteString(" × |")
			cells++
		}
	}
	b.WriteString("\n|" + strings.Repeat("---|", cells) + "\n")
}

// rows are a result's, one for each target.
func (r *report) rows(b *strings.Builder, res *result) {
	for _, name := range r.names {
		samples, ran := res.Samples[name]
		if !ran {
			continue
		}
		fmt.Fprintf(b, "| %s | %s |", strings.TrimPrefix(res.Load, res.scenario.about+", "), name)
		for _, m := range res.scenario.metrics {
			b.WriteString(" " + cell(res.Figures[name], m) + " |")
			if columns[m].compared {
				b.WriteString(" " + ratioCell(res.Ratios[name], m) + " |")
			}
		}
		b.WriteString("\n")
		if failed := failures(samples); failed != "" {
			fmt.Fprintf(b, "| | | %s |\n", failed) // the cells behind it stay empty
		}
	}
}

// failures tells how many runs failed, and why the first did.
func failures(samples []sample) string {
	n, why := 0, ""
	for _, s := range samples {
		if s.Failed != "" {
			n++
			why = cmp.Or(why, s.Failed)
		}
	}
	if n == 0 {
		return ""
	}
	why, _, _ = strings.Cut(why, "\n")
	return fmt.Sprintf("%d of %d failed: %s", n, len(samples), strings.ReplaceAll(why, "|", "/"))
}

func cell(of map[metric]figure, m metric) string {
	f, ok := of[m]
	if !ok {
		return "–"
	}
	text := fmt.Sprintf("%.*f", columns[m].digits, f.Median)
	if spread := f.spread(); spread >= 0.5 {
		text += fmt.Sprintf(" ±%.0f %%", spread)
	}
	return text
}

func ratioCell(of map[metric]figure, m metric) string {
	f, ok := of[m]
	if !ok {
		return "–"
	}
	if f.Low == f.High {
		return fmt.Sprintf("%.2f", f.Median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", f.Median, f.Low, f.High)
}
