package session

import (
	"bytes"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
)

var _ backend.Owner = (*Session)(nil)

// Relay implements backend.Owner.
func (s *Session) Relay(b []byte) {
	if s.inspecting {
		s.keepValues(b)
		return
	}
	if s.capture.on {
		s.capture.keep(b)
	}
	s.toClient(b)
}

// Complete implements backend.Owner: it follows what a statement did to the session.
func (s *Session) Complete(step *backend.Step, tag []byte) {
	if step.Internal {
		if step.Ref == exec.RefInspect {
			if found, ok := exec.Inspected(tag); ok {
				s.left, s.uncertain = found, 0
			}
			return
		}
		s.soFar(step)
		return
	}
	s.copyOver()
	if step.Kind == backend.StepBind || step.Kind == backend.StepExecute {
		s.unit.shown = true
	}
	if step.Kind == backend.StepExecute && int(step.Ref) < len(s.unit.executed) && s.unit.executed[step.Ref].message == nil {
		s.conn.Taint(backend.TaintUnjudged) // the server knows the portal, and nobody here what it ran
		s.touched = s.pin != 0
	}
	if tag == nil {
		s.suspended(step)
		return
	}
	var m *parser.Message
	unjudged := s.unit.unjudged
	i := 0
	switch step.Kind {
	case backend.StepQuery:
		m, i = s.unit.message, s.unit.index
		s.unit.index++
	case backend.StepExecute:
		if int(step.Ref) < len(s.unit.executed) {
			m, unjudged = s.unit.executed[step.Ref].message, s.unit.executed[step.Ref].unjudged
		}
	default:
		return
	}
	s.judge(m, "")
	if m != nil && i < len(m.Statements) {
		if step.Kind == backend.StepQuery && s.unit.naming != nil {
			s.unit.naming.acted(s, m.Statements[i])
		}
		s.effect(m.Statements[i], tag)
		if unjudged {
			s.losePath()
		}
	}
}

// suspended follows an Execute that gave as many rows as it was to give: what the statement set is set, whether the rest is asked for or not.
// When that comes it is not known whether something else was set meanwhile, so nobody else gets the backend.
func (s *Session) suspended(step *backend.Step) {
	if step.Kind != backend.StepExecute || int(step.Ref) >= len(s.unit.executed) {
		return
	}
	e := s.unit.executed[step.Ref]
	st := single(e.message)
	if st != nil && len(st.SetConfigs) > 0 {
		s.conn.Taint(backend.TaintUnjudged)
		s.applySetConfigs(st)
	}
	if st != nil {
		s.noteUnseen(st)
	}
	if e.unjudged || st != nil && runsUnjudged(st) || st == nil {
		s.losePath()
	}
}

// applySetConfigs follows the set_config calls of a statement that ran.
func (s *Session) applySetConfigs(st *parser.Statement) {
	for i := range st.SetConfigs {
		s.applySet(&st.SetConfigs[i])
	}
}

// runsCalls reports whether st runs the functions that it calls, rather than to leave that to another statement.
func runsCalls(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Explain:
		return st.ExplainAnalyze
	case parser.Prepare, parser.Declare:
		return false
	default:
		return true
	}
}

// effect follows a statement that ran.
func (s *Session) effect(st *parser.Statement, tag []byte) {
	if st.Inert {
		return
	}
	switch st.Kind {
	case parser.Begin:
		s.unit.reached = pgwire.TxActive
		s.noteIsolation(st.Tx)
	case parser.SetTransaction:
		if st.Tx != nil && st.Tx.Session {
			s.applyCharacteristics(st.Tx)
		} else {
			s.noteIsolation(st.Tx)
		}
	case parser.Commit, parser.Rollback, parser.PrepareTx:
		if s.unit.reached = pgwire.TxIdle; st.Tx != nil && st.Tx.Chain {
			s.unit.reached = pgwire.TxActive
		}
		rolledBack := bytes.Equal(tag, []byte("ROLLBACK"))
		if rolledBack {
			s.track.Rollback()
			s.unseen, s.untoldValues = s.unseen[:0], false
		} else {
			s.track.Commit()
		}
		s.follow(rolledBack, st.Tx != nil && st.Tx.Chain)
		s.listens.end(!rolledBack)
		s.unit.failed = false
		s.track.Begin()
	case parser.Savepoint:
		s.track.Savepoint(st.Name)
		s.listens.savepoint(st.Name)
	case parser.Release:
		s.track.Release(st.Name)
		s.followSavepoint(false)
		s.listens.release(st.Name)
	case parser.RollbackTo:
		s.track.RollbackTo(st.Name)
		s.followSavepoint(true)
		s.listens.rollbackTo(st.Name)
	case parser.Listen, parser.Unlisten:
		s.listens.change(st)
	case parser.Set, parser.Reset, parser.ResetAll:
		if !s.own(st) {
			s.applySetting(st)
		}
	case parser.Discard:
		if st.Name == "ALL" {
			s.conn.Deallocated()
			s.conn.Unnamed = nil
			s.forgetStatements()
			s.hint = router.Hint{}
			s.track.Have, s.track.Expected = nil, s.base
			s.listens.unlistenAll()
		}
	case parser.Deallocate:
		if st.Name == "" {
			s.conn.Deallocated()
			s.forgetStatements()
			s.forgetPrepares()
		} else {
			if s.acct.Statements && strings.HasPrefix(st.Name, state.NamePrefix) && !s.follows(st) {
				s.conn.Taint(backend.TaintSQLPrepare) // by its name on the server: others have it there
			}
			s.forgetPrepare(st.Name)
			if !s.acct.Statements && s.names[st.Name] != nil {
				s.setName(st.Name, nil) // the server has both kinds under one name
			}
		}
	case parser.Prepare:
		if s.acct.Statements && !s.follows(st) {
			s.prepare(st)
		}
	default: // leaves nothing to follow but what it set_configs
	}
	if runsCalls(st) {
		s.applySetConfigs(st)
		s.noteUnseen(st)
	}
	if runsUnjudged(st) || (st.Kind == parser.Fetch || st.Kind == parser.Execute) && s.unjudged() {
		s.losePath()
	}
}

// Failed implements backend.Owner.
func (s *Session) Failed(step *backend.Step, msg []byte) {
	e, err := pgwire.DecodeError(msg[pgwire.HeaderBytes:])
	if err != nil {
		e = pgwire.Errorf(pgwire.CodeProtocolViolation, "the server sent an error that can't be read")
	}
	if changed(e) && s.changed(step, msg) {
		return
	}
	s.sh.Observer.Error(s.at(), e.Code, true)
	if e.IsFatal() {
		s.unit.fatal = e
		s.taken(step)
		return // the connection ends; Lost tells the client
	}
	if step.Internal {
		s.failedInternal(step, e)
		return
	}
	switch {
	case step.Kind == backend.StepBind && e.Code == pgwire.CodeProtocolViolation:
		s.misled(s.unnamed) // it may have formats for columns that are no more
		msg = s.inItsWords(step, e, msg)
	case step.Kind == backend.StepQuery:
		s.judge(s.unit.message, e.Code)
		if n := s.unit.naming; n != nil {
			msg = pgwire.AppendErrorResponse(nil, n.theirs(e))
		}
	case step.Kind == backend.StepExecute && step.Refusal == nil && int(step.Ref) < len(s.unit.executed):
		x := &s.unit.executed[step.Ref]
		s.judge(x.message, e.Code)
		if x.naming != nil {
			msg = pgwire.AppendErrorResponse(nil, x.naming.theirs(e))
		}
		if x.ref > 0 {
			s.revert(x.ref)
		}
	}
	s.unit.failed = true
	s.unit.answered = true
	s.errors++
	s.forgetPortals()
	switch {
	case step.Refusal != nil:
		msg = pgwire.AppendErrorResponse(nil, step.Refusal)
	case s.unit.copyRefusal != nil:
		msg = pgwire.AppendErrorResponse(nil, s.unit.copyRefusal)
		s.unit.copyRefusal = nil
	case s.unit.internal != nil && s.unit.naming != nil && e.Code != pgwire.CodeInvalidStatementName && e.Code != pgwire.CodeInFailedTransaction:
		s.unit.internal = nil // it did not come to what could not be prepared
	case s.unit.internal != nil:
		msg = pgwire.AppendErrorResponse(nil, s.unit.internal)
		s.unit.internal = nil
	}
	if s.copy.mode != copyNone {
		s.copyFailed()
	}
	if step.Kind == backend.StepParse && step.Ref > 0 {
		s.revert(step.Ref)
		if step.Unnamed && s.unnamed != nil {
			s.setName("", nil) // PostgreSQL drops it before it looks at the new one
		}
	}
	if step.Kind != backend.StepQuery && step.Kind != backend.StepSync && (s.open || s.wait == waitInternal) {
		s.skip = true
	}
	if !s.fixed && s.tx != pgwire.TxIdle {
		s.fixed = true // it can't be repeated as it was
	}
	if s.conn != nil && len(s.conn.Held()) > 0 {
		s.toClient(s.conn.Held())
	}
	s.toClient(msg)
}

// changed follows the error that says that tables have changed under a prepared statement. It reports whether the client need not hear of it yet.
func (s *Session) changed(step *backend.Step, msg []byte) bool {
	if s.conn == nil {
		return false
	}
	renamed := step.Kind == backend.StepQuery && s.unit.naming != nil || step.Kind == backend.StepExecute && !step.Internal && step.Refusal == nil &&
		int(step.Ref) < len(s.unit.executed) && s.unit.executed[step.Ref].naming != nil
	if step.Kind != backend.StepBind && step.Kind != backend.StepDescribeStatement && !renamed {
		s.conn.Taint(backend.TaintSQLPrepare) // a statement of SQL's own PREPARE
		return false
	}
	s.conn.Changed()
	if s.sh.Descriptions != nil {
		s.sh.Descriptions.Forget()
	}
	return !renamed && s.heals(step, msg)
}

// failedInternal handles the failure of something of ours in front of a unit: the client gets its error in the place of its own statement's,
// which the server does not run.
func (s *Session) failedInternal(step *backend.Step, e *pgwire.Error) {
	e = s.asWritten(step.Prepared, e)
	switch step.Ref {
	case exec.RefContext:
		s.conn.Taint(backend.TaintContext)
		if s.unit.internal == nil {
			s.unit.internal = e
		}
	case exec.RefPrologue, exec.RefNames:
		if s.unit.internal == nil {
			s.unit.internal = e
		}
	case exec.RefPrepare:
		// A statement that another server accepted is refused by this one: the client hears it at its use, which is skipped.
		s.unit.failed, s.unit.answered = true, true
		s.errors++
		s.forgetPortals()
		if s.unit.internal != nil {
			e, s.unit.internal = s.unit.internal, nil
		}
		if s.copy.mode != copyNone {
			s.copyFailed()
		}
		if s.open {
			s.skip = true
		}
		s.toClient(pgwire.AppendErrorResponse(nil, e))
	case exec.RefRenew:
		if h := s.unit.heal; !h.failed {
			h.failed, h.err = true, pgwire.AppendErrorResponse(nil, e)
		}
	case exec.RefInspect: // what may be left is taken to be left
		s.uncertain++
	default:
		s.conn.Taint(backend.TaintProtocol)
	}
}

// soFar goes on once what was sent of a pipeline is answered, or skipped.
func (s *Session) soFar(step *backend.Step) {
	if step.Kind == backend.StepLocal && step.Ref == exec.RefSoFar && s.wait == waitInternal {
		s.wait = waitNothing
		s.unit.answeredSoFar = true
		s.drain()
	}
}

// Skipped implements backend.Owner.
func (s *Session) Skipped(step *backend.Step) {
	s.soFar(step)
	if h := s.unit.heal; h != nil && h.turn == healFailed {
		return // it may be sent again
	}
	s.taken(step)
}

// taken takes back what a step did to the client's statements, which was skipped.
func (s *Session) taken(step *backend.Step) {
	switch {
	case step.Kind == backend.StepExecute && !step.Internal && step.Refusal == nil && int(step.Ref) < len(s.unit.executed) && s.unit.executed[step.Ref].ref > 0:
		s.revert(s.unit.executed[step.Ref].ref)
	case step.Ref > 0 && (step.Kind == backend.StepParse || step.Kind == backend.StepClose || step.Kind == backend.StepLocal):
		s.revert(step.Ref)
	}
}

// takeBack is taken for steps that will have no answer.
func (s *Session) takeBack(steps []backend.Step) {
	for i := range steps {
		s.taken(&steps[i])
	}
}

// Parameter implements backend.Owner: the client hears of a parameter when its value is news to it.
func (s *Session) Parameter(name, value string) {
	if s.phase != phaseReady {
		return
	}
	if s.told.value(name) != value {
		s.untold = 2 // what is changed back in front of the next unit, another server may not report
		if s.track.Have != s.track.Expected && s.pending(name) {
			if _, ok := s.startValue(name); ok {
				return // which is what the client hears at the end of the unit
			}
		}
		s.tell(name, value)
	}
}

// Ready implements backend.Owner.
func (s *Session) Ready(step *backend.Step, tx pgwire.TxStatus) {
	if s.phase == phaseLogin {
		if s.conn.Pending() == 0 {
			s.probed(tx)
		}
		return
	}
	if s.healing(step, tx) {
		return
	}
	if step.Internal {
		switch step.Ref {
		case exec.RefSettle:
			s.afterDescribe()
		case exec.RefSync:
			s.status(tx)
		case exec.RefInspect:
			s.inspected()
			return
		}
		if s.wait == waitInternal && (s.conn == nil || s.conn.Pending() == 0) {
			s.wait = waitNothing
			s.drain()
		}
		return
	}
	s.copyOver()
	s.ended(tx)
}

// ended ends a unit whose end the server has answered.
func (s *Session) ended(tx pgwire.TxStatus) {
	if s.listens != nil && s.awaitsArrival(tx) {
		return
	}
	if s.unit.outside || s.describing {
		s.afterDescribe()
	} else {
		s.status(tx)
		if s.afterServer() {
			return
		}
	}
	s.finish()
	s.drain()
}

// status takes over the transaction status that the server reported at the end of a unit.
func (s *Session) status(tx pgwire.TxStatus) {
	if s.conn != nil && s.conn.Tainted()&backend.TaintContext != 0 && s.tx == pgwire.TxIdle && tx == pgwire.TxFailed {
		tx = pgwire.TxIdle // the failed transaction is ours: the client began none
	}
	s.tx, s.unit.reached = tx, 0
	s.begun = tx != pgwire.TxIdle
}

// afterServer is what is done with the backend at the end of a unit. It returns true if the unit ends later, by inspected.
func (s *Session) afterServer() bool {
	s.open, s.describing = false, false
	s.encodingQueued = false
	if s.conn == nil {
		return false
	}
	if s.conn.Tainted()&backend.TaintContext != 0 {
		// It does not carry what the session wants; nothing more runs on it.
		if s.tx != pgwire.TxIdle {
			s.tx = pgwire.TxFailed
			s.gone = s.gone || s.begun
		}
		s.begun = false
		s.conn.Taint(backend.TaintContext)
		c := s.conn
		s.conn = nil
		s.unpinned()
		c.Own(nil)
		s.drv.Discard(c, backend.TaintContext.First())
		return false
	}
	if s.tx != pgwire.TxIdle {
		s.tellChanges()
		return false
	}
	s.endImplicit()
	s.tellChanges()
	s.conn.Have = s.track.Have
	switch {
	case s.acct.Session:
	case s.conn.Tainted() != 0 && s.inspects():
		return true
	case s.pin == 0:
		s.release()
	}
	return false
}

// afterDescribe lets go of a backend that only described.
func (s *Session) afterDescribe() {
	s.captured()
	if s.unit.failed && s.tx == pgwire.TxActive {
		s.tx = pgwire.TxFailed
	}
	s.open, s.describing, s.unit.outside = false, false, false
	if s.conn != nil && !s.holds() {
		s.release()
	}
}
