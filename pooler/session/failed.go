package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// In a failed transaction PostgreSQL still describes statements that return no rows, and looks at the parameters of a Bind before it refuses it
// (exec_describe_statement_message, exec_bind_message). What is not on the server any more can't be prepared there: it is answered here, as far as it is known.

// inFailure decides on the message at index i in a failed transaction, whose statement does not run in one. answered: here; asked: by the server.
func (s *Session) inFailure(i int, st *parser.Statement, held bool) (answered, asked bool, refusal *pgwire.Error) {
	it := &s.unit.items[i]
	switch {
	case it.typ == pgwire.MsgBind:
		if e := s.wrongParams(i); e != nil {
			return false, false, e
		}
	case it.typ == pgwire.MsgDescribe && it.target == pgwire.TargetStatement && !it.renames:
		if c := s.conn; held && c != nil {
			if !s.acct.Statements {
				return false, true, nil // all are there, by the client's names
			}
			if has, _, stale := c.Statements.Instance(it.prep, c.ParseKey()); has != nil && !stale {
				return false, true, nil
			}
		}
		if it.prep.Made == nil && st != nil && returnsNothing(st) && declaresAll(it) {
			return true, false, nil
		}
	}
	return false, false, errInFailedTransaction
}

// wrongParams refuses the Bind at index i if it has another number of parameters than its statement. Where a server binds it, that says so itself.
func (s *Session) wrongParams(i int) *pgwire.Error {
	it := &s.unit.items[i]
	if it.prep.Made != nil {
		return nil
	}
	if e := s.readBind(i); e != nil {
		return e
	}
	has, wants := s.bind.bind.NumParams(), paramsOf(it)
	if has == wants {
		return nil
	}
	return pgwire.Errorf(pgwire.CodeProtocolViolation, `bind message supplies %d parameters, but prepared statement "%s" requires %d`,
		has, s.bind.bind.Statement, wants)
}

// bindsHere refuses the Bind at index i of what is answered here where PostgreSQL would for its parameters: it does not read any in a failed transaction.
func (s *Session) bindsHere(i int, tx pgwire.TxStatus) *pgwire.Error {
	if e := s.wrongParams(i); e != nil {
		return e
	}
	if tx == pgwire.TxFailed && paramsOf(&s.unit.items[i]) > 0 {
		return errInFailedTransaction
	}
	return nil
}

// paramsOf is how many parameters the statement of a Parse has: those that it declares count, used or not.
func paramsOf(it *item) int {
	n := len(it.prep.Types) / 4
	if st := it.statement(); st != nil {
		n = max(n, st.Params, st.SoleParam)
	}
	return n
}

// declaresAll reports whether the types of all parameters are declared.
func declaresAll(it *item) bool {
	for i := range paramsOf(it) {
		if it.prep.ParamType(i) == 0 {
			return false
		}
	}
	return true
}

// returnsNothing reports whether st certainly returns no rows.
func returnsNothing(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Insert, parser.Update, parser.Delete:
		return st.Query != nil && len(st.Query.Output) == 0
	case parser.Select, parser.Merge, parser.Show, parser.Explain, parser.Execute, parser.Fetch, parser.Call, parser.Utility:
		return false
	default: // commands, which have a tag and no more
		return true
	}
}
