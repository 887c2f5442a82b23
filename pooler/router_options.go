package pooler

import (
	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

type schemaPointer = *topology.Schema

// RouterOptions turns a cluster's configuration into what its router is made of. schema is nil where it is not known.
func RouterOptions(cfg *config.Cluster, schema *topology.Schema) (router.Options, error) {
	return routerOptions(cfg, schema)
}
