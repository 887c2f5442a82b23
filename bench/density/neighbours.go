package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// The tenants of the scenario, and what each may have.
const (
	neighbour = "neighbour"
	noisy     = "noisy"

	limitCPU    = 1000 // thousandths of a core
	limitMemory = 256 << 20
	limitDisk   = 512 << 20

	// What the neighbour does all the time, in statements a second.
	readRate  = 100
	writeRate = 50
)

// noise is what the other tenant does meanwhile.
type noise struct {
	name    string
	about   string
	clients int
	setup   string
	sql     string
	full    bool // it ends with the disk
}

var noises = []noise{
	{name: "cpu", about: "burns CPU: 4 clients that count", clients: 4, sql: "SELECT count(*) FROM generate_series(1, 300000)"},
	{
		name: "memory", about: "burns memory: 4 clients that sort, with work_mem = 1GB", clients: 4, setup: "SET work_mem = '1GB'",
		sql: "SELECT count(*) FROM (SELECT md5(i::text) || repeat('x', 200) AS t FROM generate_series(1, 200000) i ORDER BY 1 OFFSET 1) s",
	},
	{
		name: "disk", about: "fills its disk: 2 clients that insert, until it is read-only", clients: 2, full: true,
		setup: "CREATE TABLE IF NOT EXISTS filler (t text)", sql: "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i",
	},
}

// neighbours measures a tenant's latencies while nothing else happens, and while another tenant does what it can, in turns.
func neighbours(ctx context.Context, h *host, o *options, f *figures) error {
	out := &neighbourFigures{occasion: newOccasion(o), Rounds: o.rounds, Seconds: o.length.Seconds(), ReadRate: readRate, WriteRate: writeRate}
	limits := &tenant.Limits{CPU: limitCPU, Memory: limitMemory, Disk: limitDisk, IO: o.io}
	for _, name := range []string{neighbour, noisy} {
		create := provision.Order{Verb: provision.VerbCreate, Tenant: name, Enable: true, Password: password, Limits: limits}
		_, err := h.order(ctx, create)
		if e, ok := errors.AsType[*provision.Error](err); ok && e.Kind == provision.KindRefused {
			return fmt.Errorf("this host has nothing to limit tenants with: %w", err)
		}
		if err != nil {
			return err
		}
	}
	out.Limits = "1 core, 256 MB of memory, 512 MB of disk"
	if o.io > 0 {
		out.Limits += fmt.Sprintf(", %g MB/s of reading and of writing", float64(o.io)/(1<<20))
	}
	reads, err := loadOf(ctx, h, 4, readRate, func(n int) string { return fmt.Sprintf("SELECT n FROM work WHERE id = %d", n%1000) })
	if err != nil {
		return err
	}
	defer reads.close(ctx)
	writes, err := loadOf(ctx, h, 4, writeRate, func(n int) string { return fmt.Sprintf("UPDATE work SET n = n + 1 WHERE id = %d", n%1000) })
	if err != nil {
		return err
	}
	defer writes.close(ctx)
	if err := h.direct(ctx, neighbour, "DROP TABLE IF EXISTS work"); err != nil {
		return err
	}
	if _, err := reads.conns[0].Exec(ctx, first, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	// phase is what both loads see for a while.
	phase := func() (r, w answers, err error) {
		var wg sync.WaitGroup
		wg.Go(func() { r = reads.run(ctx, o.length) })
		wg.Go(func() { w = writes.run(ctx, o.length) })
		wg.Wait()
		if n := r.failed + w.failed; n > 0 {
			err = fmt.Errorf("%d of the neighbour's statements failed: %w", n, errors.Join(r.err, w.err))
		}
		return r, w, errors.Join(err, context.Cause(ctx))
	}
	if _, _, err := phase(); err != nil { // the first is never as the others
		return err
	}
	for i := range noises {
		n := &noises[i]
		if !slices.Contains(strings.Split(o.noises, ","), n.name) {
			continue
		}
		part := noiseFigures{Name: n.name, About: n.about}
		var q, m [4][]float64 // reads' p50 and p99, writes' p50 and p99
		var used []float64
		note := func(to *[4][]float64, r, w *answers) {
			for i, v := range []float64{r.ms(0.5), r.ms(0.99), w.ms(0.5), w.ms(0.99)} {
				to[i] = append(to[i], v)
			}
		}
		for round := range o.rounds {
			r, w, err := phase()
			if err != nil {
				return err
			}
			note(&q, &r, &w)
			b, err := h.burn(ctx, n)
			if err != nil {
				return err
			}
			before, errBefore := h.noisy(ctx)
			r, w, err = phase()
			after, errAfter := h.noisy(ctx)
			if n.full && err == nil && errAfter == nil {
				err = h.until(ctx, func(v *provision.View) bool { return v.Access.Full })
			}
			done, ended := b.stop()
			if err = errors.Join(err, errBefore, errAfter, ended); err != nil {
				return err
			}
			note(&m, &r, &w)
			used = append(used, (after.Usage.CPU-before.Usage.CPU).Seconds()/o.length.Seconds())
			part.Done += done
			if n.full {
				if err := h.free(ctx); err != nil {
					return err
				}
			}
			last := func(list []float64) float64 { return list[len(list)-1] }
			fmt.Fprintf(o.log, "%-7s %d: reads p99 %.1f → %.1f ms, writes p99 %.1f → %.1f ms; %d done, %.2f cores\n", n.name, round+1, last(q[1]), last(m[1]), last(q[3]), last(m[3]), done, last(used))
		}
		part.Reads = latencies{Before: quantiles{spreadOf(q[0]), spreadOf(q[1])}, While: quantiles{spreadOf(m[0]), spreadOf(m[1])}}
		part.Writes = latencies{Before: quantiles{spreadOf(q[2]), spreadOf(q[3])}, While: quantiles{spreadOf(m[2]), spreadOf(m[3])}}
		part.Used = spreadOf(used)
		out.Noises = append(out.Noises, part)
	}
	f.Neighbours = out
	return nil
}

// connected is a steady load with its connections.
type connected struct{ steady }

func loadOf(ctx context.Context, h *host, clients int, rate float64, statement func(n int) string) (*connected, error) {
	c := &connected{steady{rate: rate, statement: statement}}
	for range clients {
		conn, err := h.connect(ctx, neighbour)
		if err != nil {
			c.close(ctx)
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *connected) close(ctx context.Context) {
	for _, conn := range c.conns {
		conn.Close(ctx)
	}
}

// burning is a tenant that makes noise.
type burning struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   atomic.Int64
	bad    atomic.Pointer[error]
}

// burn has the noisy tenant begin, and returns a moment later.
func (h *host) burn(ctx context.Context, n *noise) (*burning, error) {
	ctx, cancel := context.WithCancel(ctx)
	b := &burning{cancel: cancel}
	for i := range n.clients {
		b.wg.Go(func() {
			for ctx.Err() == nil {
				err := b.client(ctx, h, n, i == 0)
				if err != nil && ctx.Err() == nil && !expected(err) {
					err = fmt.Errorf("the noisy tenant: %w", err)
					b.bad.CompareAndSwap(nil, &err)
					return
				}
				select { // its server starts anew, or it is full
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	select {
	case <-ctx.Done():
		_, err := b.stop()
		return nil, errors.Join(err, context.Cause(ctx))
	case <-time.After(time.Second):
	}
	return b, nil
}

// client runs statements on a connection of its own, until one fails.
func (b *burning) client(ctx context.Context, h *host, n *noise, sets bool) error {
	c, err := h.connect(ctx, noisy)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if n.setup != "" && (sets || !n.full) {
		if _, err := c.Exec(ctx, n.setup, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	for {
		if _, err := c.Exec(ctx, n.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		b.done.Add(1)
	}
}

// expected are errors that a tenant gets who wants more than it may have: its disk is read-only or full, its server was out of memory and starts anew; and
// that the table is not there yet which another client makes.
func expected(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.Contains(" 25006 53100 53200 57P01 57P02 57P03 42P01 08006 08000 ", " "+e.Code+" ")
	}
	return true // the connection ended
}

// stop ends the noise, and returns how many statements were done.
func (b *burning) stop() (done int, err error) {
	b.cancel()
	b.wg.Wait()
	if bad := b.bad.Load(); bad != nil {
		err = *bad
	}
	return int(b.done.Load()), err
}

// noisy is how the noisy tenant is.
func (h *host) noisy(ctx context.Context) (*provision.View, error) {
	res, err := h.order(ctx, provision.Order{Verb: provision.VerbShow, Tenant: noisy})
	if err == nil && (len(res.Tenants) != 1 || res.Tenants[0].Usage == nil) {
		err = fmt.Errorf("nobody knows what tenant %s uses", noisy)
	}
	if err != nil {
		return nil, err
	}
	return res.Tenants[0], nil
}

// until waits for the noisy tenant to be so.
func (h *host) until(ctx context.Context, so func(*provision.View) bool) error {
	var v *provision.View
	for range 600 {
		var err error
		if v, err = h.noisy(ctx); err != nil || so(v) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("the noisy tenant's disk has not become full, or free again, within a minute: full %v, %d of %d bytes", v.Access.Full, v.Usage.Disk, v.Usage.DiskSize)
}

// free makes room on the noisy tenant's disk, as its operator.
func (h *host) free(ctx context.Context) error {
	if err := h.direct(ctx, noisy, "SET default_transaction_read_only = off", "DROP TABLE IF EXISTS filler", "CHECKPOINT"); err != nil {
		return err
	}
	return h.until(ctx, func(v *provision.View) bool { return !v.Access.Full })
}
