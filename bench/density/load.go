package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/bench/load"
)

// steady is a light load of so many statements a second, whatever their answers take: each has a time at which it is meant to start, and its latency counts
// from then.
type steady struct {
	conns     []*pgx.Conn
	rate      float64
	statement func(n int) string
}

// answers are what came of a load.
type answers struct {
	latencies load.Latencies
	failed    int
	err       error // the first
}

func (a *answers) add(b answers) {
	a.latencies = append(a.latencies, b.latencies...)
	a.failed += b.failed
	if a.err == nil {
		a.err = b.err
	}
}

// ms is a quantile.
func (a *answers) ms(q float64) float64 {
	return float64(a.latencies.Quantile(q)) / float64(time.Millisecond)
}

// run puts the load on for a time. Each connection has every so-many-th statement.
func (s *steady) run(ctx context.Context, length time.Duration) (all answers) {
	begun := time.Now()
	var wg sync.WaitGroup
	results := make([]answers, len(s.conns))
	for i, c := range s.conns {
		wg.Go(func() {
			a := &results[i]
			for n := i; ; n += len(s.conns) {
				due := begun.Add(time.Duration(float64(n) / s.rate * float64(time.Second)))
				if due.Sub(begun) >= length {
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Until(due)):
				}
				_, err := c.Exec(ctx, s.statement(n))
				a.latencies = append(a.latencies, time.Since(due))
				if err != nil && ctx.Err() == nil {
					a.add(answers{failed: 1, err: err})
				}
			}
		})
	}
	wg.Wait()
	for _, a := range results {
		all.add(a)
	}
	return all
}
