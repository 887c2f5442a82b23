package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/pgkennel/pgkennel/provision"
)

// patience is how long an order may take before a terminal shows how it goes on.
const patience = 2 * time.Second

// progress shows how an order goes on: on a terminal as a bar, if it takes its time; else a line for each step. Lines of logs go to stdout.
type progress struct {
	out, err     io.Writer
	tenant, verb string
	quiet        bool
	timer        *time.Timer

	mu struct {
		sync.Mutex
		last  provision.Progress
		shown time.Time
		bars  *mpb.Progress
		bar   *mpb.Bar
		ended bool
	}
}

func newProgress(out, err io.Writer, tenant, verb string, quiet bool) *progress {
	p := &progress{out: out, err: err, tenant: tenant, verb: verb, quiet: quiet}
	if f, ok := err.(*os.File); ok && !quiet && cwriter.IsTerminal(int(f.Fd())) {
		p.timer = time.AfterFunc(patience, p.show)
	}
	return p
}

// show begins the bar.
func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.ended {
		return
	}
	p.mu.bars = mpb.New(mpb.WithOutput(p.err), mpb.WithWidth(64), mpb.WithAutoRefresh())
	p.mu.bar = p.mu.bars.AddBar(max(1, p.mu.last.Total),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			return title(p.tenant, p.verb) + " "
		})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return " " + p.mu.last.Step + amounts(p.mu.last)
		}), decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 6})))
	p.mu.bar.SetCurrent(p.mu.last.Done)
}

// title is what is being done to whom.
func title(tenant, verb string) string {
	if tenant == "" {
		return verb
	}
	return verb + " " + tenant
}

// amounts are bytes, which a bar does not show as such.
func amounts(p provision.Progress) string {
	switch {
	case !p.Bytes:
		return ""
	case p.Total == 0:
		return " " + bytesText(p.Done)
	}
	return fmt.Sprintf(" %s of %s", bytesText(p.Done), bytesText(p.Total))
}

// report takes what the executor says. It may be called from any goroutine.
func (p *progress) report(x provision.Progress) {
	if x.Line != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.mu.ended {
			fmt.Fprintln(p.out, harmless(x.Line))
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.mu.last
	p.mu.last = x
	switch {
	case p.mu.ended || p.quiet:
	case p.mu.bar != nil:
		bar := p.mu.bar
		p.mu.Unlock() // the bar's own goroutine takes it, to ask for the step
		bar.SetTotal(max(1, x.Total), false)
		bar.SetCurrent(min(x.Done, max(1, x.Total)-1)) // a full bar is one that ended
		p.mu.Lock()
	case p.timer != nil, !x.Bytes && x.Total > 0 && x.Done >= x.Total:
	case x.Step != before.Step || x.Tenant != before.Tenant || x.Bytes && time.Since(p.mu.shown) > 5*time.Second:
		p.mu.shown = time.Now()
		tenant := p.tenant
		if x.Tenant != "" {
			tenant = x.Tenant
		}
		steps := ""
		if x.Total > 0 && !x.Bytes {
			steps = fmt.Sprintf("%d of %d, ", x.Done+1, x.Total)
		}
		fmt.Fprintf(p.err, "%s: %s%s%s\n", title(tenant, p.verb), steps, x.Step, amounts(x))
	}
}

// end takes the bar away. Nothing is shown after it.
func (p *progress) end() {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Lock()
	p.mu.ended = true
	bars, bar := p.mu.bars, p.mu.bar
	p.mu.Unlock()
	if bar != nil {
		bar.Abort(true)
		bars.Wait()
	}
}
