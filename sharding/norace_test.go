//go:build !race

package sharding

// slowdown is what the race detector costs: nothing without it.
const slowdown = 1
