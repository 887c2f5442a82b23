//go:build !linux

package pgtest

func plenty(string) bool { return false }
