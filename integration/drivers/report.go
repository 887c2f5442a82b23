package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// line is a suite's in the report.
type line struct {
	Name        string         `json:"name"`
	Title       string         `json:"title"`
	Version     string         `json:"version"`
	What        string         `json:"what"`
	Missing     string         `json:"missing,omitempty"` // why it was not run
	Direct      int            `json:"passed_directly"`
	Failed      int            `json:"failed_directly"`
	Skipped     int            `json:"skipped_directly"`
	Passed      map[string]int `json:"passed"` // by mode, of those that passed directly
	Differences []difference   `json:"differences"`
}

// report is the last run of each suite.
type report struct {
	Suites []line `json:"suites"`
}

// compare sets what the runs came to against each other.
func (l *line) compare(all map[string]results, modes []string, reasons []known) {
	base := all[direct]
	parents := map[string]bool{}
	for _, r := range all {
		for name := range r {
			for i := range len(name) {
				if name[i] == '/' {
					parents[name[:i]] = true
				}
			}
		}
	}
	names := slices.DeleteFunc(slices.Sorted(keys(base)), func(name string) bool { return parents[name] })
	for _, name := range names {
		switch base[name].Status {
		case failing:
			l.Failed++
			continue
		case skipped:
			l.Skipped++
			continue
		}
		l.Direct++
		for _, mode := range modes {
			got, ran := all[mode][name]
			if !ran {
				got = result{Status: absent, Message: nearest(all[mode], name)}
			}
			if got.Status == passing {
				l.Passed[mode]++
				continue
			}
			d := difference{Mode: mode, Test: name, Status: got.Status, Reason: reason(reasons, mode, name)}
			if d.Reason == "" {
				d.Message = short(got.Message)
			}
			l.Differences = append(l.Differences, d)
		}
	}
	if whole, ok := all[direct]["the run as a whole"]; ok {
		l.Missing = whole.Message
	}
	for _, mode := range modes {
		if whole, ok := all[mode]["the run as a whole"]; ok {
			l.Differences = append(l.Differences, difference{mode, "the run as a whole", failing, reason(reasons, mode, "the run as a whole"), whole.Message})
		}
	}
}

func keys(r results) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range r {
			if !yield(name) {
				return
			}
		}
	}
}

// nearest is what the test said that should have run this one.
func nearest(r results, name string) string {
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if parent, ok := r[name[:i]]; ok {
			return parent.Message
		}
	}
	return ""
}

// short is what of a message is worth keeping.
func short(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > 1500 {
		text = text[:500] + "\n[...]\n" + text[len(text)-1000:]
	}
	return strings.ToValidUTF8(text, "?")
}

// print tells what a suite came to.
func (l *line) print(w io.Writer) {
	fmt.Fprintf(w, "%s %s: %d passed directly, %d failed, %d skipped", l.Title, l.Version, l.Direct, l.Failed, l.Skipped)
	for _, mode := range both {
		if n, ok := l.Passed[mode]; ok {
			fmt.Fprintf(w, "; %d in %s mode", n, mode)
		}
	}
	fmt.Fprintln(w)
	for _, d := range l.Differences {
		if d.Reason == "" {
			fmt.Fprintf(w, "  %s | %s | %s\n      %s\n", d.Mode, d.Test, d.Status, strings.ReplaceAll(d.Message, "\n", "\n      "))
		}
	}
}

func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &report{}, nil
	} else if err != nil {
		return nil, err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// set puts a suite's line in the place of its last one, in the order of the table of suites.
func (r *report) set(l line) {
	r.Suites = slices.DeleteFunc(r.Suites, func(old line) bool { return old.Name == l.Name })
	r.Suites = append(r.Suites, l)
	place := func(l line) int { return slices.IndexFunc(suites, func(s suite) bool { return s.name == l.Name }) }
	slices.SortFunc(r.Suites, func(a, b line) int { return cmp.Compare(place(a), place(b)) })
}

// write writes both documents.
func (r *report) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "compatibility.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "compatibility.md"), r.page(), 0o644),
	)
}

const preface = `# Clients

Test suites of PostgreSQL's clients, run against PostgreSQL and through pgkennel with one shard. ` + "`make drivers`" + ` runs them and
writes this page; whatever passes against PostgreSQL and not through pgkennel has its reason below, or the run fails. Tests that fail against PostgreSQL
alone, mostly for want of certificates or of privileges on this machine, say nothing about pgkennel; they are counted, and left out.

Own suite: the client's own tests, as it is published. Our script: a program under ` + "`integration/drivers/suites`" + ` that goes through what the client can do.

`

// page is the document for readers.
func (r *report) page() []byte {
	var b bytes.Buffer
	b.WriteString(preface)
	b.WriteString("| client | version | what is run | passed directly | transaction mode | session mode | not counted |\n|---|---|---|---|---|---|---|\n")
	for _, l := range r.Suites {
		if l.Missing != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | not run: %s | | | |\n", l.Title, l.Version, l.What, cell(firstLine(l.Missing)))
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s | %s | %s |\n", l.Title, l.Version, l.What, l.Direct, l.count(transaction), l.count(session), l.rest())
	}
	b.WriteString("\n## What differs\n")
	for _, l := range r.Suites {
		if len(l.Differences) > 0 {
			fmt.Fprintf(&b, "\n### %s\n\n| mode | tests | why |\n|---|---|---|\n", l.Title)
			l.reasons(&b)
		}
	}
	return b.Bytes()
}

// reasons groups the differences by mode and reason.
func (l *line) reasons(b *bytes.Buffer) {
	type group struct{ mode, reason string }
	tests := map[group][]string{}
	var order []group
	for _, d := range l.Differences {
		g := group{d.Mode, cmp.Or(d.Reason, "**not explained**")}
		if tests[g] == nil {
			order = append(order, g)
		}
		tests[g] = append(tests[g], "`"+cell(d.Test)+"`")
	}
	slices.SortStableFunc(order, func(x, y group) int { return -cmp.Compare(x.mode, y.mode) })
	for _, g := range order {
		names := tests[g]
		text := strings.Join(names[:min(len(names), 4)], ", ")
		if len(names) > 4 {
			text += fmt.Sprintf(" and %d more", len(names)-4)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", g.mode, text, g.reason)
	}
}

// count is what passed in a mode.
func (l *line) count(mode string) string {
	if n, ok := l.Passed[mode]; ok {
		return strconv.Itoa(n)
	}
	return "not run"
}

// rest is what does not pass directly.
func (l *line) rest() string {
	var parts []string
	if l.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", l.Failed))
	}
	if l.Skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", l.Skipped))
	}
	return strings.Join(parts, ", ")
}

func firstLine(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	return first
}

// cell keeps text from ending a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}

// command is a program with arguments of ours.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, path, args...)
}
