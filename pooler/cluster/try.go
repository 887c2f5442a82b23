package cluster

import (
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// TryCheckout lends an idle connection to the shard in the given role at once, or returns nil: Checkout is the way to wait then. AnyShard
// asks for whichever shard has one, beginning at a different one each time.
func (c *Cluster[C]) TryCheckout(id topology.ShardID, role topology.Role, l *Login) *pool.Lease[C] {
	if id == AnyShard {
		return c.tryAny(&Waiter[C]{shard: id, role: role, login: l})
	}
	s := c.top.Load().at(id)
	if s == nil {
		return nil
	}
	e := s.pick(role)
	if e == nil {
		return nil
	}
	en := e.lookup(l)
	if en == nil {
		return nil
	}
	return en.pool.TryCheckout()
}
