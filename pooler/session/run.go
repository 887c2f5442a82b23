package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
)

// batchAwaits has the ear ready for what the batch executes. It reports whether the batch stops here: to wait for that, or, over, because it was refused.
func (s *Session) batchAwaits(how end) (stops, over bool) {
	refusal, wait := s.awaitsExecuted()
	if refusal == nil && !wait {
		return false, false
	}
	s.dropItems()
	if refusal != nil {
		s.refuseUnit(refusal, how == endSync)
	}
	return true, refusal != nil
}

// answerBatch answers a batch that needs no backend.
func (s *Session) answerBatch(how end) bool {
	if stops, over := s.batchAwaits(how); stops {
		return over
	}
	s.observeItems(sharding.Plan{})
	dst := s.scratch()
	for i := range s.unit.items {
		it := &s.unit.items[i]
		var e *pgwire.Error
		if dst, _, e = s.answerItem(dst, it); e != nil {
			s.out = dst[:0]
			s.toClient(dst)
			for j := i + 1; j < len(s.unit.items); j++ {
				s.dropItem(&s.unit.items[j])
			}
			s.refuseUnit(e, how == endSync)
			return true
		}
	}
	s.out = dst[:0]
	s.toClient(dst)
	clear(s.unit.items)
	s.unit.items = s.unit.items[:0]
	s.settleUnsent()
	if how == endSync {
		s.sync()
	}
	return true
}

// answerItem does what a message asks for that is answered here and appends the answer. ref is the change of a prepared statement's name.
func (s *Session) answerItem(dst []byte, it *item) (out []byte, ref int32, e *pgwire.Error) {
	st := it.statement()
	switch it.typ {
	case pgwire.MsgParse:
		return pgwire.AppendParseComplete(dst), s.parsed(it), nil
	case pgwire.MsgClose:
		if it.target == pgwire.TargetStatement {
			if s.prepared(it.name) != nil {
				ref = s.setName(it.name, nil)
			}
		} else {
			s.bindPortal(it.portal, portal{})
		}
		return pgwire.AppendCloseComplete(dst), ref, nil
	case pgwire.MsgBind:
		s.bindPortal(it.portal, portal{prep: it.prep, named: it.named})
		return pgwire.AppendBindComplete(dst), 0, nil
	case pgwire.MsgDescribe:
		if it.target == pgwire.TargetStatement {
			dst = pgwire.AppendParameterDescription(dst, ownParams(it))
		}
		if st != nil && (st.Kind == parser.Show || st.Sole != nil) {
			return pgwire.AppendRowDescription(dst, ownColumns(st)), 0, nil
		}
		return pgwire.AppendNoData(dst), 0, nil
	case pgwire.MsgExecute:
		if st == nil {
			return pgwire.AppendEmptyQuery(dst), 0, nil
		}
		before := len(s.unit.undo)
		if dst, e = s.answerLocal(dst, st, sqlOf(it.prep.SQL, st), true); len(s.unit.undo) > before {
			ref = int32(before + 1) //nolint:gosec // bounded by maxPending and a batch's messages
		}
		return dst, ref, e
	}
	return dst, 0, nil
}

// portal is what a portal runs.
type portal struct {
	prep *state.Prepared
	// named is the message of what it runs with the names of settings that Bind gave; nil = it gave none.
	named *parser.Message
	// naming of the text that it runs; nil = that is the client's.
	naming *naming
	// shape of the statement on the connection, and what the client was told of it; nil = nobody keeps that.
	shape, told *state.Shape
}

// portalOf returns what a portal runs that was bound before.
func (s *Session) portalOf(name string) portal {
	if name == "" {
		return s.portal
	}
	return s.portals[name]
}

// bindPortal notes what a portal runs; without a statement it is closed.
func (s *Session) bindPortal(name string, p portal) {
	if name == "" {
		s.portal = p
		return
	}
	if old := s.portals[name].prep; old != nil {
		s.scoped.portals -= weightOfPortal(name, old)
	}
	if p.prep == nil {
		delete(s.portals, name)
		return
	}
	if s.portals == nil {
		s.portals = make(map[string]portal)
	}
	s.portals[name] = p
	s.scoped.portals += weightOfPortal(name, p.prep)
}

// forgetPortals gives up what is known of portals: after an error it is not certain which of the client's Bind and Close messages ran, and
// those portals that are older than a savepoint outlive it.
func (s *Session) forgetPortals() {
	if len(s.portals) > 0 {
		clear(s.portals)
		s.scoped.portals = 0
	}
	s.portal = portal{}
}

// weightOfPortal is what a portal weighs in limits: its statement may be gone by its name.
func weightOfPortal(name string, p *state.Prepared) int { return len(name) + p.Bytes() }

// describesOnly reports whether nothing of the batch is executed or bound but what is answered here.
func (s *Session) describesOnly() bool {
	for i := range s.unit.items {
		if it := &s.unit.items[i]; !it.local && (it.typ == pgwire.MsgExecute || it.typ == pgwire.MsgBind) {
			return false
		}
	}
	return true
}

// runBatch sends a batch to a backend as plan says.
func (s *Session) runBatch(plan sharding.Plan, how end) bool {
	outside := s.describesOnly() && s.track.Local == nil && !s.begun && (s.conn == nil || s.describing || !s.open)
	if s.describing && !outside {
		if s.tx == pgwire.TxIdle && s.connAt == s.at() && (plan.Kind != sharding.PlanShard || plan.Shard == s.connShard) {
			// What was described runs right there, in the same implicit transaction.
			s.describing, s.unit.outside = false, false
			s.track.Synced()
			s.track.Begin()
		} else if !s.settleDescribing() {
			s.dropItems()
			return false
		} else if n, bytes := s.localHead(); n > 0 { // it was planned for when no backend is held, and has to be done before the rest is begun
			s.unit.outside = false
			s.split = bytes
			s.dropItemsFrom(n)
			return s.answerBatch(endOpen)
		}
	}
	s.unit.outside = outside
	s.capture.on = false
	if outside && s.answerDescribed(how) {
		return true
	}
	if !s.unit.internalDone {
		if stops, over := s.batchAwaits(how); stops {
			return over
		}
		if refusal, ok := s.acquire(plan); refusal != nil {
			s.dropItems()
			s.refuseUnit(refusal, how == endSync)
			return true
		} else if !ok {
			if s.wait == waitBackend {
				s.unit.held = held{plan: plan, how: how}
			} else {
				s.dropItems()
			}
			return false
		}
		out, owed := s.lead(s.scratch())
		if owed && s.firstEndsTransaction() {
			s.send(exec.Await(out, s.conn))
			s.dropItems()
			s.unit.internalDone = true
			s.wait = waitInternal
			return false
		}
		s.send(out)
	} else if e := s.unit.internal; e != nil {
		s.dropItems()
		s.unit.internal = nil
		if how == endSync {
			s.failInternal(e)
			return true
		}
		s.toClient(pgwire.AppendErrorResponse(s.scratch(), e))
		s.skip, s.unit.failed, s.unit.answered = true, true, true
		return true
	} else if s.conn == nil {
		s.unit.internalDone = false
		return s.runBatch(plan, how)
	}
	if refusal, wait := s.look(); refusal != nil {
		s.dropItems()
		s.refuseUnit(refusal, how == endSync)
		return true
	} else if wait {
		s.dropItems()
		return false
	}
	if s.conn.Pending() == 0 || s.unit.answeredSoFar { // nothing can be skipped any more, and no answer is to come to what was executed
		s.settleNames()
		s.unit.executed = emptied(s.unit.executed)
	}
	s.unit.plan, s.unit.answeredSoFar, s.unit.ahead = plan, false, s.unit.planned
	s.observeItems(plan)
	s.describing, s.unit.looked, s.unit.shapes = outside, false, nil
	s.conn.Statements.Known = s.sh.Registry.Changes.Load()
	out := s.scratch()
	for i := range s.unit.items {
		it := &s.unit.items[i]
		if !it.local {
			out = s.emit(out, it, plan)
			continue
		}
		var refused bool
		if out, refused = s.runLocal(out, it); refused { // what is behind it would be skipped
			s.dropItemsFrom(i + 1)
			break
		}
	}
	s.quiet = s.describesOnly() && (!s.open || s.quiet)
	clear(s.unit.items)
	s.unit.items = s.unit.items[:0]
	switch how {
	case endSync:
		out = exec.Sync(out, s.conn, false, 0)
		s.open = false
		s.wait = waitAnswer
	case endFlush:
		out = pgwire.AppendFlush(out)
		s.open = true
	case endOpen:
		s.open = true
	}
	s.listens.sent()
	s.send(out)
	s.unit.sent = len(out)
	s.conn.Flush()
	return true
}

func (s *Session) firstEndsTransaction() bool {
	for i := range s.unit.items {
		if it := &s.unit.items[i]; it.typ == pgwire.MsgExecute && !it.local && it.prep != nil {
			return endsTransaction(it.prep.Message)
		}
	}
	return false
}

// runLocal answers an item in its turn among answers of the backend. Where it is refused the unit fails at this point.
func (s *Session) runLocal(out []byte, it *item) (rest []byte, refused bool) {
	s.unit.settled = true
	answer, ref, e := s.answerItem(nil, it)
	s.unit.settled = false
	if e != nil {
		return exec.Abort(out, s.conn, e, 0), true
	}
	exec.Local(s.conn, answer, ref)
	return out, false
}

// emitRenamed is emit for a Bind, or a Describe, of a text that names prepared statements. On the backend it is the unnamed one for a moment.
func (s *Session) emitRenamed(out []byte, it *item) []byte {
	out, text, n := s.rename(out, it.prep.SQL, it.expanded, exec.RefPrepare)
	p := s.sh.Registry.Once("", text, it.prep.Types)
	if it.typ == pgwire.MsgDescribe {
		return exec.DescribeStatement(out, s.conn, p, true, false, 0, new(state.Shape))
	}
	if it.portal != "" {
		s.fixed = true // it would be gone with the transaction
	}
	out, _ = exec.Bind(out, s.conn, []byte(it.portal), p, true, it.frame[len(it.frame)-int(it.tail):], false, 0, nil)
	s.bindPortal(it.portal, portal{prep: it.prep, naming: n})
	return out
}

// emit appends the messages for an item.
func (s *Session) emit(out []byte, it *item, plan sharding.Plan) []byte {
	c, shared := s.conn, s.acct.Statements
	unnamed := it.name == ""
	if it.renames && (it.typ == pgwire.MsgBind || it.typ == pgwire.MsgDescribe && it.target == pgwire.TargetStatement) {
		return s.emitRenamed(out, it)
	}
	switch it.typ {
	case pgwire.MsgParse:
		ref := s.parsed(it)
		if !shared && !unnamed {
			c.Ask(backend.Step{Kind: backend.StepParse, Ref: ref})
			if !s.acct.Session {
				c.Taint(backend.TaintSQLPrepare)
			}
			return append(out, it.frame...)
		}
		return exec.Prepare(out, c, it.prep, unnamed, false, ref)
	case pgwire.MsgBind:
		p := portal{prep: it.prep, named: it.named}
		if it.portal != "" {
			s.fixed = true // it would be gone with the transaction
		}
		if it.expanded != nil && !shared {
			p.naming = s.noted(it.prep.SQL, it.expanded)
		}
		if !shared && !unnamed {
			c.Ask(backend.Step{Kind: backend.StepBind})
			out = append(out, it.frame...)
		} else {
			p.told = s.toldOf(it)
			out, p.shape = exec.Bind(out, c, []byte(it.portal), it.prep, unnamed, it.frame[len(it.frame)-int(it.tail):], false, 0, p.told)
		}
		s.bindPortal(it.portal, p)
		return out
	case pgwire.MsgDescribe:
		if it.target == pgwire.TargetPortal {
			p := s.portalOf(it.portal)
			c.Ask(backend.Step{Kind: backend.StepDescribePortal, Shape: p.shape, Told: p.told})
			if p.shape == nil {
				s.unnamedTold = &unsure // it may be its portal
			}
			return append(out, it.frame...)
		}
		if !shared && !unnamed {
			c.Ask(backend.Step{Kind: backend.StepDescribeStatement})
			return append(out, it.frame...)
		}
		if unnamed {
			s.unnamedTold = new(state.Shape)
		}
		return exec.DescribeStatement(out, c, it.prep, unnamed, false, 0, s.toldOf(it))
	case pgwire.MsgClose:
		var ref int32
		if it.target == pgwire.TargetPortal {
			s.bindPortal(it.portal, portal{})
		} else if s.prepared(it.name) != nil {
			ref = s.setName(it.name, nil)
		}
		c.Ask(backend.Step{Kind: backend.StepClose, Ref: ref})
		return append(out, it.frame...)
	case pgwire.MsgExecute:
		if it.limited {
			s.fixed = true
		}
		m := it.message()
		s.unit.parted = s.unit.parted || s.parts(single(m))
		s.unit.forgets = s.unit.forgets || forgets(single(m))
		if m != nil && s.note(m, plan) {
			s.queue(sqlOf(it.prep.SQL, m.Statements[0]))
		}
		p, ref := s.portalOf(it.portal), int32(0)
		if p.naming != nil {
			ref = p.naming.acted(s, it.statement())
		}
		s.unit.executed = append(s.unit.executed, executed{message: m, unjudged: m != nil && s.unit.unjudged || plan.Unjudged, naming: p.naming, ref: ref})
		c.Ask(backend.Step{
			Kind: backend.StepExecute, DataFollows: s.copy.mode == copyDecided, Prepared: p.naming.makes(),
			Ref: int32(len(s.unit.executed) - 1), //nolint:gosec // bounded by a batch's messages
		})
		return append(out, it.frame...)
	}
	return out
}
