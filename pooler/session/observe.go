package session

import (
	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// Observer hears what is to be counted. Its calls return at once.
type Observer interface {
	// Login reports a handshake that failed, by a word for why.
	Login(kind string)
	// Connected reports a login, Closed the end of the session that began with it.
	Connected(a *Account)
	Closed(a *Account, reason CloseReason)
	// Unit reports a client's Query or extended batch that was answered, or what there is to count at the end of the session. u is the
	// caller's.
	Unit(a *Account, u *UnitCounts)
	// Pinned reports that the session is pinned to its backend by what is new in why; first: by nothing before. Unpinned ends that.
	Pinned(a *Account, why backend.Taint, first bool)
	Unpinned(a *Account)
	// Refused reports a refusal by its stable name; a is the account at work, which may be that of a tenant's transaction.
	Refused(a *Account, name string)
	// Error reports an error's SQLSTATE, likewise; server says whose it was.
	Error(a *Account, code string, server bool)
}

// UnitCounts is what is counted of a unit.
type UnitCounts struct {
	// Routes are the statements that ran, or were answered here, by their routes: Query messages and Executes.
	Routes [RouteLocal + 1]uint32
	// Parses and Binds are the client's messages.
	Parses, Binds uint32
	// Healed are units that were run anew because tables had changed under their statements.
	Healed uint32
	// Of is the account of the tenant whose statements they were; nil = nobody's.
	Of *Account
	// ContextsSent and ContextsReused are the times that a tenant's context was sent to a backend, and that the backend had it.
	ContextsSent, ContextsReused uint32
	// Received and Sent are bytes since the last report.
	Received, Sent uint64
	// Answered: a unit has ended, after Nanos, on Shard; AnyShard: on none.
	Answered bool
	Shard    topology.ShardID
	Nanos    int64
	// Transaction: so has a transaction.
	Transaction bool
	TxShard     topology.ShardID
	TxNanos     int64
}

// Route is how a statement found the place where it runs.
type Route uint8

// The routes. The first three are those of a plan, in the order of its kinds.
const (
	RouteAny    Route = iota + 1 // any one shard would do
	RouteShard                   // the shard that a key or a hint names
	RouteCopy                    // COPY FROM: the first row decides
	RouteDirect                  // nothing was decided: there is one shard without tenants, or the text can't be parsed and the shard is certain
	RouteLocal                   // answered here
)

// routeOf is how m finds its place by plan.
func (s *Session) routeOf(plan sharding.Plan, m *parser.Message) Route {
	switch {
	case plan.Kind == sharding.PlanCopy:
		return RouteCopy
	case m != nil && m.Unparsable != nil, s.plain():
		return RouteDirect
	case plan.Kind == sharding.PlanShard:
		return RouteShard
	}
	return RouteAny
}

// routed counts a statement that is about to run.
func (s *Session) routed(r Route) {
	s.stats.Queries++
	if r != RouteLocal {
		s.sent()
	}
	s.count.Routes[r]++
	if a := s.at(); a.Place != nil {
		s.count.Of = a
	}
}

// sent notes that the unit at hand, and with it the transaction, reaches a backend.
func (s *Session) sent() { s.unit.ran, s.ran = true, true }

// shardIf is the shard of the backend, if there was one.
func (s *Session) shardIf(ran bool) topology.ShardID {
	if ran {
		return s.connShard
	}
	return AnyShard
}

// observeItems counts the messages of a batch that is about to be answered, by plan where not here.
func (s *Session) observeItems(plan sharding.Plan) {
	for i := range s.unit.items {
		it := &s.unit.items[i]
		switch it.typ {
		case pgwire.MsgParse:
			s.count.Parses++
		case pgwire.MsgBind:
			s.count.Binds++
		case pgwire.MsgExecute:
			if it.local {
				s.routed(RouteLocal)
			} else {
				s.routed(s.routeOf(plan, it.message()))
			}
		}
		if !it.local {
			s.sent()
		}
	}
}

// report reports what was counted.
func (s *Session) report() {
	u := &s.count
	u.Received, u.Sent = s.stats.BytesIn-s.reportedIn, s.stats.BytesOut-s.reportedOut
	s.reportedIn, s.reportedOut = s.stats.BytesIn, s.stats.BytesOut
	s.sh.Observer.Unit(s.acct, u)
	*u = UnitCounts{}
}

// observeEnd reports the end of the session, or of the handshake that did not become one.
func (s *Session) observeEnd() {
	if s.phase == phaseReady || s.phase == phasePiped {
		s.report()
		s.sh.Observer.Closed(s.acct, s.reason)
		return
	}
	switch s.reason {
	case CloseLogin:
		s.sh.Observer.Login("timeout")
	case CloseUnavailable, CloseShutdown, CloseKilled, CloseProtocol:
		s.sh.Observer.Login(s.reason.String())
	case CloseClient, CloseGone, CloseCancel: // nobody asked for anything, or went to ask for a password
	case CloseAuth: // reported where it was found out
	case CloseIdle, CloseIdleTx, CloseLost, CloseListen, CloseInternal, ClosePinned: // not before the login's end
	}
}
