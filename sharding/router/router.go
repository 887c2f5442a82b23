// Package router decides where a statement runs: it compiles a parsed message against one cluster's configuration
// and schema into a Route, which gives a Plan for actual parameters, or the refusal that the client sees.
//
// Same input, same Plan; no I/O, no clock, no goroutine. Everything a statement is not allowed is refused here, and
// nothing is ever guessed: what can't be proven to live on one shard is refused.
package router

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Params are the parameters of a Bind message. Implementations must not allocate.
type Params interface {
	// Param returns parameter i (from 0): its bytes as sent, whether it is in binary format, and its declared type OID (0 = not declared).
	// ok is false where there is no such parameter. A nil value is NULL.
	Param(i int) (value []byte, binary bool, oid uint32, ok bool)
}

// Env is what a session adds to a message when its route is compiled.
type Env struct {
	// SearchPath is the session's effective search_path as schema names, "$user" resolved, pg_catalog left out unless named.
	SearchPath []string
	// SearchPathKey identifies SearchPath: equal keys, equal paths.
	SearchPathKey string
	// Prepared finds SQL-level prepared statements (PREPARE q AS ...) of the session's transaction; nil = none.
	// A message with EXECUTE is compiled anew every time.
	Prepared func(name string) *parser.Statement
}

// Input is what a Plan depends on beyond the route itself.
type Input struct {
	// Params of the Bind; nil for a simple query. Without parameters a route that needs them gives ErrNeedsParams.
	Params Params
	// Hint is the session's own choice: SET pgdog.shard or SET pgdog.sharding_key. A comment in the text wins over it.
	Hint Hint
	// Encoding is the session's client_encoding is UTF8; text keys beyond ASCII are refused otherwise.
	UTF8 bool
}

// Hint is a shard or key chosen by SET; empty strings = none.
type Hint struct {
	Shard, ShardingKey string
}

// Route is a message compiled for one cluster. It is immutable and safe for concurrent use.
type Route struct {
	route
}

var (
	_ = pgwire.Error{}
	_ = sharding.Plan{}
	_ = topology.ShardID(0)
)
