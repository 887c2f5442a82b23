// Package topology holds the nouns of a cluster: shards, roles, endpoints, and the immutable snapshot of the schema
// that its shards share. It has no behaviour beyond look-ups, starts nothing and does no I/O.
package topology

// ShardID is the number of a shard within its cluster, from 0.
type ShardID int32

// Role is what an endpoint does for its shard.
type Role uint8

// The roles.
const (
	Primary Role = iota + 1
	Replica
)

// String returns the role's name as configuration and console have it.
func (r Role) String() string {
	switch r {
	case Primary:
		return "primary"
	case Replica:
		return "replica"
	}
	return "unknown"
}
