package session

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// acquire sees to it that the session holds a backend on which the plan may run. It returns nil, true when it does; nil, false when it has to
// wait for one; else the refusal.
func (s *Session) acquire(plan sharding.Plan) (refusal *pgwire.Error, ok bool) {
	want := AnyShard
	if plan.Kind == sharding.PlanShard {
		want = plan.Shard
	}
	if s.conn != nil {
		fits := s.fits()
		if fits && (want == AnyShard || want == s.connShard) {
			return nil, !s.awaitsVoice(plan)
		}
		if s.open && s.quiet && s.wait == waitNothing {
			// Only Parse and Describe are under way: once they are answered, nothing keeps the transaction here.
			s.open, s.quiet = false, false
			s.wait = waitInternal
			s.send(exec.Sync(s.scratch(), s.conn, true, exec.RefSync))
			return nil, false
		}
		if refusal := s.leave(); refusal != nil {
			if !fits {
				s.visit.keep = false
				s.endVisit()
				if refusal = tooLate(); s.pin != 0 {
					refusal = s.pinnedByOther()
				}
			}
			return refusal, false
		}
	}
	if e := s.unit.checkout; e != nil {
		s.unit.checkout = nil
		return e, false
	}
	s.clock.wait = s.drv.Now()
	for {
		c := s.drv.Checkout(s.at(), want, s.track.Base().Mark())
		if c == nil {
			s.wait = waitBackend
			return nil, false
		}
		if s.outdated(c) {
			s.drv.Discard(c, backend.TaintContext.First())
			continue
		}
		s.take(c)
		return nil, !s.awaitsVoice(plan)
	}
}

// outdated reports whether c was opened when its database was not prepared for sealed tenants, for one of whom it is wanted. It may be by now: another
// connection finds that out.
func (s *Session) outdated(c *backend.Conn) bool {
	return c.Start == 0 && c.Opened != 0 && s.drv.Now()-c.Opened > unpreparedFor && s.track.Base().Sealed()
}

// unpreparedFor is how long that is believed of a connection, in nanoseconds.
const unpreparedFor = 250e6

// leave lets go of the backend because a statement is for another shard, where that changes nothing for the client.
func (s *Session) leave() *pgwire.Error {
	cross := pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the statement is for another shard than its transaction").
		WithRoutine(router.RefusalCrossShard)
	switch {
	case s.pin != 0:
		return s.pinnedElsewhere()
	case s.acct.Session && (s.tx == pgwire.TxIdle || s.begun || s.named()) && !s.open:
		return cross.WithDetail("In session pooling a client stays on the shard of its first statement.").
			WithHint("Use transaction pooling, or one connection per shard.")
	case !s.begun && !s.open:
		s.release()
	case s.open:
		return cross.WithDetail("Statements before it in the same pipeline ran on another shard.").
			WithHint("Send a Sync between statements for tenants of different shards.")
	case s.fixed:
		return cross.WithDetail("A transaction runs on one shard, which its first statement with a sharding key decides.").
			WithHint("End the transaction first, or use one transaction per shard.")
	case s.strictIsolation:
		return cross.WithDetail("Statements without a sharding key ran before it, and at this isolation level the transaction can't begin anew.").
			WithHint("Name the sharding key in the transaction's first statement, or use READ COMMITTED.")
	default:
		// Only reads that any shard answers ran so far: the transaction begins anew on the right one.
		before := s.track // ROLLBACK takes what was SET in the transaction from the server, and the client keeps it
		before.Rollback()
		s.conn.Have = before.Have
		s.part(exec.Internal(s.scratch(), s.conn, exec.RefRollback, "ROLLBACK"))
		s.begun = false
	}
	return nil
}

// named reports whether the client has named prepared statements, which in session pooling are its backend's.
func (s *Session) named() bool { return len(s.names) > 0 }

// take makes c the session's.
func (s *Session) take(c *backend.Conn) {
	s.conn, s.connShard, s.connAt = c, c.Shard, s.at()
	s.cleanSequences, s.worked = false, false
	c.Deaf = !s.acct.Session || s.acct.bound() && s.acct.Speaker() != nil // a function may LISTEN
	c.Own(s)
	s.clock.wait = 0
}

// Granted answers Checkout.
func (s *Session) Granted(c *backend.Conn) {
	if s.wait != waitBackend {
		s.drv.Release(c)
		return
	}
	s.wait = waitNothing
	if s.phase == phaseReady && s.outdated(c) {
		s.drv.Discard(c, backend.TaintContext.First())
		s.drain()
		return
	}
	s.take(c)
	if s.phase == phaseLogin {
		s.probe()
		return
	}
	s.drain()
}

// CheckoutFailed answers Checkout or Parameters.
func (s *Session) CheckoutFailed(e *pgwire.Error) {
	if s.wait != waitBackend && s.wait != waitParams && s.wait != waitDedicated {
		return
	}
	s.wait, s.clock.wait = waitNothing, 0
	if s.phase == phaseLogin {
		s.fatal(e.WithSeverity(pgwire.SeverityFatal), CloseUnavailable)
		return
	}
	s.unit.checkout = e
	s.drain()
}

// lead puts in front of a unit what its backend lacks: the session's settings, and the beginning of its transaction. It reports whether
// answers to that are owed.
func (s *Session) lead(out []byte) ([]byte, bool) {
	c := s.conn
	c.Voice.Speak(s.at().Speaker())
	if s.open {
		return out, false // in the middle of a pipeline nothing can go in front
	}
	if (s.readsSequences || s.holds()) && !s.cleanSequences && (!s.begun || !s.worked && s.tx == pgwire.TxActive) { // who keeps the backend may ask later for what comes from now on
		s.cleanSequences = true
		out = exec.Internal(out, c, exec.RefDiscard, "DISCARD SEQUENCES")
	}
	if s.begun && s.tx == pgwire.TxFailed {
		return out, false // nothing can be set; what ends it sets back what was set in it
	}
	if s.begun {
		s.assure(s.track.Expected)
		c.Have = s.track.Have
		out, did := exec.Context(out, c, s.track.Expected, true)
		s.track.Have = s.track.Expected
		return out, did
	}
	virtual := s.tx != pgwire.TxIdle
	if s.unit.outside {
		s.assure(s.track.Expected)
		out, did := exec.Context(out, c, s.track.Expected, false)
		s.carry(did)
		return out, did
	}
	s.assure(s.track.Base())
	out, did := exec.Context(out, c, s.track.Base(), false)
	s.carry(did)
	s.track.Synced()
	if virtual {
		out = exec.Begin(out, c, s.prologue)
		c.Have = s.track.Have
		for _, v := range s.prologueLocal {
			if v.Name == "" {
				c.Doubt(true)
			} else {
				c.DoubtLocal(v.Name, v.Value)
			}
		}
		s.begun = true
		return out, true
	}
	s.track.Begin() // a unit of its own is a transaction, too
	return out, did
}

// note marks what a message that is about to be sent does to the backend and to the transaction's freedom to move.
// It reports whether the message belongs to what is said again should the transaction begin anew elsewhere.
func (s *Session) note(m *parser.Message, plan sharding.Plan) (again bool) {
	st := single(m)
	again = st != nil && setup(st) // such a statement writes nothing
	s.worked = s.worked || !again
	if s.stays(plan) || plan.Write && !again || s.queued > maxQueued {
		s.fixed = true
	}
	s.unit.unjudged = plan.Unjudged
	if plan.Unjudged {
		s.alter()
		s.conn.Taint(backend.TaintUnjudged)
		s.touched = s.pin != 0
		s.unit.pathMoves = true
	}
	if m.Unparsable != nil {
		s.touched = s.pin != 0
		s.alter()
		s.recode()
		s.fixed = true // and tainted if anything of it ran: see judge
		return false
	}
	for _, st := range m.Statements {
		t := s.taints(st)
		if s.pin != 0 {
			s.notePin(st, t)
		}
		if st.Inert && t == 0 {
			s.fixed = s.fixed || !st.ReadOnly || st.Kind != parser.Select
			continue
		}
		s.noteParsing(st)
		s.moves(st)
		if t != 0 {
			s.conn.Taint(t)
			s.fixed = s.fixed || t != backend.TaintSQLPrepare
			if t&strange != 0 {
				s.unit.unjudged, s.unit.pathMoves = true, true
			}
		}
		if makes(st) && s.pathIsTemp() {
			s.conn.Taint(backend.TaintTemp) // what is made without a schema is temporary then
			s.fixed = true
		}
		if st.Kind == parser.Declare {
			s.forgetPortals() // its cursor is a portal, and may have the name of one that is gone without our knowledge
		}
		if st.Effects&parser.EffSchemaChange != 0 {
			s.alter()
			s.ddl = true
			s.reshapes = s.reshapes || st.Effects&parser.EffTempDropped == 0 // no snapshot has what is gone with the transaction that made it
		}
		if changesCode(st) {
			s.recode()
		}
		if st.Effects&parser.EffSequenceRead != 0 {
			s.readsSequences = true
		}
		if !s.fixed && (!movable(st, len(m.Statements) == 1) || st.Kind == parser.Begin && s.tx == pgwire.TxIdle) {
			s.fixed = true // a transaction that began there can't be said again
		}
	}
	again = !s.fixed && s.begun && again && !(st.Kind == parser.Prepare && s.follows(st)) // which is prepared wherever it is used
	if again {
		s.queueParsing(st)
	}
	return again
}

// alter notes that tables may change under prepared statements, in this transaction now and for others when it has ended.
func (s *Session) alter() {
	s.alters = true
	s.conn.Statements.Known = s.sh.Registry.Changes.Add(1) // for what is behind it in the same batch
}

// makes reports whether st may make a relation, a type or a function.
func makes(st *parser.Statement) bool {
	return st.Kind == parser.DDL || st.Kind == parser.CreateTableAs || st.Effects&parser.EffSchemaChange != 0
}

// pathIsTemp reports whether search_path names the schema of temporary objects, or may.
func (s *Session) pathIsTemp() bool {
	p := s.searchPath()
	return !p.known || slices.ContainsFunc(p.list, func(schema string) bool { return strings.HasPrefix(schema, "pg_temp") })
}

// judge marks the backend when something of a text ran that the parser does not understand. PostgreSQL parses the whole text before it runs
// any of it: a syntax error leaves nothing.
func (s *Session) judge(m *parser.Message, code string) {
	if m != nil && m.Unparsable != nil && code != pgwire.CodeSyntaxError && s.conn != nil {
		s.conn.Taint(backend.TaintUnjudged)
	}
}

// queue adds a statement to those that begin the transaction, or are said again should it begin anew elsewhere.
func (s *Session) queue(sql string) {
	s.prologue = append(s.prologue, sql)
	s.queued += len(sql) + queuedOverhead
}

const (
	// maxQueued bounds what is held of the beginning of a transaction, in bytes: with more of it there it goes to a server, and stays there.
	maxQueued = 64 << 10
	// queuedOverhead is what a statement of it weighs beside its text.
	queuedOverhead = 128
)

// setup reports whether st shapes its transaction without reading anything.
func setup(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Set, parser.SetTransaction, parser.Reset, parser.ResetAll, parser.Savepoint, parser.Release, parser.RollbackTo, parser.Prepare:
		return true
	default: // may read or write
		return false
	}
}

// sequences refuses the first question for lastval or currval when it comes in the middle of a transaction: what the answer
// would be, another client may have left there. From then on the session's backends are cleaned beforehand.
func (s *Session) sequences(m *parser.Message) *pgwire.Error {
	for _, st := range m.Statements {
		if st.Effects&parser.EffSQLPrepare != 0 {
			if e := s.full(state.TreeBytes(st.End - st.Start)); e != nil {
				return e
			}
		}
		if st.Effects&parser.EffSequenceRead == 0 {
			continue
		}
		s.readsSequences = true
		if s.conn != nil && s.begun && (s.worked || s.open) && !s.cleanSequences && !s.acct.Session {
			return pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, "lastval and currval are not defined in this transaction").
				WithDetail("They are state of the server's session, which clients share. The next transaction can use them.").
				WithHint("Use INSERT ... RETURNING, or begin the transaction anew.").WithRoutine("sequence_state")
		}
	}
	return nil
}

// movable reports whether a transaction in which st ran may begin anew elsewhere, unseen.
func movable(st *parser.Statement, alone bool) bool {
	switch st.Kind {
	case parser.Select, parser.Show, parser.Explain:
		return st.ReadOnly
	case parser.Begin:
		return alone // a second one is a warning
	default: // only what reads nothing
		return alone && setup(st)
	}
}

var taints = [...]struct {
	effect parser.Effects
	taint  backend.Taint
}{
	{parser.EffListen, backend.TaintListen},
	{parser.EffTemp, backend.TaintTemp},
	{parser.EffAdvisoryLock, backend.TaintAdvisoryLock},
	{parser.EffHoldCursor, backend.TaintHoldCursor},
	{parser.EffSQLPrepare, backend.TaintSQLPrepare},
	{parser.EffUnjudged | parser.EffNamed, backend.TaintUnjudged},
	{parser.EffLargeObject, backend.TaintLargeObject},
	{parser.EffReplication, backend.TaintUnjudged},
	{parser.EffUnseen, backend.TaintCode}, // DISCARD ALL takes settings away
}

// taintOf returns what st leaves on a connection that can't be followed, where nothing is known of the functions that it calls.
func taintOf(st *parser.Statement) backend.Taint {
	if st.Inert {
		return 0
	}
	if st.Kind == parser.Prepare {
		return backend.TaintSQLPrepare // what it prepares is run by EXECUTE
	}
	t := taintOfEffects(st)
	if !st.BuiltinCalls {
		t |= backend.TaintUnjudged
	}
	return t
}

// taintOfEffects returns what st leaves by itself.
func taintOfEffects(st *parser.Statement) backend.Taint {
	var t backend.Taint
	if st.Effects != 0 {
		for _, e := range taints {
			if st.Effects&e.effect != 0 {
				t |= e.taint
			}
		}
		if st.Effects&parser.EffSetRole != 0 && (st.Set == nil || st.Set.Name != "role") {
			t |= backend.TaintRole
		}
	}
	return t
}

// part hands the backend over to finish by itself what out asks of it; its Have is what it has then.
func (s *Session) part(out []byte) {
	c := s.conn
	s.conn = nil
	s.out = out[:0]
	if len(out) > 0 {
		s.drv.ToBackend(c, out)
	}
	s.drv.Part(c, false)
}

// release gives the backend back, if it is fit for others.
func (s *Session) release() {
	c := s.conn
	s.conn = nil
	s.unpinned()
	s.forgetPrepares()
	s.open, s.describing, s.begun = false, false, false
	c.Own(nil)
	switch {
	case c.Clean() && (s.acct.Session || !c.Have.EndsIdle()):
		s.drv.Release(c)
	case c.Clean(): // it is for its client to be closed when that is idle
		c.Have = c.Have.Without(state.IdleSessionTimeout)
		s.drv.ToBackend(c, exec.Internal(nil, c, exec.RefSettle, "RESET "+state.IdleSessionTimeout))
		s.drv.Part(c, false)
	case c.Calmable() && !s.acct.Session:
		s.drv.Calm(c)
	case !s.acct.Session && c.Unlistens():
		s.drv.ToBackend(c, exec.Internal(nil, c, exec.RefUnlisten, "UNLISTEN *"))
		s.drv.Part(c, false)
	case c.Tainted() != 0:
		s.drv.Discard(c, c.Tainted().First())
	default:
		s.drv.Discard(c, backend.TaintProtocol.First())
	}
}

// letGo takes the backend from a session that ends, or whose transaction is over by force.
func (s *Session) letGo() {
	c := s.conn
	if c == nil {
		return
	}
	s.unpinned()
	if s.ending() {
		c.Have = s.track.Have // afterServer is still to come
	}
	switch {
	case s.inspecting: // what it was asked is of no use any more
		s.release()
	case c.Piped():
		s.unpipe()
	case c.Pending() > 0 || s.open || s.copy.mode != copyNone:
		if c.Pending() > 0 {
			s.drv.CancelBackend(c) // what it still works on is for nobody
		}
		s.conn = nil
		c.Own(nil)
		s.drv.Discard(c, "abandoned")
	case s.acct.Session && c.Tainted()&^backend.TaintCode == 0:
		s.conn = nil
		s.reset(c)
	case c.Tainted() != 0:
		s.release()
	case c.Tx() != pgwire.TxIdle:
		s.track.Rollback()
		c.Have = s.track.Have
		s.part(exec.Internal(s.scratch(), c, exec.RefRollback, "ROLLBACK"))
	default: // it was lent, and nothing was asked of it: it has what it had
		s.release()
	}
}

// reseed takes from a backend what code may have left that DISCARD ALL does not know: what random() gives next. All names are pg_catalog's.
const reseed = "SELECT pg_catalog.setseed(pg_catalog.float8(pg_catalog.hashtext(pg_catalog.gen_random_uuid()::pg_catalog.text)) OPERATOR(pg_catalog./) " +
	"'2147483648'::pg_catalog.float8)"

// reset cleans a backend of everything a session in session pooling may have left.
func (s *Session) reset(c *backend.Conn) {
	var out []byte // an answer to the client may be in the making
	if c.Tx() != pgwire.TxIdle {
		out = exec.Internal(out, c, exec.RefRollback, "ROLLBACK")
	}
	if c.Tainted()&backend.TaintCode != 0 {
		out = exec.Internal(out, c, exec.RefReset, reseed)
	}
	out = exec.Internal(out, c, exec.RefReset, "DISCARD ALL")
	s.drv.ToBackend(c, out)
	s.drv.Part(c, true)
}
