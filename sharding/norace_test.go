//go:build !race

package sharding

// raceEnabled: the race detector makes everything ten times slower and finds nothing in what is immutable.
const raceEnabled = false
