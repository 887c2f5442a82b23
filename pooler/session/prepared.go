package session

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// named is what a name of a client's stands for, and what the client was told of that.
type named struct {
	prep *state.Prepared
	told state.Shape
}

// parsed points the name of a Parse at its statement. It returns the Ref of the change.
func (s *Session) parsed(it *item) int32 {
	if it.kept {
		s.unit.undo = append(s.unit.undo, undo{kept: true})
		return int32(len(s.unit.undo)) //nolint:gosec // bounded by maxPending and a batch's messages
	}
	return s.setName(it.name, it.prep)
}

// setName points a prepared statement's name at p, nil = nowhere, and remembers how to take that back. It returns the Ref of the change.
func (s *Session) setName(name string, p *state.Prepared) int32 {
	u := undo{name: name, prev: s.prepared(name), named: s.names[name]}
	s.unit.undo = append(s.unit.undo, u)
	if name == "" {
		s.point(name, p, nil)
		s.unnamedTold = nil
	} else {
		s.point(name, p, &named{prep: p})
	}
	return int32(len(s.unit.undo)) //nolint:gosec // bounded by maxPending and a batch's messages
}

// point points a name at p, and returns what it stood for; n is its entry where it has one.
func (s *Session) point(name string, p *state.Prepared, n *named) (prev *state.Prepared) {
	prev = s.prepared(name)
	switch {
	case name == "":
		s.unnamed = p
	case p == nil:
		delete(s.names, name)
	case s.names == nil:
		s.names = map[string]*named{name: n}
	default:
		s.names[name] = n
	}
	if prev != nil {
		s.bytes -= int32(prev.Bytes() + len(name)) //nolint:gosec // less than Shared.Statements
	}
	if p != nil {
		s.bytes += int32(p.Bytes() + len(name)) //nolint:gosec // as above
	}
	return prev
}

// revert takes back the changes from ref on: their messages did not run.
func (s *Session) revert(ref int32) {
	for i := len(s.unit.undo) - 1; i >= int(ref)-1 && i >= 0; i-- {
		if u := s.unit.undo[i]; !u.kept {
			s.sh.Registry.Drop(s.point(u.name, u.prev, u.named))
			if u.name == "" {
				s.unnamedTold = &unsure // what was told of this one
			}
		}
		s.unit.undo = s.unit.undo[:i]
	}
}

// settleNames gives up what the unit's changes replaced.
func (s *Session) settleNames() {
	if len(s.unit.undo) == 0 {
		return
	}
	for i := range s.unit.undo {
		s.sh.Registry.Drop(s.unit.undo[i].prev)
	}
	s.unit.undo = emptied(s.unit.undo)
}

// settleUnsent is settleNames where everything was answered here, and nothing of it can be skipped.
func (s *Session) settleUnsent() {
	if s.conn == nil {
		s.settleNames()
	}
}

// inItsWords is a server's error in which a statement is called as the client calls it.
func (s *Session) inItsWords(step *backend.Step, e *pgwire.Error, msg []byte) []byte {
	quoted := func(name string) string { return `"` + name + `"` }
	theirs := func(p *state.Prepared, name string) []byte {
		own := *e
		own.Message = strings.ReplaceAll(e.Message, quoted(p.Name), quoted(name))
		return pgwire.AppendErrorResponse(nil, &own)
	}
	if p := s.unnamed; p != nil && step.Unnamed {
		return theirs(p, "")
	}
	for name, n := range s.names {
		if n.prep != nil && strings.Contains(e.Message, quoted(n.prep.Name)) {
			return theirs(n.prep, name)
		}
	}
	return msg
}

// forgetStatements drops all prepared statements: DEALLOCATE ALL, DISCARD ALL. PostgreSQL keeps the unnamed one.
func (s *Session) forgetStatements() {
	for name := range s.names {
		s.setName(name, nil)
	}
}

// dropUnnamed forgets the unnamed statement, as a simple Query does (PostgreSQL manual, 55.2.2).
func (s *Session) dropUnnamed() {
	if s.unnamed != nil {
		s.sh.Registry.Drop(s.point("", nil, nil))
	}
	s.portal = portal{}
}

// dropStatements gives up all of them, of a session that ends.
func (s *Session) dropStatements() {
	for _, n := range s.names {
		s.sh.Registry.Drop(n.prep)
	}
	s.sh.Registry.Drop(s.unnamed)
	s.drop(s.unit.late)
	s.unit.late = nil
	s.names, s.unnamed, s.portals, s.portal, s.sqlPrep = nil, nil, nil, portal{}, nil
}

// sqlPrepared is a statement of SQL's own PREPARE that is on the backend by the client's name: see Session.follows.
type sqlPrepared struct {
	statement *parser.Statement
	bytes     int
}

func (s *Session) hasPrepare(name string) bool { return s.sqlPrep[name].statement != nil }

// prepare notes a PREPARE that ran.
func (s *Session) prepare(st *parser.Statement) {
	if s.sqlPrep == nil {
		s.sqlPrep = make(map[string]sqlPrepared)
	}
	s.forgetPrepare(st.Name)
	p := sqlPrepared{st, state.TreeBytes(st.End - st.Start)}
	s.sqlPrep[st.Name] = p
	s.scoped.sqlPrep += p.bytes
}

func (s *Session) forgetPrepare(name string) {
	if p := s.sqlPrep[name]; p.statement != nil {
		s.scoped.sqlPrep -= p.bytes
		delete(s.sqlPrep, name)
	}
}

func (s *Session) forgetPrepares() {
	if len(s.sqlPrep) > 0 {
		clear(s.sqlPrep)
		s.scoped.sqlPrep = 0
	}
}
