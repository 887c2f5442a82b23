package main

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/parser"
)

func values(m metric, list ...float64) (samples []sample) {
	for _, v := range list {
		if v < 0 {
			samples = append(samples, sample{Failed: "no"})
		} else {
			samples = append(samples, sample{Values: map[metric]float64{m: v}})
		}
	}
	return samples
}

func TestFiguresAreMediansOfWhatDidNotFail(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		list []float64
		want figure
	}{
		{nil, figure{}},
		{[]float64{3}, figure{3, 3, 3}},
		{[]float64{9, 1, 5}, figure{5, 1, 9}},
		{[]float64{4, 2}, figure{2, 2, 4}},
		{[]float64{9, -1, 1, -1, 5}, figure{5, 1, 9}},
	} {
		if got := figures(values(tps, test.list...))[tps]; got != test.want {
			t.Errorf("%v: got %v, want %v", test.list, got, test.want)
		}
	}
	if got := (figure{Median: 10, Low: 9, High: 12}).spread(); got != 15 {
		t.Errorf("spread: got %v %%, want 15", got)
	}
}

func TestRatiosAreOfNeighbours(t *testing.T) {
	t.Parallel()
	ours, theirs := values(tps, 10, 30, 100, 7), values(tps, 10, 20, -1, 14)
	if got, want := ratios(ours, theirs)[tps], (figure{1, 0.5, 1.5}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := ratios(values(memory, 1), values(memory, 2)); len(got) != 0 {
		t.Errorf("got %v, want no ratio of what is not compared", got)
	}
	if got := ratios(values(cpu, 1), values(cpu, 0)); len(got) != 0 {
		t.Errorf("got %v, want no ratio to nothing", got)
	}
}

// some is a report about two poolers.
func some() *report {
	r := &report{
		names: []string{direct, pgbouncer, pgkennel}, Machine: "a machine", Cores: 2, Kernel: "6", Seconds: 3, Repeats: 2, Reference: pgbouncer, Date: "2026-01-02",
		Versions: map[string]string{direct: "15", pgbouncer: "1.18", pgkennel: "0.1"},
	}
	s := &scenario{name: "range", about: "routing by range", metrics: []metric{tps, cpu, p50}}
	both := func(a, b []float64) (list []sample) {
		for i := range a {
			list = append(list, sample{Values: map[metric]float64{tps: a[i], cpu: b[i]}})
		}
		return list
	}
	r.add(s, &trial{name: "simple, 8 clients"}, map[string][]sample{
		direct: values(tps, 200, 220), pgbouncer: both([]float64{100, 110}, []float64{20, 20}), pgkennel: both([]float64{150, 154}, []float64{30, 20}),
	})
	r.add(s, &trial{name: "prepared, 8 clients"}, map[string][]sample{
		direct: values(tps, 300, 300), pgbouncer: {{Failed: "a | b\nc"}, {Failed: "d"}}, pgkennel: both([]float64{90, 90}, []float64{10, 10}),
	})
	return r
}

func TestTables(t *testing.T) {
	t.Parallel()
	text := some().markdown()
	for _, want := range []string{
		"| load | by | tps | × | CPU µs | × | p50 ms |\n|---|---|---|---|---|---|---|\n",
		"| simple, 8 clients | direct | 200 ±5 % | 2.00 | – | – | – |\n",
		"| simple, 8 clients | pgbouncer | 100 ±5 % | – | 20.0 | – | – |\n",
		"| simple, 8 clients | pgkennel | 150 ±1 % | 1.40 (1.40–1.50) | 20.0 ±25 % | 1.00 (1.00–1.50) | – |\n",
		"| prepared, 8 clients | pgbouncer | – | – | – | – | – |\n| | | 2 of 2 failed: a / b |\n",
		"| throughput | ≥ 1 × PgBouncer | yes | 1 of 1 | 1.40 (routing by range, simple, 8 clients) |\n",
		"| throughput with two free cores | ≥ 1.5 × PgBouncer | not measured | – | needs 6 cores |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables lack %q:\n%s", want, text)
		}
	}
}

func TestPlotIsXML(t *testing.T) {
	t.Parallel()
	r := some()
	text := r.plot()
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if want := 1 + len(r.names) + 5; bars != want { // the ground, the legend, and two and three bars
		t.Errorf("got %d rectangles, want %d", bars, want)
	}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	g := &goal{loads: regexp.MustCompile("^routing"), metric: cpu, ratio: true, limit: 1, cores: 2}
	of := func(load string, ratio float64) result {
		return result{Load: load, Ratios: map[string]map[metric]figure{pgkennel: {cpu: {Median: ratio}}}}
	}
	for _, test := range []struct {
		name    string
		results []result
		cores   int
		want    outcome
	}{
		{"none", nil, 2, outcome{}},
		{"of others", []result{of("login", 0.5)}, 2, outcome{}},
		{"met", []result{of("routing a", 0.5), of("routing b", 1), of("login", 2)}, 2, outcome{verdict: met, worst: 1, where: "routing b", runs: 2, fine: 2}},
		{"missed", []result{of("routing a", 1.5), of("routing b", 1)}, 2, outcome{verdict: missed, worst: 1.5, where: "routing a", runs: 2, fine: 1}},
		{"too small", []result{of("routing a", 1)}, 1, outcome{lacking: "needs 2 cores"}},
	} {
		if diff := cmp.Diff(test.want, g.judge(test.results, test.cores), cmp.AllowUnexported(outcome{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
	}
}

// TestGoalsAreAboutRunsThatExist: a goal whose pattern fits nothing would never be missed.
func TestGoalsAreAboutRunsThatExist(t *testing.T) {
	t.Parallel()
	o, err := flags(flag.NewFlagSet("bench", flag.ContinueOnError), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range goals {
		found := false
		for _, s := range scenarios(o) {
			for i := range s.trials {
				found = found || g.loads.MatchString(s.label(&s.trials[i]))
			}
		}
		if !found {
			t.Errorf("%s: there are no runs %v", g.what, g.loads)
		}
	}
}

func TestScenariosAreChosenByName(t *testing.T) {
	t.Parallel()
	o, err := flags(flag.NewFlagSet("bench", flag.ContinueOnError), []string{"-quick", "-bulk", "3"})
	if err != nil || o.bulk != 3 || o.repeats != 1 || o.middle() != 8 {
		t.Fatalf("got %+v, %v", o, err)
	}
	all := scenarios(o)
	for names, want := range map[string]int{usual: 9, everyone: len(all), "scaling": 2, "idle, login": 2} {
		if chosen, err := choose(all, names); err != nil || len(chosen) != want {
			t.Errorf("%s: got %d, %v; want %d", names, len(chosen), err, want)
		}
	}
	if _, err := choose(all, "idle,nonsense"); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("got %v, want an error that names what is not there", err)
	}
	for _, s := range all {
		for _, m := range s.metrics {
			if columns[m].title == "" {
				t.Errorf("%s: the metric %s has no title", s.name, m)
			}
		}
	}
}

// TestConfigurationsAreGood: what is written for the routings is what pgkennel takes, with as many entries as asked for.
func TestConfigurationsAreGood(t *testing.T) {
	t.Parallel()
	for _, s := range []setup{{}, {routing: byList, entries: 1001}, {routing: byRange, entries: 2}, {routing: byRange, entries: 5000, scram: true}} {
		var text bytes.Buffer
		w := bufio.NewWriter(&text)
		writeConfig(w, &s, "", 6432, 5432, "workers = 1\n")
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		users := fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", s.user(), database, password)
		if _, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: text.String()}, config.File{Name: "users.toml", Text: users}, nil); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
		if got := strings.Count(text.String(), `kind = "range"`); s.routing == byRange && got != s.entries {
			t.Errorf("got %d ranges, want %d", got, s.entries)
		}
	}
}

func TestRoundsTakeTurns(t *testing.T) {
	t.Parallel()
	list := []int{1, 2, 3}
	if diff := cmp.Diff([][]int{{1, 2, 3}, {3, 2, 1}, {1, 2, 3}}, [][]int{turn(list, 0), turn(list, 1), turn(list, 2)}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestShapesDiffer(t *testing.T) {
	t.Parallel()
	const n = 5000
	seen := make(map[string]int)
	var key parser.Shape
	cache := parser.NewCache(64 << 20)
	for i := range n {
		sql := []byte(shape(i, 7))
		if cache.GetShape(sql, &key) != nil {
			t.Fatalf("%s has the shape of one before", sql)
		}
		cache.ParseShape(sql, &key, "")
		cache.ParseShape(sql, &key, "") // the first text of a shape is for itself
		if other, there := seen[string(sql)]; there {
			t.Fatalf("%d and %d are the same: %s", i, other, sql)
		}
		seen[string(sql)] = i
	}
}

func TestWhatProgramsPrint(t *testing.T) {
	t.Parallel()
	ns, allocs, err := benchmarkLine([]byte("goos: linux\nBenchmarkShape/59-2   \t 2000000\t       103.5 ns/op\t       0 B/op\t       2 allocs/op\nPASS\n"))
	if err != nil || ns != 103.5 || allocs != 2 {
		t.Errorf("benchmark: got %v, %v, %v", ns, allocs, err)
	}
	if _, _, err := benchmarkLine([]byte("PASS\n")); err == nil {
		t.Error("benchmark: got no error where none ran")
	}
	trace := "x\ngc 7 @2.104s 0%: 0.019+1.2+0.004 ms clock, 0.5+0.25/1.0/2.0+0.25 ms cpu, 4->4->2 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P\n"
	if got := collections([]byte(trace + trace)); math.Abs(got-0.004) > 1e-9 {
		t.Errorf("collections: got %v s, want 0.004", got)
	}
	if got := kilobytes([]byte("Rss: 3 kB\nPss:      12 kB\n"), "Pss:"); got != 12*1024 {
		t.Errorf("kilobytes: got %v", got)
	}
	for line, want := range map[string]string{
		"PgBouncer 1.18.0": "1.18.0", "HAProxy version 2.6.12-1+deb12u1 2023/12/16 - https://haproxy.org/": "2.6.12-1+deb12u1", "pgkennel 0.1.0-dev": "0.1.0-dev", "": "",
	} {
		if got := version(line); got != want {
			t.Errorf("version of %q: got %q, want %q", line, got, want)
		}
	}
	if got := complaint([]byte("pgbench (15)\nERROR:  no\npgbench: aborted\n")); got != "ERROR:  no" {
		t.Errorf("complaint: got %q", got)
	}
	if got := complaint([]byte("one\ntwo\n")); got != "two" {
		t.Errorf("complaint: got %q", got)
	}
}

func TestTransactionLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := transactionLog(dir); err == nil {
		t.Error("got no error where nothing was logged")
	}
	if err := os.WriteFile(filepath.Join(dir, "log.1"), []byte("0 1 250 0 1700000000 1\n1 1 1500 0 1700000000 2\nshort\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := transactionLog(dir)
	if err != nil || list.Quantile(0.5) != 250*time.Microsecond || list.Quantile(0.99) != 1500*time.Microsecond {
		t.Errorf("got %v, %v", list, err)
	}
}
