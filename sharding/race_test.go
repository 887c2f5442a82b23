//go:build race

package sharding

// slowdown is what the race detector costs.
const slowdown = 10
