package parser

import "strings"

// hintPrefix starts the name of each hint; a text without it needs no look at its comments.
const hintPrefix = "pgdog_"

// findHints reads the routing comments of a text. Where PostgreSQL's scanner would refuse the text, the hints in front count.
func findHints(sql string) Hints {
	var h Hints
	if !strings.Contains(sql, hintPrefix) {
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
		i := strings.Index(comment, hintPrefix)
		if i < 0 {
			return
		}
		inWord := i > 0 && class[comment[i-1]]&classIdentCont != 0
		comment = comment[i+len(hintPrefix):]
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
