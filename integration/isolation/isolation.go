// Package isolation holds the attack suite of tenancy: what hostile clients of one tenant try, by mode, and what they get. docs/isolation.md is made of
// its table.
package isolation
