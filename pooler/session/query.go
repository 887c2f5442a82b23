package session

import (
	"slices"
	"sync"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// shapes are lent to the statement being routed.
var shapes = sync.Pool{New: func() any { return new(parser.Shape) }}

// query handles a simple Query. It returns false where it has to wait; it is called again then with the same bytes.
func (s *Session) query(body, frame []byte) bool {
	if s.unit.waitsPlanned {
		return s.sendQuery(s.unit.message, s.unit.plan, frame)
	}
	shape := shapes.Get().(*parser.Shape) //nolint:forcetypeassert // it holds nothing else
	defer shapes.Put(shape)
	return s.queryOf(shape, body, frame)
}

// queryOf is query; a nil shape has the text parsed for itself.
func (s *Session) queryOf(shape *parser.Shape, body, frame []byte) bool {
	s.start()
	sql, err := pgwire.DecodeQuery(body)
	if err != nil {
		s.refuseUnit(asError(err), true)
		return true
	}
	if s.describing && !s.settleDescribing() {
		return false
	}
	if s.awaitsSoFar() {
		// PostgreSQL skips a Query behind an error in its pipeline. Then no answer to it comes, and the client's Sync is to be waited for.
		return false
	}
	if e := s.tooLong(sql); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	how := byShape
	if shape == nil {
		how = byItself
	}
	m := s.unit.parsed
	if m == nil {
		m = s.parse(sql, shape, how)
	}
	if m == nil || s.awaitsSchema(m) {
		return false
	}
	if m.Names {
		x, e := s.executing(m)
		if e != nil {
			s.refuseUnit(e, true)
			return true
		} else if x == nil {
			s.unit.parsed = m // the cache may not have kept it when what it names is parsed
			return false
		}
		m = x
	}
	s.unit.message = m
	if e := s.told08006(); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if e := s.confined(m); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if s.unit.parted {
		s.refuseUnit(errParted, true)
		return true
	}
	if frame[0] == pgwire.MsgQuery {
		s.dropUnnamed()
	}
	if len(m.Statements) == 0 && m.Unparsable == nil && !s.open {
		s.routed(RouteLocal)
		s.toClient(pgwire.AppendEmptyQuery(s.scratch()))
		s.finish()
		return true
	}
	if s.tx == pgwire.TxFailed && !s.open && (len(m.Statements) == 0 || !s.runsFailed(m.Statements[0], s.tx)) {
		s.refuseUnit(errInFailedTransaction, true)
		return true
	}
	if len(m.Statements) == 1 && !s.open {
		st := m.Statements[0]
		if s.local(st) {
			if refusal, wait := s.awaitsQuery(m); refusal != nil {
				s.refuseUnit(refusal, true)
				return true
			} else if wait {
				return false
			}
			s.routed(RouteLocal)
			if hint := s.localHint(m, st); hint != "" {
				if e := s.hinted(hint); e != nil {
					s.refuseUnit(e, true)
					return true
				}
			}
			answer, e := s.answerLocal(s.scratch(), st, sqlOf(sql, st), false)
			if e != nil {
				s.refuseUnit(e, true)
				return true
			}
			s.toClient(answer)
			s.finish()
			return true
		}
	} else if e := s.mixed(m); e != nil {
		s.refuseUnit(e, true)
		return true
	} else if e := s.chooseFirst(m); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if e := s.lexing(m, len(m.Statements) == 1 && endsFailure(m.Statements[0])); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if e := s.sequences(m); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if e := s.pins(m); e != nil {
		s.refuseUnit(e, true)
		return true
	}
	if len(m.Statements) > 1 && s.unjudged() && slices.ContainsFunc(m.Statements, func(st *parser.Statement) bool { return st.Kind == parser.Fetch }) {
		s.unit.pathMoves = true // by what the cursor calls, in front of what is behind it
	}
	rt := s.rtr.Route(m, s.env())
	in := s.input(nil)
	if m.Shaped {
		in.Text, in.Literals = sql, shape.Literals
	}
	plan, refusal := s.plan(rt, in)
	if refusal == router.ErrNeedsText {
		return s.queryOf(nil, body, frame)
	}
	if refusal == nil {
		refusal = s.parted(m)
	}
	if refusal != nil {
		s.refuseUnit(refusal, true)
		return true
	}
	if plan.Kind == sharding.PlanCopy {
		cr, refusal := rt.Copy(in)
		if refusal != nil {
			s.refuseUnit(refusal, true)
			return true
		}
		s.copyBegin(cr, m, plan, frame, nil)
		return true
	}
	return s.sendQuery(m, plan, frame)
}

// awaitsSoFar waits until what was sent of a pipeline is answered, if it is not. It reports whether there is something to wait for.
func (s *Session) awaitsSoFar() bool {
	if !s.open || s.conn == nil || s.conn.Pending() == 0 || s.unit.answeredSoFar {
		return false
	}
	s.wait = waitInternal
	s.send(exec.SoFar(s.scratch(), s.conn))
	return true
}

// sendQuery runs a simple Query on a backend as plan says.
func (s *Session) sendQuery(m *parser.Message, plan sharding.Plan, frame []byte) bool {
	if !s.unit.internalDone {
		if refusal, wait := s.awaitsQuery(m); refusal != nil {
			s.refuseUnit(refusal, true)
			return true
		} else if wait {
			return false // it is looked at anew: its backend may be lost meanwhile
		}
		if refusal, ok := s.acquire(plan); refusal != nil {
			s.refuseUnit(refusal, true)
			return true
		} else if !ok {
			s.unit.plan, s.unit.waitsPlanned = plan, s.wait != waitJob
			return false
		}
		out, owed := s.lead(s.scratch())
		if owed && endsTransaction(m) {
			// It would end the very transaction whose failure keeps it from running.
			s.send(exec.Await(out, s.conn))
			s.unit.internalDone = true
			s.wait = waitInternal
			return false
		}
		s.send(out)
	} else if e := s.unit.internal; e != nil {
		s.unit.internal = nil
		s.failInternal(e)
		return true
	} else if s.conn == nil { // lost meanwhile
		s.unit.internalDone = false
		return s.sendQuery(m, plan, frame)
	}
	if m != nil && m.Names && (s.unit.naming != nil || !s.acct.Statements || s.renames(m)) {
		var goes bool
		if frame, goes = s.renameQuery(m, frame); !goes {
			return s.wait == waitNothing || s.wait == waitAnswer
		}
	}
	if again := s.note(m, plan); frame[0] != pgwire.MsgQuery {
		s.fixed = true // it can't be said again
	} else if again {
		sql, _ := pgwire.DecodeQuery(frame[pgwire.HeaderBytes:])
		s.queue(sqlOf(sql, m.Statements[0]))
	}
	s.unit.plan = plan
	s.routed(s.routeOf(plan, m))
	if frame[0] == pgwire.MsgQuery {
		exec.Query(s.conn, 0)
	} else {
		exec.Call(s.conn, 0)
	}
	s.open = false
	s.listens.sent()
	s.wait = waitAnswer
	s.drv.ToBackend(s.conn, frame)
	return true
}

// failInternal answers a unit whose beginning failed before the unit itself was sent.
func (s *Session) failInternal(e *pgwire.Error) {
	if s.conn != nil && s.conn.Tx() == pgwire.TxFailed && s.begun {
		s.tx = pgwire.TxFailed
	}
	s.unit.answered, s.unit.failed = true, true
	s.toClient(pgwire.AppendErrorResponse(s.scratch(), e))
	if !s.afterServer() {
		s.finish()
	}
}

// endsTransaction reports whether the first statement of m would leave a failed transaction.
func endsTransaction(m *parser.Message) bool {
	if len(m.Statements) == 0 {
		return m.Unparsable != nil
	}
	return endsFailure(m.Statements[0])
}

// endsFailure reports whether PostgreSQL runs st in a failed transaction.
func endsFailure(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Commit, parser.Rollback, parser.RollbackTo, parser.PrepareTx:
		return true
	default: // PostgreSQL ignores all others
		return false
	}
}

// runsFailed reports whether st runs in the transaction with the given status, as far as that has failed: there is nothing to roll back to where
// its server went away.
func (s *Session) runsFailed(st *parser.Statement, tx pgwire.TxStatus) bool {
	return tx != pgwire.TxFailed || endsFailure(st) && !(s.gone && st.Kind == parser.RollbackTo)
}

var errInFailedTransaction = pgwire.Errorf(pgwire.CodeInFailedTransaction,
	"current transaction is aborted, commands ignored until end of transaction block")

// briefText is how many bytes of SQL are parsed in no more than some milliseconds.
const briefText = 16 << 10

// quickText is how many are in some 100 µs.
const quickText = 1 << 10

// lookup is how a text's Message is found.
type lookup uint8

const (
	byItself lookup = iota // parsed for itself
	byShape                // a Query
	byText                 // a Parse: as it is, else by its shape
)

// parse returns the parsed text, or nil when that has to wait. But for byItself, the Message may stand for the text's shape; shape is that then.
func (s *Session) parse(sql []byte, shape *parser.Shape, how lookup) *parser.Message {
	var m *parser.Message
	switch how {
	case byItself:
		m = s.sh.Cache.Get(sql)
	case byShape:
		m = s.sh.Cache.GetShape(sql, shape)
	case byText:
		m = s.sh.Cache.GetText(sql, shape)
	}
	if m != nil {
		if s.job.message != nil && s.job.sql == string(sql) { // it is in the cache now, as this text's or as its shape's
			s.job = job{}
		}
		return m
	}
	if m := s.job.message; m != nil && s.job.sql == string(sql) && (how != byItself || !m.Shaped) {
		s.job = job{}
		return m
	}
	if how != byItself && len(sql) <= quickText {
		if m = s.parseFirst(sql, shape, how); m != nil {
			return m
		}
	}
	text, by, kind := string(sql), s.acct.owner(), Brief
	if len(text) > briefText {
		kind = Heavy
	}
	done := s.drv.Offload(func() {
		s.job = job{sql: text}
		switch how {
		case byItself:
			s.job.message = s.sh.Cache.Parse([]byte(text), by)
		case byShape:
			s.job.message = s.sh.Cache.ParseShape([]byte(text), new(parser.Shape), by)
		case byText:
			s.job.message = s.sh.Cache.ParseText([]byte(text), new(parser.Shape), by)
		}
	}, kind)
	if !done {
		s.wait = waitJob
		return nil
	}
	m = s.job.message
	s.job = job{}
	return m
}

// parseFirst parses a short text whose shape is new at once, if the thread has time for it.
func (s *Session) parseFirst(sql []byte, shape *parser.Shape, how lookup) (m *parser.Message) {
	s.drv.Quick(func() { m = s.sh.Cache.ParseFirst(sql, shape, s.acct.owner(), how == byText) })
	return m
}

// awaitsSchema reports that the session has to wait before it routes m: it changed tables itself, and the router does not know yet. Further
// changes don't wait.
func (s *Session) awaitsSchema(m *parser.Message) bool {
	if s.schemaWait == nil || m == nil {
		return false
	}
	reads := m.Unparsable != nil
	for _, st := range m.Statements {
		reads = reads || st.Effects&parser.EffSchemaChange == 0
	}
	if !reads {
		return false
	}
	wait := s.schemaWait
	s.schemaWait = nil
	if s.drv.Offload(wait, Waits) {
		s.rtr = s.acct.Cluster.Router()
		return false
	}
	s.wait = waitJob
	return true
}

// job is the outcome of a parse off the loop; the cache may not have kept it.
type job struct {
	sql     string
	message *parser.Message
}

// tooLong refuses statements over the configured size, or logs the first.
func (s *Session) tooLong(sql []byte) *pgwire.Error {
	if s.sh.QuerySize == 0 || len(sql) <= s.sh.QuerySize {
		return nil
	}
	if s.sh.QuerySizeWarns {
		if !s.long {
			s.long = true
			s.sh.Log.Warn("long statement", "client", s.Client, "user", s.acct.User, "database", s.acct.Database, "bytes", len(sql), "query_size_limit", s.sh.QuerySize)
		}
		return nil
	}
	return pgwire.Errorf(pgwire.CodeProgramLimitExceeded, "statement is too long").
		WithDetail("It has %d bytes; query_size_limit allows %d.", len(sql), s.sh.QuerySize).WithRoutine("query_size")
}

// told08006 returns, once, that the backend of the transaction went away between statements.
func (s *Session) told08006() *pgwire.Error {
	e := s.lost
	s.lost = nil
	return e
}

// env is what the router needs to know of the session.
func (s *Session) env() *router.Env {
	p := s.searchPath()
	if t := s.place(); t != nil && t.Route.Own {
		p = &unknownPath // one route for all tenants: it does not matter what names mean to each
	}
	s.renv.SearchPath, s.renv.SearchPathKey, s.renv.PathUnknown = p.list, p.key, !p.known
	return &s.renv
}

// input is what a plan depends on.
func (s *Session) input(p router.Params) *router.Input {
	s.rin = router.Input{Params: p, Hint: s.hint, UTF8: s.utf8()}
	return &s.rin
}

// sqlOf cuts a statement's text out of its message's.
func sqlOf[T ~string | ~[]byte](sql T, st *parser.Statement) string {
	if st.Start >= 0 && st.End <= len(sql) && st.Start < st.End {
		return string(sql[st.Start:st.End])
	}
	return string(sql)
}

// mixed refuses messages of several statements, or in the middle of a pipeline, that hold one that is answered here.
func (s *Session) mixed(m *parser.Message) *pgwire.Error {
	if s.tx == pgwire.TxFailed && s.conn == nil && len(m.Statements) > 1 {
		// No server knows of the transaction, so that none would roll it back.
		return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the end of a refused transaction can't stand beside other statements in one message").
			WithHint("Send ROLLBACK as a message of its own.").WithRoutine("mixed_message")
	}
	for i, st := range m.Statements {
		if s.own(st) && (len(m.Statements) > 1 || s.open) && !s.choosesAhead(m, i) {
			return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "settings of the pooler can't stand beside other statements in one message").
				WithHint("Send it as a message of its own.").WithRoutine("mixed_message")
		}
	}
	return nil
}

func asError(err error) *pgwire.Error {
	if e, ok := err.(*pgwire.Error); ok { //nolint:errorlint // decoders return it bare
		return e
	}
	return pgwire.Errorf(pgwire.CodeProtocolViolation, "invalid message format")
}

// single is the one statement of a message that can be prepared, nil for an empty or unparsable one.
func single(m *parser.Message) *parser.Statement {
	if m != nil && len(m.Statements) == 1 {
		return m.Statements[0]
	}
	return nil
}
