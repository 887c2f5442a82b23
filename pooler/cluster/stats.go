package cluster

import (
	"time"

	"github.com/pgkennel/pgkennel/pooler/pool"
)

// PoolStats is a snapshot of one pool.
type PoolStats struct {
	PoolInfo
	pool.Stats
}

// Pools returns a snapshot of every pool, by shard and endpoint in the order of the configuration.
func (c *Cluster[C]) Pools() []PoolStats {
	var all []PoolStats
	for e := range c.top.Load().all() {
		for en := range e.entries() {
			all = append(all, PoolStats{PoolInfo: en.info(), Stats: en.pool.Stats()})
		}
	}
	return all
}

// Server is a snapshot of one connection.
type Server[C any] struct {
	PoolInfo
	pool.Info[C]
}

// Servers returns a snapshot of every connection.
func (c *Cluster[C]) Servers() []Server[C] {
	var all []Server[C]
	for e := range c.top.Load().all() {
		for en := range e.entries() {
			info := en.info()
			for _, s := range en.pool.Connections() {
				all = append(all, Server[C]{PoolInfo: info, Info: s})
			}
		}
	}
	return all
}

// Stats is a cluster in numbers.
type Stats struct {
	Shards, Endpoints, Pools int
	Paused                   bool
	Idle, Leased, Total      int // connections
	Waiting                  int
	MaxWait                  time.Duration
	SchemaEpoch              uint64 // 0 = none loaded
}

// Stats returns a snapshot of the cluster.
func (c *Cluster[C]) Stats() Stats {
	top := c.top.Load()
	s := Stats{Shards: len(top.list), Paused: c.Paused()}
	if schema := c.Schema(); schema != nil {
		s.SchemaEpoch = schema.Epoch
	}
	for e := range top.all() {
		s.Endpoints++
		for en := range e.entries() {
			p := en.pool.Stats()
			s.Pools++
			s.Idle += p.Idle
			s.Leased += p.Leased
			s.Total += p.Total()
			s.Waiting += p.Waiting
			s.MaxWait = max(s.MaxWait, p.MaxWait)
		}
	}
	return s
}
