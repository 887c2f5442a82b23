package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// maxItems bounds the messages of a batch that are looked at together: what is known of each takes more memory than a short one itself.
const maxItems = 4 << 10

// maxPending bounds the messages of a pipeline that a server has been sent and has not answered, before more are looked at.
const maxPending = 2 * maxItems

// unindexed is how many items at the end of a batch are looked through one by one.
const unindexed = 64

// index finds the items of a long batch by name: a client may send as many as it likes, and no look at one of them may cost a look at all.
type index struct {
	n          int            // items at the front of the batch that it covers
	statements map[string]int // the latest Parse, or Close, of a name
	portals    map[string]int // the latest Bind
	declared   int            // the latest Execute of DECLARE; -1 = none
}

// unindex makes the index forget the items behind the first n.
func (u *unit) unindex(n int) {
	if u.named.n > n {
		u.named = index{}
	}
}

// reindex extends the index over the items, if that is worth it.
func (u *unit) reindex() {
	x := &u.named
	if len(u.items)-x.n <= unindexed {
		return
	}
	if x.n == 0 {
		*x = index{statements: make(map[string]int), portals: make(map[string]int), declared: -1}
	}
	for ; x.n < len(u.items); x.n++ {
		switch it := &u.items[x.n]; {
		case it.names():
			x.statements[it.name] = x.n
		case it.typ == pgwire.MsgBind:
			x.portals[it.portal] = x.n
		case it.declares():
			x.declared = x.n
		}
	}
}

// names reports whether what a name of a statement stands for is different behind the item.
func (it *item) names() bool {
	return it.typ == pgwire.MsgParse || it.typ == pgwire.MsgClose && it.target == pgwire.TargetStatement
}

// parsed is what an item makes its name stand for; nil = nothing.
func (it *item) parsed() *state.Prepared {
	if it.typ == pgwire.MsgParse {
		return it.prep
	}
	return nil
}

// declares reports whether the item may make a portal that is not known here.
func (it *item) declares() bool {
	if it.typ != pgwire.MsgExecute {
		return false
	}
	st := it.statement()
	return st != nil && st.Kind == parser.Declare
}

// forgets reports whether behind st a name, or every name, of a prepared statement stands for nothing.
func forgets(st *parser.Statement) bool {
	return st != nil && (st.Kind == parser.Deallocate || st.Kind == parser.Discard && st.Name == "ALL")
}

// namesUpTo is how many items can be looked at together: those behind the Execute of a PREPARE may be about what that makes, and behind that of a DEALLOCATE
// or DISCARD ALL names stand for nothing.
func (s *Session) namesUpTo() int {
	items := s.unit.items
	for i := range items {
		it := &items[i]
		if it.typ != pgwire.MsgExecute {
			continue
		}
		var about func(*item) bool
		switch st := it.statement(); {
		case st == nil:
			continue
		case st.Kind == parser.Prepare && it.renames:
			about = func(later *item) bool {
				return later.expanded != nil || later.typ == pgwire.MsgParse && later.name == st.Name
			}
		case forgets(st):
			about = func(later *item) bool { return later.name != "" }
		default:
			continue
		}
		for j := i + 1; j < len(items); j++ {
			if about(&items[j]) {
				return i + 1
			}
		}
	}
	return len(items)
}

// statement finds a prepared statement by name: in the batch being decoded, latest first, else the session's.
func (s *Session) statement(name []byte) *state.Prepared {
	p, _ := s.find(name)
	return p
}

// find is statement; here says that it is of the batch.
func (s *Session) find(name []byte) (p *state.Prepared, here bool) {
	s.unit.reindex()
	for i := len(s.unit.items) - 1; i >= s.unit.named.n; i-- {
		if it := &s.unit.items[i]; it.names() && it.name == string(name) {
			return it.parsed(), true
		}
	}
	if i, ok := s.unit.named.statements[string(name)]; ok {
		return s.unit.items[i].parsed(), true
	}
	if len(name) == 0 {
		return s.unnamed, false
	}
	if n := s.names[string(name)]; n != nil {
		return n.prep, false
	}
	return nil, false
}

// prepared is what the session has by a name; nil = nothing.
func (s *Session) prepared(name string) *state.Prepared {
	if name == "" {
		return s.unnamed
	}
	if n := s.names[name]; n != nil {
		return n.prep
	}
	return nil
}

// bound finds what a portal runs, with the names of settings that its Bind gave: by the batch being decoded, else by what was bound before.
func (s *Session) bound(name string) (p *state.Prepared, named *parser.Message) {
	s.unit.reindex()
	for i := len(s.unit.items) - 1; i >= s.unit.named.n; i-- {
		it := &s.unit.items[i]
		if it.typ == pgwire.MsgBind && it.portal == name {
			return it.prep, it.named
		}
		if it.declares() {
			return nil, nil // it may be its cursor: the server knows
		}
	}
	if x := &s.unit.named; x.n > 0 {
		i, ok := x.portals[name]
		if x.declared >= 0 && (!ok || x.declared > i) {
			return nil, nil
		}
		if ok {
			return s.unit.items[i].prep, s.unit.items[i].named
		}
	}
	was := s.portalOf(name)
	return was.prep, was.named
}
