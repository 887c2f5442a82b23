//go:build race

package backend

// underRace: the race detector has a sync.Pool forget what it is given, at random.
const underRace = true
