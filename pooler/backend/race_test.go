//go:build race

package backend

// underRace: the race detector makes the tests of pure code ten times slower and finds nothing in them; a part of them is enough then.
const underRace = true
