package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Pos is where something was written: in a file, or in an environment variable, which has a name but no line.
type Pos struct {
	File      string // the file's name as it was given, or "environment"
	Line, Col int    // from 1; Col counts characters; 0 = not known
}

// String returns file:line:col, as far as they are known.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return p.File + ":" + strconv.Itoa(p.Line)
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Col)
}

// Problem is one mistake or one warning. Neither text holds a secret.
type Problem struct {
	Pos  Pos
	What string
	Hint string // what to do about it; may be empty
}

// String returns the problem as one line: where: what; hint.
func (p Problem) String() string {
	s := p.Pos.String() + ": " + p.What
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// Problems is every mistake of a configuration, by file, line and column. It is the error that Load and Parse return.
type Problems []Problem

// Error returns one line per problem.
func (ps Problems) Error() string { return lines(ps) }

// Warnings is what was read but is not obeyed, or probably not meant; in the same order as Problems.
type Warnings []Problem

// String returns one line per warning.
func (ws Warnings) String() string { return lines(ws) }

func lines(ps []Problem) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// place is a position before anybody needs its line: an offset into a document, or the name of an environment variable.
type place struct {
	doc   *document
	off   uint32
	whole bool // the file as such
	env   string
}

func (p place) pos() Pos {
	switch {
	case p.env != "":
		return Pos{File: "environment"}
	case p.doc == nil:
		return Pos{}
	case p.whole:
		return Pos{File: p.doc.name}
	}
	return p.doc.pos(p.off)
}

// String names the place for the text of another problem.
func (p place) String() string {
	switch {
	case p.env != "":
		return p.env
	case p.doc == nil:
		return "default"
	}
	at := p.doc.pos(p.off)
	return at.File + ":" + strconv.Itoa(at.Line)
}

// report collects problems and warnings of all files in the order they are met.
type report struct {
	errs, warns []finding
}

type finding struct {
	at         place
	what, hint string
}

func (r *report) fail(at place, hint, format string, args ...any) {
	r.errs = append(r.errs, finding{at, fmt.Sprintf(format, args...), hint})
}

func (r *report) warn(at place, hint, format string, args ...any) {
	r.warns = append(r.warns, finding{at, fmt.Sprintf(format, args...), hint})
}

// sorted turns findings into problems, by file, line and column, each once.
func sorted(fs []finding) []Problem {
	slices.SortStableFunc(fs, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.at.order(), b.at.order()), cmp.Compare(a.at.off, b.at.off), cmp.Compare(a.at.env, b.at.env))
	})
	out := make([]Problem, 0, len(fs))
	for i, f := range fs {
		if i > 0 && f == fs[i-1] {
			continue
		}
		out = append(out, Problem{Pos: f.at.pos(), What: f.what, Hint: f.hint})
	}
	return out
}

// order puts pgdog.toml before users.toml before the environment.
func (p place) order() int {
	switch {
	case p.doc != nil:
		return p.doc.order
	default:
		return 1 << 10
	}
}

// capped reports the first few of many problems of one kind, and at the end how many more there were.
type capped struct {
	r    *report
	max  int
	n    int
	last place
}

func (c *capped) fail(at place, hint, format string, args ...any) {
	c.n++
	if c.n <= c.max {
		c.r.fail(at, hint, format, args...)
	}
	c.last = at
}

// end reports the rest. what names the things counted, in the plural.
func (c *capped) end(what string) {
	if c.n > c.max {
		c.r.fail(c.last, "", "%d more %s, not listed", c.n-c.max, what)
	}
}
