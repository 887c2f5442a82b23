package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// end is how an extended batch ends.
type end uint8

const (
	endFlush end = iota + 1 // Flush: answers are wanted, the pipeline goes on
	endSync
	endOpen // nothing: the batch is cut here for its size, or by a message of another kind
)

// item is one message of a batch, decoded.
type item struct {
	typ    byte
	target pgwire.TargetKind // Describe, Close
	// local: answered here.
	local bool
	// limited: Execute with a row limit.
	limited bool
	// fresh: Bind of a statement that is parsed in the same batch.
	fresh bool
	// kept: Parse of what the unnamed statement is already, whose reference serves.
	kept   bool
	tail   int32 // Bind: how many bytes at the end of frame follow the names
	frame  []byte
	name   string // of the statement: Parse, Bind, Describe S, Close S
	portal string // Bind, Describe P, Execute, Close P
	// prep is the statement: Parse, Bind, Describe S; Execute, Describe P: what the portal runs, nil where that is not known.
	prep *state.Prepared
	// expanded is the statement's message where that names prepared statements, with what it executes; renames: the names are replaced.
	expanded *parser.Message
	renames  bool
	// named is the statement's message with the names of settings that Bind gives; nil = it gives none.
	named *parser.Message
}

// message is what the item is about; nil = not known.
func (it *item) message() *parser.Message {
	switch {
	case it.expanded != nil:
		return it.expanded
	case it.named != nil:
		return it.named
	case it.prep == nil:
		return nil
	}
	return it.prep.Message
}

// statement is the one statement of that.
func (it *item) statement() *parser.Statement {
	if m := it.message(); m != nil {
		return single(m)
	}
	return nil
}

// boundName stands for the name of a statement that a Bind has found.
const boundName = "(bound)"

// collect looks for the end of the batch at the front of b and handles it. It returns the batch's length, 0 if it is not complete.
func (s *Session) collect(b []byte) int {
	if h := &s.unit.held; h.bytes > 0 {
		return s.collectHeld(b)
	}
	pos, n := s.scanned, s.scannedItems
	for ; ; n++ {
		typ, total, ok := pgwire.Header(b[pos:])
		if ok && !s.admits(typ, total) {
			return 0
		}
		var how end
		switch {
		case !ok || pos+total > len(b):
			s.scanned, s.scannedItems = pos, n
			if pos < s.sh.MaxBatch || pos == 0 {
				return 0
			}
			how, total = endOpen, 0
		case n == maxItems:
			how, total = endOpen, 0
		case typ == pgwire.MsgSync:
			how = endSync
		case typ == pgwire.MsgFlush:
			how = endFlush
		case typ == pgwire.MsgParse, typ == pgwire.MsgBind, typ == pgwire.MsgDescribe, typ == pgwire.MsgExecute, typ == pgwire.MsgClose:
			pos += total
			continue
		default:
			how, total = endOpen, 0
		}
		s.split = 0
		if !s.batch(b[:pos], how) {
			s.scanned, s.scannedItems = 0, 0
			if h := &s.unit.held; h.how != 0 {
				if h.bytes = pos + total; s.split > 0 {
					h.bytes = s.split
				}
			}
			return 0
		}
		if s.split > 0 {
			return s.split
		}
		return pos + total
	}
}

// held is a batch that was planned and waits for a backend.
type held struct {
	plan  sharding.Plan
	how   end
	bytes int // of it and of the message that ends it
}

// collectHeld goes on with the batch that waited, which is at the front of b.
func (s *Session) collectHeld(b []byte) int {
	h := s.unit.held
	s.unit.held = held{}
	at := 0
	for i := range s.unit.items { // the bytes have moved
		it := &s.unit.items[i]
		it.frame = b[at : at+len(it.frame)]
		at += len(it.frame)
	}
	if !s.runBatch(h.plan, h.how) {
		if s.unit.held.how != 0 {
			s.unit.held.bytes = h.bytes
		}
		return 0
	}
	return h.bytes
}

// batch handles an extended batch, without the Sync or Flush that ends it. It returns false where it has to wait; it is called again then with
// the same bytes.
func (s *Session) batch(b []byte, how end) bool {
	if s.unit.late == nil {
		return s.batchNow(b, how)
	}
	late := s.unit.late
	s.unit.late = nil
	done := s.batchNow(b, how)
	s.drop(late) // it has them once more, or needs them no more
	return done
}

// batchNow is batch.
func (s *Session) batchNow(b []byte, how end) bool {
	s.start()
	if len(b) == 0 {
		return s.endOnly(how)
	}
	if e := s.told08006(); e != nil {
		s.refuseUnit(e, how == endSync)
		return true
	}
	if s.conn != nil && max(s.conn.Pending(), len(s.unit.executed), len(s.unit.undo)) > maxPending && s.awaitsSoFar() {
		return false
	}
	if s.unit.forgets && s.awaitsSoFar() {
		return false
	}
	s.unit.forgets = false
	refusal, wait := s.decodeBatch(b)
	if wait {
		s.putOff()
		return false
	}
	if n := s.namesUpTo(); n < len(s.unit.items) {
		refusal, how = nil, endOpen
		for i := range n {
			s.split += len(s.unit.items[i].frame)
		}
		s.dropItemsFrom(n)
	}
	plan, needs, planned, e := s.planBatch()
	if e != nil {
		refusal, s.unit.badParse = e, false
	}
	malformed := refusal != nil && e == nil && planned > 0 // the message itself, wherever the others run
	if refusal != nil && refusal != router.ErrNeedsText && (malformed || s.asks(planned)) && plan.Kind != sharding.PlanCopy {
		// What stands in front of the refused message runs and is answered first, as PostgreSQL does.
		how, s.split = endOpen, 0
		for i := range planned {
			s.split += len(s.unit.items[i].frame)
		}
		s.dropItemsFrom(planned)
		plan, needs, planned, refusal = s.planBatch()
	}
	if refusal == router.ErrNeedsText {
		s.putOff()
		return false
	}
	if n, bytes := s.localHead(); n > 0 && (refusal != nil || needs) {
		s.split = bytes
		s.dropItemsFrom(n)
		return s.answerBatch(endOpen)
	}
	if refusal != nil {
		unnamed := s.unit.badParse || planned < len(s.unit.items) && s.unit.items[planned].typ == pgwire.MsgParse && s.unit.items[planned].name == ""
		s.dropItems()
		if unnamed && s.unnamed != nil {
			s.setName("", nil) // as behind a Parse that the server refuses
		}
		s.refuseUnit(refusal, how == endSync)
		return true
	}
	if plan.Kind == sharding.PlanCopy {
		if s.describing && !s.settleDescribing() || s.awaitsSoFar() { // it is answered here, behind what is in front of it
			s.dropItems()
			return false
		}
		return s.copyBatch(plan, how)
	}
	if !needs && (s.conn == nil || !s.open) {
		return s.answerBatch(how)
	}
	return s.runBatch(plan, how)
}

// asks reports whether the first n items ask for more than that something be parsed and bound.
func (s *Session) asks(n int) bool {
	for i := range n {
		switch s.unit.items[i].typ {
		case pgwire.MsgExecute, pgwire.MsgDescribe, pgwire.MsgClose:
			return true
		}
	}
	return false
}

// endOnly handles a Sync or Flush with nothing in front of it.
func (s *Session) endOnly(how end) bool {
	switch how {
	case endSync:
		if s.listens != nil && s.open {
			if refusal, wait := s.awaitsEar(s.hearing()); refusal != nil {
				s.refuseUnit(refusal, true)
				return true
			} else if wait {
				return false
			}
			s.listens.sent()
		}
		s.sync()
	case endFlush:
		if s.conn != nil && s.open {
			s.send(pgwire.AppendFlush(s.scratch()))
		}
	case endOpen:
	}
	return true
}

// localHead returns how many items at the front of the batch are answered here, and their length, if something is executed among them and no
// backend is held: what they do (BEGIN, for one) has to be done before it is known what to put in front of the rest.
func (s *Session) localHead() (n, bytes int) {
	if s.conn != nil && !s.idlePin() {
		return 0, 0
	}
	executes := false
	for n < len(s.unit.items) && s.unit.items[n].local {
		executes = executes || s.unit.items[n].typ == pgwire.MsgExecute
		bytes += len(s.unit.items[n].frame)
		n++
	}
	if !executes {
		return 0, 0
	}
	return n, bytes
}

// dropItems gives up the statements that a batch's Parse messages took, when it is not run (now).
func (s *Session) dropItems() { s.dropItemsFrom(0) }

// dropItemsFrom is dropItems for the items behind the first n.
func (s *Session) dropItemsFrom(n int) {
	for i := n; i < len(s.unit.items); i++ {
		s.dropItem(&s.unit.items[i])
	}
	clear(s.unit.items[n:])
	s.unit.items = s.unit.items[:n]
	s.unit.unindex(n)
}

// dropItem gives up the reference of a Parse that is not run.
func (s *Session) dropItem(it *item) {
	if it.typ == pgwire.MsgParse && !it.kept {
		s.sh.Registry.Drop(it.prep)
	}
}

// decodeBatch decodes the messages of b into items and resolves the names in them.
func (s *Session) decodeBatch(b []byte) (refusal *pgwire.Error, wait bool) {
	s.unit.items = s.unit.items[:0]
	s.unit.unindex(0)
	s.unit.badParse = false
	forgotten := false
	for pos := 0; pos < len(b); {
		typ, total, _ := pgwire.Header(b[pos:])
		frame := b[pos : pos+total]
		pos += total
		n := len(s.unit.items)
		items := append(s.unit.items, item{typ: typ, frame: frame})
		s.unit.items = items[:n] // what is looked up in it is in front of it
		it := &items[n]
		if refusal, wait = s.decodeItem(it, frame[pgwire.HeaderBytes:]); refusal != nil || wait {
			return refusal, wait
		}
		if it.prep != nil && it.prep.Message.Names {
			if it.expanded = it.prep.Message; it.typ != pgwire.MsgParse {
				if it.expanded, refusal = s.executing(it.expanded); refusal != nil || it.expanded == nil {
					return refusal, refusal == nil
				}
			}
			it.renames = s.renames(it.expanded)
		} else if it.prep != nil {
			s.nameSettings(it)
		}
		s.unit.items = items
		if forgotten && it.name != "" {
			return nil, false // it is looked at again: see namesUpTo
		}
		forgotten = forgotten || it.typ == pgwire.MsgExecute && forgets(it.statement())
	}
	return nil, false
}

func (s *Session) decodeItem(it *item, body []byte) (refusal *pgwire.Error, wait bool) {
	switch it.typ {
	case pgwire.MsgParse:
		return s.decodeParse(it, body)
	case pgwire.MsgBind:
		if err := s.bind.decode(body, len(s.unit.items)); err != nil {
			return asError(err), false
		}
		b := &s.bind.bind
		if it.prep, it.fresh = s.find(b.Statement); it.prep == nil {
			return noStatement(string(b.Statement)), false
		}
		if len(b.Statement) > 0 {
			it.name = boundName // which one matters no more
		}
		it.portal, it.tail = string(b.Portal), int32(len(body)-b.Tail) //nolint:gosec // a message's length is an int32
		if it.portal != "" {
			if e := s.full(weightOfPortal(it.portal, it.prep)); e != nil {
				return e, false
			}
		}
		if s.awaitsSchema(it.prep.Message) {
			return nil, true
		}
	case pgwire.MsgDescribe, pgwire.MsgClose:
		decode := pgwire.DecodeDescribe
		if it.typ == pgwire.MsgClose {
			decode = pgwire.DecodeClose
		}
		t, err := decode(body)
		if err != nil {
			return asError(err), false
		}
		it.target = t.Kind
		if t.Kind == pgwire.TargetPortal {
			if it.portal = string(t.Name); it.typ == pgwire.MsgDescribe {
				it.prep, it.named = s.bound(it.portal)
			}
			break
		}
		it.name = string(t.Name)
		if it.typ == pgwire.MsgDescribe {
			if it.prep = s.statement(t.Name); it.prep == nil {
				return noStatement(it.name), false
			}
		}
	case pgwire.MsgExecute:
		e, err := pgwire.DecodeExecute(body)
		if err != nil {
			return asError(err), false
		}
		it.portal, it.limited = string(e.Portal), e.MaxRows > 0
		it.prep, it.named = s.bound(it.portal)
	}
	return nil, false
}

func (s *Session) decodeParse(it *item, body []byte) (refusal *pgwire.Error, wait bool) {
	p, err := pgwire.DecodeParse(body)
	if err != nil {
		return asError(err), false
	}
	it.name = string(p.Name)
	s.unit.badParse = it.name == "" // until it is known better
	if e := s.tooLong(p.SQL); e != nil {
		return e, false
	}
	if it.name != "" && (s.acct.Statements || s.tx == pgwire.TxFailed) && s.statement(p.Name) != nil { // else the server knows, whose names they are
		return pgwire.Errorf(pgwire.CodeDuplicatePreparedStatement, `prepared statement "%s" already exists`, it.name), false
	}
	types := body[p.Tail+len(p.SQL)+1:][2:]
	if u := s.unnamed; u != nil && it.name == "" && u.SQL == string(p.SQL) && u.Types == string(types) && s.statement(nil) == u {
		it.prep, it.kept = u, true
		s.unit.badParse = false
		return nil, s.awaitsSchema(u.Message)
	}
	if e := s.full(len(p.SQL) + len(p.Name)); e != nil {
		return e, false
	}
	if it.prep = s.sh.Registry.Take(p.SQL, types); it.prep != nil { // somebody has it
		if s.awaitsSchema(it.prep.Message) {
			s.dropItem(it)
			return nil, true
		}
		s.unit.badParse = false
		return nil, false
	}
	shape := shapes.Get().(*parser.Shape) //nolint:forcetypeassert // it holds nothing else
	defer shapes.Put(shape)
	m := s.parse(p.SQL, shape, byText)
	if m == nil || s.awaitsSchema(m) {
		return nil, true
	}
	if len(m.Statements) > 1 {
		return pgwire.Errorf(pgwire.CodeSyntaxError, "cannot insert multiple commands into a prepared statement"), false
	}
	it.prep = s.sh.Registry.Intern(p.SQL, types, m, shape.Literals)
	s.unit.badParse = false
	return nil, false
}

// full refuses what would take the session over what it may have prepared and bound, by more bytes.
func (s *Session) full(more int) *pgwire.Error {
	if s.sh.Statements <= 0 || int(s.bytes)+s.scoped.portals+s.scoped.sqlPrep+more <= s.sh.Statements {
		return nil
	}
	return pgwire.Errorf(pgwire.CodeConfigurationLimitExceeded, "too many prepared statements").
		WithDetail("The prepared statements and portals of this connection exceed %d bytes.", s.sh.Statements).
		WithHint("Close or DEALLOCATE what is no longer used.").WithRoutine("prepared_statements")
}

// planBatch routes every message of the batch and joins the plans: all on one shard. needs is false if every one of them is answered here;
// planned is how many messages stand in front of the refused one. A refusal router.ErrNeedsText says that the batch waits for a parse.
func (s *Session) planBatch() (plan sharding.Plan, needs bool, planned int, refusal *pgwire.Error) {
	moves, encoding := s.unit.pathMoves, s.unit.encodingMoves
	plan, needs, planned, refusal = s.planItems()
	s.unit.pathMoves, s.unit.encodingMoves = moves, encoding
	return plan, needs, planned, refusal
}

// planItems is planBatch, and leaves in the unit what is true behind the batch.
func (s *Session) planItems() (plan sharding.Plan, needs bool, planned int, refusal *pgwire.Error) {
	plan.Kind = sharding.PlanAny
	v := s.view()
	acts, parted := false, s.unit.parted
	for i := range s.unit.items {
		it := &s.unit.items[i]
		if it.typ == pgwire.MsgClose {
			if v.held && (it.target == pgwire.TargetPortal || it.name != "" && !s.acct.Statements) {
				needs, v.pinned = true, false
			} else {
				it.local = true
			}
			continue
		}
		m := it.message()
		if m == nil { // a portal that is not known here: PostgreSQL says so
			if s.conn == nil && !v.held {
				return plan, needs, i, noPortal(it.portal) // there is none where it could be
			}
			needs, v.pinned = true, false
			continue
		}
		st := single(m)
		if it.typ == pgwire.MsgParse && it.renames && v.tx != pgwire.TxFailed {
			it.local = true // it is parsed when it is bound: what it names is known then
			continue
		}
		if it.typ == pgwire.MsgBind {
			if e := s.confined(m); e != nil {
				return plan, true, i, e
			}
		}
		if st != nil && s.localAt(st, v) && (it.typ != pgwire.MsgParse || it.name == "" || s.acct.Statements || s.own(st)) {
			it.local = true
			switch it.typ {
			case pgwire.MsgBind:
				if refusal := s.bindsHere(i, v.tx); refusal != nil {
					it.local = false
					return plan, needs, i, refusal
				}
				if refusal := s.bindLocal(m, st, i, needs, acts); refusal != nil {
					it.local = false // what is in front of it runs first, if that can be
					return plan, needs, i, refusal
				}
			case pgwire.MsgExecute:
				if st.Sole != nil {
					if refusal := s.chosenAt(i); refusal != nil {
						it.local = false
						return plan, needs, i, refusal
					}
				}
				acts = true
				v = s.after(v, st, true)
				s.moves(st)
			}
			continue
		}
		empty := len(m.Statements) == 0 && m.Unparsable == nil // of an empty text a failed transaction refuses the Bind alone
		runs := empty && it.typ != pgwire.MsgBind || st != nil && s.runsFailed(st, v.tx)
		if empty && !v.held && s.conn == nil {
			if v.tx == pgwire.TxFailed && !runs {
				_, _, refusal := s.inFailure(i, st, v.held)
				return plan, needs, i, refusal
			}
			if it.typ == pgwire.MsgBind {
				if refusal := s.bindsHere(i, v.tx); refusal != nil {
					return plan, needs, i, refusal
				}
			}
			it.local = true
			continue
		}
		if v.tx == pgwire.TxFailed && !runs && !parted {
			answered, asked, refusal := s.inFailure(i, st, v.held)
			if refusal != nil {
				return plan, true, i, refusal
			}
			if it.local = answered; asked {
				needs, v.pinned = true, false
			}
			continue
		}
		needs = true
		v.held, v.pinned = true, false // whatever comes behind it, comes there
		if parted {
			return plan, true, i, errParted
		}
		switch it.typ {
		case pgwire.MsgParse, pgwire.MsgDescribe:
			if s.boundBeside(i) {
				continue // it is planned with its parameters
			}
			if refusal := s.refusesItem(it); refusal != nil && !ofExecution(refusal) {
				return plan, true, i, refusal
			}
		case pgwire.MsgExecute:
			if st != nil {
				v = s.after(v, st, false)
				parted = s.parts(st)
				s.moves(st)
				s.unit.pathMoves = s.unit.pathMoves || plan.Unjudged
			}
		case pgwire.MsgBind:
			if st != nil {
				if e := s.lexing(m, endsFailure(st)); e != nil {
					return plan, true, i, e
				}
			}
			if e := s.sequences(m); e != nil {
				return plan, true, i, e
			}
			if e := s.pins(m); e != nil {
				return plan, true, i, e
			}
			if refusal := s.joinBind(&plan, i); refusal != nil {
				if refusal != router.ErrNeedsText && i > 0 && s.unit.items[i-1].typ == pgwire.MsgParse && s.boundBeside(i-1) {
					if first := s.refuses(it.prep); first != nil && !ofExecution(first) {
						return plan, true, i - 1, first // whatever its parameters
					}
				}
				return plan, true, i, refusal
			}
		}
	}
	s.unit.planned = v.tx
	return plan, needs, len(s.unit.items), nil
}

// boundBeside reports whether the Parse or Describe at index i stands in front of the Bind of its statement, or behind that of its portal.
func (s *Session) boundBeside(i int) bool {
	items := s.unit.items
	if it := &items[i]; it.typ == pgwire.MsgParse {
		return i+1 < len(items) && items[i+1].typ == pgwire.MsgBind && items[i+1].prep == it.prep
	} else if i == 0 || it.target != pgwire.TargetPortal {
		return false
	} else {
		return items[i-1].typ == pgwire.MsgBind && items[i-1].portal == it.portal
	}
}
