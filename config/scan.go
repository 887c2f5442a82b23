package config

import (
	"strings"
)

// scanner walks the text once, notes where every key and table stands, reports what is broken in the large (strings,
// brackets, headers, keys given twice) and goes on behind it. Single values are the TOML library's business.
type scanner struct {
	doc  *document
	s    string
	i    int
	bulk bool // mappings are read here and kept from the library

	cur   *node      // the table that keys go to; nil under a header that can't be used
	rule  *ruleEntry // the mapping entry that keys go to
	entry ruleEntry  // what rule points to
	path  []keyPart  // the last key read
}

func (sc *scanner) run() {
	sc.doc.root = &node{kind: tableNode}
	sc.cur = sc.doc.root
	for sc.skipBlank(); sc.i < len(sc.s); sc.skipBlank() {
		start := sc.i
		if sc.s[sc.i] == '[' {
			sc.endRule()
			sc.headerLine(start)
		} else {
			sc.keyLine(start)
		}
		if sc.i == start { // cannot happen; a loop without end would be worse
			sc.nextLine()
		}
	}
	sc.endRule()
}

func (sc *scanner) endRule() {
	if sc.rule != nil {
		sc.doc.rules.end(sc.rule)
		sc.rule = nil
	}
}

// fail reports a mistake at off and marks the current table as not fully known.
func (sc *scanner) fail(off int, hint, format string, args ...any) {
	sc.doc.r.fail(sc.doc.at(offset(off)), hint, format, args...)
	sc.doc.broken = true
	if sc.cur != nil {
		sc.cur.broken = true
	}
}

// keep hands the statement from start to here to the library.
func (sc *scanner) keep(start int, header bool, key string) {
	if sc.cur == nil {
		return
	}
	sc.doc.stmts = append(sc.doc.stmts, stmt{
		start: offset(start), end: offset(sc.i), owner: sc.cur, header: header, secret: secretKey(key),
	})
}

// headerLine reads [a.b] or [[a.b]] and makes it the current table.
func (sc *scanner) headerLine(start int) {
	sc.cur = nil
	double := strings.HasPrefix(sc.s[sc.i:], "[[")
	sc.i++
	closing := "]"
	if double {
		sc.i++
		closing = "]]"
	}
	path, ok := sc.keyPath()
	switch {
	case !ok:
		sc.nextLine()
		return
	case !strings.HasPrefix(sc.s[sc.i:], closing):
		sc.fail(sc.i, "write it as "+strings.Repeat("[", len(closing))+"name"+closing, "the header of a section does not end in %s", closing)
		sc.nextLine()
		return
	}
	sc.i += len(closing)
	if !sc.lineEnd("the header") {
		return
	}
	if sc.openTable(path, double, start) && sc.rule == nil {
		sc.keep(start, true, "")
	}
}

// openTable finds or makes the table that a header names. False: it was reported, and its body is to be ignored.
func (sc *scanner) openTable(path []keyPart, double bool, start int) bool {
	n := sc.doc.root
	for depth, p := range path[:len(path)-1] {
		if sc.bulk && sc.isRules(path[:depth+1]) {
			sc.fail(start, "", "an entry of %s holds no section", joinPath(path[:depth+1]))
			return false
		}
		c := n.child(p.name)
		switch {
		case c == nil:
			c = n.add(p.name, offset(p.off), implicitNode)
		case c.kind == tablesNode:
			c = c.elems[len(c.elems)-1]
		case c.kind == valueNode || c.kind == arrayNode || c.kind == inlineNode:
			sc.fail(p.off, "", "%s is a value and can't hold a section; it was set in %s", joinPath(path[:depth+1]), sc.doc.at(c.off))
			return false
		}
		n = c
	}
	last := path[len(path)-1]
	c := n.child(last.name)
	if sc.bulk && sc.isRules(path) {
		return sc.openRule(n, c, path, double, start)
	}
	if double {
		if c == nil {
			c = n.add(last.name, offset(start), tablesNode)
		} else if c.kind != tablesNode {
			sc.clash(path, c, start, true)
			return false
		}
		e := &node{kind: tableNode, off: offset(start), val: offset(start)}
		c.elems = append(c.elems, e)
		sc.cur = e
		return true
	}
	switch {
	case c == nil:
		c = n.add(last.name, offset(start), tableNode)
	case c.kind == implicitNode || c.kind == dottedNode:
		c.kind, c.off = tableNode, offset(start)
	default:
		sc.clash(path, c, start, false)
		return false
	}
	sc.cur = c
	return true
}

// clash reports a header that can't stand beside what is there already.
func (sc *scanner) clash(path []keyPart, c *node, start int, double bool) {
	name, where := joinPath(path), sc.doc.at(c.off)
	switch {
	case c.kind == tableNode && !double:
		sc.fail(start, "put all its keys under one header", "section [%s] is there twice; the first is %s", name, where)
	case c.kind == tablesNode:
		sc.fail(start, "write [["+name+"]] for each entry", "[%s] and [[%s]] can't both be used; see %s", name, name, where)
	case double:
		sc.fail(start, "write [["+name+"]] for each entry", "[[%s]] can't be used, %s is something else in %s", name, name, where)
	default:
		sc.fail(start, "", "%s is set in %s already", name, where)
	}
}

// keyLine reads key = value.
func (sc *scanner) keyLine(start int) {
	path, ok := sc.keyPath()
	if !ok {
		sc.nextLine()
		return
	}
	if sc.i >= len(sc.s) || sc.s[sc.i] != '=' {
		sc.fail(start, "a line is key = value, a [section], or a # comment", "there is no = after the key")
		sc.nextLine()
		return
	}
	sc.i++
	sc.skipSpace()
	if sc.rule != nil {
		sc.ruleLine(path)
		return
	}
	name := path[len(path)-1].name
	n, ok := sc.place(sc.cur, path)
	val := sc.i
	if !sc.value(n, true) {
		return
	}
	if !sc.lineEnd("the value") {
		return
	}
	if !ok || n != nil && n.rules != nil {
		return
	}
	if n != nil {
		n.val = offset(val)
	}
	sc.keep(start, false, name)
}

// place makes the node of a key. Without a table to put it in it is nil; false says that the key was refused.
func (sc *scanner) place(t *node, path []keyPart) (*node, bool) {
	if t == nil {
		return nil, true
	}
	for depth, p := range path[:len(path)-1] {
		c := t.child(p.name)
		switch {
		case c == nil:
			c = t.add(p.name, offset(p.off), dottedNode)
		case c.kind == valueNode || c.kind == arrayNode || c.kind == inlineNode || c.kind == tablesNode:
			sc.fail(p.off, "", "%s is not a section; it was set in %s", joinPath(path[:depth+1]), sc.doc.at(c.off))
			return nil, false
		}
		t = c
	}
	last := path[len(path)-1]
	if c := t.child(last.name); c != nil {
		sc.fail(last.off, "keep one of them", "%s is set twice; the first is %s", joinPath(path), sc.doc.at(c.off))
		return nil, false
	}
	c := t.add(last.name, offset(last.off), valueNode)
	if sc.bulk && t != sc.doc.root && last.name == "mapping" && sc.isShardedTable(t) || sc.bulk && t == sc.doc.root && last.name == "sharded_mappings" {
		c.rules = &ruleSet{off: offset(last.off), old: t == sc.doc.root}
	}
	return c, true
}

// isShardedTable says whether t is an entry of [[sharded_tables]].
func (sc *scanner) isShardedTable(t *node) bool {
	c := sc.doc.root.child("sharded_tables")
	return c != nil && len(c.elems) > 0 && c.elems[len(c.elems)-1] == t
}

// isRules says whether path is where entries of mappings stand.
func (sc *scanner) isRules(path []keyPart) bool {
	return len(path) == 1 && path[0].name == "sharded_mappings" ||
		len(path) == 2 && path[0].name == "sharded_tables" && path[1].name == "mapping"
}

// keyPart is one name of a dotted key.
type keyPart struct {
	name string
	off  int
}

func joinPath(path []keyPart) string {
	names := make([]string, len(path))
	for i, p := range path {
		names[i] = p.name
	}
	return strings.Join(names, ".")
}

// keyPath reads a key, bare, quoted or dotted, and the space after it. The path is valid until the next call.
func (sc *scanner) keyPath() ([]keyPart, bool) {
	path := sc.path[:0]
	for {
		sc.skipSpace()
		off := sc.i
		name, ok := sc.keyName()
		if !ok {
			return nil, false
		}
		path = append(path, keyPart{name, off})
		sc.skipSpace()
		if sc.i >= len(sc.s) || sc.s[sc.i] != '.' {
			sc.path = path
			return path, true
		}
		sc.i++
	}
}

func (sc *scanner) keyName() (string, bool) {
	start := sc.i
	if sc.i < len(sc.s) && (sc.s[sc.i] == '"' || sc.s[sc.i] == '\'') {
		if strings.HasPrefix(sc.s[sc.i:], `"""`) || strings.HasPrefix(sc.s[sc.i:], "'''") {
			sc.fail(start, "", "a key can't be a string of several lines")
			return "", false
		}
		if !sc.skipString() {
			return "", false
		}
		name, msg := unquote(sc.s[start:sc.i])
		if msg != "" {
			sc.fail(start, "", "%s", msg)
			return "", false
		}
		return name, true
	}
	for sc.i < len(sc.s) && isBare(sc.s[sc.i]) {
		sc.i++
	}
	if sc.i == start {
		sc.fail(start, "a line is key = value, a [section], or a # comment", "there is no key here")
		return "", false
	}
	return sc.s[start:sc.i], true
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// lineEnd takes what may follow on the line: space, a comment, the line break.
func (sc *scanner) lineEnd(after string) bool {
	sc.skipSpace()
	if sc.i >= len(sc.s) || sc.s[sc.i] == '\n' || strings.HasPrefix(sc.s[sc.i:], "\r\n") {
		return true
	}
	if sc.s[sc.i] == '#' {
		sc.toLineEnd()
		return true
	}
	sc.fail(sc.i, "one key a line; text stands in quotes, a comment begins with #", "there is something after %s", after)
	sc.nextLine()
	return false
}

func (sc *scanner) skipSpace() {
	for sc.i < len(sc.s) && (sc.s[sc.i] == ' ' || sc.s[sc.i] == '\t') {
		sc.i++
	}
}

// skipBlank skips space, line breaks and comments.
func (sc *scanner) skipBlank() {
	for sc.i < len(sc.s) {
		switch sc.s[sc.i] {
		case ' ', '\t', '\n':
			sc.i++
		case '\r':
			if !strings.HasPrefix(sc.s[sc.i:], "\r\n") {
				return
			}
			sc.i++
		case '#':
			sc.toLineEnd()
		default:
			return
		}
	}
}

// toLineEnd goes to the line break, or to the end of the text.
func (sc *scanner) toLineEnd() {
	if n := strings.IndexByte(sc.s[sc.i:], '\n'); n >= 0 {
		sc.i += n
		return
	}
	sc.i = len(sc.s)
}

// nextLine goes behind the next line break.
func (sc *scanner) nextLine() {
	sc.toLineEnd()
	if sc.i < len(sc.s) {
		sc.i++
	}
}
