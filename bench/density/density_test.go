package main

import (
	"flag"
	"io"
	"os"
	"strings"
	"testing"
)

// The page has the tables of the figures that are kept, and nobody has written into them.
func TestThePageHasTheFigures(t *testing.T) {
	t.Parallel()
	f, err := readFigures("../results/density.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/density.md")
	if err != nil {
		t.Fatal(err)
	}
	page, err := f.page(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if page != string(text) {
		t.Error("docs/density.md has other tables than bench/results/density.json; bin/density -scenarios none writes them anew")
	}
	if f.Density == nil || f.Creates == nil || f.Neighbours == nil {
		t.Error("bench/results/density.json lacks a scenario")
	}
}

func TestPageWithoutItsPlace(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", tablesBegin, tablesEnd, tablesEnd + tablesBegin} {
		if _, err := new(figures).page(text); err == nil {
			t.Errorf("page %q: no error", text)
		}
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	if got, want := spreadOf([]float64{9, 1, 5, 7}), (spread{Median: 5, Low: 1, High: 9}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	l := latencies{Before: quantiles{P99: spread{Median: 2}}, While: quantiles{P99: spread{Median: 3}}}
	if got := l.ratio(); got != 1.5 {
		t.Errorf("got ratio %v, want 1.5", got)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) (*options, error) {
		set := flag.NewFlagSet("density", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		return flags(set, args)
	}
	for _, bad := range [][]string{{"-scenarios", "density,nothing"}, {"-tenants", "0"}, {"-orders", "10"}, {"-beside", "-1"}, {"-length", "long"}, {"-io", "fast"}} {
		if _, err := parse(bad...); err == nil {
			t.Errorf("%s: no error", strings.Join(bad, " "))
		}
	}
	if o, err := parse(); err != nil || len(o.scenarios) != len(scenarios) || o.io != 16<<20 {
		t.Errorf("got %+v, %v, want all scenarios, and 16 MB", o, err)
	}
	if o, err := parse("-io", "8MB"); err != nil || o.io != 8<<20 {
		t.Errorf("got %+v, %v, want 8 MB", o, err)
	}
	if o, err := parse("-scenarios", "none"); err != nil || len(o.scenarios) != 0 {
		t.Errorf("got %+v, %v, want no scenario", o, err)
	}
}
