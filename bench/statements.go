package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/bench/load"
)

// lookup is a statement for one of the keys.
func lookup(keys int) func(dst []byte, n int) []byte {
	random := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // every target is asked for the same keys
	return func(dst []byte, _ int) []byte {
		return load.AppendQuery(dst, "SELECT abalance FROM pgbench_accounts WHERE aid = "+strconv.Itoa(1+random.IntN(keys)))
	}
}

// shape is a statement whose text without its constants is that of no other n: names and conditions follow from n.
func shape(n, key int) string {
	var sql strings.Builder
	fmt.Fprintf(&sql, "SELECT abalance AS a%d", n)
	add := func(bit int, parts ...string) {
		for i, part := range parts {
			if n&(bit<<i) != 0 {
				sql.WriteString(part)
			}
		}
	}
	add(1, ", bid", ", filler", ", abalance + bid AS total", ", aid")
	fmt.Fprintf(&sql, " FROM pgbench_accounts AS t%d WHERE aid = %d", n%97, key)
	add(16, " AND bid IS NOT NULL", " AND abalance < 1000000", " AND filler IS NOT NULL", " ORDER BY aid LIMIT 5")
	return sql.String()
}

// load describes a load on a target. Its first moments, when poolers make connections, are not measured.
func (b *bench) load(t *target, clients int, perSecond float64, statement func(dst []byte, n int) []byte) *load.Options {
	const warm = 300 * time.Millisecond
	return &load.Options{
		Addr: t.addr(), User: t.setup.user(), Database: database, Clients: clients, Rate: perSecond, Warm: warm, Length: warm + b.o.length, Seed: 1, Statement: statement,
	}
}

// run puts a load on a target and fills in what is common.
func (b *bench) run(ctx context.Context, t *target, o *load.Options) (s sample, err error) {
	s.Values = make(map[metric]float64)
	m, err := newMeasure(t)
	if err != nil {
		return s, err
	}
	r, err := load.Run(ctx, o)
	if err != nil {
		return s, err
	}
	if r.Failed > 0 {
		return s, fmt.Errorf("%d of %d statements failed: %s", r.Failed, r.Sent, r.Message)
	}
	s.Values[tps], s.Values[late] = r.PerSecond(), float64(r.Unanswered)
	s.latencies(r.Latencies)
	_, err = m.end(&s, float64(r.Sent))
	return s, err
}

// manyShapes is a load of texts of many shapes, each of which was sent once before.
func manyShapes(shapes int) trial {
	return trial{name: fmt.Sprintf("%d shapes", shapes), run: func(ctx context.Context, b *bench, t *target) (sample, error) {
		keys := t.setup.keys()
		o := b.load(t, b.o.middle(), 0, func(dst []byte, n int) []byte {
			return load.AppendQuery(dst, shape(n%shapes, 1+n*7919%keys))
		})
		first := *o
		first.Count, first.Warm, first.Length = shapes, 0, time.Minute
		if _, err := load.Run(ctx, &first); err != nil {
			return sample{}, err
		}
		return b.run(ctx, t, o)
	}}
}

// newShapes is a steady load alone, and then beside clients that send texts of shapes that nobody has sent before.
func newShapes(perSecond int) trial {
	const steady = 2000 // each second: a load that leaves the machine time for both
	return trial{name: fmt.Sprintf("%d new shapes/s", perSecond), run: func(ctx context.Context, b *bench, t *target) (s sample, err error) {
		quiet, err := b.run(ctx, t, b.load(t, 16, steady, lookup(t.setup.keys())))
		if err != nil {
			return s, err
		}
		first := b.unseen
		b.unseen += perSecond*(b.o.seconds()+1)*2 + 1
		noise := make(chan error, 1)
		go func() {
			r, err := load.Run(ctx, b.load(t, 8, float64(perSecond), func(dst []byte, n int) []byte {
				return load.AppendQuery(dst, shape(first+n, 1+n))
			}))
			if err == nil && r.Failed > 0 {
				err = errors.New(r.Message)
			}
			noise <- err
		}()
		s, err = b.run(ctx, t, b.load(t, 16, steady, lookup(t.setup.keys())))
		if err = errors.Join(err, <-noise); err != nil {
			return s, err
		}
		delete(s.Values, cpu) // it is for both loads, and so for no number of statements
		delete(s.Values, user)
		s.Values[alone] = quiet.Values[p99]
		if s.Values[alone] > 0 {
			s.Values[growth] = s.Values[p99] / s.Values[alone]
		}
		return s, nil
	}}
}

// atRate is a load at a share of what the peer can do at most, the same for all.
func atRate(share float64) trial {
	name := fmt.Sprintf("%.0f %% of the peak", share*100)
	return trial{name: name, run: func(ctx context.Context, b *bench, t *target) (s sample, err error) {
		if b.peak == 0 {
			if err := b.findPeak(ctx); err != nil {
				return s, err
			}
		}
		s, err = b.run(ctx, t, b.load(t, b.o.middle(), b.peak*share, lookup(t.setup.keys())))
		if err == nil {
			s.Values[rate] = b.peak * share
		}
		return s, err
	}}
}

// findPeak measures how many statements the peer answers each second when clients send as soon as they can.
func (b *bench) findPeak(ctx context.Context) error {
	t := b.env.targets[0]
	for _, other := range b.env.targets {
		if other.name == pgbouncer {
			t = other
		}
	}
	var list []float64
	for range b.o.repeats {
		r, err := load.Run(ctx, b.load(t, b.o.middle(), 0, lookup(t.setup.keys())))
		if err != nil {
			return err
		}
		list = append(list, r.PerSecond())
	}
	b.peak = median(list)
	return nil
}
