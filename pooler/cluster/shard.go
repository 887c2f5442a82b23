package cluster

import (
	"iter"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// shards is the present shape of the cluster: immutable, replaced by a reload.
type shards[C any] struct {
	list []*shard[C]
	turn atomic.Int64 // rotates AnyShard
}

// shard is the endpoints of one shard: immutable.
type shard[C any] struct {
	id        topology.ShardID
	endpoints []*endpoint[C]
	primary   *endpoint[C] // the first with the role; nil = none
	replicas  []*endpoint[C]
	turn      atomic.Int64 // rotates the replicas
}

// sort finds primary and replicas among the endpoints.
func (s *shard[C]) sort() {
	s.primary, s.replicas = nil, nil
	for _, e := range s.endpoints {
		switch e.options().Role {
		case topology.Primary:
			if s.primary == nil {
				s.primary = e
			}
		case topology.Replica:
			s.replicas = append(s.replicas, e)
		}
	}
}

// all yields every endpoint.
func (t *shards[C]) all() iter.Seq[*endpoint[C]] {
	return func(yield func(*endpoint[C]) bool) {
		for _, s := range t.list {
			for _, e := range s.endpoints {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// pick chooses the endpoint for a role: the primary; or in turn one of the replicas that are not known to be down,
// the primary where there is none of them. Nil if the shard has nothing to offer.
func (s *shard[C]) pick(role topology.Role) *endpoint[C] {
	if role == topology.Replica && len(s.replicas) > 0 {
		first := int((s.turn.Add(1) - 1) % int64(len(s.replicas)))
		for i := range s.replicas {
			if e := s.replicas[(first+i)%len(s.replicas)]; e.State() != Down {
				return e
			}
		}
		if s.primary == nil {
			return s.replicas[first%len(s.replicas)]
		}
	}
	return s.primary
}

// at returns a shard, nil if there is none of that number.
func (t *shards[C]) at(id topology.ShardID) *shard[C] {
	if id < 0 || int(id) >= len(t.list) {
		return nil
	}
	return t.list[id]
}

// Endpoint tells how to log in at the endpoint of a shard and role, for what is no pool's business; false: there is none.
func (c *Cluster[C]) Endpoint(id topology.ShardID, role topology.Role, l *Login) (backend.DialOptions, EndpointInfo, bool) {
	s := c.top.Load().at(id)
	if s == nil {
		return backend.DialOptions{}, EndpointInfo{}, false
	}
	e := s.pick(role)
	if e == nil {
		return backend.DialOptions{}, EndpointInfo{}, false
	}
	return e.options().dial(l), e.info(), true
}
