package provision

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// connect is how an operator reaches a tenant's database: past the pooler, as pgkennel's superuser.
func connect(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	r, err := m.find(ctx, o.Tenant)
	if err != nil {
		return nil, err
	}
	s, err := m.running(ctx, r)
	if err != nil {
		return nil, err
	}
	if s.Connect.Auth != "" { // whoever is told how to log in may have a libpq that believes whatever listens there
		if err := as(ctx, s.Instance, "postgres", func(context.Context, *pgx.Conn) error { return nil }); err != nil {
			return nil, err
		}
	}
	return &Result{Tenants: views(r), Connect: &s.Connect}, nil
}

// logLines is how many lines are shown when the order does not say.
const logLines = 100

// logs reports the lines of an instance's log.
func logs(ctx context.Context, m *Manager, o Order, report func(Progress)) (*Result, error) {
	r, err := m.find(ctx, o.Tenant)
	if err != nil {
		return nil, err
	}
	if r.Isolation != tenant.Instance {
		return nil, Errorf(KindRefused, "tenant %s has no log of its own: its server has others too", r.Name)
	}
	if r.Host != m.o.Host {
		return nil, Errorf(KindRefused, "tenant %s is on host %s", r.Name, r.Host).WithHint("ask there")
	}
	in, d, err := m.instance(r)
	if err != nil {
		return nil, err
	}
	lines := o.Lines
	if lines <= 0 {
		lines = logLines
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	from, err := d.Logs(ctx, in, lines, o.Follow)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if o.Follow {
		watching.Go(func() {
			for ctx.Err() == nil {
				if _, err := m.dir.Get(ctx, r.ID); errors.Is(err, tenant.ErrNotFound) {
					cancel() // there is nothing to come any more
				}
				pause(ctx, lookAround)
			}
		})
	}
	b := bufio.NewReader(from)
	for {
		line, err := b.ReadString('\n')
		if line != "" {
			if line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
			}
			report(Progress{Tenant: r.Name, Line: line})
		}
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return &Result{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// stats are what a tenant uses, and what PostgreSQL counts of its database.
func stats(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	var list []*tenant.Record
	if o.Tenant != "" {
		r, err := m.find(ctx, o.Tenant)
		if err != nil {
			return nil, err
		}
		list = []*tenant.Record{r}
	} else {
		all, err := m.dir.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.Phase != tenant.Removed && (r.Host == "" || r.Host == m.o.Host) {
				list = append(list, r)
			}
		}
	}
	res := &Result{}
	for _, r := range list {
		v := NewView(r)
		v.Usage = m.usage(ctx, r)
		if s, err := m.running(ctx, r); err == nil && r.Isolation == tenant.Instance {
			if v.Stats, err = statsOf(ctx, s.Instance, r.Database); err != nil && o.Tenant != "" {
				return nil, err
			}
		} else if err != nil && o.Tenant != "" && r.Host != "" && r.Host != m.o.Host {
			return nil, err
		}
		res.Tenants = append(res.Tenants, v)
	}
	return res, nil
}

func statsOf(ctx context.Context, in *Instance, database string) (map[string]int64, error) {
	names := []string{
		"connections", "commits", "rollbacks", "rows_returned", "rows_fetched", "rows_inserted", "rows_updated", "rows_deleted", "blocks_read", "blocks_hit",
		"deadlocks", "temp_bytes", "database_bytes",
	}
	values := make([]int64, len(names))
	into := make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT numbackends::int8, xact_commit, xact_rollback, tup_returned, tup_fetched, tup_inserted, tup_updated, tup_deleted, blks_read,
			blks_hit, deadlocks, temp_bytes, pg_catalog.pg_database_size(datid) FROM pg_catalog.pg_stat_database WHERE datname = $1`, database).Scan(into...)
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64)
	for i, n := range names {
		out[n] = values[i]
	}
	return out, nil
}
