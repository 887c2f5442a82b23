package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// figures are all that was measured.
type figures struct {
	Machine    string            `json:"machine"`
	Cores      int               `json:"cores"`
	Memory     float64           `json:"memory_gb"`
	Kernel     string            `json:"kernel"`
	Density    *densityFigures   `json:"density,omitempty"`
	Creates    *createFigures    `json:"creates,omitempty"`
	Neighbours *neighbourFigures `json:"neighbours,omitempty"`
}

// occasion is when a scenario ran, and how the machine was.
type occasion struct {
	Date string `json:"date"`
	Note string `json:"note,omitempty"`
}

func newOccasion(o *options) occasion {
	return occasion{time.Now().UTC().Format(time.DateOnly), o.note}
}

// text is said below a table.
func (o *occasion) text() string {
	if o.Note == "" {
		return o.Date + "."
	}
	return o.Date + "; " + o.Note + "."
}

// spread is a figure of many: their median, and how far they go.
type spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func spreadOf(list []float64) spread {
	if len(list) == 0 {
		return spread{}
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return spread{Median: list[(len(list)-1)/2], Low: list[0], High: list[len(list)-1]} // of two the lower: a value that was measured
}

// tenantFigures are what a tenant uses; sizes in MB.
type tenantFigures struct {
	Memory      spread `json:"memory_mb"`
	Disk        spread `json:"disk_mb"`
	Descriptors spread `json:"descriptors"`
	Processes   spread `json:"processes"`
}

// ownFigures are what pgkennel itself uses; memory in MB, CPU in percent of a core.
type ownFigures struct {
	Before      float64 `json:"before_mb"`
	Idle        float64 `json:"idle_mb"`
	Loaded      float64 `json:"loaded_mb"`
	After       float64 `json:"after_mb"`
	IdleCPU     float64 `json:"idle_cpu"`
	Descriptors int     `json:"descriptors"`
}

type densityFigures struct {
	occasion
	Tenants    int           `json:"tenants"`
	Beside     int           `json:"beside"`
	All        float64       `json:"all_s"`
	Create     spread        `json:"create_s"`
	Answer     spread        `json:"answer_s"`
	Remove     spread        `json:"remove_s"`
	Idle       tenantFigures `json:"idle"`
	Loaded     tenantFigures `json:"loaded"`
	IdleCPU    float64       `json:"idle_cpu"` // of all instances, percent of a core
	Own        ownFigures    `json:"own"`
	Rate       float64       `json:"rate"`
	Statements int           `json:"statements"`
	P50        float64       `json:"p50_ms"`
	P99        float64       `json:"p99_ms"`
}

type createFigures struct {
	occasion
	Orders  int     `json:"orders"`
	Names   int     `json:"names"`
	Made    int     `json:"made"`    // told that they made it, or waited for it
	There   int     `json:"there"`   // told that it was there
	Refused int     `json:"refused"` // told that the name is another's, or something else under way
	Seconds float64 `json:"seconds"`
}

type neighbourFigures struct {
	occasion
	Limits    string         `json:"limits"`
	Rounds    int            `json:"rounds"`
	Seconds   float64        `json:"seconds"`
	ReadRate  float64        `json:"read_rate"`
	WriteRate float64        `json:"write_rate"`
	Noises    []noiseFigures `json:"noises"`
}

type noiseFigures struct {
	Name   string    `json:"name"`
	About  string    `json:"about"`
	Done   int       `json:"done"`  // statements
	Used   spread    `json:"cores"` // that the other had
	Reads  latencies `json:"reads"`
	Writes latencies `json:"writes"`
}

// latencies are those of the quiet phases, and of the others, in milliseconds.
type latencies struct {
	Before quantiles `json:"before"`
	While  quantiles `json:"while"`
}

type quantiles struct {
	P50 spread `json:"p50_ms"`
	P99 spread `json:"p99_ms"`
}

// ratio is that of the medians of p99.
func (l *latencies) ratio() float64 { return l.While.P99.Median / max(l.Before.P99.Median, 1e-9) }

func readFigures(path string) (*figures, error) {
	f := new(figures)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(text, f)
	}
	return f, err
}

// machine notes what it ran on.
func (f *figures) machine() {
	f.Machine, f.Cores, f.Kernel = runtime.GOARCH, runtime.NumCPU(), "unknown"
	line := func(path, name string) string {
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				return strings.TrimLeft(strings.TrimSpace(rest), "\t :")
			}
		}
		return ""
	}
	if name := line("/proc/cpuinfo", "model name"); name != "" {
		f.Machine = name
	}
	if text := line("/proc/sys/kernel/osrelease", ""); text != "" {
		f.Kernel = text
	}
	var kb float64
	if _, err := fmt.Sscan(line("/proc/meminfo", "MemTotal:"), &kb); err == nil {
		f.Memory = kb / (1 << 20)
	}
}

func (f *figures) write(path string) error {
	data, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // results are for everybody
}

// The lines of the page between which the tables are.
const (
	tablesBegin = "<!-- figures: make density writes what follows -->\n"
	tablesEnd   = "<!-- end of figures -->\n"
)

func (f *figures) writePage(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err := f.page(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(page), 0o644) //nolint:gosec // it is for everybody
}

// page is a text with the tables in their place.
func (f *figures) page(text string) (string, error) {
	before, rest, begins := strings.Cut(text, tablesBegin)
	_, after, ends := strings.Cut(rest, tablesEnd)
	if !begins || !ends {
		return "", errors.New("the lines are missing between which the tables are")
	}
	return before + tablesBegin + f.tables() + tablesEnd + after, nil
}

func (f *figures) tables() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, %d cores, %.0f GB, Linux %s.\n", f.Machine, f.Cores, f.Memory, f.Kernel)
	if d := f.Density; d != nil {
		d.table(&b)
	}
	if c := f.Creates; c != nil {
		fmt.Fprintf(&b, "\n**%d orders at once for %d names**: %d tenants in %.0f s, each once, with a port and a server of its own. %d orders were told that they made one (those too that "+
			"waited for another with the same arguments), %d that it was there, %d that the name is taken or being made. %s\n", c.Orders, c.Names, c.Names, c.Seconds, c.Made, c.There, c.Refused, c.text())
	}
	if n := f.Neighbours; n != nil {
		n.table(&b)
	}
	b.WriteString("\n")
	return b.String()
}

func (d *densityFigures) table(b *strings.Builder) {
	fmt.Fprintf(b, "\n**%d tenants**, made %d at a time in %.0f s\n\n| for each | median | lowest | highest |\n|---|---|---|---|\n", d.Tenants, d.Beside, d.All)
	row := func(name string, s spread, digits int) {
		fmt.Fprintf(b, "| %s | %.*f | %.*f | %.*f |\n", name, digits, s.Median, digits, s.Low, digits, s.High)
	}
	row("`create`, s", d.Create, 2)
	row("from the order to the first answer through the pooler, s", d.Answer, 2)
	row("memory with a client that does nothing, MB (PSS)", d.Idle.Memory, 1)
	row("memory under load, MB (PSS)", d.Loaded.Memory, 1)
	row("disk, MB", d.Loaded.Disk, 0)
	row("processes", d.Loaded.Processes, 0)
	row("descriptors of all of them", d.Loaded.Descriptors, 0)
	row("`remove --now`, s", d.Remove, 2)
	fmt.Fprintf(b, "\n| of all together | |\n|---|---|\n| CPU of %d instances at rest, %% of a core | %.1f |\n", d.Tenants, d.IdleCPU)
	fmt.Fprintf(b, "| load through the one port | %.0f statements/s, a quarter of them writes |\n| its p50, p99 | %.1f ms, %.1f ms |\n", d.Rate, d.P50, d.P99)
	fmt.Fprintf(b, "| pgkennel's memory: alone, with all at rest, under load, after all were removed | %.0f, %.0f, %.0f, %.0f MB |\n", d.Own.Before, d.Own.Idle, d.Own.Loaded, d.Own.After)
	fmt.Fprintf(b, "| its CPU at rest, %% of a core; descriptors | %.1f; %d |\n| left after removal: processes, directories, mounts, loop devices, sockets, ports, cgroups, records | none |\n\n%s\n", d.Own.IdleCPU, d.Own.Descriptors, d.text())
}

func (n *neighbourFigures) table(b *strings.Builder) {
	fmt.Fprintf(b, "\n**A tenant beside another that does what it can**, each limited to %s; %d phases of %.0f s of each kind, in turns with quiet ones\n\n", n.Limits, n.Rounds, n.Seconds)
	b.WriteString("| the other | its neighbour's | p50 ms quiet | while | p99 ms quiet | while | p99: × |\n|---|---|---|---|---|---|---|\n")
	for i := range n.Noises {
		x := &n.Noises[i]
		about := fmt.Sprintf("%s (%.1f cores)", x.About, x.Used.Median)
		for j, l := range []*latencies{&x.Reads, &x.Writes} {
			what := fmt.Sprintf("reads, %.0f/s", n.ReadRate)
			if j == 1 {
				about, what = "", fmt.Sprintf("writes, %.0f/s", n.WriteRate)
			}
			fmt.Fprintf(b, "| %s | %s | %.1f | %.1f | %s | %s | %.2f |\n", about, what, l.Before.P50.Median, l.While.P50.Median, l.Before.P99.cell(), l.While.P99.cell(), l.ratio())
		}
	}
	fmt.Fprintf(b, "\nMedians of phases (lowest–highest); × is the ratio of medians. %s\n", n.text())
}

func (s spread) cell() string { return fmt.Sprintf("%.1f (%.1f–%.1f)", s.Median, s.Low, s.High) }
