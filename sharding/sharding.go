// Package sharding maps the value of a sharding key to the shard where it lives: by list, by range, or by
// PostgreSQL's own partition hash. Values are compared as PostgreSQL compares them for the key's type. It also holds
// Plan, what the router decides. Everything is immutable after construction and does no I/O.
package sharding
