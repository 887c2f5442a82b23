package config

import (
	"errors"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxFileBytes bounds a configuration file: offsets into it are 32 bits wide.
const maxFileBytes = 1 << 30

// document is one file: its text, the positions of everything in it, and its values as the TOML library decodes them.
// Mappings are left out of the values: at a million entries the library takes seconds and gigabytes, so they are read
// straight from the text (see mapping_read.go) and only what is left, the skeleton, goes through the library.
type document struct {
	name  string
	order int
	text  string
	r     *report

	root   *node          // positions
	values map[string]any // the decoded skeleton
	broken bool           // something could not be read: links into this file can't be judged
	lineAt []int          // number of lines before each block of blockBytes
	stmts  []stmt
	rules  ruleTable
}

// stmt is one statement of the skeleton: a header, or a key with its value.
type stmt struct {
	start, end uint32 // in the text, without the line break
	owner      *node  // the table it belongs to
	header     bool
	dropped    bool // reported already, and kept from the library
	secret     bool // its value must not be echoed
}

// readDocument scans text, decodes it and reports everything that is not TOML.
func readDocument(name, text string, order int, bulk bool, r *report) *document {
	d := &document{name: name, order: order, text: strings.TrimPrefix(text, "\ufeff"), r: r, values: map[string]any{}}
	d.rules.doc = d
	switch {
	case len(text) > maxFileBytes:
		r.fail(d.at(0), "", "the file has %d bytes, more than the %d that are read", len(text), maxFileBytes)
		d.text, d.broken = "", true
	case strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff"):
		r.fail(d.at(0), "save it as UTF-8", "the file is UTF-16")
		d.text, d.broken = "", true
	}
	d.checkText()
	sc := &scanner{doc: d, s: d.text, bulk: bulk}
	sc.run()
	d.decode()
	return d
}

// offset is an offset or a count within a document, which has no more than maxFileBytes.
func offset(i int) uint32 {
	return uint32(i) //nolint:gosec // see above
}

func (d *document) at(off uint32) place { return place{doc: d, off: off} }

// checkText reports bytes that no TOML has anywhere, once a line, and goes on with question marks in their places.
func (d *document) checkText() {
	if utf8.ValidString(d.text) && !hasControl(d.text) {
		return
	}
	b := []byte(d.text)
	said := false
	c := capped{r: d.r, max: maxListed}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		bad := r == utf8.RuneError && n == 1 || isControl(b, i)
		if r == '\n' {
			said = false
		}
		if bad && !said {
			what, hint := "control character", "write it as an escape in a text in double quotes"
			if b[i] >= utf8.RuneSelf {
				what, hint = "byte that is not UTF-8", "save the file as UTF-8"
			}
			c.fail(d.at(offset(i)), hint, "there is a %s, 0x%02x", what, b[i])
			said = true
		}
		if bad {
			b[i] = '?'
		}
		i += n
	}
	c.end("lines with bytes that no TOML has")
	d.text = string(b)
	d.broken = true
}

// hasControl says whether a text may have a control character. A carriage return is one unless it ends a line.
func hasControl(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\n' && c != '\t' || c == 0x7f) && (c != '\r' || i+1 == len(s) || s[i+1] != '\n') {
			return true
		}
	}
	return false
}

func isControl(b []byte, i int) bool {
	c := b[i]
	return (c < ' ' && c != '\n' && c != '\t' || c == 0x7f) && (c != '\r' || i+1 == len(b) || b[i+1] != '\n')
}

// decode gives the skeleton to the TOML library. Where it refuses, each statement is tried alone, so that every bad
// one is reported, and the rest is decoded without them.
func (d *document) decode() {
	err := d.decodeSkeleton()
	if err == nil {
		return
	}
	for i := range d.stmts {
		if s := &d.stmts[i]; !s.dropped {
			var m map[string]any
			if _, err := toml.Decode(d.text[s.start:s.end], &m); err != nil {
				d.drop(s, err, s.start+errorStart(err))
			}
		}
	}
	// What is left are conflicts between statements that the scanner does not know. Each round drops one statement.
	for range 50 {
		if err = d.decodeSkeleton(); err == nil {
			return
		}
		s, off := d.blame(err)
		if s == nil {
			break
		}
		d.drop(s, err, off)
	}
	d.broken = true
	d.values = map[string]any{}
	if len(d.r.errs) == 0 {
		d.r.fail(d.at(0), "", "the file is not TOML: %s", lowerFirst(err.Error()))
	}
}

// decodeSkeleton decodes the statements that are not dropped, one after the other.
func (d *document) decodeSkeleton() error {
	n := 0
	for _, s := range d.stmts {
		n += int(s.end-s.start) + 1
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range d.stmts {
		if !s.dropped {
			b.WriteString(d.text[s.start:s.end])
			b.WriteByte('\n')
		}
	}
	m := map[string]any{}
	if _, err := toml.Decode(b.String(), &m); err != nil {
		return err
	}
	d.values = m
	return nil
}

// blame finds the statement that an error of decodeSkeleton is about, and the text's offset of the error.
func (d *document) blame(err error) (*stmt, uint32) {
	at := errorStart(err)
	from := offset(0)
	for i := range d.stmts {
		s := &d.stmts[i]
		if s.dropped {
			continue
		}
		size := s.end - s.start + 1
		if at < from+size {
			return s, min(s.start+at-from, s.end)
		}
		from += size
	}
	return nil, 0
}

// errorStart is the offset of an error of the TOML library in what it was given.
func errorStart(err error) uint32 {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return offset(min(max(pe.Position.Start, 0), maxFileBytes))
	}
	return 0
}

// drop reports err at offset off of the text and keeps the statement from the library.
func (d *document) drop(s *stmt, err error, off uint32) {
	s.dropped = true
	s.owner.broken = true
	d.broken = true
	if s.header {
		s.owner.gone = true
		d.dropBody(s)
	}
	msg, hint := lowerFirst(err.Error()), ""
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		msg = lowerFirst(strings.TrimSuffix(pe.Message, "."))
	}
	if s.secret {
		msg, hint = "the value is not valid TOML", "write it as a string in double quotes"
	}
	d.r.fail(d.at(min(off, s.end)), hint, "%s", msg)
}

// dropBody drops what stands under a dropped header, which would otherwise count as part of the section before.
func (d *document) dropBody(header *stmt) {
	in := false
	for i := range d.stmts {
		s := &d.stmts[i]
		switch {
		case s == header:
			in = true
		case s.header:
			in = false
		case in:
			s.dropped = true
		}
	}
}

func lowerFirst(s string) string {
	if s == "" || len(s) > 1 && s[1] >= 'A' && s[1] <= 'Z' {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// blockBytes is how much text lies between two entries of lineAt.
const blockBytes = 4096

// pos finds line and column of an offset.
func (d *document) pos(off uint32) Pos {
	off = min(off, offset(min(len(d.text), maxFileBytes)))
	if d.lineAt == nil {
		d.lineAt = make([]int, 1, len(d.text)/blockBytes+1)
		n := 0
		for i := blockBytes; i <= len(d.text); i += blockBytes {
			n += strings.Count(d.text[i-blockBytes:i], "\n")
			d.lineAt = append(d.lineAt, n)
		}
	}
	block := off / blockBytes
	line := d.lineAt[block] + strings.Count(d.text[block*blockBytes:off], "\n")
	start := strings.LastIndexByte(d.text[:off], '\n') + 1
	return Pos{File: d.name, Line: line + 1, Col: utf8.RuneCountInString(d.text[start:off]) + 1}
}

// nodeKind is what a node of the index is.
type nodeKind uint8

const (
	implicitNode nodeKind = iota // a table that only the headers of its children name
	tableNode                    // a table with a header of its own, or the root
	dottedNode                   // a table made by dotted keys
	inlineNode                   // a table in braces
	valueNode                    // anything else in place of a value
	arrayNode                    // an array in brackets
	tablesNode                   // an array of tables, by [[headers]]
)

// node is a key or a table and where it is written. The tree of nodes has the shape of the document.
type node struct {
	kind   nodeKind
	broken bool   // something in this table could not be read: what is missing may be there
	gone   bool   // the header was dropped: the decoded values do not have the table
	off    uint32 // of the key, or of the header
	val    uint32 // of the value
	names  []string
	kids   []*node
	byName map[string]*node // once there are many
	elems  []*node          // of arrays
	rules  *ruleSet         // the mapping that is read from the text
}

const manyKids = 24

func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	if n.byName != nil {
		return n.byName[name]
	}
	for i, k := range n.names {
		if k == name {
			return n.kids[i]
		}
	}
	return nil
}

func (n *node) add(name string, off uint32, kind nodeKind) *node {
	c := &node{kind: kind, off: off, val: off}
	n.names = append(n.names, name)
	n.kids = append(n.kids, c)
	if n.byName != nil {
		n.byName[name] = c
	} else if len(n.kids) > manyKids {
		n.byName = make(map[string]*node, 2*len(n.kids))
		for i, k := range n.names {
			n.byName[k] = n.kids[i]
		}
	}
	return c
}

// sortedKeys returns the keys of a decoded table in the order of the text, those without a position last by name.
func sortedKeys(m map[string]any, n *node) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := n.child(keys[i]), n.child(keys[j])
		switch {
		case a != nil && b != nil && a.off != b.off:
			return a.off < b.off
		case (a == nil) != (b == nil):
			return a != nil
		}
		return keys[i] < keys[j]
	})
	return keys
}
