package cluster

import (
	"context"
	"slices"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Place is a database of a server.
type Place struct {
	Address  backend.Address
	Database string
}

// Places returns where the primaries of the shards are, for a login, each once; of one shard, if that is not negative.
func (c *Cluster[C]) Places(l *Login, shard topology.ShardID) (list []Place, shards []topology.ShardID) {
	for _, s := range c.top.Load().list {
		if s.primary == nil || shard >= 0 && s.id != shard {
			continue
		}
		o := s.primary.options().dial(l)
		if p := (Place{o.Address, o.Database}); !slices.Contains(list, p) {
			list, shards = append(list, p), append(shards, s.id)
		}
	}
	return list, shards
}

// Connect logs in at the primary of a shard beside its pool, for what is no session's. The login is asked about as for the pool.
func (c *Cluster[C]) Connect(ctx context.Context, id topology.ShardID, l *Login, params ...pgwire.Param) (*backend.Login, error) {
	s := c.top.Load().at(id)
	if s == nil || s.primary == nil {
		return nil, pool.ErrClosed
	}
	en := s.primary.lookup(l)
	if en == nil {
		return nil, pool.ErrClosed
	}
	who := en.login.Load()
	o := s.primary.options().dial(who)
	o.Params = append(o.Params, params...)
	return en.dial(ctx, who, o, en.due(who))
}

// Refusal is what a client is told of an error of Connect.
func (c *Cluster[C]) Refusal(id topology.ShardID, err error) *pgwire.Error { return c.refusal(id, err) }
