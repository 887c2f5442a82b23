// Package load puts statements on a PostgreSQL server, or on what stands before one, and measures how long their answers
// take. It owns the connections it makes, and knows nothing of who is compared with whom.
//
// Run sends at a fixed rate or as fast as answers come. At a fixed rate each statement has a time at which it is meant to start, known
// before the run, and its latency counts from then: one that could not be sent because all connections were busy has waited, and that is
// part of what a user would have seen (otherwise a server that stalls would be asked less while it does: coordinated omission).
//
// Run is one thread that waits for all its sockets, so that the load costs little beside what it measures. Conn is a plain blocking
// connection for results in bulk, COPY, and clients that do nothing. Both log in without a password.
package load

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Options say what is run.
type Options struct {
	Addr     string // host:port
	User     string
	Database string
	Clients  int
	Rate     float64       // statements each second over all clients; 0: each client sends when it has its answer
	Length   time.Duration // when to send no more
	Warm     time.Duration // statements meant to start before are sent and not measured: until then connections are made
	Count    int           // of statements after which to send no more; 0: no limit
	Seed     uint64        // of the times of a fixed rate: the same seed gives the same times
	// Statement appends the messages of statement n, counted from 0, which one ReadyForQuery answers. It must not block.
	Statement func(dst []byte, n int) []byte
}

// Result is what came of it.
type Result struct {
	Sent       int
	Failed     int           // answered with an error
	Unanswered int           // meant to start, and without an answer when Run gave up
	Elapsed    time.Duration // from the end of Warm to the last answer
	Message    string        // of the first error
	Latencies  Latencies     // of all that were meant to start after Warm; those without an answer with what they had waited
}

// PerSecond is how many statements were answered each second.
func (r *Result) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(len(r.Latencies)-r.Unanswered) / r.Elapsed.Seconds()
}

// patience is how long Run waits for answers after the last statement.
const patience = 5 * time.Second

// Run puts the load on until its length or count is reached.
func Run(ctx context.Context, o *Options) (*Result, error) {
	switch {
	case o.Clients < 1:
		return nil, errors.New("load: no clients")
	case o.Rate < 0 || o.Length <= o.Warm || o.Statement == nil:
		return nil, errors.New("load: a rate, a length and statements are needed")
	}
	return run(ctx, o)
}

// Latencies are the times that single statements took.
type Latencies []time.Duration

// Quantile is the time within which the share q of the statements was answered. Latencies are sorted by it.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	if !slices.IsSorted(l) {
		slices.Sort(l)
	}
	return l[Rank(q, len(l))]
}

// Rank is the index of the quantile q among n sorted values: the smallest with at least q of them at or below it.
func Rank(q float64, n int) int {
	const rounding = 1e-9 // 0.999 * 1000 is a little more than 999
	i := int(q*float64(n) - rounding)
	return max(0, min(i, n-1))
}
