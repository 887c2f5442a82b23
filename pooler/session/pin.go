package session

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// Pinning says what becomes of a session that leaves on its backend what can't follow it to another one.
type Pinning uint8

// What becomes of it.
const (
	PinAllow Pinning = iota // it keeps the backend for as long as that is there
	PinWarn                 // likewise, and the log warns of it
	PinDeny                 // what would leave something is refused
)

// pinnable is what pins a session: it works for as long as the session has that backend, and what is there can be asked for. Of all else that taints a
// backend it can't be told when it is gone.
const pinnable = exec.Inspectable

// holds reports whether the session keeps its backend between transactions.
func (s *Session) holds() bool { return s.acct.Session || s.pin != 0 }

// Pinned names what pins the session to its backend; empty = nothing does.
func (s *Session) Pinned() string {
	if s.work == nil {
		return ""
	}
	return s.pin.String()
}

// leaves is what of what pins st says that it leaves behind its transaction. Whether it does is found out at the end of that.
func (s *Session) leaves(st *parser.Statement) backend.Taint {
	t := s.taints(st) & pinnable
	if t&backend.TaintTemp != 0 && (st.Effects&parser.EffTempDropped != 0 || st.Kind == parser.DDL && !creates(st.Tag)) {
		t &^= backend.TaintTemp // it goes with the transaction, or is there already
	}
	return t
}

// creates reports whether a command makes something that stands by itself.
func creates(tag string) bool {
	return strings.HasPrefix(tag, "CREATE ") && tag != "CREATE INDEX" && tag != "CREATE TRIGGER" && tag != "CREATE RULE" && tag != "CREATE STATISTICS"
}

// pins refuses, where pins are denied, a message that says that it leaves what pins.
func (s *Session) pins(m *parser.Message) *pgwire.Error {
	if s.acct.Pin != PinDeny || s.acct.Session {
		return nil
	}
	for _, st := range m.Statements {
		if t := s.leaves(st); t != 0 {
			return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the statement would pin the session to its server connection").WithRoutine("pin").
				WithDetail(`It leaves %s there, which can't follow the session to another connection, and pin = "deny" keeps sessions from staying on one.`, t.First()).
				WithHint("%s", insteadOf(t))
		}
	}
	return nil
}

// insteadOf says how to do without what pins.
func insteadOf(t backend.Taint) string {
	switch {
	case t&backend.TaintTemp != 0:
		return "Use CREATE TEMP TABLE ... ON COMMIT DROP in a transaction, or a user with pooler_mode = \"session\"."
	case t&backend.TaintAdvisoryLock != 0:
		return "Use pg_advisory_xact_lock, which is released at the end of the transaction, or a user with pooler_mode = \"session\"."
	case t&backend.TaintHoldCursor != 0:
		return "Use a cursor without WITH HOLD in a transaction, or a user with pooler_mode = \"session\"."
	case t&backend.TaintSQLPrepare != 0:
		return "Prepare statements by the protocol, as drivers do, by names of ASCII, or use a user with pooler_mode = \"session\"."
	default:
		return "Use a user with pooler_mode = \"session\"."
	}
}

// notePin notes that st, which leaves t, in a session that is pinned, may have given up something of what pins the session, or left more.
func (s *Session) notePin(st *parser.Statement, t backend.Taint) {
	if s.touched {
		return
	}
	switch st.Kind {
	case parser.Discard, parser.ClosePortal, parser.Deallocate, parser.DDL, parser.Execute:
		s.touched = true
	default:
		s.touched = t&(pinnable|strange) != 0 || slices.ContainsFunc(st.Calls, func(f parser.Function) bool {
			return strings.HasPrefix(f.Name, "pg_advisory_unlock")
		})
	}
}

// inspects asks the backend, behind a transaction that may have left on it what pins, or taken that away, what is there. It returns false if there is nothing
// to ask for.
func (s *Session) inspects() bool {
	c := s.conn
	what := c.Tainted() & pinnable
	if c.Tainted()&strange != 0 {
		what = pinnable
	}
	if what == 0 || c.Tainted()&backend.TaintProtocol != 0 || c.Pending() > 0 || s.pin != 0 && !s.touched {
		return false
	}
	s.touched, s.inspecting = false, true
	s.left = s.pin | c.Tainted()&pinnable // unless the answer is another
	s.wait = waitAnswer
	s.values = s.values[:0]
	s.send(exec.Inspect(s.scratch(), c, what, s.unseen))
	return true
}

// inspected ends the unit, once it is known what its transaction has left.
func (s *Session) inspected() {
	s.inspecting = false
	if s.uncertain == 1 { // a cancel request for the statement may have come late; there is no second one
		if s.touched = s.pin != 0; s.inspects() {
			return
		}
	}
	s.seen()
	c, left := s.conn, s.left
	c.Have = s.track.Have
	s.uncertain, s.left = 0, 0
	switch {
	case left == 0:
		s.unpin()
	case s.acct.Pin == PinDeny:
		s.lose(left)
		s.release()
	default:
		s.pinTo(left)
		c.Taint(left) // what code left that nobody could judge, too
	}
	s.finish()
	s.drain()
}

// pinTo makes what is left what the session is pinned by.
func (s *Session) pinTo(left backend.Taint) {
	if left == s.pin {
		return
	}
	first := s.pin == 0
	s.sh.Observer.Pinned(s.acct, left&^s.pin, first)
	s.pin = left
	if !first {
		return
	}
	args := []any{"client", s.Client, "user", s.acct.User, "database", s.acct.Database, "shard", s.connShard, "backend_pid", s.conn.PID, "reason", left.String()}
	switch {
	case s.pinTold:
		s.sh.Log.Debug("session pinned", args...)
	case s.acct.Pin == PinWarn:
		s.sh.Log.Warn("session pinned", args...)
	default:
		s.sh.Log.Info("session pinned", args...)
	}
	s.pinTold = true
}

// lose warns of what goes with a backend on which the session may not stay.
func (s *Session) lose(left backend.Taint) {
	if !s.pinTold {
		s.pinTold = true
		s.sh.Log.Warn("session not pinned", "client", s.Client, "user", s.acct.User, "database", s.acct.Database, "shard", s.connShard, "backend_pid", s.conn.PID, "reason", left.String())
	}
	s.toClient(pgwire.AppendNoticeResponse(nil, pgwire.Warningf(pgwire.CodeWarning, "what the transaction left on its server connection is gone").WithRoutine("pin").
		WithDetail(`That is %s, which can't follow the session to another connection, and pin = "deny" keeps sessions from staying on one.`, left).WithHint("%s", insteadOf(left))))
}

// unpin lets go of a backend on which nothing is left that would be missed. Others get it when DISCARD ALL has proved that for them.
func (s *Session) unpin() {
	c := s.conn
	if c.Tainted()&^(pinnable|backend.TaintCode) != 0 || c.Tainted()&backend.TaintTemp != 0 {
		// A backend that has had a temporary table keeps their schema: another that hides a table would not be noticed by what is prepared there.
		s.release()
		return
	}
	s.unpinned()
	s.forgetPrepares()
	s.conn = nil
	s.open, s.describing, s.begun = false, false, false
	s.reset(c)
}

// unpinned notes that the session has no backend any more.
func (s *Session) unpinned() {
	if s.pin != 0 {
		s.pin, s.touched = 0, false
		s.sh.Observer.Unpinned(s.acct)
	}
}

// idlePin reports whether the session is pinned, and nothing is under way.
func (s *Session) idlePin() bool {
	return s.pin != 0 && s.tx == pgwire.TxIdle && !s.open && s.conn.Pending() == 0
}

// serves reports whether a backend that the session is pinned to, or may be, may run what is a's. What one tenant has left there is for no other, and for
// nobody who has none.
func (s *Session) serves(a *Account) bool {
	if s.pin == 0 || a == s.connAt {
		return true
	}
	if a.Login != s.connAt.Login || (a.Place == nil) != (s.connAt.Place == nil) {
		return false
	}
	return a.Place == nil || a.Place.Tenant.Same(s.connAt.Place.Tenant)
}

// pinnedElsewhere refuses a statement that can't run where the session is pinned.
func (s *Session) pinnedElsewhere() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the session is pinned to another shard").WithRoutine(router.RefusalCrossShard).
		WithDetail("On its server connection it has left %s, which can't follow it to another one.", s.pin).WithHint(hintUnpin)
}

// pinnedByOther refuses to change the tenant while the session is pinned.
func (s *Session) pinnedByOther() *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeActiveTransaction, "the tenant can't change while the session is pinned").WithRoutine(router.RefusalTenantMismatch).
		WithDetail("On its server connection it has left %s, which belongs to whom it was for then.", s.pin).WithHint(hintUnpin)
}

const hintUnpin = "Give that up (DROP TABLE, pg_advisory_unlock, CLOSE, DEALLOCATE), or all of it by DISCARD ALL."

// idlesPinned reports whether it is pin_timeout that the session has to say something within.
func (s *Session) idlesPinned() bool {
	limit := s.acct.PinTimeout
	return s.work != nil && s.pin != 0 && s.tx == pgwire.TxIdle && limit > 0 && (s.acct.IdleTimeout == 0 || limit < s.acct.IdleTimeout)
}
