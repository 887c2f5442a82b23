package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/provision"
)

// first answers a tenant's first statement, and makes what the load works on.
const first = "CREATE TABLE work (id int PRIMARY KEY, n int); INSERT INTO work SELECT i, 0 FROM generate_series(0, 999) i"

// perTenant is how many statements a second each tenant has.
const perTenant = 2

// density makes tenants, has all do something, and removes them.
func density(ctx context.Context, h *host, o *options, f *figures) error {
	d := &densityFigures{Tenants: o.tenants, Beside: o.beside, Rate: perTenant * float64(o.tenants), occasion: newOccasion(o)}
	d.Own.Before = mb(usageOf(h.process.PID()).memory)
	conns, err := d.make(ctx, h, o)
	defer func() {
		for _, c := range conns {
			c.Close(ctx)
		}
	}()
	if err != nil {
		return err
	}
	if err := d.rest(ctx, h); err != nil {
		return err
	}
	fmt.Fprintf(o.log, "%v of load on all tenants\n", o.load)
	s := &steady{conns: conns, rate: d.Rate, statement: func(n int) string {
		if turn := n / len(conns); turn%4 == 0 {
			return fmt.Sprintf("UPDATE work SET n = n + 1 WHERE id = %d", turn%1000)
		}
		return fmt.Sprintf("SELECT n FROM work WHERE id = %d", n%1000)
	}}
	got := s.run(ctx, o.load)
	if got.failed > 0 {
		return fmt.Errorf("%d statements failed: %w", got.failed, got.err)
	}
	d.Statements, d.P50, d.P99 = len(got.latencies), got.ms(0.5), got.ms(0.99)
	d.measure(h, &d.Loaded)
	d.Own.Loaded, d.Own.Descriptors = mb(usageOf(h.process.PID()).memory), usageOf(h.process.PID()).descriptors
	for _, c := range conns {
		c.Close(ctx)
	}
	conns = nil
	if err := d.remove(ctx, h, o); err != nil {
		return err
	}
	f.Density = d
	return nil
}

func mb(bytes float64) float64 { return bytes / (1 << 20) }

// make makes all tenants, several at a time, and returns a connection to each.
func (d *densityFigures) make(ctx context.Context, h *host, o *options) (conns []*pgx.Conn, err error) {
	var mu sync.Mutex
	var created, answered []float64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.beside)
	begun := time.Now()
	for i := range o.tenants {
		g.Go(func() error {
			name := fmt.Sprintf("tenant%03d", i)
			from := time.Now()
			if _, err := h.Execute(ctx, provision.Order{Verb: provision.VerbCreate, Tenant: name, Enable: true, Password: password}, nil); err != nil {
				return fmt.Errorf("create %s: %w", name, err)
			}
			made := time.Since(from)
			c, err := h.connect(ctx, name)
			if err != nil {
				return err
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			if _, err := c.Exec(ctx, first, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("tenant %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			created, answered = append(created, made.Seconds()), append(answered, time.Since(from).Seconds())
			if n := len(created); n%10 == 0 {
				fmt.Fprintf(o.log, "%d tenants after %v\n", n, time.Since(begun).Round(time.Second))
			}
			return nil
		})
	}
	err = g.Wait()
	d.Create, d.Answer, d.All = spreadOf(created), spreadOf(answered), time.Since(begun).Seconds()
	return conns, err
}

// rest is what tenants use who have a client that does nothing.
func (d *densityFigures) rest(ctx context.Context, h *host) error {
	const length = 10 * time.Second
	before, own := h.instances(), usageOf(h.process.PID())
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(length):
	}
	after := d.measure(h, &d.Idle)
	for id, u := range after {
		if b := before[id]; b != nil {
			d.IdleCPU += (u.cpu - b.cpu) / length.Seconds() * 100
		}
	}
	now := usageOf(h.process.PID())
	d.Own.Idle, d.Own.IdleCPU = mb(now.memory), (now.cpu-own.cpu)/length.Seconds()*100
	return nil
}

// measure is what each tenant uses now.
func (d *densityFigures) measure(h *host, to *tenantFigures) map[string]*usage {
	all := h.instances()
	var memory, descriptors, processes, space []float64
	for id, u := range all {
		memory, descriptors, processes = append(memory, mb(u.memory)), append(descriptors, float64(u.descriptors)), append(processes, float64(u.processes))
		space = append(space, mb(disk(filepath.Join(h.dir, "instances", id+"*"))))
	}
	*to = tenantFigures{Memory: spreadOf(memory), Disk: spreadOf(space), Descriptors: spreadOf(descriptors), Processes: spreadOf(processes)}
	return all
}

// remove removes all tenants by the running program, and looks for what is left of them.
func (d *densityFigures) remove(ctx context.Context, h *host, o *options) error {
	list, err := h.list(ctx)
	if err != nil {
		return err
	}
	if len(list) != o.tenants {
		return fmt.Errorf("%d tenants are listed, and %d were made", len(list), o.tenants)
	}
	var mu sync.Mutex
	var times []float64
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(o.beside)
	for _, v := range list {
		g.Go(func() error {
			from := time.Now()
			if _, err := h.Execute(inner, provision.Order{Verb: provision.VerbRemove, Tenant: v.Name, Now: true}, nil); err != nil {
				return fmt.Errorf("remove %s: %w", v.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(from).Seconds())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.Remove = spreadOf(times)
	for _, v := range list {
		if listens(v.Endpoint.Port) {
			err = errors.Join(err, fmt.Errorf("somebody listens on port %d of %s", v.Endpoint.Port, v.Name))
		}
	}
	rest, listErr := h.list(ctx)
	if err = errors.Join(err, listErr); len(rest) > 0 {
		err = errors.Join(err, fmt.Errorf("%d records are left", len(rest)))
	}
	for _, what := range h.left() {
		err = errors.Join(err, errors.New("left behind: "+what))
	}
	now := usageOf(h.process.PID())
	d.Own.After = mb(now.memory)
	return err
}

// creates gives many orders at once, several for each name, and some of those for another tenant of that name: each is made once, and no two have anything in
// common.
func creates(ctx context.Context, h *host, o *options, f *figures) error {
	c := &createFigures{Orders: o.orders, Names: o.names, occasion: newOccasion(o)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	var times []float64
	begun := time.Now()
	for i := range o.orders {
		wg.Go(func() {
			order := provision.Order{Verb: provision.VerbCreate, Tenant: fmt.Sprintf("tenant%03d", i%o.names), Enable: true, Password: password}
			if i >= o.orders-o.names {
				order.Settings = map[string]string{"work_mem": "2MB"} // another tenant, of a name that others want
			}
			res, err := h.Execute(ctx, order, nil)
			e, told := errors.AsType[*provision.Error](err)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && res.Changed:
				c.Made++
				times = append(times, time.Since(begun).Seconds())
			case err == nil:
				c.There++
			case told && (e.Kind == provision.KindTaken || e.Kind == provision.KindBusy):
				c.Refused++
			default:
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.Seconds = time.Since(begun).Seconds()
	list, err := h.list(ctx)
	if err != nil {
		return err
	}
	if len(list) != o.names {
		return fmt.Errorf("%d tenants were made of %d names", len(list), o.names)
	}
	var ids, ports, users []string
	for _, v := range list {
		ids, ports, users = append(ids, v.ID), append(ports, fmt.Sprint(v.Endpoint.Port)), append(users, v.Name)
		conn, err := h.connect(ctx, v.Name)
		if err != nil {
			return err
		}
		var where string
		err = errors.Join(conn.QueryRow(ctx, "SELECT current_setting('cluster_name')").Scan(&where), conn.Close(ctx))
		if err != nil || where != "t_"+v.ID {
			return fmt.Errorf("tenant %s is answered by %q: %w", v.Name, where, err)
		}
	}
	for what, all := range map[string][]string{"ID": ids, "port": ports, "name": users} {
		slices.Sort(all)
		if n := len(slices.Compact(slices.Clone(all))); n != len(all) {
			return fmt.Errorf("%d tenants have %d different values of %s: %v", len(all), n, what, all)
		}
	}
	if servers := len(h.instances()); servers != o.names {
		return fmt.Errorf("%d servers run for %d tenants", servers, o.names)
	}
	fmt.Fprintf(o.log, "%d orders, %d names: %d told that they made it, %d that it was there, %d refused; %.0f s\n", o.orders, o.names, c.Made, c.There, c.Refused, c.Seconds)
	f.Creates = c
	return nil
}
