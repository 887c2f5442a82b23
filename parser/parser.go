// Package parser turns SQL text into facts: what kind of statement it is, which relations and conditions it has,
// where the values it compares with stand in the text or the parameters, and what it does to the state of a session.
//
// It knows nothing of shards, tenants or configuration. pg_query (cgo) stays hidden inside. The package starts no
// goroutine and does no I/O; everything it returns is immutable and safe for concurrent use.
package parser
