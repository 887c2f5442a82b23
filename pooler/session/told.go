package session

import (
	"hash/maphash"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// told are the parameters as a client knows them: those of its server, but for its own. It is immutable, for many clients know the same;
// the nil one is empty.
type told struct {
	server []pgwire.Param // the cluster's
	own    []pgwire.Param // in the order of their names
}

// consoleParameters are those of the admin database.
var consoleParameters = []pgwire.Param{
	{Name: "server_version", Value: ConsoleVersion},
	{Name: "client_encoding", Value: "UTF8"},
	{Name: "standard_conforming_strings", Value: "on"},
	{Name: "DateStyle", Value: "ISO, MDY"},
	{Name: "integer_datetimes", Value: "on"},
	{Name: "server_encoding", Value: "UTF8"},
}

// find returns where own has the name, or where it would be.
func (t *told) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.own, name, func(p pgwire.Param, n string) int { return strings.Compare(p.Name, n) })
}

// get returns the parameter called name.
func (t *told) get(name string) (value string, ok bool) {
	if t == nil {
		return "", false
	}
	if i, ok := t.find(name); ok {
		return t.own[i].Value, true
	}
	for i := range t.server {
		if t.server[i].Name == name {
			return t.server[i].Value, true
		}
	}
	return "", false
}

// value is that of the parameter called name, empty if there is none.
func (t *told) value(name string) string {
	v, _ := t.get(name)
	return v
}

// with returns the same parameters but for one.
func (t *told) with(name, value string) *told {
	if v, ok := t.get(name); ok && v == value {
		return t
	}
	changed := &told{}
	if t != nil {
		changed.server, changed.own = t.server, slices.Clone(t.own)
	}
	p := pgwire.Param{Name: name, Value: value}
	if i, ok := changed.find(name); ok {
		changed.own[i] = p
	} else {
		changed.own = slices.Insert(changed.own, i, p)
	}
	return changed
}

var (
	known state.Interned[told]
	seed  = maphash.MakeSeed()
)

// first tells the lists of servers apart.
func (t *told) first() *pgwire.Param {
	if len(t.server) == 0 {
		return nil
	}
	return &t.server[0]
}

// shared returns the same parameters as others hold them.
func (t *told) shared() *told {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, t.first())
	for _, p := range t.own {
		maphash.WriteComparable(&h, p)
	}
	return known.Unify(t, h.Sum64(), func(a, b *told) bool {
		return len(a.server) == len(b.server) && a.first() == b.first() && slices.Equal(a.own, b.own)
	})
}
