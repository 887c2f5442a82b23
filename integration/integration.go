// Package integration holds the acceptance tests: the real pgkennel between real clients and real PostgreSQL instances,
// which are asked directly what they hold. It has no code of its own and nothing imports it.
//
// Most tests run pgkennel inside the test binary, where the race detector and the count of goroutines see it; those of
// the program itself, and those that look at its process from outside, run the built cmd/pgkennel.
package integration
