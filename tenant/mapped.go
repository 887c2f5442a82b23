package tenant

import (
	"fmt"
	"slices"
	"strings"
)

// Names are templates of a tenant's schema and role; empty = none. A name without {key} is one tenant's.
type Names struct{ Schema, Role Template }

// Mapped is what the mapping of a cluster, which says where keys live, gives to the tenants of its entries. Keys are in the form in which
// PostgreSQL prints them.
type Mapped struct {
	// Entries are the names that entries give. The others mean them by their number.
	Entries []Names
	// Find finds the entry of a key, -1 if it has none that gives names.
	Find func(key string) int
	// Listed yields the keys that entries list one by one.
	Listed func(yield func(key string, entry int) bool)
	// Open are the entries of whose keys there is no list.
	Open []int
	// KeyByte reports whether a key can have such a byte in it.
	KeyByte func(byte) bool
}

// mostTemplates bounds the templates of one mapping, which are compared with each other.
const mostTemplates = 256

// mappedNames are what the mapping of a cluster gives to a key.
func (r *Registry) mappedNames(cluster, key string) Names {
	m := r.o.Mapped[cluster]
	if m == nil || key == "" {
		return Names{}
	}
	if i := m.Find(key); i >= 0 {
		return m.Entries[i]
	}
	return Names{}
}

// makes reports whether a key of a cluster makes a tenant that has no entry.
func (r *Registry) makes(cluster, key string) bool {
	if n := r.mappedNames(cluster, key); n != (Names{}) {
		return r.madeByKey(n)
	}
	return r.byKey[cluster]
}

// addMapped checks what a mapping gives, and notes the names that have their tenants in no template.
func (r *Registry) addMapped(cluster string, m *Mapped) []Mistake {
	var wrong []Mistake
	fail := func(entry int, err error) {
		wrong = append(wrong, Mistake{Index: -1, Cluster: cluster, Entry: entry, Err: err})
	}
	for _, what := range []string{"schema", "role"} {
		if entry, err := r.clash(cluster, m, what); err != nil {
			fail(entry, err)
			return wrong
		}
	}
	for _, i := range m.Open {
		if n := m.Entries[i]; !r.madeByKey(n) {
			fail(i, r.errHalf(n))
		} else if err := n.check(); err != nil {
			fail(i, err)
		}
	}
	m.Listed(func(key string, i int) bool {
		n := m.Entries[i]
		switch own := r.keys[place{cluster, key}]; {
		case own != nil: // was completed with them
			return true
		case !r.madeByKey(n):
			fail(i, r.errHalf(n))
			return len(wrong) < mostMistakes
		}
		t := &Tenant{Name: key, Key: key, Cluster: cluster, Shard: -1}
		if err := r.completeWith(t, n); err != nil {
			fail(i, err)
			return len(wrong) < mostMistakes
		}
		if other := r.names[key]; other != nil {
			fail(i, fmt.Errorf("the tenant with key %q would have the name of tenant %q, which has another key", key, other.Name))
		}
		for _, o := range t.owned() {
			if other, taken := r.owners[o]; taken {
				fail(i, fmt.Errorf("tenants %q and %q have the same %s %q", other, t.Name, o.what, o.name))
				return len(wrong) < mostMistakes
			}
		}
		for _, o := range t.owned() {
			if tpl := n.of(o.what); tpl != "" && !tpl.Distinct() {
				r.owners[o] = t.Name
			}
		}
		return len(wrong) < mostMistakes
	})
	return wrong
}

// mostMistakes is how many are looked for in one mapping.
const mostMistakes = 20

// check looks at the names that a tenant would have whose key is short and means nothing.
func (n Names) check() error {
	for _, what := range []string{"schema", "role"} {
		if n.of(what) == "" {
			continue
		}
		s, err := n.of(what).Expand("", "0", "")
		if err != nil {
			return err
		}
		if bad := CheckIdent(s); bad != "" {
			return fmt.Errorf("a %s such as %q %s", what, s, bad)
		}
	}
	return nil
}

func (n Names) of(what string) Template {
	if what == "schema" {
		return n.Schema
	}
	return n.Role
}

// errHalf says what tenants lack to whom a mapping gives some of the names only.
func (r *Registry) errHalf(n Names) error {
	what, tpl := "schema", r.o.Schema
	if n.Schema != "" || r.o.Isolation != Schema {
		what, tpl = "role", r.o.Role
	}
	if r.o.Isolation == Database && n.Schema == "" {
		what, tpl = "database", r.o.Database
	}
	return fmt.Errorf("tenants of this entry need a %s as well, and template %q does not make one of a key", what, string(tpl))
}

// clash finds two entries that could give one name to two tenants.
func (r *Registry) clash(cluster string, m *Mapped, what string) (entry int, err error) {
	type used struct {
		tpl   Template
		entry int // -1: of the defaults
	}
	var open []used
	def := Names{Schema: r.o.Schema, Role: r.o.Role}.of(what)
	if r.byKey[cluster] && def.ByKey() && def.Distinct() && (r.o.Isolation == Schema || what == "role" && r.o.Mode == Strict) {
		open = append(open, used{def, -1})
	}
	for i, n := range m.Entries {
		tpl := n.of(what)
		if tpl == "" && r.madeByKey(n) && (n.Schema != "" || r.o.Isolation == Schema || what == "role" && r.o.Mode == Strict) {
			tpl = def
		}
		if tpl == "" || !tpl.Distinct() || slices.ContainsFunc(open, func(u used) bool { return u.tpl == tpl }) {
			continue
		}
		for _, u := range open {
			if mayClash(u.tpl, tpl, m.KeyByte) {
				return i, fmt.Errorf("templates %q and %q could give one %s to two tenants", string(u.tpl), string(tpl), what)
			}
		}
		if open = append(open, used{tpl, i}); len(open) > mostTemplates {
			return i, fmt.Errorf("the mapping has more than %d templates of a %s", mostTemplates, what)
		}
	}
	m.Listed(func(key string, i int) bool {
		name := m.Entries[i].of(what)
		if name == "" || name.Distinct() {
			return true
		}
		for _, u := range open {
			if own, e := u.tpl.Expand("", key, ""); e == nil && own == string(name) {
				continue
			}
			if other, ok := u.tpl.keyOf(string(name)); ok && u.entry >= 0 && other != "" {
				if n := m.Find(other); n < 0 || m.Entries[n].of(what) != u.tpl {
					continue
				}
			}
			if u.tpl.couldBe(string(name)) {
				entry, err = i, fmt.Errorf("%s %q is what template %q gives to another tenant", what, string(name), string(u.tpl))
				return false
			}
		}
		return true
	})
	return entry, err
}

// ownsSchema reports whether an entry with a template gives the schema to a tenant. Those without one are known by name.
func (m *Mapped) ownsSchema(schema string) bool {
	if m == nil || CheckIdent(schema) != "" {
		return false
	}
	var last Template
	for _, n := range m.Entries {
		if n.Schema == last || !n.Schema.Distinct() {
			continue
		}
		last = n.Schema
		if key, ok := n.Schema.keyOf(schema); ok {
			if i := m.Find(key); i >= 0 && m.Entries[i].Schema == n.Schema {
				return true
			}
		} else if n.Schema.couldBe(schema) {
			return true
		}
	}
	return false
}

// around is what stands before and behind the fields of a template that has some.
func (t Template) around() (before, after string) {
	before, rest, _ := strings.Cut(string(t), "{")
	return before, rest[strings.LastIndexByte(rest, '}')+1:]
}

// couldBe reports whether s may be an expansion of a template that has fields.
func (t Template) couldBe(s string) bool {
	before, after := t.around()
	return len(s) > len(before)+len(after) && strings.HasPrefix(s, before) && strings.HasSuffix(s, after)
}

// keyOf is the key of which s is the expansion, where the template has one field only; ok is false where it has more.
func (t Template) keyOf(s string) (key string, ok bool) {
	if strings.Count(string(t), "{") != 1 {
		return "", false
	}
	if !t.couldBe(s) {
		return "", true
	}
	before, after := t.around()
	return s[len(before) : len(s)-len(after)], true
}

// mayClash reports whether two templates may give one name to two keys. A name that both give begins and ends as both do; where one goes on while the
// other's key begins, that has to be a byte of a key.
func mayClash(a, b Template, keyByte func(byte) bool) bool {
	beforeA, afterA := a.around()
	beforeB, afterB := b.around()
	if len(beforeA) > len(beforeB) {
		beforeA, beforeB = beforeB, beforeA
	}
	if len(afterA) > len(afterB) {
		afterA, afterB = afterB, afterA
	}
	more, ok := strings.CutPrefix(beforeB, beforeA)
	if !ok || more != "" && !keyByte(more[0]) {
		return false
	}
	more, ok = strings.CutSuffix(afterB, afterA)
	return ok && (more == "" || keyByte(more[len(more)-1]))
}

// Listed calls f for each tenant without an entry whose key a mapping lists with names of its own, until it returns false.
func (r *Registry) Listed(cluster string, f func(*Tenant) bool) {
	m := r.o.Mapped[cluster]
	if m == nil {
		return
	}
	m.Listed(func(key string, _ int) bool {
		if r.keys[place{cluster, key}] != nil {
			return true
		}
		t := r.ByKey(cluster, key)
		return t == nil || f(t)
	})
}
