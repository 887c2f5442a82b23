package sharding

import "github.com/pgkennel/pgkennel/sharding/topology"

// PlanKind is how a plan names its shard.
type PlanKind uint8

// The kinds of plans.
const (
	// PlanAny: any one shard gives the right answer: catalogs, constants, tables that are the same everywhere.
	PlanAny PlanKind = iota + 1
	// PlanShard: exactly this shard, named by a key or a hint.
	PlanShard
	// PlanCopy: COPY FROM STDIN whose first row decides. See router.CopyRouter.
	PlanCopy
)

// String returns the kind's name.
func (k PlanKind) String() string {
	switch k {
	case PlanAny:
		return "any"
	case PlanShard:
		return "shard"
	case PlanCopy:
		return "copy"
	}
	return "unknown"
}

// Plan says where a message runs.
type Plan struct {
	Kind  PlanKind
	Shard topology.ShardID // PlanShard
	// Write: it may change data, or do what the parser can't judge; a PlanAny with Write must not be restarted elsewhere.
	Write bool
	// Unjudged: it may change settings of the server's session in ways that its text does not show.
	Unjudged bool
	// Reason is why, for the route command and logs; it holds no values.
	Reason string
}
