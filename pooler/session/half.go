package session

import "github.com/pgkennel/pgkennel/pooler/pgwire"

// A client that has shut down its sending half hears what it has asked for, as from PostgreSQL, and is gone when there is nothing left to answer. One that
// has closed its connection looks the same until something is sent to it.

// AwaitsClient reports whether nothing more happens unless the client says something.
func (s *Session) AwaitsClient() bool {
	switch s.phase {
	case phaseStartup, phaseAuth, phaseLogin, phaseReady:
		return s.work == nil || !s.blocked() && (s.copy.mode != copyNone || s.conn == nil || s.conn.Pending() == 0)
	case phaseTLS, phasePiped, phaseClosed:
	}
	return true
}

// ReadsOn reports whether the session handles what its client says next. If it does not await that, there are answers to come in the middle of a batch, or the
// server awaits more of the client, too: behind a COPY that has failed, say.
func (s *Session) ReadsOn() bool { return s.work == nil || !s.blocked() }

// Probe tells the client of a parameter that is as it was, for its system to say whether it is still there. It returns false where nothing can be said now.
func (s *Session) Probe() bool {
	if b := s.Backend(); s.phase != phaseReady || b != nil && b.MidMessage() {
		return false
	}
	const name = "client_encoding"
	value, ok := s.told.get(name)
	if ok {
		s.toClient(pgwire.AppendParameterStatus(nil, name, value))
	}
	return ok
}
