package cluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgkennel/pgkennel/pooler/pool"
)

// WaitRetired returns when every connection that Reconnect, Kill or Reload has retired so far is closed, or with ctx's
// cause. While the cluster is paused it waits for those that are being opened, too.
func (c *Cluster[C]) WaitRetired(ctx context.Context) error {
	c.mu.Lock()
	draining := slices.Clone(c.mu.draining)
	c.mu.Unlock()
	var pools []*pool.Pool[C]
	c.each(func(p *pool.Pool[C]) { pools = append(pools, p) })
	for _, p := range pools {
		if err := p.WaitRetired(ctx); err != nil {
			return err
		}
	}
	for _, en := range draining {
		select {
		case <-en.pool.Drained():
		case <-ctx.Done():
			return fmt.Errorf("wait for the connections of pool %s, which is given up: %w", en.pool.Name(), context.Cause(ctx))
		}
	}
	return nil
}
