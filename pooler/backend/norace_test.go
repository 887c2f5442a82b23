//go:build !race

package backend

const underRace = false
