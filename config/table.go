package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxShard is the largest number a shard may have.
const maxShard = 1<<20 - 1

// maxMillis is the longest duration that means anything; PgDog's own defaults for "never" are far beyond it.
const maxMillis = 100 * 366 * 24 * 3600 * 1000

// value is the checked value of a key, or its default.
type value struct {
	key   *key
	set   bool  // written somewhere
	bad   bool  // written, but of no use; what depends on it can't be judged
	at    place // where, while the file is at hand; later where
	where string
	i     int64
	s     string
	b     bool
	f     float64
	list  []string
}

// table is a section as it was written: checked values by key.
type table struct {
	sec    *section
	doc    *document
	off    uint32
	broken bool
	node   *node
	vals   map[string]value
	pinned bool
}

// emptyTable is a section that is not there.
func emptyTable(s *section) *table { return &table{sec: s, vals: map[string]value{}} }

// readTable checks the keys of one section against what it may have, and reports every mistake and every key that is
// not obeyed.
func readTable(d *document, s *section, m map[string]any, n *node, r *report) *table {
	t := &table{sec: s, doc: d, vals: make(map[string]value, len(m)), node: n}
	if n != nil {
		t.off, t.broken = n.off, n.broken
	}
	for _, name := range sortedKeys(m, n) {
		at, valAt := t.at(), t.at()
		c := n.child(name)
		if c != nil {
			at, valAt = d.at(c.off), d.at(c.val)
		}
		k := s.byName[name]
		if k == nil {
			if !s.any {
				r.fail(at, t.unknownHint(name), "unknown key %q in %s", name, s.header())
				if near := s.byName[nearest(name, s.names())]; near != nil && (near.required || near.wanted) && m[near.name] == nil {
					t.vals[near.name] = value{key: near, set: true, bad: true, at: at} // it is there, misspelled
				}
			}
			continue
		}
		if prev, ok := t.vals[k.name]; ok {
			r.fail(at, "keep one of them", "%s and %s are the same key; the other is %s", k.name, k.alias, prev.at)
			continue
		}
		v := k.check(m[name], valAt, c, r)
		v.set, v.at = true, at
		t.vals[k.name] = v
		warnNotYet(v, r)
	}
	if !t.broken {
		for _, k := range s.keys {
			if k.required && !t.has(k.name) {
				r.fail(t.at(), "", "%s needs the key %s", s.header(), k.name)
				t.vals[k.name] = value{key: k, bad: true}
			}
		}
	}
	return t
}

func (t *table) at() place { return place{doc: t.doc, off: t.off} }

func (t *table) unknownHint(name string) string {
	if near := nearest(name, t.sec.names()); near != "" {
		return "did you mean " + near + "?"
	}
	for _, s := range sections {
		if s.byName[name] != nil && s != t.sec && !s.users && !s.notYet {
			return name + " is a key of " + s.header()
		}
	}
	return didYouMean(name, t.sec.names())
}

// warnNotYet says that a key of PgDog's is ignored, unless it is set to what PgDog would do anyway.
func warnNotYet(v value, r *report) {
	if !v.key.notYet || v.bad || v.isDefault() {
		return
	}
	r.warn(v.at, "it is ignored", "key %q is PgDog's and not yet supported by pgkennel", v.key.name)
}

// isDefault says whether v is what the key's default is.
func (v value) isDefault() bool {
	d := v.key.defaultValue()
	switch v.key.kind {
	case kBool:
		return v.b == d.b
	case kInt, kPort, kMillis:
		return v.i == d.i && v.key.def != "" || v.key.kind == kMillis && v.key.def == "" && v.i >= maxMillis
	case kFloat:
		return v.f == d.f
	case kText, kSecret, kPath, kEnum, kKey:
		return v.s == d.s
	case kTexts, kSecrets, kRules:
		return len(v.list) == 0
	case kAny:
	}
	return false
}

// check turns a decoded value into one of the key's kind, or reports why it can't be one.
func (k *key) check(x any, at place, n *node, r *report) value {
	v := value{key: k, set: true, at: at}
	switch k.kind {
	case kText, kSecret, kPath, kEnum:
		s, ok := x.(string)
		if !ok {
			return k.wrong(x, at, r)
		}
		v.s = s
	case kBool:
		b, ok := x.(bool)
		if !ok {
			return k.wrong(x, at, r)
		}
		v.b = b
	case kInt, kPort, kMillis:
		i, ok := x.(int64)
		if !ok {
			return k.wrong(x, at, r)
		}
		v.i = i
	case kFloat:
		switch x := x.(type) {
		case float64:
			v.f = x
		case int64:
			v.f = float64(x)
		default:
			return k.wrong(x, at, r)
		}
	case kTexts, kSecrets:
		list, ok := x.([]any)
		if !ok {
			return k.wrong(x, at, r)
		}
		for i, e := range list {
			ea := at
			if n != nil && i < len(n.elems) {
				ea = place{doc: at.doc, off: n.elems[i].off}
			}
			s, ok := e.(string)
			if !ok {
				r.fail(ea, "", "%s must be an array of texts, not of %s", k.name, typeName(e))
				v.bad = true
				continue
			}
			v.list = append(v.list, s)
		}
	case kKey:
		switch x := x.(type) {
		case int64:
			v.s, v.b = strconv.FormatInt(x, 10), true
		case string:
			v.s = x
		default:
			return k.wrong(x, at, r)
		}
	case kRules:
		if n == nil || n.rules == nil {
			return k.wrong(x, at, r)
		}
	case kAny:
	}
	return k.checkRange(v, r)
}

// checkRange checks what the type alone does not say.
func (k *key) checkRange(v value, r *report) value {
	bad := func(hint, format string, args ...any) value {
		r.fail(v.at, hint, format, args...)
		v.bad = true
		return v
	}
	switch k.kind {
	case kEnum:
		if s := strings.ToLower(strings.ReplaceAll(v.s, "-", "_")); slices.Contains(k.legal, s) {
			v.s = s
			return v
		}
		hint := "it is one of " + strings.Join(k.legal, ", ")
		if slices.Contains(k.refused, strings.ToLower(v.s)) {
			return bad(hint, "%s = %q is PgDog's and not supported by pgkennel", k.name, v.s)
		}
		return bad(hint, "%q is no value of %s", v.s, k.name)
	case kPort:
		if v.i < 1 || v.i > 65535 {
			return bad("ports go from 1 to 65535", "%s = %d is not a port", k.name, v.i)
		}
	case kInt, kMillis:
		unit := ""
		if k.kind == kMillis {
			unit = " ms"
		}
		switch {
		case v.i < 0:
			return bad("", "%s = %d is negative", k.name, v.i)
		case v.i < k.min && k.def == "" && k.kind == kMillis:
			return bad("leave the key out for no limit", "%s = 0 would end everything at once", k.name)
		case v.i < k.min:
			return bad("", "%s = %d is too small, it must be at least %d%s", k.name, v.i, k.min, unit)
		case k.max > 0 && v.i > k.max:
			return bad("", "%s = %d is too large, it must be at most %d%s", k.name, v.i, k.max, unit)
		}
	case kText, kPath, kKey:
		if strings.ContainsRune(v.s, 0) {
			return bad("", "%s holds a NUL character", k.name)
		}
		if (k.required || k.wanted) && v.s == "" {
			return bad("", "%s is empty", k.name)
		}
	case kSecret, kSecrets:
		for _, s := range append([]string{v.s}, v.list...) {
			if s == redacted {
				r.warn(v.at, "put the real one there", "%s is %s, which pgkennel prints in place of a secret", k.name, redacted)
			}
		}
	case kBool, kFloat, kTexts, kRules, kAny:
	}
	return v
}

// wrong reports a value of another type. It never shows the value: it may be a secret.
func (k *key) wrong(x any, at place, r *report) value {
	want, hint := "", ""
	switch k.kind {
	case kText, kSecret, kPath, kEnum:
		want, hint = "a text", "write it in quotes"
	case kBool:
		want, hint = "true or false", "write it without quotes"
	case kInt, kPort:
		want = "a number"
	case kMillis:
		want, hint = "a number of milliseconds", "5 seconds are 5_000"
	case kFloat:
		want = "a number"
	case kTexts, kSecrets:
		want, hint = "an array of texts", `write `+k.name+` = ["..."]`
	case kKey:
		want = "a number or a text"
	case kRules:
		want, hint = "a list of tables", "write [[sharded_tables.mapping]] for each entry"
	case kAny:
	}
	if s, ok := x.(string); ok && (k.kind == kInt || k.kind == kPort || k.kind == kMillis) {
		if _, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64); err == nil {
			hint = "write it without quotes"
		}
	}
	r.fail(at, hint, "%s must be %s, not %s", k.name, want, typeName(x))
	return value{key: k, set: true, bad: true, at: at}
}

func typeName(x any) string {
	switch x.(type) {
	case string:
		return "a text"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case []any:
		return "an array"
	case map[string]any:
		return "a section"
	case []map[string]any:
		return "a list of sections"
	}
	return fmt.Sprintf("a %T", x)
}

// value returns what a key is set to, or its default. A key that the section does not have is our bug.
func (t *table) value(name string) value {
	v, ok := t.vals[name]
	if ok && !v.bad {
		return v
	}
	k := t.sec.byName[name]
	if k == nil {
		panic("config: section " + t.sec.name + " has no key " + name)
	}
	d := k.defaultValue()
	d.set, d.bad, d.at = ok, v.bad, v.at
	return d
}

// has says whether a key is set, well or badly.
func (t *table) has(name string) bool { _, ok := t.vals[name]; return ok && t.vals[name].set }

// usable says whether a key is set to something that can be used.
func (t *table) usable(name string) bool { v, ok := t.vals[name]; return ok && v.set && !v.bad }

// badKey says whether what was written for a key is of no use, or can't be known.
func (t *table) badKey(name string) bool { return t.vals[name].bad || t.broken && !t.has(name) }

func (t *table) text(name string) string   { return t.value(name).s }
func (t *table) secret(name string) Secret { return Secret(t.value(name).s) }
func (t *table) bool(name string) bool     { return t.value(name).b }
func (t *table) int(name string) int       { return int(min(t.value(name).i, math.MaxInt)) }

// millis returns a duration; 0 if it is not set and has no default.
func (t *table) millis(name string) time.Duration {
	return time.Duration(min(t.value(name).i, maxMillis)) * time.Millisecond
}

// placeOf is where a key is set, or where the section is.
func (t *table) placeOf(name string) place {
	if v, ok := t.vals[name]; ok && v.set {
		return v.at
	}
	return t.at()
}

// pin turns places into texts and lets go of the document.
func (t *table) pin() {
	if t.pinned {
		return
	}
	for name, v := range t.vals {
		v.where, v.at = v.at.String(), place{}
		t.vals[name] = v
	}
	t.pinned, t.doc, t.node = true, nil, nil
}
