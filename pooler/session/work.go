package session

import (
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// work is what a session needs while something is under way: most clients are silent most of the time, and then it is lent to others, as warm as
// the last one left it. It is lent as good as new, but for the capacity of its lists. What belongs to the client is in Session.
type work struct {
	hs *handshake // nil after it, but for a console session
	// retiring is what the session ends with behind its transaction; nil = it goes on.
	retiring     *pgwire.Error
	retireReason CloseReason

	in      []byte // input that could not be handled yet
	scanned int    // bytes at its front that were looked at already
	// scannedItems is the number of messages in them.
	scannedItems int
	split        int    // bytes of the batch at hand that were handled as one of their own
	out          []byte // scratch for what goes to the backend

	// The backend that the session holds, and the shard it belongs to.
	conn      *backend.Conn
	connShard topology.ShardID
	connAt    *Account // for whom it was checked out

	facts
	// quiet: what was sent since the last Sync only parses and describes, in the client's transaction.
	quiet bool
	// cleanSequences: nothing of lastval or currval is on the backend at hand.
	cleanSequences bool
	// worked: more than what shapes a transaction was sent to it since the checkout.
	worked bool

	// prologue are the statements that begin the transaction: queued while there is no backend, kept while it may move.
	prologue []string
	queued   int // their weight: see maxQueued
	// prologueLocal are those SET LOCALs among the queued under which statements are prepared; the zero Var stands for what can't be told.
	prologueLocal []state.Var
	// lost: the backend went away in the transaction; told with the next statement.
	lost *pgwire.Error

	track state.Track
	visit visit
	// was is whose the session was before its transaction chose a tenant for it; nil = it did not. reverts: a transaction of the unit was rolled back.
	was     *Account
	reverts bool
	// writes is why the transaction may not become a tenant's that may only read; nil = it may.
	writes *pgwire.Error
	hint   router.Hint
	// schemaWait waits until the router knows of what the session did to tables; nil = it does, or there is nothing to know.
	schemaWait func()
	// portals: what each is bound to, for its effects when it is executed; portal is the unnamed one.
	portal  portal
	portals map[string]portal
	// sqlPrep are the statements of SQL's own PREPARE in the transaction.
	sqlPrep map[string]sqlPrepared
	scoped  struct{ portals, sqlPrep int } // their bytes

	// hush ends the waiting for what others are to hear first; nil = there is none. hushed is why it was ended.
	hush   chan struct{}
	hushed *pgwire.Error

	rtr  *router.Router // of the unit, or the part of a pipeline, at hand
	unit unit
	copy copyIn
	// dropping bytes of input are the rest of a message of a COPY that is over; dropTo has its head.
	dropping int
	dropTo   *backend.Conn
	job      job
	// unseen are settings that the transaction may have set to what only the server knows; values is its answer to what they are. With untoldValues one or
	// the other is more than can be followed.
	unseen       []string
	values       []byte
	untoldValues bool
	// capture of what is to be remembered of the answer under way.
	capture capture
	renv    router.Env
	rin     router.Input
	bind    bindParams

	clock clock
	count UnitCounts // since the last report
	// What the observer heard of the session's BytesIn and BytesOut.
	reportedIn, reportedOut uint64
}

// facts are none of them true of a session that rests.
type facts struct {
	// consuming: the front of the input is being handled, further up the stack.
	consuming bool
	// begun: the client's transaction has begun on conn. executed: something ran on conn since the checkout.
	begun bool
	// fixed: the transaction can't move to another shard.
	fixed bool
	// open: messages were sent to conn that no Sync followed yet; describing: they only parse and describe.
	open, describing bool
	// isolation above read committed was asked for.
	strictIsolation bool
	// prologueSets: a SET that outlives the transaction is among the queued.
	prologueSets bool
	// encodingQueued: what is queued changes client_encoding.
	encodingQueued bool
	// ddl: the transaction changes tables; reshapes: others than those that it made and that go with it; alters: it may, be it by code that nobody sees.
	ddl, reshapes, alters bool
	// recodes: it may change functions, triggers or whatever else is code.
	recodes bool
	// gone: with the backend that was lost went what the transaction did, so that it can do nothing but end.
	gone bool
	// orphan: the choice of the tenant was rolled back, and the transaction at hand goes on.
	orphan bool
	// ran: something of the client's transaction was sent to a backend.
	ran bool
	// pin is what the session has left on conn, for which it keeps it; 0 = nothing. touched: that may have changed in the transaction.
	pin     backend.Taint
	touched bool
	// inspecting: it is being asked what there is; left is that.
	inspecting bool
	left       backend.Taint
	uncertain  uint8 // how often it could not be told
	// leaving: the last that the client of a replication connection said is goodbye.
	leaving bool
}

// rest is what few sessions that rest have.
type rest struct {
	expected   *state.Set // if it is not what the client chose at its start
	have       *state.Set
	hint       router.Hint
	schemaWait func()
}

// desks are lent.
var desks = sync.Pool{New: func() any { return new(work) }}

func borrow() *work { return desks.Get().(*work) } //nolint:forcetypeassert // it holds nothing else

// stir ends the rest of a session that something happens to.
func (s *Session) stir() {
	if s.work != nil {
		return
	}
	s.work = borrow()
	s.track.Expected, s.track.Have = s.base, s.base
	s.reportedIn, s.reportedOut = s.stats.BytesIn, s.stats.BytesOut
	s.rtr = s.acct.Cluster.Router()
	if r := s.rest; r != nil { // it is used again
		s.track.Expected, s.track.Have, s.hint, s.schemaWait = r.expected, r.have, r.hint, r.schemaWait
	}
}

// Rest gives back what a session with nothing under way does not need. A driver calls it behind its steps, or when the client has been silent
// for a while.
func (s *Session) Rest() {
	w := s.work
	if w == nil || w.conn != nil || s.wait != waitNothing || s.phase != phaseReady || s.tx != pgwire.TxIdle || s.skip || s.yielded ||
		w.clock != (clock{wait: w.clock.wait}) || len(w.in) > 0 || w.facts != (facts{}) || w.hs != nil || !w.idle() {
		return
	}
	if s.reportedIn != s.stats.BytesIn || s.reportedOut != s.stats.BytesOut {
		s.report()
	}
	if w.track.Expected == s.base && w.track.Have == s.base && w.hint == (router.Hint{}) && w.schemaWait == nil {
		s.rest = nil
	} else {
		if s.rest == nil {
			s.rest = new(rest)
		}
		*s.rest = rest{w.track.Expected, w.track.Have, w.hint, w.schemaWait}
	}
	s.work = nil
	w.clean()
	desks.Put(w)
}

// Rests reports whether the session has given back what it works with.
func (s *Session) Rests() bool { return s.work == nil }

// idle reports whether there is nothing in w that could be missed.
func (w *work) idle() bool {
	return w.was == nil && w.copy.mode == copyNone && w.dropping == 0 && w.lost == nil && w.portal == (portal{}) && len(w.portals) == 0 && len(w.sqlPrep) == 0 &&
		len(w.prologue) == 0 && len(w.prologueLocal) == 0 && len(w.unit.items) == 0 && w.unit.late == nil && w.unit.held.how == 0 && !w.capture.on && w.job.message == nil &&
		w.visit.account == nil && w.track.Local == nil && !w.track.InTransaction() && w.count == (UnitCounts{})
}

// clean leaves nothing of the session in w.
func (w *work) clean() {
	w.unit.reset()
	clear(w.unit.executed[:cap(w.unit.executed)])
	clear(w.unit.items[:cap(w.unit.items)]) // beyond what was taken: what was refused
	clear(w.unit.undo[:cap(w.unit.undo)])
	w.track.Reset()
	clear(w.prologue[:cap(w.prologue)])
	clear(w.prologueLocal[:cap(w.prologueLocal)])
	if cap(w.out) > keptScratch {
		w.out = nil
	}
	*w = work{
		out: w.out[:0], prologue: w.prologue[:0], prologueLocal: w.prologueLocal[:0], track: w.track,
		unit: unit{executed: w.unit.executed, items: w.unit.items, undo: w.unit.undo},
	}
}

// keptScratch is what a buffer for outgoing bytes may have for it to be lent on, in bytes.
const keptScratch = 16 << 10
