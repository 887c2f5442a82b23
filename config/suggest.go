package config

import (
	"fmt"
	"strings"
)

// didYouMean returns a hint that names the known word nearest to name, or lists the known ones if they are few, or nothing.
func didYouMean(name string, known []string) string {
	if n := nearest(name, known); n != "" {
		return fmt.Sprintf("did you mean %s?", n)
	}
	if len(known) > 0 && len(known) <= 10 {
		return "known here: " + strings.Join(known, ", ")
	}
	return ""
}

// nearest returns the known word that name may be a misspelling of.
func nearest(name string, known []string) string {
	best, bestAt := "", max(2, len(name)/3)+1
	plain := strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	if len(plain) > 64 {
		return ""
	}
	for _, k := range known {
		if len(k) > len(plain)+16 || len(plain) > len(k)+16 {
			continue
		}
		d := distance(plain, k)
		if strings.ReplaceAll(plain, "_", "") == strings.ReplaceAll(k, "_", "") {
			d = 0
		}
		if strings.HasSuffix(k, "_"+plain) || strings.HasPrefix(k, plain+"_") {
			d = min(d, 2)
		}
		if d < bestAt && d < len(k) {
			best, bestAt = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
