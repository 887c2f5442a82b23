package parser

import "strings"

// hintPrefixes start the names of hints; a text without one needs no look at its comments.
var hintPrefixes = [...]string{"pgdog_", "pgkennel_"}

// hintAt finds the first prefix of a hint's name: where it is and how long, or -1.
func hintAt(text string) (at, n int) {
	at = -1
	for _, prefix := range hintPrefixes {
		if i := strings.Index(text, prefix); i >= 0 && (at < 0 || i < at) {
			at, n = i, len(prefix)
		}
	}
	return at, n
}

// mayHint reports whether a text may have hints in its comments.
func mayHint(text string) bool {
	at, _ := hintAt(text)
	return at >= 0
}

// findHints reads the routing comments of a text. Where PostgreSQL's scanner would refuse the text, the hints in front count.
func findHints(sql string) Hints {
	var h Hints
	if !mayHint(sql) {
		return h
	}
	s := Scan(sql)
	for {
		switch tok := s.Next(); tok.Kind {
		case TokenEnd:
			return h
		case TokenLineComment:
			h.read(sql[tok.Start+2 : tok.End])
		case TokenBlockComment:
			h.read(sql[tok.Start+2 : tok.End-2])
		default:
		}
	}
}

// read takes the hints from the text of one comment: name: value, separated by blanks, commas or semicolons.
func (h *Hints) read(comment string) {
	for {
		i, prefix := hintAt(comment)
		if i < 0 {
			return
		}
		inWord := i > 0 && class[comment[i-1]]&classIdentCont != 0
		ours := comment[i:i+prefix] != hintPrefixes[0]
		comment = comment[i+prefix:]
		n := 0
		for n < len(comment) && class[comment[n]]&classIdentCont != 0 {
			n++
		}
		var to *string
		switch comment[:n] {
		case "shard":
			to = &h.Shard
		case "sharding_key":
			to = &h.ShardingKey
		case "role":
			to = &h.Role
		case "tenant":
			if ours {
				to = &h.Tenant
			}
		}
		comment = strings.TrimLeft(comment[n:], hintSpace)
		if to == nil || inWord || comment == "" || comment[0] != ':' {
			continue // speaks of a hint, gives none
		}
		var value string
		value, comment = hintValue(strings.TrimLeft(comment[1:], hintSpace))
		if value == "" || *to != "" && *to != value {
			h.Conflict = true
		}
		if *to == "" {
			*to = value
		}
	}
}

const hintSpace = " \t\n\r\f\v"

// hintValue cuts the value off the front of s: quoted by ' or ", which doubled stands for itself, or up to a blank, comma or semicolon.
func hintValue(s string) (value, rest string) {
	if s == "" || s[0] != '\'' && s[0] != '"' {
		n := strings.IndexAny(s, ",;"+hintSpace)
		if n < 0 {
			n = len(s)
		}
		if end := strings.Index(s[:n], "*/"); end >= 0 {
			n = end // of a comment in the comment
		}
		return s[:n], s[n:]
	}
	quote := s[:1]
	for s = s[1:]; ; {
		i := strings.Index(s, quote)
		if i < 0 {
			return "", "" // never closed
		}
		value, s = value+s[:i], s[i+1:]
		if !strings.HasPrefix(s, quote) {
			return value, s
		}
		value, s = value+quote, s[1:]
	}
}
