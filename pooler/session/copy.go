package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// copyMode is how far a COPY FROM STDIN is.
type copyMode uint8

const (
	copyNone copyMode = iota
	// copyPlain: the server copies in, and whatever the client sends is for it.
	copyPlain
	// copyUndecided: the client was told to send; its rows are held until the first key decides the shard.
	copyUndecided
	// copyDecided: the shard is known; its backend is waited for.
	copyDecided
	// copyRouted: as copyPlain, with each row's key held against the shard.
	copyRouted
)

// copyIn is the COPY FROM STDIN under way.
type copyIn struct {
	mode     copyMode
	extended bool
	router   *router.CopyRouter
	plan     sharding.Plan
	message  *parser.Message
	// start is the Query message, or the batch, that begins it; sent when the shard is known.
	start []byte
	// held are the client's messages that came before that.
	held []byte
	// done: the client has ended its data while the shard was undecided.
	done bool
	// left of a CopyData message whose head was passed on already.
	left int
	// refusal is what the client gets in the place of the server's error.
	refusal *pgwire.Error
	// failed: the rest of the message at hand is passed on, then the copy is failed.
	failed bool
	// begun: the server has begun with it.
	begun bool
}

// maxHeld bounds what is held of a COPY before its first key, in bytes.
const maxHeld = 4 << 20

// copyBegin answers a COPY FROM STDIN whose rows decide where it goes. batch is set for the extended protocol.
func (s *Session) copyBegin(cr *router.CopyRouter, m *parser.Message, plan sharding.Plan, frame, batch []byte) {
	s.copy = copyIn{mode: copyUndecided, router: cr, plan: plan, message: m, start: append([]byte(nil), frame...)}
	if batch != nil {
		s.copy.extended = true
		s.copy.start = append([]byte(nil), batch...)
	}
	s.unit.copyTold = true
	format := pgwire.FormatText
	if cr.Binary() {
		format = pgwire.FormatBinary
	}
	s.toClient(pgwire.AppendCopyInResponse(s.scratch(), format, cr.ColumnCount()))
}

// copyBatch answers a batch whose last Execute is a COPY FROM STDIN whose rows decide where it goes.
func (s *Session) copyBatch(plan sharding.Plan, how end) bool {
	var cr *router.CopyRouter
	var m *parser.Message
	var refusal *pgwire.Error
	dst := s.scratch()
	var batch []byte
	for i := range s.unit.items {
		it := &s.unit.items[i]
		batch = append(batch, it.frame...)
		switch it.typ {
		case pgwire.MsgParse:
			dst = pgwire.AppendParseComplete(dst)
		case pgwire.MsgBind:
			dst = pgwire.AppendBindComplete(dst)
		case pgwire.MsgClose:
			dst = pgwire.AppendCloseComplete(dst)
		case pgwire.MsgDescribe:
			if it.target == pgwire.TargetStatement {
				dst = pgwire.AppendParameterDescription(dst, nil)
			}
			dst = pgwire.AppendNoData(dst)
		case pgwire.MsgExecute:
			st := it.statement()
			if it.local || i != len(s.unit.items)-1 || st == nil || st.Kind != parser.CopyFrom {
				refusal = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "COPY FROM can't share a pipeline with other statements").
					WithHint("Send a Sync in between.").WithRoutine(router.RefusalCrossShard)
				break
			}
			m = it.prep.Message
			cr, refusal = s.rtr.Route(m, s.env()).Copy(s.input(nil))
		}
		if refusal != nil {
			break
		}
	}
	s.dropItems()
	if refusal == nil && m == nil { // bound, not executed yet: nothing that a pooler has to support
		refusal = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "COPY FROM has to be executed in the pipeline that binds it")
	}
	if refusal != nil {
		s.refuseUnit(refusal, how == endSync)
		return true
	}
	s.out = dst[:0]
	s.toClient(dst)
	s.copyBegin(cr, m, plan, nil, batch)
	return true
}

// CopyIn implements backend.Owner.
func (s *Session) CopyIn(step *backend.Step, msg []byte) {
	if s.unit.copyTold {
		s.copy.begun = true
		return
	}
	s.copy = copyIn{mode: copyPlain, extended: step.Kind == backend.StepExecute}
	if s.copy.extended {
		s.open = true // the Sync behind it does not count
	}
	s.toClient(msg)
	s.wait = waitNothing
	s.drain()
}

// copyInput handles the client's input while a COPY FROM STDIN is under way.
func (s *Session) copyInput(b []byte) int {
	if s.copy.mode == copyDecided {
		if !s.copyStart() {
			return 0
		}
		if s.blocked() {
			return 0
		}
		if s.copy.mode == copyNone {
			return s.step(b)
		}
	}
	if s.copy.left > 0 {
		return s.copyRest(b)
	}
	typ, total, ok := pgwire.Header(b)
	if !ok {
		return 0
	}
	switch typ {
	case pgwire.MsgCopyData, pgwire.MsgCopyDone, pgwire.MsgCopyFail, pgwire.MsgFlush, pgwire.MsgSync, pgwire.MsgTerminate:
	default: // PostgreSQL takes it for the end of the copy, and does not know where the next message begins
		e := pgwire.Errorf(pgwire.CodeProtocolViolation, "unexpected message type 0x%02X during COPY from stdin", typ)
		s.toClient(pgwire.AppendErrorResponse(nil, e))
		s.fatal(pgwire.Fatalf(pgwire.CodeProtocolViolation, "terminating connection because protocol synchronization was lost"), CloseProtocol)
		return 0
	}
	if !s.admits(typ, total) {
		return 0
	}
	if typ == pgwire.MsgCopyData {
		return s.copyData(total, b)
	}
	if len(b) < total {
		return 0
	}
	switch typ {
	case pgwire.MsgCopyDone, pgwire.MsgCopyFail:
		s.copyEnd(typ, b[:total])
	case pgwire.MsgFlush, pgwire.MsgSync:
		// PostgreSQL ignores both while it copies in.
	case pgwire.MsgTerminate:
		s.close(CloseClient)
	}
	return total
}

// copyData handles a CopyData message, or as much of it as is there.
func (s *Session) copyData(total int, b []byte) int {
	n := min(total, len(b))
	if s.copy.mode == copyUndecided {
		if n < total {
			if total > maxHeld {
				s.copyRefuse(errRowTooLong)
				return 0
			}
			return 0
		}
		if len(s.copy.held)+total > maxHeld {
			s.copyRefuse(errRowTooLong)
			return total
		}
		s.copy.held = append(s.copy.held, b[:total]...)
		shard, known, e := s.copy.router.Feed(b[pgwire.HeaderBytes:total])
		if e != nil {
			s.copyRefuse(e)
			return total
		}
		if known {
			s.copyDecide(sharding.Plan{Kind: sharding.PlanShard, Shard: shard, Write: true, Reason: s.copy.plan.Reason})
		}
		return total
	}
	s.copy.left = total - n
	s.copyFeed(b[pgwire.HeaderBytes:n])
	s.drv.ToBackend(s.conn, b[:n])
	s.copyMaybeFail()
	return n
}

// copyRest passes on more of a CopyData message.
func (s *Session) copyRest(b []byte) int {
	n := min(s.copy.left, len(b))
	s.copy.left -= n
	s.copyFeed(b[:n])
	s.drv.ToBackend(s.conn, b[:n])
	s.copyMaybeFail()
	return n
}

var errRowTooLong = pgwire.Errorf(pgwire.CodeProgramLimitExceeded, "the first row of COPY is too long to be routed").
	WithDetail("Up to %d bytes are held until the first row's sharding key is known.", maxHeld).
	WithHint("Address the shard by a comment: /* pgdog_shard: 0 */.").WithRoutine("copy_row")

// copyFeed holds rows against the shard that the first one chose.
func (s *Session) copyFeed(b []byte) {
	if s.copy.mode != copyRouted || s.copy.failed {
		return
	}
	if _, _, e := s.copy.router.Feed(b); e != nil {
		s.copy.failed, s.copy.refusal = true, e
	}
}

// copyMaybeFail fails the copy at the end of the message in which a row was refused.
func (s *Session) copyMaybeFail() {
	if s.copy.failed && s.copy.left == 0 {
		s.unit.copyRefusal = s.copy.refusal
		s.drv.ToBackend(s.conn, pgwire.AppendCopyFail(nil, "a row was refused"))
		s.copyLeave()
	}
}

// copyLeave ends the client's part of the copy; the server's answer is to come.
func (s *Session) copyLeave() {
	extended := s.copy.extended
	s.copy = copyIn{}
	if !extended {
		s.wait = waitAnswer
	}
}

// copyDecide notes the shard and goes for its backend.
func (s *Session) copyDecide(plan sharding.Plan) {
	s.copy.plan = plan
	s.copy.mode = copyDecided
	s.copyStart()
}

// copyStart sends the statement and what is held of its data. It returns false where it has to wait.
func (s *Session) copyStart() bool {
	if s.copy.extended {
		refusal, wait := s.decodeBatch(s.copy.start)
		if refusal != nil || wait {
			s.dropItems()
		}
		if wait {
			return false
		}
		if refusal != nil {
			s.copyRefuse(refusal)
			return true
		}
	}
	h := s.hearing()
	h.in = h.in || s.copy.extended // a Sync follows
	refusal, wait := s.awaitsEar(h)
	ok := refusal == nil && !wait
	if ok {
		refusal, ok = s.acquire(s.copy.plan)
	}
	if !ok {
		s.dropItems()
		if refusal != nil {
			s.copyRefuse(refusal)
		}
		return refusal != nil
	}
	out, _ := s.lead(s.scratch())
	s.note(s.copy.message, s.copy.plan)
	if s.copy.extended {
		s.observeItems(sharding.Plan{Kind: sharding.PlanCopy})
		first := len(s.unit.items) - 1
		for i := range s.unit.items {
			it := &s.unit.items[i]
			if i < first {
				out = s.emitAnswered(out, it)
			} else {
				out = s.emit(out, it, s.copy.plan)
			}
		}
		clear(s.unit.items)
		s.unit.items = s.unit.items[:0]
		s.open = true
	} else {
		s.routed(RouteCopy)
		out = append(out, s.copy.start...)
		exec.Query(s.conn, 0)
	}
	out = append(out, s.copy.held...)
	s.send(out)
	s.copy.start, s.copy.held = nil, nil
	s.copy.mode = copyRouted
	if s.copy.done {
		s.copyLeave()
	}
	return true
}

// emitAnswered emits an item whose answer the client has already.
func (s *Session) emitAnswered(out []byte, it *item) []byte {
	unnamed := it.name == ""
	switch it.typ {
	case pgwire.MsgParse:
		s.parsed(it)
		return exec.Prepare(out, s.conn, it.prep, unnamed, true, exec.RefPrepare)
	case pgwire.MsgBind:
		s.bindPortal(it.portal, portal{prep: it.prep})
		out, _ = exec.Bind(out, s.conn, []byte(it.portal), it.prep, unnamed, it.frame[len(it.frame)-int(it.tail):], true, exec.RefPrepare, nil)
		return out
	}
	return out
}

// copyEnd handles CopyDone and CopyFail.
func (s *Session) copyEnd(typ byte, frame []byte) {
	if s.copy.mode != copyUndecided {
		s.drv.ToBackend(s.conn, frame)
		s.copyLeave()
		return
	}
	if typ == pgwire.MsgCopyFail {
		reason, _ := pgwire.DecodeCopyFail(frame[pgwire.HeaderBytes:])
		s.copyRefuse(pgwire.Errorf(pgwire.CodeQueryCanceled, "COPY from stdin failed: %s", reason))
		return
	}
	shard, known, e := s.copy.router.Finish()
	if e != nil {
		s.copyRefuse(e)
		return
	}
	s.copy.held = append(s.copy.held, frame...)
	s.copy.done = true
	plan := sharding.Plan{Kind: sharding.PlanAny, Write: true, Reason: "no rows"}
	if known {
		plan = sharding.Plan{Kind: sharding.PlanShard, Shard: shard, Write: true, Reason: s.copy.plan.Reason}
	}
	s.copyDecide(plan)
}

// copyRefuse ends a copy of which nothing has reached a server.
func (s *Session) copyRefuse(e *pgwire.Error) {
	extended := s.copy.extended
	s.copy = copyIn{}
	s.refuseUnit(e, !extended)
}

// copyFailed follows the server's error during a copy.
func (s *Session) copyFailed() {
	extended := s.copy.extended
	s.copyDrop()
	if extended {
		s.open = true
		return
	}
	s.wait = waitAnswer
}

// copyOver gives up a copy that the server calls done while its client sends rows still, which no PostgreSQL does: nobody else gets that backend.
func (s *Session) copyOver() {
	if s.copy.mode == copyPlain || s.copy.mode == copyRouted && s.copy.begun {
		s.conn.Taint(backend.TaintProtocol)
		s.copyFailed()
	}
}

// copyDrop forgets the copy. What the client has yet to send of the message at hand is data still, and never taken for messages; the server,
// which has its head, waits for it as well, and is not fit for anybody else.
func (s *Session) copyDrop() {
	if s.copy.left > 0 {
		s.dropping, s.dropTo = s.copy.left, s.conn
		if s.conn != nil {
			s.conn.Taint(backend.TaintProtocol)
		}
	}
	s.copy = copyIn{}
}

// dropRest takes what comes of a message whose COPY is over.
func (s *Session) dropRest(b []byte) int {
	n := min(s.dropping, len(b))
	s.dropping -= n
	if s.dropTo != nil && s.dropTo == s.conn {
		s.drv.ToBackend(s.conn, b[:n])
	}
	if s.dropping == 0 {
		s.dropTo = nil
	}
	return n
}
