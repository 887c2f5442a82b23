package session

import (
	"slices"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
)

// In transaction pooling a session has no connection to listen with. Its LISTEN runs on the server as any statement, so that PostgreSQL says what
// it says, and the connection gets UNLISTEN * before it goes back to its pool. Who listens is another connection, for all, which does so before the
// statement runs; from the commit on the session has what arrives there. See package notify.

// Ear is how a session listens. Its methods return at once; what they return to wait by does not. *notify.Listener is one.
type Ear interface {
	// Prepare has channels listened to, for a LISTEN that is about to run. What waits for that waits as Arrive does, too.
	Prepare(channels []string) notify.Wait
	// Expect notes that what was prepared may be committed from now on.
	Expect()
	// Commit takes over what a transaction did.
	Commit(changes []notify.Change)
	// Sweep notes that what has arrived is for the client whatever it listens to from now on.
	Sweep()
	// Settle is when nothing more is to be committed of what was prepared. It reports whether anything is listened to.
	Settle() (listens bool)
	// Arrive waits until everything that is committed by now has arrived.
	Arrive() notify.Wait
	// Knows reports whether what arrives from c from now on is by the session.
	Knows(c *backend.Conn) bool
	// Next is the next notification for the client, as a message; nil = there is none.
	Next() []byte
	// Close ends the listening.
	Close()
}

// listens is what a session has that listens, or is about to.
type listens struct {
	ear Ear
	// changes of the transaction at hand, with the savepoints that stand behind the first.
	changes []listenChange
	// prepared are the channels that are listened to for a LISTEN of this transaction.
	prepared map[string]struct{}
	// refused is why they are not.
	refused *pgwire.Error
	// expects: what is about to run may commit a LISTEN, and the ear knows.
	expects bool
	// speaks: something ran in the transaction that may notify. awaits: it is about to end, with tx, once that has arrived.
	speaks, awaits bool
	tx             pgwire.TxStatus
	// late ends the waiting for that; nil = there is none.
	late chan struct{}
	// swept: all has arrived from before the UNLISTEN that is about to run. mute: nothing is listened to, but something may have to be told still.
	swept, mute bool
}

// listenChange is a LISTEN or UNLISTEN, or else a savepoint.
type listenChange struct {
	notify.Change
	savepoint bool // called Channel
}

var (
	errVisitListens = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "LISTEN needs a session that is the tenant's").WithRoutine("listen_visit").
			WithDetail("Only this transaction is, and nobody would be there to hear what comes later.").
			WithHint("Log in as user@tenant, or choose the tenant by SET before the transaction.")
	errListens = pgwire.Errorf(pgwire.CodeObjectNotInPrerequisiteState, "the session listens").WithRoutine("listen_visit").
			WithDetail("What it listens to is not for whom it would be then.").WithHint("UNLISTEN * first.")
	errMoved = pgwire.Fatalf(pgwire.CodeAdminShutdown, "the session listened for somebody else").WithRoutine("listen_visit").
			WithHint("Choose the tenant before LISTEN.")
	errForeign = pgwire.Fatalf(pgwire.CodeUntranslatableCharacter, "a notification can't be told in the client's encoding").WithRoutine("listen_encoding").
			WithHint("Use client_encoding UTF8 where payloads or channels are not ASCII.")
	errCantListen = pgwire.Errorf(pgwire.CodeFeatureNotSupported, "LISTEN is not supported here").WithRoutine("listen")
)

// hearing is what statements that are about to run ask of the ear.
type hearing struct {
	channels []string // to LISTEN to that are not listened to yet
	sweeps   bool     // UNLISTEN, or DISCARD ALL
	commits  bool     // a LISTEN, maybe
	pending  bool     // behind them there may be one to be committed
	in       bool     // behind them there is a transaction block
}

// hearing is where the session stands before it runs anything more. In the midst of a pipeline that is not known.
func (s *Session) hearing() hearing {
	return hearing{in: s.tx != pgwire.TxIdle && !s.open, pending: s.tx != pgwire.TxFailed || s.open}
}

// sees adds a statement.
func (h *hearing) sees(s *Session, st *parser.Statement) {
	switch st.Kind {
	case parser.Listen:
		if !s.listens.has(st.Name) {
			h.channels = append(h.channels, st.Name)
		}
		h.pending = true
	case parser.Unlisten:
		h.sweeps = true
	case parser.Discard:
		h.sweeps = h.sweeps || st.Name == "ALL"
	case parser.Begin:
		h.in = true
	case parser.RollbackTo:
		h.pending = true
	case parser.Commit, parser.Rollback, parser.PrepareTx:
		h.commits = h.commits || h.pending && st.Kind == parser.Commit
		h.pending, h.in = false, st.Tx != nil && st.Tx.Chain
	default: // neither listens nor commits
	}
}

// awaitsQuery sees to it that the ear is ready for m, which is about to run. It reports whether the session has to wait for that.
func (s *Session) awaitsQuery(m *parser.Message) (refusal *pgwire.Error, wait bool) {
	h := s.hearing()
	h.commits = m.Unparsable != nil
	for _, st := range m.Statements {
		h.sees(s, st)
	}
	return s.awaitsEar(h)
}

// awaitsExecuted is awaitsQuery for what the batch at hand executes.
func (s *Session) awaitsExecuted() (refusal *pgwire.Error, wait bool) {
	h := s.hearing()
	for i := range s.unit.items {
		it := &s.unit.items[i]
		if it.typ != pgwire.MsgExecute {
			continue
		}
		if st := it.statement(); st != nil {
			h.sees(s, st)
		}
	}
	return s.awaitsEar(h)
}

// awaitsEar sees to it, in front of LISTEN, that the channels are listened to; in front of UNLISTEN, that all has arrived that the session has listened to so
// far; and in front of what may commit a LISTEN, that all has arrived that is not for the session: what arrives later is.
func (s *Session) awaitsEar(h hearing) (refusal *pgwire.Error, wait bool) {
	l := s.listens
	e := s.hushed
	if s.hushed = nil; l != nil {
		if e == nil {
			e = l.refused
		}
		if l.refused = nil; e != nil {
			l.expects, l.swept = false, false
		}
	}
	if e != nil {
		if s.conn != nil && !s.begun && !s.open && !s.holds() { // nothing was asked of it, and nothing will be
			s.release()
		}
		return e, false
	}
	if l == nil && h.channels == nil || s.acct.Session {
		return nil, false
	}
	if l != nil {
		if h.sweeps && !l.swept {
			l.swept = true
			ear := l.ear
			return nil, s.awaits(ear.Arrive(), func(*pgwire.Error) { ear.Sweep() })
		}
	}
	commits := h.commits || h.pending && !h.in
	if h.channels == nil {
		if !commits || l.expects || len(l.prepared) == 0 {
			return nil, false
		}
		l.expects = true
		ear := l.ear
		return nil, s.awaits(ear.Arrive(), func(*pgwire.Error) { ear.Expect() }) // who misses something is told otherwise: see Client.Lost of package notify
	}
	if s.visit.account != nil {
		return errVisitListens, false
	}
	if l == nil {
		ear := s.drv.Ear(s.acct)
		if ear == nil {
			return errCantListen, false
		}
		l = &listens{ear: ear, prepared: make(map[string]struct{})}
		s.listens = l
	}
	l.expects = commits
	channels := h.channels
	wait = s.awaits(l.ear.Prepare(channels), func(e *pgwire.Error) {
		if l.refused = e; e != nil {
			return
		}
		for _, c := range channels {
			l.prepared[c] = struct{}{}
		}
		if commits {
			l.ear.Expect()
		}
	})
	if !wait {
		refusal, l.refused = l.refused, nil
	}
	return refusal, wait
}

// awaits waits for the ear, or for others', and has it done what is to be done then. It returns false where that is so already.
func (s *Session) awaits(ready notify.Wait, then func(e *pgwire.Error)) bool {
	stop := make(chan struct{})
	if s.drv.Offload(func() { then(ready(stop)) }, Waits) {
		return false
	}
	s.hush = stop
	s.wait = waitJob
	return true
}

// sent notes that what was waited for is on its way, or is not to come.
func (l *listens) sent() {
	if l != nil {
		l.expects, l.refused = false, nil
	}
}

// hushes ends the waiting of awaits, for e. It returns false where the session does not wait so.
func (s *Session) hushes(e *pgwire.Error) bool {
	if s.hush == nil {
		return false
	}
	close(s.hush)
	s.hush, s.hushed = nil, e
	return true
}

// has reports whether a channel is prepared.
func (l *listens) has(channel string) bool {
	if l == nil {
		return false
	}
	_, ok := l.prepared[channel]
	return ok
}

// awaitsVoice notes for whom the connection speaks, and waits, in front of what may notify, until that is certain of all that arrives from it: a client tells
// by its pid what it said itself, and a tenant hears nobody else.
func (s *Session) awaitsVoice(plan sharding.Plan) bool {
	c, who := s.conn, s.at().Speaker()
	if !c.Voice.Speaks(who) {
		if ready := c.Echo(); ready != nil && s.awaits(ready, func(*pgwire.Error) {}) {
			return true // another speaks there yet
		}
		c.Voice.Speak(who)
	}
	if !plan.Write && !plan.Unjudged {
		return false
	}
	if who != nil {
		if ready := c.Says(); ready != nil && s.awaits(ready, func(*pgwire.Error) {}) {
			return true
		}
	}
	l := s.listens
	if l == nil || s.acct.Session {
		return false
	}
	l.speaks = true
	if l.ear.Knows(c) {
		return false
	}
	return s.awaits(l.ear.Arrive(), func(*pgwire.Error) {})
}

// awaitsArrival waits, at the end of a transaction that may have notified, for what the session hears of itself: PostgreSQL tells that in front of
// ReadyForQuery. Until then it keeps the connection, in whose name that comes.
func (s *Session) awaitsArrival(tx pgwire.TxStatus) bool {
	l := s.listens
	if tx != pgwire.TxIdle || !l.speaks {
		return false
	}
	l.speaks = false
	s.conn.Fell()
	ready := l.ear.Arrive()
	late := make(chan struct{})
	if s.drv.Offload(func() { _ = ready(late) }, Waits) { // it has run: there is nothing to be cancelled
		return false
	}
	l.awaits, l.tx, l.late = true, tx, late
	s.wait = waitJob
	return true
}

// endsLate ends a waiting by awaitsArrival that takes too long, or is for nobody any more: what the session notified is told when it arrives.
func (s *Session) endsLate() {
	if l := s.listens; l != nil && l.late != nil {
		close(l.late)
		l.late = nil
	}
}

// ending reports whether the session waits by awaitsArrival.
func (s *Session) ending() bool { return s.listens != nil && s.listens.awaits }

// arrived goes on behind awaits, and behind awaitsArrival.
func (s *Session) arrived() {
	s.hush = nil
	if s.ending() && s.phase == phaseReady {
		s.listens.awaits, s.listens.late = false, nil
		s.ended(s.listens.tx)
	}
}

// change follows LISTEN and UNLISTEN.
func (l *listens) change(st *parser.Statement) {
	if l != nil {
		l.swept = l.swept && st.Kind == parser.Listen
		l.changes = append(l.changes, listenChange{Change: notify.Change{Channel: st.Name, Listen: st.Kind == parser.Listen}})
	}
}

// unlistenAll follows DISCARD ALL.
func (l *listens) unlistenAll() {
	if l != nil {
		l.swept = false
		l.changes = append(l.changes, listenChange{})
	}
}

// savepoint follows SAVEPOINT. Those in front of the first change need not be known.
func (l *listens) savepoint(name string) {
	if l != nil && len(l.changes) > 0 {
		l.changes = append(l.changes, listenChange{Change: notify.Change{Channel: name}, savepoint: true})
	}
}

// find is where a savepoint stands; -1 = in front of all.
func (l *listens) find(name string) int {
	for i, c := range slices.Backward(l.changes) {
		if c.savepoint && c.Channel == name {
			return i
		}
	}
	return -1
}

// release follows RELEASE: what is behind the savepoint stays.
func (l *listens) release(name string) {
	if l == nil || len(l.changes) == 0 {
		return
	}
	at := max(l.find(name), 0)
	kept := slices.DeleteFunc(l.changes[at:], func(c listenChange) bool { return c.savepoint })
	l.changes = l.changes[:at+len(kept)]
}

// rollbackTo follows ROLLBACK TO.
func (l *listens) rollbackTo(name string) {
	if l != nil {
		l.changes = l.changes[:l.find(name)+1]
	}
}

// end follows the end of a transaction.
func (l *listens) end(committed bool) {
	if l == nil || len(l.changes) == 0 {
		return
	}
	if committed {
		changes := make([]notify.Change, 0, len(l.changes))
		for _, c := range l.changes {
			if !c.savepoint {
				changes = append(changes, c.Change)
			}
		}
		l.ear.Commit(changes)
	}
	l.changes = nil
}

// settleListens is the end of a transaction, and of its unit.
func (s *Session) settleListens() {
	l := s.listens
	l.end(!s.unit.failed)
	l.speaks, l.swept = false, false
	clear(l.prepared)
	l.mute = !l.ear.Settle()
}

// deaf ends all listening.
func (s *Session) deaf() {
	s.endsLate()
	if l := s.listens; l != nil {
		s.listens = nil
		l.ear.Close()
	}
}

// Hear tells that there are notifications. They are for a client that is between transactions: to another they are told when it comes to that.
func (s *Session) Hear() {
	if s.listens == nil || s.phase != phaseReady || s.tx != pgwire.TxIdle || s.skip {
		return
	}
	s.stir()
	if s.Idle() && s.clock.unitStart == 0 {
		s.tellNotifications()
		s.retire()
	}
}

// tellNotifications sends what is there.
func (s *Session) tellNotifications() {
	for {
		m := s.listens.ear.Next()
		if m == nil {
			if s.listens.mute {
				s.deaf()
			}
			return
		}
		if s.foreign && slices.ContainsFunc(m[pgwire.HeaderBytes+4:], func(b byte) bool { return b >= 0x80 }) {
			s.retiring, s.retireReason = errForeign, CloseListen
			s.deaf()
			return
		}
		s.toClient(m)
	}
}
