package session

import (
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/backend"
)

// book has the verdicts on the code that the session's statements run; nil = nothing is believed of code. It is not where tenants share databases: what one of
// them makes must not decide what the next one finds.
func (s *Session) book() *judge.Book {
	if s.acct.Tenants != nil || s.acct.Place != nil || s.acct.Cluster == nil {
		return nil
	}
	return s.acct.Cluster.Code()
}

// taints returns what st leaves on a connection that can't be followed, by its text and by what is known of the code that it runs, and is not followed.
func (s *Session) taints(st *parser.Statement) backend.Taint {
	if st.Kind == parser.Prepare { // what it prepares is run by EXECUTE
		if s.follows(st) {
			return 0
		}
		return taintOf(st)
	}
	b := s.book()
	if b == nil {
		return taintOf(st)
	}
	switch b.Verdict(st, s.drv.Now()) {
	case judge.Cleanable:
		return taintOf(st) | backend.TaintCode
	case judge.Harmful:
		return taintOf(st) | backend.TaintUnjudged
	case judge.Harmless:
		if (!st.BuiltinCalls || st.Kind == parser.Call) && judge.Settles(st) && s.readsAsJudged() {
			t := taintOfEffects(st)
			if st.Kind == parser.Call && st.Effects&^parser.EffSequenceRead == parser.EffUnjudged {
				t = 0 // that is its procedure's, by which it was judged
			}
			return t
		}
	case judge.Unknown:
	}
	return taintOf(st)
}

// strange is what marks a connection on which code ran that may have done anything to the session.
const strange = backend.TaintUnjudged | backend.TaintCode

// readsAsJudged reports whether the server reads the strings in bodies as they were read here.
func (s *Session) readsAsJudged() bool {
	if s.conn == nil {
		return true // it is asked again when there is a connection
	}
	v, known := s.conn.Params().Get("standard_conforming_strings")
	return !known || v == "on"
}

// harmless reports whether all code that a message runs is known to leave nothing.
func (s *Session) harmless(m *parser.Message) bool {
	b := s.book()
	if b == nil {
		return false
	}
	for _, st := range m.Statements {
		if !judge.Settles(st) || b.Verdict(st, s.drv.Now()) != judge.Harmless {
			return false
		}
	}
	return true
}

// changesCode reports whether st may change what statements run: functions, triggers, defaults, or whatever else is code. What is dropped can't be run.
func changesCode(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Do, parser.CommitPrepared:
		return true
	case parser.DDL, parser.Utility:
		switch verb, _, _ := strings.Cut(st.Tag, " "); verb {
		case "DROP", "COMMENT", "GRANT", "REVOKE", "REINDEX", "SECURITY":
			return false
		}
		return st.Effects&parser.EffSchemaChange != 0 && st.Effects&parser.EffTemp == 0
	default: // tables that are made of queries have no code
		return false
	}
}

// recode notes that the transaction may change code: until it has ended nothing is believed of any, and then it is read anew.
func (s *Session) recode() {
	if !s.recodes {
		s.recodes = true
		s.sh.Code.Begin()
	}
}

// recoded notes the end of a transaction.
func (s *Session) recoded() {
	if s.work != nil && s.recodes {
		s.recodes = false
		s.sh.Code.End()
	}
}
