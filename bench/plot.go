package main

import (
	"fmt"
	"strings"
)

// colors of the targets; the same everywhere.
var colors = map[string]string{
	direct: "#bbbbbb", pgbouncer: "#4e79a7", pgkennel: "#e15759", base: "#f1ce63",
	"pgdog": "#59a14f", "pgcat": "#b07aa1", "odyssey": "#76b7b2", "spqr": "#9c755f", "haproxy": "#f28e2b",
}

// Sizes of the plot.
const (
	plotLeft  = 290
	plotWidth = 460
	plotBar   = 12
	plotGap   = 8
	plotHead  = 24
)

// panel is the part of the plot for one scenario: its first metric, on a scale of its own.
type panel struct {
	title   string
	metric  metric
	results []*result
	top     float64
}

// panels sorts the results into panels.
func (r *report) panels() (list []*panel) {
	for i := range r.Results {
		res := &r.Results[i]
		if n := len(list); n == 0 || list[n-1].title != res.scenario.about {
			list = append(list, &panel{title: res.scenario.about, metric: res.scenario.metrics[0]})
			if res.scenario.metrics[0] == rate { // all have the same
				list[n].metric = p99
			}
		}
		p := list[len(list)-1]
		p.results = append(p.results, res)
		for _, f := range res.Figures {
			p.top = max(p.top, f[p.metric].High)
		}
	}
	return list
}

// plot draws each scenario's first metric: a bar for the median, a line from the lowest to the highest.
func (r *report) plot() string {
	var b strings.Builder
	y := plotHead
	for _, p := range r.panels() {
		y = p.draw(&b, y, r.names)
	}
	var legend strings.Builder
	x := 8
	for _, name := range r.names {
		fmt.Fprintf(&legend, `<rect x="%d" y="4" width="10" height="10" fill="%s"/><text x="%d" y="13">%s</text>`+"\n", x, colors[name], x+14, name)
		x += 90
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n"+
		`<rect width="100%%" height="100%%" fill="white"/>`+"\n%s%s</svg>\n", plotLeft+plotWidth+90, y, legend.String(), b.String())
}

// draw draws a panel from y on and returns where it ends.
func (p *panel) draw(b *strings.Builder, y int, names []string) int {
	if p.top == 0 {
		return y
	}
	fmt.Fprintf(b, `<text x="8" y="%d" font-weight="bold">%s: %s</text>`+"\n", y+14, p.title, columns[p.metric].title)
	y += plotHead
	scale := plotWidth / p.top
	for _, res := range p.results {
		drawn := 0
		for _, name := range names {
			f, ok := res.Figures[name][p.metric]
			if !ok {
				continue
			}
			w := f.Median * scale
			middle := float64(y) + (plotBar-2)/2
			fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, plotLeft, y, w, plotBar-2, colors[name])
			if f.High > f.Low {
				fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#333333"/>`, plotLeft+f.Low*scale, plotLeft+f.High*scale, middle, middle)
			}
			fmt.Fprintf(b, `<text x="%.1f" y="%d">%.*f</text>`+"\n", plotLeft+f.High*scale+4, y+9, columns[p.metric].digits, f.Median)
			y += plotBar
			drawn++
		}
		if drawn > 0 {
			label := strings.TrimPrefix(res.Load, p.title+", ")
			fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-8, y-drawn*plotBar/2+3, label)
			y += plotGap
		}
	}
	return y
}
