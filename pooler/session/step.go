package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
)

// unit is what the client sent last that ends with one ReadyForQuery: a Query, or an extended batch up to Sync (or Flush).
type unit struct {
	// message of a Query, and which of its statements is answered next.
	message *parser.Message
	index   int
	naming  *naming // of its text as it was sent; nil = that is the client's
	// parsed is the message of a Query that waits for what it names to be parsed.
	parsed *parser.Message
	// messages executed by a batch, by the Ref of their steps.
	executed []executed
	items    []item
	held     held
	undo     []undo
	// failed: an error was answered in this unit since the last transaction command in it.
	failed bool
	// answered: an error was sent for this unit.
	answered bool
	// answeredSoFar: a Query in the middle of a pipeline need not wait for its turn any more.
	answeredSoFar bool
	// internal is the error of something of ours in front of the unit; the client gets it in place of its own.
	internal *pgwire.Error
	// internalDone: what had to be answered before the unit is sent was answered.
	internalDone bool
	// checkout is why no backend could be had.
	checkout *pgwire.Error
	// fatal is a FATAL error that the server sent.
	fatal *pgwire.Error
	// outside: the unit runs outside of the client's transaction (describing while its beginning is queued).
	outside bool
	// copyTold: the client was told to send rows before the server was.
	copyTold bool
	// tellStart: the client is told the values of its start at the unit's end.
	tellStart bool
	// copyRefusal is why a COPY was failed.
	copyRefusal *pgwire.Error
	// pathMoves: something was sent in this unit, or planned in front of what is planned now, that may change search_path.
	pathMoves bool
	// waitsPlanned: plan is that of the Query at hand, which waits for a backend.
	waitsPlanned bool
	// settled: for whom the unit's statements run is settled, and can't change any more. parted: see parts.
	settled, parted bool
	// forgets: a statement that makes the server forget all names is sent.
	forgets bool
	// unjudged: what was sent last runs code that may do anything to the session.
	unjudged bool
	// encodingMoves: a statement of the unit may change client_encoding.
	encodingMoves bool
	// ran: something of the unit's was sent to a backend.
	ran  bool
	plan sharding.Plan
	// planned is the transaction status behind the batch that was planned last; ahead behind what was sent, 0 = nothing was.
	planned, ahead pgwire.TxStatus
	// reached is the transaction status behind the last command of the unit's that began or ended a transaction, as the client was told; 0 = none did.
	reached pgwire.TxStatus
	// badParse: the batch was refused for a Parse of the unnamed statement, before it could be planned.
	badParse bool
	// named finds items by name where there are many.
	named index
	// late are statements of a batch that waits.
	late []*state.Prepared
	// looked: the shapes of the batch's statements were asked for; they are in shapes.
	looked bool
	shapes map[*state.Prepared]*state.Shape
	// shown: something of the unit was answered that is part of its transaction.
	shown bool
	// sent is the length of the batch's messages, as they were sent last, which are still in work.out; 0 = they are not.
	sent int
	heal *heal // nil = it has not come to that
}

// maxKept is how many elements a list of a unit may have for its memory to be kept for the next one.
const maxKept = 256

func (u *unit) reset() {
	*u = unit{executed: emptied(u.executed), items: emptied(u.items), undo: emptied(u.undo)}
}

// emptied returns the list without its elements, and without its memory when that is large.
func emptied[T any](list []T) []T {
	if cap(list) > maxKept {
		return nil
	}
	clear(list)
	return list[:0]
}

// executed is a message that a batch executes.
type executed struct {
	message  *parser.Message
	unjudged bool // it runs code that may do anything to the session
	naming   *naming
	ref      int32 // of the change of a name; 0 = there is none
}

// undo takes back a change of the session's statements whose message did not run.
type undo struct {
	name  string
	prev  *state.Prepared
	named *named // of prev
	kept  bool   // there was no change
}

// step handles the next unit at the front of b and returns its length, 0 if it is not complete or has to wait.
func (s *Session) step(b []byte) int {
	if s.dropping > 0 {
		return s.dropRest(b)
	}
	if s.copy.mode != copyNone {
		return s.copyInput(b)
	}
	typ, total, ok := pgwire.Header(b)
	if !ok {
		return 0
	}
	if !s.admits(typ, total) {
		return 0
	}
	if s.skip {
		return s.skipMessage(typ, total, b)
	}
	switch typ {
	case pgwire.MsgParse, pgwire.MsgBind, pgwire.MsgDescribe, pgwire.MsgExecute, pgwire.MsgClose, pgwire.MsgFlush, pgwire.MsgSync:
		return s.collect(b)
	case pgwire.MsgCopyData, pgwire.MsgCopyDone, pgwire.MsgCopyFail:
		if s.awaitsSoFar() {
			return 0 // it may be for a COPY whose CopyInResponse is to come
		}
	}
	if len(b) < total {
		return 0
	}
	body := b[pgwire.HeaderBytes:total]
	switch typ {
	case pgwire.MsgQuery:
		if !s.query(body, b[:total]) {
			return 0
		}
	case pgwire.MsgTerminate:
		s.close(CloseClient)
	case pgwire.MsgCopyData, pgwire.MsgCopyDone, pgwire.MsgCopyFail:
		// PostgreSQL drops these outside of COPY: the client may not have seen yet that it failed (manual, 55.2.6).
	case pgwire.MsgFunctionCall:
		if !s.functionCall(body, b[:total]) {
			return 0
		}
	}
	return total
}

// skipMessage drops what the client sends between an error and its Sync.
func (s *Session) skipMessage(typ byte, total int, b []byte) int {
	switch typ {
	case pgwire.MsgSync:
		if len(b) < total {
			return 0
		}
		s.skip = false
		s.start()
		s.sync()
	case pgwire.MsgTerminate:
		s.close(CloseClient)
	default:
		if len(b) < total {
			// A long message need not be held to be dropped, but its end must be found.
			return 0
		}
	}
	return total
}

// start begins a unit.
func (s *Session) start() {
	s.rtr = s.acct.Cluster.Router()
	if s.clock.unitStart != 0 {
		return // it waited, and begins anew
	}
	now := s.drv.Now()
	s.clock.unitStart = now
	s.idle = 0
	s.stats.LastRequest = now
	if s.clock.txStart == 0 {
		s.clock.txStart = now
	}
	if s.acct.QueryTimeout > 0 {
		s.clock.query = now + s.acct.QueryTimeout
	}
}

// finish ends a unit: the client gets ReadyForQuery.
func (s *Session) finish() {
	if s.unit.tellStart {
		s.tellStart()
	}
	now := s.drv.Now()
	ns := now - s.clock.unitStart
	s.count.Answered, s.count.Shard, s.count.Nanos = true, s.shardIf(s.unit.ran), ns
	if s.tx == pgwire.TxIdle {
		took := now - s.clock.txStart
		s.stats.Transactions++
		s.count.Transaction, s.count.TxShard, s.count.TxNanos = true, s.shardIf(s.ran), took
		s.clock.txStart = 0
		s.endTransaction()
	}
	s.report()
	s.clock.unitStart, s.clock.query, s.clock.cancelled = 0, 0, false
	s.listens.sent()
	s.hushed = nil
	s.settleNames()
	s.drop(s.unit.late)
	s.unit.reset()
	if s.job.message != nil { // others parsed the text as well
		s.job = job{}
	}
	s.wait = waitNothing
	s.armIdle(now)
	switch s.tx {
	case pgwire.TxIdle:
		if s.listens != nil {
			s.tellNotifications()
		}
		s.toClient(readyIdle)
	case pgwire.TxActive:
		s.toClient(readyActive)
	default:
		s.toClient(readyFailed)
	}
}

var (
	readyIdle   = pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)
	readyActive = pgwire.AppendReadyForQuery(nil, pgwire.TxActive)
	readyFailed = pgwire.AppendReadyForQuery(nil, pgwire.TxFailed)
)

// armIdle sets the deadline that applies between units.
func (s *Session) armIdle(now int64) {
	limit := s.acct.IdleTimeout
	if s.tx != pgwire.TxIdle {
		limit = s.acct.IdleTransactionTimeout
	}
	if s.idlesPinned() {
		limit = s.acct.PinTimeout
	}
	s.idle = 0
	if limit > 0 {
		s.idle = now + limit
	}
}

// endTransaction forgets what belonged to the client's transaction, or to a unit that was none of it, however that ended: settings that are kept beyond
// would be the next transaction's, and for whom it runs is one of them.
func (s *Session) endTransaction() {
	s.endImplicit()
	if s.listens != nil {
		s.settleListens()
	}
	s.begun, s.fixed, s.strictIsolation, s.prologueSets, s.ran = false, false, false, false, false
	if len(s.prologue) > 0 {
		s.prologue, s.prologueLocal, s.queued = emptied(s.prologue), emptied(s.prologueLocal), 0
	}
	s.encodingQueued = false
	s.forgetPortals()
	s.gone = false
	s.chosen()
	s.writes = nil
	if s.alters {
		s.alters = false
		s.sh.Registry.Changes.Add(1)
	}
	s.recoded()
	if s.ddl {
		s.ddl = false
		if s.sh.Descriptions != nil {
			s.sh.Descriptions.Forget()
		}
	}
	if s.reshapes {
		s.reshapes = false
		s.schemaWait = s.acct.Cluster.SchemaChanged()
	}
}

// refuseUnit answers the unit with an error. end: the unit's last message was seen (Query, Sync), so ReadyForQuery follows;
// else everything up to the client's Sync is dropped. A transaction in progress is aborted, as PostgreSQL does.
func (s *Session) refuseUnit(e *pgwire.Error, end bool) {
	s.errors++
	if e.Routine != "" {
		s.sh.Observer.Refused(s.at(), e.Routine)
	}
	s.sh.Observer.Error(s.at(), e.Code, false)
	if s.conn != nil && (s.begun || s.open) {
		out := s.scratch()
		out = exec.Abort(out, s.conn, e, 0)
		if end {
			out = exec.Sync(out, s.conn, false, 0)
			s.wait = waitAnswer
			s.open = false
		} else {
			out = pgwire.AppendFlush(out)
			s.skip, s.open = true, true
		}
		s.send(out)
		return
	}
	s.toClient(pgwire.AppendErrorResponse(s.scratch(), e))
	s.unit.failed, s.unit.answered = true, true
	if s.tx == pgwire.TxActive {
		s.tx = pgwire.TxFailed
	}
	if !end {
		s.skip = true
		return
	}
	s.finish()
}

// sync ends an extended batch that has nothing (more) to send but its Sync.
func (s *Session) sync() {
	if s.conn != nil && s.open {
		s.send(exec.Sync(s.scratch(), s.conn, false, 0))
		s.open = false
		s.wait = waitAnswer
		return
	}
	s.finish()
}

// endImplicit ends the settings' transaction of a unit that was none of the client's.
func (s *Session) endImplicit() {
	if s.tx == pgwire.TxIdle && s.track.InTransaction() {
		if s.unit.failed {
			s.track.Rollback()
		} else {
			s.track.Commit()
		}
	}
}

// settleDescribing lets go of a backend that only parsed and described, without a Sync of the client's, before anything else is done. It
// returns false where answers are still owed: the session then waits for them.
func (s *Session) settleDescribing() bool {
	if s.conn == nil || !s.describing {
		return true
	}
	out := exec.Sync(s.scratch(), s.conn, true, exec.RefSettle)
	s.open = false
	if s.conn.Pending() > 1 || s.holds() {
		s.wait = waitInternal
		s.send(out)
		return false
	}
	s.captured()
	s.describing, s.unit.outside = false, false
	s.part(out)
	return true
}

// scratch is the session's buffer for outgoing bytes, empty.
func (s *Session) scratch() []byte {
	s.unit.sent = 0
	if cap(s.out) > 64<<10 {
		s.out = nil
	}
	if s.out == nil {
		s.out = make([]byte, 0, 1<<10)
	}
	return s.out[:0]
}

// send writes b to the session's backend.
func (s *Session) send(b []byte) {
	s.out = b[:0]
	if len(b) > 0 {
		s.drv.ToBackend(s.conn, b)
	}
}
