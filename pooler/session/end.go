package session

import (
	"errors"
	"fmt"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// CloseReason is why a session ended: a label of logs, metrics and console.
type CloseReason uint8

// The reasons.
const (
	CloseClient      CloseReason = iota + 1 // the client said goodbye
	CloseGone                               // the client's connection broke
	CloseCancel                             // it was a cancel request
	CloseProtocol                           // the client broke the protocol
	CloseAuth                               // the login was refused
	CloseUnavailable                        // no server could be reached at its login
	CloseLogin                              // the login took too long
	CloseIdle                               // client_idle_timeout
	CloseIdleTx                             // client_idle_in_transaction_timeout
	CloseLost                               // its server went away in the middle of an answer
	CloseShutdown                           // pgkennel stops
	CloseKilled                             // an operator closed it
	CloseListen                             // it listened, and could not be told of all
	CloseInternal                           // a bug of ours
	ClosePinned                             // pin_timeout
)

var closeReasons = [...]string{
	"", "client", "gone", "cancel", "protocol", "auth", "unavailable", "login_timeout", "idle_timeout", "idle_in_transaction_timeout",
	"server_lost", "shutdown", "killed", "listen", "internal", "pin_timeout",
}

// String names the reason.
func (r CloseReason) String() string {
	if int(r) < len(closeReasons) {
		return closeReasons[r]
	}
	return "unknown"
}

// Reason is why the session ended; 0 while it lives.
func (s *Session) Reason() CloseReason { return s.reason }

// more is what the client may have to say of which nobody wants to know any more.
func (s *Session) more() More {
	switch s.reason {
	case CloseClient, CloseGone, CloseCancel:
		return NoMore
	case CloseProtocol, CloseAuth, CloseUnavailable: // only the beginning of what was refused may have been looked at
		return MoreComes
	case CloseLogin, CloseIdle, CloseIdleTx, CloseLost, CloseShutdown, CloseKilled, CloseListen, CloseInternal, ClosePinned:
	}
	if len(s.in) > 0 || s.open || s.copy.mode != copyNone || s.dropping > 0 {
		return MoreComes
	}
	return MaybeMore
}

// fatal sends e, of severity FATAL, and ends the session.
func (s *Session) fatal(e *pgwire.Error, reason CloseReason) {
	if s.phase == phaseClosed {
		return
	}
	if s.phase != phaseTLS { // in the middle of a handshake nothing can be said
		s.toClient(pgwire.AppendErrorResponse(nil, e))
	}
	s.close(reason)
}

// close ends the session after what was sent so far.
func (s *Session) close(reason CloseReason) {
	if s.phase == phaseClosed {
		return
	}
	s.reason = reason
	more := s.more()
	if (s.phase == phaseReady || s.phase == phasePiped) && s.sh.LogDisconnections {
		s.sh.Log.Info("client disconnected", "client", s.Client, "user", s.acct.User, "database", s.acct.Database, "reason", reason.String())
	}
	if s.wait == waitBackend {
		s.drv.Withdraw()
	}
	if s.hs != nil && s.hs.conversation != nil {
		s.hs.conversation.Cancel() // nobody waits for what it does any more
	}
	s.hushes(nil)
	s.observeEnd()
	s.letGo()
	s.settleNames()
	s.dropItems()
	s.dropStatements()
	if s.alters {
		s.sh.Registry.Changes.Add(1) // what became of it, nobody was told
	}
	s.recoded()
	s.deaf()
	s.phase = phaseClosed
	s.in, s.out, s.told = nil, nil, nil
	s.copy = copyIn{}
	s.track = state.Track{}
	s.drv.Close(more)
}

// Gone tells that the client's connection broke or was closed.
func (s *Session) Gone() {
	s.stir()
	s.close(CloseGone)
}

// Kill ends the session with an error to the client, if it is in the state to be told.
func (s *Session) Kill(e *pgwire.Error, reason CloseReason) {
	if s.phase == phaseClosed {
		return
	}
	s.stir()
	if s.conn != nil && s.conn.MidMessage() {
		s.close(reason)
		return
	}
	s.fatal(e, reason)
}

// Retire ends the session with an error to the client when it has nothing under way: at once if that is so, else behind its transaction.
func (s *Session) Retire(e *pgwire.Error, reason CloseReason) {
	switch {
	case s.phase == phaseClosed:
	case s.Idle():
		s.Kill(e, reason)
	default:
		s.retiring, s.retireReason = e, reason
	}
}

// retire ends the session if that is due.
func (s *Session) retire() {
	if s.work != nil && s.retiring != nil && (s.phase == phaseReady || s.phase == phasePiped) && s.Idle() {
		s.Kill(s.retiring, s.retireReason)
	}
}

// ErrShutdown is what clients get when pgkennel stops.
var ErrShutdown = pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command").WithRoutine("shutdown")

// Abandon ends the session after a bug of ours was met in the middle of a step: nothing of its state is trusted any more. It returns the
// backend that it held, which must be closed.
func (s *Session) Abandon() *backend.Conn {
	s.stir()
	c := s.conn
	if c != nil {
		c.Own(nil)
	}
	if s.phase != phaseClosed {
		s.reason = CloseInternal
		// Each by itself: any of them may meet what is broken.
		for _, f := range [...]func(){
			func() {
				if s.wait == waitBackend {
					s.drv.Withdraw()
				}
			},
			func() {
				if s.hs != nil && s.hs.conversation != nil {
					s.hs.conversation.Cancel()
				}
			},
			s.observeEnd,
			s.unpinned,
			s.recoded,
			s.settleNames,
			s.dropItems,
			s.dropStatements,
			s.deaf,
			func() { s.hushes(nil) },
		} {
			s.attempt(f)
		}
	}
	s.phase, s.conn, s.in = phaseClosed, nil, nil
	return c
}

// attempt runs f, whose panic ends nothing but f.
func (s *Session) attempt(f func()) {
	defer func() {
		if r := recover(); r != nil {
			s.sh.Log.Error("bug: a session could not be cleared up", "client", s.Client, "panic", fmt.Sprint(r))
		}
	}()
	f()
}

// Cancel handles a cancel request for the session: what it runs, or waits to run, is cancelled.
func (s *Session) Cancel() {
	s.stir()
	s.cancel(errCancelled)
}

// What is cancelled gets one of these.
var (
	errCancelled = pgwire.Errorf(pgwire.CodeQueryCanceled, "canceling statement due to user request")
	errTimeout   = pgwire.Errorf(pgwire.CodeQueryCanceled, "canceling statement due to statement timeout")
)

// cancel cancels what the session runs; e is what a client is told that waits for a backend.
func (s *Session) cancel(e *pgwire.Error) {
	switch {
	case s.phase == phasePiped && s.conn != nil:
		s.drv.CancelBackend(s.conn)
	case s.phase != phaseReady:
	case s.hs != nil && s.hs.conversation != nil:
		s.hs.conversation.Cancel()
	case s.wait == waitBackend:
		s.drv.Withdraw()
		s.CheckoutFailed(e)
	case s.wait == waitJob && s.hushes(e): // Resume follows
	case s.copy.mode == copyUndecided: // no server knows of it yet
		s.copyRefuse(e)
		s.drain()
	case s.copy.mode == copyRouted && !s.copy.begun: // the signal might come before the statement
		s.copy.failed, s.copy.refusal = true, e
		s.copyMaybeFail()
	case s.conn != nil && s.conn.Pending() > 0:
		// The signal may reach the server after this statement's end: the backend is for nobody else until it is known to have come.
		s.conn.Taint(backend.TaintCancelled)
		s.drv.CancelBackend(s.conn)
	}
}

// CancelDone ends the session of a cancel request, which was handled: a client that waits for this knows that it will not hit what it sends next.
func (s *Session) CancelDone() {
	if s.wait == waitCancel {
		s.close(CloseCancel)
	}
}

// Deadline is when Tick is due next, in the driver's nanoseconds; 0 = never.
func (s *Session) Deadline() int64 {
	if s.phase == phaseClosed {
		return 0
	}
	if s.work == nil {
		return s.idle
	}
	at := s.clock.login
	if d := s.idle; d != 0 && (at == 0 || d < at) {
		at = d
	}
	if d := s.clock.query; d != 0 && (at == 0 || d < at) {
		at = d
	}
	return at
}

// Tick tells the time.
func (s *Session) Tick() {
	s.stir()
	now := s.drv.Now()
	due := func(d int64) bool { return d != 0 && now >= d }
	switch {
	case s.phase == phaseClosed:
	case due(s.clock.login):
		s.fatal(pgwire.Fatalf(pgwire.CodeQueryCanceled, "canceling authentication due to timeout"), CloseLogin)
	case due(s.clock.query) && s.ending():
		s.clock.query = 0
		s.endsLate()
	case due(s.clock.query) && s.clock.cancelled:
		s.clock.query = 0
		if c := s.conn; c != nil {
			s.Lost(errSilent) // before others may have it: the server may speak again at this very moment
			s.drv.Discard(c, reasonSilent)
		}
	case due(s.clock.query):
		s.clock.query = 0
		if s.acct.CancelTimeout > 0 {
			s.clock.query, s.clock.cancelled = now+s.acct.CancelTimeout, true
		}
		s.cancel(errTimeout)
	case due(s.idle) && s.tx != pgwire.TxIdle:
		s.Kill(pgwire.Fatalf(pgwire.CodeIdleInTransactionTimeout, "terminating connection due to idle-in-transaction timeout"), CloseIdleTx)
	case due(s.idle) && s.idlesPinned():
		s.Kill(pgwire.Fatalf(pgwire.CodeIdleSessionTimeout, "terminating connection due to idle-session timeout").WithRoutine("pin").
			WithDetail("The session was pinned to a server connection by what it had left there (%s).", s.pin), ClosePinned)
	case due(s.idle):
		s.Kill(pgwire.Fatalf(pgwire.CodeIdleSessionTimeout, "terminating connection due to idle-session timeout"), CloseIdle)
	}
}

// errSilent: a server did not even end what was cancelled.
var errSilent = errors.New("no answer to a cancel request in time")

// reasonSilent is why the connection is closed then.
const reasonSilent = "silent"

// farewell is what the server said when it ended the connection: in session pooling the client's own; nil = nothing.
func farewell(err error, said *pgwire.Error) *pgwire.Error {
	if e, ok := errors.AsType[*pgwire.Error](err); said == nil && ok && errors.Is(err, backend.ErrServerClosed) {
		said = e
	}
	if said == nil || !said.IsFatal() {
		return nil
	}
	return said
}

// Lost tells that the session's backend broke: err says how. It is closed already, or next.
func (s *Session) Lost(err error) {
	c := s.Backend()
	if c == nil || s.phase == phaseClosed {
		return
	}
	s.conn = nil
	c.Own(nil)
	left := s.pin
	if s.ending() {
		left |= c.Tainted() & pinnable // nobody has looked yet what of that is there
	}
	s.unpinned()
	e := pgwire.Errorf(pgwire.CodeConnectionFailure, "the connection to the shard's server was lost").
		WithRoutine("shard_unavailable")
	refused := errors.Is(err, backend.ErrLead) && s.unit.internal != nil
	if refused { // the context was, and so the beginning of the transaction behind it
		e = s.unit.internal
	} else if errors.Is(err, errSilent) {
		e = e.WithDetail("The statement took longer than query_timeout, and the server did not answer when it was cancelled.")
	} else if f := s.unit.fatal; f != nil {
		e = e.WithDetail("The server said: %s: %s", f.Code, f.Message)
	}
	if s.ending() { // all was answered
		if left != 0 {
			s.lost = e.WithDetail("The session was pinned to it: what it had left there is gone (%s).", left).WithHint("The session goes on without it.")
		}
		return
	}
	if s.phase == phasePiped { // it has said why, unless it died
		s.close(CloseLost)
		return
	}
	s.sh.Log.Warn("backend lost", "client", s.Client, "database", s.acct.Database, "shard", s.connShard, "backend_pid", c.PID, "error", err)
	if s.phase == phaseLogin {
		s.wait = waitNothing
		s.fatal(e.WithSeverity(pgwire.SeverityFatal), CloseUnavailable)
		return
	}
	if c.MidMessage() || s.acct.Session {
		if c.MidMessage() {
			s.close(CloseLost)
		} else if f := farewell(err, s.unit.fatal); f != nil {
			s.fatal(f, CloseLost)
		} else {
			s.fatal(e.WithSeverity(pgwire.SeverityFatal), CloseLost)
		}
		return
	}
	s.capture.on = false
	s.forgetPrepares()
	s.takeBack(c.Owed())
	if h := s.unit.heal; h != nil {
		s.takeBack(h.steps)
	}
	copying := s.copy.mode != copyNone // the client is in the middle of its unit, with nothing to wait for
	open := s.open || copying && s.copy.extended
	busy := s.wait == waitAnswer || s.wait == waitInternal || copying && !s.copy.extended
	left |= s.left
	if left != 0 {
		e = e.WithDetail("The session was pinned to it: what it had left there is gone (%s).", left)
	}
	switch {
	case s.inspecting, left != 0 && s.tx == pgwire.TxIdle && !open && !busy:
		e = e.WithHint("The session goes on without it.")
	case !refused:
		e = e.WithHint("The transaction was not committed unless its COMMIT was under way; then it may have been.")
	}
	s.copyDrop()
	if at := s.unit.reached; at != 0 { // what the client was told of counts, not how the unit began
		s.tx, s.begun, s.gone = at, at == pgwire.TxActive, false
	}
	s.gone = s.gone || s.begun
	s.open, s.describing, s.begun = false, false, false
	s.unit.outside = false
	s.unseen, s.values, s.untoldValues = s.unseen[:0], nil, false
	if s.tx != pgwire.TxIdle {
		s.tx = pgwire.TxFailed
		s.fixed = true
	}
	switch {
	case s.inspecting:
		// Its statements were answered, and its transaction is over.
		s.inspecting, s.uncertain, s.left = false, 0, 0
		s.finish()
		if left != 0 {
			s.lost = e
		}
		s.drain()
	case s.wait == waitInternal && !open:
		// The unit itself was not sent: it is answered when it is looked at again.
		s.wait = waitNothing
		s.unit.internalDone, s.unit.internal = false, nil
		s.unit.checkout = e
		s.drain()
	case busy && !open:
		s.wait = waitNothing
		s.unit.failed = true
		s.refuseLost(e, left)
		s.finish()
		s.drain()
	case open: // also where what follows waits for the answers to what was sent: its Sync is to come
		if s.wait != waitJob { // whose end is to come, and is nobody else's
			s.wait = waitNothing
		}
		s.unit.internalDone, s.unit.internal = false, nil
		s.unit.failed = true
		s.refuseLost(e, left)
		s.skip = true
		s.drain()
	default:
		s.lost = e // between statements: the next one is told
	}
}

// refuseLost sends e unless the unit was answered with an error already. Then whatever the session had left on the backend goes unsaid, so the next
// statement is told.
func (s *Session) refuseLost(e *pgwire.Error, left backend.Taint) {
	s.sh.Observer.Refused(s.at(), e.Routine)
	switch {
	case !s.unit.answered:
		s.errors++
		s.toClient(pgwire.AppendErrorResponse(nil, e))
	case left != 0:
		s.lost = e
	}
}
