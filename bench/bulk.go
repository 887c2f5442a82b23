package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/bench/load"
)

// bigResults are the rows of one tenant, 1 KB each.
func bigResults(clients int) trial {
	return trial{name: fmt.Sprintf("SELECT, %d clients", clients), run: func(ctx context.Context, b *bench, t *target) (sample, error) {
		return b.transfer(ctx, t, clients, func(c *load.Conn) (int64, error) { return c.Query(ctx, "SELECT line FROM bulk WHERE tenant = 1") })
	}}
}

func copyOut() trial {
	return trial{name: "TO STDOUT", run: func(ctx context.Context, b *bench, t *target) (sample, error) {
		return b.transfer(ctx, t, 1, func(c *load.Conn) (int64, error) {
			return c.Query(ctx, "COPY (SELECT line FROM bulk WHERE tenant = 1) TO STDOUT")
		})
	}}
}

func copyIn() trial {
	const rows = 16 // of each message
	lines := []byte(strings.Repeat("1\t"+strings.Repeat("0123456789abcdef", 63)+"\n", rows))
	return trial{name: "FROM STDIN", run: func(ctx context.Context, b *bench, t *target) (s sample, err error) {
		for _, db := range []string{database, second} {
			if err := b.env.query(ctx, db, "TRUNCATE sink"); err != nil {
				return s, err
			}
		}
		return b.transfer(ctx, t, 1, func(c *load.Conn) (int64, error) {
			return c.CopyIn(ctx, "COPY sink (tenant, line) FROM STDIN", lines, b.o.bulk*1000/rows)
		})
	}}
}

// transfer repeats something with many bytes for as long as a run lasts, and once at least.
func (b *bench) transfer(ctx context.Context, t *target, clients int, once func(c *load.Conn) (int64, error)) (s sample, err error) {
	s.Values = make(map[metric]float64)
	m, err := newMeasure(t)
	if err != nil {
		return s, err
	}
	begin := time.Now()
	totals := make([]int64, clients)
	var group errgroup.Group
	for i := range clients {
		group.Go(func() error {
			c, err := load.Connect(ctx, t.addr(), t.setup.user(), database)
			if err != nil {
				return err
			}
			defer c.Close()
			for {
				n, err := once(c)
				totals[i] += n
				if err != nil || time.Since(begin) >= b.o.length {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return s, err
	}
	took, total := time.Since(begin), 0.0
	for _, n := range totals {
		total += float64(n)
	}
	if total == 0 {
		return s, errors.New("no bytes came")
	}
	s.Values[speed] = total / (1 << 20) / took.Seconds()
	used, err := m.end(&s, 0)
	if t.process != nil {
		s.Values[cpuGB] = used.cpu / (total / (1 << 30))
	}
	return s, err
}

// idle is how much clients cost that have sent one statement and then nothing.
func idle(clients int) trial {
	return trial{name: fmt.Sprintf("%d clients", clients), run: func(ctx context.Context, b *bench, t *target) (s sample, err error) {
		s.Values = make(map[metric]float64)
		some, err := b.crowd(ctx, t, 100) // what the pooler needs in any case
		some.close()
		if err != nil {
			return s, err
		}
		if err := settle(ctx); err != nil {
			return s, err
		}
		m, err := newMeasure(t)
		if err != nil {
			return s, err
		}
		all, err := b.crowd(ctx, t, clients)
		defer all.close()
		if err != nil {
			return s, err
		}
		if err := settle(ctx); err != nil {
			return s, err
		}
		used, err := m.end(&s, 0)
		if err != nil {
			return s, err
		}
		s.Values[clientBytes], s.Values[clientRSS] = used.shared/float64(clients), used.resident/float64(clients)
		before, err1 := t.usage()
		begin := time.Now()
		err2 := sleep(ctx, b.o.length)
		after, err3 := t.usage()
		s.Values[idleCPU] = (after.cpu - before.cpu) / time.Since(begin).Seconds() * 100
		return s, errors.Join(err1, err2, err3)
	}}
}

// settle waits until a pooler has done what it does behind its clients' backs.
func settle(ctx context.Context) error { return sleep(ctx, 2*time.Second) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// crowd are clients that are logged in.
type crowd struct {
	mu    sync.Mutex
	conns []*load.Conn // guarded by mu while they come
}

// crowd logs clients in, each of which sends a statement.
func (b *bench) crowd(ctx context.Context, t *target, n int) (*crowd, error) {
	all := &crowd{}
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			c, err := load.Connect(ctx, t.addr(), t.setup.user(), database)
			if err != nil {
				return err
			}
			all.mu.Lock()
			all.conns = append(all.conns, c)
			all.mu.Unlock()
			_, err = c.Query(ctx, fmt.Sprintf("SELECT abalance FROM pgbench_accounts WHERE aid = %d", 1+i%t.setup.keys()))
			c.Rest()
			return err
		})
	}
	return all, group.Wait()
}

func (c *crowd) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}
