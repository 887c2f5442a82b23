package config

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// ruleTable reads the entries of mappings straight from the text, into offsets only: one million of them are a few
// dozen megabytes. They are decoded later, when the data type of their column is known.
type ruleTable struct {
	doc     *document
	scratch []uint32             // the values of the entry being read
	groups  map[ruleKey]*ruleSet // entries of [[sharded_mappings]] by what they apply to
	order   []*ruleSet           // the same, in the order of the file
	last    *ruleSet             // where the entry before went
}

// ruleKey says what an entry of [[sharded_mappings]] applies to. No table: any; no schema: any.
type ruleKey struct{ database, column, table, schema string }

// ruleSet is one mapping as it is written.
type ruleSet struct {
	key    ruleKey
	off    uint32 // of the first entry
	old    bool   // from [[sharded_mappings]]
	broken bool   // an entry was refused: what seems to be missing may be there
	used   bool   // a sharded table has it

	lists    []rawList
	values   []uint32 // offsets of the lists' values, one list after the other
	ranges   []rawRange
	defaults []rawDefault
	names    []rawNames
	named    map[uint32]int32 // the numbers of entries in names, from 1, by offset of their shard: most have none
}

// rawNames are the names that an entry gives to its tenants.
type rawNames struct {
	tenant.Names
	off uint32 // of the entry
}

type rawList struct {
	n        uint32 // number of values
	shardOff uint32
	shard    topology.ShardID
}

// rawRange has the offsets of its bounds; 0 is an open end, as no value stands at the beginning of a file.
type rawRange struct {
	start, end uint32
	shardOff   uint32
	shard      topology.ShardID
}

type rawDefault struct {
	shardOff uint32
	shard    topology.ShardID
}

// ruleEntry is the entry being read.
type ruleEntry struct {
	set      *ruleSet // nil: [[sharded_mappings]], decided by key at the end
	old      bool
	off      uint32
	bad      bool
	seen     uint16
	key      ruleKey
	kind     string
	kindOff  uint32
	start    uint32
	end      uint32
	values   uint32 // offset
	shard    topology.ShardID
	shardOff uint32
	names    tenant.Names
}

// The keys of an entry, by bit of ruleEntry.seen. In [[sharded_mappings]] schema is the table's, as PgDog has it.
var (
	entryKeys    = []string{"values", "start", "end", "shard", "role", "schema"}
	oldEntryKeys = []string{"values", "start", "end", "shard", "role", "tenant_schema", "database", "column", "table", "schema", "kind"}
)

const (
	seenValues = 1 << iota
	seenStart
	seenEnd
	seenShard
	seenRole
	seenTenantSchema
	seenDatabase
	seenColumn
	seenTable
	seenSchema
	seenKind
)

// openRule begins the entry of a header [[sharded_mappings]] or [[sharded_tables.mapping]].
func (sc *scanner) openRule(parent, c *node, path []keyPart, double bool, start int) bool {
	name := joinPath(path)
	if !double {
		sc.fail(start, "write [["+name+"]] for each entry", "[%s] is a list of sections", name)
		return false
	}
	old := len(path) == 1
	if t := sc.doc.root.child("sharded_tables"); !old && t.kind != tablesNode {
		sc.fail(start, "put it under the [[sharded_tables]] it belongs to", "[[%s]] stands before any [[sharded_tables]]", name)
		return false
	}
	switch {
	case c == nil:
		c = parent.add(path[len(path)-1].name, offset(start), tablesNode)
		c.rules = &ruleSet{off: offset(start), old: old}
	case c.kind != tablesNode:
		sc.clash(path, c, start, true)
		return false
	}
	sc.cur = parent
	sc.beginRule(c.rules, offset(start))
	return true
}

func (sc *scanner) beginRule(set *ruleSet, off uint32) {
	sc.entry = ruleEntry{set: set, old: set.old, off: off}
	sc.rule = &sc.entry
	sc.doc.rules.scratch = sc.doc.rules.scratch[:0]
}

// ruleLine reads the value of a key of an entry that has a header.
func (sc *scanner) ruleLine(path []keyPart) {
	if !sc.ruleValue(path) {
		sc.rule.bad = true
		sc.recover()
		return
	}
	if !sc.lineEnd("the value") {
		sc.rule.bad = true
	}
}

// ruleArray reads mapping = [ {...}, {...} ].
func (sc *scanner) ruleArray(n *node) bool {
	start := sc.i
	sc.i++
	n.kind = arrayNode
	for {
		sc.skipBlank()
		if !sc.inside(start, "array", "]") {
			n.rules.broken = true
			return false
		}
		switch sc.s[sc.i] {
		case ']':
			sc.i++
			return true
		case '{':
			if !sc.ruleTable(n.rules) {
				return false
			}
		default:
			sc.fail(sc.i, "write { values = [1, 2], shard = 0 }, { start = 1, end = 10, shard = 0 } or { shard = 0 }", "an entry of a mapping is a table in braces")
			n.rules.broken = true
			if !sc.valueAt(nil, 1) {
				return false
			}
		}
		sc.skipBlank()
		if !sc.inside(start, "array", "]") {
			n.rules.broken = true
			return false
		}
		switch sc.s[sc.i] {
		case ',':
			sc.i++
		case ']':
		default:
			sc.fail(sc.i, "separate the entries by commas", "there is no comma or ] after an entry of the mapping")
			n.rules.broken = true
			return false
		}
	}
}

// ruleTable reads one entry in braces.
func (sc *scanner) ruleTable(set *ruleSet) bool {
	start := sc.i
	sc.beginRule(set, offset(start))
	e := sc.rule
	sc.rule = nil
	sc.i++
	ok := sc.ruleBraces(e, start)
	if !ok {
		e.bad = true
	}
	sc.doc.rules.end(e)
	return ok
}

func (sc *scanner) ruleBraces(e *ruleEntry, start int) bool {
	for {
		sc.skipBlank()
		if !sc.inside(start, "table", "}") {
			return false
		}
		if sc.s[sc.i] == '}' {
			sc.i++
			return true
		}
		path, ok := sc.keyPath()
		if !ok {
			return false
		}
		if sc.i >= len(sc.s) || sc.s[sc.i] != '=' {
			sc.fail(sc.i, "write { key = value, key = value }", "there is no = after the key")
			return false
		}
		sc.i++
		sc.skipSpace()
		sc.rule = e
		ok = sc.ruleValue(path)
		sc.rule = nil
		if !ok {
			return false
		}
		sc.skipBlank()
		switch {
		case sc.i < len(sc.s) && sc.s[sc.i] == ',':
			sc.i++
		case sc.i < len(sc.s) && sc.s[sc.i] == '}':
		case sc.statementAhead(true):
			sc.fail(start, "close it with }", "the table that begins here has no end")
			return false
		default:
			sc.fail(sc.i, "separate the keys by commas", "there is no comma or } after a value of the table")
			return false
		}
	}
}

// ruleValue reads the value of one key of the current entry. False: the text is broken.
func (sc *scanner) ruleValue(path []keyPart) bool {
	e, key, off := sc.rule, path[0], offset(sc.i)
	known := entryKeys
	if e.old {
		known = oldEntryKeys
	}
	bit := slices.Index(known, key.name)
	at := sc.doc.at(offset(key.off))
	if bit < 0 || len(path) > 1 {
		sc.unknownRuleKey(e, joinPath(path), at, known)
		return sc.valueAt(nil, 1)
	}
	if e.seen&(1<<bit) != 0 {
		sc.doc.r.fail(at, "keep one of them", "%s is set twice in one entry of a mapping", key.name)
		sc.doc.broken, e.bad = true, true
	}
	e.seen |= 1 << bit
	switch 1 << bit {
	case seenValues:
		e.values = off
		if sc.i < len(sc.s) && sc.s[sc.i] == '[' {
			return sc.ruleValues()
		}
		if !sc.valueAt(nil, 1) {
			return false
		}
		sc.ruleType(e, off, "values", "an array", "write values = [...]")
	case seenStart:
		e.start = off
		return sc.valueAt(nil, 1)
	case seenEnd:
		e.end = off
		return sc.valueAt(nil, 1)
	case seenShard:
		if !sc.valueAt(nil, 1) {
			return false
		}
		e.shardOff = off
		n, msg := parseInt(sc.s[off:sc.i])
		switch {
		case msg != "":
			sc.ruleType(e, off, "shard", "the number of a shard", "write it without quotes")
		case n < 0 || n > maxShard:
			sc.doc.r.fail(sc.doc.at(off), "shards are numbered from 0", "%d is not the number of a shard", n)
			e.bad = true
		}
		e.shard = shardID(n)
	default:
		if !sc.valueAt(nil, 1) {
			return false
		}
		sc.ruleText(e, 1<<bit, off, key.name)
	}
	return true
}

// ruleText keeps one of the keys that name something.
func (sc *scanner) ruleText(e *ruleEntry, bit int, off uint32, key string) {
	tok := sc.s[off:sc.i]
	if tok[0] != '"' && tok[0] != '\'' {
		sc.ruleType(e, off, key, "a text", "write it in quotes")
		return
	}
	text, msg := unquote(tok)
	if msg != "" {
		sc.fail(int(off), "", "%s", msg)
		e.bad = true
	}
	switch bit {
	case seenRole, seenTenantSchema:
		if text == "" && msg == "" {
			sc.doc.r.fail(sc.doc.at(off), "leave the key out", "%s of a mapping is empty", key)
			e.bad = true
		}
		if bit == seenRole {
			e.names.Role = tenant.Template(strings.Clone(text)) // and not the whole file
		} else {
			e.names.Schema = tenant.Template(strings.Clone(text))
		}
	case seenDatabase:
		e.key.database = text
	case seenColumn:
		e.key.column = text
	case seenTable:
		e.key.table = text
	case seenSchema:
		e.key.schema = text
	case seenKind:
		e.kind, e.kindOff = text, off
	}
}

func (sc *scanner) ruleType(e *ruleEntry, off uint32, key, want, hint string) {
	sc.doc.r.fail(sc.doc.at(off), hint, "%s of a mapping must be %s", key, want)
	e.bad = true
}

func (sc *scanner) unknownRuleKey(e *ruleEntry, name string, at place, known []string) {
	hint := didYouMean(name, known)
	if !e.old && name == "kind" {
		hint = "this form has no kind: an entry has values and shard, or start, end and shard, or shard alone for the rest"
	}
	section := "[[sharded_tables.mapping]]"
	if e.old {
		section = "[[sharded_mappings]]"
	}
	sc.doc.r.fail(at, hint, "unknown key %q in %s", name, section)
	e.bad = true
}

// ruleValues reads values = [ ... ], noting only where each value stands.
func (sc *scanner) ruleValues() bool {
	open := sc.i
	sc.i++
	out := sc.doc.rules.scratch
	defer func() { sc.doc.rules.scratch = out }()
	for {
		sc.skipBlank()
		if !sc.inside(open, "array", "]") {
			return false
		}
		if sc.s[sc.i] == ']' {
			sc.i++
			return true
		}
		out = append(out, offset(sc.i))
		if c := sc.s[sc.i]; isDigit(c) || c == '-' || c == '+' {
			sc.token()
		} else if !sc.valueAt(nil, 1) {
			return false
		}
		sc.skipBlank()
		if !sc.inside(open, "array", "]") {
			return false
		}
		switch sc.s[sc.i] {
		case ',':
			sc.i++
		case ']':
		default:
			sc.fail(sc.i, "separate the values by commas", "there is no comma or ] after a value of the array")
			return false
		}
	}
}

// end checks an entry by itself and adds it to its set.
func (rt *ruleTable) end(e *ruleEntry) {
	r, at := rt.doc.r, rt.doc.at(e.off)
	has := func(bits uint16) bool { return e.seen&bits != 0 }
	if !e.bad {
		if !has(seenShard) {
			r.fail(at, "add shard = 0, or whichever it is", "an entry of a mapping names no shard")
			e.bad = true
		}
		if e.old {
			rt.checkOld(e, r, at)
		} else if has(seenValues) && has(seenStart|seenEnd) {
			r.fail(at, "make two entries of it", "an entry of a mapping has either values or start and end, not both")
			e.bad = true
		}
	}
	set := e.set
	if e.old {
		set = rt.group(e)
	}
	if e.bad {
		set.broken = true
		return
	}
	if e.names != (tenant.Names{}) {
		if set.named == nil {
			set.named = map[uint32]int32{}
		}
		set.names = append(set.names, rawNames{e.names, e.off})
		set.named[e.shardOff] = int32(len(set.names)) //nolint:gosec // smaller than the file
	}
	switch {
	case has(seenValues):
		if len(rt.scratch) == 0 {
			r.fail(rt.doc.at(e.values), "list the values that live on the shard, or remove the entry", "values is empty")
			return
		}
		set.lists = append(set.lists, rawList{offset(len(rt.scratch)), e.shardOff, e.shard})
		if len(set.values) == 0 && len(rt.scratch) > 1024 {
			set.values, rt.scratch = rt.scratch, nil // a long list is handed over, not copied
		} else {
			set.values = append(set.values, rt.scratch...)
		}
	case has(seenStart | seenEnd):
		set.ranges = append(set.ranges, rawRange{e.start, e.end, e.shardOff, e.shard})
	default:
		set.defaults = append(set.defaults, rawDefault{e.shardOff, e.shard})
	}
}

// checkOld checks what only [[sharded_mappings]] has: kind, and what it applies to.
func (rt *ruleTable) checkOld(e *ruleEntry, r *report, at place) {
	missing := func(bit uint16, key string) {
		if e.seen&bit == 0 {
			r.fail(at, "", "[[sharded_mappings]] needs the key %s", key)
			e.bad = true
		}
	}
	missing(seenDatabase, "database")
	missing(seenColumn, "column")
	if e.seen&seenKind == 0 {
		r.fail(at, `write kind = "list", "range" or "default"`, "[[sharded_mappings]] needs the key kind")
		e.bad = true
		return
	}
	var allowed, needed uint16
	switch e.kind {
	case "list":
		allowed, needed = seenValues, seenValues
	case "range":
		allowed, needed = seenStart|seenEnd, seenStart|seenEnd
	case "default":
	default:
		r.fail(rt.doc.at(e.kindOff), "it is one of list, range, default", "%q is not a kind of mapping", e.kind)
		e.bad = true
		return
	}
	if extra := e.seen & (seenValues | seenStart | seenEnd) &^ allowed; extra != 0 {
		var names []string
		for i, n := range entryKeys {
			if extra&(1<<i) != 0 {
				names = append(names, n)
			}
		}
		r.fail(at, "", "a mapping of kind %q has no %s", e.kind, strings.Join(names, " and no "))
		e.bad = true
	}
	if needed != 0 && e.seen&needed == 0 {
		want := "values = [...]"
		if e.kind == "range" {
			want = "start, end, or both"
		}
		r.fail(at, "add "+want, "a mapping of kind %q names no values", e.kind)
		e.bad = true
	}
}

// group finds the set of an entry of [[sharded_mappings]].
func (rt *ruleTable) group(e *ruleEntry) *ruleSet {
	if rt.last != nil && rt.last.key == e.key {
		return rt.last
	}
	set := rt.groups[e.key]
	if set == nil {
		// The key's texts are parts of the file, which is not to be kept for them.
		k := ruleKey{strings.Clone(e.key.database), strings.Clone(e.key.column), strings.Clone(e.key.table), strings.Clone(e.key.schema)}
		set = &ruleSet{key: k, off: e.off, old: true}
		if rt.groups == nil {
			rt.groups = map[ruleKey]*ruleSet{}
		}
		rt.groups[k] = set
		rt.order = append(rt.order, set)
	}
	rt.last = set
	return set
}
