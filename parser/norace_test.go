//go:build !race

package parser

const underRace = false
