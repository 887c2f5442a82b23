// Package sharding maps the value of a sharding key to the shard where it lives: by list, by range, or by
// PostgreSQL's own partition hash. Values are compared as PostgreSQL compares them for the key's type, however they
// were spelled: literals, parameters in text or binary format, elements of arrays. It also holds Plan, what the router
// decides. Everything is immutable after construction, safe for concurrent use, and does no I/O.
//
// Text keys are equal when their bytes are, as in every deterministic collation. Columns with a nondeterministic
// collation, or of types that compare by other rules (char(n), citext), can't be sharding keys. Ranges of text are
// ordered by bytes, as in the collation "C".
package sharding
