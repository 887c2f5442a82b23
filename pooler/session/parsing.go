package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// noteParsing tells the backend of a statement that is about to be sent if it may change what statements mean that are prepared behind it.
func (s *Session) noteParsing(st *parser.Statement) {
	c := s.conn
	switch st.Kind {
	case parser.Set, parser.Reset:
		switch {
		case st.Set == nil:
			c.Doubt(false)
		case !state.Parses(st.Set.Name):
		case st.Set.Local && !st.Set.Special:
			c.DoubtLocal(st.Set.Name, st.Set.SQL)
		default:
			c.Doubt(st.Set.Local)
		}
	case parser.ResetAll, parser.Discard, parser.Rollback, parser.RollbackTo:
		c.Doubt(false)
	case parser.Commit, parser.PrepareTx:
		if c.InDoubt() {
			c.Doubt(false)
		}
	default: // code that may do so, too, taints the backend
	}
	for i := range st.SetConfigs {
		if f := &st.SetConfigs[i]; state.Parses(f.Name) {
			c.Doubt(f.Local)
		}
	}
}

// queueParsing notes the same of a statement that is queued, or will be said again.
func (s *Session) queueParsing(st *parser.Statement) {
	set := st.Set != nil && state.Parses(st.Set.Name)
	switch {
	case set && st.Set.Local && !st.Set.Special:
		s.prologueLocal = append(s.prologueLocal, state.Var{Name: st.Set.Name, Value: st.Set.SQL})
	case set && st.Set.Local, len(s.prologueLocal) > 0 && (set || st.Kind == parser.ResetAll || st.Kind == parser.RollbackTo):
		s.prologueLocal = append(s.prologueLocal, state.Var{})
	}
}
