package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// Prepared statements whose Message stands for other texts, too: those that differ in their constants.

// asInput is input for a prepared statement.
func (s *Session) asInput(p *state.Prepared, params router.Params) *router.Input {
	in := s.input(params)
	if p.Message.Shaped {
		in.Text, in.Literals = parser.BytesOf(p.SQL), p.Literals
	}
	return in
}

// itself is the route of a prepared statement's text parsed for itself; nil where it waits for that.
func (s *Session) itself(p *state.Prepared) *router.Route {
	m := p.Own()
	if m == nil {
		if m = s.parse(parser.BytesOf(p.SQL), nil, byItself); m == nil {
			return nil
		}
		p.SetOwn(m)
	}
	return s.rtr.Route(m, s.env())
}

// refuses says what is against a prepared statement whatever its parameters; router.ErrNeedsText where that waits for a parse.
func (s *Session) refuses(p *state.Prepared) *pgwire.Error {
	refusal := s.describable(s.rtr.Route(p.Message, s.env()), s.asInput(p, nil))
	if refusal == router.ErrNeedsText {
		rt := s.itself(p)
		if rt == nil {
			return refusal
		}
		refusal = s.describable(rt, s.input(nil))
	}
	return refusal
}

// refusesItem is refuses for the statement of a message.
func (s *Session) refusesItem(it *item) *pgwire.Error {
	if it.expanded != nil {
		return s.describable(s.rtr.Route(it.expanded, s.env()), s.input(nil))
	}
	return s.refuses(it.prep)
}

// putOff is dropItems for a batch that waits for a text: its statements are kept until it comes again, lest they be parsed anew for ever where
// the cache does not keep them.
func (s *Session) putOff() {
	for i := range s.unit.items {
		if it := &s.unit.items[i]; it.typ == pgwire.MsgParse && !it.kept {
			s.unit.late = append(s.unit.late, it.prep)
			it.kept = true
		}
	}
	s.dropItems()
}

// drop gives up statements.
func (s *Session) drop(list []*state.Prepared) {
	for _, p := range list {
		s.sh.Registry.Drop(p)
	}
}
