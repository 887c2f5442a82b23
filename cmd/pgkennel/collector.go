package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapSlack is what a heap may grow before it is collected. One of some megabytes doubles all the time while new texts are parsed, and a collector at work takes
// processors from those who forward messages.
const heapSlack = 32 << 20

// paceCollector has the collector run when the heap has doubled, but not before it has grown by heapSlack. Who sets GOGC knows better.
func paceCollector() {
	if os.Getenv("GOGC") == "" {
		repace(&collectorPace{percent: 100, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}})
	}
}

// collectorPace is unreachable, and so finalized after each collection.
type collectorPace struct {
	percent int
	live    []metrics.Sample
}

// repace sets the pace until the next collection.
func repace(p *collectorPace) {
	metrics.Read(p.live)
	const least = 4 << 20                                                        // as the runtime's own: a heap smaller than this is not collected at 100 percent, or heapSlack at as many as there may be
	percent := max(100, int(100*heapSlack/max(p.live[0].Value.Uint64(), least))) //nolint:gosec // at most 800
	if percent*10 < p.percent*9 || percent*9 > p.percent*10 {                    // it stops the world for a moment
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.SetFinalizer(p, repace)
}
